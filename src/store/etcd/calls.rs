//! What is asked of a member, and how its answers are read.

use std::future::Future;

use bytes::Bytes;
use etcd_client::{
    Client, Error, GetOptions, GetResponse, KeyValue, ResponseHeader, SortOrder, SortTarget, Txn, TxnOp,
    TxnOpResponse, WatchOptions, WatchResponse,
};
use tokio::sync::mpsc;

use super::{connect::MAX_MESSAGE, failure};
use crate::store::{
    key::{Identity, Scope},
    watch::{Audit, Entry, Head, Message, Page, PageRequest, Seen, Version},
};

/// The three ranges of an instance.
#[derive(Debug, Clone)]
pub(super) struct Ranges {
    /// `<root>/policy/`.
    policy: Vec<u8>,
    /// The prefixes below it, in order of scope.
    prefixes: [Vec<u8>; 3],
}

impl Ranges {
    pub(super) fn new(root: &str, identity: &Identity) -> Self {
        Self {
            policy: format!("{root}/policy/").into_bytes(),
            prefixes: Scope::ALL.map(|scope| identity.prefix(scope).into_bytes()),
        }
    }

    /// A range, from its first key to the one after its last.
    fn bounds(&self, scope: Scope) -> (Vec<u8>, Vec<u8>) {
        let [fleet, service, instance] = &self.prefixes;
        let prefix = match scope {
            Scope::Fleet => fleet,
            Scope::Service => service,
            Scope::Instance => instance,
        };
        let first = [self.policy.as_slice(), prefix].concat();
        let end = prefix_end(&first);
        (first, end)
    }

    /// The prefix that a role should be allowed to read for a scope. Roles are for services, so that of an instance is
    /// that of all instances of its service.
    fn right(&self, scope: Scope) -> String {
        let (first, _) = self.bounds(scope);
        let right = match scope {
            Scope::Fleet | Scope::Service => first.as_slice(),
            Scope::Instance => {
                let at = first.iter().rposition(|byte| *byte == b'@');
                at.and_then(|at| first.get(..=at)).unwrap_or(&first)
            }
        };
        String::from_utf8_lossy(right).into_owned()
    }

    /// A stored key as one of ours: its scope, and what follows `<root>/policy/`.
    fn read(&self, key: Vec<u8>) -> Option<(Scope, Bytes)> {
        let key = Bytes::from(key);
        if !key.starts_with(&self.policy) {
            return None;
        }
        let rest = key.slice(self.policy.len()..);
        let mut ours = Scope::ALL.into_iter().zip(&self.prefixes);
        let (scope, _) = ours.find(|(_, prefix)| rest.starts_with(prefix))?;
        Some((scope, rest))
    }
}

/// The first key after all that begin with `prefix`.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    // Every key that there is.
    vec![0]
}

/// The server's version, and how far it is.
pub(super) async fn probe(client: Client, ranges: Ranges) -> Result<(Version, Head), Error> {
    let mut maintenance = client.maintenance_client();
    let (status, head) = tokio::join!(maintenance.status(), head(client, ranges));
    // Not everybody may ask for it; an unknown version is treated as an old one.
    let version = status.map(|status| version(status.version())).unwrap_or_default();
    Ok((version, head?))
}

/// How far the store is: a linearizable read of one key that never is there, and may be read.
pub(super) async fn head(client: Client, ranges: Ranges) -> Result<Head, Error> {
    let (first, _) = ranges.bounds(Scope::Service);
    let response = client.kv_client().get(first, Some(GetOptions::new().with_count_only())).await?;
    head_of(response.header())
}

fn head_of(header: Option<&ResponseHeader>) -> Result<Head, Error> {
    let header = header.ok_or_else(|| incomplete("a header"))?;
    Ok(Head { cluster: header.cluster_id(), revision: header.revision() })
}

fn version(text: &str) -> Version {
    let mut parts = text.splitn(3, '.').map(|part| {
        let digits = part.find(|c: char| !c.is_ascii_digit()).unwrap_or(part.len());
        part.get(..digits).and_then(|digits| digits.parse().ok()).unwrap_or(0)
    });
    let mut next = || parts.next().unwrap_or(0);
    (next(), next(), next())
}

