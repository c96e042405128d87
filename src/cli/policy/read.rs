//! `weir policy ls`, `get` and `diff`.

use std::fmt::Write;

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{
    Diff, Get, Ls,
    document::{self, Envelope},
    outlook::Outlook,
    place::Place,
    show,
    store::Contents,
    write::{contents, read_text},
};
use crate::{
    cli::{
        ExitStatus, Output,
        failure::{Failure, note},
        print,
        table::{shortened, table},
    },
    store::Item,
};

/// Lists overlays.
pub(super) fn ls(args: &Ls) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let prefixes = match (&args.common.scope, &place.service) {
        (Some(scope), _) => vec![format!("{scope}/")],
        (None, Some(service)) => vec!["_all/".to_owned(), format!("{service}/"), format!("{service}@")],
        (None, None) => vec!["_all/".to_owned()],
    };
    let contents = place.runtime.block_on(place.store.read(&prefixes))?;
    let wanted = |item: &&Item| {
        let rest = item.key.split_once('/').map_or("", |(_, rest)| rest);
        args.prefix.as_ref().is_none_or(|prefix| rest.starts_with(prefix.as_str()))
    };
    let items: Vec<_> = contents.items.iter().filter(wanted).collect();
    faults(&contents);
    let text = match args.common.output {
        Output::Json => format!("{:#}\n", items.iter().map(|item| show::item(item)).collect::<Value>()),
        Output::Text if items.is_empty() => "no overlays\n".to_owned(),
        Output::Text => {
            let now = Timestamp::now();
            let rows: Vec<_> = items.iter().map(|item| row(item, now)).collect();
            table(&["KEY", "VALUE", "REVISION", "BY", "UNTIL", "WHY"], &rows)
        }
    };
    Ok(print(text.as_bytes()))
}

fn row(item: &Item, now: Timestamp) -> Vec<String> {
    let (value, envelope) = show::opened(item);
    let over = |until| if until <= now { " (over)" } else { "" };
    let until = envelope.until.map(|until| format!("{until}{}", over(until)));
    vec![
        item.key.to_string(),
        show::short(&value),
        item.revision.to_string(),
        envelope.by.unwrap_or_default(),
        until.unwrap_or_default(),
        shortened(&envelope.why.unwrap_or_default(), 40),
    ]
}

/// Names what cannot be read.
pub(in crate::cli) fn faults(contents: &Contents) {
    for (key, why) in &contents.faults {
        note(&format!("{key}: {why}"));
    }
}

/// Shows one resource.
pub(super) fn get(args: &Get) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let contents = contents(&mut place)?;
    faults(&contents);
    let prefixes = match &args.common.scope {
        Some(scope) => vec![format!("{scope}/")],
        None => place.prefixes().to_vec(),
    };
    let keys = prefixes.iter().map(|prefix| format!("{prefix}{}", args.subject));
    let overlays: Vec<_> = keys.filter_map(|key| contents.get(&key)).collect();
    let outlook = place
        .baseline
        .as_ref()
        .map(|baseline| Outlook::of((&place.identity, baseline), &contents.items, &[], Timestamp::now()));
    let found = outlook.as_ref().and_then(|outlook| show::provenance(&args.subject, &outlook.new));
    if overlays.is_empty() && found.is_none() {
        let scopes =
            prefixes.iter().map(|prefix| prefix.trim_end_matches('/')).collect::<Vec<_>>().join(", ");
        let file = if outlook.is_some() { ", nor in the file" } else { "" };
        return Err(Failure::No(format!("there is no {} in {scopes}{file}", args.subject)));
    }
    let refused: Vec<_> = outlook
        .iter()
        .flat_map(Outlook::all_refusals)
        .filter(|refused| overlays.iter().any(|item| item.key == refused.key))
        .collect();
    let text = match args.common.output {
        Output::Json => {
            let refused = refused.iter().map(|refused| {
                json!({ "key": &*refused.key, "revision": refused.revision, "reason": &*refused.reason })
            });
            let answer = json!({
                "overlays": overlays.iter().map(|item| show::item(item)).collect::<Vec<_>>(),
                "effective": found,
                "refused": refused.collect::<Vec<_>>(),
            });
            format!("{answer:#}\n")
        }
        Output::Text => {
            let mut text: String = overlays.iter().map(|item| overlay(item)).collect();
            for refused in &refused {
                let _ = write!(text, "refused: {}: {}\n\n", refused.key, refused.reason);
            }
            text.push_str(&found.as_ref().map(in_force).unwrap_or_default());
            text
        }
    };
    Ok(print(text.as_bytes()))
}

fn overlay(item: &Item) -> String {
    let text = String::from_utf8_lossy(&item.value);
    format!("{} at revision {}\n{}\n", item.key, item.revision, show::indented(&text))
}

/// An effective document and where each of its fields is from.
fn in_force(found: &Value) -> String {
    let document = found.get("document").map(document::yaml).unwrap_or_default();
    let fields = found.get("fields").and_then(Value::as_object);
    let rows: Vec<_> = fields.into_iter().flatten().map(|(path, place)| field(path, place)).collect();
    let document = show::indented(&document);
    format!("in force\n{document}\n{}", table(&["FIELD", "LAYER", "FROM", "BY", "UNTIL", "WHY"], &rows))
}

fn field(path: &str, place: &Value) -> Vec<String> {
    let text = |name: &str| place.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |name: &str| place.get(name).and_then(Value::as_i64).unwrap_or_default();
    let from = match place.get("key").and_then(Value::as_str) {
        Some(key) => format!("{key} at {}", number("revision")),
        None if place.get("line").is_some() => {
            format!("{}:{}:{}", text("file"), number("line"), number("column"))
        }
        None => text("file"),
    };
    let plan = place.get("plan").and_then(Value::as_str).map(|plan| format!(" {plan}")).unwrap_or_default();
    vec![
        path.to_owned(),
        format!("{}{plan}", text("layer")),
        from,
        text("by"),
        text("until"),
        shortened(&text("why"), 40),
    ]
}

/// Compares an overlay with a file.
pub(super) fn diff(args: &Diff) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let contents = contents(&mut place)?;
    let key = place.key(&args.subject);
    let file = crate::cli::source::name(&args.file);
    let wanted = read_text(&args.file)?;
    let bare = |name: &str, text: &[u8]| -> Result<Value, Failure> {
        let unreadable = || Failure::Bad(format!("{name} is no document that can be read"));
        let mut value = document::full(&args.subject, text).ok_or_else(unreadable)?;
        Envelope::take(&mut value);
        Ok(value)
    };
    let new = bare(&file, wanted.as_bytes())?;
    let old = contents.get(&key).map(|item| bare(&key, &item.value)).transpose()?;
    let texts = (old.as_ref().map(document::yaml).unwrap_or_default(), document::yaml(&new));
    let same = old.as_ref() == Some(&new);
    let text = match args.common.output {
        Output::Json => format!("{:#}\n", json!({ "key": key, "same": same, "store": old, "file": new })),
        Output::Text if same => format!("{key} is as in {file}\n"),
        Output::Text => show::difference((&key, &texts.0), (&file, &texts.1)),
    };
    let status = print(text.as_bytes());
    if same { Ok(status) } else { Err(Failure::Told(ExitStatus::No)) }
}
