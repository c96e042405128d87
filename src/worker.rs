//! A worker: one thread, one runtime, and everything on it.
//!
//! A connection lives and dies on one worker. Nothing here is shared with another thread but what [`Shared`]
//! holds, and of that a request touches only atomics.

mod deadlines;

use std::{
    cell::{Cell, RefCell},
    net::SocketAddr,
    rc::{Rc, Weak},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use ::http::HeaderValue;
use arc_swap::ArcSwap;
pub(crate) use deadlines::{Deadline, Deadlines};
use tokio::sync::{
    Notify,
    mpsc::{UnboundedReceiver, UnboundedSender},
};

use crate::{
    drain::Phase,
    http::{forwarded::request_id_at, http2::once},
    listener::{self, Connection, Listener, Place},
    net::{Acceptor, Loose},
    snapshot::{Snapshot, View},
    telemetry::Telemetry,
    upstream::Pools,
};

/// How often a worker looks at the clocks of its connections and pools.
const TICK: Duration = Duration::from_millis(200);

/// What all workers and the control side share.
#[derive(Debug)]
pub struct Shared {
    /// The policy that the next request reads.
    pub snapshot: ArcSwap<Snapshot>,
    /// The listeners.
    pub listeners: Vec<Arc<Listener>>,
    /// Metrics, logs, access records.
    pub telemetry: Telemetry,
    /// Open connections of each worker.
    pub loads: Vec<AtomicUsize>,
    inboxes: OnceLock<Vec<UnboundedSender<Message>>>,
}

impl Shared {
    /// `workers` is how many there will be.
    pub fn new(
        snapshot: Snapshot,
        listeners: Vec<Arc<Listener>>,
        telemetry: Telemetry,
        workers: usize,
    ) -> Self {
        Self {
            snapshot: ArcSwap::from_pointee(snapshot),
            listeners,
            telemetry,
            loads: (0..workers).map(|_| AtomicUsize::new(0)).collect(),
            inboxes: OnceLock::new(),
        }
    }

    pub(crate) fn connect(&self, inboxes: Vec<UnboundedSender<Message>>) {
        let _ = self.inboxes.set(inboxes);
    }

    /// Tells every worker.
    pub(crate) fn tell(&self, message: impl Fn() -> Message) {
        for inbox in self.inboxes.get().into_iter().flatten() {
            // A worker that has ended needs no news.
            let _ = inbox.send(message());
        }
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Message {
    /// A connection that another worker accepted.
    Arrival(Arrival),
    /// The snapshot has changed: drop what it no longer names.
    NewSnapshot,
    /// The listener at this index has moved on in its drain.
    Drain(usize),
    /// End.
    Stop,
}

/// A connection on its way to the worker that will serve it.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) listener: Arc<Listener>,
    pub(crate) stream: Loose,
    pub(crate) peer: SocketAddr,
    pub(crate) place: Place,
}

/// One worker.
#[derive(Debug)]
pub struct Worker {
    /// Which one.
    pub index: usize,
    /// What it shares with the others.
    pub shared: Arc<Shared>,
    pub(crate) pools: Pools,
    /// When the requests of this worker have to have their answers.
    pub(crate) deadlines: Rc<Deadlines>,
    view: RefCell<Rc<View>>,
    /// Milliseconds since 1970, late by a tick at most.
    unix_ms: Cell<u64>,
    /// The value of `Date` (RFC 9110 §6.6.1), and the second that it is for.
    date: RefCell<(u64, HeaderValue)>,
    seats: RefCell<Vec<Option<Weak<Connection>>>>,
    free_seats: RefCell<Vec<usize>>,
    draining: Notify,
    rng: RefCell<fastrand::Rng>,
}

impl Worker {
    pub(crate) fn new(index: usize, shared: Arc<Shared>) -> Rc<Self> {
        let view = Rc::new(View::new(shared.snapshot.load_full()));
        let workers = shared.loads.len();
        let worker = Rc::new(Self {
            index,
            shared,
            pools: Pools::new(index, workers),
            deadlines: Rc::default(),
            view: RefCell::new(view),
            unix_ms: Cell::new(0),
            date: RefCell::new((0, HeaderValue::from_static(""))),
            seats: RefCell::new(Vec::new()),
            free_seats: RefCell::new(Vec::new()),
            draining: Notify::new(),
            rng: RefCell::new(fastrand::Rng::new()),
        });
        worker.note_time();
        worker
    }

    /// Carries traffic until it is told to stop. `beat` is called a few times a second.
    pub(crate) async fn run(
        self: Rc<Self>,
        sockets: Vec<(Arc<Listener>, Acceptor)>,
        mut inbox: UnboundedReceiver<Message>,
        beat: impl Fn(),
    ) {
        for (listener, socket) in sockets {
            tokio::task::spawn_local(listener::accept(self.clone(), listener, socket));
        }
        let deadlines = self.deadlines.clone();
        tokio::task::spawn_local(async move { deadlines.run().await });
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = inbox.recv() => match message {
                    Some(Message::Arrival(arrival)) => self.take(arrival),
                    Some(Message::NewSnapshot) => self.pools.keep_only(&self.view()),
                    Some(Message::Drain(listener)) => self.drain(listener),
                    Some(Message::Stop) | None => return,
                },
                _ = tick.tick() => {
                    beat();
                    self.inspect();
                }
            }
        }
    }

    /// The policy for a request that begins now.
    pub(crate) fn view(&self) -> Rc<View> {
        let current = self.shared.snapshot.load();
        let mut view = self.view.borrow_mut();
        if !Arc::ptr_eq(&current, view.snapshot()) {
            *view = Rc::new(View::new(Arc::clone(&current)));
        }
        view.clone()
    }

    /// A new request id. Its time is late by a tick at most, and costs no clock.
    pub(crate) fn request_id(&self) -> HeaderValue {
        self.rng(|rng| request_id_at(self.unix_ms.get(), rng))
    }

    /// The date for an answer that has none. It is late by a tick at most, and costs no clock.
    pub(crate) fn date(&self) -> HeaderValue {
        self.date.borrow().1.clone()
    }

    fn note_time(&self) {
        let date = SystemTime::now();
        let since_1970 = date.duration_since(UNIX_EPOCH).unwrap_or_default();
        self.unix_ms.set(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX));
        let second = since_1970.as_secs();
        if self.date.borrow().0 != second
            && let Ok(text) = HeaderValue::try_from(httpdate::fmt_http_date(date))
        {
            self.date.replace((second, once(text)));
        }
    }

    /// This worker's random numbers.
    pub(crate) fn rng<R>(&self, draw: impl FnOnce(&mut fastrand::Rng) -> R) -> R {
        draw(&mut self.rng.borrow_mut())
    }

    /// The worker with the fewest connections; this one when there is no better.
    pub(crate) fn least_loaded(&self) -> usize {
        let loads = &self.shared.loads;
        let load = |i: usize| loads.get(i).map_or(usize::MAX, |load| load.load(Ordering::Relaxed));
        let best = (0..loads.len()).min_by_key(|&i| load(i)).unwrap_or(self.index);
        if load(best) < load(self.index) { best } else { self.index }
    }

    pub(crate) fn hand_over(&self, worker: usize, arrival: Arrival) {
        let inbox = self.shared.inboxes.get().and_then(|inboxes| inboxes.get(worker));
        if let Some(inbox) = inbox {
            // Fails only when that worker has ended, as this one is about to.
            let _ = inbox.send(Message::Arrival(arrival));
        }
    }

    /// Resolves when `listener` is to accept no more.
    pub(crate) async fn stops_accepting(&self, listener: &Listener) {
        loop {
            let notified = self.draining.notified();
            if listener.phase.get() >= Phase::Closing {
                return;
            }
            notified.await;
        }
    }

    /// Enters a connection into the worker's books until the seat is dropped.
    pub(crate) fn seat(self: &Rc<Self>, connection: &Rc<Connection>) -> Seat {
        let mut seats = self.seats.borrow_mut();
        let entry = Some(Rc::downgrade(connection));
        let free = self.free_seats.borrow_mut().pop();
        let index = free.unwrap_or(seats.len());
        match seats.get_mut(index) {
            Some(seat) => *seat = entry,
            None => seats.push(entry),
        }
        self.load(|load| load.fetch_add(1, Ordering::Relaxed));
        Seat { worker: Rc::downgrade(self), index }
    }

    fn load(&self, change: impl FnOnce(&AtomicUsize) -> usize) {
        if let Some(load) = self.shared.loads.get(self.index) {
            change(load);
        }
    }

    fn take(self: &Rc<Self>, arrival: Arrival) {
        let Arrival { listener, stream, peer, place } = arrival;
        match stream.fasten() {
            Ok(stream) => listener::serve(self.clone(), listener, stream, peer, place),
            Err(error) => tracing::warn!(%error, "a connection that was handed over could not be registered"),
        }
    }

    fn inspect(self: &Rc<Self>) {
        let now = Instant::now();
        self.note_time();
        self.each_connection(|connection| connection.inspect(now));
        self.pools.maintain(now, &self.view());
    }

    fn drain(&self, listener: usize) {
        self.draining.notify_waiters();
        self.each_connection(|connection| {
            if connection.listener.index == listener {
                connection.drain(connection.listener.phase.get());
            }
        });
    }

    fn each_connection(&self, visit: impl Fn(&Connection)) {
        let seated: Vec<_> = self.seats.borrow().iter().flatten().filter_map(Weak::upgrade).collect();
        for connection in seated {
            visit(&connection);
        }
    }
}

/// A connection's entry in its worker's books.
#[derive(Debug)]
pub(crate) struct Seat {
    worker: Weak<Worker>,
    index: usize,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let Some(worker) = self.worker.upgrade() else { return };
        worker.load(|load| load.fetch_sub(1, Ordering::Relaxed));
        if let Some(seat) = worker.seats.borrow_mut().get_mut(self.index) {
            *seat = None;
        }
        worker.free_seats.borrow_mut().push(self.index);
    }
}

/// Runs hyper's HTTP/2 tasks on the thread that they belong to.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExecutor;

#[cfg(test)]
impl<F> hyper::rt::Executor<F> for LocalExecutor
where
    F: Future + 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
