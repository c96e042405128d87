//! Whom a request is for: the one authority of a request, checked.

use std::{borrow::Cow, fmt};

use ::http::{
    HeaderMap, HeaderValue, Method, Uri, Version,
    header::HOST,
    uri::{InvalidUri, PathAndQuery, Scheme},
};

/// Why the authority of a request is refused. The answer is 400 (`malformed`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AuthorityError {
    /// HTTP/1.1 without `Host`, or HTTP/2 with neither `:authority` nor `Host`.
    Missing,
    /// More than one `Host` line.
    Repeated,
    /// It is no `host[:port]`.
    Malformed,
    /// `Host` names another than `:authority` does.
    Contradiction,
    /// The target is an authority, and the method is not `CONNECT`; or a URI of another scheme than HTTP's.
    Target,
}

impl fmt::Display for AuthorityError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Missing => "the request names no host",
            Self::Repeated => "the request has more than one Host",
            Self::Malformed => "the request's host is malformed",
            Self::Contradiction => "Host and :authority name different hosts",
            Self::Target => "the target is neither a path nor a URI",
        })
    }
}

impl std::error::Error for AuthorityError {}

/// Whom a request is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Authority<'a> {
    /// As it was written, with its port. Empty when the request names none.
    pub text: &'a str,
    /// For matching: lower case, without port and trailing dot. An IPv6 address keeps its brackets.
    pub host: Cow<'a, str>,
    /// The port, where one was written.
    pub port: Option<u16>,
}

/// The authority of a request.
///
/// - HTTP/1.1: exactly one `Host` line, also when the target is in absolute form (RFC 9112 §3.2), whose
///   authority then replaces it (§3.2.2). An empty `Host` is a request that names none. HTTP/1.0 may do
///   without.
/// - HTTP/2: `:authority`, else `Host`; when both are there they must agree (RFC 9113 §8.3.1).
/// - `CONNECT`: the target, which must have a port (RFC 9110 §9.3.6); but extended `CONNECT` (RFC 8441 §4) is
///   like any other request.
///
/// User information is refused (RFC 9110 §4.2.4).
pub fn authority<'a>(
    version: Version,
    method: &Method,
    uri: &'a Uri,
    headers: &'a HeaderMap,
) -> Result<Authority<'a>, AuthorityError> {
    let host = single_host(headers)?;
    let target = uri.authority().map(|authority| parse(authority.as_str())).transpose()?;
    // A target that is an authority and nothing else is for `CONNECT` alone (RFC 9112 §3.2.3).
    if method != Method::CONNECT && uri.authority().is_some() && uri.scheme().is_none() {
        return Err(AuthorityError::Target);
    }
    // A URI of another scheme is for nobody that speaks HTTP (RFC 9110 §4.2).
    let http = |scheme: &Scheme| *scheme == Scheme::HTTP || *scheme == Scheme::HTTPS;
    if version != Version::HTTP_2 && !uri.scheme().is_none_or(http) {
        return Err(AuthorityError::Target);
    }
    if host.is_none() && version == Version::HTTP_11 {
        return Err(AuthorityError::Missing);
    }
    let extended = version == Version::HTTP_2 && uri.scheme().is_some();
    if method == Method::CONNECT && !extended {
        let tunnel = target.filter(|a| a.port.is_some() && !a.host.is_empty() && uri.scheme().is_none());
        return tunnel.ok_or(AuthorityError::Malformed);
    }
    if version == Version::HTTP_2 {
        return match (target, host) {
            (Some(target), Some(host)) if target.host != host.host || !same_port(&target, &host, uri) => {
                Err(AuthorityError::Contradiction)
            }
            (Some(authority), _) | (None, Some(authority)) if !authority.host.is_empty() => Ok(authority),
            _ => Err(AuthorityError::Missing),
        };
    }
    Ok(target.or(host).unwrap_or(Authority { text: "", host: Cow::Borrowed(""), port: None }))
}

/// The value of `Host`, of which there may be one.
fn single_host(headers: &HeaderMap) -> Result<Option<Authority<'_>>, AuthorityError> {
    let mut lines = headers.get_all(HOST).iter();
    let Some(line) = lines.next() else { return Ok(None) };
    if lines.next().is_some() {
        return Err(AuthorityError::Repeated);
    }
    parse(line.to_str().map_err(|_| AuthorityError::Malformed)?).map(Some)
}

/// Whether two authorities mean the same port, the scheme's own being the default.
fn same_port(a: &Authority<'_>, b: &Authority<'_>, uri: &Uri) -> bool {
    let default = if uri.scheme() == Some(&Scheme::HTTPS) { 443 } else { 80 };
    a.port.unwrap_or(default) == b.port.unwrap_or(default)
}

/// The longest host name of the DNS, in bytes (RFC 1035 §2.3.4), with a trailing dot.
const MAX_HOST: usize = 254;

