//! Laws that hold whatever happens in whatever order.

use std::time::{Duration, Instant};

use proptest::prelude::*;
use tokio::task::{JoinHandle, spawn_local, yield_now};

use super::harness::*;
use crate::upstream::{CheckoutError, Lease, connector::Alpn, limits::Limits};

#[derive(Debug, Clone)]
enum Step {
    Checkout { fresh: bool },
    Finish,
    GiveUp,
    Leave,
    Kill,
    Tick(u64),
    Limit(u32),
    LetRun,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => any::<bool>().prop_map(|fresh| Step::Checkout { fresh }),
        4 => Just(Step::Finish),
        1 => Just(Step::GiveUp),
        1 => Just(Step::Leave),
        1 => Just(Step::Kill),
        1 => (0_u64..100).prop_map(Step::Tick),
        1 => (1_u32..4).prop_map(Step::Limit),
        4 => Just(Step::LetRun),
    ]
}

type Asking = JoinHandle<Result<Lease, CheckoutError>>;

async fn play(steps: Vec<Step>, http2: bool) {
    const MOST: u32 = 3;
    let server = Http2Origin::start(2).await;
    server.go();
    let plain = Origin::http1().await;
    let (origin, alpn) = if http2 { (&server.origin, Alpn::Http2) } else { (&plain, Alpn::Http1) };
    let limits = Limits { max_connections: MOST, max_pending: 4, ..limits() };
    let lane = lane_to(origin.address, alpn, limits.clone());
    let (mut asking, mut held): (Vec<Asking>, Vec<Lease>) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Checkout { fresh } => {
                let lane = lane.clone();
                asking.push(spawn_local(async move { lane.checkout(Instant::now(), fresh).await }));
            }
            Step::Finish => {
                if let Some(lease) = held.pop() {
                    // The connection may have been killed.
                    let _ = exchange(lease).await;
                }
            }
            Step::GiveUp => drop(held.pop()),
            Step::Leave => {
                if let Some(one) = asking.pop() {
                    one.abort();
                }
            }
            Step::Kill => origin.kill(),
            Step::Tick(seconds) => lane.maintain(Instant::now() + Duration::from_secs(seconds)),
            Step::Limit(max_connections) => {
                lane.set_limits(&Limits { max_connections, ..limits.clone() });
            }
            Step::LetRun => {
                for _ in 0..20 {
                    yield_now().await;
                }
            }
        }
        for one in asking.extract_if(.., |one| one.is_finished()) {
            if let Ok(Ok(lease)) = one.await {
                held.push(lease);
            }
        }
        let (open, idle, in_flight) = counts(&lane);
        assert!(open <= MOST, "{open} open");
        assert!(idle <= open, "{idle} idle of {open}");
        assert!(in_flight as usize >= held.len());
    }
    // Everything ends: nobody may be left waiting, and nothing be left in use.
    lane.set_limits(&limits);
    lane.maintain(Instant::now());
    let deadline = Instant::now() + Duration::from_secs(8);
    while !asking.is_empty() || !held.is_empty() {
        for lease in held.drain(..) {
            let _ = exchange(lease).await;
        }
        for one in asking.extract_if(.., |one| one.is_finished()) {
            if let Ok(Ok(lease)) = one.await {
                held.push(lease);
            }
        }
        assert!(Instant::now() < deadline, "{} who waited were forgotten", asking.len());
        yield_now().await;
    }
    until("all to be idle", || {
        let (open, idle, in_flight) = counts(&lane);
        open == idle && in_flight == 0 && lane.queue().is_empty()
    })
    .await;
    lane.retire();
    until("all to be closed", || counts(&lane) == (0, 0, 0)).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn counts_agree_and_nobody_is_forgotten(
        steps in proptest::collection::vec(step(), 1..60),
        http2 in any::<bool>(),
    ) {
        run(play(steps, http2));
    }
}
