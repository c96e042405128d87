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
    all: {{ upstream: app, timeout: 3s }}
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

/// The upstream falls into this mode, which takes the signal so long to cross its threshold.
#[track_caller]
fn drowns(when: &str, mode: Mode, crossing: Duration) {
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
    promised(&format!("on by itself: {when}"), took, crossing + FOR + Duration::from_secs(1));
    let on = shown(&weir);
    assert_eq!((&on["state"], &on["automatic"]["on"]), (&"auto".into(), &true.into()), "{on}");
    assert!(!on["automatic"]["reason"].as_str().unwrap().is_empty(), "{on}");
    weir.wait_metric("weir_switch_state", &[("switch", "spare")], 1.0);
    wait_until("it to be logged", || {
        weir.stderr().lines().any(|line| line.contains("\"spare\"") && line.contains("switch"))
    });

    // Bypass beats it, and leaves it as it was.
    world.put(&[&weir], "_all/bypass", "on");
    assert_eq!([feature(), feature()], [200, 200]);
    world.delete(&[&weir], "_all/bypass");
    assert_eq!([feature(), feature()], [203, 203]);
    // By hand it is off at once, whatever the signal says.
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
    // There has been a second of good answers, and some: as many bad ones make half of them.
    drowns("signal: failure_rate, of: app, above: 50%", Mode::Status(500), Duration::from_secs(2));
}

#[test]
fn requests_in_flight_turn_one_on() {
    drowns("signal: in_flight, of: app, above: 20", Mode::Silent, Duration::from_millis(350));
}

#[test]
fn slowness_turns_one_on() {
    let time = Duration::from_millis(1500);
    drowns("signal: p99, of: app, above: 1s", Mode::Slow(time), time);
}
