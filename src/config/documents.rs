//! The effective documents: what was written for each resource, and where.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value as Json, json};

use super::{
    Name,
    node::{Node, Origin, Source, Sources, Value},
    wire::short::expand,
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

/// A layer of policy. In order: later ones are merged over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Layer {
    /// The file.
    Baseline,
    /// Live policy of every instance.
    Fleet,
    /// Live policy of the service.
    Service,
    /// The plans that are on.
    Plans,
    /// Live policy of this instance.
    Instance,
}

impl Layer {
    /// Its name in `/policy` and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Fleet => "fleet",
            Self::Service => "service",
            Self::Plans => "plans",
            Self::Instance => "instance",
        }
    }
}

/// Where a live document is from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The layer that it has a say in.
    pub layer: Layer,
    /// The plan that it is a part of.
    pub plan: Option<Name>,
    /// Where it is written.
    pub written: Written,
}

/// Where something is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// In the file, by its name.
    File(Arc<str>),
    /// In a store.
    Key {
        /// The key below `<root>/policy/`.
        key: Arc<str>,
        /// The revision at which it was written last.
        revision: i64,
        /// Who wrote it.
        by: Option<Arc<str>>,
        /// Why.
        why: Option<Arc<str>>,
        /// Until when it holds.
        until: Option<jiff::Timestamp>,
    },
}

/// Where live documents are from, by what their nodes say of their source.
pub(crate) type Places = Vec<Option<Arc<Place>>>;

/// The effective document of every resource.
#[derive(Debug, Clone, Default)]
pub struct Documents {
    sources: Sources,
    places: Places,
    nodes: BTreeMap<(Kind, Name), Arc<Node>>,
    bypass: Option<(bool, Origin)>,
}

impl Documents {
    /// Collects the documents of `policy` from the root of a file, in their full forms.
    pub(super) fn of_file(root: &Node, sources: Sources) -> Self {
        let mut nodes = BTreeMap::new();
        for kind in Kind::ALL {
            let block = root.get("policy").and_then(|policy| policy.node.get(kind.as_str()));
            let Some(Value::Map(map)) = block.map(|block| &block.node.value) else { continue };
            for (key, entry) in map {
                if let Some(name) = Name::new(key) {
                    nodes.insert((*kind, name), Arc::new(expand(*kind, &entry.node).into_owned()));
                }
            }
        }
        Self { sources, nodes, ..Self::default() }
    }

    /// What live policy made of the documents of `file`.
    pub(crate) fn live(
        file: &Self,
        places: Places,
        nodes: BTreeMap<(Kind, Name), Arc<Node>>,
        bypass: Option<(bool, Origin)>,
    ) -> Self {
        Self { sources: file.sources.clone(), places, nodes, bypass }
    }

    /// All of them, by kind and name.
    pub fn iter(&self) -> impl Iterator<Item = (Kind, &Name, &Node)> {
        self.nodes.iter().map(|((kind, name), node)| (*kind, name, &**node))
    }

    /// One of them.
    pub fn get(&self, kind: Kind, name: &Name) -> Option<&Node> {
        self.nodes.get(&(kind, name.clone())).map(|node| &**node)
    }

    /// All of them as JSON: for each its effective document, and where each of its fields was written. Where live
    /// policy says whether protections are bypassed, that is there too.
    pub fn to_json(&self) -> Json {
        let mut kinds = serde_json::Map::new();
        for (kind, name, node) in self.iter() {
            let of_kind = kinds.entry(kind.as_str()).or_insert_with(|| json!({}));
            if let Some(of_kind) = of_kind.as_object_mut() {
                of_kind.insert(name.to_string(), self.document(node));
            }
        }
        if let Some((on, origin)) = self.bypass {
            let state = if on { "on" } else { "off" };
            let bypass = json!({ "document": { "state": state }, "fields": { "state": self.place(origin) } });
            kinds.insert("bypass".to_owned(), bypass);
        }
        Json::Object(kinds)
    }

    fn document(&self, node: &Node) -> Json {
        let fields = node.leaves().into_iter().map(|(path, origin)| (path, self.place(origin)));
        json!({ "document": node.to_json(), "fields": fields.collect::<serde_json::Map<_, _>>() })
    }

    /// One of them as JSON, as in [`to_json`](Self::to_json).
    pub fn one_to_json(&self, kind: Kind, name: &Name) -> Option<Json> {
        self.get(kind, name).map(|node| self.document(node))
    }

    fn place(&self, origin: Origin) -> Json {
        let (line, column) = (origin.line, origin.column);
        let Some(place) = self.live_place(origin) else {
            let file = self.source(origin).map(|source| &*source.name);
            return json!({ "layer": "baseline", "file": file, "line": line, "column": column });
        };
        let mut json = match &place.written {
            Written::File(file) => json!({ "file": &**file }),
            Written::Key { key, revision, by, why, until } => json!({
                "key": &**key,
                "revision": revision,
                "by": by.as_deref(),
                "why": why.as_deref(),
                "until": until.map(|until| until.to_string()),
            }),
        };
        if let Some(json) = json.as_object_mut() {
            json.insert("layer".to_owned(), place.layer.as_str().into());
            json.insert("line".to_owned(), line.into());
            json.insert("column".to_owned(), column.into());
            json.extend(place.plan.iter().map(|plan| ("plan".to_owned(), plan.as_str().into())));
        }
        json
    }

    /// The live document that an origin lies in; `None` when it is the file.
    pub fn live_place(&self, origin: Origin) -> Option<&Arc<Place>> {
        self.places.get(origin.source.as_live()?)?.as_ref()
    }

    /// The name of the file that `source` stands for.
    pub(crate) fn source_name(&self, source: super::node::SourceId) -> Arc<str> {
        self.sources.get(source).map_or_else(|| Arc::from(""), |source| Arc::clone(&source.name))
    }

    /// The file that an origin lies in.
    pub fn source(&self, origin: Origin) -> Option<&Source> {
        self.sources.get(origin.source)
    }
}
