//! Where a connection to a host that a client names must not lead.
//!
//! The check is on the address that is about to be connected to, after look-up and for each connection anew: what a
//! name said a moment ago proves nothing ("DNS rebinding"), and neither does how an address is written.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use ipnet::IpNet;

use crate::http::forwarded::Trust;

/// What is forbidden: Weir's own ports on this machine, and the networks that the file denies.
#[derive(Debug)]
pub struct Guard {
    denied: Trust,
    own_ports: Box<[u16]>,
}

impl Guard {
    /// Forbids `denied`, and `own_ports` on every address of this machine.
    pub fn new(denied: &[IpNet], own_ports: &[u16]) -> Self {
        Self { denied: Trust::new(denied), own_ports: own_ports.into() }
    }

    /// Whether a connection to `address` is forbidden; says why.
    pub fn forbids(&self, address: SocketAddr) -> Option<&'static str> {
        let ip = address.ip().to_canonical();
        if self.denied.covers(ip) || embedded(ip).is_some_and(|v4| self.denied.covers(v4.into())) {
            return Some("the address is in `passthrough.deny`");
        }
        if self.own_ports.contains(&address.port())
            && (is_local(ip) || embedded(ip).is_some_and(|v4| is_local(v4.into())))
        {
            return Some("the address is Weir's own");
        }
        None
    }
}

/// The IPv4 address that an IPv6 address stands for where a translator is on the way: IPv4-compatible (RFC 4291
/// §2.5.5.1), NAT64 (RFC 6052 §2.1), 6to4 (RFC 3056). Mapped addresses are IPv4 by now.
fn embedded(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let v4 = |high: u16, low: u16| {
        let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
        Ipv4Addr::new(a, b, c, d)
    };
    match v6.segments() {
        [0, 0, 0, 0, 0, 0, high, low] if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => {
            Some(v4(high, low))
        }
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Whether an address belongs to this machine. 0.0.0.0 and :: lead to it too. The system knows its addresses: it binds
/// to no others (unless it was told to, and then this errs on the side of refusing).
fn is_local(ip: IpAddr) -> bool {
    ip.is_loopback() || ip.is_unspecified() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        let denied = ["169.254.169.254/32", "169.254.170.2/32", "fd00:ec2::254/128", "::ffff:100.64.0.0/106"];
        Guard::new(&denied.map(|net| net.parse().unwrap()), &[4140, 9901])
    }

    /// An address of this machine that is not loopback, where it has one.
    fn own_address() -> Option<IpAddr> {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        // Sends nothing: it only asks the system which way it would go.
        socket.connect("192.0.2.1:9").ok()?;
        socket.local_addr().ok().map(|address| address.ip())
    }

    #[test]
    fn metadata_is_never_reached_however_it_is_written() {
        for address in [
            "169.254.169.254:80",
            "169.254.169.254:8080",
            "169.254.170.2:80",
            "[::ffff:169.254.169.254]:80",
            "[::ffff:a9fe:a9fe]:80",
            "[::169.254.169.254]:80",
            "[64:ff9b::a9fe:a9fe]:80",
            "[2002:a9fe:a9fe::1]:80",
            "[fd00:ec2::254]:80",
            "100.64.1.2:80",
        ] {
            assert!(guard().forbids(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in ["169.254.169.253:80", "192.0.2.1:9901", "[2001:db8::1]:4140", "127.0.0.1:80"] {
            assert_eq!(guard().forbids(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn own_ports_are_refused_on_every_address_of_this_machine() {
        let mut hosts: Vec<String> =
            ["127.0.0.1", "127.9.8.7", "0.0.0.0", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:0.0.0.0]"]
                .map(ToOwned::to_owned)
                .to_vec();
        hosts.extend(own_address().map(|ip| ip.to_string()));
        for host in hosts {
            for port in [4140, 9901] {
                let address = format!("{host}:{port}").parse().unwrap();
                assert_eq!(guard().forbids(address), Some("the address is Weir's own"), "{host}:{port}");
            }
            assert_eq!(guard().forbids(format!("{host}:3000").parse().unwrap()), None, "{host}");
        }
    }
}
