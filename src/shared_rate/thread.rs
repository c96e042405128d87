//! The thread that speaks with Redis.

use std::{
    sync::{Arc, Mutex, PoisonError, atomic::Ordering::Relaxed},
    time::{Duration, Instant, SystemTime},
};

use rustls::ClientConfig;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::{
    PATIENCE,
    call::{Call, Reply},
    client::Status,
    desk::Desk,
    limit::{Answer, Gate, Message},
    link::Link,
};
use crate::{
    config::{Name, bootstrap::RedisUrl, units::Rate},
    policy::Stamp,
};

/// The pause after the first failed attempt to connect; it doubles up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// A connection that held for so long was a good one: after it pauses begin anew.
const GOOD: Duration = Duration::from_secs(5);

/// How often leases are looked through for what goes back.
const SWEEP: Duration = Duration::from_millis(100);

/// How often a connection that nobody uses is tried.
const TRIAL: Duration = Duration::from_secs(1);

/// Most messages that are taken up before Redis is asked.
const MOST_MESSAGES: usize = 4096;

/// Why a connection is not used any more.
enum End {
    /// Redis is away; why.
    Away(String),
    /// The client wants it; the sender tells it that it was done.
    Stopped(Option<std::sync::mpsc::SyncSender<()>>),
}

/// Which Redis, and for whom.
#[derive(Debug)]
pub(super) struct Target {
    pub(super) url: RedisUrl,
    pub(super) tls: Option<Arc<ClientConfig>>,
    pub(super) service: Name,
}

/// What runs on the thread.
#[derive(Debug)]
pub(super) struct Thread {
    target: Arc<Target>,
    gate: Arc<Gate>,
    status: Arc<Mutex<Status>>,
    inbox: UnboundedReceiver<Message>,
    desk: Desk,
    rng: fastrand::Rng,
}

impl Thread {
    pub(super) fn new(
        target: Target,
        gate: Arc<Gate>,
        status: Arc<Mutex<Status>>,
        inbox: UnboundedReceiver<Message>,
    ) -> Self {
        let desk = Desk::new(target.service.clone(), gate.clone());
        Self { target: Arc::new(target), gate, status, inbox, desk, rng: fastrand::Rng::new() }
    }

    /// Connects, asks, and connects again, until the client wants it to end.
    pub(super) async fn run(mut self) {
        let mut pause = FIRST_PAUSE;
        let done = loop {
            let opened = opened(self.target.clone());
            let failed = match self.while_away(opened).await {
                Err(stopped) => break stopped,
                Ok(Err(error)) => error,
                Ok(Ok(link)) => {
                    let begun = Instant::now();
                    self.here();
                    match self.serve(link).await {
                        End::Stopped(done) => break done,
                        End::Away(error) => {
                            if begun.elapsed() > GOOD {
                                pause = FIRST_PAUSE;
                            }
                            error
                        }
                    }
                }
            };
            self.away(failed);
            // Many instances see the same Redis fail in the same moment.
            let jittered = pause.mul_f64(0.8 + 0.4 * self.rng.f64());
            pause = (pause * 2).min(LONGEST_PAUSE);
            if let Err(stopped) = self.while_away(sleep(jittered)).await {
                break stopped;
            }
        };
        self.gate.away.store(true, Relaxed);
        self.desk.fail();
        drop(self.inbox);
        if let Some(done) = done {
            let _ = done.send(());
        }
    }

    /// Does something while nobody is kept waiting. An error is the end of all.
    async fn while_away<F: Future>(
        &mut self,
        work: F,
    ) -> Result<F::Output, Option<std::sync::mpsc::SyncSender<()>>> {
        let mut work = std::pin::pin!(work);
        loop {
            tokio::select! {
                biased;
                message = self.inbox.recv() => match message {
                    None => return Err(None),
                    Some(Message::Stop(done)) => return Err(Some(done)),
                    Some(Message::Limit(limit)) => self.desk.add(limit),
                    Some(Message::Ask { answer, .. }) => { let _ = answer.send(Answer::Fallback); }
                    Some(Message::Refill { .. }) => {}
                },
                done = &mut work => return Ok(done),
            }
        }
    }

