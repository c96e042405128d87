//! Every sequence that matters, step by step.

use std::time::{Duration, Instant};

use bytes::Bytes;

use super::*;
use crate::store::key::Scope;

const NEW: Version = (3, 6, 4);
const OLD: Version = (3, 4, 23);

/// A watcher with a clock of its own, and what it said last.
struct Rig {
    watcher: Watcher,
    now: Instant,
    rng: fastrand::Rng,
}

impl Rig {
    fn new(members: usize, has_user: bool) -> Self {
        let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(3));
        let endpoints = (0..members).map(|n| format!("http://m{n}")).collect();
        let watcher = Watcher::new(Settings::default(), endpoints, has_user, now, &mut rng);
        Self { watcher, now, rng }
    }

    fn give(&mut self, input: Input) -> Vec<String> {
        self.watcher.handle(input, self.now, &mut self.rng).iter().map(say).collect()
    }

    /// Lets time pass until it has something to say.
    fn pass(&mut self) -> Vec<String> {
        for _ in 0..100 {
            self.now = self.now.max(self.watcher.deadline().expect("something is due"));
            let said = self.give(Input::Tick);
            if !said.is_empty() {
                return said;
            }
        }
        panic!("says nothing");
    }

    fn wait(&mut self, time: Duration) -> Vec<String> {
        self.now += time;
        self.give(Input::Tick)
    }

    /// Lane 1, with the store at revision 10 and one key of the service, live and proven.
    fn live(version: Version) -> Self {
        let mut rig = Self::new(1, false);
        assert_eq!(rig.pass(), ["dial 1"]);
        assert_eq!(rig.give(Input::Dialed(LaneId(1))), ["probe 1"]);
        rig.read(1, version, "Start");
        rig.opened(1);
        rig
    }

    /// From the probe's answer to the opening of the watch, with the same content.
    fn read(&mut self, lane: u64, version: Version, cause: &str) {
        let id = LaneId(lane);
        let said = self.give(Input::Probed(id, version, head(10)));
        assert_eq!(said, [format!("page {lane} fleet")]);
        assert_eq!(self.give(Input::Page(id, page(&[]))), [format!("page {lane} service")]);
        let one = [entry(Scope::Service, "orders/a", Some("1"), 7)];
        assert_eq!(self.give(Input::Page(id, page(&one))), [format!("page {lane} instance")]);
        let mut said = self.give(Input::Page(id, page(&[])));
        said.retain(|said| !said.starts_with("connected") && !said.starts_with("close"));
        assert_eq!(said, [format!("read {cause} 10 [orders/a=1]"), format!("watch {lane} from 11")]);
    }

    fn opened(&mut self, lane: u64) {
        let id = LaneId(lane);
        assert_eq!(self.give(created(id)), [] as [&str; 0]);
        assert_eq!(self.give(created(id)), [] as [&str; 0]);
        let said = self.give(created(id));
        if said == [format!("progress {lane}")] {
            assert_eq!(self.give(progress(id, 10)), ["proven 10"]);
        } else {
            assert_eq!(said, [format!("glance {lane} {}", self.watcher.asked)]);
            assert_eq!(self.glanced(lane, &said[0], 10), ["proven 10"]);
        }
    }

    /// Answers an audit by the number that it was asked with.
    fn audited(&mut self, lane: u64, asked: &str, audit: Audit) -> Vec<String> {
        self.give(Input::Audited(LaneId(lane), number(asked), audit))
    }

    fn glanced(&mut self, lane: u64, asked: &str, revision: i64) -> Vec<String> {
        self.give(Input::Glanced(LaneId(lane), number(asked), head(revision)))
    }

    /// Lane 1 is told that what comes next is compacted, and something of ours was in it.
    fn compacted(&mut self, told: Message) {
        let said = self.give(Input::Message(LANE, told));
        assert_eq!(said, [format!("check since 10 1 {}", self.watcher.asked)]);
        assert_eq!(self.audited(1, &said[0], check(40, 30)), ["probe 1"]);
    }

    /// The store has moved on by the time of the next regular proof; what is asked for then.
    fn moved(&mut self, revision: i64) -> String {
        let said = self.wait(Duration::from_secs(4)).remove(0);
        assert_eq!(said, format!("glance 1 {}", self.watcher.asked));
        let mut said = self.glanced(1, &said, revision);
        if said.is_empty() {
            said = self.pass();
        }
        assert_eq!(said, [format!("audit 1 {}", self.watcher.asked)]);
        said.remove(0)
    }

    /// Loses lane 1 and resumes on lane 2, where the store is at this revision; what the open lane asks for.
    fn resumed(version: Version, revision: i64) -> (Self, Vec<String>) {
        let mut rig = Self::live(version);
        rig.give(failed(1, Step::Watch, BROKEN));
        rig.pass();
        rig.give(Input::Dialed(LaneId(2)));
        assert_eq!(rig.give(Input::Probed(LaneId(2), version, head(revision))), ["watch 2 from 11"]);
        rig.give(created(LaneId(2)));
        rig.give(created(LaneId(2)));
        let said = rig.give(created(LaneId(2)));
        (rig, said)
    }
}

