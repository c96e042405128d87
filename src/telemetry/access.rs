//! The access record: one JSON line about an exchange, written when its body has ended.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde::{Serialize, Serializer, ser::SerializeMap};
use smallvec::SmallVec;

use super::{
    cells::Counter,
    labels::{DropCause, Label, Outcome, PerLabel},
    writer::{self, FlushOnDrop, Lines},
};
use crate::{
    config::bootstrap,
    error::{Origin, Reason},
};

/// Most bytes of a text that came from outside; what is longer is cut and ends with `…`.
pub const MAX_TEXT: usize = 512;
/// Most refusals a second for one reason that get a record; the others are counted.
pub const REFUSALS_PER_SECOND: u32 = 10;

/// How an exchange ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Ended {
    /// The answer went out in full.
    Complete,
    /// The client left before that.
    ClientGone,
    /// The upstream's answer broke off.
    UpstreamReset,
    /// Nothing moved for too long.
    Timeout,
}

/// What one exchange was. It borrows from whoever kept the facts until the body ended.
#[derive(Debug, Clone)]
pub struct AccessRecord<'a> {
    /// When the request's headers had arrived.
    pub ts: jiff::Timestamp,
    /// The id of the request.
    pub request_id: &'a str,
    /// The trace it belongs to (W3C Trace Context).
    pub trace_id: Option<&'a str>,
    /// The listener it came in by.
    pub listener: &'a str,
    /// The client's address as rules see it: behind trusted peers the one that they name.
    pub client: IpAddr,
    /// The other end of the connection.
    pub peer: SocketAddr,
    /// Its method.
    pub method: &'a Method,
    /// `http` or `https`.
    pub scheme: &'a str,
    /// Its host.
    pub host: &'a str,
    /// Its path; what stands behind a `?` is left out, for it may be secret.
    pub path: &'a str,
    /// The protocol of the client's side: `HTTP/1.1`, `HTTP/2.0`.
    pub proto: &'static str,
    /// The route it matched.
    pub route: Option<&'a str>,
    /// The upstream it went to.
    pub upstream: Option<&'a str>,
    /// The endpoint that answered.
    pub endpoint: Option<&'a str>,
    /// The answer's status.
    pub status: StatusCode,
    /// The status of a gRPC call, from headers or trailers.
    pub grpc_status: Option<u16>,
    /// Why Weir answered itself.
    pub reason: Option<Reason>,
    /// The policy that decided.
    pub policy: Option<&'a str>,
    /// What happened underneath, for operators.
    pub detail: Option<&'a str>,
    /// The attempts to have it answered, in order.
    pub attempts: SmallVec<[AttemptRecord<'a>; 2]>,
    /// From the request's headers to the end, in milliseconds.
    pub duration: Duration,
    /// From the sending of the attempt that answered to its first byte, in milliseconds.
    pub upstream_time: Option<Duration>,
    /// Spent in Weir itself, in microseconds.
    pub overhead: Duration,
    /// Bytes of the request's body.
    pub request_bytes: u64,
    /// Bytes of the answer's body.
    pub response_bytes: u64,
    /// How it ended.
    pub ended: Ended,
    /// The revision of the policy that it ran under.
    pub revision: u64,
}

/// One attempt to have a request answered.
#[derive(Debug, Clone)]
pub struct AttemptRecord<'a> {
    /// The endpoint, where one was chosen.
    pub endpoint: Option<&'a str>,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took, in milliseconds.
    pub took: Duration,
    /// Whether its connection had been used before.
    pub reused: bool,
}

impl AccessRecord<'_> {
    /// The record as one line of JSON with its line break.
    pub fn line(&self) -> Vec<u8> {
        let mut line = Vec::with_capacity(768);
        // Nothing in a record can fail to serialise, and a vector takes everything.
        let _ = serde_json::to_writer(&mut line, self);
        line.push(b'\n');
        line
    }
}

/// Decides which exchanges get a record, and hands records to their writer.
#[derive(Debug)]
pub struct AccessLog {
    wanted: bootstrap::AccessLog,
    lines: Option<Lines>,
    start: Instant,
    refusals: PerLabel<Reason, PerSecond>,
    over_limit: Counter,
}

