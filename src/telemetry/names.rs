//! Every metric that Weir exports, declared once: name, kind, unit, help, labels and buckets.
//!
//! The table is the contract with dashboards. The registry reads it to render `/metrics`, and
//! [`markdown`] turns it into the table of the README, against which a test holds it.

use std::{fmt::Write as _, marker::PhantomData, time::Duration};

use super::cells::{Counter, Gauge, Histogram, UpDown};

/// What a metric is, in the words of the Prometheus text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts observations in cumulative buckets.
    Histogram,
}

impl Kind {
    /// Its word on a `# TYPE` line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// The declaration of one metric.
#[derive(Debug)]
pub struct Spec {
    /// Its full name.
    pub name: &'static str,
    /// What it is.
    pub kind: Kind,
    /// What one of it is: `seconds`, `bytes`, `requests` …
    pub unit: &'static str,
    /// One sentence for people.
    pub help: &'static str,
    /// The names of its labels, in order.
    pub labels: &'static [&'static str],
    /// The upper bounds of its buckets (inclusive, ascending); empty unless it is a histogram.
    pub buckets: &'static [Duration],
}

impl Spec {
    /// How many lines one set of label values takes in the text format: what a scraper stores as series.
    pub const fn lines(&self) -> usize {
        match self.kind {
            Kind::Histogram => self.buckets.len() + 3,
            Kind::Counter | Kind::Gauge => 1,
        }
    }
}

/// A declared metric together with the type of its handles.
#[derive(Debug)]
pub struct Metric<T> {
    /// The declaration.
    pub spec: Spec,
    handle: PhantomData<fn() -> T>,
}

const fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

const fn us(us: u64) -> Duration {
    Duration::from_micros(us)
}

/// Bounds for durations of requests: 1 ms to 10 s.
pub const DURATION_BUCKETS: &[Duration] = &[
    ms(1),
    us(2_500),
    ms(5),
    ms(10),
    ms(25),
    ms(50),
    ms(75),
    ms(100),
    ms(250),
    ms(500),
    ms(750),
    ms(1_000),
    ms(2_500),
    ms(5_000),
    ms(7_500),
    ms(10_000),
];

/// Bounds for the time spent in Weir itself: 25 µs to 100 ms.
pub const OVERHEAD_BUCKETS: &[Duration] =
    &[us(25), us(50), us(100), us(250), us(500), ms(1), us(2_500), ms(5), ms(10), ms(25), ms(100)];

macro_rules! table {
    ($($id:ident: $kind:ident $handle:ident $name:literal [$($label:literal),*] $unit:literal, $help:literal $(, $buckets:expr)?;)*) => {
        $(
            #[doc = $help]
            pub static $id: Metric<$handle> = Metric {
                spec: Spec {
                    name: $name,
                    kind: Kind::$kind,
                    unit: $unit,
                    help: $help,
                    labels: &[$($label),*],
                    buckets: table!(@buckets $($buckets)?),
                },
                handle: PhantomData,
            };
        )*

        /// Every metric, in the order of the README.
        pub static ALL: &[&Spec] = &[$(&$id.spec),*];
    };
    (@buckets) => { &[] };
    (@buckets $buckets:expr) => { $buckets };
}

