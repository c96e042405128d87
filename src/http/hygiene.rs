//! What must not travel from one connection to the next: one rule a function.
//!
//! The order on the way of a request: [`super::framing`] checks it, [`super::forwarded::Peer::admit`] removes
//! what a stranger may not say, [`super::upgrade`] reads the wish for an upgrade, [`remove_hop_by_hop`]
//! cleans; then Weir adds what is its own, and last [`for_http1`] or [`for_http2`] brings the message into
//! the form of the next connection.

use ::http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, CONNECTION, COOKIE, TE},
};
use smallvec::SmallVec;

use super::census::{self, Census};

/// Whether a field concerns one connection only, whether `Connection` names it or not (RFC 9110 §7.6.1).
///
/// Those of proxy authentication are between a client and its next proxy (RFC 9110 §11.7), which is Weir.
/// `HTTP2-Settings` belongs to the upgrade to h2c (RFC 7540 §3.2.1), which Weir does not pass on.
/// `TE` has a rule of its own ([`keep_te_trailers`]); `Trailer` describes the message and stays.
pub fn is_hop_by_hop(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection"
            | "keep-alive"
            | "proxy-connection"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-authentication-info"
            | "transfer-encoding"
            | "upgrade"
            | "http2-settings"
    )
}

/// Removes everything that concerns only the connection a message came on, in both directions.
///
/// Read the upgrade first ([`super::upgrade::requested`]) and put it back afterwards.
pub fn remove_hop_by_hop(headers: &mut HeaderMap) {
    remove_named_by_connection(headers);
    // One look at each name there is costs less than one search for each name that must not be.
    remove_where(headers, is_hop_by_hop);
    keep_te_trailers(headers);
}

/// [`remove_hop_by_hop`] for a message of which is known what it has. Most have nothing or one usual `Connection`.
pub fn remove_hop_by_hop_of(had: Census, headers: &mut HeaderMap) {
    if !had.any(census::HOP_BY_HOP) {
        return;
    }
    if !had.any(census::HOP_BY_HOP.without(census::TE)) {
        // Every request of gRPC.
        keep_te_trailers(headers);
        return;
    }
    let usual = |value: &HeaderValue| {
        let value = value.as_bytes();
        value.eq_ignore_ascii_case(b"keep-alive") || value.eq_ignore_ascii_case(b"close")
    };
    if had.any(census::HOP_BY_HOP.without(census::CONNECTION))
        || had.repeats(census::CONNECTION)
        || !headers.get(CONNECTION).is_some_and(usual)
    {
        remove_hop_by_hop(headers);
    } else {
        headers.remove(CONNECTION);
    }
}

/// Removes the fields that `Connection` names (RFC 9110 §7.6.1), but for those that are [`end_to_end`].
pub fn remove_named_by_connection(headers: &mut HeaderMap) {
    let mut named = SmallVec::<[HeaderName; 4]>::new();
    for option in list(headers, &CONNECTION) {
        // The usual options name no field, or one that goes anyway.
        if option.eq_ignore_ascii_case(b"keep-alive") || option.eq_ignore_ascii_case(b"close") {
            continue;
        }
        if let Ok(name) = HeaderName::from_bytes(option)
            && name != TE
            && !end_to_end(&name)
        {
            named.push(name);
        }
    }
    for name in named {
        headers.remove(name);
    }
}

/// Whether a field is for the last recipient, so that naming it in `Connection` does not remove it.
///
/// A sender must not name such a field there (RFC 9110 §7.6.1). One that does is attacking: it wants the
/// application to miss what a proxy before it added or relied on.
pub fn end_to_end(name: &HeaderName) -> bool {
    const NAMES: &[HeaderName] = &[
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRAILER,
        header::EXPECT,
        header::RANGE,
        header::COOKIE,
        header::SET_COOKIE,
        header::AUTHORIZATION,
        header::WWW_AUTHENTICATE,
        header::CACHE_CONTROL,
        header::DATE,
        header::LOCATION,
        header::ORIGIN,
        header::FORWARDED,
        header::VIA,
        header::MAX_FORWARDS,
        header::RETRY_AFTER,
    ];
    const PREFIXES: &[&str] = &[
        "x-forwarded-",
        "x-weir-",
        "x-request-id",
        "x-real-ip",
        "grpc-",
        "traceparent",
        "tracestate",
        "proxy-status",
    ];
    NAMES.contains(name) || PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
}

/// Of `TE` keeps only `trailers`: the rest is about transfer codings, which end here (RFC 9110 §10.1.4).
pub fn keep_te_trailers(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(TE).iter();
    match (lines.next(), lines.next()) {
        (None, _) => return,
        (Some(only), None) if only == "trailers" => return,
        _ => {}
    }
    if list(headers, &TE).any(|member| member.eq_ignore_ascii_case(b"trailers")) {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    } else {
        headers.remove(TE);
    }
}

