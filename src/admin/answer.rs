//! The answers of the interface. Each has a length, is never stored and never guessed at.

use bytes::Bytes;
use http::{
    HeaderValue, Method, Response, StatusCode,
    header::{
        ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS,
    },
};
use http_body_util::Full;
use serde_json::{Value, json};

/// The Prometheus text format.
pub(super) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";
pub(super) const TEXT: &str = "text/plain; charset=utf-8";
pub(super) const HTML: &str = "text/html; charset=utf-8";
const JSON: &str = "application/json";
const PROBLEM: &str = "application/problem+json";

/// An answer before it is known whether its body is wanted.
#[derive(Debug)]
pub(super) struct Answer {
    status: StatusCode,
    content_type: &'static str,
    body: Bytes,
    allow: Option<&'static str>,
}

impl Answer {
    pub(super) fn new(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Self {
        Self { status, content_type, body: body.into(), allow: None }
    }

    /// A document, indented, because people read it with curl.
    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status, JSON, format!("{value:#}\n"))
    }

    /// An error that explains itself (RFC 9457).
    pub(super) fn problem(status: StatusCode, detail: impl AsRef<str>) -> Self {
        Self::problem_with(status, &json!({ "detail": detail.as_ref() }))
    }

    /// An error with members of its own.
    pub(super) fn problem_with(status: StatusCode, members: &Value) -> Self {
        let mut problem = json!({
            "type": "about:blank",
            "title": status.canonical_reason().unwrap_or("Error"),
            "status": status.as_u16(),
        });
        if let (Some(problem), Some(members)) = (problem.as_object_mut(), members.as_object()) {
            problem.extend(members.clone());
        }
        Self::new(status, PROBLEM, format!("{problem:#}\n"))
    }

    /// The answer to a method that a resource does not have (RFC 9110 §15.5.6).
    pub(super) fn not_allowed(allow: &'static str) -> Self {
        let mut answer = Self::problem(StatusCode::METHOD_NOT_ALLOWED, format!("this takes {allow}"));
        answer.allow = Some(allow);
        answer
    }

    /// The response. To HEAD it has the headers that it would have to GET, and no body (RFC 9110 §9.3.2).
    pub(super) fn into_response(self, method: &Method) -> Response<Full<Bytes>> {
        let length = HeaderValue::from(self.body.len());
        let body = if method == Method::HEAD { Bytes::new() } else { self.body };
        let mut response = Response::new(Full::new(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(self.content_type));
        headers.insert(CONTENT_LENGTH, length);
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.insert(
            CONTENT_SECURITY_POLICY,
            HeaderValue::from_static("default-src 'none'; frame-ancestors 'none'"),
        );
        headers.extend(self.allow.map(|allow| (ALLOW, HeaderValue::from_static(allow))));
        response
    }
}
