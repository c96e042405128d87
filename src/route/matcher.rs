//! The `match` block against a request.

use std::{borrow::Cow, net::IpAddr, sync::Arc};

use ::http::{HeaderMap, HeaderName, HeaderValue, Method};
use ipnet::IpNet;
use percent_encoding::percent_decode;

use crate::{
    config::{
        Name,
        policy::{GrpcPattern, HostPattern, Match, PathPattern, ValuePattern},
    },
    http::grpc,
};

/// What rules see of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The host: lower case, without port and trailing dot; empty when the request names none.
    pub host: &'a str,
    /// The path in normal form ([`super::normalise`]).
    pub path: &'a str,
    /// The query without its `?`.
    pub query: Option<&'a str>,
    /// The method.
    pub method: &'a Method,
    /// The headers.
    pub headers: &'a HeaderMap,
    /// The client's address, IPv4-mapped ones as IPv4 (see [`crate::http::forwarded`]).
    pub client: IpAddr,
}

impl<'a> RequestView<'a> {
    /// The value of a query parameter, decoded as HTML forms are (`%` escapes, `+` as a space; what is no
    /// UTF-8 becomes U+FFFD). The first occurrence counts; a parameter without `=` is empty.
    pub fn query_value(&self, name: &str) -> Option<Cow<'a, str>> {
        self.query?.split('&').find_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decode(key) == name).then(|| form_decode(value))
        })
    }
}

fn form_decode(text: &str) -> Cow<'_, str> {
    if !text.bytes().any(|b| matches!(b, b'%' | b'+')) {
        return Cow::Borrowed(text);
    }
    let spaced = text.replace('+', " ");
    Cow::Owned(percent_decode(spaced.as_bytes()).decode_utf8_lossy().into_owned())
}

/// A compiled `match` block.
///
/// The parts `listener` and `route` do not change from request to request of one listener and route, and
/// are asked once, by [`Matcher::applies_to`], when a snapshot is compiled.
#[derive(Debug, Clone)]
pub struct Matcher {
    listener: Option<Name>,
    route: Option<Name>,
    hosts: Box<[HostPattern]>,
    paths: Box<[PathPattern]>,
    conditions: Conditions,
    /// None of these three says anything.
    everything: bool,
}

impl Matcher {
    /// Compiles a `match` block.
    pub fn compile(matches: &Match) -> Self {
        let conditions = Conditions::compile(matches);
        Self {
            listener: matches.listener.clone(),
            route: matches.route.clone(),
            hosts: matches.host.as_slice().into(),
            paths: matches.path.as_slice().into(),
            everything: matches.host.is_empty() && matches.path.is_empty() && conditions.is_empty(),
            conditions,
        }
    }

    /// Whether the rule is for this listener and route at all (`None`: the request matched no route).
    pub fn applies_to(&self, listener: &Name, route: Option<&Name>) -> bool {
        self.listener.as_ref().is_none_or(|wanted| wanted == listener)
            && self.route.as_ref().is_none_or(|wanted| Some(wanted) == route)
    }

    /// Whether all parts but `listener` and `route` hold for every request.
    pub fn matches_all(&self) -> bool {
        self.everything
    }

    /// Whether all parts but `listener` and `route` hold.
    pub fn matches(&self, request: &RequestView<'_>) -> bool {
        self.everything || self.hold(request)
    }

    fn hold(&self, request: &RequestView<'_>) -> bool {
        (self.hosts.is_empty() || self.hosts.iter().any(|pattern| host_matches(pattern, request.host)))
            && (self.paths.is_empty() || self.paths.iter().any(|pattern| path_matches(pattern, request.path)))
            && self.conditions.hold(request)
    }
}

/// Whether a host matches. A wildcard stands for one or more whole labels.
fn host_matches(pattern: &HostPattern, host: &str) -> bool {
    match pattern {
        HostPattern::Exact(exact) => host == &**exact,
        HostPattern::Suffix(suffix) => host.len() > suffix.len() && host.ends_with(&**suffix),
    }
}

