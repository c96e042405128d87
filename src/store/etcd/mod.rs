//! Live policy from etcd: what [`watch`](super::watch) says is done here, with the client crate.

mod calls;
pub(crate) mod connect;
pub(crate) mod failure;

use std::{collections::BTreeMap, future::Future, sync::Arc, time::Instant};

use calls::Ranges;
pub(crate) use calls::prefix_end;
pub use connect::{Config, ConfigError, Tls};
use connect::{Connection, Member};
use etcd_client::{Client, Error};
use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
};

use super::{
    Event, Lost,
    key::Identity,
    watch::{Action, Failure, FailureKind, Input, LaneId, Settings, Step, Watcher},
};

/// How many events may wait to be taken; the store is not read any further then.
const EVENTS: usize = 16;

/// How many answers may wait for the supervisor.
const INPUTS: usize = 64;

/// A store that is an etcd.
#[derive(Debug, Clone)]
pub struct Etcd {
    nudge: Arc<Notify>,
}

impl Etcd {
    /// A store with these members, for this instance: a handle, the task that does the work (on a tokio runtime with
    /// time and I/O; it ends when the receiver is dropped, and connects only when it is run), and what it tells.
    pub fn new(
        config: Config,
        identity: &Identity,
        settings: Settings,
    ) -> Result<(Self, impl Future<Output = ()> + Send + use<>, mpsc::Receiver<Event>), ConfigError> {
        let members = config.members()?;
        let (events, receiver) = mpsc::channel(EVENTS);
        let (inputs, answers) = mpsc::channel(INPUTS);
        let nudge = Arc::new(Notify::new());
        let context = Context { ranges: Ranges::new(&config.root, identity), config, members, inputs };
        let driver = Driver {
            context: Arc::new(context),
            answers,
            events,
            nudge: Arc::clone(&nudge),
            lanes: BTreeMap::new(),
            streams: 0,
        };
        Ok((Self { nudge }, driver.run(settings), receiver))
    }

    /// Asks for a proof at once, where the store is there: an [`Event::Proven`] follows soon.
    pub fn nudge(&self) {
        self.nudge.notify_one();
    }
}

/// What every call needs.
#[derive(Debug)]
struct Context {
    config: Config,
    members: Vec<Member>,
    ranges: Ranges,
    inputs: mpsc::Sender<Answer>,
}

/// What comes back from a call.
#[derive(Debug)]
enum Answer {
    Connected(LaneId, Box<Connection>),
    Input(Input),
    /// From a stream, by its number: one that was replaced has no say any more.
    Stream(u64, Input),
}

/// A lane: its connection and what runs on it. All of it ends when this is dropped.
#[derive(Debug)]
struct Lane {
    member: usize,
    connection: Option<Box<Connection>>,
    calls: JoinSet<()>,
    stream: Option<Stream>,
}

#[derive(Debug)]
struct Stream {
    number: u64,
    progress: mpsc::Sender<()>,
    task: AbortHandle,
}

#[derive(Debug)]
struct Driver {
    context: Arc<Context>,
    answers: mpsc::Receiver<Answer>,
    events: mpsc::Sender<Event>,
    nudge: Arc<Notify>,
    lanes: BTreeMap<LaneId, Lane>,
    streams: u64,
}

impl Driver {
    async fn run(mut self, settings: Settings) {
        let mut rng = fastrand::Rng::new();
        let endpoints = self.context.members.iter().map(|member| member.endpoint.clone()).collect();
        let has_user = self.context.config.user.is_some();
        let mut watcher = Watcher::new(settings, endpoints, has_user, Instant::now(), &mut rng);
        loop {
            let Some(input) = self.next(watcher.deadline()).await else { return };
            for action in watcher.handle(input, Instant::now(), &mut rng) {
                if !self.act(action).await {
                    return;
                }
            }
        }
    }

