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
    /// How many bytes had moved either way when that was last news, and when it was.
    moved: u64,
    since: Option<Instant>,
}

impl Watched {
    fn is_over(&self) -> bool {
        self.flow.task().is_none_or(AbortHandle::is_finished)
    }

    /// Whether nothing moved for too long. Whoever wants to know looks again and again: no request reads a clock for it.
    fn stands_still(&mut self, now: Instant) -> bool {
        let moved = self.flow.request_bytes().wrapping_add(self.flow.response_bytes());
        match self.since {
            Some(since) if self.moved == moved => now.saturating_duration_since(since) >= self.limit,
            _ => {
                (self.moved, self.since) = (moved, Some(now));
                false
            }
        }
    }
}

impl Connection {
    /// An exchange begins, and the task of its stream is the next that is spawned.
    pub(crate) fn newest(&self, flow: &Rc<Flow>) {
        self.newest.replace(Some(flow.clone()));
    }

    /// Bounds how long the client may let an answer stand still.
    pub(crate) fn watch(&self, flow: &Rc<Flow>, limit: Duration) {
        let mut watched = self.watched.borrow_mut();
        let streams = usize::try_from(self.active.get()).unwrap_or(usize::MAX);
        if watched.len() >= SHORT.max(streams.saturating_mul(SLACK)) {
            watched.retain(|one| !one.is_over());
        }
        let limit = limit.saturating_add(GRACE);
        watched.push(Watched { flow: flow.clone(), limit, moved: 0, since: None });
    }

    /// Stops the answers that stood still for too long.
    pub(super) fn stop_stalled(&self, now: Instant) {
        let mut watched = self.watched.borrow_mut();
        watched.retain_mut(|one| {
            if one.is_over() {
                return false;
            }
            let stands = one.stands_still(now);
            if stands {
                one.flow.stall();
                one.flow.task().inspect(|task| task.abort());
            }
            !stands
        });
        if watched.is_empty() && watched.capacity() > SHORT {
            watched.shrink_to(SHORT);
        }
    }
}

/// Runs the tasks of hyper's streams, and tells the exchanges on them. hyper spawns a stream's task right after it has
/// called for the exchange; what it spawns for tunnels belongs to none.
#[derive(Debug, Clone)]
pub(super) struct StreamExecutor(pub(super) Rc<Connection>);

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let task = tokio::task::spawn_local(future).abort_handle();
        if let Some(flow) = self.0.newest.take() {
            flow.know_task(task);
        }
    }
}
