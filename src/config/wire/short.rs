//! The short forms: a scalar that stands for a document.

use std::borrow::Cow;

use serde_json::{Value as Json, json};

use super::{Cx, Defs, Wire, schema};
use crate::config::{
    documents::Kind,
    node::{Entry, Map, Node, Value},
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

/// The document that `node` stands for. What is no short form of `kind` is left as it is.
///
/// A switch: its `state`; a limit: its `state` or its `rate`; a plan: its `state`; routes and upstreams have none.
pub(crate) fn expand(kind: Kind, node: &Node) -> Cow<'_, Node> {
    let Some(text) = node.text() else {
        return if kind == Kind::Plan { patches(node) } else { Cow::Borrowed(node) };
    };
    let word = Scalar::of(&text);
    let field = match kind {
        Kind::Upstream | Kind::Route => return Cow::Borrowed(node),
        Kind::Limit if word.contains('/') || word.starts_with(|c: char| c.is_ascii_digit()) => "rate",
        Kind::Limit | Kind::Switch | Kind::Plan => "state",
    };
    let scalar = Node::new(Value::String(word.to_owned()), node.origin);
    let entry = Entry { key: node.origin, node: scalar };
    Cow::Owned(Node::new(Value::Map(Map::from_iter([(field.to_owned(), entry)])), node.origin))
}

/// A plan with its patches in their full forms, so that they merge with those of other layers.
fn patches(plan: &Node) -> Cow<'_, Node> {
    let is_scalar = |node: &Node| node.text().is_some();
    let kinds = || [Kind::Limit, Kind::Switch].into_iter();
    let short = kinds().any(|kind| match plan.get(kind.as_str()).map(|block| &block.node.value) {
        Some(Value::Map(map)) => map.values().any(|entry| is_scalar(&entry.node)),
        _ => false,
    });
    if !short {
        return Cow::Borrowed(plan);
    }
    let mut plan = plan.clone();
    for kind in kinds() {
        let Value::Map(blocks) = &mut plan.value else { continue };
        let Some(Value::Map(map)) = blocks.get_mut(kind.as_str()).map(|block| &mut block.node.value) else {
            continue;
        };
        for entry in map.values_mut() {
            let full = expand(kind, &entry.node).into_owned();
            entry.node = full;
        }
    }
    Cow::Owned(plan)
}
