//! A snapshot in the hands of one worker.

use std::{
    cell::{OnceCell, RefCell},
    ops::Deref,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::{Snapshot, Upstream};
use crate::{
    balance::{Ask, Load, Member, Pick, Rota, Rules},
    policy::{
        Stamp,
        ejection::{Era, Probe},
    },
    upstream::{Lane, Pools, Want},
};

/// An upstream in the hands of one worker. What all workers share is dear to count up and down, so that a request
/// counts here instead.
#[derive(Debug, Clone)]
pub(crate) struct LocalUpstream(Rc<Shared>);

#[derive(Debug)]
struct Shared {
    upstream: Arc<Upstream>,
    /// The lanes of its candidates, looked up once; none where candidates come and go.
    lanes: Vec<[OnceCell<Rc<Lane>>; Want::KINDS]>,
    /// Who may be chosen from, and as of which version of the upstream's vitals.
    rota: RefCell<Option<(u64, Rc<Rota>)>>,
    bypass: bool,
}

/// The endpoint that a request goes to.
#[derive(Debug)]
pub(crate) struct Picked {
    /// Its place among the candidates.
    pub(crate) index: usize,
    /// What its result will be counted for.
    pub(crate) stake: EndpointStake,
}

/// What a result is counted for, at its endpoint.
#[derive(Debug)]
pub(crate) enum EndpointStake {
    /// The endpoint as it was.
    Era(Era),
    /// It was ejected, and this request finds out whether it still has to be.
    Probe(Probe),
}

/// An endpoint that is ejected and that its checks take out too is looked at again after so long.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

impl LocalUpstream {
    /// One that a policy names.
    fn named(upstream: Arc<Upstream>, bypass: bool) -> Self {
        let lanes = upstream.candidates.iter().map(|_| Default::default()).collect();
        Self(Rc::new(Shared { upstream, lanes, rota: RefCell::default(), bypass }))
    }

    /// One that no policy names.
    pub(crate) fn unnamed(upstream: Arc<Upstream>) -> Self {
        Self(Rc::new(Shared { upstream, lanes: Vec::new(), rota: RefCell::default(), bypass: true }))
    }

    /// Whether nothing protects it, and nothing counts.
    pub(crate) fn bypassed(&self) -> bool {
        self.0.bypass
    }

    /// One of its candidates for a request, which will have its answer within `lease`; `hash` is that of the key that the
    /// upstream is balanced by. `None` when none may be used.
    pub(crate) fn pick(
        &self,
        lease: impl FnOnce() -> Duration,
        now: Stamp,
        rng: &mut fastrand::Rng,
        hash: impl FnOnce() -> Option<u64>,
    ) -> Option<Picked> {
        if !self.0.bypass
            && self.vitals.wants_probe(now)
            && let Some(probe) = self.probe(lease(), now)
        {
            return Some(probe);
        }
        let candidates = &self.candidates;
        let first = candidates.first()?;
        let load = |index: usize| {
            // Positions of a rota are those of the candidates that it was built from: there is no other case.
            let endpoint = &candidates.get(index).unwrap_or(first).endpoint;
            Load { in_flight: endpoint.in_flight(), latency: endpoint.latency() }
        };
        let hash = self.ring.as_ref().and_then(|_| hash());
        let ask = Ask { memory: &self.vitals.memory, now, hash };
        let index = match self.rota(now).pick(&ask, rng, load, |_| false) {
            Pick::One(index) | Pick::Probe(index) => index,
            Pick::Refused | Pick::Nobody => return None,
        };
        let era = candidates.get(index)?.endpoint.outlier().era();
        Some(Picked { index, stake: EndpointStake::Era(era) })
    }

    /// An ejected candidate that is due for its probe.
    #[cold]
    fn probe(&self, lease: Duration, now: Stamp) -> Option<Picked> {
        self.vitals.look_for_probes();
        let mut found = None;
        let weighty = |(_, candidate): &(usize, &super::Candidate)| candidate.config.weight > 0;
        for (index, candidate) in self.candidates.iter().enumerate().filter(weighty) {
            let (outlier, serves) = (candidate.endpoint.outlier(), candidate.endpoint.health().serves());
            if found.is_none()
                && serves
                && let Some(probe) = outlier.try_probe_within(lease, now)
            {
                found = Some(Picked { index, stake: EndpointStake::Probe(probe) });
            }
            if let Some(at) = outlier.next_probe() {
                // One that its checks take out is looked at again when they may have changed their mind.
                self.vitals.probe_at(if serves { at } else { at.max(now.after(LOOK_AGAIN)) });
            }
        }
        found
    }

    /// Who may be chosen from now.
    pub(crate) fn rota(&self, now: Stamp) -> Rc<Rota> {
        let version = self.vitals.version();
        if let Some((made, rota)) = &*self.0.rota.borrow()
            && *made == version
            && rota.valid_until().is_none_or(|until| now < until)
        {
            return rota.clone();
        }
        self.build(version, now)
    }

    #[cold]
    fn build(&self, version: u64, now: Stamp) -> Rc<Rota> {
        let rota = Rc::new(self.0.upstream.rota(now, self.0.bypass));
        *self.0.rota.borrow_mut() = Some((version, rota.clone()));
        rota
    }

    /// The lane for requests that want `want` from the candidate at `index`; `None` when there is none.
    pub(crate) fn lane(&self, pools: &Pools, index: usize, want: Want) -> Option<Rc<Lane>> {
        let find = || Some(pools.lane(self, self.candidates.get(index)?, want));
        let Some(known) = self.0.lanes.get(index).and_then(|kinds| kinds.get(want.index())) else {
            return find();
        };
        if let Some(lane) = known.get() {
            return Some(lane.clone());
        }
        let lane = find()?;
        Some(known.get_or_init(|| lane).clone())
    }
}

impl Deref for LocalUpstream {
    type Target = Upstream;

    fn deref(&self) -> &Upstream {
        &self.0.upstream
    }
}

impl Upstream {
    /// Who of its candidates may be chosen now. With `bypass` their own results do not matter.
    pub(crate) fn rota(&self, now: Stamp, bypass: bool) -> Rota {
        let members: Vec<_> = self
            .candidates
            .iter()
            .map(|candidate| Member {
                weight: candidate.config.weight,
                tier: candidate.config.tier,
                zone: candidate.zone,
                state: candidate.endpoint.member_state(now, bypass),
                back_since: candidate.endpoint.back_since(),
            })
            .collect();
        let rules = Rules {
            balancing: &self.config.balancer,
            slow_start: &self.config.slow_start,
            min_healthy: self.config.min_healthy,
            ring: self.ring.as_ref(),
        };
        Rota::build(&members, &rules, now)
    }
}

/// A snapshot with what one worker keeps beside it.
#[derive(Debug)]
pub(crate) struct View {
    snapshot: Arc<Snapshot>,
    /// Made when a request wants them first.
    upstreams: Vec<OnceCell<LocalUpstream>>,
}

impl View {
    pub(crate) fn new(snapshot: Arc<Snapshot>) -> Self {
        let upstreams = snapshot.upstreams.iter().map(|_| OnceCell::new()).collect();
        Self { snapshot, upstreams }
    }

    pub(crate) fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    pub(crate) fn upstream(&self, index: usize) -> Option<&LocalUpstream> {
        let upstream = self.snapshot.upstreams.get(index)?;
        let bypass = self.snapshot.bypass;
        Some(self.upstreams.get(index)?.get_or_init(|| LocalUpstream::named(upstream.clone(), bypass)))
    }
}
