//! What the thread knows of one lease: who waits for it, what it asks Redis for, and what becomes of the answer. Pure.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    IDLE,
    call::{Reply, Want},
    desk::Place,
    lease::{Lease, MOST},
    limit::Answer,
    settings::Settings,
};
use crate::policy::Stamp;

/// A lease is given back when nobody has used it for so long.
pub(super) const AT_REST: Duration = Duration::from_millis(300);

/// The most leaky turns of one call.
const MOST_TURNS: usize = 256;

/// What the thread knows of a lease.
#[derive(Debug)]
pub(super) struct Account {
    /// Its key in Redis.
    pub(super) key: String,
    pub(super) waiting: VecDeque<Waiter>,
    /// Whether it is in `due`.
    pub(super) due: bool,
    /// What was in the lease when the thread last left it.
    pub(super) filled: u32,
    /// What was used in the last while, and at which moment that was so.
    pub(super) demand: f64,
    pub(super) at: Stamp,
    /// From which window the tokens in the lease are.
    pub(super) window: u64,
    /// What goes back to Redis with the next call, and to which window.
    pub(super) back: u32,
    pub(super) back_to: u64,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) cost: u32,
    pub(super) answer: oneshot::Sender<Answer>,
}

/// A lease for which Redis is being asked.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) place: Place,
    pub(super) settings: Arc<Settings>,
    pub(super) want: Want,
    /// What was taken out of the lease for those who wait.
    pub(super) pool: u32,
    /// Since when it cannot be had: what the first of those who wait costs.
    pub(super) first: u32,
}

impl Account {
    pub(super) fn new(key: String, now: Stamp) -> Self {
        Self {
            key,
            waiting: VecDeque::new(),
            due: false,
            filled: 0,
            demand: 0.0,
            at: now,
            window: 0,
            back: 0,
            back_to: 0,
        }
    }

    /// What to ask for, and what was taken out of the lease for those who wait; `None` when there is nothing to ask.
    pub(super) fn want(
        &mut self,
        lease: &Lease,
        settings: &Settings,
        now: Stamp,
        closing: bool,
    ) -> Option<(Want, u32)> {
        // Those who have gone home, or have waited too long.
        self.waiting.retain(|waiter| !waiter.answer.is_closed());
        self.measure(lease, settings, now);
        if settings.paced() {
            return Some((self.turns()?, 0));
        }
        if !lease.holds(now) {
            self.put_aside(lease.empty());
        }
        let ahead = if closing { 0 } else { ahead(self.demand, settings) };
        let need: u64 = self.waiting.iter().map(|waiter| u64::from(waiter.cost)).sum();
        let (back, window) = (std::mem::take(&mut self.back), self.back_to);
        let Some(first) = self.waiting.front().map(|waiter| waiter.cost) else {
            // Filled up ahead of need, or only given back.
            let most =
                if back > 0 && lease.idle(now) > AT_REST { 0 } else { ahead.saturating_sub(lease.left()) };
            self.filled = lease.left();
            lease.mark(lease.beyond(), ahead / 2);
            return (most > 0 || back > 0).then_some((Want { least: 0, most, chunk: 1, back, window }, 0));
        };
        let pool = lease.empty();
        self.filled = 0;
        let missing = u32::try_from(need + u64::from(ahead)).unwrap_or(u32::MAX).saturating_sub(pool);
        let at_least = first.saturating_sub(pool);
        Some((Want { least: at_least, most: missing.max(at_least), chunk: 1, back, window }, pool))
    }

    /// Turns for those in front who cost the same.
    fn turns(&self) -> Option<Want> {
        let chunk = self.waiting.front()?.cost;
        let equal = self.waiting.iter().take(MOST_TURNS).take_while(|waiter| waiter.cost == chunk).count();
        let most = u32::try_from(equal).unwrap_or(1).saturating_mul(chunk);
        Some(Want { least: chunk, most, chunk, ..Want::default() })
    }

    /// What is used in one batch's time: a sum that decays in as much.
    fn measure(&mut self, lease: &Lease, settings: &Settings, now: Stamp) {
        let waiting: f64 = self.waiting.iter().map(|waiter| f64::from(waiter.cost)).sum();
        let used = self.filled.saturating_sub(lease.left());
        let passed = now.since(self.at).as_secs_f64() / settings.batch().as_secs_f64().max(1e-6);
        self.demand = self.demand * (-passed).exp() + f64::from(used) + f64::from(lease.missed()) + waiting;
        self.at = now;
    }

