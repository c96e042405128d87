//! The demo while it runs: looks at both sides, shows what it sees, and brings Weir back when it leaves.

use std::{
    collections::BTreeMap,
    io::{self, Write},
    process::ExitStatus,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{MissedTickBehavior, interval},
};

use super::{
    Args, Signals,
    figures::Observer,
    load::{self, Callers},
    places::Places,
    scrape::Scrape,
    screen::{self, Scene},
    summary::{Ending, Summary},
    terminal::{self, Terminal},
    toys::Toy,
    weir::{self, NotUp, Weir},
};

/// The running demo.
pub(super) struct Show {
    limit: Option<Duration>,
    rate: u32,
    places: Places,
    toys: Arc<[Arc<Toy>]>,
    start: Instant,
    callers: Callers,
    stop: watch::Sender<bool>,
    load: Option<JoinHandle<()>>,
    observer: Observer,
    terminal: Option<Terminal>,
    notice: Option<(String, Instant)>,
    refusal: Option<String>,
    said: Option<u64>,
    crashes: u32,
    state: State,
    lost: Option<String>,
}

/// The screen is redrawn, and Weir asked, this often.
const TICK: Duration = Duration::from_millis(500);
/// A notice stays this long.
const NOTICE: Duration = Duration::from_secs(6);
/// Weir stays away this long after it left, so that one can see what that means.
const AWAY: Duration = Duration::from_secs(1);
/// How often Weir may end by itself in disorder before the demo gives up.
const CRASHES: u32 = 3;

impl Show {
    /// Starts the load.
    pub(super) fn open(args: &Args, places: Places, toys: Arc<[Arc<Toy>]>, notice: Option<String>) -> Self {
        let start = Instant::now();
        let (callers, (stop, stopped)) = (Callers::default(), watch::channel(false));
        let load = tokio::spawn(load::run(places.traffic, args.rate, callers.clone(), stopped));
        let names = toys.iter().map(|toy| toy.name.to_owned()).collect();
        Self {
            limit: args.duration,
            rate: args.rate,
            places,
            toys,
            start,
            callers,
            stop,
            load: Some(load),
            observer: Observer::new(names, start),
            terminal: Terminal::open(),
            notice: notice.map(|notice| (notice, start)),
            refusal: None,
            said: None,
            crashes: 0,
            state: State::Away(start),
            lost: None,
        }
    }

