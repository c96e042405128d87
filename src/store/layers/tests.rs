//! What the layers promise.

mod bypass;
mod circles;
mod plans;

use std::fmt::Write;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::config::{
    Env, HostFacts, load,
    policy::{Action, LimitState, SwitchState, Target},
};

const FILE: &str = "\
service: orders
listeners: { inbound: { listen: 0.0.0.0:8080 } }
policy:
  upstreams:
    app: { endpoints: [127.0.0.1:3000], pool: { max_pending: 7 } }
    inventory: { endpoints: [10.0.0.1:80] }
  routes:
    in: { listener: inbound, upstream: app }
    stock: { match: { path: /stock/* }, upstream: inventory }
  limits:
    checkout: { match: { path: /checkout }, rate: 500/s, burst: 100 }
  switches:
    degrade: { match: { route: stock }, respond: { json: { items: [] } } }
  plans:
    sale:
      switches: { degrade: on }
      limits: { checkout: 2000/s }
";

fn baseline(text: &str) -> Baseline {
    let host = HostFacts { hostname: "pod-1".to_owned(), cpus: 1 };
    let loaded =
        load("weir.yaml", text.as_bytes(), &Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) });
    Baseline::new(&loaded.file.clone().unwrap_or_else(|| panic!("{}", loaded.render(false))))
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn world(second: i64) -> World<'static> {
    let probe =
        &|path: &Path, _| if path.starts_with("/none") { Err("No such file".to_owned()) } else { Ok(()) };
    World { now: Timestamp::from_second(1_700_000_000 + second).unwrap(), probe }
}

fn layers(text: &str) -> Layers {
    let identity = Identity { service: name("orders"), instance: name("pod-1") };
    Layers::new(&identity, baseline(text), world(0))
}

fn put(key: &str, value: &str, revision: i64) -> Change {
    Change { key: Arc::from(key), value: Some(Bytes::copy_from_slice(value.as_bytes())), revision }
}

fn delete(key: &str, revision: i64) -> Change {
    Change { key: Arc::from(key), value: None, revision }
}

impl Layers {
    /// Takes changes of one revision, as the first of them says.
    fn take(&mut self, changes: &[Change]) -> Effective {
        let revision = changes.iter().map(|change| change.revision).max().unwrap_or_default();
        self.change(revision, changes, world(revision));
        self.effective()
    }

    fn set(&mut self, key: &str, value: &str, revision: i64) -> Effective {
        self.take(&[put(key, value, revision)])
    }

    fn unset(&mut self, key: &str, revision: i64) -> Effective {
        self.take(&[delete(key, revision)])
    }
}

impl Effective {
    fn reasons(&self) -> Vec<(&str, Option<i64>, &str)> {
        self.refused.iter().map(|refused| (&*refused.key, refused.in_use, &*refused.reason)).collect()
    }

    fn rate(&self) -> u64 {
        self.policy.limits[&name("checkout")].rate.count
    }

    fn state(&self) -> SwitchState {
        self.policy.switches[&name("degrade")].state
    }

    fn addresses(&self) -> Vec<String> {
        let upstream = &self.policy.upstreams[&name("inventory")];
        upstream
            .endpoints
            .iter()
            .map(|endpoint| format!("{} {}", endpoint.address, endpoint.weight))
            .collect()
    }

    #[track_caller]
    fn fine(&self) -> &Self {
        assert_eq!(self.reasons(), [], "something is refused");
        self
    }
}

// ---- what is merged

#[test]
fn the_file_alone_is_what_loading_made_of_it() {
    let text = FILE.replace("    sale:\n", "    sale:\n      state: on\n");
    let host = HostFacts { hostname: "pod-1".to_owned(), cpus: 1 };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    for text in [FILE.to_owned(), text] {
        let file = load("weir.yaml", text.as_bytes(), &env).file.unwrap();
        assert_eq!(*layers(&text).effective().fine().policy, file.policy);
    }
}

#[test]
fn layers_lie_over_one_another_in_order() {
    let mut layers = layers(FILE);
    assert_eq!(layers.set("_all/limits/checkout", "1/s", 1).rate(), 1);
    assert_eq!(layers.set("orders/limits/checkout", "{rate: 2/s, burst: 9}", 2).rate(), 2);
    assert_eq!(layers.set("orders/plans/sale", "on", 3).rate(), 2000);
    assert_eq!(layers.set("orders@pod-1/limits/checkout", "4/s", 4).fine().rate(), 4);
    // Nobody else's.
    assert_eq!(layers.set("orders@pod-2/limits/checkout", "5/s", 5).rate(), 4);
    assert_eq!(layers.set("orders2/limits/checkout", "5/s", 6).rate(), 4);
    assert_eq!(layers.unset("orders@pod-1/limits/checkout", 7).rate(), 2000);
    assert_eq!(layers.unset("orders/plans/sale", 8).rate(), 2);
    assert_eq!(layers.unset("orders/limits/checkout", 9).rate(), 1);
    let last = layers.unset("_all/limits/checkout", 10);
    assert_eq!(last.fine().rate(), 500);
    assert!(layers.slots.is_empty() && layers.overlays.is_empty());
}

#[test]
fn the_short_forms_of_every_kind() {
    let mut layers = layers(FILE);
    for (revision, (text, state)) in (1..).zip([
        ("on", SwitchState::On),
        (" on\n", SwitchState::On),
        ("true", SwitchState::On),
        ("\"on\"", SwitchState::On),
        ("False", SwitchState::Off),
        ("observe", SwitchState::Observe),
        ("25%", SwitchState::Share(2500)),
        ("{\"state\": true}", SwitchState::On),
    ]) {
        assert_eq!(layers.set("orders/switches/degrade", text, revision).fine().state(), state, "{text}");
    }
    assert_eq!(layers.set("orders/limits/checkout", "30/m", 20).fine().rate(), 30);
    let observed = layers.set("orders/limits/checkout", "observe", 21);
    assert_eq!(observed.policy.limits[&name("checkout")].state, LimitState::Observe);
    assert_eq!(layers.set("orders/plans/sale", "true", 22).fine().state(), SwitchState::On);
    layers.set("orders/endpoints/inventory/a", " 10.0.0.7:8080 ", 23);
    assert_eq!(layers.effective().fine().addresses(), ["10.0.0.1:80 1", "10.0.0.7:8080 1"]);
    let refused = layers.set("orders/routes/in", "on", 24);
    assert_eq!(refused.refused.len(), 1);
    assert!(refused.refused[0].reason.contains("expected a map of fields"), "{}", refused.refused[0].reason);
}

#[test]
fn a_higher_layer_s_alternative_removes_the_lower_one_s() {
    let mut layers = layers(FILE);
    let done = layers.take(&[
        put("orders/switches/degrade", "{reject: {status: 500}}", 1),
        put("orders/routes/stock", "{split: [{upstream: app}, {upstream: inventory}], key: client}", 1),
    ]);
    assert!(matches!(done.fine().policy.switches[&name("degrade")].action, Action::Reject { .. }));
    assert!(matches!(done.policy.routes[&name("stock")].target, Target::Split { .. }));
    let done = layers.set("orders@pod-1/routes/stock", "{upstream: app}", 2);
    assert_eq!(done.fine().policy.routes[&name("stock")].target, Target::Upstream(name("app")));
}

#[test]
fn null_removes_a_resource_unless_something_refers_to_it() {
    let mut layers = layers(FILE);
    let done = layers.set("orders/routes/in", " null\n", 1);
    assert!(!done.fine().policy.routes.contains_key(&name("in")));
    assert!(
        layers
            .set("orders@pod-1/routes/in", "{upstream: app}", 2)
            .fine()
            .policy
            .routes
            .contains_key(&name("in"))
    );
    // The plan patches it.
    let refused = layers.set("orders/limits/checkout", "~", 3);
    assert_eq!((refused.rate(), refused.refused.len()), (500, 1));
    assert!(refused.reasons()[0].2.contains("plans/sale: limits.checkout: there is no limit `checkout`"));
}

#[test]
fn a_resource_of_the_file_that_lost_what_it_refers_to_comes_back_with_it() {
    let mut one = layers(FILE);
    // Both of what the plan patches goes at once: no single removal is to blame.
    let both = [
        ("_all/switches/degrade".to_owned(), Some("null".to_owned())),
        ("orders/limits/checkout".to_owned(), Some("null".to_owned())),
    ];
    one.take(&numbered(&both));
    one.read(&Content { cluster: 1, revision: 100, items: Vec::new() }, world(100));
    assert_eq!(told(&one), told(&layers(FILE)));
}

#[test]
fn an_empty_value_is_refused_and_says_what_would_be_right() {
    let mut layers = layers(FILE);
    for (revision, text) in (1..).zip(["", "  \n", "# a comment"]) {
        let done = layers.set("orders/routes/in", text, revision);
        assert!(done.reasons()[0].2.contains("the value is empty"), "{:?}", done.reasons());
        assert!(done.reasons()[0].2.contains("delete the key"));
        assert!(done.policy.routes.contains_key(&name("in")));
    }
}

#[test]
fn endpoints_join_those_of_the_document() {
    let mut layers = layers(FILE);
    layers.set("orders/endpoints/inventory/a", "10.0.0.2:80", 1);
    layers.set("_all/endpoints/inventory/z", "{address: 10.0.0.3:80, weight: 3, by: me}", 2);
    // One that is there already: the store says its weight.
    let done = layers.set("orders@pod-1/endpoints/inventory/b", "{address: 10.0.0.1:80, weight: 0}", 3);
    assert_eq!(done.fine().addresses(), ["10.0.0.1:80 0", "10.0.0.3:80 3", "10.0.0.2:80 1"]);
    done.fine();
    let fields = &layers.documents().to_json()["upstreams"]["inventory"]["fields"];
    assert_eq!(fields["endpoints.1"]["key"], "_all/endpoints/inventory/z");
    assert_eq!(fields["endpoints.1"]["by"], "me");
    let stranded = layers.set("orders/endpoints/nobody/a", "10.0.0.2:80", 4);
    assert_eq!(stranded.reasons(), [("orders/endpoints/nobody/a", None, "there is no upstream `nobody`")]);
    let born = layers.set("orders/upstreams/nobody", "{connect_timeout: 2s}", 5);
    assert_eq!(born.fine().policy.upstreams[&name("nobody")].endpoints.len(), 1);
    let bad = layers.set("orders/endpoints/inventory/a", "10.0.0.2", 6);
    assert_eq!(bad.refused[0].in_use, Some(1));
    assert_eq!(bad.addresses().len(), 3);
}

#[test]
fn an_upstream_may_lose_its_last_endpoint() {
    let mut layers = layers(FILE);
    let done = layers.take(&[
        put("orders/upstreams/inventory", "{endpoints: null}", 1),
        put("orders/endpoints/inventory/a", "10.0.0.2:80", 1),
    ]);
    assert_eq!(done.fine().addresses(), ["10.0.0.2:80 1"]);
    assert!(layers.unset("orders/endpoints/inventory/a", 2).fine().addresses().is_empty());
}

#[test]
fn the_most_specific_bypass_wins() {
    let mut layers = layers(FILE);
    assert!(layers.set("_all/bypass", "on", 1).fine().policy.bypass);
    assert!(!layers.set("orders/bypass", "{state: off, by: me}", 2).fine().policy.bypass);
    assert!(layers.set("orders@pod-1/bypass", "true", 3).policy.bypass);
    let refused = layers.set("orders@pod-1/bypass", "maybe", 4);
    assert_eq!(refused.refused[0].in_use, Some(3));
    assert!(refused.policy.bypass);
    assert!(!layers.unset("orders@pod-1/bypass", 5).fine().policy.bypass);
    assert!(layers.unset("orders/bypass", 6).policy.bypass);
    assert_eq!(layers.documents().to_json()["bypass"]["fields"]["state"]["layer"], "fleet");
}

#[test]
fn every_field_says_where_it_is_from() {
    let mut layers = layers(FILE);
    layers.take(&[
        put("orders/limits/checkout", "{burst: 50, by: ann, why: load, until: 2030-01-01T00:00:00Z}", 4),
        put("orders/plans/sale", "on", 4),
    ]);
    let json = layers.documents().to_json();
    let limit = &json["limits"]["checkout"];
    assert_eq!(limit["document"]["rate"], "2000/s");
    assert_eq!(
        limit["fields"]["match.path"],
        json!({"layer": "baseline", "file": "weir.yaml", "line": 11, "column": 32})
    );
    let burst = &limit["fields"]["burst"];
    assert_eq!(
        (&burst["layer"], &burst["key"], &burst["revision"], &burst["by"], &burst["why"], &burst["until"]),
        (
            &json!("service"),
            &json!("orders/limits/checkout"),
            &json!(4),
            &json!("ann"),
            &json!("load"),
            &json!("2030-01-01T00:00:00Z")
        )
    );
    let rate = &limit["fields"]["rate"];
    assert_eq!(
        (&rate["layer"], &rate["plan"], &rate["file"]),
        (&json!("plans"), &json!("sale"), &json!("weir.yaml"))
    );
    assert_eq!(rate["line"], 17);
}

#[test]
fn what_a_plan_masks_is_named() {
    let mut layers = layers(FILE);
    layers.set("orders/limits/checkout", "{rate: 3/s, burst: 5}", 1);
    assert!(layers.effective().masked.is_empty());
    let done = layers.set("orders/plans/sale", "on", 2);
    let masked = Masked {
        key: Arc::from("orders/limits/checkout"),
        plan: name("sale"),
        fields: vec!["rate".to_owned()],
    };
    assert_eq!(done.masked, [masked]);
    assert!(layers.set("orders/plans/sale", "off", 3).masked.is_empty());
}

// ---- what is refused

#[test]
fn bad_input_is_refused_by_key_and_nothing_else_changes() {
    let deep = "[".repeat(100);
    let huge = format!("{{why: {}}}", "x".repeat(crate::config::MAX_VALUE));
    let mut bomb = String::from("a0: &a0 [l, l, l, l, l, l, l, l, l, l]\n");
    for n in 1..10 {
        let _ = writeln!(bomb, "a{n}: &a{n} [{}]", vec![format!("*a{}", n - 1); 10].join(", "));
    }
    let many = format!("{{match: {{path: [{}]}}}}", vec!["'~/a.*'"; 101].join(", "));
    let cases: &[(&str, &[u8], &str)] = &[
        ("routes/in", b"\x00\x01\x02", "control character"),
        ("routes/in", b"\xff\xfe", "byte 0xff is not UTF-8 (line 1, column 1)"),
        ("routes/in", b"{upstream: \xc3}", "line 1, column 12"),
        ("routes/in", b"{upstream: [", "not YAML"),
        ("routes/in", b"[1, 2]", "expected a map of fields, found a list"),
        ("routes/in", b"a: 1\n---\nb: 1\n", "second document"),
        ("routes/in", deep.as_bytes(), "more than 64 levels"),
        ("routes/in", huge.as_bytes(), "more than 262144 bytes"),
        ("routes/in", bomb.as_bytes(), "expand to more than 20000"),
        ("routes/in", b"a: &a [*a]", "alias"),
        ("routes/in", b"{timeout: soon}", "timeout: `soon` is not a duration (line 1, column 11)"),
        ("routes/in", b"{timeout: [1]}", "expected a duration"),
        ("routes/in", b"{match: {path: '~(a{1000}){1000}'}}", "takes more than 256KiB"),
        ("routes/in", many.as_bytes(), "more than 100 regular expressions"),
        ("routes/in", b"{upstream: nope}", "there is no upstream `nope`"),
        ("routes/in", b"{until: tomorrow}", "not a time"),
        ("routes/in", b"{listener: outbound}", "there is no listener `outbound`"),
        ("limits/checkout", b"{algorithm: fixed_window}", "a window takes no `burst`"),
        ("limits/checkout", b"{share: redis, scope: service}", "without a Redis"),
        ("limits/checkout", b"0/s", "at least 1"),
        ("limits/checkout", b"{match: {route: nope}}", "there is no route `nope`"),
        ("limits/new", b"{burst: 3}", "`rate` is missing"),
        ("switches/degrade", b"101%", "more than 100%"),
        ("switches/degrade", b"{upstream: nope}", "there is no upstream `nope`"),
        ("switches/degrade", b"{reject: {}, shed: {}}", "cannot both be given"),
        ("switches/new", b"on", "needs an action"),
        ("plans/sale", b"{switches: {nope: on}}", "there is no switch `nope`"),
        (
            "plans/sale",
            b"{state: on, limits: {checkout: {algorithm: fixed_window}}}",
            "a window takes no `burst`",
        ),
        ("plans/sale", b"{limits: {checkout: 0/s}}", "at least 1"),
        ("plans/sale", b"{upstreams: {app: null, inventory: 5}}", "a plan cannot remove"),
        ("upstreams/app", b"{tls: {ca: /none/ca.pem}}", "No such file"),
        ("upstreams/app", b"{pool: {min_idle: 2000}}", "more than `max_connections`"),
        ("endpoints/app/x", b"nonsense", "not an endpoint"),
        ("endpoints/app/x", b"null", "expected an endpoint"),
        ("endpoints/app/x", b"{address: unix:relative}", "not a unix socket"),
        ("bypass", b"perhaps", "not `on` or `off`"),
        ("bypass", b"null", "expected `on` or `off`"),
        ("routes/a/b", b"{}", "too many slashes"),
        ("routes/", b"{}", "no name"),
        ("routes/ä", b"{}", "no name"),
        ("routs/a", b"{}", "no kind"),
        ("endpoints/app", b"{}", "an endpoint's key"),
    ];
    let before = layers(FILE).effective();
    for (key, value, says) in cases {
        let mut layers = layers(FILE);
        let key = format!("orders/{key}");
        let key: Arc<str> = Arc::from(String::from_utf8_lossy(key.as_bytes()).as_ref());
        let change =
            Change { key: Arc::clone(&key), value: Some(Bytes::copy_from_slice(value)), revision: 7 };
        let good = put("_all/switches/degrade", "observe", 7);
        let done = layers.take(&[change, good]);
        assert_eq!(done.refused.len(), 1, "{key} {says}: {:?}", done.refused);
        let refused = &done.refused[0];
        assert!(refused.reason.contains(says), "{key}: {says:?} is not in {:?}", refused.reason);
        assert_eq!((&refused.key, refused.revision, refused.in_use), (&key, 7, None));
        // The rest of the change applies, and nothing else has changed.
        assert_eq!(done.state(), SwitchState::Observe, "{key} {says}");
        assert_eq!(done.policy.routes, before.policy.routes, "{key} {says}");
        assert_eq!(done.policy.limits, before.policy.limits);
        assert_eq!(done.policy.upstreams, before.policy.upstreams);
        // Deleting the key mends it.
        let mended = layers.unset(&key, 8);
        mended.fine();
    }
}

#[test]
fn the_last_good_value_stays_until_the_key_is_mended() {
    let mut layers = layers(FILE);
    layers.set("orders/limits/checkout", "7/s", 1);
    let refused = layers.set("orders/limits/checkout", "7/d", 5);
    assert_eq!(refused.rate(), 7);
    assert_eq!((refused.refused[0].revision, refused.refused[0].in_use), (5, Some(1)));
    let since = refused.refused[0].since;
    assert_eq!(since, world(5).now);
    layers.set("orders/switches/degrade", "on", 6);
    layers.rebase(baseline(FILE), world(7));
    assert_eq!(layers.effective().refused[0].since, since, "a refusal that goes on is as old as it is");
    assert_eq!(layers.last_good().iter().map(|item| item.revision).collect::<Vec<_>>(), [1, 6]);
    assert_eq!(layers.overlays().iter().map(|item| item.revision).collect::<Vec<_>>(), [5, 6]);
    assert_eq!(layers.set("orders/limits/checkout", "8/s", 9).fine().rate(), 8);
}

#[test]
fn unknown_fields_are_reported_and_ignored() {
    let mut layers = layers(FILE);
    let done = layers.set("orders/limits/checkout", "{rate: 9/s, colour: red, brst: 3}", 3);
    assert_eq!(done.fine().rate(), 9);
    let said: Vec<_> = done.warnings.iter().map(|warning| warning.message.as_str()).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("`colour`") && said[0].contains("line 1, column 13"), "{said:?}");
    assert!(said[1].contains("did you mean `burst`?"), "{said:?}");
    // So is a field of a later version.
    assert_eq!(layers.set("orders/upstreams/app", "{retry: {attempts: 3}}", 4).fine().warnings.len(), 3);
}

#[test]
fn of_several_layers_the_newest_is_refused() {
    let mut layers = layers(FILE);
    layers.set("orders@pod-1/limits/checkout", "{burst: 10}", 1);
    // The older one of another layer is fine by itself, and stays.
    let done = layers.set("_all/limits/checkout", "{algorithm: fixed_window, burst: null}", 2);
    assert_eq!(done.refused.len(), 1);
    assert_eq!(&*done.refused[0].key, "_all/limits/checkout");
    // It is tried again when what it depends on changes.
    layers.unset("orders@pod-1/limits/checkout", 3).fine();
    let done = layers.set("orders@pod-1/limits/checkout", "{burst: 10}", 4);
    assert_eq!(done.reasons()[0].0, "orders@pod-1/limits/checkout");
}

#[test]
fn one_that_is_wrong_by_itself_does_not_take_newer_ones_with_it() {
    let mut layers = layers(FILE);
    layers.set("_all/limits/checkout", "{algorithm: fixed_window}", 1);
    let done = layers.set("orders/limits/checkout", "5/s", 2);
    assert_eq!((done.rate(), done.refused.len(), &*done.refused[0].key), (5, 1, "_all/limits/checkout"));
}

#[test]
fn a_removal_that_leaves_a_reference_dangling_is_held_back() {
    let mut layers = layers(FILE);
    layers.set("orders/upstreams/extra", "{endpoints: [h:1]}", 1);
    layers.set("orders/routes/stock", "{upstream: extra}", 2);
    let held = layers.unset("orders/upstreams/extra", 3);
    assert_eq!(held.refused.len(), 1);
    let refused = &held.refused[0];
    assert_eq!((&*refused.key, refused.revision, refused.in_use), ("orders/upstreams/extra", 3, Some(1)));
    assert!(
        refused.reason.starts_with("the removal is held back: routes/stock: upstream: "),
        "{}",
        refused.reason
    );
    assert!(held.policy.upstreams.contains_key(&name("extra")));
    // With the reference gone, so is the upstream.
    let done = layers.unset("orders/routes/stock", 4);
    assert!(!done.fine().policy.upstreams.contains_key(&name("extra")));
    assert!(layers.slots.is_empty());
}

#[test]
fn both_in_one_batch_are_one_change() {
    let mut layers = layers(FILE);
    let done = layers.take(&[
        put("orders/routes/stock", "{upstream: extra}", 1),
        put("orders/upstreams/extra", "{endpoints: [h:1]}", 1),
    ]);
    assert_eq!(done.fine().policy.routes[&name("stock")].target, Target::Upstream(name("extra")));
    layers.take(&[delete("orders/upstreams/extra", 2), delete("orders/routes/stock", 2)]).fine();
    // Alone the route has to wait; it comes into force with its upstream.
    let refused = layers.set("orders/routes/stock", "{upstream: extra}", 3);
    assert_eq!(refused.refused.len(), 1);
    let done = layers.set("orders/upstreams/extra", "{endpoints: [h:1]}", 4);
    assert_eq!(done.fine().policy.routes[&name("stock")].target, Target::Upstream(name("extra")));
}

#[test]
fn removing_what_the_file_refers_to_is_refused() {
    let mut layers = layers(FILE);
    let done = layers.set("orders/upstreams/inventory", "null", 1);
    assert_eq!((done.refused.len(), &*done.refused[0].key), (1, "orders/upstreams/inventory"));
    let done = layers.set("orders/routes/stock", "{upstream: app}", 2);
    assert!(!done.fine().policy.upstreams.contains_key(&name("inventory")));
    // The route's overlay may not go now: it is the newest that is involved.
    let held = layers.unset("orders/routes/stock", 3);
    assert_eq!(held.reasons()[0].0, "orders/routes/stock");
    assert_eq!(held.policy.routes[&name("stock")].target, Target::Upstream(name("app")));
}

#[test]
fn a_plan_that_does_not_fit_stays_off_as_a_whole() {
    let mut layers = layers(FILE);
    layers.set("orders/limits/checkout", "{algorithm: sliding_window, burst: null}", 1);
    layers.set("orders/plans/sale", "{limits: {checkout: {burst: 7}}}", 2).fine();
    let done = layers.set("orders@pod-1/plans/sale", "on", 3);
    assert_eq!((done.refused.len(), &*done.refused[0].key), (1, "orders@pod-1/plans/sale"));
    assert!(
        done.refused[0].reason.contains("limits/checkout: burst: a window takes no `burst`"),
        "{:?}",
        done.refused
    );
    assert_eq!((done.state(), done.rate()), (SwitchState::Off, 500));
    let done = layers.unset("orders/limits/checkout", 4);
    assert_eq!((done.fine().state(), done.rate()), (SwitchState::On, 2000));
}

#[test]
fn a_file_under_which_an_overlay_does_not_fit() {
    let mut layers = layers(FILE);
    layers.set("orders/limits/checkout", "{burst: 10}", 1);
    let other = FILE.replace("rate: 500/s, burst: 100", "rate: 500/s, algorithm: fixed_window");
    layers.rebase(baseline(&other), world(2));
    let done = layers.effective();
    assert_eq!(done.reasons()[0].0, "orders/limits/checkout");
    assert_eq!(done.refused[0].in_use, None);
    layers.rebase(baseline(FILE), world(3));
    layers.effective().fine();
    // Gone from the file, and named from the store.
    layers.set("orders/switches/degrade", "{upstream: app}", 4);
    let gone = FILE.replace(
        "    checkout: { match: { path: /checkout }, rate: 500/s, burst: 100 }\n",
        "    other: 1/s\n",
    );
    let gone = gone.replace("      limits: { checkout: 2000/s }\n", "");
    layers.rebase(baseline(&gone), world(5));
    let done = layers.effective();
    assert!(done.reasons()[0].2.contains("`rate` is missing"), "{:?}", done.reasons());
}

#[test]
fn files_that_policy_names_are_looked_at_again() {
    let mut layers = layers(FILE);
    let done = layers.set("orders/upstreams/app", "{tls: {ca: /none/ca.pem}}", 1);
    assert_eq!(done.refused.len(), 1);
    layers.retry(World { probe: &|_, _| Ok(()), ..world(2) });
    assert!(layers.effective().fine().policy.upstreams[&name("app")].tls.is_some());
}

#[test]
fn a_scope_has_room_for_ten_thousand_keys() {
    let mut layers = layers(FILE);
    let mut items = Vec::new();
    for n in 0..=MAX_KEYS {
        items.push(Item {
            key: Arc::from(format!("orders/endpoints/inventory/e{n:05}")),
            value: Bytes::from(format!("10.1.{}.{}:80", n / 250, n % 250 + 1)),
            revision: i64::try_from(n).unwrap() + 1,
        });
    }
    let content = Content { cluster: 1, revision: 20_000, items };
    layers.read(&content, world(1));
    let done = layers.effective();
    assert_eq!((done.refused.len(), &*done.refused[0].key), (1, "orders/endpoints/inventory/e10000"));
    assert!(done.refused[0].reason.contains("more than 10000 keys"));
    assert_eq!(done.addresses().len(), MAX_KEYS + 1);
    // One that is there already may still change; with room again the other comes in.
    assert_eq!(layers.set("orders/endpoints/inventory/e00001", "h:1", 20_001).refused.len(), 1);
    let done = layers.unset("orders/endpoints/inventory/e00000", 20_002);
    assert_eq!(done.fine().addresses().len(), MAX_KEYS + 1);
}

// ---- time

#[test]
fn an_overlay_holds_until_its_time_whatever_the_clock_does() {
    let mut layers = layers(FILE);
    let until = world(100).now;
    let done = layers.set("orders/limits/checkout", &format!("{{rate: 3/s, until: '{until}'}}"), 1);
    assert_eq!((done.rate(), done.next_expiry), (3, Some(until)));
    layers.tick(world(99));
    assert_eq!(layers.effective().rate(), 3);
    layers.tick(world(100));
    let over = layers.effective();
    assert_eq!((over.fine().rate(), over.next_expiry), (500, None));
    assert!(over.warnings[0].message.contains("has passed"), "{:?}", over.warnings);
    // A clock that jumped ahead and is put right again.
    layers.tick(world(20));
    assert_eq!((layers.effective().rate(), layers.effective().next_expiry), (3, Some(until)));
    layers.tick(world(1_000_000));
    assert_eq!(layers.effective().rate(), 500);
    layers.unset("orders/limits/checkout", 50).fine();
    assert!(layers.expiries.is_empty());
}

#[test]
fn what_expires_takes_with_it_what_refers_to_it() {
    let mut layers = layers(FILE);
    let until = world(100).now;
    layers.set("orders/upstreams/extra", &format!("{{endpoints: [h:1], until: '{until}'}}"), 1);
    layers.set("orders/routes/stock", "{upstream: extra}", 2).fine();
    layers.tick(world(200));
    let done = layers.effective();
    assert_eq!((done.refused.len(), &*done.refused[0].key), (1, "orders/routes/stock"));
    assert_eq!(done.policy.routes[&name("stock")].target, Target::Upstream(name("inventory")));
    layers.tick(world(50));
    assert_eq!(
        layers.effective().fine().policy.routes[&name("stock")].target,
        Target::Upstream(name("extra"))
    );
}

// ---- the cache

#[test]
fn what_was_good_is_kept_and_comes_back() {
    let mut first = layers(FILE);
    first.set("orders/limits/checkout", "7/s", 1);
    first.set("orders/limits/checkout", "7/d", 2);
    let mut second = layers(FILE);
    second.restore(&first.last_good(), 2, world(3));
    assert_eq!(second.effective().fine().rate(), 7);
    // The store still says what is wrong: the cache's value stays.
    let content = Content { cluster: 1, revision: 3, items: first.overlays() };
    second.read(&content, world(4));
    let done = second.effective();
    assert_eq!((done.rate(), done.refused[0].in_use), (7, Some(1)));
    // An instance without a cache starts without it, and says so.
    let mut fresh = layers(FILE);
    fresh.read(&content, world(4));
    let done = fresh.effective();
    assert_eq!((done.rate(), done.refused[0].in_use), (500, None));
}

// ---- laws

#[test]
fn what_did_not_change_is_the_same() {
    let mut layers = layers(FILE);
    let before = layers.effective();
    let after = layers.set("orders/limits/checkout", "7/s", 1);
    for (name, route) in &before.policy.routes {
        assert!(Arc::ptr_eq(route, &after.policy.routes[name]));
    }
    let again = layers.set("orders/routes/in", "{upstream: app}", 2);
    assert!(Arc::ptr_eq(&after.policy.routes[&name("in")], &again.policy.routes[&name("in")]));
}

/// Values that always fit.
const GOOD: &[(&str, &[&str])] = &[
    ("limits/checkout", &["7/s", "on", "off", "{rate: 9/m}", "{cost: 1}", "{match: {path: /x}}"]),
    ("switches/degrade", &["on", "off", "25%", "{reject: {}}", "{shed: {}}", "{upstream: app}"]),
    ("plans/sale", &["on", "off", "{limits: {checkout: 3/s}}"]),
    (
        "routes/in",
        &["{timeout: 1s}", "{upstream: inventory}", "{split: [{upstream: app}]}", "{priority: low}"],
    ),
    (
        "upstreams/inventory",
        &["{connect_timeout: 3s}", "{breaker: open}", "{health: {tcp: true}}", "{fallback: {upstream: app}}"],
    ),
    ("endpoints/inventory/a", &["h:1", "{address: h:2, weight: 2}", "10.0.0.1:80"]),
    ("bypass", &["on", "off"]),
];

/// Values that do not fit, or not always.
const BAD: &[(&str, &[&str])] = &[
    (
        "limits/checkout",
        &["7/d", "null", "{algorithm: fixed_window}", "{burst: null}", "{match: {route: new}}"],
    ),
    ("switches/degrade", &["", "{upstream: extra}", "null", "{reject: {}, shed: {}}"]),
    ("plans/sale", &["on", "{limits: {checkout: {algorithm: fixed_window}}}", "{switches: {x: on}}", "null"]),
    ("routes/in", &["{upstream: extra}", "null", "[", "{listener: x}"]),
    ("routes/new", &["{upstream: extra}", "{upstream: app}", "{timeout: 1s}"]),
    ("upstreams/extra", &["{endpoints: [h:1]}", "null", "{}", "{pool: {min_idle: 5000}}"]),
    (
        "upstreams/app",
        &["{fallback: {upstream: inventory}}", "{fallback: {upstream: extra}}", "{ejection: no}"],
    ),
    ("upstreams/inventory", &["null", "{endpoints: null}", "{endpoints: []}"]),
    ("endpoints/extra/a", &["h:1", "h"]),
    ("bypass", &["perhaps", "null"]),
    ("nonsense", &["x"]),
];

/// Changes of a few keys, good ones and bad ones.
fn changes(good: bool) -> impl Strategy<Value = Vec<(String, Option<String>)>> {
    let scope = prop::sample::select(vec!["_all", "orders", "orders@pod-1"]);
    let of = |rest: &'static [(&'static str, &'static [&'static str])]| prop::sample::select(rest);
    let mixed = if good { of(GOOD).boxed() } else { prop_oneof![of(GOOD), of(BAD)].boxed() };
    let change = (scope, mixed, any::<prop::sample::Index>(), prop::bool::weighted(0.3));
    let change = change.prop_map(|(scope, (key, values), index, gone)| {
        (format!("{scope}/{key}"), (!gone).then(|| values[index.index(values.len())].to_owned()))
    });
    prop::collection::vec(change, 1..25)
}

fn numbered(changes: &[(String, Option<String>)]) -> Vec<Change> {
    let of = |(n, (key, value)): (usize, &(String, Option<String>))| Change {
        key: Arc::from(key.as_str()),
        value: value.as_ref().map(|value| Bytes::copy_from_slice(value.as_bytes())),
        revision: i64::try_from(n).unwrap() + 1,
    };
    changes.iter().enumerate().map(of).collect()
}

/// Policy, documents, and of what is refused the key, the reason and what is in use.
type Told = (Policy, serde_json::Value, Vec<(Arc<str>, Arc<str>, Option<i64>)>);

/// What has to be the same when two are.
fn told(layers: &Layers) -> Told {
    let done = layers.effective();
    let refused =
        done.refused.iter().map(|refused| (refused.key.clone(), refused.reason.clone(), refused.in_use));
    ((*done.policy).clone(), layers.documents().to_json(), refused.collect())
}

fn whole(changes: &[Change]) -> Content {
    let last: BTreeMap<_, _> = changes.iter().map(|change| (change.key.clone(), change)).collect();
    let items = last.into_values().filter_map(|change| {
        Some(Item { key: change.key.clone(), value: change.value.clone()?, revision: change.revision })
    });
    let revision = i64::try_from(changes.len()).unwrap();
    Content { cluster: 1, revision, items: items.collect() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn in_whatever_pieces_changes_come_the_end_is_that_of_a_whole_read(list in changes(true), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6)) {
        let list = numbered(&list);
        let mut pieces = layers(FILE);
        let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(list.len())).chain([0, list.len()]).collect();
        cuts.sort_unstable();
        let mut any = false;
        for pair in cuts.windows(2) {
            pieces.take(&list[pair[0]..pair[1]]);
            any |= !pieces.effective().refused.is_empty();
        }
        prop_assume!(!any);
        let mut at_once = layers(FILE);
        at_once.read(&whole(&list), world(1));
        prop_assert_eq!(told(&pieces), told(&at_once));
    }

    #[test]
    fn whatever_comes_the_policy_is_sound(list in changes(false), step in 1..5_usize) {
        let list = numbered(&list);
        let (mut one, mut two) = (layers(FILE), layers(FILE));
        for piece in list.chunks(step) {
            one.take(piece);
            two.take(piece);
            prop_assert_eq!(told(&one), told(&two));
            let policy = one.effective().policy;
            for route in policy.routes.values() {
                let targets: Vec<_> = match &route.target {
                    Target::Upstream(name) => vec![name],
                    Target::Split { parts, .. } => parts.iter().map(|(name, _)| name).collect(),
                };
                prop_assert!(targets.into_iter().all(|name| policy.upstreams.contains_key(name)));
            }
            for limit in policy.limits.values() {
                prop_assert!(limit.matches.route.as_ref().is_none_or(|route| policy.routes.contains_key(route)));
            }
            let patched = policy.plans.values().flat_map(|plan| &plan.patches);
            for patch in patched {
                prop_assert!(one.cells.contains_key(&(patch.kind, patch.name.clone())));
            }
        }
        // Whoever reads it all again has the same.
        let (policy, documents, refused) = told(&one);
        one.read(&whole(&list), world(99));
        let again = told(&one);
        prop_assert_eq!((&policy, &documents), (&again.0, &again.1));
        prop_assert_eq!(refused.len(), again.2.len());
        // With every key gone the file is left, and nothing is kept.
        one.read(&Content { cluster: 1, revision: 100, items: Vec::new() }, world(100));
        prop_assert_eq!(told(&one), told(&layers(FILE)));
        prop_assert!(one.slots.is_empty() && one.trouble.is_empty() && one.endpoints.is_empty());
    }

    #[test]
    fn arbitrary_bytes_do_not_panic(value in prop::collection::vec(any::<u8>(), 0..200), key in "[a-z@_1-]{0,8}(/[a-zä/]{0,9}){0,3}") {
        let mut layers = layers(FILE);
        for key in [key.as_str(), "orders/routes/in", "orders/plans/sale", "orders/endpoints/app/a", "_all/bypass"] {
            layers.take(&[Change { key: Arc::from(key), value: Some(Bytes::from(value.clone())), revision: 1 }]);
        }
        prop_assert!(layers.effective().policy.routes.contains_key(&name("in")));
    }
}