/// Parses `host[:port]`; the empty text is an empty host.
///
/// Stricter than RFC 3986: hosts are names of letters, digits, `-`, `_` and dots between non-empty labels, or
/// IP addresses. An escape or `!` in a host serves nobody but attackers.
pub fn parse(text: &str) -> Result<Authority<'_>, AuthorityError> {
    if text.is_empty() {
        return Ok(Authority { text, host: Cow::Borrowed(""), port: None });
    }
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(AuthorityError::Malformed)?;
        let (host, port) = text.split_at(end + 1);
        let inner = host.get(1..end).unwrap_or_default();
        inner.parse::<std::net::Ipv6Addr>().map_err(|_| AuthorityError::Malformed)?;
        let port = if port.is_empty() {
            None
        } else {
            Some(port.strip_prefix(':').ok_or(AuthorityError::Malformed)?)
        };
        (host, port)
    } else {
        let (host, port) = text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port)));
        let name = host.strip_suffix('.').unwrap_or(host);
        if host.len() > MAX_HOST || !name.split('.').all(is_label) {
            return Err(AuthorityError::Malformed);
        }
        (name, port)
    };
    let port = match port {
        // RFC 3986 §3.2.3: the port may be empty.
        None | Some("") => None,
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => {
            Some(digits.parse().map_err(|_| AuthorityError::Malformed)?)
        }
        Some(_) => return Err(AuthorityError::Malformed),
    };
    let lower = !host.bytes().any(|b| b.is_ascii_uppercase());
    let host = if lower { Cow::Borrowed(host) } else { Cow::Owned(host.to_ascii_lowercase()) };
    Ok(Authority { text, host, port })
}

fn is_label(label: &str) -> bool {
    !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Whom a request is for, beyond the request: a connection keeps it, for the next one nearly always names the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// As it was written, with its port.
    pub text: HeaderValue,
    /// For matching: lower case, without port and trailing dot.
    pub name: Box<str>,
    /// The port, where one was written.
    pub port: Option<u16>,
}

impl Host {
    /// Keeps a copy of `authority`: a header's own value would hold on to the whole head that it came in.
    pub fn keep(authority: &Authority<'_>) -> Result<Self, AuthorityError> {
        let text = HeaderValue::from_str(authority.text).map_err(|_| AuthorityError::Malformed)?;
        Ok(Self { text, name: (&*authority.host).into(), port: authority.port })
    }
}

/// The target of a request to an HTTP/1 origin (origin form, RFC 9112 §3.2.1): a path in normal form and the
/// query as it came. Fails when it is longer than a URI may be.
pub fn path_and_query(path: &str, query: Option<&str>) -> Result<PathAndQuery, InvalidUri> {
    match query {
        None => PathAndQuery::try_from(path),
        Some(query) => PathAndQuery::try_from([path, "?", query].concat()),
    }
}

