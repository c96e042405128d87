//! What depends on a change is made anew, until nothing is wrong any more.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use super::{Id, Layers, Refused, World, blame::Steps, install::Cell, merge::Over, slot::Choice};
use crate::config::{
    Fault, Kind, Severity,
    live::{self, Facts, NoSuch, Reference},
};

/// With more references than this that lead nowhere, what was meant is not guessed any more.
const MOST_GUESSES: usize = 20;

/// The work of one change.
pub(super) struct Run<'a> {
    pub(super) facts: &'a Facts<'a>,
    /// What is to be made; plans come first.
    todo: BTreeSet<(bool, Id)>,
    /// What was made, or will be.
    pub(super) seen: BTreeSet<Id>,
    /// What has appeared or gone.
    pub(super) toggled: BTreeSet<Id>,
    /// Whose references have to be looked at.
    pub(super) unchecked: BTreeSet<Id>,
    /// What was wrong together.
    involved: BTreeMap<Id, BTreeSet<Id>>,
    /// What could not be made to fit at all.
    lost: BTreeSet<Id>,
    guesses: usize,
}

impl Run<'_> {
    fn again(&mut self, id: Id) {
        self.seen.insert(id.clone());
        self.todo.insert((id.0 != Kind::Plan, id));
    }

    pub(super) fn together(&mut self, ids: &BTreeSet<Id>) {
        for id in ids {
            self.involved.entry(id.clone()).or_default().extend(ids.iter().cloned());
        }
    }
}

impl Layers {
    /// Makes `dirty` anew, with all that it concerns.
    pub(super) fn settle(&mut self, mut dirty: BTreeSet<Id>, world: World<'_>) {
        self.add_trouble(&mut dirty);
        let listeners = Arc::clone(&self.baseline.listeners);
        let facts = self.facts(&listeners, world);
        let mut run = Run {
            facts: &facts,
            todo: BTreeSet::new(),
            seen: BTreeSet::new(),
            toggled: BTreeSet::new(),
            unchecked: BTreeSet::new(),
            involved: BTreeMap::new(),
            lost: BTreeSet::new(),
            guesses: 0,
        };
        for id in dirty {
            self.mark(id, &mut run);
        }
        loop {
            while let Some((_, id)) = run.todo.pop_first() {
                self.settle_one(&id, &mut run);
            }
            if !self.check_references(&mut run) && !self.check_circles(&mut run) {
                break;
            }
        }
        self.finish(&run);
    }

    /// Adds what is refused and depends on what is dirty: it is tried again.
    fn add_trouble(&self, dirty: &mut BTreeSet<Id>) {
        loop {
            let concerned = self
                .trouble
                .iter()
                .filter(|(id, on)| !dirty.contains(*id) && on.iter().any(|other| dirty.contains(other)));
            let concerned: Vec<_> = concerned.map(|(id, _)| id.clone()).collect();
            if concerned.is_empty() {
                return;
            }
            dirty.extend(concerned);
        }
    }

    /// Has a resource made anew, all its overlays as the store holds them.
    pub(super) fn mark(&mut self, id: Id, run: &mut Run<'_>) {
        if !run.seen.contains(&id) {
            for key in self.keys_of(&id) {
                if let Some(slot) = self.slots.get_mut(&key) {
                    slot.before = slot.refusal.take();
                    slot.choice = slot.first_choice(self.clock);
                }
                self.refuse_bad(&key);
            }
            self.orphans.remove(&id);
        }
        run.again(id);
    }

    /// The keys of a resource, its endpoints too.
    fn keys_of(&self, id: &Id) -> Vec<Arc<str>> {
        let endpoints = self.endpoints.get(&id.1).filter(|_| id.0 == Kind::Upstream);
        let keys = self.overlays.get(id).into_iter().chain(endpoints).flatten();
        keys.map(|(_, key)| Arc::clone(key)).collect()
    }

