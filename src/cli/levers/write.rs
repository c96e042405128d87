//! Setting the fields of a lever, and taking them back.

use jiff::Timestamp;
use serde_json::Value;

use super::{
    Change, Take,
    fields::{self, Present, Setting},
    names, preview,
};
use crate::{
    cli::{
        ExitStatus,
        failure::{Failure, note},
        policy::{
            Conditions, Signature,
            document::Envelope,
            outlook::Outlook,
            place::Place,
            store::Contents,
            write::{self, Edit, Manner},
        },
    },
    config::{Kind, Layer, Name},
    store::key::Subject,
};

/// What is said where levers are moved or listed that have no effect.
pub(super) const BYPASSED: &str =
    "bypass is on: switches, limits and breakers do nothing until it is off (`weir policy get bypass`)";

/// What is to be set, and how.
pub(super) struct Order<'a> {
    /// The command, for the audit entry.
    pub(super) command: &'static str,
    /// The kind of what is changed.
    pub(super) kind: Kind,
    /// Which of that kind.
    pub(super) names: &'a [Name],
    /// What is set of each.
    pub(super) settings: Vec<Setting>,
    /// How.
    pub(super) change: &'a Change,
}

/// Sets fields of overlays; the rest of each overlay stays.
pub(super) fn set(order: &Order<'_>) -> Result<ExitStatus, Failure> {
    let change = order.change;
    let mut place = Place::find(&change.common.store, change.common.scope.as_ref())?;
    let contents = write::contents(&mut place)?;
    one_each(order.names, &change.conditions)?;
    names::check_unless(change.conditions.force, &place, &contents, order.kind, order.names)?;
    let edits: Result<Vec<_>, _> =
        order.names.iter().map(|name| setting(&place, &contents, order, name)).collect();
    let edits = edits?;
    let outlook = write::foreseen(&place, &contents, &edits);
    if let Some(outlook) = &outlook {
        tell_above(&place, outlook, order, &edits);
        if order.kind == Kind::Plan {
            tell_collisions(outlook, order.names);
        } else if outlook.after.policy.bypass {
            note(BYPASSED);
        }
    }
    let manner = Manner {
        command: Some(order.command),
        signature: &change.signature,
        conditions: &change.conditions,
        output: change.common.output,
    };
    write::change(&mut place, &contents, &edits, outlook.as_ref(), &manner)
}

/// Takes the fields of a lever out of overlays; where nothing else is left the key goes.
pub(super) fn unset(command: &'static str, kind: Kind, take: &Take) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&take.common.store, take.common.scope.as_ref())?;
    let contents = write::contents(&mut place)?;
    one_each(&take.name, &take.conditions)?;
    names::check(&place, &contents, kind, &take.name)?;
    let force = take.conditions.force;
    let taking = |name: &Name| {
        let subject = Subject::Overlay(kind, name.clone());
        taking(&place, &contents, subject, fields::of(kind), (&take.signature, force))
    };
    let edits = take.name.iter().map(taking).collect::<Result<Vec<_>, _>>()?;
    let manner = Manner {
        command: Some(command),
        signature: &take.signature,
        conditions: &take.conditions,
        output: take.common.output,
    };
    let outlook = write::foreseen(&place, &contents, &edits);
    write::change(&mut place, &contents, &edits, outlook.as_ref(), &manner)
}

/// Each name once, and one alone where a revision is expected.
pub(super) fn one_each(names: &[Name], conditions: &Conditions) -> Result<(), Failure> {
    if let Some(twice) =
        names.iter().enumerate().find(|(n, name)| names.iter().take(*n).any(|it| it == *name))
    {
        return Err(Failure::Usage(format!("`{}` is named twice", twice.1)));
    }
    if conditions.expect_revision.is_some() && names.len() > 1 {
        return Err(Failure::Usage("--expect-revision is for one name alone".to_owned()));
    }
    Ok(())
}

/// What is there before; `None` where nothing is, or what is there is written over by force.
pub(super) fn present(
    contents: &Contents,
    (subject, key): (&Subject, &str),
    force: bool,
) -> Result<Option<Present>, Failure> {
    match contents.get(key).map(|item| Present::read(subject, &item.value)) {
        Some(None) if !force => Err(Failure::Bad(format!(
            "{key}: the present overlay cannot be read, so that no field of it can be changed: `weir policy set` writes it \
             whole, `weir policy unset` deletes it"
        ))),
        other => Ok(other.flatten()),
    }
}

