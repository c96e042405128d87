//! Circles of fallbacks: the newest overlay that has to do with one is refused.

use std::collections::BTreeSet;

use super::{Id, Layers, merge::Over, settle::Run};
use crate::config::{
    Fault, Kind, Name, Severity,
    live::{self, Facts, circle_problem, circles, falls_back_to},
};

/// The field that makes one.
const FIELD: &str = "fallback.upstream";

impl Layers {
    /// Looks for circles of fallbacks among what was made; whether something was done about one.
    pub(super) fn check_circles(&mut self, run: &mut Run<'_>) -> bool {
        let made = run.seen.iter().filter(|(kind, _)| *kind == Kind::Upstream);
        let starts: Vec<Name> = made.map(|(_, name)| name.clone()).collect();
        let found = circles(&starts, |name| self.falls_back(name));
        for circle in &found {
            // What was done about another one may have opened this one too.
            let closed = circle.iter().zip(circle.iter().cycle().skip(1));
            if closed.into_iter().all(|(from, to)| self.falls_back(from).as_ref() == Some(to)) {
                self.open(circle, run);
                self.settle_todo(run);
            }
        }
        !found.is_empty()
    }

    fn falls_back(&self, name: &Name) -> Option<Name> {
        falls_back_to(self.policy.upstreams.get(name)?).cloned()
    }

    /// Refuses what made a circle.
    fn open(&mut self, circle: &[Name], run: &mut Run<'_>) {
        let ids: Vec<Id> = circle.iter().map(|name| (Kind::Upstream, name.clone())).collect();
        let involved: Vec<_> = ids.iter().flat_map(|id| self.involved(id)).collect();
        let facts = run.facts;
        let steps = self.blame(&involved, &|over| self.is_open(&ids, over, facts));
        let mut together: BTreeSet<Id> = involved.iter().filter_map(|key| self.owner_of(key)).collect();
        together.extend(ids.iter().cloned());
        run.together(&together);
        let mut refused = steps.iter().flatten().filter_map(|(key, _)| self.owner_of(key));
        let own = refused.find(|owner| ids.contains(owner)).or_else(|| ids.last().cloned());
        let Some(own) = own else { return };
        let fault = self.circle_fault(circle, &own);
        if let Some(steps) = steps {
            self.refuse(steps, &own, fault.as_ref(), run);
        } else {
            self.uninstall(&own, run);
            self.lose(&own, fault.as_ref(), run);
        }
    }

    fn circle_fault(&self, circle: &[Name], own: &Id) -> Option<Fault> {
        let reference = self.cells.get(own)?.references.iter().find(|to| to.path == FIELD)?;
        let problem = circle_problem(circle);
        Some(Fault {
            severity: Severity::Error,
            code: problem.code,
            path: reference.path.clone(),
            origin: reference.origin,
            message: problem.message,
            help: problem.help,
        })
    }

    /// Whether, with `over`, none of these upstreams is on a circle, and all are valid and refer to what is there.
    fn is_open(&self, ids: &[Id], over: &Over, facts: &Facts<'_>) -> bool {
        let next = |name: &Name| {
            let id = (Kind::Upstream, name.clone());
            let concerned = over.keys().filter_map(|key| self.owner_of(key));
            if !concerned.into_iter().any(|owner| owner == id || owner.0 == Kind::Plan) {
                return self.falls_back(name);
            }
            match live::effective(&id, &self.merged(&id, over).0?, facts).ok()?.0 {
                live::Resource::Upstream(upstream) => falls_back_to(&upstream).cloned(),
                _ => None,
            }
        };
        let on_circle = circles(ids.iter().map(|(_, name)| name), next);
        let opened = !on_circle.iter().flatten().any(|name| ids.iter().any(|(_, own)| own == name));
        opened && ids.iter().all(|id| self.is_sound(id, over, facts))
    }
}
