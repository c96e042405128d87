//! From what was counted to what is shown: rates and quantiles over the last seconds, and totals for the end.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use super::{
    scrape::{Scrape, increase, increases},
    tally::{Tally, as_f64},
};

/// Figures are over this long, so that a p99 has a few hundred requests to stand on.
const WINDOW: Duration = Duration::from_secs(3);
/// One point of the history is this long.
const POINT: Duration = Duration::from_secs(1);
/// Points of history that are kept; more than any terminal is wide.
const POINTS: usize = 240;

/// What the last seconds looked like.
#[derive(Debug, Clone, Default)]
pub(super) struct Figures {
    /// All callers together.
    pub(super) callers: Row,
    /// By instance of the shop, as the callers saw them.
    pub(super) instances: Vec<Row>,
    /// What Weir says, while it can be asked.
    pub(super) weir: Option<WeirFigures>,
    /// The callers' p99 in seconds, second by second, oldest first; `None` when nobody was answered.
    pub(super) p99s: Vec<Option<f64>>,
    /// The share of calls that went wrong (0–1), second by second.
    pub(super) wrong: Vec<f64>,
    /// Whose errors those of the last seconds were.
    pub(super) blame: Blame,
    /// Loads of the policy since the last look, by result; none for the load at Weir's start.
    pub(super) policy: BTreeMap<String, f64>,
}

/// Whose errors the callers saw, as shares of all calls (0–1).
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Blame {
    /// The shop answered with one.
    pub(super) shop: f64,
    /// Weir answered with one.
    pub(super) weir: f64,
    /// Nobody answered.
    pub(super) silent: f64,
}

/// One line of a table.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Row {
    /// Of what.
    pub(super) name: String,
    /// Calls a second.
    pub(super) rate: f64,
    /// Its share of all calls (0–1).
    pub(super) share: f64,
    /// Calls that went wrong, as a share of its own (0–1).
    pub(super) wrong: f64,
    /// In seconds; `None` without calls.
    pub(super) p50: Option<f64>,
    /// In seconds; `None` without calls.
    pub(super) p99: Option<f64>,
}

/// What Weir says of itself.
#[derive(Debug, Clone, Default)]
pub(super) struct WeirFigures {
    /// All requests.
    pub(super) all: Row,
    /// By route.
    pub(super) routes: Vec<Row>,
    /// Answers that Weir made itself, by reason: how many a second. Only those that happened.
    pub(super) made: Vec<(String, f64)>,
    /// Attempts a second.
    pub(super) attempts: f64,
    /// Failed attempts a second.
    pub(super) attempts_failed: f64,
    /// Open connections of callers.
    pub(super) connections: f64,
    /// Open connections to the shop.
    pub(super) pool: f64,
    /// The 99th percentile of the time spent in Weir, in seconds.
    pub(super) overhead_p99: Option<f64>,
    /// CPU, in seconds a second.
    pub(super) cpu: f64,
    /// Resident memory in bytes.
    pub(super) memory: f64,
}

/// What Weir said from the start to the end, through all of its restarts.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Totals {
    /// Requests by route.
    pub(super) routes: BTreeMap<String, f64>,
    /// Answers that Weir made, by reason.
    pub(super) made: BTreeMap<String, f64>,
    /// Attempts by outcome.
    pub(super) attempts: BTreeMap<String, f64>,
    /// CPU seconds.
    pub(super) cpu: f64,
    /// The most resident memory that was seen, in bytes.
    pub(super) memory: f64,
}

impl Totals {
    /// Adds what happened between two scrapes.
    fn add(&mut self, from: &Scrape, to: &Scrape) {
        for (table, name, label) in [
            (&mut self.routes, REQUESTS, "route"),
            (&mut self.made, MADE, "reason"),
            (&mut self.attempts, ATTEMPTS, "outcome"),
        ] {
            for (key, more) in increases(&from.by(name, label, &[]), &to.by(name, label, &[])) {
                *table.entry(key).or_insert(0.0) += more;
            }
        }
        self.cpu += increase(from.sum(CPU, &[]), to.sum(CPU, &[]));
        self.memory = self.memory.max(to.sum(MEMORY, &[]).unwrap_or(0.0));
    }
}

const REQUESTS: &str = "weir_requests_total";
const DURATION: &str = "weir_request_duration_seconds";
const MADE: &str = "weir_responses_made_total";
const ATTEMPTS: &str = "weir_attempts_total";
const POLICY: &str = "weir_policy_updates_total";
const CPU: &str = "process_cpu_seconds_total";
const MEMORY: &str = "process_resident_memory_bytes";

