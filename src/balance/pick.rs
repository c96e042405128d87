//! Choosing one of a rota.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{
    ewma::Latency,
    gate::Gate,
    rota::{Rota, Standing, float},
};
use crate::{config::policy::BalancerPolicy, policy::Stamp};

/// How much more strained one's own zone may be than another one.
const ZONE_PREFERENCE: f64 = 2.0;

/// So many requests in flight to one endpoint say nothing of its zone's capacity.
const ZONE_SLACK: f64 = 4.0;

/// An endpoint with something to prove takes at most one of so many of the requests.
const PROOFS: usize = 8;

/// The same for one that has just begun to fail; see [`Latency::is_suspect`].
const FIRST_PROOFS: usize = 2;

/// So many points of a ring are looked at.
const LONGEST_WALK: usize = 4096;

/// What an upstream remembers from one [`Rota`] to the next.
#[derive(Debug, Default)]
pub struct Memory {
    /// Where round robin is.
    turn: AtomicU64,
    gate: Gate,
}

/// What is known of an endpoint's load at the moment.
#[derive(Debug, Clone, Copy)]
pub struct Load<'a> {
    /// Requests that it has not answered in full.
    pub in_flight: u32,
    /// What it needs for one.
    pub latency: &'a Latency,
}

/// A request that wants an endpoint.
#[derive(Debug, Clone, Copy)]
pub struct Ask<'a> {
    /// The upstream's.
    pub memory: &'a Memory,
    /// The present.
    pub now: Stamp,
    /// The hash of its key, the same on every instance; `None` when it has none. For [`BalancerPolicy::RingHash`].
    pub hash: Option<u64>,
}

/// Who was chosen, by its position among the members of the rota.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pick {
    /// This one.
    One(usize),
    /// This one, though nobody takes it as ready: the upstream is in panic, and this request finds out whether it still
    /// has to be.
    Probe(usize),
    /// Nobody: the upstream is in panic, and others are finding out.
    Refused,
    /// Nobody: there is no endpoint with a weight.
    Nobody,
}

impl Pick {
    /// Where the request goes, if anywhere.
    pub fn endpoint(self) -> Option<usize> {
        match self {
            Self::One(index) | Self::Probe(index) => Some(index),
            Self::Refused | Self::Nobody => None,
        }
    }
}

impl Rota {
    /// Chooses an endpoint for a request.
    ///
    /// `load` says how busy a member is. `tried` says which ones this request has been to: one of those is chosen
    /// only when there is no other candidate.
    ///
    /// The cost of a member is `estimate × (in_flight × mean weight / weight + 1)` for [`BalancerPolicy::PeakEwma`], and
    /// the same without the estimate for [`BalancerPolicy::LeastRequest`]. The request itself counts as one whatever
    /// the weight is: the draw goes by weight already, and when nothing is in flight it decides. Of equals the first one
    /// drawn is taken.
    ///
    /// A member that has something to [prove](Latency) and was drawn is taken in spite of its cost once a second, but for
    /// at most about one of eight requests: with little traffic, one a second would be most of it.
    ///
    /// How strained a zone is, for spilling over, is the cost with four requests more in flight everywhere: an instance
    /// knows of its own requests only, and a few of them are no sign of anything.
    pub fn pick<'l>(
        &self,
        ask: &Ask<'_>,
        rng: &mut fastrand::Rng,
        load: impl Fn(usize) -> Load<'l>,
        tried: impl Fn(usize) -> bool,
    ) -> Pick {
        let panic = match self.standing {
            Standing::Empty => return Pick::Nobody,
            Standing::Panic if !ask.memory.gate.admits(ask.now) => return Pick::Refused,
            Standing::Panic => true,
            Standing::Serving { .. } => false,
        };
        let choice = Choice { rota: self, ask, load, tried };
        let picked = if self.near.len() == 1 && self.far.is_empty() {
            // The application behind an inbound listener, usually: nothing to choose.
            self.near.member(0)
        } else {
            let first = if panic { choice.drawn(rng) } else { choice.first(rng) };
            first.map(|first| if (choice.tried)(first) { choice.other(rng).unwrap_or(first) } else { first })
        };
        match picked {
            Some(index) if panic => Pick::Probe(index),
            Some(index) => Pick::One(index),
            None => Pick::Nobody,
        }
    }
}

/// One choice that is being made.
struct Choice<'a, L, T> {
    rota: &'a Rota,
    ask: &'a Ask<'a>,
    load: L,
    tried: T,
}

