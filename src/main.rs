//! The `weir` binary.

use std::{io::Write, process::ExitCode};

use clap::Parser;
use weir::cli::{self, Cli, ExitStatus};

fn main() -> ExitCode {
    let status = cli::dispatch(Cli::parse().command).unwrap_or_else(|_| {
        let _ = writeln!(std::io::stderr(), "weir: this command is not in this build");
        ExitStatus::Unavailable
    });
    status.into()
}
