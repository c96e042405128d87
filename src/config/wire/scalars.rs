//! Scalars of settings: numbers, durations, sizes, words, files.

use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use serde_json::{Value as Json, json};

use super::{Shown, Takes, Text, choose};
use crate::config::{
    Name,
    bootstrap::{
        AccessLog, Direction, ListenAddress, ListenerProtocol, LogFormat, LogLevel, ProxyProtocol, Unmatched,
    },
    codes::Code,
    fault::{Problem, shown},
    node::Value,
    policy::{Priority, UpstreamProtocol},
    scalar, units,
};

/// A duration above zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    /// So many seconds.
    pub(crate) const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }

    /// So many milliseconds.
    pub(crate) const fn millis(n: u64) -> Self {
        Self(Duration::from_millis(n))
    }
}

impl Text for Span {
    const WHAT: &'static str = "a duration such as `250ms`, `2s`, `1m` or `1h`";
    const DEF: &'static str = "duration";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        let found = units::duration(text)?;
        if found.is_zero() {
            return Err(Problem::new(Code::OutOfBounds, "this duration must be above 0")
                .help("it bounds something that must have a bound; at least 1ms"));
        }
        Ok(Self(found))
    }

    fn describe() -> Json {
        json!({
            "description": "A duration above zero and at most 24h: a whole number and ms, s, m or h.",
            "type": "string",
            "pattern": "^0*[1-9][0-9]*(ms|s|m|h)$",
        })
    }
}

impl Shown for Span {
    fn show(&self) -> Json {
        units::show_duration(self.0).into()
    }
}

/// A duration; 0 stands for none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SpanOrNone(pub(crate) Option<Duration>);

impl SpanOrNone {
    /// So many seconds.
    pub(crate) const fn secs(n: u64) -> Self {
        Self(Some(Duration::from_secs(n)))
    }
}

impl Text for SpanOrNone {
    const WHAT: &'static str = "a duration such as `250ms`, `2s`, `1m` or `1h`, or `0` for none";
    const DEF: &'static str = "duration-or-0";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        units::duration(text).map(|found| Self((!found.is_zero()).then_some(found)))
    }

    fn describe() -> Json {
        json!({
            "description": "A duration of at most 24h: a whole number and ms, s, m or h; or 0 for none.",
            "anyOf": [{ "type": "string", "pattern": "^([0-9]+(ms|s|m|h)|0+)$" }, { "const": 0 }],
        })
    }
}

impl Shown for SpanOrNone {
    fn show(&self) -> Json {
        self.0.map_or_else(|| 0.into(), |value| units::show_duration(value).into())
    }
}

/// A duration; 0 is a duration like any other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Delay(pub(crate) Duration);

