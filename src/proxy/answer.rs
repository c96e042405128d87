//! The answer as the client gets it.

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::{Context, Poll},
    time::Instant,
};

use ::http::{Extensions, HeaderMap, HeaderValue, Method, Response, StatusCode, Version, header};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{attempt::Answer, exchange::Exchange, passthrough::Established};
use crate::{
    config::policy::{Action, Respond},
    error::{ProxyError, Reason},
    http::{
        body::{BodyError, UploadFault},
        census, forwarded, http2, hygiene, respond, upgrade,
    },
    listener::{Connection, Signal},
    route::rewrite,
    snapshot::Switch,
    telemetry::Ended,
    upstream::Lease,
    worker::Deadline,
};

/// An endpoint's answer, on its way to the client.
pub(super) fn forward(mut exchange: Box<Exchange>, answer: Answer) -> Response<ResponseBody> {
    let Answer { mut head, has, mut body, tunnel } = answer;
    hygiene::remove_hop_by_hop_of(has, &mut head.headers);
    let connection = exchange.connection().clone();
    connection.listener.via.append(head.version, &mut head.headers);
    head.headers.insert(forwarded::X_REQUEST_ID, exchange.request_id().clone());
    if !has.any(census::DATE) {
        // RFC 9110 §6.6.1: whoever forwards an answer that has none adds it.
        head.headers.insert(header::DATE, connection.worker.date());
    }
    if let Some(route) = exchange.route() {
        let edits = &route.config.response_headers;
        rewrite::apply_edits(edits, &mut head.headers);
        if exchange.version() == Version::HTTP_2 && !edits.is_empty() {
            hygiene::for_http2(&mut head.headers);
        }
    }
    exchange.write_notices(&mut head.headers);
    if exchange.version() == Version::HTTP_2 {
        http2::keep_from_tables(has, &mut head.headers);
    }
    if let Some(tunnel) = tunnel {
        if exchange.version() == Version::HTTP_2 {
            upgrade::to_connect(&mut head.headers);
            head.status = StatusCode::OK;
            exchange.answers(head.status);
        } else {
            tunnel.protocol.restore(&mut head.headers);
        }
        exchange.head_goes_out();
        tunnel.carry(exchange, body.lease.take());
        return finished(head, ResponseBody::empty());
    }
    exchange.head_goes_out();
    let limit = exchange.limits.idle();
    exchange.bound_stall(limit);
    // A client that was told to keep its body is about to send another request, where the body should be.
    let last = exchange.connection_is_leaving() || body.unasked.is_some();
    let response = finished(head, ResponseBody::streaming(body, exchange));
    end_after(response, last, &connection)
}

/// The answer to a `CONNECT` whose tunnel is there.
pub(super) fn established(mut exchange: Box<Exchange>, tunnel: Established) -> Response<ResponseBody> {
    let mut response = Response::new(ResponseBody::empty());
    let headers = response.headers_mut();
    headers.insert(forwarded::X_REQUEST_ID, exchange.request_id().clone());
    exchange.write_notices(headers);
    sign(exchange.connection(), headers);
    exchange.head_goes_out();
    tunnel.carry(exchange);
    response
}

/// An answer that Weir makes.
pub(super) fn made(mut exchange: Box<Exchange>, error: &ProxyError) -> Response<ResponseBody> {
    let made = respond::respond(error, exchange.asked(error.reason));
    let (mut head, body) = made.into_parts();
    exchange.write_notices(&mut head.headers);
    exchange.makes(error, head.status);
    exchange.head_goes_out();
    // Where a request that made no sense ends, nobody knows.
    let unreadable = matches!(error.reason, Reason::Malformed | Reason::HeaderTooLarge | Reason::BodyTimeout)
        || exchange.method() == Method::CONNECT;
    let last = exchange.connection_is_leaving() || (unreadable && exchange.version() != Version::HTTP_2);
    own(exchange, head, body, last)
}

/// The answer that policy has for when there is none.
pub(super) fn instead(
    mut exchange: Box<Exchange>,
    error: &ProxyError,
    respond: &Respond,
) -> Response<ResponseBody> {
    let asked = exchange.asked(error.reason);
    let (mut head, body) = respond::instead(error, respond, asked).into_parts();
    exchange.write_notices(&mut head.headers);
    exchange.makes(error, head.status);
    exchange.head_goes_out();
    let last = exchange.connection_is_leaving();
    own(exchange, head, body, last)
}

/// The answer that a switch has.
pub(super) fn by_switch(exchange: Box<Exchange>, switch: &Switch) -> Response<ResponseBody> {
    let error = ProxyError::new(Reason::Switch).by(switch.name());
    match &switch.config.action {
        Action::Respond(respond) => instead(exchange, &error, respond),
        _ => made(exchange, &error),
    }
}

