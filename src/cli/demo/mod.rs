//! `weir demo`: three toy instances of a shop, Weir before them, a steady load, and what there is to see.
//!
//! Nothing is simulated: Weir is this executable started as `weir run`, the traffic goes over sockets, and what
//! the screen says about Weir comes from its `/metrics`. Beside that stands what the callers saw, so that the
//! two can be held against each other.

mod control;
mod figures;
mod load;
mod places;
mod scrape;
mod screen;
mod setup;
mod show;
mod summary;
mod tally;
mod terminal;
mod text;
mod toys;
mod weir;

use std::{
    io::{self, Write},
    sync::Arc,
    time::Duration,
};

use tokio::signal::unix::{Signal, SignalKind, signal};

use self::{
    places::{Places, weir_yaml},
    setup::{Folder, Ports},
    show::{Show, not_up},
    summary::UNAVAILABLE,
    toys::{Character, Toy},
    weir::Weir,
};

/// Shows Weir at work: three toy instances of an application, Weir before them, and a steady load
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// End after this long (`20s`, `5m`), with a summary; without it, Ctrl-C ends the demo
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub duration: Option<Duration>,
    /// Ports for the traffic, the admin interface, the metrics and the toys, in this order [default: 8080, 9901, 9902,
    /// 9900, or any when taken]
    #[arg(long = "port", value_name = "N", num_args = 1..=4)]
    pub ports: Vec<u16>,
    /// Requests a second
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=2000))]
    pub rate: u32,
}

/// Runs the demo. The exit code is 0 when all went as it should (also after Ctrl-C), 1 when nobody got a good
/// answer or Weir did not end in order, and 69 when Weir did not come up.
pub fn run(args: &Args) -> u8 {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&format!("no runtime: {error}")),
    };
    runtime.block_on(demo(args)).unwrap_or_else(|error| fail(&error))
}

/// Says what went wrong.
fn fail(what: &str) -> u8 {
    // When standard error is closed there is nobody to tell; the exit code says it too.
    drop(writeln!(io::stderr(), "weir demo: {what}"));
    UNAVAILABLE
}

async fn demo(args: &Args) -> Result<u8, String> {
    let mut signals = Signals::new().map_err(|error| format!("signals cannot be caught: {error}"))?;
    let folder = Folder::make().map_err(|error| format!("no temporary folder: {error}"))?;
    let ports = Ports::choose(&args.ports).map_err(|error| error.to_string())?;
    let [traffic, admin, telemetry, toys_at] = ports.addresses;
    let places = Places { traffic, admin, telemetry, toys: toys_at, folder: folder.path().to_owned() };
    let toys = start_toys(ports.toys).await.map_err(|error| format!("the toys did not start: {error}"))?;
    let shop: Vec<_> = toys.iter().map(|toy| (toy.name, toy.address)).collect();
    std::fs::write(places.file(), weir_yaml(&places, &shop))
        .map_err(|error| format!("{} cannot be written: {error}", places.file().display()))?;

    let mut weir = Weir::start(&places).map_err(|error| not_up(&error, &places))?;
    tokio::select! {
        ready = weir.until_ready(&places) => ready.map_err(|error| not_up(&error, &places))?,
        () = signals.any() => return Ok(0),
    }
    let mut running = Show::open(args, places, toys, ports.instead);
    let ending = running.go_on(weir, &mut signals).await;
    running.end(ending, &mut signals).await
}

async fn start_toys(control: std::net::TcpListener) -> io::Result<Arc<[Arc<Toy>]>> {
    let toys: Arc<[Arc<Toy>]> = Arc::new([
        Toy::start("a", Character::Normal).await?,
        Toy::start("b", Character::Slow).await?,
        Toy::start("c", Character::Flaky).await?,
    ]);
    control.set_nonblocking(true)?;
    tokio::spawn(control::serve(tokio::net::TcpListener::from_std(control)?, Arc::clone(&toys)));
    Ok(toys)
}

/// The signals that end the demo.
struct Signals {
    all: [Signal; 3],
}

impl Signals {
    fn new() -> io::Result<Self> {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()];
        let [interrupt, terminate, hangup] = kinds.map(signal);
        Ok(Self { all: [interrupt?, terminate?, hangup?] })
    }

    /// Waits for the next of them. Cancel-safe.
    async fn any(&mut self) {
        let [interrupt, terminate, hangup] = &mut self.all;
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            _ = hangup.recv() => {}
        }
    }
}

/// Reads a duration as the file has them; at least a second, at most a day.
fn parse_duration(text: &str) -> Result<Duration, String> {
    let duration = super::duration(text)?;
    if duration < Duration::from_secs(1) {
        return Err("the demo runs for 1s to 24h".to_owned());
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        assert_eq!(parse_duration("20s"), Ok(Duration::from_secs(20)));
        assert_eq!(parse_duration("1500ms"), Ok(Duration::from_millis(1500)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_mins(2)));
        for wrong in ["", "20", "s", "1.5s", "999ms", "25h", "-1s", "99999999999999999999s"] {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn arguments() {
        #[derive(clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let parse = |line: &[&str]| <Line as clap::Parser>::try_parse_from(line).map(|line| line.args);
        let args = parse(&["demo", "--for", "20s", "--port", "1", "2", "--rate", "50"]).unwrap();
        assert_eq!((args.duration, args.ports, args.rate), (Some(Duration::from_secs(20)), vec![1, 2], 50));
        let args = parse(&["demo"]).unwrap();
        assert_eq!((args.duration, args.ports, args.rate), (None, vec![], 200));
        assert!(parse(&["demo", "--rate", "0"]).is_err());
        assert!(parse(&["demo", "--port", "1", "2", "3", "4", "5"]).is_err());
    }
}