/// One look at both sides.
#[derive(Debug)]
struct Look {
    at: Instant,
    tally: Tally,
    scrape: Option<Scrape>,
}

/// Takes looks and keeps as many as the figures need.
#[derive(Debug)]
pub(super) struct Observer {
    names: Vec<String>,
    looks: VecDeque<Look>,
    point: (Instant, Tally),
    figures: Figures,
    last_scrape: Option<Scrape>,
    totals: Totals,
}

impl Observer {
    /// Starts with nothing seen; `names` are the instances of the shop in their order on the screen.
    pub(super) fn new(names: Vec<String>, now: Instant) -> Self {
        Self {
            names,
            looks: VecDeque::new(),
            point: (now, Tally::default()),
            figures: Figures::default(),
            last_scrape: None,
            totals: Totals::default(),
        }
    }

    /// What the last look found.
    pub(super) fn figures(&self) -> &Figures {
        &self.figures
    }

    /// What Weir said from the start.
    pub(super) fn totals(&self) -> &Totals {
        &self.totals
    }

    /// Weir was started anew: its counters begin at 0.
    pub(super) fn weir_restarted(&mut self) {
        self.last_scrape = None;
        for look in &mut self.looks {
            look.scrape = None;
        }
    }

    /// Adds a look and says what the last seconds looked like.
    pub(super) fn look(&mut self, at: Instant, tally: Tally, scrape: Option<Scrape>) -> &Figures {
        self.figures.policy.clear();
        if let Some(scrape) = &scrape {
            let last = self.last_scrape.replace(scrape.clone());
            if let Some(last) = &last {
                self.figures.policy =
                    increases(&last.by(POLICY, "result", &[]), &scrape.by(POLICY, "result", &[]));
            }
            self.totals.add(&last.unwrap_or_default(), scrape);
        }
        self.add_point(at, &tally);
        self.looks.push_back(Look { at, tally, scrape });
        while self.looks.get(1).is_some_and(|second| at.duration_since(second.at) >= WINDOW) {
            self.looks.pop_front();
        }
        self.measure();
        &self.figures
    }

    fn add_point(&mut self, at: Instant, tally: &Tally) {
        if at.duration_since(self.point.0) < POINT {
            return;
        }
        let second = tally.since(&self.point.1);
        self.point = (at, tally.clone());
        self.figures.p99s.push(second.latency.quantile(0.99));
        self.figures.wrong.push(share(as_f64(second.total() - second.good()), as_f64(second.total())));
        let surplus = self.figures.p99s.len().saturating_sub(POINTS);
        self.figures.p99s.drain(..surplus);
        self.figures.wrong.drain(..surplus);
    }

    fn measure(&mut self) {
        let (Some(first), Some(last)) = (self.looks.front(), self.looks.back()) else { return };
        // The very first look is measured from the start, which the zero of its own tally stands for.
        let seconds = last.at.duration_since(first.at).as_secs_f64().max(0.001);
        let window = last.tally.since(&first.tally);
        (self.figures.callers, self.figures.instances) = caller_rows(&window, &self.names, seconds);
        let of_all = |count: u64| share(as_f64(count), as_f64(window.total()));
        self.figures.blame = Blame {
            shop: of_all(window.shop_bad()),
            weir: of_all(window.made_bad),
            silent: of_all(window.silent),
        };
        self.figures.weir = last.scrape.as_ref().map(|to| {
            let from = self.looks.iter().find_map(|look| Some((look.at, look.scrape.as_ref()?)));
            let (at, from) = from.unwrap_or((last.at, to));
            weir_figures(from, to, last.at.duration_since(at).as_secs_f64().max(0.001))
        });
    }
}

fn caller_rows(window: &Tally, names: &[String], seconds: f64) -> (Row, Vec<Row>) {
    let total = as_f64(window.total());
    let all = Row {
        name: "all callers".to_owned(),
        rate: total / seconds,
        share: 1.0,
        wrong: share(total - as_f64(window.good()), total),
        p50: window.latency.quantile(0.5),
        p99: window.latency.quantile(0.99),
    };
    let row = |name: &String| {
        let seen = window.instances.get(name).cloned().unwrap_or_default();
        let calls = as_f64(seen.total());
        Row {
            name: name.clone(),
            rate: calls / seconds,
            share: share(calls, total),
            wrong: share(as_f64(seen.bad), calls),
            p50: seen.latency.quantile(0.5),
            p99: seen.latency.quantile(0.99),
        }
    };
    (all, names.iter().map(row).collect())
}