fn number(asked: &str) -> u64 {
    asked.rsplit(' ').next().unwrap().parse().unwrap()
}

fn say(action: &Action) -> String {
    match action {
        Action::Dial(id, _) => format!("dial {}", id.0),
        Action::Authenticate(id) => format!("authenticate {}", id.0),
        Action::Probe(id) => format!("probe {}", id.0),
        Action::Glance(id, number) => format!("glance {} {number}", id.0),
        Action::Audit(id, number, None) => format!("audit {} {number}", id.0),
        Action::Audit(id, number, Some(since)) => format!("check since {since} {} {number}", id.0),
        Action::Page(id, page) => format!("page {} {}", id.0, page.scope.as_str()),
        Action::Watch(id, from) => format!("watch {} from {from}", id.0),
        Action::Progress(id) => format!("progress {}", id.0),
        Action::Close(id) => format!("close {}", id.0),
        Action::Tell(Event::Read { content, cause, .. }) => {
            let items: Vec<_> = content
                .items
                .iter()
                .map(|item| format!("{}={}", item.key, String::from_utf8_lossy(&item.value)))
                .collect();
            format!("read {cause:?} {} [{}]", content.revision, items.join(" "))
        }
        Action::Tell(Event::Changed { revision, changes, .. }) => {
            let changes: Vec<_> = changes.iter().map(|change| change.key.to_string()).collect();
            format!("changed {revision} [{}]", changes.join(" "))
        }
        Action::Tell(Event::Proven { revision, .. }) => format!("proven {revision}"),
        Action::Tell(Event::Faults { .. }) => unreachable!("only a directory has them"),
        Action::Tell(Event::Connected { .. }) => "connected".to_owned(),
        Action::Tell(Event::Disconnected { cause, .. }) => format!("lost {cause:?}"),
    }
}

fn head(revision: i64) -> Head {
    Head { cluster: 1, revision }
}

fn audit(revision: i64, newest: i64) -> Audit {
    ranges(revision, [Seen::default(), Seen { newest, count: 1, kept: 0 }, Seen::default()])
}

/// As [`audit`], and says what is left of revision 10 and before.
fn check(revision: i64, newest: i64) -> Audit {
    let kept = if newest <= 10 { newest } else { 0 };
    let service = Seen { newest, count: 1, kept };
    Audit { since: Some(10), ..ranges(revision, [Seen::default(), service, Seen::default()]) }
}

fn ranges(revision: i64, ranges: [Seen; 3]) -> Audit {
    Audit { head: head(revision), since: None, ranges }
}

fn page(items: &[Entry]) -> Page {
    Page { cluster: 1, items: items.to_vec(), more: false }
}

fn entry(scope: Scope, key: &str, value: Option<&str>, revision: i64) -> Entry {
    let value = value.map(|value| Bytes::copy_from_slice(value.as_bytes()));
    Entry { scope, key: Bytes::copy_from_slice(key.as_bytes()), value, revision }
}

fn created(id: LaneId) -> Input {
    Input::Message(id, Message { cluster: 1, revision: 10, created: true, ..Message::default() })
}

fn progress(id: LaneId, revision: i64) -> Input {
    Input::Message(id, Message { watch: -1, cluster: 1, revision, ..Message::default() })
}

fn changed(id: LaneId, watch: i64, entries: &[Entry]) -> Input {
    let revision = entries.last().unwrap().revision;
    Input::Message(
        id,
        Message { watch, cluster: 1, revision, changes: entries.to_vec(), ..Message::default() },
    )
}

fn failed(id: u64, step: Step, kind: FailureKind) -> Input {
    Input::Failed(LaneId(id), step, Failure { kind, text: "because".into() })
}

fn service(revision: i64) -> Entry {
    entry(Scope::Service, "orders/a", Some("2"), revision)
}

