//! The answers that Weir makes itself, and how they explain themselves.

use std::{fmt::Write as _, time::Duration};

use ::http::{
    HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode,
    header::{ALLOW, CACHE_CONTROL, CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER},
};
use bytes::Bytes;
use serde::Serialize;

use super::{
    forwarded::X_REQUEST_ID,
    grpc::{self, is_grpc},
};
use crate::{
    config::policy::Respond,
    error::{ProxyError, Reason},
};

/// `Proxy-Status`: who made an answer and why (RFC 9209).
pub const PROXY_STATUS: HeaderName = HeaderName::from_static("proxy-status");
/// `x-weir-retry`: `no` tells the Weir in front that trying again would not help.
pub const X_WEIR_RETRY: HeaderName = HeaderName::from_static("x-weir-retry");
/// The status of a gRPC call.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What a gRPC status means, for people.
pub const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
/// After how many milliseconds a gRPC client may try again (gRFC A6).
pub const GRPC_RETRY_PUSHBACK_MS: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");

/// What an answer has to know of the request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The request was `HEAD`: the answer has the headers of a body, and none.
    pub head: bool,
    /// The request was gRPC: the answer is trailers-only.
    pub grpc: bool,
    /// The request's id; `None` when it failed before it had one.
    pub request_id: Option<&'a HeaderValue>,
    /// Leaves `x-weir-retry: no` out. For an inbound listener whose own application failed: another instance
    /// may well answer, and the Weir in front should count the failure and go there. Default `false`.
    pub retry_elsewhere: bool,
}

impl<'a> Asked<'a> {
    /// Reads it off a request.
    pub fn of(method: &Method, headers: &HeaderMap, request_id: Option<&'a HeaderValue>) -> Self {
        Self { head: method == Method::HEAD, grpc: is_grpc(headers), request_id, retry_elsewhere: false }
    }
}

/// Makes the answer to a request that ended in `error`.
///
/// Its body says nothing of what happened underneath ([`ProxyError::detail`]): that is for the log. Whether
/// the connection has to be closed after it is for the caller, who knows what is left of the request's body.
pub fn respond(error: &ProxyError, asked: Asked<'_>) -> Response<Bytes> {
    let mut response = if asked.grpc { grpc_answer(error) } else { problem(error, asked) };
    let headers = response.headers_mut();
    headers.insert(PROXY_STATUS, proxy_status(error, error.reason.proxy_status()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(id) = asked.request_id {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    if is_final(error.reason) && !asked.retry_elsewhere {
        headers.insert(X_WEIR_RETRY, HeaderValue::from_static("no"));
    }
    response
}

/// The answer that policy has for a request that ended in `error`. It says in `Proxy-Status` why it is not the upstream's;
/// what its body and the other headers say is the policy's business.
pub fn instead(error: &ProxyError, policy: &Respond, asked: Asked<'_>) -> Response<Bytes> {
    let body = Bytes::copy_from_slice(policy.body.as_bytes());
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = policy.status;
    let headers = response.headers_mut();
    for (name, value) in &policy.headers {
        headers.append(name, value.clone());
    }
    let kind = match error.reason {
        // Nothing failed: somebody wants it so.
        Reason::Switch => "proxy_internal_response",
        reason => reason.proxy_status(),
    };
    headers.insert(PROXY_STATUS, proxy_status(error, kind));
    if let Some(id) = asked.request_id {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    let bodiless = matches!(policy.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if !bodiless {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    }
    if !bodiless && !asked.head {
        *response.body_mut() = body;
    }
    response
}

/// Whether Weir refused or gave up, so that the Weir in front should not try again. An instance that leaves
/// says nothing of its peers; a fault that was injected is there to find out what the one in front does.
const fn is_final(reason: Reason) -> bool {
    !matches!(reason, Reason::Draining | Reason::Fault)
}

/// How long the client should wait; `None` where waiting does not help.
fn wait(error: &ProxyError) -> Option<Duration> {
    let hint = || (error.reason.hints_retry() && !error.hopeless).then_some(Duration::from_secs(1));
    error.retry_after.or_else(hint)
}

/// A wait as whole seconds (RFC 9110 §10.2.3): rounded up, at least one.
fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs().saturating_add(u64::from(wait.subsec_nanos() > 0)).max(1)
}

/// The body of an answer: a problem document (RFC 9457).
#[derive(Serialize)]
struct Problem<'a> {
    /// `urn:weir:reason:` and the reason: stable, and nothing to fetch.
    #[serde(rename = "type")]
    kind: String,
    title: &'a str,
    status: u16,
    reason: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_s: Option<u64>,
}

/// The answer for everything that is not gRPC.
fn problem(error: &ProxyError, asked: Asked<'_>) -> Response<Bytes> {
    let status = error.status();
    let retry_after_s = wait(error).map(whole_seconds);
    let document = Problem {
        kind: format!("urn:weir:reason:{}", error.reason.as_str()),
        title: error.reason.title(),
        status: status.as_u16(),
        reason: error.reason.as_str(),
        request_id: asked.request_id.and_then(|id| id.to_str().ok()),
        policy: error.policy.as_ref().map(crate::config::Name::as_str),
        retry_after_s,
    };
    // Texts and numbers under texts: there is nothing that could fail.
    let mut body = serde_json::to_vec(&document).unwrap_or_default();
    body.push(b'\n');
    let mut response = Response::new(Bytes::new());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
    if let Some(seconds) = retry_after_s {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    if !asked.head {
        *response.body_mut() = Bytes::from(body);
    }
    response
}

/// A trailers-only answer: the status of the call stands in the headers, and there is no body. On HTTP/1 too.
fn grpc_answer(error: &ProxyError) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, grpc::CONTENT_TYPE);
    headers.insert(GRPC_STATUS, HeaderValue::from(u16::from(error.grpc_status())));
    let title = error.reason.title();
    let message = match &error.policy {
        Some(policy) => grpc::message(&format!("{title} ({policy})")),
        None => grpc::message(title),
    };
    headers.insert(GRPC_MESSAGE, message);
    if let Some(wait) = wait(error) {
        // gRFC A6 makes it a signed number of 32 bits.
        let millis = i32::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX);
        headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from(millis));
    } else if error.hopeless {
        // It is to be negative where trying again is of no use.
        headers.insert(GRPC_RETRY_PUSHBACK_MS, HeaderValue::from_static("-1"));
    }
    response
}

