//! What an edit of a limit keeps.

use std::{num::NonZeroU32, sync::Arc};

use super::{
    Limiter, Machine, Settings, Stamp,
    fixed::Fixed,
    law::{Law, Level},
    leaky::Leaky,
    sliding::{SLOTS, Sliding},
    store::Store,
    token::Token,
};
use crate::config::policy::Algorithm;

impl Limiter {
    /// The limiter of other settings, with the same keys. An edit never refills a bucket, and takes nothing but what is
    /// above a smaller burst:
    ///
    /// - Another rate, burst or share: the same buckets go on, at once. Tokens stay, up to the new burst, and more burst
    ///   fills at the rate (keys that were never seen too). In a window what was used stays used, in a leaky bucket the
    ///   queue stays.
    /// - Another unit of a window: what is used in the window that is now is used in the new one.
    /// - Another algorithm: the share of the burst or of the count that is used stays the same, rounded up.
    /// - Other `max_keys`: the most recently used buckets stay.
    ///
    /// The last three make new buckets: what others take from the old ones in these microseconds is not in the new ones.
    #[must_use]
    pub fn edited(&self, settings: Settings, max_keys: Option<u32>, now: Stamp) -> Self {
        let same_keys = self.max_keys == max_keys;
        let machine = match (&self.machine, settings.algorithm) {
            _ if same_keys && self.settings == settings => self.machine.clone(),
            (Machine::Token(old, store), Algorithm::TokenBucket { .. }) => {
                let law = old.edited(&settings, now);
                let store = self.kept(store, &law, max_keys, now);
                Machine::Token(law, store)
            }
            (Machine::Leaky(old, store), Algorithm::LeakyBucket { max_wait, .. }) => {
                let law = old.edited(&settings, max_wait, now);
                let store = self.kept(store, &law, max_keys, now);
                Machine::Leaky(law, store)
            }
            (Machine::Fixed(_, store), Algorithm::FixedWindow)
                if self.settings.rate.per == settings.rate.per =>
            {
                let law = Fixed::new(&settings, self.epoch);
                let store = self.kept(store, &law, max_keys, now);
                Machine::Fixed(law, store)
            }
            (Machine::Sliding(_, store), Algorithm::SlidingWindow)
                if self.settings.rate.per == settings.rate.per =>
            {
                let law = Sliding::new(&settings);
                let store = self.kept(store, &law, max_keys, now);
                Machine::Sliding(law, store)
            }
            _ => self.converted(&settings, max_keys, now),
        };
        Self { settings, max_keys, epoch: self.epoch, machine }
    }

    /// The limiter when the rate is shared by another number of instances.
    #[must_use]
    pub fn shared_by(&self, share: NonZeroU32, now: Stamp) -> Self {
        self.edited(Settings { share, ..self.settings }, self.max_keys, now)
    }

    /// The same buckets, or as many of them as there is place for.
    fn kept<const N: usize, L: Law<N>>(
        &self,
        store: &Arc<Store<N>>,
        law: &L,
        max_keys: Option<u32>,
        now: Stamp,
    ) -> Arc<Store<N>> {
        if self.max_keys == max_keys {
            Arc::clone(store)
        } else {
            Arc::new(Store::converted(store, max_keys, now, law.fresh(now), |words| words))
        }
    }

    /// New buckets of which as much is used.
    fn converted(&self, settings: &Settings, max_keys: Option<u32>, now: Stamp) -> Machine {
        match settings.algorithm {
            Algorithm::TokenBucket { .. } => {
                let law = Token::new(settings, now);
                let store = self.refilled(&law, settings, max_keys, now);
                Machine::Token(law, store)
            }
            Algorithm::LeakyBucket { max_wait, .. } => {
                let law = Leaky::new(settings, max_wait, now);
                let store = self.refilled(&law, settings, max_keys, now);
                Machine::Leaky(law, store)
            }
            Algorithm::FixedWindow => {
                let law = Fixed::new(settings, self.epoch);
                let store = self.refilled(&law, settings, max_keys, now);
                Machine::Fixed(law, store)
            }
            Algorithm::SlidingWindow => {
                let law: Sliding = Sliding::new(settings);
                let store: Arc<Store<SLOTS>> = self.refilled(&law, settings, max_keys, now);
                Machine::Sliding(law, store)
            }
        }
    }

    fn refilled<const N: usize, L: Law<N>>(
        &self,
        law: &L,
        settings: &Settings,
        max_keys: Option<u32>,
        now: Stamp,
    ) -> Arc<Store<N>> {
        let windows = |algorithm| matches!(algorithm, Algorithm::SlidingWindow | Algorithm::FixedWindow);
        let same = windows(self.settings.algorithm) && windows(settings.algorithm);
        // From window to window it is requests that were granted; from one kind to another only shares can be compared.
        let convert = |level: Level| law.filled(if same { level } else { level.scaled(law.most()) }, now);
        let fresh = law.fresh(now);
        Arc::new(match &self.machine {
            Machine::Token(old, store) => refill(old, store, max_keys, now, fresh, convert),
            Machine::Leaky(old, store) => refill(old, store, max_keys, now, fresh, convert),
            Machine::Fixed(old, store) => refill(old, store, max_keys, now, fresh, convert),
            Machine::Sliding(old, store) => refill(old, store, max_keys, now, fresh, convert),
        })
    }
}

fn refill<const M: usize, const N: usize, L: Law<M>>(
    old: &L,
    store: &Store<M>,
    max_keys: Option<u32>,
    now: Stamp,
    fresh: [u64; N],
    convert: impl Fn(Level) -> [u64; N],
) -> Store<N> {
    let convert = |words: [u64; M]| convert(old.level(&words.map(std::sync::atomic::AtomicU64::new), now));
    Store::converted(store, max_keys, now, fresh, convert)
}