/// What the ranges hold, all at one revision. A transaction that only reads is linearizable and writes nothing.
pub(super) async fn audit(client: Client, ranges: Ranges, since: Option<i64>) -> Result<Audit, Error> {
    let asked = Scope::ALL.into_iter().flat_map(|scope| {
        let (first, end) = ranges.bounds(scope);
        let newest = GetOptions::new()
            .with_range(end)
            .with_keys_only()
            .with_sort(SortTarget::Mod, SortOrder::Descend)
            .with_limit(1);
        // 0 would be no bound at all; at 1 there is no write yet.
        let kept = since.map(|since| newest.clone().with_max_mod_revision(since.max(1)));
        [Some(newest), kept]
            .into_iter()
            .flatten()
            .map(move |options| TxnOp::get(first.clone(), Some(options)))
    });
    let response = client.kv_client().txn(Txn::new().and_then(asked.collect::<Vec<_>>())).await?;
    let head = head_of(response.header())?;
    let mut found = response.op_responses().into_iter();
    let mut next = || match found.next() {
        Some(TxnOpResponse::Get(get)) => {
            Ok((get.kvs().first().map_or(0, KeyValue::mod_revision), u64::try_from(get.count()).unwrap_or(0)))
        }
        _ => Err(incomplete("a range")),
    };
    let mut seen = || {
        let (newest, count) = next()?;
        let kept = if since.is_some() { next()?.0 } else { 0 };
        Ok::<_, Error>(Seen { newest, count, kept })
    };
    let ranges = [seen()?, seen()?, seen()?];
    Ok(Audit { head, since, ranges })
}

fn incomplete(what: &str) -> Error {
    Error::Internal(format!("the answer has no {what}"))
}

/// The prefixes below which the user may not read what it must. Asked only after something was denied: etcd does not say
/// what.
pub(super) async fn missing_rights(client: Client, ranges: &Ranges) -> Vec<String> {
    let mut kv = client.kv_client();
    let mut missing = Vec::new();
    for scope in Scope::ALL {
        let (first, end) = ranges.bounds(scope);
        let options = GetOptions::new().with_range(end).with_count_only();
        if kv.get(first, Some(options)).await.is_err_and(|error| failure::is_denied(&error)) {
            missing.push(ranges.right(scope));
        }
    }
    missing
}

/// One page of a read.
pub(super) async fn page(client: Client, ranges: Ranges, request: PageRequest) -> Result<Page, Error> {
    let (first, end) = ranges.bounds(request.scope);
    let from = request.from.map_or(first, |from| [ranges.policy.as_slice(), &from].concat());
    let mut options = GetOptions::new()
        .with_range(end)
        .with_limit(request.limit)
        .with_revision(request.revision)
        .with_sort(SortTarget::Key, SortOrder::Ascend);
    if request.keys_only {
        options = options.with_keys_only();
    }
    let mut kv = client.kv_client().max_decoding_message_size(MAX_MESSAGE);
    let GetResponse(response) = kv.get(from, Some(options)).await?;
    let cluster = response.header.as_ref().ok_or_else(|| incomplete("a header"))?.cluster_id;
    let more = response.more && !response.kvs.is_empty();
    let items = response.kvs.into_iter().filter_map(|item| {
        let (scope, key) = ranges.read(item.key)?;
        Some(Entry { scope, key, value: Some(item.value.into()), revision: item.mod_revision })
    });
    Ok(Page { cluster, items: items.collect(), more })
}

