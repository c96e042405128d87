//! What the admin interface shows of the control side, and lets be done to it.

use std::{
    sync::PoisonError,
    time::{Duration, Instant, SystemTime},
};

use serde_json::{Value, json};

use super::{State, upstreams};
use crate::{
    admin::AdminView,
    config::{Name, bootstrap::LogLevel},
    policy::Stamp,
};

impl AdminView for State {
    fn status(&self) -> Value {
        let baseline = self.baseline();
        let snapshot = self.shared.snapshot.load();
        let listeners: Vec<_> = self
            .shared
            .listeners
            .iter()
            .map(|listener| {
                json!({
                    "name": listener.config.name.as_str(),
                    "address": listener.address.to_string(),
                    "direction": format!("{:?}", listener.config.direction).to_lowercase(),
                    "tls": listener.tls.is_some(),
                    "connections": listener.open(),
                    "phase": format!("{:?}", listener.phase.get()).to_lowercase(),
                })
            })
            .collect();
        let plans = snapshot.plans.iter().filter(|plan| plan.config.on);
        let plans_on: Vec<_> = plans.map(|plan| plan.config.name.as_str()).collect();
        let mut status = json!({
            "service": self.service.as_str(),
            "instance": self.instance.as_str(),
            "zone": self.zone.as_ref().map(Name::as_str),
            "version": env!("CARGO_PKG_VERSION"),
            "started": timestamp(self.started),
            "workers": self.shared.loads.len(),
            "draining": self.readiness.draining(),
            "ready": self.readiness.ready().err().map_or(json!(true), |reasons| json!(reasons)),
            "policy": {
                "generation": snapshot.generation,
                "loaded": timestamp(baseline.loaded),
                "file_refused": baseline.refused,
                "routes": snapshot.routes.len(),
                "upstreams": snapshot.upstreams.len(),
                "limits": snapshot.limits.len(),
                "switches": snapshot.switches.len(),
                "plans_on": plans_on,
                "bypass": snapshot.bypass,
            },
            "listeners": listeners,
        });
        drop(baseline);
        self.shown().add_to(&mut status);
        if let (Some(redis), Value::Object(status)) = (&self.redis, &mut status) {
            let known = redis.status();
            let shown = json!({
                "connected": known.connected, "error": known.error, "since": timestamp(known.since),
            });
            status.insert("redis".to_owned(), shown);
        }
        status
    }

    fn policy(&self) -> Value {
        let layers = self.layers.get().map(|layers| layers.lock().unwrap_or_else(PoisonError::into_inner));
        let documents = layers.map(|layers| layers.documents());
        documents.unwrap_or_else(|| self.baseline().documents.clone()).to_json()
    }

    fn upstreams(&self) -> Value {
        let snapshot = self.shared.snapshot.load();
        upstreams::show(&snapshot, &self.discoveries, Stamp::of(Instant::now()))
    }

    fn limits(&self) -> Value {
        self.rules().limits(&self.shared.snapshot.load())
    }

    fn switches(&self) -> Value {
        self.rules().switches(&self.shared.snapshot.load(), Stamp::of(Instant::now()))
    }

    fn requests(&self) -> Value {
        self.shared.telemetry.recent.list()
    }

    fn ready(&self) -> Result<(), Vec<&'static str>> {
        self.readiness.ready()
    }

    fn live(&self) -> Result<(), Vec<String>> {
        self.readiness.live(Instant::now())
    }

    fn started(&self) -> bool {
        self.readiness.started()
    }

    fn drain(&self) {
        self.drain_inbound.notify_one();
    }

    fn set_log_level(&self, level: LogLevel) -> bool {
        self.log.set_level(level)
    }
}

/// A moment so long ago.
pub(super) fn timestamp_of(ago: Duration) -> String {
    timestamp(SystemTime::now().checked_sub(ago).unwrap_or(SystemTime::UNIX_EPOCH))
}

fn timestamp(time: SystemTime) -> String {
    jiff::Timestamp::try_from(time).map(|t| format!("{t:.3}")).unwrap_or_default()
}
