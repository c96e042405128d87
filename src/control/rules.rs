//! `/limits` and `/switches`, and what of limits, switches and plans is brought up to date every second.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{minute::LastMinute, view::timestamp_of};
use crate::{
    config::{
        policy::{Action, Algorithm, LimitScope, LimitShare, LimitState, SwitchState},
        units::show_rate,
    },
    policy::Stamp,
    snapshot::{Limit, Snapshot, Switch},
    telemetry::{LimitDecision, SwitchMode, labels::Label as _},
};

/// How often buckets that nobody uses are put in order.
const SWEEP: Duration = Duration::from_mins(1);

/// What is counted of limits and switches, minute by minute.
#[derive(Debug)]
pub(super) struct Rules {
    limits: LastMinute<3>,
    /// What was acted on, and what would have been.
    switches: LastMinute<2>,
    swept: Instant,
}

impl Default for Rules {
    fn default() -> Self {
        Self { limits: LastMinute::default(), switches: LastMinute::default(), swept: Instant::now() }
    }
}

impl Rules {
    /// Brings gauges up to date and notes what was counted. Once a second.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot, now: Instant) {
        show(snapshot);
        self.limits.sample(snapshot.limits.iter().map(|limit| (limit.name(), decisions(limit))));
        self.switches.sample(snapshot.switches.iter().map(|switch| (switch.name(), hits(switch))));
        if now.saturating_duration_since(self.swept) >= SWEEP {
            self.swept = now;
            for limit in &snapshot.limits {
                limit.limiter.sweep(Stamp::of(now));
            }
        }
    }

    /// All limits, by name.
    pub(super) fn limits(&self, snapshot: &Snapshot) -> Value {
        let shown = snapshot.limits.iter().map(|limit| (limit.name().to_string(), self.limit(limit)));
        Value::Object(shown.collect())
    }

    fn limit(&self, limit: &Limit) -> Value {
        let config = &limit.config;
        let [granted, refused, would_refuse] = decisions(limit);
        let minute = self.limits.since(limit.name(), decisions(limit));
        let shared = config.scope == LimitScope::Service;
        json!({
            "state": match config.state {
                LimitState::On => "on",
                LimitState::Off => "off",
                LimitState::Observe => "observe",
            },
            "algorithm": match config.algorithm {
                Algorithm::TokenBucket { .. } => "token_bucket",
                Algorithm::LeakyBucket { .. } => "leaky_bucket",
                Algorithm::SlidingWindow => "sliding_window",
                Algorithm::FixedWindow => "fixed_window",
            },
            "rate": show_rate(config.rate),
            "burst": match config.algorithm {
                Algorithm::TokenBucket { burst } | Algorithm::LeakyBucket { burst, .. } => Some(burst),
                Algorithm::SlidingWindow | Algorithm::FixedWindow => None,
            },
            "scope": if shared { "service" } else { "instance" },
            "share": shared.then_some(match config.share {
                LimitShare::Even => "even",
                LimitShare::Redis => "redis",
            }),
            "instances": shared.then(|| limit.instances()),
            "effective_rate": limit.rate_per_second(),
            "most_at_once": limit.limiter.most(),
            "keys": (!limit.key.is_empty()).then(|| limit.limiter.keys()),
            "evictions": (!limit.key.is_empty()).then(|| limit.limiter.evictions()),
            "fallback": limit.falls_back(),
            "decisions": { "granted": granted, "refused": refused, "would_refuse": would_refuse },
            "last_minute": decided(minute),
        })
    }

    /// All switches, by name.
    pub(super) fn switches(&self, snapshot: &Snapshot, now: Stamp) -> Value {
        let shown = snapshot.switches.iter();
        let one = |switch: &Arc<Switch>| self.switch(switch, acts(switch, snapshot), now);
        Value::Object(shown.map(|switch| (switch.name().to_string(), one(switch))).collect())
    }

    fn switch(&self, switch: &Switch, acts: f64, now: Stamp) -> Value {
        let config = &switch.config;
        let [acted, observed] = hits(switch);
        let [acted_now, observed_now] = self.switches.since(switch.name(), hits(switch));
        let automatic = (config.state == SwitchState::Auto).then(|| {
            let seat = switch.automatic.shown();
            json!({
                "on": seat.on,
                "since": seat.since.map(|since| timestamp_of(now.since(since))),
                "reason": seat.reason.as_deref(),
                "changes": seat.changes,
                "reading": config.when.as_ref().map(|when| seat.reading.describe(&when.signal)),
            })
        });
        json!({
            "state": state(config.state),
            "acts": acts,
            "automatic": automatic,
            "action": action(&config.action),
            "priority": config.priority,
            "revision": config.revision,
            "hits": { "acted": acted, "observed": observed },
            "hits_last_minute": acted_now + observed_now,
        })
    }
}

/// Shows in the metrics how limits, switches and plans stand.
pub(super) fn show(snapshot: &Snapshot) {
    for limit in &snapshot.limits {
        limit.metrics.rate.set(limit.rate_per_second());
        limit.metrics.fallback.set(f64::from(u8::from(limit.falls_back())));
        limit.metrics.keys.set(if limit.key.is_empty() { 0.0 } else { number(limit.limiter.keys()) });
        limit.metrics.evictions.set(number(limit.limiter.evictions()));
    }
    for switch in &snapshot.switches {
        switch.metrics.state.set(acts(switch, snapshot));
    }
    for plan in &snapshot.plans {
        plan.metrics.state.set(f64::from(u8::from(plan.config.on)));
    }
}

/// The share of the requests that a switch acts on, 0 to 1: none while everything is bypassed.
fn acts(switch: &Switch, snapshot: &Snapshot) -> f64 {
    if snapshot.bypass { 0.0 } else { switch.share() }
}

#[expect(clippy::cast_precision_loss, reason = "a gauge; exact up to 2⁵³")]
fn number(count: impl TryInto<u64>) -> f64 {
    count.try_into().unwrap_or(u64::MAX) as f64
}

fn decisions(limit: &Limit) -> [u64; 3] {
    let of = |decision| limit.metrics.decisions.of(decision).value();
    [of(LimitDecision::Granted), of(LimitDecision::Refused), of(LimitDecision::WouldRefuse)]
}

fn decided([granted, refused, would_refuse]: [u64; 3]) -> Value {
    json!({ "granted": granted, "refused": refused, "would_refuse": would_refuse })
}

fn hits(switch: &Switch) -> [u64; 2] {
    let all: u64 = SwitchMode::ALL.iter().map(|mode| switch.metrics.hits.of(*mode).value()).sum();
    let observed = switch.metrics.hits.of(SwitchMode::Observe).value();
    [all.saturating_sub(observed), observed]
}

fn state(state: SwitchState) -> String {
    match state {
        SwitchState::Off => "off".to_owned(),
        SwitchState::On => "on".to_owned(),
        SwitchState::Observe => "observe".to_owned(),
        SwitchState::Auto => "auto".to_owned(),
        SwitchState::Share(share) => format!("{}%", f64::from(share) / 100.0),
    }
}

fn action(action: &Action) -> &'static str {
    match action {
        Action::Respond(_) => "respond",
        Action::Reject { .. } => "reject",
        Action::Reroute(_) => "upstream",
        Action::Annotate(_) => "annotate",
        Action::Delay { .. } => "delay",
        Action::Abort(_) => "abort",
        Action::Shed { .. } => "shed",
    }
}
