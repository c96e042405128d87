use proptest::prelude::*;

use super::*;
use crate::config::Name;

fn identity() -> Identity {
    Identity { service: Name::new("orders").unwrap(), instance: Name::new("pod-1").unwrap() }
}

fn now() -> Timestamp {
    Timestamp::from_second(1_800_000_000).unwrap()
}

fn item(key: &str, value: &str, revision: i64) -> Item {
    Item { key: key.into(), value: Bytes::copy_from_slice(value.as_bytes()), revision }
}

fn put(key: &str, value: &str, revision: i64) -> Change {
    Change { key: key.into(), value: Some(Bytes::copy_from_slice(value.as_bytes())), revision }
}

fn delete(key: &str, revision: i64) -> Change {
    Change { key: key.into(), value: None, revision }
}

fn changed(changes: Vec<Change>) -> Event {
    let revision = changes.last().map_or(0, |change| change.revision);
    Event::Changed { revision, changes, at: Instant::now() }
}

fn read(cluster: u64, revision: i64, items: Vec<Item>) -> Event {
    let content = Content { cluster, revision, items };
    Event::Read { content, cause: ReadCause::Start, at: Instant::now() }
}

/// `count` switches of the service, all written at revision 1.
fn switches(count: usize) -> Vec<Item> {
    (0..count).map(|n| item(&format!("orders/switches/s{n}"), "on", 1)).collect()
}

fn begun(count: usize) -> Guard {
    let mut guard = Guard::new(&identity());
    let out = guard.take(&read(7, 10, switches(count)), now());
    assert_eq!(out.batch.map_or(0, |batch| batch.changes.len()), count);
    assert!(out.notes.is_empty());
    guard
}

fn deletions(range: std::ops::Range<usize>, revision: i64) -> Vec<Change> {
    range.map(|n| delete(&format!("orders/switches/s{n}"), revision)).collect()
}

/// The keys and values of a batch, short.
fn applied(out: &Outcome) -> Vec<String> {
    let changes = out.batch.iter().flat_map(|batch| &batch.changes);
    let show = |change: &Change| {
        let value = change.value.as_ref().map_or("-".into(), |value| String::from_utf8_lossy(value));
        format!("{}={value}", change.key)
    };
    changes.map(show).collect()
}

#[test]
fn more_than_half_of_a_scope_is_held_and_at_least_four() {
    for (count, deleted, held) in [
        (4, 4, true),
        (3, 3, false),
        (8, 4, false),
        (7, 4, true),
        (8, 5, true),
        (100, 50, false),
        (100, 51, true),
    ] {
        let mut guard = begun(count);
        let out = guard.take(&changed(deletions(0..deleted, 11)), now());
        assert_eq!(guard.held_count(), if held { deleted } else { 0 }, "{deleted} of {count}");
        assert_eq!(out.batch.is_none(), held);
        assert_eq!(out.notes.len(), usize::from(held));
    }
}

#[test]
fn what_else_is_in_the_revision_passes() {
    let mut guard = begun(6);
    let mut changes = deletions(0..5, 11);
    changes.push(put("orders/limits/new", "1/s", 11));
    changes.push(put("_all/bypass", "on", 11));
    let out = guard.take(&changed(changes), now());
    assert_eq!(applied(&out), ["_all/bypass=on", "orders/limits/new=1/s"]);
    let holdings = guard.holdings();
    assert_eq!(holdings.len(), 1);
    assert_eq!(
        (holdings[0].scope, holdings[0].why, holdings[0].revision),
        (Scope::Service, Why::MassDelete, 11)
    );
    assert_eq!(holdings[0].keys.len(), 5);
    assert_eq!(holdings[0].since, now());
}

#[test]
fn scopes_are_judged_apart_and_endpoints_do_not_count() {
    let mut guard = Guard::new(&identity());
    let mut items = switches(4);
    items.extend((0..6).map(|n| item(&format!("orders/endpoints/app/e{n}"), "h:1", 1)));
    items.extend((0..10).map(|n| item(&format!("_all/switches/a{n}"), "on", 1)));
    guard.take(&read(7, 10, items), now());
    let mut changes = deletions(0..2, 11);
    changes.extend((0..6).map(|n| delete(&format!("orders/endpoints/app/e{n}"), 11)));
    changes.extend((0..5).map(|n| delete(&format!("_all/switches/a{n}"), 11)));
    let out = guard.take(&changed(changes), now());
    assert_eq!((applied(&out).len(), guard.held_count()), (13, 0));
}

#[test]
fn each_revision_of_a_batch_is_judged_by_itself() {
    let mut guard = begun(8);
    let mut changes = Vec::new();
    for n in 0..8 {
        changes.extend(deletions(n..n + 1, 11 + i64::try_from(n).unwrap()));
    }
    let out = guard.take(&changed(changes), now());
    assert_eq!((applied(&out).len(), guard.held_count()), (8, 0));
}

