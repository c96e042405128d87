//! Scalars of policy: endpoints, networks, and what requests are matched and changed by.

use std::{borrow::Cow, fmt::Write, net::SocketAddr, sync::Arc};

use http::{HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use serde_json::{Value as Json, json};

use super::{Shown, Takes, Text};
use crate::config::{
    Pattern,
    codes::Code,
    fault::{Problem, nearest, shown},
    policy::{EndpointAddress, GrpcPattern, HostPattern, KeyPart, PathPattern, ValuePattern},
};

impl Text for EndpointAddress {
    const WHAT: &'static str = "an endpoint such as `10.0.0.1:8080` or `orders.shop.svc:8080`";
    const DEF: &'static str = "endpoint-address";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: &str| {
            Problem::new(Code::BadAddress, format!("`{}` is not an endpoint", shown(text))).help(help)
        };
        if let Some((scheme, rest)) = text.split_once("://") {
            let rest = rest.split('/').next().unwrap_or_default();
            let tls = if scheme == "https" { ", and `tls: {}` in the upstream" } else { "" };
            return Err(wrong(&format!("leave the scheme out: `{}`{tls}", shown(rest))));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(wrong("a port is 1 to 65535"))
            } else {
                Ok(Self::Socket(address))
            };
        }
        let Some((host, port)) = text.rsplit_once(':') else {
            return Err(wrong("write `host:port`"));
        };
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        let port = port
            .parse()
            .ok()
            .filter(|port| digits && *port != 0)
            .ok_or_else(|| wrong("a port is 1 to 65535"))?;
        if host.contains(':') {
            return Err(wrong("an IPv6 address stands in brackets: `[::1]:8080`"));
        }
        let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        if numeric || !is_host(host) {
            return Err(wrong("write `host:port`, with an IP address or a DNS name as host"));
        }
        Ok(Self::Host(Arc::from(host.to_ascii_lowercase()), port))
    }

    fn describe() -> Json {
        json!({
            "description": "host:port, with an IP address or a DNS name as host.",
            "type": "string",
            "pattern": r"^([A-Za-z0-9._-]{1,255}|\[[0-9a-fA-F:.]+(%[0-9]+)?\]):0*[1-9][0-9]{0,4}$",
        })
    }
}

impl Text for IpNet {
    const WHAT: &'static str = "a network such as `10.0.0.0/8`";
    const DEF: &'static str = "network";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: String| {
            Problem::new(Code::BadAddress, format!("`{}` is not a network", shown(text))).help(help)
        };
        if let Ok(address) = text.parse::<std::net::IpAddr>() {
            return Ok(address.into());
        }
        let net: Self =
            text.parse().map_err(|_| wrong("write for instance `10.0.0.0/8` or `fd00::/8`".to_owned()))?;
        if net.trunc() != net {
            return Err(wrong(format!(
                "there are bits set behind the prefix: did you mean `{}`?",
                net.trunc()
            )));
        }
        Ok(net)
    }

    fn describe() -> Json {
        json!({ "description": "A network (CIDR) or an address.", "type": "string", "pattern": r"^[0-9a-fA-F:.]+(/[0-9]{1,3})?$" })
    }
}

impl Shown for IpNet {
    fn show(&self) -> Json {
        self.to_string().into()
    }
}

impl Text for Method {
    const WHAT: &'static str = "a method such as `GET`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        const KNOWN: [&str; 9] =
            ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "CONNECT", "TRACE"];
        if text.bytes().any(|b| b.is_ascii_lowercase()) {
            let guess = nearest(text, KNOWN).map_or_else(|| text.to_ascii_uppercase(), str::to_owned);
            return Err(Problem::new(Code::BadValue, format!("`{}` is not a method", shown(text)))
                .help(format!("methods are case-sensitive: write `{}`", shown(&guess))));
        }
        Self::from_bytes(text.as_bytes())
            .map_err(|_| Problem::new(Code::BadValue, format!("`{}` is not a method", shown(text))))
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^[A-Z0-9!#$%&'*+.^_`|~-]+$" })
    }
}

