//! Switches and limits, compiled, and which requests they are for.

use std::{
    collections::{BTreeSet, HashMap},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use ::http::HeaderValue;
use foldhash::fast::RandomState;
use xxhash_rust::xxh3::xxh3_64;

use super::{Registry, Route};
use crate::{
    config::{
        Name,
        policy::{self, Action, Algorithm, Cost, LimitScope, LimitState, SwitchState},
    },
    http::ratelimit,
    listener::Listener,
    policy::{
        Stamp,
        automatic::AutomaticSeat,
        rate::{Limiter, Secret, Settings},
    },
    route::{Key, Matcher},
    shared_rate::SharedLimit,
    telemetry::{LimitMetrics, Metrics, SwitchMetrics},
};

/// A switch, compiled.
#[derive(Debug)]
pub struct Switch {
    /// As configured.
    pub config: Arc<policy::Switch>,
    /// Which requests it acts on.
    pub matcher: Matcher,
    /// By what a share is sticky.
    pub key: Key,
    /// Makes the shares of different switches fall on different requests, and on the same ones at every instance.
    pub seed: u64,
    /// Where it sends requests, as an index into the snapshot's upstreams.
    pub upstream: Option<usize>,
    /// Whether it is on by itself; outlives snapshots.
    pub automatic: Arc<AutomaticSeat>,
    /// What answers say when it acted; `None` = nothing.
    pub mark: Option<HeaderValue>,
    /// Its metrics.
    pub metrics: Arc<SwitchMetrics>,
}

impl Switch {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.config.name
    }

    /// The share of the requests that it acts on, 0 to 1.
    pub fn share(&self) -> f64 {
        match self.config.state {
            SwitchState::Off | SwitchState::Observe => 0.0,
            SwitchState::On => 1.0,
            SwitchState::Share(share) => f64::from(share) / 10_000.0,
            SwitchState::Auto => f64::from(u8::from(self.automatic.is_on())),
        }
    }

    fn may_act(&self) -> bool {
        !matches!(self.config.state, SwitchState::Off | SwitchState::Share(0))
    }
}

/// A limit, compiled.
#[derive(Debug)]
pub struct Limit {
    /// As configured.
    pub config: Arc<policy::Limit>,
    /// Which requests it counts.
    pub matcher: Matcher,
    /// What has a bucket of its own; empty = all requests have one together.
    pub key: Key,
    /// What decides at this instance; what it granted outlives snapshots.
    pub limiter: Limiter,
    /// What decides for all instances together, with `share: redis`; while it cannot, `limiter` does.
    pub shared: Option<Arc<SharedLimit>>,
    /// What keys are hashed with.
    pub secret: Secret,
    /// It counts all requests, and all of them alike: nothing of them has to be looked at.
    pub counts_alike: bool,
    /// `RateLimit-Policy`, as answers say it.
    pub policy: HeaderValue,
    /// Its metrics.
    pub metrics: Arc<LimitMetrics>,
}

impl Limit {
    /// Its name.
    pub fn name(&self) -> &Name {
        &self.config.name
    }

    /// Whether it only counts.
    pub fn observes(&self) -> bool {
        self.config.state == LimitState::Observe
    }

    /// Whether it goes by its even share because Redis is away.
    pub fn falls_back(&self) -> bool {
        self.shared.as_ref().is_some_and(|shared| shared.is_away())
    }

    /// What it grants a second, as far as this instance knows: its own share, or all of it where Redis counts.
    pub fn rate_per_second(&self) -> f64 {
        match &self.shared {
            _ if self.config.state == LimitState::Off => 0.0,
            Some(shared) if !shared.is_away() => self.config.rate.per_second(),
            _ => self.limiter.rate_per_second(),
        }
    }

    /// What every request costs; 1 where each says that itself.
    pub fn fixed_cost(&self) -> u32 {
        self.limiter.settings().fixed_cost
    }

    /// Whether it may make a request wait: for its turn, or for Redis.
    fn may_wait(&self) -> bool {
        let paces =
            matches!(self.config.algorithm, Algorithm::LeakyBucket { max_wait, .. } if !max_wait.is_zero());
        paces || self.shared.is_some()
    }

