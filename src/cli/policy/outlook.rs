//! What an instance would make of a document: checked with the code that an instance has. Pure.

use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;

use crate::{
    config::{
        Code, Documents, Fault, Faults, Kind, Loaded, Name, Severity, live,
        node::{Origin, SourceId, Sources},
    },
    store::{
        Change, Content, Item,
        key::{Identity, Subject},
        layers::{Baseline, Effective, Layers, Masked, Refused, World},
    },
};

/// What is wrong with a document by itself: syntax, types and ranges. Faults and warnings go to `loaded`, whose texts
/// get the document under `name`. Says whether it is good, and what stands for the document there.
pub(in crate::cli) fn alone(
    name: &str,
    subject: &Subject,
    bytes: &[u8],
    loaded: &mut Loaded,
) -> (bool, SourceId) {
    let source = loaded.sources.add(name, &String::from_utf8_lossy(bytes));
    let mut faults = Faults::default();
    if let Some(mut node) = live::read(bytes, source, &mut faults) {
        live::envelope(&mut node, &mut faults);
        match subject {
            Subject::Overlay(kind, _) => drop(live::overlay(*kind, &node, &mut faults)),
            Subject::Endpoint(..) => drop(live::endpoint(&node, &mut faults)),
            Subject::Bypass | Subject::Confirm => drop(live::on_off(&node, &mut faults)),
        }
    }
    faults.iter().for_each(|fault| loaded.faults.push(fault.clone()));
    (!faults.any_error(), source)
}

/// Nothing yet.
pub(in crate::cli) fn nothing() -> Loaded {
    Loaded { file: None, faults: Faults::default(), sources: Sources::default() }
}

/// A refusal as a fault of the text that `source` stands for.
pub(in crate::cli) fn fault(refused: &Refused, source: SourceId) -> Fault {
    let (message, place, help) = split(&refused.reason);
    let (line, column) = place.unwrap_or((1, 1));
    Fault {
        severity: Severity::Error,
        code: Code::Misfit,
        path: String::new(),
        origin: Origin { source, line, column, end_line: line, end_column: column + 1 },
        message: message.to_owned(),
        help: help.map(str::to_owned),
    }
}

/// A reason as the layers write it, `MESSAGE (line L, column C); HELP`, in its parts. A place in another document stays
/// in the message.
fn split(reason: &str) -> (&str, Option<(u32, u32)>, Option<&str>) {
    let whole = (reason, None, None);
    let Some((message, rest)) = reason.split_once(" (line ") else { return whole };
    let Some((place, rest)) = rest.split_once(')') else { return whole };
    let Some((line, column)) = place.split_once(", column ") else { return whole };
    let (Ok(line), Ok(column)) = (line.parse(), column.parse()) else { return whole };
    (message, Some((line, column)), rest.strip_prefix("; "))
}

/// What is in force before a change, and after it.
#[derive(Debug)]
pub(in crate::cli) struct Outlook {
    /// The policy before.
    before: Effective,
    /// The documents before.
    pub(in crate::cli) old: Documents,
    /// The policy after.
    pub(in crate::cli) after: Effective,
    /// The documents after.
    pub(in crate::cli) new: Documents,
    keys: Vec<Arc<str>>,
    revision: i64,
}

impl Outlook {
    /// Sees what becomes of what `items` and the file say with these keys and values, in one revision; `None` deletes a
    /// key. Without changes it is what is in force now.
    pub(in crate::cli) fn of(
        (identity, baseline): (&Identity, &Baseline),
        items: &[Item],
        changes: &[(&str, Option<&[u8]>)],
        now: Timestamp,
    ) -> Self {
        // The files that policy names are on the instances, not where this runs.
        let world = World { now, probe: &|_, _| Ok(()) };
        let mut layers = Layers::new(identity, baseline.clone(), world);
        let newest = items.iter().map(|item| item.revision).max().unwrap_or(0);
        layers.read(&Content { cluster: 0, revision: newest, items: items.to_vec() }, world);
        let (before, old) = (layers.effective(), layers.documents());
        let revision = newest.saturating_add(1);
        let change = |(key, value): &(&str, Option<&[u8]>)| {
            let (key, value) = ((*key).into(), value.map(Bytes::copy_from_slice));
            Change { key, value, revision }
        };
        let changes: Vec<_> = changes.iter().map(change).collect();
        layers.change(revision, &changes, world);
        let keys = changes.into_iter().map(|change| change.key).collect();
        Self { before, old, after: layers.effective(), new: layers.documents(), keys, revision }
    }

    /// What speaks against the change: the refusal of a key of it, or of another one that was good before.
    pub(in crate::cli) fn refusals(&self) -> impl Iterator<Item = &Refused> {
        let known = |refused: &Refused| self.before.refused.iter().any(|old| old.key == refused.key);
        self.after.refused.iter().filter(move |refused| {
            if self.keys.contains(&refused.key) { refused.revision == self.revision } else { !known(refused) }
        })
    }

    /// Everything that is refused after the change.
    pub(in crate::cli) fn all_refusals(&self) -> impl Iterator<Item = &Refused> {
        self.after.refused.iter()
    }

    /// What an active plan overrides of a key.
    pub(in crate::cli) fn masked<'o>(&'o self, key: &'o str) -> impl Iterator<Item = &'o Masked> {
        self.after.masked.iter().filter(move |masked| &*masked.key == key)
    }
}

/// The kind and name of the resource in whose effective document a key has a say; `bypass` has none.
pub(in crate::cli) fn resource(subject: &Subject) -> Option<(Kind, &Name)> {
    match subject {
        Subject::Overlay(kind, name) => Some((*kind, name)),
        Subject::Endpoint(upstream, _) => Some((Kind::Upstream, upstream)),
        Subject::Bypass | Subject::Confirm => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_has_its_place() {
        for (reason, parts) in [
            ("`rate`: no (line 2, column 7); write 5/s", ("`rate`: no", Some((2, 7)), Some("write 5/s"))),
            ("no (line 1, column 1)", ("no", Some((1, 1)), None)),
            ("no (orders/x, line 1, column 1)", ("no (orders/x, line 1, column 1)", None, None)),
            ("there is no upstream `a`", ("there is no upstream `a`", None, None)),
        ] {
            assert_eq!(split(reason), parts);
        }
    }
}
