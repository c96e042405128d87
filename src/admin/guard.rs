//! Who may read the admin interface, and who may change something through it.
//!
//! Loopback keeps the network out, but not the browser of somebody who works on this machine: a page from
//! anywhere can make it send requests here. The rule, for the admin surface:
//!
//! 1. The host that a request names must be an IP address or `localhost`. A page that rebinds its own DNS
//!    name to this address ("DNS rebinding") still sends that name, so it can neither read nor write.
//! 2. What changes something must come from loopback, and not by way of a proxy.
//! 3. It must name its host, and neither `Origin` nor `Sec-Fetch-Site` may speak of another site.
//! 4. It must call itself `application/json`. No page of another site can send that without a preflight
//!    request, and preflights are never answered.
//!
//! Metrics and probes hold no secrets and change nothing; on the telemetry surface there is no rule.

use std::net::{IpAddr, SocketAddr};

use http::{
    HeaderMap, StatusCode, Uri,
    header::{CONTENT_TYPE, FORWARDED, HOST, ORIGIN, VIA},
};

/// Why a request was refused: a status and what would be right.
pub(super) type Refusal = (StatusCode, &'static str);

/// Rule 1.
pub(super) fn may_read(uri: &Uri, headers: &HeaderMap) -> Result<(), Refusal> {
    let refusal = (StatusCode::FORBIDDEN, "ask by IP address or as localhost: this interface has no name");
    let named = uri.authority().map(http::uri::Authority::as_str);
    for host in named.into_iter().map(Some).chain(headers.get_all(HOST).iter().map(|host| host.to_str().ok()))
    {
        if !host.is_some_and(is_address_or_localhost) {
            return Err(refusal);
        }
    }
    Ok(())
}

/// Rules 2 to 4; the first must have been asked before.
pub(super) fn may_write(peer: SocketAddr, headers: &HeaderMap) -> Result<(), Refusal> {
    let forbidden = |why| Err((StatusCode::FORBIDDEN, why));
    if !peer.ip().to_canonical().is_loopback() {
        return forbidden("changes are taken from this machine only");
    }
    if headers.contains_key(VIA) || headers.contains_key(FORWARDED) || headers.contains_key("x-forwarded-for")
    {
        return forbidden("changes are not taken by way of a proxy");
    }
    let Some(host) = single(headers, HOST.as_str()) else {
        return forbidden("name the host, once");
    };
    if headers.contains_key(ORIGIN) && !is_same_origin(single(headers, ORIGIN.as_str()), host) {
        return forbidden("the Origin is another site");
    }
    if headers.contains_key("sec-fetch-site")
        && !matches!(single(headers, "sec-fetch-site"), Some("same-origin" | "none"))
    {
        return forbidden("Sec-Fetch-Site speaks of another site");
    }
    let media_type = single(headers, CONTENT_TYPE.as_str()).and_then(|value| value.split(';').next());
    if !media_type.is_some_and(|value| value.trim().eq_ignore_ascii_case("application/json")) {
        return Err((StatusCode::UNSUPPORTED_MEDIA_TYPE, "send it with Content-Type: application/json"));
    }
    Ok(())
}

/// The value of a header that is there once.
fn single<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    values.next().is_none().then(|| value.to_str().ok()).flatten()
}

/// Clear text is all that this server speaks, so the scheme is known.
fn is_same_origin(origin: Option<&str>, host: &str) -> bool {
    let authority = origin.and_then(|origin| origin.strip_prefix("http://"));
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn is_address_or_localhost(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    match name.strip_prefix('[').and_then(|name| name.strip_suffix(']')) {
        Some(v6) => v6.parse::<std::net::Ipv6Addr>().is_ok(),
        None => name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    fn with(extra: &[(&'static str, &str)]) -> HeaderMap {
        let mut all = headers(&[("host", "127.0.0.1:9901"), ("content-type", "application/json")]);
        for (name, value) in extra {
            all.append(*name, HeaderValue::from_str(value).unwrap());
        }
        all
    }

    #[test]
    fn only_addresses_and_localhost_are_hosts() {
        let path = Uri::from_static("/status");
        for good in [
            "127.0.0.1",
            "127.0.0.1:9901",
            "10.1.2.3:9901",
            "localhost:9901",
            "LOCALHOST",
            "[::1]:9901",
            "[::1]",
        ] {
            assert!(may_read(&path, &headers(&[("host", good)])).is_ok(), "{good}");
        }
        for bad in [
            "evil.example",
            "evil.example:9901",
            "127.0.0.1.evil.example",
            "localhost.evil.example",
            "",
            "::1",
            "[evil]:1",
            "127.0.0.1:9901@evil",
        ] {
            assert!(may_read(&path, &headers(&[("host", bad)])).is_err(), "{bad}");
        }
        assert!(may_read(&path, &headers(&[])).is_ok(), "HTTP/1.0 has no Host, and no browser speaks it");
        let mut two = headers(&[("host", "127.0.0.1")]);
        two.append(HOST, HeaderValue::from_static("evil.example"));
        assert!(may_read(&path, &two).is_err());
        let absolute = Uri::from_static("http://evil.example/status");
        assert!(may_read(&absolute, &headers(&[("host", "127.0.0.1")])).is_err());
    }

    #[test]
    fn changes_come_from_this_machine_and_this_site() {
        let here: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        for good in [
            &[][..],
            &[("origin", "http://127.0.0.1:9901")],
            &[("sec-fetch-site", "same-origin")],
            &[("sec-fetch-site", "none")],
        ] {
            assert_eq!(may_write(here, &with(good)), Ok(()), "{good:?}");
        }
        for bad in [
            &[("origin", "http://evil.example")][..],
            &[("origin", "https://127.0.0.1:9901")],
            &[("origin", "http://127.0.0.1:80")],
            &[("origin", "null")],
            &[("origin", "http://127.0.0.1:9901"), ("origin", "http://evil.example")],
            &[("sec-fetch-site", "cross-site")],
            &[("sec-fetch-site", "same-site")],
            &[("via", "1.1 weir-abc")],
            &[("x-forwarded-for", "10.0.0.1")],
            &[("host", "127.0.0.1:9901")],
        ] {
            assert_eq!(may_write(here, &with(bad)).unwrap_err().0, StatusCode::FORBIDDEN, "{bad:?}");
        }
        for peer in ["10.0.0.1:5000", "[::ffff:10.0.0.1]:5000", "[fe80::1]:5000"] {
            assert!(may_write(peer.parse().unwrap(), &with(&[])).is_err(), "{peer}");
        }
        for peer in ["[::1]:5000", "[::ffff:127.0.0.1]:5000", "127.8.9.1:1"] {
            assert!(may_write(peer.parse().unwrap(), &with(&[])).is_ok(), "{peer}");
        }
    }

    #[test]
    fn changes_are_json() {
        let here: SocketAddr = "127.0.0.1:5000".parse().unwrap();
        for (content_type, good) in [
            ("application/json", true),
            ("application/json; charset=utf-8", true),
            ("Application/JSON", true),
            ("text/plain", false),
            ("application/x-www-form-urlencoded", false),
            ("application/jsonp", false),
        ] {
            let headers = headers(&[("host", "localhost"), ("content-type", content_type)]);
            assert_eq!(may_write(here, &headers).is_ok(), good, "{content_type}");
        }
        assert_eq!(
            may_write(here, &headers(&[("host", "localhost")])).unwrap_err().0,
            StatusCode::UNSUPPORTED_MEDIA_TYPE
        );
    }
}
