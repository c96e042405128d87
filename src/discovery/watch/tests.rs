use std::sync::Mutex;

use hickory_resolver::proto::{op::ResponseCode, rr::RecordType};

use super::{super::fake::*, *};
use crate::config::{
    self, Env, HostFacts,
    policy::{Discover, Upstream},
};

const NEVER: Duration = Duration::from_hours(1);
const OFTEN: Duration = Duration::from_millis(10);

fn policy(names: &[(&str, Duration, Duration)]) -> Policy {
    let text = "service: s\nlisteners: { in: { listen: 127.0.0.1:1 } }\npolicy:\n  routes: {}\n  upstreams: { u: { endpoints: [127.0.0.1:1] } }\n";
    let host = HostFacts { hostname: "h".into(), cpus: 1 };
    let env = Env { vars: &|_| None, host: &host, probe: &|_, _| Ok(()) };
    let mut policy = config::load("weir.yaml", text.as_bytes(), &env).file.unwrap().policy;
    let plain = policy.upstreams.pop_first().unwrap().1;
    for (index, (name, interval, max_interval)) in names.iter().enumerate() {
        let discover =
            Discover { host: (*name).into(), port: 80, interval: *interval, max_interval: *max_interval };
        let name = config::Name::new(&format!("u{index}")).unwrap();
        let upstream = Upstream { name: name.clone(), discover: Some(discover), ..Upstream::clone(&plain) };
        policy.upstreams.insert(name, Arc::new(upstream));
    }
    policy
}

fn target(name: &str) -> Target {
    Target { host: name.into(), port: 80 }
}

/// What is looked up of a name server to play with.
struct World {
    dns: FakeDns,
    table: Arc<Discoveries>,
    watch: Watch,
    taken: Arc<Mutex<Vec<String>>>,
}

impl World {
    async fn new() -> Self {
        let (dns, table) = (FakeDns::start().await, Arc::new(Discoveries::default()));
        let taken = Arc::new(Mutex::new(Vec::new()));
        let take = {
            let taken = taken.clone();
            move |target: &Target, found: &Arc<[SocketAddr]>| {
                taken.lock().unwrap().push(format!("{target} {found:?}"));
            }
        };
        let watch = Watch::new(dns.names(), table.clone(), Arc::new(take));
        Self { dns, table, watch, taken }
    }

    fn shown(&self, name: &str) -> super::super::Shown {
        self.table.of(&target(name)).unwrap()
    }

