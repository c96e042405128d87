//! Certificates that change while Weir runs.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use crate::{
    config::Name,
    listener::{Fingerprint, Listener},
    snapshot::Snapshot,
    telemetry::{Counter, Metrics, ReloadResult, labels::PerLabel},
};

/// How often a fault that lasts is said again.
const REMIND: Duration = Duration::from_mins(1);

/// A listener's certificate, and what is known of its files.
#[derive(Debug)]
pub(super) struct Certificate {
    listener: Arc<Listener>,
    known: Fingerprint,
    fault: Fault,
}

impl Certificate {
    pub(super) fn new(listener: Arc<Listener>, known: Fingerprint) -> Self {
        Self { listener, known, fault: Fault::default() }
    }

    /// Looks at the files, and takes them when they changed and are whole.
    pub(super) fn refresh(&mut self, metrics: &Metrics) {
        let Some(tls) = &self.listener.tls else { return };
        let name = &self.listener.config.name;
        let reloads = || -> PerLabel<ReloadResult, Counter> { metrics.tls_reloads(name) };
        match tls.refresh(&self.known) {
            Ok(changed) => {
                self.fault = Fault::default();
                if let Some(fingerprint) = changed {
                    self.known = fingerprint;
                    reloads().of(ReloadResult::Success).increment(1);
                    tracing::info!(listener = %name, "the certificate has changed");
                }
            }
            Err(error) => {
                let text = error.to_string();
                if self.fault.is_news(&text, Instant::now()) {
                    reloads().of(ReloadResult::Failure).increment(1);
                    tracing::warn!(
                        listener = %name, error = text, "the certificate cannot be used: the old one stays"
                    );
                }
            }
        }
    }
}

/// The certificates and authorities of the upstreams.
#[derive(Debug, Default)]
pub(super) struct Upstreams(BTreeMap<Name, Fault>);

impl Upstreams {
    /// Looks at the files of all upstreams, and takes those that changed and are whole.
    pub(super) fn refresh(&mut self, snapshot: &Snapshot) {
        self.0.retain(|name, _| snapshot.upstreams.iter().any(|upstream| upstream.name() == name));
        for upstream in &snapshot.upstreams {
            let name = upstream.name();
            match upstream.connector.refresh() {
                Ok(changed) => {
                    self.0.remove(name);
                    if changed {
                        tracing::info!(upstream = %name, "the files of `tls` have changed");
                    }
                }
                Err(error) => {
                    let text = error.to_string();
                    if self.0.entry(name.clone()).or_default().is_news(&text, Instant::now()) {
                        tracing::warn!(
                            upstream = %name, error = text, "the files of `tls` cannot be used: what they were stays"
                        );
                    }
                }
            }
        }
    }
}

/// What is wrong, and when it was said.
#[derive(Debug, Default)]
struct Fault(Option<(String, Instant)>);

impl Fault {
    /// Whether this is to be said: when it is new, and once a minute while it lasts.
    fn is_news(&mut self, text: &str, now: Instant) -> bool {
        let known = self
            .0
            .as_ref()
            .is_some_and(|(said, at)| said == text && now.saturating_duration_since(*at) < REMIND);
        if !known {
            self.0 = Some((text.to_owned(), now));
        }
        !known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fault_that_lasts_is_said_once_a_minute_and_another_at_once() {
        let (mut fault, now) = (Fault::default(), Instant::now());
        assert!(fault.is_news("no key", now));
        assert!(!fault.is_news("no key", now + Duration::from_secs(59)));
        assert!(fault.is_news("no key", now + Duration::from_mins(1)));
        assert!(fault.is_news("no file", now + Duration::from_secs(61)));
    }
}
