//! Lines to a slow sink without ever waiting for it.
//!
//! Logs and access records are made on the threads that carry traffic, and written by a thread that does
//! nothing else. Between them is a bounded queue. When the sink cannot follow, lines are dropped and
//! counted: a full pipe must not hold up a request. A busy queue costs its senders no system call, because
//! the writer, once awake, gathers for a few milliseconds before it looks again.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{
            AtomicBool, AtomicUsize,
            Ordering::{Relaxed, SeqCst},
            fence,
        },
        mpsc::{Receiver, SyncSender, TryRecvError, sync_channel},
    },
    thread::{self, Thread},
    time::Duration,
};

use super::cells::Counter;

/// Most lines that wait.
const MAX_LINES: usize = 2_048;
/// Most bytes that wait.
const MAX_BYTES: usize = 4 << 20;
/// Bytes that are written at once.
const BATCH: usize = 16 << 10;
/// How long the writer gathers lines after it was woken.
const GATHER: Duration = Duration::from_millis(5);
/// How long the end of the process waits for a sink that does not take what is left.
const FLUSH_WAIT: Duration = Duration::from_secs(1);

/// The sending end. Cloning it is cheap.
#[derive(Debug, Clone)]
pub struct Lines {
    queue: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
    writer: Thread,
}

#[derive(Debug)]
struct Shared {
    bytes: AtomicUsize,
    asleep: AtomicBool,
    stop: AtomicBool,
    dropped: Counter,
}

/// Writes out what is queued when it is dropped, waiting for at most a second.
#[derive(Debug)]
#[must_use = "lines that wait are lost unless this is dropped at the end of the process"]
pub struct FlushOnDrop {
    shared: Arc<Shared>,
    writer: Thread,
    done: Receiver<()>,
}

impl Drop for FlushOnDrop {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.writer.unpark();
        // Either the writer is done, which drops its end, or the sink is stuck and we leave without it.
        let _ = self.done.recv_timeout(FLUSH_WAIT);
    }
}

/// Starts the thread `name`, which writes to `sink`; what is lost is counted in `dropped`.
///
/// # Errors
/// Where the system gives no thread.
pub fn spawn(
    name: &str,
    sink: impl Write + Send + 'static,
    dropped: Counter,
) -> io::Result<(Lines, FlushOnDrop)> {
    let (queue, lines) = sync_channel(MAX_LINES);
    let (done_tx, done) = sync_channel(0);
    let shared = Arc::new(Shared {
        bytes: AtomicUsize::new(0),
        asleep: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        dropped,
    });
    let writer = Writer { lines, sink, shared: shared.clone(), batch: Vec::new(), in_batch: 0 };
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || {
        writer.run();
        drop(done_tx);
    })?;
    let writer = thread.thread().clone();
    Ok((
        Lines { queue, shared: shared.clone(), writer: writer.clone() },
        FlushOnDrop { shared, writer, done },
    ))
}

impl Lines {
    /// Queues one line, which must end with its line break, or drops and counts it. Never blocks.
    pub fn send(&self, line: Vec<u8>) {
        let bytes = line.len();
        let before = self.shared.bytes.fetch_add(bytes, Relaxed);
        if before + bytes > MAX_BYTES || self.queue.try_send(line).is_err() {
            self.shared.bytes.fetch_sub(bytes, Relaxed);
            self.shared.dropped.increment(1);
            return;
        }
        // Pairs with the fence in `Writer::rest`: either we see that it sleeps, or it sees our line.
        fence(SeqCst);
        if self.shared.asleep.load(Relaxed) && self.shared.asleep.swap(false, Relaxed) {
            self.writer.unpark();
        }
    }
}

struct Writer<W> {
    lines: Receiver<Vec<u8>>,
    sink: W,
    shared: Arc<Shared>,
    batch: Vec<u8>,
    in_batch: u64,
}

impl<W: Write> Writer<W> {
    fn run(mut self) {
        loop {
            // Asked before the queue is emptied, so that nothing that was sent before the stop is left.
            let stop = self.shared.stop.load(SeqCst);
            let open = self.drain();
            if stop || !open {
                return;
            }
            self.rest();
        }
    }

    /// Writes everything that is queued; false when nobody can send any more.
    fn drain(&mut self) -> bool {
        let open = loop {
            match self.lines.try_recv() {
                Ok(line) => self.take(&line),
                Err(TryRecvError::Empty) => break true,
                Err(TryRecvError::Disconnected) => break false,
            }
        };
        self.write_batch();
        open
    }

    fn take(&mut self, line: &[u8]) {
        self.shared.bytes.fetch_sub(line.len(), Relaxed);
        self.batch.extend_from_slice(line);
        self.in_batch += 1;
        if self.batch.len() >= BATCH {
            self.write_batch();
        }
    }

    fn write_batch(&mut self) {
        if self.in_batch > 0 {
            if self.sink.write_all(&self.batch).and_then(|()| self.sink.flush()).is_err() {
                // There is nowhere to report this but the counter.
                self.shared.dropped.increment(self.in_batch);
            }
            self.batch.clear();
            self.batch.shrink_to(2 * BATCH);
            self.in_batch = 0;
        }
    }