impl Text for HeaderName {
    const WHAT: &'static str = "a header's name";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        Self::from_bytes(text.as_bytes()).map_err(|_| {
            Problem::new(Code::BadHeader, format!("`{}` is not a header's name", shown(text)))
                .help("a name is made of letters, digits and ``!#$%&'*+-.^_`|~`` (RFC 9110 §5.1)")
        })
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9!#$%&'*+.^_`|~-]+$" })
    }
}

impl Text for HeaderValue {
    const WHAT: &'static str = "a header's value";
    const DEF: &'static str = "header-value";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        let edges = text.starts_with([' ', '\t']) || text.ends_with([' ', '\t']);
        Self::from_str(text).ok().filter(|_| !edges).ok_or_else(|| {
            Problem::new(Code::BadHeader, format!("`{}` is not a header's value", shown(text)))
                .help("a value is visible ASCII, with spaces only inside (RFC 9110 §5.5)")
        })
    }

    fn describe() -> Json {
        json!({ "type": ["string", "number", "boolean"], "pattern": r"^([!-~]([\t -~]*[!-~])?)?$" })
    }
}

impl Text for HostPattern {
    const WHAT: &'static str = "a host such as `api.example.com` or `*.example.com`";
    const DEF: &'static str = "host-pattern";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong =
            |help: &str| Problem::new(Code::BadHost, format!("`{}` is not a host", shown(text))).help(help);
        if text == "*" {
            return Err(wrong("leave `host` out to match every host"));
        }
        let lower = text.to_ascii_lowercase();
        let lower = lower.strip_suffix('.').unwrap_or(&lower);
        if let Some(suffix) = lower.strip_prefix('*') {
            let rest = suffix.strip_prefix('.').filter(|rest| is_host(rest));
            let help = "a wildcard stands for whole labels at the beginning: `*.example.com`";
            return rest.map(|_| Self::Suffix(Arc::from(suffix))).ok_or_else(|| wrong(help));
        }
        if let Some(inside) = lower.strip_prefix('[') {
            let address = inside.strip_suffix(']').and_then(|v6| v6.parse::<std::net::Ipv6Addr>().ok());
            let help = "an IPv6 host is written `[::1]`, without a port";
            return address.map(|v6| Self::Exact(Arc::from(format!("[{v6}]")))).ok_or_else(|| wrong(help));
        }
        if lower.contains("://") || lower.contains('/') {
            return Err(wrong("write the host alone, without scheme or path"));
        }
        if lower.contains(':') {
            return Err(wrong("hosts are matched without their port: leave it out"));
        }
        if lower.contains('*') {
            return Err(wrong("a wildcard stands for whole labels at the beginning: `*.example.com`"));
        }
        if !lower.is_ascii() {
            return Err(wrong("write the name in its ASCII form (punycode, `xn--…`)"));
        }
        if is_host(lower) {
            Ok(Self::Exact(Arc::from(lower)))
        } else {
            Err(wrong("write for instance `api.example.com`"))
        }
    }

    fn describe() -> Json {
        json!({
            "description": "A host, or *.suffix; without port.",
            "type": "string",
            "pattern": r"^((\*\.)?[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_.])?|\[[0-9a-fA-F:.]+\])$",
        })
    }
}

/// Whether `text` is a DNS name, or looks like an IPv4 address. Underscores are taken: they are in use.
fn is_host(text: &str) -> bool {
    let label = |label: &str| {
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len())
            && label.bytes().all(legal)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    (1..=253).contains(&text.len()) && text.split('.').all(label)
}

