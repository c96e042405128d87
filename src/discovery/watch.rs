//! Keeps what is known of all names that policy has looked up up to date.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::{
    select,
    sync::{Semaphore, watch},
    task::AbortHandle,
    time::sleep_until,
};

use super::{Answer, Discoveries, LookUpError, Names, Pace, Target};
use crate::config::Policy;

/// So many names are looked up at a time.
const AT_ONCE: usize = 32;

/// How often it is said again that a name cannot be looked up.
const REMIND: Duration = Duration::from_mins(1);

/// Takes the addresses of a target after each look-up that found any, whether they are new or not.
pub(crate) type Take = dyn Fn(&Target, &Arc<[SocketAddr]>) + Send + Sync;

/// One task for each name that policy has looked up; on the runtime of whoever calls [`Watch::follow`]. They end when it
/// is dropped.
pub struct Watch {
    names: Arc<Names>,
    table: Arc<Discoveries>,
    take: Arc<Take>,
    slots: Arc<Semaphore>,
    watched: BTreeMap<Target, Watched>,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("watched", &self.watched.keys()).finish_non_exhaustive()
    }
}

/// A name that is looked up, until dropped.
#[derive(Debug)]
struct Watched {
    pace: watch::Sender<Pace>,
    task: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watch {
    /// Looks nothing up yet. What is found is noted in `table` and told to `take`.
    pub(crate) fn new(names: Names, table: Arc<Discoveries>, take: Arc<Take>) -> Self {
        let slots = Arc::new(Semaphore::new(AT_ONCE));
        Self { names: Arc::new(names), table, take, slots, watched: BTreeMap::new() }
    }

    /// From now on looks up what `policy` wants looked up, and nothing else. What was looked up before goes on.
    pub fn follow(&mut self, policy: &Policy) {
        let wanted = wanted(policy);
        self.watched.retain(|target, _| wanted.contains_key(target));
        self.table.keep(|target| wanted.contains_key(target));
        for (target, pace) in wanted {
            if let Some(watched) = self.watched.get(&target) {
                watched.pace.send_if_modified(|known| std::mem::replace(known, pace) != pace);
                continue;
            }
            self.table.add(&target);
            let (sender, receiver) = watch::channel(pace);
            let one = One {
                target: target.clone(),
                names: self.names.clone(),
                table: self.table.clone(),
                take: self.take.clone(),
                slots: self.slots.clone(),
                said: None,
            };
            let task = tokio::spawn(one.keep_up_to_date(receiver)).abort_handle();
            self.watched.insert(target, Watched { pace: sender, task });
        }
    }

    /// Whether it is looked up.
    pub fn has(&self, target: &Target) -> bool {
        self.watched.contains_key(target)
    }
}

/// What `policy` wants looked up, and how often.
fn wanted(policy: &Policy) -> BTreeMap<Target, Pace> {
    let mut wanted = BTreeMap::<Target, Pace>::new();
    for config in policy.upstreams.values().filter_map(|upstream| upstream.discover.as_ref()) {
        let pace = Pace::of(config);
        wanted.entry(Target::of(config)).and_modify(|known| *known = known.or(pace)).or_insert(pace);
    }
    wanted
}

/// The look-ups of one name.
struct One {
    target: Target,
    names: Arc<Names>,
    table: Arc<Discoveries>,
    take: Arc<Take>,
    slots: Arc<Semaphore>,
    /// When it was said last that they fail.
    said: Option<Instant>,
}

/// What came of a look-up, as far as the next one depends on it.
enum Outcome {
    Answer { ttl: Duration },
    Failure { in_a_row: u32 },
}

impl Outcome {
    fn wait(&self, pace: Pace, rng: &mut fastrand::Rng) -> Duration {
        match *self {
            // The TTL is 0 where only a part could be asked for: the rest is asked for again as soon as may be.
            Self::Answer { ttl } => pace.after_answer(ttl, rng),
            Self::Failure { in_a_row } => pace.after_failure(in_a_row, rng),
        }
    }
}

impl One {
    async fn keep_up_to_date(mut self, mut pace: watch::Receiver<Pace>) {
        let mut rng = fastrand::Rng::new();
        loop {
            let found = {
                // Never closed.
                let _slot = self.slots.acquire().await;
                self.names.look_up(&self.target.host).await
            };
            let now = Instant::now();
            let outcome = match found {
                Ok(answer) => self.answered(answer, now),
                Err(error) => self.failed(&error, now),
            };
            loop {
                let wait = outcome.wait(*pace.borrow_and_update(), &mut rng);
                let next = now + wait;
                self.table.next(&self.target, next);
                select! {
                    () = sleep_until(next.into()) => break,
                    changed = pace.changed() => if changed.is_err() { return },
                }
            }
        }
    }

    fn answered(&mut self, answer: Answer, now: Instant) -> Outcome {
        let Answer { addresses, ttl, missing } = answer;
        let known = self.table.of(&self.target).unwrap_or_default();
        let mut found: Vec<_> =
            addresses.into_iter().map(|address| SocketAddr::new(address, self.target.port)).collect();
        let (mut ttl, mut error) = (ttl, None);
        if let Some((family, why)) = missing {
            found.extend(known.addresses.iter().filter(|address| family.has(address.ip())));
            found.sort_unstable();
            ttl = Duration::ZERO;
            error = Some(format!("{family:?}: {why}").into());
        }
        let found: Arc<[SocketAddr]> = found.into();
        if self.said.take().is_some() {
            tracing::info!(name = %self.target, "can be looked up again");
        }
        if self.table.answered(&self.target, &found, ttl, error, now) {
            tracing::info!(name = %self.target, addresses = found.len(), "DNS names other addresses than before");
        }
        (self.take)(&self.target, &found);
        Outcome::Answer { ttl }
    }

    /// What was known stays, also when the name servers say that there is nothing: an outage of theirs often looks like
    /// that, and an address that is truly gone is found out by the first request to it.
    fn failed(&mut self, error: &LookUpError, now: Instant) -> Outcome {
        let (in_a_row, age) = self.table.failed(&self.target, &error.to_string(), now);
        if self.said.is_none_or(|said| now.saturating_duration_since(said) >= REMIND) {
            self.said = Some(now);
            let name = &self.target;
            if let Some(age) = age {
                let age_s = age.as_secs();
                tracing::warn!(%name, %error, age_s, "cannot be looked up: the last addresses stay");
            } else {
                tracing::warn!(%name, %error, "cannot be looked up, and never could: it has no addresses");
            }
        }
        Outcome::Failure { in_a_row }
    }
}

#[cfg(test)]
mod tests;
