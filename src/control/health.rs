//! Checks the endpoints of the policy that is in force.

use std::{sync::Arc, time::Duration};

use tokio::{
    select,
    time::{MissedTickBehavior, interval},
};

use super::State;
use crate::health::Checks;

/// How soon it is seen that requests failed at an endpoint that is checked. Looked at from here, so that a worker that
/// sees a failure wakes nobody.
const SWEEP: Duration = Duration::from_millis(50);

/// Begins to check what the policy in force wants checked, whichever that is, until the runtime ends.
pub(super) fn begin(state: &Arc<State>) {
    let state = state.clone();
    tokio::spawn(async move {
        let mut checks = Checks::default();
        let mut generations = state.publisher.generations();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        generations.mark_changed();
        loop {
            select! {
                changed = generations.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    checks.follow(&state.shared.snapshot.load());
                }
                _ = sweep.tick(), if !checks.is_empty() => checks.sweep(),
            }
        }
    });
}
