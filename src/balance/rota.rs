//! Who may be chosen from, right now.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{ewma::Terms, ring::Ring, turn::smooth_round, urn::Urn};
use crate::{
    config::policy::{BalancerPolicy, Balancing, Percent, SlowStart},
    policy::Stamp,
};

/// What is known of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    /// Its share of the traffic, relative to the others; 0 = none.
    pub weight: u32,
    /// 0 is used first.
    pub tier: u8,
    /// Where it is.
    pub zone: Zone,
    /// Whether it may be used.
    pub state: MemberState,
    /// Since when it has been back, or there at all when it came later than the others: its slow start begins then.
    /// `None` = it was there from the beginning.
    pub back_since: Option<Stamp>,
}

/// Where an endpoint is, seen from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Zone {
    /// In one's own zone.
    Same,
    /// In another one.
    Other,
    /// It is not said of the endpoint, or of oneself.
    #[default]
    Unknown,
}

/// Whether an endpoint may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MemberState {
    /// It may: its checks pass, or none has ended yet, or there are none.
    #[default]
    Ready,
    /// Its active health checks say no.
    Unhealthy,
    /// Its own results say no.
    Ejected,
}

/// The settings that a rota is built by.
#[derive(Debug, Clone, Copy)]
pub struct Rules<'a> {
    /// How endpoints are chosen.
    pub balancing: &'a Balancing,
    /// How endpoints that are back are brought up.
    pub slow_start: &'a SlowStart,
    /// The share of a tier that has to be ready.
    pub min_healthy: Percent,
    /// For [`BalancerPolicy::RingHash`]: the ring of the same members in the same order. Without it that policy draws.
    pub ring: Option<&'a Arc<Ring>>,
}

/// Who may be chosen from right now, and in which way. It does not change; see [`Self::valid_until`].
///
/// **Tiers.** A tier holds when at least `min_healthy` of its endpoints are ready, and at least one. The lowest tier
/// that holds is used, and with it what is ready in those below it: they are what is wanted, only too few. Endpoints are
/// counted, not weighed: ejection counts, too (`max_share`), and what it may take out must not lead to panic. Those of
/// weight 0 do not count at all.
///
/// **Panic.** No tier holds. Every endpoint with a weight is a candidate then, whatever its tier and its state, but
/// only for what the [`Gate`](super::Gate) lets through. One of one unhealthy is panic; an upstream without
/// health checks in which nothing is ejected never is in it.
///
/// **Zones.** Of the candidates, those in one's own zone are preferred while the zone has capacity: the weight of its
/// ready endpoints is at least `min_healthy` of the weight that it has in the tiers in use. [`BalancerPolicy::PeakEwma`] and
/// [`BalancerPolicy::LeastRequest`] spill over when the best that they draw there is more than twice as strained as the best
/// that they draw elsewhere; see [`Self::pick`]. The ring knows no zones: a key belongs to one endpoint, wherever one asks.
///
/// **Slow start.** An endpoint that is back has `from` of its weight, and from there all of it within `window`, linearly.
/// Weights are relative: where all endpoints came at the same moment, nobody is slow.
#[derive(Debug)]
pub struct Rota {
    pub(super) policy: BalancerPolicy,
    pub(super) terms: Terms,
    /// How many times its share of all that is in flight one may have on the ring.
    pub(super) bound: f64,
    pub(super) standing: Standing,
    /// Who is chosen from: one's own zone where it is preferred, else everybody.
    pub(super) near: Urn,
    /// The other candidates, where one's own zone is preferred.
    pub(super) far: Urn,
    /// For each member the mean weight of the candidates by its own: what one request in flight to it counts. 0 = it
    /// is no candidate.
    pub(super) burden: Vec<f64>,
    /// The order of round robin among `near`, by place.
    pub(super) round: Vec<u32>,
    pub(super) ring: Option<Arc<Ring>>,
    valid_until: Option<Stamp>,
}

