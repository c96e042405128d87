//! Signals, and the application that runs under Weir.

use std::{
    ffi::OsString,
    future::pending,
    io,
    os::unix::process::ExitStatusExt,
    process::ExitStatus,
    sync::{
        Arc,
        atomic::{AtomicI32, Ordering},
    },
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
    sync::{
        Notify,
        mpsc::{self, UnboundedSender},
    },
};

use super::run::words;
use crate::control::Order;

/// The application has not ended, or there is none.
pub(super) const NO_OUTCOME: i32 = -1;
/// The application could not be started.
pub(super) const NOT_STARTED: i32 = -2;

/// The application to run under Weir.
#[derive(Debug)]
pub(super) struct Wrapped {
    pub(super) command: Vec<OsString>,
    /// What `PORT` is set to.
    pub(super) port: Option<u16>,
    /// Told when the application should end: nothing reaches it any more.
    pub(super) terminate: Arc<Notify>,
    /// Where its exit code is left.
    pub(super) outcome: Arc<AtomicI32>,
}

/// Signals that mean nothing to Weir and are handed to the application as they come.
const HANDED_ON: [(SignalKind, Signal); 4] = [
    (SignalKind::quit(), Signal::QUIT),
    (SignalKind::user_defined1(), Signal::USR1),
    (SignalKind::user_defined2(), Signal::USR2),
    (SignalKind::window_change(), Signal::WINCH),
];

/// Turns signals into orders, and looks after the application. Runs until the process ends.
pub(super) async fn attend(orders: UnboundedSender<Order>, wrapped: Option<Wrapped>) {
    let (hand_on, handed) = mpsc::unbounded_channel();
    // SIGHUP stays with Weir: an application that does not expect it would die of a reload.
    for (kind, order) in [
        (SignalKind::terminate(), Order::Leave),
        (SignalKind::interrupt(), Order::Leave),
        (SignalKind::hangup(), Order::Reload),
    ] {
        let orders = orders.clone();
        forward(kind, move || orders.send(order).is_ok());
    }
    let Some(wrapped) = wrapped else { return pending().await };
    for (kind, signal) in HANDED_ON {
        let hand_on = hand_on.clone();
        forward(kind, move || hand_on.send(signal).is_ok());
    }
    let outcome = wrapped.outcome.clone();
    let code = match start(&wrapped) {
        Ok(child) => supervise(child, &wrapped, handed).await,
        Err(error) => {
            tracing::error!(command = words(&wrapped.command), %error, "the application cannot be started");
            NOT_STARTED
        }
    };
    outcome.store(code, Ordering::Release);
    // The control side may be gone already.
    let _ = orders.send(Order::ApplicationGone);
}

/// Calls `act` for each signal of a kind, while it says true.
fn forward(kind: SignalKind, act: impl Fn() -> bool + Send + 'static) {
    match signal(kind) {
        Ok(mut signals) => {
            tokio::spawn(async move { while signals.recv().await.is_some() && act() {} });
        }
        Err(error) => tracing::error!(%error, "a signal cannot be listened to"),
    }
}

fn start(wrapped: &Wrapped) -> io::Result<Child> {
    let (program, arguments) = wrapped.command.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).kill_on_drop(true);
    if let Some(port) = wrapped.port {
        command.env("PORT", port.to_string());
    } else {
        tracing::warn!("PORT is not set: no inbound route leads to an endpoint on this machine");
    }
    let child = command.spawn()?;
    tracing::info!(
        command = words(&wrapped.command),
        pid = child.id(),
        port = wrapped.port,
        "the application runs"
    );
    Ok(child)
}

/// Waits for the application to end, handing it signals meanwhile. Returns its exit code; one that died of a signal has
/// 128 and the signal's number, as in a shell.
async fn supervise(mut child: Child, wrapped: &Wrapped, mut handed: mpsc::UnboundedReceiver<Signal>) -> i32 {
    let pid = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let tell = |signal| {
        // It may just have ended.
        let _ = pid.map(|pid| kill_process(pid, signal));
    };
    let ended = loop {
        tokio::select! {
            ended = child.wait() => break ended,
            () = wrapped.terminate.notified() => tell(Signal::TERM),
            Some(signal) = handed.recv() => tell(signal),
        }
    };
    match ended {
        Ok(status) => {
            tracing::info!(code = code_of(status), "the application has ended");
            code_of(status)
        }
        Err(error) => {
            tracing::error!(%error, "the application cannot be waited for");
            1
        }
    }
}

fn code_of(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}
