//! Counts what an HTTP/2 client sends beside its messages, and keeps what it may not do too often.
//!
//! h2 bounds by itself what costs it memory: CONTINUATION frames of one head, DATA frames that are small, streams that
//! were reset before anybody took them, streams that it had to reset. It does not bound what costs time alone: streams
//! that are reset after they were taken, PING, SETTINGS, PRIORITY, `WINDOW_UPDATE` and frames of unknown types. Neither
//! does it bound how long a head may take. This looks at nothing but the nine octets before each frame (RFC 9113 §4.1),
//! and reads no clock: the connection's worker gives new allowances at each of its looks.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::io::ServerIo;
use crate::{config::bootstrap::Http2, telemetry::ConnectionEnd};

/// The octets before each frame.
const FRAME_HEADER: usize = 9;
/// What a client that speaks HTTP/2 sends first, in octets (RFC 9113 §3.4).
const PREFACE: u32 = 24;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const CONTINUATION: u8 = 9;
const ACK: u8 = 0x1;
const END_STREAM: u8 = 0x1;
const END_HEADERS: u8 = 0x4;

/// A PING, with eight octets that neither h2 nor hyper uses (RFC 9113 §6.7).
pub(super) const PING: &[u8] = b"\x00\x00\x08\x06\x00\x00\x00\x00\x00weirping";

/// Codes of GOAWAY (RFC 9113 §7): for a peer that says what it must not, and for one that does too much.
const PROTOCOL_ERROR: u8 = 0x1;
const ENHANCE_YOUR_CALM: u8 = 0xb;

/// What was seen of the frames that a client sent.
#[derive(Debug)]
pub(super) struct FrameMeter {
    /// The frame header that is coming in, and how much of it is there.
    header: Cell<[u8; FRAME_HEADER]>,
    have: Cell<usize>,
    /// Octets of the preface or of a frame's payload that are still to come.
    skip: Cell<u32>,
    /// The frame whose payload comes in ends a head.
    ends_head: Cell<bool>,
    /// Some of a request's head has come, not all; or nothing has come at all yet.
    in_head: Cell<bool>,
    head_since: Cell<Option<Instant>>,
    /// No frame has come yet. The first has to be SETTINGS (RFC 9113 §3.4); h2 takes any.
    first: Cell<bool>,
    /// The newest stream that the client began.
    last_stream: Cell<u32>,
    resets: Allowance,
    control: Allowance,
    /// Something has come since the last look.
    heard: Cell<bool>,
    heard_at: Cell<Instant>,
    pinged_at: Cell<Option<Instant>>,
    verdict: Cell<Option<ConnectionEnd>>,
}

impl FrameMeter {
    pub(super) fn new(limits: &Http2, now: Instant) -> Self {
        Self {
            header: Cell::new([0; FRAME_HEADER]),
            have: Cell::new(0),
            skip: Cell::new(PREFACE),
            ends_head: Cell::new(false),
            // The client's settings are due as a head is.
            in_head: Cell::new(true),
            head_since: Cell::new(Some(now)),
            first: Cell::new(true),
            last_stream: Cell::new(0),
            resets: Allowance::new(limits.max_resets, now),
            control: Allowance::new(limits.max_control_frames, now),
            heard: Cell::new(false),
            heard_at: Cell::new(now),
            pinged_at: Cell::new(None),
            verdict: Cell::new(None),
        }
    }

    /// Why the connection is to be ended, when it is.
    pub(super) fn verdict(&self) -> Option<ConnectionEnd> {
        self.verdict.get()
    }