fn fleet(revision: i64) -> Entry {
    entry(Scope::Fleet, "_all/bypass", Some("on"), revision)
}

const BROKEN: FailureKind = FailureKind::Lost(Lost::Broken);
const LANE: LaneId = LaneId(1);
const NOTHING: [&str; 0] = [];

#[test]
fn the_first_attempt_is_jittered_and_well_before_anybody_loses_patience() {
    let (now, mut rng) = (Instant::now(), fastrand::Rng::with_seed(1));
    let mut starts = Vec::new();
    for _ in 0..100 {
        let watcher = Watcher::new(Settings::default(), vec!["a".into()], false, now, &mut rng);
        starts.push(watcher.deadline().unwrap() - now);
    }
    assert!(starts.iter().all(|start| *start < Duration::from_millis(500)));
    assert!(
        starts.iter().max().unwrap().saturating_sub(*starts.iter().min().unwrap())
            > Duration::from_millis(200)
    );
}

#[test]
fn a_change_is_told_when_progress_proves_it_and_the_proof_is_asked_for_at_once() {
    let mut rig = Rig::live(NEW);
    assert_eq!(rig.give(changed(LANE, 2, &[service(12)])), ["progress 1"]);
    assert_eq!(rig.give(progress(LANE, 11)), ["proven 11"], "an answer from before it");
    assert_eq!(rig.wait(Duration::from_millis(20)), ["progress 1"]);
    assert_eq!(rig.give(progress(LANE, 15)), ["changed 12 [orders/a]", "proven 15"]);
}

#[test]
fn a_revision_of_two_ranges_is_told_whole() {
    let mut rig = Rig::live(NEW);
    assert_eq!(rig.give(changed(LANE, 2, &[service(12)])), ["progress 1"]);
    assert_eq!(rig.give(changed(LANE, 1, &[fleet(12)])), NOTHING);
    assert_eq!(rig.give(progress(LANE, 12)), ["changed 12 [_all/bypass orders/a]", "proven 12"]);
}

#[test]
fn all_three_ranges_past_a_revision_are_a_proof() {
    let mut rig = Rig::live(NEW);
    rig.give(changed(LANE, 1, &[fleet(12)]));
    rig.give(changed(LANE, 2, &[service(12), service(14)]));
    let instance = entry(Scope::Instance, "orders@p/b", Some("x"), 13);
    assert_eq!(
        rig.give(changed(LANE, 3, &[instance])),
        ["changed 12 [_all/bypass orders/a]", "proven 12"],
        "the fleet's range is not known to be past 12"
    );
}

#[test]
fn fragments_wait_for_the_last_one() {
    let mut rig = Rig::live(NEW);
    let part = |fragment, key: &str| {
        let changes = vec![entry(Scope::Service, key, Some("x"), 12)];
        Input::Message(
            LANE,
            Message { watch: 2, cluster: 1, revision: 12, fragment, changes, ..Message::default() },
        )
    };
    rig.give(part(true, "orders/a"));
    rig.give(part(true, "orders/b"));
    rig.give(part(false, "orders/c"));
    assert_eq!(rig.give(progress(LANE, 12)), ["changed 12 [orders/a orders/b orders/c]", "proven 12"]);
}

#[test]
fn bursts_are_gathered_for_as_long_as_the_last_telling_is_recent() {
    let mut rig = Rig::live(NEW);
    rig.give(changed(LANE, 2, &[service(12)]));
    rig.give(progress(LANE, 12));
    assert_eq!(rig.give(changed(LANE, 2, &[service(13)])), NOTHING);
    assert_eq!(rig.wait(Duration::from_millis(19)), NOTHING);
    assert_eq!(rig.give(changed(LANE, 2, &[service(14)])), NOTHING);
    assert_eq!(rig.wait(Duration::from_millis(1)), ["progress 1"]);
    assert_eq!(rig.give(progress(LANE, 14)), ["changed 14 [orders/a orders/a]", "proven 14"]);
}

#[test]
fn an_old_server_is_audited_and_its_progress_is_no_proof() {
    let mut rig = Rig::live(OLD);
    let said = rig.give(changed(LANE, 2, &[service(12)]));
    assert!(said[0].starts_with("audit 1 "), "{said:?}");
    assert_eq!(rig.give(progress(LANE, 12)), NOTHING);
    // The audit knows of a change in the fleet's range that has not come yet.
    let written = Seen { newest: 12, count: 1, kept: 0 };
    let more = ranges(12, [written, written, Seen::default()]);
    assert_eq!(rig.audited(1, &said[0], more), NOTHING);
    assert_eq!(rig.give(changed(LANE, 1, &[fleet(12)])), ["changed 12 [_all/bypass orders/a]", "proven 12"]);
}

