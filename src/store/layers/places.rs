//! Where live documents are from: numbers that nodes carry, and what stands behind them.

use std::sync::Arc;

use crate::config::{Place, node::SourceId};

/// Numbers for live documents; one that is given back is used again.
#[derive(Debug, Default)]
pub(super) struct Places {
    list: Vec<Option<Arc<Place>>>,
    free: Vec<u32>,
}

impl Places {
    /// A number that nothing else has.
    pub(super) fn take(&mut self) -> SourceId {
        if let Some(index) = self.free.pop() {
            return SourceId::live(index);
        }
        self.list.push(None);
        SourceId::live(u32::try_from(self.list.len() - 1).unwrap_or(u32::MAX))
    }

    /// Says what a number stands for.
    pub(super) fn set(&mut self, id: SourceId, place: Place) {
        if let Some(slot) = id.as_live().and_then(|index| self.list.get_mut(index)) {
            *slot = Some(Arc::new(place));
        }
    }

    /// Gives a number back.
    pub(super) fn give_back(&mut self, id: SourceId) {
        let Some(index) = id.as_live() else { return };
        if let Some(slot) = self.list.get_mut(index)
            && slot.take().is_some()
            && let Ok(index) = u32::try_from(index)
        {
            self.free.push(index);
        }
    }

    /// What a number stands for.
    pub(super) fn get(&self, id: SourceId) -> Option<&Arc<Place>> {
        self.list.get(id.as_live()?)?.as_ref()
    }

    /// All of them, by number.
    pub(super) fn list(&self) -> Vec<Option<Arc<Place>>> {
        self.list.clone()
    }
}
