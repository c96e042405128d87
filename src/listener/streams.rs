//! The streams of an HTTP/2 connection that its client lets stand still.
//!
//! hyper waits for room in a stream's window without a limit, and does not ask for more of the answer meanwhile, so
//! that nothing on the exchange's own path would notice. The connection's worker looks at the answers that are on their
//! way every now and then, and stops those that stood still for their route's `idle_timeout`: the task that hyper runs
//! for the stream is dropped, and the stream with it (`RST_STREAM`, `CANCEL`). The others go on.

use std::{
    rc::Rc,
    time::{Duration, Instant},
};

use tokio::task::AbortHandle;

use super::Connection;
use crate::http::body::Flow;

/// How much longer than its `idle_timeout` an answer may stand still before it is taken for the client's doing: the
/// exchange itself notices when it is the endpoint's.
const GRACE: Duration = Duration::from_secs(1);

/// The list of answers is gone through when it is this many times as long as there are streams, and not short.
const SLACK: usize = 4;
const SHORT: usize = 64;

/// An answer that is on its way. Its exchange may be over before it is: then the last of it waits for the client.
#[derive(Debug)]
pub(super) struct Watched {
    flow: Rc<Flow>,
    limit: Duration,
    stop: AbortHandle,
}

impl Connection {
    /// The task of the stream whose request begins. To be called on that task; hyper gives every stream one.
    pub(crate) fn stream_task(&self) -> Option<AbortHandle> {
        let this = tokio::task::try_id()?;
        let mut spawned = self.spawned.borrow_mut();
        // Tasks run in the order in which they were begun; those in between carry no requests.
        while let Some(task) = spawned.pop_front() {
            if task.id() == this {
                return Some(task);
            }
        }
        None
    }

    /// Bounds how long the client may let an answer stand still.
    pub(crate) fn watch(&self, flow: &Rc<Flow>, limit: Duration, stop: AbortHandle) {
        let mut watched = self.watched.borrow_mut();
        let streams = usize::try_from(self.active.get()).unwrap_or(usize::MAX);
        if watched.len() >= SHORT.max(streams.saturating_mul(SLACK)) {
            watched.retain(|one| !one.stop.is_finished());
        }
        watched.push(Watched { flow: flow.clone(), limit: limit.saturating_add(GRACE), stop });
    }

    /// Stops the answers that stood still for too long.
    pub(super) fn stop_stalled(&self, now: Instant) {
        let mut watched = self.watched.borrow_mut();
        watched.retain(|one| {
            if one.stop.is_finished() {
                return false;
            }
            let stands = now.saturating_duration_since(one.flow.moved()) >= one.limit;
            if stands {
                one.flow.stall();
                one.stop.abort();
            }
            !stands
        });
        if watched.is_empty() && watched.capacity() > SHORT {
            watched.shrink_to(SHORT);
        }
    }
}

/// Runs the tasks of hyper's streams, and remembers them for the requests on them.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor(pub(super) Rc<Connection>);

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future).abort_handle();
        self.0.spawned.borrow_mut().push_back(task);
    }
}
