//! Weir between a load and unruly origins, with a directory as its store.

use std::{
    fmt::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use crate::{
    load::Load,
    origins::Unruly,
    support::{wait_until, weir::Weir},
};

/// Good origins with these names.
pub fn origins<const N: usize>(names: [&str; N]) -> [Unruly; N] {
    names.map(Unruly::start)
}

/// A file that grows; every upstream `NAME` has the route `NAME` for the host `NAME`.
#[derive(Debug, Default)]
pub struct Setup {
    upstreams: String,
    routes: String,
}

impl Setup {
    /// An upstream with these endpoints and fields (in flow style), and its route.
    #[must_use]
    pub fn upstream(self, name: &str, origins: &[&Unruly], fields: &str) -> Self {
        self.routed(name, origins, fields, "")
    }

    /// With fields of its route.
    #[must_use]
    pub fn routed(mut self, name: &str, origins: &[&Unruly], fields: &str, route: &str) -> Self {
        let endpoints: Vec<_> = origins.iter().map(|origin| format!("\"{}\"", origin.address)).collect();
        let more = |fields: &str| if fields.is_empty() { String::new() } else { format!(", {fields}") };
        let _ = writeln!(
            self.upstreams,
            "    {name}: {{ endpoints: [{}]{} }}",
            endpoints.join(", "),
            more(fields)
        );
        let _ = writeln!(
            self.routes,
            "    {name}: {{ match: {{ host: {name} }}, upstream: {name}{} }}",
            more(route)
        );
        self
    }

    /// Weir with it.
    #[track_caller]
    pub fn start(self) -> World {
        let live = TempDir::new().unwrap();
        // Outbound: for inbound listeners alone a breaker only observes.
        let file = format!(
            "store: {{ directory: {{ path: \"{}\", interval: 10ms }}, cache: off }}\n\
             listeners:\n  outbound: {{ listen: \"{{{{outbound}}}}\" }}\n\
             policy:\n  upstreams:\n{}  routes:\n{}",
            live.path().display(),
            self.upstreams,
            self.routes
        );
        World { weir: Weir::start(&file), live }
    }
}

/// See the module.
#[derive(Debug)]
pub struct World {
    pub weir: Weir,
    live: TempDir,
}

impl World {
    /// A load on the route of this name.
    pub fn load(&self, name: &str, rate: u32) -> Load {
        Load::start(self.weir.at("outbound"), name, "/", rate)
    }

    /// Writes an overlay of the service (`upstreams/app`), in one step.
    pub fn put(&self, key: &str, text: &str) {
        let path = self.key(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = self.live.path().join(".fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// Takes an overlay back.
    pub fn unset(&self, key: &str) {
        std::fs::remove_file(self.key(key)).unwrap();
    }

    fn key(&self, key: &str) -> PathBuf {
        self.live.path().join("test").join(key)
    }

    /// Waits until the breaker's mode in the effective document of an upstream is this.
    #[track_caller]
    pub fn wait_mode(&self, upstream: &str, mode: Option<&str>) {
        wait_until(&format!("the mode of {upstream} to be {mode:?}"), || {
            let policy = self.weir.admin_get("/policy").json();
            policy["upstreams"][upstream]["document"]["breaker"]["mode"].as_str() == mode
        });
    }

    /// The value of a metric of an upstream.
    pub fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.weir.metrics().sum(name, labels)
    }

    /// Waits until so many endpoints of an upstream are in this state.
    #[track_caller]
    pub fn wait_endpoints(&self, upstream: &str, state: &str, count: u32) {
        wait_until(&format!("{count} endpoints of {upstream} to be {state}"), || {
            let found = self.metric("weir_endpoints", &[("upstream", upstream), ("state", state)]);
            (found - f64::from(count)).abs() < 0.5
        });
    }

    /// Waits until the breaker of an upstream is in this state.
    #[track_caller]
    pub fn wait_breaker(&self, upstream: &str, state: &str) {
        wait_until(&format!("the breaker of {upstream} to be {state}"), || {
            let labels = [("upstream", upstream), ("route", ""), ("state", state)];
            self.metric("weir_breaker_state", &labels) > 0.5
        });
    }
}

/// Holds Weir to what it promises about a time, on machines that are quiet enough for that; elsewhere it is shown.
#[track_caller]
pub fn promised(what: &str, took: Duration, most: Duration) {
    eprintln!("{what}: {took:?} of {most:?}");
    if std::env::var_os("WEIR_RESILIENCE_STRICT").is_some() {
        assert!(took <= most, "{what}: {took:?}, and {most:?} is promised");
    }
}

/// Waits until `condition` holds; says how long that took.
#[track_caller]
pub fn within(what: &str, condition: impl FnMut() -> bool) -> Duration {
    let since = Instant::now();
    wait_until(what, condition);
    since.elapsed()
}
