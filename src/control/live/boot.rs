//! The order of a start: the store, for as long as `boot_wait`; else the cache; else the file.

use std::{path::Path, time::Instant};

use jiff::Timestamp;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{sleep, timeout},
};

use super::{Live, Source, view::StoreView};
use crate::{
    config::bootstrap::{Store, StoreSource},
    control::Order,
    store::{
        Event,
        cache::{self, Loaded, System, Writer},
    },
    telemetry::PolicySource,
};

/// Finds the first policy. Returns where events come from after that, and an order that came in between and is not to be
/// waited for.
pub(in crate::control) async fn boot(
    live: &mut Live,
    store: &Store,
    orders: &mut UnboundedReceiver<Order>,
) -> (Option<Source>, Option<Order>) {
    live.state.shown().store = Some(StoreView::new(&store.source));
    // The metrics are there before anything has happened.
    live.state.shared.telemetry.metrics.live();
    let cached = store.cache.as_deref().is_some_and(|path| restore(live, path));
    let mut source = match Source::start(&store.source, &live.identity) {
        Ok(source) => Some(source),
        Err(error) => {
            tracing::error!(error, "the store cannot be followed");
            None
        }
    };
    let waited = timeout(store.boot_wait, first_read(live, source.as_mut(), orders)).await;
    let order = waited.as_ref().ok().copied().flatten();
    if waited.is_err() || order.is_some() {
        let instead = if cached { PolicySource::Cache } else { PolicySource::Baseline };
        tracing::warn!(source = ?instead, "the store has said nothing yet: the start goes on without it");
        drop(live.publish(Instant::now(), Some(instead)));
    }
    (source, order)
}

/// Waits until the store has told everything; an order ends the wait.
async fn first_read(
    live: &mut Live,
    source: Option<&mut Source>,
    orders: &mut UnboundedReceiver<Order>,
) -> Option<Order> {
    let Some(source) = source else { return std::future::pending().await };
    let mut silent = false;
    loop {
        tokio::select! {
            event = source.next() => {
                live.take(&event);
                if matches!(event, Event::Read { .. }) {
                    return None;
                }
            }
            order = orders.recv(), if !silent => match order {
                // The file has just been read.
                Some(Order::Reload) => {}
                Some(order) => return Some(order),
                None => silent = true,
            },
        }
    }
}

/// Takes what the cache kept, and has it kept from now on; says whether there was something.
fn restore(live: &mut Live, path: &Path) -> bool {
    let mut disk = Box::new(System::default());
    let now = Timestamp::now();
    let loaded = cache::load(disk.as_mut(), path, &live.identity, now);
    match Writer::start(path.to_owned(), disk) {
        Ok(writer) => live.cache = Some(writer),
        Err(error) => tracing::error!(%error, "no thread for the cache: nothing is kept"),
    }
    let shown = path.display();
    match loaded {
        Loaded::Nothing => {
            tracing::info!(cache = %shown, "there is no cache yet");
            false
        }
        Loaded::Kept { kept, written } => {
            let (revision, keys) = (kept.memory.revision, kept.items.len());
            tracing::info!(cache = %shown, %written, revision, keys, "the cache is good");
            live.restore(kept);
            true
        }
        Loaded::SetAside { why, to } => {
            let to = to.as_ref().map(|to| tracing::field::display(to.display()));
            tracing::error!(cache = %shown, %why, to, "the cache is of no use and was set aside");
            false
        }
        Loaded::Unreadable(error) => {
            tracing::error!(cache = %shown, %error, "the cache cannot be read");
            false
        }
    }
}

/// What the store tells next; nothing where there is none.
pub(in crate::control) async fn next(source: Option<&mut Source>) -> Event {
    match source {
        Some(source) => source.next().await,
        None => std::future::pending().await,
    }
}

/// Waits until it is time for [`Live::tick`] before the next second.
pub(in crate::control) async fn expiry(live: &Live) {
    match live.next() {
        Some(left) => sleep(left).await,
        None => std::future::pending().await,
    }
}

impl StoreView {
    fn new(source: &StoreSource) -> Self {
        let (kind, place) = match source {
            StoreSource::Etcd(etcd) => {
                let endpoints: Vec<_> = etcd.endpoints.iter().map(ToString::to_string).collect();
                ("etcd", format!("{}{}", endpoints.join(","), etcd.root))
            }
            StoreSource::Directory(directory) => ("directory", directory.path.display().to_string()),
        };
        Self { kind, place, endpoint: None, error: None, cluster: None }
    }
}