#[test]
fn deletions_are_audited_by_their_number() {
    let mut rig = Rig::live(OLD);
    let asked = rig.moved(20);
    let empty = ranges(20, [Seen::default(); 3]);
    assert_eq!(rig.audited(1, &asked, empty), NOTHING, "the deletion has not come");
    let gone = entry(Scope::Service, "orders/a", None, 15);
    assert_eq!(rig.give(changed(LANE, 2, &[gone])), ["changed 20 [orders/a]", "proven 20"]);
}

#[test]
fn an_idle_store_proves_itself_regularly_and_when_somebody_asks() {
    let mut rig = Rig::live(NEW);
    assert_eq!(rig.wait(Duration::from_secs(4)), ["progress 1"]);
    assert_eq!(rig.give(progress(LANE, 50)), ["proven 50"]);
    assert_eq!(rig.give(Input::Nudge), ["progress 1"]);
    assert_eq!(rig.give(Input::Nudge), NOTHING, "one at a time");
}

#[test]
fn a_lost_connection_is_resumed_after_what_was_proven() {
    let mut rig = Rig::live(NEW);
    rig.give(changed(LANE, 2, &[service(12)]));
    let said = rig.give(failed(1, Step::Watch, BROKEN));
    assert_eq!(said, ["close 1", "lost Broken"], "12 was not proven");
    assert_eq!(rig.pass(), ["dial 2"]);
    assert_eq!(rig.give(Input::Dialed(LaneId(2))), ["probe 2"]);
    assert_eq!(rig.give(Input::Probed(LaneId(2), NEW, head(12))), ["watch 2 from 11"]);
    rig.give(created(LaneId(2)));
    rig.give(created(LaneId(2)));
    assert_eq!(rig.give(created(LaneId(2))), ["progress 2"]);
    assert_eq!(rig.give(changed(LaneId(2), 2, &[service(12)])), NOTHING);
    let said = rig.give(progress(LaneId(2), 12));
    assert_eq!(said, ["check since 10 2 4"], "nothing is taken before it is known to be the same store");
    let said = rig.audited(2, &said[0], check(12, 12));
    assert_eq!(said, ["connected", "changed 12 [orders/a]", "proven 12"]);
}

#[test]
fn a_store_that_stood_still_meanwhile_is_known_without_counting() {
    for version in [NEW, OLD] {
        let (mut rig, said) = Rig::resumed(version, 10);
        let said = match said[0].as_str() {
            "progress 2" => rig.give(progress(LaneId(2), 10)),
            glance => rig.glanced(2, glance, 10),
        };
        assert_eq!(said, ["connected", "proven 10"]);
        // Another one may have come to the very same revision: that is looked at later.
        assert_eq!(rig.pass(), [format!("check since 10 2 {}", rig.watcher.asked)]);
    }
}

#[test]
fn what_moved_on_meanwhile_is_checked_and_not_by_all_at_once() {
    let mut waits = Vec::new();
    for seed in 0..20 {
        let mut rig = Rig::live(NEW);
        rig.rng = fastrand::Rng::with_seed(seed);
        rig.watcher.settings.per_key = Duration::from_secs(1);
        rig.give(failed(1, Step::Watch, BROKEN));
        rig.pass();
        rig.give(Input::Dialed(LaneId(2)));
        rig.give(Input::Probed(LaneId(2), NEW, head(500)));
        rig.give(created(LaneId(2)));
        rig.give(created(LaneId(2)));
        let (opened, said) = (rig.now, rig.give(created(LaneId(2))));
        assert_eq!(said, ["progress 2"]);
        assert_eq!(rig.give(progress(LaneId(2), 500)), NOTHING, "it may be another store");
        let said = rig.pass();
        assert_eq!(said, [format!("check since 10 2 {}", rig.watcher.asked)]);
        waits.push(rig.now - opened);
        assert_eq!(rig.audited(2, &said[0], check(500, 7)), ["connected", "proven 500"]);
        assert_eq!(rig.wait(Duration::from_secs(4)), ["progress 2"], "once is enough");
    }
    waits.sort();
    assert!(
        waits[19] <= Duration::from_secs(4) && waits[19] > waits[0] + Duration::from_secs(2),
        "{waits:?}"
    );
}

