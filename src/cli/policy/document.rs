//! What is written: the document that somebody typed, with who, why and until when in it. Pure.
//!
//! A document keeps its form: comments, order and style stay, and the envelope is added to the text. Only where that
//! cannot be done, or a short form has no room for it, the document is written anew.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    config::{Faults, live, node::SourceId},
    store::key::Subject,
};

/// What every overlay may say of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::cli) struct Envelope {
    /// Who wrote it.
    pub(in crate::cli) by: Option<String>,
    /// Why.
    pub(in crate::cli) why: Option<String>,
    /// Until when it holds.
    pub(in crate::cli) until: Option<Timestamp>,
}

/// The fields of the envelope.
pub(super) const ENVELOPE: [&str; 3] = ["by", "why", "until"];

impl Envelope {
    /// Its fields, in order.
    fn fields(&self) -> Map<String, Value> {
        let until = self.until.map(|until| until.to_string());
        let all = ENVELOPE.into_iter().zip([self.by.clone(), self.why.clone(), until]);
        all.filter_map(|(name, value)| Some((name.to_owned(), Value::String(value?)))).collect()
    }

    /// Takes an envelope off a document.
    pub(in crate::cli) fn take(document: &mut Value) -> Self {
        let Value::Object(map) = document else { return Self::default() };
        let mut text = |name| map.shift_remove(name).and_then(|value| value.as_str().map(str::to_owned));
        let [by, why, until] = ENVELOPE.map(&mut text);
        Self { by, why, until: until.and_then(|until| until.parse().ok()) }
    }
}

/// A text as JSON, as live policy reads it; `None` when it is no document.
pub(super) fn parse(text: &[u8]) -> Option<Value> {
    let mut faults = Faults::default();
    let node = live::read(text, SourceId::default(), &mut faults)?;
    (!faults.any_error()).then(|| node.to_json())
}

/// Until when a document says that it holds.
pub(super) fn until(text: &str) -> Option<Timestamp> {
    Envelope::take(&mut parse(text.as_bytes())?).until
}

/// The full form of a document: a short form becomes its map. What removes a resource stays null.
pub(super) fn full(subject: &Subject, text: &[u8]) -> Option<Value> {
    let mut faults = Faults::default();
    let node = live::read(text, SourceId::default(), &mut faults)?;
    let written = node.to_json();
    if written.is_object() || written.is_null() {
        return Some(written);
    }
    let word = node.text()?.trim().to_owned();
    match subject {
        Subject::Overlay(kind, _) => {
            live::overlay(*kind, &node, &mut faults).ok().flatten().map(|node| node.to_json())
        }
        Subject::Endpoint(..) => Some(json!({ "address": word })),
        Subject::Bypass => {
            let on = live::on_off(&node, &mut faults)?;
            Some(json!({ "state": if on { "on" } else { "off" } }))
        }
        Subject::Confirm => None,
    }
}

/// The full form of a document with its blocks in their full forms too: `breaker: open` becomes `breaker: {mode: open}`.
/// What cannot be decoded stays as it is written.
pub(in crate::cli) fn expanded(subject: &Subject, text: &[u8]) -> Option<Value> {
    let written = full(subject, text)?;
    let Subject::Overlay(kind, _) = subject else { return Some(written) };
    let mut faults = Faults::default();
    let mut node = live::read(text, SourceId::default(), &mut faults)?;
    let envelope = written
        .as_object()
        .map(|map| ENVELOPE.into_iter().filter_map(|name| Some((name.to_owned(), map.get(name)?.clone()))));
    live::envelope(&mut node, &mut Faults::default());
    let decoded = live::overlay(*kind, &node, &mut faults).ok().flatten().map(|node| node.to_json());
    let Some(Value::Object(mut map)) = decoded else { return Some(written) };
    map.extend(envelope.into_iter().flatten());
    Some(Value::Object(map))
}

