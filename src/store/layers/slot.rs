//! One key: what the store holds there, what was good last, and which of them is in force.

use std::sync::Arc;

use jiff::Timestamp;

use super::document::Doc;
use crate::store::key::{KeyError, Scope, Subject};

/// One key.
#[derive(Debug)]
pub(super) struct Slot {
    /// Its scope.
    pub(super) scope: Scope,
    /// What it stands for.
    pub(super) subject: Result<Subject, KeyError>,
    /// What the store holds; `None` when the key was deleted.
    pub(super) current: Option<Arc<Doc>>,
    /// When it was deleted.
    pub(super) deleted: i64,
    /// What was in force last.
    pub(super) good: Option<Arc<Doc>>,
    /// Which of them is in force.
    pub(super) choice: Choice,
    /// Why what the store holds is not.
    pub(super) refusal: Option<Refusal>,
    /// The refusal before the present attempt.
    pub(super) before: Option<Refusal>,
    /// The scope has too many keys, and this is one of those that are too many.
    pub(super) surplus: bool,
}

/// What of a key is in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Choice {
    /// What the store holds.
    Current,
    /// What was good last.
    Good,
    /// Nothing.
    Nothing,
}

/// Why a key is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    /// The revision that is refused.
    pub(super) revision: i64,
    /// Since when.
    pub(super) since: Timestamp,
    /// Why, for people.
    pub(super) reason: Arc<str>,
}

impl Slot {
    /// A key that was never seen.
    pub(super) fn new(scope: Scope, subject: Result<Subject, KeyError>) -> Self {
        Self {
            scope,
            subject,
            current: None,
            deleted: 0,
            good: None,
            choice: Choice::Current,
            refusal: None,
            before: None,
            surplus: false,
        }
    }

    /// The revision of what the store says: the value's, or the deletion's.
    pub(super) fn revision(&self) -> i64 {
        self.current.as_ref().map_or(self.deleted, |doc| doc.revision)
    }

    /// What is in force under `choice`.
    pub(super) fn doc(&self, choice: Choice, now: Timestamp) -> Option<&Arc<Doc>> {
        let doc = match choice {
            Choice::Current => self.current.as_ref(),
            Choice::Good => self.good.as_ref(),
            Choice::Nothing => None,
        };
        doc.filter(|doc| doc.is_good() && !doc.is_over(now))
    }

    /// What an attempt begins with.
    pub(super) fn first_choice(&self, now: Timestamp) -> Choice {
        let bad = self.surplus || self.current.as_ref().is_some_and(|doc| !doc.is_good());
        match (bad, self.doc(Choice::Good, now)) {
            (false, _) => Choice::Current,
            (true, Some(_)) => Choice::Good,
            (true, None) => Choice::Nothing,
        }
    }

    /// What comes after `choice` when that is refused; `None` when nothing is left that could be.
    pub(super) fn after(&self, choice: Choice, now: Timestamp) -> Option<Choice> {
        match choice {
            Choice::Current => {
                let over = self.current.as_ref().is_some_and(|doc| doc.is_over(now));
                let other = match (&self.current, &self.good) {
                    (Some(current), Some(good)) => !Arc::ptr_eq(current, good),
                    (None, Some(_)) => true,
                    (_, None) => false,
                };
                match (over, other && self.doc(Choice::Good, now).is_some()) {
                    (true, _) => None,
                    (false, true) => Some(Choice::Good),
                    (false, false) => self.current.as_ref().map(|_| Choice::Nothing),
                }
            }
            Choice::Good => Some(Choice::Nothing),
            Choice::Nothing => None,
        }
    }

    /// How new what is in force under `choice` is.
    pub(super) fn age(&self, choice: Choice) -> i64 {
        match choice {
            Choice::Current => self.revision(),
            Choice::Good | Choice::Nothing => self.good.as_ref().map_or(0, |doc| doc.revision),
        }
    }

    /// Notes why what the store says is refused. The first reason of an attempt stays, and the time of a refusal that
    /// goes on.
    pub(super) fn refuse(&mut self, reason: &str, now: Timestamp) {
        if self.refusal.is_none() {
            let revision = self.revision();
            let before = self.before.as_ref().filter(|before| before.revision == revision);
            let since = before.map_or(now, |before| before.since);
            self.refusal = Some(Refusal { revision, since, reason: Arc::from(reason) });
        }
    }
}
