//! Limits: all that match must grant, and one that refuses takes nothing from the others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{Exchange, Instead, wait};
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
    telemetry::{LimitDecision, WaitCause},
};

/// What a request asks of one limit.
#[derive(Debug)]
struct Claim<'g> {
    limit: &'g Arc<Limit>,
    /// The hash of its key; 0 where all requests have one bucket together.
    key: u64,
    cost: u32,
}

/// What was taken for a request; given back unless it goes on.
#[derive(Debug, Default)]
struct Purse<'g>(SmallVec<[(Claim<'g>, Taken); 2]>);

impl Purse<'_> {
    /// The request goes on: it has used what was taken.
    fn spend(mut self) {
        self.0.clear();
    }
}

impl Drop for Purse<'_> {
    fn drop(&mut self) {
        let now = Stamp::of(Instant::now());
        for (claim, taken) in self.0.drain(..) {
            claim.limit.limiter.give_back(claim.key, &taken, now);
        }
    }
}

/// Takes from every limit that matches what the request costs, or from none.
pub(super) async fn pass(exchange: &mut Exchange, gate: &Gate) -> Result<(), Instead> {
    let claims = claims(exchange, gate);
    if claims.is_empty() {
        return Ok(());
    }
    let now = exchange.now();
    let several = claims.iter().filter(|claim| !claim.limit.observes()).count() > 1;
    if several && let Some((claim, refusal)) = refused(&claims, now) {
        return Err(refuse(exchange, claim.limit, &refusal).into());
    }
    let mut purse = Purse::default();
    let mut longest = Duration::ZERO;
    for claim in claims {
        match claim.limit.limiter.take(claim.key, claim.cost, now) {
            Decision::Refused(_) if claim.limit.observes() => {
                claim.limit.metrics.decisions.of(LimitDecision::WouldRefuse).increment(1);
            }
            Decision::Refused(refusal) => {
                claim.limit.metrics.decisions.of(LimitDecision::Refused).increment(1);
                return Err(refuse(exchange, claim.limit, &refusal).into());
            }
            Decision::Granted(taken) => {
                if !claim.limit.observes() {
                    longest = longest.max(taken.wait);
                }
                purse.0.push((claim, taken));
            }
        }
    }
    if !longest.is_zero() {
        turn(exchange, &purse).await?;
    }
    for (claim, taken) in &purse.0 {
        claim.limit.metrics.decisions.of(LimitDecision::Granted).increment(1);
        if claim.limit.config.headers == LimitHeaders::Always {
            let reset = claim.limit.limiter.reset_of(taken, now);
            tell(exchange, claim.limit, taken.remaining, reset);
        }
    }
    purse.spend();
    Ok(())
}

/// The limits that count a request, and what it asks of them.
fn claims<'g>(exchange: &Exchange, gate: &'g Gate) -> SmallVec<[Claim<'g>; 2]> {
    let request = exchange.as_seen();
    let matching = gate.limits.iter().filter(|limit| limit.matcher.matches(&request));
    matching
        .map(|limit| Claim { limit, key: key(exchange, limit, &request), cost: cost(limit, &request) })
        .collect()
}

fn key(exchange: &Exchange, limit: &Limit, request: &RequestView<'_>) -> u64 {
    if limit.key.is_empty() {
        return 0;
    }
    // Requests that have none of it share one bucket: to leave it out must not be a way around the limit.
    let key = limit.key.read(request, exchange.route_name()).unwrap_or_default();
    limit.secret.hash(&key)
}

fn cost(limit: &Limit, request: &RequestView<'_>) -> u32 {
    match &limit.config.cost {
        Cost::Fixed(cost) => *cost,
        Cost::Header(name) => {
            let said = request.headers.get(name).and_then(|value| value.to_str().ok());
            // What makes no sense costs as much as what says nothing.
            said.and_then(|text| text.trim().parse().ok()).unwrap_or(1)
        }
    }
}

/// The limit that would refuse for longest, where any would; each that would is counted.
fn refused<'c, 'g>(claims: &'c [Claim<'g>], now: Stamp) -> Option<(&'c Claim<'g>, Refusal)> {
    let mut worst: Option<(&Claim<'_>, Refusal)> = None;
    for claim in claims.iter().filter(|claim| !claim.limit.observes()) {
        let Decision::Refused(refusal) = claim.limit.limiter.peek(claim.key, claim.cost, now) else {
            continue;
        };
        claim.limit.metrics.decisions.of(LimitDecision::Refused).increment(1);
        let wait = |refusal: &Refusal| refusal.retry_after.unwrap_or(Duration::MAX);
        if worst.as_ref().is_none_or(|(_, known)| wait(known) < wait(&refusal)) {
            worst = Some((claim, refusal));
        }
    }
    worst
}

/// Waits for the request's turn.
async fn turn(exchange: &mut Exchange, purse: &Purse<'_>) -> Result<(), Instead> {
    /// The rate may change meanwhile: it is looked at again now and then.
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    let mut counted = false;
    loop {
        let now = Stamp::of(Instant::now());
        let acting = purse.0.iter().filter(|(claim, _)| !claim.limit.observes());
        let waits = acting.map(|(claim, taken)| (claim.limit, left(exchange, claim.limit, taken, now)));
        let Some((limit, left)) = waits.max_by_key(|(_, left)| *left).filter(|(_, left)| !left.is_zero())
        else {
            return Ok(());
        };
        if !std::mem::replace(&mut counted, true) {
            limit.metrics.waits.of(WaitCause::Turn).increment(1);
            if exchange.has_no_time_for(left) {
                // It would give up before its turn came, for nothing.
                limit.metrics.decisions.of(LimitDecision::Refused).increment(1);
                let refusal = Refusal { retry_after: Some(left), remaining: 0, reset: left };
                return Err(refuse(exchange, limit, &refusal).into());
            }
        }
        wait(exchange, left.min(LOOK_AGAIN)).await?;
    }
}

/// How long it is until a request's turn by what the limit says now.
fn left(exchange: &Exchange, limit: &Arc<Limit>, taken: &Taken, now: Stamp) -> Duration {
    let view = exchange.connection().worker.view();
    let limits = &view.snapshot().limits;
    let newest = limits.binary_search_by(|other| other.name().cmp(limit.name())).ok();
    let newest = newest.and_then(|index| limits.get(index)).unwrap_or(limit);
    newest.limiter.wait_of(taken, now)
}

/// The refusal of a limit, as the client gets it.
fn refuse(exchange: &mut Exchange, limit: &Limit, refusal: &Refusal) -> ProxyError {
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
fn tell(exchange: &mut Exchange, limit: &Limit, remaining: u32, reset: Duration) {
    exchange.notice(ratelimit::RATELIMIT_POLICY, limit.policy.clone());
    exchange.notice(ratelimit::RATELIMIT, ratelimit::state(limit.name(), remaining, reset));
}
