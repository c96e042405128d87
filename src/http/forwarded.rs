//! Who the client is, and what the next hop is told of it: `X-Forwarded-*`, `X-Request-Id`.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::Arc,
};

use ::http::{HeaderMap, HeaderName, HeaderValue, uri::Scheme};
use ipnet::{IpNet, Ipv4Net};
use uuid::Uuid;

use super::{
    census::{self, Census},
    hygiene::strip_untrusted,
};

/// `X-Forwarded-For`: the addresses a request came through, the client's first.
pub const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
/// `X-Forwarded-Proto`: the scheme that the client used.
pub const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
/// `X-Forwarded-Host`: the host that the client asked for.
pub const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
/// `X-Request-Id`: one request's name in all logs.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// The networks whose peers are believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trust(Box<[IpNet]>);

impl Trust {
    /// Takes the networks of `trust:`. IPv4-mapped networks are read as the IPv4 networks that they map.
    pub fn new(networks: &[IpNet]) -> Self {
        Self(networks.iter().copied().map(canonical_net).collect())
    }

    /// Whether a peer is believed. An IPv4-mapped address is the IPv4 address that it maps.
    pub fn covers(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|net| net.contains(&address))
    }
}

/// A network within `::ffff:0:0/96` as an IPv4 network.
fn canonical_net(net: IpNet) -> IpNet {
    match net {
        IpNet::V6(v6) if v6.prefix_len() >= 96 => v6
            .network()
            .to_ipv4_mapped()
            .and_then(|network| Ipv4Net::new(network, v6.prefix_len() - 96).ok())
            .map_or(net, IpNet::V4),
        _ => net,
    }
}

/// The other end of a connection from downstream. Made once for each connection.
#[derive(Debug, Clone)]
pub struct Peer {
    address: IpAddr,
    trusted: bool,
    /// The address as header value; cloning it costs no allocation.
    text: HeaderValue,
    scheme: HeaderValue,
    trust: Arc<Trust>,
}

/// What is known of a request's sender.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender {
    /// The client's address, for matching, keys and logs; IPv4-mapped ones as IPv4.
    pub client: IpAddr,
    /// The request's id, which is in the headers too.
    pub request_id: HeaderValue,
}

impl Peer {
    /// Describes the peer of a connection of the given scheme (`https` when TLS ends at Weir).
    pub fn new(address: IpAddr, scheme: &Scheme, trust: &Arc<Trust>) -> Self {
        let address = address.to_canonical();
        let text = HeaderValue::try_from(address.to_string()).unwrap_or(HeaderValue::from_static("unknown"));
        let scheme = HeaderValue::from_static(if *scheme == Scheme::HTTPS { "https" } else { "http" });
        Self { address, trusted: trust.covers(address), text, scheme, trust: Arc::clone(trust) }
    }

    /// Its address; IPv4-mapped ones as IPv4.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Whether what it says of others is believed.
    pub fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Takes in a request: finds out who sent it, removes what the peer had no right to say, and writes
    /// `X-Forwarded-*` and `X-Request-Id` for the next hop. Before anything else reads those or an `x-weir-*`
    /// header.
    ///
    /// `had` is what the request came with, `host` the authority as the client wrote it, `new_id` makes an id for a
    /// request that has none.
    pub fn admit(
        &self,
        headers: &mut HeaderMap,
        had: Census,
        host: Option<&HeaderValue>,
        new_id: impl FnOnce() -> HeaderValue,
    ) -> Sender {
        let client = if had.any(census::X_FORWARDED_FOR) { self.client(headers) } else { self.address };
        let known = had.any(census::X_REQUEST_ID).then(|| self.request_id(headers)).flatten();
        if !self.trusted {
            strip_untrusted(headers);
        }
        self.forward(headers, had, host);
        let sender = Sender { client, request_id: known.clone().unwrap_or_else(new_id) };
        if known.is_none() {
            headers.insert(X_REQUEST_ID, sender.request_id.clone());
        }
        sender
    }

