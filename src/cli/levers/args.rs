//! What the levers take on the command line.

use std::time::Duration;

use crate::{
    cli::{
        duration,
        policy::{Common, Conditions, Signature, place},
    },
    config::Name,
};

/// `weir switch`.
#[derive(Debug, Clone, clap::Args)]
pub struct SwitchArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: SwitchCommand,
}

/// What can be done with switches.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum SwitchCommand {
    /// Turn switches on: they act on the requests that match them.
    #[command(after_help = "Examples:
  weir switch on no-recommendations --why \"vendor is down\" --for 30m
  weir switch on no-recommendations no-reviews        # both in one revision
  weir switch on no-recommendations --scope orders@pod-1 --dry-run

Other fields of the overlay stay. Exit codes: 0 it is written, 1 there is no such switch, somebody else was faster, or an \
active plan overrides it, 64 instances would refuse it, 69 the store is not there.")]
    On(Turn),
    /// Turn switches off, whatever the layers below say.
    Off(Turn),
    /// Set a switch to `on`, `off`, `observe`, `auto` or a percentage.
    #[command(after_help = "Examples:
  weir switch set no-recommendations 25%        # sticky: who is in stays in when it grows
  weir switch set no-recommendations observe    # counts what it would do
  weir switch set no-recommendations auto       # its `when:` decides")]
    Set(SetSwitch),
    /// Take the overlay's state back: the layers below decide again. Other fields of the overlay stay.
    #[command(after_help = "Examples:
  weir switch unset no-recommendations
  weir switch unset no-recommendations --scope _all")]
    Unset(Take),
    /// List switches: their state, where it comes from, and what they did in the last minute.
    #[command(after_help = "Examples:
  weir switch ls
  weir switch ls --admin http://127.0.0.1:9901    # with the hits of that instance
  weir switch ls -o json")]
    Ls(Look),
}

/// `weir limit`.
#[derive(Debug, Clone, clap::Args)]
pub struct LimitArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: LimitCommand,
}

/// What can be done with limits.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum LimitCommand {
    /// Set a limit's rate, or turn it `on`, `off` or to `observe`.
    #[command(after_help = "Examples:
  weir limit set checkout 200/s --why \"the database drowns\" --for 30m
  weir limit set checkout 200/s --burst 50
  weir limit set checkout observe               # counts what it would refuse

Other fields of the overlay stay. Exit codes: 0 it is written, 1 there is no such limit, somebody else was faster, or an \
active plan overrides it, 64 instances would refuse it, 69 the store is not there.")]
    Set(SetLimit),
    /// Take the overlay's rate, burst and state back: the layers below decide again. Other fields of the overlay stay.
    #[command(after_help = "Example:
  weir limit unset checkout")]
    Unset(Take),
    /// List limits: their rate, where it comes from, and what they granted and refused in the last minute.
    #[command(after_help = "Examples:
  weir limit ls
  weir limit ls --admin http://127.0.0.1:9901    # with the decisions of that instance")]
    Ls(Look),
}

/// `weir breaker`.
#[derive(Debug, Clone, clap::Args)]
pub struct BreakerArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: BreakerCommand,
}

/// What can be done with breakers.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum BreakerCommand {
    /// Hold breakers open: nothing is sent to these upstreams, their fallbacks answer.
    #[command(after_help = "Examples:
  weir breaker open inventory --why \"it corrupts data\" --for 10m
  weir breaker open inventory --route stock     # for the requests of one route alone

Other fields of the overlay stay. Exit codes: 0 it is written, 1 there is no such upstream, somebody else was faster, or \
an active plan overrides it, 64 instances would refuse it, 69 the store is not there.")]
    Open(Hold),
    /// Hold breakers closed: they let everything through.
    #[command(after_help = "Example:
  weir breaker close inventory --for 5m")]
    Close(Hold),
    /// Let breakers open and close by themselves again: takes the overlay's mode back, or writes `auto` where a layer
    /// below says otherwise.
    #[command(after_help = "Example:
  weir breaker auto inventory")]
    Auto(Hold),
    /// List breakers: their mode, where it comes from, and what they see.
    #[command(after_help = "Examples:
  weir breaker ls
  weir breaker ls --admin http://127.0.0.1:9901    # with state and failures at that instance")]
    Ls(Look),
}

/// `weir plan`.
#[derive(Debug, Clone, clap::Args)]
pub struct PlanArgs {
    /// What to do.
    #[command(subcommand)]
    pub command: PlanCommand,
}

