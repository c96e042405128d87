//! A [`Framer`] between a socket and hyper.

use std::io;

use bytes::Bytes;
use tokio::io::ReadBuf;

use super::{Fault, Framer, Stop};

/// What hyper reads in place of a head that is refused: no parser takes a NUL, and the empty line has hyper look at
/// once. So a client gets hyper's 400, in its turn, and an endpoint's answer is an error of parsing.
const NO_HTTP: &[u8] = b"\0\r\n\r\n";

/// Shows hyper what is fine of what a socket received, and something unmistakable in place of the rest.
#[derive(Debug)]
pub(crate) struct Strict {
    framer: Framer,
    ended: Option<Ended>,
}

/// How reading ended.
#[derive(Debug, Clone, Copy)]
enum Ended {
    /// A head is refused; so much of [`NO_HTTP`] is still to be shown.
    Refused(Fault, &'static [u8]),
    /// A body is refused: to read on is an error.
    Broken(Fault),
    /// There is nothing to read after the last answer.
    Closed,
}

impl Strict {
    pub(crate) fn new(framer: Framer) -> Self {
        Self { framer, ended: None }
    }

    /// Why a message was refused.
    pub(crate) fn refused(&self) -> Option<Fault> {
        match self.ended {
            Some(Ended::Refused(fault, _) | Ended::Broken(fault)) => Some(fault),
            Some(Ended::Closed) | None => None,
        }
    }

    /// When reading has ended, what hyper is to read instead of the socket; to be asked before the socket is read.
    pub(crate) fn instead(&mut self, buf: &mut ReadBuf<'_>) -> Option<io::Result<()>> {
        self.ended.as_mut().map(|ended| ended.show(buf))
    }

    /// Looks at what was read into `buf` beyond its first `before` bytes, and leaves what hyper may see. Gives
    /// back what comes after a request that may end HTTP on this connection: it is to be read again later.
    pub(crate) fn look(&mut self, buf: &mut ReadBuf<'_>, before: usize) -> io::Result<Option<Bytes>> {
        let fresh = buf.filled().get(before..).unwrap_or_default();
        let fed = self.framer.feed(fresh);
        let Some(stop) = fed.stop else { return Ok(None) };
        // What is wrong in a body whose head nobody has seen is as good as wrong in the head.
        let (stop, passed) = match (stop, fed.begun) {
            (Stop::Break(fault), Some(begun)) => (Stop::Refuse(fault), begun),
            (stop, _) => (stop, fed.passed),
        };
        let rest = fresh.get(passed..).unwrap_or_default();
        let held = match stop {
            Stop::Fork => (!rest.is_empty()).then(|| Bytes::copy_from_slice(rest)),
            Stop::Close | Stop::Refuse(_) | Stop::Break(_) => None,
        };
        buf.set_filled(before + passed);
        let ended = match stop {
            Stop::Fork => return Ok(held),
            Stop::Close => Ended::Closed,
            Stop::Refuse(fault) => Ended::Refused(fault, NO_HTTP),
            Stop::Break(fault) => Ended::Broken(fault),
        };
        let ended = self.ended.insert(ended);
        // To read nothing would be the end of the connection; so what is in its place is shown with what is fine.
        if passed == 0 { ended.show(buf).map(|()| None) } else { Ok(None) }
    }
}

impl Ended {
    fn show(&mut self, buf: &mut ReadBuf<'_>) -> io::Result<()> {
        match self {
            Self::Refused(_, left) => {
                let (now, later) = left.split_at_checked(buf.remaining()).unwrap_or((left, &[]));
                buf.put_slice(now);
                *left = later;
                Ok(())
            }
            Self::Broken(fault) => Err(io::Error::new(io::ErrorKind::InvalidData, *fault)),
            Self::Closed => Ok(()),
        }
    }
}