    /// Takes what the client sent next.
    pub(super) fn take(&self, mut bytes: &[u8]) {
        self.heard.set(true);
        while !bytes.is_empty() {
            let skip = usize::try_from(self.skip.get()).unwrap_or(usize::MAX);
            if skip > 0 {
                let n = skip.min(bytes.len());
                bytes = bytes.get(n..).unwrap_or_default();
                let left = u32::try_from(skip - n).unwrap_or(u32::MAX);
                self.skip.set(left);
                if left == 0 {
                    self.frame_ends();
                }
                continue;
            }
            let have = self.have.get();
            let mut header = self.header.get();
            let n = (FRAME_HEADER - have).min(bytes.len());
            let (now, later) = bytes.split_at(n);
            if let Some(place) = header.get_mut(have..have + n) {
                place.copy_from_slice(now);
            }
            bytes = later;
            self.header.set(header);
            self.have.set(have + n);
            if have + n == FRAME_HEADER {
                self.have.set(0);
                self.frame_begins(header);
            }
        }
    }

    fn frame_begins(&self, header: [u8; FRAME_HEADER]) {
        let [l0, l1, l2, kind, flags, s0, s1, s2, s3] = header;
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        match kind {
            HEADERS | CONTINUATION => {
                if kind == HEADERS {
                    let stream = u32::from_be_bytes([s0 & 0x7f, s1, s2, s3]);
                    self.last_stream.set(self.last_stream.get().max(stream));
                }
                self.in_head.set(true);
                self.ends_head.set(flags & END_HEADERS != 0);
            }
            RST_STREAM => self.spend(&self.resets, ConnectionEnd::ResetFlood),
            DATA if length > 0 || flags & END_STREAM != 0 => {}
            _ => self.spend(&self.control, ConnectionEnd::ControlFlood),
        }
        if self.first.replace(false) {
            self.ends_head.set(true);
            if kind != SETTINGS || flags & ACK != 0 {
                self.verdict.set(Some(ConnectionEnd::Protocol));
            }
        }
        self.skip.set(length);
        if length == 0 {
            self.frame_ends();
        }
    }

    fn frame_ends(&self) {
        if self.ends_head.replace(false) {
            self.in_head.set(false);
            self.head_since.set(None);
        }
    }

    fn spend(&self, allowance: &Allowance, why: ConnectionEnd) {
        if !allowance.spend() && self.verdict.get().is_none() {
            self.verdict.set(Some(why));
        }
    }

    /// Gives new allowances, and says what the clocks say. For a look at the connection every now and then: a head's
    /// clock starts with the first look that meets it.
    pub(super) fn look(&self, now: Instant, head_timeout: Duration, limits: &Http2) -> Clock {
        self.resets.refill(now);
        self.control.refill(now);
        if self.in_head.get() {
            let since = self.head_since.get().unwrap_or(now);
            self.head_since.set(Some(since));
            if now.saturating_duration_since(since) >= head_timeout {
                self.verdict.set(Some(ConnectionEnd::HeaderTimeout));
                return Clock::Over;
            }
        }
        if self.heard.replace(false) {
            self.heard_at.set(now);
            self.pinged_at.set(None);
            return Clock::Fine;
        }
        if let Some(pinged) = self.pinged_at.get() {
            if now.saturating_duration_since(pinged) < limits.ping_timeout {
                return Clock::Fine;
            }
            self.verdict.set(Some(ConnectionEnd::PingTimeout));
            return Clock::Over;
        }
        let silent = now.saturating_duration_since(self.heard_at.get());
        if limits.ping_interval.is_some_and(|interval| silent >= interval) {
            self.pinged_at.set(Some(now));
            return Clock::Ping;
        }
        Clock::Fine
    }

    /// A GOAWAY that names the newest stream that the client began (RFC 9113 §6.8).
    pub(super) fn goaway(&self) -> [u8; 17] {
        let [s0, s1, s2, s3] = self.last_stream.get().to_be_bytes();
        let code = match self.verdict.get() {
            Some(ConnectionEnd::Protocol) => PROTOCOL_ERROR,
            _ => ENHANCE_YOUR_CALM,
        };
        [0, 0, 8, 7, 0, 0, 0, 0, 0, s0, s1, s2, s3, 0, 0, 0, code]
    }
}

/// What a look at the clocks of an HTTP/2 connection says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    /// Nothing to do.
    Fine,
    /// The client is to be asked for a sign of life.
    Ping,
    /// The connection is to be ended; [`FrameMeter::verdict`] says why.
    Over,
}

