//! What the guard says of what it does.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;

use super::{Held, Why};
use crate::store::key::Scope;

/// What is held of one scope, for one reason, since one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holding {
    /// The scope.
    pub scope: Scope,
    /// Why.
    pub why: Why,
    /// The revision that a confirmation must reach.
    pub revision: i64,
    /// Since when.
    pub since: Timestamp,
    /// The keys, in order.
    pub keys: Vec<Arc<str>>,
}

/// Something worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Note {
    /// Keys are held from now on.
    Held {
        /// Their scope.
        scope: Scope,
        /// How many.
        keys: usize,
        /// The revision that a confirmation must reach.
        revision: i64,
        /// Why.
        why: Why,
    },
    /// A put released a held key.
    Released {
        /// The key.
        key: Arc<str>,
    },
    /// A confirmation came.
    Confirmed {
        /// Whose `confirm` key.
        scope: Scope,
        /// Up to which revision.
        revision: i64,
        /// How many keys it released; 0 = what it confirms is older than what is held, or nothing was.
        keys: usize,
    },
    /// A confirmation came that does nothing.
    ConfirmIgnored {
        /// Whose `confirm` key.
        scope: Scope,
        /// Why.
        why: String,
    },
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { scope, keys, revision, why } => {
                let cause = match why {
                    Why::MassDelete => "more than half of the scope's overlays were deleted at once",
                    Why::Empty => "the store came back empty",
                    Why::Older => "the store came back at an older revision",
                    Why::OtherCluster => "the store came back as another cluster",
                };
                write!(
                    f,
                    "{cause}: {keys} keys of the {} are held at revision {revision}; what was last good goes on until \
                     `weir policy confirm`",
                    scope.as_str()
                )
            }
            Self::Released { key } => write!(f, "{key} was written anew and is held no longer"),
            Self::Confirmed { scope, revision, keys } => write!(
                f,
                "the {}'s confirmation up to revision {revision} released {keys} keys",
                scope.as_str()
            ),
            Self::ConfirmIgnored { scope, why } => {
                write!(f, "the {}'s confirmation does nothing: {why}", scope.as_str())
            }
        }
    }
}

/// Groups what is held.
pub(super) fn holdings(
    held: &BTreeMap<Arc<str>, Held>,
    scope: impl Fn(&str) -> Option<Scope>,
) -> Vec<Holding> {
    let mut groups: BTreeMap<(Scope, Why, i64), Holding> = BTreeMap::new();
    for (key, held) in held {
        let Some(scope) = scope(key) else { continue };
        let group = groups.entry((scope, held.why, held.revision)).or_insert_with(|| Holding {
            scope,
            why: held.why,
            revision: held.revision,
            since: held.since,
            keys: Vec::new(),
        });
        group.since = group.since.min(held.since);
        group.keys.push(Arc::clone(key));
    }
    groups.into_values().collect()
}

/// Notes what is held now and was not before, or for another reason.
pub(super) fn newly_held<'m>(
    before: &BTreeMap<Arc<str>, Held>,
    after: &'m BTreeMap<Arc<str>, Held>,
    locate: impl Fn(&'m str) -> Option<(Scope, &'m str)>,
    notes: &mut Vec<Note>,
) {
    let mut counts: BTreeMap<(Scope, Why, i64), usize> = BTreeMap::new();
    for (key, held) in after {
        let known = before.get(key).is_some_and(|known| known.why == held.why);
        if let (Some((scope, _)), false) = (locate(key), known) {
            *counts.entry((scope, held.why, held.revision)).or_default() += 1;
        }
    }
    let held = counts.into_iter();
    notes.extend(held.map(|((scope, why, revision), keys)| Note::Held { scope, keys, revision, why }));
}
