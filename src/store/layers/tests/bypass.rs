//! The last resort works from every state.

use super::*;

/// Everything that can be wrong at once.
const GARBAGE: &[(&str, &str)] = &[
    ("_all/limits/checkout", "7/d"),
    ("_all/nonsense", "x"),
    ("_all/switches/degrade", "[["),
    ("_all/upstreams/inventory", "null"),
    ("orders/endpoints/nobody/a", "h"),
    ("orders/limits/checkout", "{rate: 1/s, match: {route: gone}}"),
    ("orders/plans/sale", "{switches: {nope: on}}"),
    ("orders/routes/in", "{upstream: extra}"),
    ("orders/upstreams/app", "{fallback: {upstream: app}}"),
    ("orders/confirm", "whatever"),
    ("orders@pod-1/routes/stock", "\u{0}"),
    ("orders@pod-1/switches/degrade", "{respond: {}, reject: {}}"),
];

fn broken() -> Layers {
    let mut layers = layers(FILE);
    let changes: Vec<_> = GARBAGE.iter().map(|(key, value)| put(key, value, 1)).collect();
    assert!(layers.take(&changes).refused.len() >= 9);
    layers
}

#[test]
fn it_is_on_and_off_among_garbage() {
    let mut layers = broken();
    let before = layers.effective();
    let done = layers.set("_all/bypass", "on", 2);
    assert!(done.policy.bypass);
    let without = Policy { bypass: false, ..(*done.policy).clone() };
    assert_eq!((&without, &done.refused), (&*before.policy, &before.refused), "and nothing else changes");
    assert!(!layers.set("_all/bypass", "off", 3).policy.bypass);
    assert!(layers.set("orders@pod-1/bypass", "on", 4).policy.bypass);
    assert!(!layers.unset("orders@pod-1/bypass", 5).policy.bypass);
}

#[test]
fn it_comes_with_the_garbage_too() {
    // In one revision, in one read, and from a cache.
    let mut changes: Vec<_> = GARBAGE.iter().map(|(key, value)| put(key, value, 1)).collect();
    changes.push(put("orders/bypass", "on", 1));
    assert!(layers(FILE).take(&changes).policy.bypass);
    let items: Vec<_> = changes
        .iter()
        .map(|change| Item { key: change.key.clone(), value: change.value.clone().unwrap(), revision: 1 })
        .collect();
    let mut read = layers(FILE);
    read.read(&Content { cluster: 1, revision: 1, items: items.clone() }, world(1));
    assert!(read.effective().policy.bypass);
    let mut restored = layers(FILE);
    restored.restore(&items, 1, world(1));
    assert!(restored.effective().policy.bypass);
    // The file changes beneath it.
    read.rebase(baseline("service: orders\nlisteners: { inbound: { listen: 0.0.0.0:1 } }\n"), world(2));
    assert!(read.effective().policy.bypass);
}

#[test]
fn the_most_specific_scope_wins_in_every_order() {
    let scopes = ["_all", "orders", "orders@pod-1"];
    // Every combination of nothing, on and off, written in every order of two.
    for combination in 0..27 {
        let digit = |n: u32| ["", "on", "off"][combination / 3_usize.pow(n) % 3];
        let values = [digit(0), digit(1), digit(2)];
        let expected = values.iter().rev().find(|value| !value.is_empty()) == Some(&"on");
        for backwards in [false, true] {
            let mut layers = broken();
            let mut places: Vec<_> = scopes.iter().zip(values).collect();
            if backwards {
                places.reverse();
            }
            for (n, (scope, value)) in places.into_iter().filter(|(_, value)| !value.is_empty()).enumerate() {
                layers.set(&format!("{scope}/bypass"), value, 2 + i64::try_from(n).unwrap());
            }
            assert_eq!(layers.effective().policy.bypass, expected, "{values:?} {backwards}");
        }
    }
}