    /// Goes on until the time is over or somebody ends it.
    pub(super) async fn go_on(&mut self, weir: Weir, signals: &mut Signals) -> Ending {
        if self.terminal.is_none() {
            let notice = self.notice.as_ref().map(|(notice, _)| format!("\n({notice})")).unwrap_or_default();
            if say(&format!("{}{notice}", screen::welcome(&self.places, Some(weir.pid())))).is_err() {
                self.state = State::Up(weir);
                return Ending::Interrupted;
            }
        }
        self.state = State::Up(weir);
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let end = self.limit.map(|limit| tokio::time::Instant::from_std(self.start) + limit);
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    if self.bring_up().await.is_err() {
                        return Ending::Lost;
                    }
                    self.look().await;
                    if self.draw().is_err() {
                        return Ending::Interrupted;
                    }
                }
                status = self.state.ended() => if self.weir_left(status).is_err() {
                    return Ending::Lost;
                },
                () = until(end) => return Ending::Time,
                () = signals.any() => return Ending::Interrupted,
            }
        }
    }

    /// Starts Weir again when it left, and finds out when it is ready.
    async fn bring_up(&mut self) -> Result<(), ()> {
        let next = match std::mem::replace(&mut self.state, State::Away(Instant::now())) {
            State::Away(again) if Instant::now() >= again => Weir::start(&self.places).map(State::Starting),
            State::Starting(mut weir) => weir.is_ready(&self.places).await.map(|ready| {
                if ready {
                    self.notice = Some((format!("Weir is back, as pid {}", weir.pid()), Instant::now()));
                    State::Up(weir)
                } else {
                    State::Starting(weir)
                }
            }),
            as_it_is => Ok(as_it_is),
        };
        match next {
            Ok(state) => {
                self.state = state;
                Ok(())
            }
            Err(error) => {
                self.lost = Some(not_up(&error, &self.places));
                Err(())
            }
        }
    }

    /// Weir ended although nobody here told it to: with a signal from outside that is part of the demo.
    fn weir_left(&mut self, status: io::Result<ExitStatus>) -> Result<(), ()> {
        let how = status.as_ref().map_or_else(ToString::to_string, |status| ended(*status));
        let fine = status.as_ref().is_ok_and(ExitStatus::success);
        self.crashes += u32::from(!fine);
        self.observer.weir_restarted();
        self.notice = Some((format!("Weir left with {how}; it is started again"), Instant::now()));
        if self.crashes > CRASHES {
            self.lost = Some(status.map_or_else(
                |error| error.to_string(),
                |status| not_up(&NotUp::Ended(status), &self.places),
            ));
            return Err(());
        }
        self.state = State::Away(Instant::now() + AWAY);
        Ok(())
    }

    /// Looks at both sides.
    async fn look(&mut self) {
        let scrape = match &self.state {
            State::Up(_) => weir::get(self.places.telemetry, "/metrics").await,
            State::Away(_) | State::Starting(_) => None,
        };
        let scrape = scrape.filter(|(status, _)| status.is_success()).map(|(_, text)| Scrape::parse(&text));
        let figures = self.observer.look(Instant::now(), self.callers.tally(), scrape);
        match loaded(&figures.policy) {
            Some(Taken::Refused) => {
                let log = std::fs::read_to_string(self.places.log()).unwrap_or_default();
                self.refusal = Some(weir::last_fault(&log).map_or_else(
                    || "weir.yaml is refused, the old one stays: see weir.log".to_owned(),
                    |fault| format!("refused, {fault}"),
                ));
            }
            // Mended by taking the fault back: nothing is new, and nothing is refused any more.
            Some(Taken::Unchanged) if self.refusal.take().is_some() => {
                self.notice = Some(("weir.yaml is as it was before".to_owned(), Instant::now()));
            }
            Some(Taken::Loaded) => {
                self.refusal = None;
                self.notice = Some(("weir.yaml was loaded".to_owned(), Instant::now()));
            }
            None | Some(Taken::Unchanged) => {}
        }
    }

    /// Shows what was seen.
    fn draw(&mut self) -> io::Result<()> {
        self.notice.take_if(|(_, since)| since.elapsed() > NOTICE);
        let elapsed = self.start.elapsed();
        let scene = Scene {
            places: &self.places,
            elapsed,
            limit: self.limit,
            rate: self.rate,
            pid: self.state.pid(),
            moods: self.toys.iter().map(|toy| mood(toy)).collect(),
            // A refusal stays in sight until the file is mended; what happens meanwhile comes first for its moment.
            notice: self.notice.as_ref().map(|(notice, _)| notice.as_str()).or(self.refusal.as_deref()),
        };
        let figures = self.observer.figures();
        if let Some(terminal) = &mut self.terminal {
            let size = terminal::size();
            return terminal.draw(&screen::lines(&scene, figures, size), size);
        }
        // One line a second, and none before there is anything in it.
        if self.said.replace(elapsed.as_secs()) == Some(elapsed.as_secs()) || elapsed.as_secs() == 0 {
            return Ok(());
        }
        say(&screen::plain(&scene, figures))
    }

    /// Ends everything in order: the load, then Weir, then the words about it.
    pub(super) async fn end(mut self, ending: Ending, signals: &mut Signals) -> Result<u8, String> {
        let elapsed = self.start.elapsed();
        self.stop.send_replace(true);
        if let Some(load) = self.load.take() {
            // It ends by itself once the last calls are answered or given up.
            drop(load.await);
        }
        self.look().await;
        drop(self.terminal.take());
        let weir = match self.state {
            State::Up(weir) | State::Starting(weir) => weir.end(signals.any()).await.ok(),
            State::Away(_) => None,
        };
        let tally = self.callers.tally();
        let weir = weir.map(|(status, took)| (status.success(), ended(status), took));
        let summary = Summary { ending, elapsed, tally: &tally, totals: self.observer.totals(), weir };
        let code = summary.exit_code();
        // A closed output is one way to end the demo; then nobody reads the summary.
        drop(say(&summary.text()));
        match self.lost {
            Some(why) => Err(why),
            None => Ok(code),
        }
    }
}

