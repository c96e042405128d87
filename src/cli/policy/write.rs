//! `weir policy set` and `unset`.

use std::io::{IsTerminal, Write};

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
    let before = contents.get(&key);
    let text = value(args, before)?;
    let mut loaded = outlook::nothing();
    let (good, _) = outlook::alone(&key, &args.subject, text.as_bytes(), &mut loaded);
    tell(&loaded);
    if !good && !args.conditions.force {
        return Err(Failure::Bad(format!(
            "{key} is not written: instances would refuse it (`--force` writes it)"
        )));
    }
    let envelope = Envelope {
        by: args.signature.by.clone(),
        why: args.signature.why.clone(),
        until: args.duration.map(until).transpose()?,
    };
    let text = document::compose(&args.subject, &text, &envelope, &who(&Signature { by: None, why: None }));
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
    let work = Work {
        subject: &args.subject,
        key: &key,
        value: Some(&text),
        action: "set",
        signature: &args.signature,
        conditions: &args.conditions,
        output: args.common.output,
    };
    change(&mut place, &contents, &work)
}

/// Deletes an overlay.
pub(super) fn unset(args: &Unset) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let contents = contents(&mut place)?;
    let key = place.key(&args.subject);
    if contents.get(&key).is_none() && !contents.faults.iter().any(|(faulty, _)| *faulty == key) {
        let elsewhere = place.prefixes().into_iter().map(|prefix| format!("{prefix}{}", args.subject));
        let elsewhere: Vec<_> = elsewhere.filter(|key| contents.get(key).is_some()).collect();
        let hint = match elsewhere.first() {
            Some(other) => {
                format!("; there is {other} (`--scope {}`)", other.split('/').next().unwrap_or_default())
            }
            None => String::new(),
        };
        return Err(Failure::No(format!("{key} is not there{hint}")));
    }
    let work = Work {
        subject: &args.subject,
        key: &key,
        value: None,
        action: "unset",
        signature: &args.signature,
        conditions: &args.conditions,
        output: args.common.output,
    };
    change(&mut place, &contents, &work)
}

/// One change, and how it is to be made.
struct Work<'a> {
    subject: &'a Subject,
    key: &'a str,
    value: Option<&'a str>,
    action: &'static str,
    signature: &'a Signature,
    conditions: &'a Conditions,
    output: Output,
}

/// Checks a change against all layers, and makes or shows it.
fn change(place: &mut Place, contents: &Contents, work: &Work<'_>) -> Result<ExitStatus, Failure> {
    let before = contents.get(work.key);
    expected(work, before)?;
    let outlook = place.baseline.as_ref().map(|baseline| {
        let change = (work.key, work.value.map(str::as_bytes));
        Outlook::of((&place.identity, baseline), &contents.items, change, Timestamp::now())
    });
    if let Some(outlook) = &outlook {
        refusals(work, outlook)?;
    }
    if work.conditions.dry_run {
        return Ok(print(show::change(work.subject, before, work.value, outlook.as_ref()).as_bytes()));
    }
    let record = record(place, work.signature, work.action, work.key, before, work.value);
    let change = Change { key: work.key, value: work.value, before };
    let revision = place.runtime.block_on(place.store.commit(&change, &record))?;
    let revision = revision.ok_or_else(|| {
        Failure::No(format!(
            "{}: somebody else changed it meanwhile; nothing is written: look at it again",
            work.key
        ))
    })?;
    report(place, work, before, revision, outlook.as_ref())
}

/// Holds what is there against `--expect-revision`.
fn expected(work: &Work<'_>, before: Option<&Item>) -> Result<(), Failure> {
    let there = before.map_or(0, |item| item.revision);
    match work.conditions.expect_revision {
        Some(expected) if expected != there => {
            let is = if there == 0 { "not there".to_owned() } else { format!("at revision {there}") };
            Err(Failure::No(format!("{} is {is}, not at {expected}: nothing is written", work.key)))
        }
        _ => Ok(()),
    }
}