/// How an upstream stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// Enough of it is ready.
    Serving {
        /// The tier that holds.
        tier: u8,
    },
    /// Too little is: see [`Rota`].
    Panic,
    /// There is nothing with a weight.
    Empty,
}

impl Rota {
    /// Who of these may be chosen from. The positions in the slice are what [`Self::pick`] gives.
    pub fn build(members: &[Member], rules: &Rules<'_>, now: Stamp) -> Self {
        let standing = standing(members, rules.min_healthy);
        let candidate = |member: &Member| match standing {
            Standing::Serving { tier } => member.state == MemberState::Ready && member.tier <= tier,
            Standing::Panic => true,
            Standing::Empty => false,
        };
        let candidates = members.iter().enumerate().filter(|(_, m)| m.weight > 0 && candidate(m));
        let slow = if standing == Standing::Panic { SlowRun::default() } else { SlowRun::of(rules, now) };
        let ramp = Ramp::of(candidates.clone().map(|(_, member)| member), &slow);
        let weighed: Vec<_> =
            candidates.map(|(index, member)| (index, member, ramp.weight(member))).collect();

        let policy = rules.balancing.policy;
        let keep_near = match standing {
            Standing::Serving { tier } => {
                policy != BalancerPolicy::RingHash && own_zone_has_capacity(members, tier, rules.min_healthy)
            }
            Standing::Panic | Standing::Empty => false,
        };
        let is_near = |member: &Member| !keep_near || member.zone == Zone::Same;
        let urn = |near: bool| {
            let side = weighed.iter().filter(|(_, member, _)| is_near(member) == near);
            Urn::new(side.map(|&(index, _, weight)| (index, weight)))
        };
        let round = if policy == BalancerPolicy::RoundRobin {
            let side = weighed.iter().filter(|(_, member, _)| is_near(member));
            smooth_round(&side.map(|(.., weight)| *weight).collect::<Vec<_>>())
        } else {
            Vec::new()
        };
        Self {
            policy,
            terms: Terms::of(rules.balancing),
            bound: 1.0 + rules.balancing.excess.part(),
            standing,
            near: urn(true),
            far: urn(false),
            burden: burdens(members.len(), &weighed),
            round,
            ring: rules.ring.filter(|_| policy == BalancerPolicy::RingHash).cloned(),
            valid_until: ramp.until,
        }
    }

    /// How the upstream stands.
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// Until when it holds, if nothing else changes: while somebody is in slow start that is one step of it, 100 ms to
    /// 1 s. `None` = for ever.
    pub fn valid_until(&self) -> Option<Stamp> {
        self.valid_until
    }

    /// What estimates go by in it.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// Whether a member may be chosen at all.
    pub fn is_candidate(&self, member: usize) -> bool {
        self.burden.get(member).is_some_and(|&burden| burden > 0.0)
    }

    /// The part of all candidates' weight that a member has now, slow start and all; 0 for those that are none. It is
    /// its part of the traffic, where neither cost nor zones come into it.
    pub fn part(&self, member: usize) -> f64 {
        let burden = self.burden.get(member).copied().unwrap_or(0.0);
        if burden > 0.0 { 1.0 / (burden * self.candidates()) } else { 0.0 }
    }

    /// How many candidates there are.
    pub(super) fn candidates(&self) -> f64 {
        float(self.near.len() + self.far.len())
    }
}

/// The lowest tier that holds, if any does.
fn standing(members: &[Member], min_healthy: Percent) -> Standing {
    let weighty = || members.iter().filter(|member| member.weight > 0);
    let tiers: BTreeSet<_> = weighty().map(|member| member.tier).collect();
    if tiers.is_empty() {
        return Standing::Empty;
    }
    let holds = |tier: &u8| {
        let of_it = || weighty().filter(|member| member.tier == *tier);
        let ready = of_it().filter(|member| member.state == MemberState::Ready).count();
        ready > 0 && min_healthy.is_reached_by(whole(ready), whole(of_it().count()))
    };
    tiers.into_iter().find(holds).map_or(Standing::Panic, |tier| Standing::Serving { tier })
}

