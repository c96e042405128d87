//! The programs that the bench needs and nobody packages: two floors to compare with (a layer-4 forwarder and a bare
//! hyper proxy), an origin that takes its time, a load with a constant arrival rate, and a certificate.
//!
//! `make bench` builds and runs them; see `benches/run.py`. They have Weir's allocator and release profile, so that the
//! bare proxy is what Weir would cost without everything that makes it Weir.

#![expect(
    clippy::print_stdout,
    clippy::expect_used,
    reason = "programs of the bench: to fail loudly is right"
)]

mod bare;
mod cert;
mod histogram;
mod l4;
mod load;
mod origin;
mod pool;
mod serve;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What `benches/run.py` starts.
#[derive(Debug, Parser)]
struct Arguments {
    /// What `cargo bench` says; nothing is measured then.
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    tool: Option<Tool>,
}

#[derive(Debug, Subcommand)]
enum Tool {
    /// Forwards bytes.
    L4(l4::Arguments),
    /// Forwards HTTP without any policy: the floor.
    Bare(bare::Arguments),
    /// Answers, after a time.
    Origin(origin::Arguments),
    /// Sends requests at a constant rate and prints their latencies as JSON.
    Load(load::Arguments),
    /// Writes cert.pem and key.pem for 127.0.0.1 into a folder.
    Cert(cert::Arguments),
}

fn main() {
    match Arguments::parse().tool {
        Some(Tool::L4(arguments)) => l4::run(&arguments),
        Some(Tool::Bare(arguments)) => bare::run(&arguments),
        Some(Tool::Origin(arguments)) => origin::run(&arguments),
        Some(Tool::Load(arguments)) => load::run(&arguments),
        Some(Tool::Cert(arguments)) => cert::run(&arguments),
        None => println!("tools of `make bench`; nothing to do by themselves"),
    }
}
