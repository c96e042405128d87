//! Log lines: JSON for machines or text for people, on stderr, the level changeable at run time.

use std::{
    fmt,
    io::{self, IsTerminal as _, Write as _},
};

use serde::ser::{SerializeMap, Serializer as _};
use tracing::{
    Event, Level, Metadata, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer, Registry,
    filter::{LevelFilter, Targets},
    layer::{Context, SubscriberExt as _},
    reload,
};

use super::{
    cells::Counter,
    writer::{self, FlushOnDrop, Lines},
};
use crate::config::bootstrap::{LogFormat, LogLevel};

/// The start of this crate's own targets.
const OWN: &str = "weir";

/// Why there is no log.
#[derive(Debug)]
pub enum LogError {
    /// The system gave no thread for the writer.
    Thread(io::Error),
    /// The process has a log already.
    Installed,
}

impl fmt::Display for LogError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Thread(error) => write!(f, "the log's writer cannot be started: {error}"),
            Self::Installed => f.write_str("the process has a log already"),
        }
    }
}

impl std::error::Error for LogError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Thread(error) => Some(error),
            Self::Installed => None,
        }
    }
}

/// Makes stderr the log of the process. Text is coloured when stderr is a terminal and `NO_COLOR` is not set.
///
/// Lines that the writer cannot take are counted in `dropped`. Drop the guard last: it writes what waits.
///
/// # Errors
/// See [`LogError`].
pub fn install(
    level: LogLevel,
    format: LogFormat,
    dropped: Counter,
) -> Result<(LogHandle, FlushOnDrop), LogError> {
    let (lines, flush) = writer::spawn("weir-log", io::stderr(), dropped).map_err(LogError::Thread)?;
    let colour = io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let (subscriber, handle) = subscriber(level, format, colour, lines);
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Installed)?;
    Ok((handle, flush))
}

/// A subscriber that writes to `lines`, and the handle that changes its level.
pub fn subscriber(
    level: LogLevel,
    format: LogFormat,
    colour: bool,
    lines: Lines,
) -> (impl Subscriber + Send + Sync, LogHandle) {
    let (filter, handle) = reload::Layer::new(targets(level));
    let layer = LineLayer { format, colour, lines };
    (tracing_subscriber::registry().with(filter).with(layer), LogHandle(handle))
}

/// Changes the level of the log while the process runs.
#[derive(Debug, Clone)]
pub struct LogHandle(reload::Handle<Targets, Registry>);

impl LogHandle {
    /// From now on lines of at least this importance are written. False when the log is gone.
    ///
    /// The libraries below are kept to `info`, because their `debug` is a line for each frame; `trace`
    /// opens everything up to that. What h2 says beyond it, some hundred events and spans a request, is not even asked
    /// for in a release build (`release_max_level_debug`): the questions alone are 3,000 instructions of 90,000.
    pub fn set_level(&self, level: LogLevel) -> bool {
        self.0.reload(targets(level)).is_ok()
    }
}

fn targets(level: LogLevel) -> Targets {
    let own = match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    };
    let others = if level == LogLevel::Trace { own } else { own.min(LevelFilter::INFO) };
    // What these warn of is what peers do: as often as they like.
    let protocols = if level == LogLevel::Trace { own } else { others.min(LevelFilter::ERROR) };
    Targets::new()
        .with_default(others)
        .with_target("h2", protocols)
        .with_target("hyper", protocols)
        .with_target(OWN, own)
}

/// What [`parse_level`] takes, most important first.
pub const LEVELS: &[&str] = &["error", "warn", "info", "debug", "trace"];

/// The level that `text` names, in lower case as in the file.
pub fn parse_level(text: &str) -> Option<LogLevel> {
    Some(match text {
        "error" => LogLevel::Error,
        "warn" => LogLevel::Warn,
        "info" => LogLevel::Info,
        "debug" => LogLevel::Debug,
        "trace" => LogLevel::Trace,
        _ => return None,
    })
}

struct LineLayer {
    format: LogFormat,
    colour: bool,
    lines: Lines,
}

