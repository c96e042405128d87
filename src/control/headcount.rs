//! How many instances share what a service may have together, and how well that has to be known. Pure.

use std::time::{Duration, Instant};

use crate::config::{
    Policy,
    policy::{LimitScope, LimitState},
};

/// How long a lease lasts beyond its last renewal while instances share a limit. An instance that is killed is missed at
/// most this and [`SHARED_INTERVAL`] later, with a second more that etcd takes to see it: the rest of fifteen seconds is
/// what a busy machine takes.
const SHARED_LEASE: Duration = Duration::from_secs(8);

/// How often a lease is renewed, and instances are counted, while they share a limit. Two renewals may fail before the
/// lease ends.
const SHARED_INTERVAL: Duration = Duration::from_millis(2500);

/// How long the store has for each call meanwhile: a call that hangs must leave time for another one on another member.
const SHARED_TIMEOUT: Duration = Duration::from_secs(2);

/// So many are counted at every renewal; more of them less often, since counting costs the store as much as there are keys,
/// and one more or fewer of them hardly changes anybody's share.
const MANY: u64 = 1000;

/// The longest time between two counts, in renewals.
const RAREST_COUNT: u64 = 4;

/// Otherwise a lease outlives so many intervals, and at least [`SHORTEST_LEASE`].
const LEASE_INTERVALS: u32 = 3;

/// Otherwise a lease is not shorter than this: a store that is away for a moment is no reason to be gone.
const SHORTEST_LEASE: Duration = Duration::from_secs(15);

/// How long fewer instances than before are not believed once the store has been away: the leases of all of them may have
/// ended meanwhile, and all of them write again within that time.
const SETTLING: Duration = Duration::from_secs(12);

/// How often an instance shows itself in the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Pace {
    /// The time between two renewals of the lease.
    pub(super) interval: Duration,
    /// How long the lease lasts beyond the last one.
    pub(super) lease: Duration,
    /// The longest time for one call.
    pub(super) timeout: Duration,
    /// Whether somebody's share depends on it.
    pub(super) shared: bool,
}

impl Pace {
    /// The pace for a policy. It is faster than what is configured only for as long as instances share a limit: what ten
    /// thousand of them do every few seconds is felt by the store.
    pub(super) fn new(policy: &Policy, configured: Duration, timeout: Duration) -> Self {
        if has_shared_limits(policy) {
            return Self {
                interval: configured.min(SHARED_INTERVAL),
                lease: SHARED_LEASE,
                timeout: timeout.min(SHARED_TIMEOUT),
                shared: true,
            };
        }
        let lease = (configured * LEASE_INTERVALS).max(SHORTEST_LEASE);
        Self { interval: configured, lease, timeout, shared: false }
    }

    /// The time between two counts of so many instances.
    pub(super) fn count_interval(&self, instances: u64) -> Duration {
        let renewals = if self.shared { (instances / MANY).clamp(1, RAREST_COUNT) } else { 1 };
        self.interval * u32::try_from(renewals).unwrap_or(1)
    }
}

/// Whether a policy has a limit that all instances of the service have together.
pub(super) fn has_shared_limits(policy: &Policy) -> bool {
    policy.limits.values().any(|limit| limit.scope == LimitScope::Service && limit.state != LimitState::Off)
}

/// How many instances there are, as far as that can be trusted.
///
/// That there are more is believed at once. That there are fewer gives everybody a larger share, and is believed only of
/// a store that has been there all the time: one that was away for longer than a lease comes back without any keys, and
/// instances that have just started together do not see each other yet.
#[derive(Debug, Default)]
pub(super) struct Headcount {
    count: Option<u64>,
    trust: Trust,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Trust {
    /// What is counted is so.
    #[default]
    Settled,
    /// The store has been away, and has not answered since.
    Away,
    /// It has answered since then.
    SettledFrom(Instant),
}

impl Headcount {
    /// How many there were when this was kept, before the store says anything. Returns how many there are to be taken for.
    pub(super) fn restore(&mut self, kept: u64) -> u64 {
        if self.count.is_none() {
            self.trust = Trust::Away;
        }
        *self.count.get_or_insert(kept.max(1))
    }

    /// The store counts so many; at least one is here. Returns how many there are to be taken for.
    pub(super) fn counted(&mut self, count: u64, now: Instant) -> u64 {
        let count = count.max(1);
        if self.trust == Trust::Away {
            self.trust = Trust::SettledFrom(now + SETTLING);
        }
        if let Trust::SettledFrom(moment) = self.trust
            && moment <= now
        {
            self.trust = Trust::Settled;
        }
        let known = self.count.filter(|known| *known > count && self.trust != Trust::Settled);
        *self.count.insert(known.unwrap_or(count))
    }