impl AccessLog {
    /// A log on stdout, and the guard that writes out what waits. With `wanted` off there is no writer.
    ///
    /// # Errors
    /// Where the system gives no thread.
    pub fn stdout(
        wanted: bootstrap::AccessLog,
        dropped: &Arc<PerLabel<DropCause, Counter>>,
    ) -> io::Result<(Self, Option<FlushOnDrop>)> {
        if wanted == bootstrap::AccessLog::Off {
            return Ok((Self::new(wanted, None, dropped), None));
        }
        let full = dropped.of(DropCause::QueueFull).clone();
        let (lines, flush) = writer::spawn("weir-access", io::stdout(), full)?;
        Ok((Self::new(wanted, Some(lines), dropped), Some(flush)))
    }

    fn new(
        wanted: bootstrap::AccessLog,
        lines: Option<Lines>,
        dropped: &PerLabel<DropCause, Counter>,
    ) -> Self {
        Self {
            wanted,
            lines,
            start: Instant::now(),
            refusals: PerLabel::new(|_| PerSecond::default()),
            over_limit: dropped.of(DropCause::RefusalLimit).clone(),
        }
    }

    /// Whether this exchange gets a record; ask before anything is gathered for it.
    ///
    /// An error is a status of 500 and above, an answer that Weir made (`reason`), or an end other than
    /// complete. Of refusals, which are answers for a reason that is not the upstream's, at most
    /// [`REFUSALS_PER_SECOND`] are wanted for each reason; this call takes one of them. `now` is the
    /// moment of the end, `rng` draws the sample.
    pub fn wants(
        &self,
        status: StatusCode,
        reason: Option<Reason>,
        ended: Ended,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> bool {
        let error = status.as_u16() >= 500 || reason.is_some() || ended != Ended::Complete;
        let wanted = match self.wanted {
            bootstrap::AccessLog::Off => false,
            bootstrap::AccessLog::Errors => error,
            bootstrap::AccessLog::All => true,
            bootstrap::AccessLog::Sample(share) => error || rng.u16(0..10_000) < share,
        };
        let Some(refusal) = reason.filter(|reason| wanted && reason.origin() != Origin::Upstream) else {
            return wanted;
        };
        let granted = self.refusals.of(refusal).take(REFUSALS_PER_SECOND, self.start, now);
        if !granted {
            self.over_limit.increment(1);
        }
        granted
    }

    /// Hands a record over. Never blocks; dropped and counted when the writer cannot follow.
    pub fn write(&self, record: &AccessRecord<'_>) {
        if let Some(lines) = &self.lines {
            lines.send(record.line());
        }
    }
}

/// So many a second: the second in the upper half, what was taken in it in the lower.
#[derive(Debug, Default)]
pub(super) struct PerSecond(AtomicU64);

impl PerSecond {
    /// Takes one of `limit` for the second that `now` falls into, counted from `start`.
    pub(super) fn take(&self, limit: u32, start: Instant, now: Instant) -> bool {
        // One later than it is, so that a fresh cell is in a second that has passed.
        let second = (now.saturating_duration_since(start).as_secs() + 1) << 32;
        let next = |cell: u64| match cell & !u64::from(u32::MAX) == second {
            true if cell & u64::from(u32::MAX) >= u64::from(limit) => None,
            true => Some(cell + 1),
            false => Some(second | 1),
        };
        self.0.fetch_update(Relaxed, Relaxed, next).is_ok()
    }
}

impl Serialize for AccessRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let path = self.path.split('?').next().unwrap_or(self.path);
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ts", &format_args!("{:.3}", self.ts))?;
        map.serialize_entry("request_id", &Text(self.request_id))?;
        map.serialize_entry("trace_id", &self.trace_id.map(Text))?;
        map.serialize_entry("listener", self.listener)?;
        map.serialize_entry("client", &self.client)?;
        map.serialize_entry("peer", &self.peer)?;
        map.serialize_entry("method", &Text(self.method.as_str()))?;
        map.serialize_entry("scheme", &Text(self.scheme))?;
        map.serialize_entry("host", &Text(self.host))?;
        map.serialize_entry("path", &Text(path))?;
        map.serialize_entry("proto", self.proto)?;
        map.serialize_entry("route", &self.route)?;
        map.serialize_entry("upstream", &self.upstream)?;
        map.serialize_entry("endpoint", &self.endpoint.map(Text))?;
        map.serialize_entry("status", &self.status.as_u16())?;
        map.serialize_entry("grpc_status", &self.grpc_status)?;
        map.serialize_entry("reason", &self.reason.map(Reason::as_str))?;
        map.serialize_entry("policy", &self.policy)?;
        if let Some(detail) = self.detail {
            map.serialize_entry("detail", &Text(detail))?;
        }
        map.serialize_entry("attempts", &*self.attempts)?;
        map.serialize_entry("duration_ms", &milliseconds(self.duration))?;
        map.serialize_entry("upstream_ms", &self.upstream_time.map(milliseconds))?;
        map.serialize_entry("overhead_us", &self.overhead.as_micros())?;
        map.serialize_entry("request_bytes", &self.request_bytes)?;
        map.serialize_entry("response_bytes", &self.response_bytes)?;
        map.serialize_entry("ended", &self.ended)?;
        map.serialize_entry("revision", &self.revision)?;
        map.end()
    }
}

