//! Weir: a per-pod HTTP sidecar that keeps a service standing when something around it fails.

pub mod cli;
pub mod config;
pub mod error;
