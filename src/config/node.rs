//! The tree between text and types: values that know where they came from.
//!
//! Whatever a document is made of (a file, a key of a store, a patch of a plan), decoding sees only nodes, and
//! every node carries its [`Origin`] through merging. So "which layer does this field come from?" always has an
//! answer.

use std::{borrow::Cow, sync::Arc};

use indexmap::IndexMap;

/// Which text a node came from: an index into [`Sources`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SourceId(u32);

/// Where something is written. Lines and columns count from 1; columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Origin {
    /// The text.
    pub source: SourceId,
    /// The line of its first character; 0 = nowhere in particular.
    pub line: u32,
    /// The column of its first character.
    pub column: u32,
    /// The line of its end.
    pub end_line: u32,
    /// The column after its last character.
    pub end_column: u32,
}

/// The texts that nodes came from.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    list: Vec<Source>,
}

impl SourceId {
    /// The first of those that stand for live documents; those below are places in a list of texts.
    const LIVE: u32 = 1 << 31;

    /// The `index`th live document.
    pub(crate) const fn live(index: u32) -> Self {
        Self(index | Self::LIVE)
    }

    /// Which live document it stands for; `None` for a text.
    pub(crate) fn as_live(self) -> Option<usize> {
        (self.0 & Self::LIVE != 0).then(|| usize::try_from(self.0 & !Self::LIVE).unwrap_or(usize::MAX))
    }
}

/// One text: a file, or the value of a key.
#[derive(Debug, Clone)]
pub struct Source {
    /// What people know it by: a file's path, a store's key.
    pub name: Arc<str>,
    /// The text itself.
    pub text: Arc<str>,
}

impl Sources {
    /// Adds a text and says how nodes refer to it.
    pub fn add(&mut self, name: &str, text: &str) -> SourceId {
        let id = SourceId(u32::try_from(self.list.len()).unwrap_or(u32::MAX));
        self.list.push(Source { name: Arc::from(name), text: Arc::from(text) });
        id
    }

    /// The text that `id` stands for.
    pub fn get(&self, id: SourceId) -> Option<&Source> {
        self.list.get(usize::try_from(id.0).ok()?)
    }
}

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The value.
    pub value: Value,
    /// Where it is written.
    pub origin: Origin,
    /// How a number, boolean or null was written: `012345678901` is a host name as well as a number. For a text
    /// that variables were expanded in, what it was before.
    pub raw: Option<Box<str>>,
}

/// What can be written.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// Nothing.
    Null,
    /// True or false.
    Bool(bool),
    /// An integer.
    Int(i64),
    /// A number with a fraction or exponent, or an integer beyond 64 bits.
    Float(f64),
    /// A text.
    String(String),
    /// A list.
    Seq(Vec<Node>),
    /// A map.
    Map(Map),
    /// Something that could not be read and whose fault is already reported; decoding passes over it.
    Invalid,
}

/// A map, in the order in which it was written.
pub type Map = IndexMap<String, Entry>;

/// The value of a key, and where the key is written.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// Where the key is written.
    pub key: Origin,
    /// The value.
    pub node: Node,
}

impl Node {
    /// A node that was written as it stands.
    pub fn new(value: Value, origin: Origin) -> Self {
        Self { value, origin, raw: None }
    }

    /// Whether nothing is written.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The entry `key` of a map.
    pub fn get(&self, key: &str) -> Option<&Entry> {
        match &self.value {
            Value::Map(map) => map.get(key),
            _ => None,
        }
    }

