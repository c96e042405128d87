//! The cells of lists. Pure.

use jiff::Timestamp;
use serde_json::Value;

use crate::cli::table::shortened;

/// One line.
pub(super) struct Row<'v> {
    /// The name of the resource.
    pub(super) name: &'v str,
    /// What is in force: the field for machines, the cell, and the value for machines.
    pub(super) values: Vec<(&'static str, String, Value)>,
    /// Who says so.
    pub(super) place: Place,
    /// The cells of what the instance says.
    pub(super) instance: Vec<String>,
    /// All that the instance says.
    pub(super) said: Option<&'v Value>,
}

/// Where a state comes from.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Place {
    /// As `/policy` tells it; null when no layer says it.
    pub(super) json: Value,
    /// Why it is so, as the instance tells it; it stands for what the layer says.
    pub(super) reason: Option<String>,
}

/// The layers by name, the lowest first.
const LAYERS: [&str; 5] = ["baseline", "fleet", "service", "plans", "instance"];

/// Where the first of `paths` that the highest layer says comes from. What a plan says is signed by who turned it on,
/// unless the plan itself says who wrote it.
pub(super) fn place(documents: &Value, shown: &Value, paths: &[&str]) -> Place {
    let fields = shown.get("fields");
    let found = paths.iter().filter_map(|path| fields?.get(*path));
    let height = |place: &&Value| {
        let layer = place.get("layer").and_then(Value::as_str);
        LAYERS.iter().position(|name| Some(*name) == layer)
    };
    // `max_by_key` gives the last of equals.
    let mut json = found.rev().max_by_key(height).cloned().unwrap_or(Value::Null);
    let plan = json.get("plan").and_then(Value::as_str).map(str::to_owned);
    let turned = plan.and_then(|plan| documents.get("plans")?.get(&plan)?.get("fields")?.get("state"));
    if let (Some(turned), Value::Object(map)) = (turned.and_then(Value::as_object), &mut json)
        && map.get("by").is_none_or(Value::is_null)
    {
        for field in ["by", "why", "until"] {
            map.extend(turned.get(field).map(|value| (field.to_owned(), value.clone())));
        }
    }
    Place { json, reason: None }
}

impl Place {
    /// Layer, by, until, why.
    pub(super) fn cells(&self, now: Timestamp) -> [String; 4] {
        let text = |name: &str| self.json.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let layer = match (text("plan"), text("layer")) {
            (plan, _) if !plan.is_empty() => format!("plan {plan}"),
            (_, layer) if layer.is_empty() => "default".to_owned(),
            (_, layer) => layer,
        };
        let until = text("until");
        let left = until.parse::<Timestamp>().ok().map(|end| left(end, now));
        let until = left.map_or(until.clone(), |left| format!("{until} ({left})"));
        let why = self.reason.clone().unwrap_or_else(|| shortened(&text("why"), 40));
        [layer, text("by"), until, why]
    }
}

/// How long it is until then.
fn left(end: Timestamp, now: Timestamp) -> String {
    let seconds = end.duration_since(now).as_secs();
    if seconds <= 0 { "over".to_owned() } else { format!("{} left", in_words(seconds)) }
}

/// A span in its two largest units.
fn in_words(seconds: i64) -> String {
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big}{big_unit}"),
        _ => format!("{big}{big_unit}{small}{small_unit}"),
    };
    match seconds {
        86_400.. => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
        3600.. => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        60.. => two(seconds / 60, "m", seconds % 60, "s"),
        _ => format!("{seconds}s"),
    }
}

/// What an instance says of one resource; what it does not say is an empty cell.
pub(super) struct Said<'v>(pub(super) Option<&'v Value>);

impl Said<'_> {
    /// A text.
    pub(super) fn text(&self, field: &str) -> Option<String> {
        self.0?.get(field)?.as_str().map(str::to_owned)
    }

    /// A number, as it is written.
    pub(super) fn number(&self, field: &str) -> String {
        self.at(&format!("/{field}"))
    }

    /// A number further down.
    pub(super) fn at(&self, pointer: &str) -> String {
        let found = self.0.and_then(|said| said.pointer(pointer));
        found.filter(|value| value.is_number()).map(ToString::to_string).unwrap_or_default()
    }

    fn float(&self, field: &str) -> Option<f64> {
        self.0?.get(field)?.as_f64()
    }
}

/// A switch's state, with what `when:` has decided where that decides.
pub(super) fn automatic(state: &str, said: &Said<'_>) -> String {
    let automatic = said.0.and_then(|said| said.get("automatic")).filter(|_| state == "auto");
    match automatic.and_then(|automatic| automatic.get("on")).and_then(Value::as_bool) {
        Some(true) => "auto (on)".to_owned(),
        Some(false) => "auto (off)".to_owned(),
        None => state.to_owned(),
    }
}

/// Why a switch has turned itself on, where it has.
pub(super) fn reason(state: &str, said: &Said<'_>) -> Option<String> {
    let automatic = said.0?.get("automatic").filter(|_| state == "auto")?;
    let on = automatic.get("on").and_then(Value::as_bool) == Some(true);
    automatic.get("reason")?.as_str().filter(|_| on).map(str::to_owned)
}

/// The rate that an instance has, and how it comes to it.
pub(super) fn effective(rate: &str, scope: &str, said: &Said<'_>) -> String {
    let Some(own) = said.float("effective_rate") else {
        // Without the instances nobody knows the share of one.
        return if scope == "instance" { rate.to_owned() } else { String::new() };
    };
    let mut text = format!("{}/s", rounded(own));
    let instances = said.number("instances");
    let fallback = said.0.and_then(|said| said.get("fallback")).and_then(Value::as_bool) == Some(true);
    // What Redis counts is not divided.
    let divided = fallback || said.text("share").as_deref() != Some("redis");
    if scope == "service" && divided && !instances.is_empty() {
        text = format!("{text} of {rate} by {instances}");
    }
    if fallback {
        text.push_str(", even share (no Redis)");
    }
    text
}

