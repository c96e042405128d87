//! Where live policy comes from.
//!
//! A store holds a tree of keys ([`key`]) and tells what it holds ([`Event`]): first all of it, then every change, one
//! complete revision after the other, and in between the proof that nothing has changed. What that means for policy
//! is not its concern.

pub mod cache;
pub mod client;
pub mod directory;
pub mod etcd;
pub mod guard;
pub mod key;
pub mod layers;
pub mod presence;
pub mod watch;

use std::{sync::Arc, time::Instant};

use bytes::Bytes;

/// The longest value that is taken, in bytes. Stores that cut longer ones off leave one byte more, so that it shows.
pub const MAX_VALUE: usize = 256 << 10;

/// The most keys of a scope that are taken. Stores that stop counting leave one more, so that it shows.
pub const MAX_KEYS: usize = 10_000;

/// A key and its value, as they stand in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    /// The key below `<root>/policy/`: `orders/switches/no-recommendations`. Bytes of a store's key that are no
    /// UTF-8 are replaced (U+FFFD), which makes it a key that is refused.
    pub key: Arc<str>,
    /// The value, as it was written.
    pub value: Bytes,
    /// The revision at which it was written last.
    pub revision: i64,
}

/// A key that was written or deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key, as in [`Item::key`].
    pub key: Arc<str>,
    /// Its new value; `None` when it was deleted.
    pub value: Option<Bytes>,
    /// The revision of the change.
    pub revision: i64,
}

/// Everything that the three scopes of an instance hold, at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Content {
    /// Which store this is: etcd's cluster id; what identifies a directory.
    pub cluster: u64,
    /// The revision of the read.
    pub revision: i64,
    /// All items, in order of key.
    pub items: Vec<Item>,
}

/// Why everything was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadCause {
    /// The first read of this process.
    Start,
    /// What we had not seen yet was compacted away.
    Compaction,
    /// The cluster is another one.
    NewCluster,
    /// The store's revision ran backwards: it was restored to an older state.
    Regression,
    /// The watch was refused or ended for another reason than those.
    Lost,
    /// It is read regularly (a directory).
    Poll,
}

/// What a store tells, in order.
#[derive(Debug, Clone)]
pub enum Event {
    /// Everything, anew: it replaces all that was told before.
    Read {
        /// What is there.
        content: Content,
        /// Why it was read.
        cause: ReadCause,
        /// When it had been read.
        at: Instant,
    },
    /// All changes of all revisions after the last one told, up to and including `revision`; never a part of one.
    Changed {
        /// The revision whose state they lead to: that of the last of them, or a later one that changed nothing else
        /// of ours.
        revision: i64,
        /// The changes in order of revision. A key may occur more than once.
        changes: Vec<Change>,
        /// When the first of them had come.
        at: Instant,
    },
    /// Nothing but what was told had changed at `revision`.
    Proven {
        /// The store's own revision then; it counts the changes of everybody, so that it may be far ahead.
        revision: i64,
        /// When the store said so.
        at: Instant,
    },
    /// The keys that cannot be read at present, and why; they keep the value that was told last. It replaces what was
    /// said before; only a directory has such keys.
    Faults {
        /// Each key with what is wrong, in order of key.
        faults: Vec<(Arc<str>, String)>,
    },
    /// The connection is there.
    Connected {
        /// The member, as configured.
        endpoint: String,
    },
    /// The connection is gone, or could not be made; the store goes on trying by itself.
    Disconnected {
        /// A word for metrics.
        cause: Lost,
        /// What happened, for people.
        error: String,
    },
}

/// Why a connection to the store ended or did not come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lost {
    /// No member took the connection.
    Connect,
    /// TLS failed, or a certificate was not accepted.
    Tls,
    /// User, password or token.
    Auth,
    /// The member has no leader, or is no member any more.
    Leader,
    /// Nothing was heard for too long.
    Stalled,
    /// The stream or the connection broke.
    Broken,
    /// The store answered what it should not.
    Protocol,
}

impl Lost {
    /// Every cause.
    pub const ALL: &'static [Self] =
        &[Self::Connect, Self::Tls, Self::Auth, Self::Leader, Self::Stalled, Self::Broken, Self::Protocol];

    /// Its word in metrics and `/status`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::Tls => "tls",
            Self::Auth => "auth",
            Self::Leader => "leader",
            Self::Stalled => "stalled",
            Self::Broken => "broken",
            Self::Protocol => "protocol",
        }
    }
}

impl ReadCause {
    /// Every cause.
    pub const ALL: &'static [Self] =
        &[Self::Start, Self::Compaction, Self::NewCluster, Self::Regression, Self::Lost, Self::Poll];

    /// Its word in metrics and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Compaction => "compaction",
            Self::NewCluster => "new_cluster",
            Self::Regression => "regression",
            Self::Lost => "lost",
            Self::Poll => "poll",
        }
    }
}
