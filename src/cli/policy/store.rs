//! One face for both kinds of store.

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};

use bytes::Bytes;
use jiff::{Timestamp, tz::TimeZone};
use tokio::sync::mpsc::Receiver;

use super::audit::Record;
use crate::{
    cli::failure::Failure,
    config::{Name, bootstrap},
    store::{
        Event, Item, MAX_KEYS,
        client::{self, Client, ClientError, Committed, Transaction, Value},
        directory::{self, Directory, Tree, WriteError},
        etcd::{self, Config},
        key::Identity,
        presence,
        watch::Settings,
    },
};

/// The most audit entries of a service that are read, and the most reports.
const MOST: usize = 50_000;

/// Up to so many audit entries are read at once; more are read month by month.
const FEW: u64 = 1000;

/// How many months back.
const MONTHS: i64 = 120;

/// The largest audit entry that is read from a file, in bytes.
const MAX_ENTRY: u64 = 1 << 20;

/// How often a directory is looked at.
const INTERVAL: Duration = Duration::from_millis(250);

/// A store.
pub(in crate::cli) enum Store {
    /// An etcd.
    Etcd {
        /// For single calls.
        client: Box<Client>,
        /// How it is reached.
        config: Config,
    },
    /// A directory.
    Directory {
        /// For reading and writing.
        tree: Tree,
        /// Where it is.
        path: PathBuf,
    },
}

/// What was read, at one revision.
#[derive(Debug, Default)]
pub(in crate::cli) struct Contents {
    /// Which store it is.
    pub(in crate::cli) cluster: u64,
    /// The revision.
    pub(in crate::cli) revision: i64,
    /// What is there, in order of key.
    pub(in crate::cli) items: Vec<Item>,
    /// What cannot be read, and why.
    pub(in crate::cli) faults: Vec<(String, String)>,
}

impl Contents {
    /// One key.
    pub(in crate::cli) fn get(&self, key: &str) -> Option<&Item> {
        self.items.iter().find(|item| &*item.key == key)
    }
}

/// A change of one key.
#[derive(Debug)]
pub(super) struct Change<'a> {
    /// The key below `<root>/policy/`.
    pub(super) key: &'a str,
    /// Its new value; `None` deletes it.
    pub(super) value: Option<&'a str>,
    /// What it was when it was read; the change is made only if it still is that.
    pub(super) before: Option<&'a Item>,
}

/// An audit entry, as it was put down.
#[derive(Debug)]
pub(super) struct Audited {
    /// The revision of the change that it tells of.
    pub(super) revision: i64,
    /// What it says.
    pub(super) text: Bytes,
}

impl Store {
    /// An etcd.
    pub(super) fn etcd(client: Client, config: Config) -> Self {
        Self::Etcd { client: Box::new(client), config }
    }

    /// A directory.
    pub(super) fn directory(tree: Tree, path: &Path) -> Self {
        Self::Directory { tree, path: path.to_owned() }
    }

    /// Whether it is a directory.
    pub(in crate::cli) fn is_directory(&self) -> bool {
        matches!(self, Self::Directory { .. })
    }

    /// Everything whose key begins with one of `prefixes`: `orders/`, or `orders@` for all instances of a service.
    pub(super) async fn read(&mut self, prefixes: &[String]) -> Result<Contents, Failure> {
        match self {
            Self::Etcd { client, config } => {
                let mut contents = Contents::default();
                for prefix in prefixes {
                    let whole = format!("{}/policy/{prefix}", config.root);
                    let range = client
                        .range(&whole, contents.revision, MAX_KEYS + 1)
                        .await
                        .map_err(|error| failed(&error))?;
                    (contents.cluster, contents.revision) =
                        (range.cluster, range.revision.max(contents.revision));
                    contents.items.extend(range.items.into_iter().map(|value| item(&config.root, value)));
                }
                Ok(contents)
            }
            Self::Directory { tree, path } => {
                let mut scopes = Vec::new();
                for prefix in prefixes {
                    match prefix.strip_suffix('/') {
                        Some(scope) => scopes.push(scope.to_owned()),
                        None => scopes.extend(instances(path, prefix)),
                    }
                }
                let (content, faults) = tree.read(&scopes).map_err(|error| unwritten(&error))?;
                let (cluster, revision, items) = (content.cluster, content.revision, content.items);
                Ok(Contents { cluster, revision, items, faults })
            }
        }
    }

