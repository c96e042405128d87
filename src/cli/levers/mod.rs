//! `weir switch`, `limit`, `breaker` and `plan`: the levers, by hand.
//!
//! Each moves a few fields of one overlay and leaves the rest of it alone; how it is checked, written and put down is
//! `weir policy`'s.
//!
//! - `args`: what can be said;
//! - `fields`: which fields a lever moves, and what becomes of the overlay around them;
//! - `write`: setting and taking back;
//! - `breaker`: what is particular to breakers;
//! - `names`: whether there is what somebody named;
//! - `preview`, `diff`: what a plan would change;
//! - `view`: where lists look;
//! - `ls`: the lists.

mod args;
mod breaker;
mod diff;
mod fields;
mod ls;
mod names;
mod preview;
mod view;
mod write;

pub use args::{
    BreakerArgs, BreakerCommand, Change, Hold, LimitArgs, LimitCommand, Look, PlanArgs, PlanCommand, Preview,
    SetLimit, SetSwitch, SwitchArgs, SwitchCommand, Take, Turn,
};

use serde_json::Value;

use self::write::Order;
use super::{ExitStatus, failure::ended};
use crate::config::Kind;

/// `weir switch`.
pub fn switch(args: &SwitchArgs) -> ExitStatus {
    use SwitchCommand::{Ls, Off, On, Set, Unset};
    ended(match &args.command {
        On(turn) => write::set(&turned("switch on", Kind::Switch, "on", turn)),
        Off(turn) => write::set(&turned("switch off", Kind::Switch, "off", turn)),
        Set(args) => write::set(&Order {
            command: "switch set",
            kind: Kind::Switch,
            names: std::slice::from_ref(&args.name),
            settings: vec![("state", Value::String(args.state.trim().to_owned()))],
            change: &args.change,
        }),
        Unset(take) => write::unset("switch unset", Kind::Switch, take),
        Ls(look) => ls::switches(look),
    })
}

/// `weir limit`.
pub fn limit(args: &LimitArgs) -> ExitStatus {
    ended(match &args.command {
        LimitCommand::Set(args) => write::set(&Order {
            command: "limit set",
            kind: Kind::Limit,
            names: std::slice::from_ref(&args.name),
            settings: limit_settings(args),
            change: &args.change,
        }),
        LimitCommand::Unset(take) => write::unset("limit unset", Kind::Limit, take),
        LimitCommand::Ls(look) => ls::limits(look),
    })
}

/// `weir breaker`.
pub fn breaker(args: &BreakerArgs) -> ExitStatus {
    ended(match &args.command {
        BreakerCommand::Open(hold) => breaker::hold("breaker open", "open", hold),
        BreakerCommand::Close(hold) => breaker::hold("breaker close", "closed", hold),
        BreakerCommand::Auto(hold) => breaker::auto(hold),
        BreakerCommand::Ls(look) => ls::breakers(look),
    })
}

/// `weir plan`.
pub fn plan(args: &PlanArgs) -> ExitStatus {
    ended(match &args.command {
        PlanCommand::On(turn) => write::set(&turned("plan on", Kind::Plan, "on", turn)),
        PlanCommand::Off(turn) => write::set(&turned("plan off", Kind::Plan, "off", turn)),
        PlanCommand::Unset(take) => write::unset("plan unset", Kind::Plan, take),
        PlanCommand::Diff(preview) => diff::run(preview),
        PlanCommand::Ls(look) => ls::plans(look),
    })
}

fn turned<'a>(command: &'static str, kind: Kind, state: &str, turn: &'a Turn) -> Order<'a> {
    let settings = vec![("state", Value::String(state.to_owned()))];
    Order { command, kind, names: &turn.name, settings, change: &turn.change }
}

/// A rate or a state, and the burst.
fn limit_settings(args: &SetLimit) -> Vec<fields::Setting> {
    let field = |word: &str| {
        // The rule of the short form of a limit.
        let is_rate = word.contains('/') || word.starts_with(|c: char| c.is_ascii_digit());
        (if is_rate { "rate" } else { "state" }, Value::String(word.to_owned()))
    };
    let value = args.value.as_deref().map(|value| field(value.trim()));
    value.into_iter().chain(args.burst.map(|burst| ("burst", burst.into()))).collect()
}
