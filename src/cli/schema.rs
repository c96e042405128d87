//! `weir schema`: the JSON Schema of the file.

use super::{ExitStatus, print};
use crate::config;

/// Prints it.
pub fn run() -> ExitStatus {
    print(text().as_bytes())
}

/// The schema as it is checked in.
pub fn text() -> String {
    format!("{:#}\n", config::schema())
}
