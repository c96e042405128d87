//! Long, bounded runs in which not one request may fail.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use support::{
    client::{Client, empty},
    driver,
    origin::{self, Origin, Setup},
    weir::File,
};

/// The bound on each of these runs.
const LONG: Duration = Duration::from_mins(4);

#[test]
fn a_hundred_thousand_gets_with_idle_connections_closed_at_random() {
    const CLIENTS: usize = 32;
    const EACH: usize = 100_000 / CLIENTS;
    let setup = Setup { close_idle: Some(Duration::from_millis(40)), ..Setup::default() };
    let origin = Origin::with(setup, |_| async { Ok(origin::answer(200, "fine")) });
    let weir = File::to(&[origin.address]).start();

    let clients: Vec<_> = (0..CLIENTS).map(|_| Client::http1(weir.at("inbound"))).collect();
    let failures = driver::run_within(LONG, async move {
        let running: Vec<_> = clients.into_iter().map(|client| tokio::spawn(gets(client, EACH))).collect();
        let mut failures = Vec::new();
        for client in running {
            failures.extend(client.await.expect("no panic"));
        }
        failures
    });

    if !failures.is_empty() {
        // The first of them as Weir saw them.
        for record in weir.access_records().iter().take(5) {
            eprintln!("{record}");
        }
    }
    assert!(failures.is_empty(), "{} of 100,000 failed, first: {:?}", failures.len(), failures.first());
    assert!(origin.requests() >= CLIENTS * EACH);
    assert!(origin.connections() > 100, "the origin closed too few connections to prove anything");
}

/// Sends so many GETs one after the other; gives what was not a 200.
async fn gets(client: Client, count: usize) -> Vec<String> {
    let mut failures = Vec::new();
    for number in 0..count {
        let request = client.to("shop.test", "GET", "/", &[], empty());
        match client.fetch(request).await {
            Ok(answer) if answer.status == 200 && answer.text() == "fine" => {}
            Ok(answer) => failures.push(format!("request {number}: {} {}", answer.status, answer.text())),
            Err(e) => {
                failures.push(format!("request {number}: {e:?}"));
                return failures; // the connection is gone
            }
        }
        if number % 50 == 49 {
            // Lets connections of Weir's pool lie idle now and then, which is when the origin closes them.
            tokio::time::sleep(Duration::from_millis(u64::from(fastrand::u8(0..5)))).await;
        }
    }
    failures
}

#[test]
fn a_thousand_reloads_of_the_file_under_load() {
    const RELOADS: usize = 1000;
    let (old, new) = (Origin::answering(200, "fine"), Origin::answering(200, "fine"));
    let file = |number: usize| {
        let endpoints =
            if number.is_multiple_of(2) { [old.address, new.address] } else { [new.address, old.address] };
        let endpoints = &endpoints[..=number % 2];
        File::to(endpoints).route(&format!("response_headers: {{ set: {{ x-file: \"{number}\" }} }}")).text()
    };
    let mut weir = support::weir::Weir::start(&file(0));
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let load: Vec<_> = (0..8)
        .map(|number| {
            let address = weir.at("inbound");
            let client = if number % 2 == 0 { Client::http1(address) } else { Client::http2(address) };
            driver::spawn(until_stopped(client, stop.clone(), answered.clone()))
        })
        .collect();

    let looking = Client::http1(weir.at("inbound"));
    for number in 1..=RELOADS {
        weir.reload(&file(number));
        support::wait_until(&format!("file {number} to be the one in force"), || {
            looking.get("shop.test", "/").header("x-file") == number.to_string()
        });
    }
    stop.store(true, Ordering::SeqCst);
    let failures: Vec<String> =
        load.into_iter().flat_map(|task| driver::run(task).expect("no panic")).collect();
    assert!(failures.is_empty(), "{} failed, first: {:?}", failures.len(), failures.first());
    assert!(answered.load(Ordering::SeqCst) >= RELOADS, "too little load to prove anything");
}

async fn until_stopped(client: Client, stop: Arc<AtomicBool>, answered: Arc<AtomicUsize>) -> Vec<String> {
    let mut failures = Vec::new();
    while !stop.load(Ordering::SeqCst) && failures.len() < 10 {
        failures.extend(gets(client.clone(), 20).await);
        answered.fetch_add(20, Ordering::SeqCst);
    }
    failures
}