impl<'l, L: Fn(usize) -> Load<'l>, T: Fn(usize) -> bool> Choice<'_, L, T> {
    /// By the policy. It may be one that was tried.
    fn first(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        match self.rota.policy {
            BalancerPolicy::PeakEwma | BalancerPolicy::LeastRequest => self.cheaper(rng),
            BalancerPolicy::RoundRobin => self.next_in_turn(),
            BalancerPolicy::Random => self.drawn(rng),
            BalancerPolicy::RingHash => self.on_the_ring().or_else(|| self.drawn(rng)),
        }
    }

    fn drawn(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        self.rota.near.draw(rng).and_then(|place| self.rota.near.member(place))
    }

    fn next_in_turn(&self) -> Option<usize> {
        let length = u64::try_from(self.rota.round.len()).ok().filter(|&length| length > 0)?;
        let turn = self.ask.memory.turn.fetch_add(1, Ordering::Relaxed) % length;
        let place = *self.rota.round.get(usize::try_from(turn).ok()?)?;
        self.rota.near.member(usize::try_from(place).ok()?)
    }

    /// One's own zone's, unless it is strained and another one is not.
    fn cheaper(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let own = self.lesser_of_two(rng, true)?;
        if self.rota.far.is_empty() || (self.tried)(own) {
            return Some(own);
        }
        let Some(away) = self.lesser_of_two(rng, false) else { return Some(own) };
        let strain = |index| self.cost(index, ZONE_SLACK).0;
        let spills = !(self.tried)(away) && strain(own) > ZONE_PREFERENCE * strain(away);
        Some(if spills { away } else { own })
    }

    /// Power of two choices (Mitzenmacher, 2001): of two drawn at random by weight, the one that costs less.
    fn lesser_of_two(&self, rng: &mut fastrand::Rng, near: bool) -> Option<usize> {
        let urn = if near { &self.rota.near } else { &self.rota.far };
        let place = urn.draw(rng)?;
        let first = urn.member(place)?;
        let Some(second) = urn.draw_other(rng, place).and_then(|other| urn.member(other)) else {
            return Some(first);
        };
        if (self.tried)(second) {
            return Some(first);
        }
        if (self.tried)(first) {
            return Some(second);
        }
        let ((first_cost, first_unproven), (second_cost, second_unproven)) =
            (self.cost(first, 1.0), self.cost(second, 1.0));
        let (better, other, unproven) = if second_cost < first_cost {
            (second, first, first_unproven)
        } else {
            (first, second, second_unproven)
        };
        if !near || !unproven {
            return Some(better);
        }
        let Load { in_flight, latency } = (self.load)(other);
        let suspect = latency.is_suspect();
        let proofs = if suspect { FIRST_PROOFS } else { PROOFS };
        // A member is drawn for two of as many requests as there are members; this evens out how often it is asked. One that
        // has just begun to fail is asked one by one: where it hangs, nobody else is sent after the first.
        let proves = (!suspect || in_flight == 0) && rng.usize(..2 * proofs) < urn.len();
        Some(if proves && latency.claim(self.ask.now) { other } else { better })
    }

    /// What a request costs there, where `own` is what it counts itself; and whether it has something to prove. One
    /// that never answered and is being asked has not: should it hang, one is enough.
    fn cost(&self, index: usize, own: f64) -> (f64, bool) {
        let load = (self.load)(index);
        let burden = self.rota.burden.get(index).copied().unwrap_or(0.0);
        let busy = f64::from(load.in_flight) * burden + own;
        if self.rota.policy == BalancerPolicy::PeakEwma {
            let (estimate, unproven) = load.latency.read(self.ask.now, &self.rota.terms);
            let asked = || load.in_flight > 0 && !load.latency.is_measured();
            (f64::from(estimate) * busy, unproven && !asked())
        } else {
            (busy, false)
        }
    }

    /// The first candidate from the key's place on that is not too busy ("Consistent Hashing with Bounded Loads",
    /// Mirrokni et al., 2016); the first one at all when all are.
    fn on_the_ring(&self) -> Option<usize> {
        let (ring, hash) = (self.rota.ring.as_ref()?, self.ask.hash?);
        let mut busy = None;
        let mut bound = None;
        for index in ring.walk(hash).take(LONGEST_WALK) {
            if !self.rota.is_candidate(index) || (self.tried)(index) {
                continue;
            }
            let in_flight = (self.load)(index).in_flight;
            // Nobody's share of something is less than one request.
            if in_flight == 0 || self.burdened(index, in_flight) < *bound.get_or_insert_with(|| self.bound())
            {
                return Some(index);
            }
            busy.get_or_insert(index);
        }
        busy
    }

    fn burdened(&self, index: usize, in_flight: u32) -> f64 {
        self.rota.burden.get(index).map_or(f64::MAX, |burden| burden * f64::from(in_flight))
    }

    /// What the mean endpoint has in flight when it is full; exactly full is full, whatever rounding makes of it.
    fn bound(&self) -> f64 {
        let in_flight: u64 =
            self.rota.near.members().map(|index| u64::from((self.load)(index).in_flight)).sum();
        self.rota.bound * float(in_flight + 1) / self.rota.candidates() * (1.0 - 1e-9)
    }

    /// The one that costs least of those that were not tried, one's own zone's first. For retries only: it looks at
    /// everybody.
    fn other(&self, rng: &mut fastrand::Rng) -> Option<usize> {
        let best_of = |members: &mut dyn Iterator<Item = usize>, rng: &mut fastrand::Rng| {
            members
                .filter(|&index| !(self.tried)(index))
                .map(|index| (index, self.cost(index, 1.0).0, rng.u32(..)))
                .min_by(|a, b| a.1.total_cmp(&b.1).then(a.2.cmp(&b.2)))
                .map(|(index, ..)| index)
        };
        best_of(&mut self.rota.near.members(), rng).or_else(|| best_of(&mut self.rota.far.members(), rng))
    }
}

#[cfg(test)]
mod tests;
