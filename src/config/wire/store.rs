//! The `store` block of the file. Doc comments here are the descriptions in the schema.

use serde_json::{Value as Json, json};

use super::{
    Cx, Defaults, Defs, List, Shown, Spanned, Takes, Text, Wire,
    scalars::{Delay, FilePath, Span},
    upstreams::ClientTlsWire,
    wire,
};
use crate::config::{
    bootstrap::EtcdEndpoint,
    codes::Code,
    fault::{Problem, shown},
    node::{Node, Value},
    policy::EndpointAddress,
};

wire! {
    /// Where live policy comes from: etcd or a directory.
    StoreWire as "store" {
        /// The etcd cluster that holds it; this or `directory`.
        etcd: EtcdBlock,
        /// The directory that holds it, as the same tree: its path, or a block; this or `etcd`.
        directory: DirectoryWire,
        /// How long a start waits for the store; then the cache holds, then the baseline. 0 = not at all.
        boot_wait: Delay = default(Delay::secs(3)),
        /// The file that keeps the last good overlays for the next start; `off` = none. Default with etcd:
        /// /var/lib/weir/policy.cache; with a directory: none. Each Weir needs a file of its own.
        cache: CachePath,
        /// Whether this instance writes into the store what it has applied (`pods/<service>/<instance>`): on or off, or
        /// a block. A directory takes none.
        presence: PresenceWire,
    }
}

wire! {
    /// An etcd cluster.
    EtcdWire as "etcd" {
        /// Its members: `http://host:2379` or `https://host:2379`; at least one.
        endpoints: List<EtcdEndpoint, 1> = required,
        /// What all keys begin with.
        root: Root = default(Root::weir()),
        /// The user, where the cluster has users; needs `password_file`.
        user: User,
        /// The file that holds the user's password. It is read again at each authentication.
        password_file: FilePath,
        /// TLS to the members, for `https://` endpoints; without it the system's authorities are trusted. The files are
        /// read again when they change.
        tls: ClientTlsWire,
        /// Bound on one connect to a member, TLS included.
        connect_timeout: Span = default(Span::secs(2)),
        /// Bound on one request: a page of a read, an authentication, a write.
        request_timeout: Span = default(Span::secs(5)),
    }
}

/// An etcd cluster; `None` where it is written, but not as a map, so that it is not missing as well.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct EtcdBlock(pub(crate) Option<EtcdWire>);

impl Wire for EtcdBlock {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        Some(Self(EtcdWire::decode(node, cx)))
    }

    fn schema(defs: &mut Defs) -> Json {
        EtcdWire::schema(defs)
    }
}

wire! {
    /// A directory that holds live policy.
    DirectoryFull as "directory" {
        /// Its path. It may come later than Weir.
        path: FilePath = required,
        /// How often it is read; 10ms to 1m.
        interval: Span = default(Span::millis(250)),
    }
}

/// A directory, by its path alone or in full.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct DirectoryWire(pub(crate) DirectoryFull);

impl Wire for DirectoryWire {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        if matches!(node.value, Value::Map(_)) {
            return DirectoryFull::decode(node, cx).map(Self);
        }
        let mut full = DirectoryFull::defaults(node.origin);
        full.path = FilePath::decode(node, cx).map(|value| Spanned { value, origin: node.origin });
        // Also without a path: what is written wrongly is not missing as well.
        Some(Self(full))
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [FilePath::schema(defs), DirectoryFull::schema(defs)] })
    }
}

wire! {
    /// What this instance writes of itself.
    PresenceFull as "presence" {
        /// The shortest time between two writes, ± 20 %; at least 1s.
        interval: Span = default(Span::secs(10)),
    }
}

/// Presence: off, on, or on with settings.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum PresenceWire {
    /// Nothing is written.
    Off,
    /// As the block says.
    On(PresenceFull),
}

impl Wire for PresenceWire {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        match &node.value {
            Value::Bool(false) => Some(Self::Off),
            Value::Bool(true) => Some(Self::On(PresenceFull::defaults(node.origin))),
            Value::String(text) if text == "off" => Some(Self::Off),
            Value::String(text) if text == "on" => Some(Self::On(PresenceFull::defaults(node.origin))),
            Value::String(_) => {
                cx.wrong_block(node, "`on`, `off` or a map", None);
                None
            }
            _ => PresenceFull::decode(node, cx).map(Self::On),
        }
    }

    fn schema(defs: &mut Defs) -> Json {
        json!({ "anyOf": [PresenceFull::schema(defs), { "enum": ["on", "off", true, false] }] })
    }
}

/// The path of the cache, or `off`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CachePath(pub(crate) Option<FilePath>);