impl Delay {
    /// So many seconds.
    pub(crate) const fn secs(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

impl Text for Delay {
    const WHAT: &'static str = SpanOrNone::WHAT;
    const DEF: &'static str = SpanOrNone::DEF;
    const TAKES: Takes = SpanOrNone::TAKES;

    fn parse(text: &str) -> Result<Self, Problem> {
        units::duration(text).map(Self)
    }

    fn describe() -> Json {
        SpanOrNone::describe()
    }
}

impl Shown for Delay {
    fn show(&self) -> Json {
        SpanOrNone((!self.0.is_zero()).then_some(self.0)).show()
    }
}

/// An integer within bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Int<const MIN: u32, const MAX: u32>(pub(crate) u32);

impl<const MIN: u32, const MAX: u32> Text for Int<MIN, MAX> {
    const WHAT: &'static str = "an integer";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::OnlyInteger;

    fn parse(text: &str) -> Result<Self, Problem> {
        let Value::Int(number) = scalar::resolve(text) else {
            return Err(Problem::new(
                Code::WrongType,
                format!("expected an integer, found `{}`", shown(text)),
            ));
        };
        let fits = u32::try_from(number).ok().filter(|number| (MIN..=MAX).contains(number));
        fits.map(Self).ok_or_else(|| {
            Problem::new(Code::OutOfBounds, format!("{number} is out of bounds"))
                .help(format!("it takes {MIN} to {MAX}"))
        })
    }

    fn describe() -> Json {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

impl<const MIN: u32, const MAX: u32> Shown for Int<MIN, MAX> {
    fn show(&self) -> Json {
        self.0.into()
    }
}

/// A size in bytes within bounds, both included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size<const MIN: u64, const MAX: u64>(pub(crate) u64);

impl<const MIN: u64, const MAX: u64> Text for Size<MIN, MAX> {
    const WHAT: &'static str = "a size such as `65536`, `64KiB` or `1MB`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        let bytes = units::size(text)?;
        if (MIN..=MAX).contains(&bytes) {
            return Ok(Self(bytes));
        }
        let help = format!("it takes {} to {}", units::show_size(MIN), units::show_size(MAX));
        Err(Problem::new(Code::OutOfBounds, format!("`{}` is out of bounds", shown(text))).help(help))
    }

    fn describe() -> Json {
        let bounds = format!("{} to {}", units::show_size(MIN), units::show_size(MAX));
        json!({
            "description": format!("A size in bytes: a whole number, alone or with KiB, MiB, GiB, kB, MB or GB; {bounds}."),
            "anyOf": [
                { "type": "integer", "minimum": MIN, "maximum": MAX },
                { "type": "string", "pattern": "^[0-9]+(KiB|MiB|GiB|kB|KB|MB|GB)?$" },
            ],
        })
    }
}

impl<const MIN: u64, const MAX: u64> Shown for Size<MIN, MAX> {
    fn show(&self) -> Json {
        units::show_size(self.0).into()
    }
}

impl Text for Name {
    const WHAT: &'static str = "a name";
    const DEF: &'static str = "name";
    const TAKES: Takes = Takes::Number;

    fn parse(text: &str) -> Result<Self, Problem> {
        Self::new(text).ok_or_else(|| {
            Problem::new(Code::BadName, format!("`{}` is not a name", shown(text))).help(format!(
                "a name is 1 to {} of `a-z A-Z 0-9 . _ -` and begins with a letter or digit",
                Self::MAX_LEN
            ))
        })
    }

    fn describe() -> Json {
        let pattern = format!("^[A-Za-z0-9][A-Za-z0-9._-]{{0,{}}}$", Self::MAX_LEN - 1);
        json!({ "type": ["string", "number"], "pattern": pattern })
    }
}

/// The path of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FilePath(pub(crate) PathBuf);

impl Text for FilePath {
    const WHAT: &'static str = "the path of a file";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        if text.is_empty() {
            return Err(Problem::new(Code::BadValue, "an empty text is not the path of a file"));
        }
        Ok(Self(PathBuf::from(text)))
    }

    fn describe() -> Json {
        json!({ "type": "string", "minLength": 1 })
    }
}

/// Where to listen: `ADDRESS:PORT`; `PORT` and `:PORT` stand for all IPv4 addresses; port 0 is any free one; or
/// `unix:PATH`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listen(pub(crate) ListenAddress);

impl From<SocketAddr> for Listen {
    fn from(address: SocketAddr) -> Self {
        Self(ListenAddress::Socket(address))
    }
}

impl Text for Listen {
    const WHAT: &'static str =
        "an address such as `127.0.0.1:8080`, `[::]:8080`, `8080` or `unix:/run/weir/in.sock`";
    const DEF: &'static str = "listen";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(|path| Self(ListenAddress::Unix(path)));
        }
        let port = text.strip_prefix(':').unwrap_or(text);
        if !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) {
            let port = port.parse().map_err(|_| {
                Problem::new(Code::BadAddress, format!("{} is not a port", shown(port)))
                    .help("ports end at 65535")
            })?;
            return Ok(SocketAddr::from(([0, 0, 0, 0], port)).into());
        }
        text.parse::<SocketAddr>().map(Self::from).map_err(|_| {
            let help = match text.rsplit_once(':') {
                Some(("localhost", port)) => {
                    format!("write `127.0.0.1:{}`; names are not looked up", shown(port))
                }
                _ => format!("write {}", Self::WHAT.trim_start_matches("an address such as ")),
            };
            Problem::new(Code::BadAddress, format!("`{}` is not an address to listen on", shown(text)))
                .help(help)
        })
    }

    fn describe() -> Json {
        json!({
            "description": "ADDRESS:PORT; PORT and :PORT stand for all IPv4 addresses; or unix:PATH.",
            "anyOf": [
                { "type": "integer", "minimum": 0, "maximum": 65535 },
                { "type": "string", "pattern": r"^(([0-9]{1,3}\.){3}[0-9]{1,3}|\[[0-9a-fA-F:.]+(%[0-9]+)?\])?:?[0-9]{1,5}$" },
                { "type": "string", "pattern": SOCKET_PATTERN },
            ],
        })
    }
}