fn weir_figures(from: &Scrape, to: &Scrape, seconds: f64) -> WeirFigures {
    let more = |name: &str, filter: &[(&str, &str)]| increase(from.sum(name, filter), to.sum(name, filter));
    let total = more(REQUESTS, &[]);
    let row = |name: &str, filter: &[(&str, &str)]| {
        let codes = increases(&from.by(REQUESTS, "code", filter), &to.by(REQUESTS, "code", filter));
        let calls = sum(codes.values());
        let wrong = sum(codes.iter().filter(|(code, _)| code.starts_with(['4', '5'])).map(|(_, n)| n));
        let durations = to.buckets(DURATION, filter).since(&from.buckets(DURATION, filter));
        Row {
            name: name.to_owned(),
            rate: calls / seconds,
            share: share(calls, total),
            wrong: share(wrong, calls),
            p50: durations.quantile(0.5),
            p99: durations.quantile(0.99),
        }
    };
    let mut routes: Vec<Row> =
        to.by(REQUESTS, "route", &[]).keys().map(|route| row(route, &[("route", route)])).collect();
    // Requests that no route took are counted under the empty name.
    routes
        .iter_mut()
        .filter(|row| row.name.is_empty())
        .for_each(|row| "(no route)".clone_into(&mut row.name));
    routes.sort_by(|a, b| b.rate.total_cmp(&a.rate).then_with(|| a.name.cmp(&b.name)));
    let outcomes = increases(&from.by(ATTEMPTS, "outcome", &[]), &to.by(ATTEMPTS, "outcome", &[]));
    let mut made: Vec<(String, f64)> = increases(&from.by(MADE, "reason", &[]), &to.by(MADE, "reason", &[]))
        .into_iter()
        .filter_map(|(reason, n)| (n > 0.0).then_some((reason, n / seconds)))
        .collect();
    made.sort_by(|(_, a), (_, b)| b.total_cmp(a));
    let overhead =
        to.buckets("weir_overhead_seconds", &[]).since(&from.buckets("weir_overhead_seconds", &[]));
    WeirFigures {
        all: row("all requests", &[]),
        routes,
        made,
        attempts: sum(outcomes.values()) / seconds,
        attempts_failed: failed_attempts(&outcomes) / seconds,
        connections: to.sum("weir_connections", &[]).unwrap_or(0.0),
        pool: to.sum("weir_pool_connections", &[]).unwrap_or(0.0),
        overhead_p99: overhead.quantile(0.99),
        cpu: more(CPU, &[]) / seconds,
        memory: to.sum(MEMORY, &[]).unwrap_or(0.0),
    }
}

/// The attempts that failed; one that a client abandoned is no failure.
pub(super) fn failed_attempts(outcomes: &BTreeMap<String, f64>) -> f64 {
    let failed = outcomes.iter().filter(|(outcome, _)| !matches!(outcome.as_str(), "success" | "cancelled"));
    sum(failed.map(|(_, n)| n))
}

/// A sum that is 0 for nothing; `Iterator::sum` makes that -0, which then stands on the screen.
pub(super) fn sum<'a>(values: impl Iterator<Item = &'a f64>) -> f64 {
    values.fold(0.0, |sum, value| sum + value)
}