/// The overlay with the fields set.
pub(super) fn setting(
    place: &Place,
    contents: &Contents,
    order: &Order<'_>,
    name: &Name,
) -> Result<Edit, Failure> {
    let (change, subject) = (order.change, Subject::Overlay(order.kind, name.clone()));
    let key = place.key(&subject);
    let force = change.conditions.force;
    let present = present(contents, (&subject, &key), force)?;
    let carried = carried(&key, present, order, Timestamp::now())?;
    let text = Value::Object(fields::with(carried.document, &order.settings)).to_string();
    let until = change.duration.map(write::until).transpose()?.or(carried.until);
    let envelope = Envelope { by: change.signature.by.clone(), why: change.signature.why.clone(), until };
    let value = Some(write::composed((&subject, &key), &text, &envelope, force)?);
    Ok(Edit { subject, key, value })
}

/// What of the present overlay goes on, and the end that it has.
fn carried(
    key: &str,
    present: Option<Present>,
    order: &Order<'_>,
    now: Timestamp,
) -> Result<Present, Failure> {
    let Some(present) = present else { return Ok(Present::default()) };
    let others = present.others(order.settings.iter().map(|(path, _)| *path));
    let named = others.join(", ");
    if present.is_over(now) {
        if !others.is_empty() {
            note(&format!("{key} was over: what else it said does not come back: {named}"));
        }
        return Ok(Present::default());
    }
    if present.document.is_none() {
        note(&format!("{key} removed the {}: now it is there again", names::word(order.kind)));
        return Ok(Present::default());
    }
    match (order.change.duration.is_some(), others.is_empty()) {
        (true, false) => Err(Failure::No(format!(
            "{key} says more: {named}. An end is the whole overlay's, so that with `--for` those would go too: nothing is \
             written. Leave `--for` out; or, if they may go, write all of it with `weir policy set {} … --for …`",
            key.split_once('/').map_or(key, |(_, rest)| rest)
        ))),
        (true, true) => {
            let was = order.settings.iter().find_map(|(path, _)| present.get(path));
            if let (Some(was), None) = (was, present.until) {
                let was = was.as_str().map_or_else(|| was.to_string(), str::to_owned);
                note(&format!("{key} said `{was}` without an end: that does not come back when this ends"));
            }
            Ok(Present::default())
        }
        (false, false) => {
            if let Some(until) = present.until {
                note(&format!("{key} ends at {until}, with what else it says ({named}), and this with it"));
            }
            Ok(present)
        }
        (false, true) => Ok(Present::default()),
    }
}

/// The overlay without the fields.
pub(super) fn taking(
    place: &Place,
    contents: &Contents,
    subject: Subject,
    paths: &[&str],
    (signature, force): (&Signature, bool),
) -> Result<Edit, Failure> {
    let key = place.key(&subject);
    let Some(Present { document, until }) = present(contents, (&subject, &key), false)? else {
        let hint = write::elsewhere(place, contents, &subject);
        return Err(Failure::No(format!("{key} is not there: there is nothing to take back{hint}")));
    };
    let Some(mut rest) = document else {
        return Err(Failure::No(format!("{key} removes it: `weir policy unset {subject}` takes that back")));
    };
    let taken = paths.iter().filter(|path| fields::take(&mut rest, path).is_some()).count();
    if taken == 0 {
        let what = paths.join(", ");
        return Err(Failure::No(format!(
            "{key} says nothing of {what}; `weir policy unset {subject}` deletes all of it"
        )));
    }
    if rest.is_empty() {
        return Ok(Edit { subject, key, value: None });
    }
    let text = Value::Object(rest).to_string();
    let envelope = Envelope { by: signature.by.clone(), why: signature.why.clone(), until };
    let value = Some(write::composed((&subject, &key), &text, &envelope, force)?);
    Ok(Edit { subject, key, value })
}

/// Says where a layer above says something else, so that it stays there.
fn tell_above(place: &Place, outlook: &Outlook, order: &Order<'_>, edits: &[Edit]) {
    for (edit, name) in edits.iter().zip(order.names) {
        let Some(shown) = outlook.new.one_to_json(order.kind, name) else { continue };
        for (path, _) in &order.settings {
            let Some(field) = shown.get("fields").and_then(|fields| fields.get(*path)) else { continue };
            let text = |name: &str| field.get(name).and_then(Value::as_str);
            let above = [Layer::Service.as_str(), Layer::Instance.as_str()];
            let Some(key) = text("key").filter(|key| *key != edit.key) else { continue };
            if text("plan").is_some() || !text("layer").is_some_and(|layer| above.contains(&layer)) {
                continue;
            }
            let scope = key.split('/').next().unwrap_or_default();
            if scope != place.scope.to_string() {
                note(&format!(
                    "{key} lies above {} and says another `{path}`: there that stays (`--scope {scope}`)",
                    edit.key
                ));
            }
        }
    }
}

/// Warns of what two plans that are on both touch.
fn tell_collisions(outlook: &Outlook, names: &[Name]) {
    let documents = outlook.new.to_json();
    for name in names.iter().filter(|name| preview::is_on(&documents, name.as_str())) {
        for collision in preview::collisions(&documents, name.as_str()) {
            note(&format!("warning: {}", collision.told(name.as_str())));
        }
    }
}