    /// Asks what there is to ask, until Redis goes away.
    async fn serve(&mut self, mut link: Link) -> End {
        let mut messages = Vec::new();
        let mut sweep = interval(SWEEP);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = Instant::now();
        loop {
            messages.clear();
            let mut stopped = None;
            tokio::select! {
                count = self.inbox.recv_many(&mut messages, MOST_MESSAGES) => if count == 0 {
                    stopped = Some(None);
                },
                _ = sweep.tick() => self.desk.sweep(now(), false),
            }
            for message in messages.drain(..) {
                if let Some(done) = self.take_up(message) {
                    stopped = Some(Some(done));
                }
            }
            if stopped.is_some() {
                self.desk.sweep(now(), true);
            }
            if link.is_closed() {
                return End::Away("Redis has closed the connection".to_owned());
            }
            if self.desk.is_due() {
                asked = Instant::now();
                if let Err(error) = self.round(&mut link).await {
                    return stopped.map_or(End::Away(error), End::Stopped);
                }
            } else if asked.elapsed() > TRIAL {
                asked = Instant::now();
                if let Err(error) = ask(&mut link, &[trial(&self.target.service)]).await {
                    return End::Away(error);
                }
            }
            if let Some(done) = stopped {
                return End::Stopped(done);
            }
        }
    }

    fn take_up(&mut self, message: Message) -> Option<std::sync::mpsc::SyncSender<()>> {
        match message {
            Message::Limit(limit) => self.desk.add(limit),
            Message::Ask { limit, tag, key, cost, answer } => {
                self.desk.ask((limit, tag), &key, cost, answer, now());
            }
            Message::Refill { limit, tag } => self.desk.refill((limit, tag)),
            Message::Stop(done) => return Some(done),
        }
        None
    }

    /// Asks once for all that is due. What comes meanwhile is the next round's, and so are those who have to ask again.
    async fn round(&mut self, link: &mut Link) -> Result<(), String> {
        while self.desk.is_due() {
            let sent = now();
            let calls = self.desk.calls(sent);
            if calls.is_empty() {
                continue;
            }
            let replies = ask(link, &calls).await?;
            self.desk.settle(&replies, sent, now());
            // Others who wait go first.
            if !self.inbox.is_empty() {
                break;
            }
        }
        Ok(())
    }

    fn here(&mut self) {
        self.desk.fail();
        let before = self.note(Status { connected: true, error: None, since: SystemTime::now() });
        self.gate.away.store(false, Relaxed);
        if before.error.is_some() {
            let away = before.since.elapsed().unwrap_or_default();
            tracing::info!(
                redis = %self.target.url.address,
                away_ms = %away.as_millis(),
                "Redis answers again: shared limits are exact"
            );
        }
    }

    /// Says so once per outage; further failures are in the status.
    fn away(&mut self, error: String) {
        let was_here = !self.gate.away.swap(true, Relaxed);
        self.desk.fail();
        if was_here {
            self.gate.tallies.outages.fetch_add(1, Relaxed);
        }
        let before = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if was_here || before.error.is_none() {
            tracing::warn!(
                redis = %self.target.url.address,
                error,
                "Redis does not answer: shared limits fall back to even shares"
            );
        }
        let since = if before.connected { SystemTime::now() } else { before.since };
        self.note(Status { connected: false, error: Some(error), since });
    }

    /// Returns the status before.
    fn note(&self, status: Status) -> Status {
        std::mem::replace(&mut *self.status.lock().unwrap_or_else(PoisonError::into_inner), status)
    }
}

/// A connection on which a script was run in time.
async fn opened(target: Arc<Target>) -> Result<Link, String> {
    let open = timeout(Link::OPENING, Link::open(&target.url, target.tls.as_ref())).await;
    let mut link = open.map_err(|_| format!("no connection within {:?}", Link::OPENING))??;
    ask(&mut link, &[trial(&target.service)]).await?;
    Ok(link)
}

/// Asks, and waits for [`PATIENCE`].
async fn ask(link: &mut Link, calls: &[Call]) -> Result<Vec<Reply>, String> {
    let mut asking = std::pin::pin!(link.ask(calls));
    if let Ok(answer) = timeout(PATIENCE, &mut asking).await {
        return answer;
    }
    // A machine that was busy elsewhere may hold the answer already.
    let grace = timeout(Duration::from_millis(2), &mut asking).await;
    grace.unwrap_or_else(|_| Err(format!("no answer within {PATIENCE:?}")))
}

/// A call that reads, and writes, and that nobody is limited by.
fn trial(service: &Name) -> Call {
    use super::{call::Want, settings::Settings};
    let settings = Settings {
        rate: Rate { count: 1, per: Duration::from_secs(1) },
        algorithm: crate::config::policy::Algorithm::FixedWindow,
        max_keys: None,
        instances: std::num::NonZeroU32::MIN,
    };
    let want = Want { least: 1, most: 1, ..Want::default() };
    Call::new(&settings, format!("weir:{{{service}}}:trial"), want)
}

fn now() -> Stamp {
    Stamp::of(Instant::now())
}
