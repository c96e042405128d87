//! What a plan changes, from the effective documents without it and with it. Pure.
//!
//! Documents are as `/policy` shows them: by kind and name, each with its fields and where they come from.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::fields::leaves;
use crate::config::{Kind, Name};

/// The kinds that a plan can change.
const PATCHED: [Kind; 3] = [Kind::Upstream, Kind::Limit, Kind::Switch];

/// One field that is different.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Changed {
    /// `limits/checkout`.
    pub(super) resource: String,
    /// The field, with dots; empty for a document that has none.
    pub(super) field: String,
    /// What it is; `None` = not there.
    pub(super) before: Option<Value>,
    /// What it would be.
    pub(super) after: Option<Value>,
}

/// A field of the plan that is not in force although the plan is on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stays {
    /// `limits/checkout`.
    pub(super) resource: String,
    /// The field, with dots.
    pub(super) field: String,
    /// What the plan says; null = that it goes.
    pub(super) plan: Value,
    /// What is in force.
    pub(super) in_force: Option<Value>,
    /// Who says that.
    pub(super) because: String,
}

/// What two plans that are on both touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Collision {
    /// The other plan.
    pub(super) other: String,
    /// Which of the two is in force: the later one by name.
    pub(super) wins: String,
    /// `limits/checkout`.
    pub(super) resource: String,
    /// The fields, with dots.
    pub(super) fields: Vec<String>,
}

/// The effective document of a resource, in the documents of all.
pub(super) fn document<'d>(documents: &'d Value, kind: &str, name: &str) -> Option<&'d Value> {
    documents.get(kind)?.get(name)?.get("document")
}

/// A state in the word for it: YAML's true and false are on and off.
pub(super) fn state(value: Option<&Value>, default: &str) -> String {
    match value {
        None | Some(Value::Null) => default.to_owned(),
        Some(Value::Bool(on)) => if *on { "on" } else { "off" }.to_owned(),
        Some(Value::String(text)) => match text.trim() {
            "true" | "True" | "TRUE" => "on".to_owned(),
            "false" | "False" | "FALSE" => "off".to_owned(),
            word => word.to_owned(),
        },
        Some(other) => other.to_string(),
    }
}

/// Whether a plan is on.
pub(super) fn is_on(documents: &Value, plan: &str) -> bool {
    let found = document(documents, Kind::Plan.as_str(), plan);
    state(found.and_then(|document| document.get("state")), "off") == "on"
}

/// All fields of a document, by path.
fn fields(document: &Value) -> BTreeMap<String, &Value> {
    let mut out = BTreeMap::new();
    leaves(&mut String::new(), document, &mut |path, value| {
        out.insert(path.to_owned(), value);
    });
    out
}

/// Every resource in some documents but the plan itself.
fn resources<'d>(documents: &'d Value, plan: &str) -> BTreeSet<(&'static str, &'d str)> {
    let of_kind = |kind: &'static str| {
        let names = documents.get(kind).and_then(Value::as_object);
        names.into_iter().flatten().map(move |(name, _)| (kind, name.as_str()))
    };
    let all = Kind::ALL.iter().flat_map(|kind| of_kind(kind.as_str()));
    all.filter(|(kind, name)| (*kind, *name) != (Kind::Plan.as_str(), plan)).collect()
}

/// Every field that is different, apart from the plan's own.
pub(super) fn changes(before: &Value, after: &Value, plan: &Name) -> Vec<Changed> {
    let all = &resources(before, plan.as_str()) | &resources(after, plan.as_str());
    let mut out = Vec::new();
    for (kind, name) in all {
        let (old, new) = (document(before, kind, name), document(after, kind, name));
        let (old, new) = (old.map(fields).unwrap_or_default(), new.map(fields).unwrap_or_default());
        let paths: BTreeSet<_> = old.keys().chain(new.keys()).collect();
        let different = paths.into_iter().filter(|path| old.get(*path) != new.get(*path));
        out.extend(different.map(|path| Changed {
            resource: format!("{kind}/{name}"),
            field: path.clone(),
            before: old.get(path).map(|value| (*value).clone()),
            after: new.get(path).map(|value| (*value).clone()),
        }));
    }
    out
}

