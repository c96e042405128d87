//! Writes to a real etcd, and reads its history.

use std::{collections::BTreeMap, time::Duration};

use etcd_client::{
    Client, Compare, CompareOp, ConnectOptions, DeleteOptions, GetOptions, Txn, TxnOp, TxnOpResponse,
};
use weir::store::watch::MAX_VALUE_BYTES;

use super::{driver, wait_for};

/// Keys below `/weir/policy/` and their values.
pub type State = BTreeMap<String, Vec<u8>>;

/// Writes to etcd, on a connection of its own.
#[derive(Clone)]
pub struct Writer(pub Client);

impl Writer {
    #[track_caller]
    pub fn connect(endpoint: String) -> Self {
        Self::with(endpoint, ConnectOptions::new())
    }

    #[track_caller]
    pub fn with(endpoint: String, options: ConnectOptions) -> Self {
        let options = options.with_timeout(Duration::from_secs(5));
        driver::run(async move { Self(Client::connect([endpoint], Some(options)).await.unwrap()) })
    }

    /// Puts `/weir/policy/<key>`; tries until etcd takes it. Gives the revision.
    #[track_caller]
    pub fn put(&self, key: &str, value: impl Into<Vec<u8>>) -> i64 {
        let (key, value) = (format!("/weir/policy/{key}"), value.into());
        wait_for("a put", || {
            let (mut client, key, value) = (self.0.clone(), key.clone(), value.clone());
            driver::run(async move {
                client.put(key, value, None).await.ok().map(|put| put.header().unwrap().revision())
            })
        })
    }

    #[track_caller]
    pub fn delete(&self, key: &str) -> i64 {
        self.transaction(vec![TxnOp::delete(format!("/weir/policy/{key}"), None)])
    }

    /// Deletes everything below `/weir/policy/<prefix>`, in one revision.
    #[track_caller]
    pub fn delete_all(&self, prefix: &str) -> i64 {
        let options = DeleteOptions::new().with_prefix();
        self.transaction(vec![TxnOp::delete(format!("/weir/policy/{prefix}"), Some(options))])
    }

    /// Does all of this in one revision, and never twice; tries until etcd takes it.
    ///
    /// A cluster that loses its leader may do long after what it gave no answer to. So each one leaves a mark, outside
    /// of policy, and is not done where its mark is already there.
    #[track_caller]
    pub fn transaction(&self, mut operations: Vec<TxnOp>) -> i64 {
        let mark = format!("/test/{:032x}", fastrand::u128(..));
        operations.push(TxnOp::put(mark.clone(), "done", None));
        let new = Compare::version(mark.clone(), CompareOp::Equal, 0);
        let found = TxnOp::get(mark, None);
        let txn = Txn::new().when([new]).and_then(operations).or_else([found]);
        wait_for("a transaction", || {
            let (mut client, txn) = (self.0.clone(), txn.clone());
            driver::run(async move {
                let done = client.txn(txn).await.ok()?;
                if done.succeeded() {
                    return Some(done.header().unwrap().revision());
                }
                match done.op_responses().pop() {
                    Some(TxnOpResponse::Get(mark)) => Some(mark.kvs()[0].mod_revision()),
                    other => panic!("{other:?}"),
                }
            })
        })
    }

    /// The keys of the three scopes at a revision, with the revision of each one's last write. `confirm` keys and
    /// `bypass` are no overlays, and left out.
    #[track_caller]
    pub fn written(&self, revision: i64) -> BTreeMap<String, i64> {
        let mut client = self.0.clone();
        driver::run(async move {
            let mut written = BTreeMap::new();
            for scope in ["_all/", "orders/", "orders@pod-1/"] {
                let options = GetOptions::new().with_prefix().with_keys_only().with_revision(revision);
                let answer = client.get(format!("/weir/policy/{scope}"), Some(options)).await.unwrap();
                for item in answer.kvs() {
                    let key = String::from_utf8_lossy(&item.key()["/weir/policy/".len()..]).into_owned();
                    if !key.ends_with("/confirm") && !key.ends_with("/bypass") {
                        written.insert(key, item.mod_revision());
                    }
                }
            }
            written
        })
    }

    #[track_caller]
    pub fn compact(&self, revision: i64) {
        let mut client = self.0.clone();
        driver::run(async move {
            client.compact(revision, None).await.unwrap();
        });
    }

    /// What the three scopes held at a revision, as it is told: long values cut.
    #[track_caller]
    pub fn history(&self, revision: i64) -> State {
        let mut client = self.0.clone();
        driver::run(async move {
            let mut state = State::new();
            for scope in ["_all/", "orders/", "orders@pod-1/"] {
                let options = GetOptions::new().with_prefix().with_revision(revision);
                let answer = client.get(format!("/weir/policy/{scope}"), Some(options)).await.unwrap();
                for item in answer.kvs() {
                    let key = String::from_utf8_lossy(&item.key()["/weir/policy/".len()..]).into_owned();
                    let length = item.value().len().min(MAX_VALUE_BYTES + 1);
                    state.insert(key, item.value()[..length].to_vec());
                }
            }
            state
        })
    }
}

/// A put as a part of a transaction.
pub fn put(key: &str, value: &str) -> TxnOp {
    TxnOp::put(format!("/weir/policy/{key}"), value, None)
}