#[test]
fn a_put_releases_its_key_and_only_that() {
    let mut guard = begun(4);
    guard.take(&changed(deletions(0..4, 11)), now());
    let out = guard.take(&changed(vec![put("orders/switches/s1", "off", 12)]), now());
    assert_eq!(applied(&out), ["orders/switches/s1=off"]);
    assert_eq!(out.notes, [Note::Released { key: "orders/switches/s1".into() }]);
    assert_eq!(guard.held_count(), 3);
    // Deleted and written anew by one script, gathered into one batch.
    let mut guard = begun(4);
    let mut changes = deletions(0..4, 11);
    changes.extend((0..4).map(|n| put(&format!("orders/switches/s{n}"), "10%", 12)));
    let out = guard.take(&changed(changes), now());
    assert_eq!((applied(&out).len(), guard.held_count()), (4, 0));
}

#[test]
fn a_confirmation_releases_what_it_reaches() {
    for (value, released) in [
        ("{cluster: 7, revision: 11}", true),
        ("{\"cluster\": \"0x7\", \"revision\": 9999, \"by\": \"ann\"}", true),
        ("cluster: '7'\nrevision: 12\n", true),
        ("{cluster: 7, revision: 10}", false),
        ("{cluster: 8, revision: 11}", false),
        ("on", false),
        ("", false),
        ("{cluster: -7, revision: 11}", false),
        ("{cluster: 7}", false),
    ] {
        for (scope, covers) in [("_all", true), ("orders", true), ("orders@pod-1", false)] {
            let mut guard = begun(4);
            guard.take(&changed(deletions(0..4, 11)), now());
            let out = guard.take(&changed(vec![put(&format!("{scope}/confirm"), value, 12)]), now());
            let expected = released && covers;
            assert_eq!(guard.held_count(), if expected { 0 } else { 4 }, "{scope} {value}");
            assert_eq!(applied(&out).len(), if expected { 4 } else { 0 });
            assert_eq!(out.notes.len(), 1, "{value}: {:?}", out.notes);
        }
    }
}

#[test]
fn a_confirmation_does_not_reach_beyond_itself() {
    let mut guard = begun(4);
    guard.take(&changed(vec![put("_all/confirm", "{cluster: 7, revision: 99999}", 11)]), now());
    guard.take(&changed(deletions(0..4, 12)), now());
    assert_eq!(guard.held_count(), 4);
    // In one transaction with what it confirms it is enough.
    let mut guard = begun(4);
    let mut changes = deletions(0..4, 11);
    changes.insert(0, put("orders/confirm", "{cluster: 7, revision: 99999}", 11));
    assert_eq!(applied(&guard.take(&changed(changes), now())).len(), 4);
    assert_eq!(guard.held_count(), 0);
}

#[test]
fn a_store_that_comes_back_otherwise_is_held_where_it_differs() {
    let two = || vec![item("orders/switches/s0", "on", 1), item("orders/switches/s1", "off", 3)];
    for (event, why) in [
        (read(8, 20, two()), Why::OtherCluster),
        (read(7, 9, two()), Why::Older),
        (read(7, 20, Vec::new()), Why::Empty),
        (read(8, 1, Vec::new()), Why::OtherCluster),
    ] {
        let mut guard = begun(2);
        let out = guard.take(&event, now());
        assert!(applied(&out).is_empty(), "{why:?}: {out:?}");
        assert!(guard.holdings().iter().all(|holding| holding.why == why), "{:?}", guard.holdings());
        assert!(guard.held_count() > 0);
        assert!(matches!(out.notes[..], [Note::Held { .. }]));
        // What comes after it passes, and releases its key.
        let out = guard.take(&changed(vec![put("orders/switches/s1", "20%", 30)]), now());
        assert_eq!(applied(&out), ["orders/switches/s1=20%"]);
        // And the operator's word releases the rest.
        let cluster = guard.memory().cluster.unwrap();
        let value = format!("{{cluster: {cluster}, revision: 30}}");
        guard.take(&changed(vec![put("_all/confirm", &value, 31)]), now());
        assert_eq!(guard.held_count(), 0);
    }
}

#[test]
fn the_same_content_needs_no_confirmation() {
    let mut guard = begun(6);
    let out = guard.take(&read(8, 3, switches(6)), now());
    assert!((out.batch.is_none(), out.notes.len(), guard.held_count()) == (true, 0, 0), "{out:?}");
    // The cluster that we knew first is another one now, and again nothing differs.
    guard.take(&read(7, 10, switches(6)), now());
    assert_eq!(guard.held_count(), 0);
}

