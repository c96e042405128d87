//! Limits: all that match must grant, and one that refuses takes nothing from the others.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{Exchange, Instead};
use crate::{
    config::policy::{Cost, LimitHeaders},
    error::{ProxyError, Reason},
    http::ratelimit,
    policy::{
        Stamp,
        rate::{Decision, Refusal, Taken},
    },
    route::RequestView,
    snapshot::{Gate, Limit},
    telemetry::LimitDecision,
};

/// What a request asks of one limit.
#[derive(Debug)]
pub(super) struct Claim<'g> {
    pub(super) limit: &'g Arc<Limit>,
    /// The hash of its key; 0 where all requests have one bucket together.
    pub(super) key: u64,
    /// The key itself, where others have to know it too.
    pub(super) text: Option<Box<[u8]>>,
    pub(super) cost: u32,
}

impl Claim<'_> {
    /// Its key as Redis is to know it.
    pub(super) fn shared_key(&self) -> Option<(&[u8], u64)> {
        self.text.as_deref().map(|text| (text, self.key))
    }

    pub(super) fn counts(&self, decision: LimitDecision) {
        self.limit.metrics.decisions.of(decision).increment(1);
    }
}

/// Takes from every limit that matches what the request costs, or from none. For gates where none makes a request wait.
pub(super) fn take(exchange: &mut Exchange, gate: &Gate) -> Result<(), Instead> {
    let now = exchange.now();
    if let [limit] = gate.limits.as_slice() {
        let claim = if limit.counts_alike {
            Claim { limit, key: 0, text: None, cost: limit.fixed_cost() }
        } else {
            let request = exchange.as_seen();
            if !limit.matcher.matches(&request) {
                return Ok(());
            }
            claim(exchange, limit, &request)
        };
        return match limit.limiter.take(claim.key, claim.cost, now) {
            Decision::Granted(taken) => {
                grant(exchange, &claim, &taken, now);
                Ok(())
            }
            Decision::Refused(refusal) => refuse_or_observe(exchange, &claim, &refusal),
        };
    }
    let claims = claims(exchange, gate);
    // The first one is about to be asked in earnest.
    let others = claims.iter().filter(|claim| !claim.limit.observes()).skip(1);
    if let Some(refusal) = others.into_iter().find_map(|claim| refusal(claim, now)) {
        return Err(refuse_by_longest(exchange, &claims, refusal, now));
    }
    let mut all = SmallVec::<[(&Claim<'_>, Taken); 4]>::new();
    for claim in &claims {
        match claim.limit.limiter.take(claim.key, claim.cost, now) {
            Decision::Granted(taken) => all.push((claim, taken)),
            Decision::Refused(_) if claim.limit.observes() => claim.counts(LimitDecision::WouldRefuse),
            Decision::Refused(refusal) => {
                for (claim, taken) in &all {
                    claim.limit.limiter.give_back(claim.key, taken, now);
                }
                return Err(refuse_by_longest(exchange, &claims, (claim.limit, refusal), now));
            }
        }
    }
    for (claim, taken) in &all {
        grant(exchange, claim, taken, now);
    }
    Ok(())
}

pub(super) fn grant(exchange: &mut Exchange, claim: &Claim<'_>, taken: &Taken, now: Stamp) {
    claim.counts(LimitDecision::Granted);
    if claim.limit.config.headers == LimitHeaders::Always {
        tell(exchange, claim.limit, taken.remaining, claim.limit.limiter.reset_of(taken, now));
    }
}

#[cold]
fn refuse_or_observe(exchange: &mut Exchange, claim: &Claim<'_>, refusal: &Refusal) -> Result<(), Instead> {
    if claim.limit.observes() {
        claim.counts(LimitDecision::WouldRefuse);
        return Ok(());
    }
    claim.counts(LimitDecision::Refused);
    Err(refuse(exchange, claim.limit, refusal).into())
}

/// Why a limit would refuse now, if it would.
pub(super) fn refusal<'g>(claim: &Claim<'g>, now: Stamp) -> Option<(&'g Arc<Limit>, Refusal)> {
    match claim.limit.limiter.peek(claim.key, claim.cost, now) {
        Decision::Refused(refusal) => Some((claim.limit, refusal)),
        Decision::Granted(_) => None,
    }
}

/// The refusal of the limit that refuses for longest; each that does is counted. `known` refuses for sure.
#[cold]
pub(super) fn refuse_by_longest(
    exchange: &mut Exchange,
    claims: &[Claim<'_>],
    known: (&Arc<Limit>, Refusal),
    now: Stamp,
) -> Instead {
    let wait = |refusal: &Refusal| refusal.retry_after.unwrap_or(Duration::MAX);
    known.0.metrics.decisions.of(LimitDecision::Refused).increment(1);
    let mut longest = known;
    let own = |claim: &&Claim<'_>| {
        !claim.limit.observes() && claim.limit.shared.is_none() && !Arc::ptr_eq(claim.limit, known.0)
    };
    for (limit, refusal) in claims.iter().filter(own).filter_map(|claim| refusal(claim, now)) {
        limit.metrics.decisions.of(LimitDecision::Refused).increment(1);
        if wait(&longest.1) < wait(&refusal) {
            longest = (limit, refusal);
        }
    }
    refuse(exchange, longest.0, &longest.1).into()
}

/// The limits that count a request, and what it asks of them.
pub(super) fn claims<'g>(exchange: &Exchange, gate: &'g Gate) -> SmallVec<[Claim<'g>; 2]> {
    let request = exchange.as_seen();
    let matching = gate.limits.iter().filter(|limit| limit.matcher.matches(&request));
    matching.map(|limit| claim(exchange, limit, &request)).collect()
}