/// A share of a whole, 0 when there is nothing to share.
pub(super) fn share(part: f64, whole: f64) -> f64 {
    if whole > 0.0 { (part / whole).clamp(0.0, 1.0) } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::{super::tally::Outcome, *};

    fn text(page: u32, failed: u32, refused: u32, cpu: f64) -> Scrape {
        Scrape::parse(&format!(
            "weir_requests_total{{route=\"page\",code=\"200\"}} {page}\n\
             weir_requests_total{{route=\"rest\",code=\"502\"}} {failed}\n\
             weir_request_duration_seconds_bucket{{route=\"page\",le=\"0.005\"}} {page}\n\
             weir_request_duration_seconds_bucket{{route=\"page\",le=\"+Inf\"}} {page}\n\
             weir_responses_made_total{{route=\"rest\",reason=\"connect_refused\"}} {refused}\n\
             weir_responses_made_total{{route=\"rest\",reason=\"no_route\"}} 0\n\
             weir_attempts_total{{upstream=\"shop\",outcome=\"success\"}} {page}\n\
             weir_attempts_total{{upstream=\"shop\",outcome=\"connect_error\"}} {failed}\n\
             weir_attempts_total{{upstream=\"shop\",outcome=\"cancelled\"}} 5\n\
             weir_connections{{listener=\"inbound\"}} 7\n\
             process_cpu_seconds_total {cpu}\nprocess_resident_memory_bytes 1e7\n"
        ))
    }

    fn tally(good: u32, silent: u32) -> Tally {
        let mut tally = Tally::default();
        for _ in 0..good {
            tally.record(&Outcome::FromShop { instance: "a".into(), bad: false }, Duration::from_millis(4));
        }
        for _ in 0..silent {
            tally.record(&Outcome::Silent, Duration::from_secs(2));
        }
        tally
    }

    fn near(a: f64, b: f64) -> bool {
        (a - b).abs() < 1e-6
    }

    #[test]
    fn figures_are_over_the_window_only() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let mut observer = Observer::new(vec!["a".into(), "b".into()], start);
        observer.look(at(0), tally(0, 0), Some(text(1000, 0, 0, 1.0)));
        for s in 1..=10u32 {
            observer.look(at(s.into()), tally(100 * s, 0), Some(text(1000 + 100 * s, 0, 0, 1.0)));
        }
        let figures = observer.look(at(11), tally(1000, 300), Some(text(2000, 300, 30, 1.3))).clone();
        assert!(near(figures.callers.rate, 500.0 / 3.0), "{:?}", figures.callers);
        assert!(near(figures.callers.wrong, 0.6));
        assert_eq!(figures.blame, Blame { shop: 0.0, weir: 0.0, silent: 0.6 });
        assert_eq!(figures.instances.len(), 2);
        assert!(near(figures.instances[0].share, 0.4) && near(figures.instances[1].share, 0.0));
        assert_eq!(figures.wrong.last(), Some(&1.0), "the last second brought nothing but silence");
        assert_eq!(figures.p99s.last(), Some(&None));
        let weir = figures.weir.unwrap();
        assert!(near(weir.all.rate, 500.0 / 3.0) && near(weir.all.wrong, 0.6), "{:?}", weir.all);
        assert_eq!(weir.made, [("connect_refused".to_owned(), 10.0)]);
        assert!(near(weir.attempts_failed, 100.0), "cancelled ones are no failures");
        assert!(near(weir.cpu, 0.1) && near(weir.connections, 7.0));
        assert_eq!(weir.routes[0].name, "rest", "the busiest first");
    }

    #[test]
    fn totals_go_on_through_a_restart() {
        let start = Instant::now();
        let mut observer = Observer::new(vec![], start);
        observer.look(start, tally(0, 0), Some(text(100, 0, 0, 1.0)));
        observer.look(start, tally(0, 0), None);
        observer.weir_restarted();
        let figures = observer.look(start, tally(0, 0), Some(text(150, 1, 1, 0.5)));
        assert!(near(figures.weir.as_ref().unwrap().all.rate, 0.0), "no window yet");
        let totals = observer.totals();
        assert!(near(totals.routes["page"], 250.0), "{totals:?}");
        assert!(near(totals.made["connect_refused"], 1.0) && near(totals.cpu, 1.5));
    }

    #[test]
    fn loads_of_the_policy_are_told_but_not_the_first_of_a_process() {
        let at = Instant::now();
        let applied =
            |n: u32| Some(Scrape::parse(&format!("weir_policy_updates_total{{result=\"applied\"}} {n}")));
        let mut observer = Observer::new(vec![], at);
        let mut loads = |scrape: Option<Scrape>, restarted: bool| {
            if restarted {
                observer.weir_restarted();
            }
            observer.look(at, Tally::default(), scrape).policy.get("applied").copied().unwrap_or(0.0)
        };
        let seen = [(1, false), (1, false), (2, false), (1, true), (2, false)]
            .map(|(n, new)| loads(applied(n), new));
        assert!(seen.iter().zip([0.0, 0.0, 1.0, 0.0, 1.0]).all(|(a, b)| near(*a, b)), "{seen:?}");
        assert!(near(loads(None, false), 0.0));
    }

    #[test]
    fn without_weir_there_are_no_figures_of_it() {
        let now = Instant::now();
        let mut observer = Observer::new(vec![], now);
        assert!(observer.look(now, Tally::default(), None).weir.is_none());
    }
}