#[test]
fn a_store_that_recovers_releases_what_was_held() {
    let mut guard = begun(6);
    guard.take(&read(8, 1, Vec::new()), now());
    assert_eq!(guard.held_count(), 6);
    let out = guard.take(&read(7, 12, switches(6)), now());
    assert_eq!((applied(&out).len(), guard.held_count()), (0, 0));
}

#[test]
fn a_restart_applies_nothing_of_what_was_held() {
    let mut guard = begun(10);
    guard.take(&changed(deletions(0..6, 11)), now());
    let memory = guard.memory().clone();
    let mut guard = Guard::restore(&identity(), switches(10), memory);
    let left = || switches(10).split_off(6);
    let later = Timestamp::from_second(1_900_000_000).unwrap();
    let out = guard.take(&read(7, 40, left()), later);
    assert_eq!((applied(&out).len(), guard.held_count(), out.notes.len()), (0, 6, 0));
    let holding = &guard.holdings()[0];
    assert_eq!((holding.revision, holding.since), (11, now()));
    // Confirmed while it was away.
    let mut guard = Guard::restore(&identity(), switches(10), guard.memory().clone());
    let mut items = left();
    items.insert(0, item("_all/confirm", "{cluster: 7, revision: 12}", 41));
    let out = guard.take(&read(7, 50, items), later);
    assert_eq!((applied(&out).len(), guard.held_count()), (6, 0));
}

#[test]
fn a_confirmation_that_a_restored_store_brings_back_confirms_nothing() {
    let mut guard = begun(6);
    let confirm = || item("_all/confirm", "{cluster: 7, revision: 11}", 12);
    guard.take(&changed(vec![put("_all/confirm", "{cluster: 7, revision: 11}", 12)]), now());
    guard.take(&changed(vec![put("orders/switches/s0", "off", 13)]), now());
    let mut items = switches(6);
    items.insert(0, confirm());
    let out = guard.take(&read(7, 12, items), now());
    assert_eq!((applied(&out).len(), guard.held_count()), (0, 1));
    // An instance that was away for the restoration and for its confirmation.
    let mut late = begun(6);
    late.take(&changed(vec![put("orders/switches/s0", "off", 13)]), now());
    let mut items = switches(6);
    items.insert(0, item("_all/confirm", "{cluster: 7, revision: 10}", 11));
    let out = late.take(&read(7, 11, items), now());
    assert_eq!((applied(&out), late.held_count()), (vec!["orders/switches/s0=on".to_owned()], 0));
}

#[test]
fn a_whole_read_is_judged_as_one_revision() {
    let mut guard = begun(10);
    let mut left = switches(10).split_off(6);
    left.push(item("orders/switches/s9x", "on", 20));
    let out = guard.take(&read(7, 30, left), now());
    assert_eq!(applied(&out), ["orders/switches/s9x=on"]);
    assert_eq!(guard.holdings()[0].why, Why::MassDelete);
    let mut guard = begun(10);
    let out = guard.take(&read(7, 30, switches(10).split_off(5)), now());
    assert_eq!((applied(&out).len(), guard.held_count()), (5, 0));
}

#[test]
fn other_peoples_changes_and_garbage_do_no_harm() {
    let mut guard = begun(2);
    let changes = vec![
        put("", "x", 11),
        put("orders", "x", 11),
        put("orders2/switches/x", "on", 11),
        delete("a/b/c", 11),
    ];
    guard.take(&changed(changes), now());
    guard.take(&Event::Changed { revision: -5, changes: Vec::new(), at: Instant::now() }, now());
    guard.take(&Event::Proven { revision: 500, at: Instant::now() }, now());
    assert_eq!((guard.memory().revision, guard.held_count()), (500, 0));
}

// ---- laws

#[derive(Debug, Clone)]
enum Step {
    Put(u8, u8),
    Delete(Vec<u8>),
    /// The same as a whole read of the same store.
    Reread,
    /// Another cluster, or an older revision, or an empty store, with this content.
    Other {
        cluster: bool,
        keys: Vec<(u8, u8)>,
    },
    Confirm,
}

fn key(n: u8) -> String {
    match n % 24 {
        n @ 0..12 => format!("orders/switches/s{n}"),
        n @ 12..18 => format!("_all/limits/l{n}"),
        n @ 18..22 => format!("orders/endpoints/app/e{n}"),
        22 => "orders/bypass".to_owned(),
        _ => "orders@pod-1/nonsense".to_owned(),
    }
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let keys = || prop::collection::vec(any::<u8>(), 1..20);
    let step = prop_oneof![
        4 => (any::<u8>(), 0..3_u8).prop_map(|(key, value)| Step::Put(key, value)),
        3 => keys().prop_map(Step::Delete),
        1 => Just(Step::Reread),
        1 => (any::<bool>(), prop::collection::vec((any::<u8>(), 0..3_u8), 0..20))
            .prop_map(|(cluster, keys)| Step::Other { cluster, keys }),
        1 => Just(Step::Confirm),
    ];
    prop::collection::vec(step, 1..40)
}

