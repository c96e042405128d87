//! How long an exchange may take.

use std::{
    pin::Pin,
    rc::Rc,
    task::Poll,
    time::{Duration, Instant},
};

use tokio::time::sleep_until;

use super::exchange::Exchange;
use crate::{
    config::policy::Route,
    error::Reason,
    http::{body::Flow, census, deadline},
    worker::{Deadline, Deadlines},
};

/// The clocks of one exchange: the route's `timeout` up to the answer's headers, the deadline that the client set for all of
/// it, and the route's `idle_timeout`, which bounds silence.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TimeLimits {
    /// The answer's headers are due.
    headers_by: Option<Instant>,
    /// Everything is due: the client said so.
    client_by: Option<Instant>,
    idle: Option<Duration>,
}

impl TimeLimits {
    pub(super) fn begin(exchange: &Exchange, route: &Route) -> Self {
        let begun = exchange.started();
        let client =
            exchange.had.any(census::DEADLINE).then(|| deadline::client_timeout(&exchange.parts.headers));
        Self {
            headers_by: route.timeout.map(|timeout| begun + timeout),
            client_by: client.flatten().and_then(|timeout| begun.checked_add(timeout)),
            idle: route.idle_timeout,
        }
    }

    /// What is left of the deadline that the client set, to be passed on. The route's timeout is not: it ends with
    /// the answer's headers, and an endpoint that took it for a deadline would end streams that may go on.
    pub(super) fn remaining(self) -> Option<Duration> {
        self.client_by.map(|by| by.saturating_duration_since(Instant::now()))
    }

    /// Waits for the answer's headers, `work`, no longer than they may take.
    pub(super) async fn bound<W: Future>(
        self,
        deadlines: &Rc<Deadlines>,
        flow: &Rc<Flow>,
        mut work: Pin<&mut W>,
    ) -> Result<W::Output, Reason> {
        let mut clock = self.next(flow).map(|(at, reason)| (Deadline::new(deadlines, at), reason));
        std::future::poll_fn(move |cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            while let Some((deadline, reason)) = &mut clock {
                if deadline.poll(cx).is_pending() {
                    break;
                }
                // A body that moved has put it off.
                match self.next(flow) {
                    Some((at, next)) if at > Instant::now() => {
                        deadline.reset(at);
                        *reason = next;
                    }
                    _ => return Poll::Ready(Err(*reason)),
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The clock that ends first.
    fn next(self, flow: &Flow) -> Option<(Instant, Reason)> {
        // A route without `timeout` still bounds silence.
        let silence = self.idle.filter(|_| self.headers_by.is_none()).map(|idle| flow.moved() + idle);
        let route = self.headers_by.or(silence);
        match (route, self.client_by) {
            (Some(route), Some(client)) if client <= route => Some((client, Reason::DeadlineExceeded)),
            (Some(route), _) => Some((route, Reason::UpstreamTimeout)),
            (None, Some(client)) => Some((client, Reason::DeadlineExceeded)),
            (None, None) => None,
        }
    }

    /// When the first of them ends.
    pub(super) fn due(self, flow: &Flow) -> Option<Instant> {
        self.next(flow).map(|(at, _)| at)
    }

    /// Whether the client set a deadline that comes before the route's.
    pub(super) fn client_is_first(self) -> bool {
        self.client_by.is_some_and(|client| self.headers_by.is_none_or(|route| client <= route))
    }

    /// Whether the deadline that the client set is over.
    pub(super) fn client_is_late(self) -> bool {
        self.client_by.is_some_and(|by| by <= Instant::now())
    }

    /// How long nothing may move.
    pub(super) fn idle(self) -> Option<Duration> {
        self.idle
    }

    /// When a body that stands still now is given up, unless a byte moves before.
    pub(super) fn body_by(self, flow: &Flow) -> Option<Instant> {
        let silence = self.idle.map(|idle| flow.moved() + idle);
        match (silence, self.client_by) {
            (Some(silence), Some(client)) => Some(silence.min(client)),
            (silence, client) => silence.or(client),
        }
    }

    /// How long nothing may move in a tunnel.
    pub(super) async fn tunnel_silent(self, flow: &Flow) {
        let Some(idle) = self.idle else { return std::future::pending().await };
        loop {
            let by = flow.moved() + idle;
            if by <= Instant::now() {
                return;
            }
            sleep_until(by.into()).await;
        }
    }
}
