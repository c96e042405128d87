//! Reading what Weir says about itself: the Prometheus text format (0.0.4), and what follows from two scrapes.
//!
//! Only what a scrape needs is parsed: samples with their labels. Comments, types and timestamps are skipped,
//! and a line that is no sample is skipped too: a figure on a screen must not end the demo.

use std::collections::BTreeMap;

/// One line of a scrape.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Sample {
    /// The metric's name, with suffixes such as `_bucket`.
    pub(super) name: String,
    /// Its labels, unescaped.
    pub(super) labels: Vec<(String, String)>,
    /// Its value.
    pub(super) value: f64,
}

impl Sample {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }

    fn has(&self, filter: Labels<'_>) -> bool {
        filter.iter().all(|(name, value)| self.label(name) == Some(value))
    }
}

/// Labels that a sample must carry.
pub(super) type Labels<'a> = &'a [(&'a str, &'a str)];

/// All samples of one scrape.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Scrape {
    samples: Vec<Sample>,
}

impl Scrape {
    /// Reads a scrape; lines that are no samples are left out.
    pub(super) fn parse(text: &str) -> Self {
        Self { samples: text.lines().filter_map(parse_line).collect() }
    }

    /// The sum over all samples of this name with these labels; `None` when there is none.
    pub(super) fn sum(&self, name: &str, filter: Labels<'_>) -> Option<f64> {
        let mut values = self.of(name, filter).map(|sample| sample.value).peekable();
        values.peek()?;
        Some(values.sum())
    }

    /// The sums by the value of one label.
    pub(super) fn by(&self, name: &str, label: &str, filter: Labels<'_>) -> BTreeMap<String, f64> {
        let mut sums = BTreeMap::new();
        for sample in self.of(name, filter) {
            if let Some(value) = sample.label(label) {
                *sums.entry(value.to_owned()).or_insert(0.0) += sample.value;
            }
        }
        sums
    }

    /// The buckets of a histogram, summed over its series.
    pub(super) fn buckets(&self, name: &str, filter: Labels<'_>) -> Buckets {
        let name = format!("{name}_bucket");
        let mut bounds: Vec<(f64, f64)> = Vec::new();
        for sample in self.of(&name, filter) {
            let Some(bound) = sample.label("le").and_then(parse_value) else { continue };
            match bounds.iter_mut().find(|(known, _)| known.total_cmp(&bound).is_eq()) {
                Some((_, count)) => *count += sample.value,
                None => bounds.push((bound, sample.value)),
            }
        }
        Buckets::from_cumulative(bounds)
    }

    fn of<'a>(&'a self, name: &'a str, filter: Labels<'a>) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| sample.name == name && sample.has(filter))
    }
}

/// How far counters came from one scrape to the next. A counter that went backwards was started anew (by a
/// restart), so that all of its value is new.
pub(super) fn increase(from: Option<f64>, to: Option<f64>) -> f64 {
    let (from, to) = (from.unwrap_or(0.0), to.unwrap_or(0.0));
    if to < from { to } else { to - from }
}

/// [`increase`] for each key of a table.
pub(super) fn increases(from: &BTreeMap<String, f64>, to: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    to.iter().map(|(key, value)| (key.clone(), increase(from.get(key).copied(), Some(*value)))).collect()
}

/// A histogram: upper bounds, ascending, with the number of observations at or below each.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Buckets(Vec<(f64, f64)>);

impl Buckets {
    /// From (bound, observations at or below it) in any order.
    pub(super) fn from_cumulative(mut bounds: Vec<(f64, f64)>) -> Self {
        bounds.sort_by(|(a, _), (b, _)| a.total_cmp(b));
        Self(bounds)
    }

    /// How many observations there are.
    pub(super) fn count(&self) -> f64 {
        self.0.last().map_or(0.0, |(_, count)| *count)
    }

