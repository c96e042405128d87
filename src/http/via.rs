//! `Via` and the loops that it shows: RFC 9110 §7.6.3.

use ::http::{HeaderMap, HeaderValue, Version, header::VIA};
use memchr::memmem::Finder;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    config::Name,
    error::{ProxyError, Reason},
};

/// What one listener of one instance writes into `Via`.
///
/// Its pseudonym is `weir-` and 16 hexadecimal digits, a hash of instance, listener and address: two instances
/// on the way of a request are no loop, nor are the two listeners of one, nor two Weirs of one host that call their
/// listeners the same; and the pod's name is not told to everybody.
#[derive(Debug, Clone)]
pub struct Via {
    pseudonym: Box<str>,
    finder: Finder<'static>,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// Computes the pseudonym and all values once.
    pub fn new(instance: &Name, listener: &Name, address: &dyn std::fmt::Display) -> Self {
        // Names hold no slash, so no two pairs read the same.
        let pseudonym =
            format!("weir-{:016x}", xxh3_64(format!("{instance}/{listener}/{address}").as_bytes()));
        let value = |version| {
            let text = format!("{version} {pseudonym}");
            HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("1.1 weir"))
        };
        Self {
            http10: value("1.0"),
            http11: value("1.1"),
            http2: value("2"),
            finder: Finder::new(pseudonym.as_bytes()).into_owned(),
            pseudonym: pseudonym.into(),
        }
    }

    /// The pseudonym.
    pub fn pseudonym(&self) -> &str {
        &self.pseudonym
    }

    /// Appends this hop to a request or an answer that came in `version`.
    pub fn append(&self, version: Version, headers: &mut HeaderMap) {
        headers.append(VIA, self.hop(version).clone());
    }

    /// This hop, for a message that came in `version`.
    pub fn hop(&self, version: Version) -> &HeaderValue {
        match version {
            Version::HTTP_2 => &self.http2,
            Version::HTTP_10 => &self.http10,
            _ => &self.http11,
        }
    }

    /// Fails with [`Reason::Loop`] when a request was here before.
    pub fn check_loop(&self, headers: &HeaderMap) -> Result<(), ProxyError> {
        let seen = headers.get_all(VIA).iter().any(|line| {
            // The search rules out nearly everything before the list is taken apart.
            self.finder.find(line.as_bytes()).is_some()
                && line.as_bytes().split(|&b| b == b',').any(|hop| self.is_me(hop))
        });
        if seen { Err(ProxyError::new(Reason::Loop)) } else { Ok(()) }
    }

    /// Whether a hop (`protocol received-by [comment]`) is this one.
    fn is_me(&self, hop: &[u8]) -> bool {
        hop.split(u8::is_ascii_whitespace).filter(|part| !part.is_empty()).nth(1)
            == Some(self.pseudonym.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn via(instance: &str, listener: &str) -> Via {
        Via::new(&Name::new(instance).unwrap(), &Name::new(listener).unwrap(), &"127.0.0.1:80")
    }

    #[test]
    fn pseudonyms_tell_listeners_and_instances_apart() {
        let mut all: Vec<_> = [("a", "in"), ("a", "out"), ("b", "in"), ("a.i", "n")]
            .iter()
            .map(|(i, l)| via(i, l).pseudonym().to_owned())
            .collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 4);
        assert_eq!(
            via("a", "in").pseudonym(),
            all.iter().find(|p| **p == via("a", "in").pseudonym()).unwrap()
        );
        assert!(all.iter().all(|p| p.len() == 21 && p.starts_with("weir-")));
    }

    #[test]
    fn appends_after_the_hops_before() {
        let me = via("a", "in");
        let mut headers = HeaderMap::from_iter([(VIA, HeaderValue::from_static("1.0 fred, 1.1 p"))]);
        for version in [Version::HTTP_11, Version::HTTP_2, Version::HTTP_10] {
            me.append(version, &mut headers);
        }
        let lines: Vec<_> = headers.get_all(VIA).iter().map(|v| v.to_str().unwrap()).collect();
        let p = me.pseudonym();
        assert_eq!(lines, ["1.0 fred, 1.1 p", &format!("1.1 {p}"), &format!("2 {p}"), &format!("1.0 {p}")]);
    }

    #[test]
    fn finds_itself_and_nobody_else() {
        let me = via("a", "in");
        let p = me.pseudonym();
        for (line, seen) in [
            (format!("1.1 {p}"), true),
            (format!("1.1 x, HTTP/2 {p} (weir),1.1 y"), true),
            (format!("1.1 x,\t1.1\t{p}"), true),
            (format!("1.1 {p}0"), false),
            (format!("1.1 x{p}"), false),
            (format!("1.1 x ({p})"), false),
            (format!("1.1 {}", via("a", "out").pseudonym()), false),
            (String::new(), false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(VIA, HeaderValue::from_static("1.1 first"));
            headers.append(VIA, HeaderValue::try_from(&line).unwrap());
            assert_eq!(me.check_loop(&headers).is_err(), seen, "{line}");
        }
        assert!(matches!(
            me.check_loop(&HeaderMap::from_iter([(VIA, me.http11.clone())])),
            Err(ProxyError { reason: Reason::Loop, .. })
        ));
    }
}