/// The answer to a request that went as far as its client wished.
pub(super) fn here(mut exchange: Box<Exchange>) -> Response<ResponseBody> {
    let method = exchange.method().clone();
    let (head, body) = respond::answer_here(&method, Some(exchange.request_id())).into_parts();
    exchange.answers(head.status);
    exchange.head_goes_out();
    let last = exchange.connection_is_leaving();
    own(exchange, head, body, last)
}

/// An answer of Weir's own, which may be the last one on its connection.
fn own(
    exchange: Box<Exchange>,
    head: ::http::response::Parts,
    body: Bytes,
    last: bool,
) -> Response<ResponseBody> {
    let connection = exchange.connection().clone();
    let mut response = finished(head, ResponseBody::whole(body, exchange));
    sign(&connection, response.headers_mut());
    end_after(response, last, &connection)
}

/// Says who made an answer of Weir's own, and when.
fn sign(connection: &Connection, headers: &mut HeaderMap) {
    connection.listener.via.append(Version::HTTP_11, headers);
    headers.insert(header::DATE, connection.worker.date());
}

/// The response as hyper's server wants it: the version is the connection's matter, and what hyper's client noted beside
/// the answer is nobody's.
fn finished(mut head: ::http::response::Parts, body: ResponseBody) -> Response<ResponseBody> {
    head.version = Version::HTTP_11;
    head.extensions = Extensions::new();
    Response::from_parts(head, body)
}

/// Makes this the `last` answer on its connection: its client goes elsewhere with its next request.
fn end_after(
    mut response: Response<ResponseBody>,
    last: bool,
    connection: &Connection,
) -> Response<ResponseBody> {
    if last {
        if connection.is_multiplexed() {
            connection.tell(Signal::Finish);
        } else {
            response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
    }
    response
}

/// The body of an answer. The books of the exchange travel in it: when it has ended, or is dropped, so has the
/// exchange.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    source: BodySource,
    exchange: Option<Box<Exchange>>,
}

#[derive(Debug)]
enum BodySource {
    Whole(Option<Bytes>),
    Streaming(Box<StreamingBody>),
}

/// The body of an endpoint's answer, and what has to be kept while it comes.
#[derive(Debug)]
pub(super) struct StreamingBody {
    /// Of HTTP/2; over HTTP/1 it is read from the lease.
    incoming: Option<Incoming>,
    lease: Option<Lease>,
    /// Keeps a body that nobody asked for from being read until the answer is whole.
    unasked: Option<oneshot::Sender<()>>,
    /// The answer's status says that it has no content (204, 304): over HTTP/2 an endpoint can send some all the same.
    bodiless: bool,
    /// Runs while nothing comes from the endpoint.
    stalled: Option<Deadline>,
    /// All of it has come. Of HTTP/2, to ask hyper for that costs a lock.
    whole: bool,
}

impl ResponseBody {
    fn empty() -> Self {
        Self { source: BodySource::Whole(None), exchange: None }
    }

    fn whole(body: Bytes, mut exchange: Box<Exchange>) -> Self {
        let cut_short = exchange.flow().fault() == Some(UploadFault::ClientGone);
        exchange.ends(if cut_short { Ended::ClientGone } else { Ended::Complete });
        if !body.is_empty() {
            exchange.bound_stall(Some(exchange.connection().listener.config.keepalive_timeout));
        }
        let body = (!body.is_empty()).then_some(body);
        let exchange = body.is_some().then_some(exchange);
        Self { source: BodySource::Whole(body), exchange }
    }

    fn streaming(body: Box<StreamingBody>, exchange: Box<Exchange>) -> Self {
        let mut body = Self { source: BodySource::Streaming(body), exchange: Some(exchange) };
        body.settle_if_done();
        body
    }

    /// Closes the books when the last byte has come.
    fn settle_if_done(&mut self) {
        let BodySource::Streaming(body) = &mut self.source else { return };
        if body.is_over() {
            self.complete();
        }
    }

    /// The endpoint has said everything: its connection is free, and the books are closed.
    fn complete(&mut self) {
        let now = Instant::now();
        if let BodySource::Streaming(body) = &mut self.source {
            body.whole = true;
            if let Some(lease) = body.lease.take() {
                body.unasked = None;
                lease.finish(now);
            }
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.ended_at(now);
        }
        self.settle(Ended::Complete);
    }