    /// By how many its rate is divided.
    pub fn instances(&self) -> u32 {
        self.limiter.settings().share.get()
    }
}

/// The switches and limits for some requests, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Gate {
    /// By priority, then name; none that is off.
    pub switches: Vec<Arc<Switch>>,
    /// By name; none that is off. Those that Redis counts come later, those that only observe last.
    pub limits: Vec<Arc<Limit>>,
    /// Some of the limits may make a request wait.
    pub limits_wait: bool,
}

/// Which gate a request goes through: one for each listener, and one for each of its routes that a rule names.
#[derive(Debug, Default)]
pub struct Gates(Vec<OfListener>);

#[derive(Debug, Default)]
struct OfListener {
    /// `None` = nothing is asked.
    general: Option<Arc<Gate>>,
    routes: HashMap<usize, Arc<Gate>, RandomState>,
}

impl Gates {
    /// The gate for requests of the listener and the route at these positions.
    pub fn of(&self, listener: usize, route: Option<usize>) -> Option<&Arc<Gate>> {
        let gates = self.0.get(listener)?;
        let own = route.filter(|_| !gates.routes.is_empty()).and_then(|route| gates.routes.get(&route));
        own.or(gates.general.as_ref())
    }

    /// Sorts the rules that act into gates. Its cost is that of the rules, not of the routes.
    pub(super) fn compile(
        switches: &[Arc<Switch>],
        limits: &[Arc<Limit>],
        routes: &[Arc<Route>],
        listeners: &[Arc<Listener>],
    ) -> Self {
        let mut switches: Vec<_> = switches.iter().filter(|switch| switch.may_act()).collect();
        switches.sort_by_key(|switch| switch.config.priority);
        let mut limits: Vec<_> =
            limits.iter().filter(|limit| limit.config.state != LimitState::Off).collect();
        limits.sort_by_key(|limit| (limit.observes(), limit.shared.is_some()));
        if switches.is_empty() && limits.is_empty() {
            return Self::default();
        }
        let switches =
            ByRoute::sort(&switches, |switch| &switch.matcher, |one| one.config.matches.route.as_ref());
        let limits = ByRoute::sort(&limits, |limit| &limit.matcher, |one| one.config.matches.route.as_ref());
        let named: BTreeSet<&Name> =
            switches.of_route.keys().chain(limits.of_route.keys()).copied().collect();
        let gate = |listener: &Name, route: Option<&Name>| {
            let limits = limits.of(listener, route);
            Gate {
                switches: switches.of(listener, route),
                limits_wait: limits.iter().any(|limit| limit.may_wait()),
                limits,
            }
        };
        let of_listener = |listener: &Arc<Listener>| {
            let listener = &listener.config.name;
            let general = gate(listener, None);
            let position = |name: &Name| routes.binary_search_by(|route| route.config.name.cmp(name)).ok();
            let routes =
                named.iter().filter_map(|name| Some((position(name)?, Arc::new(gate(listener, Some(name))))));
            OfListener { routes: routes.collect(), general: (!general.is_empty()).then(|| Arc::new(general)) }
        };
        Self(listeners.iter().map(of_listener).collect())
    }
}

/// Rules by the route that they name, with their place in the order in which they are asked. A gate is looked for among
/// those that may be in it: thousands of rules for a route each would else be compared with each other.
struct ByRoute<'a, T> {
    /// They name none.
    anywhere: Vec<(usize, &'a Arc<T>)>,
    of_route: HashMap<&'a Name, Vec<(usize, &'a Arc<T>)>, RandomState>,
    matcher: fn(&T) -> &Matcher,
}

