//! Weir between a steady load and real origins, with an etcd.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use etcd_client::TxnOp;
use serde_json::Value;
use tokio::sync::Notify;

use crate::{
    checker::Checker,
    load::Load,
    support::{
        origin::{Origin, answer},
        weir::Weir,
        writer::{Writer, put},
    },
};

/// How many origins there are; the change `N` names the one of them with the number `N modulo` this.
pub const ORIGINS: usize = 4;

/// How long anything may take here. The machine may be very busy.
pub const PATIENCE: Duration = Duration::from_mins(1);

/// Weir, what is before and behind it, and who watches it.
pub struct World {
    pub load: Load,
    pub checker: Checker,
    pub weir: Weir,
    pub origins: Vec<Origin>,
    /// Lets one request for `/slow` go on.
    pub go: Arc<Notify>,
    n: u64,
}

/// What a file says of its store.
#[derive(Debug, Clone)]
pub struct Store {
    pub endpoints: Vec<String>,
    /// More fields of `etcd`, in flow style.
    pub etcd: String,
    /// Fields of `store` beside `etcd`.
    pub more: String,
}

impl Store {
    pub fn at(endpoints: &[String]) -> Self {
        Self { endpoints: endpoints.to_vec(), etcd: "root: /weir".into(), more: "cache: off".into() }
    }
}

/// Four origins, each of which signs its answers; a request for `/slow` waits until `go` lets one go on.
pub fn origins(go: &Arc<Notify>) -> Vec<Origin> {
    let signing = |number| {
        let go = Arc::clone(go);
        Origin::start(move |request| {
            let go = Arc::clone(&go);
            async move {
                if request.uri().path() == "/slow" {
                    go.notified().await;
                }
                Ok(answer(200, format!("origin {number}")))
            }
        })
    };
    (0..ORIGINS).map(signing).collect()
}

/// The file: the route `all` answers as the change 0 does.
pub fn file(store: &Store, origins: &[Origin]) -> String {
    let endpoints: Vec<_> = store.endpoints.iter().map(|endpoint| format!("\"{endpoint}\"")).collect();
    format!(
        "service: orders\ninstance: pod-1\nstore:\n  etcd: {{ endpoints: [{}], {} }}\n  {}\n\
         listeners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\npolicy:\n  upstreams:\n    \
         app: {{ endpoints: [\"{}\"] }}\n  routes:\n    all: {{ upstream: app, response_headers: {{ set: {{ x-n: \"0\" }} }} }}\n",
        endpoints.join(", "),
        store.etcd,
        store.more,
        origins[0].address
    )
}

/// What one transaction writes to make the change `n`: one half is the route's, the other its upstream's.
pub fn change(n: u64, origins: &[Origin]) -> Vec<TxnOp> {
    let origin = origins[usize::try_from(n).unwrap() % ORIGINS].address;
    vec![put("orders/routes/all", &route(n)), put("orders/upstreams/app", &upstream(origin))]
}

pub fn route(n: u64) -> String {
    format!("{{response_headers: {{set: {{x-n: \"{n}\"}}}}}}")
}

pub fn upstream(origin: SocketAddr) -> String {
    format!("{{endpoints: [\"{origin}\"]}}")
}

impl World {
    /// Weir follows these members; nothing is written yet.
    #[track_caller]
    pub fn start(endpoints: &[String]) -> Self {
        Self::with(&Store::at(endpoints))
    }

    #[track_caller]
    pub fn with(store: &Store) -> Self {
        let go = Arc::new(Notify::new());
        Self::around(store, origins(&go), go, 0)
    }

    /// With origins that are there already; `n` is the number of the newest change, which a cache knows of.
    #[track_caller]
    pub fn around(store: &Store, origins: Vec<Origin>, go: Arc<Notify>, n: u64) -> Self {
        let weir = Weir::start(&file(store, &origins));
        let load = Load::start(weir.at("inbound"));
        let checker = Checker::start(weir.at("admin"));
        Self { load, checker, weir, origins, go, n }
    }

    /// The number of the newest change.
    pub fn n(&self) -> u64 {
        self.n
    }

    /// Makes the next change; gives its revision.
    #[track_caller]
    pub fn change(&mut self, writer: &Writer) -> i64 {
        let operations = self.next();
        writer.transaction(operations)
    }

    /// What makes the next change.
    pub fn next(&mut self) -> Vec<TxnOp> {
        self.n += 1;
        change(self.n, &self.origins)
    }

