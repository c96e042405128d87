//! A limit as requests see it.

use std::{
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::sync::{mpsc::UnboundedSender, oneshot};

use super::{PATIENCE, lease::Held, settings::Settings, table::Leases};
use crate::{config::Name, policy::Stamp};

/// What a shared limit says to a request.
#[derive(Debug)]
pub enum Take {
    /// It goes.
    Granted {
        /// What was left for all instances when Redis was last asked, and what is leased here; an estimate.
        remaining: u32,
        /// How long it waits before it goes: leaky buckets only.
        wait: Duration,
    },
    /// It does not.
    Refused {
        /// When it could; `None` = never, it costs more than the limit ever has.
        retry_after: Option<Duration>,
        /// What was left when Redis was last asked.
        remaining: u32,
    },
    /// Only Redis knows.
    Ask(Asking),
    /// Redis is away: the even share holds.
    Fallback,
}

/// What Redis said.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// As [`Take::Granted`].
    Granted {
        /// What is left for all instances.
        remaining: u32,
        /// How long it waits before it goes.
        wait: Duration,
    },
    /// As [`Take::Refused`].
    Refused {
        /// When it could; `None` = never.
        retry_after: Option<Duration>,
        /// What is left.
        remaining: u32,
    },
    /// Nothing, in time: the even share holds.
    Fallback,
}

/// What all limits and the thread share.
#[derive(Debug, Default)]
pub(super) struct Gate {
    /// Redis does not answer. True until it has answered for the first time.
    pub(super) away: AtomicBool,
    pub(super) tallies: Tallies,
}

/// Counters; each says what [`super::Counts`] says of it.
#[derive(Debug, Default)]
pub(super) struct Tallies {
    pub(super) calls: AtomicU64,
    pub(super) leased: AtomicU64,
    pub(super) returned: AtomicU64,
    pub(super) waited: AtomicU64,
    pub(super) late: AtomicU64,
    pub(super) outages: AtomicU64,
    pub(super) fallbacks: AtomicU64,
}

/// What workers tell the thread.
#[derive(Debug)]
pub(super) enum Message {
    /// There is a limit of this number.
    Limit(Weak<SharedLimit>),
    /// A request waits.
    Ask { limit: u32, tag: u64, key: Box<[u8]>, cost: u32, answer: oneshot::Sender<Answer> },
    /// A lease is half empty.
    Refill { limit: u32, tag: u64 },
    /// Give back what is leased, and end.
    Stop(std::sync::mpsc::SyncSender<()>),
}

/// One limit that is counted in Redis.
#[derive(Debug)]
pub struct SharedLimit {
    number: u32,
    name: Name,
    settings: ArcSwap<Settings>,
    pub(super) leases: Leases,
    fallbacks: AtomicU64,
    gate: Arc<Gate>,
    thread: UnboundedSender<Message>,
    me: Weak<Self>,
}

