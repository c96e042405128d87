//! Turns automatic switches on and off.
//!
//! Looks four times a second at what each of them watches, while there is any, and says in its seat what comes of it. What
//! requests do is not touched: counters are read here, and a seat is one load there.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    select,
    time::{MissedTickBehavior, interval},
};

use super::State;
use crate::{
    config::{
        Name,
        policy::{BreakerMode, Signal, SwitchState, When},
    },
    policy::{
        Stamp,
        automatic::{Automatic, Meter, Reading, Tally, is_same_subject},
        breaker::{self, Breaker},
    },
    snapshot::{Limit, Snapshot, Switch, Upstream},
    telemetry::LimitDecision,
    upstream::Count,
};

/// How often signals are looked at: a switch is late by no more than this.
const LOOK: Duration = Duration::from_millis(250);

/// Begins to look after the automatic switches of the policy in force, whichever that is, until the runtime ends.
pub(super) fn begin(state: &Arc<State>) {
    let state = state.clone();
    tokio::spawn(async move {
        let mut switches = Automatics::default();
        let mut generations = state.publisher.generations();
        let mut look = interval(LOOK);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        generations.mark_changed();
        loop {
            select! {
                changed = generations.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    switches.follow(&state.shared.snapshot.load());
                }
                _ = look.tick(), if !switches.is_empty() => {
                    switches.look(resident_bytes, Stamp::of(Instant::now()));
                }
            }
        }
    });
}

/// The automatic switches of the policy in force, by name.
#[derive(Debug, Default)]
struct Automatics(BTreeMap<Name, Entry>);

#[derive(Debug)]
struct Entry {
    switch: Arc<Switch>,
    when: When,
    automatic: Automatic,
    source: Source,
    meter: Meter,
}

/// Where a signal comes from.
#[derive(Debug)]
enum Source {
    /// Results of an upstream.
    Results(Count),
    /// The state of an upstream.
    Upstream(Arc<Upstream>),
    /// The decisions of a limit.
    Limit(Arc<Limit>),
    /// The process.
    Process,
    /// There is no such thing. Policy that says so is not valid.
    Nowhere,
}

impl Automatics {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the automatic switches of a snapshot. What was known of a switch goes on while its seat is the same one: it is
    /// another one once a hand has turned it on or off in between.
    fn follow(&mut self, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.0);
        for switch in snapshot.switches.iter().filter(|switch| switch.config.state == SwitchState::Auto) {
            let Some(when) = &switch.config.when else { continue };
            let source = Source::of(&when.signal, snapshot);
            let known = before.remove(switch.name());
            let known = known.filter(|known| Arc::ptr_eq(&known.switch.automatic, &switch.automatic));
            let entry = match known {
                Some(known) => known.edited(switch, when, source),
                None => Entry::new(switch, when, source),
            };
            self.0.insert(switch.name().clone(), entry);
        }
    }

    /// Looks at all signals. `memory` says how many bytes of memory the process has; it is asked once, if at all.
    fn look(&mut self, memory: impl Fn() -> Option<u64>, now: Stamp) {
        let mut asked = None;
        for entry in self.0.values_mut() {
            let reading = entry.read(|| *asked.get_or_insert_with(&memory), now);
            entry.look(reading, now);
        }
    }
}

impl Entry {
    fn new(switch: &Arc<Switch>, when: &When, source: Source) -> Self {
        Self {
            switch: switch.clone(),
            when: when.clone(),
            automatic: Automatic::default(),
            source,
            meter: Meter::default(),
        }
    }

    /// The same switch under another document.
    fn edited(mut self, switch: &Arc<Switch>, when: &When, source: Source) -> Self {
        if !is_same_subject(&self.when, when) {
            self.automatic.watch_anew();
            self.meter = Meter::default();
        } else if !self.source.is_as_countable_as(&source) {
            self.meter = Meter::default();
        }
        Self { switch: switch.clone(), when: when.clone(), source, ..self }
    }

