//! What a route changes in a request's target and headers.

use std::sync::Arc;

use ::http::{
    HeaderMap, HeaderValue,
    uri::{InvalidUri, PathAndQuery},
};

use super::matcher::below;
use crate::{
    config::policy::{HeaderEdits, PathPattern, Route},
    http::uri::path_and_query,
};

/// The `rewrite` block of a route, compiled.
#[derive(Debug, Clone)]
pub struct Rewriter {
    path: Option<PathRewrite>,
    host: Option<HeaderValue>,
}

/// A replacement, and what it may replace.
#[derive(Debug, Clone)]
struct PathRewrite {
    replacement: Arc<str>,
    /// The route's exact paths and prefixes, most specific first: exact ones, then the longest prefix.
    patterns: Vec<PathPattern>,
}

impl Rewriter {
    /// Compiles the `rewrite` block of `route`.
    pub fn compile(route: &Route) -> Self {
        let path = route.rewrite.path_prefix.clone().map(|replacement| {
            let mut patterns = route.matches.path.clone();
            if patterns.is_empty() {
                patterns.push(PathPattern::Prefix("".into()));
            }
            patterns.retain(|pattern| !matches!(pattern, PathPattern::Regex(_)));
            patterns.sort_by_key(|pattern| match pattern {
                PathPattern::Prefix(prefix) => usize::MAX - prefix.len(),
                PathPattern::Exact(_) | PathPattern::Regex(_) => 0,
            });
            PathRewrite { replacement, patterns }
        });
        Self { path, host: route.rewrite.host.clone() }
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.path.is_none() && self.host.is_none()
    }

    /// The host to send instead of the request's.
    pub fn host(&self) -> Option<&HeaderValue> {
        self.host.as_ref()
    }

    /// The path and query to send instead of `path` (in normal form) and `query`; `None` = as they are.
    ///
    /// As in the Gateway API (`ReplacePrefixMatch`, `ReplaceFullPath`): of a path that matched a prefix the
    /// prefix is replaced, one that matched exactly is replaced as a whole. A path that only a regular
    /// expression matched stays. The query always stays. Fails when the result is longer than a URI may be.
    pub fn path(&self, path: &str, query: Option<&str>) -> Result<Option<PathAndQuery>, InvalidUri> {
        let Some(rewrite) = &self.path else { return Ok(None) };
        let Some(rest) = rewrite.unmatched(path) else { return Ok(None) };
        path_and_query(&join(&rewrite.replacement, rest), query).map(Some)
    }
}

impl PathRewrite {
    /// What of `path` is kept: what follows the best pattern that matches it.
    fn unmatched<'a>(&self, path: &'a str) -> Option<&'a str> {
        self.patterns.iter().find_map(|pattern| match pattern {
            PathPattern::Exact(exact) => (path == &**exact).then_some(""),
            PathPattern::Prefix(prefix) => below(prefix, path),
            PathPattern::Regex(_) => None,
        })
    }
}

/// `replacement` followed by `rest`, which is empty or begins with a slash, with one slash between them.
fn join(replacement: &str, rest: &str) -> String {
    let joined = if rest.is_empty() {
        replacement.to_owned()
    } else {
        [replacement.trim_end_matches('/'), rest].concat()
    };
    if joined.starts_with('/') { joined } else { ["/", &joined].concat() }
}

/// Applies `edits` to `headers`: first `remove`, then `set`, then `add`.
#[inline]
pub fn apply_edits(edits: &HeaderEdits, headers: &mut HeaderMap) {
    if edits.is_empty() {
        return;
    }
    for name in &edits.remove {
        headers.remove(name);
    }
    for (name, value) in &edits.set {
        headers.insert(name.clone(), value.clone());
    }
    for (name, value) in &edits.add {
        headers.append(name.clone(), value.clone());
    }
}

#[cfg(test)]
mod tests {
    use ::http::header::{ACCEPT, COOKIE, HeaderName};

    use super::*;
    use crate::config::{
        Name, Pattern,
        policy::{Match, Priority, Rewrite, Target},
    };