    /// Makes all changes in one revision, each with its audit entry, or none; says that revision, or `None` when a key is
    /// not any more what it was.
    pub(super) async fn commit(&mut self, changes: &[(Change<'_>, Record)]) -> Result<Option<i64>, Failure> {
        match self {
            Self::Etcd { client, config } => {
                let transaction = transaction(&config.root, changes);
                match client.commit(&transaction).await.map_err(|error| failed(&error))? {
                    Committed::Done { revision } => Ok(Some(revision)),
                    Committed::Conflict { .. } => Ok(None),
                }
            }
            Self::Directory { tree, .. } => {
                let write = |(change, _): &(Change<'_>, Record)| directory::Write {
                    key: change.key.to_owned(),
                    value: change.value.map(str::to_owned),
                    expect: match change.before {
                        Some(item) => directory::Expect::Value(item.value.clone()),
                        None => directory::Expect::Absent,
                    },
                };
                let audit = |(_, record): &(Change<'_>, Record)| directory::Audit {
                    scope: record.scope.clone(),
                    id: record.id.clone(),
                    text: record.to_json().to_string(),
                };
                let audits: Vec<_> = changes.iter().map(audit).collect();
                match tree.commit(&changes.iter().map(write).collect::<Vec<_>>(), &audits) {
                    Ok(revision) => Ok(Some(revision)),
                    Err(WriteError::Conflict { .. }) => Ok(None),
                    Err(error) => Err(unwritten(&error)),
                }
            }
        }
    }

    /// The audit entries of a service (or `_all`), the oldest first: all of them, or, where there are many, the newest ones
    /// until `enough` says so.
    pub(super) async fn audits(
        &mut self,
        scope: &str,
        enough: impl Fn(&[Audited]) -> bool,
    ) -> Result<Vec<Audited>, Failure> {
        let (client, prefix) = match self {
            Self::Directory { path, .. } => return Ok(audit_files(&path.join(".audit").join(scope))),
            Self::Etcd { client, config } => (client, format!("{}/audit/{scope}/", config.root)),
        };
        let entry = |value: Value| Audited { revision: value.revision, text: value.value.into() };
        let count = client.count(&prefix).await.map_err(|error| failed(&error))?;
        if count <= FEW {
            let range = client.range(&prefix, 0, MOST).await.map_err(|error| failed(&error))?;
            return Ok(range.items.into_iter().map(entry).collect());
        }
        // Their names begin with their time.
        let mut found: Vec<Audited> = Vec::new();
        for month in months(Timestamp::now()) {
            let range =
                client.range(&format!("{prefix}{month}"), 0, MOST).await.map_err(|error| failed(&error))?;
            found.splice(0..0, range.items.into_iter().map(entry));
            if enough(&found) || u64::try_from(found.len()).is_ok_and(|found| found >= count) {
                break;
            }
        }
        Ok(found)
    }

    /// A key as it was at a revision; `None` when it was not there, or when that revision is not kept any more. A
    /// directory keeps none.
    pub(super) async fn at(&mut self, key: &str, revision: i64) -> Result<Option<(Item, bool)>, Failure> {
        let Self::Etcd { client, config } = self else { return Ok(None) };
        let range = match client.get(&format!("{}/policy/{key}", config.root), revision).await {
            Err(ClientError::Compacted(_)) => return Ok(None),
            other => other.map_err(|error| failed(&error))?,
        };
        let found = range.items.into_iter().next();
        Ok(found.map(|value| {
            let first = value.version <= 1;
            (item(&config.root, value), first)
        }))
    }

    /// What the instances of a service say of themselves, by name; `None` for a store in which they say nothing.
    pub(in crate::cli) async fn pods(
        &mut self,
        service: &Name,
    ) -> Result<Option<Vec<(String, Bytes)>>, Failure> {
        let Self::Etcd { client, config } = self else { return Ok(None) };
        let prefix = format!("{}{}", config.root, presence::prefix(service));
        let range = client.range(&prefix, 0, MOST).await.map_err(|error| failed(&error))?;
        let name = |value: &Value| {
            let key = String::from_utf8_lossy(&value.key);
            key.strip_prefix(&prefix).unwrap_or_default().to_owned()
        };
        Ok(Some(range.items.into_iter().map(|value| (name(&value), value.value.into())).collect()))
    }

    /// Starts to watch the three scopes of an identity. Call it within the runtime.
    pub(super) fn watch(&self, identity: &Identity) -> Result<(Watching, Receiver<Event>), Failure> {
        match self {
            Self::Etcd { config, .. } => {
                let made = etcd::Etcd::new(config.clone(), identity, Settings::default());
                let (_, task, events) = made.map_err(|error| Failure::Usage(error.to_string()))?;
                tokio::spawn(task);
                Ok((Watching(None), events))
            }
            Self::Directory { path, .. } => {
                let config = bootstrap::Directory { path: path.clone(), interval: INTERVAL };
                let (directory, events) = Directory::start(&config, identity)
                    .map_err(|error| Failure::Unavailable(format!("no thread to read with: {error}")))?;
                Ok((Watching(Some(directory)), events))
            }
        }
    }
}

/// All changes, each with its audit entry, in one.
fn transaction(root: &str, changes: &[(Change<'_>, Record)]) -> Transaction {
    let mut all = Transaction { expect: Vec::new(), writes: Vec::new() };
    for (change, record) in changes {
        let key = format!("{root}/policy/{}", change.key);
        let audit = format!("{root}/audit/{}/{}", record.scope, record.id);
        let revision = change.before.map_or(0, |item| item.revision);
        all.expect.push(client::Expect { key: key.clone(), revision });
        all.expect.push(client::Expect { key: audit.clone(), revision: 0 });
        all.writes.push(match change.value {
            Some(value) => client::Write::Put { key, value: value.into(), lease: None },
            None => client::Write::Delete { key },
        });
        let text = record.to_json().to_string();
        all.writes.push(client::Write::Put { key: audit, value: text.into(), lease: None });
    }
    all
}

/// A watch, which goes on as long as this is kept.
pub(super) struct Watching(#[expect(dead_code, reason = "it is kept for its thread")] Option<Directory>);

/// The months as the names of audit entries begin with them, the newest first; clocks differ, so that the next one counts.
fn months(now: Timestamp) -> impl Iterator<Item = String> {
    let date = now.to_zoned(TimeZone::UTC).date();
    let newest = i64::from(date.year()) * 12 + i64::from(date.month());
    (0..MONTHS).map(move |back| newest - back).map(|month| format!("{:04}{:02}", month / 12, month % 12 + 1))
}

fn item(root: &str, value: Value) -> Item {
    let key = String::from_utf8_lossy(&value.key);
    let below = key.strip_prefix(root).and_then(|key| key.strip_prefix("/policy/")).unwrap_or(&key);
    Item { key: below.into(), value: value.value.into(), revision: value.revision }
}

/// The scopes in a directory that begin with `prefix`.
fn instances(root: &Path, prefix: &str) -> Vec<String> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let scopes = names.filter(|name| name.starts_with(prefix));
    let mut scopes: Vec<_> = scopes
        .map(|name| name.split_once("__").map_or(name.clone(), |(scope, _)| scope.to_owned()))
        .collect();
    scopes.sort();
    scopes.dedup();
    scopes.truncate(1000);
    scopes
}

/// The entries in a folder, by name; that is by time. What cannot be read is passed over.
fn audit_files(folder: &Path) -> Vec<Audited> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "json"));
    paths.sort();
    let read = |path: &PathBuf| {
        let metadata =
            fs::metadata(path).ok().filter(|metadata| metadata.is_file() && metadata.len() <= MAX_ENTRY)?;
        let since = metadata.modified().ok()?.duration_since(UNIX_EPOCH).ok()?;
        let revision = i64::try_from(since.as_micros()).ok()?;
        Some(Audited { revision, text: fs::read(path).ok()?.into() })
    };
    paths.iter().rev().take(MOST).filter_map(read).collect::<Vec<_>>().into_iter().rev().collect()
}

/// A call to etcd that failed.
fn failed(error: &ClientError) -> Failure {
    match error {
        ClientError::Unreachable(_) | ClientError::Unknown(_) => Failure::Unavailable(error.to_string()),
        ClientError::Refused(_) | ClientError::Compacted(_) | ClientError::LeaseGone => {
            Failure::No(error.to_string())
        }
    }
}

/// A directory that cannot be read or written.
fn unwritten(error: &WriteError) -> Failure {
    match error {
        WriteError::Io { path, source } if source.kind() == std::io::ErrorKind::NotFound => {
            Failure::Unavailable(format!(
                "{}: {source}; make the directory first: mkdir -p {}",
                path.display(),
                path.display()
            ))
        }
        WriteError::Io { .. } | WriteError::Busy => Failure::Unavailable(error.to_string()),
        WriteError::Refused(_) | WriteError::Mounted | WriteError::Conflict { .. } => {
            Failure::No(error.to_string())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn months_go_back_over_the_turn_of_the_year() {
        let of = |now: &str| months(now.parse().unwrap()).take(4).collect::<Vec<_>>();
        assert_eq!(of("2026-02-10T00:00:00Z"), ["202603", "202602", "202601", "202512"]);
        assert_eq!(of("2026-12-31T23:59:59Z"), ["202701", "202612", "202611", "202610"]);
    }
}