impl Text for PathPattern {
    const WHAT: &'static str = "a path such as `/exact`, `/prefix/*` or `~regex`";
    const DEF: &'static str = "path-pattern";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        if let Some(source) = text.strip_prefix('~') {
            return regex(source).map(Self::Regex);
        }
        let (path, prefix) = text.strip_suffix("/*").map_or((text, false), |path| (path, true));
        if path.contains('*') {
            return Err(Problem::new(Code::BadPath, format!("`{}` has a `*` inside", shown(text)))
                .help("a `*` stands at the end, behind a slash: `/prefix/*`; for more, write a regular expression: `~/a/[^/]+/b`"));
        }
        if prefix && path.is_empty() {
            return Ok(Self::Prefix(Arc::from("")));
        }
        if prefix {
            // With its slash, so that `/a//*` is seen for what it is.
            let normal = normal_path(text.trim_end_matches('*'))?;
            return Ok(Self::Prefix(Arc::from(normal.trim_end_matches('/'))));
        }
        normal_path(path).map(|normal| Self::Exact(Arc::from(normal)))
    }

    fn describe() -> Json {
        json!({
            "description": "/exact, /prefix/* or ~regex (which must match the whole path).",
            "type": "string",
            "pattern": r"^(~.*|/\*|/[^*?#\s]*(/\*)?)$",
        })
    }
}

/// A path of a rewrite: where the matched prefix is replaced by it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewPath(pub(crate) Arc<str>);

impl Text for NewPath {
    const WHAT: &'static str = "a path such as `/v2`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        if text.contains('*') {
            return Err(Problem::new(Code::BadPath, format!("`{}` has a `*` inside", shown(text)))
                .help("what follows the prefix stays by itself: write `/v2`, not `/v2/*`"));
        }
        normal_path(text).map(|path| Self(Arc::from(path)))
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": r"^/[^*?#\s]*$" })
    }
}

/// A path as requests have it after normalising: escapes of unreserved characters decoded, the others in upper
/// case (RFC 3986 §6.2.2). What normalising would change in meaning is refused instead: the writer should see it.
fn normal_path(text: &str) -> Result<Cow<'_, str>, Problem> {
    let wrong =
        |why: &str, help: &str| Problem::new(Code::BadPath, format!("`{}` {why}", shown(text))).help(help);
    if !text.starts_with('/') {
        return Err(wrong("does not begin with a slash", "write `/path`, `/path/*` or `~regex`"));
    }
    if text.contains(['?', '#']) {
        return Err(wrong(
            "is more than a path",
            "leave `?` and `#` and what follows out; `query` matches parameters",
        ));
    }
    if text.contains("//") {
        return Err(wrong("has an empty segment", "requests are matched after `//` has become `/`"));
    }
    let decoded = unescape(text)
        .ok_or_else(|| wrong("has a bad percent escape", "an escape is `%` and two hexadecimal digits"))?;
    if decoded.split('/').any(|segment| matches!(segment, "." | "..")) {
        return Err(wrong("has a `.` or `..` segment", "requests are matched after these are resolved"));
    }
    if decoded.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(wrong(
            "has a character that a path cannot hold",
            "write it percent-encoded, for instance `%20` for a space",
        ));
    }
    Ok(decoded)
}

/// Decodes escapes of unreserved characters and puts the others in upper case; `None` for a broken escape.
fn unescape(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains('%') {
        return Some(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        out.push_str(before);
        let digits = after.get(..2).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        match u8::from_str_radix(digits, 16).ok()? {
            b if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(b));
            }
            b => {
                let _ = write!(out, "%{b:02X}");
            }
        }
        rest = after.get(2..)?;
    }
    out.push_str(rest);
    Some(Cow::Owned(out))
}

impl Text for ValuePattern {
    const WHAT: &'static str = "a value, `~regex`, `present` or `absent`";
    const DEF: &'static str = "value-pattern";
    const TAKES: Takes = Takes::Any;

    fn parse(text: &str) -> Result<Self, Problem> {
        match text {
            "present" => Ok(Self::Present),
            "absent" => Ok(Self::Absent),
            _ => text
                .strip_prefix('~')
                .map_or_else(|| Ok(Self::Exact(Arc::from(text))), |source| regex(source).map(Self::Regex)),
        }
    }

    fn describe() -> Json {
        json!({
            "description": "Exactly this value, ~regex (which must match the whole value), present or absent.",
            "type": ["string", "number", "boolean"],
        })
    }
}

