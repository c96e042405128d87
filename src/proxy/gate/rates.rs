//! Limits: all that match must grant, and one that refuses takes nothing from the others.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{Exchange, Instead, wait};
use crate::{
    config::policy::{Cost, LimitHeaders, LimitState},
    error::{ProxyError, Reason},
    http::ratelimit,
    policy::{
        Stamp,
        rate::{Decision, Refusal, Taken},
    },
    route::RequestView,
    shared_rate::{Answer, Asking, SharedLimit, Take},
    snapshot::{Gate, Limit},
    telemetry::{LimitDecision, WaitCause},
};

/// What a request asks of one limit.
#[derive(Debug)]
struct Claim<'g> {
    limit: &'g Arc<Limit>,
    /// The hash of its key; 0 where all requests have one bucket together.
    key: u64,
    /// The key itself, where others have to know it too.
    text: Option<Box<[u8]>>,
    cost: u32,
}

impl Claim<'_> {
    /// Its key as Redis is to know it.
    fn shared_key(&self) -> Option<(&[u8], u64)> {
        self.text.as_deref().map(|text| (text, self.key))
    }

    fn counts(&self, decision: LimitDecision) {
        self.limit.metrics.decisions.of(decision).increment(1);
    }
}

/// Where something was taken.
#[derive(Debug)]
enum Paid {
    /// From this instance's own buckets.
    Here(Taken),
    /// From what all instances have together.
    Shared {
        /// What is left.
        remaining: u32,
        /// When it is the request's turn.
        turn: Option<Instant>,
    },
}

/// What was taken for a request; given back unless it goes on.
#[derive(Debug, Default)]
struct Purse<'g>(SmallVec<[(Claim<'g>, Paid); 2]>);

impl Purse<'_> {
    /// The request goes on: it has used what was taken.
    fn spend(mut self) {
        self.0.clear();
    }
}

