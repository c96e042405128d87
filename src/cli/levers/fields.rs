//! Which fields a lever moves, and what becomes of the overlay around them. Pure.

use jiff::Timestamp;
use serde_json::{Map, Value};

use crate::{
    cli::policy::document::{self, Envelope},
    config::Kind,
    store::key::Subject,
};

/// What the levers of a kind move.
pub(super) fn of(kind: Kind) -> &'static [&'static str] {
    match kind {
        Kind::Switch | Kind::Plan => &["state"],
        Kind::Limit => &["state", "rate", "burst"],
        Kind::Upstream | Kind::Route => &["breaker.mode"],
    }
}

/// A field with its new value.
pub(super) type Setting = (&'static str, Value);

/// What is there before a lever is moved. By default nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Present {
    /// The overlay in its full form, without its envelope; `None` when it removes the resource.
    pub(super) document: Option<Map<String, Value>>,
    /// Until when it holds.
    pub(super) until: Option<Timestamp>,
}

impl Present {
    /// Reads an overlay; `None` when it cannot be read.
    pub(super) fn read(subject: &Subject, text: &[u8]) -> Option<Self> {
        let mut full = document::expanded(subject, text)?;
        let until = Envelope::take(&mut full).until;
        let document = match full {
            Value::Object(map) => Some(map),
            Value::Null => None,
            _ => return None,
        };
        Some(Self { document, until })
    }

    /// Whether it does not hold any more.
    pub(super) fn is_over(&self, now: Timestamp) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// The fields, with dots, that are none of these.
    pub(super) fn others<'p>(&self, paths: impl IntoIterator<Item = &'p str>) -> Vec<String> {
        let mut rest = self.document.clone().unwrap_or_default();
        paths.into_iter().for_each(|path| drop(take(&mut rest, path)));
        let mut out = Vec::new();
        leaves(&mut String::new(), &Value::Object(rest), &mut |path, _| out.push(path.to_owned()));
        out
    }

    /// What it says of a field.
    pub(super) fn get(&self, path: &str) -> Option<&Value> {
        let document = self.document.as_ref()?;
        let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
        let found = document.get(first)?;
        rest.map_or(Some(found), |rest| found.pointer(&format!("/{}", rest.replace('.', "/"))))
    }
}

/// A document with fields set.
pub(super) fn with(document: Option<Map<String, Value>>, settings: &[Setting]) -> Map<String, Value> {
    let mut document = Value::Object(document.unwrap_or_default());
    for (path, value) in settings {
        document::put(&mut document, path, value.clone());
    }
    match document {
        Value::Object(map) => map,
        _ => Map::new(),
    }
}

/// Takes a field out, and the blocks of which it was the only one. Says what it was.
pub(super) fn take(map: &mut Map<String, Value>, path: &str) -> Option<Value> {
    let Some((first, rest)) = path.split_once('.') else { return map.shift_remove(path) };
    let block = map.get_mut(first)?.as_object_mut()?;
    let taken = take(block, rest)?;
    if block.is_empty() {
        map.shift_remove(first);
    }
    Some(taken)
}

/// Tells every field that is not itself a map with fields, with its dotted path.
pub(super) fn leaves<'v>(path: &mut String, value: &'v Value, tell: &mut impl FnMut(&str, &'v Value)) {
    let map = match value {
        Value::Object(map) if !map.is_empty() => map,
        // Nothing is there.
        Value::Object(_) if path.is_empty() => return,
        _ => return tell(path, value),
    };
    for (name, value) in map {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        leaves(path, value, tell);
        path.truncate(length);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn present(key: &str, text: &str) -> Present {
        Present::read(&Subject::parse(key).unwrap(), text.as_bytes()).unwrap()
    }

    #[test]
    fn short_forms_have_fields_too() {
        for (key, text, path, value) in [
            ("switches/x", "25%", "state", json!("25%")),
            ("switches/x", "{state: on, by: ann}", "state", json!("on")),
            ("limits/x", "5/s", "rate", json!("5/s")),
            ("upstreams/x", "breaker: open\n", "breaker.mode", json!("open")),
            ("upstreams/x", "{breaker: {mode: closed}}", "breaker.mode", json!("closed")),
            ("plans/x", "true", "state", json!("on")),
        ] {
            let present = present(key, text);
            assert_eq!(present.get(path), Some(&value), "{key} {text}");
            let Subject::Overlay(kind, _) = Subject::parse(key).unwrap() else { panic!() };
            assert_eq!(present.others(of(kind).iter().copied()), Vec::<String>::new(), "{key} {text}");
        }
    }

    #[test]
    fn what_levers_do_not_move_is_named() {
        let one = present("upstreams/x", "{breaker: {mode: open, open_for: 5s}, pool: {min_idle: 1}}");
        assert_eq!(one.others(["breaker.mode"]), ["breaker.open_for", "pool.min_idle"]);
        let one = present("limits/x", "{rate: 5/s, burst: 3, state: on, key: [client]}");
        assert_eq!(one.others(["state", "rate", "burst"]), ["key"]);
        assert_eq!(one.others(["rate"]), ["burst", "state", "key"]);
    }

    #[test]
    fn a_field_that_was_put_in_can_be_taken_out() {
        let before = json!({ "pool": { "min_idle": 1 } }).as_object().cloned();
        let mut map = with(before.clone(), &[("breaker.mode", json!("open"))]);
        assert_eq!(map["breaker"], json!({ "mode": "open" }));
        assert_eq!(take(&mut map, "breaker.mode"), Some(json!("open")));
        assert_eq!(Some(map.clone()), before);
        assert_eq!(take(&mut map, "breaker.mode"), None);
        assert_eq!(take(&mut map, "pool.min_idle.x"), None);
    }

    #[test]
    fn an_overlay_that_is_over_or_removes() {
        let now: Timestamp = "2026-11-21T10:00:00Z".parse().unwrap();
        let over = present("switches/x", "{state: on, until: \"2026-11-21T10:00:00Z\"}");
        assert!(over.is_over(now) && !over.is_over("2026-11-21T09:59:59Z".parse().unwrap()));
        assert_eq!(present("switches/x", "null"), Present { document: None, until: None });
        assert!(Present::read(&Subject::parse("switches/x").unwrap(), b"{state: on").is_none());
    }
}