    /// The observations made since an earlier state of the same histogram.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let before = |bound: f64| {
            earlier
                .0
                .iter()
                .find(|(known, _)| known.total_cmp(&bound).is_eq())
                .map_or(0.0, |(_, count)| *count)
        };
        if self.0.iter().any(|(bound, count)| *count < before(*bound)) {
            return self.clone();
        }
        Self(self.0.iter().map(|(bound, count)| (*bound, count - before(*bound))).collect())
    }

    /// An estimate of the quantile `q` (0–1), as Prometheus makes it: linear within its bucket, and the largest
    /// finite bound for what lies above it. `None` without observations.
    pub(super) fn quantile(&self, q: f64) -> Option<f64> {
        let total = self.count();
        if total <= 0.0 {
            return None;
        }
        let rank = q.clamp(0.0, 1.0) * total;
        let (mut lower, mut below) = (0.0, 0.0);
        for (upper, count) in &self.0 {
            if *count >= rank && *count > below {
                if upper.is_infinite() {
                    return Some(lower);
                }
                return Some(lower + (upper - lower) * ((rank - below) / (count - below)).clamp(0.0, 1.0));
            }
            if upper.is_finite() {
                lower = *upper;
            }
            below = below.max(*count);
        }
        Some(lower)
    }
}

fn parse_line(line: &str) -> Option<Sample> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return None;
    }
    let name_end = line.find(['{', ' ', '\t'])?;
    let (name, rest) = line.split_at(name_end);
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => parse_labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = parse_value(rest.split_ascii_whitespace().next()?)?;
    (!name.is_empty()).then(|| Sample { name: name.to_owned(), labels, value })
}

/// Reads `a="b",c="d"}` and returns what follows the brace.
fn parse_labels(mut text: &str) -> Option<(Vec<(String, String)>, &str)> {
    let mut labels = Vec::new();
    loop {
        text = text.trim_start_matches([' ', '\t', ',']);
        if let Some(rest) = text.strip_prefix('}') {
            return Some((labels, rest));
        }
        let (name, rest) = text.split_once('=')?;
        let (value, rest) = parse_quoted(rest.trim_start())?;
        labels.push((name.trim().to_owned(), value));
        text = rest;
    }
}

/// Reads a label's value with its escapes (`\\`, `\"`, `\n`) and returns what follows the closing quote.
fn parse_quoted(text: &str) -> Option<(String, &str)> {
    let inside = text.strip_prefix('"')?;
    let mut value = String::new();
    let mut chars = inside.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((value, inside.get(at + 1..)?)),
            '\\' => match chars.next()?.1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            plain => value.push(plain),
        }
    }
    None
}