table! {
    REQUESTS_TOTAL: Counter Counter "weir_requests_total" ["listener", "route", "method", "code"] "requests", "Requests by route, method and status code of the answer. A series appears with its first request. The route is empty where none had matched.";
    REQUEST_DURATION: Histogram Histogram "weir_request_duration_seconds" ["listener", "route"] "seconds", "Time from the request's headers to the last byte of the answer.", DURATION_BUCKETS;
    UPSTREAM_DURATION: Histogram Histogram "weir_upstream_duration_seconds" ["upstream"] "seconds", "Time from sending an attempt to the first byte of its answer.", DURATION_BUCKETS;
    OVERHEAD: Histogram Histogram "weir_overhead_seconds" ["listener"] "seconds", "Time spent in Weir itself between the request's headers and the answer's, waiting for the upstream left out.", OVERHEAD_BUCKETS;
    REQUESTS_IN_FLIGHT: Gauge UpDown "weir_requests_in_flight" ["listener"] "requests", "Requests whose exchange has not ended.";
    RESPONSES_MADE: Counter Counter "weir_responses_made_total" ["route", "reason"] "responses", "Answers that Weir made itself, by reason. The route is empty where none had matched.";
    REQUEST_BYTES: Counter Counter "weir_request_bytes_total" ["listener"] "bytes", "Bytes of request bodies taken from clients.";
    RESPONSE_BYTES: Counter Counter "weir_response_bytes_total" ["listener"] "bytes", "Bytes of answer bodies given to clients.";
    CONNECTIONS: Gauge UpDown "weir_connections" ["listener"] "connections", "Open connections of clients.";
    CONNECTIONS_TOTAL: Counter Counter "weir_connections_total" ["listener"] "connections", "Connections of clients that were accepted.";
    ACCEPT_ERRORS: Counter Counter "weir_accept_errors_total" ["listener"] "errors", "Errors of accept(2), such as too many open files.";
    CONNECTIONS_REFUSED: Counter Counter "weir_connections_refused_total" ["listener", "reason"] "connections", "Connections that were closed before their first request: limit (`max_connections`), tls (handshake failed), timeout (nothing came in time), protocol (not one that this listener speaks), `proxy_protocol` (its header is missing, malformed, or of a peer that may not send one), draining.";
    CONNECTIONS_ENDED: Counter Counter "weir_connections_ended_total" ["listener", "reason"] "connections", "Connections of clients that Weir ended because of what the client did: `reset_flood`, `control_flood` (`max_resets`, `max_control_frames`), `frame_flood` (CONTINUATION, small DATA, `max_stream_errors`, a head far beyond its bound), protocol (not HTTP/2 as it must be), `header_timeout`, stalled (it took nothing of its answer), `ping_timeout`.";
    ATTEMPTS: Counter Counter "weir_attempts_total" ["upstream", "outcome"] "attempts", "Attempts to have a request answered by an endpoint: success, `server_error` (5xx), `connect_error`, `tls_error`, reset, timeout, `protocol_error`, `pool_full`, cancelled (the client left).";
    RETRIES: Counter Counter "weir_retries_total" ["upstream", "outcome"] "retries", "Attempts after the first one, by whether they brought an answer: success, failure. Replays of requests whose reused connection had died are among them.";
    BREAKER_STATE: Gauge Gauge "weir_breaker_state" ["upstream", "route", "state"] "", "1 for the state that the circuit breaker is in: closed, open, `half_open`, `forced_open`, `forced_closed`, off; brought up to date every second. The route is empty for the upstream's own.";
    BREAKER_TRANSITIONS: Counter Counter "weir_breaker_transitions_total" ["upstream", "route", "to"] "transitions", "Times the circuit breaker changed its state: to closed, open, `half_open`. One that only observes counts what it would have done.";
    EJECTIONS: Counter Counter "weir_ejections_total" ["upstream", "cause"] "ejections", "Times an endpoint was taken out of rotation because of its own results: consecutive (failures in a row), `failure_rate`, probe (the one that was to bring it back failed), observed (it would have been, if ejection did not only observe).";
    ENDPOINTS: Gauge UpDown "weir_endpoints" ["upstream", "state"] "endpoints", "Endpoints by state: healthy, unknown, unhealthy, ejected.";
    HEALTH_CHECKS: Counter Counter "weir_health_checks_total" ["upstream", "result"] "checks", "Active health checks by how they ended: success, failure (another answer than expected, or broken off), `connect_error` (TLS included), timeout.";
    POOL_CONNECTIONS: Gauge UpDown "weir_pool_connections" ["upstream", "state"] "connections", "Connections to endpoints: idle, active, connecting; brought up to date every second.";
    LIMIT_DECISIONS: Counter Counter "weir_limit_decisions_total" ["limit", "decision"] "requests", "Requests that a limit decided on: granted, refused, `would_refuse` (it only observes). What another limit refused is not counted as granted.";
    LIMIT_RATE: Gauge Gauge "weir_limit_effective_rate" ["limit"] "", "Requests (or cost) a second that the limit grants at this instance: the rate, divided by the live instances where its scope is the service and they share evenly; 0 while it is off. With `share: redis` the whole rate, or this instance's even part while Redis is away.";
    LIMIT_KEYS: Gauge Gauge "weir_limit_keys" ["limit"] "keys", "Keys that a keyed limit remembers; brought up to date every second.";
    LIMIT_EVICTIONS: Counter Gauge "weir_limit_evictions_total" ["limit"] "keys", "Keys that a keyed limit forgot before their bucket was full again: `max_keys` is too small, or somebody sends a flood of keys.";
    LIMIT_FALLBACK: Gauge Gauge "weir_limit_fallback" ["limit"] "", "1 while a limit with `share: redis` goes by its even share because Redis is away.";
    LIMIT_FALLBACKS: Counter Counter "weir_limit_fallbacks_total" ["limit"] "requests", "Requests that a limit with `share: redis` decided on by its even share.";
    LIMIT_WAITS: Counter Counter "weir_limit_waits_total" ["limit", "cause"] "requests", "Requests that a limit made wait: turn (`leaky_bucket` paces them), redis (its lease of tokens was empty).";
    SWITCH_STATE: Gauge Gauge "weir_switch_state" ["switch"] "", "Share of the requests that match the switch and that it acts on, 0 to 1; brought up to date every second.";
    SWITCH_HITS: Counter Counter "weir_switch_hits_total" ["switch", "mode"] "requests", "Requests that a switch acted on: on (all that match), share (a percentage), auto (it is on by itself), observe (it would have acted).";
    PLAN_STATE: Gauge Gauge "weir_plan_state" ["plan"] "", "1 while the plan is on.";
    POLICY_UPDATES: Counter Counter "weir_policy_updates_total" ["result"] "updates", "Attempts to take a new policy: applied, unchanged, refused.";
    POLICY_APPLY: Histogram Histogram "weir_policy_apply_seconds" [] "seconds", "Time from a changed policy to the snapshot that requests read.", DURATION_BUCKETS;
    POLICY_SOURCE: Gauge Gauge "weir_policy_source" ["source"] "", "1 for where the policy in force came from: store, cache, baseline.";
    POLICY_REFUSED: Gauge Gauge "weir_policy_refused" ["kind"] "documents", "Documents of the policy that are refused at present; `file` is the whole file, `key` a key that means nothing.";
    POLICY_REVISION: Gauge Gauge "weir_policy_revision" ["stage"] "", "Revisions of the store: observed (the newest change that was seen), proven (nothing was missed up to it), applied (requests are served by it). Only with a store, like the seven below.";
    POLICY_SYNC_AGE: Gauge Gauge "weir_policy_sync_age_seconds" [] "seconds", "Time since the last proof that this instance is current, or since its start; brought up to date every second.";
    POLICY_HELD: Gauge Gauge "weir_policy_held" [] "keys", "Keys whose change is held until it is confirmed.";
    POLICY_INSTANCES: Gauge Gauge "weir_policy_instances" [] "instances", "Live instances of this service, as the store counts them; 0 while that is not known.";
    POLICY_BYPASS: Gauge Gauge "weir_policy_bypass" [] "", "1 while `bypass` takes every protection out.";
    STORE_CONNECTED: Gauge Gauge "weir_store_connected" [] "", "1 while the store answers.";
    STORE_RECONNECTS: Counter Counter "weir_store_reconnects_total" ["cause"] "connections", "Connections to the store that ended or did not come to be: connect, tls, auth, leader, stalled, broken, protocol.";
    STORE_READS: Counter Counter "weir_store_reads_total" ["cause"] "reads", "Times everything was read: start, compaction, `new_cluster`, regression, lost, poll.";
    TLS_RELOADS: Counter Counter "weir_tls_reloads_total" ["listener", "result"] "reloads", "Times a changed certificate or key was read again: success, failure (the old pair stays).";
    ACCESS_DROPPED: Counter Counter "weir_access_records_dropped_total" ["cause"] "records", "Access records that were not written: `queue_full` (the writer cannot follow), `refusal_limit` (more than 10 refusals a second for one reason).";
    LOG_DROPPED: Counter Counter "weir_log_lines_dropped_total" [] "lines", "Log lines that were not written because the writer cannot follow.";
    SERIES_OVERFLOW: Counter Counter "weir_series_overflow_total" [] "resources", "Times the limit of series was reached and a resource's series were merged into `_other`.";
    PANICS: Counter Counter "weir_panics_total" [] "panics", "Panics that were caught; each cost one request.";
    BUILD_INFO: Gauge Gauge "weir_build_info" ["version", "commit"] "", "1, with the version and commit of this build.";
    WORKER_BUSY: Gauge Gauge "weir_worker_busy_ratio" ["worker"] "ratio", "Share of the last second that the worker thread spent working, 0 to 1.";
    PROCESS_CPU: Counter Gauge "process_cpu_seconds_total" [] "seconds", "CPU time of the process, user and system.";
    PROCESS_MEMORY: Gauge Gauge "process_resident_memory_bytes" [] "bytes", "Resident memory of the process.";
    PROCESS_FDS: Gauge Gauge "process_open_fds" [] "descriptors", "Open file descriptors.";
    PROCESS_MAX_FDS: Gauge Gauge "process_max_fds" [] "descriptors", "Most file descriptors that may be open.";
    PROCESS_START: Gauge Gauge "process_start_time_seconds" [] "seconds", "When the process started, in seconds since 1970.";
    PROCESS_THREADS: Gauge Gauge "process_threads" [] "threads", "Threads of the process.";
}

