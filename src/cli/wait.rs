//! `weir wait`: until every instance has a revision.

use std::{
    fmt::Write,
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::runtime::Builder;

use super::{
    ExitStatus, Output,
    failure::{Failure, ended},
    policy::place::{Place, StoreArgs},
    print, remote,
    table::table,
};
use crate::{
    config::Name,
    store::presence::{Refusal, Report, Source},
};

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(250);

/// How long an instance may take to answer.
const ANSWER: Duration = Duration::from_secs(2);

/// `weir wait`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Exit codes: 0 every instance has it and none refuses anything, 1 the answer is no (stragglers, \
refusals, held changes, or nobody was seen), 69 the store is not there."
)]
pub struct Args {
    /// The revision, as the command that wrote it said.
    #[arg(long, value_name = "R", value_parser = clap::value_parser!(i64).range(1..))]
    pub revision: i64,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = super::duration)]
    pub timeout: Duration,
    /// How many instances there must be at least [default: one].
    #[arg(long, value_name = "N")]
    pub expect: Option<usize>,
    /// Only this instance. Can be repeated; each of them must be there.
    #[arg(long, value_name = "NAME")]
    pub instance: Vec<String>,
    /// Ask this instance itself (`http://127.0.0.1:9901`), in the place of what instances write into the store: a directory
    /// has nothing of that. Can be repeated.
    #[arg(long, value_name = "URL")]
    pub admin: Vec<String>,
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// How the answer looks: `text` for people, `json` for machines.
    #[arg(short, long, value_enum, default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// Waits, and says who has it and who has not.
pub fn run(args: &Args) -> ExitStatus {
    ended(wait(args))
}

fn wait(args: &Args) -> Result<ExitStatus, Failure> {
    let mut from = Asked::new(args)?;
    let deadline = Instant::now().checked_add(args.timeout);
    let view = loop {
        let late = deadline.is_none_or(|deadline| Instant::now() >= deadline);
        match from.look() {
            Ok(seen) => {
                let view = View::new(args, seen);
                if late || view.complete() {
                    break view;
                }
            }
            Err(failure @ Failure::Unavailable(_)) if late => return Err(failure),
            Err(Failure::Unavailable(_)) => {}
            Err(failure) => return Err(failure),
        }
        let left =
            deadline.map_or(Duration::ZERO, |deadline| deadline.saturating_duration_since(Instant::now()));
        std::thread::sleep(INTERVAL.min(left));
    };
    let text = match args.output {
        Output::Json => format!("{:#}\n", view.to_json()),
        Output::Text => view.text(),
    };
    let status = print(text.as_bytes());
    if view.fine() { Ok(status) } else { Err(Failure::Told(ExitStatus::No)) }
}

/// Who is asked.
enum Asked {
    /// The store, for the reports of a service.
    Store(Box<Place>, Name),
    /// Instances, by their admin interfaces.
    Instances(tokio::runtime::Runtime, Vec<String>),
}

impl Asked {
    fn new(args: &Args) -> Result<Self, Failure> {
        if !args.admin.is_empty() {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| Failure::Unavailable(format!("no runtime: {error}")))?;
            for url in &args.admin {
                remote::parse(url).map_err(Failure::Usage)?;
            }
            return Ok(Self::Instances(runtime, args.admin.clone()));
        }
        let place = Place::find(&args.store, None)?;
        if place.store.is_directory() {
            return Err(Failure::Usage(
                "instances do not write into a directory what they have: name them with `--admin http://ADDRESS:PORT` \
                 (once for each)"
                    .to_owned(),
            ));
        }
        let service = place.service.clone();
        let service =
            service.ok_or_else(|| Failure::Usage("whose instances? `--service NAME`".to_owned()))?;
        Ok(Self::Store(Box::new(place), service))
    }

    /// What each instance says of itself; an error stands for one that cannot be understood.
    fn look(&mut self) -> Result<Vec<Result<Report, String>>, Failure> {
        match self {
            Self::Store(place, service) => {
                let pods = place.runtime.block_on(place.store.pods(service))?;
                Ok(reports(service, &pods.unwrap_or_default()))
            }
            Self::Instances(runtime, urls) => Ok(urls.iter().map(|url| runtime.block_on(ask(url))).collect()),
        }
    }
}

/// What is written below `pods/<service>/`.
pub(super) fn reports(service: &Name, pods: &[(String, Bytes)]) -> Vec<Result<Report, String>> {
    let read = |(name, bytes): &(String, Bytes)| {
        let instance = Name::new(name).ok_or_else(|| format!("{name}: not the name of an instance"))?;
        Report::decode(service, &instance, bytes).map_err(|why| format!("{name}: {why}"))
    };
    pods.iter().map(read).collect()
}

