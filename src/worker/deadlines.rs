//! The deadlines of a worker's exchanges, all of them behind one timer.
//!
//! Every request has a deadline, and nearly none meets it. A timer of the runtime costs a registration and a
//! removal in its wheel, each under a lock; an entry here costs two stores. The worker waits for the earliest
//! deadline alone ([`Deadlines::run`]): with timeouts that are alike, that one comes up once in a timeout.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::time::{Sleep, sleep_until};

/// All deadlines of one worker.
#[derive(Debug, Default)]
pub(crate) struct Deadlines {
    entries: RefCell<Vec<Entry>>,
    free: RefCell<Vec<usize>>,
    /// The earliest, or earlier than that: entries that go leave it as it is.
    next: Cell<Option<Instant>>,
    /// Wakes the worker when a deadline comes before all others.
    keeper: RefCell<Option<Waker>>,
}

#[derive(Debug)]
struct Entry {
    at: Instant,
    /// Whom to wake; `None` when it is past, or the place is free.
    waker: Option<Waker>,
}

impl Deadlines {
    /// Wakes whoever's deadline has come, for ever.
    pub(crate) async fn run(&self) {
        let mut timer: Option<Pin<Box<Sleep>>> = None;
        std::future::poll_fn(|cx| {
            self.keeper.borrow_mut().get_or_insert_with(|| cx.waker().clone()).clone_from(cx.waker());
            while let Some(next) = self.next.get() {
                let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(next.into())));
                if timer.deadline() != next.into() {
                    timer.as_mut().reset(next.into());
                }
                if timer.as_mut().poll(cx).is_pending() {
                    break;
                }
                self.wake_those_past(Instant::now());
            }
            Poll::<()>::Pending
        })
        .await;
    }

    fn wake_those_past(&self, now: Instant) {
        let mut next: Option<Instant> = None;
        for entry in self.entries.borrow_mut().iter_mut().filter(|entry| entry.waker.is_some()) {
            if entry.at > now {
                next = Some(next.map_or(entry.at, |next| next.min(entry.at)));
            } else if let Some(waker) = entry.waker.take() {
                // Only schedules: nothing runs inside the borrow.
                waker.wake();
            }
        }
        self.next.set(next);
    }

    fn enter(&self, at: Instant, waker: Waker) -> usize {
        let entry = Entry { at, waker: Some(waker) };
        let mut entries = self.entries.borrow_mut();
        let free = self.free.borrow_mut().pop();
        let place = free.unwrap_or(entries.len());
        match entries.get_mut(place) {
            Some(free) => *free = entry,
            None => entries.push(entry),
        }
        if self.next.get().is_none_or(|next| at < next) {
            self.next.set(Some(at));
            if let Some(keeper) = &*self.keeper.borrow() {
                keeper.wake_by_ref();
            }
        }
        place
    }

    fn leave(&self, place: usize) {
        let waker = self.entries.borrow_mut().get_mut(place).and_then(|entry| entry.waker.take());
        drop(waker);
        self.free.borrow_mut().push(place);
    }

    /// Brings the waker up to date; false when the deadline is past.
    fn still_waits(&self, place: usize, waker: &Waker) -> bool {
        match self.entries.borrow_mut().get_mut(place) {
            Some(Entry { waker: Some(known), .. }) => {
                known.clone_from(waker);
                true
            }
            _ => false,
        }
    }
}

/// Waits for a moment. Costs nothing until it is polled for the first time.
#[derive(Debug)]
pub(crate) struct Deadline {
    deadlines: Rc<Deadlines>,
    at: Instant,
    place: Option<usize>,
}

impl Deadline {
    pub(crate) fn new(deadlines: &Rc<Deadlines>, at: Instant) -> Self {
        Self { deadlines: deadlines.clone(), at, place: None }
    }

    /// Moves it.
    pub(crate) fn reset(&mut self, at: Instant) {
        self.at = at;
        if let Some(place) = self.place.take() {
            self.deadlines.leave(place);
        }
    }

    /// Ready when its moment is past.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.place {
            None => self.place = Some(self.deadlines.enter(self.at, cx.waker().clone())),
            Some(place) if self.deadlines.still_waits(place, cx.waker()) => {}
            Some(_) => return Poll::Ready(()),
        }
        Poll::Pending
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        if let Some(place) = self.place.take() {
            self.deadlines.leave(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    async fn wait(deadlines: Rc<Deadlines>, after: u64) -> u64 {
        let mut deadline = Deadline::new(&deadlines, Instant::now() + Duration::from_millis(after));
        std::future::poll_fn(|cx| deadline.poll(cx)).await;
        after
    }

    /// Runs `work` beside the keeper of its deadlines. Real time: deadlines are moments of the system's clock.
    fn with<F: Future>(work: impl FnOnce(Rc<Deadlines>) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let deadlines = Rc::new(Deadlines::default());
            tokio::select! {
                () = deadlines.run() => unreachable!("runs for ever"),
                done = work(deadlines.clone()) => done,
            }
        })
    }

    #[test]
    fn they_come_in_their_order_whatever_order_they_were_set_in() {
        let order = with(|deadlines| async move {
            let order = Rc::new(RefCell::new(Vec::new()));
            let each = |after| {
                let (deadlines, order) = (deadlines.clone(), order.clone());
                async move {
                    let after = wait(deadlines, after).await;
                    order.borrow_mut().push(after);
                }
            };
            tokio::join!(each(150), each(10), each(80), each(0));
            order.take()
        });
        assert_eq!(order, [0, 10, 80, 150]);
    }

    #[test]
    fn one_that_goes_early_leaves_its_place_and_wakes_nobody() {
        with(|deadlines| async move {
            for _ in 0..100 {
                let mut deadline = Deadline::new(&deadlines, Instant::now() + Duration::from_mins(1));
                std::future::poll_fn(|cx| {
                    assert!(deadline.poll(cx).is_pending());
                    Poll::Ready(())
                })
                .await;
            }
            assert_eq!(deadlines.entries.borrow().len(), 1);
            assert_eq!(deadlines.free.borrow().len(), 1);
            // The stale earliest one disturbs nobody.
            assert_eq!(wait(deadlines, 1).await, 1);
        });
    }

    #[test]
    fn one_that_is_moved_waits_again() {
        with(|deadlines| async move {
            let begun = Instant::now();
            let mut deadline = Deadline::new(&deadlines, begun + Duration::from_mins(1));
            std::future::poll_fn(|cx| {
                assert!(deadline.poll(cx).is_pending());
                deadline.reset(begun + Duration::from_millis(5));
                Poll::Ready(())
            })
            .await;
            std::future::poll_fn(|cx| deadline.poll(cx)).await;
            assert!((5..60_000).contains(&begun.elapsed().as_millis()));
        });
    }
}
