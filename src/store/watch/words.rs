//! What the watch and its driver say to each other.

use bytes::Bytes;

use crate::store::{Event, Lost, key::Scope};

/// One connection to one member, with everything on it. Never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneId(pub u64);

/// A change as it came, or an item of a read (which always has a value).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The range that it came from.
    pub scope: Scope,
    /// The key below `<root>/policy/`, byte for byte.
    pub key: Bytes,
    /// The value; `None` when the key was deleted.
    pub value: Option<Bytes>,
    /// The revision of the change, or that of the last write.
    pub revision: i64,
}

/// One message of a watch stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    /// Which of the three watches; -1 for all of them.
    pub watch: i64,
    /// The cluster's id; 0 when it was not said.
    pub cluster: u64,
    /// The revision of the member that sent this.
    pub revision: i64,
    /// An answer to the opening of one watch.
    pub created: bool,
    /// The watch has ended, or was never begun (`created` is set too then).
    pub canceled: bool,
    /// Not 0: what came before this revision is gone.
    pub compacted: i64,
    /// What was wrong, when canceled for a fault.
    pub fault: Option<Failure>,
    /// More of the same revision follows for the same watch.
    pub fragment: bool,
    /// The changes, in order of revision.
    pub changes: Vec<Entry>,
}

/// A page of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The cluster's id.
    pub cluster: u64,
    /// Its items, in order of key.
    pub items: Vec<Entry>,
    /// There is more in this range.
    pub more: bool,
}

/// Which store this is, and how far it is; read linearizably, so that no member that lags behind can answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The cluster's id.
    pub cluster: u64,
    /// The store's revision.
    pub revision: i64,
}

/// What the three ranges hold at one revision, as far as it takes a few numbers to say; read linearizably.
///
/// A range's changes come in order. So whoever has seen the newest write of a range, and counts as many keys as there
/// are, has seen everything up to that revision. It costs the store work for every key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audit {
    /// Which store, and at which revision.
    pub head: Head,
    /// The revision that [`Seen::kept`] speaks of.
    pub since: Option<i64>,
    /// For each scope, what is there.
    pub ranges: [Seen; 3],
}

/// What an [`Audit`] says of one range.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// The newest revision at which a key that is there was written; 0 when there is none.
    pub newest: i64,
    /// How many keys there are.
    pub count: u64,
    /// The same as `newest`, of the keys that have not been written after [`Audit::since`]; 0 when that was not asked. In
    /// a store that was restored and has gone on, what was written between is missing here.
    pub kept: i64,
}

/// A server's version: major, minor, patch. Zeroes when it did not say.
pub type Version = (u16, u16, u16);

/// What the driver has to report.
#[derive(Debug, Clone)]
pub enum Input {
    /// The connection is there.
    Dialed(LaneId),
    /// The user is authenticated, or needs no authentication.
    Authenticated(LaneId),
    /// The answer to [`Action::Probe`].
    Probed(LaneId, Version, Head),
    /// The answer to [`Action::Glance`] with this number.
    Glanced(LaneId, u64, Head),
    /// The answer to [`Action::Audit`] with this number.
    Audited(LaneId, u64, Audit),
    /// The answer to [`Action::Page`].
    Page(LaneId, Page),
    /// A message of the watch stream.
    Message(LaneId, Message),
    /// Something failed.
    Failed(LaneId, Step, Failure),
    /// Somebody wants a proof at once.
    Nudge,
    /// Time has passed.
    Tick,
}

/// What failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The connection.
    Dial,
    /// The authentication.
    Authenticate,
    /// The probe.
    Probe,
    /// The glance or the audit.
    Audit,
    /// The page.
    Page,
    /// The watch stream, at its opening or later.
    Watch,
}

/// Why something failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What sort of failure it is.
    pub kind: FailureKind,
    /// For people: which endpoint, and what would be right.
    pub text: String,
}

/// The sorts of failures that are answered differently.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// A reason to try another member later.
    Lost(Lost),
    /// The token has expired or is not known any more; a new one may help.
    Token,
    /// The revision that was asked for is compacted.
    Compacted,
    /// The answer is larger than is read.
    TooLarge,
}

/// What the driver has to do.
#[derive(Debug, Clone)]
pub enum Action {
    /// Connect to a member (by its place in the list); what is done on this connection has this id.
    Dial(LaneId, usize),
    /// Get a new token.
    Authenticate(LaneId),
    /// Ask for the version, and for the [`Head`].
    Probe(LaneId),
    /// Ask for the [`Head`]; the answer carries the number.
    Glance(LaneId, u64),
    /// Ask for an [`Audit`], since a revision where one is given; the answer carries the number.
    Audit(LaneId, u64, Option<i64>),
    /// Read a page.
    Page(LaneId, PageRequest),
    /// Open one stream with a watch for each scope, from this revision on, with fragments. A stream that is open on
    /// this lane is dropped.
    Watch(LaneId, i64),
    /// Ask the stream for its progress.
    Progress(LaneId),
    /// Drop the connection and everything on it.
    Close(LaneId),
    /// Tell this.
    Tell(Event),
}

/// Which page to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageRequest {
    /// Of which range.
    pub scope: Scope,
    /// From this key on (below `<root>/policy/`); `None`: from the range's first.
    pub from: Option<Bytes>,
    /// At this revision.
    pub revision: i64,
    /// That many items at most.
    pub limit: i64,
    /// Without values: the one item is larger than is read.
    pub keys_only: bool,
}