impl Drop for Purse<'_> {
    fn drop(&mut self) {
        for (claim, paid) in self.0.drain(..) {
            match (paid, &claim.limit.shared) {
                (Paid::Here(taken), _) => {
                    claim.limit.limiter.give_back(claim.key, &taken, Stamp::of(Instant::now()));
                }
                (Paid::Shared { .. }, Some(shared)) => shared.give_back(claim.shared_key(), claim.cost),
                (Paid::Shared { .. }, None) => {}
            }
        }
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

fn grant(exchange: &mut Exchange, claim: &Claim<'_>, taken: &Taken, now: Stamp) {
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
fn refusal<'g>(claim: &Claim<'g>, now: Stamp) -> Option<(&'g Arc<Limit>, Refusal)> {
    match claim.limit.limiter.peek(claim.key, claim.cost, now) {
        Decision::Refused(refusal) => Some((claim.limit, refusal)),
        Decision::Granted(_) => None,
    }
}

/// The refusal of the limit that refuses for longest; each that does is counted. `known` refuses for sure.
#[cold]
fn refuse_by_longest(
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

/// As [`take`], where some limit may make a request wait.
pub(super) async fn pass(exchange: &mut Exchange, gate: &Gate) -> Result<(), Instead> {
    let claims = claims(exchange, gate);
    if claims.is_empty() {
        return Ok(());
    }
    let now = exchange.now();
    let own = claims.iter().filter(|claim| !claim.limit.observes() && claim.limit.shared.is_none());
    if let Some(refusal) = own.into_iter().find_map(|claim| refusal(claim, now)) {
        return Err(refuse_by_longest(exchange, &claims, refusal, now));
    }
    let mut purse = Purse::default();
    let mut waits = false;
    for claim in claims {
        let observes = claim.limit.observes();
        let taken = match &claim.limit.shared {
            None => here(&claim, now),
            Some(shared) => match shared_by_all(exchange, &claim, shared, now).await {
                Some(taken) => taken,
                None => continue,
            },
        };
        match taken {
            Err(_) if observes => claim.counts(LimitDecision::WouldRefuse),
            Err(refusal) => {
                claim.counts(LimitDecision::Refused);
                return Err(refuse(exchange, claim.limit, &refusal).into());
            }
            Ok(paid) => {
                waits |= !observes && must_wait(&paid);
                purse.0.push((claim, paid));
            }
        }
    }
    if waits {
        turn(exchange, &purse).await?;
    }
    for (claim, paid) in &purse.0 {
        match paid {
            Paid::Here(taken) => grant(exchange, claim, taken, now),
            Paid::Shared { remaining, .. } => {
                claim.counts(LimitDecision::Granted);
                if claim.limit.config.headers == LimitHeaders::Always {
                    tell(exchange, claim.limit, *remaining, claim.limit.limiter.unit());
                }
            }
        }
    }
    purse.spend();
    Ok(())
}

/// Takes from this instance's own buckets.
fn here(claim: &Claim<'_>, now: Stamp) -> Result<Paid, Refusal> {
    match claim.limit.limiter.take(claim.key, claim.cost, now) {
        Decision::Granted(taken) => Ok(Paid::Here(taken)),
        Decision::Refused(refusal) => Err(refusal),
    }
}

/// Takes from what all instances have together; from this one's even share while Redis is away. `None`: it only observes,
/// and counts what it would have done when it knows.
async fn shared_by_all(
    exchange: &mut Exchange,
    claim: &Claim<'_>,
    shared: &SharedLimit,
    now: Stamp,
) -> Option<Result<Paid, Refusal>> {
    let granted = |remaining, wait: Duration| Paid::Shared {
        remaining,
        turn: (!wait.is_zero()).then(|| Instant::now() + wait),
    };
    let refused = |retry_after: Option<Duration>, remaining| Refusal {
        retry_after,
        remaining,
        reset: retry_after.unwrap_or_default(),
    };
    let asking = match shared.take(claim.shared_key(), claim.cost, now) {
        Take::Granted { remaining, wait } => return Some(Ok(granted(remaining, wait))),
        Take::Refused { retry_after, remaining } => return Some(Err(refused(retry_after, remaining))),
        Take::Ask(asking) if claim.limit.observes() => {
            find_out(claim, asking);
            return None;
        }
        Take::Ask(asking) => Some(asking),
        Take::Fallback => None,
    };
    if let Some(asking) = asking {
        claim.limit.metrics.waits.of(WaitCause::Redis).increment(1);
        let begun = Instant::now();
        // Boxed: every request would have room for it.
        let answer = Box::pin(asking.answer()).await;
        exchange.waited += begun.elapsed();
        match answer {
            Answer::Granted { remaining, wait } => return Some(Ok(granted(remaining, wait))),
            Answer::Refused { retry_after, remaining } => return Some(Err(refused(retry_after, remaining))),
            Answer::Fallback => {}
        }
    }
    claim.limit.metrics.fallbacks.increment(1);
    Some(here(claim, exchange.now()))
}

/// Finds out what a limit that only observes would have said. The request does not wait for that; but to ask, and not to
/// listen, would leave the lease empty and everything granted.
fn find_out(claim: &Claim<'_>, asking: Asking) {
    let (limit, key, cost) = (claim.limit.clone(), claim.key, claim.cost);
    tokio::task::spawn_local(async move {
        let granted = match asking.answer().await {
            Answer::Granted { .. } => true,
            Answer::Refused { .. } => false,
            Answer::Fallback => {
                limit.metrics.fallbacks.increment(1);
                matches!(limit.limiter.take(key, cost, Stamp::of(Instant::now())), Decision::Granted(_))
            }
        };
        let decision = if granted { LimitDecision::Granted } else { LimitDecision::WouldRefuse };
        limit.metrics.decisions.of(decision).increment(1);
    });
}

fn must_wait(paid: &Paid) -> bool {
    match paid {
        Paid::Here(taken) => !taken.wait.is_zero(),
        Paid::Shared { turn, .. } => turn.is_some(),
    }
}

/// The limits that count a request, and what it asks of them.
fn claims<'g>(exchange: &Exchange, gate: &'g Gate) -> SmallVec<[Claim<'g>; 2]> {
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

/// Waits for the request's turn.
async fn turn(exchange: &mut Exchange, purse: &Purse<'_>) -> Result<(), Instead> {
    /// The rate may change meanwhile: it is looked at again now and then.
    const LOOK_AGAIN: Duration = Duration::from_millis(50);
    let mut counted = false;
    loop {
        let now = Stamp::of(Instant::now());
        let acting = purse.0.iter().filter(|(claim, _)| !claim.limit.observes());
        let waits = acting.map(|(claim, paid)| (claim.limit, left(exchange, claim.limit, paid, now)));
        let Some((limit, left)) = waits.max_by_key(|(_, left)| *left).filter(|(_, left)| !left.is_zero())
        else {
            return Ok(());
        };
        if !std::mem::replace(&mut counted, true) {
            if exchange.has_no_time_for(left) {
                // It would give up before its turn came, for nothing.
                limit.metrics.decisions.of(LimitDecision::Refused).increment(1);
                let refusal = Refusal { retry_after: Some(left), remaining: 0, reset: left };
                return Err(refuse(exchange, limit, &refusal).into());
            }
            limit.metrics.waits.of(WaitCause::Turn).increment(1);
        }
        wait(exchange, left.min(LOOK_AGAIN)).await?;
    }
}

/// How long it is until a request's turn by what the limit says now; nobody waits for one that does not act any more.
fn left(exchange: &Exchange, limit: &Arc<Limit>, paid: &Paid, now: Stamp) -> Duration {
    let view = exchange.connection().worker.view();
    let snapshot = view.snapshot();
    let newest = snapshot.limits.binary_search_by(|other| other.name().cmp(limit.name())).ok();
    let newest = newest.and_then(|index| snapshot.limits.get(index));
    let Some(newest) = newest.filter(|newest| !snapshot.bypass && newest.config.state == LimitState::On)
    else {
        return Duration::ZERO;
    };
    let taken = match paid {
        Paid::Here(taken) => taken,
        Paid::Shared { turn, .. } => {
            return turn.map_or(Duration::ZERO, |turn| turn.saturating_duration_since(Instant::now()));
        }
    };
    // With other keys there are other buckets, of which what was taken from the old ones says nothing.
    let same = newest.config.key == limit.config.key;
    if same { newest } else { limit }.limiter.wait_of(taken, now)
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