    fn last_taken(&self) -> String {
        self.taken.lock().unwrap().last().cloned().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_ttl_of_nothing_is_asked_again_after_the_interval_and_changes_are_told() {
    let mut world = World::new().await;
    world.dns.say_v4("db.", &[[10, 0, 0, 2], [10, 0, 0, 1]], 0);
    world.watch.follow(&policy(&[("db", OFTEN, NEVER)]));
    until("the first", || world.last_taken() == "db:80 [10.0.0.1:80, 10.0.0.2:80]").await;
    world.dns.say_v4("db.", &[[10, 0, 0, 3]], 0);
    until("the other", || world.last_taken() == "db:80 [10.0.0.3:80]").await;
    let shown = world.shown("db");
    assert_eq!((shown.failures, shown.error, shown.ttl), (0, None, Some(Duration::ZERO)));
    assert!(shown.answered.is_some());
}

#[tokio::test]
async fn a_long_ttl_is_asked_again_after_the_longest_interval() {
    let mut world = World::new().await;
    world.dns.say_v4("db.", &[[10, 0, 0, 1]], 80_000);
    world.dns.say_v4("slow.", &[[10, 0, 0, 1]], 80_000);
    world.watch.follow(&policy(&[("db", OFTEN, OFTEN), ("slow", OFTEN, NEVER)]));
    until("some look-ups", || world.dns.asked_for("db.", RecordType::A) > 5).await;
    assert_eq!(world.dns.asked_for("slow.", RecordType::A), 1, "its TTL is honoured");
    let next = world.shown("slow").next.unwrap();
    assert!(next > Instant::now() + NEVER / 2);
    // A shorter bound acts on the wait that has begun.
    world.watch.follow(&policy(&[("slow", OFTEN, OFTEN)]));
    until("it", || world.dns.asked_for("slow.", RecordType::A) > 3).await;
}

#[tokio::test]
async fn whatever_goes_wrong_the_last_addresses_stay_with_their_age() {
    for reply in
        [ResponseCode::ServFail, ResponseCode::NXDomain, ResponseCode::NoError, ResponseCode::Refused]
    {
        let mut world = World::new().await;
        world.dns.say_v4("db.", &[[10, 0, 0, 1]], 0);
        world.watch.follow(&policy(&[("db", OFTEN, OFTEN)]));
        until("the first", || !world.last_taken().is_empty()).await;
        world.dns.say_both("db.", &Reply::Code(reply));
        until("a failure", || world.shown("db").failures > 0).await;
        let shown = world.shown("db");
        assert_eq!(format!("{:?}", shown.addresses), "[10.0.0.1:80]");
        assert!(shown.answered.is_some_and(|at| at < Instant::now()) && shown.error.is_some());
        world.dns.say_v4("db.", &[[10, 0, 0, 2]], 0);
        until("it to recover", || world.last_taken() == "db:80 [10.0.0.2:80]").await;
        assert_eq!((world.shown("db").failures, world.shown("db").error), (0, None));
    }
}

#[tokio::test]
async fn a_name_that_was_never_found_is_tried_again() {
    let mut world = World::new().await;
    let targets = [target("db")];
    assert!(!world.table.tried(&targets));
    world.watch.follow(&policy(&[("db", OFTEN, OFTEN)]));
    until("the first try", || world.table.tried(&targets)).await;
    assert_eq!(world.shown("db").error.as_deref(), Some("no such name"));
    world.dns.say_v4("db.", &[[10, 0, 0, 1]], 0);
    until("the addresses", || world.last_taken() == "db:80 [10.0.0.1:80]").await;
}

#[tokio::test]
async fn addresses_of_a_family_that_cannot_be_asked_for_stay() {
    let mut world = World::new().await;
    let v6: std::net::IpAddr = "fd00::1".parse().unwrap();
    world.dns.say("db.", RecordType::A, Reply::Addresses(vec![[10, 0, 0, 1].into()], 0));
    world.dns.say("db.", RecordType::AAAA, Reply::Addresses(vec![v6], 0));
    world.watch.follow(&policy(&[("db", OFTEN, OFTEN)]));
    until("both", || world.last_taken() == "db:80 [10.0.0.1:80, [fd00::1]:80]").await;
    world.dns.say("db.", RecordType::AAAA, Reply::Code(ResponseCode::ServFail));
    world.dns.say("db.", RecordType::A, Reply::Addresses(vec![[10, 0, 0, 2].into()], 0));
    until("one", || world.last_taken() == "db:80 [10.0.0.2:80, [fd00::1]:80]").await;
    assert!(world.shown("db").error.is_some_and(|error| error.starts_with("V6: ")));
    world.dns.say("db.", RecordType::AAAA, Reply::Code(ResponseCode::NoError));
    until("it to be gone", || world.last_taken() == "db:80 [10.0.0.2:80]").await;
}

#[tokio::test]
async fn what_no_policy_names_is_not_looked_up_any_more() {
    let mut world = World::new().await;
    world.dns.say_v4("gone.", &[[10, 0, 0, 1]], 0);
    world.dns.say_v4("stays.", &[[10, 0, 0, 1]], 0);
    world.watch.follow(&policy(&[("gone", OFTEN, OFTEN), ("stays", OFTEN, OFTEN), ("stays", NEVER, NEVER)]));
    until("both", || world.table.tried(&[target("gone"), target("stays")])).await;
    assert_eq!(world.table.all().len(), 2, "two upstreams share a look-up");
    world.watch.follow(&policy(&[("stays", OFTEN, OFTEN)]));
    assert!(!world.watch.has(&target("gone")) && world.table.of(&target("gone")).is_none());
    let (asked, stays) =
        (world.dns.asked_for("gone.", RecordType::A), world.dns.asked_for("stays.", RecordType::A));
    until("more look-ups", || world.dns.asked_for("stays.", RecordType::A) > stays + 5).await;
    // One may have been on its way.
    assert!(world.dns.asked_for("gone.", RecordType::A) <= asked + 1);
}
