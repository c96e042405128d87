//! Limits.

use std::time::Duration;

use super::{
    Facts,
    matches::{matches, plain},
};
use crate::config::{
    Name,
    codes::Code,
    fault::Problem,
    limit::{Algorithm, Cost, Limit, LimitScope, LimitShare},
    node::Origin,
    units::{Rate, show_rate},
    wire::{
        Cx,
        limits::{AlgorithmWord, LimitWire},
    },
};

/// A limit; what it refers to is noted in `cx`.
pub(in crate::config) fn limit(
    name: &Name,
    wire: &LimitWire,
    facts: &Facts<'_>,
    cx: &mut Cx<'_>,
) -> Option<Limit> {
    let matches = matches(&wire.matches, facts, cx);
    let rate = wire.rate.as_ref().map(|rate| rate.value);
    let algorithm = rate.map(|rate| algorithm(rate, wire, cx));
    sharing(wire, facts, cx);
    Some(Limit {
        name: name.clone(),
        matches,
        rate: rate?,
        algorithm: algorithm?,
        key: plain(wire.key.as_ref()),
        max_keys: wire.max_keys.value.0,
        scope: wire.scope.value,
        share: wire.share.value,
        cost: wire.cost.value.clone(),
        state: wire.state.value,
        headers: wire.headers.value,
    })
}

fn algorithm(rate: Rate, wire: &LimitWire, cx: &mut Cx<'_>) -> Algorithm {
    let word = wire.algorithm.value;
    let window = matches!(word, AlgorithmWord::SlidingWindow | AlgorithmWord::FixedWindow);
    if let (true, Some(burst)) = (window, &wire.burst) {
        misplaced("burst", "a window takes no `burst`: it is as long as the rate's unit", burst.origin, cx);
    }
    if let (false, Some(wait)) = (word == AlgorithmWord::LeakyBucket, &wire.max_wait) {
        misplaced("max_wait", "`max_wait` is for `algorithm: leaky_bucket`", wait.origin, cx);
    }
    let burst = wire.burst.as_ref().map_or_else(|| one_second(rate), |burst| burst.value.0);
    let most = if window { u32::try_from(rate.count).unwrap_or(u32::MAX) } else { burst };
    match &wire.cost.value {
        Cost::Fixed(cost) if *cost > most => {
            let message = format!("one request costs {cost}, and never more than {most} are granted at once");
            let (problem, origin) = (Problem::new(Code::Inconsistent, message), wire.cost.origin);
            cx.at("cost", origin, |cx| cx.problem(problem.help("raise `burst`, or lower `cost`"), origin));
        }
        Cost::Fixed(_) | Cost::Header(_) => {}
    }
    match word {
        AlgorithmWord::TokenBucket => Algorithm::TokenBucket { burst },
        AlgorithmWord::LeakyBucket => {
            let max_wait = wire.max_wait.as_ref().map_or(Duration::ZERO, |wait| wait.value.0);
            Algorithm::LeakyBucket { burst, max_wait }
        }
        AlgorithmWord::SlidingWindow => Algorithm::SlidingWindow,
        AlgorithmWord::FixedWindow => Algorithm::FixedWindow,
    }
}

fn misplaced(field: &str, message: &str, origin: Origin, cx: &mut Cx<'_>) {
    let problem = Problem::new(Code::Conflict, message)
        .help(format!("take `{field}` out (in a patch: `{field}: null`)"));
    cx.at(field, origin, |cx| cx.problem(problem, origin));
}

/// One second's worth, rounded up.
fn one_second(rate: Rate) -> u32 {
    let worth = rate.count.div_ceil(rate.per.as_secs().max(1));
    u32::try_from(worth).unwrap_or(u32::MAX).max(1)
}

/// What only makes sense among several instances.
fn sharing(wire: &LimitWire, facts: &Facts<'_>, cx: &mut Cx<'_>) {
    if wire.share.value != LimitShare::Redis {
        return;
    }
    let origin = wire.share.origin;
    let problem = if !cfg!(feature = "redis") {
        Problem::new(Code::LaterVersion, "`share: redis`, but this Weir was built without Redis")
            .help("build it with the Cargo feature `redis`, or set `share: even`")
    } else if !facts.redis {
        Problem::new(Code::Incomplete, "`share: redis` without a Redis")
            .help("give the file a `redis: { url: redis://host:6379 }`")
    } else if wire.scope.value != LimitScope::Service {
        Problem::new(
            Code::Incomplete,
            format!("`share: redis`, but each instance has all of {}", shown(wire)),
        )
        .help("set `scope: service`")
    } else {
        return;
    };
    cx.at("share", origin, |cx| cx.problem(problem, origin));
}

fn shown(wire: &LimitWire) -> String {
    wire.rate.as_ref().map_or_else(|| "its rate".to_owned(), |rate| show_rate(rate.value))
}
