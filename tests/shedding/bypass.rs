//! `bypass` beats everything, whatever the state, and leaves all of it as it was.

use etcd_client::TxnOp;
use serde_json::Value;

use crate::{
    support::{
        raw::Raw,
        unruly::{Mode, Unruly},
        wait_until,
        weir::Weir,
    },
    world::{World, status},
};

/// What a request for this path gets: the status, and why or from whom.
fn ask(weir: &Weir, path: &str) -> (u16, String) {
    let answer = Raw::connect(weir.at("outbound")).get("a.test", path);
    let is_problem = answer.header("content-type").is_some_and(|it| it.contains("problem"));
    let who = if is_problem {
        answer.json()["reason"].as_str().unwrap().to_owned()
    } else {
        answer.header("x-origin").unwrap_or_default()
    };
    (answer.status(), who)
}

/// What is refused and held, without times.
fn troubles(weir: &Weir) -> (Value, Value) {
    let status = status(weir);
    (status["policy"]["refused"].clone(), status["held"].clone())
}

#[test]
fn it_beats_every_state_and_restores_every_state() {
    let world = World::start();
    let all = ["app", "dead", "good", "bad"].map(Unruly::start);
    let [app, dead, good, bad] = &all;
    let weir = world.weir(
        "pod-1",
        "",
        &format!(
            "  upstreams:
    app: {{ endpoints: [\"{}\"] }}
    dead: {{ endpoints: [\"{}\"], breaker: {{ min_requests: 5, open_for: 10m, max_open: 10m }} }}
    pair: {{ endpoints: [\"{}\", \"{}\"], breaker: off, balancer: {{ policy: round_robin }}, ejection: {{ base: 10m, max: 10m }} }}
    forced: {{ endpoints: [\"{}\"], breaker: open }}
  routes:
    app: {{ upstream: app }}
    dead: {{ match: {{ path: /dead }}, upstream: dead }}
    pair: {{ match: {{ path: /pair }}, upstream: pair }}
    forced: {{ match: {{ path: /forced }}, upstream: forced }}
  limits:
    few: {{ match: {{ path: /few }}, rate: 2/h, burst: 2 }}
  switches:
    closed: {{ match: {{ path: /closed }}, reject: {{}}, state: on }}
    calm: {{ match: {{ path: /calm }}, respond: {{ status: 203 }}, state: off }}
  plans:
    quiet: {{ switches: {{ calm: on }} }}
",
            app.address, dead.address, good.address, bad.address, app.address
        ),
    );
    let weirs = [&weir];
    // A plan, a drained limit, an open breaker, an ejected endpoint.
    world.put(&weirs, "orders/plans/quiet", "on");
    for _ in 0..2 {
        assert_eq!(ask(&weir, "/few").0, 200);
    }
    dead.set(Mode::Status(500));
    wait_until("the breaker to open", || ask(&weir, "/dead").1 == "breaker_open");
    dead.set(Mode::Good);
    bad.set(Mode::Status(500));
    let ejected = || weir.metrics().sum("weir_endpoints", &[("upstream", "pair"), ("state", "ejected")]);
    wait_until("an endpoint to be ejected", || {
        ask(&weir, "/pair");
        ejected() > 0.5
    });
    bad.set(Mode::Good);
    // A refused document, and a held change.
    for n in 0..8 {
        world.put(
            &weirs,
            &format!("_all/routes/more-{n}"),
            &format!("{{match: {{path: /more-{n}}}, upstream: app}}"),
        );
    }
    world.writer.put("orders/switches/closed", "{state: perhaps}");
    wait_until("a refusal", || troubles(&weir).0.as_array().is_some_and(|all| all.len() == 1));
    let gone = (0..6).map(|n| TxnOp::delete(format!("/weir/policy/_all/routes/more-{n}"), None));
    world.writer.transaction(gone.collect());
    wait_until("a change to be held", || troubles(&weir).1.as_array().is_some_and(|all| all.len() == 1));

    let protected = || {
        let paths = ["/few", "/closed", "/calm", "/dead", "/forced"];
        paths.map(|path| ask(&weir, path))
    };
    let told = |status, why: &str| (status, why.to_owned());
    let (open, seen) = (told(503, "breaker_open"), [app.requests(), dead.requests(), bad.requests()]);
    let expected = [told(429, "rate_limit"), told(503, "switch"), told(203, ""), open.clone(), open];
    assert_eq!(protected(), expected);
    for _ in 0..10 {
        assert_eq!(ask(&weir, "/pair"), told(200, "good"));
    }
    assert_eq!([app.requests(), dead.requests(), bad.requests()], seen);
    let troubled = troubles(&weir);

    for (scope, rounds) in [("_all", 4), ("orders", 2), ("orders@pod-1", 2)] {
        let key = format!("{scope}/bypass");
        world.put(&weirs, &key, "on");
        assert_eq!(status(&weir)["policy"]["bypass"], true);
        for _ in 0..rounds {
            assert_eq!(
                protected(),
                [told(200, "app"), told(200, "app"), told(200, "app"), told(200, "dead"), told(200, "app")],
                "{scope}"
            );
        }
        let pair: Vec<_> = (0..20).map(|_| ask(&weir, "/pair").1).collect();
        assert!(pair.iter().any(|who| who == "bad") && pair.iter().any(|who| who == "good"), "{pair:?}");
        assert_eq!(troubles(&weir), troubled, "what was refused and held still is");

        world.delete(&weirs, &key);
        assert_eq!(status(&weir)["policy"]["bypass"], false);
        assert_eq!(protected(), expected, "exactly as before {scope}");
        for _ in 0..10 {
            assert_eq!(ask(&weir, "/pair"), told(200, "good"));
        }
        assert!((ejected() - 1.0).abs() < 1e-9);
        assert_eq!(troubles(&weir), troubled);
    }
}

#[test]
fn the_most_specific_scope_decides() {
    let world = World::start();
    let [app] = ["app"].map(Unruly::start);
    let policy = format!(
        "  upstreams: {{ app: {{ endpoints: [\"{}\"] }} }}\n  routes: {{ app: {{ upstream: app }} }}\n  switches: {{ closed: {{ reject: {{}}, state: on }} }}\n",
        app.address
    );
    let (one, two) = (world.weir("pod-1", "", &policy), world.weir("pod-2", "", &policy));
    let both = [&one, &two];
    let now = || both.map(|weir| ask(weir, "/").0);
    assert_eq!(now(), [503, 503]);
    world.put(&both, "_all/bypass", "on");
    assert_eq!(now(), [200, 200]);
    world.put(&both[1..], "orders@pod-2/bypass", "off");
    assert_eq!(now(), [200, 503]);
    world.put(&both, "orders/bypass", "off");
    assert_eq!(now(), [503, 503]);
    world.put(&both[..1], "orders@pod-1/bypass", "on");
    assert_eq!(now(), [200, 503]);
    // What nobody can read changes nothing.
    world.writer.put("orders@pod-1/bypass", "perhaps");
    wait_until("a refusal", || troubles(&one).0.as_array().is_some_and(|all| !all.is_empty()));
    assert_eq!(now(), [200, 503]);
}
