//! Plans that are on and want different things of one resource.
//!
//! That is allowed, and the later name wins; but whoever turned on the other one does not get what it says.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value as Json;

use super::{Id, Layers, Warning};
use crate::config::{Kind, Name, live, node::Node};

impl Layers {
    /// A warning for every two plans that are on and change the same field of the same resource to different values, at
    /// the one that wins.
    pub(super) fn clashes(&self) -> Vec<Warning> {
        let several = self.patches.iter().filter(|(_, plans)| plans.len() > 1);
        let mut out: Vec<_> = several.flat_map(|(id, plans)| self.clashes_over(id, plans)).collect();
        out.sort_by(|a, b| (&a.key, &a.message).cmp(&(&b.key, &b.message)));
        out
    }

    fn clashes_over(&self, id: &Id, plans: &BTreeMap<Name, Arc<Node>>) -> Vec<Warning> {
        let mut out = Vec::new();
        for (at, (winner, over)) in plans.iter().enumerate() {
            for (loser, under) in plans.iter().take(at) {
                let fields = overridden(id.0, under, over);
                if fields.is_empty() {
                    continue;
                }
                let (key, revision) = self.place_of_plan(winner);
                let message = format!(
                    "the plans `{loser}` and `{winner}` are both on, and want different things of {}/{}: {}; `{winner}` \
                     wins, by its name",
                    id.0.as_str(),
                    id.1,
                    fields.join(", ")
                );
                out.push(Warning { key, revision, message });
            }
        }
        out
    }

    /// Where a plan is from: its newest overlay in force, or the file.
    fn place_of_plan(&self, plan: &Name) -> (Arc<str>, i64) {
        let keys = self.overlays.get(&(Kind::Plan, plan.clone())).into_iter().flatten();
        let in_force = keys.filter_map(|(_, key)| {
            let slot = self.slots.get(key)?;
            Some((slot.doc(slot.choice, self.clock)?.revision, key))
        });
        match in_force.max() {
            Some((revision, key)) => (Arc::clone(key), revision),
            None => (Arc::from(format!("policy.plans.{plan}")), 0),
        }
    }
}

/// The fields of the patch `under` that do not hold once `over` lies over it, with dots: because `over` says something
/// else, takes them away, or sets their alternative.
fn overridden(kind: Kind, under: &Node, over: &Node) -> Vec<String> {
    let mut merged = under.clone();
    live::merge(kind, &mut merged, over);
    let (said, holds) = (under.to_json(), merged.to_json());
    let mut fields = Vec::new();
    compare(&said, Some(&holds), &mut String::new(), &mut fields);
    fields
}

/// Collects the fields of `said` that are not the same in `holds`. A field that a patch takes away is as good as none.
fn compare(said: &Json, holds: Option<&Json>, path: &mut String, fields: &mut Vec<String>) {
    let map = match said {
        Json::Object(map) if !map.is_empty() && holds.is_none_or(Json::is_object) => map,
        _ => {
            if plain(said) != plain(holds.unwrap_or(&Json::Null)) {
                fields.push(path.clone());
            }
            return;
        }
    };
    for (name, said) in map {
        let length = path.len();
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(name);
        compare(said, holds.and_then(|holds| holds.get(name)), path, fields);
        path.truncate(length);
    }
}

/// A value without the freedom of its spelling: `on` is true, and `"5"` is 5.
fn plain(value: &Json) -> Json {
    match value {
        Json::String(text) => match text.trim() {
            "on" | "true" => Json::Bool(true),
            "off" | "false" => Json::Bool(false),
            other => Json::String(other.to_owned()),
        },
        Json::Number(number) => Json::String(number.to_string()),
        other => other.clone(),
    }
}
