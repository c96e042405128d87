//! Which series there are, how many may be, and their text.
//!
//! A series lives for as long as somebody holds a handle on it: policy that leaves takes its series with
//! it. The number of exported lines is bounded; see [`Registry::bounded`].

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use super::{
    cells::{Cells, Counter, Distribution, Handle},
    names::{Metric, Spec},
};

/// All series of the process.
#[derive(Debug)]
pub struct Registry {
    workers: usize,
    max_lines: usize,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    families: BTreeMap<&'static str, Family>,
    lines: usize,
}

#[derive(Debug)]
struct Family {
    spec: &'static Spec,
    /// Keyed by the labels as they are written, so that rendering is copying.
    series: BTreeMap<Arc<str>, Cells>,
}

impl Registry {
    /// A registry for so many workers that exports about `max_lines` lines at most.
    pub fn new(workers: usize, max_lines: usize) -> Self {
        Self { workers, max_lines, inner: Mutex::default() }
    }

    /// The handle of a series, which is made at zero where it does not exist. Never refused: for the fixed
    /// series of the process and for the `_other` ones.
    pub fn resolve<T: Handle>(&self, metric: &'static Metric<T>, labels: &[&str]) -> T {
        self.lock().resolve(self.workers, metric, labels)
    }

    /// As [`Self::resolve`], but `None` where the series is new and the limit leaves no room for it.
    pub fn bounded<T: Handle>(&self, metric: &'static Metric<T>, labels: &[&str]) -> Option<T> {
        let mut inner = self.lock();
        let known = inner.families.get(metric.spec.name);
        let known =
            known.is_some_and(|family| family.series.contains_key(&*label_text(&metric.spec, labels)));
        let fits = known || inner.has_room(metric.spec.lines(), self.max_lines);
        fits.then(|| inner.resolve(self.workers, metric, labels))
    }

    /// Whether a resource that needs so many lines still fits; forgets what nobody holds to find out.
    pub fn has_room(&self, lines: usize) -> bool {
        self.lock().has_room(lines, self.max_lines)
    }

    /// A counter that no scrape shows.
    pub fn unlisted(&self) -> Counter {
        Counter::fresh(self.workers, &[]).0
    }

    /// Forgets every series that nobody holds.
    pub fn prune(&self) {
        self.lock().prune();
    }

    /// How many lines [`Self::render`] would write, comments left out.
    pub fn lines(&self) -> usize {
        self.lock().lines
    }

    /// Everything in the Prometheus text format 0.0.4.
    ///
    /// A family's series stand together and in the order of their labels, so two scrapes can be compared
    /// line by line. The lock is held only to list the series, not while they are written.
    pub fn render(&self) -> String {
        let listed: Vec<_> = {
            let inner = self.lock();
            let families = inner.families.values();
            families
                .map(|f| (f.spec, f.series.iter().map(|(l, c)| (l.clone(), c.clone())).collect::<Vec<_>>()))
                .collect()
        };
        let mut out = String::with_capacity(16 * 1024);
        for (spec, series) in listed {
            if !series.is_empty() {
                write_family(&mut out, spec, &series);
            }
        }
        out
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // What a panic could leave behind here is a series too many or too few, never a broken map.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn resolve<T: Handle>(&mut self, workers: usize, metric: &'static Metric<T>, labels: &[&str]) -> T {
        let spec = &metric.spec;
        let family =
            self.families.entry(spec.name).or_insert_with(|| Family { spec, series: BTreeMap::new() });
        let text = label_text(spec, labels);
        if let Some(handle) = family.series.get(&*text).and_then(T::on) {
            return handle;
        }
        let (handle, cells) = T::fresh(workers, spec.buckets);
        family.series.insert(text.into(), cells);
        self.lines += spec.lines();
        handle
    }

    fn has_room(&mut self, lines: usize, max: usize) -> bool {
        if self.lines + lines > max {
            self.prune();
        }
        self.lines + lines <= max
    }

    fn prune(&mut self) {
        self.lines = 0;
        for family in self.families.values_mut() {
            family.series.retain(|_, cells| cells.handles() > 1);
            self.lines += family.series.len() * family.spec.lines();
        }
    }
}

/// Labels as they stand between the braces: `a="x",b="y"`.
fn label_text(spec: &Spec, values: &[&str]) -> String {
    debug_assert_eq!(spec.labels.len(), values.len(), "{} has other labels", spec.name);
    let mut out = String::new();
    for (label, value) in spec.labels.iter().zip(values) {
        if !out.is_empty() {
            out.push(',');
        }
        out.push_str(label);
        out.push_str("=\"");
        escape_into(&mut out, value);
        out.push('"');
    }
    out
}

fn escape_into(out: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c => out.push(c),
        }
    }
}

