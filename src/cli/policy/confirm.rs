//! `weir policy confirm`: what the instances hold back may be applied.

use std::io::{IsTerminal, Write, stdin};

use serde_json::json;

use super::{Confirm, place::Place, store::Change, write};
use crate::{
    cli::{ExitStatus, Output, failure::Failure, print, table::table, wait},
    store::key::Subject,
};

/// Confirms, up to the store's present revision.
pub(super) fn run(args: &Confirm) -> Result<ExitStatus, Failure> {
    let mut place = Place::find(&args.common.store, args.common.scope.as_ref())?;
    let prefixes = place.prefixes();
    let contents = place.runtime.block_on(place.store.read(&prefixes))?;
    let held = held(&mut place)?;
    if args.common.output == Output::Text {
        print(held.as_bytes());
        print(
            format!("confirms all of {} that is held up to revision {}\n", place.scope, contents.revision)
                .as_bytes(),
        );
    }
    if !args.yes && !agreed()? {
        return Err(Failure::No("nothing is confirmed".to_owned()));
    }
    let key = place.key(&Subject::Confirm);
    let before = contents.get(&key);
    let who = write::who(&args.signature);
    let mut document = json!({ "cluster": contents.cluster, "revision": contents.revision, "by": who });
    if let (Some(map), Some(why)) = (document.as_object_mut(), &args.signature.why) {
        map.insert("why".to_owned(), why.as_str().into());
    }
    let text = document.to_string();
    let record = write::record(&place, &args.signature, ("confirm", None), (&key, before, Some(&text)));
    let change = Change { key: &key, value: Some(&text), before };
    let revision = place.runtime.block_on(place.store.commit(&[(change, record)]))?;
    let revision = revision.ok_or_else(|| {
        Failure::No("somebody else confirmed meanwhile; look at what is held now".to_owned())
    })?;
    let text = match args.common.output {
        Output::Json => {
            let answer = json!({
                "key": key,
                "action": "confirm",
                "revision": revision,
                "confirmed": contents.revision,
                "cluster": contents.cluster,
            });
            format!("{answer:#}\n")
        }
        Output::Text => format!("confirmed up to revision {}, at revision {revision}\n", contents.revision),
    };
    Ok(print(text.as_bytes()))
}

/// What the instances say that they hold.
fn held(place: &mut Place) -> Result<String, Failure> {
    let Some(service) = place.service.clone() else {
        return Ok("what is held is not looked at without a service (`--service NAME`)\n".to_owned());
    };
    let Some(pods) = place.runtime.block_on(place.store.pods(&service))? else {
        return Ok("a directory does not show what is held: `weir status` of an instance does\n".to_owned());
    };
    let reports: Vec<_> = wait::reports(&service, &pods).into_iter().flatten().collect();
    let holding: Vec<_> = reports.iter().filter(|report| report.held > 0).collect();
    if holding.is_empty() {
        return Ok(format!("no instance of {service} holds anything ({} seen)\n", reports.len()));
    }
    let rows: Vec<_> = holding
        .iter()
        .map(|report| vec![report.instance.to_string(), report.held.to_string(), report.applied.to_string()])
        .collect();
    Ok(table(&["INSTANCE", "HELD", "APPLIED"], &rows))
}

/// Asks.
fn agreed() -> Result<bool, Failure> {
    if !stdin().is_terminal() {
        return Err(Failure::Usage("there is no terminal to ask: say `--yes`".to_owned()));
    }
    let mut out = std::io::stdout();
    let _ = out.write_all(b"apply it? [y/N] ").and_then(|()| out.flush());
    let mut answer = String::new();
    let read = stdin().read_line(&mut answer);
    Ok(read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes"))
}