/// The one member of `Proxy-Status`: `weir; error=…; details="…"` (RFC 9209 §2; the details are the reason), and where a
/// policy decided, `policy="…"` with its name.
fn proxy_status(error: &ProxyError, kind: &str) -> HeaderValue {
    let mut text = format!("weir; error={kind}; details=\"{}\"", error.reason.as_str());
    if let Some(policy) = &error.policy {
        // A name has nothing that had to be escaped.
        let _ = write!(text, "; policy=\"{policy}\"");
    }
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("weir"))
}

/// The answer to a request whose `Max-Forwards` is used up (RFC 9110 §7.6.2).
///
/// `OPTIONS` gets an empty 204. `TRACE` gets 405: to send a request back would show what proxies before
/// Weir have added to it (RFC 9110 §9.3.8).
pub fn answer_here(method: &Method, request_id: Option<&HeaderValue>) -> Response<Bytes> {
    let mut response = Response::new(Bytes::new());
    *response.status_mut() =
        if method == Method::TRACE { StatusCode::METHOD_NOT_ALLOWED } else { StatusCode::NO_CONTENT };
    let headers = response.headers_mut();
    headers.insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, PUT, DELETE, OPTIONS, PATCH"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if let Some(id) = request_id {
        headers.insert(X_REQUEST_ID, id.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;
    use crate::config::Name;

    const ID: HeaderValue = HeaderValue::from_static("r-1");

    fn asked(head: bool, grpc: bool) -> Asked<'static> {
        static ID: HeaderValue = self::ID;
        Asked { head, grpc, request_id: Some(&ID), retry_elsewhere: false }
    }

    fn text<'a>(response: &'a Response<Bytes>, name: &HeaderName) -> Option<&'a str> {
        response.headers().get(name).map(|v| v.to_str().unwrap())
    }

    #[test]
    fn an_answer_explains_itself() {
        let error = ProxyError::new(Reason::RateLimit)
            .by(&Name::new("checkout").unwrap())
            .because("10.0.0.7:8080 said \"no\"")
            .retry_after(Duration::from_millis(1_200));
        let response = respond(&error, asked(false, false));
        assert_eq!(response.status(), 429);
        assert_eq!(text(&response, &CONTENT_TYPE), Some("application/problem+json"));
        assert_eq!(text(&response, &RETRY_AFTER), Some("2"));
        assert_eq!(text(&response, &X_WEIR_RETRY), Some("no"));
        assert_eq!(text(&response, &X_REQUEST_ID), Some("r-1"));
        assert_eq!(text(&response, &CACHE_CONTROL), Some("no-store"));
        assert_eq!(
            text(&response, &PROXY_STATUS),
            Some("weir; error=http_request_denied; details=\"rate_limit\"; policy=\"checkout\"")
        );
        assert_eq!(text(&response, &CONTENT_LENGTH), Some(&*response.body().len().to_string()));
        let body: Value = serde_json::from_slice(response.body()).unwrap();
        let expected = serde_json::json!({
            "type": "urn:weir:reason:rate_limit",
            "title": "A rate limit is exceeded",
            "status": 429,
            "reason": "rate_limit",
            "request_id": "r-1",
            "policy": "checkout",
            "retry_after_s": 2,
        });
        assert_eq!(body, expected);
    }

    #[test]
    fn nothing_internal_is_told() {
        for grpc in [false, true] {
            let error = ProxyError::new(Reason::ConnectRefused).because("10.0.0.7:8080 secret");
            let response = respond(&error, asked(false, grpc));
            let all = format!("{:?} {:?}", response.headers(), response.body());
            assert!(!all.contains("10.0.0.7") && !all.contains("secret"), "{all}");
        }
    }

    #[test]
    fn head_has_the_length_and_no_body() {
        let error = ProxyError::new(Reason::NoRoute);
        let (get, head) = (respond(&error, asked(false, false)), respond(&error, asked(true, false)));
        assert_eq!(get.headers(), head.headers());
        assert!(head.body().is_empty() && !get.body().is_empty());
    }

    #[test]
    fn grpc_gets_trailers_only() {
        for head in [false, true] {
            let error = ProxyError::new(Reason::BreakerOpen).retry_after(Duration::from_micros(1_500_001));
            let response = respond(&error, asked(head, true));
            assert_eq!(response.status(), 200);
            assert_eq!(text(&response, &CONTENT_TYPE), Some("application/grpc"));
            assert_eq!(text(&response, &GRPC_STATUS), Some("14"));
            assert_eq!(text(&response, &GRPC_MESSAGE), Some("The upstream's circuit breaker is open"));
            assert_eq!(text(&response, &GRPC_RETRY_PUSHBACK_MS), Some("1501"));
            assert_eq!(text(&response, &RETRY_AFTER), None);
            assert!(response.body().is_empty());
        }
        let no_wait = respond(&ProxyError::new(Reason::NoRoute), asked(false, true));
        assert_eq!(text(&no_wait, &GRPC_RETRY_PUSHBACK_MS), None);
    }

    #[test]
    fn waits_are_rounded_up_and_given_only_where_they_help() {
        for (error, expected) in [
            (ProxyError::new(Reason::NoRoute), None),
            (ProxyError::new(Reason::UpstreamReset), None),
            (ProxyError::new(Reason::BreakerOpen), Some("1")),
            (ProxyError::new(Reason::BreakerOpen).retry_after(Duration::ZERO), Some("1")),
            (ProxyError::new(Reason::BreakerOpen).retry_after(Duration::from_secs(3)), Some("3")),
            (ProxyError::new(Reason::Switch).retry_after(Duration::from_nanos(3_000_000_001)), Some("4")),
            (ProxyError::new(Reason::Shed).retry_after(Duration::MAX), Some("18446744073709551615")),
        ] {
            assert_eq!(text(&respond(&error, asked(false, false)), &RETRY_AFTER), expected, "{error}");
        }
    }

    #[test]
    fn says_when_another_instance_may_do() {
        let refused = ProxyError::new(Reason::ConnectRefused);
        let elsewhere = Asked { retry_elsewhere: true, ..asked(false, false) };
        assert_eq!(text(&respond(&refused, elsewhere), &X_WEIR_RETRY), None);
        let draining = ProxyError::new(Reason::Draining);
        assert_eq!(text(&respond(&draining, asked(false, false)), &X_WEIR_RETRY), None);
    }

    /// Parses `sf-token *( ";" sf-key "=" ( sf-token / sf-string ) )` of RFC 8941; `None` when it is not.
    fn parse_item(text: &str) -> Option<(String, Vec<(String, String)>)> {
        let is_token = |t: &str| {
            t.starts_with(|c: char| c.is_ascii_alphabetic() || c == '*')
                && t.chars().all(|c| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~:/".contains(c))
        };
        let mut parts = text.split(';');
        let name = parts.next().filter(|name| is_token(name))?.to_owned();
        let parameter = |part: &str| {
            let (key, value) = part.trim_start_matches(' ').split_once('=')?;
            let key_ok = key.starts_with(|c: char| c.is_ascii_lowercase())
                && key.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_-.*".contains(c));
            let string = value.strip_prefix('"').and_then(|v| v.strip_suffix('"'));
            let value_ok = string.map_or_else(
                || is_token(value),
                |s| s.chars().all(|c| (' '..='~').contains(&c) && c != '"' && c != '\\'),
            );
            (key_ok && value_ok).then(|| (key.to_owned(), string.unwrap_or(value).to_owned()))
        };
        Some((name, parts.map(parameter).collect::<Option<_>>()?))
    }

    #[test]
    fn proxy_status_is_a_structured_field_for_every_reason() {
        for reason in Reason::ALL {
            let value = proxy_status(&ProxyError::new(*reason), reason.proxy_status());
            let (name, parameters) = parse_item(value.to_str().unwrap()).unwrap();
            assert_eq!(name, "weir");
            let expected = [("error", reason.proxy_status()), ("details", reason.as_str())];
            assert_eq!(parameters, expected.map(|(k, v)| (k.to_owned(), v.to_owned())), "{reason:?}");
        }
    }

    #[test]
    fn max_forwards_is_answered_here() {
        let options = answer_here(&Method::OPTIONS, Some(&ID));
        assert_eq!(options.status(), 204);
        assert_eq!(text(&options, &X_REQUEST_ID), Some("r-1"));
        let trace = answer_here(&Method::TRACE, None);
        assert_eq!(trace.status(), 405);
        assert!(trace.headers().contains_key(ALLOW));
    }

    proptest! {
        #[test]
        fn every_answer_is_well_formed(
            reason in prop::sample::select(Reason::ALL),
            id in prop::option::of("[!-~]{1,128}"),
            policy in prop::option::of("[a-zA-Z0-9][a-zA-Z0-9._-]{0,20}"),
            retry in prop::option::of(any::<u64>()),
            grpc in any::<bool>(),
        ) {
            let mut error = ProxyError::new(reason);
            error.policy = policy.as_deref().and_then(Name::new);
            error.retry_after = retry.map(Duration::from_nanos);
            let id = id.map(|id| HeaderValue::try_from(id).unwrap());
            let asked = Asked { head: false, grpc, request_id: id.as_ref(), retry_elsewhere: false };
            let response = respond(&error, asked);
            prop_assert_eq!(response.headers().get(X_REQUEST_ID), id.as_ref());
            if grpc {
                prop_assert!(response.body().is_empty());
                let status: u8 = text(&response, &GRPC_STATUS).unwrap().parse().unwrap();
                prop_assert_eq!(status, reason.grpc_status());
            } else {
                let body: Value = serde_json::from_slice(response.body()).unwrap();
                prop_assert_eq!(&body["reason"], reason.as_str());
                prop_assert_eq!(&body["status"], response.status().as_u16());
                prop_assert_eq!(body["request_id"].as_str(), id.as_ref().map(|id| id.to_str().unwrap()));
                prop_assert_eq!(body["policy"].as_str(), policy.as_deref());
                let waits = response.headers().contains_key(RETRY_AFTER);
                prop_assert_eq!(body.get("retry_after_s").is_some(), waits);
            }
        }
    }
}
