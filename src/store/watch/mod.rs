//! How a watch on etcd is kept: a state machine that is told what happened and says what to do.
//!
//! It knows no sockets and no clock: [`Watcher::handle`] takes an [`Input`], the time and a source of randomness, and
//! returns [`Action`]s. So compaction, cancellation, a stall and a store that runs backwards are plain tests.
//!
//! A *lane* is one connection to one member. Its life: dial, authenticate, probe (which store is this, and how far is
//! it?), read everything where that must be, open the watch, live. What another lane had proven is gone on from, but
//! nothing that was written since is taken before an audit has shown that this is the same store's history. There is one lane, and a second one while the first
//! is under suspicion; the first is dropped when the second has proven itself, never before.
//!
//! Three watches share a stream, one for each scope, and each tells its own part of a revision. So a revision is
//! complete only when all three are known to be past it. That is *proven* in one of three ways:
//! - all three have told something at or after it;
//! - the stream's progress says so, on servers whose progress can be trusted;
//! - an [`Audit`] agrees with what came: see there; or the store's revision is the proven one, so that nothing at all has
//!   been written.
//!
//! What is told is complete to a proven revision, and the watch resumes after it. Everything is read again only when
//! what we have not seen is compacted, the store is another one or ran backwards, or the watch was refused.

mod known;
mod lane;
mod live;
mod proof;
mod timing;
mod words;

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;

use std::time::Instant;

pub use known::MAX_VALUE_BYTES;
use known::{Known, Next, Reading};
use lane::{Lane, Phase, Proofs, Unchecked};
pub use timing::Settings;
use timing::{Backoff, Budget, part};
pub use words::{
    Action, Audit, Entry, Failure, FailureKind, Head, Input, LaneId, Message, Page, PageRequest, Seen, Step,
    Version,
};

use super::{Event, Lost, ReadCause};

/// The supervisor of a watch.
#[derive(Debug)]
pub struct Watcher {
    settings: Settings,
    /// The members as they are configured, for messages.
    endpoints: Vec<String>,
    /// Whether there is a user to authenticate.
    has_user: bool,
    /// The order in which members are tried.
    order: Vec<usize>,
    cursor: usize,
    lanes: u64,
    asked: u64,
    main: Option<Lane>,
    spare: Option<Lane>,
    /// When to dial next: the main lane where there is none, else the spare.
    dial_at: Option<Instant>,
    backoff: Backoff,
    budget: Budget,
    known: Option<Known>,
    /// Why everything has to be read, when it has to.
    must_read: Option<ReadCause>,
    /// Which member was told to be connected.
    announced: Option<usize>,
    last_told: Option<Instant>,
    out: Vec<Action>,
}

