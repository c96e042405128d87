//! From a connected stream to a connection that takes requests, and the task that drives it.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::{Rc, Weak},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use hyper::{client::conn::http2, rt::Executor};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    sync::oneshot,
    task::{AbortHandle, spawn_local},
    time::timeout,
};

use super::{
    ConnectError,
    http1::Http1,
    lane::Lane,
    lease::OpenSlot,
    streams::{Http2, Told},
};
use crate::{
    http::{body::RequestBody, wire::Bounds},
    net::Stream,
};

/// A new connection.
pub(super) enum Opened {
    Http1(Http1),
    Http2(Rc<Http2>),
}

/// How many connections are being opened for whoever waits.
#[derive(Debug, Default)]
pub(super) struct Underway(Rc<Cell<u32>>);

impl Underway {
    pub(super) fn count(&self) -> u32 {
        self.0.get()
    }

    /// One more, until what this returns is dropped.
    pub(super) fn begin(&self) -> Begun {
        self.0.set(self.0.get() + 1);
        Begun(self.0.clone())
    }
}

/// A connection that is being opened.
pub(super) struct Begun(Rc<Cell<u32>>);

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Opens a connection for `lane` in the place that `slot` holds.
pub(super) async fn open(lane: &Rc<Lane>, slot: Rc<OpenSlot>) -> Result<Opened, ConnectError> {
    let _connecting = lane.endpoint().count_connecting();
    let (stream, http2) = lane.connector().connect(lane.endpoint().address(), lane.alpn()).await?;
    let expires = Instant::now() + jittered(lane.limits().max_age);
    if http2 {
        let patience = lane.connector().connect_timeout();
        let (sender, told) = timeout(patience, handshake_http2(lane, stream, slot.clone()))
            .await
            .map_err(|_| ConnectError::Handshake("the endpoint sent no HTTP/2 settings".to_owned()))??;
        return Ok(Opened::Http2(Rc::new(Http2::new(sender, lane.endpoint(), expires, told, slot))));
    }
    let bounds =
        Bounds { bytes: lane.connector().max_header_bytes(), fields: lane.connector().max_headers() };
    Ok(Opened::Http1(Http1::new(stream, bounds, expires, slot)))
}

/// Begins HTTP/2, and waits for the endpoint's settings: before they are there nobody knows how many streams it
/// takes, and requests beyond them would be stuck behind each other inside of hyper.
async fn handshake_http2(
    lane: &Rc<Lane>,
    stream: Stream,
    slot: Rc<OpenSlot>,
) -> Result<(http2::SendRequest<RequestBody>, Rc<Told>), ConnectError> {
    let settings = Rc::new(Settings::default());
    let keep_alive = lane.limits().keep_alive;
    let (sender, mut connection) = http2::Builder::new(Http2Executor(settings.clone()))
        .timer(TokioTimer::new())
        .adaptive_window(true)
        .initial_max_send_streams(0)
        .max_header_list_size(u32::try_from(lane.connector().max_header_bytes()).unwrap_or(u32::MAX))
        .keep_alive_interval(keep_alive)
        .keep_alive_timeout(keep_alive)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(|e| ConnectError::Handshake(e.to_string()))?;
    let told = Rc::new(Told::default());
    let tell = told.clone();
    let (arrived, arrival) = oneshot::channel();
    let mut arrived = Some(arrived);
    let driven = std::future::poll_fn(move |cx| {
        settings.watch(cx.waker());
        let ended = Pin::new(&mut connection).poll(cx);
        tell.room.set(connection.current_max_send_streams());
        tell.takes_connect.set(connection.is_extended_connect_protocol_enabled());
        if tell.room.get() > 0
            && let Some(arrived) = arrived.take()
        {
            settings.know();
            // Whoever opens the connection may have lost patience.
            let _ = arrived.send(());
        }
        ended
    });
    let task = AbortOnDrop(Some(drive(lane, driven, slot)));
    arrival.await.map_err(|_| ConnectError::Handshake("the endpoint ended the connection".to_owned()))?;
    task.keep();
    Ok((sender, told))
}

/// Runs a connection on a task of its own until it ends.
fn drive<C>(lane: &Rc<Lane>, connection: C, slot: Rc<OpenSlot>) -> AbortHandle
where
    C: Future<Output = hyper::Result<()>> + Unpin + 'static,
{
    let end = End { lane: Rc::downgrade(lane), slot: Some(slot) };
    spawn_local(Driven { connection, _end: end }).abort_handle()
}

/// A connection on its task. An async block would have room for it twice: as what it is given, and as what it waits for.
struct Driven<C> {
    connection: C,
    /// Dropped after the connection, also when the task is aborted.
    _end: End,
}

impl<C: Future<Output = hyper::Result<()>> + Unpin> Future for Driven<C> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.connection).poll(cx).map(|ended| {
            if let Err(error) = ended {
                tracing::debug!(%error, "upstream connection ended");
            }
        })
    }
}

/// Tells the lane that a connection has ended.
struct End {
    lane: Weak<Lane>,
    slot: Option<Rc<OpenSlot>>,
}

impl Drop for End {
    fn drop(&mut self) {
        self.slot = None;
        if let Some(lane) = self.lane.upgrade() {
            lane.one_ended();
        }
    }
}

/// Ends a task unless it is to be kept.
struct AbortOnDrop(Option<AbortHandle>);

impl AbortOnDrop {
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Whether an endpoint's first settings have come.
#[derive(Debug, Default)]
struct Settings {
    known: Cell<bool>,
    watcher: RefCell<Option<Waker>>,
}

impl Settings {
    fn watch(&self, waker: &Waker) {
        if !self.known.get() {
            self.watcher.borrow_mut().get_or_insert_with(|| waker.clone()).clone_from(waker);
        }
    }

    fn know(&self) {
        self.known.set(true);
        self.watcher.borrow_mut().take();
    }

    fn look(&self) {
        if let Some(waker) = &*self.watcher.borrow() {
            waker.wake_by_ref();
        }
    }
}

/// Runs hyper's HTTP/2 tasks on the thread that they belong to. One of them reads the endpoint's settings; until
/// these are known, the task that waits for them is told whenever something was read.
#[derive(Debug, Clone)]
struct Http2Executor(Rc<Settings>);

impl<F> Executor<F> for Http2Executor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        if self.0.known.get() {
            spawn_local(future);
            return;
        }
        let settings = self.0.clone();
        let mut future = Box::pin(future);
        spawn_local(std::future::poll_fn(move |cx| {
            let polled = future.as_mut().poll(cx);
            settings.look();
            polled
        }));
    }
}

/// `age` ± 20 %, so that connections that were opened together do not end together.
fn jittered(age: Duration) -> Duration {
    age.mul_f64(0.8 + 0.4 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_differ_by_a_fifth_at_most() {
        let age = Duration::from_secs(100);
        let ages: Vec<_> = (0..1_000).map(|_| jittered(age)).collect();
        assert!(ages.iter().all(|age| (80..=120).contains(&age.as_secs())));
        let spread = ages.iter().max().unwrap().saturating_sub(*ages.iter().min().unwrap());
        assert!(spread > Duration::from_secs(30), "{spread:?}");
    }
}