/// Whether a path in normal form matches.
fn path_matches(pattern: &PathPattern, path: &str) -> bool {
    match pattern {
        PathPattern::Exact(exact) => path == &**exact,
        PathPattern::Prefix(prefix) => below(prefix, path).is_some(),
        PathPattern::Regex(regex) => regex.is_match(path),
    }
}

/// What follows `prefix` in `path`: nothing, or a text that begins with `/`. `None` when `path` is not
/// below `prefix`.
pub(super) fn below<'a>(prefix: &str, path: &'a str) -> Option<&'a str> {
    path.strip_prefix(prefix.trim_end_matches('/')).filter(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The parts of a `match` block that are neither host nor path. All must hold.
#[derive(Debug, Clone)]
pub(super) struct Conditions {
    methods: Box<[Method]>,
    headers: Box<[(HeaderName, ValuePattern)]>,
    query: Box<[(Arc<str>, ValuePattern)]>,
    client: Box<[IpNet]>,
    grpc: Option<GrpcPattern>,
}

impl Conditions {
    pub(super) fn compile(matches: &Match) -> Self {
        Self {
            methods: matches.methods.as_slice().into(),
            headers: matches.headers.as_slice().into(),
            query: matches.query.as_slice().into(),
            client: matches.client.as_slice().into(),
            grpc: matches.grpc.clone(),
        }
    }

    /// Whether they hold for every request.
    pub(super) fn is_empty(&self) -> bool {
        self.methods.is_empty()
            && self.headers.is_empty()
            && self.query.is_empty()
            && self.client.is_empty()
            && self.grpc.is_none()
    }

    pub(super) fn hold(&self, request: &RequestView<'_>) -> bool {
        (self.methods.is_empty() || self.methods.contains(request.method))
            && (self.client.is_empty() || self.client.iter().any(|net| net.contains(&request.client)))
            && self.grpc.as_ref().is_none_or(|pattern| grpc_matches(pattern, request))
            && self.headers.iter().all(|(name, pattern)| header_matches(request.headers, name, pattern))
            && self.query.iter().all(|(name, pattern)| query_matches(request, name, pattern))
    }
}

/// Whether a header matches.
///
/// Of several lines of one name any may match: RFC 9110 §5.3 lets lists be written in as many lines as one
/// likes, so a rule for one member of a list finds it when it has a line of its own.
fn header_matches(headers: &HeaderMap, name: &HeaderName, pattern: &ValuePattern) -> bool {
    let text = |value: &HeaderValue, wanted: &dyn Fn(&str) -> bool| {
        str::from_utf8(value.as_bytes()).is_ok_and(wanted)
    };
    match pattern {
        ValuePattern::Present => headers.contains_key(name),
        ValuePattern::Absent => !headers.contains_key(name),
        ValuePattern::Exact(exact) => headers.get_all(name).iter().any(|v| v.as_bytes() == exact.as_bytes()),
        ValuePattern::Regex(regex) => headers.get_all(name).iter().any(|v| text(v, &|t| regex.is_match(t))),
    }
}

/// Whether a query parameter matches.
fn query_matches(request: &RequestView<'_>, name: &str, pattern: &ValuePattern) -> bool {
    let value = request.query_value(name);
    match pattern {
        ValuePattern::Present => value.is_some(),
        ValuePattern::Absent => value.is_none(),
        ValuePattern::Exact(exact) => value.is_some_and(|v| v == **exact),
        ValuePattern::Regex(regex) => value.is_some_and(|v| regex.is_match(&v)),
    }
}

/// Whether this is a gRPC call of the service and method: `POST`, a gRPC content type, `/service/method`.
fn grpc_matches(pattern: &GrpcPattern, request: &RequestView<'_>) -> bool {
    let called = || request.path.strip_prefix('/').and_then(|p| p.split_once('/'));
    request.method == Method::POST
        && called().is_some_and(|(service, method)| {
            service == &*pattern.service
                && !method.is_empty()
                && !method.contains('/')
                && pattern.method.as_ref().is_none_or(|wanted| method == &**wanted)
        })
        && grpc::is_grpc(request.headers)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::config::Pattern;

    /// A request to match.
    #[derive(Debug)]
    pub(in crate::route) struct Sample {
        pub(in crate::route) host: String,
        pub(in crate::route) path: String,
        pub(in crate::route) query: Option<String>,
        pub(in crate::route) method: Method,
        pub(in crate::route) headers: HeaderMap,
        pub(in crate::route) client: IpAddr,
    }

    impl Sample {
        pub(in crate::route) fn get(host: &str, target: &str) -> Self {
            let (path, query) =
                target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q.to_owned())));
            Self {
                host: host.to_owned(),
                path: path.to_owned(),
                query,
                method: Method::GET,
                headers: HeaderMap::new(),
                client: "10.1.2.3".parse().unwrap(),
            }
        }

        pub(in crate::route) fn header(mut self, name: &'static str, value: &'static str) -> Self {
            self.headers.append(name, HeaderValue::from_static(value));
            self
        }

        pub(in crate::route) fn method(mut self, method: Method) -> Self {
            self.method = method;
            self
        }

        pub(in crate::route) fn view(&self) -> RequestView<'_> {
            RequestView {
                host: &self.host,
                path: &self.path,
                query: self.query.as_deref(),
                method: &self.method,
                headers: &self.headers,
                client: self.client,
            }
        }
    }

    fn matches(block: &Match, sample: &Sample) -> bool {
        Matcher::compile(block).matches(&sample.view())
    }

    fn exact(text: &str) -> ValuePattern {
        ValuePattern::Exact(text.into())
    }

    fn regex(text: &str) -> ValuePattern {
        ValuePattern::Regex(Pattern::new(text).unwrap())
    }

    #[test]
    fn an_empty_block_matches_everything() {
        assert!(matches(&Match::default(), &Sample::get("", "/")));
    }

    #[test]
    fn hosts() {
        let block = Match {
            host: vec![HostPattern::Exact("a.com".into()), HostPattern::Suffix(".b.com".into())],
            ..Match::default()
        };
        for (host, expected) in [
            ("a.com", true),
            ("x.a.com", false),
            ("b.com", false),
            (".b.com", false),
            ("x.b.com", true),
            ("x.y.b.com", true),
            ("xb.com", false),
            ("", false),
        ] {
            assert_eq!(matches(&block, &Sample::get(host, "/")), expected, "{host}");
        }
    }

    #[test]
    fn paths() {
        for (pattern, path, expected) in [
            (PathPattern::Exact("/a".into()), "/a", true),
            (PathPattern::Exact("/a".into()), "/a/", false),
            (PathPattern::Prefix("/a".into()), "/a", true),
            (PathPattern::Prefix("/a".into()), "/a/", true),
            (PathPattern::Prefix("/a".into()), "/a/b", true),
            (PathPattern::Prefix("/a".into()), "/ab", false),
            (PathPattern::Prefix("".into()), "/", true),
            (PathPattern::Prefix("".into()), "/x", true),
            (PathPattern::Regex(Pattern::new("/a[0-9]+").unwrap()), "/a12", true),
            (PathPattern::Regex(Pattern::new("/a[0-9]+").unwrap()), "/a12/b", false),
        ] {
            let block = Match { path: vec![pattern], ..Match::default() };
            assert_eq!(matches(&block, &Sample::get("h", path)), expected, "{block:?} {path}");
        }
    }

    #[test]
    fn headers_match_when_any_line_does() {
        let sample = Sample::get("h", "/").header("x-tag", "a").header("x-tag", "b2");
        for (name, pattern, expected) in [
            ("x-tag", exact("a"), true),
            ("x-tag", exact("b2"), true),
            ("x-tag", exact("a, b2"), false),
            ("x-tag", regex("b[0-9]"), true),
            ("x-tag", regex("b"), false),
            ("x-tag", ValuePattern::Present, true),
            ("x-tag", ValuePattern::Absent, false),
            ("x-none", ValuePattern::Present, false),
            ("x-none", ValuePattern::Absent, true),
            ("x-none", exact(""), false),
        ] {
            let block = Match { headers: vec![(HeaderName::from_static(name), pattern)], ..Match::default() };
            assert_eq!(matches(&block, &sample), expected, "{block:?}");
        }
    }

    #[test]
    fn query_parameters_are_decoded_and_the_first_counts() {
        let sample = Sample::get("h", "/?a=1&a=2&b%20c=x+y%21&flag&bad=%zz&utf=%ff");
        for (name, pattern, expected) in [
            ("a", exact("1"), true),
            ("a", exact("2"), false),
            ("b c", exact("x y!"), true),
            ("b%20c", ValuePattern::Present, false),
            ("flag", exact(""), true),
            ("flag", ValuePattern::Present, true),
            ("bad", exact("%zz"), true),
            ("utf", exact("\u{fffd}"), true),
            ("c", ValuePattern::Absent, true),
            ("a", ValuePattern::Absent, false),
            ("a", regex("[0-9]"), true),
        ] {
            let block = Match { query: vec![(name.into(), pattern)], ..Match::default() };
            assert_eq!(matches(&block, &sample), expected, "{block:?}");
        }
        let block = Match { query: vec![("a".into(), ValuePattern::Present)], ..Match::default() };
        assert!(!matches(&block, &Sample::get("h", "/")));
    }

    #[test]
    fn methods_and_clients() {
        let block = Match {
            methods: vec![Method::PUT, Method::POST],
            client: vec!["10.0.0.0/8".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
            ..Match::default()
        };
        let mut sample = Sample::get("h", "/").method(Method::POST);
        assert!(matches(&block, &sample));
        sample.client = "2001:db8::1".parse().unwrap();
        assert!(matches(&block, &sample));
        sample.client = "11.0.0.1".parse().unwrap();
        assert!(!matches(&block, &sample));
        assert!(!matches(&block, &Sample::get("h", "/")));
    }

    #[test]
    fn grpc_calls() {
        let of = |method: Option<&str>| Match {
            grpc: Some(GrpcPattern { service: "shop.Cart".into(), method: method.map(Into::into) }),
            ..Match::default()
        };
        let call = |path: &str| {
            Sample::get("h", path).method(Method::POST).header("content-type", "application/grpc+proto")
        };
        assert!(matches(&of(None), &call("/shop.Cart/Add")));
        assert!(matches(&of(Some("Add")), &call("/shop.Cart/Add")));
        assert!(!matches(&of(Some("Add")), &call("/shop.Cart/Del")));
        for path in ["/shop.Cart", "/shop.Cart/", "/shop.Cart/Add/x", "/shop.Carts/Add", "/"] {
            assert!(!matches(&of(None), &call(path)), "{path}");
        }
        assert!(!matches(&of(None), &call("/shop.Cart/Add").method(Method::GET)));
        assert!(!matches(&of(None), &Sample::get("h", "/shop.Cart/Add").method(Method::POST)));
    }

    #[test]
    fn listener_and_route_are_asked_apart() {
        let name = |text| Name::new(text).unwrap();
        let block = Match { listener: Some(name("in")), route: Some(name("r")), ..Match::default() };
        let matcher = Matcher::compile(&block);
        assert!(matcher.applies_to(&name("in"), Some(&name("r"))));
        assert!(!matcher.applies_to(&name("out"), Some(&name("r"))));
        assert!(!matcher.applies_to(&name("in"), None));
        assert!(Matcher::compile(&Match::default()).applies_to(&name("x"), None));
    }
}