impl Watcher {
    /// A watch on the store with these members, which is not connected yet. `has_user`: each connection begins with an
    /// authentication.
    pub fn new(
        settings: Settings,
        endpoints: Vec<String>,
        has_user: bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Self {
        let mut order: Vec<usize> = (0..endpoints.len()).collect();
        rng.shuffle(&mut order);
        Self {
            budget: Budget::new(&settings),
            dial_at: Some(now + part(settings.first_jitter, rng)),
            settings,
            endpoints,
            has_user,
            order,
            cursor: 0,
            lanes: 0,
            asked: 0,
            main: None,
            spare: None,
            backoff: Backoff::default(),
            known: None,
            must_read: None,
            announced: None,
            last_told: None,
            out: Vec::new(),
        }
    }

    /// Takes what happened, and says what to do, in order.
    pub fn handle(&mut self, input: Input, now: Instant, rng: &mut fastrand::Rng) -> Vec<Action> {
        match input {
            Input::Dialed(id) => {
                self.with(id, |this, lane| this.dialed(lane, now));
            }
            Input::Authenticated(id) => {
                self.with(id, |this, lane| this.authenticated(lane, now));
            }
            Input::Probed(id, version, head) => {
                self.with(id, |this, lane| this.probed(lane, version, head, now));
            }
            Input::Glanced(id, number, head) => {
                self.with(id, |this, lane| this.glanced(lane, number, head, now, rng));
            }
            Input::Audited(id, number, audit) => {
                self.with(id, |this, lane| this.audited(lane, number, audit, now, rng));
            }
            Input::Page(id, page) => {
                if let Some(failure) = self.with(id, |this, lane| this.page(lane, page, now)).flatten() {
                    self.lose(id, &failure, now, rng);
                }
            }
            Input::Message(id, message) => {
                if let Some(failure) =
                    self.with(id, |this, lane| this.message(lane, message, now, rng)).flatten()
                {
                    self.lose(id, &failure, now, rng);
                }
            }
            Input::Failed(id, step, failure) => self.failed(id, step, &failure, now, rng),
            Input::Nudge => {
                if let Some(lane) = &mut self.main {
                    lane.next_proof = now;
                }
            }
            Input::Tick => {}
        }
        self.on_time(now, rng);
        std::mem::take(&mut self.out)
    }

    /// When [`Input::Tick`] is due, if nothing else happens before.
    pub fn deadline(&self) -> Option<Instant> {
        let lanes = [&self.main, &self.spare].into_iter().flatten();
        lanes.filter_map(Lane::deadline).chain(self.dial_at).min()
    }

    /// Calls `f` with the lane of this id, taken out of its place; it is put back where it was, or where it belongs
    /// after `f` has made it the main one.
    fn with<T>(&mut self, id: LaneId, f: impl FnOnce(&mut Self, &mut Lane) -> T) -> Option<T> {
        let is = |lane: &Option<Lane>| lane.as_ref().is_some_and(|lane| lane.id == id);
        if is(&self.main) {
            let mut lane = self.main.take()?;
            let result = f(self, &mut lane);
            self.main = Some(lane);
            Some(result)
        } else if is(&self.spare) {
            let mut lane = self.spare.take()?;
            let result = f(self, &mut lane);
            // It has proven itself when nothing is in the first place any more.
            *(if self.main.is_some() { &mut self.spare } else { &mut self.main }) = Some(lane);
            Some(result)
        } else {
            None
        }
    }

    fn say(&mut self, action: Action) {
        self.out.push(action);
    }

    fn tell(&mut self, event: Event) {
        self.say(Action::Tell(event));
    }

    fn proven(&self) -> i64 {
        self.known.as_ref().map_or(0, |known| known.proven)
    }

    fn on_time(&mut self, now: Instant, rng: &mut fastrand::Rng) {
        for id in
            [&self.main, &self.spare].map(|lane| lane.as_ref().map(|lane| lane.id)).into_iter().flatten()
        {
            if let Some(failure) = self.with(id, |this, lane| this.lane_time(lane, now)).flatten() {
                self.lose(id, &failure, now, rng);
            }
        }
        let suspicious = self.main.as_ref().is_none_or(|lane| lane.suspicious);
        if !suspicious {
            self.dial_at = None;
        } else if self.main.is_none() || self.spare.is_none() {
            let at = *self.dial_at.get_or_insert(now);
            if at <= now {
                self.dial(now);
            }
        }
    }

    fn dial(&mut self, now: Instant) {
        self.dial_at = None;
        let taken = self.main.as_ref().map(|lane| lane.member);
        let mut member = None;
        for _ in 0..self.order.len() {
            member = self.order.get(self.cursor % self.order.len()).copied();
            self.cursor = self.cursor.wrapping_add(1);
            // The spare lane goes to another member, where there is one.
            if member != taken {
                break;
            }
        }
        let Some(member) = member else { return };
        self.lanes += 1;
        let lane = Lane::new(LaneId(self.lanes), member, now, &self.settings);
        self.say(Action::Dial(lane.id, member));
        *(if self.main.is_none() { &mut self.main } else { &mut self.spare }) = Some(lane);
    }

    fn dialed(&mut self, lane: &mut Lane, now: Instant) {
        if matches!(lane.phase, Phase::Dialing) {
            self.probe(lane, now);
        }
    }

    fn probe(&mut self, lane: &mut Lane, now: Instant) {
        lane.reset();
        lane.phase = Phase::Probing;
        lane.until = now + self.settings.call_timeout;
        lane.unchecked = None;
        lane.probed_at = self.proven();
        if self.has_user && lane.authenticated.is_none() {
            lane.redo = Some(Step::Probe);
            lane.authenticated = Some(now);
            self.say(Action::Authenticate(lane.id));
        } else {
            self.say(Action::Probe(lane.id));
        }
    }

    /// Reads everything on this lane, from the beginning.
    fn restart(&mut self, lane: &mut Lane, cause: ReadCause, now: Instant) {
        self.must_read = Some(cause);
        self.probe(lane, now);
    }

    fn authenticated(&mut self, lane: &mut Lane, now: Instant) {
        if !lane.is_live() {
            lane.until = now + self.settings.call_timeout;
        }
        match (lane.redo.take(), &lane.phase) {
            (Some(Step::Probe), _) => self.say(Action::Probe(lane.id)),
            (Some(Step::Audit), Phase::Live | Phase::Checking) => {
                if let Some(ask) = lane.ask {
                    self.ask_again(lane, ask);
                }
            }
            (Some(Step::Page), Phase::Reading(reading)) => {
                let request = reading.request();
                self.say(Action::Page(lane.id, request));
            }
            (Some(Step::Watch), _) => self.open(lane, now),
            _ => {}
        }
    }

    fn probed(&mut self, lane: &mut Lane, version: Version, head: Head, now: Instant) {
        if !matches!(lane.phase, Phase::Probing) {
            return;
        }
        lane.proofs = if self.settings.trust_progress { Proofs::Progress } else { Proofs::of(version) };
        let cause = match &self.known {
            None => Some(ReadCause::Start),
            Some(known) if known.cluster != head.cluster => Some(ReadCause::NewCluster),
            Some(_) if head.revision < lane.probed_at => Some(ReadCause::Regression),
            Some(_) => self.must_read,
        };
        if let Some(cause) = cause {
            return self.begin_read(lane, cause, head, now);
        }
        lane.unchecked = Some(Unchecked { since: lane.probed_at, due: now });
        self.open(lane, now);
    }

    fn begin_read(&mut self, lane: &mut Lane, cause: ReadCause, head: Head, now: Instant) {
        self.must_read = Some(cause);
        if let Err(at) = self.budget.take(&self.settings, now) {
            lane.phase = Phase::Waiting;
            lane.until = at;
            return;
        }
        let reading = Reading::new(cause, head.cluster, head.revision, &self.settings);
        let request = reading.request();
        lane.phase = Phase::Reading(Box::new(reading));
        lane.until = now + self.settings.page_timeout;
        self.say(Action::Page(lane.id, request));
    }

    fn page(&mut self, lane: &mut Lane, page: Page, now: Instant) -> Option<Failure> {
        let Phase::Reading(reading) = &mut lane.phase else { return None };
        if page.cluster != reading.cluster {
            self.restart(lane, ReadCause::NewCluster, now);
            return None;
        }
        lane.until = now + self.settings.page_timeout;
        match reading.take(page, &self.settings) {
            Next::Page => {
                let request = reading.request();
                self.say(Action::Page(lane.id, request));
            }
            Next::TooMany(scope) => {
                let text = format!(
                    "{}: the {} scope has more than {} keys: nothing of it is taken",
                    self.endpoint(lane),
                    scope.as_str(),
                    self.settings.max_keys
                );
                return Some(Failure { kind: FailureKind::Lost(Lost::Protocol), text });
            }
            Next::Done => {
                let Phase::Reading(reading) = std::mem::replace(&mut lane.phase, Phase::Opening) else {
                    return None;
                };
                self.finish_read(lane, *reading, now);
            }
        }
        None
    }

    fn finish_read(&mut self, lane: &mut Lane, reading: Reading, now: Instant) {
        let (cause, cluster, revision) = (reading.cause, reading.cluster, reading.revision);
        let (known, items) = reading.finish();
        self.known = Some(known);
        self.must_read = None;
        self.announce(lane);
        let content = super::Content { cluster, revision, items };
        self.tell(Event::Read { content, cause, at: now });
        // What another lane holds was seen by a store that is no more.
        self.settle_on(lane);
        lane.unchecked = None;
        self.open(lane, now);
    }

    /// Opens the watch after what is proven.
    fn open(&mut self, lane: &mut Lane, now: Instant) {
        lane.reset();
        lane.phase = Phase::Opening;
        lane.until = now + self.settings.call_timeout;
        lane.from = self.proven() + 1;
        self.say(Action::Watch(lane.id, lane.from));
    }

    fn endpoint(&self, lane: &Lane) -> String {
        self.endpoints.get(lane.member).cloned().unwrap_or_default()
    }

    fn announce(&mut self, lane: &Lane) {
        if self.announced != Some(lane.member) {
            self.announced = Some(lane.member);
            let endpoint = self.endpoint(lane);
            self.tell(Event::Connected { endpoint });
        }
    }

    /// This lane (which is taken out of its place) is the one: any other is dropped.
    fn settle_on(&mut self, _lane: &Lane) {
        for other in [self.main.take(), self.spare.take()].into_iter().flatten() {
            self.say(Action::Close(other.id));
        }
        self.dial_at = None;
    }
}
