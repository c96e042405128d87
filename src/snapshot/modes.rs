//! Which mode a breaker has that names none.

use std::{collections::HashSet, sync::Arc};

use foldhash::fast::RandomState;

use super::rules;
use crate::{
    config::{
        Name, Policy,
        bootstrap::Direction,
        policy::{self, BreakerMode},
    },
    listener::Listener,
};

/// Whether a rule for this listener (`None` = all) is for an outbound one.
fn is_outbound(listeners: &[Arc<Listener>], wanted: Option<&Name>) -> bool {
    listeners.iter().any(|listener| {
        listener.config.direction == Direction::Outbound
            && wanted.is_none_or(|wanted| *wanted == listener.config.name)
    })
}

/// Which mode a breaker has that names none.
pub(super) struct Modes<'a> {
    /// The upstreams that something else than inbound listeners uses.
    outbound: HashSet<&'a Name, RandomState>,
    /// Those that anything uses.
    used: HashSet<&'a Name, RandomState>,
}

impl<'a> Modes<'a> {
    pub(super) fn of(policy: &'a Policy, listeners: &[Arc<Listener>]) -> Self {
        let mut modes = Self { outbound: HashSet::default(), used: HashSet::default() };
        for route in policy.routes.values() {
            let outbound = is_outbound(listeners, route.matches.listener.as_ref());
            let own = match &route.target {
                policy::Target::Upstream(name) => std::slice::from_ref(name).iter().collect::<Vec<_>>(),
                policy::Target::Split { parts, .. } => parts.iter().map(|(name, _)| name).collect(),
            };
            let fallback = match &route.fallback {
                Some(policy::Fallback::Upstream(name)) => Some(name),
                _ => None,
            };
            for name in own.into_iter().chain(fallback) {
                modes.uses(policy, name, outbound);
            }
        }
        for switch in policy.switches.values() {
            if let Some(name) = rules::reroutes_to(switch) {
                modes.uses(policy, name, is_outbound(listeners, switch.matches.listener.as_ref()));
            }
        }
        modes
    }

    /// An upstream is used, and so are those that it falls back to.
    fn uses(&mut self, policy: &'a Policy, name: &'a Name, outbound: bool) {
        let mut next = Some(name);
        while let Some(name) = next {
            let news = self.used.insert(name) | (outbound && self.outbound.insert(name));
            let upstream = policy.upstreams.get(name).filter(|_| news);
            next = match upstream.and_then(|upstream| upstream.fallback.as_ref()) {
                Some(policy::Fallback::Upstream(name)) => Some(name),
                _ => None,
            };
        }
    }

    /// One bad path must not close the pod: what only inbound listeners use is observed.
    pub(super) fn of_upstream(&self, config: &policy::Upstream) -> BreakerMode {
        let inbound = self.used.contains(&config.name) && !self.outbound.contains(&config.name);
        let default = if inbound { BreakerMode::Observe } else { BreakerMode::Auto };
        config.breaker.mode.unwrap_or(default)
    }
}
