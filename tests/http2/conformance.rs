//! A catalogue of conformance for servers, by section: what an HTTP/2 server has to take, and what it has to refuse and
//! how. No suite of others can be had from the registries that the tests install from, so this one is our own; it has
//! the order and the numbers of sections that people know from h2spec (generic, RFC 9113 by the sections of RFC 7540,
//! RFC 7541), and is stricter in one thing: an error has to be told by its code.
//!
//! Every case runs on a connection of its own. Those that do not hold are in [`EXPECTED`], each with its reason; the
//! test fails for one that fails and is not there, and for one that is there and holds.

use crate::support::{frames::*, raw_origin::RawOrigin, weir::File};

/// Cases that do not hold, and why.
const EXPECTED: &[(&str, &str)] = &[
    ("http2/6.3/2", SIZES),
    ("http2/6.4/3", SIZES),
    ("http2/6.5/1", SIZES),
    ("http2/6.5/3", SIZES),
    (
        "http2/6.5.2/2",
        "h2 ends the connection as it must, with PROTOCOL_ERROR in the place of FLOW_CONTROL_ERROR",
    ),
    ("http2/6.7/4", SIZES),
    ("http2/6.9/3", SIZES),
    ("http2/6.9.2/3", "as http2/6.5.2/2"),
    ("http2/8.1.2.1/3", "h2 removes pseudo-fields from trailers, so that the message goes on without them"),
];

/// Why a frame of the wrong size is told by the wrong code.
const SIZES: &str = "h2 ends the connection as it must, with PROTOCOL_ERROR in the place of FRAME_SIZE_ERROR";

