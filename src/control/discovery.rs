//! Looks names up for the policy that is in force.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;

use super::State;
use crate::discovery::{Names, Target, Watch};

/// How long the start waits for the first look-ups. What is not there by then joins when it comes.
const FIRST_LOOK_UPS: Duration = Duration::from_secs(1);

/// Begins to look up what the policy in force wants looked up, whichever that is, until the runtime ends.
pub(super) fn begin(state: &Arc<State>) {
    let state = state.clone();
    tokio::spawn(async move {
        let publisher = {
            let state = state.clone();
            move |target: &Target, addresses: &Arc<[_]>| {
                if let Err(error) = state.publisher.discovered(target, addresses) {
                    tracing::error!(name = %target, %error, "what was discovered cannot be used: what was in force stays");
                }
            }
        };
        let mut watch = Watch::new(Names::of_system(), state.discoveries().clone(), Arc::new(publisher));
        let mut generations = state.publisher.generations();
        loop {
            generations.mark_unchanged();
            watch.follow(&state.publisher.policy());
            state.publisher.keep_discovered(|target| watch.has(target));
            if generations.changed().await.is_err() {
                return;
            }
        }
    });
}

/// Waits until every name that the policy in force wants looked up was looked up once, though not for long.
pub(super) async fn first_look_ups(state: &State) {
    let policy = state.publisher.policy();
    let discovers = policy.upstreams.values().filter_map(|upstream| upstream.discover.as_ref());
    let targets: Vec<_> = discovers.map(Target::of).collect();
    let mut news = state.discoveries().news();
    let all = async {
        // Fails only when the table is gone, which this holds.
        while !state.discoveries().tried(&targets) && news.changed().await.is_ok() {}
    };
    if timeout(FIRST_LOOK_UPS, all).await.is_err() {
        tracing::warn!("the start goes on without all names looked up");
    }
}
