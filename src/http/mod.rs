//! Message mechanics without policy.

pub mod grpc;
