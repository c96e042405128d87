//! `weir policy set` and `unset`.

use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _},
};

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Conditions, Set, Signature, Unset,
    audit::Record,
    document::{self, Envelope},
    outlook::{self, Outlook},
    place::{Place, ScopeName},
    show,
    store::{Change, Contents},
};
use crate::{
    cli::{
        ExitStatus, Output, check,
        failure::{Failure, note},
        print, source,
    },
    config::Loaded,
    store::{Item, MAX_VALUE, key::Subject},
};

/// Sets an overlay.
pub(super) fn set(args: &Set) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let contents = contents(&mut place)?;
    let key = place.key(&args.subject);
    let text = value(args, contents.get(&key))?;
    let envelope = Envelope {
        by: args.signature.by.clone(),
        why: args.signature.why.clone(),
        until: args.duration.map(until).transpose()?,
    };
    let text = composed((&args.subject, &key), &text, &envelope, args.conditions.force)?;
    let edit = Edit { subject: args.subject.clone(), key, value: Some(text) };
    let manner = Manner {
        command: None,
        signature: &args.signature,
        conditions: &args.conditions,
        output: args.common.output,
    };
    let outlook = foreseen(&place, &contents, std::slice::from_ref(&edit));
    change(&mut place, &contents, &[edit], outlook.as_ref(), &manner)
}

/// Deletes an overlay.
pub(super) fn unset(args: &Unset) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let contents = contents(&mut place)?;
    let key = place.key(&args.subject);
    if contents.get(&key).is_none() && !contents.faults.iter().any(|(faulty, _)| *faulty == key) {
        return Err(Failure::No(format!(
            "{key} is not there{}",
            elsewhere(&place, &contents, &args.subject)
        )));
    }
    let edit = Edit { subject: args.subject.clone(), key, value: None };
    let manner = Manner {
        command: None,
        signature: &args.signature,
        conditions: &args.conditions,
        output: args.common.output,
    };
    let outlook = foreseen(&place, &contents, std::slice::from_ref(&edit));
    change(&mut place, &contents, &[edit], outlook.as_ref(), &manner)
}

/// Where else there is an overlay of something, as a hint; empty when there is none.
pub(in crate::cli) fn elsewhere(place: &Place, contents: &Contents, subject: &Subject) -> String {
    let keys = place.prefixes().into_iter().map(|prefix| format!("{prefix}{subject}"));
    let own = place.key(subject);
    match keys.into_iter().find(|key| *key != own && contents.get(key).is_some()) {
        Some(other) => {
            format!("; there is {other} (`--scope {}`)", other.split('/').next().unwrap_or_default())
        }
        None => String::new(),
    }
}

/// What is written for a document that somebody said: it is good by itself, or that is forced; who, why and until when
/// is in it.
pub(in crate::cli) fn composed(
    (subject, key): (&Subject, &str),
    text: &str,
    envelope: &Envelope,
    force: bool,
) -> Result<String, Failure> {
    let mut loaded = outlook::nothing();
    let (good, _) = outlook::alone(key, subject, text.as_bytes(), &mut loaded);
    tell(&loaded);
    if !good && !force {
        return Err(Failure::Bad(format!(
            "{key} is not written: instances would refuse it (`--force` writes it)"
        )));
    }
    let text = document::compose(subject, text, envelope, &who(&Signature { by: None, why: None }));
    if envelope.until.is_some() && document::until(&text) != envelope.until {
        return Err(Failure::Usage(format!(
            "{key}: a document that is no map, such as `null`, has no room for an end; take `--for` out"
        )));
    }
    if text.len() > MAX_VALUE {
        return Err(Failure::Bad(format!(
            "{key}: the value has {} bytes; at most {MAX_VALUE} are taken",
            text.len()
        )));
    }
    Ok(text)
}

/// The change of one key.
#[derive(Debug)]
pub(in crate::cli) struct Edit {
    /// What it stands for.
    pub(in crate::cli) subject: Subject,
    /// The key below `<root>/policy/`.
    pub(in crate::cli) key: String,
    /// Its new value; `None` deletes it.
    pub(in crate::cli) value: Option<String>,
}

impl Edit {
    fn action(&self) -> &'static str {
        if self.value.is_some() { "set" } else { "unset" }
    }
}

/// How changes are made.
#[derive(Debug)]
pub(in crate::cli) struct Manner<'a> {
    /// The command, where its name says more than `set` and `unset`.
    pub(in crate::cli) command: Option<&'static str>,
    /// Who and why.
    pub(in crate::cli) signature: &'a Signature,
    /// When.
    pub(in crate::cli) conditions: &'a Conditions,
    /// How the answer looks.
    pub(in crate::cli) output: Output,
}