/// What an instance says of itself.
async fn ask(url: &str) -> Result<Report, String> {
    let address = remote::parse(url)?;
    let asked = remote::ask(&address, ::http::Method::GET, "/status");
    match tokio::time::timeout(ANSWER, asked).await {
        Err(_) => Err(format!("{url}: no answer within {ANSWER:?}")),
        Ok(Err(error)) => Err(format!("{url}: {error}")),
        Ok(Ok((status, body))) if status.is_success() => {
            report(&body).ok_or_else(|| format!("{url}: this is no Weir"))
        }
        Ok(Ok((status, _))) => Err(format!("{url}: {status}")),
    }
}

/// A `/status` as a report.
fn report(status: &Value) -> Option<Report> {
    let text = |path: &str| status.pointer(path).and_then(Value::as_str);
    let number = |path: &str| status.pointer(path).and_then(Value::as_i64).unwrap_or_default();
    let refused = status.pointer("/policy/refused").or_else(|| status.pointer("/refused"));
    let listed: Vec<_> = refused.and_then(Value::as_array).into_iter().flatten().collect();
    let of =
        |value: &Value, name: &str| value.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    Some(Report {
        version: text("/version")?.to_owned(),
        service: Name::new(text("/service")?)?,
        instance: Name::new(text("/instance")?)?,
        cluster: 0,
        applied: number("/revisions/applied"),
        proven: number("/revisions/proven"),
        hash: String::new(),
        source: text("/policy/source").and_then(Source::of).unwrap_or_default(),
        refused_count: many(refused),
        refused: listed
            .iter()
            .map(|value| Refusal {
                key: of(value, "key"),
                revision: value.get("revision").and_then(Value::as_i64).unwrap_or_default(),
                reason: of(value, "reason"),
            })
            .collect(),
        held: many(status.get("held")),
        since: None,
    })
}

/// How many things a field of `/status` names.
fn many(value: Option<&Value>) -> usize {
    match value {
        None | Some(Value::Null | Value::Bool(false)) => 0,
        Some(Value::Array(list)) => list.len(),
        Some(Value::Number(number)) => {
            number.as_u64().and_then(|number| usize::try_from(number).ok()).unwrap_or_default()
        }
        Some(_) => 1,
    }
}

/// What was seen at one look.
#[derive(Debug)]
struct View {
    revision: i64,
    expected: Option<usize>,
    /// Those that were named and not seen.
    missing: Vec<String>,
    reports: Vec<Report>,
    /// What could not be understood.
    unclear: Vec<String>,
}

impl View {
    fn new(args: &Args, seen: Vec<Result<Report, String>>) -> Self {
        let (mut reports, mut unclear) = (Vec::new(), Vec::new());
        for one in seen {
            match one {
                Ok(report) => reports.push(report),
                Err(why) => unclear.push(why),
            }
        }
        if !args.instance.is_empty() {
            reports.retain(|report| args.instance.iter().any(|name| name == report.instance.as_str()));
            unclear.retain(|why| args.instance.iter().any(|name| why.starts_with(&format!("{name}:"))));
        }
        let there = |name: &&String| !reports.iter().any(|report| report.instance.as_str() == *name);
        let missing = args.instance.iter().filter(there).cloned().collect();
        Self { revision: args.revision, expected: args.expect, missing, reports, unclear }
    }

    fn has_it(&self, report: &Report) -> bool {
        report.applied >= self.revision
    }

    fn current(&self) -> usize {
        self.reports.iter().filter(|report| self.has_it(report)).count()
    }

    fn seen(&self) -> usize {
        self.reports.len() + self.unclear.len()
    }

    /// Whether there is nothing left to wait for.
    fn complete(&self) -> bool {
        let enough = self.seen() >= self.expected.unwrap_or(1).max(1);
        enough && self.missing.is_empty() && self.current() == self.seen()
    }

    /// Whether all have it, and nobody has anything against it.
    fn fine(&self) -> bool {
        self.complete() && self.reports.iter().all(|report| report.refused_count == 0 && report.held == 0)
    }

    /// What is the matter with an instance; empty when nothing is.
    fn state(&self, report: &Report) -> String {
        let mut words = Vec::new();
        if !self.has_it(report) {
            words.push(format!("behind: it has {}", report.applied));
        }
        if report.refused_count > 0 {
            words.push(format!("refuses {}", report.refused_count));
        }
        if report.held > 0 {
            words.push(format!("holds {}", report.held));
        }
        words.join(", ")
    }

