//! What Weir tells about itself: metrics, logs, access records, the last requests of note.
//!
//! Nothing here may slow a request down. Metrics are handles that are resolved when a snapshot is compiled
//! and then cost a few nanoseconds ([`cells`]); lines go to a writer's thread through a bounded queue, and
//! are dropped and counted when it cannot follow.

pub mod access;
pub mod cells;
pub mod labels;
pub mod log;
pub mod metrics;
pub mod names;
mod process;
pub mod registry;
pub mod requests;
pub mod resources;
pub mod writer;

pub use access::{AccessLog, AccessRecord, AttemptRecord, Ended};
pub use cells::{Counter, Gauge, Held, Histogram, Share, UpDown, set_worker};
pub use labels::{
    BreakerState, ConnectionEnd, ConnectionRefusal, DropCause, EndpointState, LimitDecision, Outcome,
    PolicyKind, PolicySource, PoolState, ReloadResult, RetryOutcome, SwitchMode, UpdateResult, WaitCause,
};
pub use log::LogHandle;
pub use metrics::Metrics;
pub use requests::RecentRequests;
pub use resources::{
    BreakerMetrics, LimitMetrics, ListenerMetrics, PlanMetrics, RouteMetrics, SwitchMetrics, UpstreamMetrics,
};
pub use writer::FlushOnDrop;

use std::sync::Arc;

/// All that a request reports to.
#[derive(Debug)]
pub struct Telemetry {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// The access records.
    pub access: AccessLog,
    /// The last requests that Weir answered or retried itself.
    pub recent: RecentRequests,
}
