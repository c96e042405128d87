//! A client of etcd for single calls: what the command line and presence need.
//!
//! It uses one member at a time and goes to the next one when that fails. What only reads is tried on every member;
//! what writes is tried on another one only where nothing can have been written.

mod error;
mod words;

use std::{future::Future, time::Duration};

pub use error::ClientError;
use etcd_client::{
    Client as Raw, Compare, CompareOp, Error, GetOptions, GetResponse, PutOptions, Txn, TxnOp, TxnOpResponse,
};
pub use words::{Committed, Expect, Lease, Range, Transaction, Value, Write};

use super::{
    Lost,
    etcd::{
        Config, ConfigError, authenticate,
        connect::{self, Connection, MAX_MESSAGE, Member},
        failure, prefix_end,
    },
    watch::{Failure, FailureKind},
};

/// How many items a page has.
const PAGE: i64 = 500;

/// A client of an etcd. Not connected until it is used; a call that is cancelled may still have its effect.
#[derive(Debug)]
pub struct Client {
    config: Config,
    members: Vec<Member>,
    /// The member in use, by its place in the list.
    current: usize,
    connection: Option<Connection>,
    timeout: Duration,
}

/// Whether a call may be made again on another member although the first may have seen it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    Reads,
    Writes,
}

impl Client {
    /// A client for these members. Each step (connecting, each call) takes `timeout` at most.
    pub fn new(config: Config, timeout: Duration) -> Result<Self, ConfigError> {
        let members = config.members()?;
        Ok(Self { config, members, current: 0, connection: None, timeout })
    }

    /// From now on each step takes `timeout` at most.
    pub fn set_timeout(&mut self, timeout: Duration) {
        self.timeout = timeout;
    }

    /// All that begins with `prefix`, at one revision: `at`, or the present one where `at` is 0. At most `max` items;
    /// [`Range::more`] says that there are others.
    pub async fn range(&mut self, prefix: &str, at: i64, max: usize) -> Result<Range, ClientError> {
        let end = prefix_end(prefix.as_bytes());
        let (mut from, mut revision) = (prefix.as_bytes().to_vec(), at);
        let mut range = Range::default();
        loop {
            let page = self.page(&from, &end, revision).await?;
            if revision == 0 {
                revision = page.revision;
            }
            range.revision = revision;
            range.cluster = page.cluster;
            range.items.extend(page.items);
            range.more = page.more;
            match range.items.last() {
                Some(last) if page.more && range.items.len() < max => {
                    from = [last.key.as_slice(), &[0]].concat();
                }
                _ => break,
            }
        }
        if range.items.len() > max {
            range.items.truncate(max);
            range.more = true;
        }
        Ok(range)
    }

    /// One key, at the revision `at`, or now where `at` is 0; no item when it is not there.
    pub async fn get(&mut self, key: &str, at: i64) -> Result<Range, ClientError> {
        let options = GetOptions::new().with_revision(at);
        self.read(key.as_bytes().to_vec(), options).await
    }

    /// How many keys begin with `prefix`.
    pub async fn count(&mut self, prefix: &str) -> Result<u64, ClientError> {
        let options = GetOptions::new().with_range(prefix_end(prefix.as_bytes())).with_count_only();
        let answer = self.read(prefix.as_bytes().to_vec(), options).await?;
        Ok(answer.count)
    }

    /// Writes all or nothing: nothing when one of the expectations does not hold.
    pub async fn commit(&mut self, transaction: &Transaction) -> Result<Committed, ClientError> {
        let answer = self
            .call(Effect::Writes, |client| {
                let txn = txn(transaction);
                async move { client.kv_client().txn(txn).await }
            })
            .await?;
        let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
        if answer.succeeded() {
            return Ok(Committed::Done { revision });
        }
        let found = answer.op_responses().into_iter().filter_map(|answer| match answer {
            TxnOpResponse::Get(GetResponse(answer)) => Some(answer.kvs.into_iter().next().map(words::value)),
            _ => None,
        });
        Ok(Committed::Conflict { revision, found: found.collect() })
    }

    /// A lease that ends by itself `ttl` after it was kept alive last; in whole seconds, at least one.
    pub async fn grant(&mut self, ttl: Duration) -> Result<Lease, ClientError> {
        let seconds = i64::try_from(ttl.as_secs().max(1)).unwrap_or(i64::MAX);
        // A lease that nobody knows of ends by itself: asking twice does no harm.
        let answer = self
            .call(Effect::Reads, |client| async move { client.lease_client().grant(seconds, None).await })
            .await?;
        Ok(Lease { id: answer.id(), ttl: Duration::from_secs(u64::try_from(answer.ttl()).unwrap_or(0)) })
    }