fn claim<'g>(exchange: &Exchange, limit: &'g Arc<Limit>, request: &RequestView<'_>) -> Claim<'g> {
    let cost = cost(limit, request);
    if limit.key.is_empty() {
        return Claim { limit, key: 0, text: None, cost };
    }
    // Requests that have none of it share one bucket: to leave it out must not be a way around the limit.
    let key = limit.key.read(request, exchange.route_name()).unwrap_or_default();
    let text = limit.shared.is_some().then(|| Box::from(key.as_slice()));
    Claim { limit, key: limit.secret.hash(&key), text, cost }
}

fn cost(limit: &Limit, request: &RequestView<'_>) -> u32 {
    match &limit.config.cost {
        Cost::Fixed(cost) => *cost,
        Cost::Header(name) => {
            let said = request.headers.get(name).and_then(|value| value.to_str().ok());
            // What makes no sense costs as much as what says nothing.
            said.and_then(|text| number(text.trim())).unwrap_or(1)
        }
    }
}

/// A number of decimal digits; one that is too large is the largest there is.
fn number(text: &str) -> Option<u32> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u32::MAX))
}

/// The refusal of a limit, as the client gets it.
pub(super) fn refuse(exchange: &mut Exchange, limit: &Limit, refusal: &Refusal) -> ProxyError {
    tell(exchange, limit, refusal.remaining, refusal.reset);
    let error = ProxyError::new(Reason::RateLimit).by(limit.name());
    let Some(wait) = refusal.retry_after else {
        return error.hopeless().because("the request costs more than the limit ever grants at once");
    };
    // Not all of those who are refused together come back together.
    let jitter = exchange.connection().worker.rng(|rng| rng.f64() * JITTER);
    error.retry_after(wait.saturating_add(wait.mul_f64(jitter)))
}

/// Up to this part is added to what a client is told to wait.
const JITTER: f64 = 0.1;

/// Has the answer say what is left of a limit.
pub(super) fn tell(exchange: &mut Exchange, limit: &Limit, remaining: u32, reset: Duration) {
    exchange.notice(ratelimit::RATELIMIT_POLICY, limit.policy.clone());
    exchange.notice(ratelimit::RATELIMIT, ratelimit::state(limit.name(), remaining, reset));
}