    /// The client's address.
    ///
    /// That of the peer; or, behind trusted peers, the right-most address of `X-Forwarded-For` that is not
    /// trusted. Addresses further to the left were written by whoever that is and prove nothing. Where all
    /// are trusted it is the left-most, and where one is no address, the one to its right.
    fn client(&self, headers: &HeaderMap) -> IpAddr {
        let mut client = self.address;
        if !self.trusted {
            return client;
        }
        for line in headers.get_all(&X_FORWARDED_FOR).iter().rev() {
            for member in line.as_bytes().rsplit(|&b| b == b',') {
                let Some(address) = parse_address(member.trim_ascii()) else { return client };
                client = address;
                if !self.trust.covers(address) {
                    return client;
                }
            }
        }
        client
    }

    /// Writes `X-Forwarded-For`, `-Proto` and `-Host` for the next hop.
    ///
    /// The peer's address is appended to `X-Forwarded-For`. `-Proto` and `-Host` are written where they are
    /// missing: they describe the client's own request, and many applications cannot read lists there. What a
    /// peer that is not trusted said is gone by now, so for it all three are new.
    fn forward(&self, headers: &mut HeaderMap, had: Census, host: Option<&HeaderValue>) {
        let forwarded_for = if had.any(census::X_FORWARDED_FOR) {
            append_to_list(headers, &X_FORWARDED_FOR, &self.text)
        } else {
            self.text.clone()
        };
        headers.insert(X_FORWARDED_FOR, forwarded_for);
        // What a stranger said is gone.
        if !self.trusted || !had.any(census::X_FORWARDED_PROTO) {
            headers.insert(X_FORWARDED_PROTO, self.scheme.clone());
        }
        if let Some(host) = host.filter(|host| !host.is_empty())
            && (!self.trusted || !had.any(census::X_FORWARDED_HOST))
        {
            headers.insert(X_FORWARDED_HOST, host.clone());
        }
    }

    /// The id that the request brought, where the peer is trusted, it is the only one, and it is 1 to 128 visible ASCII
    /// characters.
    fn request_id(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let mut lines = headers.get_all(&X_REQUEST_ID).iter();
        match (lines.next(), lines.next()) {
            (Some(only), None) if self.trusted && is_request_id(only) => Some(only.clone()),
            _ => None,
        }
    }
}

/// A new request id: a UUID of version 7 (RFC 9562 §5.7), so that ids sort by time.
pub fn new_request_id() -> HeaderValue {
    id_text(Uuid::now_v7())
}

/// A new request id at `unix_ms` milliseconds since 1970, where clock and random numbers are at hand.
///
/// The random numbers need not be secret: an id is told to everybody, and opens nothing.
pub fn request_id_at(unix_ms: u64, rng: &mut fastrand::Rng) -> HeaderValue {
    // RFC 9562 §5.7: 48 bits of time, the version, 12 random bits, the variant, 62 random bits.
    let high = (unix_ms << 16) | 0x7000 | (rng.u64(..) & 0x0fff);
    let low = (rng.u64(..) & !(0b11 << 62)) | (0b10 << 62);
    id_text(Uuid::from_u64_pair(high, low))
}

fn id_text(id: Uuid) -> HeaderValue {
    let mut buffer = Uuid::encode_buffer();
    HeaderValue::from_str(id.hyphenated().encode_lower(&mut buffer)).unwrap_or(HeaderValue::from_static("-"))
}

fn is_request_id(value: &HeaderValue) -> bool {
    (1..=128).contains(&value.len()) && value.as_bytes().iter().all(u8::is_ascii_graphic)
}

/// All lines of a list field and one more member, as one value.
fn append_to_list(headers: &HeaderMap, name: &HeaderName, member: &HeaderValue) -> HeaderValue {
    let mut lines =
        headers.get_all(name).iter().filter(|line| !line.as_bytes().trim_ascii().is_empty()).peekable();
    if lines.peek().is_none() {
        return member.clone();
    }
    let mut joined = Vec::with_capacity(64);
    for line in lines {
        joined.extend_from_slice(line.as_bytes());
        joined.extend_from_slice(b", ");
    }
    joined.extend_from_slice(member.as_bytes());
    HeaderValue::from_maybe_shared(bytes::Bytes::from(joined)).unwrap_or_else(|_| member.clone())
}