/// Up to three digits after the point.
fn rounded(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// What a limit refused in the last minute, and what it would have refused.
pub(super) fn refused(said: &Said<'_>) -> String {
    let (refused, would) = (said.at("/last_minute/refused"), said.at("/last_minute/would_refuse"));
    match would.as_str() {
        "" | "0" => refused,
        would => format!("{refused} (observed {would})"),
    }
}

/// For how long a breaker is in its state.
pub(super) fn span(said: &Said<'_>) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "seconds that a process lives")]
    said.float("for_s").map(|seconds| in_words(seconds as i64)).unwrap_or_default()
}

/// What a breaker sees: failures of requests.
pub(super) fn failures(said: &Said<'_>) -> String {
    let (failures, requests) = (said.at("/window/failures"), said.at("/window/requests"));
    if failures.is_empty() { failures } else { format!("{failures} of {requests}") }
}

/// Whether a route leads to an upstream and has a breaker of its own for it.
pub(super) fn own_breaker(shown: &Value, upstream: &str) -> bool {
    let Some(document) = shown.get("document") else { return false };
    let parts = document.get("split").and_then(Value::as_array).into_iter().flatten();
    let mut targets = parts.chain([document]).filter_map(|part| part.get("upstream")?.as_str());
    document.get("breaker").is_some_and(|breaker| !breaker.is_null()) && targets.any(|to| to == upstream)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_highest_layer_is_told() {
        let shown = json!({ "fields": {
            "state": { "layer": "baseline" },
            "rate": { "layer": "service", "by": "ann", "why": "why not", "until": "2026-11-21T10:30:00Z" },
            "burst": { "layer": "fleet" },
        }});
        let now = "2026-11-21T10:00:01Z".parse().unwrap();
        let none = Value::Null;
        let cells = place(&none, &shown, &["state", "rate", "burst"]).cells(now);
        assert_eq!(cells, ["service", "ann", "2026-11-21T10:30:00Z (29m59s left)", "why not"]);
        let over = place(&none, &shown, &["rate"]).cells("2026-11-21T10:30:00Z".parse().unwrap());
        assert!(over[2].ends_with("(over)"), "{over:?}");
        assert_eq!(place(&none, &shown, &["priority"]).cells(now)[0], "default");
        let plan = json!({ "fields": { "state": { "layer": "plans", "plan": "sale" } } });
        assert_eq!(place(&none, &plan, &["state"]).cells(now), ["plan sale", "", "", ""]);
        let all = json!({ "plans": { "sale": { "fields": { "state": { "by": "bob", "why": "noon" } } } } });
        assert_eq!(place(&all, &plan, &["state"]).cells(now), ["plan sale", "bob", "", "noon"]);
    }

    #[test]
    fn spans_have_two_units() {
        let spans = [(5, "5s"), (60, "1m"), (61, "1m1s"), (3_660, "1h1m"), (90_000, "1d1h")];
        for (seconds, words) in spans {
            assert_eq!(in_words(seconds), words);
        }
    }

    #[test]
    fn what_an_instance_does_not_say_is_empty() {
        let none = Said(None);
        assert_eq!((none.number("x"), failures(&none), span(&none)), Default::default());
        assert_eq!(effective("5/s", "instance", &none), "5/s");
        assert_eq!(effective("5/s", "service", &none), "");
        assert_eq!(automatic("auto", &none), "auto");
        let empty = json!({ "automatic": null });
        assert_eq!(automatic("auto", &Said(Some(&empty))), "auto");
    }

    #[test]
    fn what_an_instance_says() {
        let said = json!({
            "effective_rate": 500.0 / 3.0, "instances": 3, "fallback": true,
            "last_minute": { "granted": 7, "refused": 2, "would_refuse": 1 },
            "automatic": { "on": true, "reason": "memory 80MiB > 64MiB for 5s" }, "for_s": 61.4, "window": { "requests": 9, "failures": 3 },
        });
        let said = Said(Some(&said));
        assert_eq!(effective("500/s", "service", &said), "166.667/s of 500/s by 3, even share (no Redis)");
        let exact = json!({ "effective_rate": 500.0, "instances": 3, "fallback": false, "share": "redis" });
        assert_eq!(effective("500/s", "service", &Said(Some(&exact))), "500/s");
        assert_eq!((said.at("/last_minute/granted"), refused(&said)), ("7".into(), "2 (observed 1)".into()));
        assert_eq!((automatic("auto", &said), automatic("on", &said)), ("auto (on)".into(), "on".into()));
        assert_eq!((span(&said), failures(&said)), ("1m1s".into(), "3 of 9".into()));
        let (on, off) = (reason("auto", &said), json!({ "automatic": { "on": false, "reason": "calm" } }));
        assert_eq!(on.as_deref(), Some("memory 80MiB > 64MiB for 5s"));
        assert_eq!((reason("on", &said), reason("auto", &Said(Some(&off)))), (None, None));
    }

    #[test]
    fn routes_with_breakers_of_their_own() {
        let route = |document: Value| json!({ "document": document });
        assert!(own_breaker(&route(json!({ "upstream": "a", "breaker": {} })), "a"));
        assert!(own_breaker(&route(json!({ "split": [{ "upstream": "a" }], "breaker": {} })), "a"));
        assert!(!own_breaker(&route(json!({ "upstream": "b", "breaker": {} })), "a"));
        assert!(!own_breaker(&route(json!({ "upstream": "a" })), "a"));
    }
}
