//! The keys of live policy.
//!
//! ```text
//! <root>/policy/<scope>/<kind>/<name>               one overlay
//! <root>/policy/<scope>/endpoints/<upstream>/<id>   one endpoint of an upstream
//! <root>/policy/<scope>/bypass                      break-glass
//! <root>/policy/<scope>/confirm                     releases what was held
//! ```

use std::fmt;

use crate::config::{Kind, Name};

/// A layer of live policy, by the keys that it is read from. In order: later ones are merged over earlier ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// `_all`: every instance of every service.
    Fleet,
    /// `<service>`.
    Service,
    /// `<service>@<instance>`.
    Instance,
}

impl Scope {
    /// Every scope, in order.
    pub const ALL: [Self; 3] = [Self::Fleet, Self::Service, Self::Instance];

    /// Its name in `/policy` and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Fleet => "fleet",
            Self::Service => "service",
            Self::Instance => "instance",
        }
    }
}

/// Who an instance is, as far as keys go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its service.
    pub service: Name,
    /// Its own name.
    pub instance: Name,
}

impl Identity {
    /// The part of a key that stands for `scope`: `_all`, `orders`, `orders@pod-1`.
    pub fn segment(&self, scope: Scope) -> String {
        match scope {
            Scope::Fleet => "_all".to_owned(),
            Scope::Service => self.service.to_string(),
            Scope::Instance => format!("{}@{}", self.service, self.instance),
        }
    }

    /// What all keys of `scope` begin with, below `<root>/policy/`; with the closing slash, so that `orders` never
    /// sees `orders2`.
    pub fn prefix(&self, scope: Scope) -> String {
        let mut prefix = self.segment(scope);
        prefix.push('/');
        prefix
    }
}

/// What a key below `<root>/policy/<scope>/` stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// One overlay.
    Overlay(Kind, Name),
    /// One endpoint of an upstream, by its id.
    Endpoint(Name, Name),
    /// Every protection off.
    Bypass,
    /// What was held may be applied.
    Confirm,
}

impl Subject {
    /// Reads what follows the scope's prefix; the error says what would be right.
    pub fn parse(rest: &str) -> Result<Self, KeyError> {
        let mut parts = rest.split('/');
        let (first, second, third) = (parts.next().unwrap_or_default(), parts.next(), parts.next());
        if parts.next().is_some() {
            return Err(KeyError::TooDeep);
        }
        let name = |text: &str| Name::new(text).ok_or_else(|| KeyError::Name(text.to_owned()));
        match (first, second, third) {
            ("bypass", None, None) => Ok(Self::Bypass),
            ("confirm", None, None) => Ok(Self::Confirm),
            ("endpoints", Some(upstream), Some(id)) => Ok(Self::Endpoint(name(upstream)?, name(id)?)),
            ("endpoints", ..) => Err(KeyError::Endpoint),
            (kind, Some(resource), None) => match Kind::of(kind) {
                Some(kind) => Ok(Self::Overlay(kind, name(resource)?)),
                None => Err(KeyError::Kind(kind.to_owned())),
            },
            (kind, None, None) if Kind::of(kind).is_some() => Err(KeyError::NoName),
            (kind, _, Some(_)) if Kind::of(kind).is_some() => Err(KeyError::TooDeep),
            (kind, ..) => Err(KeyError::Kind(kind.to_owned())),
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Overlay(kind, name) => write!(f, "{}/{name}", kind.as_str()),
            Self::Endpoint(upstream, id) => write!(f, "endpoints/{upstream}/{id}"),
            Self::Bypass => f.write_str("bypass"),
            Self::Confirm => f.write_str("confirm"),
        }
    }
}

/// Why a key means nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyError {
    /// No such kind.
    Kind(String),
    /// A kind, and nothing behind it.
    NoName,
    /// This cannot be a name.
    Name(String),
    /// More slashes than a key has.
    TooDeep,
    /// An endpoint has an upstream and an id.
    Endpoint,
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Kind(kind) => {
                let kind: String = kind.chars().take(64).collect();
                write!(
                    f,
                    "`{}` is no kind: there are upstreams, routes, limits, switches, plans, endpoints, bypass and confirm",
                    kind.escape_debug()
                )
            }
            Self::NoName => f.write_str("the key ends without a name: <scope>/<kind>/<name>"),
            Self::Name(name) => {
                let name: String = name.chars().take(64).collect();
                write!(
                    f,
                    "`{}` is no name: 1 to 128 of a-z A-Z 0-9 . _ -, a letter or digit first",
                    name.escape_debug()
                )
            }
            Self::TooDeep => f.write_str("too many slashes: <scope>/<kind>/<name>; names have none"),
            Self::Endpoint => f.write_str("an endpoint's key is <scope>/endpoints/<upstream>/<id>"),
        }
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for text in [
            "upstreams/a",
            "routes/b.c",
            "limits/x",
            "switches/y",
            "plans/z",
            "endpoints/a/1",
            "bypass",
            "confirm",
        ] {
            assert_eq!(Subject::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn says_what_is_wrong_with_a_key() {
        for (text, error) in [
            ("", KeyError::Kind(String::new())),
            ("switches", KeyError::NoName),
            ("switches/", KeyError::Name(String::new())),
            ("switches/a/b", KeyError::TooDeep),
            ("switches/a/b/c", KeyError::TooDeep),
            ("switches/ä", KeyError::Name("ä".into())),
            ("switchs/a", KeyError::Kind("switchs".into())),
            ("endpoints/a", KeyError::Endpoint),
            ("endpoints", KeyError::Endpoint),
            ("bypass/x", KeyError::Kind("bypass".into())),
        ] {
            assert_eq!(Subject::parse(text), Err(error), "{text}");
        }
    }

    #[test]
    fn a_service_never_sees_one_whose_name_begins_like_its_own() {
        let name = |text| Name::new(text).unwrap();
        let identity = Identity { service: name("orders"), instance: name("pod-1") };
        let prefixes = Scope::ALL.map(|scope| identity.prefix(scope));
        assert_eq!(prefixes, ["_all/", "orders/", "orders@pod-1/"]);
        assert!(!"orders2/switches/x".starts_with(&prefixes[1]));
        assert!(!"orders@pod-10/switches/x".starts_with(&prefixes[2]));
    }
}
