//! Leaving: the inbound side first, the outbound side when nobody needs it any more.

use std::{
    cell::Cell,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use tokio::{
    sync::Notify,
    time::{sleep, sleep_until},
};

use super::{Control, Order, State};
use crate::{
    config::{Bootstrap, bootstrap::Direction},
    drain::Phase,
    listener::Listener,
    worker::Message,
};

/// How often a drain looks whether everything has ended.
const DRAIN_LOOK: Duration = Duration::from_millis(20);
/// How long before it is killed the application is told to end, whatever still runs; a quarter of the grace when that
/// is less.
const LAST_CALL: Duration = Duration::from_secs(5);

/// `POST /drain`: the inbound side leaves, the outbound side stays for the application's last calls.
pub(super) async fn inbound_when_asked(state: &State, delay: Duration) {
    state.drain_inbound.notified().await;
    state.readiness.drain();
    let _ = state.leaving_since.set(Instant::now());
    tracing::info!(delay_ms = delay.as_millis(), "the inbound side drains");
    state.advance(Some(Direction::Inbound), Phase::Leaving);
    sleep(delay).await;
    state.advance(Some(Direction::Inbound), Phase::Closing);
    std::future::pending::<()>().await;
}

/// SIGTERM: every listener leaves. See "Limits of the process" in the reference.
pub(super) async fn leave(state: &State, bootstrap: &Bootstrap, order: Order, control: &mut Control) {
    let begun = Instant::now();
    let drain = &bootstrap.drain;
    let end = begun + drain.grace;
    state.readiness.drain();
    let delay = delay_left(state, drain.delay, order, begun);
    tracing::info!(delay_ms = delay.as_millis(), grace_ms = drain.grace.as_millis(), "leaving");
    state.advance(None, Phase::Leaving);
    let application =
        Application::new(control.application.take().filter(|_| order != Order::ApplicationGone));
    let warned = end.checked_sub(LAST_CALL.min(drain.grace / 4)).unwrap_or(end);
    let cut = tokio::select! {
        () = in_order(state, delay, warned, &application) => None,
        () = sleep_until(end.into()) => Some("drain.grace is over"),
        () = hurried(control, &application) => Some("told to hurry"),
    };
    if let Some(why) = cut {
        let open = state.open(None);
        tracing::warn!(open, why, "connections are cut");
        state.advance(None, Phase::Cut);
        // Long enough for the workers to hear of it; they are stopped right after.
        sleep(DRAIN_LOOK).await;
        application.terminate();
        tokio::select! {
            () = application.ended() => {}
            () = sleep_until(end.into()) => {}
            () = hurried(control, &application) => {}
        }
    }
    tracing::info!(took_ms = begun.elapsed().as_millis(), "gone");
}

/// How long connections are still accepted while callers find out; nothing when there are none.
fn delay_left(state: &State, delay: Duration, order: Order, now: Instant) -> Duration {
    let served = |listener: &Arc<Listener>| {
        listener.config.direction == Direction::Inbound && listener.served.load(Ordering::Relaxed)
    };
    let nobody_to_notice = order == Order::ApplicationGone || !state.shared.listeners.iter().any(served);
    // `POST /drain` may have told them before.
    let since = *state.leaving_since.get_or_init(|| now);
    if nobody_to_notice { Duration::ZERO } else { delay.saturating_sub(now.saturating_duration_since(since)) }
}

/// The drain as it should be: the inbound side, then the application, then the outbound side. The application is
/// told to end at `warned` at the latest, so that it has time for it before it is killed.
async fn in_order(state: &State, delay: Duration, warned: Instant, application: &Application) {
    tokio::select! {
        () = sleep(delay) => {}
        () = application.ended(), if application.is_there() => {}
    }
    state.advance(Some(Direction::Inbound), Phase::Closing);
    // What the inbound side still has to do may need the outbound side.
    tokio::select! {
        () = none_open(state, Some(Direction::Inbound)) => {}
        () = sleep_until(warned.into()), if application.is_there() => {}
    }
    // It may still call out, so the outbound side stays until it has ended.
    application.terminate();
    application.ended().await;
    state.advance(None, Phase::Closing);
    none_open(state, None).await;
}

async fn none_open(state: &State, direction: Option<Direction>) {
    while state.open(direction) > 0 {
        sleep(DRAIN_LOOK).await;
    }
}

/// Resolves when Weir is told again to leave.
async fn hurried(control: &mut Control, application: &Application) {
    loop {
        match control.orders.recv().await {
            Some(Order::Leave) => return,
            Some(Order::ApplicationGone) => application.has_ended.notify_one(),
            Some(Order::Reload) => {}
            None => std::future::pending().await,
        }
    }
}

/// The wrapped application, where there is one.
struct Application {
    terminate: Option<Arc<Notify>>,
    has_ended: Notify,
    told: Cell<bool>,
}

impl Application {
    fn new(terminate: Option<Arc<Notify>>) -> Self {
        Self { terminate, has_ended: Notify::new(), told: Cell::new(false) }
    }

    fn is_there(&self) -> bool {
        self.terminate.is_some()
    }

    /// Asks it to end, once.
    fn terminate(&self) {
        if let Some(terminate) = &self.terminate
            && !self.told.replace(true)
        {
            terminate.notify_one();
        }
    }

    /// Resolves when it has ended, at once when there is none.
    async fn ended(&self) {
        if self.is_there() {
            self.has_ended.notified().await;
            // For whoever asks next.
            self.has_ended.notify_one();
        }
    }
}

impl State {
    /// Moves the listeners of a direction (`None` = all) on to `phase`.
    fn advance(&self, direction: Option<Direction>, phase: Phase) {
        for (index, listener) in self.shared.listeners.iter().enumerate() {
            let meant = direction.is_none_or(|direction| listener.config.direction == direction);
            if meant && listener.phase.advance(phase) {
                self.shared.tell(|| Message::Drain(index));
            }
        }
    }

    fn open(&self, direction: Option<Direction>) -> usize {
        let meant = |listener: &&Arc<Listener>| direction.is_none_or(|d| listener.config.direction == d);
        self.shared.listeners.iter().filter(meant).map(|listener| listener.open()).sum()
    }
}