/// Brings the headers of a request into the form of HTTP/1.1. For the last moment before it is sent.
///
/// Cookie crumbs become one line (RFC 9113 §8.2.3), and `TE` is named by `Connection`, as a sender of it must
/// (RFC 9110 §10.1.4), beside whatever `Connection` says already.
pub fn for_http1(headers: &mut HeaderMap) {
    join_cookies(headers);
    if headers.contains_key(TE) {
        headers.append(CONNECTION, HeaderValue::from_static("te"));
    }
}

/// Brings the headers of a message into the form of HTTP/2. For the last moment before it is sent.
///
/// Fields of the connection are malformed there (RFC 9113 §8.2.2), and `:authority` takes the place of `Host`
/// (§8.3.1), which may not say anything else.
pub fn for_http2(headers: &mut HeaderMap) {
    remove_hop_by_hop(headers);
    headers.remove(header::HOST);
}

/// Joins several `Cookie` lines by `; ` (RFC 9113 §8.2.3): HTTP/1 servers expect one.
pub fn join_cookies(headers: &mut HeaderMap) {
    let mut lines = headers.get_all(COOKIE).iter();
    let (Some(first), Some(second)) = (lines.next(), lines.next()) else { return };
    let mut joined = first.as_bytes().to_vec();
    for line in [second].into_iter().chain(lines) {
        joined.extend_from_slice(b"; ");
        joined.extend_from_slice(line.as_bytes());
    }
    if let Ok(value) = HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)) {
        headers.insert(COOKIE, value);
    }
}

/// Removes from trailers what may not stand there (RFC 9110 §6.5.1): framing, routing, authentication,
/// content format, everything of the connection, and what only Weir says ([`strip_untrusted`]): a recipient that
/// merges trailers into the fields of the head would believe it.
pub fn clean_trailers(trailers: &mut HeaderMap) {
    const FORBIDDEN: &[HeaderName] = &[
        header::HOST,
        header::CONTENT_LENGTH,
        header::CONTENT_TYPE,
        header::CONTENT_ENCODING,
        header::CONTENT_RANGE,
        header::TRAILER,
        header::TE,
        header::AUTHORIZATION,
        header::COOKIE,
        header::SET_COOKIE,
        header::CACHE_CONTROL,
        header::EXPECT,
        header::MAX_FORWARDS,
        header::RANGE,
    ];
    let unwanted =
        |name: &HeaderName| is_hop_by_hop(name) || FORBIDDEN.contains(name) || claims_trust(name.as_str());
    // Nearly all have nothing of the kind, and to look at the two names of gRPC's costs less than to search for thirty.
    if !trailers.keys().any(unwanted) {
        return;
    }
    remove_hop_by_hop(trailers);
    strip_untrusted(trailers);
    for name in FORBIDDEN {
        trailers.remove(name);
    }
}

/// Removes from the request of a peer that is not trusted what only Weir or a trusted proxy may say.
///
/// That is `x-weir-*`, `x-forwarded-*`, `x-real-ip`, `x-request-id` and `Forwarded` (RFC 7239); and
/// everything that looks like them once `_` is read as `-`, because many applications (CGI, WSGI, Rack)
/// cannot tell the two apart. [`super::forwarded`] then writes the `X-Forwarded-*` that are true.
pub fn strip_untrusted(headers: &mut HeaderMap) {
    remove_where(headers, |name| claims_trust(name.as_str()));
}

fn remove_where(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let names: SmallVec<[HeaderName; 4]> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

fn claims_trust(name: &str) -> bool {
    let begins = |prefix: &str| {
        name.len() >= prefix.len()
            && name
                .bytes()
                .zip(prefix.bytes())
                .all(|(b, wanted)| b == wanted || (b == b'_' && wanted == b'-'))
    };
    let is = |wanted: &str| name.len() == wanted.len() && begins(wanted);
    match name.as_bytes().first() {
        Some(b'x') => begins("x-weir-") || begins("x-forwarded-") || is("x-request-id") || is("x-real-ip"),
        Some(b'f') => name == "forwarded",
        _ => false,
    }
}

/// The members of a comma-separated field over all its lines (RFC 9110 §5.6.1), trimmed, without empty ones.
pub(crate) fn list<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    headers
        .get_all(name)
        .iter()
        .flat_map(|line| line.as_bytes().split(|&b| b == b','))
        .map(<[u8]>::trim_ascii)
        .filter(|member| !member.is_empty())
}

#[cfg(test)]
mod tests;