/// Whether one's own zone has ready endpoints, and enough of them. What a slow start holds back counts as there.
fn own_zone_has_capacity(members: &[Member], tier: u8, min_healthy: Percent) -> bool {
    let own = || members.iter().filter(|member| member.zone == Zone::Same && member.tier <= tier);
    let all: u64 = own().map(|member| u64::from(member.weight)).sum();
    let ready = own().filter(|member| member.state == MemberState::Ready);
    let ready: u64 = ready.map(|member| u64::from(member.weight)).sum();
    ready > 0 && min_healthy.is_reached_by(ready, all)
}

/// See [`Rota::burden`].
fn burdens(members: usize, weighed: &[(usize, &Member, u64)]) -> Vec<f64> {
    let mut burdens = vec![0.0; members];
    let total: u64 = weighed.iter().map(|(.., weight)| *weight).sum();
    for (index, _, weight) in weighed {
        if let Some(burden) = burdens.get_mut(*index) {
            *burden = (float(total) / float(weighed.len())) / float(*weight);
        }
    }
    burdens
}

/// The slow start as it is at one moment.
#[derive(Debug, Default)]
struct SlowRun {
    window: Duration,
    from: u64,
    now: Option<Stamp>,
}

/// All of a weight, in the parts in which slow start counts: basis points.
const WHOLE: u64 = 10_000;

impl SlowRun {
    fn of(rules: &Rules<'_>, now: Stamp) -> Self {
        // From nothing there is no way up: nobody would ever be drawn.
        let from = u64::from(rules.slow_start.from.points()).max(WHOLE / 100);
        Self { window: rules.slow_start.window, from, now: Some(now) }
    }

    /// How long it has been running for a member; `None` when it does not.
    fn elapsed(&self, member: &Member) -> Option<Duration> {
        let elapsed = self.now?.since(member.back_since?);
        (elapsed < self.window).then_some(elapsed)
    }

    /// The part of its weight that a member has, in basis points.
    fn part(&self, member: &Member) -> u64 {
        let Some(elapsed) = self.elapsed(member) else { return WHOLE };
        let way = u128::from(WHOLE - self.from) * elapsed.as_micros() / self.window.as_micros().max(1);
        (self.from + u64::try_from(way).unwrap_or(0)).min(WHOLE)
    }
}

/// The weights of one rota's candidates.
struct Ramp<'a> {
    slow: &'a SlowRun,
    /// Somebody has less than somebody else.
    uneven: bool,
    until: Option<Stamp>,
}

impl<'a> Ramp<'a> {
    fn of<'m>(candidates: impl Iterator<Item = &'m Member> + Clone, slow: &'a SlowRun) -> Self {
        let mut parts = candidates.clone().map(|member| slow.part(member));
        let first = parts.next();
        let uneven = parts.any(|part| Some(part) != first);
        // A hundredth of the window is a step that nobody notices.
        let step = (slow.window / 100).clamp(Duration::from_millis(100), Duration::from_secs(1));
        let left = |member: &Member| slow.window.checked_sub(slow.elapsed(member)?);
        let until = candidates.filter_map(left).min().and_then(|left| Some(slow.now?.after(left.min(step))));
        Self { slow, uneven, until: until.filter(|_| uneven) }
    }

    /// At least 1: what has a weight stays in.
    fn weight(&self, member: &Member) -> u64 {
        let weight = u64::from(member.weight);
        if self.uneven { (weight * self.slow.part(member)).max(1) } else { weight }
    }
}

/// For numbers of endpoints and sums of weights.
fn whole(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}

/// For proportions, where the last digits do not matter.
#[expect(clippy::cast_precision_loss, reason = "a proportion does not depend on the last digits")]
pub(super) fn float(number: impl TryInto<u64>) -> f64 {
    number.try_into().unwrap_or(u64::MAX) as f64
}

#[cfg(test)]
mod tests;
