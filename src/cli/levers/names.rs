//! Whether there is what somebody named.

use std::collections::BTreeSet;

use jiff::Timestamp;

use crate::{
    cli::{
        failure::Failure,
        policy::{
            outlook::{self, Outlook},
            place::Place,
            store::Contents,
        },
    },
    config::{
        Kind, Name,
        fault::{listed, nearest},
    },
    store::key::Subject,
};

/// So many names are listed where there is none that is near.
const FEW: usize = 10;

/// Fails where a name is in no layer. Without a file nobody knows what the lowest layer says: then all names are taken.
pub(super) fn check(place: &Place, contents: &Contents, kind: Kind, names: &[Name]) -> Result<(), Failure> {
    let Some(baseline) = &place.baseline else { return Ok(()) };
    let outlook = Outlook::of((&place.identity, baseline), &contents.items, &[], Timestamp::now());
    let known = known(contents, &outlook, kind);
    match names.iter().find(|name| !known.contains(*name)) {
        Some(missing) => Err(Failure::No(unknown(kind, missing, &known))),
        None => Ok(()),
    }
}

/// The same for a command that can be forced.
pub(super) fn check_unless(
    force: bool,
    place: &Place,
    contents: &Contents,
    kind: Kind,
    names: &[Name],
) -> Result<(), Failure> {
    if force {
        return Ok(());
    }
    check(place, contents, kind, names).map_err(|failure| match failure {
        Failure::No(text) => Failure::No(format!("{text} (`--force` writes it all the same)")),
        other => other,
    })
}

/// The names of a kind that some layer has, also where another one removes them.
fn known(contents: &Contents, outlook: &Outlook, kind: Kind) -> BTreeSet<Name> {
    let in_force = outlook.new.iter().filter(|(of, ..)| *of == kind).map(|(_, name, _)| name.clone());
    let written = contents.items.iter().filter_map(|item| {
        let subject = Subject::parse(item.key.split_once('/')?.1).ok()?;
        let (of, name) = outlook::resource(&subject)?;
        (of == kind).then(|| name.clone())
    });
    in_force.chain(written).collect()
}

/// What is said of a name that nobody has.
pub(super) fn unknown(kind: Kind, missing: &Name, known: &BTreeSet<Name>) -> String {
    let word = word(kind);
    let near = nearest(missing.as_str(), known.iter().map(Name::as_str).take(1000));
    let hint = match (near, known.len()) {
        (Some(near), _) => format!("did you mean `{near}`?"),
        (None, 0) => format!("there is no {word} at all"),
        (None, count) => {
            let some = listed(known.iter().map(Name::as_str).take(FEW)).replace(" or ", " and ");
            let more = if count > FEW { format!(" and {} more", count - FEW) } else { String::new() };
            format!("there are {some}{more}")
        }
    };
    format!("there is no {word} `{missing}` in any layer; {hint}")
}

/// A kind in the singular.
pub(super) fn word(kind: Kind) -> &'static str {
    match kind {
        Kind::Upstream => "upstream",
        Kind::Route => "route",
        Kind::Limit => "limit",
        Kind::Switch => "switch",
        Kind::Plan => "plan",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(missing: &str, known: &[&str]) -> String {
        let known = known.iter().map(|name| Name::new(name).unwrap()).collect();
        unknown(Kind::Switch, &Name::new(missing).unwrap(), &known)
    }

    #[test]
    fn the_nearest_name_or_all_of_them() {
        assert!(said("no-rec", &["no-recs", "no-ads"]).contains("did you mean `no-recs`?"));
        assert!(said("x", &["no-recs", "no-ads"]).contains("there are `no-ads` and `no-recs`"));
        assert!(said("x", &[]).contains("no switch at all"));
        let many: Vec<_> = (0..30).map(|n| format!("switch-number-{n}")).collect();
        let many: Vec<_> = many.iter().map(String::as_str).collect();
        assert!(said("x", &many).contains("and 20 more"), "{}", said("x", &many));
    }
}