impl SharedLimit {
    pub(super) fn new(
        number: u32,
        name: Name,
        settings: Settings,
        gate: Arc<Gate>,
        thread: UnboundedSender<Message>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|me| Self {
            number,
            name,
            leases: Leases::new(settings.max_keys),
            settings: ArcSwap::from_pointee(settings),
            fallbacks: AtomicU64::new(0),
            gate,
            thread,
            me: me.clone(),
        })
    }

    /// Takes `cost` for one request. `key` is what the limit counts by and its hash (with a secret, all 64 bits good);
    /// `None`, and not looked at, where it has one bucket for all.
    ///
    /// Takes no lock and allocates nothing, unless it has to ask.
    pub fn take(&self, key: Option<(&[u8], u64)>, cost: u32, now: Stamp) -> Take {
        if self.gate.away.load(Relaxed) {
            return self.fall_back();
        }
        let tag = self.leases.tag(key.map_or(0, |(_, hash)| hash));
        if let Some(lease) = self.leases.find(tag) {
            if cost == 0 {
                return Take::Granted { remaining: lease.beyond(), wait: Duration::ZERO };
            }
            match lease.take(tag, cost, now) {
                Held::Granted { left, more } => {
                    if more {
                        // A thread that has ended fills nothing.
                        let _ = self.thread.send(Message::Refill { limit: self.number, tag });
                    }
                    let remaining = lease.beyond().saturating_add(left);
                    return Take::Granted { remaining, wait: Duration::ZERO };
                }
                Held::Refused(rest) => {
                    let remaining = lease.beyond().saturating_add(lease.left());
                    return Take::Refused { retry_after: Some(rest), remaining };
                }
                Held::Nothing => {}
            }
        }
        self.ask(tag, key.map_or(&[], |(key, _)| key), cost)
    }

    #[cold]
    fn fall_back(&self) -> Take {
        self.fallbacks.fetch_add(1, Relaxed);
        Take::Fallback
    }

    #[cold]
    fn ask(&self, tag: u64, key: &[u8], cost: u32) -> Take {
        let (answer, told) = oneshot::channel();
        let message = Message::Ask { limit: self.number, tag, key: key.into(), cost, answer };
        let Some(me) = self.me.upgrade().filter(|_| self.thread.send(message).is_ok()) else {
            return self.fall_back();
        };
        self.gate.tallies.waited.fetch_add(1, Relaxed);
        Take::Ask(Asking { limit: me, tag, cost, told })
    }

    /// Gives back what a request took that another limit has refused then. Turns of a leaky bucket are lost.
    pub fn give_back(&self, key: Option<(&[u8], u64)>, cost: u32) {
        self.back(self.leases.tag(key.map_or(0, |(_, hash)| hash)), cost);
    }

    fn back(&self, tag: u64, cost: u32) {
        if let Some(lease) = self.leases.find(tag).filter(|_| !self.settings.load().paced()) {
            lease.give_back(tag, cost);
        }
    }

    /// Whether Redis is away, and the even share holds.
    pub fn is_away(&self) -> bool {
        self.gate.away.load(Relaxed)
    }

    /// Its name.
    pub fn name(&self) -> &Name {
        &self.name
    }

    /// What it counts by now.
    pub fn settings(&self) -> Arc<Settings> {
        self.settings.load_full()
    }

    /// How many requests were left to the even share since it is there.
    pub fn fallbacks(&self) -> u64 {
        self.fallbacks.load(Relaxed)
    }

    /// How many leases it has: the keys that were used of late.
    pub fn leases(&self) -> usize {
        self.leases.all().count()
    }

    pub(super) fn number(&self) -> u32 {
        self.number
    }

    /// Counts by others from now on; what was taken stays taken.
    pub(super) fn set(&self, settings: Settings) {
        if **self.settings.load() != settings {
            self.settings.store(Arc::new(settings));
            // What was refused may go now.
            self.leases.all().for_each(super::lease::Lease::forget);
        }
    }
}

/// A request that waits for Redis. Dropping it gives back what was granted.
#[derive(Debug)]
#[must_use = "the request waits for what this says"]
pub struct Asking {
    limit: Arc<SharedLimit>,
    tag: u64,
    cost: u32,
    told: oneshot::Receiver<Answer>,
}

impl Asking {
    /// Waits for what Redis says, [`PATIENCE`] at most. Needs a tokio runtime with time.
    pub async fn answer(mut self) -> Answer {
        let told = if let Ok(told) = tokio::time::timeout(PATIENCE, &mut self.told).await {
            told.ok()
        } else {
            self.limit.gate.tallies.late.fetch_add(1, Relaxed);
            self.last_word()
        };
        if matches!(told, None | Some(Answer::Fallback)) {
            self.limit.fallbacks.fetch_add(1, Relaxed);
        }
        told.unwrap_or(Answer::Fallback)
    }

    /// What was said while this was given up. From now on the thread knows that nobody listens.
    fn last_word(&mut self) -> Option<Answer> {
        self.told.close();
        self.told.try_recv().ok()
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        if let Some(Answer::Granted { .. }) = self.last_word() {
            self.limit.back(self.tag, self.cost);
        }
    }
}