    /// What happens next; nothing more when nobody listens any more.
    async fn next(&mut self, deadline: Option<Instant>) -> Option<Input> {
        let time = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = self.events.closed() => None,
            answer = self.answers.recv() => Some(self.receive(answer?)),
            () = self.nudge.notified() => Some(Input::Nudge),
            () = time => Some(Input::Tick),
        }
    }

    fn receive(&mut self, answer: Answer) -> Input {
        match answer {
            Answer::Connected(id, connection) => {
                if let Some(lane) = self.lanes.get_mut(&id) {
                    lane.connection = Some(connection);
                }
                Input::Dialed(id)
            }
            Answer::Input(input) => input,
            Answer::Stream(number, input) => {
                let streams = self.lanes.values().filter_map(|lane| lane.stream.as_ref());
                if streams.map(|stream| stream.number).any(|open| open == number) {
                    input
                } else {
                    Input::Tick
                }
            }
        }
    }

    /// Does what the supervisor says; false when nobody listens any more.
    async fn act(&mut self, action: Action) -> bool {
        match action {
            Action::Tell(event) => return self.events.send(event).await.is_ok(),
            Action::Dial(id, member) => self.dial(id, member),
            Action::Close(id) => drop(self.lanes.remove(&id)),
            Action::Authenticate(id) => self.authenticate(id),
            Action::Probe(id) => self.call(id, Step::Probe, |client, ranges| async move {
                let (version, head) = Box::pin(calls::probe(client, ranges)).await?;
                Ok(Input::Probed(id, version, head))
            }),
            Action::Glance(id, number) => self.call(id, Step::Audit, |client, ranges| async move {
                Ok(Input::Glanced(id, number, calls::head(client, ranges).await?))
            }),
            Action::Audit(id, number, since) => self.call(id, Step::Audit, |client, ranges| async move {
                Ok(Input::Audited(id, number, calls::audit(client, ranges, since).await?))
            }),
            Action::Page(id, request) => self.call(id, Step::Page, |client, ranges| async move {
                Ok(Input::Page(id, calls::page(client, ranges, request).await?))
            }),
            Action::Watch(id, from) => self.watch(id, from),
            Action::Progress(id) => {
                if let Some(stream) = self.lanes.get(&id).and_then(|lane| lane.stream.as_ref()) {
                    // One that waits already is as good.
                    let _ = stream.progress.try_send(());
                }
            }
        }
        true
    }

    fn dial(&mut self, id: LaneId, member: usize) {
        let context = Arc::clone(&self.context);
        let mut calls = JoinSet::new();
        calls.spawn(async move {
            let Some(found) = context.members.get(member) else { return };
            let answer = match connect::connect(&context.config, found).await {
                Ok(connection) => Answer::Connected(id, Box::new(connection)),
                Err(failure) => Answer::Input(Input::Failed(id, Step::Dial, failure)),
            };
            let _ = context.inputs.send(answer).await;
        });
        self.lanes.insert(id, Lane { member, connection: None, calls, stream: None });
    }

    fn authenticate(&mut self, id: LaneId) {
        let Some((lane, mut client)) = lane(&mut self.lanes, id) else { return };
        let (context, member) = (Arc::clone(&self.context), lane.member);
        lane.calls.spawn(async move {
            let Some(member) = context.members.get(member) else { return };
            let input = match authenticate(&context.config, member, &mut client).await {
                Ok(()) => Input::Authenticated(id),
                Err(failure) => Input::Failed(id, Step::Authenticate, failure),
            };
            let _ = context.inputs.send(Answer::Input(input)).await;
        });
    }

    fn call<F>(&mut self, id: LaneId, step: Step, call: impl FnOnce(Client, Ranges) -> F)
    where
        F: Future<Output = Result<Input, Error>> + Send + 'static,
    {
        let Some((lane, client)) = lane(&mut self.lanes, id) else { return };
        let (context, member) = (Arc::clone(&self.context), lane.member);
        let call = call(client.clone(), context.ranges.clone());
        while lane.calls.try_join_next().is_some() {}
        lane.calls.spawn(async move {
            let input = match call.await {
                Ok(input) => input,
                Err(error) => {
                    let endpoint = context.members.get(member).map_or("", |member| &member.endpoint);
                    let missing = if failure::is_denied(&error) {
                        calls::missing_rights(client, &context.ranges).await
                    } else {
                        Vec::new()
                    };
                    Input::Failed(id, step, failure::of_call(endpoint, &error, &missing))
                }
            };
            let _ = context.inputs.send(Answer::Input(input)).await;
        });
    }

    fn watch(&mut self, id: LaneId, from: i64) {
        self.streams += 1;
        let number = self.streams;
        let Some((lane, client)) = lane(&mut self.lanes, id) else { return };
        if let Some(old) = lane.stream.take() {
            old.task.abort();
        }
        let (context, member) = (Arc::clone(&self.context), lane.member);
        let (progress, asked) = mpsc::channel(1);
        let task = lane.calls.spawn(async move {
            let endpoint = context.members.get(member).map_or("", |member| &member.endpoint);
            let send = |input| {
                let sent = context.inputs.send(Answer::Stream(number, input));
                async { sent.await.is_ok() }
            };
            let told = |message| send(Input::Message(id, message));
            let ranges = context.ranges.clone();
            let failure = match Box::pin(calls::watch(client, endpoint, ranges, from, asked, told)).await {
                Ok(()) => Failure {
                    kind: FailureKind::Lost(Lost::Broken),
                    text: format!("{endpoint}: the watch has ended"),
                },
                Err(error) => failure::of(endpoint, &error),
            };
            send(Input::Failed(id, Step::Watch, failure)).await;
        });
        lane.stream = Some(Stream { number, progress, task });
    }
}

fn lane(lanes: &mut BTreeMap<LaneId, Lane>, id: LaneId) -> Option<(&mut Lane, Client)> {
    let lane = lanes.get_mut(&id)?;
    let client = lane.connection.as_ref()?.client.clone();
    Some((lane, client))
}

/// Gets a token, with the password as it is on disk now. A store without users needs none.
pub(crate) async fn authenticate(
    config: &Config,
    member: &Member,
    client: &mut Client,
) -> Result<(), Failure> {
    let credentials = config.credentials().map_err(|text| member.failure(Lost::Auth, &text))?;
    if credentials.is_none() {
        return Ok(());
    }
    match client.update_user(credentials).await {
        Err(error) if failure::is_auth_off(&error) => Ok(()),
        Err(error) => Err(failure::of(&member.endpoint, &error)),
        Ok(()) => Ok(()),
    }
}