// Writing to a `String` cannot fail, so the results below are dropped.
fn write_family(out: &mut String, spec: &Spec, series: &[(Arc<str>, Cells)]) {
    let name = spec.name;
    let _ = writeln!(out, "# HELP {name} {}", spec.help);
    let _ = writeln!(out, "# TYPE {name} {}", spec.kind.as_str());
    for (labels, cells) in series {
        match cells {
            Cells::Counter(counter) => write_line(out, name, "", labels, None, counter.value()),
            Cells::UpDown(level) => write_line(out, name, "", labels, None, level.value()),
            Cells::Gauge(gauge) => write_line(out, name, "", labels, None, Number(gauge.value())),
            Cells::Histogram(histogram) => {
                let distribution = histogram.value();
                write_histogram(out, name, labels, histogram.bounds(), &distribution);
            }
        }
    }
}

fn write_histogram(
    out: &mut String,
    name: &str,
    labels: &str,
    bounds: &[std::time::Duration],
    distribution: &Distribution,
) {
    let bounds = bounds.iter().map(std::time::Duration::as_secs_f64).chain([f64::INFINITY]);
    for (bound, count) in bounds.zip(&distribution.cumulative) {
        write_line(out, name, "_bucket", labels, Some(bound), count);
    }
    write_line(out, name, "_sum", labels, None, Number(distribution.sum.as_secs_f64()));
    write_line(out, name, "_count", labels, None, distribution.count());
}

fn write_line(
    out: &mut String,
    name: &str,
    suffix: &str,
    labels: &str,
    le: Option<f64>,
    value: impl std::fmt::Display,
) {
    out.push_str(name);
    out.push_str(suffix);
    if !labels.is_empty() || le.is_some() {
        out.push('{');
        out.push_str(labels);
        if let Some(le) = le {
            let comma = if labels.is_empty() { "" } else { "," };
            let _ = write!(out, "{comma}le=\"{}\"", Number(le));
        }
        out.push('}');
    }
    let _ = writeln!(out, " {value}");
}

/// A number as the text format spells it: Rust writes infinity differently.
struct Number(f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            f64::INFINITY => f.write_str("+Inf"),
            f64::NEG_INFINITY => f.write_str("-Inf"),
            number => write!(f, "{number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::telemetry::names;

    #[test]
    fn two_resolutions_are_one_series() {
        let registry = Registry::new(1, 100);
        let a = registry.resolve(&names::REQUEST_BYTES, &["in"]);
        let b = registry.resolve(&names::REQUEST_BYTES, &["in"]);
        a.increment(1);
        b.increment(2);
        assert_eq!(a.value(), 3);
        assert_eq!(registry.lines(), 1);
        assert!(registry.render().contains("weir_request_bytes_total{listener=\"in\"} 3\n"));
    }

    #[test]
    fn a_series_goes_when_its_last_handle_has_gone() {
        let registry = Registry::new(1, 100);
        let a = registry.resolve(&names::REQUEST_BYTES, &["a"]);
        let b = registry.resolve(&names::REQUEST_BYTES, &["b"]);
        drop(a);
        registry.prune();
        let text = registry.render();
        assert!(!text.contains("\"a\"") && text.contains("\"b\""), "{text}");
        drop(b);
        registry.prune();
        assert_eq!(registry.render(), "");
    }

    #[test]
    fn the_limit_counts_lines_and_known_series_always_resolve() {
        let lines = names::OVERHEAD.spec.lines();
        let registry = Registry::new(1, lines + 1);
        let overhead = registry.bounded(&names::OVERHEAD, &["in"]).unwrap();
        let counter = registry.bounded(&names::REQUEST_BYTES, &["in"]).unwrap();
        assert!(registry.bounded(&names::RESPONSE_BYTES, &["in"]).is_none());
        assert!(registry.bounded(&names::OVERHEAD, &["in"]).is_some());
        drop((overhead, counter));
        assert!(registry.bounded(&names::RESPONSE_BYTES, &["in"]).is_some(), "room is made by forgetting");
    }

    #[test]
    fn a_histogram_is_written_in_full() {
        let registry = Registry::new(1, 100);
        let apply = registry.resolve(&names::POLICY_APPLY, &[]);
        apply.record(Duration::from_micros(2_500));
        apply.record(Duration::from_secs(11));
        let text = registry.render();
        for line in [
            "# TYPE weir_policy_apply_seconds histogram",
            "weir_policy_apply_seconds_bucket{le=\"0.001\"} 0",
            "weir_policy_apply_seconds_bucket{le=\"0.0025\"} 1",
            "weir_policy_apply_seconds_bucket{le=\"10\"} 1",
            "weir_policy_apply_seconds_bucket{le=\"+Inf\"} 2",
            "weir_policy_apply_seconds_sum 11.0025",
            "weir_policy_apply_seconds_count 2",
        ] {
            assert!(text.lines().any(|l| l == line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn label_values_are_escaped() {
        let registry = Registry::new(1, 100);
        let _info = registry.resolve(&names::BUILD_INFO, &["1\"\\\n", "x"]);
        assert!(registry.render().contains(r#"{version="1\"\\\n",commit="x"}"#));
    }
}
