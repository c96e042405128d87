//! Degradation switches: what they do to requests, and how their callers are told.

use crate::{
    live::Live,
    support::{
        client::{Client, empty, full},
        origin::Origin,
        weir::{File, Weir},
    },
};

/// A Weir before `origin` with these switches.
fn with(origin: &Origin, switches: &str) -> Weir {
    File::to(&[origin.address]).policy(&format!("  switches:\n{switches}")).start()
}

fn both(weir: &Weir) -> [Client; 2] {
    [Client::http1(weir.at("inbound")), Client::http2(weir.at("inbound"))]
}

#[test]
fn one_that_responds_answers_for_the_application() {
    let origin = Origin::answering(200, "real");
    let weir = with(
        &origin,
        "    calm: { match: { path: /items/* }, respond: { headers: { x-calm: \"1\" }, json: { items: [] } }, state: on, announce: on }\n",
    );
    for client in both(&weir) {
        let answer = client.get("a.test", "/items/7");
        assert_eq!((answer.status, answer.text().as_str()), (200, r#"{"items":[]}"#));
        assert_eq!(answer.header("content-type"), "application/json");
        assert_eq!((answer.header("x-calm"), answer.header("x-weir-switch")), ("1", "\"calm\";rev=0"));
        let status = answer.header("proxy-status");
        assert_eq!(status, "weir; error=proxy_internal_response; details=\"switch\"; policy=\"calm\"");
        assert_eq!(answer.header("x-weir-retry"), "");
        let head = client.send(client.to("a.test", "HEAD", "/items/", &[], empty()));
        assert_eq!((head.status, head.text().as_str(), head.header("content-length")), (200, "", "12"));
        let post = client.send(client.to("a.test", "POST", "/items/", &[], full("x")));
        assert_eq!(post.text(), r#"{"items":[]}"#);
        // gRPC has no use for it.
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = client.send(client.to("a.test", "POST", "/items/m", &headers, empty()));
        assert_eq!((call.status, call.header("grpc-status")), (200, "14"));
        assert!(call.header("grpc-message").contains("(calm)"), "{:?}", call.headers);
        assert_eq!(client.get("a.test", "/other").text(), "real");
    }
    assert_eq!(origin.requests(), 2);
    weir.wait_metric("weir_switch_hits_total", &[("switch", "calm"), ("mode", "on")], 8.0);
    weir.wait_metric("weir_switch_state", &[("switch", "calm")], 1.0);
    weir.wait_metric("weir_responses_made_total", &[("route", "all"), ("reason", "switch")], 8.0);
}

#[test]
fn refusals_say_who_refused_and_until_when() {
    let origin = Origin::answering(200, "real");
    let weir = with(
        &origin,
        "    closed: { match: { path: /closed }, reject: { retry_after: 90s }, state: on }
    gone: { match: { path: /gone }, reject: { status: 410 }, state: on }
    broken: { match: { path: /broken }, abort: { status: 502 }, state: on }\n",
    );
    for client in both(&weir) {
        let answer = client.get("a.test", "/closed");
        assert_eq!((answer.status, answer.header("retry-after")), (503, "90"));
        assert_eq!(answer.header("x-weir-retry"), "no");
        let body: serde_json::Value = serde_json::from_str(&answer.text()).unwrap();
        assert_eq!(
            (&body["reason"], &body["policy"], &body["status"]),
            (&"switch".into(), &"closed".into(), &503.into())
        );
        assert_eq!(body["retry_after_s"], 90);
        let gone = client.get("a.test", "/gone");
        assert_eq!((gone.status, gone.header("retry-after")), (410, ""));
        assert!(gone.header("proxy-status").contains("error=http_request_denied"), "{:?}", gone.headers);
        let broken = client.get("a.test", "/broken");
        // It is to look like a fault, so that callers do with it what they do with faults.
        assert_eq!((broken.status, broken.header("x-weir-retry")), (502, ""));
        let body: serde_json::Value = serde_json::from_str(&broken.text()).unwrap();
        assert_eq!((&body["reason"], &body["policy"]), (&"fault".into(), &"broken".into()));
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let call = |path| client.send(client.to("a.test", "POST", path, &headers, empty()));
        let closed = call("/closed");
        assert_eq!((closed.header("grpc-status"), closed.header("grpc-retry-pushback-ms")), ("14", "90000"));
        assert_eq!(call("/broken").header("grpc-status"), "14");
    }
    assert_eq!(origin.requests(), 0);
}

#[test]
fn they_act_in_order_of_priority_until_one_ends_it() {
    let origin = Origin::answering(200, "real");
    let weir = with(
        &origin,
        "    a-late: { priority: 200, annotate: { x-late: \"1\" }, state: on }
    b-first: { priority: 1, annotate: { x-degrade: \"lite\", x-own: \"weir\" }, state: on }
    c-observed: { reject: {}, state: observe }
    d-off: { reject: {}, state: off }
    e-ends: { match: { path: /end }, reject: { status: 418 }, state: on }
    f-slow: { match: { path: /slow }, delay: { p50: 1ms, max: 2ms }, state: on }\n",
    );
    for client in both(&weir) {
        for path in ["/", "/slow"] {
            let answer = client.send(client.to("a.test", "GET", path, &[("x-own", "client")], empty()));
            let seen = origin.last();
            assert_eq!(answer.status, 200);
            assert_eq!(
                (seen.header("x-late"), seen.header("x-degrade"), seen.header("x-own")),
                ("1".to_owned(), "lite".to_owned(), "weir".to_owned())
            );
        }
        assert_eq!(client.get("a.test", "/end").status, 418);
    }
    for (switch, mode, hits) in [
        ("a-late", "on", 4.0),
        ("b-first", "on", 6.0),
        ("c-observed", "observe", 6.0),
        ("d-off", "on", 0.0),
        ("e-ends", "on", 2.0),
        ("f-slow", "on", 2.0),
    ] {
        weir.wait_metric("weir_switch_hits_total", &[("switch", switch), ("mode", mode)], hits);
    }
}

#[test]
fn one_that_reroutes_sends_requests_to_another_upstream() {
    let (main, spare) = (Origin::answering(200, "main"), Origin::answering(200, "spare"));
    let weir = File::to(&[main.address])
        .more_upstreams(&format!("    spare: {{ endpoints: [\"{}\"] }}\n", spare.address))
        .policy("  switches:\n    move: { match: { path: /x }, upstream: spare, state: on }\n")
        .start();
    for client in both(&weir) {
        assert_eq!(client.get("a.test", "/x").text(), "spare");
        assert_eq!(client.get("a.test", "/y").text(), "main");
    }
    weir.wait_metric("weir_attempts_total", &[("upstream", "spare"), ("outcome", "success")], 2.0);
}

#[test]
fn one_that_is_bypassed_does_not_look_as_if_it_acted() {
    let origin = Origin::answering(200, "real");
    let live = Live::start(
        "",
        &format!(
            "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ all: {{ upstream: app }} }}\n  switches: {{ calm: {{ reject: {{}}, state: on }} }}\n",
            origin.address
        ),
    );
    let acts = |share: f64| {
        live.weir.wait_metric("weir_switch_state", &[("switch", "calm")], share);
        assert_eq!(live.weir.admin_get("/switches").json()["calm"]["acts"], share);
    };
    acts(1.0);
    live.weir.wait_metric("weir_policy_bypass", &[], 0.0);
    live.put("bypass", "on");
    acts(0.0);
    live.weir.wait_metric("weir_policy_bypass", &[], 1.0);
    assert_eq!(live.client().get("a.test", "/").status, 200);
    live.unset("bypass");
    acts(1.0);
    live.weir.wait_metric("weir_policy_bypass", &[], 0.0);
    assert_eq!(live.client().get("a.test", "/").status, 503);
}