    /// Says why a value that cannot be read, or is one too many, is refused.
    pub(super) fn refuse_bad(&mut self, key: &Arc<str>) {
        let Some(slot) = self.slots.get(key) else { return };
        let Some(doc) = slot.current.as_ref().filter(|doc| slot.surplus || !doc.is_good()) else { return };
        let reason = if slot.surplus {
            format!(
                "the scope has more than {} keys; this one has no room until others are deleted",
                super::MAX_KEYS
            )
        } else {
            doc.errors().next().map(|fault| self.explain(fault, doc.source)).unwrap_or_default()
        };
        let clock = self.clock;
        if let Some(slot) = self.slots.get_mut(key) {
            slot.refuse(&reason, clock);
        }
    }

    fn settle_one(&mut self, id: &Id, run: &mut Run<'_>) {
        if run.lost.contains(id) {
            return;
        }
        let (node, masked) = self.merged(id, &Over::new());
        let Some(node) = node else { return self.uninstall(id, run) };
        let fault = match live::effective(id, &node, run.facts) {
            Ok((resource, references)) => {
                let cell = Cell { resource, references, masked, sources: Vec::new() };
                return self.install(id, node, cell, run);
            }
            Err(faults) => faults.iter().find(|fault| fault.severity == Severity::Error).cloned(),
        };
        let involved = self.involved(id);
        let facts = run.facts;
        let steps = self.blame(&involved, &|over| match self.merged(id, over).0 {
            Some(node) => live::effective(id, &node, facts).is_ok(),
            None => true,
        });
        run.together(
            &std::iter::once(id.clone())
                .chain(involved.iter().filter_map(|key| self.owner_of(key)))
                .collect(),
        );
        match steps {
            Some(steps) => self.refuse(steps, id, fault.as_ref(), run),
            None => self.lose(id, fault.as_ref(), run),
        }
    }

    /// Refuses keys for what is wrong with `id`.
    pub(super) fn refuse(&mut self, steps: Steps, id: &Id, fault: Option<&Fault>, run: &mut Run<'_>) {
        for (key, choice) in steps {
            let owner = self.owner_of(&key).unwrap_or_else(|| id.clone());
            let Some(slot) = self.slots.get(&key) else { continue };
            let own = slot.current.as_ref().map(|doc| doc.source);
            let mut reason = match (fault, own) {
                (Some(fault), own) => self.explain(fault, own.unwrap_or_default()),
                (None, _) => "it does not fit the layers below".to_owned(),
            };
            if owner != *id {
                reason = format!("{}/{}: {reason}", id.0.as_str(), id.1);
            }
            if slot.current.is_none() {
                reason = format!("the removal is held back: {reason}");
            }
            let clock = self.clock;
            if let Some(slot) = self.slots.get_mut(&key) {
                slot.refuse(&reason, clock);
                slot.choice = choice;
            }
            run.again(owner);
        }
        run.again(id.clone());
    }

    /// Gives a resource up that is wrong whatever overlays are refused: the file's own. What was made of it before stays,
    /// if there is anything.
    pub(super) fn lose(&mut self, id: &Id, fault: Option<&Fault>, run: &mut Run<'_>) {
        run.lost.insert(id.clone());
        // It may be here only because of what it refers to: it is tried again when that changes.
        run.seen.insert(id.clone());
        let reason = fault.map(|fault| self.explain(fault, crate::config::node::SourceId::default()));
        let refused = Refused {
            key: Arc::from(format!("policy.{}.{}", id.0.as_str(), id.1)),
            kind: id.0.as_str(),
            revision: 0,
            since: self.clock,
            reason: Arc::from(reason.unwrap_or_default()),
            in_use: None,
        };
        self.orphans.insert(id.clone(), refused);
    }