    fn text(&self) -> String {
        let odd: Vec<_> = self.reports.iter().filter(|report| !self.state(report).is_empty()).collect();
        let mut out = String::new();
        if !odd.is_empty() {
            let rows: Vec<_> = odd
                .iter()
                .map(|report| {
                    vec![
                        report.instance.to_string(),
                        report.applied.to_string(),
                        report.source.as_str().to_owned(),
                        report.since.map(|since| since.to_string()).unwrap_or_default(),
                        self.state(report),
                    ]
                })
                .collect();
            out.push_str(&table(&["INSTANCE", "APPLIED", "SOURCE", "SINCE", "STATE"], &rows));
        }
        for report in &odd {
            for Refusal { key, revision, reason } in &report.refused {
                let line = format!("{} refuses {key} at {revision}: {reason}", report.instance);
                out.push_str(&super::table::printable(&line));
                out.push('\n');
            }
        }
        for why in &self.unclear {
            let _ = writeln!(out, "not understood: {}", super::table::printable(why));
        }
        for name in &self.missing {
            let _ = writeln!(out, "not seen: {name}");
        }
        if self.seen() == 0 {
            out.push_str("no instance was seen: is it the right service, and is `store.presence` on?\n");
        }
        let (have, seen) = (self.current(), self.seen());
        let _ = write!(out, "{have} of {seen} instances have revision {}", self.revision);
        if let Some(expected) = self.expected {
            let _ = write!(out, "; {expected} were expected");
        }
        out.push('\n');
        out
    }

    fn to_json(&self) -> Value {
        let instances = self.reports.iter().map(|report| {
            json!({
                "instance": report.instance.as_str(),
                "version": report.version,
                "applied": report.applied,
                "proven": report.proven,
                "source": report.source.as_str(),
                "has_it": self.has_it(report),
                "refused": report.refused.iter().map(|refusal| json!({
                    "key": refusal.key, "revision": refusal.revision, "reason": refusal.reason
                })).collect::<Vec<_>>(),
                "refused_count": report.refused_count,
                "held": report.held,
                "since": report.since.map(|since| since.to_string()),
            })
        });
        json!({
            "revision": self.revision,
            "fine": self.fine(),
            "expected": self.expected,
            "seen": self.seen(),
            "have_it": self.current(),
            "missing": self.missing,
            "not_understood": self.unclear,
            "instances": instances.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(more: &[&str]) -> Args {
        Line::parse_from(["wait", "--revision", "10"].iter().chain(more)).args
    }

    fn pod(name: &str, applied: i64, refused: usize, held: usize) -> Result<Report, String> {
        let json = json!({ "applied": applied, "refused_count": refused, "held": held });
        let service = Name::new("orders").unwrap();
        Report::decode(&service, &Name::new(name).unwrap(), json.to_string().as_bytes())
    }

    #[test]
    fn what_is_complete_and_what_is_fine() {
        for (more, pods, complete, fine) in [
            (&[][..], vec![], false, false),
            (&[], vec![pod("a", 10, 0, 0), pod("b", 99, 0, 0)], true, true),
            (&[], vec![pod("a", 10, 0, 0), pod("b", 9, 0, 0)], false, false),
            (&[], vec![pod("a", 10, 1, 0)], true, false),
            (&[], vec![pod("a", 10, 0, 1)], true, false),
            (&[], vec![pod("a", 10, 0, 0), Err("b: no JSON".to_owned())], false, false),
            (&["--expect", "2"], vec![pod("a", 10, 0, 0)], false, false),
            (&["--expect", "0"], vec![], false, false),
            (&["--instance", "a"], vec![pod("a", 10, 0, 0), pod("b", 9, 0, 0)], true, true),
            (&["--instance", "c"], vec![pod("a", 10, 0, 0)], false, false),
        ] {
            let view = View::new(&args(more), pods);
            assert_eq!((view.complete(), view.fine()), (complete, fine), "{}", view.text());
        }
    }

    #[test]
    fn a_status_is_a_report() {
        let status = json!({
            "version": "0.1.0", "service": "orders", "instance": "pod-1",
            "revisions": { "applied": 12, "proven": 13 },
            "policy": { "source": "store", "refused": [{ "key": "k", "revision": 3, "reason": "no" }] },
            "held": null,
        });
        let report = report(&status).unwrap();
        assert_eq!((report.applied, report.refused_count, report.held), (12, 1, 0));
        assert_eq!(report.refused[0].key, "k");
        assert!(super::report(&json!({ "hello": 1 })).is_none());
    }
}
