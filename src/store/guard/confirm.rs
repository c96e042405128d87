//! The value of a `confirm` key.

use serde::Deserialize;

use super::Seen;

/// The longest value that is read, in bytes.
const MOST: usize = 1024;

/// `{cluster: ID, revision: R}`; other fields (`by`, `why`) are for people.
#[derive(Deserialize)]
struct Document {
    cluster: Cluster,
    revision: i64,
}

/// A cluster id: etcd's tools print it as a number, in decimal or hexadecimal digits.
#[derive(Deserialize)]
#[serde(untagged)]
enum Cluster {
    Number(u64),
    Text(String),
}

/// Up to which revision it confirms: what it says, and never beyond itself. The error says why it does nothing.
pub(super) fn reach(seen: &Seen, cluster: Option<u64>) -> Result<i64, String> {
    if seen.value.len() > MOST {
        return Err(format!("its value has more than {MOST} bytes"));
    }
    let document: Document = serde_yaml::from_slice(&seen.value)
        .map_err(|_| "its value is not `{cluster: ID, revision: R}`".to_owned())?;
    let named = match document.cluster {
        Cluster::Number(number) => Some(number),
        Cluster::Text(text) => match text.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => text.parse().ok(),
        },
    };
    let named = named.ok_or_else(|| "its `cluster` is no cluster id".to_owned())?;
    if cluster != Some(named) {
        let here = cluster.map_or_else(|| "none".to_owned(), |cluster| cluster.to_string());
        return Err(format!("it confirms the cluster {named}; this one is {here}"));
    }
    Ok(document.revision.min(seen.revision))
}
