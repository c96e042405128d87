//! Why Weir answered by itself, and what it then says: one table.
//!
//! A [`ProxyError`] is a *reason*, from the caller's point of view. What went wrong underneath (a socket
//! error, say) travels beside it for the log, and never reaches a client.

use std::time::Duration;

use http::StatusCode;

use crate::config::Name;

/// Why Weir answered a request itself.
#[derive(Debug, Clone)]
pub struct ProxyError {
    /// The reason.
    pub reason: Reason,
    /// The policy (upstream, limit, switch …) that decided, where one did.
    pub policy: Option<Name>,
    /// How long the client should wait before it tries again, where waiting helps.
    pub retry_after: Option<Duration>,
    /// What happened underneath, for the log only.
    pub detail: Option<String>,
    /// The status that policy sets; `None` = the reason's.
    pub status: Option<StatusCode>,
    /// Waiting does not help, although it mostly does for this reason.
    pub hopeless: bool,
}

impl ProxyError {
    /// An error with nothing but its reason.
    pub fn new(reason: Reason) -> Self {
        Self { reason, policy: None, retry_after: None, detail: None, status: None, hopeless: false }
    }

    /// Names the policy that decided.
    #[must_use]
    pub fn by(mut self, policy: &Name) -> Self {
        self.policy = Some(policy.clone());
        self
    }

    /// Adds what happened underneath.
    #[must_use]
    pub fn because(mut self, detail: impl std::fmt::Display) -> Self {
        self.detail = Some(detail.to_string());
        self
    }

    /// However long the client waited, it would get no other answer.
    #[must_use]
    pub fn hopeless(mut self) -> Self {
        self.hopeless = true;
        self
    }

    /// Sets the status that policy wants.
    #[must_use]
    pub fn with_status(mut self, status: StatusCode) -> Self {
        self.status = Some(status);
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status.unwrap_or(self.reason.status())
    }

    /// The gRPC status code: of an injected fault that of its HTTP status, as gRPC maps them; else the reason's.
    pub fn grpc_status(&self) -> u8 {
        match (self.reason, self.status) {
            (Reason::Fault, Some(status)) => of_http(status),
            _ => self.reason.grpc_status(),
        }
    }

    /// Adds how long to wait.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl std::fmt::Display for ProxyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.reason.as_str())?;
        if let Some(policy) = &self.policy {
            write!(f, " ({policy})")?;
        }
        if let Some(detail) = &self.detail {
            write!(f, ": {detail}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ProxyError {}

/// What gRPC makes of an HTTP status ("HTTP to gRPC Status Code Mapping" of its documents).
const fn of_http(status: StatusCode) -> u8 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Whose doing it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client's.
    Downstream,
    /// The upstream's.
    Upstream,
    /// Weir's, by policy or by fault.
    Proxy,
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident = $text:literal, $origin:ident, $status:literal, $proxy_status:literal, $grpc:literal, $title:literal;)*) => {
        /// The closed set of reasons. Their names are a contract: dashboards and clients depend on them.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum Reason { $($(#[$doc])* $variant,)* }

        impl Reason {
            /// Every reason, in the order of the reference.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// Its name in bodies, logs and metrics.
            pub const fn as_str(self) -> &'static str { match self { $(Self::$variant => $text,)* } }

            /// Whose doing it was.
            pub const fn origin(self) -> Origin { match self { $(Self::$variant => Origin::$origin,)* } }

            /// The HTTP status, where policy sets no other.
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$variant => match StatusCode::from_u16($status) { Ok(s) => s, Err(_) => StatusCode::INTERNAL_SERVER_ERROR },)* }
            }

            /// The error type of `Proxy-Status` (RFC 9209 §2.3).
            pub const fn proxy_status(self) -> &'static str { match self { $(Self::$variant => $proxy_status,)* } }

            /// The gRPC status code.
            pub const fn grpc_status(self) -> u8 { match self { $(Self::$variant => $grpc,)* } }

            /// One sentence for people: what happened. Becomes `title` of the problem document (RFC 9457).
            pub const fn title(self) -> &'static str { match self { $(Self::$variant => $title,)* } }
        }
    };
}