/// The target of a request to an HTTP/2 origin, from which `:scheme`, `:authority` and `:path` are made.
///
/// `None` when `authority` is no authority (RFC 9113 §8.3.1 wants one for `http` and `https`). Where it is `said`, which
/// the request itself came with, it need not be read again.
pub fn http2_form(
    scheme: Scheme,
    authority: &HeaderValue,
    said: Option<&::http::uri::Authority>,
    path_and_query: PathAndQuery,
) -> Option<Uri> {
    let authority = match said {
        Some(said) if said.as_str().as_bytes() == authority.as_bytes() => said.clone(),
        _ => ::http::uri::Authority::try_from(authority.as_bytes()).ok()?,
    };
    let mut parts = ::http::uri::Parts::default();
    parts.scheme = Some(scheme);
    parts.authority = Some(authority);
    parts.path_and_query = Some(path_and_query);
    Uri::from_parts(parts).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Host = (String, Option<u16>);

    fn of(version: Version, method: &Method, target: &str, hosts: &[&str]) -> Result<Host, AuthorityError> {
        let mut headers = HeaderMap::new();
        for host in hosts {
            headers.append(HOST, HeaderValue::try_from(*host).unwrap());
        }
        let uri = target.parse().unwrap();
        authority(version, method, &uri, &headers).map(|a| (a.host.into_owned(), a.port))
    }

    #[expect(clippy::unnecessary_wraps, reason = "stands beside errors in the tables below")]
    fn host(text: &str, port: Option<u16>) -> Result<Host, AuthorityError> {
        Ok((text.to_owned(), port))
    }

    #[test]
    fn http1() {
        use AuthorityError as E;
        let get = |target, hosts: &[&str]| of(Version::HTTP_11, &Method::GET, target, hosts);
        assert_eq!(get("/", &["Shop.Example.:8080"]), host("shop.example", Some(8080)));
        assert_eq!(get("/", &[""]), host("", None));
        assert_eq!(get("/", &[]), Err(E::Missing));
        assert_eq!(get("/", &["a", "a"]), Err(E::Repeated));
        assert_eq!(get("http://b:81/x", &["a"]), host("b", Some(81)));
        assert_eq!(get("http://b/x", &[]), Err(E::Missing));
        assert_eq!(get("http://b/x", &["a b"]), Err(E::Malformed));
        assert_eq!(get("http://user@b/x", &["b"]), Err(E::Malformed));
        assert_eq!(get("b", &["b"]), Err(E::Target));
        assert_eq!(get("b:80", &["b"]), Err(E::Target));
        assert_eq!(get("ftp://b/", &["b"]), Err(E::Target));
        assert_eq!(get("HTTPS://b/", &["b"]), host("b", None));
        assert_eq!(of(Version::HTTP_10, &Method::GET, "/", &[]), host("", None));
    }

    #[test]
    fn http2() {
        use AuthorityError as E;
        let get = |target, hosts: &[&str]| of(Version::HTTP_2, &Method::GET, target, hosts);
        assert_eq!(get("http://A/x", &[]), host("a", None));
        assert_eq!(get("http://a/x", &["A:80"]), host("a", None));
        assert_eq!(get("https://a:443/x", &["a"]), host("a", Some(443)));
        assert_eq!(get("http://a/x", &["b"]), Err(E::Contradiction));
        assert_eq!(get("http://a/x", &["a:81"]), Err(E::Contradiction));
        assert_eq!(get("/x", &["a"]), host("a", None));
        assert_eq!(get("/x", &[]), Err(E::Missing));
        assert_eq!(get("/x", &[""]), Err(E::Missing));
        assert_eq!(get("/x", &["a", "a"]), Err(E::Repeated));
    }

    #[test]
    fn connect_needs_a_port() {
        let connect = |target| of(Version::HTTP_11, &Method::CONNECT, target, &["x"]);
        assert_eq!(connect("a:443"), host("a", Some(443)));
        assert_eq!(connect("[::1]:443"), host("[::1]", Some(443)));
        assert_eq!(connect("a"), Err(AuthorityError::Malformed));
        assert_eq!(connect("http://a:80/"), Err(AuthorityError::Malformed));
        assert_eq!(of(Version::HTTP_11, &Method::CONNECT, "a:1", &[]), Err(AuthorityError::Missing));
        assert_eq!(of(Version::HTTP_2, &Method::CONNECT, "a:1", &[]), host("a", Some(1)));
        // Extended CONNECT (RFC 8441 §4) has a scheme and a path, and its authority is that of any request.
        assert_eq!(of(Version::HTTP_2, &Method::CONNECT, "https://a/chat", &[]), host("a", None));
    }

    #[test]
    fn hosts_and_ports() {
        for (text, expected) in [
            ("a", Some(("a", None))),
            ("a.b-c_d.e.", Some(("a.b-c_d.e", None))),
            ("10.0.0.1:80", Some(("10.0.0.1", Some(80)))),
            ("a:", Some(("a", None))),
            ("[2001:DB8::1]", Some(("[2001:db8::1]", None))),
            ("[::1]:0", Some(("[::1]", Some(0)))),
            ("[::1", None),
            ("[::1]80", None),
            ("[::g]", None),
            ("::1", None),
            (".", None),
            (".a", None),
            ("a..b", None),
            ("a..", None),
            (":80", None),
            ("a:80:80", None),
            ("a:65536", None),
            ("a:+80", None),
            ("a b", None),
            ("a/b", None),
            ("a,b", None),
            ("u@a", None),
            ("%61", None),
            ("\u{e4}", None),
        ] {
            let parsed = parse(text).ok();
            assert_eq!(parsed.as_ref().map(|a| (&*a.host, a.port)), expected, "{text}");
        }
        assert!(parse(&"a".repeat(255)).is_err());
        assert!(
            matches!(parse("lower:1").unwrap().host, Cow::Borrowed(_)),
            "the usual case does not allocate"
        );
    }

    #[test]
    fn targets_towards_the_origin() {
        let path = || path_and_query("/a", Some("b")).unwrap();
        assert_eq!(path(), "/a?b");
        assert_eq!(path_and_query("/a", None).unwrap(), "/a");
        assert!(path_and_query(&"/a".repeat(40_000), None).is_err());
        let uri = http2_form(Scheme::HTTP, &HeaderValue::from_static("h:1"), None, path()).unwrap();
        assert_eq!(uri.to_string(), "http://h:1/a?b");
        assert!(http2_form(Scheme::HTTP, &HeaderValue::from_static("a b"), None, path()).is_none());
        let said = ::http::uri::Authority::from_static("other:2");
        for authority in ["h:1", "other:2"] {
            let uri = http2_form(Scheme::HTTP, &HeaderValue::from_static(authority), Some(&said), path());
            assert_eq!(uri.unwrap().authority().unwrap(), authority, "the request's own is no other's");
        }
    }

    proptest! {
        #[test]
        fn the_host_is_ready_for_matching(text in "\\PC{0,20}|[a-zA-Z.:\\[\\]0-9-]{0,12}") {
            if let Ok(authority) = parse(&text) {
                let host = authority.host;
                prop_assert!(!host.ends_with('.') && !host.starts_with('.'));
                prop_assert!(!host.bytes().any(|b| b.is_ascii_uppercase()));
                prop_assert_eq!(&*parse(&host).unwrap().host, &*host);
            }
        }
    }
}