/// What would be in force with the changes; `None` where no file says what lies below.
pub(in crate::cli) fn foreseen(place: &Place, contents: &Contents, edits: &[Edit]) -> Option<Outlook> {
    let baseline = place.baseline.as_ref()?;
    let changes: Vec<_> =
        edits.iter().map(|edit| (edit.key.as_str(), edit.value.as_ref().map(String::as_bytes))).collect();
    Some(Outlook::of((&place.identity, baseline), &contents.items, &changes, Timestamp::now()))
}

/// Makes or shows changes, all of them in one revision or none, after they were held against all layers.
pub(in crate::cli) fn change(
    place: &mut Place,
    contents: &Contents,
    edits: &[Edit],
    outlook: Option<&Outlook>,
    manner: &Manner<'_>,
) -> Result<ExitStatus, Failure> {
    for edit in edits {
        expected(manner, &edit.key, contents.get(&edit.key))?;
    }
    if let Some(outlook) = outlook {
        refusals(edits, manner, outlook)?;
    }
    if manner.conditions.dry_run {
        let shown = edits.iter().map(|edit| {
            let before = contents.get(&edit.key);
            show::change((&edit.subject, &edit.key), before, edit.value.as_deref(), outlook)
        });
        return Ok(print((shown.collect::<String>() + "nothing is written\n").as_bytes()));
    }
    let changes: Vec<_> = edits
        .iter()
        .map(|edit| {
            let (key, before, value) = (edit.key.as_str(), contents.get(&edit.key), edit.value.as_deref());
            let record =
                record(place, manner.signature, (edit.action(), manner.command), (key, before, value));
            (Change { key, value, before }, record)
        })
        .collect();
    let revision = place.runtime.block_on(place.store.commit(&changes))?;
    let revision = revision.ok_or_else(|| {
        Failure::No(format!(
            "{}: somebody else changed it meanwhile; nothing is written: look at it again",
            listed(edits)
        ))
    })?;
    report(place, contents, edits, (manner, outlook), revision)
}

/// The keys of changes.
fn listed(edits: &[Edit]) -> String {
    edits.iter().map(|edit| edit.key.as_str()).collect::<Vec<_>>().join(", ")
}

/// Holds what is there against `--expect-revision`.
fn expected(manner: &Manner<'_>, key: &str, before: Option<&Item>) -> Result<(), Failure> {
    let there = before.map_or(0, |item| item.revision);
    match manner.conditions.expect_revision {
        Some(expected) if expected != there => {
            let is = if there == 0 { "not there".to_owned() } else { format!("at revision {there}") };
            Err(Failure::No(format!("{key} is {is}, not at {expected}: nothing is written")))
        }
        _ => Ok(()),
    }
}

/// Shows what an instance would refuse, and ends unless that is forced.
fn refusals(edits: &[Edit], manner: &Manner<'_>, outlook: &Outlook) -> Result<(), Failure> {
    let mut loaded = outlook::nothing();
    for refused in outlook.refusals() {
        let own = edits.iter().find(|edit| edit.key == *refused.key);
        let text = own.and_then(|edit| edit.value.as_deref()).unwrap_or_default();
        let source = loaded.sources.add(&refused.key, text);
        loaded.faults.push(outlook::fault(refused, source));
    }
    tell(&loaded);
    if loaded.faults.is_empty() || manner.conditions.force {
        return Ok(());
    }
    let done = if edits.iter().any(|edit| edit.value.is_some()) { "written" } else { "deleted" };
    Err(Failure::Bad(format!(
        "{} is not {done}: instances would refuse it (`--force` does it)",
        listed(edits)
    )))
}

