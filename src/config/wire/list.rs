//! Lists, one-or-many, and maps whose keys are free.

use std::{collections::HashSet, hash::Hash};

use serde_json::{Value as Json, json};

use super::{Cx, Defs, Shown, Spanned, Text, Wire, schema};
use crate::config::{
    codes::Code,
    fault::{Problem, shown},
    node::{Node, Value},
};

/// A list of at least `MIN` entries.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct List<T, const MIN: usize>(pub(crate) Vec<Spanned<T>>);

impl<T: Wire, const MIN: usize> Wire for List<T, MIN> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let Value::Seq(items) = &node.value else {
            cx.wrong_block(node, "a list", Some(("[", "]")));
            return None;
        };
        if items.len() < MIN {
            let problem = Problem::new(Code::TooFew, format!("this list needs at least {MIN} entry"));
            cx.problem(problem, node.origin);
        }
        Some(Self(entries(items, cx)))
    }

    fn schema(defs: &mut Defs) -> Json {
        let mut list = json!({ "type": "array", "items": T::schema(defs) });
        if MIN > 0 {
            schema::set(&mut list, "minItems", MIN.into());
        }
        list
    }
}

impl<T: Shown, const MIN: usize> Shown for List<T, MIN> {
    fn show(&self) -> Json {
        self.0.iter().map(|item| item.value.show()).collect()
    }
}

/// One, or a list of at least one.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Many<T>(pub(crate) Vec<Spanned<T>>);

impl<T: Wire> Wire for Many<T> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if matches!(node.value, Value::Seq(_)) {
            return List::<T, 1>::decode(node, cx).map(|list| Self(list.0));
        }
        T::decode(node, cx).map(|value| Self(vec![Spanned { value, origin: node.origin }]))
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [T::schema(defs), List::<T, 1>::schema(defs)] })
    }
}

fn entries<T: Wire>(items: &[Node], cx: &mut Cx<'_>) -> Vec<Spanned<T>> {
    let mut out = Vec::with_capacity(items.len());
    for (index, item) in items.iter().enumerate() {
        let decoded = cx.at(&index.to_string(), item.origin, |cx| T::decode(item, cx));
        out.extend(decoded.map(|value| Spanned { value, origin: item.origin }));
    }
    out
}

/// A map whose keys are free within what `K` takes. An entry whose value is faulty keeps its key, so that
/// references to it are not reported as well; one whose key is faulty is only counted.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Table<K, V>(
    /// The entries, in the order of the text.
    pub(crate) Vec<(Spanned<K>, Option<Spanned<V>>)>,
    /// How many are written, with those whose key is faulty.
    pub(crate) usize,
);

impl<K, V> Default for Table<K, V> {
    fn default() -> Self {
        Self(Vec::new(), 0)
    }
}

impl<K, V> super::Defaults for Table<K, V> {
    fn defaults(_: crate::config::node::Origin) -> Self {
        Self::default()
    }
}

impl<K: Text + Eq + Hash + Clone, V: Wire> Wire for Table<K, V> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let map = cx.map(node, "name: value")?;
        let mut seen = HashSet::with_capacity(map.len());
        let mut out = Vec::with_capacity(map.len());
        for (key, entry) in map {
            let parsed = cx.at(key, entry.key, |cx| {
                let name = K::parse(key).map_err(|problem| cx.problem(problem, entry.key)).ok();
                if name.as_ref().is_some_and(|name| !seen.insert(name.clone())) {
                    let message = format!("`{}` stands here twice, written differently", shown(key));
                    cx.problem(Problem::new(Code::Duplicate, message), entry.key);
                }
                let value =
                    V::decode(&entry.node, cx).map(|value| Spanned { value, origin: entry.node.origin });
                name.map(|name| (Spanned { value: name, origin: entry.key }, value))
            });
            out.extend(parsed);
        }
        Some(Self(out, map.len()))
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "type": "object", "propertyNames": K::describe(), "additionalProperties": V::schema(defs) })
    }
}
