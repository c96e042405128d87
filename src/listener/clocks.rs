//! The clocks of a connection, which its worker looks at a few times a second: no request pays for a timer.

use std::{
    rc::Weak,
    time::{Duration, Instant},
};

use super::{
    Connection, Signal,
    frames::{Clock, PING},
    state::Phase,
};
use crate::{drain, telemetry::ConnectionEnd};

/// How often a client that ended its half while it waits for an answer is asked whether it is still there.
const PROBES: u8 = 2;

impl Connection {
    /// Looks at the connection's clocks.
    pub(crate) fn inspect(&self, now: Instant) {
        let config = &self.listener.config;
        let passed = self.in_phase(now);
        let verdict = if self.stands_still(now) {
            if !self.stalled.replace(true) {
                self.ended_for(ConnectionEnd::Stalled);
            }
            Some(Signal::Close)
        } else if self.is_multiplexed() {
            self.inspect_multiplexed(now, passed)
        } else {
            match self.state.phase() {
                Phase::Idle => (passed >= config.keepalive_timeout).then_some(Signal::Finish),
                Phase::Head => (passed >= config.header_timeout).then_some(Signal::HeadTooSlow),
                Phase::Busy => self.look_after_client(),
                Phase::Rest if Weak::strong_count(&self.rest.borrow()) == 0 => {
                    self.state.enter(Phase::Idle);
                    None
                }
                Phase::Rest => (passed >= config.keepalive_timeout).then_some(Signal::Close),
                Phase::Tunnel => None,
            }
        };
        if let Some(signal) = verdict {
            self.tell(signal);
        }
    }

    fn inspect_multiplexed(&self, now: Instant, passed: Duration) -> Option<Signal> {
        let config = &self.listener.config;
        self.stop_stalled(now);
        match self.meter.get()?.look(now, config.header_timeout, &config.http2) {
            Clock::Fine => {}
            // The socket adds it between two frames, as it does with interim responses between two messages.
            Clock::Ping => self.state.send_interim(PING),
            Clock::Over => return Some(Signal::Look),
        }
        if self.active.get() > 0 {
            return None;
        }
        let finishing = self.finishing.get().map(|since| now.saturating_duration_since(since));
        // Whoever is told to finish is to acknowledge it (PING): one that never does is not waited for.
        let patience = config.header_timeout;
        if finishing.is_some_and(|since| since >= patience) && passed >= patience {
            return Some(Signal::Close);
        }
        (passed >= config.keepalive_timeout && finishing.is_none()).then_some(Signal::Finish)
    }

    /// How long the connection has been in its phase, counted from when that was first seen here.
    fn in_phase(&self, now: Instant) -> Duration {
        let (entered, since) = self.phase_since.get();
        if entered != self.state.entered() {
            self.phase_since.set((self.state.entered(), now));
            return Duration::ZERO;
        }
        now.saturating_duration_since(since)
    }

    /// Whether the client has taken nothing of its answer for too long. hyper does not ask for more of a body
    /// then, so that nothing else would notice.
    fn stands_still(&self, now: Instant) -> bool {
        let (writes, since) = self.last_write.get();
        if !self.state.blocked() || writes != self.state.writes() {
            self.last_write.set((self.state.writes(), now));
            return false;
        }
        self.stall_limit.get().is_some_and(|limit| now.saturating_duration_since(since) >= limit)
    }

    /// A client that ended its half of the connection may still want its answer (half-close, RFC 9112 §9.6),
    /// or may be gone: TCP tells them apart only when something is sent. An interim response is something a client
    /// has to expect at any time (RFC 9110 §15.2), so one is sent, and a second to meet the reset that the first
    /// provoked. A client that is gone thereby ends the connection, and with it the work done for it.
    fn look_after_client(&self) -> Option<Signal> {
        if self.state.watch() {
            return Some(Signal::Look);
        }
        if !self.state.half_closed() {
            return None;
        }
        let sent = self.probes.get();
        if !self.answering.get() && self.interim_allowed.get() && sent < PROBES {
            self.probes.set(sent + 1);
            self.state.send_interim(b"HTTP/1.1 100 Continue\r\n\r\n");
        }
        // Where nothing can be sent, keep-alive probes of TCP meet the reset in the end.
        Some(Signal::Look)
    }

    /// Follows the listener's drain.
    pub(crate) fn drain(&self, phase: drain::Phase) {
        match phase {
            drain::Phase::Serving => {}
            // An idle HTTP/1 connection stays open a little longer: closing it now would meet a request that is
            // already on its way. Its next answer says `Connection: close`.
            drain::Phase::Leaving if !self.is_multiplexed() => {}
            drain::Phase::Leaving | drain::Phase::Closing => self.tell(Signal::Finish),
            drain::Phase::Cut => self.tell(Signal::Close),
        }
    }
}