fn regex(source: &str) -> Result<Pattern, Problem> {
    Pattern::new(source).map_err(|error| {
        let text = error.to_string();
        match error {
            regex::Error::CompiledTooBig(_) => {
                let limit =
                    crate::config::units::show_size(Pattern::SIZE_LIMIT.try_into().unwrap_or(u64::MAX));
                Problem::new(
                    Code::BadRegex,
                    format!("this regular expression takes more than {limit} of memory"),
                )
                .help("use smaller repetition counts, or ASCII classes such as `[0-9]` instead of `\\d`")
            }
            // The library draws its own picture of where; its last line says what.
            _ => Problem::new(
                Code::BadRegex,
                format!(
                    "not a regular expression: {}",
                    text.lines().last().unwrap_or_default().trim_start_matches("error: ")
                ),
            ),
        }
    })
}

impl Text for GrpcPattern {
    const WHAT: &'static str = "a gRPC method such as `package.Service/Method` or `package.Service`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let (service, method) =
            text.split_once('/').map_or((text, None), |(service, method)| (service, Some(method)));
        let word = |text: &str, extra: char| {
            !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == extra)
        };
        if !word(service, '.') || !method.is_none_or(|method| word(method, '_') || method == "*") {
            return Err(Problem::new(Code::BadValue, format!("`{}` is not a gRPC method", shown(text)))
                .help("write `package.Service/Method`, or `package.Service` for all its methods"));
        }
        Ok(Self {
            service: Arc::from(service),
            method: method.filter(|method| *method != "*").map(Arc::from),
        })
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": r"^[A-Za-z0-9_.]+(/([A-Za-z0-9_]+|\*))?$" })
    }
}

impl Text for KeyPart {
    const WHAT: &'static str = "a part of a key such as `client` or `header:x-user`";
    const DEF: &'static str = "key-part";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let named = |name: &str| (!name.is_empty()).then(|| Arc::from(name));
        let found = match text.split_once(':') {
            Some(("header", name)) => return HeaderName::parse(name).map(Self::Header),
            Some(("query", name)) => named(name).map(Self::Query),
            Some(("cookie", name)) => named(name).map(Self::Cookie),
            Some(_) => None,
            None => match text {
                "client" => Some(Self::Client),
                "route" => Some(Self::Route),
                "host" => Some(Self::Host),
                "method" => Some(Self::Method),
                _ => None,
            },
        };
        found.ok_or_else(|| {
            Problem::new(Code::UnknownChoice, format!("`{}` is not a part of a key", shown(text))).help(
                "it takes `client`, `route`, `host`, `method`, `header:NAME`, `query:NAME` or `cookie:NAME`",
            )
        })
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^(client|route|host|method|(header|query|cookie):.+)$" })
    }
}

/// A host that replaces the request's, with or without a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NewHost(pub(crate) HeaderValue);

impl Text for NewHost {
    const WHAT: &'static str = "a host such as `api.example.com`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let authority = text.parse::<http::uri::Authority>().ok().filter(|_| !text.contains('@'));
        let host = authority.filter(|authority| {
            let host = authority.host();
            let v6 = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
            let port = text.len() == host.len() || authority.port_u16().is_some();
            port && v6.map_or_else(|| is_host(host), |v6| v6.parse::<std::net::Ipv6Addr>().is_ok())
        });
        host.and_then(|host| HeaderValue::from_str(host.as_str()).ok()).map(Self).ok_or_else(|| {
            Problem::new(Code::BadHost, format!("`{}` is not a host", shown(text)))
                .help("write `api.example.com` or `api.example.com:8443`")
        })
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": r"^([A-Za-z0-9_.-]+|\[[0-9a-fA-F:.]+\])(:[0-9]{1,5})?$" })
    }
}

/// A name that a certificate carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertificateName(pub(crate) Arc<str>);