reasons! {
    /// No route matches.
    NoRoute = "no_route", Downstream, 404, "destination_not_found", 12, "No route matches this request";
    /// The endpoint's name does not resolve.
    DnsError = "dns_error", Upstream, 502, "dns_error", 14, "The upstream's name could not be resolved";
    /// The look-up of the endpoint's name took too long.
    DnsTimeout = "dns_timeout", Upstream, 504, "dns_timeout", 14, "The look-up of the upstream's name took too long";
    /// The endpoint refused the connection, or there is no way to it.
    ConnectRefused = "connect_refused", Upstream, 502, "connection_refused", 14, "The upstream refused the connection";
    /// The connection took longer than `connect_timeout`.
    ConnectTimeout = "connect_timeout", Upstream, 504, "connection_timeout", 14, "The connection to the upstream took too long";
    /// The endpoint ended the connection before its answer.
    UpstreamReset = "upstream_reset", Upstream, 502, "connection_terminated", 14, "The upstream ended the connection before it answered";
    /// The route's time ran out.
    UpstreamTimeout = "upstream_timeout", Upstream, 504, "http_response_timeout", 4, "The upstream did not answer within the route's timeout";
    /// The deadline that the client itself set ran out.
    DeadlineExceeded = "deadline_exceeded", Downstream, 504, "http_response_timeout", 4, "The deadline that the client set ran out";
    /// The endpoint's answer is not HTTP as it must be.
    UpstreamProtocol = "upstream_protocol", Upstream, 502, "http_protocol_error", 13, "The upstream's answer is not valid HTTP";
    /// TLS with the endpoint failed.
    UpstreamTls = "upstream_tls", Upstream, 502, "tls_protocol_error", 14, "TLS with the upstream failed";
    /// The breaker is open.
    BreakerOpen = "breaker_open", Proxy, 503, "destination_unavailable", 14, "The upstream's circuit breaker is open";
    /// Nothing healthy to send to.
    NoHealthyEndpoint = "no_healthy_endpoint", Proxy, 503, "destination_unavailable", 14, "The upstream has no endpoint that could be used";
    /// All connections are in use and too many requests wait, or this one waited too long.
    PoolFull = "pool_full", Proxy, 503, "connection_limit_reached", 14, "All connections to the upstream are in use";
    /// The concurrency limit is reached.
    Concurrency = "concurrency", Proxy, 503, "connection_limit_reached", 14, "Too many requests are in flight";
    /// Shed in favour of more important requests.
    Shed = "shed", Proxy, 503, "connection_limit_reached", 14, "Refused in favour of more important requests";
    /// Waited in a queue for too long.
    QueueTimeout = "queue_timeout", Proxy, 503, "connection_limit_reached", 14, "The request waited too long to be sent";
    /// Over a rate limit.
    RateLimit = "rate_limit", Proxy, 429, "http_request_denied", 8, "A rate limit is exceeded";
    /// A degradation switch answered.
    Switch = "switch", Proxy, 503, "http_request_denied", 14, "A degradation switch answered this request";
    /// An injected fault.
    Fault = "fault", Proxy, 503, "proxy_internal_response", 14, "A fault was injected on purpose";
    /// Not HTTP as it must be.
    Malformed = "malformed", Downstream, 400, "http_request_error", 13, "The request is malformed or ambiguous";
    /// The request's head is too large.
    HeaderTooLarge = "header_too_large", Downstream, 431, "http_request_error", 8, "The request's headers are too large";
    /// The request's body is larger than the route takes.
    BodyTooLarge = "body_too_large", Downstream, 413, "http_request_error", 8, "The request's body is larger than this route takes";
    /// The request's head took too long.
    HeaderTimeout = "header_timeout", Downstream, 408, "http_request_error", 4, "The request's headers took too long to arrive";
    /// The request's body took too long.
    BodyTimeout = "body_timeout", Downstream, 408, "http_request_error", 4, "The request's body took too long to arrive";
    /// Not authenticated.
    Unauthenticated = "unauthenticated", Downstream, 401, "http_request_denied", 16, "The request is not authenticated";
    /// Authenticated, and not allowed.
    Forbidden = "forbidden", Downstream, 403, "http_request_denied", 7, "The request is not allowed";
    /// The request was here before.
    Loop = "loop", Proxy, 508, "proxy_loop_detected", 10, "The request came back to the proxy that sent it";
    /// This instance is leaving.
    Draining = "draining", Proxy, 503, "destination_unavailable", 14, "This instance is shutting down";
    /// A fault in Weir.
    Internal = "internal", Proxy, 500, "proxy_internal_error", 13, "An internal error of the proxy";
}

impl Reason {
    /// Whether a client is told when to come back although nothing more exact is known.
    pub const fn hints_retry(self) -> bool {
        matches!(
            self,
            Self::BreakerOpen
                | Self::NoHealthyEndpoint
                | Self::PoolFull
                | Self::Concurrency
                | Self::Shed
                | Self::QueueTimeout
                | Self::RateLimit
                | Self::Draining
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_name_and_an_error_status() {
        let mut names: Vec<_> = Reason::ALL.iter().map(|r| r.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            let status = reason.status();
            assert!(status.is_client_error() || status.is_server_error(), "{reason:?} is {status}");
            assert!((1..=16).contains(&reason.grpc_status()));
        }
    }
}
