//! The books of the thread: who waits for what, what is asked of Redis, and what becomes of what it says. Pure.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Weak, atomic::Ordering::Relaxed},
};

use tokio::sync::oneshot;

use super::{
    IDLE,
    account::{AT_REST, Account, Asked, Waiter},
    call::{Call, Reply, hex},
    limit::{Answer, Gate, SharedLimit},
    settings::Settings,
};
use crate::{config::Name, policy::Stamp};

/// The most calls of one batch.
const MOST_CALLS: usize = 512;

/// Which lease: the limit's number, and the lease's tag.
pub(super) type Place = (u32, u64);

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