/// What Weir is doing.
enum State {
    /// It carries the traffic.
    Up(Weir),
    /// It left, and is started again at this moment.
    Away(Instant),
    /// It was started, and is not ready yet.
    Starting(Weir),
}

impl State {
    fn pid(&self) -> Option<u32> {
        match self {
            Self::Up(weir) => Some(weir.pid()),
            Self::Away(_) | Self::Starting(_) => None,
        }
    }

    /// Waits until a Weir that was up has ended. Cancel-safe.
    async fn ended(&mut self) -> io::Result<ExitStatus> {
        match self {
            Self::Up(weir) => weir.ended().await,
            Self::Away(_) | Self::Starting(_) => std::future::pending().await,
        }
    }
}

async fn until(end: Option<tokio::time::Instant>) {
    match end {
        Some(end) => tokio::time::sleep_until(end).await,
        None => std::future::pending().await,
    }
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

/// What an instance is like now.
fn mood(toy: &Toy) -> String {
    let nature = toy.character.as_str();
    match (toy.is_running(), toy.extra_ms(), toy.fail_percent()) {
        (false, ..) => "stopped".to_owned(),
        (true, 0, 0) => nature.to_owned(),
        (true, ms, 0) => format!("{nature} +{ms} ms"),
        (true, 0, percent) => format!("{nature} fails {percent} %"),
        (true, ms, percent) => format!("+{ms} ms, {percent} %"),
    }
}

/// How a process ended, in words.
fn ended(status: ExitStatus) -> String {
    status.code().map_or_else(|| status.to_string(), |code| format!("exit code {code}"))
}

/// What came of a changed file.
#[derive(Debug, PartialEq, Eq)]
enum Taken {
    /// It is in force.
    Loaded,
    /// It has a fault; what was in force stays.
    Refused,
    /// It says what is in force already.
    Unchanged,
}

/// Whether a changed file was taken or refused since the last look.
fn loaded(policy: &BTreeMap<String, f64>) -> Option<Taken> {
    let some = |result: &str| policy.get(result).is_some_and(|more| *more > 0.0);
    if some("refused") {
        Some(Taken::Refused)
    } else if some("applied") {
        Some(Taken::Loaded)
    } else if some("unchanged") {
        Some(Taken::Unchanged)
    } else {
        None
    }
}

/// Why there is no demo, with Weir's own words.
pub(super) fn not_up(error: &NotUp, places: &Places) -> String {
    let log = std::fs::read_to_string(places.log()).unwrap_or_default();
    let words = weir::tail(&log, 40);
    let words = if words.is_empty() { "It said nothing.".to_owned() } else { format!("It said:\n{words}") };
    format!("Weir did not come up: {error}.\n{words}")
}

#[cfg(test)]
mod tests {
    use super::{super::toys::Character, *};

    #[test]
    fn a_changed_file_is_told_of() {
        let policy = |applied: f64, refused: f64| {
            [("applied".to_owned(), applied), ("refused".to_owned(), refused), ("unchanged".to_owned(), 0.0)]
                .into()
        };
        assert_eq!(loaded(&policy(0.0, 0.0)), None);
        assert_eq!(loaded(&[("unchanged".to_owned(), 1.0)].into()), Some(Taken::Unchanged));
        assert_eq!(loaded(&policy(1.0, 0.0)), Some(Taken::Loaded));
        assert_eq!(loaded(&policy(1.0, 1.0)), Some(Taken::Refused));
    }

    #[tokio::test]
    async fn moods_name_what_was_done_to_a_toy() {
        let toy = Toy::start("b", Character::Slow).await.unwrap();
        assert_eq!(mood(&toy), "slow");
        toy.set_extra_ms(500);
        assert_eq!(mood(&toy), "slow +500 ms");
        toy.set_fail_percent(30);
        assert_eq!(mood(&toy), "+500 ms, 30 %");
        toy.set_running(false);
        assert_eq!(mood(&toy), "stopped");
    }
}
