//! Which overlay is refused when several together are wrong.

use std::sync::Arc;

use super::{Id, Layers, merge::Over, slot::Choice};
use crate::config::Kind;

/// What is refused: for each key what is in force of it instead.
pub(super) type Steps = Vec<(Arc<str>, Choice)>;

impl Layers {
    /// The keys that have a say in a resource: its overlays, and those of the plans that change it.
    pub(super) fn involved(&self, id: &Id) -> Vec<Arc<str>> {
        let plans = self.patches.get(id).into_iter().flat_map(|plans| plans.keys());
        let plans = plans.map(|plan| (Kind::Plan, plan.clone()));
        let ids = std::iter::once(id.clone()).chain(plans);
        ids.flat_map(|id| {
            self.overlays.get(&id).into_iter().flatten().map(|(_, key)| Arc::clone(key)).collect::<Vec<_>>()
        })
        .collect()
    }

    /// The fewest refusals among `keys`, the newest first, after which `valid` holds; `None` when there are none.
    ///
    /// First each alone: an overlay that is wrong by itself does not take newer ones with it. Then more and more of
    /// them together, and back again what did not have to go, the oldest first.
    pub(super) fn blame(&self, keys: &[Arc<str>], valid: &dyn Fn(&Over) -> bool) -> Option<Steps> {
        let mut newest: Vec<_> =
            keys.iter().filter_map(|key| Some((self.steps(key)?, Arc::clone(key)))).collect();
        newest.sort_by(|a, b| (b.0.0, &b.1).cmp(&(a.0.0, &a.1)));
        newest.dedup_by(|a, b| a.1 == b.1);
        for ((_, steps), key) in &newest {
            for step in steps {
                let over = Over::from([(Arc::clone(key), *step)]);
                if valid(&over) {
                    return Some(over.into_iter().collect());
                }
            }
        }
        let mut over = Over::new();
        let all = newest.iter().flat_map(|((_, steps), key)| steps.iter().map(move |step| (key, *step)));
        let mut holds = false;
        for (key, step) in all {
            over.insert(Arc::clone(key), step);
            holds = valid(&over);
            if holds {
                break;
            }
        }
        if !holds {
            return None;
        }
        for (_, key) in newest.iter().rev() {
            if let Some(step) = over.remove(key)
                && !valid(&over)
            {
                over.insert(Arc::clone(key), step);
            }
        }
        Some(over.into_iter().collect())
    }

    /// How new a key is, and what could be in force instead, one after the other.
    fn steps(&self, key: &Arc<str>) -> Option<(i64, Vec<Choice>)> {
        let slot = self.slots.get(key)?;
        let next = |choice: &Choice| slot.after(*choice, self.clock);
        let steps: Vec<_> = std::iter::successors(next(&slot.choice), next).collect();
        (!steps.is_empty()).then(|| (slot.age(slot.choice), steps))
    }
}
