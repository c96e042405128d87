//! Who is chosen: by key, zone, tier and method, and when somebody comes late.

use std::collections::BTreeMap;

use crate::{
    live::{Live, Moody},
    support::{
        client::{Client, empty},
        wait_until,
    },
};

fn moody<const N: usize>(names: [&'static str; N]) -> [Moody; N] {
    names.map(Moody::start)
}

#[test]
fn a_key_sticks_to_its_endpoint_and_only_those_of_one_that_is_out_move() {
    let all = moody(["a", "b", "c"]);
    let [a, b, c] = &all;
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\", \"{}\", \"{}\"], balancer: {{ policy: ring_hash, key: [header:x-user] }}, \
             ejection: {{ base: 1m }}, breaker: off }}\n  routes:\n    all: {{ upstream: app }}\n",
            a.address(),
            b.address(),
            c.address()
        ),
    );
    let client = world.client();
    let users: Vec<String> = (0..60).map(|n| format!("u{n}")).collect();
    let ask = |user: &str| client.send(client.to("x", "GET", "/", &[("x-user", user)], empty()));
    let homes: BTreeMap<&str, String> = users.iter().map(|user| (user.as_str(), ask(user).text())).collect();
    for name in ["a", "b", "c"] {
        assert!(homes.values().filter(|home| *home == name).count() > 5, "{homes:?}");
    }
    assert!(homes.iter().all(|(user, home)| ask(user).text() == *home));
    a.set(500);
    wait_until("a to go", || homes.keys().all(|user| ask(user).status == 200));
    for (user, home) in &homes {
        let now = ask(user).text();
        assert!(if home == "a" { now != "a" } else { now == *home }, "{user} of {home} at {now}");
    }
    assert_eq!(world.endpoint("app", a.address())["state"], "ejected");
}

#[test]
fn ones_own_zone_comes_first_while_it_has_capacity() {
    let [near, far] = moody(["near", "far"]);
    let world = Live::start(
        "zone: here",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [{{ address: \"{}\", zone: there }}, {{ address: \"{}\", zone: here }}], ejection: {{ \
             base: 1m }}, breaker: off }}\n  routes:\n    all: {{ upstream: app }}\n",
            far.address(),
            near.address()
        ),
    );
    let client = world.client();
    for _ in 0..30 {
        assert_eq!(client.get("x", "/").text(), "near");
    }
    near.set(500);
    wait_until("the other zone to take over", || (0..10).all(|_| client.get("x", "/").text() == "far"));
}

#[test]
fn reads_go_to_the_replicas_and_writes_to_the_primary() {
    let [primary, one, other] = moody(["primary", "one", "other"]);
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    reads: {{ endpoints: [\"{}\", \"{}\", {{ address: \"{}\", tier: 1 }}], health: {{ http: /, interval: 100ms, \
             fall: 1, rise: 1 }} }}\n    primary: {{ endpoints: [\"{}\"] }}\n  routes:\n    reads: {{ match: {{ methods: [GET, HEAD] }}, \
             upstream: reads }}\n    writes: {{ upstream: primary }}\n",
            one.address(),
            other.address(),
            primary.address(),
            primary.address()
        ),
    );
    let client = world.client();
    let write = || client.send(client.to("x", "POST", "/", &[], empty())).text();
    let reads = || (0..20).map(|_| client.get("x", "/").text()).collect::<Vec<_>>();
    assert!(reads().iter().all(|read| read != "primary"));
    assert_eq!(write(), "primary");
    // One of two is half of them: enough.
    one.set(500);
    wait_until("the one to be left", || reads().iter().all(|read| read == "other"));
    other.set(500);
    wait_until("the primary to take the reads", || reads().iter().all(|read| read == "primary"));
    assert_eq!(world.upstream("reads")["standing"], serde_json::json!({ "state": "serving", "tier": 1 }));
    one.set(200);
    wait_until("a replica to be back", || reads().contains(&"one".to_owned()));
}

#[test]
fn who_registers_in_the_store_joins_and_is_brought_up_slowly_among_those_who_work() {
    let [first, second, third] = moody(["first", "second", "third"]);
    let world = Live::start(
        "",
        &format!(
            "  upstreams:\n    app: {{ endpoints: [\"{}\"] }}\n  routes:\n    all: {{ upstream: app }}\n",
            first.address()
        ),
    );
    let share = |moody: &Moody| world.endpoint("app", moody.address())["share"].as_f64().unwrap_or_default();
    // Nobody has done anything yet: all are equally new.
    world.put("endpoints/app/second", &second.address().to_string());
    wait_until("the second to join", || share(&second) > 0.0);
    assert!((share(&second) - 0.5).abs() < 1e-9, "{}", world.upstream("app"));
    assert_eq!(world.endpoint("app", second.address())["source"], "store");
    let client = world.client();
    wait_until("both to work", || client.get("x", "/").text() == "second");
    world.put("endpoints/app/third", &third.address().to_string());
    wait_until("the third to join", || share(&third) > 0.0);
    // 10 % of a third, and some more while this was looked at.
    assert!(share(&third) < 0.3, "{}", world.upstream("app"));
    assert!(world.endpoint("app", third.address())["slow_start"].is_number());
    // What is of no concern to it starts nothing anew, and what is removed is gone.
    let ids = |name: &str| world.upstream(name)["endpoints"].as_array().map_or(0, Vec::len);
    world.unset("endpoints/app/second");
    wait_until("the second to leave", || ids("app") == 2);
    let (before, other) = (second.origin.requests(), Client::http1(world.weir.at("outbound")));
    for _ in 0..20 {
        assert_eq!(other.get("x", "/").status, 200);
    }
    assert_eq!(second.origin.requests(), before);
}
