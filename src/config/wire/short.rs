//! The short forms: a scalar that stands for a document.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::{
    Cx, Defaults, Defs, Wire,
    resilience::{BreakerWire, EjectionWire, RouteBreakerWire, SlowStartWire},
    schema,
};
use crate::config::{
    documents::Kind,
    node::{Entry, Map, Node, Origin, Value},
};

/// A block that may be written as the one scalar that people want to say.
pub(super) trait Short: Wire {
    /// Whose short form it is.
    const KIND: Kind;

    /// What the schema says of the scalar.
    fn describe() -> Json;
}

/// A block, or its short form.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OrShort<T>(pub(crate) T);

impl<T: Short> Wire for OrShort<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        T::decode(&expand(T::KIND, node), cx).map(Self)
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [T::schema(defs), T::describe(), schema::variable(defs)] })
    }
}

/// How the words of a scalar are compared.
pub(crate) struct Scalar;

impl Scalar {
    /// The word that a scalar stands for: white space around it does not count, YAML's true and false are on and off.
    pub(crate) fn of(text: &str) -> &str {
        match text.trim() {
            "true" | "True" | "TRUE" => "on",
            "false" | "False" | "FALSE" => "off",
            word => word,
        }
    }
}

/// A block inside a document that may be written as the value of one of its fields.
pub(super) trait Brief: Wire {
    /// That field.
    const FIELD: &'static str;

    /// What the schema says of its value.
    fn describe() -> Json;
}

/// A block, or the value of its most important field.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OrBrief<T>(pub(crate) T);

impl<T: Brief> Wire for OrBrief<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        T::decode(&in_full(T::FIELD, node), cx).map(Self)
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [T::schema(defs), T::describe(), schema::variable(defs)] })
    }
}

impl<T: Defaults> Defaults for OrBrief<T> {
    fn defaults(origin: Origin) -> Self {
        Self(T::defaults(origin))
    }
}

/// The blocks that may be written as the value of one field, and that field.
const BRIEF: [(Kind, &str, &str); 4] = [
    (Kind::Upstream, "slow_start", SlowStartWire::FIELD),
    (Kind::Upstream, "ejection", EjectionWire::FIELD),
    (Kind::Upstream, "breaker", BreakerWire::FIELD),
    (Kind::Route, "breaker", RouteBreakerWire::FIELD),
];

/// The document that `node` stands for. What is no short form of `kind` is left as it is.
///
/// A switch: its `state`; a limit: its `state` or its `rate`; a plan: its `state`; routes and upstreams have none, but
/// some of their blocks do. Only documents in their full forms merge as they should.
pub(crate) fn expand(kind: Kind, node: &Node) -> Cow<'_, Node> {
    let Some(text) = node.text() else {
        return match kind {
            Kind::Plan => patches(node),
            _ => blocks(kind, node),
        };
    };
    let word = Scalar::of(&text);
    let field = match kind {
        Kind::Upstream | Kind::Route => return Cow::Borrowed(node),
        Kind::Limit if word.contains('/') || word.starts_with(|c: char| c.is_ascii_digit()) => "rate",
        Kind::Limit | Kind::Switch | Kind::Plan => "state",
    };
    let scalar = Node::new(Value::String(word.to_owned()), node.origin);
    Cow::Owned(of_field(field, scalar))
}

/// A block with one field.
fn of_field(field: &str, node: Node) -> Node {
    let origin = node.origin;
    Node::new(Value::Map(Map::from_iter([(field.to_owned(), Entry { key: origin, node })])), origin)
}

/// A block that may be just the value of its `field`.
fn in_full<'n>(field: &str, node: &'n Node) -> Cow<'n, Node> {
    if node.text().is_some() { Cow::Owned(of_field(field, node.clone())) } else { Cow::Borrowed(node) }
}

/// A document with its blocks in their full forms.
fn blocks(kind: Kind, node: &Node) -> Cow<'_, Node> {
    let mut node = Cow::Borrowed(node);
    for (_, block, field) in BRIEF.iter().filter(|(of, ..)| *of == kind) {
        if node.get(block).is_some_and(|entry| entry.node.text().is_some())
            && let Value::Map(map) = &mut node.to_mut().value
            && let Some(entry) = map.get_mut(*block)
        {
            entry.node = in_full(field, &entry.node).into_owned();
        }
    }
    node
}

/// A plan with its patches in their full forms, so that they merge with those of other layers.
fn patches(plan: &Node) -> Cow<'_, Node> {
    let mut full = Cow::Borrowed(plan);
    for kind in [Kind::Upstream, Kind::Limit, Kind::Switch] {
        let Some(Value::Map(map)) = plan.get(kind.as_str()).map(|block| &block.node.value) else { continue };
        for (name, entry) in map {
            if let Cow::Owned(patch) = expand(kind, &entry.node)
                && let Value::Map(kinds) = &mut full.to_mut().value
                && let Some(Value::Map(patches)) = kinds.get_mut(kind.as_str()).map(|it| &mut it.node.value)
                && let Some(entry) = patches.get_mut(name)
            {
                entry.node = patch;
            }
        }
    }
    full
}
