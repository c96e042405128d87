//! A lane that is open: messages, proofs, and what goes wrong.

use std::time::Instant;

use super::{
    Watcher,
    lane::{Asked, Lane, Phase, Proofs},
    timing::part,
    words::{Action, Failure, FailureKind, LaneId, Message, Step},
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
            self.created(lane, now, rng);
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

    fn created(&mut self, lane: &mut Lane, now: Instant, rng: &mut fastrand::Rng) {
        lane.created = lane.created.saturating_add(1);
        if lane.created == 3 && matches!(lane.phase, Phase::Opening) {
            lane.phase = Phase::Live;
            lane.next_proof = now;
            let spread = self.spread();
            if let Some(unchecked) = &mut lane.unchecked {
                // When a store comes back all instances come to it together.
                unchecked.due = now + part(spread, rng);
            }
        }
    }

    fn canceled(&mut self, lane: &mut Lane, message: Message, now: Instant) -> Option<Failure> {
        if message.compacted != 0 {
            self.compacted(lane, message.compacted, now);
            return None;
        }
        let failure = message.fault.unwrap_or_else(|| Failure {
            kind: FailureKind::Lost(Lost::Broken),
            text: format!("{}: the watch was ended without a reason", self.endpoint(lane)),
        });
        match failure.kind {
            FailureKind::Compacted => self.compacted(lane, 0, now),
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

    /// What is due on a lane; a failure ends it.
    pub(super) fn lane_time(&mut self, lane: &mut Lane, now: Instant) -> Option<Failure> {
        if !lane.is_live() {
            return self.phase_time(lane, now);
        }
        if let Some(target) = lane.target.take_if(|target| target.until <= now) {
            if lane.unchecked.is_some() {
                let ahead = self.known.as_ref().is_some_and(|known| known.is_ahead_of(&target.audit));
                let cause = if ahead { ReadCause::Regression } else { ReadCause::Lost };
                // What the store holds cannot come of what we know and what it tells.
                self.restart(lane, cause, now);
                return None;
            }
            self.suspect(lane, now);
        }
        if lane.is_overdue(now) {
            if let Some(ask) = &mut lane.ask {
                ask.overdue = true;
            }
            if let Some(ask) = lane.ask.filter(|ask| ask.what == Asked::Progress) {
                self.ask_again(lane, ask);
            }
            self.suspect(lane, now);
        }
        if lane.wants_proof(now) {
            lane.settle = None;
            let what = match lane.unchecked {
                Some(unchecked) if unchecked.due <= now || !lane.pending.is_empty() => {
                    Asked::Check(unchecked.since)
                }
                _ if lane.proofs == Proofs::Progress => Asked::Progress,
                _ if lane.pending.is_empty() && !lane.moved => Asked::Glance,
                _ => Asked::Count,
            };
            self.ask(lane, what, now);
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
            Phase::Probing | Phase::Checking | Phase::Reading(_) => (Lost::Stalled, "no answer"),
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
                self.compacted(lane, 0, now);
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
                if let Some(unchecked) = &mut lane.unchecked {
                    unchecked.due = unchecked.due.max(lane.next_proof);
                }
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