impl<S: Subscriber> Layer<S> for LineLayer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut line = Vec::with_capacity(256);
        let now = jiff::Timestamp::now();
        // Writing to a vector cannot fail; a value that fails to format costs its line.
        let written = match self.format {
            LogFormat::Json => write_json(&mut line, event, now),
            LogFormat::Text => write_text(&mut line, event, now, self.colour),
        };
        if written.is_ok() {
            line.push(b'\n');
            self.lines.send(line);
        }
    }
}

/// The module that speaks, without the crate's own name.
fn short_target<'a>(metadata: &Metadata<'a>) -> &'a str {
    let target = metadata.target();
    target.strip_prefix(OWN).and_then(|rest| rest.strip_prefix("::")).unwrap_or(target)
}

fn level_text(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

fn write_json(line: &mut Vec<u8>, event: &Event<'_>, now: jiff::Timestamp) -> io::Result<()> {
    let mut serializer = serde_json::Serializer::new(line);
    let mut map = serializer.serialize_map(None)?;
    map.serialize_entry("ts", &format_args!("{now:.3}"))?;
    map.serialize_entry("level", level_text(*event.metadata().level()))?;
    map.serialize_entry("target", short_target(event.metadata()))?;
    let mut visitor = JsonFields { map, result: Ok(()) };
    event.record(&mut visitor);
    visitor.result?;
    visitor.map.end()?;
    Ok(())
}

struct JsonFields<M: SerializeMap> {
    map: M,
    result: Result<(), M::Error>,
}

impl<M: SerializeMap> JsonFields<M> {
    fn entry(&mut self, field: &Field, value: &(impl serde::Serialize + ?Sized)) {
        if self.result.is_ok() {
            let key = match field.name() {
                "message" => "msg",
                // A second key of the same name would make the line ambiguous.
                "ts" => "_ts",
                "level" => "_level",
                "target" => "_target",
                "msg" => "_msg",
                name => name,
            };
            self.result = self.map.serialize_entry(key, value);
        }
    }
}

impl<M: SerializeMap> Visit for JsonFields<M> {
    fn record_f64(&mut self, field: &Field, value: f64) {
        self.entry(field, &value);
    }
    fn record_i64(&mut self, field: &Field, value: i64) {
        self.entry(field, &value);
    }
    fn record_u64(&mut self, field: &Field, value: u64) {
        self.entry(field, &value);
    }
    fn record_bool(&mut self, field: &Field, value: bool) {
        self.entry(field, &value);
    }
    fn record_str(&mut self, field: &Field, value: &str) {
        self.entry(field, value);
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.entry(field, &format_args!("{value:?}"));
    }
}

const RESET: &str = "\x1b[0m";
const DIM: &str = "\x1b[2m";

fn write_text(line: &mut Vec<u8>, event: &Event<'_>, now: jiff::Timestamp, colour: bool) -> io::Result<()> {
    let (dim, reset) = if colour { (DIM, RESET) } else { ("", "") };
    let (paint, name) = match *event.metadata().level() {
        Level::ERROR => ("\x1b[31m", "ERROR"),
        Level::WARN => ("\x1b[33m", " WARN"),
        Level::INFO => ("\x1b[32m", " INFO"),
        Level::DEBUG => ("\x1b[34m", "DEBUG"),
        Level::TRACE => ("\x1b[35m", "TRACE"),
    };
    let paint = if colour { paint } else { "" };
    let target = short_target(event.metadata());
    write!(line, "{dim}{now:.3}{reset} {paint}{name}{reset} {dim}{target}:{reset}")?;
    let mut visitor = TextFields { message: Vec::new(), fields: Vec::new(), dim, reset };
    event.record(&mut visitor);
    line.extend_from_slice(&visitor.message);
    line.extend_from_slice(&visitor.fields);
    Ok(())
}

/// The message first, whatever its place in the event, then the fields.
struct TextFields {
    message: Vec<u8>,
    fields: Vec<u8>,
    dim: &'static str,
    reset: &'static str,
}

impl Visit for TextFields {
    fn record_str(&mut self, field: &Field, value: &str) {
        if field.name() == "message" {
            self.record_debug(field, &format_args!("{value}"));
        } else if value.is_empty() || value.contains(|c: char| c.is_whitespace() || c == '"' || c == '=') {
            self.record_debug(field, &value);
        } else {
            self.record_debug(field, &format_args!("{value}"));
        }
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = Printable(format!("{value:?}"));
        // Writing to a vector cannot fail.
        let _ = if field.name() == "message" {
            write!(self.message, " {text}")
        } else {
            write!(self.fields, " {}{}={}{text}", self.dim, field.name(), self.reset)
        };
    }
}

/// Text whose control characters are spelled out: what a peer sent must not forge a line or drive a terminal.
struct Printable(String);

impl fmt::Display for Printable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if c.is_control() {
                write!(f, "{}", c.escape_default())?;
            } else {
                fmt::Write::write_char(f, c)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tracing::{debug, error, info, subscriber::with_default, warn};

    use super::*;
    use crate::telemetry::writer::tests::{Sink, counter};

    fn logged(format: LogFormat, level: LogLevel, colour: bool, speak: impl FnOnce(&LogHandle)) -> String {
        let sink = Sink::default();
        let (lines, flush) = writer::spawn("test", sink.clone(), counter()).unwrap();
        let (subscriber, handle) = subscriber(level, format, colour, lines);
        with_default(subscriber, || speak(&handle));
        drop(flush);
        sink.text()
    }

    #[test]
    fn a_json_line_has_the_fields_of_the_reference() {
        let text = logged(LogFormat::Json, LogLevel::Info, false, |_| {
            info!(target: "weir::upstream::pool", upstream = "app", n = 3, ok = true, msg = "no \"key\"\n", "connection {}", "opened");
        });
        let line: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert!(text.ends_with('\n') && text.lines().count() == 1);
        assert_eq!(line["level"], "info");
        assert_eq!(line["target"], "upstream::pool");
        assert_eq!(line["msg"], "connection opened");
        assert_eq!((&line["upstream"], &line["n"], &line["ok"]), (&"app".into(), &3.into(), &true.into()));
        assert_eq!(line["_msg"], "no \"key\"\n");
        let ts = line["ts"].as_str().unwrap();
        assert!(ts.len() == "2026-01-01T00:00:00.000Z".len() && ts.ends_with('Z'), "{ts}");
        assert!(ts.parse::<jiff::Timestamp>().is_ok());
    }

    #[test]
    fn a_text_line_reads_well_and_cannot_be_forged() {
        let text = logged(LogFormat::Text, LogLevel::Info, false, |_| {
            warn!(target: "weir::http", path = "/a b", host = "x\x1b[31m", "bad\nrequest");
        });
        assert_eq!(text.lines().count(), 1, "{text}");
        let (_, rest) = text.split_once(' ').unwrap();
        assert_eq!(rest, " WARN http: bad\\nrequest path=\"/a b\" host=x\\u{1b}[31m\n");
        let coloured = logged(LogFormat::Text, LogLevel::Info, true, |_| error!("x"));
        assert!(coloured.contains("\x1b[31mERROR\x1b[0m"));
    }

    #[test]
    fn a_new_level_takes_effect_at_once() {
        let text = logged(LogFormat::Json, LogLevel::Warn, false, |handle| {
            // One call site for all rounds, so that its cached interest must be found out to be stale.
            let speak = |round: u32| {
                info!(target: "weir::x", round, "info");
                debug!(target: "weir::x", round, "debug");
                debug!(target: "h2::proto", round, "frame");
            };
            speak(1);
            assert!(handle.set_level(LogLevel::Debug));
            speak(2);
            assert!(handle.set_level(LogLevel::Trace));
            speak(3);
            assert!(handle.set_level(LogLevel::Error));
            speak(4);
        });
        let lines: Vec<(u64, String)> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
            .map(|line| (line["round"].as_u64().unwrap(), line["msg"].as_str().unwrap().to_owned()))
            .collect();
        let expected = [(2, "info"), (2, "debug"), (3, "info"), (3, "debug"), (3, "frame")];
        assert_eq!(lines, expected.map(|(round, msg)| (round, msg.to_owned())));
    }

    #[test]
    fn levels_are_called_as_in_the_file() {
        for (text, level) in
            [("error", LogLevel::Error), ("info", LogLevel::Info), ("trace", LogLevel::Trace)]
        {
            assert_eq!(parse_level(text), Some(level));
        }
        assert_eq!(parse_level("INFO"), None);
        assert_eq!(parse_level("loud"), None);
    }
}