/// An address as proxies write it: bare, with a port, in brackets.
fn parse_address(text: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(text).ok()?;
    let bare = || text.parse::<IpAddr>().ok();
    let with_port = || text.parse::<SocketAddr>().ok().map(|address| address.ip());
    let bracketed = || text.strip_prefix('[')?.strip_suffix(']')?.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
    bare().or_else(with_port).or_else(bracketed).map(|address| address.to_canonical())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::http::fields;

    fn trust() -> Arc<Trust> {
        let nets = ["127.0.0.0/8", "10.0.0.0/8", "fd00::/8", "::ffff:192.168.0.0/112"];
        Arc::new(Trust::new(&nets.map(|n| n.parse().unwrap())))
    }

    fn peer(address: &str) -> Peer {
        Peer::new(address.parse().unwrap(), &Scheme::HTTP, &trust())
    }

    fn admit(peer: &Peer, headers: &mut HeaderMap, host: Option<&HeaderValue>) -> Sender {
        let had = Census::of(headers);
        peer.admit(headers, had, host, || request_id_at(1_700_000_000_000, &mut fastrand::Rng::new()))
    }

    fn forwarded(peer: &Peer, lines: &[(&'static str, &'static str)]) -> [String; 3] {
        let mut headers = fields(lines);
        admit(peer, &mut headers, Some(&HeaderValue::from_static("shop:80")));
        [X_FORWARDED_FOR, X_FORWARDED_PROTO, X_FORWARDED_HOST].map(|name| {
            headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>().join("|")
        })
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        for (address, trusted) in [
            ("10.1.2.3", true),
            ("::ffff:10.1.2.3", true),
            ("::ffff:11.1.2.3", false),
            ("192.168.1.1", true),
            ("::ffff:192.168.1.1", true),
            ("fd00::1", true),
            ("2001:db8::1", false),
        ] {
            assert_eq!(peer(address).is_trusted(), trusted, "{address}");
        }
        assert_eq!(peer("::ffff:10.1.2.3").address(), "10.1.2.3".parse::<IpAddr>().unwrap());
    }

    #[test]
    fn the_client_is_the_last_that_is_not_trusted() {
        for (from, lines, client) in [
            ("10.0.0.1", &[][..], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8"], "8.8.8.8"),
            ("10.0.0.1", &["1.1.1.1, 8.8.8.8, 10.0.0.2"], "8.8.8.8"),
            ("10.0.0.1", &["1.1.1.1", "8.8.8.8", "10.0.0.2,10.0.0.3"], "8.8.8.8"),
            ("10.0.0.1", &["10.0.0.9, 10.0.0.2"], "10.0.0.9"),
            ("10.0.0.1", &["8.8.8.8, unknown, 10.0.0.2"], "10.0.0.2"),
            ("10.0.0.1", &["unknown"], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8,"], "10.0.0.1"),
            ("10.0.0.1", &["8.8.8.8:1234"], "8.8.8.8"),
            ("10.0.0.1", &["[2001:db8::1]:1234"], "2001:db8::1"),
            ("10.0.0.1", &["[2001:db8::1]"], "2001:db8::1"),
            ("10.0.0.1", &["8.8.8.8, ::ffff:10.0.0.2"], "8.8.8.8"),
            ("9.9.9.9", &["8.8.8.8"], "9.9.9.9"),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_FORWARDED_FOR, HeaderValue::from_static(line));
            }
            assert_eq!(peer(from).client(&headers), client.parse::<IpAddr>().unwrap(), "{from} {lines:?}");
        }
    }

    #[test]
    fn a_trusted_peer_is_continued() {
        let lines = [
            ("x-forwarded-for", "8.8.8.8"),
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "public"),
        ];
        assert_eq!(forwarded(&peer("10.0.0.1"), &lines), ["8.8.8.8, 10.0.0.2, 10.0.0.1", "https", "public"]);
        assert_eq!(forwarded(&peer("10.0.0.1"), &[]), ["10.0.0.1", "http", "shop:80"]);
        assert_eq!(forwarded(&peer("10.0.0.1"), &[("x-forwarded-for", " ")])[0], "10.0.0.1");
    }

    #[test]
    fn a_stranger_is_replaced() {
        let lines = [
            ("x-forwarded-for", "10.0.0.2"),
            ("x-forwarded-for", "127.0.0.1"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
            ("forwarded", "for=127.0.0.1"),
        ];
        assert_eq!(forwarded(&peer("9.9.9.9"), &lines), ["9.9.9.9", "http", "shop:80"]);
        let mut headers = fields(&lines);
        headers.insert("x-weir-timeout-ms", HeaderValue::from_static("1"));
        headers.insert("x-request-id", HeaderValue::from_static("chosen"));
        let sender = admit(&peer("9.9.9.9"), &mut headers, None);
        assert_eq!(sender.client, "9.9.9.9".parse::<IpAddr>().unwrap());
        assert_eq!(headers[X_REQUEST_ID], sender.request_id);
        assert_ne!(sender.request_id, "chosen");
        assert_eq!(headers.len(), 3, "for, proto and the id: {headers:?}");
    }

    #[test]
    fn request_ids_are_kept_from_trusted_peers() {
        let long: &'static str = "x".repeat(129).leak();
        for (from, lines, kept) in [
            ("10.0.0.1", &["abc-123"][..], true),
            ("10.0.0.1", &["abc", "abc"], false),
            ("10.0.0.1", &[""], false),
            ("10.0.0.1", &["a b"], false),
            ("10.0.0.1", &[long], false),
            ("10.0.0.1", &[], false),
            ("9.9.9.9", &["abc-123"], false),
        ] {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(X_REQUEST_ID, HeaderValue::from_static(line));
            }
            let id = admit(&peer(from), &mut headers, None).request_id;
            assert_eq!(headers.get_all(X_REQUEST_ID).iter().collect::<Vec<_>>(), [&id]);
            if kept {
                assert_eq!(id, lines[0]);
            } else {
                let uuid = Uuid::try_parse(id.to_str().unwrap()).unwrap();
                assert_eq!(uuid.get_version_num(), 7);
            }
        }
        assert_ne!(new_request_id(), new_request_id());
    }

    fn hops() -> impl Strategy<Value = Vec<&'static str>> {
        let hop = prop::sample::select(vec![
            "10.0.0.2",
            "8.8.8.8",
            "fd00::2",
            "2001:db8::1",
            "unknown",
            "",
            "1.1.1.1:80",
        ]);
        prop::collection::vec(hop, 0..6)
    }

    proptest! {
        #[test]
        fn what_a_stranger_wrote_changes_nothing(forged in hops(), proven in hops()) {
            // Whatever stands left of the first address that is not trusted was written by whoever that is.
            let client = |list: &[&str]| {
                let value = HeaderValue::try_from(list.join(",")).unwrap();
                peer("10.0.0.1").client(&HeaderMap::from_iter([(X_FORWARDED_FOR, value)]))
            };
            let honest: Vec<_> = ["9.9.9.9"].into_iter().chain(proven.iter().copied()).collect();
            let with_forgery: Vec<_> = forged.iter().copied().chain(honest.iter().copied()).collect();
            prop_assert_eq!(client(&with_forgery), client(&honest));
        }

        #[test]
        fn any_header_is_survived(
            value in "\\PC{0,40}",
            from in prop::sample::select(vec!["10.0.0.1", "9.9.9.9"]),
        ) {
            let Ok(value) = HeaderValue::try_from(value) else { return Ok(()) };
            let mut headers =
                HeaderMap::from_iter([(X_FORWARDED_FOR, value.clone()), (X_REQUEST_ID, value.clone())]);
            let sender = admit(&peer(from), &mut headers, Some(&value));
            prop_assert!(is_request_id(&sender.request_id));
            prop_assert!(headers[X_FORWARDED_FOR].as_bytes().ends_with(from.as_bytes()));
        }
    }
}
