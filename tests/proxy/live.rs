//! Weir with a directory as its store, and origins whose mind can be changed.

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    client::Client,
    origin::{self, Origin},
    wait_until,
    weir::Weir,
};

/// See the module.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) weir: Weir,
    folder: TempDir,
}

impl Live {
    /// One with listeners both ways, these lines at the top of its file, and this policy.
    #[track_caller]
    pub(crate) fn start(top: &str, policy: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let weir = Weir::start(&format!(
            "workers: 1\nstore: {{ directory: {{ path: \"{}\", interval: 10ms }}, cache: off }}\n{top}\nlisteners:\n  \
             inbound: {{ listen: \"{{{{inbound}}}}\" }}\n  outbound: {{ listen: \"{{{{outbound}}}}\" }}\npolicy:\n{policy}",
            folder.path().display()
        ));
        Self { weir, folder }
    }

    /// Writes a document of the service (`upstreams/app`), in one step.
    pub(crate) fn put(&self, key: &str, text: &str) {
        let path = self.path(key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        let fresh = self.folder.path().join(".fresh");
        std::fs::write(&fresh, text).unwrap();
        std::fs::rename(fresh, path).unwrap();
    }

    /// Takes it back.
    pub(crate) fn unset(&self, key: &str) {
        std::fs::remove_file(self.path(key)).unwrap();
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.path().join("test").join(key)
    }

    /// A client of the outbound listener.
    pub(crate) fn client(&self) -> Client {
        Client::http1(self.weir.at("outbound"))
    }

    /// What `/upstreams` says of one.
    #[track_caller]
    pub(crate) fn upstream(&self, name: &str) -> Value {
        self.weir.admin_get("/upstreams").json()[name].clone()
    }

    /// What `/upstreams` says of an endpoint of one.
    #[track_caller]
    pub(crate) fn endpoint(&self, name: &str, address: SocketAddr) -> Value {
        let upstream = self.upstream(name);
        let found = upstream["endpoints"].as_array().and_then(|endpoints| {
            endpoints.iter().find(|endpoint| endpoint["address"] == address.to_string())
        });
        found.cloned().unwrap_or_default()
    }

    /// Waits until `/upstreams` says so of one.
    #[track_caller]
    pub(crate) fn wait_upstream(&self, name: &str, what: &str, holds: impl Fn(&Value) -> bool) {
        wait_until(&format!("{name} to be {what}; it is {}", self.upstream(name)), || {
            holds(&self.upstream(name))
        });
    }

    /// Waits until so many results are in the window of its breaker, of which so many are failures.
    #[track_caller]
    pub(crate) fn wait_window(&self, name: &str, requests: u64, failures: u64) {
        self.wait_upstream(name, &format!("at {failures} failures of {requests}"), |upstream| {
            let window = &upstream["breaker"]["window"];
            (window["requests"].as_u64(), window["failures"].as_u64()) == (Some(requests), Some(failures))
        });
    }
}

/// An origin that answers with its name and with the status that it is told.
#[derive(Debug)]
pub(crate) struct Moody {
    pub origin: Origin,
    status: Arc<AtomicU16>,
}

impl Moody {
    pub(crate) fn start(name: &'static str) -> Self {
        let status = Arc::new(AtomicU16::new(200));
        let now = status.clone();
        let origin = Origin::start(move |_| {
            let status = now.load(Ordering::SeqCst);
            async move { Ok(origin::answer(status, name)) }
        });
        Self { origin, status }
    }

    pub(crate) fn set(&self, status: u16) {
        self.status.store(status, Ordering::SeqCst);
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.origin.address
    }
}