#[test]
fn another_cluster_and_an_older_store_are_read() {
    let other = Head { cluster: 2, ..head(10) };
    for (probed, cause) in [(other, ReadCause::NewCluster), (head(9), ReadCause::Regression)] {
        let mut rig = Rig::live(NEW);
        rig.give(failed(1, Step::Watch, BROKEN));
        rig.pass();
        rig.give(Input::Dialed(LaneId(2)));
        assert_eq!(rig.give(Input::Probed(LaneId(2), NEW, probed)), ["page 2 fleet"]);
        assert_eq!(rig.watcher.must_read, Some(cause));
    }
}

#[test]
fn what_is_compacted_is_read_unless_nothing_of_ours_was_in_it() {
    // `created` and `canceled` are both true.
    let refused = Message { created: true, canceled: true, compacted: 40, ..Message::default() };
    let mut rig = Rig::live(NEW);
    rig.compacted(refused.clone());
    rig.read(1, NEW, "Compaction");

    let (mut rig, _) = Rig::resumed(NEW, 500);
    let said = rig.give(Input::Message(LaneId(2), refused.clone()));
    assert_eq!(said, [format!("check since 10 2 {}", rig.watcher.asked)]);
    assert_eq!(rig.audited(2, &said[0], check(500, 7)), ["watch 2 from 501"]);

    let (mut rig, _) = Rig::resumed(OLD, 500);
    rig.now += Duration::from_secs(1);
    let said = rig.give(Input::Tick);
    assert_eq!(said, NOTHING, "the glance is still owed");
    let glance = format!("glance 2 {}", rig.watcher.asked);
    let said = rig.glanced(2, &glance, 500);
    assert_eq!(rig.audited(2, &said[0], check(500, 7)), ["connected", "proven 500"]);
    let said = rig.give(Input::Message(LaneId(2), refused.clone()));
    assert_eq!(said, ["watch 2 from 501"], "what was lost is proven by now");

    let (mut rig, _) = Rig::resumed(NEW, 500);
    let said = rig.give(Input::Message(LaneId(2), refused));
    assert_eq!(rig.audited(2, &said[0], check(500, 300)), ["probe 2"]);
    assert_eq!(rig.watcher.must_read, Some(ReadCause::Compaction));
}

#[test]
fn what_a_cluster_of_another_id_says_on_the_stream_is_not_taken() {
    let mut rig = Rig::live(NEW);
    let foreign = Message { watch: -1, cluster: 2, revision: 99, ..Message::default() };
    assert_eq!(rig.give(Input::Message(LANE, foreign)), ["probe 1"]);
    assert_eq!(rig.watcher.must_read, Some(ReadCause::NewCluster));
}

#[test]
fn a_store_that_was_restored_and_went_on_is_found_out() {
    let (mut rig, _) = Rig::resumed(NEW, 12);
    assert_eq!(rig.give(changed(LaneId(2), 1, &[fleet(12)])), NOTHING);
    let said = rig.give(progress(LaneId(2), 12));
    // The newest of ours that was there at revision 10 is 5: we know of 7.
    let written = Seen { newest: 12, count: 1, kept: 0 };
    let old = Seen { newest: 5, count: 1, kept: 5 };
    let restored = Audit { since: Some(10), ..ranges(12, [written, old, Seen::default()]) };
    assert_eq!(rig.audited(2, &said[0], restored), NOTHING, "what was told may still explain it");
    assert_eq!(rig.pass(), ["probe 2"], "nothing comes that would explain it");
    assert_eq!(rig.watcher.must_read, Some(ReadCause::Regression));
}

#[test]
fn a_stall_is_found_out_and_the_first_lane_is_kept_until_the_second_has_proven_itself() {
    let mut rig = Rig::live(NEW);
    assert_eq!(rig.wait(Duration::from_secs(4)), ["progress 1"]);
    let said = rig.wait(Duration::from_millis(1500));
    assert!(said[0].starts_with("glance 1 "), "perhaps only the progress is not answered: {said:?}");
    assert_eq!(said[1..], ["lost Stalled", "dial 2"]);
    assert_eq!(rig.give(Input::Dialed(LaneId(2))), ["probe 2"]);
    assert_eq!(rig.give(Input::Probed(LaneId(2), NEW, head(12))), ["watch 2 from 11"]);
    rig.give(created(LaneId(2)));
    rig.give(created(LaneId(2)));
    assert_eq!(rig.give(created(LaneId(2))), ["progress 2"]);
    rig.give(changed(LaneId(2), 2, &[service(12)]));
    let said = rig.give(progress(LaneId(2), 12));
    let said = rig.audited(2, &said[0], check(12, 12));
    assert_eq!(said, ["close 1", "connected", "changed 12 [orders/a]", "proven 12"]);
}