/// The table as Markdown, for the README between `<!-- metrics:begin -->` and `<!-- metrics:end -->`.
pub fn markdown() -> String {
    let mut out = String::from("| metric | kind | labels | meaning |\n|---|---|---|---|\n");
    for spec in ALL {
        let labels: Vec<_> = spec.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind, help) = (spec.name, spec.kind.as_str(), spec.help);
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "| `{name}` | {kind} | {} | {help} |", labels.join(", "));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_conventions_of_prometheus() {
        let mut seen = std::collections::BTreeSet::new();
        for spec in ALL {
            assert!(seen.insert(spec.name), "{} is declared twice", spec.name);
            assert!(spec.name.starts_with("weir_") || spec.name.starts_with("process_"));
            assert_eq!(spec.kind == Kind::Counter, spec.name.ends_with("_total"), "{}", spec.name);
            assert_eq!(spec.kind == Kind::Histogram, !spec.buckets.is_empty(), "{}", spec.name);
            assert!(spec.buckets.is_sorted());
            assert!(spec.help.ends_with('.') && !spec.help.contains(['|', '\n', '\\']));
            if spec.unit == "seconds" || spec.unit == "bytes" || spec.unit == "ratio" {
                assert!(spec.name.trim_end_matches("_total").ends_with(spec.unit), "{}", spec.name);
            }
        }
    }

    #[test]
    fn the_markdown_has_one_row_a_metric() {
        let text = markdown();
        assert_eq!(text.lines().count(), ALL.len() + 2);
        assert!(text.contains("| `weir_requests_total` | counter | `listener`, `route`, `method`, `code` |"));
    }
}
