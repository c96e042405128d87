//! A client of etcd as it is usually written: whatever ends, it connects again after a fixed pause, reads everything,
//! and watches from there.

use std::time::{Duration, Instant};

use etcd_client::{Client, ConnectOptions, Error, GetOptions, WatchOptions};

use crate::herd::Current;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(100);

pub(crate) async fn follow(instance: usize, endpoint: String, current: Current) {
    loop {
        // Whatever it was: once more.
        let _ = attempt(instance, &endpoint, &current).await;
        tokio::time::sleep(PAUSE).await;
    }
}

async fn attempt(instance: usize, endpoint: &str, current: &Current) -> Result<(), Error> {
    let options = ConnectOptions::new().with_timeout(Duration::from_secs(10));
    let mut client = Client::connect([endpoint], Some(options)).await?;
    let scopes = ["_all/".to_owned(), "orders/".to_owned(), format!("orders@pod-{instance}/")];
    let prefixes = scopes.map(|scope| format!("/weir/policy/{scope}"));
    let mut revision = 0;
    for prefix in &prefixes {
        let read = client.get(prefix.as_str(), Some(GetOptions::new().with_prefix())).await?;
        revision = read.header().map_or(0, etcd_client::ResponseHeader::revision);
    }
    let mut watch = client.watch_client();
    let [first, rest @ ..] = &prefixes;
    let from = || Some(WatchOptions::new().with_prefix().with_start_revision(revision + 1));
    let (mut requests, mut changes) = watch.watch(first.as_str(), from()).await?.split();
    for prefix in rest {
        requests.watch(prefix.as_str(), from()).await?;
    }
    current.note(instance, Instant::now());
    while changes.message().await?.is_some() {}
    Ok(())
}