#[test]
fn its_values_are_read_as_people_write_them() {
    for (value, on) in [
        ("on", true),
        (" on\n", true),
        ("\t on \r\n", true),
        ("\"on\"", true),
        ("true", true),
        ("True", true),
        ("TRUE\n", true),
        ("{state: on}", true),
        ("{\"state\": true, \"by\": \"me\", \"why\": \"it burns\"}", true),
        ("state: on\nwhy: it burns\n", true),
        ("{state: on, priority: 7}", true),
        ("off", false),
        ("  off  ", false),
        ("false", false),
        ("{state: off}", false),
    ] {
        let mut layers = broken();
        // The other way around before, so that it is seen to act.
        assert_eq!(layers.set("orders/bypass", if on { "off" } else { "on" }, 2).policy.bypass, !on);
        let done = layers.set("orders/bypass", value, 3);
        assert_eq!(done.policy.bypass, on, "{value:?}");
        assert!(done.refused.iter().all(|refused| &*refused.key != "orders/bypass"), "{value:?}");
    }
}

#[test]
fn garbage_is_refused_and_the_last_good_value_stays() {
    for garbage in [
        "",
        " ",
        "maybe",
        "null",
        "~",
        "1",
        "50%",
        "[on]",
        "{}",
        "{state: maybe}",
        "on off",
        "{state: on",
        "\u{feff}\u{0}",
    ] {
        for (good, scope) in [("on", "_all"), ("off", "_all"), ("on", "orders@pod-1")] {
            let mut layers = broken();
            let key = format!("{scope}/bypass");
            layers.set(&key, good, 2);
            let done = layers.set(&key, garbage, 3);
            assert_eq!(done.policy.bypass, good == "on", "{garbage:?}");
            let refused = done.refused.iter().find(|refused| *refused.key == key).unwrap();
            assert_eq!(
                (refused.kind, refused.revision, refused.in_use),
                ("bypass", 3, Some(2)),
                "{garbage:?}"
            );
            assert!(!refused.reason.is_empty());
            // Mended, and gone.
            assert!(layers.set(&key, "on", 4).policy.bypass);
            assert!(layers.effective().refused.iter().all(|refused| *refused.key != key));
            assert!(!layers.unset(&key, 5).policy.bypass);
        }
        // Where nothing was good before, the next scope's holds.
        let mut layers = broken();
        layers.set("_all/bypass", "on", 2);
        assert!(layers.set("orders/bypass", garbage, 3).policy.bypass, "{garbage:?}");
    }
}

#[test]
fn it_has_room_in_a_scope_that_is_full() {
    let mut layers = layers(FILE);
    let full: Vec<_> =
        (0..=MAX_KEYS).map(|n| put(&format!("orders/switches/s{n}"), "{reject: {}}", 1)).collect();
    assert_eq!(layers.take(&full).refused.len(), 1);
    assert!(layers.set("orders/bypass", "on", 2).policy.bypass);
    assert!(!layers.set("orders/bypass", "off", 3).policy.bypass);
    let items = layers.overlays();
    layers.set("orders/bypass", "on", 4);
    let mut with = items;
    with.iter_mut().filter(|item| &*item.key == "orders/bypass").for_each(|item| {
        item.value = Bytes::from_static(b"on");
        item.revision = 4;
    });
    let mut read = super::layers(FILE);
    read.read(&Content { cluster: 1, revision: 4, items: with }, world(4));
    assert!(read.effective().policy.bypass);
}

#[test]
fn until_ends_it_without_the_store() {
    let mut layers = broken();
    let until = world(50).now;
    let done = layers.set("orders/bypass", &format!("{{state: on, until: '{until}'}}"), 2);
    assert!(done.policy.bypass);
    assert_eq!(done.next_expiry, Some(until));
    layers.tick(world(49));
    assert!(layers.effective().policy.bypass);
    layers.tick(world(50));
    assert!(!layers.effective().policy.bypass);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn it_works_after_whatever_came_before(list in changes(false)) {
        let list = numbered(&list);
        let mut layers = layers(FILE);
        layers.take(&list);
        let next = i64::try_from(list.len()).unwrap() + 1;
        prop_assert!(layers.set("orders@pod-1/bypass", "on", next).policy.bypass);
        prop_assert!(!layers.set("orders@pod-1/bypass", "off", next + 1).policy.bypass);
    }
}
