//! Switches that go on by themselves while a dependency drowns, and off again.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    support::{
        load::Load,
        raw::Raw,
        unruly::{Mode, Unruly},
        wait_until,
        weir::Weir,
    },
    world::{World, promised},
};

const FOR: Duration = Duration::from_secs(1);
const HOLD: Duration = Duration::from_secs(2);

/// A switch that watches the upstream `app`, whose feature `/extra` is another upstream's.
#[track_caller]
fn begin(world: &World, app: &Unruly, extra: &Unruly, when: &str) -> Weir {
    world.weir(
        "pod-1",
        "",
        &format!(
            "  upstreams:
    app: {{ endpoints: [\"{}\"], breaker: off }}
    extra: {{ endpoints: [\"{}\"] }}
  routes:
    all: {{ upstream: app, timeout: 2s }}
    extra: {{ match: {{ path: /extra }}, upstream: extra }}
  switches:
    spare: {{ match: {{ path: /extra }}, respond: {{ status: 203 }}, state: auto, when: {{ {when}, for: 1s, hold: 2s }} }}
",
            app.address, extra.address
        ),
    )
}

fn shown(weir: &Weir) -> Value {
    weir.admin_get("/switches").json()["spare"].clone()
}

#[track_caller]
fn drowns(when: &str, mode: Mode, at_once: bool) {
    let (world, [app, extra]) = (World::start(), ["app", "extra"].map(Unruly::start));
    let weir = begin(&world, &app, &extra, when);
    let mut client = Raw::connect(weir.at("inbound"));
    let mut feature = || client.get("a", "/extra").status();
    let load = Load::start(weir.at("inbound"), "a", "/", 60);
    load.more(60);
    assert_eq!(feature(), 200, "{}", shown(&weir));

    app.set(mode);
    let began = Instant::now();
    wait_until("it to go on", || feature() == 203);
    let took = began.elapsed();
    assert!(took >= FOR, "{when}: {took:?}");
    // What is measured over ten seconds is above the threshold some time after the first bad result.
    let most = FOR + if at_once { Duration::from_millis(1500) } else { Duration::from_secs(4) };
    promised(&format!("on by itself: {when}"), took, most);
    let on = shown(&weir);
    assert_eq!((&on["state"], &on["automatic"]["on"]), (&"auto".into(), &true.into()), "{on}");
    assert!(!on["automatic"]["reason"].as_str().unwrap().is_empty(), "{on}");
    weir.wait_metric("weir_switch_state", &[("switch", "spare")], 1.0);
    wait_until("it to be logged", || {
        weir.stderr().lines().any(|line| line.contains("\"spare\"") && line.contains("switch"))
    });

    // By hand it is off at once, and what its state was is nobody's business.
    world.put(&[&weir], "orders/switches/spare", "off");
    assert_eq!([feature(), feature()], [200, 200]);
    weir.wait_metric("weir_switch_state", &[("switch", "spare")], 0.0);
    world.delete(&[&weir], "orders/switches/spare");
    wait_until("it to be on again", || feature() == 203);

    app.set(Mode::Good);
    let began = Instant::now();
    wait_until("it to go off", || feature() == 200);
    let took = began.elapsed();
    assert!(took >= HOLD, "{when}: {took:?}");
    eprintln!("{when}: off by itself after {took:?}");
    assert_eq!(shown(&weir)["automatic"]["on"], false);
    world.put(&[&weir], "orders/switches/spare", "on");
    assert_eq!([feature(), feature()], [203, 203], "by hand it is on, whatever the signal says");
    load.end();
}

#[test]
fn failures_turn_one_on() {
    drowns("signal: failure_rate, of: app, above: 50%", Mode::Status(500), false);
}

#[test]
fn requests_in_flight_turn_one_on() {
    drowns("signal: in_flight, of: app, above: 20", Mode::Silent, true);
}

#[test]
fn slowness_turns_one_on() {
    drowns("signal: p99, of: app, above: 300ms", Mode::Slow(Duration::from_millis(800)), true);
}