impl Text for CertificateName {
    const WHAT: &'static str = "a server name such as `api.example.com`";
    const DEF: &'static str = "";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        ServerName::try_from(text).map(|_| Self(Arc::from(text))).map_err(|_| {
            Problem::new(Code::BadHost, format!("`{}` is not a server name", shown(text)))
                .help("write a DNS name or an IP address, without a port")
        })
    }

    fn describe() -> Json {
        json!({ "type": "string", "pattern": "^[A-Za-z0-9_.:-]+$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalised_as_requests_are() {
        for (text, expected) in [
            ("/", PathPattern::Exact("/".into())),
            ("/*", PathPattern::Prefix("".into())),
            ("/a/*", PathPattern::Prefix("/a".into())),
            ("/%7Ea/%2f%41", PathPattern::Exact("/~a/%2FA".into())),
            ("/a/", PathPattern::Exact("/a/".into())),
        ] {
            assert_eq!(PathPattern::parse(text), Ok(expected), "{text}");
        }
        for text in [
            "a", "", "*", "/a*", "/*/b", "//", "/a//b", "/a/../b", "/a/.", "/%2e%2E/", "/a?b", "/a#b", "/%",
            "/%4", "/%zz", "/%é", "/a b", "/é", "//*", "/a//*",
        ] {
            assert_eq!(PathPattern::parse(text).unwrap_err().code, Code::BadPath, "{text}");
        }
        assert_eq!(PathPattern::parse("~(").unwrap_err().code, Code::BadRegex);
    }

    #[test]
    fn hosts() {
        for (text, expected) in [
            ("API.example.com", HostPattern::Exact("api.example.com".into())),
            ("api.example.com.", HostPattern::Exact("api.example.com".into())),
            ("*.example.com", HostPattern::Suffix(".example.com".into())),
            ("inventory", HostPattern::Exact("inventory".into())),
            ("[0:0::1]", HostPattern::Exact("[::1]".into())),
            ("10.0.0.1", HostPattern::Exact("10.0.0.1".into())),
        ] {
            assert_eq!(HostPattern::parse(text), Ok(expected), "{text}");
        }
        for text in [
            "", "*", "*.", "*a.b", "a.*.b", "a..b", "a:80", "http://a", "a/b", "ä.de", "[::1]:80", "[x]",
            "-a", ".a",
        ] {
            assert_eq!(HostPattern::parse(text).unwrap_err().code, Code::BadHost, "{text:?}");
        }
    }

    #[test]
    fn endpoints() {
        assert_eq!(
            EndpointAddress::parse("[::1]:80"),
            Ok(EndpointAddress::Socket("[::1]:80".parse().unwrap()))
        );
        assert_eq!(EndpointAddress::parse("A.svc:80"), Ok(EndpointAddress::Host("a.svc".into(), 80)));
        for text in [
            "a",
            "a:",
            "a:0",
            "a:65536",
            "a:+80",
            ":80",
            "1.2.3.4",
            "1.2.3:80",
            "::1:80",
            "http://a:80",
            "a b:80",
            "1.2.3.4:0",
        ] {
            assert_eq!(EndpointAddress::parse(text).unwrap_err().code, Code::BadAddress, "{text}");
        }
    }

    #[test]
    fn keys_grpc_and_new_hosts() {
        assert_eq!(KeyPart::parse("header:X-User"), Ok(KeyPart::Header(HeaderName::from_static("x-user"))));
        assert!(
            ["", "header:", "query:", "headers:x", "clients"]
                .iter()
                .all(|text| KeyPart::parse(text).is_err())
        );
        assert_eq!(GrpcPattern::parse("a.B/*").unwrap().method, None);
        assert_eq!(GrpcPattern::parse("a.B/C").unwrap().method.as_deref(), Some("C"));
        assert!(["", "/a.B/C", "a.B/", "a/b/c", "a b"].iter().all(|text| GrpcPattern::parse(text).is_err()));
        assert!(["a.b:80", "a", "[::1]:80"].iter().all(|text| NewHost::parse(text).is_ok()));
        assert!(["", "u@a", "a:b", "a:99999", "a/b", "a b"].iter().all(|text| NewHost::parse(text).is_err()));
    }
}
