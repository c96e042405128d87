//! A lane that is open: messages, proofs, and what goes wrong.

use std::time::Instant;

use super::{
    Watcher,
    known::change,
    lane::{Ask, Lane, Phase, Proofs, Target},
    words::{Action, Audit, Failure, FailureKind, LaneId, Message, Step},
};
use crate::store::{Event, Lost, ReadCause};

impl Watcher {
    /// Takes a message of the stream; a failure ends the lane.
    pub(super) fn message(
        &mut self,
        lane: &mut Lane,
        message: Message,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Failure> {
        if !matches!(lane.phase, Phase::Opening | Phase::Live) {
            return None;
        }
        // `created` may be set on a watch that was refused: look at this first.
        if message.canceled || message.compacted != 0 {
            return self.canceled(lane, message, now);
        }
        if message.cluster != 0 && self.known.as_ref().is_some_and(|known| known.cluster != message.cluster) {
            self.restart(lane, ReadCause::NewCluster, now);
            return None;
        }
        if message.created {
            self.created(lane, now);
        }
        if message.changes.is_empty() && !message.fragment {
            if !message.created {
                self.progress(lane, message.watch, message.revision, now, rng);
            }
            return None;
        }
        lane.first.get_or_insert(now);
        lane.pending.take(message.watch, message.fragment, message.changes);
        if lane.pending.is_too_much() {
            // Something changes faster than it can be proven: reading what there is takes less than what was.
            self.restart(lane, ReadCause::Lost, now);
            return None;
        }
        self.arrived(lane, now, rng);
        None
    }

    fn created(&mut self, lane: &mut Lane, now: Instant) {
        lane.created = lane.created.saturating_add(1);
        if lane.created == 3 && matches!(lane.phase, Phase::Opening) {
            lane.phase = Phase::Live;
            lane.next_proof = now;
            if let Some(target) = &mut lane.target {
                target.until = now + self.settings.proof_timeout;
            }
        }
    }

    /// Changes came: perhaps they complete something; if not, they want a proof.
    fn arrived(&mut self, lane: &mut Lane, now: Instant, rng: &mut fastrand::Rng) {
        if !lane.is_live() {
            return;
        }
        let shown = lane.pending.shown();
        if lane.target.is_none() && shown > self.proven() {
            self.prove(lane, shown, now, rng);
        }
        self.aim(lane, now, rng);
        if !lane.pending.is_empty() && lane.settle.is_none() {
            let gathered = self.last_told.map_or(now, |told| told + self.settings.gather);
            lane.settle = Some(gathered.max(now));
        }
    }

    /// The stream says how far it is.
    fn progress(
        &mut self,
        lane: &mut Lane,
        watch: i64,
        revision: i64,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        // An answer for all watches has the id -1; one for a single watch says nothing of the others. A member that
        // lags behind what is proven proves nothing: it still owes the answer.
        let trusted = lane.proofs == Proofs::Progress && lane.target.is_none();
        if watch == -1 && lane.is_live() && trusted && revision >= self.proven() {
            self.prove(lane, revision, now, rng);
        }
    }

    fn canceled(&mut self, lane: &mut Lane, message: Message, now: Instant) -> Option<Failure> {
        if message.compacted != 0 {
            self.restart(lane, ReadCause::Compaction, now);
            return None;
        }
        let failure = message.fault.unwrap_or_else(|| Failure {
            kind: FailureKind::Lost(Lost::Broken),
            text: format!("{}: the watch was ended without a reason", self.endpoint(lane)),
        });
        match failure.kind {
            FailureKind::Compacted => self.restart(lane, ReadCause::Compaction, now),
            FailureKind::Token => return self.reauthenticate(lane, Step::Watch, failure, now),
            FailureKind::TooLarge => self.restart(lane, ReadCause::Lost, now),
            FailureKind::Lost(Lost::Auth | Lost::Leader) => return Some(failure),
            FailureKind::Lost(_) => {
                // Whatever it does not like about our revision: it is not asked for it again.
                self.must_read = Some(ReadCause::Lost);
                return Some(failure);
            }
        }
        None
    }

    /// Gets a new token and does the step again; a failure when there was a new one just now.
    fn reauthenticate(
        &mut self,
        lane: &mut Lane,
        step: Step,
        failure: Failure,
        now: Instant,
    ) -> Option<Failure> {
        let recent =
            lane.authenticated.is_some_and(|at| now.duration_since(at) < self.settings.auth_interval);
        if !self.has_user || recent || step == Step::Authenticate {
            return Some(Failure { kind: FailureKind::Lost(Lost::Auth), ..failure });
        }
        lane.authenticated = Some(now);
        lane.redo = Some(step);
        if !lane.is_live() {
            lane.until = now + self.settings.call_timeout;
        }
        self.say(Action::Authenticate(lane.id));
        None
    }

    pub(super) fn audited(
        &mut self,
        lane: &mut Lane,
        number: u64,
        audit: Audit,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        let Some(ask) = lane.ask.take_if(|ask| ask.number == number) else { return };
        if self.known.as_ref().is_some_and(|known| known.cluster != audit.cluster) {
            return self.restart(lane, ReadCause::NewCluster, now);
        }
        // It was read after `ask.proven` had been, and linearizably: no member that lags behind can have answered.
        if audit.revision < ask.proven {
            return self.restart(lane, ReadCause::Regression, now);
        }
        if ask.overdue {
            // The stream did not answer and the store does: a proxy that does not pass progress requests on.
            lane.proofs = Proofs::Audit;
        }
        lane.target = Some(Target { audit, until: now + self.settings.proof_timeout });
        self.aim(lane, now, rng);
    }

    /// Looks whether what came fulfils the audit.
    fn aim(&mut self, lane: &mut Lane, now: Instant, rng: &mut fastrand::Rng) {
        let Some(target) = &lane.target else { return };
        let revision = target.audit.revision;
        if revision < self.proven() {
            // Proven in another way in the meantime.
            lane.target = None;
            lane.next_proof = lane.next_proof.min(now);
        } else if let Some(known) = &self.known
            && known.complete(&lane.pending.scopes, &target.audit)
        {
            self.prove(lane, revision, now, rng);
        }
    }

    /// All changes up to `revision` have come on this lane.
    fn prove(&mut self, lane: &mut Lane, revision: i64, now: Instant, rng: &mut fastrand::Rng) {
        let Some(known) = &mut self.known else { return };
        let changes = lane.pending.split(known.proven, revision);
        known.apply(&changes);
        known.proven = known.proven.max(revision);
        let (proven, largest) = (known.proven, known.largest());
        self.settle_on(lane);
        self.announce(lane);
        if let Some(last) = changes.last() {
            let (revision, at) = (last.revision, lane.first.unwrap_or(now));
            self.last_told = Some(now);
            self.tell(Event::Changed { revision, changes: changes.into_iter().map(change).collect(), at });
        }
        self.tell(Event::Proven { revision: proven, at: now });
        self.backoff.reset();
        lane.ask = None;
        lane.target.take_if(|target| target.audit.revision <= proven);
        (lane.suspicious, lane.fresh) = (false, false);
        // Not all instances at once.
        let interval = self.settings.proof_interval;
        lane.next_proof = now + interval.mul_f64(0.75 + rng.f64() / 4.0);
        let waiting = !lane.pending.is_empty();
        lane.first = waiting.then_some(now);
        lane.settle = waiting.then(|| now + self.settings.gather);
        if largest > self.settings.max_keys {
            // The read will say so.
            self.restart(lane, ReadCause::Lost, now);
        }
    }

    /// What is due on a lane; a failure ends it.
    pub(super) fn lane_time(&mut self, lane: &mut Lane, now: Instant) -> Option<Failure> {
        if !lane.is_live() {
            return self.phase_time(lane, now);
        }
        if let Some(target) = lane.target.take_if(|target| target.until <= now) {
            if lane.fresh {
                let ahead = self.known.as_ref().is_some_and(|known| known.is_ahead_of(&target.audit));
                let cause = if ahead { ReadCause::Regression } else { ReadCause::Lost };
                // What the store holds cannot come of what we know and what it tells.
                self.restart(lane, cause, now);
                return None;
            }
            self.suspect(lane, now);
        }
        if lane.is_overdue(now, self.settings.proof_timeout) {
            if let Some(ask) = &mut lane.ask {
                ask.overdue = true;
            }
            if lane.proofs == Proofs::Progress {
                let number = lane.ask.map_or(0, |ask| ask.number);
                self.say(Action::Audit(lane.id, number));
            }
            self.suspect(lane, now);
        }
        if lane.wants_proof(now) {
            lane.settle = None;
            self.asked += 1;
            lane.ask = Some(Ask { number: self.asked, at: now, proven: self.proven(), overdue: false });
            self.say(match lane.proofs {
                Proofs::Progress => Action::Progress(lane.id),
                Proofs::Audit => Action::Audit(lane.id, self.asked),
            });
        }
        None
    }

    fn phase_time(&mut self, lane: &mut Lane, now: Instant) -> Option<Failure> {
        if lane.until > now {
            return None;
        }
        let (lost, what) = match lane.phase {
            Phase::Waiting => {
                self.probe(lane, now);
                return None;
            }
            Phase::Dialing => (Lost::Connect, "no connection"),
            Phase::Probing | Phase::Reading(_) => (Lost::Stalled, "no answer"),
            Phase::Opening | Phase::Live => (Lost::Stalled, "the watch was not opened"),
        };
        let text = format!("{}: {what} in time", self.endpoint(lane));
        Some(Failure { kind: FailureKind::Lost(lost), text })
    }

    /// A proof is owed for too long: another member is asked, and this one kept until that one has proven itself.
    fn suspect(&mut self, lane: &mut Lane, now: Instant) {
        let endpoint = self.endpoint(lane);
        if !std::mem::replace(&mut lane.suspicious, true) {
            self.dial_at.get_or_insert(now);
            self.disconnected(
                lane.member,
                Lost::Stalled,
                format!("{endpoint}: has not proven in time that nothing is missing"),
            );
        }
        lane.next_proof = lane.next_proof.max(now + self.settings.proof_timeout);
    }

    fn disconnected(&mut self, member: usize, cause: Lost, error: String) {
        self.announced.take_if(|announced| *announced == member);
        self.tell(Event::Disconnected { cause, error });
    }

    pub(super) fn failed(
        &mut self,
        id: LaneId,
        step: Step,
        failure: &Failure,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        let lost = self.with(id, |this, lane| this.step_failed(lane, step, failure, now)).flatten();
        if let Some(failure) = lost {
            self.lose(id, &failure, now, rng);
        }
    }

    fn step_failed(
        &mut self,
        lane: &mut Lane,
        step: Step,
        failure: &Failure,
        now: Instant,
    ) -> Option<Failure> {
        match (failure.kind, step) {
            (FailureKind::Token, _) => {
                let failure = self.reauthenticate(lane, step, failure.clone(), now)?;
                self.step_failed(lane, step, &failure, now)
            }
            (FailureKind::Compacted, Step::Watch) => {
                self.restart(lane, ReadCause::Compaction, now);
                None
            }
            (FailureKind::Compacted, Step::Page) => {
                let cause = self.must_read.unwrap_or(ReadCause::Compaction);
                self.restart(lane, cause, now);
                None
            }
            (FailureKind::TooLarge, Step::Watch) => {
                self.restart(lane, ReadCause::Lost, now);
                None
            }
            (FailureKind::TooLarge, Step::Page) => {
                if let Phase::Reading(reading) = &mut lane.phase
                    && reading.shrink()
                {
                    let request = reading.request();
                    self.say(Action::Page(lane.id, request));
                    return None;
                }
                Some(failure.clone())
            }
            // The stream is there, so it may still bring what changes.
            (FailureKind::Lost(cause), Step::Audit | Step::Authenticate) if lane.is_live() => {
                lane.ask = None;
                lane.redo = None;
                lane.next_proof = now + self.settings.proof_timeout;
                if !std::mem::replace(&mut lane.suspicious, true) {
                    self.dial_at.get_or_insert(now);
                    self.disconnected(lane.member, cause, failure.text.clone());
                }
                None
            }
            _ => Some(failure.clone()),
        }
    }

    /// Drops a lane, and tries another one after a pause.
    pub(super) fn lose(&mut self, id: LaneId, failure: &Failure, now: Instant, rng: &mut fastrand::Rng) {
        let is = |lane: &mut Lane| lane.id == id;
        let Some(lane) = self.main.take_if(is).or_else(|| self.spare.take_if(is)) else { return };
        if self.main.is_none() {
            self.main = self.spare.take();
        }
        self.say(Action::Close(id));
        let cause = match failure.kind {
            FailureKind::Lost(lost) => lost,
            FailureKind::Token => Lost::Auth,
            FailureKind::Compacted | FailureKind::TooLarge => Lost::Protocol,
        };
        self.disconnected(lane.member, cause, failure.text.clone());
        self.dial_at = Some(now + self.backoff.next(&self.settings, rng));
    }
}