/// What a plan says, by resource and field.
fn patches(documents: &Value, plan: &str) -> BTreeMap<(&'static str, String), BTreeMap<String, Value>> {
    let mut out = BTreeMap::new();
    let Some(found) = document(documents, Kind::Plan.as_str(), plan) else { return out };
    for kind in PATCHED.map(Kind::as_str) {
        for (name, patch) in found.get(kind).and_then(Value::as_object).into_iter().flatten() {
            let said = fields(patch).into_iter().map(|(path, value)| (path, value.clone())).collect();
            out.insert((kind, name.clone()), said);
        }
    }
    out
}

/// The resources that a plan touches.
pub(super) fn touched(documents: &Value, plan: &str) -> Vec<String> {
    patches(documents, plan).into_keys().map(|(kind, name)| format!("{kind}/{name}")).collect()
}

/// What a plan that is on in `documents` says in vain.
pub(super) fn stays(documents: &Value, plan: &Name) -> Vec<Stays> {
    let mut out = Vec::new();
    for ((kind, name), said) in patches(documents, plan.as_str()) {
        let shown = documents.get(kind).and_then(|of_kind| of_kind.get(&name));
        let found = shown.and_then(|shown| shown.get("document"));
        for (path, wanted) in said {
            let in_force = found.and_then(|document| at(document, &path));
            let obeyed = match (&wanted, in_force) {
                _ if found.is_none() => false,
                (Value::Null, in_force) => in_force.is_none(),
                // A block without fields changes nothing in one that is there.
                (Value::Object(_), in_force) => in_force.is_some_and(Value::is_object),
                (wanted, in_force) => in_force == Some(wanted),
            };
            if !obeyed {
                out.push(Stays {
                    resource: format!("{kind}/{name}"),
                    because: because(shown, &path, plan),
                    field: path,
                    plan: wanted,
                    in_force: in_force.cloned(),
                });
            }
        }
    }
    out
}

fn at<'v>(document: &'v Value, path: &str) -> Option<&'v Value> {
    path.split('.').try_fold(document, |value, part| value.get(part))
}

/// Who says what is in force of a field in the place of a plan.
fn because(shown: Option<&Value>, path: &str, plan: &Name) -> String {
    let Some(places) = shown.and_then(|shown| shown.get("fields")).and_then(Value::as_object) else {
        return "there is no such resource".to_owned();
    };
    let near = |other: &str| overlaps(path, other);
    let own = |place: &Value| place.get("plan").and_then(Value::as_str) == Some(plan.as_str());
    let of_field = places.iter().find(|(other, place)| near(other) && !own(place));
    // What replaced the field by an alternative lies elsewhere in the document.
    let above =
        || places.iter().find(|(_, place)| place.get("layer").and_then(Value::as_str) == Some("instance"));
    match of_field.or_else(above) {
        Some((_, place)) => said_by(place),
        None => "a higher layer".to_owned(),
    }
}

/// Who wrote something, in words.
fn said_by(place: &Value) -> String {
    let text = |name: &str| place.get(name).and_then(Value::as_str);
    match (text("plan"), text("key"), text("file")) {
        (Some(plan), ..) => format!("the plan `{plan}`"),
        (None, Some(key), _) => key.to_owned(),
        (None, None, file) => file.unwrap_or("the file").to_owned(),
    }
}

/// Whether one of two paths is the other, or lies in it.
fn overlaps(a: &str, b: &str) -> bool {
    let within = |outer: &str, inner: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    within(a, b) || within(b, a)
}

/// What a plan touches that another plan that is on touches too.
pub(super) fn collisions(documents: &Value, plan: &str) -> Vec<Collision> {
    let own = patches(documents, plan);
    let plans = documents.get(Kind::Plan.as_str()).and_then(Value::as_object);
    let others = plans.into_iter().flatten().map(|(name, _)| name.as_str());
    let mut out = Vec::new();
    for other in others.filter(|other| *other != plan && is_on(documents, other)) {
        for (id, theirs) in patches(documents, other) {
            let Some(ours) = own.get(&id) else { continue };
            let both = ours.keys().filter(|path| theirs.keys().any(|other| overlaps(path, other)));
            let both: Vec<_> = both.cloned().collect();
            if !both.is_empty() {
                let (kind, name) = id;
                let wins = plan.max(other).to_owned();
                let (other, resource) = (other.to_owned(), format!("{kind}/{name}"));
                out.push(Collision { other, wins, resource, fields: both });
            }
        }
    }
    out
}

impl Collision {
    /// In words.
    pub(super) fn told(&self, plan: &str) -> String {
        let Self { other, wins, resource, fields } = self;
        let fields = fields.join(", ");
        format!(
            "the plan `{other}` is on and touches {resource} ({fields}) as `{plan}` does: `{wins}` holds there, the later \
             one by name"
        )
    }