/// Opens a stream with a watch for each scope, and hands on every message until the stream ends. Each unit that comes
/// from `asked` asks for the stream's progress. Ends when `told` says that nobody listens.
pub(super) async fn watch<F: Future<Output = bool>>(
    client: Client,
    endpoint: &str,
    ranges: Ranges,
    from: i64,
    mut asked: mpsc::Receiver<()>,
    told: impl Fn(Message) -> F,
) -> Result<(), Error> {
    let mut watch = client.watch_client().max_decoding_message_size(MAX_MESSAGE);
    let options = |scope: Scope, id: i64| {
        let (first, end) = ranges.bounds(scope);
        let options =
            WatchOptions::new().with_range(end).with_start_revision(from).with_watch_id(id).with_fragment();
        (first, Some(options))
    };
    let (first, wanted) = options(Scope::Fleet, 1);
    let (mut requests, mut responses) = watch.watch(first, wanted).await?.split();
    for (scope, id) in [(Scope::Service, 2), (Scope::Instance, 3)] {
        let (first, wanted) = options(scope, id);
        requests.watch(first, wanted).await?;
    }
    loop {
        tokio::select! {
            message = responses.message() => match message? {
                Some(message) => {
                    if !told(read(endpoint, &ranges, message)).await {
                        return Ok(());
                    }
                }
                None => return Ok(()),
            },
            Some(()) = asked.recv() => requests.request_progress().await?,
        }
    }
}

/// A message, as far as it concerns us.
fn read(endpoint: &str, ranges: &Ranges, WatchResponse(message): WatchResponse) -> Message {
    let header = message.header.unwrap_or_default();
    let refused = message.canceled && !message.cancel_reason.is_empty();
    let changes = message.events.into_iter().filter_map(|event| {
        let item = event.kv?;
        let (scope, key) = ranges.read(item.key)?;
        // 0 is a put, 1 a deletion; anything else is nothing that we know.
        let value = match event.r#type {
            0 => Some(item.value.into()),
            1 => None,
            _ => return None,
        };
        Some(Entry { scope, key, value, revision: item.mod_revision })
    });
    Message {
        watch: message.watch_id,
        cluster: header.cluster_id,
        revision: header.revision,
        created: message.created,
        canceled: message.canceled,
        compacted: message.compact_revision,
        fault: refused.then(|| failure::of_canceled(endpoint, &message.cancel_reason)),
        fragment: message.fragment,
        changes: changes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Name;

    fn ranges() -> Ranges {
        let name = |text| Name::new(text).unwrap();
        Ranges::new("/weir", &Identity { service: name("orders"), instance: name("pod-1") })
    }

    #[test]
    fn a_range_is_exactly_one_scope() {
        let ranges = ranges();
        let (first, end) = ranges.bounds(Scope::Service);
        assert_eq!(
            (first.as_slice(), end.as_slice()),
            (&b"/weir/policy/orders/"[..], &b"/weir/policy/orders0"[..])
        );
        assert_eq!(prefix_end(b"a\xff"), b"b");
        assert_eq!(prefix_end(b"\xff"), b"\0");
        for (key, scope) in [
            ("/weir/policy/_all/bypass", Some(Scope::Fleet)),
            ("/weir/policy/orders/limits/a", Some(Scope::Service)),
            ("/weir/policy/orders@pod-1/limits/a", Some(Scope::Instance)),
            ("/weir/policy/orders2/limits/a", None),
            ("/weir/policy/orders", None),
            ("/weir/pods/orders/x", None),
        ] {
            assert_eq!(ranges.read(key.into()).map(|found| found.0), scope, "{key}");
        }
        assert_eq!(
            Scope::ALL.map(|scope| ranges.right(scope)),
            ["/weir/policy/_all/", "/weir/policy/orders/", "/weir/policy/orders@"]
        );
        let (_, rest) = ranges.read(b"/weir/policy/orders/\xff\xfe".to_vec()).unwrap();
        assert_eq!(&rest[..], b"orders/\xff\xfe");
    }

    #[test]
    fn versions_are_read_as_far_as_they_go() {
        for (text, expected) in [
            ("3.4.23", (3, 4, 23)),
            ("3.6.0-rc.1", (3, 6, 0)),
            ("3.5.99+git", (3, 5, 99)),
            ("", (0, 0, 0)),
            ("x.y", (0, 0, 0)),
        ] {
            assert_eq!(version(text), expected, "{text}");
        }
    }
}