impl Shown for Listen {
    fn show(&self) -> Json {
        self.0.to_string().into()
    }
}

/// What the schema says of a unix socket.
pub(super) const SOCKET_PATTERN: &str = "^unix:/.+$";

/// The path of a unix socket, as it stands behind `unix:`.
pub(super) fn socket_path(text: &str) -> Result<Arc<std::path::Path>, Problem> {
    let wrong = |help: String| {
        Problem::new(Code::BadAddress, format!("`unix:{}` is not a unix socket", shown(text))).help(help)
    };
    if !text.starts_with('/') || text.ends_with('/') || text.contains('\0') {
        return Err(wrong("write the whole path: `unix:/run/weir/in.sock`".to_owned()));
    }
    if text.len() > ListenAddress::MAX_PATH {
        return Err(wrong(format!("the path of a socket has at most {} bytes", ListenAddress::MAX_PATH)));
    }
    Ok(Arc::from(PathBuf::from(text)))
}

/// The permissions of a unix socket, in octal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Mode(pub(crate) u32);

impl Text for Mode {
    const WHAT: &'static str = "the permissions of a file in octal, such as `\"0660\"`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        let digits = (3..=4).contains(&text.len()) && text.bytes().all(|b| (b'0'..=b'7').contains(&b));
        let mode = u32::from_str_radix(text, 8).ok().filter(|mode| digits && *mode <= 0o777);
        mode.map(Self).ok_or_else(|| {
            Problem::new(Code::BadValue, format!("`{}` is not a mode", shown(text)))
                .help("write three octal digits for owner, group and others, such as `\"0660\"`")
        })
    }

    fn describe() -> Json {
        json!({ "anyOf": [
            { "type": "string", "pattern": "^0?[0-7]{3}$" },
            { "type": "integer", "minimum": 0, "maximum": 777 },
        ]})
    }
}

/// How many threads carry traffic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Workers {
    /// As many as suit the CPUs.
    Auto,
    /// So many.
    Fixed(u32),
}

impl Text for Workers {
    const WHAT: &'static str = "`auto` or a number of threads";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Integer;

    fn parse(text: &str) -> Result<Self, Problem> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match scalar::resolve(text) {
            Value::Int(_) => Int::<1, 1024>::parse(text).map(|number| Self::Fixed(number.0)),
            _ => Err(Problem::new(
                Code::UnknownChoice,
                format!("`{}` is not a number of threads", shown(text)),
            )
            .help("it takes `auto`, or 1 to 1024")),
        }
    }

    fn describe() -> Json {
        json!({ "anyOf": [{ "const": "auto" }, Int::<1, 1024>::describe()] })
    }
}

impl Shown for Workers {
    fn show(&self) -> Json {
        match self {
            Self::Auto => "auto".into(),
            Self::Fixed(number) => (*number).into(),
        }
    }
}