    /// For machines.
    pub(super) fn to_json(&self) -> Value {
        json!({ "plan": self.other, "resource": self.resource, "fields": self.fields, "wins": self.wins })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Name {
        Name::new("m").unwrap()
    }

    /// Documents whose fields are all from `place`.
    fn documents(list: &[(&str, &str, Value)], place: &Value) -> Value {
        let mut all = json!({});
        for (kind, name, document) in list {
            let places: serde_json::Map<_, _> =
                fields(document).into_keys().map(|path| (path, place.clone())).collect();
            all[kind][name] = json!({ "document": document, "fields": places });
        }
        all
    }

    #[test]
    fn every_field_that_differs_and_no_other() {
        let place = json!({ "layer": "baseline" });
        let before = documents(
            &[
                ("limits", "a", json!({ "rate": "5/s", "key": ["client"] })),
                ("switches", "x", json!({ "state": "off", "reject": { "status": 503 } })),
                ("plans", "m", json!({ "state": "off" })),
            ],
            &place,
        );
        let after = documents(
            &[
                ("limits", "a", json!({ "rate": "9/s", "key": ["client"], "burst": 3 })),
                ("switches", "x", json!({ "state": "off", "abort": { "status": 500 } })),
                ("plans", "m", json!({ "state": "on" })),
            ],
            &place,
        );
        let told: Vec<_> = changes(&before, &after, &plan())
            .into_iter()
            .map(|it| (format!("{} {}", it.resource, it.field), it.before, it.after))
            .collect();
        assert_eq!(
            told,
            [
                ("limits/a burst".to_owned(), None, Some(json!(3))),
                ("limits/a rate".to_owned(), Some(json!("5/s")), Some(json!("9/s"))),
                ("switches/x abort.status".to_owned(), None, Some(json!(500))),
                ("switches/x reject.status".to_owned(), Some(json!(503)), None),
            ]
        );
        assert_eq!(changes(&before, &before, &plan()), []);
    }

    #[test]
    fn what_is_said_in_vain_is_told_with_who_says_otherwise() {
        let place = json!({ "layer": "instance", "key": "o@p/limits/a" });
        let patches = json!({
            "state": "on",
            "limits": { "a": { "rate": "9/s", "burst": null }, "gone": { "rate": "1/s" } },
        });
        let all = documents(
            &[("limits", "a", json!({ "rate": "5/s", "burst": 3 })), ("plans", "m", patches)],
            &place,
        );
        let told: Vec<_> = stays(&all, &plan())
            .into_iter()
            .map(|it| (format!("{} {}", it.resource, it.field), it.in_force, it.because))
            .collect();
        assert_eq!(
            told,
            [
                ("limits/a burst".to_owned(), Some(json!(3)), "o@p/limits/a".to_owned()),
                ("limits/a rate".to_owned(), Some(json!("5/s")), "o@p/limits/a".to_owned()),
                ("limits/gone rate".to_owned(), None, "there is no such resource".to_owned()),
            ]
        );
    }

    #[test]
    fn plans_collide_where_one_field_lies_in_the_other() {
        let plan_of = |state: &str, patch: Value| json!({ "state": state, "upstreams": { "u": patch } });
        let all = documents(
            &[
                ("plans", "m", plan_of("on", json!({ "breaker": { "mode": "open" }, "tls": null }))),
                ("plans", "a", plan_of("on", json!({ "breaker": null }))),
                ("plans", "z", plan_of("on", json!({ "breaker": { "mode": "closed", "window": "1s" } }))),
                ("plans", "off", plan_of("off", json!({ "breaker": null }))),
                ("plans", "other", plan_of("on", json!({ "pool": { "min_idle": 1 } }))),
            ],
            &json!({ "layer": "baseline" }),
        );
        let told: Vec<_> = collisions(&all, "m");
        let told: Vec<_> = told.iter().map(|it| (&*it.other, &*it.wins, it.fields.join(" "))).collect();
        assert_eq!(told, [("a", "m", "breaker.mode".to_owned()), ("z", "z", "breaker.mode".to_owned())]);
        assert!(!overlaps("breaker", "breaker2"));
    }

    #[test]
    fn states_in_words() {
        assert_eq!(state(Some(&json!(true)), "off"), "on");
        assert_eq!(state(Some(&json!(" 25% ")), "off"), "25%");
        assert_eq!(state(None, "off"), "off");
    }
}