type State = BTreeMap<Arc<str>, Bytes>;

/// What the layers would have.
fn apply(state: &mut State, out: &Outcome) {
    for change in out.batch.iter().flat_map(|batch| &batch.changes) {
        match &change.value {
            Some(value) => drop(state.insert(Arc::clone(&change.key), value.clone())),
            None => drop(state.remove(&change.key)),
        }
    }
}

fn overlays<'s>(state: &'s State, scope: &str) -> BTreeSet<&'s Arc<str>> {
    let of =
        |key: &&Arc<str>| key.starts_with(scope) && !key.contains("endpoints") && !key.contains("bypass");
    state.keys().filter(of).collect()
}

proptest! {
    #[test]
    fn never_more_than_half_vanishes_and_nothing_gets_stuck(steps in steps(), restart in any::<bool>()) {
        let mut guard = Guard::new(&identity());
        let (mut store, mut layers): (State, State) = Default::default();
        let (mut cluster, mut revision) = (1_u64, 1_i64);
        guard.take(&read(cluster, revision, Vec::new()), now());
        for step in steps {
            revision += 1;
            let mut confirmed = false;
            let before = layers.clone();
            let event = match step {
                Step::Put(n, value) => {
                    let (key, value) = (key(n), value.to_string());
                    store.insert(key.as_str().into(), value.clone().into());
                    changed(vec![put(&key, &value, revision)])
                }
                Step::Delete(keys) => {
                    let keys: BTreeSet<String> = keys.into_iter().map(key).collect();
                    let gone = keys.into_iter().filter(|key| store.remove(key.as_str()).is_some());
                    changed(gone.map(|key| delete(&key, revision)).collect())
                }
                Step::Other { cluster: other, keys } => {
                    if other { cluster += 1 } else { revision = (revision / 2).max(1) }
                    store = keys.into_iter().map(|(n, value)| (key(n).into(), value.to_string().into())).collect();
                    let items = store.iter().map(|(key, value)| Item { key: Arc::clone(key), value: value.clone(), revision }).collect();
                    let cause = if other { ReadCause::NewCluster } else { ReadCause::Regression };
                    Event::Read { content: Content { cluster, revision, items }, cause, at: Instant::now() }
                }
                Step::Reread => {
                    let items = store.iter().map(|(key, value)| Item { key: Arc::clone(key), value: value.clone(), revision }).collect();
                    read(cluster, revision, items)
                }
                Step::Confirm => {
                    confirmed = true;
                    changed(vec![put("_all/confirm", &format!("{{cluster: {cluster}, revision: {revision}}}"), revision)])
                }
            };
            let out = guard.take(&event, now());
            apply(&mut layers, &out);

            // What was passed on, with what is held laid over it, is the store.
            let mut seen = layers.clone();
            for (key, held) in &guard.memory().held {
                match &held.target {
                    Some((value, _)) => drop(seen.insert(Arc::clone(key), value.clone())),
                    None => drop(seen.remove(key)),
                }
            }
            prop_assert_eq!(&seen, &store);
            for scope in ["_all/", "orders/"] {
                let (had, has) = (overlays(&before, scope), overlays(&layers, scope));
                let vanished = had.difference(&has).count();
                prop_assert!(confirmed || vanished < FEWEST || 2 * vanished <= had.len(), "{vanished} of {}", had.len());
            }
            // What was put arrives, whatever is held.
            if let Event::Changed { changes, .. } = &event {
                for change in changes.iter().filter(|change| !change.key.ends_with("confirm")) {
                    if let Some(value) = &change.value {
                        prop_assert_eq!(layers.get(&change.key), Some(value));
                    }
                }
            }
            if confirmed {
                prop_assert_eq!(guard.held_count(), 0);
                prop_assert_eq!(&layers, &store);
            }
            if restart {
                let items = layers.iter().map(|(key, value)| Item { key: Arc::clone(key), value: value.clone(), revision });
                guard = Guard::restore(&identity(), items.collect::<Vec<_>>(), guard.memory().clone());
            }
        }
    }

    #[test]
    fn no_confirmation_panics(bytes in prop::collection::vec(any::<u8>(), 0..300), text in "[{}\\[\\]a-z0-9:, &*!'\"\n-]{0,80}") {
        for value in [bytes, text.into_bytes()] {
            let seen = Seen { revision: 5, value: value.into() };
            let _ = confirm::reach(&seen, Some(7));
        }
    }
}
