//! The callers: a steady load through Weir, and what they saw.
//!
//! The load is *open-loop*: requests leave by the clock, whether or not earlier ones came back, and a request's
//! latency counts from the moment it was due. So a slow shop shows as slow, instead of as fewer requests.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, sync::watch, task::JoinSet, time::Instant};

use super::tally::{Outcome, Tally};

/// A caller gives up after this.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most requests under way at once, so that a shop that hangs does not use up all file descriptors.
const MOST_IN_FLIGHT: usize = 400;

/// What the callers saw so far, shared with whoever shows it.
#[derive(Debug, Clone, Default)]
pub(super) struct Callers(Arc<Mutex<Tally>>);

impl Callers {
    /// What they saw until now.
    pub(super) fn tally(&self) -> Tally {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Tally> {
        // A count is whole after each step: one that a panic interrupted is still worth showing.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends `rate` requests a second to `target` until `stop` turns true, then waits for those under way.
pub(super) async fn run(target: SocketAddr, rate: u32, callers: Callers, mut stop: watch::Receiver<bool>) {
    let client = Arc::new(Client { target, idle: Mutex::new(Vec::new()) });
    let gap = Duration::from_secs(1) / rate.max(1);
    let mut due = Instant::now();
    let mut under_way = JoinSet::new();
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(due) => {}
            _ = stop.wait_for(|stop| *stop) => break,
        }
        while due <= Instant::now() {
            while under_way.try_join_next().is_some() {}
            if under_way.len() >= MOST_IN_FLIGHT {
                callers.lock().record(&Outcome::Silent, PATIENCE);
            } else {
                let (client, callers) = (Arc::clone(&client), callers.clone());
                under_way.spawn(call(client, Errand::draw(fastrand::u32(0..100)), due, callers));
            }
            due += gap;
        }
    }
    while under_way.join_next().await.is_some() {}
}

async fn call(client: Arc<Client>, errand: Errand, due: Instant, callers: Callers) {
    let outcome = tokio::time::timeout_at(due + PATIENCE, client.send(errand)).await;
    let outcome = outcome.ok().flatten().unwrap_or(Outcome::Silent);
    callers.lock().record(&outcome, due.elapsed());
}

/// What a caller wants from the shop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Errand {
    Page,
    Recommendations,
    Checkout,
    Stream,
}

impl Errand {
    /// The mix, for a draw of 0–99.
    fn draw(draw: u32) -> Self {
        match draw {
            0..50 => Self::Page,
            50..83 => Self::Recommendations,
            83..99 => Self::Checkout,
            _ => Self::Stream,
        }
    }

    fn request(self, target: SocketAddr) -> Option<Request<Full<Bytes>>> {
        const ORDER: &[u8] = br#"{"basket":[{"item":"tea","count":2},{"item":"scones","count":4}]}"#;
        let (method, path, body) = match self {
            Self::Page => (Method::GET, "/".to_owned(), Full::default()),
            Self::Recommendations => {
                (Method::GET, format!("/api/recommendations/{}", fastrand::u32(1..1000)), Full::default())
            }
            Self::Checkout => (Method::POST, "/checkout".to_owned(), Full::from(ORDER)),
            Self::Stream => (Method::GET, "/stream".to_owned(), Full::default()),
        };
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, target.to_string())
            .header(header::USER_AGENT, HeaderValue::from_static("weir-demo"))
            .body(body)
            .ok()
    }
}

/// A small pool of HTTP/1.1 connections to one address; the one used last is used first.
struct Client {
    target: SocketAddr,
    idle: Mutex<Vec<SendRequest<Full<Bytes>>>>,
}

impl Client {
    /// Sends one request and reads the answer to its end; `None` when there was none.
    async fn send(&self, errand: Errand) -> Option<Outcome> {
        let mut request = errand.request(self.target)?;
        loop {
            let mut connection = self.connection().await?;
            match connection.try_send_request(request).await {
                Ok(response) => {
                    let (head, mut body) = response.into_parts();
                    while let Some(frame) = body.frame().await {
                        frame.ok()?;
                    }
                    self.lock_idle().push(connection);
                    return Some(outcome(head.status, head.headers.get("x-instance")));
                }
                // Not sent at all (the connection was closed under us): that is no answer yet, so go on.
                Err(mut error) => request = error.take_message()?,
            }
        }
    }

