//! Weir: a per-pod HTTP sidecar that keeps a service standing when something around it fails.

pub mod admin;
pub mod app;
pub mod balance;
pub mod cli;
pub mod config;
pub mod control;
pub mod discovery;
pub mod drain;
pub mod error;
pub mod health;
pub mod http;
pub mod listener;
mod memory;
mod net;
pub mod policy;
mod proxy;
pub mod readiness;
pub mod route;
pub mod shared_rate;
pub mod snapshot;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod upstream;
pub mod worker;
