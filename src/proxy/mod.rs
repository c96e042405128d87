//! The request path: `handle` → `dispatch` → `attempt`. The whole story is on this page.
//!
//! [`handle`] never fails: it turns what [`dispatch`] returns, an answer or an error, into a response, and the
//! exchange's books travel in its body until the last byte is out. Whatever a request acquires on its way (a
//! place in a count, a connection, its entry in the books) is a guard, and dropping it is its only release: a
//! client that goes away drops the future, and with it everything.

mod answer;
mod attempt;
mod exchange;
mod fallback;
mod gate;
mod judge;
mod limits;
mod outgoing;
mod passthrough;
mod receive;
mod record;
mod tunnel;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::Arc,
    task::Poll,
};

use ::http::Method;
use hyper::Response;

pub(crate) use answer::ResponseBody;
pub(crate) use exchange::Exchange;
pub(crate) use passthrough::Passthrough;

use self::gate::Entered;
use crate::{
    error::{ProxyError, Reason},
    http::framing::{self, Forwards},
    snapshot::Switch,
};

/// Answers one request. Never fails, and never takes more than this request with it.
pub(crate) async fn handle(mut exchange: Box<Exchange>) -> Response<ResponseBody> {
    let result = {
        // Pinned where it is made: it is large, and to pass it on would be to copy it.
        let dispatched = pin!(dispatch(&mut exchange));
        caught(dispatched).await
    };
    match result {
        Ok(Ok(answer)) => answer::forward(exchange, answer),
        Ok(Err(Instead::Tunnel(tunnel))) => answer::established(exchange, *tunnel),
        Ok(Err(Instead::AnswerHere)) => answer::here(exchange),
        Ok(Err(Instead::Fail(error))) => match fallback::answer(&exchange, &error) {
            Some(instead) => answer::instead(exchange, &error, &instead),
            None => answer::made(exchange, &error),
        },
        Ok(Err(Instead::Switch(switch))) => answer::by_switch(exchange, &switch),
        Err(panic) => {
            exchange.panicked(&panic);
            answer::made(exchange, &ProxyError::new(Reason::Internal))
        }
    }
}

/// Why a request has no answer of an endpoint.
enum Instead {
    /// It failed.
    Fail(ProxyError),
    /// It asked for a tunnel, and the tunnel is there.
    Tunnel(Box<passthrough::Established>),
    /// A switch has an answer for it.
    Switch(Arc<Switch>),
    /// It goes no further than here, as its client wished (`Max-Forwards`).
    AnswerHere,
}

impl From<ProxyError> for Instead {
    fn from(error: ProxyError) -> Self {
        Self::Fail(error)
    }
}

async fn dispatch(exchange: &mut Exchange) -> Result<attempt::Answer, Instead> {
    #[cfg(test)]
    assert!(!exchange.parts.headers.contains_key("x-test-panic"), "a test wants a panic");
    let wish = receive::receive(exchange)?;
    if exchange.parts.method == Method::CONNECT {
        // Boxed: every request would have room for it.
        return Err(Instead::Tunnel(Box::pin(passthrough::connect(exchange)).await?));
    }
    if framing::count_forwards(&exchange.parts.method, &mut exchange.parts.headers) == Forwards::AnswerHere {
        return Err(Instead::AnswerHere);
    }
    let upstream = match receive::resolve(exchange) {
        Err(unmatched) => passthrough::resolve(exchange, unmatched)?,
        Ok(found) => found,
    };
    let upstream = match gate::enter(exchange, upstream)? {
        Entered::Through(upstream) => upstream,
        // Boxed: every request would have room for it.
        Entered::Waiting(waiting) => Box::pin(waiting.pass(exchange)).await?,
    };
    let mut outgoing = outgoing::prepare(exchange, wish)?;
    let (limits, flow) = (exchange.limits, exchange.flow().clone());
    let deadlines = exchange.connection().worker.deadlines.clone();
    let sent = {
        let sending = pin!(fallback::send(exchange, &upstream, &mut outgoing));
        limits.bound(&deadlines, &flow, sending).await
    };
    Ok(sent.unwrap_or_else(|reason| {
        // It may have gone on to another one.
        let upstream = exchange.upstream.clone().unwrap_or(upstream);
        Err(exchange.timed_out(reason, &upstream))
    })?)
}

/// Runs `future`; a panic in it becomes an error that says what the panic said.
async fn caught<F: Future>(mut future: Pin<&mut F>) -> Result<F::Output, String> {
    std::future::poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Err(panic) => Poll::Ready(Err(message_of(panic.as_ref()))),
    })
    .await
}

fn message_of(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().map(|s| (*s).to_owned());
    text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_becomes_an_error_and_goes_no_further() {
        assert_eq!(caught(pin!(async { 7 })).await, Ok(7));
        let late = async {
            tokio::task::yield_now().await;
            panic!("at {}", "dawn");
        };
        assert_eq!(caught(pin!(late)).await, Err::<(), _>("at dawn".to_owned()));
    }
}