/// The text to write: `text` with `envelope` in it. What the document says of itself stays where `envelope` says
/// nothing; `default_by` is who wrote it when nobody else says it. What is no map and has no full form (`null`, or
/// what cannot be read) has no room for an envelope, and stays as it is.
pub(super) fn compose(subject: &Subject, text: &str, envelope: &Envelope, default_by: &str) -> String {
    let Some(Value::Object(mut map)) = full(subject, text.as_bytes()) else { return text.to_owned() };
    let mut add = envelope.fields();
    if envelope.by.is_none() && !map.contains_key("by") {
        let mut first = Map::from_iter([("by".to_owned(), Value::String(default_by.to_owned()))]);
        first.extend(add);
        add = first;
    }
    let news = add.keys().all(|name| !map.contains_key(name));
    map.extend(add.clone());
    let wanted = Value::Object(map);
    let candidates = [news.then(|| block(text, &add)), news.then(|| flow(text, &add))];
    let kept = candidates.into_iter().flatten().flatten();
    let mut right = kept.filter(|candidate| parse(candidate.as_bytes()).as_ref() == Some(&wanted));
    right.next().unwrap_or_else(|| anew(text, &wanted))
}

/// The text with more lines, for a map that is written as lines.
fn block(text: &str, add: &Map<String, Value>) -> Option<String> {
    let first = text.lines().find(|line| !line.trim().is_empty() && !line.starts_with('#'))?;
    if first.starts_with(['{', '[', ' ', '"']) || !first.contains(':') {
        return None;
    }
    let lines: Vec<_> = add.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
    Some(format!("{}\n{}", text.trim_end(), lines.concat()))
}

/// The text with more fields before its last brace, for a map that is written in braces.
fn flow(text: &str, add: &Map<String, Value>) -> Option<String> {
    let is_json = serde_json::from_str::<Value>(text).is_ok();
    let (before, after) = text.rsplit_once('}')?;
    let field = |(name, value): (&String, &Value)| {
        if is_json { format!("\"{name}\":{value}") } else { format!("{name}: {value}") }
    };
    let fields = add.iter().map(field).collect::<Vec<_>>().join(if is_json { "," } else { ", " });
    let head = before.trim_end();
    let between = match (head.ends_with('{'), is_json) {
        (true, _) => "",
        (false, true) => ",",
        (false, false) => ", ",
    };
    Some(format!("{head}{between}{fields}}}{after}"))
}

/// The document written anew: in one line where the text had one.
fn anew(text: &str, document: &Value) -> String {
    let one_line = !text.trim().contains('\n');
    if one_line || text.trim_start().starts_with('{') {
        return if one_line { document.to_string() } else { format!("{document:#}\n") };
    }
    yaml(document)
}

/// A document as people read it.
pub(super) fn yaml(document: &Value) -> String {
    serde_yaml::to_string(document).unwrap_or_else(|_| format!("{document:#}\n"))
}

/// A present document with single fields set: `pool.max_pending=5`. The error says what is wrong with one.
pub(super) fn with_fields(present: Option<Value>, fields: &[String]) -> Result<String, String> {
    let mut document = present.filter(Value::is_object).unwrap_or_else(|| json!({}));
    // Who wrote it, why and until when is said anew.
    Envelope::take(&mut document);
    for field in fields {
        let (path, value) = field
            .split_once('=')
            .ok_or_else(|| format!("--field {field}: it is PATH=VALUE, such as pool.max_pending=5"))?;
        let value = parse(value.as_bytes())
            .ok_or_else(|| format!("--field {field}: the value is not YAML or JSON"))?;
        if path.split('.').any(str::is_empty) {
            return Err(format!("--field {field}: a part of the path is empty"));
        }
        put(&mut document, path, value);
    }
    Ok(document.to_string())
}

