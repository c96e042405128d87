//! Keys that are read from requests: what makes two requests "the same" to a sticky split.

use std::net::IpAddr;

use ::http::{HeaderMap, header};
use smallvec::SmallVec;
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::matcher::RequestView;
use crate::config::{Name, policy::KeyPart};

/// Keys up to this many bytes need no allocation.
const INLINE: usize = 128;

/// A list of key parts, ready to be read from requests.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    parts: Box<[KeyPart]>,
}

/// A key as it was read: the same bytes on every instance, and different ones for different lists of values.
pub type KeyBytes = SmallVec<[u8; INLINE]>;

impl Key {
    /// Takes the parts of a key.
    pub fn compile(parts: &[KeyPart]) -> Self {
        Self { parts: parts.into() }
    }

    /// Whether it has no parts, and so tells no two requests apart.
    pub fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Reads the key of a request that took `route`.
    ///
    /// `None` when the request has none of the parts: without that, all requests that lack the cookie, say,
    /// would be one and the same client. Each value is preceded by its length, so that values cannot run into
    /// each other; a part that is missing differs from one that is empty.
    pub fn read(&self, request: &RequestView<'_>, route: Option<&Name>) -> Option<KeyBytes> {
        let mut key = KeyBytes::new();
        let mut found = false;
        for part in &self.parts {
            let start = key.len();
            key.extend_from_slice(&[0; 4]);
            let present = append(part, request, route, &mut key);
            found |= present;
            let length = key.len() - start - 4;
            let mark = if present { u32::try_from(length).unwrap_or(u32::MAX - 1) } else { u32::MAX };
            if let Some(slot) = key.get_mut(start..start + 4) {
                slot.copy_from_slice(&mark.to_le_bytes());
            }
        }
        found.then_some(key)
    }

    /// A 64-bit hash of the key, the same on every instance: XXH3 with `seed`. `None` as for [`Key::read`].
    pub fn hash(&self, request: &RequestView<'_>, route: Option<&Name>, seed: u64) -> Option<u64> {
        self.read(request, route).map(|key| xxh3_64_with_seed(&key, seed))
    }

    /// The key for people: its values with a comma between them, `-` for those that are missing.
    pub fn text(&self, request: &RequestView<'_>, route: Option<&Name>) -> String {
        let mut text = String::new();
        for (i, part) in self.parts.iter().enumerate() {
            if i > 0 {
                text.push(',');
            }
            let mut value = KeyBytes::new();
            match part {
                KeyPart::Client => text.push_str(&request.client.to_canonical().to_string()),
                _ if append(part, request, route, &mut value) => {
                    text.push_str(&String::from_utf8_lossy(&value));
                }
                _ => text.push('-'),
            }
        }
        text
    }
}

/// Appends the value of one part; `false` when the request has none.
fn append(part: &KeyPart, request: &RequestView<'_>, route: Option<&Name>, out: &mut KeyBytes) -> bool {
    let mut take = |value: Option<&[u8]>| value.map(|v| out.extend_from_slice(v)).is_some();
    match part {
        KeyPart::Client => match request.client.to_canonical() {
            IpAddr::V4(address) => take(Some(&address.octets())),
            IpAddr::V6(address) => take(Some(&address.octets())),
        },
        KeyPart::Header(name) => {
            // All lines, as one list (RFC 9110 §5.3).
            let mut found = false;
            for value in request.headers.get_all(name) {
                if found {
                    out.extend_from_slice(b", ");
                }
                out.extend_from_slice(value.as_bytes());
                found = true;
            }
            found
        }
        KeyPart::Query(name) => take(request.query_value(name).as_deref().map(str::as_bytes)),
        KeyPart::Cookie(name) => take(cookie(request.headers, name)),
        KeyPart::Route => take(route.map(|name| name.as_str().as_bytes())),
        KeyPart::Host => take(Some(request.host.as_bytes())),
        KeyPart::Method => take(Some(request.method.as_str().as_bytes())),
    }
}

/// The value of the first cookie called `name` (RFC 6265 §4.2.1), without the quotes around it.
pub fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get_all(header::COOKIE).iter().flat_map(|line| line.as_bytes().split(|&b| b == b';')).find_map(
        |pair| {
            let pair = pair.trim_ascii();
            let value = pair.strip_prefix(name.as_bytes())?.strip_prefix(b"=")?;
            Some(value.strip_prefix(b"\"").and_then(|v| v.strip_suffix(b"\"")).unwrap_or(value))
        },
    )
}

#[cfg(test)]
mod tests {
    use ::http::HeaderName;

    use super::*;
    use crate::route::matcher::tests::Sample;

    fn header(name: &'static str) -> KeyPart {
        KeyPart::Header(HeaderName::from_static(name))
    }

    #[test]
    fn reads_every_part() {
        let sample = Sample::get("shop", "/p?k=v%20w")
            .header("x-user", "ann")
            .header("x-user", "bob")
            .header("cookie", "a=1; id=\"42\"")
            .header("cookie", "id=43");
        let route = Name::new("r").unwrap();
        let key = Key::compile(&[
            KeyPart::Client,
            header("x-user"),
            KeyPart::Query("k".into()),
            KeyPart::Cookie("id".into()),
            KeyPart::Route,
            KeyPart::Host,
            KeyPart::Method,
            KeyPart::Cookie("none".into()),
        ]);
        assert_eq!(key.text(&sample.view(), Some(&route)), "10.1.2.3,ann, bob,v w,42,r,shop,GET,-");
    }

    #[test]
    fn a_key_of_nothing_is_none() {
        let key = Key::compile(&[header("x-user"), KeyPart::Cookie("id".into()), KeyPart::Query("q".into())]);
        assert_eq!(key.hash(&Sample::get("h", "/").view(), None, 0), None);
        assert!(key.hash(&Sample::get("h", "/?q").view(), None, 0).is_some());
        assert!(Key::compile(&[]).is_empty());
    }

    #[test]
    fn values_do_not_run_into_each_other() {
        let key = Key::compile(&[header("x-a"), header("x-b")]);
        let read = |sample: Sample| key.read(&sample.view(), None).unwrap();
        let one = read(Sample::get("h", "/").header("x-a", "a").header("x-b", "bc"));
        let two = read(Sample::get("h", "/").header("x-a", "ab").header("x-b", "c"));
        let empty = read(Sample::get("h", "/").header("x-a", "a").header("x-b", ""));
        let missing = read(Sample::get("h", "/").header("x-a", "a"));
        assert_ne!(one, two);
        assert_ne!(empty, missing);
    }

    #[test]
    fn a_mapped_address_is_the_address_it_maps() {
        let key = Key::compile(&[KeyPart::Client]);
        let mut mapped = Sample::get("h", "/");
        mapped.client = "::ffff:10.1.2.3".parse().unwrap();
        assert_eq!(key.read(&mapped.view(), None), key.read(&Sample::get("h", "/").view(), None));
    }

    #[test]
    fn the_hash_never_changes() {
        // Instances of different versions must agree: a change of this figure moves every sticky client.
        let key = Key::compile(&[header("x-user"), KeyPart::Host]);
        let sample = Sample::get("shop", "/").header("x-user", "ann");
        assert_eq!(
            key.hash(&sample.view(), None, 0),
            Some(xxh3_64_with_seed(b"\x03\0\0\0ann\x04\0\0\0shop", 0))
        );
        assert_eq!(xxh3_64_with_seed(b"", 0), 0x2d06_8005_38d3_94c2, "XXH3 itself");
    }
}
