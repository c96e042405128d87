//! Listeners, and all addresses that will be bound.

use std::{collections::BTreeMap, net::SocketAddr};

use super::{probe, whole};
use crate::config::{
    Name,
    bootstrap::{
        Direction, Http2, ListenAddress, Listener, Passthrough, ProxyProtocol, ServerTls, Side, Unmatched,
    },
    codes::Code,
    fault::Problem,
    load::{Env, PemKind},
    node::Origin,
    units::show_size,
    wire::{
        Cx, Defaults as _, Spanned,
        file::{FileWire, ListenerWire, OrOff, PassthroughWire, ServerTlsWire, private_ranges},
        http2::Http2Wire,
        scalars::{Listen, Mode},
    },
};

/// The listeners, by name.
pub(super) fn listeners(file: &FileWire, env: &Env<'_>, cx: &mut Cx<'_>) -> BTreeMap<Name, Listener> {
    let Some(table) = &file.listeners else { return BTreeMap::new() };
    cx.at("listeners", table.origin, |cx| {
        if table.value.1 == 0 {
            let problem = Problem::new(Code::TooFew, "there is no listener")
                .help("for instance `inbound: { listen: 0.0.0.0:8080 }`");
            cx.problem(problem, table.origin);
        }
        let made = whole(&table.value, cx, |name, wire, cx| listener(name, wire, env, cx));
        made.into_iter().map(|(name, listener)| (name, (*listener).clone())).collect()
    })
}

