//! Documents and their differences, for people and machines. Pure.

use std::fmt::Write;

use serde_json::{Value, json};
use similar::TextDiff;

use super::{
    document::{self, Envelope},
    outlook::{self, Outlook},
};
use crate::{
    cli::table::{printable, shortened},
    config::Documents,
    store::{Item, key::Subject},
};

/// How much of a value a table shows, in characters.
const SHORT: usize = 48;

/// What a change does to the overlay and, where the file is known, to what is in force.
pub(super) fn change(
    (subject, key): (&Subject, &str),
    before: Option<&Item>,
    after: Option<&str>,
    outlook: Option<&Outlook>,
) -> String {
    let old = before.map(|item| String::from_utf8_lossy(&item.value).into_owned()).unwrap_or_default();
    let mut out = section("overlay", &old, after.unwrap_or_default());
    match outlook {
        Some(outlook) => {
            let (old, new) = (&outlook.old, &outlook.new);
            out.push_str(&section("in force", &in_force(subject, old), &in_force(subject, new)));
            for masked in outlook.masked(key) {
                let fields = masked.fields.join(", ");
                let _ = writeln!(out, "the plan `{}` is on and overrides: {fields}", masked.plan);
            }
        }
        None => {
            out.push_str("what would be in force is not known: no file says what lies below (`-c FILE`)\n");
        }
    }
    out
}

/// A difference under a heading.
pub(super) fn section(heading: &str, old: &str, new: &str) -> String {
    let diff = difference((&format!("{heading} before"), old), (&format!("{heading} after"), new));
    if diff.is_empty() { format!("{heading}: no difference\n") } else { diff }
}

/// A unified diff; empty where there is none.
pub(super) fn difference((old_name, old): (&str, &str), (new_name, new): (&str, &str)) -> String {
    let (old, new) = (whole_lines(old), whole_lines(new));
    if old == new {
        return String::new();
    }
    let diff = TextDiff::from_lines(old.as_str(), new.as_str());
    diff.unified_diff().context_radius(3).header(old_name, new_name).to_string()
}

fn whole_lines(text: &str) -> String {
    let mut out: String = text.lines().map(|line| safe(line) + "\n").collect();
    if text.trim().is_empty() {
        out.clear();
    }
    out
}

/// A text below a heading.
pub(super) fn indented(text: &str) -> String {
    text.lines().flat_map(|line| ["  ".to_owned(), safe(line), "\n".to_owned()]).collect()
}

/// A line without what a terminal would obey.
fn safe(line: &str) -> String {
    if line.is_empty() { String::new() } else { printable(line) }
}

/// The effective document of what a key has a say in, as YAML; empty when it is not there.
pub(super) fn in_force(subject: &Subject, documents: &Documents) -> String {
    if let Some((kind, name)) = outlook::resource(subject) {
        return documents.get(kind, name).map(|node| document::yaml(&node.to_json())).unwrap_or_default();
    }
    documents.to_json().pointer("/bypass/document").map(document::yaml).unwrap_or_default()
}

/// The effective document and where its fields are from, as JSON.
pub(super) fn provenance(subject: &Subject, documents: &Documents) -> Option<Value> {
    match outlook::resource(subject) {
        Some((kind, name)) => documents.one_to_json(kind, name),
        None => documents.to_json().get("bypass").cloned(),
    }
}

/// An overlay as JSON.
pub(super) fn item(item: &Item) -> Value {
    let (value, envelope) = opened(item);
    json!({
        "key": &*item.key,
        "revision": item.revision,
        "by": envelope.by,
        "why": envelope.why,
        "until": envelope.until.map(|until| until.to_string()),
        "value": value,
    })
}

/// What an overlay says, apart from its envelope. What cannot be read is its text.
pub(in crate::cli) fn opened(item: &Item) -> (Value, Envelope) {
    let text = || Value::String(String::from_utf8_lossy(&item.value).into_owned());
    let mut value = document::parse(&item.value).unwrap_or_else(text);
    let envelope = Envelope::take(&mut value);
    (value, envelope)
}

/// A value in a few words: a single `state` or `rate` as its short form.
pub(super) fn short(value: &Value) -> String {
    let text = match value {
        Value::String(text) => text.trim().to_owned(),
        Value::Object(map) if map.len() == 1 => match map.iter().next() {
            Some((name, Value::String(text))) if matches!(name.as_str(), "state" | "rate" | "address") => {
                text.clone()
            }
            _ => value.to_string(),
        },
        other => other.to_string(),
    };
    shortened(&text, SHORT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> (String, Option<String>) {
        let item = Item { key: "orders/switches/x".into(), value: text.to_owned().into(), revision: 1 };
        let (value, envelope) = opened(&item);
        (short(&value), envelope.by)
    }

    #[test]
    fn values_in_a_few_words() {
        assert_eq!(shown("on"), ("on".to_owned(), None));
        assert_eq!(shown("{state: 25%, by: ann}"), ("25%".to_owned(), Some("ann".to_owned())));
        assert_eq!(shown("{rate: 5/s, burst: 2}").0, r#"{"rate":"5/s","burst":2}"#);
        assert_eq!(shown("null").0, "null");
        assert_eq!(shown("[").0, "[");
        assert_eq!(shown(&"x".repeat(100)).0.chars().count(), SHORT);
    }

    #[test]
    fn differences() {
        assert_eq!(section("overlay", "a: 1", "a: 1\n"), "overlay: no difference\n");
        let diff = section("overlay", "a: 1\nb: 2\n", "a: 1\nb: \u{1b}3\n");
        assert!(diff.contains("-b: 2\n+b: \\u{1b}3\n"), "{diff}");
        assert!(section("overlay", "", "on").contains("+on\n"));
    }
}
