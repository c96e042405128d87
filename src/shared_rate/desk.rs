//! The books of the thread: who waits for what, what is asked of Redis, and what becomes of what it says. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{
    IDLE,
    call::{Call, Reply, Want, hex},
    lease::{Lease, MOST},
    limit::{Answer, Gate, SharedLimit},
    settings::Settings,
};
use crate::{config::Name, policy::Stamp};

/// A lease is given back when nobody has used it for so long, and may go to another key.
const AT_REST: Duration = Duration::from_millis(300);

/// The most calls of one batch.
const MOST_CALLS: usize = 512;

/// The most leaky turns of one call.
const MOST_TURNS: usize = 256;

/// Which lease: the limit's number, and the lease's tag.
type Place = (u32, u64);

/// The books.
#[derive(Debug)]
pub(super) struct Desk {
    service: Name,
    gate: Arc<Gate>,
    limits: BTreeMap<u32, Counter>,
    /// The leases that are to be asked for, in this order; each at most once.
    due: VecDeque<Place>,
    /// Those for which Redis is being asked.
    asked: Vec<Asked>,
    /// Nothing is leased any more.
    closing: bool,
}

#[derive(Debug)]
struct Counter {
    limit: Weak<SharedLimit>,
    accounts: HashMap<u64, Account>,
}

/// What the thread knows of a lease.
#[derive(Debug)]
struct Account {
    /// Its key in Redis.
    key: String,
    waiting: VecDeque<Waiter>,
    /// Whether it is in `due`.
    due: bool,
    /// What was in the lease when the thread last left it.
    filled: u32,
    /// What was used in the last while, and at which moment that was so.
    demand: f64,
    at: Stamp,
    /// From which window the tokens in the lease are.
    window: u64,
    /// What goes back to Redis with the next call, and to which window.
    back: u32,
    back_to: u64,
}

#[derive(Debug)]
struct Waiter {
    cost: u32,
    answer: oneshot::Sender<Answer>,
}

/// A lease for which Redis is being asked.
#[derive(Debug)]
struct Asked {
    place: Place,
    settings: Arc<Settings>,
    want: Want,
    /// What was taken out of the lease for those who wait.
    pool: u32,
    /// Since when it cannot be had: what the first of those who wait costs.
    first: u32,
}

impl Desk {
    pub(super) fn new(service: Name, gate: Arc<Gate>) -> Self {
        Self {
            service,
            gate,
            limits: BTreeMap::new(),
            due: VecDeque::new(),
            asked: Vec::new(),
            closing: false,
        }
    }

    /// There is a limit.
    pub(super) fn add(&mut self, limit: Weak<SharedLimit>) {
        if let Some(number) = limit.upgrade().map(|limit| limit.number()) {
            self.limits.insert(number, Counter { limit, accounts: HashMap::new() });
        }
    }

    /// A request waits.
    pub(super) fn ask(
        &mut self,
        (number, tag): Place,
        key: &[u8],
        cost: u32,
        answer: oneshot::Sender<Answer>,
        now: Stamp,
    ) {
        let service = &self.service;
        let Some(counter) = self.limits.get_mut(&number) else { return };
        let Some(limit) = counter.limit.upgrade() else { return };
        let settings = limit.settings();
        if cost > settings.most() {
            let _ = answer.send(Answer::Refused { retry_after: None, remaining: 0 });
            return;
        }
        let accounts = &mut counter.accounts;
        let free =
            |tag: u64| accounts.get(&tag).is_none_or(|account| account.waiting.is_empty() && !account.due);
        let Some((_, before)) = limit.leases.assign(tag, now, free) else { return };
        accounts.remove(&before);
        let account = accounts
            .entry(tag)
            .or_insert_with(|| Account::new(redis_key(service, limit.name(), &settings, key), now));
        account.waiting.push_back(Waiter { cost, answer });
        if !std::mem::replace(&mut account.due, true) {
            self.due.push_back((number, tag));
        }
    }

    /// A lease is half empty.
    pub(super) fn refill(&mut self, (number, tag): Place) {
        let account = self.limits.get_mut(&number).and_then(|counter| counter.accounts.get_mut(&tag));
        if let Some(account) = account
            && !std::mem::replace(&mut account.due, true)
        {
            self.due.push_back((number, tag));
        }
    }

    /// Whether there is something to ask.
    pub(super) fn is_due(&self) -> bool {
        !self.due.is_empty()
    }

