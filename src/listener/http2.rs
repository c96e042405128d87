//! A connection of HTTP/2, from its preface to its last word.

use std::{
    cell::RefCell,
    convert::Infallible,
    pin::{Pin, pin},
    rc::Rc,
    task::Poll,
    time::Instant,
};

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{io::AsyncWriteExt, time::timeout};

use super::{
    Connection, Signal,
    connection::LAST_WORD,
    frames::{FrameMeter, MeteredIo},
    io::ServerIo,
    streams::StreamExecutor,
};
use crate::{
    proxy,
    telemetry::{ConnectionEnd, ConnectionRefusal},
};

impl Connection {
    pub(super) async fn serve_http2(self: Rc<Self>, io: ServerIo) {
        self.multiplexed.set(true);
        let config = &self.listener.config;
        self.stall_limit.set(Some(config.keepalive_timeout));
        let meter = Rc::new(FrameMeter::new(&config.http2, Instant::now()));
        let _ = self.meter.set(meter.clone());
        let io = Rc::new(RefCell::new(io));
        let handler = self.clone();
        let service = service_fn(move |request: hyper::Request<Incoming>| {
            let exchange = proxy::Exchange::begin(handler.clone(), request);
            async move { Ok::<_, Infallible>(proxy::handle(exchange).await) }
        });
        // Twice what is allowed, so that what is only somewhat too large gets an answer that explains itself: h2
        // refuses what is larger with a bare status.
        let header_list = u32::try_from(config.max_header_bytes.saturating_mul(2)).unwrap_or(u32::MAX);
        let limits = &config.http2;
        {
            let served = http2::Builder::new(StreamExecutor(self.clone()))
                .timer(TokioTimer::new())
                .auto_date_header(false)
                .max_concurrent_streams(config.max_streams)
                .max_header_list_size(header_list)
                .max_local_error_reset_streams(usize::try_from(limits.max_stream_errors).ok())
                .initial_stream_window_size(limits.window)
                .initial_connection_window_size(limits.connection_window)
                .max_send_buf_size(usize::try_from(limits.max_send_buffer).unwrap_or(usize::MAX))
                .enable_connect_protocol()
                .serve_connection(TokioIo::new(MeteredIo::new(&io, &meter)), service);
            let mut served = pin!(served);
            let mut listens = false;
            std::future::poll_fn(|cx| {
                if !std::mem::replace(&mut listens, true) {
                    // One task polls this, whose waker stays the same.
                    self.state.listen(cx.waker());
                }
                match self.signal.take() {
                    None | Some(Signal::Look) => {}
                    Some(Signal::Finish) => served.as_mut().graceful_shutdown(),
                    Some(_) => return Poll::Ready(()),
                }
                let polled = Pin::new(&mut served).poll(cx);
                if meter.verdict().is_some() {
                    return Poll::Ready(());
                }
                polled.map(|result| self.note_end(result))
            })
            .await;
            // With hyper's part in it go all its streams: what is said now is the last word.
        }
        if let Some(why) = meter.verdict() {
            self.ended_for(why);
            if !self.served.get() {
                let refused = match why {
                    ConnectionEnd::HeaderTimeout => ConnectionRefusal::Timeout,
                    _ => ConnectionRefusal::Protocol,
                };
                self.listener.metrics.refused.of(refused).increment(1);
            }
            let Ok(io) = Rc::try_unwrap(io) else { return };
            Box::pin(self.say_goaway(io.into_inner(), &meter)).await;
        }
    }

    /// Tells an HTTP/2 client that its connection ends because of it.
    async fn say_goaway(&self, mut io: ServerIo, meter: &FrameMeter) {
        // In the middle of another frame nobody would understand it.
        if self.state.between()
            && matches!(timeout(LAST_WORD, io.write_all(&meter.goaway())).await, Ok(Ok(())))
        {
            self.linger(io).await;
        }
    }
}

/// What of h2's errors says that the client was at fault.
pub(super) fn ended_by_h2(error: &hyper::Error) -> Option<ConnectionEnd> {
    let error = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    match error.reason() {
        Some(h2::Reason::ENHANCE_YOUR_CALM) if error.is_library() => Some(ConnectionEnd::FrameFlood),
        Some(_) if error.is_library() => Some(ConnectionEnd::Protocol),
        _ => None,
    }
}