/// Sets one field, by its path with dots. What is no map on the way becomes one.
pub(in crate::cli) fn put(document: &mut Value, path: &str, value: Value) {
    let mut at = document;
    for part in path.split('.') {
        if !at.is_object() {
            *at = json!({});
        }
        let Value::Object(map) = at else { return };
        at = map.entry(part.to_owned()).or_insert(Value::Null);
    }
    *at = value;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope() -> Envelope {
        Envelope {
            by: None,
            why: Some("load: \"high\"".to_owned()),
            until: Some("2026-11-21T10:00:00Z".parse().unwrap()),
        }
    }

    fn made(key: &str, text: &str) -> String {
        compose(&Subject::parse(key).unwrap(), text, &envelope(), "ann@host")
    }

    #[test]
    fn short_forms_become_maps() {
        for (key, text, field, value) in [
            ("switches/x", "25%", "state", "25%"),
            ("switches/x", "on", "state", "on"),
            ("switches/x", "true", "state", "on"),
            ("limits/x", " 200/s\n", "rate", "200/s"),
            ("plans/x", "off", "state", "off"),
            ("endpoints/app/a", "10.0.0.7:8080", "address", "10.0.0.7:8080"),
            ("bypass", "on", "state", "on"),
        ] {
            let document = parse(made(key, text).as_bytes()).unwrap();
            let wanted = json!({
                field: value, "by": "ann@host", "why": "load: \"high\"", "until": "2026-11-21T10:00:00Z"
            });
            assert_eq!(document, wanted, "{key} {text}");
        }
    }

    #[test]
    fn a_document_keeps_its_form() {
        let end = r#"why: "load: \"high\"", until: "2026-11-21T10:00:00Z"}"#;
        assert_eq!(made("switches/x", "{state: on}"), format!(r#"{{state: on, by: "ann@host", {end}"#));
        assert_eq!(
            made("limits/x", "{}"),
            format!(r#"{{by: "ann@host", {end}"#)
                .replace(": ", ":")
                .replace(", ", ",")
                .replace("by", "\"by\"")
                .replace("why", "\"why\"")
                .replace("until", "\"until\"")
                .replace("load:", "load: ")
        );
        let json = made("limits/x", r#"{ "rate": "5/s" }"#);
        assert!(json.starts_with(r#"{ "rate": "5/s","by":"ann@host","#), "{json}");
        assert!(serde_json::from_str::<Value>(&json).is_ok());
        let lines = made("limits/x", "# why it is so\nrate: 5/s  # today\nby: bob\n");
        assert!(lines.starts_with("# why it is so\nrate: 5/s  # today\nby: bob\nwhy: "), "{lines}");
    }

    #[test]
    fn what_is_said_anew_replaces_what_was_said() {
        let text = made("limits/x", "rate: 5/s\nwhy: old\n");
        let document = parse(text.as_bytes()).unwrap();
        assert_eq!((&document["why"], &document["rate"]), (&json!("load: \"high\""), &json!("5/s")));
        assert!(text.contains('\n') && !text.starts_with('{'), "{text}");
    }

    #[test]
    fn what_has_no_room_stays() {
        for text in ["null", "", "[", "{state: on"] {
            assert_eq!(made("switches/x", text), text);
        }
    }

    #[test]
    fn single_fields() {
        let present = Some(json!({ "pool": { "min_idle": 1 }, "by": "bob", "until": "x" }));
        let fields =
            ["pool.max_pending=5".to_owned(), "connect_timeout=2s".to_owned(), "tls=null".to_owned()];
        assert_eq!(
            with_fields(present, &fields).unwrap(),
            r#"{"pool":{"min_idle":1,"max_pending":5},"connect_timeout":"2s","tls":null}"#
        );
        assert!(with_fields(None, &["a".to_owned()]).unwrap_err().contains("PATH=VALUE"));
        assert!(with_fields(None, &["a..b=1".to_owned()]).unwrap_err().contains("empty"));
        assert!(with_fields(None, &["a=[".to_owned()]).unwrap_err().contains("not YAML"));
    }
}
