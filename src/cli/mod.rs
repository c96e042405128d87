//! The command line: one file per command, each a client of the parts of the library.

pub mod check;
mod child;
pub mod demo;
mod failure;
pub mod levers;
pub mod overlays;
pub mod policy;
pub mod remote;
pub mod run;
pub mod schema;
pub mod source;
mod table;
pub mod wait;

use std::{ffi::OsString, io::Write, path::PathBuf, process::ExitCode, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::config::units;

/// A per-pod HTTP sidecar that keeps a service standing when something around it fails.
#[derive(Debug, Parser)]
#[command(
    name = "weir",
    version,
    propagate_version = true,
    arg_required_else_help = true,
    after_help = "Exit codes: 0 fine, 1 the answer is no, 2 wrong usage, 64 bad configuration, 69 something that was needed is not there."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Carry traffic; with COMMAND also start the application, and stop with it.
    Run(RunArgs),
    /// Check a file: all faults at once, each with its place and what would be right.
    Check(check::Args),
    /// Look at live policy, and change it.
    Policy(policy::Args),
    /// Turn degradation switches on and off, and see what they do.
    Switch(levers::SwitchArgs),
    /// Change rate limits, and see what they do.
    Limit(levers::LimitArgs),
    /// Hold circuit breakers open or closed, and see what they do.
    Breaker(levers::BreakerArgs),
    /// Turn plans on and off: sets of changes that go together.
    Plan(levers::PlanArgs),
    /// Wait until every instance has a revision of live policy.
    Wait(wait::Args),
    /// Print the JSON Schema of the file.
    Schema,
    /// Show three toy instances behind a Weir under load, on this machine.
    Demo(demo::Args),
    /// Drain the inbound side of a running Weir.
    Drain(AdminArgs),
    /// Show what a running Weir is doing.
    Status(AdminArgs),
    /// Print the completions of a shell.
    Completions(CompletionsArgs),
    /// Print the manual page.
    Man,
}

/// Where the file is.
#[derive(Debug, Clone, Args)]
pub struct ConfigArgs {
    /// Weir's file; `-` is standard input.
    #[arg(short, long, value_name = "FILE", env = "WEIR_CONFIG", default_value = "weir.yaml")]
    pub config: PathBuf,
}

impl ConfigArgs {
    /// Whether it is the file that is looked for when nobody names one.
    fn is_default(&self) -> bool {
        self.config == std::path::Path::new("weir.yaml")
    }
}

/// `weir run`.
#[derive(Debug, Clone, Args)]
pub struct RunArgs {
    /// Where the file is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// The application to start, with its arguments: PORT tells it where to listen, signals are passed on, and its
    /// exit code becomes Weir's.
    #[arg(last = true, value_name = "COMMAND")]
    pub command: Vec<OsString>,
}

/// Commands that talk to a running Weir.
#[derive(Debug, Clone, Args)]
pub struct AdminArgs {
    /// The instance's admin interface, such as `http://127.0.0.1:9901`. Default: the one that the file names; without a
    /// file, that address.
    #[arg(long, value_name = "URL")]
    pub admin: Option<String>,
    /// Where the file is.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// How the answer looks: `text` for people, `json` for machines.
    #[arg(short, long, value_enum, default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// `weir completions`.
#[derive(Debug, Clone, Copy, Args)]
pub struct CompletionsArgs {
    /// The shell.
    #[arg(value_enum)]
    pub shell: Shell,
}

/// How an answer looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For machines.
    Json,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExitStatus {
    /// 0: fine.
    Fine,
    /// 1: the answer is no.
    No,
    /// 2: the command line is wrong.
    Usage,
    /// 64: the configuration is bad.
    BadConfig,
    /// 69: something that was needed is not there.
    Unavailable,
    /// What a wrapped command ended with.
    Wrapped(u8),
}

impl ExitStatus {
    /// The number that the process exits with.
    pub const fn code(self) -> u8 {
        match self {
            Self::Fine => 0,
            Self::No => 1,
            Self::Usage => 2,
            Self::BadConfig => 64,
            Self::Unavailable => 69,
            Self::Wrapped(code) => code,
        }
    }
}

impl From<ExitStatus> for ExitCode {
    fn from(status: ExitStatus) -> Self {
        Self::from(status.code())
    }
}

/// Does what the command line says.
pub fn dispatch(command: Command) -> ExitStatus {
    match command {
        Command::Run(args) => run::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Policy(args) => policy::run(&args),
        Command::Switch(args) => levers::switch(&args),
        Command::Limit(args) => levers::limit(&args),
        Command::Breaker(args) => levers::breaker(&args),
        Command::Plan(args) => levers::plan(&args),
        Command::Wait(args) => wait::run(&args),
        Command::Schema => schema::run(),
        Command::Demo(args) => ExitStatus::Wrapped(demo::run(&args)),
        Command::Drain(args) => remote::drain(&args),
        Command::Status(args) => remote::status(&args),
        Command::Completions(args) => completions(args),
        Command::Man => man(),
    }
}

fn completions(args: CompletionsArgs) -> ExitStatus {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "weir", &mut script);
    print(&script)
}

/// The page of `weir`, and behind it that of each command.
fn man() -> ExitStatus {
    let mut page = Vec::new();
    let mut command = Cli::command().disable_help_subcommand(true);
    command.build();
    if pages(&command, &mut page).is_ok() { print(&page) } else { ExitStatus::No }
}

fn pages(command: &clap::Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    clap_mangen::Man::new(command.clone()).render(page)?;
    command.get_subcommands().filter(|sub| sub.get_name() != "help").try_for_each(|sub| pages(sub, page))
}

/// Writes an answer. A reader that has gone away (`weir man | head`) is no error.
pub(crate) fn print(text: &[u8]) -> ExitStatus {
    let mut out = std::io::stdout().lock();
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => ExitStatus::No,
        _ => ExitStatus::Fine,
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    units::duration(text).map_err(|problem| match problem.help {
        Some(help) => format!("{}; {help}", problem.message),
        None => problem.message,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
        let cli = Cli::try_parse_from(["weir", "run", "-c", "a.yaml", "--", "app", "--flag"]).unwrap();
        let Command::Run(args) = cli.command else { panic!("not run") };
        assert_eq!(args.config.config, PathBuf::from("a.yaml"));
        assert_eq!(args.command, ["app", "--flag"]);
        let cli = Cli::try_parse_from(["weir", "demo", "--for", "20s"]).unwrap();
        assert!(
            matches!(cli.command, Command::Demo(demo::Args { duration: Some(d), .. }) if d == Duration::from_secs(20))
        );
        assert!(Cli::try_parse_from(["weir", "demo", "--for", "20"]).is_err());
    }
}
