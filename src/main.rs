//! The `weir` binary: arguments in, exit code out.

use std::process::ExitCode;

use clap::Parser;
use weir::cli::{self, Cli};

fn main() -> ExitCode {
    cli::dispatch(Cli::parse().command).into()
}