    fn rewriter(path: Vec<PathPattern>, replacement: Option<&str>) -> Rewriter {
        let name = Name::new("r").unwrap();
        Rewriter::compile(&Route {
            name: name.clone(),
            matches: Match { path, ..Match::default() },
            target: Target::Upstream(name),
            timeout: None,
            idle_timeout: None,
            priority: Priority::Normal,
            rewrite: Rewrite { path_prefix: replacement.map(Into::into), host: None },
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            max_body: None,
            breaker: None,
            fallback: None,
        })
    }

    fn prefix(text: &str) -> PathPattern {
        PathPattern::Prefix(text.into())
    }

    fn rewritten(rewriter: &Rewriter, path: &str, query: Option<&str>) -> String {
        rewriter.path(path, query).unwrap().map_or_else(|| "-".to_owned(), |p| p.to_string())
    }

    #[test]
    fn replaces_prefixes_as_the_gateway_api_does() {
        for (matched, replacement, path, expected) in [
            ("/foo", "/xyz", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz/", "/foo/bar", "/xyz/bar"),
            ("/foo", "/xyz", "/foo", "/xyz"),
            ("/foo", "/xyz", "/foo/", "/xyz/"),
            ("/foo", "", "/foo/bar", "/bar"),
            ("/foo", "", "/foo/", "/"),
            ("/foo", "", "/foo", "/"),
            ("/foo", "/", "/foo/", "/"),
            ("/foo", "/", "/foo", "/"),
            ("", "/v1", "/foo", "/v1/foo"),
            ("", "/v1", "/", "/v1/"),
        ] {
            let rewriter = rewriter(vec![prefix(matched)], Some(replacement));
            assert_eq!(rewritten(&rewriter, path, None), expected, "{matched} {replacement} {path}");
        }
    }

    #[test]
    fn the_best_pattern_decides_and_the_query_stays() {
        let patterns = vec![
            PathPattern::Regex(Pattern::new("/re.*").unwrap()),
            prefix("/a"),
            PathPattern::Exact("/a/b/c".into()),
            prefix("/a/b"),
        ];
        let rewriter = rewriter(patterns, Some("/n"));
        assert_eq!(rewritten(&rewriter, "/a/b/c", Some("q=/a/b")), "/n?q=/a/b");
        assert_eq!(rewritten(&rewriter, "/a/b/d", Some("")), "/n/d?");
        assert_eq!(rewritten(&rewriter, "/a/d", None), "/n/d");
        assert_eq!(rewritten(&rewriter, "/re/x", None), "-");
    }

    #[test]
    fn no_path_is_the_prefix_of_everything() {
        assert_eq!(rewritten(&rewriter(vec![], Some("/v2")), "/a", None), "/v2/a");
        let nothing = rewriter(vec![], None);
        assert!(nothing.is_empty());
        assert_eq!(rewritten(&nothing, "/a", None), "-");
    }

    #[test]
    fn an_overlong_result_is_an_error() {
        let rewriter = rewriter(vec![], Some("/long"));
        assert!(rewriter.path(&format!("/{}", "a".repeat(65_531)), None).is_err());
    }

    #[test]
    fn edits_remove_then_set_then_add() {
        let value = HeaderValue::from_static;
        let name = HeaderName::from_static;
        let mut headers = HeaderMap::from_iter([(ACCEPT, value("*/*")), (COOKIE, value("a=b"))]);
        headers.append("x-a", value("1"));
        headers.append("x-a", value("2"));
        let edits = HeaderEdits {
            remove: vec![COOKIE, name("x-b")],
            set: vec![(name("x-a"), value("3")), (name("x-b"), value("4"))],
            add: vec![(name("x-a"), value("5")), (ACCEPT, value("text/html"))],
        };
        apply_edits(&edits, &mut headers);
        let all = |n: &str| headers.get_all(n).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!(all("x-a"), ["3", "5"]);
        assert_eq!(all("x-b"), ["4"]);
        assert_eq!(all("accept"), ["*/*", "text/html"]);
        assert!(all("cookie").is_empty());
    }
}
