//! The interface for operators and machines: probes, metrics, state, and the few calls that change it.
//!
//! Two addresses serve it on the control thread's runtime: *telemetry* (metrics and probes, may be open to
//! the network) and *admin* (everything, loopback by default). The server is hardened like a listener: few
//! connections, all of them bounded in time. What it shows comes through [`AdminView`].

mod answer;
mod endpoints;
mod guard;

use std::{
    collections::VecDeque, convert::Infallible, future::Future, net::SocketAddr, pin::pin, sync::Arc,
    time::Duration,
};

use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{
    sync::watch,
    task::{AbortHandle, JoinSet},
    time::{sleep, timeout},
};

use crate::{
    config::bootstrap::LogLevel,
    net::{Acceptor, Socket},
    telemetry::Metrics,
};

/// Most connections at once. One more ends the oldest, so that no crowd of silent ones keeps a probe out.
pub const MAX_CONNECTIONS: usize = 64;
/// Bound on the headers of a request, and on the silence before them.
pub const HEADER_TIMEOUT: Duration = Duration::from_secs(5);
/// Bound on the body of a request that has one.
pub const BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The largest body of a request, in bytes.
pub const MAX_BODY: usize = 4 << 10;
/// Most bytes of a request's head.
const MAX_HEAD: usize = 16 << 10;
/// A connection is closed after this, so that none can hold its place for good.
pub const MAX_AGE: Duration = Duration::from_mins(1);
/// How long a connection that must end may go on with the answer it is sending.
const GRACE: Duration = Duration::from_secs(1);
/// Rest after an error of accept(2), most of which (too many open files) would come again at once.
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// What the interface shows and does. Called on the control thread: no method may block for long.
pub trait AdminView: Send + Sync + 'static {
    /// `/status`: instance, version, state of the store, revisions, source of the policy, draining.
    fn status(&self) -> Value;
    /// `/policy`: the effective documents.
    fn policy(&self) -> Value;
    /// `/upstreams`: endpoints, their health and load, pools.
    fn upstreams(&self) -> Value;
    /// Limits: what they grant, and what they have decided.
    fn limits(&self) -> Value;
    /// Switches: how they stand, and what they have acted on.
    fn switches(&self) -> Value;
    /// `/requests`: the last requests that Weir answered or retried itself.
    fn requests(&self) -> Value;
    /// `/readyz`: whether traffic should be sent here, or else what stands in the way.
    fn ready(&self) -> Result<(), Vec<&'static str>>;
    /// `/livez`: whether the event loops turn, or else which does not.
    fn live(&self) -> Result<(), Vec<String>>;
    /// `/startupz`: whether the start is over.
    fn started(&self) -> bool;
    /// `POST /drain`: start to drain; returns at once, and may be called again.
    fn drain(&self);
    /// `PUT /log`: from now on log at this level. False when that is impossible.
    fn set_log_level(&self, level: LogLevel) -> bool;
}

/// Which part of the interface an address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Metrics and probes.
    Telemetry,
    /// Everything.
    Admin,
}

/// What every connection needs.
pub(crate) struct Context {
    surface: Surface,
    view: Arc<dyn AdminView>,
    metrics: Arc<Metrics>,
}

/// Serves `surface` on `listener` until `shutdown` completes, and then for at most a second more, so that
/// answers that are on their way arrive.
///
/// Errors of single connections concern nobody else and end with them. Dropping the future closes all
/// connections at once.
pub async fn serve(
    listener: Acceptor,
    surface: Surface,
    view: Arc<dyn AdminView>,
    metrics: Arc<Metrics>,
    shutdown: impl Future<Output = ()>,
) {
    let context = Arc::new(Context { surface, view, metrics });
    let (stop, stopped) = watch::channel(());
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    let mut by_age = VecDeque::new();
    loop {
        let (stream, peer) = tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener) => accepted,
        };
        make_room(&mut by_age);
        by_age.push_back(connections.spawn(connection(stream, peer, context.clone(), stopped.clone())));
    }
    drop(listener);
    drop(stop);
    // Each connection ends itself within its grace; what is left then is cut by the drop of the set.
    let _ = timeout(2 * GRACE, async { while connections.join_next().await.is_some() {} }).await;
}

/// The next connection. Cancel-safe: a connection is taken or still queued.
async fn accept(listener: &Acceptor) -> (Socket, SocketAddr) {
    loop {
        match listener.accept().await {
            Ok(accepted) => return accepted,
            Err(error) => {
                tracing::warn!(%error, "the admin interface cannot accept");
                sleep(ACCEPT_REST).await;
            }
        }
    }
}

/// Leaves room for one more connection.
fn make_room(by_age: &mut VecDeque<AbortHandle>) {
    by_age.retain(|connection| !connection.is_finished());
    if by_age.len() >= MAX_CONNECTIONS
        && let Some(oldest) = by_age.pop_front()
    {
        oldest.abort();
    }
}

async fn connection(
    stream: Socket,
    peer: SocketAddr,
    context: Arc<Context>,
    mut stopped: watch::Receiver<()>,
) {
    let service = service_fn(|request| {
        let context = context.clone();
        async move { Ok::<_, Infallible>(endpoints::handle(&context, peer, request).await) }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    tokio::select! {
        // An error is the peer's doing: a reset, or no HTTP.
        _ = connection.as_mut() => return,
        // The sender says nothing; that it has gone is the signal.
        _ = stopped.changed() => {}
        () = sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(GRACE, connection).await;
}

#[cfg(test)]
mod tests;
