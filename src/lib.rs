//! Weir: a per-pod HTTP sidecar that keeps a service standing when something around it fails.

pub mod admin;
pub mod config;
pub mod error;
pub mod readiness;
pub mod telemetry;
