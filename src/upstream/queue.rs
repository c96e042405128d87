//! The requests that wait for a connection, in the order in which they came.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{ConnectError, lane::Lane, lease::Conn};

/// Why a request got no connection.
#[derive(Debug)]
pub(crate) enum CheckoutError {
    /// All connections are in use, and too many requests wait already or this one waited too long.
    Full,
    /// Connecting failed.
    Connect(ConnectError),
}

/// What a wait ends with.
type Turn = Result<Conn, ConnectError>;
/// One that waits, as seen by those who have something to give.
pub(super) type Waiter = oneshot::Sender<Turn>;

/// The requests that wait at one lane.
#[derive(Debug, Default)]
pub(super) struct Queue(RefCell<VecDeque<Waiter>>);

impl Queue {
    /// Joins the end of `lane`'s queue.
    pub(super) fn join(lane: &Rc<Lane>) -> Place {
        let (waiter, turn) = oneshot::channel();
        lane.queue().0.borrow_mut().push_back(waiter);
        Place { lane: lane.clone(), turn }
    }

    /// How many wait.
    pub(super) fn len(&self) -> usize {
        self.0.borrow().iter().filter(|waiter| !waiter.is_closed()).count()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the first one out.
    pub(super) fn next(&self) -> Option<Waiter> {
        let mut waiters = self.0.borrow_mut();
        loop {
            let waiter = waiters.pop_front()?;
            if !waiter.is_closed() {
                return Some(waiter);
            }
        }
    }

    /// Forgets those who have left; else a lane that gives nothing would collect them.
    fn forget_leavers(&self) {
        self.0.borrow_mut().retain(|waiter| !waiter.is_closed());
    }
}

/// A request's place in the queue; a future of what it gets. Who leaves hands on what it was given and had not
/// taken yet.
#[derive(Debug)]
pub(super) struct Place {
    lane: Rc<Lane>,
    turn: oneshot::Receiver<Turn>,
}

impl Future for Place {
    /// `None` when the lane is gone.
    type Output = Option<Turn>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Turn>> {
        Pin::new(&mut self.get_mut().turn).poll(cx).map(Result::ok)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.turn.close();
        self.lane.queue().forget_leavers();
        if let Ok(Ok(conn)) = self.turn.try_recv() {
            self.lane.hand_back(conn);
        }
    }
}