impl Text for CachePath {
    const WHAT: &'static str = "the path of a file, or `off`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "off" | "false" => Ok(Self(None)),
            "true" => Err(Problem::new(Code::BadValue, "`on` is not the path of a file")
                .help("say where it is, or leave it out")),
            path if path.ends_with('/') => {
                let message = format!("`{}` is a folder, not a file", shown(path));
                Err(Problem::new(Code::BadValue, message).help("name the file: `/var/lib/weir/policy.cache`"))
            }
            path => FilePath::parse(path).map(|path| Self(Some(path))),
        }
    }

    fn describe() -> Json {
        json!({ "anyOf": [{ "type": "string", "minLength": 1, "pattern": "[^/]$" }, { "const": false }] })
    }
}

/// What all keys begin with: nothing, or segments with a slash before each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Root(pub(crate) String);

impl Root {
    /// The default.
    fn weir() -> Self {
        Self("/weir".to_owned())
    }
}

impl Text for Root {
    const WHAT: &'static str = "a prefix of keys such as `/weir`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: &str| {
            Problem::new(Code::BadValue, format!("`{}` is not a prefix of keys", shown(text))).help(help)
        };
        if text == "/" {
            return Ok(Self(String::new()));
        }
        let Some(segments) = text.strip_prefix('/') else {
            return Err(wrong("it begins with a slash: `/weir`"));
        };
        if text.ends_with('/') {
            return Err(wrong("leave the slash at its end out"));
        }
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        let sound = |segment: &str| !segment.is_empty() && segment.bytes().all(legal);
        if text.len() > 256 || !segments.split('/').all(sound) {
            return Err(wrong("it has at most 256 of `a-z A-Z 0-9 . _ - /`, and no two slashes in a row"));
        }
        Ok(Self(text.to_owned()))
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^(/|(/[A-Za-z0-9._-]+)+)$", "maxLength": 256 })
    }
}

impl Shown for Root {
    fn show(&self) -> Json {
        if self.0.is_empty() { "/".into() } else { self.0.as_str().into() }
    }
}

/// The name of a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User(pub(crate) String);

impl Text for User {
    const WHAT: &'static str = "the name of a user";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Number;

    fn parse(text: &str) -> Result<Self, Problem> {
        if (1..=256).contains(&text.len()) && !text.chars().any(char::is_control) {
            return Ok(Self(text.to_owned()));
        }
        Err(Problem::new(Code::BadValue, format!("`{}` is not the name of a user", shown(text)))
            .help("it has 1 to 256 bytes, and no control characters"))
    }

    fn describe() -> Json {
        json!({ "type": ["string", "number"], "minLength": 1, "maxLength": 256 })
    }
}

impl Text for EtcdEndpoint {
    const WHAT: &'static str = "a member of etcd such as `http://127.0.0.1:2379`";
    const DEF: &'static str = "etcd-endpoint";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: String| {
            Problem::new(Code::BadAddress, format!("`{}` is not a member of etcd", shown(text))).help(help)
        };
        let Some((scheme, rest)) = text.split_once("://") else {
            return Err(wrong(format!(
                "say whether it is `http://{0}` (clear text) or `https://{0}`",
                shown(text)
            )));
        };
        let tls = match scheme {
            "http" => false,
            "https" => true,
            _ => return Err(wrong("it begins with `http://` or `https://`".to_owned())),
        };
        if rest.contains('@') {
            return Err(wrong("put the name into `user` and the password into a `password_file`".to_owned()));
        }
        let host = rest.strip_suffix('/').unwrap_or(rest);
        if host.contains(['/', '?', '#']) {
            return Err(wrong("leave out what follows the port; what keys begin with is `root`".to_owned()));
        }
        let ported = |host: &str| host.rsplit_once(':').is_some_and(|(_, port)| !port.ends_with(']'));
        let address = if ported(host) { host.to_owned() } else { format!("{host}:2379") };
        match EndpointAddress::parse(&address) {
            Ok(address @ (EndpointAddress::Socket(_) | EndpointAddress::Host(..))) => {
                Ok(Self { tls, address })
            }
            Ok(EndpointAddress::Unix(_)) => Err(wrong("write `http://host:2379`".to_owned())),
            Err(problem) => Err(wrong(problem.help.unwrap_or_else(|| "write `http://host:2379`".to_owned()))),
        }
    }

    fn describe() -> Json {
        json!({
            "description": "http://host:port or https://host:port; the port is 2379 when it is left out.",
            "type": "string",
            "pattern": r"^https?://([A-Za-z0-9._-]{1,255}|\[[0-9a-fA-F:.]+\])(:0*[1-9][0-9]{0,4})?/?$",
        })
    }
}
