//! What is asked of an etcd, and what it answers.

use std::time::Duration;

use etcd_client::GetResponse;

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The whole key, byte for byte.
    pub key: Vec<u8>,
    /// The value.
    pub value: Vec<u8>,
    /// The revision at which it was written last.
    pub revision: i64,
    /// How often it was written since it was created.
    pub version: i64,
    /// The lease that it is under; 0 for none.
    pub lease: i64,
}

/// What a read found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Range {
    /// The cluster's id.
    pub cluster: u64,
    /// The revision that was read at.
    pub revision: i64,
    /// What is there, in order of key.
    pub items: Vec<Value>,
    /// How many there are; also when they were not asked for.
    pub count: u64,
    /// There are more than were asked for.
    pub more: bool,
}

/// What must be so for a transaction to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expect {
    /// The whole key.
    pub key: String,
    /// The revision of its last write; 0: it is not there.
    pub revision: i64,
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a key.
    Put {
        /// The whole key.
        key: String,
        /// Its value.
        value: Vec<u8>,
        /// The lease that it ends with.
        lease: Option<Lease>,
    },
    /// Deletes a key, if it is there.
    Delete {
        /// The whole key.
        key: String,
    },
}

/// Writes that are done together or not at all. No key may be written twice.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// All of this must hold.
    pub expect: Vec<Expect>,
    /// Then this is done, in one revision.
    pub writes: Vec<Write>,
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// It was done.
    Done {
        /// The revision of its writes.
        revision: i64,
    },
    /// Nothing was written: an expectation did not hold.
    Conflict {
        /// The store's revision.
        revision: i64,
        /// For each expectation, in order, what is there.
        found: Vec<Option<Value>>,
    },
}

/// A lease: keys under it go when it is not kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    /// Its id.
    pub id: i64,
    /// How long it lasts without being kept alive, as the store decided.
    pub ttl: Duration,
}

pub(super) fn range(GetResponse(answer): GetResponse) -> Range {
    let header = answer.header.unwrap_or_default();
    Range {
        cluster: header.cluster_id,
        revision: header.revision,
        more: answer.more && !answer.kvs.is_empty(),
        items: answer.kvs.into_iter().map(value).collect(),
        count: u64::try_from(answer.count).unwrap_or(0),
    }
}

pub(super) fn value(item: etcd_client::proto::PbKeyValue) -> Value {
    Value {
        key: item.key,
        value: item.value,
        revision: item.mod_revision,
        version: item.version,
        lease: item.lease,
    }
}
