//! `weir plan diff`: what turning a plan on, or off, would change.

use std::fmt::Write;

use serde_json::{Map, Value, json};

use super::{Preview, fields, names, preview, write};
use crate::{
    cli::{
        ExitStatus, Output,
        failure::Failure,
        policy::{
            outlook::{self, Outlook},
            place::Place,
            store::Contents,
            write::{self as policy, Edit},
        },
        print,
        table::{printable, table},
    },
    config::{Kind, Name},
    store::{key::Subject, layers::Refused},
};

/// Shows what would change. Writes nothing.
pub(super) fn run(args: &Preview) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    if place.baseline.is_none() {
        return Err(Failure::Usage(
            "what a plan changes is seen over the service's file: name it with `-c FILE` (or WEIR_CONFIG)"
                .to_owned(),
        ));
    }
    let contents = policy::contents(&mut place)?;
    names::check(&place, &contents, Kind::Plan, std::slice::from_ref(&args.name))?;
    let found = Found::of(&place, &contents, &args.name)?;
    let text = match args.common.output {
        Output::Json => format!("{:#}\n", found.to_json()),
        Output::Text => found.text(),
    };
    let status = print(text.as_bytes());
    if found.refused.is_empty() {
        return Ok(status);
    }
    let mut loaded = outlook::nothing();
    for refused in &found.refused {
        let source = loaded.sources.add(&refused.key, "");
        loaded.faults.push(outlook::fault(refused, source));
    }
    policy::tell(&loaded);
    Err(Failure::Bad(format!("the plan `{}` cannot be turned {}: see above", args.name, found.word())))
}

/// What would be.
struct Found {
    plan: Name,
    /// Where the state would be written.
    key: String,
    /// Whether it would be turned on.
    on: bool,
    changes: Vec<preview::Changed>,
    stays: Vec<preview::Stays>,
    collisions: Vec<preview::Collision>,
    refused: Vec<Refused>,
    /// A higher layer has the last word on the plan's state.
    overruled: bool,
}

impl Found {
    fn of(place: &Place, contents: &Contents, plan: &Name) -> Result<Self, Failure> {
        let none = || Failure::Usage("no file says what lies below".to_owned());
        let old = policy::foreseen(place, contents, &[]).ok_or_else(none)?.new.to_json();
        let on = !preview::is_on(&old, plan.as_str());
        let word = if on { "on" } else { "off" };
        let subject = Subject::Overlay(Kind::Plan, plan.clone());
        let key = place.key(&subject);
        let present = write::present(contents, (&subject, &key), true)?;
        let present = present.filter(|present| !present.is_over(jiff::Timestamp::now()));
        let settings = [("state", Value::String(word.to_owned()))];
        let value = Value::Object(fields::with(present.and_then(|present| present.document), &settings));
        let edit = Edit { subject, key: key.clone(), value: Some(value.to_string()) };
        let outlook: Outlook = policy::foreseen(place, contents, &[edit]).ok_or_else(none)?;
        let new = outlook.new.to_json();
        let with_plan = if on { &new } else { &old };
        let refused: Vec<_> = outlook.refusals().cloned().collect();
        let overruled = refused.is_empty() && preview::is_on(&new, plan.as_str()) != on;
        let in_vain = !overruled && refused.is_empty();
        Ok(Self {
            plan: plan.clone(),
            key,
            on,
            changes: preview::changes(&old, &new, plan),
            stays: if in_vain { preview::stays(with_plan, plan) } else { Vec::new() },
            collisions: if on { preview::collisions(&new, plan.as_str()) } else { Vec::new() },
            refused,
            overruled,
        })
    }

    fn word(&self) -> &'static str {
        if self.on { "on" } else { "off" }
    }

    fn to_json(&self) -> Value {
        let mut changes = Map::new();
        for change in &self.changes {
            let fields = changes.entry(change.resource.clone()).or_insert_with(|| json!({}));
            if let Some(fields) = fields.as_object_mut() {
                let values = json!({ "before": change.before, "after": change.after });
                fields.insert(change.field.clone(), values);
            }
        }
        let stays = self.stays.iter().map(|stays| {
            json!({
                "resource": stays.resource,
                "field": stays.field,
                "plan": stays.plan,
                "in_force": stays.in_force,
                "because": stays.because,
            })
        });
        let refused = self.refused.iter().map(|refused| {
            json!({ "key": &*refused.key, "revision": refused.revision, "reason": &*refused.reason })
        });
        json!({
            "plan": self.plan.as_str(),
            "key": self.key,
            "to": self.word(),
            "overruled": self.overruled,
            "changes": changes,
            "stays": stays.collect::<Vec<_>>(),
            "collisions": self.collisions.iter().map(preview::Collision::to_json).collect::<Vec<_>>(),
            "refused": refused.collect::<Vec<_>>(),
        })
    }

    fn text(&self) -> String {
        let (plan, word) = (&self.plan, self.word());
        let mut out = String::new();
        if self.overruled {
            let _ = writeln!(out, "a layer above {} says otherwise of `{plan}`", self.key);
        }
        let shown = |value: Option<&Value>| match value {
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
            None => String::new(),
        };
        if self.changes.is_empty() {
            let _ = writeln!(out, "turning `{plan}` {word} changes nothing");
        } else {
            let _ = writeln!(out, "turning `{plan}` {word} changes");
            let row = |it: &preview::Changed| {
                let (before, after) = (shown(it.before.as_ref()), shown(it.after.as_ref()));
                vec![it.resource.clone(), it.field.clone(), before, after]
            };
            let rows: Vec<_> = self.changes.iter().map(row).collect();
            out.push_str(&table(&["RESOURCE", "FIELD", "BEFORE", "AFTER"], &rows));
        }
        if !self.stays.is_empty() {
            let _ = writeln!(out, "\nthe plan says this too, but it is not in force while the plan is on");
            let row = |it: &preview::Stays| {
                let (plan, in_force) = (shown(Some(&it.plan)), shown(it.in_force.as_ref()));
                vec![it.resource.clone(), it.field.clone(), plan, in_force, it.because.clone()]
            };
            let rows: Vec<_> = self.stays.iter().map(row).collect();
            out.push_str(&table(&["RESOURCE", "FIELD", "PLAN", "IN FORCE", "BECAUSE OF"], &rows));
        }
        for collision in &self.collisions {
            let _ = writeln!(out, "\nwarning: {}", printable(&collision.told(plan.as_str())));
        }
        out
    }
}
