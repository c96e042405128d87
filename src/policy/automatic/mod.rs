//! Switches that turn themselves on and off (`state: auto`). Pure.
//!
//! A switch turns itself on when its signal has been above the threshold for all of `for`, and off when it has been back
//! for all of `hold`. Between two of its changes there is always at least `hold`: whatever its signal does, it never flaps
//! faster. That holds for coming back on, too. A switch may take away the very traffic that its signal needs (a refusal in
//! front of the upstream that drowns): no result is then no reason to stay on, since it could not ever go off. It goes off
//! after `hold`, which is a trial, and when everything drowns again, it is on again `hold` later at the earliest.
//!
//! - `meter`: what came in the last seconds, from counters;
//! - `reading`: what a signal shows, and whether that is above its threshold;
//! - `seat`: where requests read whether the switch is on.

mod meter;
mod reading;
mod seat;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, time::Duration};

pub use self::{
    meter::{Meter, Tally, WINDOW},
    reading::{MIN_RESULTS, Reading, is_same_subject},
    seat::{AutomaticSeat, Seated},
};
use super::Stamp;
use crate::config::{
    Name, Policy,
    policy::{Signal, SwitchState, When},
    units::show_duration,
};

/// The state of one automatic switch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Automatic {
    on: bool,
    /// When it changed last.
    changed: Option<Stamp>,
    /// Since when the signal has been on the other side of its threshold, without a break.
    against: Option<Stamp>,
}

/// A switch has turned itself on or off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// Whether it is on now.
    pub on: bool,
    /// Why, for people: `failure_rate of inventory 62 % > 50 % for 5s`.
    pub reason: String,
}

impl Automatic {
    /// Looks at the signal, a few times a second; says when the switch turns itself on or off. The settings may be others
    /// than at the last look: what was counted so far goes on, and is measured by those that hold now.
    pub fn observe(&mut self, when: &When, reading: Reading, now: Stamp) -> Option<Change> {
        if reading.is_above(&when.signal) == self.on {
            // Whoever flickers begins anew.
            self.against = None;
            return None;
        }
        let since = *self.against.get_or_insert(now);
        let patience = if self.on { when.hold } else { when.after };
        let has_rested = self.changed.is_none_or(|changed| now.since(changed) >= when.hold);
        if now.since(since) < patience || !has_rested {
            return None;
        }
        self.on = !self.on;
        self.changed = Some(now);
        self.against = None;
        let reason = format!("{} for {}", reading.describe(&when.signal), show_duration(patience));
        Some(Change { on: self.on, reason })
    }

    /// The signal is another one from now on. Whether the switch is on stays; how long the signal has been above its
    /// threshold, or back, begins anew.
    pub fn watch_anew(&mut self) {
        self.against = None;
    }

    /// Whether the switch is on.
    pub const fn is_on(&self) -> bool {
        self.on
    }
}

/// The upstreams whose results some automatic switch of a policy looks at, each with the thresholds of its 99th
/// percentile: what has to be counted. In order, each once.
pub fn watched(policy: &Policy) -> BTreeMap<&Name, Vec<Duration>> {
    let mut watched: BTreeMap<&Name, Vec<Duration>> = BTreeMap::new();
    let switches = policy.switches.values().filter(|switch| switch.state == SwitchState::Auto);
    for when in switches.filter_map(|switch| switch.when.as_ref()) {
        match &when.signal {
            Signal::FailureRate(of, _) => drop(watched.entry(of).or_default()),
            Signal::P99(of, above) => watched.entry(of).or_default().push(*above),
            Signal::BreakerOpen(_) | Signal::InFlight(..) | Signal::RefusalShare(..) | Signal::Memory(_) => {}
        }
    }
    for thresholds in watched.values_mut() {
        thresholds.sort_unstable();
        thresholds.dedup();
    }
    watched
}