impl<'a, T> ByRoute<'a, T> {
    fn sort(ordered: &[&'a Arc<T>], matcher: fn(&T) -> &Matcher, route: fn(&T) -> Option<&Name>) -> Self {
        let mut sorted = Self { anywhere: Vec::new(), of_route: HashMap::default(), matcher };
        for (place, &rule) in ordered.iter().enumerate() {
            let same = match route(rule) {
                Some(name) => sorted.of_route.entry(name).or_default(),
                None => &mut sorted.anywhere,
            };
            same.push((place, rule));
        }
        sorted
    }

    /// Those for the listener and the route, in order.
    fn of(&self, listener: &Name, route: Option<&Name>) -> Vec<Arc<T>> {
        let named = route.and_then(|route| self.of_route.get(route)).into_iter().flatten();
        let mut rules: Vec<_> = self.anywhere.iter().chain(named).collect();
        rules.retain(|(_, rule)| (self.matcher)(rule).applies_to(listener, route));
        // Two runs, each in order.
        rules.sort_by_key(|(place, _)| *place);
        rules.into_iter().map(|(_, rule)| Arc::clone(rule)).collect()
    }
}

impl Gate {
    fn is_empty(&self) -> bool {
        self.switches.is_empty() && self.limits.is_empty()
    }
}

/// Compiles a switch; what `before` learned goes on.
pub(super) fn switch(
    config: &Arc<policy::Switch>,
    before: Option<&Arc<Switch>>,
    upstream: Option<usize>,
    metrics: &Metrics,
) -> Arc<Switch> {
    if let Some(before) = before
        && before.upstream == upstream
        && (Arc::ptr_eq(&before.config, config) || before.config == *config)
    {
        return before.clone();
    }
    // Whoever turned it on or off by hand has ended what it was by itself.
    let is_auto = |switch: &&policy::Switch| switch.state == SwitchState::Auto;
    let stays = Some(&**config).filter(is_auto).and(before).filter(|before| is_auto(&&*before.config));
    let seat = stays.map(|before| before.automatic.clone()).unwrap_or_default();
    let mark = config.announce.then(|| {
        let text = format!("\"{}\";rev={}", config.name, config.revision);
        HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
    });
    Arc::new(Switch {
        matcher: Matcher::compile(&config.matches),
        key: Key::compile(&config.key),
        seed: xxh3_64(config.name.as_str().as_bytes()),
        upstream,
        automatic: seat,
        mark,
        metrics: metrics.switch(&config.name),
        config: config.clone(),
    })
}

/// The upstream that a switch sends requests to.
pub(super) fn reroutes_to(config: &policy::Switch) -> Option<&Name> {
    match &config.action {
        Action::Reroute(upstream) => Some(upstream),
        _ => None,
    }
}

/// Compiles a limit; what `before` granted is not granted again. The live instances share it where its scope is the
/// service.
pub(super) fn limit(
    config: &Arc<policy::Limit>,
    before: Option<&Arc<Limit>>,
    (now, unix): (Stamp, Duration),
    registry: &Registry,
    metrics: &Metrics,
) -> Arc<Limit> {
    let settings = settings(config, registry.instances());
    if let Some(before) = before
        && *before.limiter.settings() == settings
        && (Arc::ptr_eq(&before.config, config) || before.config == *config)
    {
        return before.clone();
    }
    let keys = (!config.key.is_empty()).then_some(config.max_keys);
    let limiter = match before.filter(|before| before.config.key == config.key) {
        Some(known) => known.limiter.edited(settings, keys, now),
        None => Limiter::new(settings, keys, now, unix),
    };
    let matcher = Matcher::compile(&config.matches);
    Arc::new(Limit {
        key: Key::compile(&config.key),
        limiter,
        shared: registry.shared(config),
        counts_alike: config.key.is_empty() && matches!(config.cost, Cost::Fixed(_)) && matcher.matches_all(),
        matcher,
        secret: registry.secret().clone(),
        policy: ratelimit::policy(&config.name, config.rate),
        metrics: metrics.limit(&config.name),
        config: config.clone(),
    })
}

fn settings(config: &policy::Limit, instances: NonZeroU32) -> Settings {
    let share = match config.scope {
        LimitScope::Instance => NonZeroU32::MIN,
        LimitScope::Service => instances,
    };
    let fixed_cost = match config.cost {
        Cost::Fixed(cost) => cost,
        Cost::Header(_) => 1,
    };
    Settings { algorithm: config.algorithm, rate: config.rate, fixed_cost, share }
}