fn listener(name: &Name, wire: &ListenerWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<Listener> {
    let tls = wire.tls.as_ref().map(|tls| cx.at("tls", tls.origin, |cx| server_tls(&tls.value, env, cx)));
    let listen = wire.listen.as_ref()?;
    let socket_mode = mode(listen, wire.socket_mode.as_ref(), 0o660, cx);
    let listen = listen.value.0.clone();
    let direction = wire.direction.as_ref().map_or_else(|| direction(name, &listen), |given| given.value);
    let from = proxy_protocol_from(wire, cx);
    let passthrough = passthrough(wire, direction, cx);
    let count = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    Some(Listener {
        name: name.clone(),
        listen,
        socket_mode,
        direction,
        protocol: wire.protocol.value,
        // A block that lacks its certificate is an error already; never clear text instead.
        tls: match tls {
            Some(tls) => Some(tls?),
            None => None,
        },
        max_connections: count(wire.max_connections.value.0),
        header_timeout: wire.header_timeout.value.0,
        keepalive_timeout: wire.keepalive_timeout.value.0,
        max_header_bytes: usize::try_from(wire.max_header_bytes.value.0).unwrap_or(usize::MAX),
        max_headers: count(wire.max_headers.value.0),
        max_streams: wire.max_streams.value.0,
        http2: cx.at("http2", wire.http2.origin, |cx| http2(&wire.http2.value, cx)),
        trust: wire.trust.value.0.iter().map(|net| net.value).collect(),
        proxy_protocol: wire.proxy_protocol.value,
        proxy_protocol_from: from,
        passthrough,
    })
}

/// The permissions of a socket that has any.
fn mode(listen: &Spanned<Listen>, given: Option<&Spanned<Mode>>, default: u32, cx: &mut Cx<'_>) -> u32 {
    if let (Some(given), ListenAddress::Socket(_)) = (given, &listen.value.0) {
        let problem = Problem::new(Code::Inconsistent, "`socket_mode` is for unix sockets")
            .help("take it out, or listen on `unix:/path/of/the.sock`");
        cx.at("socket_mode", given.origin, |cx| cx.problem(problem, given.origin));
    }
    given.map_or(default, |mode| mode.value.0)
}

/// Where the admin interface listens.
pub(super) fn admin(file: &FileWire, cx: &mut Cx<'_>) -> Option<Side> {
    let OrOff::On(wire) = &file.admin.value else { return None };
    let socket_mode =
        cx.at("admin", file.admin.origin, |cx| mode(&wire.listen, wire.socket_mode.as_ref(), 0o600, cx));
    Some(Side { listen: wire.listen.value.0.clone(), socket_mode })
}

/// Where metrics and probes listen.
pub(super) fn telemetry(file: &FileWire, cx: &mut Cx<'_>) -> Option<Side> {
    let OrOff::On(wire) = &file.telemetry.value else { return None };
    let socket_mode = cx.at("telemetry", file.telemetry.origin, |cx| {
        mode(&wire.listen, wire.socket_mode.as_ref(), 0o660, cx)
    });
    Some(Side { listen: wire.listen.value.0.clone(), socket_mode })
}

fn proxy_protocol_from(wire: &ListenerWire, cx: &mut Cx<'_>) -> Vec<ipnet::IpNet> {
    let Some(given) = &wire.proxy_protocol_from else {
        return private_ranges().0.iter().map(|net| net.value).collect();
    };
    if wire.proxy_protocol.value == ProxyProtocol::Off {
        let problem = Problem::new(Code::Incomplete, "`proxy_protocol_from` while `proxy_protocol` is off")
            .help("set `proxy_protocol: required` (or `optional`), or take the list out");
        cx.at("proxy_protocol_from", given.origin, |cx| cx.problem(problem, given.origin));
    }
    given.value.0.iter().map(|net| net.value).collect()
}

fn passthrough(wire: &ListenerWire, direction: Direction, cx: &mut Cx<'_>) -> Option<Passthrough> {
    if wire.unmatched.value == Unmatched::Refuse {
        if let Some(given) = &wire.passthrough {
            let problem = Problem::new(Code::Incomplete, "`passthrough` without `unmatched: passthrough`")
                .help("set `unmatched: passthrough`, or take the block out");
            cx.at("passthrough", given.origin, |cx| cx.problem(problem, given.origin));
        }
        return None;
    }
    if direction != Direction::Outbound {
        let problem = Problem::new(Code::Inconsistent, "only outbound listeners pass through").help(
            "an inbound one would be an open proxy: take `unmatched` out, or set `direction: outbound`",
        );
        cx.at("unmatched", wire.unmatched.origin, |cx| cx.problem(problem, wire.unmatched.origin));
    }
    let default = PassthroughWire::defaults(Origin::default());
    let block = wire.passthrough.as_ref().map_or(&default, |given| &given.value);
    Some(Passthrough {
        deny: block.deny.value.0.iter().map(|net| net.value).collect(),
        max_destinations: block.max_destinations.value.0,
        max_tunnels: block.max_tunnels.value.0,
        connect_timeout: block.connect_timeout.value.0,
    })
}

fn http2(wire: &Http2Wire, cx: &mut Cx<'_>) -> Http2 {
    let bytes = |size: u64| u32::try_from(size).unwrap_or(u32::MAX);
    let (window, connection_window) = (&wire.window, &wire.connection_window);
    if window.value.0 > connection_window.value.0 {
        let message = format!(
            "`window` ({}) is more than `connection_window` ({})",
            show_size(window.value.0),
            show_size(connection_window.value.0)
        );
        let problem = Problem::new(Code::Inconsistent, message)
            .help("one request's share is a part of what all have together");
        // A default has no place of its own.
        cx.problem(problem, if window.origin.line == 0 { connection_window.origin } else { window.origin });
    }
    Http2 {
        max_resets: wire.max_resets.value.0,
        max_stream_errors: wire.max_stream_errors.value.0,
        max_control_frames: wire.max_control_frames.value.0,
        window: bytes(window.value.0),
        connection_window: bytes(connection_window.value.0),
        max_send_buffer: bytes(wire.max_send_buffer.value.0),
        ping_interval: wire.ping_interval.value.0,
        ping_timeout: wire.ping_timeout.value.0,
    }
}

/// Which way a listener goes when nothing is said: by its name, else by its address.
fn direction(name: &Name, listen: &ListenAddress) -> Direction {
    match name.as_str() {
        name if name.starts_with("inbound") => Direction::Inbound,
        name if name.starts_with("outbound") => Direction::Outbound,
        _ if listen.socket().is_none_or(|address| address.ip().is_loopback()) => Direction::Outbound,
        _ => Direction::Inbound,
    }
}

fn server_tls(wire: &ServerTlsWire, env: &Env<'_>, cx: &mut Cx<'_>) -> Option<ServerTls> {
    let files = [
        ("cert", &wire.cert, PemKind::Certificates),
        ("key", &wire.key, PemKind::Key),
        ("client_ca", &wire.client_ca, PemKind::Certificates),
    ];
    for (name, file, kind) in files {
        if let Some(file) = file {
            probe(name, file, kind, env.probe, cx);
        }
    }
    Some(ServerTls {
        cert: wire.cert.as_ref()?.value.0.clone(),
        key: wire.key.as_ref()?.value.0.clone(),
        client_ca: wire.client_ca.as_ref().map(|file| file.value.0.clone()),
    })
}

/// One address that will be bound, and who wants it.
struct Bound {
    path: [String; 2],
    address: ListenAddress,
    origin: Origin,
}

/// Reports addresses that cannot be bound together.
pub(super) fn addresses(file: &FileWire, cx: &mut Cx<'_>) {
    let mut all = Vec::new();
    if let OrOff::On(admin) = &file.admin.value {
        all.push(bound("admin", None, &admin.listen.value.0, admin.listen.origin));
    }
    if let OrOff::On(telemetry) = &file.telemetry.value {
        all.push(bound("telemetry", None, &telemetry.listen.value.0, telemetry.listen.origin));
    }
    for (name, entry) in file.listeners.iter().flat_map(|table| &table.value.0) {
        if let Some(Spanned { value: ListenerWire { listen: Some(listen), .. }, .. }) = entry {
            all.push(bound("listeners", Some(name.value.as_str()), &listen.value.0, listen.origin));
        }
    }
    for (index, later) in all.iter().enumerate() {
        let earlier = all.iter().take(index).find(|earlier| collide(&earlier.address, &later.address));
        let Some(earlier) = earlier else { continue };
        // A default has no place of its own; then the fault is shown at the other.
        let (at, other) = if later.origin.line == 0 { (earlier, later) } else { (later, earlier) };
        let whose = other.path.iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(".");
        let message = format!("{} is taken by `{whose}` ({})", at.address, other.address);
        let own = if at.address.socket().is_some() { "port" } else { "path" };
        let problem = Problem::new(Code::AddressInUse, message).help(format!("give each its own {own}"));
        let [block, name] = &at.path;
        cx.at(block, at.origin, |cx| {
            if name.is_empty() {
                cx.at("listen", at.origin, |cx| cx.problem(problem, at.origin));
            } else {
                cx.at(name, at.origin, |cx| cx.at("listen", at.origin, |cx| cx.problem(problem, at.origin)));
            }
        });
    }
}

fn bound(block: &str, name: Option<&str>, address: &ListenAddress, origin: Origin) -> Bound {
    Bound { path: [block.to_owned(), name.unwrap_or_default().to_owned()], address: address.clone(), origin }
}

/// Whether the second of two would be refused. Port 0 is always a free one; `[::]` also takes all of IPv4.
fn collide(a: &ListenAddress, b: &ListenAddress) -> bool {
    let (ListenAddress::Socket(a), ListenAddress::Socket(b)) = (a, b) else { return a == b };
    let (a, b) = (*a, *b);
    let all = |wild: SocketAddr, other: SocketAddr| {
        wild.ip().is_unspecified() && (wild.is_ipv6() || other.is_ipv4())
    };
    a.port() == b.port() && a.port() != 0 && (a.ip() == b.ip() || all(a, b) || all(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::wire::Text as _;

    #[test]
    fn which_addresses_collide() {
        let parse = |text: &str| Listen::parse(text).unwrap().0;
        let collide = |a: &str, b: &str| collide(&parse(a), &parse(b));
        assert!(collide("unix:/run/a", "unix:/run/a"));
        assert!(!collide("unix:/run/a", "unix:/run/b"));
        assert!(!collide("unix:/run/a", "80"));
        assert!(collide("0.0.0.0:80", "127.0.0.1:80"));
        assert!(collide("127.0.0.1:80", "0.0.0.0:80"));
        assert!(collide("[::]:80", "127.0.0.1:80"));
        assert!(!collide("0.0.0.0:80", "[::1]:80"));
        assert!(!collide("127.0.0.1:80", "127.0.0.2:80"));
        assert!(!collide("127.0.0.1:0", "127.0.0.1:0"));
    }

    #[test]
    fn directions() {
        let direction = |name: &str, listen: &str| {
            direction(&Name::new(name).unwrap(), &Listen::parse(listen).unwrap().0)
        };
        assert_eq!(direction("web", "unix:/run/web.sock"), Direction::Outbound);
        assert_eq!(direction("inbound", "unix:/run/web.sock"), Direction::Inbound);
        assert_eq!(direction("inbound-tls", "127.0.0.1:1"), Direction::Inbound);
        assert_eq!(direction("outbound", "0.0.0.0:1"), Direction::Outbound);
        assert_eq!(direction("web", "0.0.0.0:1"), Direction::Inbound);
        assert_eq!(direction("web", "127.0.0.1:1"), Direction::Outbound);
    }
}