impl Text for AccessLog {
    const WHAT: &'static str = "`off`, `errors`, `all` or a percentage";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        const CHOICES: [(&str, AccessLog); 4] = [
            ("off", AccessLog::Off),
            ("false", AccessLog::Off),
            ("errors", AccessLog::Errors),
            ("all", AccessLog::All),
        ];
        if text.ends_with('%') {
            return units::percent(text).map(Self::Sample);
        }
        choose(text, "a choice of access records", &CHOICES, &[])
            .map_err(|problem| problem.help("it takes `off`, `errors`, `all` or a percentage such as `1%`"))
    }

    fn describe() -> Json {
        json!({ "anyOf": [
            { "enum": ["off", "errors", "all", false] },
            { "type": "string", "pattern": r"^(100(\.0{1,2})?|[0-9]{1,2}(\.[0-9]{1,2})?)%$" },
        ]})
    }
}

impl Shown for AccessLog {
    fn show(&self) -> Json {
        match self {
            Self::Off => "off".into(),
            Self::Errors => "errors".into(),
            Self::All => "all".into(),
            Self::Sample(points) => units::show_percent(*points).into(),
        }
    }
}

impl Text for ProxyProtocol {
    const WHAT: &'static str = "`off`, `optional` or `required`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        const CHOICES: [(&str, ProxyProtocol); 4] = [
            ("off", ProxyProtocol::Off),
            ("false", ProxyProtocol::Off),
            ("optional", ProxyProtocol::Optional),
            ("required", ProxyProtocol::Required),
        ];
        choose(text, "a choice of the PROXY protocol", &CHOICES, &[])
            .map_err(|problem| problem.help("it takes `off`, `optional` or `required`"))
    }

    fn describe() -> Json {
        json!({ "enum": ["off", "optional", "required", false] })
    }
}

impl Shown for ProxyProtocol {
    fn show(&self) -> Json {
        match self {
            Self::Off => "off".into(),
            Self::Optional => "optional".into(),
            Self::Required => "required".into(),
        }
    }
}

/// Reads and shows an enum of the validated types by its words.
macro_rules! words {
    ($ty:ty, $what:literal { $($word:literal => $variant:ident),* $(,)? } $(later [$($later:literal),*])?) => {
        impl $crate::config::wire::Text for $ty {
            const WHAT: &'static str = $what;
            const DEF: &'static str = "";
            const TAKES: $crate::config::wire::Takes = $crate::config::wire::Takes::Text;

            fn parse(text: &str) -> Result<Self, $crate::config::fault::Problem> {
                $crate::config::wire::choose(text, $what, &[$(($word, Self::$variant)),*], &[$($($later),*)?])
            }

            fn describe() -> serde_json::Value {
                serde_json::json!({ "enum": [$($word),*] })
            }
        }

        impl $crate::config::wire::Shown for $ty {
            fn show(&self) -> serde_json::Value {
                match self { $(Self::$variant => $word.into()),* }
            }
        }
    };
}
pub(super) use words;

words!(LogLevel, "a log level" { "error" => Error, "warn" => Warn, "info" => Info, "debug" => Debug, "trace" => Trace });
words!(LogFormat, "a log format" { "json" => Json, "text" => Text });
words!(Unmatched, "what becomes of unmatched requests" { "refuse" => Refuse, "passthrough" => Passthrough });
words!(Direction, "a direction" { "inbound" => Inbound, "outbound" => Outbound });
words!(ListenerProtocol, "a protocol of listeners" { "auto" => Auto, "http1" => Http1, "http2" => Http2 } later ["tcp"]);
words!(UpstreamProtocol, "a protocol of upstreams" { "auto" => Auto, "http1" => Http1, "http2" => Http2 });
words!(Priority, "a priority" { "critical" => Critical, "normal" => Normal, "low" => Low, "background" => Background });