    /// Looks for references that lead nowhere; whether something was done about one.
    fn check_references(&mut self, run: &mut Run<'_>) -> bool {
        let mut ids = std::mem::take(&mut run.unchecked);
        for id in std::mem::take(&mut run.toggled) {
            ids.extend(self.referrers.get(&id).into_iter().flatten().cloned());
        }
        let mut done = false;
        for id in ids {
            let cell = self.cells.get(&id);
            let dangling =
                cell.and_then(|cell| cell.references.iter().find(|to| !self.is_there(to)).cloned());
            if let Some(reference) = dangling {
                self.mend(&id, &reference, run);
                // What was done may have brought others in order; the rest is looked at when that is made.
                run.unchecked.insert(id);
                done = true;
                if !run.todo.is_empty() {
                    self.settle_todo(run);
                }
            }
        }
        done
    }

    pub(super) fn settle_todo(&mut self, run: &mut Run<'_>) {
        while let Some((_, id)) = run.todo.pop_first() {
            self.settle_one(&id, run);
        }
    }

    fn is_there(&self, reference: &Reference) -> bool {
        self.cells.contains_key(&(reference.kind, reference.name.clone()))
    }

    /// Refuses what made a reference of `id` lead nowhere.
    fn mend(&mut self, id: &Id, reference: &Reference, run: &mut Run<'_>) {
        let target = (reference.kind, reference.name.clone());
        let mut involved = self.involved(id);
        involved.extend(self.overlays.get(&target).into_iter().flatten().map(|(_, key)| Arc::clone(key)));
        let facts = run.facts;
        let steps = self.blame(&involved, &|over| self.is_sound(id, over, facts));
        let mut ids: BTreeSet<_> = involved.iter().filter_map(|key| self.owner_of(key)).collect();
        ids.extend([id.clone(), target]);
        run.together(&ids);
        run.guesses += 1;
        let known: Vec<_> = if run.guesses > MOST_GUESSES {
            Vec::new()
        } else {
            let of_kind = self.cells.keys().filter(|(kind, _)| *kind == reference.kind);
            of_kind.map(|(_, name)| name.as_str()).take(1000).collect()
        };
        let known = (run.guesses <= MOST_GUESSES).then_some(known.as_slice());
        let problem = NoSuch { reference, known }.problem();
        let fault = Fault {
            severity: Severity::Error,
            code: problem.code,
            path: reference.path.clone(),
            origin: reference.origin,
            message: problem.message,
            help: problem.help,
        };
        if let Some(steps) = steps {
            self.refuse(steps, id, Some(&fault), run);
        } else {
            self.uninstall(id, run);
            self.lose(id, Some(&fault), run);
        }
    }

    /// Whether a resource is valid, and refers to what is there, with `over`.
    pub(super) fn is_sound(&self, id: &Id, over: &Over, facts: &Facts<'_>) -> bool {
        let Some(node) = self.merged(id, over).0 else { return true };
        let Ok((_, references)) = live::effective(id, &node, facts) else { return false };
        references.iter().all(|to| {
            let target = (to.kind, to.name.clone());
            if !over.keys().any(|key| self.owner_of(key).as_ref() == Some(&target)) {
                return self.is_there(to);
            }
            self.merged(&target, over).0.is_some_and(|node| live::effective(&target, &node, facts).is_ok())
        })
    }

    /// Notes what is good now, and what is refused.
    fn finish(&mut self, run: &Run<'_>) {
        for id in &run.seen {
            let keys = self.keys_of(id);
            let refused =
                |key: &Arc<str>| self.slots.get(key).is_some_and(|slot| slot.choice != Choice::Current);
            if keys.iter().any(refused) || self.orphans.contains_key(id) {
                let mut on = run.involved.get(id).cloned().unwrap_or_default();
                on.insert(id.clone());
                self.trouble.insert(id.clone(), on);
            } else {
                self.trouble.remove(id);
            }
            for key in keys {
                self.commit(&key);
            }
        }
    }

    /// Notes that what is in force of a key is good.
    pub(super) fn commit(&mut self, key: &Arc<str>) {
        let Some(slot) = self.slots.get_mut(key) else { return };
        slot.before = None;
        if slot.choice != Choice::Current {
            return;
        }
        let old = std::mem::replace(&mut slot.good, slot.current.clone());
        let gone = slot.current.is_none();
        self.release(key, old);
        if gone {
            self.forget(key);
        }
    }
}