/// Says what was done, and what comes next.
fn report(
    place: &Place,
    contents: &Contents,
    edits: &[Edit],
    (manner, outlook): (&Manner<'_>, Option<&Outlook>),
    revision: i64,
) -> Result<ExitStatus, Failure> {
    let mut text = String::new();
    let mut masked_any = false;
    let mut notes = Vec::new();
    for edit in edits {
        let masked: Vec<_> = outlook.into_iter().flat_map(|outlook| outlook.masked(&edit.key)).collect();
        masked_any |= !masked.is_empty();
        match manner.output {
            Output::Json => {
                let masked = masked
                    .iter()
                    .map(|masked| json!({ "plan": masked.plan.as_str(), "fields": masked.fields }));
                let answer = json!({
                    "key": edit.key,
                    "action": edit.action(),
                    "revision": revision,
                    "before_revision": contents.get(&edit.key).map_or(0, |item| item.revision),
                    "value": edit.value,
                    "masked": masked.collect::<Vec<_>>(),
                });
                let _ = writeln!(text, "{answer:#}");
            }
            Output::Text => {
                let done = if edit.value.is_some() { "is set" } else { "is unset" };
                let _ = writeln!(text, "{} {done} at revision {revision}", edit.key);
            }
        }
        notes.extend(masked.iter().map(|masked| {
            let fields = masked.fields.join(", ");
            format!("{} is written, but the plan `{}` is on and overrides: {fields}", edit.key, masked.plan)
        }));
    }
    if manner.output == Output::Text {
        let _ = writeln!(text, "next: {}", next(place, revision));
    }
    let status = print(text.as_bytes());
    notes.iter().for_each(note);
    if masked_any { Err(Failure::Told(ExitStatus::No)) } else { Ok(status) }
}

/// The command that shows who has a revision.
pub(super) fn next(place: &Place, revision: i64) -> String {
    let service = place.service.as_ref().map_or_else(|| "SERVICE".to_owned(), ToString::to_string);
    let service =
        if place.option.starts_with("-c") { String::new() } else { format!(" --service {service}") };
    let instance = match &place.scope {
        ScopeName::Instance(_, instance) => format!(" --instance {instance}"),
        _ => String::new(),
    };
    let admin = match (place.store.is_directory(), &place.admin) {
        (true, Some(admin)) => format!(" --admin {admin}"),
        (true, None) => " --admin http://127.0.0.1:9901".to_owned(),
        (false, _) => String::new(),
    };
    format!("weir wait --revision {revision} {}{service}{instance}{admin}", place.option)
}

/// What is put down of a change.
pub(super) fn record(
    place: &Place,
    signature: &Signature,
    (action, command): (&'static str, Option<&'static str>),
    (key, before, after): (&str, Option<&Item>, Option<&str>),
) -> Record {
    let when = Timestamp::now();
    Record {
        scope: place.scope.audited_as().to_owned(),
        id: Record::id(when, fastrand::u64(..)),
        when,
        who: who(signature),
        why: signature.why.clone(),
        action,
        command,
        key: key.to_owned(),
        before: before.map(|item| (String::from_utf8_lossy(&item.value).into_owned(), item.revision)),
        after: after.map(str::to_owned),
    }
}

/// Who makes a change: as said, or the user at this host.
pub(in crate::cli) fn who(signature: &Signature) -> String {
    signature.by.clone().unwrap_or_else(|| {
        let named = |name: &str| std::env::var(name).ok().filter(|user| !user.is_empty());
        let user = named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
        format!("{user}@{}", source::host_facts().hostname)
    })
}

/// What the three scopes hold.
pub(in crate::cli) fn contents(place: &mut Place) -> Result<Contents, Failure> {
    let prefixes = place.prefixes();
    place.runtime.block_on(place.store.read(&prefixes))
}

/// What is to be written, before who and why are added.
fn value(args: &Set, before: Option<&Item>) -> Result<String, Failure> {
    if let Some(value) = &args.value {
        return Ok(value.clone());
    }
    if let Some(file) = &args.file {
        return read_text(file);
    }
    let present = before.and_then(|item| document::full(&args.subject, &item.value));
    if before.is_some() && present.is_none() && !args.conditions.force {
        return Err(Failure::Bad(
            "the present overlay cannot be read, so that no field of it can be set; write it whole"
                .to_owned(),
        ));
    }
    document::with_fields(present.filter(|present: &Value| !present.is_null()), &args.field)
        .map_err(Failure::Usage)
}

/// The text of a file.
pub(super) fn read_text(file: &std::path::Path) -> Result<String, Failure> {
    let name = source::name(file);
    let bytes = source::read(file).map_err(|error| Failure::Unavailable(format!("{name}: {error}")))?;
    String::from_utf8(bytes).map_err(|error| {
        Failure::Bad(format!("{name}: not UTF-8 from byte {} on", error.utf8_error().valid_up_to()))
    })
}

/// The end of something that begins now, to the second.
pub(in crate::cli) fn until(duration: std::time::Duration) -> Result<Timestamp, Failure> {
    let end = Timestamp::now().checked_add(duration).ok();
    let whole = end.and_then(|end| Timestamp::from_second(end.as_second()).ok());
    whole.ok_or_else(|| Failure::Usage("--for ends beyond all time".to_owned()))
}

/// Shows faults and warnings on standard error.
pub(in crate::cli) fn tell(loaded: &Loaded) {
    if !loaded.faults.is_empty() {
        let mut err = std::io::stderr();
        let text = loaded.render(check::wants_colour(&err) && err.is_terminal());
        let _ = err.write_all(text.as_bytes());
    }
}