/// Shows what an instance would refuse, and ends unless that is forced.
fn refusals(work: &Work<'_>, outlook: &Outlook) -> Result<(), Failure> {
    let mut loaded = outlook::nothing();
    for refused in outlook.refusals() {
        let text = if &*refused.key == work.key { work.value.unwrap_or_default() } else { "" };
        let source = loaded.sources.add(&refused.key, text);
        loaded.faults.push(outlook::fault(refused, source));
    }
    tell(&loaded);
    if loaded.faults.is_empty() || work.conditions.force {
        return Ok(());
    }
    let (key, done) = (work.key, if work.value.is_some() { "written" } else { "deleted" });
    Err(Failure::Bad(format!("{key} is not {done}: instances would refuse it (`--force` does it)")))
}

/// Says what was done, and what comes next.
fn report(
    place: &Place,
    work: &Work<'_>,
    before: Option<&Item>,
    revision: i64,
    outlook: Option<&Outlook>,
) -> Result<ExitStatus, Failure> {
    let masked: Vec<_> = outlook.into_iter().flat_map(Outlook::masked).collect();
    let next = next(place, revision);
    let text = match work.output {
        Output::Json => {
            let masked =
                masked.iter().map(|masked| json!({ "plan": masked.plan.as_str(), "fields": masked.fields }));
            let answer = json!({
                "key": work.key,
                "action": work.action,
                "revision": revision,
                "before_revision": before.map_or(0, |item| item.revision),
                "value": work.value,
                "masked": masked.collect::<Vec<_>>(),
            });
            format!("{answer:#}\n")
        }
        Output::Text => {
            let done = if work.value.is_some() { "is set" } else { "is unset" };
            format!("{} {done} at revision {revision}\nnext: {next}\n", work.key)
        }
    };
    let status = print(text.as_bytes());
    for masked in &masked {
        note(&format!(
            "{} is written, but the plan `{}` is on and overrides: {}",
            work.key,
            masked.plan,
            masked.fields.join(", ")
        ));
    }
    if masked.is_empty() { Ok(status) } else { Err(Failure::Told(ExitStatus::No)) }
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
    action: &'static str,
    key: &str,
    before: Option<&Item>,
    after: Option<&str>,
) -> Record {
    let when = Timestamp::now();
    Record {
        scope: place.scope.audited_as().to_owned(),
        id: Record::id(when, fastrand::u64(..)),
        when,
        who: who(signature),
        why: signature.why.clone(),
        action,
        key: key.to_owned(),
        before: before.map(|item| (String::from_utf8_lossy(&item.value).into_owned(), item.revision)),
        after: after.map(str::to_owned),
    }
}

/// Who makes a change: as said, or the user at this host.
pub(super) fn who(signature: &Signature) -> String {
    signature.by.clone().unwrap_or_else(|| {
        let named = |name: &str| std::env::var(name).ok().filter(|user| !user.is_empty());
        let user = named("USER").or_else(|| named("LOGNAME")).unwrap_or_else(|| "unknown".to_owned());
        format!("{user}@{}", source::host_facts().hostname)
    })
}

/// What the three scopes hold.
pub(super) fn contents(place: &mut Place) -> Result<Contents, Failure> {
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
fn until(duration: std::time::Duration) -> Result<Timestamp, Failure> {
    let end = Timestamp::now().checked_add(duration).ok();
    let whole = end.and_then(|end| Timestamp::from_second(end.as_second()).ok());
    whole.ok_or_else(|| Failure::Usage("--for ends beyond all time".to_owned()))
}

/// Shows faults and warnings on standard error.
fn tell(loaded: &Loaded) {
    if !loaded.faults.is_empty() {
        let mut err = std::io::stderr();
        let text = loaded.render(check::wants_colour(&err) && err.is_terminal());
        let _ = err.write_all(text.as_bytes());
    }
}
