//! What stands in the file: one line of header, then JSON.
//!
//! ```text
//! weir-policy-cache 1 <bytes of the body> <XXH3-128 of the body, 32 hexadecimal digits>
//! {"service":"orders",…}
//! ```
//!
//! The checksum finds what a disk or a crash does; it is no protection against somebody who may write the file.

use std::{borrow::Cow, collections::BTreeMap, fmt, sync::Arc};

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_128;

use super::{Kept, MAX_BYTES};
use crate::{
    config::Name,
    store::{
        Item,
        guard::{Held, Memory, Seen, Why},
        key::Identity,
    },
};

const MAGIC: &str = "weir-policy-cache";
const VERSION: u32 = 1;

/// Why a file is no whole cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Torn {
    /// It does not begin like one.
    NoCache,
    /// It is of another version of the format.
    Version(u32),
    /// It is shorter or longer than it says.
    Length,
    /// Its content is not what was written.
    Checksum,
    /// What it says makes no sense.
    Content(String),
    /// It is larger than any cache.
    TooLarge,
}

impl fmt::Display for Torn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoCache => f.write_str("it does not begin as a cache does"),
            Self::Version(version) => write!(f, "it has the format {version}; this version reads {VERSION}"),
            Self::Length => {
                f.write_str("it is not as long as it says: it was cut off, or something was added")
            }
            Self::Checksum => f.write_str("its checksum is wrong"),
            Self::Content(why) => write!(f, "its content cannot be read: {why}"),
            Self::TooLarge => write!(f, "it has more than {MAX_BYTES} bytes"),
        }
    }
}

#[derive(Serialize, Deserialize)]
struct Body<'a> {
    service: Cow<'a, str>,
    instance: Cow<'a, str>,
    written: Cow<'a, str>,
    cluster: Option<u64>,
    revision: i64,
    items: Vec<Entry<'a>>,
    held: Vec<HeldEntry<'a>>,
    confirms: [Option<Stored<'a>>; 3],
    /// Not in caches of older versions, which pass it over in newer ones.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    instances: Option<u64>,
}

#[derive(Serialize, Deserialize)]
struct Entry<'a> {
    key: Cow<'a, str>,
    #[serde(flatten)]
    stored: Stored<'a>,
}

/// A value and the revision of its last write.
#[derive(Serialize, Deserialize)]
struct Stored<'a> {
    value: Value<'a>,
    revision: i64,
}

/// A value: text, as nearly all are, or bytes.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Value<'a> {
    Text(Cow<'a, str>),
    Bytes(Vec<u8>),
}

#[derive(Serialize, Deserialize)]
struct HeldEntry<'a> {
    key: Cow<'a, str>,
    target: Option<Stored<'a>>,
    revision: i64,
    since: Cow<'a, str>,
    why: Cow<'a, str>,
}

impl<'a> Stored<'a> {
    fn new(value: &'a Bytes, revision: i64) -> Self {
        let value = std::str::from_utf8(value)
            .map_or_else(|_| Value::Bytes(value.to_vec()), |text| Value::Text(Cow::Borrowed(text)));
        Self { value, revision }
    }

    fn into_parts(self) -> (Bytes, i64) {
        let value = match self.value {
            Value::Text(text) => Bytes::from(text.into_owned()),
            Value::Bytes(bytes) => Bytes::from(bytes),
        };
        (value, self.revision)
    }
}

/// The whole file. Equal content at the same time is equal bytes.
pub(super) fn encode(kept: &Kept, now: Timestamp) -> Result<Vec<u8>, String> {
    let memory = &kept.memory;
    let too_much = || format!("the overlays take more than the {MAX_BYTES} bytes of a cache");
    if kept.items.iter().map(|item| item.key.len() + item.value.len()).sum::<usize>() > MAX_BYTES {
        return Err(too_much());
    }
    let held = memory.held.iter().map(|(key, held)| HeldEntry {
        key: Cow::Borrowed(key),
        target: held.target.as_ref().map(|(value, revision)| Stored::new(value, *revision)),
        revision: held.revision,
        since: held.since.to_string().into(),
        why: held.why.as_str().into(),
    });
    let items = kept
        .items
        .iter()
        .map(|item| Entry { key: Cow::Borrowed(&item.key), stored: Stored::new(&item.value, item.revision) });
    let body = Body {
        service: kept.identity.service.as_str().into(),
        instance: kept.identity.instance.as_str().into(),
        written: now.to_string().into(),
        cluster: memory.cluster,
        revision: memory.revision,
        items: items.collect(),
        held: held.collect(),
        confirms: memory
            .confirms
            .each_ref()
            .map(|seen| seen.as_ref().map(|seen| Stored::new(&seen.value, seen.revision))),
        instances: kept.instances,
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let mut file = header(&body).into_bytes();
    if file.len() + body.len() > MAX_BYTES {
        return Err(too_much());
    }
    file.extend_from_slice(&body);
    Ok(file)
}

fn header(body: &[u8]) -> String {
    format!("{MAGIC} {VERSION} {} {:032x}\n", body.len(), xxh3_128(body))
}

/// Reads a whole file, all of it or nothing; says when it was written.
pub(super) fn decode(file: &[u8]) -> Result<(Kept, Timestamp), Torn> {
    if file.len() > MAX_BYTES {
        return Err(Torn::TooLarge);
    }
    let end = file.iter().take(128).position(|byte| *byte == b'\n').ok_or(Torn::NoCache)?;
    let (first, rest) = file.split_at_checked(end + 1).ok_or(Torn::NoCache)?;
    let line = std::str::from_utf8(first).map_err(|_| Torn::NoCache)?;
    let mut words = line.trim_end().split(' ');
    if words.next() != Some(MAGIC) {
        return Err(Torn::NoCache);
    }
    let version: u32 = words.next().and_then(|word| word.parse().ok()).ok_or(Torn::NoCache)?;
    if version != VERSION {
        return Err(Torn::Version(version));
    }
    if words.next().and_then(|word| word.parse().ok()) != Some(rest.len()) {
        return Err(Torn::Length);
    }
    // The whole line must be what would be written, so that there is one way to write a cache.
    if line != header(rest) {
        return Err(Torn::Checksum);
    }
    let body: Body<'_> = serde_json::from_slice(rest).map_err(|error| Torn::Content(error.to_string()))?;
    let wrong = |what: &str| Torn::Content(format!("its {what} is none"));
    let name = |text: &str, what| Name::new(text).ok_or_else(|| wrong(what));
    let identity =
        Identity { service: name(&body.service, "service")?, instance: name(&body.instance, "instance")? };
    let written = body.written.parse().map_err(|_| wrong("time"))?;
    let mut held = BTreeMap::new();
    for entry in body.held {
        let since = entry.since.parse().map_err(|_| wrong("time of a hold"))?;
        let why = Why::of(&entry.why).ok_or_else(|| wrong("cause of a hold"))?;
        let target = entry.target.map(Stored::into_parts);
        held.insert(Arc::from(entry.key), Held { target, revision: entry.revision, since, why });
    }
    let items = body.items.into_iter().map(|entry| {
        let (value, revision) = entry.stored.into_parts();
        Item { key: Arc::from(entry.key), value, revision }
    });
    let confirms = body.confirms.map(|seen| {
        seen.map(|seen| {
            let (value, revision) = seen.into_parts();
            Seen { revision, value }
        })
    });
    let memory = Memory { cluster: body.cluster, revision: body.revision, held, confirms };
    Ok((Kept { identity, items: items.collect(), memory, instances: body.instances }, written))
}
