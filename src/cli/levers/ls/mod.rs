//! The lists: what is in force, who says so, and what it does.

mod rows;

use jiff::Timestamp;
use serde_json::{Value, json};

use self::rows::{Row, Said};
use super::{Look, preview, view::View};
use crate::{
    cli::{ExitStatus, Output, failure::Failure, print, table::table},
    config::Kind,
};

/// `weir switch ls`.
pub(super) fn switches(look: &Look) -> Result<ExitStatus, Failure> {
    let view = View::find(look, Kind::Switch, "/switches")?;
    let mut list = List::new("switches", &["STATE"], view.instance.is_some(), &["HITS/MIN"]);
    for (name, shown) in view.resources(Kind::Switch) {
        let said = Said(view.said(name));
        let state = preview::state(shown.pointer("/document/state"), "off");
        let cell = rows::automatic(&state, &said);
        let reason = rows::reason(&state, &said);
        list.push(Row {
            name,
            values: vec![("state", cell, state.into())],
            place: rows::Place { reason, ..rows::place(&view.documents, shown, &["state"]) },
            instance: vec![said.number("hits_last_minute")],
            said: said.0,
        });
    }
    Ok(list.show(look.common.output))
}

/// `weir limit ls`.
pub(super) fn limits(look: &Look) -> Result<ExitStatus, Failure> {
    let view = View::find(look, Kind::Limit, "/limits")?;
    let (more, heads) = (view.instance.is_some(), ["GRANTED/MIN", "REFUSED/MIN"]);
    let mut list = List::new("limits", &["RATE", "STATE", "EFFECTIVE"], more, &heads);
    for (name, shown) in view.resources(Kind::Limit) {
        let said = Said(view.said(name));
        let text = |field: &str| shown.pointer(&format!("/document/{field}")).and_then(Value::as_str);
        let rate = text("rate").unwrap_or_default();
        let state = preview::state(shown.pointer("/document/state"), "on");
        let scope = text("scope").unwrap_or("instance");
        let effective = rows::effective(rate, scope, &said);
        list.push(Row {
            name,
            values: vec![
                ("rate", rate.to_owned(), rate.into()),
                ("state", state.clone(), state.into()),
                ("effective", effective.clone(), effective.into()),
            ],
            place: rows::place(&view.documents, shown, &["state", "rate", "burst"]),
            instance: vec![said.at("/last_minute/granted"), rows::refused(&said)],
            said: said.0,
        });
    }
    Ok(list.show(look.common.output))
}

/// `weir breaker ls`.
pub(super) fn breakers(look: &Look) -> Result<ExitStatus, Failure> {
    let view = View::find(look, Kind::Upstream, "/upstreams")?;
    let (more, heads) = (view.instance.is_some(), ["STATE", "FOR", "FAILURES"]);
    let mut list = List::new("upstreams", &["ROUTE", "MODE"], more, &heads);
    for (name, shown) in view.resources(Kind::Upstream) {
        let said = view.said(name);
        list.push(breaker(&view.documents, (name, None), shown, said.and_then(|said| said.get("breaker"))));
        for (route, shown) in view.resources(Kind::Route).filter(|(_, shown)| rows::own_breaker(shown, name))
        {
            let own = said.and_then(|said| said.get("route_breakers")?.get(route));
            list.push(breaker(&view.documents, (name, Some(route)), shown, own));
        }
    }
    list.first = "UPSTREAM";
    Ok(list.show(look.common.output))
}

fn breaker<'v>(
    documents: &Value,
    (name, route): (&'v str, Option<&str>),
    shown: &Value,
    said: Option<&'v Value>,
) -> Row<'v> {
    let said = Said(said);
    let written = shown.pointer("/document/breaker/mode").map(|mode| preview::state(Some(mode), "auto"));
    // An instance knows what the default is for this upstream; else it is auto, or observe behind inbound listeners.
    let mode = written.or_else(|| said.text("mode")).unwrap_or_else(|| "default".to_owned());
    let route = route.unwrap_or_default();
    Row {
        name,
        values: vec![("route", route.to_owned(), route.into()), ("mode", mode.clone(), mode.into())],
        place: rows::place(documents, shown, &["breaker.mode"]),
        instance: vec![said.text("state").unwrap_or_default(), rows::span(&said), rows::failures(&said)],
        said: said.0,
    }
}

/// `weir plan ls`.
pub(super) fn plans(look: &Look) -> Result<ExitStatus, Failure> {
    // Of plans an instance says no more than what is in its policy.
    let view = View::find(look, Kind::Plan, "/status")?;
    let mut list = List::new("plans", &["STATE", "TOUCHES", "COLLIDES WITH"], false, &[]);
    for (name, shown) in view.resources(Kind::Plan) {
        let state = preview::state(shown.pointer("/document/state"), "off");
        let touched = preview::touched(&view.documents, name);
        let collisions = preview::collisions(&view.documents, name);
        let told = collisions.iter().map(|it| format!("{} ({})", it.other, it.resource)).collect::<Vec<_>>();
        list.push(Row {
            name,
            values: vec![
                ("state", state.clone(), state.into()),
                ("touches", touched.join(", "), touched.into()),
                ("collisions", told.join(", "), collisions.iter().map(preview::Collision::to_json).collect()),
            ],
            place: rows::place(&view.documents, shown, &["state"]),
            instance: Vec::new(),
            said: None,
        });
    }
    Ok(list.show(look.common.output))
}

/// A list that grows.
struct List {
    what: &'static str,
    first: &'static str,
    headings: Vec<&'static str>,
    /// Whether an instance has told what it does.
    more: bool,
    rows: Vec<Vec<String>>,
    json: Vec<Value>,
    now: Timestamp,
}

impl List {
    fn new(what: &'static str, own: &[&'static str], more: bool, of_instance: &[&'static str]) -> Self {
        let mut headings = own.to_vec();
        headings.extend(of_instance.iter().filter(|_| more));
        headings.extend(["LAYER", "BY", "UNTIL", "WHY"]);
        let (rows, json, now) = (Vec::new(), Vec::new(), Timestamp::now());
        Self { what, first: "NAME", headings, more, rows, json, now }
    }

    fn push(&mut self, row: Row<'_>) {
        let mut json = json!({ "name": row.name, "place": row.place.json });
        if let Some(map) = json.as_object_mut() {
            map.extend(row.values.iter().map(|(field, _, value)| ((*field).to_owned(), value.clone())));
            if self.more {
                map.insert("instance".to_owned(), row.said.cloned().unwrap_or(Value::Null));
            }
        }
        self.json.push(json);
        let mut cells = vec![row.name.to_owned()];
        cells.extend(row.values.into_iter().map(|(_, cell, _)| cell));
        cells.extend(row.instance.into_iter().filter(|_| self.more));
        cells.extend(row.place.cells(self.now));
        self.rows.push(cells);
    }

    fn show(self, output: Output) -> ExitStatus {
        let text = match output {
            Output::Json => format!("{:#}\n", Value::Array(self.json)),
            Output::Text if self.rows.is_empty() => format!("no {}\n", self.what),
            Output::Text => {
                let mut headings = vec![self.first];
                headings.extend(&self.headings);
                table(&headings, &self.rows)
            }
        };
        print(text.as_bytes())
    }
}