    /// Sleeps until there is something to write, then lets more of it gather.
    fn rest(&mut self) {
        self.shared.asleep.store(true, Relaxed);
        fence(SeqCst);
        if let Ok(line) = self.lines.try_recv() {
            self.shared.asleep.store(false, Relaxed);
            self.take(&line);
        } else if !self.shared.stop.load(SeqCst) {
            thread::park();
        }
        if !self.shared.stop.load(SeqCst) {
            thread::sleep(GATHER);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::{
        sync::{Condvar, Mutex, PoisonError},
        time::Instant,
    };

    use super::*;
    use crate::telemetry::cells::Handle as _;

    /// A sink to look into, which can be made to block.
    #[derive(Debug, Clone, Default)]
    pub(crate) struct Sink(Arc<(Mutex<Inside>, Condvar)>);

    #[derive(Debug, Default)]
    struct Inside {
        written: Vec<u8>,
        blocked: bool,
    }

    impl Sink {
        pub(crate) fn text(&self) -> String {
            String::from_utf8(self.0.0.lock().unwrap().written.clone()).unwrap()
        }

        /// Waits until `done` is true of what was written.
        pub(crate) fn wait(&self, done: impl Fn(&str) -> bool) -> String {
            let (lock, changed) = &*self.0;
            let deadline = Instant::now() + Duration::from_secs(10);
            let mut inside = lock.lock().unwrap();
            loop {
                let text = String::from_utf8(inside.written.clone()).unwrap();
                if done(&text) {
                    return text;
                }
                let left = deadline.checked_duration_since(Instant::now());
                let left = left.unwrap_or_else(|| panic!("not in ten seconds, but:\n{text}"));
                inside = changed.wait_timeout(inside, left).unwrap().0;
            }
        }

        fn block(&self, blocked: bool) {
            self.0.0.lock().unwrap().blocked = blocked;
            self.0.1.notify_all();
        }
    }

    impl Write for Sink {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let (lock, changed) = &*self.0;
            let mut inside = lock.lock().unwrap_or_else(PoisonError::into_inner);
            while inside.blocked {
                inside = changed.wait(inside).unwrap_or_else(PoisonError::into_inner);
            }
            inside.written.extend_from_slice(bytes);
            changed.notify_all();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    pub(crate) fn counter() -> Counter {
        Counter::fresh(1, &[]).0
    }

    #[test]
    fn lines_arrive_whole_and_in_order_and_the_end_waits_for_them() {
        let sink = Sink::default();
        let (lines, flush) = spawn("test", sink.clone(), counter()).unwrap();
        for n in 0..1_000 {
            lines.send(format!("line {n}\n").into_bytes());
        }
        drop(flush);
        let expected: Vec<_> = (0..1_000).map(|n| format!("line {n}")).collect();
        assert_eq!(sink.text().lines().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn a_sleeping_writer_is_woken_each_time() {
        let sink = Sink::default();
        let (lines, _flush) = spawn("test", sink.clone(), counter()).unwrap();
        for n in 0..20 {
            lines.send(format!("{n}\n").into_bytes());
            sink.wait(|text| text.lines().count() == n + 1);
        }
    }

    #[test]
    fn a_stuck_sink_costs_lines_and_nobodys_time() {
        let sink = Sink::default();
        sink.block(true);
        let dropped = counter();
        let (lines, flush) = spawn("test", sink.clone(), dropped.clone()).unwrap();
        let start = Instant::now();
        for _ in 0..3 * MAX_LINES {
            // Long enough that the batch, which the writer takes out before it gets stuck, is a few lines.
            lines.send(format!("{:512}\n", "").into_bytes());
        }
        assert!(start.elapsed() < Duration::from_secs(1));
        assert!(dropped.value() >= MAX_LINES as u64, "{} dropped", dropped.value());
        sink.block(false);
        let arrived = 3 * MAX_LINES as u64 - dropped.value();
        sink.wait(|text| text.lines().count() as u64 == arrived);
        drop(flush);
    }

    #[test]
    fn a_few_huge_lines_are_bounded_by_their_bytes() {
        let sink = Sink::default();
        sink.block(true);
        let dropped = counter();
        let (lines, _flush) = spawn("test", sink.clone(), dropped.clone()).unwrap();
        for _ in 0..20 {
            lines.send(vec![b'x'; 1 << 20]);
        }
        // Four wait; the writer may have taken a few out to write them.
        assert!(dropped.value() >= 10, "{} dropped", dropped.value());
        sink.block(false);
    }

    #[test]
    fn a_broken_sink_is_counted() {
        struct Broken;
        impl Write for Broken {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let dropped = counter();
        let (lines, flush) = spawn("test", Broken, dropped.clone()).unwrap();
        for _ in 0..5 {
            lines.send(b"x\n".to_vec());
        }
        drop(flush);
        assert_eq!(dropped.value(), 5);
    }
}
