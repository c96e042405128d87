//! Switches, as they are written.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use serde_json::{Value as Json, json};

use super::{
    Cx, Defs, Many, Shown, Table, Takes, Text, Wire, choose,
    file::MatchWire,
    plans::OnOff,
    scalars::{Delay, Int, Span, words},
    short::{Scalar, Short},
    wire,
};
use crate::config::{
    Name,
    codes::Code,
    documents::Kind,
    fault::Problem,
    node::{Node, Value},
    policy::{KeyPart, Priority},
    switch::SwitchState,
    units,
};

wire! {
    /// A degradation switch. It has exactly one of the actions respond, reject, upstream, annotate, delay, abort and shed.
    SwitchWire as "switch" {
        /// Whether it acts: off, on, observe (it counts what it would act on), a percentage (of the requests, sticky by
        /// `key`) or auto (`when` decides).
        state: SwitchState = default(SwitchState::Off),
        /// Which requests it acts on; left out, all.
        matches("match"): MatchWire = empty,
        /// By what a percentage is sticky. Default: client.
        key: Many<KeyPart>,
        /// Lower ones act first; then the name decides.
        priority: Int<0, 65_535> = default(Int(100)),
        /// Answers.
        respond: RespondWire,
        /// Refuses.
        reject: RejectWire,
        /// Sends the request to another upstream.
        upstream: Name,
        /// Tells the application, by these headers of the request, to degrade itself.
        annotate: Table<HeaderName, HeaderValue>,
        /// Makes the request wait (fault injection).
        delay: DelayWire,
        /// Answers with an error (fault injection).
        abort: AbortWire,
        /// Refuses requests that are less important.
        shed: ShedWire,
        /// What turns the switch on by itself while its state is auto.
        when: WhenWire,
        /// Whether answers say that it acted on them (in `x-weir-switch`, with its name and revision): on or off.
        announce: OnOff = default(OnOff(false)),
    }
}

impl Short for SwitchWire {
    const KIND: Kind = Kind::Switch;

    fn describe() -> Json {
        SwitchState::describe()
    }
}

wire! {
    /// An answer.
    RespondWire as "respond" {
        /// Its status.
        status: Int<200, 599> = default(Int(200)),
        /// Its headers.
        headers: Table<HeaderName, HeaderValue> = empty,
        /// Its body, as JSON; this or `body`.
        json: JsonText,
        /// Its body, as text; this or `json`.
        body: Body,
    }
}

wire! {
    /// A refusal.
    RejectWire as "reject" {
        /// Its status.
        status: Int<400, 599> = default(Int(503)),
        /// When the client should come back. Default: nothing is said.
        retry_after: Span,
    }
}

wire! {
    /// A wait.
    DelayWire as "delay" {
        /// Half of the requests wait no longer.
        p50: Span = required,
        /// None waits longer. Default: ten times `p50`.
        max: Span,
    }
}

wire! {
    /// An injected error.
    AbortWire as "abort" {
        /// Its status.
        status: Int<400, 599> = required,
    }
}

wire! {
    /// What is refused when load must be shed.
    ShedWire as "shed" {
        /// The least important priority that still passes: critical, normal or low.
        below: Priority = default(Priority::Normal),
    }
}

wire! {
    /// What turns a switch on by itself.
    WhenWire as "when" {
        /// What is watched: `failure_rate`, p99, `breaker_open` or `in_flight` of an upstream, `refusal_share` of a limit, or
        /// memory (of the process).
        signal: SignalWord = required,
        /// The upstream or the limit that is watched; memory has none.
        of: Name,
        /// The threshold: a percentage for `failure_rate` and `refusal_share`, a duration for p99, a number for `in_flight`,
        /// a size for memory; `breaker_open` has none.
        above: Threshold,
        /// How long the signal has to be above it.
        after("for"): Delay = default(Delay::secs(5)),
        /// How long it has to be back before the switch goes off again.
        hold: Delay = default(Delay::secs(30)),
    }
}

/// What is watched, in a word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SignalWord {
    /// Of an upstream.
    FailureRate,
    /// Of an upstream.
    P99,
    /// Of an upstream.
    BreakerOpen,
    /// Of an upstream.
    InFlight,
    /// Of a limit.
    RefusalShare,
    /// Of the process.
    Memory,
}

words!(SignalWord, "a signal" {
    "failure_rate" => FailureRate,
    "p99" => P99,
    "breaker_open" => BreakerOpen,
    "in_flight" => InFlight,
    "refusal_share" => RefusalShare,
    "memory" => Memory,
});

/// A threshold; what it may be depends on the signal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Threshold(pub(crate) Box<str>);

impl Text for Threshold {
    const WHAT: &'static str = "a threshold such as `50%`, `250ms`, `100` or `64MiB`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        Ok(Self(Box::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": ["string", "integer"] })
    }
}

/// The text of a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Body(pub(crate) Arc<str>);

impl Text for Body {
    const WHAT: &'static str = "a text";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        Ok(Self(Arc::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": ["string", "number", "boolean"] })
    }
}

/// Any value, as compact JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonText(pub(crate) Arc<str>);

impl Wire for JsonText {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if let Some(origin) = beyond_json(node) {
            let problem =
                Problem::new(Code::BadValue, "JSON has no such number").help("write it as a text, in quotes");
            cx.problem(problem, origin);
            return None;
        }
        Some(Self(Arc::from(node.to_json().to_string())))
    }

    fn schema(_: &mut Defs) -> Json {
        json!({})
    }
}

/// Where a number stands that JSON cannot hold (`.inf`, `.nan`), or something that could not be read.
fn beyond_json(node: &Node) -> Option<crate::config::node::Origin> {
    match &node.value {
        Value::Float(number) if !number.is_finite() => Some(node.origin),
        Value::Seq(items) => items.iter().find_map(beyond_json),
        Value::Map(map) => map.values().find_map(|entry| beyond_json(&entry.node)),
        _ => None,
    }
}

impl Text for SwitchState {
    const WHAT: &'static str = "`off`, `on`, `observe`, `auto` or a percentage";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        const CHOICES: [(&str, SwitchState); 4] = [
            ("off", SwitchState::Off),
            ("on", SwitchState::On),
            ("observe", SwitchState::Observe),
            ("auto", SwitchState::Auto),
        ];
        let text = Scalar::of(text);
        if text.ends_with('%') {
            return units::percent(text).map(Self::Share);
        }
        choose(text, "a state of switches", &CHOICES, &[]).map_err(|problem| {
            problem.help("it takes `off`, `on`, `observe`, `auto` or a percentage such as `25%`")
        })
    }

    fn describe() -> Json {
        json!({ "anyOf": [
            { "enum": ["off", "on", "observe", "auto", true, false] },
            { "type": "string", "pattern": r"^(100(\.0{1,2})?|[0-9]{1,2}(\.[0-9]{1,2})?)%$" },
        ]})
    }
}

impl Shown for SwitchState {
    fn show(&self) -> Json {
        match self {
            Self::Off => "off".into(),
            Self::On => "on".into(),
            Self::Observe => "observe".into(),
            Self::Auto => "auto".into(),
            Self::Share(points) => units::show_percent(*points).into(),
        }
    }
}
