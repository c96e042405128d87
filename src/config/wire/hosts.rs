//! Scalars of addresses: endpoints, networks, hosts and the names of certificates.

use std::{net::SocketAddr, sync::Arc};

use http::HeaderValue;
use ipnet::IpNet;
use rustls_pki_types::ServerName;
use serde_json::{Value as Json, json};

use super::{Shown, Takes, Text, scalars::socket_path};
use crate::config::{
    codes::Code,
    fault::{Problem, shown},
    policy::{EndpointAddress, HostPattern},
};

impl Text for EndpointAddress {
    const WHAT: &'static str =
        "an endpoint such as `10.0.0.1:8080`, `orders.shop.svc:8080` or `unix:/run/app.sock`";
    const DEF: &'static str = "endpoint-address";
    const TAKES: Takes = Takes::Text;

    fn parse(text: &str) -> Result<Self, Problem> {
        let wrong = |help: &str| {
            Problem::new(Code::BadAddress, format!("`{}` is not an endpoint", shown(text))).help(help)
        };
        if let Some(path) = text.strip_prefix("unix:") {
            return socket_path(path).map(Self::Unix);
        }
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
            "description": "host:port, with an IP address or a DNS name as host; or unix:PATH.",
            "type": "string",
            "pattern": r"^(([A-Za-z0-9._-]{1,255}|\[[0-9a-fA-F:.]+(%[0-9]+)?\]):0*[1-9][0-9]{0,4}|unix:/.+)$",
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
    fn new_hosts() {
        assert!(["a.b:80", "a", "[::1]:80"].iter().all(|text| NewHost::parse(text).is_ok()));
        assert!(["", "u@a", "a:b", "a:99999", "a/b", "a b"].iter().all(|text| NewHost::parse(text).is_err()));
    }
}