    /// Renews a lease; [`ClientError::LeaseGone`] when it has ended.
    pub async fn keep_alive(&mut self, lease: Lease) -> Result<(), ClientError> {
        self.call(Effect::Reads, |client| async move {
            match client.lease_client().keep_alive(lease.id).await {
                // The client crate says in words that the lease has no time left.
                Err(Error::LeaseKeepAliveError(_)) => Ok(Err(ClientError::LeaseGone)),
                Err(error) => Err(error),
                Ok(_) => Ok(Ok(())),
            }
        })
        .await?
    }

    /// Ends a lease, with all keys under it.
    pub async fn revoke(&mut self, lease: Lease) -> Result<(), ClientError> {
        self.call(Effect::Reads, |client| async move { client.lease_client().revoke(lease.id).await })
            .await?;
        Ok(())
    }

    async fn page(&mut self, from: &[u8], end: &[u8], revision: i64) -> Result<Range, ClientError> {
        let options = GetOptions::new().with_range(end).with_limit(PAGE).with_revision(revision);
        self.read(from.to_vec(), options).await
    }

    async fn read(&mut self, key: Vec<u8>, options: GetOptions) -> Result<Range, ClientError> {
        let answer = self
            .call(Effect::Reads, |client| {
                let (key, options) = (key.clone(), options.clone());
                let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
                async move { kv.get(key, Some(options)).await }
            })
            .await?;
        Ok(words::range(answer))
    }

    /// Makes a call on the member in use, and on the others when it does not answer.
    async fn call<T, F>(&mut self, effect: Effect, call: impl Fn(Raw) -> F) -> Result<T, ClientError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut faults = Vec::new();
        for _ in 0..self.members.len() {
            match Box::pin(self.attempt(&call)).await {
                Ok(answer) => return Ok(answer),
                Err((sent, failure)) => {
                    if matches!(failure.kind, FailureKind::Lost(Lost::Auth | Lost::Protocol)) {
                        return Err(ClientError::Refused(failure.text));
                    }
                    if matches!(failure.kind, FailureKind::Compacted) {
                        return Err(ClientError::Compacted(failure.text));
                    }
                    self.connection = None;
                    self.current = (self.current + 1) % self.members.len();
                    if sent && effect == Effect::Writes {
                        return Err(ClientError::Unknown(failure.text));
                    }
                    faults.push(failure.text);
                }
            }
        }
        Err(ClientError::Unreachable(faults))
    }

    /// Makes a call on the member in use. The error says whether the call may have been seen.
    async fn attempt<T, F>(&mut self, call: &impl Fn(Raw) -> F) -> Result<T, (bool, Failure)>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let timeout = self.timeout;
        let member =
            self.members.get(self.current).cloned().ok_or_else(|| (false, ClientError::no_member()))?;
        let late = || member.failure(Lost::Stalled, &format!("no answer within {timeout:?}"));
        let mut client = if let Some(connection) = &self.connection {
            connection.client.clone()
        } else {
            let connected = tokio::time::timeout(timeout, Box::pin(self.connect(&member))).await;
            connected.unwrap_or_else(|_| Err(late())).map_err(|failure| (false, failure))?
        };
        let mut renewed = false;
        loop {
            let answer = tokio::time::timeout(timeout, call(client.clone())).await;
            let failure = match answer {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) => failure::of(&member.endpoint, &error),
                Err(_) => late(),
            };
            // A call without a valid token has no effect: it may be made again.
            if failure.kind != FailureKind::Token {
                return Err((true, failure));
            }
            if std::mem::replace(&mut renewed, true) || self.config.user.is_none() {
                return Err((false, Failure { kind: FailureKind::Lost(Lost::Auth), ..failure }));
            }
            let token = tokio::time::timeout(timeout, authenticate(&self.config, &member, &mut client)).await;
            token.unwrap_or_else(|_| Err(late())).map_err(|failure| (false, failure))?;
        }
    }

    async fn connect(&mut self, member: &Member) -> Result<Raw, Failure> {
        let connection = connect::connect(&self.config, member).await?;
        let mut client = connection.client.clone();
        authenticate(&self.config, member, &mut client).await?;
        self.connection = Some(connection);
        Ok(client)
    }
}

fn txn(transaction: &Transaction) -> Txn {
    let expected = transaction.expect.iter();
    let when = expected
        .clone()
        .map(|expect| Compare::mod_revision(expect.key.as_bytes(), CompareOp::Equal, expect.revision))
        .collect::<Vec<_>>();
    let then = transaction.writes.iter().map(|write| match write {
        Write::Put { key, value, lease } => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.id));
            TxnOp::put(key.as_bytes(), value.as_slice(), options)
        }
        Write::Delete { key } => TxnOp::delete(key.as_bytes(), None),
    });
    let or_else = expected.map(|expect| TxnOp::get(expect.key.as_bytes(), None));
    Txn::new().when(when).and_then(then.collect::<Vec<_>>()).or_else(or_else.collect::<Vec<_>>())
}