    async fn connection(&self) -> Option<SendRequest<Full<Bytes>>> {
        loop {
            let Some(mut used) = self.lock_idle().pop() else { break };
            if used.ready().await.is_ok() {
                return Some(used);
            }
        }
        let stream = TcpStream::connect(self.target).await.ok()?;
        // Only a matter of speed: small requests would wait for acknowledgements.
        drop(stream.set_nodelay(true));
        let (fresh, driver) = http1::handshake(TokioIo::new(stream)).await.ok()?;
        // How the connection ends is seen by the request that is on it.
        tokio::spawn(async move { drop(driver.await) });
        Some(fresh)
    }

    fn lock_idle(&self) -> MutexGuard<'_, Vec<SendRequest<Full<Bytes>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The toys sign every answer with `x-instance`; what is not signed was made by Weir.
fn outcome(status: StatusCode, instance: Option<&HeaderValue>) -> Outcome {
    let bad = status.is_client_error() || status.is_server_error();
    match instance.and_then(|name| name.to_str().ok()) {
        Some(name) => Outcome::FromShop { instance: name.to_owned(), bad },
        None => Outcome::FromWeir { bad },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::toys::{Character, Toy};

    /// Runs the load straight against one toy until the condition holds; fails after ten seconds.
    async fn load_until(toy: &Toy, rate: u32, done: impl Fn(&Tally) -> bool) -> Tally {
        let (callers, (stop, stopped)) = (Callers::default(), watch::channel(false));
        let load = tokio::spawn(run(toy.address, rate, callers.clone(), stopped));
        let deadline = Instant::now() + Duration::from_secs(10);
        while !done(&callers.tally()) {
            assert!(Instant::now() < deadline, "not in time: {:?}", callers.tally());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        stop.send_replace(true);
        load.await.unwrap();
        callers.tally()
    }

    #[test]
    fn the_mix_has_every_errand_in_its_share() {
        let count = |errand| (0..100).filter(|draw| Errand::draw(*draw) == errand).count();
        assert_eq!(
            [Errand::Page, Errand::Recommendations, Errand::Checkout, Errand::Stream].map(count),
            [50, 33, 16, 1]
        );
    }

    #[test]
    fn what_is_not_signed_was_made_by_weir() {
        let signed = HeaderValue::from_static("a");
        assert_eq!(
            outcome(StatusCode::SERVICE_UNAVAILABLE, Some(&signed)),
            Outcome::FromShop { instance: "a".into(), bad: true }
        );
        assert_eq!(outcome(StatusCode::BAD_GATEWAY, None), Outcome::FromWeir { bad: true });
        assert_eq!(outcome(StatusCode::OK, None), Outcome::FromWeir { bad: false });
    }

    #[tokio::test]
    async fn callers_and_shop_agree_on_what_happened() {
        let toy = Toy::start("a", Character::Normal).await.unwrap();
        let seen = load_until(&toy, 400, |tally| tally.total() >= 200).await;
        // Through no proxy, `/api/recommendations` is unknown to the shop: those are its honest 404s.
        assert_eq!(seen.silent + seen.made_good + seen.made_bad, 0, "{seen:?}");
        assert_eq!(seen.total(), toy.answered());
        let (good, bad) = (seen.shop_good(), seen.shop_bad());
        assert!(good > bad && bad > 0, "{good} good, {bad} bad");
        let median = seen.latency.quantile(0.5).unwrap();
        assert!((0.0015..0.5).contains(&median), "{median}");
    }

    #[tokio::test]
    async fn a_stopped_toy_answers_nobody_until_it_is_started() {
        let toy = Toy::start("a", Character::Normal).await.unwrap();
        toy.set_running(false);
        let stopped = load_until(&toy, 200, |tally| tally.silent >= 20).await;
        assert!(stopped.silent >= 20);
        toy.set_running(true);
        let started = load_until(&toy, 200, |tally| tally.shop_good() >= 20).await;
        assert!(started.shop_good() >= 20);
    }

    #[tokio::test]
    async fn a_toy_told_to_fail_fails() {
        let toy = Toy::start("c", Character::Flaky).await.unwrap();
        toy.set_fail_percent(100);
        let seen = load_until(&toy, 400, |tally| tally.total() >= 50).await;
        assert_eq!((seen.shop_good(), seen.silent), (0, 0), "{seen:?}");
    }

    #[tokio::test]
    async fn latency_counts_from_when_a_request_was_due() {
        let toy = Toy::start("a", Character::Normal).await.unwrap();
        toy.set_extra_ms(150);
        let seen = load_until(&toy, 100, |tally| tally.total() >= 20).await;
        assert!(seen.latency.quantile(0.01).unwrap() >= 0.14, "{seen:?}");
    }
}