/// What can be done with plans.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum PlanCommand {
    /// Turn plans on: all their changes are in force at once.
    #[command(after_help = "Examples:
  weir plan diff flash-sale                     # first see what it would change
  weir plan on flash-sale --why \"sale at noon\" --for 2h

Exit codes: 0 it is written, 1 there is no such plan or somebody else was faster, 64 instances would refuse it, 69 the \
store is not there.")]
    On(Turn),
    /// Turn plans off: what they changed is as it was.
    Off(Turn),
    /// Take the overlay's state back: the layers below decide whether the plan is on.
    Unset(Take),
    /// Show every change that turning a plan on would make, or off when it is on. Writes nothing.
    #[command(after_help = "Examples:
  weir plan diff flash-sale
  weir plan diff flash-sale -o json

It tells too what stays because a higher layer says otherwise, with which plans that are on it collides, and what \
instances would refuse (then the exit code is 64).")]
    Diff(Preview),
    /// List plans: whether they are on, what they touch, and with which plans that are on they collide.
    #[command(after_help = "Example:
  weir plan ls")]
    Ls(Look),
}

/// Turning something on or off.
#[derive(Debug, Clone, clap::Args)]
pub struct Turn {
    /// Which. Several are changed in one revision, or none of them.
    #[arg(required = true, num_args = 1..=MOST, value_parser = place::name)]
    pub name: Vec<Name>,
    /// How.
    #[command(flatten)]
    pub change: Change,
}

/// The most names in one command: what is changed at once fits into one transaction of etcd.
const MOST: usize = 50;

/// `weir switch set`.
#[derive(Debug, Clone, clap::Args)]
pub struct SetSwitch {
    /// Which.
    #[arg(value_parser = place::name)]
    pub name: Name,
    /// `on`, `off`, `observe`, `auto` or a percentage such as `25%`.
    #[arg(value_name = "STATE")]
    pub state: String,
    /// How.
    #[command(flatten)]
    pub change: Change,
}

/// `weir limit set`.
#[derive(Debug, Clone, clap::Args)]
pub struct SetLimit {
    /// Which.
    #[arg(value_parser = place::name)]
    pub name: Name,
    /// A rate such as `200/s` or `30/m`, or `on`, `off` or `observe`.
    #[arg(value_name = "RATE|STATE", required_unless_present = "burst")]
    pub value: Option<String>,
    /// How many may come at once above the rate. Without it the burst stays as the layers say it.
    #[arg(long, value_name = "N")]
    pub burst: Option<u32>,
    /// How.
    #[command(flatten)]
    pub change: Change,
}

/// Holding a breaker in a mode.
#[derive(Debug, Clone, clap::Args)]
pub struct Hold {
    /// Whose breaker. Several are changed in one revision, or none of them.
    #[arg(value_name = "UPSTREAM", required = true, num_args = 1..=MOST, value_parser = place::name)]
    pub name: Vec<Name>,
    /// Only for requests of this route, which has a breaker of its own then.
    #[arg(long, value_name = "ROUTE", value_parser = place::name)]
    pub route: Option<Name>,
    /// How.
    #[command(flatten)]
    pub change: Change,
}

/// Taking something back.
#[derive(Debug, Clone, clap::Args)]
pub struct Take {
    /// Which. Several are changed in one revision, or none of them.
    #[arg(required = true, num_args = 1..=MOST, value_parser = place::name)]
    pub name: Vec<Name>,
    /// Who and why.
    #[command(flatten)]
    pub signature: Signature,
    /// When.
    #[command(flatten)]
    pub conditions: Conditions,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// How a change is made.
#[derive(Debug, Clone, clap::Args)]
pub struct Change {
    /// It holds for this long and then goes by itself: `30m`, at most 24h. The end is the whole overlay's.
    #[arg(long = "for", value_name = "DURATION", value_parser = duration)]
    pub duration: Option<Duration>,
    /// Who and why.
    #[command(flatten)]
    pub signature: Signature,
    /// When.
    #[command(flatten)]
    pub conditions: Conditions,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// `weir plan diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct Preview {
    /// Which.
    #[arg(value_parser = place::name)]
    pub name: Name,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// `weir switch ls` and the other lists.
#[derive(Debug, Clone, clap::Args)]
pub struct Look {
    /// An instance's admin interface, such as `http://127.0.0.1:9901`: what it did in the last minute is shown too. Default:
    /// the one that the file names, if that instance answers there.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}
