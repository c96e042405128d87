//! Leaving: the inbound side first, the outbound side when nobody needs it any more.

use std::{
    sync::Arc,
    sync::atomic::Ordering,
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
    state.readiness.drain();
    let served = |listener: &Arc<Listener>| {
        listener.config.direction == Direction::Inbound && listener.served.load(Ordering::Relaxed)
    };
    let nobody_to_notice = order == Order::ApplicationGone || !state.shared.listeners.iter().any(served);
    let since = *state.leaving_since.get_or_init(|| begun);
    let delay = if nobody_to_notice { Duration::ZERO } else { drain.delay.saturating_sub(since.elapsed()) };
    tracing::info!(delay_ms = delay.as_millis(), grace_ms = drain.grace.as_millis(), "leaving");
    state.advance(None, Phase::Leaving);
    let end = begun + drain.grace;
    let application = control.application.take().filter(|_| order != Order::ApplicationGone);
    let gone = Notify::new();
    let finish = async {
        tokio::select! {
            () = sleep(delay) => {}
            () = gone.notified() => gone.notify_one(),
        }
        state.advance(Some(Direction::Inbound), Phase::Closing);
        // What the inbound side still has to do may need the outbound side.
        while state.open(Some(Direction::Inbound)) > 0 {
            sleep(DRAIN_LOOK).await;
        }
        if let Some(application) = &application {
            // It may still call out, so the outbound side stays until it has ended.
            application.notify_one();
            gone.notified().await;
        }
        state.advance(None, Phase::Closing);
        while state.open(None) > 0 {
            sleep(DRAIN_LOOK).await;
        }
    };
    let hurried = async {
        loop {
            match control.orders.recv().await {
                Some(Order::Leave) => return,
                Some(Order::ApplicationGone) => gone.notify_one(),
                Some(Order::Reload) => {}
                None => std::future::pending().await,
            }
        }
    };
    let cut = tokio::select! {
        () = finish => None,
        () = sleep_until(end.into()) => Some("drain.grace is over"),
        () = hurried => Some("told to hurry"),
    };
    if let Some(why) = cut {
        let open = state.open(None);
        tracing::warn!(open, why, "connections are cut");
        state.advance(None, Phase::Cut);
        // Long enough for the workers to hear of it; they are stopped right after.
        sleep(DRAIN_LOOK).await;
    }
    tracing::info!(took_ms = begun.elapsed().as_millis(), "gone");
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
