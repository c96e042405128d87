//! The file, read again: what is right takes effect, what is wrong is said and changes nothing.

use std::time::SystemTime;

use super::{Live, Reload, State};
use crate::{
    config::{Bootstrap, Loaded, fault::Severity},
    snapshot::Outcome,
    telemetry::{PolicyKind, UpdateResult},
};

/// Reads the file again. What is wrong is said, and what ran goes on running.
pub(super) fn baseline(live: &mut Live, state: &State, bootstrap: &Bootstrap, reload: &Reload) {
    let loaded = (reload.load)();
    let metrics = &state.shared.telemetry.metrics;
    let updates = &metrics.policy_updates;
    let Some(file) = loaded.file.clone() else {
        (reload.report)(&loaded);
        updates.of(UpdateResult::Refused).increment(1);
        tracing::error!("the file has faults: what was in force stays");
        state.refuse(in_short(&loaded));
        return;
    };
    if file.bootstrap != *bootstrap {
        tracing::warn!("the file changes more than policy: that takes effect at the next start");
    }
    match live.rebase(&file) {
        Ok(outcome) => {
            metrics.policy_refused.of(PolicyKind::File).set(0.0);
            let mut baseline = state.baseline();
            baseline.documents = file.documents;
            baseline.loaded = SystemTime::now();
            baseline.refused = None;
            match outcome {
                Outcome::Applied { generation } => {
                    tracing::info!(generation, "the file's policy is in force");
                }
                Outcome::Unchanged => tracing::info!("the file was read again: its policy is the same"),
            }
        }
        Err(error) => {
            tracing::error!(%error, "the file's policy cannot be used: what was in force stays");
            state.refuse(error.to_string());
        }
    }
}

impl State {
    /// Remembers why the newest file is not in force.
    fn refuse(&self, why: String) {
        self.shared.telemetry.metrics.policy_refused.of(PolicyKind::File).set(1.0);
        self.baseline().refused = Some(why);
    }
}

/// The faults of a file in one sentence: the first, and how many there are.
fn in_short(loaded: &Loaded) -> String {
    let first = loaded.faults.iter().find(|fault| fault.severity == Severity::Error);
    let Some(first) = first else { return "the file cannot be used".to_owned() };
    let place = if first.path.is_empty() { String::new() } else { format!("{}: ", first.path) };
    let others = match loaded.faults.count(Severity::Error) {
        0 | 1 => String::new(),
        count => format!(" (the first of {count} faults)"),
    };
    format!("line {}: {place}{}{others}; `weir check` shows more", first.origin.line, first.message)
}
