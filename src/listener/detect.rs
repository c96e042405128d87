//! HTTP/1 or HTTP/2? The first bytes tell.

use std::io;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// What a client that speaks HTTP/2 sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detected {
    Http1,
    Http2,
}

/// Reads until it is certain which protocol the client speaks, and returns what was read.
///
/// `early` was read before. `None` when the client closed before it had said anything. The caller sets the deadline: a client that sends
/// half a preface and stops would wait here for ever.
pub(crate) async fn detect<S>(stream: &mut S, early: &[u8]) -> io::Result<Option<(Detected, Bytes)>>
where
    S: AsyncRead + Unpin,
{
    // Room for the head of a usual request, so that detection costs HTTP/1 no read of its own.
    let mut seen = BytesMut::with_capacity(2048);
    seen.extend_from_slice(early);
    loop {
        if stream.read_buf(&mut seen).await? == 0 {
            let ended = (!seen.is_empty()).then(|| (Detected::Http1, seen.freeze()));
            return Ok(ended);
        }
        let (have, want) = (seen.as_ref(), PREFACE);
        if have.starts_with(want) {
            return Ok(Some((Detected::Http2, seen.freeze())));
        }
        if !want.starts_with(have) {
            return Ok(Some((Detected::Http1, seen.freeze())));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    async fn feed(parts: &[&[u8]]) -> Option<(Detected, Bytes)> {
        let (mut client, mut server) = tokio::io::duplex(64);
        let parts: Vec<Vec<u8>> = parts.iter().map(|p| p.to_vec()).collect();
        tokio::spawn(async move {
            for part in parts {
                client.write_all(&part).await.unwrap();
                tokio::task::yield_now().await;
            }
        });
        detect(&mut server, b"").await.unwrap()
    }

    #[tokio::test]
    async fn tells_the_protocols_apart_and_keeps_every_byte() {
        let (kind, bytes) = feed(&[b"GET / HTTP/1.1\r\n"]).await.unwrap();
        assert_eq!((kind, bytes.as_ref()), (Detected::Http1, b"GET / HTTP/1.1\r\n".as_ref()));
        let (kind, bytes) = feed(&[b"PRI * HT", b"TP/2.0\r\n\r\nSM\r\n\r\nxyz"]).await.unwrap();
        assert_eq!(kind, Detected::Http2);
        assert!(bytes.starts_with(PREFACE));
        let (kind, _) = feed(&[b"PR", b"OPFIND / HTTP/1.1\r\n"]).await.unwrap();
        assert_eq!(kind, Detected::Http1);
        assert!(feed(&[]).await.is_none());
        assert_eq!(feed(&[b"PRI"]).await.unwrap().0, Detected::Http1);
    }
}
