//! The effective documents: what was written for each resource, and where.

use std::collections::BTreeMap;

use super::{
    Name,
    node::{Node, Origin, Source, Sources, Value},
};

/// A kind of resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A group of endpoints.
    Upstream,
    /// A rule for requests.
    Route,
    /// A rate limit.
    Limit,
    /// A degradation switch.
    Switch,
    /// A set of changes that is turned on and off as one.
    Plan,
}

impl Kind {
    /// Every kind.
    pub const ALL: &'static [Self] = &[Self::Upstream, Self::Route, Self::Limit, Self::Switch, Self::Plan];

    /// Its name in files, keys and the admin interface: the plural.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Upstream => "upstreams",
            Self::Route => "routes",
            Self::Limit => "limits",
            Self::Switch => "switches",
            Self::Plan => "plans",
        }
    }

    /// The kind that has this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|kind| kind.as_str() == name)
    }
}

/// The effective document of every resource.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    sources: Sources,
    nodes: BTreeMap<(Kind, Name), Node>,
}

impl Documents {
    /// Collects the documents of `policy` from the root of a file.
    pub(super) fn of_file(root: &Node, sources: Sources) -> Self {
        let mut nodes = BTreeMap::new();
        for kind in Kind::ALL {
            let block = root.get("policy").and_then(|policy| policy.node.get(kind.as_str()));
            let Some(Value::Map(map)) = block.map(|block| &block.node.value) else { continue };
            for (key, entry) in map {
                if let Some(name) = Name::new(key) {
                    nodes.insert((*kind, name), entry.node.clone());
                }
            }
        }
        Self { sources, nodes }
    }

    /// All of them, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Name, &Node)> {
        self.nodes.iter().map(|((kind, name), node)| (*kind, name, node))
    }

    /// One of them.
    pub fn get(&self, kind: Kind, name: &Name) -> Option<&Node> {
        self.nodes.get(&(kind, name.clone()))
    }

    /// All of them as JSON: for each its effective document, and where each of its fields was written.
    pub fn to_json(&self) -> serde_json::Value {
        let mut kinds = serde_json::Map::new();
        for (kind, name, node) in self.iter() {
            let fields = node.leaves().into_iter().map(|(path, origin)| (path, self.place(origin)));
            let document = serde_json::json!({
                "document": node.to_json(),
                "fields": fields.collect::<serde_json::Map<_, _>>(),
            });
            let of_kind = kinds.entry(kind.as_str()).or_insert_with(|| serde_json::json!({}));
            if let Some(of_kind) = of_kind.as_object_mut() {
                of_kind.insert(name.to_string(), document);
            }
        }
        serde_json::Value::Object(kinds)
    }

    fn place(&self, origin: Origin) -> serde_json::Value {
        let file = self.source(origin).map(|source| &*source.name);
        serde_json::json!({ "layer": "baseline", "file": file, "line": origin.line, "column": origin.column })
    }

    /// The text (file or key) that an origin lies in.
    pub fn source(&self, origin: Origin) -> Option<&Source> {
        self.sources.get(origin.source)
    }
}
