//! What is particular to breakers: they are a block of an upstream or a route, and have a mode that means "by itself".

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Hold,
    fields::Present,
    names,
    write::{self as levers, Order},
};
use crate::{
    cli::{
        ExitStatus,
        failure::{Failure, note},
        policy::{
            outlook::Outlook,
            place::Place,
            store::Contents,
            write::{self, Edit, Manner},
        },
        print,
    },
    config::{Kind, Layer, Name, node},
    store::key::Subject,
};

/// The field that says it.
const MODE: &str = "breaker.mode";

/// Holds breakers in a mode.
pub(super) fn hold(command: &'static str, mode: &str, hold: &Hold) -> Result<ExitStatus, Failure> {
    let (kind, names) = target(hold)?;
    if let Some(route) = &hold.route {
        leads(hold, route)?;
    }
    let settings = vec![(MODE, Value::String(mode.to_owned()))];
    levers::set(&Order { command, kind, names, settings, change: &hold.change })
}

/// Lets breakers open and close by themselves.
pub(super) fn auto(hold: &Hold) -> Result<ExitStatus, Failure> {
    let (kind, names) = target(hold)?;
    let change = &hold.change;
    let mut place = Place::find(&change.common.store, change.common.scope.as_ref())?;
    let contents = write::contents(&mut place)?;
    levers::one_each(names, &change.conditions)?;
    names::check_unless(change.conditions.force, &place, &contents, kind, names)?;
    let settings = vec![(MODE, Value::String("auto".to_owned()))];
    let order = Order { command: "breaker auto", kind, names, settings, change };
    let mut edits = Vec::new();
    for name in names {
        edits.extend(released(&place, &contents, &order, name)?);
    }
    if edits.is_empty() {
        return Ok(print(b"nothing is written\n"));
    }
    let manner = Manner {
        command: Some(order.command),
        signature: &change.signature,
        conditions: &change.conditions,
        output: change.common.output,
    };
    let outlook = write::foreseen(&place, &contents, &edits);
    write::change(&mut place, &contents, &edits, outlook.as_ref(), &manner)
}

/// What has the breaker.
fn target(hold: &Hold) -> Result<(Kind, &[Name]), Failure> {
    match &hold.route {
        None => Ok((Kind::Upstream, &hold.name)),
        Some(route) if hold.name.len() == 1 => Ok((Kind::Route, std::slice::from_ref(route))),
        Some(_) => Err(Failure::Usage("--route is for one upstream alone".to_owned())),
    }
}

/// Fails where it is known that a route does not lead to the upstream.
fn leads(hold: &Hold, route: &Name) -> Result<(), Failure> {
    let change = &hold.change;
    let mut place = Place::find(&change.common.store, change.common.scope.as_ref())?;
    let contents = write::contents(&mut place)?;
    let Some(outlook) = write::foreseen(&place, &contents, &[]) else { return Ok(()) };
    let Some(document) = outlook.new.get(Kind::Route, route) else { return Ok(()) };
    let single = document.get("upstream").and_then(|entry| entry.node.text());
    let parts = match document.get("split").map(|entry| &entry.node.value) {
        Some(node::Value::Seq(parts)) => parts.as_slice(),
        _ => &[],
    };
    let parts = parts.iter().filter_map(|part| part.get("upstream")?.node.text());
    let all: Vec<_> = single.into_iter().chain(parts).collect();
    if change.conditions.force || hold.name.iter().all(|name| all.iter().any(|to| *to == name.as_str())) {
        return Ok(());
    }
    let named = hold.name.iter().map(Name::as_str).collect::<Vec<_>>().join(", ");
    let to = all.join(", ");
    Err(Failure::No(format!(
        "the route `{route}` does not lead to `{named}`, but to {to}: nothing is written"
    )))
}

/// The change after which a breaker works by itself, if one is needed; says which it is.
fn released(
    place: &Place,
    contents: &Contents,
    order: &Order<'_>,
    name: &Name,
) -> Result<Option<Edit>, Failure> {
    let subject = Subject::Overlay(order.kind, name.clone());
    let key = place.key(&subject);
    if let Some(below) = below(place, contents, order.kind, name) {
        note(&format!("{key} gets `mode: auto`, because {below} below it"));
        return levers::setting(place, contents, order, name).map(Some);
    }
    let conditions = &order.change.conditions;
    let present = levers::present(contents, (&subject, &key), false)?;
    if present.as_ref().and_then(|present| present.get(MODE)).is_none() {
        let hint = write::elsewhere(place, contents, &subject);
        note(&format!("{key} says no mode, and no layer below it says another than auto{hint}"));
        return Ok(None);
    }
    if order.change.duration.is_some() {
        return Err(Failure::Usage(format!(
            "{key}: the mode is taken away, so that nothing is left that could end; take `--for` out"
        )));
    }
    note(&format!("{key} loses its mode: no layer below it says another than auto"));
    let signature = (&order.change.signature, conditions.force);
    levers::taking(place, contents, subject, &[MODE], signature).map(Some)
}

/// What the layers below the scope say other than auto, in words.
fn below(place: &Place, contents: &Contents, kind: Kind, name: &Name) -> Option<String> {
    let own = format!("{}/", place.scope);
    let lower: Vec<_> = place.prefixes().into_iter().take_while(|prefix| *prefix != own).collect();
    let items: Vec<_> = contents
        .items
        .iter()
        .filter(|item| lower.iter().any(|prefix| item.key.starts_with(prefix.as_str())))
        .cloned()
        .collect();
    let now = Timestamp::now();
    let Some(baseline) = &place.baseline else {
        let subject = Subject::Overlay(kind, name.clone());
        return lower.iter().rev().find_map(|prefix| {
            let key = format!("{prefix}{subject}");
            let item = items.iter().find(|item| *item.key == *key)?;
            let present = Present::read(&subject, &item.value).filter(|present| !present.is_over(now))?;
            let mode = present.get(MODE)?.as_str()?.to_owned();
            (mode != "auto").then(|| format!("{key} says `{mode}`"))
        });
    };
    let outlook = Outlook::of((&place.identity, baseline), &items, &[], now);
    let mode = outlook.new.get(kind, name)?.get("breaker")?.node.get("mode")?;
    let text = mode.node.text()?;
    let place = outlook.new.live_place(mode.node.origin);
    let layer = place.map_or(Layer::Baseline, |place| place.layer);
    // What a plan says lies above a service's overlay, and hides what is below: then it is said for certain.
    (text != "auto" || layer == Layer::Plans).then(|| format!("the {} says `{text}`", layer.as_str()))
}