/// So many a second; what was not used is not kept.
#[derive(Debug)]
struct Allowance {
    a_second: u32,
    left: Cell<u32>,
    since: Cell<Instant>,
}

impl Allowance {
    fn new(a_second: u32, now: Instant) -> Self {
        Self { a_second, left: Cell::new(a_second), since: Cell::new(now) }
    }

    /// Whether there was one left.
    fn spend(&self) -> bool {
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }

    fn refill(&self, now: Instant) {
        if now.saturating_duration_since(self.since.get()) >= Duration::from_secs(1) {
            self.since.set(now);
            self.left.set(self.a_second);
        }
    }
}

/// A client's connection, as hyper sees it, with a meter on what is read. It outlives hyper, so that there is something
/// to send the last word by.
#[derive(Debug)]
pub(super) struct MeteredIo {
    io: Rc<RefCell<ServerIo>>,
    meter: Rc<FrameMeter>,
}

impl MeteredIo {
    pub(super) fn new(io: &Rc<RefCell<ServerIo>>, meter: &Rc<FrameMeter>) -> Self {
        Self { io: io.clone(), meter: meter.clone() }
    }
}

impl AsyncRead for MeteredIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.meter.verdict().is_some() {
            // Whoever polls hyper ends the connection now: hyper gets nothing more to do.
            return Poll::Pending;
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut *self.io.borrow_mut()).poll_read(cx, buf))?;
        self.meter.take(buf.filled().get(before..).unwrap_or_default());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for MeteredIo {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.borrow().is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.io.borrow_mut()).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Http2 = Http2 {
        max_resets: 3,
        max_stream_errors: 1,
        max_control_frames: 5,
        window: 0,
        connection_window: 0,
        max_send_buffer: 0,
        ping_interval: Some(Duration::from_mins(1)),
        ping_timeout: Duration::from_secs(20),
    };
    const HEAD: Duration = Duration::from_secs(10);

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload].concat()
    }

    /// A meter that has seen the preface and the first settings.
    fn meter(now: Instant) -> FrameMeter {
        let meter = FrameMeter::new(&LIMITS, now);
        meter.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
        meter.take(&frame(4, 0, 0, &[0; 6]));
        meter
    }

    #[test]
    fn frames_are_counted_however_they_are_cut() {
        let now = Instant::now();
        let mut stream = Vec::new();
        for n in 0..4 {
            stream.extend(frame(HEADERS, END_HEADERS, 1 + 2 * n, b"head"));
            stream.extend(frame(DATA, 0, 1 + 2 * n, b"data"));
            stream.extend(frame(DATA, END_STREAM, 1 + 2 * n, b""));
            stream.extend(frame(RST_STREAM, 0, 1 + 2 * n, &[0; 4]));
        }
        for size in [1, 2, 7, 9, 13, 1000] {
            let meter = meter(now);
            let mut verdicts = Vec::new();
            for part in stream.chunks(size) {
                meter.take(part);
                verdicts.push(meter.verdict());
            }
            assert_eq!(verdicts.last().unwrap(), &Some(ConnectionEnd::ResetFlood), "in parts of {size}");
            assert_eq!(meter.goaway()[9..13], [0, 0, 0, 7]);
        }
    }

    #[test]
    fn what_carries_nothing_is_counted_and_what_carries_something_is_not() {
        let now = Instant::now();
        for (kind, flags, payload) in [
            (DATA, 0, &b""[..]),
            (2, 0, &[0; 5]),
            (4, 0, b""),
            (6, 0, &[0; 8]),
            (7, 0, &[0; 8]),
            (8, 0, &[0; 4]),
            (200, 0, b"x"),
        ] {
            let meter = meter(now);
            // The first settings were one.
            for n in 0..4 {
                assert_eq!(meter.verdict(), None, "frame {n} of type {kind}");
                meter.take(&frame(kind, flags, 1, payload));
            }
            meter.take(&frame(kind, flags, 1, payload));
            assert_eq!(meter.verdict(), Some(ConnectionEnd::ControlFlood), "type {kind}");
        }
        let meter = meter(now);
        for n in 0..100 {
            meter.take(&frame(HEADERS, END_HEADERS | END_STREAM, 1 + 2 * n, b"h"));
            meter.take(&frame(DATA, 0, 1, b"d"));
        }
        assert_eq!(meter.verdict(), None);
    }

    #[test]
    fn the_first_frame_is_settings() {
        for (kind, flags, expected) in [
            (SETTINGS, 0, None),
            (SETTINGS, ACK, Some(ConnectionEnd::Protocol)),
            (6, 0, Some(ConnectionEnd::Protocol)),
        ] {
            let meter = FrameMeter::new(&LIMITS, Instant::now());
            meter.take(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n");
            meter.take(&frame(kind, flags, 0, b""));
            assert_eq!(meter.verdict(), expected);
        }
    }

    #[test]
    fn allowances_come_back_with_time() {
        let now = Instant::now();
        let meter = meter(now);
        for second in 1..50 {
            for _ in 0..3 {
                meter.take(&frame(RST_STREAM, 0, 1, &[0; 4]));
            }
            let _ = meter.look(now + Duration::from_secs(second), HEAD, &LIMITS);
        }
        assert_eq!(meter.verdict(), None);
        for _ in 0..4 {
            meter.take(&frame(RST_STREAM, 0, 1, &[0; 4]));
        }
        assert_eq!(meter.verdict(), Some(ConnectionEnd::ResetFlood));
    }

    #[test]
    fn a_head_is_due_once_it_has_begun() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let silent = FrameMeter::new(&LIMITS, now);
        assert_eq!(silent.look(at(9), HEAD, &LIMITS), Clock::Fine);
        assert_eq!(silent.look(at(10), HEAD, &LIMITS), Clock::Over);
        assert_eq!(silent.verdict(), Some(ConnectionEnd::HeaderTimeout));

        let meter = meter(now);
        assert_eq!(meter.look(at(20), HEAD, &LIMITS), Clock::Fine);
        meter.take(&frame(HEADERS, 0, 1, b"some"));
        assert_eq!(meter.look(at(21), HEAD, &LIMITS), Clock::Fine);
        meter.take(&frame(CONTINUATION, 0, 1, b"more"));
        assert_eq!(meter.look(at(30), HEAD, &LIMITS), Clock::Fine);
        meter.take(&frame(CONTINUATION, END_HEADERS, 1, b""));
        assert_eq!(meter.look(at(40), HEAD, &LIMITS), Clock::Fine, "it was whole in time");
        let begun = frame(HEADERS, END_HEADERS, 3, b"head");
        meter.take(&begun[..10]);
        assert_eq!(meter.look(at(41), HEAD, &LIMITS), Clock::Fine);
        assert_eq!(meter.look(at(51), HEAD, &LIMITS), Clock::Over);
    }

    #[test]
    fn silence_is_asked_about_and_then_ends() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let meter = meter(now);
        assert_eq!(meter.look(at(1), HEAD, &LIMITS), Clock::Fine);
        assert_eq!(meter.look(at(60), HEAD, &LIMITS), Clock::Fine);
        assert_eq!(meter.look(at(61), HEAD, &LIMITS), Clock::Ping);
        assert_eq!(meter.look(at(80), HEAD, &LIMITS), Clock::Fine);
        meter.take(&frame(6, 1, 0, b"weirping"));
        assert_eq!(meter.look(at(82), HEAD, &LIMITS), Clock::Fine, "it is alive");
        assert_eq!(meter.look(at(142), HEAD, &LIMITS), Clock::Ping);
        assert_eq!(meter.look(at(162), HEAD, &LIMITS), Clock::Over);
        assert_eq!(meter.verdict(), Some(ConnectionEnd::PingTimeout));
        let never = Http2 { ping_interval: None, ..LIMITS };
        let meter = self::meter(now);
        let _ = meter.look(at(1), HEAD, &never);
        assert_eq!(meter.look(at(9_000), HEAD, &never), Clock::Fine);
    }
}
