//! Each line of the table of `etcdctl` commands, word for word: what it says that it means is seen in traffic.

use std::{
    net::TcpStream,
    time::{Duration, Instant},
};

use crate::{
    hammer::{Hammer, get},
    support::{origin::Origin, raw::Raw, wait_until, weir::Weir},
    world::World,
};

/// The service of the documentation, with origins that sign their answers.
struct Shop {
    world: World,
    weir: Weir,
    inventory: Origin,
    _app: Origin,
}

impl Shop {
    #[track_caller]
    fn open() -> Self {
        let (app, inventory) = (Origin::answering(200, "app"), Origin::answering(200, "inventory"));
        let world = World::start();
        let weir = world.weir(
            "pod-1",
            "",
            &format!(
                "  upstreams:
    app: {{ endpoints: [\"{}\"] }}
    inventory: {{ endpoints: [\"{}\"], balancer: {{ policy: round_robin }}, breaker: {{ failure_rate: 50%, min_requests: 20, open_for: 5s }} }}
  routes:
    in:        {{ match: {{ listener: inbound }},  upstream: app }}
    inventory: {{ match: {{ listener: outbound, host: inventory }}, upstream: inventory, timeout: 2s }}
  limits:
    checkout:  {{ match: {{ path: /checkout }}, rate: 500/s, burst: 100 }}
  switches:
    no-recommendations:
      match: {{ path: /recommendations/* }}
      respond: {{ status: 200, json: {{ items: [] }} }}
      state: off
  plans:
    flash-sale:
      switches: {{ no-recommendations: on }}
      limits:   {{ checkout: 2000/s }}
",
                app.address, inventory.address
            ),
        );
        Self { world, weir, inventory, _app: app }
    }

    fn recommendations(&self) -> String {
        Raw::connect(self.weir.at("inbound")).get("shop.test", "/recommendations/7").text()
    }

    fn stock(&self) -> (u16, String) {
        let answer = Raw::connect(self.weir.at("outbound")).get("inventory", "/");
        let is_problem = answer.header("content-type").is_some_and(|it| it.contains("problem"));
        let text =
            if is_problem { answer.json()["reason"].as_str().unwrap().to_owned() } else { answer.text() };
        (answer.status(), text)
    }

    /// Asks for `/checkout` until a refusal says which rate holds.
    #[track_caller]
    fn checkout_is(&self, rate: &str) {
        wait_until(&format!("checkout to have {rate}"), || {
            self.weir.admin_get("/limits").json()["checkout"]["rate"] == rate
        });
    }
}

const EMPTY: &str = r#"{"items":[]}"#;

#[test]
fn a_switch_is_put_on() {
    let shop = Shop::open();
    assert_eq!(shop.recommendations(), "app");
    shop.world.shell("etcdctl put /weir/policy/orders/switches/no-recommendations on");
    wait_until("it to be on", || shop.recommendations() == EMPTY);
    // `{state: on}` over the switch of the file: the rest of it stays.
    assert_eq!(Raw::connect(shop.weir.at("inbound")).get("shop.test", "/").text(), "app");
    shop.world.shell("etcdctl del /weir/policy/orders/switches/no-recommendations");
    wait_until("it to be off", || shop.recommendations() == "app");
}

#[test]
fn a_switch_is_on_for_a_quarter_sticky_by_key() {
    let shop = Shop::open();
    shop.world.shell("etcdctl put /weir/policy/orders/switches/no-recommendations 25%");
    wait_until("it to be at 25 %", || {
        shop.weir.admin_get("/switches").json()["no-recommendations"]["state"] == "25%"
    });
    // The key is the client's address, unless the switch says otherwise.
    let inbound = shop.weir.at("inbound");
    let is_in = |client: u8| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        let from = std::net::SocketAddr::from(([127, 0, 7, client], 0));
        socket.bind(&from.into()).unwrap();
        socket.connect(&inbound.into()).unwrap();
        Raw::over(TcpStream::from(socket)).get("shop.test", "/recommendations/7").text() == EMPTY
    };
    let first: Vec<bool> = (1..=250).map(is_in).collect();
    let count = first.iter().filter(|is_in| **is_in).count();
    // 62 of 250 are expected; the standard deviation is 7.
    assert!((27..=97).contains(&count), "{count} of 250");
    let again: Vec<bool> = (1..=250).map(is_in).collect();
    assert!(first == again, "it is sticky");
}

#[test]
fn a_limit_gets_another_rate() {
    let shop = Shop::open();
    shop.checkout_is("500/s");
    shop.world.shell("etcdctl put /weir/policy/orders/limits/checkout 200/s");
    shop.checkout_is("200/s");
    // The burst of the file stays.
    let most = shop.weir.admin_get("/limits").json()["checkout"]["burst"].clone();
    assert_eq!(most, 100);
    let since = Instant::now();
    let hammer =
        Hammer::start(shop.weir.at("inbound"), 8, Duration::ZERO, &get("/checkout", &[]), |answer| {
            answer.status()
        });
    wait_until("a second to pass", || since.elapsed() > Duration::from_secs(1));
    hammer.first("a refusal", since, |status| *status == 429);
    let all = hammer.end();
    let took = since.elapsed().as_secs_f64();
    let granted = all.iter().filter(|shot| shot.seen == 200).count() as f64;
    assert!(granted <= 100.0 + 200.0 * took + 1.0, "{granted} in {took} s");
    assert!(all.iter().all(|shot| [200, 429].contains(&shot.seen)));
}

#[test]
fn an_upstream_is_not_called_any_more() {
    let shop = Shop::open();
    assert_eq!(shop.stock(), (200, "inventory".to_owned()));
    shop.world.shell(r#"etcdctl put /weir/policy/orders/upstreams/inventory '{"breaker":{"mode":"open"}}'"#);
    wait_until("it to be cut off", || shop.stock() == (503, "breaker_open".to_owned()));
    let before = shop.inventory.requests();
    for _ in 0..20 {
        assert_eq!(shop.stock(), (503, "breaker_open".to_owned()));
    }
    assert_eq!(shop.inventory.requests(), before);
    assert_eq!(shop.recommendations(), "app");
}

#[test]
fn an_upstream_gets_one_more_endpoint() {
    let shop = Shop::open();
    let other = Origin::answering(200, "other");
    // The line as it is printed, but for the address: nobody listens on the printed one here.
    let line = "etcdctl put /weir/policy/orders/endpoints/inventory/a 10.0.0.7:8080";
    shop.world.shell(&line.replace("10.0.0.7:8080", &other.address.to_string()));
    wait_until("the new one to be asked", || shop.stock().1 == "other");
    wait_until("the old one to be asked too", || shop.stock().1 == "inventory");
    shop.world.shell(line);
    wait_until("the printed address to be there", || {
        let endpoints = shop.weir.admin_get("/upstreams").json()["inventory"]["endpoints"].clone();
        endpoints.as_array().unwrap().iter().any(|endpoint| endpoint["address"] == "10.0.0.7:8080")
    });
}

#[test]
fn everything_gets_out_of_the_way() {
    let shop = Shop::open();
    shop.world.put(&[&shop.weir], "orders/switches/no-recommendations", "on");
    shop.world.put(&[&shop.weir], "orders/limits/checkout", "{rate: 1/h, burst: 1}");
    shop.world.put(&[&shop.weir], "orders/upstreams/inventory", "{breaker: open}");
    let mut inbound = Raw::connect(shop.weir.at("inbound"));
    let mut checkout = || inbound.get("shop.test", "/checkout").status();
    assert_eq!([checkout(), checkout()], [200, 429]);
    assert_eq!(shop.recommendations(), EMPTY);
    assert_eq!(shop.stock().0, 503);
    shop.world.shell("etcdctl put /weir/policy/_all/bypass on");
    wait_until("switches to be out of the way", || shop.recommendations() == "app");
    for _ in 0..5 {
        assert_eq!((checkout(), shop.stock().0), (200, 200));
    }
}

#[test]
fn a_whole_plan_is_put_on_in_one_revision() {
    let shop = Shop::open();
    shop.world.shell("etcdctl put /weir/policy/orders/plans/flash-sale on");
    wait_until("its switch to be on", || shop.recommendations() == EMPTY);
    // What shows one change shows the other.
    assert_eq!(shop.weir.admin_get("/limits").json()["checkout"]["rate"], "2000/s");
    assert_eq!(shop.weir.admin_get("/status").json()["policy"]["plans_on"][0], "flash-sale");
    shop.world.shell("etcdctl del /weir/policy/orders/plans/flash-sale");
    wait_until("its switch to be off", || shop.recommendations() == "app");
    shop.checkout_is("500/s");
}