#[test]
fn a_lane_that_comes_back_ends_the_second_one() {
    let mut rig = Rig::live(NEW);
    rig.wait(Duration::from_secs(4));
    rig.wait(Duration::from_millis(1500));
    assert_eq!(rig.give(progress(LANE, 30)), ["close 2", "connected", "proven 30"]);
    assert_eq!(rig.wait(Duration::from_secs(2)), NOTHING);
}

#[test]
fn a_proxy_that_passes_no_progress_requests_on_is_audited_from_then_on() {
    let mut rig = Rig::live(NEW);
    rig.wait(Duration::from_secs(4));
    let said = rig.wait(Duration::from_millis(1500));
    let said = rig.glanced(1, &said[0], 30);
    assert_eq!(said, [format!("audit 1 {}", rig.watcher.asked)], "the store has moved on");
    assert_eq!(rig.audited(1, &said[0], audit(30, 7)), ["close 2", "connected", "proven 30"]);
    let said = rig.wait(Duration::from_secs(4));
    assert!(said[0].starts_with("glance 1 "), "{said:?}");
    assert_eq!(rig.glanced(1, &said[0], 30), ["proven 30"]);
}

#[test]
fn a_member_that_lags_behind_is_no_store_that_ran_backwards() {
    let mut rig = Rig::live(NEW);
    rig.give(progress(LANE, 40));
    rig.wait(Duration::from_secs(4));
    assert_eq!(rig.give(progress(LANE, 30)), NOTHING, "older than what is proven: no proof");
    let said = rig.wait(Duration::from_millis(1500));
    assert_eq!(said[1..], ["lost Stalled", "dial 2"], "another member is asked");
    assert_eq!(rig.watcher.must_read, None);
}

#[test]
fn an_audit_that_is_older_than_what_was_proven_before_it_is_a_regression() {
    let mut rig = Rig::live(OLD);
    let said = rig.moved(12);
    assert_eq!(rig.audited(1, &said, audit(5, 3)), ["probe 1"]);
    assert_eq!(rig.watcher.must_read, Some(ReadCause::Regression));
    let mut rig = Rig::live(OLD);
    let said = rig.wait(Duration::from_secs(4));
    assert_eq!(rig.glanced(1, &said[0], 5), ["probe 1"]);
    assert_eq!(rig.watcher.must_read, Some(ReadCause::Regression));
    // The answer to a question of before is not taken for one to a question of now.
    let mut rig = Rig::live(OLD);
    let old = rig.moved(30);
    rig.audited(1, &old, audit(30, 7));
    rig.wait(Duration::from_secs(4));
    assert_eq!(rig.audited(1, &old, audit(20, 7)), NOTHING);
    assert_eq!(rig.watcher.must_read, None);
}

#[test]
fn audits_that_only_time_asks_for_are_as_far_apart_as_there_are_keys() {
    let mut rig = Rig::live(OLD);
    rig.watcher.settings.per_key = Duration::from_secs(5);
    let said = rig.moved(30);
    assert_eq!(rig.audited(1, &said, audit(30, 7)), ["proven 30"]);
    let done = rig.now;
    let glance = rig.pass();
    assert!(rig.now - done <= Duration::from_secs(4));
    assert_eq!(rig.glanced(1, &glance[0], 40), NOTHING);
    let said = rig.pass();
    assert!(said[0].starts_with("audit 1 "), "{said:?}");
    assert_eq!(rig.now - done, Duration::from_secs(20));
    // What somebody waits for is asked for at once.
    rig.audited(1, &said[0], audit(40, 7));
    let said = rig.give(changed(LANE, 2, &[service(50)]));
    assert!(said[0].starts_with("audit 1 "), "{said:?}");
}

#[test]
fn an_expired_token_is_renewed_on_the_same_lane_and_the_step_done_again() {
    let mut rig = Rig::new(1, true);
    rig.pass();
    assert_eq!(rig.give(Input::Dialed(LANE)), ["authenticate 1"]);
    assert_eq!(rig.give(Input::Authenticated(LANE)), ["probe 1"]);
    rig.read(1, OLD, "Start");
    rig.opened(1);
    let said = rig.wait(Duration::from_secs(4));
    assert_eq!(rig.give(failed(1, Step::Audit, FailureKind::Token)), ["authenticate 1"]);
    assert_eq!(rig.give(Input::Authenticated(LANE)), said);
    // Refused again at once: this is not about the token. The stream is kept while another lane is tried.
    assert_eq!(rig.give(failed(1, Step::Audit, FailureKind::Token)), ["lost Auth", "dial 2"]);
}

