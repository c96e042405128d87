//! Limits that may make a request wait: for its turn, or for Redis.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use smallvec::SmallVec;

use super::{
    Exchange, Instead,
    rates::{Claim, claims, grant, refusal, refuse, refuse_by_longest, tell},
    wait,
};
use crate::{
    config::policy::{LimitHeaders, LimitState},
    policy::{
        Stamp,
        rate::{Decision, Refusal, Taken},
    },
    shared_rate::{Answer, Asking, SharedLimit, Take},
    snapshot::{Gate, Limit},
    telemetry::{LimitDecision, WaitCause},
};

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

/// As [`super::rates::take`], where some limit may make a request wait.
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
