//! `weir policy`: live policy, looked at and changed, on etcd or a directory.
//!
//! - `place`: which store, and whose policy;
//! - `store`: one face for both kinds of store;
//! - `document`: what is written, with who, why and until when in it;
//! - `outlook`: what an instance would make of it, checked with the code that an instance has;
//! - `audit`: what is put down of a change;
//! - `write`, `confirm`: set, unset, confirm;
//! - `read`, `history`, `watch`: ls, get, diff, history, watch.

mod audit;
mod confirm;
pub(super) mod document;
mod history;
pub(super) mod outlook;
pub mod place;
pub(super) mod read;
pub(super) mod show;
pub(super) mod store;
mod watch;
pub(super) mod write;

use std::{path::PathBuf, time::Duration};

use self::place::{ScopeName, StoreArgs};
use super::{ExitStatus, Output, failure::ended};
use crate::store::key::Subject;

/// `weir policy`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What can be done with live policy.
#[derive(Debug, Clone, clap::Subcommand)]
pub enum Command {
    /// List the overlays of the fleet, the service and its instances.
    Ls(Ls),
    /// Show one resource: its overlays and, with a file, what is in force and where each field comes from.
    Get(Get),
    /// Write an overlay, after it was checked like an instance checks it.
    Set(Set),
    /// Delete an overlay: what lies below is in force again.
    Unset(Unset),
    /// Compare the overlay with a file; exit code 1 when they differ.
    Diff(Diff),
    /// Show who changed an overlay, when and why.
    History(History),
    /// Print changes as they come, until Ctrl-C.
    Watch(Watch),
    /// Apply what the instances hold back (a mass deletion, a store that came back otherwise).
    Confirm(Confirm),
}

/// The store, the scope, and how answers look.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Which store.
    #[command(flatten)]
    pub store: StoreArgs,
    /// Which layer: `_all` (the fleet), SERVICE, or SERVICE@INSTANCE [default: the service].
    #[arg(long, value_name = "SCOPE", value_parser = ScopeName::parse)]
    pub scope: Option<ScopeName>,
    /// How the answer looks: `text` for people, `json` for machines.
    #[arg(short, long, value_enum, default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// Who makes a change, and why.
#[derive(Debug, Clone, clap::Args)]
pub struct Signature {
    /// Who makes the change. Default: the user at this host.
    #[arg(long, value_name = "WHO")]
    pub by: Option<String>,
    /// Why.
    #[arg(long, value_name = "TEXT")]
    pub why: Option<String>,
}

/// Under which conditions a change is made.
#[derive(Debug, Clone, clap::Args)]
pub struct Conditions {
    /// Change it only if it was written last at this revision; 0 = only if it is not there. Without it: only if
    /// nobody changes it between the check and the write.
    #[arg(long, value_name = "R")]
    pub expect_revision: Option<i64>,
    /// Write also what instances will refuse.
    #[arg(long)]
    pub force: bool,
    /// Write nothing; show what would change.
    #[arg(long)]
    pub dry_run: bool,
}

/// `weir policy ls`.
#[derive(Debug, Clone, clap::Args)]
pub struct Ls {
    /// Only keys that begin with this: `switches`, `endpoints/inventory`.
    pub prefix: Option<String>,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// `weir policy get`.
#[derive(Debug, Clone, clap::Args)]
pub struct Get {
    /// Which: KIND/NAME, `endpoints/UPSTREAM/ID` or `bypass`.
    #[arg(value_name = "KIND/NAME", value_parser = subject)]
    pub subject: Subject,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// `weir policy set`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  weir policy set switches/no-recommendations on --why \"vendor is down\" --for 30m
  weir policy set limits/checkout 200/s
  weir policy set upstreams/inventory --field connect_timeout=200ms
  weir policy set endpoints/inventory/a 10.0.0.7:8080
  weir policy set bypass on --scope _all
  weir policy set routes/in -f in.yaml --dry-run

Exit codes: 0 it is written, 1 somebody else was faster or an active plan overrides it, 64 instances would refuse it, \
69 the store is not there.")]
pub struct Set {
    /// Which: KIND/NAME, `endpoints/UPSTREAM/ID` or `bypass`.
    #[arg(value_name = "KIND/NAME", value_parser = subject)]
    pub subject: Subject,
    /// YAML, JSON, or the short form of the kind: `on`, `25%`, `200/s`, `host:port`. `null` removes the resource.
    #[arg(required_unless_present_any = ["file", "field"], allow_hyphen_values = true)]
    pub value: Option<String>,
    /// A file with the value; `-` is standard input.
    #[arg(short, long, value_name = "FILE", conflicts_with = "value")]
    pub file: Option<PathBuf>,
    /// Set one field of the overlay and keep the others: `pool.max_pending=5`. Can be repeated.
    #[arg(long, value_name = "PATH=VALUE", conflicts_with_all = ["value", "file"])]
    pub field: Vec<String>,
    /// It holds for this long and then goes by itself: `30m`, at most 24h.
    #[arg(long = "for", value_name = "DURATION", value_parser = super::duration)]
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

/// `weir policy unset`.
#[derive(Debug, Clone, clap::Args)]
pub struct Unset {
    /// Which: KIND/NAME, `endpoints/UPSTREAM/ID` or `bypass`.
    #[arg(value_name = "KIND/NAME", value_parser = subject)]
    pub subject: Subject,
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

/// `weir policy diff`.
#[derive(Debug, Clone, clap::Args)]
pub struct Diff {
    /// Which: KIND/NAME, `endpoints/UPSTREAM/ID` or `bypass`.
    #[arg(value_name = "KIND/NAME", value_parser = subject)]
    pub subject: Subject,
    /// The file to compare with; `-` is standard input. Who wrote it, why and until when does not count.
    pub file: PathBuf,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// `weir policy history`.
#[derive(Debug, Clone, clap::Args)]
pub struct History {
    /// Which: KIND/NAME, `endpoints/UPSTREAM/ID` or `bypass`.
    #[arg(value_name = "KIND/NAME", value_parser = subject)]
    pub subject: Subject,
    /// The most entries, the newest first.
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub limit: usize,
    /// The store and the scope.
    #[command(flatten)]
    pub common: Common,
}

/// `weir policy watch`.
#[derive(Debug, Clone, clap::Args)]
pub struct Watch {
    /// The store and the scope; without `--scope` all three scopes.
    #[command(flatten)]
    pub common: Common,
}

/// `weir policy confirm`.
#[derive(Debug, Clone, clap::Args)]
pub struct Confirm {
    /// Do not ask. Without a terminal it is required.
    #[arg(short, long)]
    pub yes: bool,
    /// Who and why.
    #[command(flatten)]
    pub signature: Signature,
    /// The store and the scope: `_all` confirms for all services.
    #[command(flatten)]
    pub common: Common,
}

/// Does what the command line says.
pub fn run(args: &Args) -> ExitStatus {
    ended(match &args.command {
        Command::Ls(args) => read::ls(args),
        Command::Get(args) => read::get(args),
        Command::Set(args) => write::set(args),
        Command::Unset(args) => write::unset(args),
        Command::Diff(args) => read::diff(args),
        Command::History(args) => history::run(args),
        Command::Watch(args) => watch::run(args),
        Command::Confirm(args) => confirm::run(args),
    })
}

/// What can be named on the command line.
fn subject(text: &str) -> Result<Subject, String> {
    match Subject::parse(text) {
        Ok(Subject::Confirm) => Err("`weir policy confirm` writes this key".to_owned()),
        Ok(subject) => Ok(subject),
        Err(error) => Err(error.to_string()),
    }
}