/// What has to come of a case.
enum Holds {
    /// Stream 1 is answered with 200.
    Answered,
    /// The connection goes on: nothing comes but what was asked for.
    GoesOn,
    /// The connection ends, with one of these codes.
    Ends(&'static [u32]),
    /// A stream is reset, or the connection ends, with one of these codes.
    Resets(u32, &'static [u32]),
    /// It says itself.
    Custom(fn(&mut Peer) -> Result<(), String>),
}

use Holds::{Answered, Custom, Ends, GoesOn, Resets};

struct Case {
    id: &'static str,
    what: &'static str,
    bytes: Vec<u8>,
    holds: Holds,
}

fn case(id: &'static str, what: &'static str, bytes: impl AsRef<[u8]>, holds: Holds) -> Case {
    Case { id, what, bytes: bytes.as_ref().to_vec(), holds }
}

const PROTO: &[u32] = &[PROTOCOL_ERROR];
const SIZE: &[u32] = &[FRAME_SIZE_ERROR];
const HPACK: &[u32] = &[COMPRESSION_ERROR, PROTOCOL_ERROR];
const CLOSED: &[u32] = &[STREAM_CLOSED, PROTOCOL_ERROR];

/// GET on stream 1.
fn get() -> Vec<u8> {
    headers(1, WHOLE, &request("GET", "/"))
}

/// The head of a POST on stream 1, whose body is to come.
fn post() -> Vec<u8> {
    headers(1, END_HEADERS, &request("POST", "/"))
}

fn get_with(fields: &[(&str, &str)]) -> Vec<u8> {
    headers(1, WHOLE, &request_with("GET", "/", fields))
}

/// A head on stream 1 whose block is the pseudo-fields of a GET and these octets.
fn get_and(octets: &[u8]) -> Vec<u8> {
    frame(HEADERS, WHOLE, 1, &[&block(&request("GET", "/"))[..], octets].concat())
}

fn priority(stream: u32, on: u32, weight: u8) -> Vec<u8> {
    frame(PRIORITY, 0, stream, &[&on.to_be_bytes()[..], &[weight]].concat())
}

fn join(parts: &[&[u8]]) -> Vec<u8> {
    parts.concat()
}

fn generic() -> Vec<Case> {
    let with_priority = frame(
        HEADERS,
        WHOLE | PRIORITISED,
        1,
        &[&[0, 0, 0, 0, 15], &block(&request("GET", "/"))[..]].concat(),
    );
    let padded =
        |kind, flags, payload: &[u8]| frame(kind, flags | PADDED, 1, &[&[8], payload, &[0; 8]].concat());
    let halves = block(&request_with("GET", "/", &[("x-a", "1")]));
    let (first, second) = halves.split_at(20);
    vec![
        case("generic/1/1", "sends a connection preface", b"", GoesOn),
        case("generic/2/1", "PRIORITY on an idle stream", join(&[&priority(1, 0, 0), &get()]), Answered),
        case(
            "generic/2/2",
            "WINDOW_UPDATE on a half-closed stream",
            join(&[&get(), &window_update(1, 100)]),
            Answered,
        ),
        case(
            "generic/2/3",
            "PRIORITY on a half-closed stream",
            join(&[&get(), &priority(1, 0, 0)]),
            Answered,
        ),
        case("generic/2/4", "RST_STREAM on a half-closed stream", join(&[&get(), &reset(1, CANCEL)]), GoesOn),
        case(
            "generic/2/5",
            "PRIORITY on a closed stream",
            b"",
            Custom(|peer| after_answer(peer, &priority(1, 0, 0), |outcome| *outcome == Outcome::Nothing)),
        ),
        case("generic/3.1/1", "DATA", join(&[&post(), &data(1, END_STREAM, b"test")]), Answered),
        case(
            "generic/3.1/2",
            "several DATA",
            join(&[&post(), &data(1, 0, b"te"), &data(1, END_STREAM, b"st")]),
            Answered,
        ),
        case(
            "generic/3.1/3",
            "DATA with padding",
            join(&[&post(), &padded(DATA, END_STREAM, b"test")]),
            Answered,
        ),
        case("generic/3.2/1", "HEADERS", get(), Answered),
        case(
            "generic/3.2/2",
            "HEADERS with padding",
            padded(HEADERS, WHOLE, &block(&request("GET", "/"))),
            Answered,
        ),
        case("generic/3.2/3", "HEADERS with a priority", with_priority, Answered),
        case("generic/3.3/1", "PRIORITY of weight 1", join(&[&priority(1, 0, 0), &get()]), Answered),
        case("generic/3.3/2", "PRIORITY of weight 256", join(&[&priority(1, 0, 255), &get()]), Answered),
        case("generic/3.3/3", "PRIORITY with a dependency", join(&[&priority(1, 3, 9), &get()]), Answered),
        case(
            "generic/3.3/4",
            "an exclusive PRIORITY",
            join(&[&priority(1, 0x8000_0003, 9), &get()]),
            Answered,
        ),
        case(
            "generic/3.3/5",
            "PRIORITY for an idle stream, then HEADERS for a lower one",
            join(&[&priority(7, 0, 9), &get()]),
            Answered,
        ),
        case("generic/3.4/1", "RST_STREAM", join(&[&post(), &reset(1, CANCEL)]), GoesOn),
        case("generic/3.5/1", "SETTINGS", settings(&[(3, 100)]), Custom(wait_for_ack)),
        case("generic/3.7/1", "PING", ping(*b"h2spec!!"), Custom(|peer| pong(peer, *b"h2spec!!"))),
        case(
            "generic/3.8/1",
            "GOAWAY",
            join(&[&frame(GOAWAY, 0, 0, &[0; 8]), &ping(*b"h2spec!!")]),
            Custom(|peer| {
                // Both are right: to go on, and to close when nothing runs.
                match peer.outcome_or_nothing(1) {
                    Outcome::Nothing | Outcome::Closed => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            }),
        ),
        case("generic/3.9/1", "WINDOW_UPDATE on stream 0", join(&[&window_update(0, 1), &get()]), Answered),
        case("generic/3.9/2", "WINDOW_UPDATE on stream 1", join(&[&get(), &window_update(1, 1)]), Answered),
        case(
            "generic/3.10/1",
            "CONTINUATION",
            join(&[&frame(HEADERS, END_STREAM, 1, first), &frame(CONTINUATION, END_HEADERS, 1, second)]),
            Answered,
        ),
        case(
            "generic/3.10/2",
            "several CONTINUATION",
            join(&[
                &frame(HEADERS, END_STREAM, 1, first),
                &frame(CONTINUATION, 0, 1, &second[..10]),
                &frame(CONTINUATION, END_HEADERS, 1, &second[10..]),
            ]),
            Answered,
        ),
        case("generic/4/1", "a GET", get(), Answered),
        case("generic/4/2", "a HEAD", headers(1, WHOLE, &request("HEAD", "/")), Answered),
        case("generic/4/3", "a POST", join(&[&post(), &data(1, END_STREAM, b"test")]), Answered),
        case(
            "generic/4/4",
            "a POST with trailers",
            join(&[&post(), &data(1, 0, b"test"), &headers(1, WHOLE, &[("x-test", "ok")])]),
            Answered,
        ),
    ]
}

/// What HPACK can say, in each of its forms (RFC 7541 §6).
fn generic_hpack() -> Vec<Case> {
    // `user-agent` is 58 in the static table; Huffman makes 25 a8 49 e9 5b a9 7d 7f of `custom-key`.
    const NAME: &[u8] = &[0x88, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xa9, 0x7d, 0x7f];
    const VALUE: &[u8] = &[0x89, 0x25, 0xa8, 0x49, 0xe9, 0x5b, 0xb8, 0xe8, 0xb4, 0xbf];
    let named = |first: u8, bits, value: &[u8]| {
        let mut out = Vec::new();
        integer(58, bits, first, &mut out);
        out.extend_from_slice(value);
        out
    };
    let new = |first: u8, name: &[u8], value: &[u8]| join(&[&[first], name, value]);
    let size = |size| {
        let mut out = Vec::new();
        integer(size, 5, 0x20, &mut out);
        out
    };
    let first = |octets: &[u8]| frame(HEADERS, WHOLE, 1, &join(&[octets, &block(&request("GET", "/"))]));
    vec![
        case("generic/5/1", "an indexed field", get_and(&[0x80 | 0x10]), Answered),
        case("generic/5/2", "indexed name, into the table", get_and(&named(0x40, 6, b"\x01a")), Answered),
        case(
            "generic/5/3",
            "indexed name, into the table, Huffman",
            get_and(&named(0x40, 6, VALUE)),
            Answered,
        ),
        case("generic/5/4", "new name, into the table", get_and(&new(0x40, b"\x03x-a", b"\x01a")), Answered),
        case("generic/5/5", "new name, into the table, Huffman", get_and(&new(0x40, NAME, VALUE)), Answered),
        case("generic/5/6", "indexed name, not into the table", get_and(&named(0, 4, b"\x01a")), Answered),
        case(
            "generic/5/7",
            "indexed name, not into the table, Huffman",
            get_and(&named(0, 4, VALUE)),
            Answered,
        ),
        case("generic/5/8", "new name, not into the table", get_and(&new(0, b"\x03x-a", b"\x01a")), Answered),
        case("generic/5/9", "new name, not into the table, Huffman", get_and(&new(0, NAME, VALUE)), Answered),
        case("generic/5/10", "indexed name, never indexed", get_and(&named(0x10, 4, b"\x01a")), Answered),
        case(
            "generic/5/11",
            "indexed name, never indexed, Huffman",
            get_and(&named(0x10, 4, VALUE)),
            Answered,
        ),
        case("generic/5/12", "new name, never indexed", get_and(&new(0x10, b"\x03x-a", b"\x01a")), Answered),
        case("generic/5/13", "new name, never indexed, Huffman", get_and(&new(0x10, NAME, VALUE)), Answered),
        case("generic/5/14", "a size of the dynamic table", first(&size(128)), Answered),
        case(
            "generic/5/15",
            "two sizes of the dynamic table",
            first(&join(&[&size(0), &size(4096)])),
            Answered,
        ),
    ]
}

fn frames() -> Vec<Case> {
    let large = vec![0; 16_385];
    vec![
        case("http2/3.5/1", "a valid preface", b"", GoesOn),
        // http2/3.5/2, an invalid preface, is a test of its own below.
        case(
            "http2/4.1/1",
            "a frame of unknown type",
            join(&[&frame(0x16, 0, 0, &[0; 8]), &get()]),
            Answered,
        ),
        case(
            "http2/4.1/2",
            "a frame with an undefined flag",
            join(&[&frame(PING, 0x16, 0, b"h2spec!!")]),
            Custom(|peer| pong(peer, *b"h2spec!!")),
        ),
        case(
            "http2/4.1/3",
            "a frame with the reserved bit",
            join(&[&frame(PING, 0, 0x8000_0000, b"h2spec!!")]),
            Custom(|peer| pong(peer, *b"h2spec!!")),
        ),
        case(
            "http2/4.2/1",
            "DATA of 2^14 octets",
            join(&[&post(), &data(1, END_STREAM, &large[..16_384])]),
            Answered,
        ),
        case("http2/4.2/2", "DATA of more", join(&[&post(), &data(1, END_STREAM, &large)]), Resets(1, SIZE)),
        case("http2/4.2/3", "HEADERS of more", frame(HEADERS, WHOLE, 1, &large), Ends(SIZE)),
        case("http2/4.3/1", "a block that cannot be read", frame(HEADERS, WHOLE, 1, &[0x40]), Ends(HPACK)),
        case(
            "http2/4.3/2",
            "PRIORITY within a head",
            join(&[&headers(1, END_STREAM, &request("GET", "/")), &priority(1, 0, 9)]),
            Ends(PROTO),
        ),
        case(
            "http2/4.3/3",
            "HEADERS of another stream within a head",
            join(&[&headers(1, END_STREAM, &request("GET", "/")), &headers(3, WHOLE, &request("GET", "/"))]),
            Ends(PROTO),
        ),
    ]
}

fn states() -> Vec<Case> {
    let dependent = frame(
        HEADERS,
        WHOLE | PRIORITISED,
        1,
        &[&[0, 0, 0, 1, 9], &block(&request("GET", "/"))[..]].concat(),
    );
    let tail = |bytes: &[u8]| join(&[&post(), &reset(1, CANCEL), bytes]);
    let continuation = frame(CONTINUATION, END_HEADERS, 1, &block(&[("x-a", "1")]));
    let again = headers(1, WHOLE, &request("GET", "/"));
    let many: Vec<u8> =
        (0..300).flat_map(|n| headers(1 + 2 * n, END_HEADERS, &request("POST", "/"))).collect();
    vec![
        case("http2/5.1/1", "idle: DATA", data(1, END_STREAM, b"test"), Ends(PROTO)),
        case("http2/5.1/2", "idle: RST_STREAM", reset(1, CANCEL), Ends(PROTO)),
        case("http2/5.1/3", "idle: WINDOW_UPDATE", window_update(1, 100), Ends(PROTO)),
        case("http2/5.1/4", "idle: CONTINUATION", &continuation, Ends(PROTO)),
        case(
            "http2/5.1/5",
            "half-closed (remote): DATA",
            join(&[&get(), &data(1, END_STREAM, b"test")]),
            Resets(1, CLOSED),
        ),
        case("http2/5.1/6", "half-closed (remote): HEADERS", join(&[&get(), &again]), Resets(1, CLOSED)),
        case(
            "http2/5.1/7",
            "half-closed (remote): CONTINUATION",
            join(&[&get(), &continuation]),
            Ends(CLOSED),
        ),
        case(
            "http2/5.1/8",
            "closed by RST_STREAM: DATA",
            tail(&data(1, END_STREAM, b"test")),
            Resets(1, CLOSED),
        ),
        case("http2/5.1/9", "closed by RST_STREAM: HEADERS", tail(&again), Resets(1, CLOSED)),
        case("http2/5.1/10", "closed by RST_STREAM: CONTINUATION", tail(&continuation), Ends(CLOSED)),
        case(
            "http2/5.1/11",
            "closed: DATA",
            b"",
            Custom(|peer| after_answer(peer, &data(1, END_STREAM, b"x"), is_closed)),
        ),
        case("http2/5.1/12", "closed: HEADERS", b"", Custom(|peer| after_answer(peer, &get(), is_closed))),
        case(
            "http2/5.1/13",
            "closed: CONTINUATION",
            b"",
            Custom(|peer| {
                after_answer(peer, &frame(CONTINUATION, END_HEADERS, 1, &block(&[("x-a", "1")])), is_closed)
            }),
        ),
        case(
            "http2/5.1.1/1",
            "a stream of even number",
            headers(2, WHOLE, &request("GET", "/")),
            Ends(PROTO),
        ),
        case(
            "http2/5.1.1/2",
            "a stream of a number that is lower",
            join(&[&headers(5, WHOLE, &request("GET", "/")), &headers(3, WHOLE, &request("GET", "/"))]),
            Resets(3, &[PROTOCOL_ERROR, STREAM_CLOSED]),
        ),
        case(
            "http2/5.1.2/1",
            "more streams than allowed",
            many,
            Resets(201, &[PROTOCOL_ERROR, REFUSED_STREAM]),
        ),
        case("http2/5.3.1/1", "HEADERS that depend on themselves", dependent, Resets(1, PROTO)),
        case("http2/5.3.1/2", "PRIORITY that depends on itself", priority(1, 1, 9), Resets(1, PROTO)),
        case(
            "http2/5.4.1/1",
            "after a fault of the connection it is closed",
            frame(PING, 0, 3, &[0; 8]),
            Custom(|peer| peer.end().map(|_| ()).ok_or_else(|| "closed without GOAWAY".into())),
        ),
        case("http2/5.4.1/2", "and said why", frame(PING, 0, 3, &[0; 8]), Ends(PROTO)),
        case(
            "http2/5.5/1",
            "a frame of an extension",
            join(&[&frame(0xff, 0xff, 1, b"extension"), &get()]),
            Answered,
        ),
        case(
            "http2/5.5/2",
            "a frame of an extension within a head",
            join(&[&headers(1, END_STREAM, &request("GET", "/")), &frame(0xff, 0, 0, b"x")]),
            Ends(PROTO),
        ),
    ]
}

fn definitions() -> Vec<Case> {
    let unfinished = headers(1, END_STREAM, &request("GET", "/"));
    let padding_beyond = |kind| frame(kind, WHOLE | PADDED, 1, &[200, 1, 2, 3]);
    let continuation = |flags| frame(CONTINUATION, flags, 1, &block(&[("x-a", "1")]));
    vec![
        case("http2/6.1/1", "DATA on stream 0", data(0, 0, b"test"), Ends(PROTO)),
        case(
            "http2/6.1/2",
            "DATA on a stream that is not open",
            join(&[&get(), &data(1, 0, b"test")]),
            Resets(1, CLOSED),
        ),
        case(
            "http2/6.1/3",
            "DATA with too much padding",
            join(&[&post(), &padding_beyond(DATA)]),
            Ends(PROTO),
        ),
        case(
            "http2/6.2/1",
            "HEADERS unfinished, then PRIORITY",
            join(&[&unfinished, &priority(1, 0, 9)]),
            Ends(PROTO),
        ),
        case(
            "http2/6.2/2",
            "HEADERS unfinished, then those of another stream",
            join(&[&unfinished, &headers(3, WHOLE, &request("GET", "/"))]),
            Ends(PROTO),
        ),
        case("http2/6.2/3", "HEADERS on stream 0", headers(0, WHOLE, &request("GET", "/")), Ends(PROTO)),
        case("http2/6.2/4", "HEADERS with too much padding", padding_beyond(HEADERS), Ends(PROTO)),
        case("http2/6.3/1", "PRIORITY on stream 0", priority(0, 1, 9), Ends(PROTO)),
        case(
            "http2/6.3/2",
            "PRIORITY of another length than 5",
            frame(PRIORITY, 0, 1, &[0; 4]),
            Resets(1, SIZE),
        ),
        case("http2/6.4/1", "RST_STREAM on stream 0", reset(0, CANCEL), Ends(PROTO)),
        case("http2/6.4/2", "RST_STREAM on an idle stream", reset(1, CANCEL), Ends(PROTO)),
        case(
            "http2/6.4/3",
            "RST_STREAM of another length than 4",
            join(&[&post(), &frame(RST_STREAM, 0, 1, &[0; 3])]),
            Ends(SIZE),
        ),
        case(
            "http2/6.5/1",
            "SETTINGS acknowledgement with a payload",
            frame(SETTINGS, ACK, 0, &[0]),
            Ends(SIZE),
        ),
        case("http2/6.5/2", "SETTINGS on a stream", frame(SETTINGS, 0, 1, &[0, 3, 0, 0, 0, 9]), Ends(PROTO)),
        case(
            "http2/6.5/3",
            "SETTINGS of a length that is no multiple of 6",
            frame(SETTINGS, 0, 0, &[0; 3]),
            Ends(SIZE),
        ),
        case("http2/6.5.2/1", "ENABLE_PUSH neither 0 nor 1", settings(&[(2, 2)]), Ends(PROTO)),
        case(
            "http2/6.5.2/2",
            "INITIAL_WINDOW_SIZE too large",
            settings(&[(4, 1 << 31)]),
            Ends(&[FLOW_CONTROL_ERROR]),
        ),
        case("http2/6.5.2/3", "MAX_FRAME_SIZE too small", settings(&[(5, 16_383)]), Ends(PROTO)),
        case("http2/6.5.2/4", "MAX_FRAME_SIZE too large", settings(&[(5, 1 << 24)]), Ends(PROTO)),
        case("http2/6.5.2/5", "an unknown setting", settings(&[(0xff, 1)]), GoesOn),
        case(
            "http2/6.5.3/1",
            "INITIAL_WINDOW_SIZE twice",
            settings(&[(4, 100), (4, 1)]),
            Custom(|peer| {
                peer.send(get());
                first_data(peer, 1)
            }),
        ),
        case("http2/6.5.3/2", "SETTINGS are acknowledged", settings(&[(3, 9)]), Custom(wait_for_ack)),
        case("http2/6.7/1", "PING", ping(*b"h2spec!!"), Custom(|peer| pong(peer, *b"h2spec!!"))),
        case(
            "http2/6.7/2",
            "PING acknowledgement is not answered",
            frame(PING, ACK, 0, b"invalid!"),
            Custom(|peer| {
                peer.send(ping(*b"h2spec!!"));
                pong(peer, *b"h2spec!!")
            }),
        ),
        case("http2/6.7/3", "PING on a stream", frame(PING, 0, 1, &[0; 8]), Ends(PROTO)),
        case("http2/6.7/4", "PING of another length than 8", frame(PING, 0, 0, &[0; 6]), Ends(SIZE)),
        case("http2/6.8/1", "GOAWAY on a stream", frame(GOAWAY, 0, 1, &[0; 8]), Ends(PROTO)),
        case(
            "http2/6.10/1",
            "several CONTINUATION",
            join(&[&unfinished, &continuation(0), &continuation(0), &continuation(END_HEADERS)]),
            Answered,
        ),
        case(
            "http2/6.10/2",
            "CONTINUATION, then another frame",
            join(&[&unfinished, &continuation(0), &data(1, END_STREAM, b"x")]),
            Ends(PROTO),
        ),
        case(
            "http2/6.10/3",
            "CONTINUATION on stream 0",
            join(&[&unfinished, &frame(CONTINUATION, END_HEADERS, 0, b"")]),
            Ends(PROTO),
        ),
        case(
            "http2/6.10/4",
            "CONTINUATION after a whole head",
            join(&[&post(), &continuation(END_HEADERS)]),
            Ends(PROTO),
        ),
        case(
            "http2/6.10/5",
            "CONTINUATION after the last one",
            join(&[&headers(1, 0, &request("POST", "/")), &continuation(END_HEADERS), &continuation(0)]),
            Ends(PROTO),
        ),
        case(
            "http2/6.10/6",
            "CONTINUATION after DATA",
            join(&[&post(), &data(1, 0, b"x"), &continuation(END_HEADERS)]),
            Ends(PROTO),
        ),
        case(
            "http2/7/1",
            "GOAWAY with an unknown code",
            frame(GOAWAY, 0, 0, &[0, 0, 0, 0, 0, 0, 0, 0xff]),
            Custom(|peer| match peer.outcome_or_nothing(1) {
                Outcome::Nothing | Outcome::Closed => Ok(()),
                other => Err(format!("{other:?}")),
            }),
        ),
        case("http2/7/2", "RST_STREAM with an unknown code", join(&[&post(), &reset(1, 0xff)]), GoesOn),
    ]
}

fn windows() -> Vec<Case> {
    vec![
        case("http2/6.9/1", "WINDOW_UPDATE by 0", window_update(0, 0), Ends(PROTO)),
        case(
            "http2/6.9/2",
            "WINDOW_UPDATE by 0 on a stream",
            join(&[&post(), &window_update(1, 0)]),
            Resets(1, PROTO),
        ),
        case(
            "http2/6.9/3",
            "WINDOW_UPDATE of another length than 4",
            frame(WINDOW_UPDATE, 0, 0, &[0; 3]),
            Ends(SIZE),
        ),
        case(
            "http2/6.9.1/1",
            "a window of 1 is kept",
            settings(&[(4, 1)]),
            Custom(|peer| {
                peer.send(get());
                first_data(peer, 1)
            }),
        ),
        case(
            "http2/6.9.1/2",
            "a window beyond 2^31-1",
            join(&[&window_update(0, 0x7fff_ffff), &window_update(0, 0x7fff_ffff)]),
            Ends(&[FLOW_CONTROL_ERROR]),
        ),
        case(
            "http2/6.9.1/3",
            "a stream's window beyond 2^31-1",
            join(&[&post(), &window_update(1, 0x7fff_ffff), &window_update(1, 0x7fff_ffff)]),
            Resets(1, &[FLOW_CONTROL_ERROR]),
        ),
        case(
            "http2/6.9.2/1",
            "a window that changes after HEADERS",
            settings(&[(4, 0)]),
            Custom(|peer| {
                peer.send(join(&[&get(), &settings(&[(4, 1)])]));
                first_data(peer, 1)
            }),
        ),
        case(
            "http2/6.9.2/2",
            "a window below zero",
            settings(&[(4, 3)]),
            Custom(|peer| {
                peer.send(get());
                first_data(peer, 3)?;
                peer.send(join(&[&settings(&[(4, 2)]), &window_update(1, 2)]));
                first_data(peer, 1)
            }),
        ),
        case(
            "http2/6.9.2/3",
            "INITIAL_WINDOW_SIZE too large",
            settings(&[(4, 1 << 31)]),
            Ends(&[FLOW_CONTROL_ERROR]),
        ),
    ]
}

fn messages() -> Vec<Case> {
    const M: (&str, &str) = (":method", "GET");
    const S: (&str, &str) = (":scheme", "http");
    const A: (&str, &str) = (":authority", "a.test");
    const P: (&str, &str) = (":path", "/");
    let whole = |fields: &[(&str, &str)]| headers(1, WHOLE, fields);
    let sized = |rest: &[u8]| {
        join(&[&headers(1, END_HEADERS, &request_with("POST", "/", &[("content-length", "1")])), rest])
    };
    let trailers = join(&[&post(), &data(1, 0, b"x"), &headers(1, WHOLE, &[(":method", "GET")])]);
    let promise = frame(
        PUSH_PROMISE,
        END_HEADERS,
        1,
        &[&2_u32.to_be_bytes()[..], &block(&request("GET", "/"))].concat(),
    );
    vec![
        case(
            "http2/8.1/1",
            "a second HEADERS that does not end the stream",
            join(&[&post(), &data(1, 0, b"x"), &headers(1, END_HEADERS, &[("x-a", "1")])]),
            Resets(1, PROTO),
        ),
        case("http2/8.1.2/1", "a name in capitals", get_with(&[("X-TEST", "ok")]), Resets(1, PROTO)),
        case(
            "http2/8.1.2.1/1",
            "an unknown pseudo-field",
            whole(&[M, S, A, P, (":test", "ok")]),
            Resets(1, PROTO),
        ),
        case(
            "http2/8.1.2.1/2",
            "a pseudo-field of answers",
            whole(&[M, S, A, P, (":status", "200")]),
            Resets(1, PROTO),
        ),
        case("http2/8.1.2.1/3", "a pseudo-field in trailers", trailers, Resets(1, PROTO)),
        case(
            "http2/8.1.2.1/4",
            "a pseudo-field after a field",
            whole(&[M, S, A, ("x-test", "ok"), P]),
            Resets(1, PROTO),
        ),
        case(
            "http2/8.1.2.2/1",
            "a field of the connection",
            get_with(&[("connection", "keep-alive")]),
            Resets(1, PROTO),
        ),
        case(
            "http2/8.1.2.2/2",
            "te other than trailers",
            get_with(&[("te", "trailers, deflate")]),
            Resets(1, PROTO),
        ),
        case("http2/8.1.2.3/1", "an empty :path", whole(&[M, S, A, (":path", "")]), Resets(1, PROTO)),
        case("http2/8.1.2.3/2", "no :method", whole(&[S, A, P]), Resets(1, PROTO)),
        case("http2/8.1.2.3/3", "no :scheme", whole(&[M, A, P]), Resets(1, PROTO)),
        case("http2/8.1.2.3/4", "no :path", whole(&[M, S, A]), Resets(1, PROTO)),
        case("http2/8.1.2.3/5", ":method twice", whole(&[M, M, S, A, P]), Resets(1, PROTO)),
        case("http2/8.1.2.3/6", ":scheme twice", whole(&[M, S, S, A, P]), Resets(1, PROTO)),
        case("http2/8.1.2.3/7", ":path twice", whole(&[M, S, A, P, P]), Resets(1, PROTO)),
        case(
            "http2/8.1.2.6/1",
            "content-length is not that of DATA",
            sized(&data(1, END_STREAM, b"test")),
            Resets(1, PROTO),
        ),
        case(
            "http2/8.1.2.6/2",
            "nor that of several DATA",
            sized(&join(&[&data(1, 0, b"te"), &data(1, END_STREAM, b"st")])),
            Resets(1, PROTO),
        ),
        case("http2/8.2/1", "PUSH_PROMISE", promise, Ends(PROTO)),
    ]
}

fn hpack() -> Vec<Case> {
    let mut large = Vec::new();
    integer(4097, 5, 0x20, &mut large);
    vec![
        case("hpack/2.3.3/1", "an index beyond the tables", get_and(&[0x80 | 0x46]), Ends(HPACK)),
        case(
            "hpack/2.3.3/2",
            "a name's index beyond the tables",
            get_and(&[0x40 | 0x3e, 1, b'a']),
            Ends(HPACK),
        ),
        case("hpack/4.2/1", "a size of the table at the end of a block", get_and(&[0x21]), Ends(HPACK)),
        case(
            "hpack/5.2/1",
            "Huffman padding of more than 7 bits",
            get_and(&[0, 3, b'x', b'-', b'a', 0x82, 0x1f, 0xff]),
            Ends(HPACK),
        ),
        case(
            "hpack/5.2/2",
            "Huffman padding of zeros",
            get_and(&[0, 3, b'x', b'-', b'a', 0x81, 0x18]),
            Ends(HPACK),
        ),
        case(
            "hpack/5.2/3",
            "Huffman with the end of string",
            get_and(&[0, 3, b'x', b'-', b'a', 0x84, 0xff, 0xff, 0xff, 0xff]),
            Ends(HPACK),
        ),
        case("hpack/6.1/1", "index 0", get_and(&[0x80]), Ends(HPACK)),
        case(
            "hpack/6.3/1",
            "a size of the table beyond what was allowed",
            frame(HEADERS, WHOLE, 1, &join(&[&large, &block(&request("GET", "/"))])),
            Ends(HPACK),
        ),
    ]
}

/// Waits for the acknowledgement of the settings that were sent.
fn wait_for_ack(peer: &mut Peer) -> Result<(), String> {
    while let Some(frame) = peer.next() {
        if frame.kind == SETTINGS && frame.flags & ACK != 0 {
            return Ok(());
        }
    }
    Err("the connection ended".into())
}

/// Expects nothing but the acknowledgement of a PING, and room for more of bodies.
fn pong(peer: &mut Peer, payload: [u8; 8]) -> Result<(), String> {
    loop {
        match peer.next() {
            Some(Frame { kind: WINDOW_UPDATE, .. }) => {}
            Some(Frame { kind: PING, flags: ACK, stream: 0, payload: came }) if came == payload => {
                return Ok(());
            }
            other => return Err(format!("{other:?}")),
        }
    }
}

/// Expects the next DATA to have this length.
fn first_data(peer: &mut Peer, length: usize) -> Result<(), String> {
    while let Some(frame) = peer.next() {
        match frame.kind {
            DATA if frame.payload.len() == length => return Ok(()),
            DATA | GOAWAY | RST_STREAM => return Err(format!("{frame:?}")),
            _ => {}
        }
    }
    Err("the connection ended".into())
}

/// Has stream 1 answered, and then sends `bytes`.
fn after_answer(peer: &mut Peer, bytes: &[u8], holds: fn(&Outcome) -> bool) -> Result<(), String> {
    peer.send(get());
    let answered = peer.outcome(1);
    if answered.status() != Some(200) {
        return Err(format!("no answer first: {answered:?}"));
    }
    peer.send(bytes);
    let outcome = peer.outcome_or_nothing(1);
    if holds(&outcome) { Ok(()) } else { Err(format!("{outcome:?}")) }
}

fn is_closed(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Reset(code) | Outcome::GoAway(code) if CLOSED.contains(code))
}

fn run(peer: &mut Peer, bytes: &[u8], holds: &Holds) -> Result<(), String> {
    peer.send(bytes);
    let stream = if let Resets(stream, _) = holds { *stream } else { 1 };
    let outcome = match holds {
        Custom(check) => return check(peer),
        Answered => peer.outcome(1),
        GoesOn | Ends(_) | Resets(..) => peer.outcome_or_nothing(stream),
    };
    let fine = match (holds, &outcome) {
        (Answered, Outcome::Answer(answer)) => answer.status() == 200,
        (GoesOn, Outcome::Nothing) => true,
        (Ends(codes) | Resets(_, codes), Outcome::GoAway(code))
        | (Resets(_, codes), Outcome::Reset(code)) => codes.contains(code),
        _ => false,
    };
    if fine { Ok(()) } else { Err(format!("{outcome:?}")) }
}

#[test]
fn the_catalogue() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer");
    let weir = File::to(&[origin.address]).start();
    let cases: Vec<Case> =
        [generic(), generic_hpack(), frames(), states(), definitions(), windows(), messages(), hpack()]
            .into_iter()
            .flatten()
            .collect();
    let mut wrong = Vec::new();
    for case in &cases {
        let mut peer = Peer::open(weir.at("inbound"));
        let expected = EXPECTED.iter().find(|(id, _)| *id == case.id);
        match (run(&mut peer, &case.bytes, &case.holds), expected) {
            (Ok(()), None) | (Err(_), Some(_)) => {}
            (Err(why), None) => wrong.push(format!("{} ({}): {why}", case.id, case.what)),
            (Ok(()), Some((_, reason))) => {
                wrong.push(format!("{} ({}) holds, though {reason}", case.id, case.what));
            }
        }
    }
    let unknown = EXPECTED.iter().filter(|(id, _)| !cases.iter().any(|case| case.id == *id));
    wrong.extend(unknown.map(|(id, _)| format!("{id} is expected to fail, and is not there")));
    println!("{} cases, {} of them expected to fail", cases.len(), EXPECTED.len());
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    Peer::open(weir.at("inbound")).expect_alive(1);
}

/// http2/3.5/2: what is no preface is no HTTP/2, so that nothing of it may be told in HTTP/2.
#[test]
fn an_invalid_preface_ends_the_connection() {
    let origin = RawOrigin::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    let weir = File::to(&[origin.address]).start();
    for preface in [&b"INVALID CONNECTION PREFACE\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut raw = crate::support::raw::Raw::connect(weir.at("inbound"));
        raw.send(preface);
        let said = raw.rest();
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 400"), "{said}");
    }
    // With the preface whole, what follows has to be SETTINGS.
    let mut peer = Peer::connect(weir.at("inbound"));
    peer.send([PREFACE, &ping(*b"toosoon!")].concat());
    assert_eq!(peer.end(), Some(PROTOCOL_ERROR));
    assert_eq!(origin.seen().len(), 0);
}