    /// What the signal shows.
    fn read(&mut self, memory: impl FnOnce() -> Option<u64>, now: Stamp) -> Reading {
        match (&self.when.signal, &self.source) {
            (_, Source::Results(count)) => Reading::share(self.meter.over(count.total(), now)),
            (_, Source::Limit(limit)) => Reading::share(self.meter.over(refusals(limit), now)),
            (Signal::InFlight(..), Source::Upstream(upstream)) => {
                let in_flight = upstream.candidates.iter().map(|candidate| candidate.endpoint.in_flight());
                Reading::Level(in_flight.map(u64::from).sum())
            }
            (_, Source::Upstream(upstream)) => Reading::Fact(has_not_closed(&upstream.vitals.breaker, now)),
            (_, Source::Process) => memory().map_or(Reading::Unknown, Reading::Level),
            (_, Source::Nowhere) => Reading::Unknown,
        }
    }

    fn look(&mut self, reading: Reading, now: Stamp) {
        let seat = &self.switch.automatic;
        seat.see(reading);
        let Some(change) = self.automatic.observe(&self.when, reading, now) else { return };
        seat.set(&change, now);
        self.switch.metrics.state.set(self.switch.share());
        let (switch, reason) = (self.switch.name().as_str(), change.reason.as_str());
        if change.on {
            tracing::warn!(switch, reason, "a switch has turned itself on");
        } else {
            tracing::warn!(switch, reason, "a switch has turned itself off");
        }
    }
}

impl Source {
    fn of(signal: &Signal, snapshot: &Snapshot) -> Self {
        let upstream = |name: &Name| {
            let at = snapshot.upstreams.binary_search_by(|upstream| upstream.name().cmp(name)).ok()?;
            snapshot.upstreams.get(at)
        };
        let found = match signal {
            Signal::FailureRate(of, _) => upstream(of)
                .and_then(|upstream| upstream.watched.as_ref())
                .map(|watched| Self::Results(watched.failures())),
            Signal::P99(of, above) => upstream(of)
                .and_then(|upstream| upstream.watched.as_ref())
                .and_then(|watched| watched.slower_than(*above))
                .map(Self::Results),
            Signal::BreakerOpen(of) | Signal::InFlight(of, _) => upstream(of).cloned().map(Self::Upstream),
            Signal::RefusalShare(of, _) => {
                snapshot.limits.iter().find(|limit| limit.name() == of).cloned().map(Self::Limit)
            }
            Signal::Memory(_) => Some(Self::Process),
        };
        found.unwrap_or(Self::Nowhere)
    }

    /// Whether what was counted here goes on there. A limit's counters are found by its name, so that they always do.
    fn is_as_countable_as(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Results(one), Self::Results(other)) => one.is(other),
            (Self::Results(_), _) | (_, Self::Results(_)) => false,
            _ => true,
        }
    }
}

/// What a limit refused among all that it decided. What it would have refused while it observes counts: then it is asked
/// what would be.
fn refusals(limit: &Limit) -> Tally {
    let of = |decision| limit.metrics.decisions.of(decision).value();
    let refused = of(LimitDecision::Refused) + of(LimitDecision::WouldRefuse);
    Tally { hits: refused, of: refused + of(LimitDecision::Granted) }
}

/// Whether a breaker is open, or has been and not closed since: half open it still refuses nearly all, and a breaker that
/// tries every few seconds would otherwise never be seen open for long. Forced open is open. One that only observes counts
/// as what it would be: a switch is the gentler thing to do where a breaker must not act (`observe` is the default for
/// the application itself). Forced closed, or off, it is not.
fn has_not_closed(breaker: &Breaker, now: Stamp) -> bool {
    let shown = breaker.shown(now);
    match shown.mode {
        BreakerMode::Open => true,
        BreakerMode::Closed | BreakerMode::Off => false,
        BreakerMode::Auto | BreakerMode::Observe => shown.state != breaker::State::Closed,
    }
}

/// The resident memory of this process (Linux; not known elsewhere).
fn resident_bytes() -> Option<u64> {
    // proc_pid_statm(5): the second field, in pages.
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * u64::try_from(rustix::param::page_size()).ok()?)
}

#[cfg(test)]
mod tests;