    fn settle(&mut self, ended: Ended) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.ends(ended);
        }
    }

    /// A panic costs this answer, which never looks complete, and nothing else.
    fn break_off(&mut self, panic: &(dyn Any + Send)) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        if let Some(exchange) = &mut self.exchange {
            exchange.panicked(&super::message_of(panic));
        }
        self.settle(Ended::UpstreamReset);
        Poll::Ready(Some(Err(BodyError::Internal)))
    }

    fn poll_streaming(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let (BodySource::Streaming(body), Some(exchange)) = (&mut self.source, &mut self.exchange) else {
            return Poll::Ready(None);
        };
        let frame = match body.poll_next(cx) {
            Poll::Pending => {
                if body.poll_stalled(cx, exchange).is_pending() {
                    return Poll::Pending;
                }
                self.settle(Ended::Timeout);
                return Poll::Ready(Some(Err(BodyError::Timeout)));
            }
            Poll::Ready(frame) => frame,
        };
        match frame {
            None => {
                self.complete();
                Poll::Ready(None)
            }
            Some(Err(error)) => {
                self.settle(Ended::UpstreamReset);
                Poll::Ready(Some(Err(error)))
            }
            Some(Ok(mut frame)) => {
                if let Some(data) = frame.data_ref() {
                    if body.bodiless && !data.is_empty() {
                        self.settle(Ended::UpstreamReset);
                        return Poll::Ready(Some(Err(BodyError::Unexpected)));
                    }
                    let last = body.is_over();
                    // When the last byte moved is of no interest any more.
                    exchange.flow().answered(data.len(), !last);
                    if last {
                        self.complete();
                    }
                } else if let Some(trailers) = frame.trailers_mut() {
                    hygiene::clean_trailers(trailers);
                    exchange.know_grpc_status(trailers);
                    // Nothing follows trailers, and hyper does not ask for more.
                    self.complete();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }
}

impl StreamingBody {
    /// The body of an answer with `status`, which comes by `lease`.
    pub(super) fn new(incoming: Option<Incoming>, lease: Lease, status: StatusCode) -> Box<Self> {
        let bodiless = matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        Box::new(Self { incoming, lease: Some(lease), unasked: None, bodiless, stalled: None, whole: false })
    }

    /// Has the client's body, which nobody asked for, held back until the answer is whole.
    pub(super) fn hold(&mut self, unasked: Option<oneshot::Sender<()>>) {
        self.unasked = unasked;
    }

    /// The next piece of it.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match (&mut self.incoming, &mut self.lease) {
            (Some(incoming), _) => {
                Pin::new(incoming).poll_frame(cx).map_err(|error| BodyError::Stream(error.into()))
            }
            (None, Some(lease)) => lease.poll_frame(cx).map_err(|error| BodyError::Stream(error.into())),
            (None, None) => Poll::Ready(None),
        }
    }

    /// Whether nothing of it is to come.
    fn is_over(&self) -> bool {
        match (&self.incoming, &self.lease) {
            _ if self.whole => true,
            (Some(incoming), _) => incoming.is_end_stream(),
            (None, Some(lease)) => lease.is_over(),
            (None, None) => true,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match (&self.incoming, &self.lease) {
            (Some(incoming), _) => incoming.size_hint(),
            (None, Some(lease)) => lease.left().map_or_else(SizeHint::new, SizeHint::with_exact),
            (None, None) => SizeHint::with_exact(0),
        }
    }

    /// Ready when the exchange has been still for too long, or its client's deadline is over.
    fn poll_stalled(&mut self, cx: &mut Context<'_>, exchange: &Exchange) -> Poll<()> {
        let Some(by) = exchange.limits.body_by(exchange.flow()) else { return Poll::Pending };
        let deadlines = &exchange.connection().worker.deadlines;
        let stalled = self.stalled.get_or_insert_with(|| Deadline::new(deadlines, by));
        loop {
            if stalled.poll(cx).is_pending() {
                return Poll::Pending;
            }
            // Something may have moved since.
            match exchange.limits.body_by(exchange.flow()) {
                Some(by) if by > Instant::now() => stalled.reset(by),
                _ => return Poll::Ready(()),
            }
        }
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        match &mut this.source {
            BodySource::Streaming(_) => {
                let polled = catch_unwind(AssertUnwindSafe(|| this.poll_streaming(cx)));
                polled.unwrap_or_else(|panic| this.break_off(panic.as_ref()))
            }
            BodySource::Whole(body) => {
                let data = body.take();
                if let (Some(data), Some(exchange)) = (&data, &this.exchange) {
                    exchange.flow().answered(data.len(), false);
                }
                this.exchange = None;
                Poll::Ready(data.map(|data| Ok(Frame::data(data))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            BodySource::Whole(body) => body.is_none(),
            BodySource::Streaming(body) => body.is_over(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            BodySource::Whole(body) => SizeHint::with_exact(body.as_ref().map_or(0, Bytes::len) as u64),
            BodySource::Streaming(body) => body.size_hint(),
        }
    }
}
