//! `weir check`: all faults of a file, and of live documents over it, at once.

use std::io::IsTerminal;

use super::{ConfigArgs, ExitStatus, Output, overlays, print, source};
use crate::config::{File, Loaded, Severity};

/// `weir check`.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// Where the file is; `-` is standard input.
    #[command(flatten)]
    pub config: ConfigArgs,
    /// A live document to check over the file, without a store: the key that it is for, and where it lies
    /// (`orders/switches/x=x.yaml`). Without a scope the key is the service's. Can be repeated, or list several.
    #[arg(long, value_name = "KEY=FILE", num_args = 1.., value_parser = overlays::Overlay::parse)]
    pub overlay: Vec<overlays::Overlay>,
    /// How faults look: `text` for people, `json` for editors and CI (an array).
    #[arg(short, long, value_enum, default_value_t, hide_possible_values = true)]
    pub output: Output,
}

/// Checks the file and prints what is wrong with it, or one line of what it is.
pub fn run(args: &Args) -> ExitStatus {
    let alone = !args.overlay.is_empty() && args.config.is_default() && !args.config.config.exists();
    let mut loaded = if alone { overlays::nothing() } else { source::load_file(&args.config.config) };
    overlays::check(&args.overlay, &mut loaded);
    let written = match args.output {
        Output::Json => print(format!("{:#}\n", loaded.to_json()).as_bytes()),
        Output::Text => {
            let mut text = loaded.render(wants_colour(&std::io::stdout()));
            let name = source::name(&args.config.config);
            if alone || (!args.overlay.is_empty() && loaded.file.is_some()) {
                text.push_str(&overlays::summary(&args.overlay, &loaded, (!alone).then_some(&name)));
            } else {
                text.push_str(&summary(&name, &loaded));
            }
            print(text.as_bytes())
        }
    };
    let bad = loaded.faults.any_error() || (loaded.file.is_none() && !alone);
    if bad { ExitStatus::BadConfig } else { written }
}

/// Whether `stream` is a terminal whose owner wants colour (see no-color.org).
pub fn wants_colour(stream: &impl IsTerminal) -> bool {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    !refused && stream.is_terminal()
}

fn summary(name: &str, loaded: &Loaded) -> String {
    let (errors, warnings) = (loaded.faults.count(Severity::Error), loaded.faults.count(Severity::Warning));
    match &loaded.file {
        None => format!("{name}: {}, {}\n", counted(errors, "error"), counted(warnings, "warning")),
        Some(File { bootstrap, policy, .. }) => {
            let parts = [
                counted(bootstrap.listeners.len(), "listener"),
                counted(policy.upstreams.len(), "upstream"),
                counted(policy.routes.len(), "route"),
            ];
            let warnings =
                if warnings == 0 { String::new() } else { format!("; {}", counted(warnings, "warning")) };
            format!("{name}: fine: service {}, {}{warnings}\n", bootstrap.service, parts.join(", "))
        }
    }
}

pub(super) fn counted(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