#[test]
fn a_watch_that_is_refused_for_its_token_is_opened_again() {
    let mut rig = Rig::new(1, true);
    rig.pass();
    rig.give(Input::Dialed(LANE));
    rig.give(Input::Authenticated(LANE));
    rig.read(1, NEW, "Start");
    rig.now += Duration::from_secs(1);
    let fault = Some(Failure { kind: FailureKind::Token, text: "permission denied".into() });
    let refused = Message { created: true, canceled: true, fault, ..Message::default() };
    assert_eq!(rig.give(Input::Message(LANE, refused.clone())), ["authenticate 1"]);
    assert_eq!(rig.give(Input::Authenticated(LANE)), ["watch 1 from 11"]);
    assert_eq!(rig.give(Input::Message(LANE, refused)), ["close 1", "lost Auth"]);
}

#[test]
fn a_wrong_password_is_tried_again_after_a_pause() {
    let mut rig = Rig::new(1, true);
    rig.pass();
    rig.give(Input::Dialed(LANE));
    let wrong = failed(1, Step::Authenticate, FailureKind::Lost(Lost::Auth));
    assert_eq!(rig.give(wrong), ["close 1", "lost Auth"]);
    assert_eq!(rig.pass(), ["dial 2"]);
}

#[test]
fn members_are_taken_in_turn_and_pauses_grow() {
    let mut rig = Rig::new(3, false);
    let mut members = Vec::new();
    let mut pauses = Vec::new();
    for lane in 1..=40 {
        let before = rig.now;
        rig.now = rig.watcher.deadline().unwrap();
        pauses.push(rig.now - before);
        let actions = rig.watcher.handle(Input::Tick, rig.now, &mut rig.rng);
        let Action::Dial(_, member) = actions[0] else { panic!("{actions:?}") };
        members.push(member);
        rig.give(failed(lane, Step::Dial, FailureKind::Lost(Lost::Connect)));
    }
    for three in members.chunks_exact(3) {
        assert_eq!(three.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{members:?}");
    }
    assert!(pauses.iter().all(|pause| *pause <= Duration::from_secs(4)));
    assert!(pauses[10..].iter().sum::<Duration>() > Duration::from_secs(30), "{pauses:?}");
}

#[test]
fn a_connection_and_a_call_have_bounds_of_their_own() {
    let mut rig = Rig::new(1, false);
    rig.watcher.settings.connect_timeout = Duration::from_secs(1);
    rig.watcher.settings.call_timeout = Duration::from_secs(5);
    assert_eq!(rig.pass(), ["dial 1"]);
    assert!(rig.wait(Duration::from_millis(999)).is_empty());
    assert_eq!(rig.wait(Duration::from_millis(1)), ["close 1", "lost Connect"]);
    assert_eq!(rig.pass(), ["dial 2"]);
    assert_eq!(rig.give(Input::Dialed(LaneId(2))), ["probe 2"]);
    assert!(rig.wait(Duration::from_millis(4999)).is_empty());
    assert_eq!(rig.wait(Duration::from_millis(1)), ["close 2", "lost Stalled"]);
}

#[test]
fn every_step_that_is_not_answered_is_given_up() {
    let steps: [(&str, &[Input]); 4] = [
        ("Connect", &[]),
        ("Stalled", &[Input::Dialed(LANE)]),
        ("Stalled", &[Input::Dialed(LANE), Input::Probed(LANE, NEW, head(10))]),
        (
            "Stalled",
            &[
                Input::Dialed(LANE),
                Input::Probed(LANE, NEW, head(10)),
                Input::Page(LANE, page(&[])),
                Input::Page(LANE, page(&[])),
                Input::Page(LANE, page(&[])),
            ],
        ),
    ];
    for (lost, inputs) in steps {
        let mut rig = Rig::new(1, false);
        rig.pass();
        for input in inputs {
            rig.give(input.clone());
        }
        assert_eq!(rig.pass(), ["close 1".to_owned(), format!("lost {lost}")], "{inputs:?}");
    }
}

#[test]
fn pages_are_read_one_by_one_and_smaller_where_they_are_too_large() {
    let mut rig = Rig::new(1, false);
    rig.pass();
    rig.give(Input::Dialed(LANE));
    rig.give(Input::Probed(LANE, NEW, head(10)));
    let mut limits = Vec::new();
    let too_large = failed(1, Step::Page, FailureKind::TooLarge);
    loop {
        let actions = rig.watcher.handle(too_large.clone(), rig.now, &mut rig.rng);
        let Action::Page(_, request) = &actions[0] else { break };
        limits.push((request.limit, request.keys_only));
    }
    assert_eq!(limits, [(62, false), (7, false), (1, false), (1, true)]);

    let mut rig = Rig::new(1, false);
    rig.pass();
    rig.give(Input::Dialed(LANE));
    rig.give(Input::Probed(LANE, NEW, head(10)));
    let items = [entry(Scope::Fleet, "_all/a", Some("1"), 3)];
    let more = Page { more: true, ..page(&items) };
    let actions = rig.watcher.handle(Input::Page(LANE, more), rig.now, &mut rig.rng);
    let Action::Page(_, request) = &actions[0] else { panic!("{actions:?}") };
    assert_eq!((request.from.as_deref(), request.revision), (Some(&b"_all/a\0"[..]), 10));
}

#[test]
fn full_reads_have_a_budget() {
    let mut rig = Rig::live(NEW);
    let compacted = Message { canceled: true, compacted: 40, ..Message::default() };
    for _ in 0..2 {
        rig.compacted(compacted.clone());
        rig.read(1, NEW, "Compaction");
    }
    rig.compacted(compacted);
    assert_eq!(rig.give(Input::Probed(LANE, NEW, head(10))), NOTHING, "it waits, and stays connected");
    let before = rig.now;
    assert_eq!(rig.pass(), ["probe 1"]);
    assert!(rig.now - before > Duration::from_secs(15));
    rig.read(1, NEW, "Compaction");
}

#[test]
fn a_scope_of_too_many_keys_is_not_taken() {
    let mut rig = Rig::new(1, false);
    rig.watcher.settings.max_keys = 3;
    rig.pass();
    rig.give(Input::Dialed(LANE));
    rig.give(Input::Probed(LANE, NEW, head(10)));
    let items: Vec<_> = (0..4).map(|n| entry(Scope::Fleet, &format!("_all/{n}"), Some("1"), 3)).collect();
    assert_eq!(rig.give(Input::Page(LANE, page(&items))), ["close 1", "lost Protocol"]);
}

#[test]
fn what_is_too_long_is_cut_and_what_is_too_much_is_told_empty() {
    let mut rig = Rig::new(1, false);
    rig.watcher.settings.max_bytes = 2 * MAX_VALUE_BYTES;
    rig.pass();
    rig.give(Input::Dialed(LANE));
    rig.give(Input::Probed(LANE, NEW, head(10)));
    let long = "x".repeat(MAX_VALUE_BYTES * 2);
    let items: Vec<_> = (0..3).map(|n| entry(Scope::Fleet, &format!("_all/{n}"), Some(&long), 3)).collect();
    rig.give(Input::Page(LANE, page(&items)));
    rig.give(Input::Page(LANE, page(&[])));
    let actions = rig.watcher.handle(Input::Page(LANE, page(&[])), rig.now, &mut rig.rng);
    let read = actions.iter().find_map(|action| match action {
        Action::Tell(Event::Read { content, .. }) => Some(content),
        _ => None,
    });
    let lengths: Vec<_> = read.unwrap().items.iter().map(|item| item.value.len()).collect();
    assert_eq!(lengths, [MAX_VALUE_BYTES + 1, 0, 0]);
}

#[test]
fn a_message_that_is_too_large_leads_to_a_read_and_not_to_a_circle() {
    let mut rig = Rig::live(NEW);
    assert_eq!(rig.give(failed(1, Step::Watch, FailureKind::TooLarge)), ["probe 1"]);
    rig.read(1, NEW, "Lost");
}

#[test]
fn what_comes_for_a_lane_that_is_gone_is_nothing() {
    let mut rig = Rig::live(NEW);
    rig.give(failed(1, Step::Watch, BROKEN));
    for input in [
        Input::Dialed(LANE),
        Input::Authenticated(LANE),
        Input::Probed(LANE, NEW, head(99)),
        Input::Audited(LANE, 1, audit(99, 99)),
        Input::Glanced(LANE, 1, head(99)),
        Input::Page(LANE, page(&[])),
        changed(LANE, 2, &[service(99)]),
        progress(LANE, 99),
        failed(1, Step::Audit, BROKEN),
    ] {
        assert_eq!(rig.give(input), NOTHING);
    }
}