    /// The store could not be asked, or has forgotten this instance: what it says next may not be all.
    pub(super) fn missed(&mut self) {
        self.trust = Trust::Away;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::{
        Name,
        policy::{Algorithm, Cost, Limit, LimitHeaders, LimitShare, Match},
        units::Rate,
    };

    fn limit(scope: LimitScope, state: LimitState) -> Policy {
        let name = Name::new("checkout").unwrap();
        let limit = Limit {
            name: name.clone(),
            matches: Match::default(),
            rate: Rate { count: 500, per: Duration::from_secs(1) },
            algorithm: Algorithm::FixedWindow,
            key: Vec::new(),
            max_keys: 1,
            scope,
            share: LimitShare::Even,
            cost: Cost::Fixed(1),
            state,
            headers: LimitHeaders::OnRefusal,
        };
        Policy { limits: [(name, Arc::new(limit))].into(), ..Policy::default() }
    }

    fn pace(policy: &Policy, configured: u64) -> Pace {
        Pace::new(policy, Duration::from_secs(configured), Duration::from_secs(5))
    }

    #[test]
    fn it_is_faster_only_while_a_limit_is_shared() {
        use LimitScope::{Instance, Service};
        use LimitState::{Observe, Off, On};
        for (scope, state, shared) in
            [(Instance, On, false), (Service, On, true), (Service, Observe, true), (Service, Off, false)]
        {
            assert_eq!(pace(&limit(scope, state), 10).shared, shared, "{scope:?} {state:?}");
        }
        let usual = pace(&Policy::default(), 10);
        let seconds = Duration::from_secs;
        assert_eq!((usual.interval, usual.lease, usual.timeout), (seconds(10), seconds(30), seconds(5)));
        assert_eq!(pace(&Policy::default(), 1).lease, seconds(15));
        let fast = pace(&limit(Service, On), 10);
        assert_eq!((fast.interval, fast.lease), (Duration::from_millis(2500), seconds(8)));
        assert_eq!(pace(&limit(Service, On), 1).interval, seconds(1), "never slower than it was");
        assert!(
            fast.interval + fast.timeout + seconds(2) < fast.lease,
            "a call that hangs leaves time for another"
        );
    }

    #[test]
    fn a_killed_instance_is_missed_in_time() {
        let fast = pace(&limit(LimitScope::Service, LimitState::On), 10);
        // A renewal takes up to a fifth longer than its interval, and etcd a second.
        let longest = fast.interval.mul_f64(1.2);
        assert!(fast.lease + longest + Duration::from_secs(1) < Duration::from_secs(15));
        assert!(2 * longest + fast.timeout <= fast.lease, "one that hangs does not end the lease");
    }

    #[test]
    fn many_are_counted_less_often() {
        let fast = pace(&limit(LimitScope::Service, LimitState::On), 10);
        let renewals = |instances| fast.count_interval(instances).as_millis() / fast.interval.as_millis();
        assert_eq!([0, 1, 999, 1999, 2000, 3500, 90_000].map(renewals), [1, 1, 1, 1, 2, 3, 4]);
        assert_eq!(pace(&Policy::default(), 10).count_interval(90_000), Duration::from_secs(10));
    }

    #[test]
    fn more_are_believed_at_once_and_fewer_of_a_store_that_was_there() {
        let (start, mut heads) = (Instant::now(), Headcount::default());
        let at = |seconds| start + Duration::from_secs(seconds);
        assert_eq!(heads.counted(0, at(0)), 1, "this one is there");
        assert_eq!(heads.counted(12, at(3)), 12);
        assert_eq!(heads.counted(5, at(6)), 5);
        // It was away, and all leases have ended meanwhile.
        heads.missed();
        assert_eq!(heads.counted(1, at(60)), 5);
        assert_eq!(heads.counted(7, at(63)), 7);
        assert_eq!(heads.counted(6, at(66)), 7);
        // And again before that was over.
        heads.missed();
        assert_eq!(heads.counted(2, at(71)), 7);
        assert_eq!(heads.counted(2, at(82)), 7);
        assert_eq!(heads.counted(2, at(83)), 2);
        assert_eq!(heads.counted(1, at(84)), 1);
    }

    #[test]
    fn what_was_kept_holds_until_the_others_can_have_come() {
        let (start, mut heads) = (Instant::now(), Headcount::default());
        assert_eq!(heads.restore(10), 10);
        assert_eq!(heads.counted(1, start), 10, "all of them start again");
        assert_eq!(heads.counted(3, start + SETTLING), 3);
        assert_eq!(heads.restore(10), 3, "what is counted is newer");
        assert_eq!(Headcount::default().restore(0), 1);
    }
}