    /// Makes the next change and waits until all clients see it.
    #[track_caller]
    pub fn changes(&mut self, writer: &Writer) -> i64 {
        let revision = self.change(writer);
        self.load.reaches(self.n);
        revision
    }

    /// The store is back since `since`: the next change is in force within what is promised.
    #[track_caller]
    pub fn recovers(&mut self, writer: &Writer, since: Instant) {
        let revision = self.change(writer);
        self.load.reaches(self.n);
        for stage in ["observed", "proven", "applied"] {
            let shown = self.metric("weir_policy_revision", &[("stage", stage)]);
            assert!(counted(shown).cast_signed() >= revision, "{stage}: {shown}, and {revision} is in force");
        }
        promised("the policy is right after the store's return", since.elapsed(), Duration::from_secs(5));
    }

    pub fn status(&self) -> Value {
        self.weir.admin_get("/status").json()
    }

    /// The sum of the series of a metric.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.weir.metrics().sum(name, labels)
    }

    /// How often the store was read whole for this cause.
    pub fn reads(&self, cause: &str) -> u64 {
        counted(self.metric("weir_store_reads_total", &[("cause", cause)]))
    }

    /// How often a connection to the store ended for one of these causes.
    pub fn lost(&self, causes: &[&str]) -> u64 {
        causes
            .iter()
            .map(|cause| counted(self.metric("weir_store_reconnects_total", &[("cause", cause)])))
            .sum()
    }

    /// Waits until the store counts as away, or as there.
    #[track_caller]
    pub fn connected(&self, there: bool) {
        within(&format!("weir_store_connected = {}", u8::from(there)), || {
            (self.metric("weir_store_connected", &[]) > 0.5) == there
        });
    }

    /// Waits until that many keys are held, by metric and `/status`; gives the first holding.
    #[track_caller]
    pub fn holds(&self, keys: usize) -> Value {
        within(&format!("{keys} keys to be held"), || {
            counted(self.metric("weir_policy_held", &[])) == keys as u64 && held(&self.status()) == keys
        });
        self.status()["held"][0].clone()
    }

    /// Waits until nothing is held any more.
    #[track_caller]
    pub fn holds_nothing(&self) {
        within("nothing to be held", || {
            counted(self.metric("weir_policy_held", &[])) == 0 && held(&self.status()) == 0
        });
    }

    /// Confirms everything that is held, as an operator does.
    #[track_caller]
    pub fn confirm(&self, writer: &Writer) {
        let status = self.status();
        let cluster = status["store"]["cluster"].as_str().unwrap().to_owned();
        let revision = status["held"].as_array().unwrap().iter().filter_map(|h| h["revision"].as_i64()).max();
        let confirm = format!("{{cluster: {cluster}, revision: {}}}", revision.unwrap());
        writer.put("orders/confirm", confirm);
    }

    /// Ends the load and the process: nothing failed, nothing ran backwards more often than that for a client.
    #[track_caller]
    pub fn end(mut self, steps_back: usize) {
        assert_eq!(self.metric("weir_panics_total", &[]).to_bits(), 0.0_f64.to_bits(), "no panics");
        assert!(self.weir.is_running());
        self.load.end(steps_back);
    }
}

fn held(status: &Value) -> usize {
    let holdings = status["held"].as_array().unwrap();
    holdings.iter().map(|holding| holding["keys"].as_array().unwrap().len()).sum()
}

#[expect(clippy::cast_sign_loss, clippy::cast_possible_truncation, reason = "a count")]
pub fn counted(value: f64) -> u64 {
    value.round() as u64
}

/// Waits until `condition` holds; says how long that took.
#[track_caller]
pub fn within(what: &str, mut condition: impl FnMut() -> bool) -> Duration {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < PATIENCE, "waited {PATIENCE:?} in vain for: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
    begin.elapsed()
}

/// Shows a time that is promised; only a strict run fails when it was longer.
#[track_caller]
pub fn promised(what: &str, took: Duration, most: Duration) {
    eprintln!("{what}: {took:?}, promised {most:?}");
    if std::env::var_os("WEIR_LIVE_STRICT").is_some() {
        assert!(took <= most, "{what}: {took:?}, promised {most:?}");
    }
}

/// A number that the environment may give.
pub fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).ok().map_or(default, |value| value.parse().expect("a number"))
}
