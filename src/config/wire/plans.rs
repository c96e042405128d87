//! Plans, as they are written.

use serde_json::{Value as Json, json};

use super::{
    Cx, Defs, Shown, Table, Takes, Text, Wire, choose,
    limits::LimitWire,
    short::{Scalar, Short, expand},
    switches::SwitchWire,
    upstreams::UpstreamWire,
    wire,
};
use crate::config::{
    Name,
    codes::Code,
    documents::Kind,
    fault::Problem,
    node::{Node, Value},
};

wire! {
    /// A set of changes that is turned on and off as one.
    PlanWire as "plan" {
        /// Whether its changes are in force: on or off.
        state: OnOff = default(OnOff(false)),
        /// What it changes in switches, by name: a patch or a short form.
        switches: Table<Name, PatchWire<3>> = empty,
        /// What it changes in limits, by name: a patch or a short form.
        limits: Table<Name, PatchWire<2>> = empty,
        /// What it changes in upstreams, by name: a patch.
        upstreams: Table<Name, PatchWire<0>> = empty,
    }
}

impl Short for PlanWire {
    const KIND: Kind = Kind::Plan;

    fn describe() -> Json {
        OnOff::describe()
    }
}

/// On or off.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnOff(pub(crate) bool);

impl Text for OnOff {
    const WHAT: &'static str = "`on` or `off`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        choose(Scalar::of(text), "`on` or `off`", &[("on", Self(true)), ("off", Self(false))], &[])
    }

    fn describe() -> Json {
        json!({ "enum": ["on", "off", true, false] })
    }
}

impl Shown for OnOff {
    fn show(&self) -> Json {
        if self.0 { "on".into() } else { "off".into() }
    }
}

/// A patch of a resource whose kind is the `KIND`th of [`Kind::ALL`]. Its values
/// are checked here, whether they fit is seen when it is merged.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct PatchWire<const KIND: usize>(pub(crate) Node);

impl<const KIND: usize> PatchWire<KIND> {
    fn kind() -> Kind {
        Kind::ALL.get(KIND).copied().unwrap_or(Kind::Upstream)
    }
}

impl<const KIND: usize> Wire for PatchWire<KIND> {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let patch = expand(Self::kind(), node);
        if matches!(patch.value, Value::Map(_)) {
            let mut bare = patch.clone().into_owned();
            bare.strip_nulls();
            cx.patch(|cx| match Self::kind() {
                Kind::Limit => drop(LimitWire::decode(&bare, cx)),
                Kind::Switch => drop(SwitchWire::decode(&bare, cx)),
                _ => drop(UpstreamWire::decode(&bare, cx)),
            });
            return Some(Self(patch.into_owned()));
        }
        if node.is_null() {
            let problem = Problem::new(Code::WrongType, "a plan cannot remove a resource")
                .help("patch its `state`, or take this out");
            let here = cx.here();
            cx.problem(problem, here);
            return None;
        }
        cx.wrong_type(node, "a patch: a map of the fields that change");
        None
    }

    fn schema(_: &mut Defs) -> Json {
        match Self::kind() {
            Kind::Upstream => json!({ "type": "object" }),
            _ => json!({ "type": ["object", "string", "boolean"] }),
        }
    }
}
