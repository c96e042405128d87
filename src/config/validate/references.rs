//! References of resources to others.

use super::super::fault::{listed, nearest};
use crate::config::{
    Kind, Name,
    codes::Code,
    fault::Problem,
    wire::{Cx, Reference, Spanned},
};

/// Reports every reference so far that leads nowhere: `is_there` says what exists, `names` lists it.
pub(super) fn references<'n>(
    cx: &mut Cx<'_>,
    is_there: &dyn Fn(Kind, &Name) -> bool,
    names: &dyn Fn(Kind) -> Vec<&'n str>,
) {
    for reference in cx.take_references() {
        if !is_there(reference.kind, &reference.name) {
            // Among thousands of names the nearest is chance, and looking for it takes long.
            let known = if cx.is_full() { Vec::new() } else { names(reference.kind) };
            cx.dangling(&reference, NoSuch { reference: &reference, known: Some(&known) }.problem());
        }
    }
}

/// A reference that leads nowhere.
pub(crate) struct NoSuch<'a> {
    /// It.
    pub(crate) reference: &'a Reference,
    /// What it could have named; `None` when that is not worth the effort.
    pub(crate) known: Option<&'a [&'a str]>,
}

impl NoSuch<'_> {
    /// It, for people.
    pub(crate) fn problem(&self) -> Problem {
        let name = &self.reference.name;
        let (code, what) = word(self.reference.kind);
        let problem = Problem::new(code, format!("there is no {what} `{name}`"));
        match self.known {
            Some(known) => problem.help(advice(what, name, known)),
            None => problem,
        }
    }
}

fn word(kind: Kind) -> (Code, &'static str) {
    match kind {
        Kind::Upstream => (Code::UnknownUpstream, "upstream"),
        Kind::Route => (Code::UnknownRoute, "route"),
        Kind::Limit => (Code::UnknownLimit, "limit"),
        Kind::Switch | Kind::Plan => (Code::UnknownSwitch, "switch"),
    }
}

/// What was probably meant, or what there is.
fn advice(what: &str, name: &Name, known: &[&str]) -> String {
    match nearest(name.as_str(), known.iter().copied().take(1000)) {
        Some(guess) => format!("did you mean `{guess}`?"),
        None => match listed(known.iter().copied().take(10)) {
            names if names.is_empty() => format!("there is no {what} at all"),
            names => format!("there is {names}"),
        },
    }
}

/// Reports a listener that is not there. Listeners are fixed for the life of the process, so that is seen at once.
pub(super) fn listener(
    name: &Spanned<Name>,
    known: Option<&std::collections::BTreeSet<&Name>>,
    cx: &mut Cx<'_>,
) {
    let Some(known) = known else { return };
    if known.contains(&name.value) {
        return;
    }
    let names: Vec<_> =
        if cx.is_full() { Vec::new() } else { known.iter().map(|name| name.as_str()).collect() };
    let problem = Problem::new(Code::UnknownListener, format!("there is no listener `{}`", name.value))
        .help(advice("listener", &name.value, &names));
    cx.at("listener", name.origin, |cx| cx.problem(problem, name.origin));
}