impl Serialize for AttemptRecord<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("endpoint", &self.endpoint.map(Text))?;
        map.serialize_entry("outcome", self.outcome.text())?;
        map.serialize_entry("ms", &milliseconds(self.took))?;
        map.serialize_entry("reused", &self.reused)?;
        map.end()
    }
}

/// A text from outside, cut to [`MAX_TEXT`].
struct Text<'a>(&'a str);

impl Serialize for Text<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0.len() <= MAX_TEXT {
            return serializer.serialize_str(self.0);
        }
        // A character has at most four bytes, so one of these is between two characters.
        let cut = (MAX_TEXT - 3..=MAX_TEXT).rev().find_map(|end| self.0.get(..end));
        serializer.collect_str(&format_args!("{}…", cut.unwrap_or_default()))
    }
}

/// To the microsecond: more digits are noise.
fn milliseconds(duration: Duration) -> f64 {
    let micros = u32::try_from(duration.as_micros());
    micros.map_or(duration.as_secs_f64() * 1e3, |micros| f64::from(micros) / 1e3)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::telemetry::writer::tests::{Sink, counter};

    pub(crate) fn record<'a>(host: &'a str, path: &'a str) -> AccessRecord<'a> {
        AccessRecord {
            ts: "2026-01-02T03:04:05.678912Z".parse().unwrap(),
            request_id: "0190",
            trace_id: None,
            listener: "in",
            client: "203.0.113.7".parse().unwrap(),
            peer: "10.0.0.9:5000".parse().unwrap(),
            method: &Method::GET,
            scheme: "http",
            host,
            path,
            proto: "HTTP/1.1",
            route: Some("all"),
            upstream: Some("app"),
            endpoint: None,
            status: StatusCode::BAD_GATEWAY,
            grpc_status: None,
            reason: Some(Reason::ConnectRefused),
            policy: None,
            detail: None,
            attempts: smallvec::smallvec![AttemptRecord {
                endpoint: Some("127.0.0.1:1"),
                outcome: Outcome::ConnectError,
                took: Duration::from_micros(1_234),
                reused: false,
            }],
            duration: Duration::from_micros(2_500),
            upstream_time: None,
            overhead: Duration::from_nanos(45_600),
            request_bytes: 0,
            response_bytes: 120,
            ended: Ended::Complete,
            revision: 7,
        }
    }

    fn log(wanted: bootstrap::AccessLog, over_limit: &Counter) -> AccessLog {
        AccessLog::new(wanted, None, &PerLabel::new(|_| over_limit.clone()))
    }

    #[test]
    fn a_record_is_one_line_with_all_fields() {
        let line = String::from_utf8(record("a\"b\n", "/x?token=secret").line()).unwrap();
        assert_eq!(line.matches('\n').count(), 1);
        let expected = serde_json::json!({
            "ts": "2026-01-02T03:04:05.678Z", "request_id": "0190", "trace_id": null, "listener": "in",
            "client": "203.0.113.7", "peer": "10.0.0.9:5000", "method": "GET", "scheme": "http", "host": "a\"b\n", "path": "/x",
            "proto": "HTTP/1.1", "route": "all", "upstream": "app", "endpoint": null, "status": 502,
            "grpc_status": null, "reason": "connect_refused", "policy": null,
            "attempts": [{"endpoint": "127.0.0.1:1", "outcome": "connect_error", "ms": 1.234, "reused": false}],
            "duration_ms": 2.5, "upstream_ms": null, "overhead_us": 45, "request_bytes": 0,
            "response_bytes": 120, "ended": "complete", "revision": 7,
        });
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap(), expected);
    }

    #[test]
    fn what_came_from_outside_is_bounded() {
        let long = "ä".repeat(5_000);
        let line = record(&long, &long).line();
        assert!(line.len() < 2 * MAX_TEXT + 1_000, "{} bytes", line.len());
        let value: serde_json::Value = serde_json::from_slice(&line).unwrap();
        let host = value["host"].as_str().unwrap();
        assert!(host.len() <= MAX_TEXT + '…'.len_utf8() && host.ends_with("ä…"));
    }

    proptest::proptest! {
        #[test]
        fn whatever_a_client_sends_it_is_one_line_of_json(host in ".*", path in ".*") {
            let line = record(&host, &path).line();
            let line = String::from_utf8(line).unwrap();
            proptest::prop_assert_eq!(line.find('\n'), Some(line.len() - 1));
            let value: serde_json::Value = serde_json::from_str(&line).unwrap();
            let written = value["host"].as_str().unwrap();
            proptest::prop_assert!(written == host || host.starts_with(written.trim_end_matches('…')));
            proptest::prop_assert!(!value["path"].as_str().unwrap().contains('?'));
        }
    }

    #[test]
    fn errors_are_what_the_reference_says() {
        let now = Instant::now();
        let mut rng = fastrand::Rng::with_seed(1);
        let counted = counter();
        let cases = [
            (200, None, Ended::Complete, false),
            (404, None, Ended::Complete, false),
            (500, None, Ended::Complete, true),
            (404, Some(Reason::NoRoute), Ended::Complete, true),
            (200, None, Ended::ClientGone, true),
            (200, None, Ended::UpstreamReset, true),
            (200, None, Ended::Timeout, true),
        ];
        for (status, reason, ended, error) in cases {
            let status = StatusCode::from_u16(status).unwrap();
            let mut wants = |wanted| log(wanted, &counted).wants(status, reason, ended, now, &mut rng);
            assert_eq!(wants(bootstrap::AccessLog::Errors), error, "{status} {reason:?} {ended:?}");
            assert!(!wants(bootstrap::AccessLog::Off));
            assert!(wants(bootstrap::AccessLog::All));
            assert!(wants(bootstrap::AccessLog::Sample(10_000)));
            assert_eq!(wants(bootstrap::AccessLog::Sample(0)), error);
        }
    }

    #[test]
    fn a_sample_is_about_its_share() {
        let counted = counter();
        let log = log(bootstrap::AccessLog::Sample(500), &counted);
        let mut rng = fastrand::Rng::with_seed(7);
        let mut draw = || log.wants(StatusCode::OK, None, Ended::Complete, log.start, &mut rng);
        let taken = (0..100_000).filter(|_| draw()).count();
        assert!((4_500..5_500).contains(&taken), "{taken} of 100,000 at 5 %");
    }

    #[test]
    fn refusals_are_limited_for_each_reason_and_each_second() {
        let counted = counter();
        let log = log(bootstrap::AccessLog::All, &counted);
        let mut rng = fastrand::Rng::with_seed(1);
        let mut burst = |reason: Reason, at: Duration| {
            let now = log.start + at;
            (0..50)
                .filter(|_| log.wants(reason.status(), Some(reason), Ended::Complete, now, &mut rng))
                .count()
        };
        assert_eq!(burst(Reason::RateLimit, Duration::ZERO), 10);
        assert_eq!(burst(Reason::RateLimit, Duration::from_millis(999)), 0);
        assert_eq!(burst(Reason::NoRoute, Duration::from_millis(999)), 10);
        assert_eq!(burst(Reason::RateLimit, Duration::from_secs(1)), 10);
        assert_eq!(burst(Reason::UpstreamReset, Duration::ZERO), 50, "a failure is no refusal");
        assert_eq!(counted.value(), 40 + 50 + 40 + 40);
    }

    #[test]
    fn the_limit_holds_between_threads() {
        let (cell, start) = (PerSecond::default(), Instant::now());
        let taken: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| scope.spawn(|| (0..1_000).filter(|_| cell.take(10, start, start)).count()))
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 10);
    }

    #[test]
    fn records_reach_the_writer() {
        let sink = Sink::default();
        let (lines, flush) = writer::spawn("test", sink.clone(), counter()).unwrap();
        let dropped = PerLabel::new(|_| counter());
        let log = AccessLog::new(bootstrap::AccessLog::All, Some(lines), &dropped);
        log.write(&record("a", "/"));
        log.write(&record("b", "/"));
        drop(flush);
        let text = sink.text();
        let hosts: Vec<_> = text
            .lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["host"].clone())
            .collect();
        assert_eq!(hosts, ["a", "b"]);
    }
}
