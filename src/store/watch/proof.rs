//! Proofs: how a lane comes to know that nothing is missing, and what is told then.

use std::time::{Duration, Instant};

use super::{
    Watcher,
    known::{Known, change},
    lane::{Ask, Asked, Lane, Phase, Proofs, Target},
    words::{Action, Audit, Head},
};
use crate::store::{Event, ReadCause};

/// Audits that nothing but time asks for are not put off for longer.
const LONGEST_SPREAD: Duration = Duration::from_mins(1);

impl Watcher {
    /// Changes came: perhaps they complete something; if not, they want a proof.
    pub(super) fn arrived(&mut self, lane: &mut Lane, now: Instant, rng: &mut fastrand::Rng) {
        if !lane.is_live() {
            return;
        }
        let shown = lane.pending.shown();
        if lane.target.is_none() && lane.unchecked.is_none() && shown > self.proven() {
            self.prove(lane, shown, None, now, rng);
        }
        self.aim(lane, now, rng);
        if !lane.pending.is_empty() && lane.settle.is_none() {
            let gathered = self.last_told.map_or(now, |told| told + self.settings.gather);
            lane.settle = Some(gathered.max(now));
        }
    }

    /// The stream says how far it is.
    pub(super) fn progress(
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
            self.shown_at(lane, revision, now, rng);
        }
    }

    /// The stream has told everything up to this revision.
    pub(super) fn shown_at(&mut self, lane: &mut Lane, revision: i64, now: Instant, rng: &mut fastrand::Rng) {
        match lane.unchecked {
            // Something was written since: by the store that we know, or by another one.
            Some(unchecked) if revision != unchecked.since || !lane.pending.is_empty() => {
                lane.ask.take_if(|ask| ask.what == Asked::Progress);
                lane.moved = true;
                lane.next_proof = unchecked.due.max(now);
            }
            _ => self.prove(lane, revision, None, now, rng),
        }
    }

    /// Asks for a proof.
    pub(super) fn ask(&mut self, lane: &mut Lane, what: Asked, now: Instant) {
        self.asked += 1;
        let mut patience = self.settings.proof_timeout;
        if matches!(what, Asked::Count | Asked::Check(_)) {
            patience += self.audit_time();
        }
        let ask = Ask { number: self.asked, what, at: now, patience, proven: self.proven(), overdue: false };
        lane.ask = Some(ask);
        self.ask_again(lane, ask);
    }

    pub(super) fn ask_again(&mut self, lane: &Lane, ask: Ask) {
        self.say(match ask.what {
            Asked::Progress if ask.overdue => Action::Glance(lane.id, ask.number),
            Asked::Progress => Action::Progress(lane.id),
            Asked::Glance => Action::Glance(lane.id, ask.number),
            Asked::Count => Action::Audit(lane.id, ask.number, None),
            Asked::Check(since) => Action::Audit(lane.id, ask.number, Some(since)),
        });
    }

    /// The store's revision: when it is the proven one, nothing at all has been written since.
    pub(super) fn glanced(
        &mut self,
        lane: &mut Lane,
        number: u64,
        head: Head,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        let Some(ask) = lane.ask.take_if(|ask| ask.number == number) else { return };
        if self.is_another(lane, ask, head, now) {
            return;
        }
        if head.revision == self.proven() && lane.pending.is_empty() {
            return self.prove(lane, head.revision, None, now, rng);
        }
        lane.moved = true;
        let due = lane.unchecked.map_or(lane.count_at, |unchecked| unchecked.due);
        lane.next_proof = if ask.overdue { now } else { due.max(now) };
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
        if self.is_another(lane, ask, audit.head, now) {
            return;
        }
        lane.count_at = now + self.spread();
        if matches!(lane.phase, Phase::Checking) {
            let complete =
                self.known.as_ref().is_some_and(|known| known.complete(&lane.pending.scopes, &audit));
            if !complete {
                return self.restart(lane, ReadCause::Compaction, now);
            }
            // Nothing of ours has changed in between: that it is compacted does not matter.
            if let Some(known) = &mut self.known {
                known.proven = known.proven.max(audit.head.revision);
            }
            lane.unchecked = None;
            return self.open(lane, now);
        }
        lane.target = Some(Target { audit, until: now + self.settings.proof_timeout });
        self.aim(lane, now, rng);
    }

    /// Whether an answer comes from another store than the known one, or from one that ran backwards: then it is read.
    pub(super) fn is_another(&mut self, lane: &mut Lane, ask: Ask, head: Head, now: Instant) -> bool {
        let cause = if self.known.as_ref().is_some_and(|known| known.cluster != head.cluster) {
            ReadCause::NewCluster
        } else if head.revision < ask.proven {
            // It was read after `ask.proven` had been, and linearizably: no member that lags behind can have answered.
            ReadCause::Regression
        } else {
            if ask.overdue && ask.what == Asked::Progress {
                // The stream did not answer and the store does: a proxy that does not pass progress requests on.
                lane.proofs = Proofs::Audit;
            }
            return false;
        };
        self.restart(lane, cause, now);
        true
    }

    /// Looks whether what came fulfils the audit.
    pub(super) fn aim(&mut self, lane: &mut Lane, now: Instant, rng: &mut fastrand::Rng) {
        let Some(target) = &lane.target else { return };
        let revision = target.audit.head.revision;
        if revision < self.proven() {
            // Proven in another way in the meantime.
            lane.target = None;
            lane.next_proof = lane.next_proof.min(now);
        } else if let Some(known) = &self.known
            && known.complete(&lane.pending.scopes, &target.audit)
        {
            if target.audit.since.is_some() {
                lane.unchecked = None;
            }
            // What came and went unseen is in no audit: this is the state at its revision, and perhaps at none before.
            self.prove(lane, revision, Some(revision), now, rng);
        }
    }

    /// All changes up to `revision` have come on this lane. They are told as the state at `as_of`, or else at the last
    /// of them.
    pub(super) fn prove(
        &mut self,
        lane: &mut Lane,
        revision: i64,
        as_of: Option<i64>,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) {
        let Some(known) = &mut self.known else { return };
        let changes = lane.pending.split(known.proven, revision);
        known.apply(&changes);
        known.proven = known.proven.max(revision);
        let (proven, largest) = (known.proven, known.largest());
        self.settle_on(lane);
        self.announce(lane);
        if let Some(last) = changes.last() {
            let (revision, at) = (as_of.unwrap_or(last.revision), lane.first.unwrap_or(now));
            self.last_told = Some(now);
            self.tell(Event::Changed { revision, changes: changes.into_iter().map(change).collect(), at });
        }
        self.tell(Event::Proven { revision: proven, at: now });
        self.backoff.reset();
        lane.ask = None;
        lane.target.take_if(|target| target.audit.head.revision <= proven);
        (lane.suspicious, lane.moved) = (false, false);
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

    /// What the watch wants to tell next is compacted, up to `revision` (0 = it was not said): perhaps that was proven
    /// meanwhile, or nothing of ours was in it.
    pub(super) fn compacted(&mut self, lane: &mut Lane, revision: i64, now: Instant) {
        if revision > 0 && (lane.from..=self.proven()).contains(&revision) {
            return self.open(lane, now);
        }
        let since = lane.unchecked.map_or(self.proven(), |unchecked| unchecked.since);
        lane.reset();
        lane.phase = Phase::Checking;
        lane.until = now + self.settings.call_timeout + self.audit_time();
        self.ask(lane, Asked::Check(since), now);
    }

    /// Over what time the audits of all instances are spread, and how far those of one are apart that nothing but time asks
    /// for.
    pub(super) fn spread(&self) -> Duration {
        (self.audit_time() * 4).min(LONGEST_SPREAD)
    }

    /// What an audit may take the store.
    pub(super) fn audit_time(&self) -> Duration {
        let keys = self.known.as_ref().map_or(0, Known::count);
        self.settings.per_key.saturating_mul(u32::try_from(keys).unwrap_or(u32::MAX))
    }
}
