//! An etcd, and instances of Weir that follow it as the service `orders`.

use std::{
    process::{Command, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    PATIENCE,
    etcd::{Etcd, Version},
    programs::{Done, finish},
    wait_until,
    weir::Weir,
    writer::Writer,
};

/// See the module.
pub struct World {
    pub etcd: Etcd,
    pub writer: Writer,
}

impl World {
    pub fn start() -> Self {
        let etcd = Etcd::start(Version::V3_4);
        let writer = Writer::connect(etcd.endpoint());
        Self { etcd, writer }
    }

    /// What a file says: an instance with listeners both ways and this policy. Indented lines of `top` belong to `store`,
    /// the others to the file.
    pub fn file(&self, instance: &str, top: &str, policy: &str) -> String {
        let cache = if top.contains("cache:") { "" } else { "  cache: off\n" };
        format!(
            "service: orders\ninstance: {instance}\nworkers: 2\nlog: {{ access: off }}\nstore:\n  etcd: {{ endpoints: \
             [\"{}\"], root: /weir }}\n{cache}{top}\nlisteners:\n  inbound: {{ listen: \"{{{{inbound}}}}\" }}\n  \
             outbound: {{ listen: \"{{{{outbound}}}}\", unmatched: passthrough }}\npolicy:\n{policy}",
            self.etcd.endpoint()
        )
    }

    /// Starts one.
    #[track_caller]
    pub fn weir(&self, instance: &str, top: &str, policy: &str) -> Weir {
        Weir::start(&self.file(instance, top, policy))
    }

    /// Runs a line as a shell does that knows where this etcd is.
    #[track_caller]
    pub fn shell(&self, line: &str) -> Done {
        let mut command = Command::new("sh");
        command.args(["-c", line]).env("ETCDCTL_API", "3").env("ETCDCTL_ENDPOINTS", self.etcd.endpoint());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        finish(command.spawn().unwrap(), PATIENCE).ok()
    }

    /// Puts `/weir/policy/<key>` and waits until these have it; gives the revision.
    #[track_caller]
    pub fn put(&self, weirs: &[&Weir], key: &str, value: &str) -> i64 {
        let revision = self.writer.put(key, value);
        for weir in weirs {
            applied(weir, revision);
        }
        revision
    }

    /// Deletes it and waits until these have that.
    #[track_caller]
    pub fn delete(&self, weirs: &[&Weir], key: &str) -> i64 {
        let revision = self.writer.delete(key);
        for weir in weirs {
            applied(weir, revision);
        }
        revision
    }
}

/// The status of one.
pub fn status(weir: &Weir) -> Value {
    weir.admin_get("/status").json()
}

/// Waits until the policy of a revision is in force.
#[track_caller]
pub fn applied(weir: &Weir, revision: i64) {
    wait_until(&format!("revision {revision} to be in force"), || {
        status(weir)["revisions"]["applied"].as_i64().is_some_and(|applied| applied >= revision)
    });
}

/// Whether what is promised of a quiet machine is asserted.
pub fn strict() -> bool {
    std::env::var_os("WEIR_SHEDDING_STRICT").is_some()
}

/// Shows a time that is promised; only a strict run fails when it was longer.
#[track_caller]
pub fn promised(what: &str, took: Duration, most: Duration) {
    eprintln!("{what}: {took:?}, promised {most:?}");
    assert!(!strict() || took <= most, "{what}: {took:?}, promised {most:?}");
}

/// That quantile.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a rank among few")]
pub fn quantile(times: &[Duration], q: f64) -> Duration {
    let mut times = times.to_vec();
    times.sort_unstable();
    let rank = ((times.len() as f64 * q).ceil() as usize).saturating_sub(1);
    times.get(rank).copied().unwrap_or_default()
}