    /// A scalar as text, as it was written.
    pub fn text(&self) -> Option<Cow<'_, str>> {
        let made = match &self.value {
            Value::String(text) => return Some(Cow::Borrowed(text)),
            Value::Bool(value) => value.to_string(),
            Value::Int(value) => value.to_string(),
            Value::Float(value) => value.to_string(),
            Value::Null | Value::Invalid | Value::Seq(_) | Value::Map(_) => return None,
        };
        Some(self.raw.as_deref().map_or(Cow::Owned(made), Cow::Borrowed))
    }

    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null | Value::Invalid => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Int(_) => "an integer",
            Value::Float(_) => "a number",
            Value::String(_) => "a text",
            Value::Seq(_) => "a list",
            Value::Map(_) => "a map",
        }
    }

    /// Its values without their origins. Numbers that JSON cannot hold (`.inf`) become null.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null | Value::Invalid => serde_json::Value::Null,
            Value::Bool(value) => (*value).into(),
            Value::Int(value) => (*value).into(),
            Value::Float(value) => (*value).into(),
            Value::String(text) => text.as_str().into(),
            Value::Seq(items) => items.iter().map(Self::to_json).collect(),
            Value::Map(map) => map
                .iter()
                .map(|(key, entry)| (key.clone(), entry.node.to_json()))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    /// Takes out every field that is null, at any depth of maps: what is left when it is merged over nothing.
    pub(crate) fn strip_nulls(&mut self) {
        if let Value::Map(map) = &mut self.value {
            map.retain(|_, entry| !entry.node.is_null());
            map.values_mut().for_each(|entry| entry.node.strip_nulls());
        }
    }

    /// Gives every node and key of it the source that `of` says.
    pub(crate) fn restamp(&mut self, of: &mut impl FnMut(SourceId) -> SourceId) {
        self.origin.source = of(self.origin.source);
        match &mut self.value {
            Value::Seq(items) => items.iter_mut().for_each(|item| item.restamp(of)),
            Value::Map(map) => {
                for entry in map.values_mut() {
                    entry.key.source = of(entry.key.source);
                    entry.node.restamp(of);
                }
            }
            _ => {}
        }
    }

    /// Every field that is not itself a map with fields, with its dotted path and where it is written. A list that
    /// several documents made has an entry for each of its items.
    pub fn leaves(&self) -> Vec<(String, Origin)> {
        let mut out = Vec::new();
        self.collect_leaves(&mut String::new(), &mut out);
        out
    }

    fn collect_leaves(&self, path: &mut String, out: &mut Vec<(String, Origin)>) {
        let map = match &self.value {
            Value::Map(map) if !map.is_empty() => map,
            Value::Seq(items) if items.iter().any(|item| item.origin.source != self.origin.source) => {
                out.extend(items.iter().enumerate().map(|(n, item)| (format!("{path}.{n}"), item.origin)));
                return;
            }
            _ => return out.push((path.clone(), self.origin)),
        };
        for (key, entry) in map {
            let length = path.len();
            if !path.is_empty() {
                path.push('.');
            }
            path.push_str(key);
            entry.node.collect_leaves(path, out);
            path.truncate(length);
        }
    }

    /// Merges `patch` over this node (JSON Merge Patch, RFC 7396 §2): maps merge, null removes a field, anything
    /// else replaces. What comes from the patch keeps the patch's origin.
    pub fn merge(&mut self, patch: &Self) {
        let Value::Map(changes) = &patch.value else {
            self.clone_from(patch);
            return;
        };
        if !matches!(self.value, Value::Map(_)) {
            *self = Self::new(Value::Map(Map::new()), patch.origin);
        }
        let Value::Map(target) = &mut self.value else { return };
        for (key, change) in changes {
            if change.node.is_null() {
                target.shift_remove(key);
                continue;
            }
            let new = || Entry { key: change.key, node: Self::new(Value::Null, change.node.origin) };
            target.entry(key.clone()).or_insert_with(new).node.merge(&change.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(json: &serde_json::Value, line: u32) -> Node {
        let origin = Origin { line, ..Origin::default() };
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => Value::Int(number.as_i64().unwrap()),
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(items) => {
                Value::Seq(items.iter().map(|item| node(item, line)).collect())
            }
            serde_json::Value::Object(map) => Value::Map(
                map.iter().map(|(k, v)| (k.clone(), Entry { key: origin, node: node(v, line) })).collect(),
            ),
        };
        Node::new(value, origin)
    }

    /// The examples of RFC 7396, appendix A.
    #[test]
    fn merges_as_the_rfc_says() {
        for (target, patch, result) in [
            (r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#),
            (r#"{"a":"b"}"#, r#"{"a":null}"#, "{}"),
            (r#"{"a":"b","b":"c"}"#, r#"{"a":null}"#, r#"{"b":"c"}"#),
            (r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#),
            (r#"{"a":"c"}"#, r#"{"a":["b"]}"#, r#"{"a":["b"]}"#),
            (r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#),
            (r#"{"a":[{"b":"c"}]}"#, r#"{"a":[1]}"#, r#"{"a":[1]}"#),
            (r#"["a","b"]"#, r#"["c","d"]"#, r#"["c","d"]"#),
            (r#"{"a":"b"}"#, r#"["c"]"#, r#"["c"]"#),
            (r#"{"a":"foo"}"#, "null", "null"),
            (r#"{"a":"foo"}"#, r#""bar""#, r#""bar""#),
            (r#"{"e":null}"#, r#"{"a":1}"#, r#"{"e":null,"a":1}"#),
            ("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#),
            ("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#),
        ] {
            let parse = |text: &str| -> serde_json::Value { serde_json::from_str(text).unwrap() };
            let mut merged = node(&parse(target), 1);
            merged.merge(&node(&parse(patch), 2));
            assert_eq!(merged.to_json(), parse(result), "{target} + {patch}");
        }
    }

    #[test]
    fn every_leaf_keeps_the_origin_of_its_layer() {
        let mut merged = node(&serde_json::json!({"pool": {"min_idle": 1, "max_pending": 2}}), 1);
        merged.merge(&node(&serde_json::json!({"pool": {"max_pending": 5}, "tls": {}}), 2));
        let lines: Vec<_> = merged.leaves().into_iter().map(|(path, origin)| (path, origin.line)).collect();
        assert_eq!(
            lines,
            [("pool.min_idle".to_owned(), 1), ("pool.max_pending".to_owned(), 2), ("tls".to_owned(), 2)]
        );
    }
}
