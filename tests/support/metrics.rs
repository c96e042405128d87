//! A scrape of `/metrics`, to ask for values.

use std::collections::BTreeMap;

/// One series: its labels in order of name, and its value.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Label names and values.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

/// Everything one scrape said, by metric name.
#[derive(Debug, Clone, Default)]
pub struct Metrics(pub BTreeMap<String, Vec<Series>>);

impl Metrics {
    /// Reads the Prometheus text format 0.0.4. A line that is not of it fails the test.
    pub fn parse(text: &str) -> Self {
        let mut metrics = Self::default();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            let (name, series) = parse_line(line).unwrap_or_else(|| panic!("no metric line: {line}"));
            metrics.0.entry(name).or_default().push(series);
        }
        metrics
    }

    /// The sum of the series of `name` that carry all of `labels`; 0 when there is none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.select(name, labels).map(|series| series.value).sum()
    }

    /// Whether a series of `name` carries all of `labels`, whatever its value.
    pub fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.select(name, labels).next().is_some()
    }

    fn select<'a>(&'a self, name: &str, labels: &'a [(&str, &str)]) -> impl Iterator<Item = &'a Series> {
        let carries = |series: &&Series| {
            labels.iter().all(|(label, value)| series.labels.get(*label).is_some_and(|found| found == value))
        };
        self.0.get(name).into_iter().flatten().filter(carries)
    }
}

fn parse_line(line: &str) -> Option<(String, Series)> {
    let name_end = line.find(['{', ' '])?;
    let (name, rest) = line.split_at(name_end);
    let mut labels = BTreeMap::new();
    let mut rest = rest.trim_start();
    if let Some(mut inside) = rest.strip_prefix('{') {
        loop {
            inside = inside.trim_start_matches([',', ' ']);
            if let Some(after) = inside.strip_prefix('}') {
                rest = after.trim_start();
                break;
            }
            let (label, after) = inside.split_once("=\"")?;
            let (value, after) = quoted(after)?;
            labels.insert(label.to_owned(), value);
            inside = after;
        }
    }
    let value = rest.split_whitespace().next()?.parse().ok()?;
    Some((name.to_owned(), Series { labels, value }))
}

/// A label's value up to its closing quote, unescaped, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some((value, &text[at + 1..])),
            '\\' => match characters.next()?.1 {
                'n' => value.push('\n'),
                other => value.push(other),
            },
            other => value.push(other),
        }
    }
    None
}

#[test]
fn a_scrape_is_read_with_its_labels() {
    let is = |value: f64, wanted: f64| assert!((value - wanted).abs() < 1e-9, "{value} is not {wanted}");
    let metrics = Metrics::parse(
        "# HELP a help\na{x=\"1\",y=\"q\\\"}\"} 2\na{x=\"1\",y=\"r\"} 3 1700000000\nb 1.5e3\nc_bucket{le=\"+Inf\"} 7\n",
    );
    is(metrics.sum("a", &[("x", "1")]), 5.0);
    is(metrics.sum("a", &[("y", "q\"}")]), 2.0);
    is(metrics.sum("b", &[]), 1500.0);
    assert!(metrics.has("c_bucket", &[("le", "+Inf")]) && !metrics.has("a", &[("x", "2")]));
}
