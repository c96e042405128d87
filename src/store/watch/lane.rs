//! One connection to one member, and how far it has come.

use std::time::{Duration, Instant};

use super::{
    known::{Pending, Reading},
    timing::Settings,
    words::{Audit, LaneId, Step, Version},
};

/// How a lane proves that nothing is missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Proofs {
    /// By progress requests on the stream, which cost the server next to nothing.
    Progress,
    /// By an [`Audit`] compared with what came. Works with every server and through every proxy.
    Audit,
}

impl Proofs {
    /// Progress answers of older servers may overtake changes (etcd issue 15220), or not come at all on a quiet stream
    /// (issue 17507); there they prove nothing. A server that does not name its version is treated as such a one.
    pub(super) fn of(version: Version) -> Self {
        match version {
            (3, 4, patch) if patch >= 31 => Self::Progress,
            (3, 5, patch) if patch >= 13 => Self::Progress,
            (major, minor, _) if (major, minor) >= (3, 6) => Self::Progress,
            _ => Self::Audit,
        }
    }
}

/// How far a lane has come.
#[derive(Debug)]
pub(super) enum Phase {
    Dialing,
    Probing,
    /// Too many full reads in too short a time: waits for its turn.
    Waiting,
    Reading(Box<Reading>),
    /// The watch could not be resumed, since what is next is compacted: perhaps nothing of ours was in it.
    Checking,
    Opening,
    Live,
}

/// A proof that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask {
    /// Answers to an earlier one are not taken for this one's.
    pub number: u64,
    pub what: Asked,
    pub at: Instant,
    /// How long it may be owed.
    pub patience: Duration,
    /// What had been proven then: a linearizable answer that is older comes from a store that ran backwards.
    pub proven: i64,
    /// It took too long.
    pub overdue: bool,
}

/// What was asked for as a proof.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// The stream's progress.
    Progress,
    /// The store's revision alone: when it is what was proven, nothing has been written at all.
    Glance,
    /// An [`Audit`].
    Count,
    /// An [`Audit`] that says too what is left of what was known at a revision.
    Check(i64),
}

/// What was resumed may be another store with the same id: one that was restored from a backup and has gone on. Until
/// an audit has agreed with what is known, nothing that was written since counts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Unchecked {
    /// What had been proven before.
    pub since: i64,
    /// When the audit is due where nothing else wants it.
    pub due: Instant,
}

/// An audit that changes on their way may still fulfil.
#[derive(Debug)]
pub(super) struct Target {
    pub audit: Audit,
    pub until: Instant,
}

#[derive(Debug)]
pub(super) struct Lane {
    pub id: LaneId,
    pub member: usize,
    pub phase: Phase,
    /// When this phase has taken too long; or, waiting, when it ends.
    pub until: Instant,
    pub proofs: Proofs,
    pub pending: Pending,
    /// The revision from which on the watches were opened.
    pub from: i64,
    /// How many of the three watches are open.
    pub created: u8,
    pub ask: Option<Ask>,
    pub target: Option<Target>,
    /// When the next proof is to be asked for, whatever happens.
    pub next_proof: Instant,
    /// When the changes that came are to be settled by a proof.
    pub settle: Option<Instant>,
    /// When the first of the pending changes came.
    pub first: Option<Instant>,
    /// A proof is owed for too long.
    pub suspicious: bool,
    /// It goes on from what another connection had proven, and that has not been looked at yet.
    pub unchecked: Option<Unchecked>,
    /// The store has moved on since the last proof, so that a glance says nothing.
    pub moved: bool,
    /// When there may be an audit that nothing but time asks for.
    pub count_at: Instant,
    pub authenticated: Option<Instant>,
    /// What to do again when there is a new token.
    pub redo: Option<Step>,
    /// What had been proven when the probe was sent, or the check.
    pub probed_at: i64,
}

impl Lane {
    pub(super) fn new(id: LaneId, member: usize, now: Instant, settings: &Settings) -> Self {
        Self {
            id,
            member,
            phase: Phase::Dialing,
            until: now + settings.connect_timeout,
            proofs: Proofs::Audit,
            pending: Pending::default(),
            from: 0,
            created: 0,
            ask: None,
            target: None,
            next_proof: now,
            settle: None,
            first: None,
            suspicious: false,
            unchecked: None,
            moved: false,
            count_at: now,
            authenticated: None,
            redo: None,
            probed_at: 0,
        }
    }

    /// Forgets what belongs to a stream, before another one is opened.
    pub(super) fn reset(&mut self) {
        self.pending = Pending::default();
        self.created = 0;
        self.ask = None;
        self.target = None;
        self.settle = None;
        self.first = None;
        self.moved = false;
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Live)
    }

    /// Whether a proof is owed now.
    pub(super) fn wants_proof(&self, now: Instant) -> bool {
        self.is_live() && self.ask.is_none() && self.target.is_none() && self.proof_time() <= now
    }

    fn proof_time(&self) -> Instant {
        let due = self.unchecked.map(|unchecked| unchecked.due);
        [self.settle, due].into_iter().flatten().fold(self.next_proof, Instant::min)
    }

    /// Whether what was asked for is owed for too long now; only the first time.
    pub(super) fn is_overdue(&self, now: Instant) -> bool {
        self.is_live() && self.ask.is_some_and(|ask| !ask.overdue && ask.at + ask.patience <= now)
    }

    /// When there is something to do without any input.
    pub(super) fn deadline(&self) -> Option<Instant> {
        if !self.is_live() {
            return Some(self.until);
        }
        let asked = self.ask.filter(|ask| !ask.overdue).map(|ask| ask.at + ask.patience);
        let target = self.target.as_ref().map(|target| target.until);
        let proof = (self.ask.is_none() && self.target.is_none()).then(|| self.proof_time());
        [asked, target, proof].into_iter().flatten().min()
    }
}