    /// What to ask now. [`Self::settle`] or [`Self::fail`] has to follow.
    pub(super) fn calls(&mut self, now: Stamp) -> Vec<Call> {
        let mut calls = Vec::new();
        while calls.len() < MOST_CALLS
            && let Some(place) = self.due.pop_front()
        {
            let Some(counter) = self.limits.get_mut(&place.0) else { continue };
            let (Some(limit), Some(account)) = (counter.limit.upgrade(), counter.accounts.get_mut(&place.1))
            else {
                continue;
            };
            account.due = false;
            let Some(lease) = limit.leases.find(place.1) else { continue };
            let settings = limit.settings();
            if let Some((want, pool)) = account.want(lease, &settings, now, self.closing) {
                let first = account.waiting.front().map_or(1, |waiter| waiter.cost);
                calls.push(Call::new(&settings, account.key.clone(), want));
                self.asked.push(Asked { place, settings, want, pool, first });
            }
        }
        calls
    }

    /// What Redis said to [`Self::calls`], in the same order. They were sent at `sent`.
    pub(super) fn settle(&mut self, replies: &[Reply], sent: Stamp, now: Stamp) {
        let tallies = &self.gate.tallies;
        tallies.calls.fetch_add(replies.len() as u64, Relaxed);
        for (asked, reply) in self.asked.drain(..).zip(replies) {
            tallies.leased.fetch_add(u64::from(reply.granted), Relaxed);
            tallies.returned.fetch_add(u64::from(asked.want.back), Relaxed);
            let Some(counter) = self.limits.get_mut(&asked.place.0) else { continue };
            let (Some(limit), Some(account)) =
                (counter.limit.upgrade(), counter.accounts.get_mut(&asked.place.1))
            else {
                continue;
            };
            let Some(lease) = limit.leases.find(asked.place.1) else { continue };
            account.settle(lease, &asked, *reply, sent, now);
            if !account.waiting.is_empty() && !std::mem::replace(&mut account.due, true) {
                self.due.push_back(asked.place);
            }
        }
    }

    /// Redis is away: nobody waits any longer, and nothing that was leased is used.
    pub(super) fn fail(&mut self) {
        self.asked.clear();
        self.due.clear();
        for counter in self.limits.values_mut() {
            for account in std::mem::take(&mut counter.accounts).into_values() {
                account.waiting.into_iter().for_each(Waiter::fall_back);
            }
            for lease in counter.limit.upgrade().iter().flat_map(|limit| limit.leases.all()) {
                lease.empty();
                lease.forget();
            }
        }
    }

    /// Finds what is to go back: what may not be used any more, and what nobody uses. `all`: everything, and nothing is
    /// leased any more.
    pub(super) fn sweep(&mut self, now: Stamp, all: bool) {
        self.closing = all;
        self.limits.retain(|_, counter| counter.limit.strong_count() > 0);
        for (number, counter) in &mut self.limits {
            let Some(limit) = counter.limit.upgrade() else { continue };
            counter.accounts.retain(|tag, account| {
                let Some(lease) = limit.leases.find(*tag) else { return false };
                if lease.left() > 0 && (all || !lease.holds(now) || lease.idle(now) > AT_REST) {
                    account.put_aside(lease.empty());
                    account.filled = 0;
                }
                if account.back > 0 && !std::mem::replace(&mut account.due, true) {
                    self.due.push_back((*number, *tag));
                }
                account.due || !account.waiting.is_empty() || lease.idle(now) < IDLE * 60
            });
        }
    }
}

impl Account {
    fn new(key: String, now: Stamp) -> Self {
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
    fn want(&mut self, lease: &Lease, settings: &Settings, now: Stamp, closing: bool) -> Option<(Want, u32)> {
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
        let least = first.saturating_sub(pool);
        Some((Want { least, most: missing.max(least), chunk: 1, back, window }, pool))
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
    fn put_aside(&mut self, tokens: u32) {
        if tokens > 0 {
            let before = if self.back_to == self.window { self.back } else { 0 };
            (self.back, self.back_to) = (before.saturating_add(tokens), self.window);
        }
    }

    fn settle(&mut self, lease: &Lease, asked: &Asked, reply: Reply, sent: Stamp, now: Stamp) {
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
        let refused = Answer::Refused { retry_after: reply.wait, remaining: reply.left };
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
    fn fall_back(self) {
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

/// Where a limit's count is. What clients send is in it as a digest only; the braces keep a limit on one node of a
/// cluster.
fn redis_key(service: &Name, limit: &Name, settings: &Settings, key: &[u8]) -> String {
    let space = settings.space();
    if settings.max_keys.is_none() {
        return format!("weir:{{{service}/{limit}}}:{space}");
    }
    let digest = ring::digest::digest(&ring::digest::SHA256, key);
    let short = digest.as_ref().get(..16).unwrap_or_default();
    format!("weir:{{{service}/{limit}}}:{space}:{}", hex(short))
}

#[cfg(test)]
mod tests;