fn parse_value(text: &str) -> Option<f64> {
    match text {
        "+Inf" => Some(f64::INFINITY),
        "-Inf" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

#[cfg(test)]
#[expect(clippy::float_cmp, reason = "sums of small whole numbers are exact")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = r#"
# HELP weir_requests_total Requests.
# TYPE weir_requests_total counter
weir_requests_total{listener="inbound",route="page",method="GET",code="200"} 120
weir_requests_total{listener="inbound",route="page",method="GET",code="503"} 3 1700000000000
weir_requests_total{listener="inbound",route="checkout",method="POST",code="200"} 40
weir_request_duration_seconds_bucket{route="page",le="0.005"} 50
weir_request_duration_seconds_bucket{route="page",le="0.01"} 100
weir_request_duration_seconds_bucket{route="page",le="+Inf"} 110
weir_request_duration_seconds_bucket{route="checkout",le="0.005"} 10
weir_request_duration_seconds_bucket{route="checkout",le="0.01"} 20
weir_request_duration_seconds_bucket{route="checkout",le="+Inf"} 20
process_resident_memory_bytes 1.2345e+07
odd{text="a \"b\" \\ \n, }"} NaN
this is no sample
half{a="b
"#;

    #[test]
    fn reads_names_labels_and_values() {
        let scrape = Scrape::parse(TEXT);
        assert_eq!(scrape.sum("weir_requests_total", &[]), Some(163.0));
        assert_eq!(scrape.sum("weir_requests_total", &[("route", "page"), ("code", "503")]), Some(3.0));
        assert_eq!(scrape.sum("weir_requests_total", &[("route", "nowhere")]), None);
        assert_eq!(scrape.sum("process_resident_memory_bytes", &[]), Some(12_345_000.0));
        let by_code = scrape.by("weir_requests_total", "code", &[("route", "page")]);
        assert_eq!(by_code.into_iter().collect::<Vec<_>>(), [("200".into(), 120.0), ("503".into(), 3.0)]);
    }

    #[test]
    fn unescapes_labels_and_skips_what_is_no_sample() {
        let scrape = Scrape::parse(TEXT);
        let odd = scrape.samples.iter().find(|s| s.name == "odd").unwrap();
        assert_eq!(odd.label("text"), Some("a \"b\" \\ \n, }"));
        assert!(odd.value.is_nan());
        assert!(scrape.samples.iter().all(|s| s.name != "this" && s.name != "half"));
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let page = Scrape::parse(TEXT).buckets("weir_request_duration_seconds", &[("route", "page")]);
        assert_eq!(page.count(), 110.0);
        let median = page.quantile(0.5).unwrap();
        assert!((0.005..=0.01).contains(&median), "{median}");
        assert_eq!(page.quantile(1.0), Some(0.01), "above the last bound: that bound");
        assert_eq!(Buckets::default().quantile(0.5), None);
        let both = Scrape::parse(TEXT).buckets("weir_request_duration_seconds", &[]);
        assert_eq!(both.count(), 130.0);
    }

    #[test]
    fn a_restart_does_not_make_negative_figures() {
        assert_eq!(increase(Some(100.0), Some(7.0)), 7.0);
        assert_eq!(increase(Some(100.0), Some(130.0)), 30.0);
        assert_eq!(increase(None, Some(5.0)), 5.0);
        let before = Buckets::from_cumulative(vec![(1.0, 5.0), (f64::INFINITY, 9.0)]);
        let after = Buckets::from_cumulative(vec![(1.0, 1.0), (f64::INFINITY, 2.0)]);
        assert_eq!(after.since(&before), after);
        assert_eq!(before.since(&before).count(), 0.0);
    }

    fn histogram() -> impl Strategy<Value = Buckets> {
        prop::collection::vec((1u32..1_000, 0u32..50), 1..20).prop_map(|parts| {
            let (mut bound, mut count) = (0u32, 0u32);
            let mut cumulative: Vec<(f64, f64)> = parts
                .into_iter()
                .map(|(step, more)| {
                    bound += step;
                    count += more;
                    (f64::from(bound), f64::from(count))
                })
                .collect();
            cumulative.push((f64::INFINITY, f64::from(count)));
            Buckets::from_cumulative(cumulative)
        })
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in "\\PC*") {
            Scrape::parse(&text);
        }

        #[test]
        fn parsing_of_nearly_good_lines_never_panics(text in "[a-z_]{0,4}[{]?[a-z]{0,2}[=]?[\"]?[a-z\\\\\"]{0,4}[\"]?[,}]{0,2}[ ]?[0-9.e+-]{0,5}") {
            Scrape::parse(&text);
        }

        #[test]
        fn what_is_written_is_read(value in any::<f64>().prop_filter("finite", |v| v.is_finite()), text in "\\PC{0,20}") {
            let escaped = text.replace('\\', "\\\\").replace('"', "\\\"");
            let scrape = Scrape::parse(&format!("m{{l=\"{escaped}\"}} {value:?}"));
            prop_assert_eq!(scrape.sum("m", &[("l", &text)]), Some(value));
        }

        #[test]
        fn quantiles_never_fall_as_q_grows(buckets in histogram(), a in 0.0..=1.0f64, b in 0.0..=1.0f64) {
            let (low, high) = (buckets.quantile(a.min(b)), buckets.quantile(a.max(b)));
            prop_assert_eq!(low.is_some(), high.is_some());
            if let (Some(low), Some(high)) = (low, high) {
                prop_assert!(low <= high + 1e-9, "{} > {}", low, high);
            }
        }

        #[test]
        fn a_quantile_has_its_share_at_or_below_its_bucket(buckets in histogram(), q in 0.0..=1.0f64) {
            if let Some(value) = buckets.quantile(q) {
                let at_or_below = buckets.0.iter().find(|(bound, _)| *bound >= value).map_or(0.0, |(_, count)| *count);
                prop_assert!(at_or_below + 1e-9 >= q * buckets.count());
            }
        }
    }
}