    /// Tokens of the lease's window go back to Redis with the next call. Those of an older window are forgotten.
    pub(super) fn put_aside(&mut self, tokens: u32) {
        if tokens > 0 {
            let before = if self.back_to == self.window { self.back } else { 0 };
            (self.back, self.back_to) = (before.saturating_add(tokens), self.window);
        }
    }

    pub(super) fn settle(&mut self, lease: &Lease, asked: &Asked, reply: Reply, sent: Stamp, now: Stamp) {
        let settings = &*asked.settings;
        if reply.granted < asked.want.least {
            self.refused(lease, asked, reply, now);
        } else {
            lease.forget();
        }
        if settings.paced() {
            self.give_turns(settings, reply);
            lease.mark(reply.left, 0);
            return;
        }
        let mut pool = reply.granted;
        if reply.window == self.window {
            pool = pool.saturating_add(asked.pool);
        } else {
            // What was leased in a window that has passed is not used in this one.
            self.put_aside(asked.pool);
        }
        while let Some(waiter) = self.next_for(pool) {
            let answer = Answer::Granted {
                remaining: reply.left.saturating_add(pool - waiter.cost),
                wait: Duration::ZERO,
            };
            let cost = waiter.cost;
            if waiter.answer.send(answer).is_ok() {
                pool -= cost;
            }
        }
        if lease.left() > 0 && (!lease.holds(now) || self.window != reply.window) {
            self.put_aside(lease.empty());
        }
        self.window = reply.window;
        self.keep(lease, pool, asked, reply, sent, now);
    }

    /// The first of those who wait, if this is enough for it.
    fn next_for(&mut self, pool: u32) -> Option<Waiter> {
        if self.waiting.front()?.cost > pool { None } else { self.waiting.pop_front() }
    }

    /// Leases what is left for those who come next.
    fn keep(&mut self, lease: &Lease, pool: u32, asked: &Asked, reply: Reply, sent: Stamp, now: Stamp) {
        let lifetime = if reply.valid > Duration::ZERO { reply.valid } else { IDLE };
        // From the moment before they were granted: tokens of a slot are never used after it.
        let until = sent.after(lifetime);
        // Also when there is nothing: what a request gives back is good for as long.
        let over = lease.fill(pool.min(MOST), until).saturating_add(pool.saturating_sub(MOST));
        self.put_aside(over);
        self.filled = lease.left();
        let low = if until > now { ahead(self.demand, &asked.settings) / 2 } else { 0 };
        lease.mark(reply.left, low);
    }

    /// The first of those who wait cannot go, nor can anybody who costs as much.
    fn refused(&mut self, lease: &Lease, asked: &Asked, reply: Reply, now: Stamp) {
        let wait = reply.wait.unwrap_or(IDLE).max(asked.settings.least_pause());
        lease.refuse(asked.first, now.after(wait));
        let remaining = reply.left.saturating_add(asked.pool);
        let refused = Answer::Refused { retry_after: reply.wait, remaining };
        let (go, stay): (VecDeque<_>, _) =
            std::mem::take(&mut self.waiting).into_iter().partition(|waiter| waiter.cost >= asked.first);
        self.waiting = stay;
        for waiter in go {
            let _ = waiter.answer.send(refused);
        }
    }

    /// One turn after the other, each as long after the one before as that costs.
    fn give_turns(&mut self, settings: &Settings, reply: Reply) {
        let (mut pool, mut passed) = (reply.granted, 0_u32);
        while let Some(waiter) = self.next_for(pool) {
            let wait = reply.wait.unwrap_or_default() + settings.span(passed);
            let cost = waiter.cost;
            let answer = Answer::Granted { remaining: reply.left.saturating_add(pool - cost), wait };
            // The turn of one who has gone home is the next one's.
            if waiter.answer.send(answer).is_ok() {
                passed = passed.saturating_add(cost);
                pool -= cost;
            }
        }
    }
}

impl Waiter {
    pub(super) fn fall_back(self) {
        let _ = self.answer.send(Answer::Fallback);
    }
}

/// How much to lease ahead: what is used in a batch's time.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "it saturates, and is not negative"
)]
fn ahead(demand: f64, settings: &Settings) -> u32 {
    (demand as u32).min(settings.most_ahead()).min(MOST / 2)
}
