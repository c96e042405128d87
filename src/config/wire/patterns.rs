//! Scalars of policy: what requests are matched by and what is changed of them.

use std::{borrow::Cow, sync::Arc};

use http::{HeaderName, HeaderValue, Method};
use serde_json::{Value as Json, json};

use super::{Takes, Text};
use crate::config::{
    Pattern,
    codes::Code,
    fault::{Problem, nearest, shown},
    path::normalise,
    policy::{GrpcPattern, KeyPart, PathPattern, ValuePattern},
};

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

impl Text for PathPattern {
    const WHAT: &'static str = "a path such as `/exact`, `/prefix/*` or `~regex`";
    const DEF: &'static str = "path-pattern";
    const TAKES: Takes = Takes::Text;
    const REGEX: bool = true;

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
    let normal = normalise(text).map_err(|error| {
        wrong(&format!("is no path: {error}"), "an escape is `%` and two hexadecimal digits")
    })?;
    // Escapes of harmless characters aside, a path is written as it is matched.
    if normal.split('/').count() != text.split('/').count() || text.split('/').any(is_dot_segment) {
        return Err(wrong("has a `.` or `..` segment", "requests are matched after these are resolved"));
    }
    if text.bytes().any(|b| !b.is_ascii_graphic()) {
        return Err(wrong(
            "has a character that a path cannot hold",
            "write it percent-encoded, for instance `%20` for a space",
        ));
    }
    Ok(normal)
}

/// Whether a segment is `.` or `..`, in whatever spelling.
fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.replace("%2e", ".").replace("%2E", ".");
    matches!(&*plain, "." | "..")
}

impl Text for ValuePattern {
    const WHAT: &'static str = "a value, `~regex`, `present` or `absent`";
    const DEF: &'static str = "value-pattern";
    const TAKES: Takes = Takes::Any;
    const REGEX: bool = true;

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
    fn keys_and_grpc() {
        assert_eq!(KeyPart::parse("header:X-User"), Ok(KeyPart::Header(HeaderName::from_static("x-user"))));
        assert!(
            ["", "header:", "query:", "headers:x", "clients"]
                .iter()
                .all(|text| KeyPart::parse(text).is_err())
        );
        assert_eq!(GrpcPattern::parse("a.B/*").unwrap().method, None);
        assert_eq!(GrpcPattern::parse("a.B/C").unwrap().method.as_deref(), Some("C"));
        assert!(["", "/a.B/C", "a.B/", "a/b/c", "a b"].iter().all(|text| GrpcPattern::parse(text).is_err()));
    }
}
