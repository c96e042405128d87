//! The support code held against itself, without Weir between: a fault here would be taken for one of Weir's.

use std::time::Duration;

use crate::support::{
    certs::Certs,
    client::{Client, fed},
    origin::{self, Origin, Setup},
    raw::Raw,
    raw_origin::RawOrigin,
    wait_until,
};

#[test]
fn client_and_origin_speak_both_versions() {
    let origin = Origin::echo();
    for client in [Client::http1(origin.address), Client::http2(origin.address)] {
        let (feed, body) = fed();
        feed.data("to and ");
        let mut answer = client.open(client.to("a.test", "POST", "/x?y", &[], body)).unwrap();
        assert_eq!(answer.next_text(), "to and ");
        feed.data("fro");
        drop(feed);
        assert_eq!(answer.collect().unwrap().text(), "fro");
        assert_eq!(origin.last().host(), "a.test");
    }
}

#[test]
fn client_and_origin_speak_under_tls() {
    let certs = Certs::new();
    let setup =
        Setup { tls: Some(certs.server(&certs.localhost(), &["h2", "http/1.1"], false)), ..Setup::default() };
    let origin =
        Origin::with(setup, |_| async { Ok(origin::with_trailers(200, "body", &[("x-end", "yes")])) });
    for alpn in ["h2", "http/1.1"] {
        let client = Client::tls(origin.address, certs.client(None, &[alpn])).unwrap();
        let answer = client.send(client.to(
            "localhost",
            "GET",
            "/",
            &[("te", "trailers")],
            super::support::client::empty(),
        ));
        assert_eq!((answer.text().as_str(), answer.trailers["x-end"].to_str().unwrap()), ("body", "yes"));
    }
}

#[test]
fn a_raw_client_meets_a_raw_origin() {
    let origin = RawOrigin::answering(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-t: 1\r\n\r\n",
    );
    let mut raw = Raw::connect(origin.address);
    for _ in 0..2 {
        let answer = raw.get("a.test", "/");
        assert_eq!((answer.status(), answer.text().as_str()), (200, "ok"));
        assert_eq!(answer.trailer("X-T").as_deref(), Some("1"));
    }
    assert_eq!((origin.connections(), origin.seen().len()), (1, 2));
}

#[test]
fn an_origin_can_break_off_close_idle_connections_and_vanish() {
    let origin = Origin::start(|_| async { Ok(origin::broken_off("half")) });
    let client = Client::http1(origin.address);
    let mut answer = client.open(client.to("a", "GET", "/", &[], super::support::client::empty())).unwrap();
    assert_eq!(answer.next_text(), "half");
    assert!(answer.next().unwrap().is_err());

    let setup = Setup { close_idle: Some(Duration::from_millis(1)), ..Setup::default() };
    let closing = Origin::with(setup, |_| async { Ok(origin::answer(200, "")) });
    let mut idle = Raw::connect(closing.address);
    assert_eq!(idle.get("a", "/").status(), 200);
    wait_until("the idle connection to be closed", || closing.open_connections() == 0);
    idle.expect_closed();
}
