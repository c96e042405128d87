//! The file as a whole: what is checked in, what is refused and how, and that nothing panics.

#![expect(clippy::unwrap_used, reason = "the helpers of tests may unwrap as tests do")]

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use proptest::prelude::*;
use serde_json::Value as Json;
use weir::config::{
    Code, Env, HostFacts, Kind, Loaded, Name, PemKind, Severity,
    bootstrap::StoreSource,
    load,
    policy::{
        BalancerPolicy, Breaker, BreakerMode, BreakerOverride, BreakerWindow, Ejection, EjectionState,
        Fallback, HealthCheck, Percent, SlowStart, Target, Upstream,
    },
    schema,
};

const MINIMAL: &str = include_str!("../config/minimal.yaml");
const ANNOTATED: &str = include_str!("../config/weir.yaml");
const REPLICAS: &str = include_str!("../config/replicas.yaml");

fn load_text(text: &[u8]) -> Loaded {
    let vars = |name: &str| match name {
        "PORT" => Some("8081".to_owned()),
        "COUNT" => Some("7".to_owned()),
        "EMPTY" => Some(String::new()),
        _ => None,
    };
    let probe = |path: &Path, _: PemKind| {
        if path.starts_with("none") { Err("No such file".to_owned()) } else { Ok(()) }
    };
    let host = HostFacts { hostname: "pod-7".to_owned(), cpus: 8 };
    load("weir.yaml", text, &Env { vars: &vars, host: &host, probe: &probe })
}

fn json_of(yaml: &str) -> Option<Json> {
    serde_yaml::from_str::<Json>(yaml).ok()
}

// ---- what is checked in

#[test]
fn the_files_that_are_checked_in_have_no_faults() {
    for (name, text) in [("minimal", MINIMAL), ("weir", ANNOTATED), ("replicas", REPLICAS)] {
        let loaded = load_text(text.as_bytes());
        assert!(loaded.faults.is_empty(), "{name}:\n{}", loaded.render(false));
        assert!(loaded.file.is_some());
    }
    assert_eq!(MINIMAL.lines().filter(|line| !line.starts_with('#')).count(), 5);
}

#[test]
fn the_annotated_file_says_the_defaults() {
    let text =
        |extra: &str| format!("service: orders\nlisteners: {{ inbound: {{ listen: '8080' }} }}\n{extra}");
    let plain = load_text(text("").as_bytes()).file.unwrap().bootstrap;
    let annotated = load_text(ANNOTATED.as_bytes()).file.unwrap();
    let mut bootstrap = annotated.bootstrap;
    bootstrap.listeners.retain(|name, _| name.as_str() == "inbound");
    assert_eq!(bootstrap, plain);

    let upstream = |name: &str| annotated.policy.upstreams[&Name::new(name).unwrap()].clone();
    let (app, inventory) = (upstream("app"), upstream("inventory"));
    let named =
        Upstream { name: app.name.clone(), endpoints: app.endpoints.clone(), ..Upstream::clone(&inventory) };
    assert_eq!(named, *app);
    let route = |name: &str| annotated.policy.routes[&Name::new(name).unwrap()].clone();
    let (plain, full) = (route("in"), route("inventory"));
    assert_eq!(
        (plain.timeout, plain.idle_timeout, plain.priority),
        (full.timeout, full.idle_timeout, full.priority)
    );
}

#[test]
fn the_example_reads_from_replicas_and_writes_to_the_primary() {
    let policy = load_text(REPLICAS.as_bytes()).file.unwrap().policy;
    let name = |text: &str| Name::new(text).unwrap();
    let target = |route: &str| policy.routes[&name(route)].target.clone();
    assert_eq!(target("reads"), Target::Upstream(name("catalog-reads")));
    assert_eq!(target("writes"), Target::Upstream(name("catalog-primary")));
    // Reads are the more specific ones: a write finds no route but the other.
    let reads = &policy.routes[&name("reads")].matches;
    assert_eq!(reads.methods, ["GET", "HEAD", "OPTIONS"]);
    assert_eq!(reads.host, policy.routes[&name("writes")].matches.host);
    assert!(policy.routes[&name("writes")].matches.methods.is_empty());
    // The primary takes reads when the replicas cannot: it is the last tier.
    let primary = &policy.upstreams[&name("catalog-primary")].endpoints;
    let tiers: Vec<_> = policy.upstreams[&name("catalog-reads")].endpoints.iter().map(|it| it.tier).collect();
    assert_eq!((primary.len(), tiers), (1, vec![0, 0, 1]));
    assert_eq!(policy.upstreams[&name("catalog-reads")].endpoints[2].address, primary[0].address);
}

#[test]
fn the_annotated_file_has_every_field() {
    let schema = schema();
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        for field in definition["properties"].as_object().into_iter().flat_map(|fields| fields.keys()) {
            assert!(ANNOTATED.contains(&format!("{field}:")), "{name}.{field} is not in config/weir.yaml");
        }
    }
}

#[test]
fn the_schema_that_is_checked_in_is_that_of_the_code() {
    let checked_in: Json = serde_json::from_str(include_str!("../config/weir.schema.json")).unwrap();
    assert!(checked_in == schema(), "run: weir schema > config/weir.schema.json");
}

#[test]
fn the_schema_takes_the_files_that_are_checked_in() {
    let schema = schema();
    jsonschema::meta::validate(&schema).expect("the schema is a schema");
    let validator = jsonschema::validator_for(&schema).unwrap();
    for text in [MINIMAL, ANNOTATED, REPLICAS] {
        let document = json_of(text).unwrap();
        let errors: Vec<_> = validator
            .iter_errors(&document)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        assert!(errors.is_empty(), "{errors:#?}");
    }
}

#[test]
fn the_defaults_in_the_schema_are_values_of_their_fields() {
    let schema = schema();
    let mut count = 0;
    for (name, definition) in schema["$defs"].as_object().unwrap() {
        for (field, property) in definition["properties"].as_object().into_iter().flatten() {
            assert!(!property["description"].as_str().unwrap().is_empty(), "{name}.{field} is not described");
            let Some(default) = property.get("default") else { continue };
            let own = serde_json::json!({ "$ref": format!("#/$defs/{name}/properties/{field}"), "$defs": schema["$defs"] });
            let validator = jsonschema::validator_for(&own).unwrap();
            assert!(validator.is_valid(default), "{name}.{field}: {default}");
            count += 1;
        }
    }
    assert!(count > 30);
}

#[test]
fn the_sample_of_the_handbook_only_asks_for_what_is_not_there_yet() {
    let text = "\
service: orders
store: { etcd: { endpoints: [http://127.0.0.1:2379], root: /weir }, boot_wait: 3s }
listeners:
  inbound:  { listen: 0.0.0.0:8080, protocol: auto }
  redis:    { listen: 127.0.0.1:6379, protocol: tcp, upstream: redis }
policy:
  upstreams:
    app:
      endpoints: [127.0.0.1:3000, { address: 10.0.0.2:8080, weight: 2, zone: b, tier: 1 }]
    inventory:
      endpoints: [10.0.0.1:8080, { address: 10.0.0.2:8080, weight: 2, zone: b, tier: 1 }]
      balancer: { policy: peak_ewma }
      health: { http: /healthz, interval: 5s }
      breaker: { failure_rate: 50%, min_requests: 20, open_for: 5s }
      slow_start: 30s
      retry: { attempts: 2 }
  routes:
    in: { listener: inbound, upstream: app, fallback: { upstream: inventory }, hedge: { after: p95 } }
  switches:
    no-recommendations: { match: { path: /recommendations/* }, reject: {}, state: off }
";
    let loaded = load_text(text.as_bytes());
    let codes: Vec<_> = loaded.faults.iter().map(|fault| fault.code).collect();
    assert_eq!(codes, [Code::LaterVersion; 4], "{}", loaded.render(false));
}

// ---- what is refused

/// A service and a listener: two lines, before a bad third.
const TOP: &str = "service: s\nlisteners: { in: { listen: 1.2.3.4:80 } }\n";
/// All but routes: six lines, before a bad seventh.
const ROUTE: &str = "service: s\nlisteners: { in: { listen: 1.2.3.4:80 } }\npolicy:\n  upstreams:\n    app: { endpoints: [h:1] }\n  routes:\n";
/// All but upstreams: four lines, before a bad fifth.
const UPSTREAM: &str = "service: s\nlisteners: { in: { listen: 1.2.3.4:80 } }\npolicy:\n  upstreams:\n";

/// An upstream: four lines, before a bad fifth.
const RULES: &str = "service: s\nlisteners: { in: { listen: 1.2.3.4:80 } }\npolicy:\n  upstreams: { app: { endpoints: [h:1] } }\n  ";

struct Bad {
    base: &'static str,
    text: &'static str,
    code: Code,
    at: (u32, u32),
    says: &'static str,
    /// Whether the schema alone finds it, as an editor would.
    schema: bool,
}

const fn bad(base: &'static str, text: &'static str, code: Code, at: (u32, u32), says: &'static str) -> Bad {
    Bad { base, text, code, at, says, schema: true }
}

/// As [`bad`], for what a schema cannot say.
const fn deep(base: &'static str, text: &'static str, code: Code, at: (u32, u32), says: &'static str) -> Bad {
    Bad { base, text, code, at, says, schema: false }
}

const BAD: &[Bad] = &[
    // text
    deep("", "", Code::Empty, (1, 1), "empty"),
    deep("", "# only a comment\n", Code::Empty, (1, 1), "empty"),
    deep("", "~\n", Code::Empty, (1, 1), "empty"),
    deep("", "\u{feff}service: s\n", Code::ByteOrderMark, (1, 1), "byte order mark"),
    deep("", "service: \"a\u{0}b\"\n", Code::ControlCharacter, (1, 12), "\\u{0}"),
    deep("", "service: [\n", Code::Syntax, (2, 1), "not YAML"),
    deep("", "a:\n\tb: 1\n", Code::Syntax, (2, 2), "not YAML"),
    deep("", "a: *x\n", Code::Syntax, (1, 4), "not YAML"),
    deep("", "a: b: c\n", Code::Syntax, (1, 5), "not YAML"),
    deep(TOP, "---\nservice: t\n", Code::ManyDocuments, (3, 1), "second document"),
    deep(TOP, "service: t\n", Code::DuplicateKey, (3, 1), "`service` stands here twice"),
    deep(TOP, "[a]: t\n", Code::BadKey, (3, 1), "a key must be a text; this is a list"),
    deep(TOP, "zone: !secret t\n", Code::Tag, (3, 7), "!secret"),
    deep(TOP, "zone: &a [*a]\n", Code::Alias, (3, 11), "inside of what it stands for"),
    deep(TOP, "zone: ${NOPE}\n", Code::Unset, (3, 7), "`NOPE` is not set"),
    deep(TOP, "zone: a-${NOPE}\n", Code::Unset, (3, 9), "`NOPE` is not set"),
    deep(TOP, "zone: ${PORT\n", Code::Expansion, (3, 7), "without its `}`"),
    deep(TOP, "zone: ${8}\n", Code::Expansion, (3, 7), "not the name of a variable"),
    deep(TOP, "admin: { listen: ${PORT} }\n", Code::Syntax, (3, 19), "not YAML"),
    // shape
    bad("", "- a\n", Code::WrongType, (1, 1), "expected a map (file), found a list"),
    bad("", "listeners: { in: { listen: 1.2.3.4:80 } }\n", Code::Missing, (1, 1), "`service` is missing"),
    bad("", "service: s\n", Code::Missing, (1, 1), "`listeners` is missing"),
    bad(TOP, "servce: t\n", Code::UnknownField, (3, 1), "no field `servce`"),
    // the store
    bad(TOP, "store: live\n", Code::WrongType, (3, 8), "expected a map (store)"),
    deep(TOP, "store: {}\n", Code::Missing, (3, 8), "`etcd` or `directory` is missing"),
    deep(
        TOP,
        "store: { etcd: { endpoints: [http://a] }, directory: live }\n",
        Code::Conflict,
        (3, 54),
        "exclude each other",
    ),
    bad(TOP, "store: { etcd: 'http://a' }\n", Code::WrongType, (3, 16), "expected a map (etcd)"),
    bad(TOP, "store: { etcd: {} }\n", Code::Missing, (3, 10), "`endpoints` is missing"),
    bad(TOP, "store: { etcd: { endpoints: [] } }\n", Code::TooFew, (3, 29), "at least 1"),
    bad(
        TOP,
        "store: { etcd: { endpoints: ['a:2379'] } }\n",
        Code::BadAddress,
        (3, 30),
        "`a:2379` is not a member of etcd",
    ),
    bad(
        TOP,
        "store: { etcd: { endpoints: ['http://u:p@a:2379'] } }\n",
        Code::BadAddress,
        (3, 30),
        "not a member of etcd",
    ),
    bad(
        TOP,
        "store: { etcd: { endpoints: ['http://a:2379/weir'] } }\n",
        Code::BadAddress,
        (3, 30),
        "not a member of etcd",
    ),
    bad(TOP, "store: { etcd: { endpoints: ['http://a:0'] } }\n", Code::BadAddress, (3, 30), "not a member"),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['http://a', 'http://a:2379'] } }\n",
        Code::Duplicate,
        (3, 42),
        "http://a:2379 stands here twice",
    ),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['http://a', 'https://b'] } }\n",
        Code::Inconsistent,
        (3, 42),
        "side by side",
    ),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['http://a'], tls: {} } }\n",
        Code::Inconsistent,
        (3, 48),
        "`tls` while the endpoints are `http://`",
    ),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['https://a'], tls: { cert: c } } }\n",
        Code::Incomplete,
        (3, 57),
        "`cert` without its `key`",
    ),
    bad(
        TOP,
        "store: { etcd: { endpoints: ['http://a'], root: weir } }\n",
        Code::BadValue,
        (3, 49),
        "not a prefix of keys",
    ),
    bad(
        TOP,
        "store: { etcd: { endpoints: ['http://a'], root: /weir/ } }\n",
        Code::BadValue,
        (3, 49),
        "not a prefix of keys",
    ),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['http://a'], user: u } }\n",
        Code::Incomplete,
        (3, 49),
        "`user` without `password_file`",
    ),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['http://a'], user: u, password_file: none/p } }\n",
        Code::BadFile,
        (3, 67),
        "No such file",
    ),
    bad(TOP, "store: { directory: '' }\n", Code::BadValue, (3, 21), "not the path of a file"),
    bad(TOP, "store: { directory: {} }\n", Code::Missing, (3, 10), "`path` is missing"),
    deep(
        TOP,
        "store: { directory: { path: live, interval: 2m } }\n",
        Code::OutOfBounds,
        (3, 45),
        "`2m` is out of bounds",
    ),
    bad(TOP, "store: { directory: live, cache: /tmp/ }\n", Code::BadValue, (3, 34), "a folder"),
    bad(TOP, "store: { directory: live, boot_wait: soon }\n", Code::BadValue, (3, 38), "not a duration"),
    deep(TOP, "store: { directory: live, presence: on }\n", Code::Conflict, (3, 37), "no `presence`"),
    bad(
        TOP,
        "store: { etcd: { endpoints: ['http://a'] }, presence: sometimes }\n",
        Code::WrongType,
        (3, 55),
        "`on`, `off` or a map",
    ),
    deep(
        TOP,
        "store: { etcd: { endpoints: ['http://a'] }, presence: { interval: 500ms } }\n",
        Code::OutOfBounds,
        (3, 67),
        "`500ms` is out of bounds",
    ),
    bad(TOP, "zone: [a]\n", Code::WrongType, (3, 1), "expected a name, found a list"),
    bad(TOP, "zone: a b\n", Code::BadName, (3, 7), "`a b` is not a name"),
    bad(TOP, "admin: on\n", Code::WrongType, (3, 8), "expected a map or `off`"),
    bad(TOP, "log: info\n", Code::WrongType, (3, 6), "expected a map (log), found a text"),
    // values
    bad(TOP, "workers: 0\n", Code::OutOfBounds, (3, 10), "0 is out of bounds"),
    bad(TOP, "workers: many\n", Code::UnknownChoice, (3, 10), "not a number of threads"),
    bad(
        TOP,
        "workers: 1.5\n",
        Code::WrongType,
        (3, 10),
        "expected `auto` or a number of threads, found a number",
    ),
    bad(TOP, "log: { level: inf }\n", Code::UnknownChoice, (3, 15), "`inf` is not a log level"),
    bad(TOP, "log: { access: 101% }\n", Code::OutOfBounds, (3, 16), "more than 100%"),
    bad(TOP, "drain: { delay: 5 }\n", Code::BadUnit, (3, 17), "needs a unit"),
    bad(TOP, "drain: { delay: 5sec }\n", Code::BadUnit, (3, 17), "`sec` is not a unit"),
    bad(TOP, "drain: { delay: -5s }\n", Code::BadValue, (3, 17), "not a duration"),
    bad(TOP, "drain: { delay: 1.5s }\n", Code::BadValue, (3, 17), "not a duration"),
    deep(TOP, "drain: { delay: 30s }\n", Code::Inconsistent, (3, 17), "longer than `drain.grace` (25s)"),
    deep(TOP, "telemetry: { listen: 127.0.0.1:9901 }\n", Code::AddressInUse, (3, 22), "taken by `admin`"),
    deep(TOP, "admin: { listen: 9902 }\n", Code::AddressInUse, (3, 18), "taken by `telemetry`"),
    // listeners
    bad("service: s\n", "listeners:\n  in: {}\n", Code::Missing, (3, 3), "`listen` is missing"),
    bad("service: s\n", "listeners:\n  in:\n", Code::WrongType, (3, 3), "found nothing"),
    deep("service: s\n", "listeners: {}\n", Code::TooFew, (2, 12), "no listener"),
    bad(
        "service: s\n",
        "listeners: { a/b: { listen: 80 } }\n",
        Code::BadName,
        (2, 14),
        "`a/b` is not a name",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: localhost:80 } }\n",
        Code::BadAddress,
        (2, 28),
        "not an address to listen on",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 70000 } }\n",
        Code::BadAddress,
        (2, 28),
        "70000 is not a port",
    ),
    deep(
        "service: s\n",
        "listeners: { a: { listen: 80 }, b: { listen: 127.0.0.1:80 } }\n",
        Code::AddressInUse,
        (2, 46),
        "taken by `listeners.a`",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, protocol: tcp } }\n",
        Code::LaterVersion,
        (2, 42),
        "`tcp` is known",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, proxy_protocol: v2 } }\n",
        Code::UnknownChoice,
        (2, 48),
        "not a choice of the PROXY protocol",
    ),
    deep(
        "service: s\n",
        "listeners: { in: { listen: 80, proxy_protocol_from: [::1] } }\n",
        Code::Incomplete,
        (2, 53),
        "while `proxy_protocol` is off",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, proxy_protocol: required, proxy_protocol_from: [] } }\n",
        Code::TooFew,
        (2, 79),
        "at least 1",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: unix:in.sock } }\n",
        Code::BadAddress,
        (2, 28),
        "not a unix socket",
    ),
    deep(
        "service: s\n",
        "listeners: { in: { listen: unix:/xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx } }\n",
        Code::BadAddress,
        (2, 28),
        "not a unix socket",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: unix:/run/s, socket_mode: 0999 } }\n",
        Code::BadValue,
        (2, 54),
        "not a mode",
    ),
    deep(
        "service: s\n",
        "listeners: { in: { listen: 80, socket_mode: '0600' } }\n",
        Code::Inconsistent,
        (2, 45),
        "`socket_mode` is for unix sockets",
    ),
    deep(
        "service: s\n",
        "listeners: { a: { listen: unix:/run/s }, b: { listen: unix:/run/s } }\n",
        Code::AddressInUse,
        (2, 55),
        "taken by `listeners.a`",
    ),
    deep(
        "service: s\n",
        "listeners: { inbound: { listen: 80, unmatched: passthrough } }\n",
        Code::Inconsistent,
        (2, 48),
        "only outbound listeners pass through",
    ),
    bad(
        "service: s\n",
        "listeners: { outbound: { listen: 80, unmatched: pass } }\n",
        Code::UnknownChoice,
        (2, 49),
        "not what becomes of unmatched requests",
    ),
    deep(
        "service: s\n",
        "listeners: { outbound: { listen: 80, passthrough: { max_tunnels: 5 } } }\n",
        Code::Incomplete,
        (2, 51),
        "without `unmatched: passthrough`",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, tls: { cert: c } } }\n",
        Code::Missing,
        (2, 32),
        "`key` is missing",
    ),
    deep(
        "service: s\n",
        "listeners: { in: { listen: 80, tls: { cert: none/c, key: k } } }\n",
        Code::BadFile,
        (2, 45),
        "No such file",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, header_timeout: 0 } }\n",
        Code::OutOfBounds,
        (2, 48),
        "above 0",
    ),
    deep(
        "service: s\n",
        "listeners: { in: { listen: 80, max_header_bytes: 1KiB } }\n",
        Code::OutOfBounds,
        (2, 50),
        "out of bounds",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, max_headers: '5' } }\n",
        Code::WrongType,
        (2, 45),
        "expected an integer, found a text",
    ),
    bad(
        "service: s\n",
        "listeners: { in: { listen: 80, trust: [ten/8] } }\n",
        Code::BadAddress,
        (2, 40),
        "not a network",
    ),
    deep(
        "service: s\n",
        "listeners: { in: { listen: 80, trust: [10.0.0.1/8] } }\n",
        Code::BadAddress,
        (2, 40),
        "not a network",
    ),
    // upstreams
    deep(UPSTREAM, "    app: {}\n", Code::Missing, (5, 5), "`endpoints` is missing"),
    deep(
        UPSTREAM,
        "    app: { endpoints: [unix:/run/s], tls: {} }\n",
        Code::Incomplete,
        (5, 43),
        "without `server_name`",
    ),
    bad(UPSTREAM, "    app: { endpoints: [unix:s] }\n", Code::BadAddress, (5, 24), "not a unix socket"),
    bad(UPSTREAM, "    app: { endpoints: [] }\n", Code::TooFew, (5, 23), "at least 1"),
    bad(UPSTREAM, "    app: { endpoints: [http://h:1] }\n", Code::BadAddress, (5, 24), "not an endpoint"),
    bad(
        UPSTREAM,
        "    app: { endpoints: [{ address: h:1, weight: -1 }] }\n",
        Code::OutOfBounds,
        (5, 48),
        "-1 is out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [{ weight: 1 }] }\n",
        Code::Missing,
        (5, 24),
        "`address` is missing",
    ),
    deep(UPSTREAM, "    app: { endpoints: [h:1, H:1] }\n", Code::Duplicate, (5, 29), "stands here twice"),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], tls: { cert: c } }\n",
        Code::Incomplete,
        (5, 43),
        "`cert` without its `key`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], tls: { server_name: 'a b' } }\n",
        Code::BadHost,
        (5, 50),
        "not a server name",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], pool: { max_connections: 1, min_idle: 2 } }\n",
        Code::Inconsistent,
        (5, 68),
        "more than `max_connections`",
    ),
    // routes
    deep(ROUTE, "    r: {}\n", Code::Missing, (7, 5), "`upstream` is missing"),
    deep(ROUTE, "    r: { upstream: ap }\n", Code::UnknownUpstream, (7, 20), "no upstream `ap`"),
    deep(
        ROUTE,
        "    r: { upstream: app, listener: im }\n",
        Code::UnknownListener,
        (7, 35),
        "no listener `im`",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, listener: in, match: { listener: im } }\n",
        Code::Conflict,
        (7, 35),
        "`listener` is `in` here",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { route: r } }\n",
        Code::Conflict,
        (7, 41),
        "cannot match on a route",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, split: [{ upstream: app }] }\n",
        Code::Conflict,
        (7, 20),
        "cannot both be given",
    ),
    deep(ROUTE, "    r: { split: [{ upstream: app, weight: 0 }] }\n", Code::NoWeight, (7, 17), "weight 0"),
    deep(
        ROUTE,
        "    r: { split: [{ upstream: app }, { upstream: app }] }\n",
        Code::Duplicate,
        (7, 49),
        "two parts",
    ),
    deep(ROUTE, "    r: { upstream: app, key: client }\n", Code::Incomplete, (7, 30), "without a `split`"),
    bad(
        ROUTE,
        "    r: { split: [{ upstream: app }], key: user }\n",
        Code::UnknownChoice,
        (7, 43),
        "not a part of a key",
    ),
    bad(ROUTE, "    r: { upstream: app, retry: {} }\n", Code::LaterVersion, (7, 25), "`retry` is known"),
    bad(ROUTE, "    r: { upstream: app, timeout: soon }\n", Code::BadValue, (7, 34), "not a duration"),
    bad(ROUTE, "    r: { upstream: app, priority: high }\n", Code::UnknownChoice, (7, 35), "not a priority"),
    bad(ROUTE, "    r: { upstream: app, max_body: 1TB }\n", Code::BadUnit, (7, 35), "`TB` is not a unit"),
    bad(
        ROUTE,
        "    r: { upstream: app, match: { path: a } }\n",
        Code::BadPath,
        (7, 40),
        "begin with a slash",
    ),
    bad(ROUTE, "    r: { upstream: app, match: { path: /a* } }\n", Code::BadPath, (7, 40), "`*` inside"),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { path: /a//b } }\n",
        Code::BadPath,
        (7, 40),
        "empty segment",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { path: [/ok, /a/../b] } }\n",
        Code::BadPath,
        (7, 46),
        "`..` segment",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, match: { path: /a?b=c } }\n",
        Code::BadPath,
        (7, 40),
        "more than a path",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { path: /a%zz } }\n",
        Code::BadPath,
        (7, 40),
        "percent escape",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { path: '~(' } }\n",
        Code::BadRegex,
        (7, 40),
        "unclosed group",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { path: '~(\\w{100}){100}' } }\n",
        Code::BadRegex,
        (7, 40),
        "256KiB",
    ),
    bad(ROUTE, "    r: { upstream: app, match: { host: '*' } }\n", Code::BadHost, (7, 40), "not a host"),
    bad(ROUTE, "    r: { upstream: app, match: { host: a:80 } }\n", Code::BadHost, (7, 40), "not a host"),
    bad(
        ROUTE,
        "    r: { upstream: app, match: { methods: get } }\n",
        Code::BadValue,
        (7, 43),
        "`get` is not a method",
    ),
    bad(ROUTE, "    r: { upstream: app, match: { methods: [] } }\n", Code::TooFew, (7, 43), "at least 1"),
    bad(
        ROUTE,
        "    r: { upstream: app, match: { headers: { 'x y': z } } }\n",
        Code::BadHeader,
        (7, 45),
        "not a header's name",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { headers: { x-a: b, X-A: c } } }\n",
        Code::Duplicate,
        (7, 53),
        "written differently",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, match: { grpc: /a.B/C } }\n",
        Code::BadValue,
        (7, 40),
        "not a gRPC method",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { grpc: a.B, methods: GET } }\n",
        Code::Inconsistent,
        (7, 40),
        "always POST",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, match: { path: '~/a.*' }, rewrite: { path_prefix: /b } }\n",
        Code::Inconsistent,
        (7, 75),
        "no prefix to replace",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, rewrite: { path_prefix: /b/* } }\n",
        Code::BadPath,
        (7, 49),
        "`*` inside",
    ),
    bad(ROUTE, "    r: { upstream: app, rewrite: { host: a/b } }\n", Code::BadHost, (7, 42), "not a host"),
    deep(
        ROUTE,
        "    r: { upstream: app, request_headers: { set: { Host: a } } }\n",
        Code::ForbiddenHeader,
        (7, 51),
        "`host` is not for policy",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, response_headers: { remove: Connection } }\n",
        Code::ForbiddenHeader,
        (7, 53),
        "`connection` is not for policy",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, request_headers: { add: { content-length: 1 } } }\n",
        Code::ForbiddenHeader,
        (7, 51),
        "`content-length`",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, request_headers: { set: { x-a: \"a\\nb\" } } }\n",
        Code::BadHeader,
        (7, 56),
        "not a header's value",
    ),
    // balancing, discovery, health, ejection, breakers, fallbacks
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { policy: ring_hash } }\n",
        Code::Missing,
        (5, 50),
        "`key` is missing",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { key: client } }\n",
        Code::Conflict,
        (5, 47),
        "`key` is for `policy: ring_hash`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { policy: fastest } }\n",
        Code::UnknownChoice,
        (5, 50),
        "not a balancer policy",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { excess: 0.5% } }\n",
        Code::OutOfBounds,
        (5, 50),
        "out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { decay: 99ms } }\n",
        Code::OutOfBounds,
        (5, 49),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { first_estimate: 0 } }\n",
        Code::OutOfBounds,
        (5, 58),
        "out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: { failure_cost: 61m } }\n",
        Code::OutOfBounds,
        (5, 56),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], balancer: peak_ewma }\n",
        Code::WrongType,
        (5, 40),
        "expected a map (balancer)",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: {} }\n",
        Code::Missing,
        (5, 30),
        "`dns` is missing",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: a:80 }\n",
        Code::WrongType,
        (5, 40),
        "expected a map (discover)",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: { dns: 10.0.0.1:80 } }\n",
        Code::BadAddress,
        (5, 47),
        "not a DNS name",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: { dns: unix:/run/s } }\n",
        Code::BadAddress,
        (5, 47),
        "not a DNS name",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: { dns: a.b } }\n",
        Code::BadAddress,
        (5, 47),
        "not an endpoint",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: { dns: a:80, interval: 999ms } }\n",
        Code::OutOfBounds,
        (5, 63),
        "out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], discover: { dns: a:80, interval: 6m } }\n",
        Code::Inconsistent,
        (5, 63),
        "longer than `max_interval` (5m)",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], slow_start: { from: 10 } }\n",
        Code::BadUnit,
        (5, 50),
        "without its `%`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], slow_start: { from: 0.99% } }\n",
        Code::OutOfBounds,
        (5, 50),
        "out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], slow_start: 61m }\n",
        Code::OutOfBounds,
        (5, 42),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], slow_start: soon }\n",
        Code::BadValue,
        (5, 42),
        "not a duration",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], min_healthy: half }\n",
        Code::BadUnit,
        (5, 43),
        "without its `%`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], min_healthy: 101% }\n",
        Code::OutOfBounds,
        (5, 43),
        "more than 100%",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { slow_rate: 5%, slow_after: 0 } }\n",
        Code::OutOfBounds,
        (5, 68),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { upstream: a b } }\n",
        Code::BadName,
        (5, 52),
        "not a name",
    ),
    deep(UPSTREAM, "    app: { endpoints: [h:1], health: {} }\n", Code::Missing, (5, 38), "needs its kind"),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { interval: 1s } }\n",
        Code::Missing,
        (5, 38),
        "needs its kind",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: /healthz }\n",
        Code::WrongType,
        (5, 38),
        "expected a map or `off`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: healthz } }\n",
        Code::BadPath,
        (5, 46),
        "not a path to ask for",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: '/a b' } }\n",
        Code::BadPath,
        (5, 46),
        "not a path to ask for",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { tcp: false } }\n",
        Code::BadValue,
        (5, 45),
        "it is `true`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { tls: 443 } }\n",
        Code::BadValue,
        (5, 45),
        "it is `true`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { grpc: a.B/Check } }\n",
        Code::BadValue,
        (5, 46),
        "not a gRPC service",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { grpc: false } }\n",
        Code::BadValue,
        (5, 46),
        "not a gRPC service",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, tcp: true } }\n",
        Code::Conflict,
        (5, 54),
        "`http` and `tcp` cannot both be given",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { grpc: true, send: x } }\n",
        Code::Conflict,
        (5, 58),
        "`grpc` and `send` cannot both be given",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { tls: true } }\n",
        Code::Incomplete,
        (5, 45),
        "without `tls`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { tcp: true, method: HEAD } }\n",
        Code::Conflict,
        (5, 59),
        "`method` belongs to checks by `http`; this one is by `tcp`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { grpc: true, host: a } }\n",
        Code::Conflict,
        (5, 58),
        "`host` belongs to checks by `http`; this one is by `grpc`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { send: x, expect: y, contains: z } }\n",
        Code::Conflict,
        (5, 70),
        "`contains` belongs to checks by `http`; this one is by `send`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { tcp: true, expect: 200 } }\n",
        Code::Conflict,
        (5, 59),
        "`expect` belongs to checks by `http` and `send`; this one is by `tcp`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { expect: y, method: GET } }\n",
        Code::Conflict,
        (5, 59),
        "`method` belongs to checks by `http`; this one is by `expect`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { send: x } }\n",
        Code::Incomplete,
        (5, 46),
        "`send` without `expect`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { send: x, expect: [a, b] } }\n",
        Code::BadValue,
        (5, 61),
        "not several",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { send: x, expect: '' } }\n",
        Code::BadValue,
        (5, 57),
        "an empty text",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, contains: '' } }\n",
        Code::BadValue,
        (5, 59),
        "an empty text",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, method: HEAD, contains: a } }\n",
        Code::Inconsistent,
        (5, 73),
        "no body",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, method: CONNECT } }\n",
        Code::BadValue,
        (5, 57),
        "no path",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, expect: ok } }\n",
        Code::BadValue,
        (5, 57),
        "not a set of statuses",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, expect: [200, 1xx] } }\n",
        Code::OutOfBounds,
        (5, 63),
        "not a set of statuses",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, expect: [] } }\n",
        Code::TooFew,
        (5, 57),
        "at least 1",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, port: 0 } }\n",
        Code::OutOfBounds,
        (5, 55),
        "0 is out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, interval: 99ms } }\n",
        Code::OutOfBounds,
        (5, 59),
        "out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, timeout: 6s } }\n",
        Code::Inconsistent,
        (5, 58),
        "longer than `interval` (5s)",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, rise: 0 } }\n",
        Code::OutOfBounds,
        (5, 55),
        "0 is out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], health: { http: /, fall: 101 } }\n",
        Code::OutOfBounds,
        (5, 55),
        "101 is out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: maybe }\n",
        Code::UnknownChoice,
        (5, 40),
        "not a state of ejection",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: { consecutive: 0, failure_rate: off } }\n",
        Code::Incomplete,
        (5, 55),
        "nothing counts",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: { consecutive: -1 } }\n",
        Code::OutOfBounds,
        (5, 55),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: { failure_rate: 50 } }\n",
        Code::BadUnit,
        (5, 56),
        "without its `%`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: { base: 2m } }\n",
        Code::Inconsistent,
        (5, 48),
        "longer than `max` (1m)",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: { max_share: 0% } }\n",
        Code::OutOfBounds,
        (5, 53),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], ejection: { min_requests: 0 } }\n",
        Code::OutOfBounds,
        (5, 56),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: on }\n",
        Code::UnknownChoice,
        (5, 39),
        "not a mode of breakers",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { mode: half_open } }\n",
        Code::UnknownChoice,
        (5, 47),
        "not a mode of breakers",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { window: 10 } }\n",
        Code::Inconsistent,
        (5, 49),
        "smaller than `min_requests` (20)",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { window: 100, min_requests: 101 } }\n",
        Code::Inconsistent,
        (5, 49),
        "`window` (100 calls) is smaller",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { window: 9 } }\n",
        Code::OutOfBounds,
        (5, 49),
        "out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { window: 11m } }\n",
        Code::OutOfBounds,
        (5, 49),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { window: 10sec } }\n",
        Code::BadUnit,
        (5, 49),
        "not a unit",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { slow_rate: 50% } }\n",
        Code::Incomplete,
        (5, 52),
        "`slow_rate` without `slow_after`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { open_for: 90s } }\n",
        Code::Inconsistent,
        (5, 51),
        "`open_for` (90s) is longer than `max_open` (1m)",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { half_open: 0 } }\n",
        Code::OutOfBounds,
        (5, 52),
        "0 is out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { ramp: 2h } }\n",
        Code::OutOfBounds,
        (5, 47),
        "out of bounds",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], breaker: { panic: 1 } }\n",
        Code::UnknownField,
        (5, 41),
        "no field `panic`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], panic: 50% }\n",
        Code::UnknownField,
        (5, 30),
        "no field `panic`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], concurrency: { limit: 5 } }\n",
        Code::LaterVersion,
        (5, 30),
        "is known",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: {} }\n",
        Code::Missing,
        (5, 40),
        "needs `respond` or `upstream`",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: app }\n",
        Code::WrongType,
        (5, 40),
        "expected a map (fallback)",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { upstream: nope } }\n",
        Code::UnknownUpstream,
        (5, 52),
        "no upstream `nope`",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { upstream: app } }\n",
        Code::Circle,
        (5, 52),
        "a circle of fallbacks: app → app",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { respond: {}, upstream: app2 } }\n",
        Code::Conflict,
        (5, 65),
        "cannot both be given",
    ),
    bad(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { respond: { status: 100 } } }\n",
        Code::OutOfBounds,
        (5, 61),
        "100 is out of bounds",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { respond: { status: 204, body: x } } }\n",
        Code::Inconsistent,
        (5, 72),
        "has no body",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { upstream: b } }\n    b: { endpoints: [h:1], fallback: { upstream: c } }\n    c: { endpoints: [h:1], fallback: { upstream: app } }\n",
        Code::Circle,
        (7, 50),
        "a circle of fallbacks: app → b → c → app",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1], fallback: { upstream: b } }\n    b: { endpoints: [h:1] }\n  plans: { p: { upstreams: { b: { fallback: { upstream: app } } } } }\n",
        Code::Circle,
        (7, 57),
        "a circle of fallbacks: app → b → app",
    ),
    deep(
        UPSTREAM,
        "    app: { endpoints: [h:1] }\n    b: { endpoints: [h:1] }\n  plans:\n    p: { state: on, upstreams: { b: { fallback: { upstream: app } } } }\n    q: { state: on, upstreams: { app: { fallback: { upstream: b } } } }\n",
        Code::Circle,
        (9, 63),
        "a circle of fallbacks: app → b → app",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, hedge: { after: p95 } }\n",
        Code::LaterVersion,
        (7, 25),
        "`hedge` is known",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, fallback: { upstream: nope } }\n",
        Code::UnknownUpstream,
        (7, 47),
        "no upstream `nope`",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, fallback: { upstream: app } }\n",
        Code::Circle,
        (7, 47),
        "go to `app` in the first place",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, fallback: {} }\n",
        Code::Missing,
        (7, 35),
        "needs `respond` or `upstream`",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, breaker: { window: 10, min_requests: 11 } }\n",
        Code::Inconsistent,
        (7, 44),
        "smaller than `min_requests` (11)",
    ),
    deep(
        ROUTE,
        "    r: { upstream: app, breaker: { open_for: 2s, max_open: 1s } }\n",
        Code::Inconsistent,
        (7, 46),
        "longer than `max_open` (1s)",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, breaker: { mode: on } }\n",
        Code::UnknownChoice,
        (7, 42),
        "not a mode of breakers",
    ),
    bad(
        ROUTE,
        "    r: { upstream: app, breaker: { open_for: 0 } }\n",
        Code::OutOfBounds,
        (7, 46),
        "out of bounds",
    ),
    // limits, switches, plans
    bad(RULES, "limits: { l: {} }\n", Code::Missing, (5, 13), "`rate` is missing"),
    bad(RULES, "limits: { l: 0/s }\n", Code::OutOfBounds, (5, 16), "at least 1"),
    bad(
        RULES,
        "limits: { l: { rate: 5/s, state: maybe } }\n",
        Code::UnknownChoice,
        (5, 36),
        "not a state of limits",
    ),
    bad(RULES, "limits: { l: { rate: 5 } }\n", Code::WrongType, (5, 24), "expected a rate"),
    deep(
        RULES,
        "limits: { l: { rate: 5/s, algorithm: sliding_window, burst: 5 } }\n",
        Code::Conflict,
        (5, 63),
        "a window takes no `burst`",
    ),
    deep(RULES, "limits: { l: { rate: 5/s, max_wait: 1s } }\n", Code::Conflict, (5, 39), "leaky_bucket"),
    deep(RULES, "limits: { l: { rate: 5/s, cost: 6 } }\n", Code::Inconsistent, (5, 35), "never more than 5"),
    deep(RULES, "limits: { l: { rate: 5/s, share: redis } }\n", Code::Incomplete, (5, 36), "without a Redis"),
    deep(
        RULES,
        "limits: { l: { rate: 5/s, share: redis } }\nredis: { url: redis://h }\n",
        Code::Incomplete,
        (5, 36),
        "each instance has all of 5/s",
    ),
    deep(
        RULES,
        "limits: { l: { rate: 5/s, match: { route: nope } } }\n",
        Code::UnknownRoute,
        (5, 45),
        "no route `nope`",
    ),
    deep(
        RULES,
        "limits: { l: { rate: 5/s, match: { listener: out } } }\n",
        Code::UnknownListener,
        (5, 48),
        "no listener `out`",
    ),
    bad(TOP, "redis: {}\n", Code::Missing, (3, 1), "`url` is missing"),
    bad(TOP, "redis: { url: http://h }\n", Code::BadAddress, (3, 15), "not the URL of a Redis"),
    deep(RULES, "switches: { s: {} }\n", Code::Missing, (5, 15), "needs an action"),
    deep(RULES, "switches: { s: on }\n", Code::Missing, (5, 15), "needs an action"),
    bad(
        RULES,
        "switches: { s: { state: 101%, reject: {} } }\n",
        Code::OutOfBounds,
        (5, 27),
        "more than 100%",
    ),
    deep(
        RULES,
        "switches: { s: { reject: {}, shed: {} } }\n",
        Code::Conflict,
        (5, 38),
        "`reject` and `shed` cannot both be given",
    ),
    deep(
        RULES,
        "switches: { s: { reject: {}, state: auto } }\n",
        Code::Incomplete,
        (5, 39),
        "`state: auto` without `when`",
    ),
    deep(RULES, "switches: { s: { upstream: b } }\n", Code::UnknownUpstream, (5, 30), "no upstream `b`"),
    bad(RULES, "switches: { s: { reject: { status: 200 } } }\n", Code::OutOfBounds, (5, 38), "200"),
    deep(
        RULES,
        "switches: { s: { respond: { json: [], body: x } } }\n",
        Code::Conflict,
        (5, 47),
        "`json` and `body`",
    ),
    deep(
        RULES,
        "switches: { s: { respond: { status: 204, body: x } } }\n",
        Code::Inconsistent,
        (5, 50),
        "has no body",
    ),
    deep(
        RULES,
        "switches: { s: { delay: { p50: 2s, max: 1s } } }\n",
        Code::Inconsistent,
        (5, 43),
        "less than `p50`",
    ),
    deep(
        RULES,
        "switches: { s: { shed: { below: background } } }\n",
        Code::Inconsistent,
        (5, 35),
        "nothing is below",
    ),
    deep(
        RULES,
        "switches: { s: { annotate: { host: a } } }\n",
        Code::ForbiddenHeader,
        (5, 32),
        "not for policy",
    ),
    deep(
        RULES,
        "switches: { s: { shed: {}, state: auto, when: { signal: p99, of: app, above: 50% } } }\n",
        Code::BadUnit,
        (5, 80),
        "50%",
    ),
    deep(
        RULES,
        "switches: { s: { shed: {}, state: auto, when: { signal: memory, above: 1MiB, of: app } } }\n",
        Code::Conflict,
        (5, 84),
        "the process's",
    ),
    deep(
        RULES,
        "switches: { s: { shed: {}, state: auto, when: { signal: refusal_share, of: app, above: 1% } } }\n",
        Code::UnknownLimit,
        (5, 78),
        "no limit `app`",
    ),
    deep(RULES, "plans: { p: { switches: { s: on } } }\n", Code::UnknownSwitch, (5, 29), "no switch `s`"),
    bad(RULES, "plans: { p: maybe }\n", Code::UnknownChoice, (5, 15), "not `on` or `off`"),
    deep(
        RULES,
        "plans: { p: { upstreams: { app: { pool: { max_age: never } } } } }\n",
        Code::BadValue,
        (5, 54),
        "not a duration",
    ),
    deep(
        RULES,
        "plans: { p: { upstreams: { app: { pool: { min_idle: 2000 } } } } }\n",
        Code::Inconsistent,
        (5, 55),
        "more than `max_connections`",
    ),
];

#[test]
fn each_bad_file_is_refused_for_what_it_is_and_where() {
    let validator = jsonschema::validator_for(&schema()).unwrap();
    let mut wrong = Vec::new();
    for case in BAD {
        let text = format!("{}{}", case.base, case.text);
        let loaded = load_text(text.as_bytes());
        let hit = loaded.faults.iter().any(|fault| {
            let at = (fault.origin.line, fault.origin.column);
            fault.code == case.code && at == case.at && fault.message.contains(case.says)
        });
        let errors = loaded.faults.count(Severity::Error);
        if !hit || errors != 1 || loaded.file.is_some() {
            wrong.push(format!(
                "{:?}: wanted {:?} at {:?}; got\n{}",
                case.text,
                case.code,
                case.at,
                loaded.render(false)
            ));
        }
        if case.schema && json_of(&text).is_some_and(|document| validator.is_valid(&document)) {
            wrong.push(format!("{:?}: the schema takes it", case.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(BAD.len() >= 60);
}

#[test]
fn bytes_that_are_no_text_and_files_that_are_too_large() {
    let only = |text: &[u8]| {
        let loaded = load_text(text);
        let fault = loaded.faults.iter().next().unwrap().clone();
        (fault.code, fault.origin.line, fault.origin.column)
    };
    assert_eq!(only(b"service: s\nzone: \xff\n"), (Code::NotUtf8, 2, 7));
    assert_eq!(only(b"\xff\xfes\0"), (Code::NotUtf8, 1, 1));
    assert_eq!(only(&vec![b'#'; 1024 * 1024 + 1]), (Code::TooLarge, 0, 0));
    let deep = "a: ".to_owned() + &"[".repeat(100);
    assert_eq!(only(deep.as_bytes()), (Code::TooDeep, 1, 67));
}

#[test]
fn ten_mistakes_are_ten_faults() {
    let text = "\
service: a b
wrokers: 1
log: { level: loud, format: xml }
drain: { grace: 5 }
listeners: { in: { listen: x } }
policy:
  upstreams: { app: { endpoints: [h] } }
  routes:
    one: { upstream: ap, timeout: never }
    two: { upstream: app, max_body: lots }
";
    let loaded = load_text(text.as_bytes());
    let errors = loaded.faults.iter().filter(|fault| fault.severity == Severity::Error);
    let lines: Vec<_> = errors.map(|fault| fault.origin.line).collect();
    assert_eq!(lines, [1, 2, 3, 3, 4, 5, 7, 9, 9, 10], "{}", loaded.render(false));
}

#[test]
fn warnings_do_not_refuse() {
    let text = format!(
        "{ROUTE}    a: {{ upstream: app, match: {{ host: [x, y] }} }}\n    b: {{ upstream: app, match: {{ host: [y, x] }} }}\n"
    )
    .replace("  routes:", "    spare: { endpoints: [i:1] }\n  routes:");
    let loaded = load_text(text.as_bytes());
    assert!(loaded.file.is_some());
    let codes: Vec<_> =
        loaded.faults.iter().map(|fault| (fault.code, fault.severity, fault.path.as_str())).collect();
    assert_eq!(
        codes,
        [
            (Code::Unused, Severity::Warning, "policy.upstreams.spare"),
            (Code::Shadowed, Severity::Warning, "policy.routes.b"),
        ]
    );
    assert_eq!(load_text(TOP.as_bytes()).faults.iter().next().unwrap().code, Code::NoRoutes);
}

// ---- what is taken

#[test]
fn variables_take_their_type_after_expansion() {
    let text = "service: s\nworkers: ${COUNT}\nzone: ${EMPTY}\nadmin: { listen: '${PORT}' }\nlisteners:\n  in:\n    listen: ${PORT:-1}\n    max_headers: \"${COUNT}\"\ntelemetry: off\n";
    let loaded = load_text(text.replace("${PORT:-1}", "${OTHER:-8082}").as_bytes());
    let bootstrap =
        loaded.file.as_ref().unwrap_or_else(|| panic!("{}", loaded.render(false))).bootstrap.clone();
    assert_eq!(bootstrap.workers.get(), 7);
    assert_eq!(bootstrap.zone, None);
    assert_eq!(bootstrap.instance.as_str(), "pod-7");
    assert_eq!(bootstrap.telemetry, None);
    assert_eq!(bootstrap.admin.unwrap().listen.to_string(), "0.0.0.0:8081");
    let listener = bootstrap.listeners.values().next().unwrap();
    assert_eq!((listener.listen.to_string().as_str(), listener.max_headers), ("0.0.0.0:8082", 7));
}

#[test]
fn names_and_header_values_keep_how_they_were_written() {
    let text = format!(
        "{ROUTE}    r: {{ upstream: app, request_headers: {{ set: {{ x-v: 1.10, x-t: true }} }} }}\ninstance: 0123456789e1\n"
    );
    let file = load_text(text.as_bytes()).file.unwrap();
    assert_eq!(file.bootstrap.instance.as_str(), "0123456789e1");
    let set = &file.policy.routes.values().next().unwrap().request_headers.set;
    assert_eq!(set.iter().map(|(_, value)| value.to_str().unwrap()).collect::<Vec<_>>(), ["1.10", "true"]);
}

/// The upstream `app` of a file, with these fields.
fn upstream(fields: &str) -> Upstream {
    let text = format!("{UPSTREAM}    app: {{ {fields} }}\n    spare: {{ endpoints: [h:1] }}\n");
    let loaded = load_text(text.as_bytes());
    let document = json_of(&text).unwrap();
    assert!(
        jsonschema::validator_for(&schema()).unwrap().is_valid(&document),
        "{text}: the schema does not take it"
    );
    assert!(loaded.file.is_some(), "{text}{}", loaded.render(false));
    let policy = loaded.file.unwrap().policy;
    policy.upstreams.values().next().map(|app| Upstream::clone(app)).unwrap()
}

#[test]
fn what_keeps_failures_away_is_taken_as_it_is_written() {
    let ms = Duration::from_millis;
    let plain = upstream("endpoints: [h:1]");
    assert_eq!(plain.balancer.policy, BalancerPolicy::PeakEwma);
    assert_eq!((plain.min_healthy, &plain.health, &plain.discover), (Percent::whole(50), &None, &None));
    assert_eq!((plain.breaker.mode, plain.ejection.state), (None, EjectionState::On));

    let found = upstream("discover: { dns: Shop.svc:80, interval: 1s }, min_healthy: 0%, ejection: off");
    let discover = found.discover.as_ref().unwrap();
    assert_eq!((&*discover.host, discover.port), ("shop.svc", 80));
    assert_eq!((discover.interval, discover.max_interval), (ms(1000), ms(300_000)));
    assert!(found.endpoints.is_empty() && found.ejection.state == EjectionState::Off);
    assert_eq!(found.min_healthy, Percent::whole(0));

    let ring =
        upstream("endpoints: [h:1], balancer: { policy: ring_hash, key: [client, cookie:s], excess: 100% }");
    assert_eq!((ring.balancer.key.len(), ring.balancer.excess), (2, Percent::ALL));

    let start = |text: &str| upstream(&format!("endpoints: [h:1], slow_start: {text}")).slow_start;
    assert_eq!((start("1m").window, start("1m").from), (ms(60_000), Percent::whole(10)));
    assert!(["0", "off", "false", "{ window: 0 }"].iter().all(|text| start(text).window.is_zero()));
    assert_eq!(start("{ from: 1% }"), SlowStart { from: Percent::whole(1), ..SlowStart::default() });

    let ejection = |text: &str| upstream(&format!("endpoints: [h:1], ejection: {text}")).ejection;
    assert_eq!(ejection("observe").state, EjectionState::Observe);
    assert_eq!(ejection("true"), Ejection::default());
    assert_eq!(ejection("{ failure_rate: off }").failure_rate, None);
    assert_eq!(ejection("{ failure_rate: 0% }").failure_rate, None);
    assert_eq!(ejection("{ state: off, consecutive: 0, failure_rate: off }").consecutive, 0);
    assert_eq!(ejection("{ base: 100ms, max: 100ms, max_share: 100% }").max, ms(100));

    let breaker = |text: &str| upstream(&format!("endpoints: [h:1], breaker: {text}")).breaker;
    for (text, mode) in [
        ("auto", BreakerMode::Auto),
        ("open", BreakerMode::Open),
        ("closed", BreakerMode::Closed),
        ("off", BreakerMode::Off),
        ("false", BreakerMode::Off),
        ("{ mode: observe }", BreakerMode::Observe),
    ] {
        assert_eq!(breaker(text), Breaker { mode: Some(mode), ..Breaker::default() }, "{text}");
    }
    assert_eq!(breaker("{ window: 20 }").window, BreakerWindow::Calls(20));
    assert_eq!(breaker("{ window: 10m }").window, BreakerWindow::Time(ms(600_000)));
    let slow = breaker("{ failure_rate: off, slow_rate: 12.5%, slow_after: 1ms, open_for: 1m, ramp: off }");
    assert_eq!((slow.failure_rate, slow.slow_rate), (None, Some(Percent::new(1250))));
    assert_eq!(
        (slow.slow_after, slow.open_for, slow.max_open, slow.ramp),
        (Some(ms(1)), ms(60_000), ms(60_000), ms(0))
    );

    let spare = upstream("endpoints: [h:1], fallback: { upstream: spare }").fallback;
    assert_eq!(spare, Some(Fallback::Upstream(Name::new("spare").unwrap())));
    let answer = upstream("endpoints: [h:1], fallback: { respond: { status: 203, json: [] } }").fallback;
    let Some(Fallback::Respond(answer)) = answer else { panic!("{answer:?}") };
    assert_eq!((answer.status.as_u16(), &*answer.body, answer.headers.len()), (203, "[]", 1));
}

#[test]
fn health_checks_are_taken_as_they_are_written() {
    let health = |text: &str| upstream(&format!("endpoints: [h:1], tls: {{}}, health: {text}")).health;
    let check = |text: &str| health(text).unwrap().check;
    assert_eq!((health("off"), health("false")), (None, None));
    assert_eq!(check("{ tcp: true }"), HealthCheck::Tcp);
    assert_eq!(check("{ tls: true }"), HealthCheck::Tls);
    for (text, service) in [("true", ""), ("''", ""), ("a.B", "a.B")] {
        assert_eq!(check(&format!("{{ grpc: {text} }}")), HealthCheck::Grpc { service: Arc::from(service) });
    }
    let HealthCheck::Http { method, path, host, expect, contains } =
        check("{ http: '/z?full=1', method: HEAD, host: 'a:80', expect: [204, 200-202, 203, 3xx] }")
    else {
        panic!("another kind")
    };
    assert_eq!((method.as_str(), &*path, host.unwrap().to_str().unwrap()), ("HEAD", "/z?full=1", "a:80"));
    assert_eq!((expect, contains), (vec![200..=204, 300..=399], None));
    let HealthCheck::Http { method, host, expect, contains, .. } = check("{ http: /, contains: 1 }") else {
        panic!("another kind")
    };
    assert_eq!((method.as_str(), host, expect), ("GET", None, vec![200..=299]));
    assert_eq!(contains.as_deref(), Some("1"));
    for (text, sent, expected) in [
        (r#"{ send: "PING\r\n", expect: +PONG }"#, "PING\r\n", "+PONG"),
        (r#"{ send: "\x00\x01", expect: "\x7f" }"#, "\0\u{1}", "\u{7f}"),
        ("{ expect: mysql }", "", "mysql"),
        ("{ send: '', expect: 220 }", "", "220"),
    ] {
        let (send, expect) = (Bytes::from(sent), Bytes::from(expected));
        assert_eq!(check(text), HealthCheck::Exchange { send, expect }, "{text}");
    }
    let times = |text: &str| {
        let health = health(text).unwrap();
        (health.interval.as_millis(), health.timeout.as_millis(), health.rise, health.fall, health.port)
    };
    assert_eq!(times("{ tcp: true }"), (5000, 1000, 2, 3, None));
    // Without its own the time-out is never longer than the interval.
    assert_eq!(times("{ tcp: true, interval: 300ms, port: 65535 }"), (300, 300, 2, 3, Some(65_535)));
    assert_eq!(
        times("{ tcp: true, interval: 1h, timeout: 1h, rise: 100, fall: 1 }"),
        (3_600_000, 3_600_000, 100, 1, None)
    );
}

#[test]
fn a_route_says_what_is_different() {
    let route = |fields: &str| {
        let text = format!("{ROUTE}    r: {{ upstream: app, {fields} }}\n")
            .replace("    app:", "    spare: { endpoints: [i:1] }\n    app:");
        let loaded = load_text(text.as_bytes());
        assert!(loaded.faults.iter().all(|fault| fault.code == Code::Unused), "{}", loaded.render(false));
        assert!(jsonschema::validator_for(&schema()).unwrap().is_valid(&json_of(&text).unwrap()), "{text}");
        loaded.file.unwrap().policy.routes.values().next().unwrap().clone()
    };
    let plain = route("timeout: 1s");
    assert_eq!((&plain.breaker, &plain.fallback), (&None, &None));
    let own = |text: &str| route(&format!("breaker: {text}")).breaker.clone().unwrap();
    assert_eq!(own("{}"), BreakerOverride::default());
    assert_eq!(own("open"), BreakerOverride { mode: Some(BreakerMode::Open), ..BreakerOverride::default() });
    let some =
        own("{ failure_rate: off, slow_rate: 5%, window: 100, min_requests: 100, half_open: 1000, ramp: 0 }");
    assert_eq!((some.failure_rate, some.slow_rate), (Some(None), Some(Some(Percent::whole(5)))));
    assert_eq!((some.window, some.ramp), (Some(BreakerWindow::Calls(100)), Some(Duration::ZERO)));
    let spare = route("fallback: { upstream: spare }").fallback.clone();
    assert_eq!(spare, Some(Fallback::Upstream(Name::new("spare").unwrap())));
    // An upstream that is only fallen back to is used.
    let text = format!("{ROUTE}    r: {{ upstream: app }}\n").replace(
        "{ endpoints: [h:1] }",
        "{ endpoints: [h:1], fallback: { upstream: spare } }\n    spare: { endpoints: [i:1] }",
    );
    assert!(load_text(text.as_bytes()).faults.is_empty());
}

#[test]
fn documents_know_where_each_field_is_written() {
    let file = load_text(ANNOTATED.as_bytes()).file.unwrap();
    let name = Name::new("inventory-api").unwrap();
    let node = file.documents.get(Kind::Route, &name).unwrap();
    assert_eq!(node.to_json()["rewrite"]["path_prefix"], "/v2");
    let (_, origin) = node.leaves().into_iter().find(|(path, _)| path == "rewrite.path_prefix").unwrap();
    let source = file.documents.source(origin).unwrap();
    assert_eq!(&*source.name, "weir.yaml");
    assert!(source.text.lines().nth(origin.line as usize - 1).unwrap().contains("path_prefix: /v2"));
    assert_eq!(file.documents.iter().count(), 15);
}

#[test]
fn faults_are_shown_as_rustc_shows_them_and_as_json() {
    let loaded = load_text(format!("{ROUTE}    in: {{ upstream: app, timeot: 3s }}\n").as_bytes());
    let text = loaded.render(false);
    for part in [
        "error[WEIR-0101]: policy.routes.in.timeot: there is no field `timeot` here\n",
        " --> weir.yaml:7:26\n",
        "7 |     in: { upstream: app, timeot: 3s }\n",
        "  |                          ^^^^^^\n",
        "= help: did you mean `timeout`?",
    ] {
        assert!(text.contains(part), "{part:?} is not in\n{text}");
    }
    assert!(!text.contains('\u{1b}'));
    assert!(loaded.render(true).contains('\u{1b}'));
    let json = loaded.to_json();
    let fault = &json[0];
    assert_eq!(fault["severity"], "error");
    assert_eq!(fault["code"], "WEIR-0101");
    assert_eq!(fault["file"], "weir.yaml");
    assert_eq!((&fault["line"], &fault["column"], &fault["end_column"]), (&7.into(), &26.into(), &32.into()));
    assert_eq!(fault["path"], "policy.routes.in.timeot");
    assert!(fault["help"].as_str().unwrap().contains("`timeout`"));
}

#[test]
fn the_store_has_the_defaults_of_its_kind() {
    let store = |text: &str| {
        let loaded = load_text(format!("{TOP}store: {text}\n").as_bytes());
        loaded
            .file
            .as_ref()
            .unwrap_or_else(|| panic!("{}", loaded.render(false)))
            .bootstrap
            .store
            .clone()
            .unwrap()
    };
    let etcd = store("{ etcd: { endpoints: [https://a, 'https://[::1]:2380'] } }");
    assert_eq!(etcd.cache.as_deref(), Some(Path::new("/var/lib/weir/policy.cache")));
    assert_eq!((etcd.boot_wait.as_secs(), etcd.presence.map(|most| most.as_secs())), (3, Some(10)));
    let StoreSource::Etcd(source) = &etcd.source else { panic!("{etcd:?}") };
    let shown: Vec<_> = source.endpoints.iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["https://a:2379", "https://[::1]:2380"]);
    assert_eq!((&*source.root, source.tls.is_some(), &source.credentials), ("/weir", true, &None));

    let plain =
        store("{ etcd: { endpoints: ['http://a/'], root: / }, boot_wait: 0, cache: off, presence: off }");
    let StoreSource::Etcd(source) = &plain.source else { panic!("{plain:?}") };
    assert_eq!((&*source.root, source.tls.is_some(), source.endpoints.len()), ("", false, 1));
    assert_eq!((plain.boot_wait.as_secs(), &plain.cache, plain.presence), (0, &None, None));

    let directory = store("{ directory: ./live }");
    assert_eq!((&directory.cache, directory.presence), (&None, None));
    let StoreSource::Directory(source) = &directory.source else { panic!("{directory:?}") };
    assert_eq!((source.path.to_str(), source.interval.as_millis()), (Some("./live"), 250));
}

// ---- what nothing may do

/// Everything that a load can be asked for; none of it may panic.
fn exercise(text: &[u8]) {
    let loaded = load_text(text);
    assert_eq!(loaded.file.is_none(), loaded.faults.any_error());
    let _ = (loaded.render(true), loaded.to_json().to_string());
}

proptest! {
    #[test]
    fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exercise(&bytes);
    }

    #[test]
    fn arbitrary_yaml_like_text_does_not_panic(text in "([a-z]{1,3}: |[-?&*!|>%@`\"'{}\\[\\],#:~ \n\r\t]|\\$\\{[A-Z]*|[0-9]{1,20}|ä|🦀){0,60}") {
        exercise(text.as_bytes());
    }

    #[test]
    fn mutated_good_files_do_not_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..3_u8), 1..8)) {
        let mut text = ANNOTATED.as_bytes().to_vec();
        for (index, byte, kind) in edits {
            let at = index.index(text.len());
            match kind {
                0 => text[at] = byte,
                1 => text.insert(at, byte % 128),
                _ => drop(text.remove(at)),
            }
        }
        exercise(&text);
    }

    #[test]
    fn good_files_with_lines_moved_about_do_not_panic(order in prop::collection::vec(any::<prop::sample::Index>(), 1..80)) {
        let lines: Vec<_> = ANNOTATED.lines().collect();
        let text = order.iter().map(|index| lines[index.index(lines.len())]).collect::<Vec<_>>().join("\n");
        exercise(text.as_bytes());
    }
}

// ---- the finished binary

/// Runs it; gives back its exit code, standard output and standard error.
fn weir(arguments: &[&str]) -> (i32, String, String) {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_weir"))
        .args(arguments)
        .env_remove("WEIR_CONFIG")
        .env_remove("ZONE")
        .output()
        .unwrap();
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn check_says_what_it_checked_or_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let good = file("good.yaml", MINIMAL);
    let (code, out, _) = weir(&["check", "-c", &good]);
    assert_eq!((code, out), (0, format!("{good}: fine: service orders, 1 listener, 1 upstream, 1 route\n")));
    assert_eq!(weir(&["check", "-c", &good, "-o", "json"]).1.trim(), "[]");

    let poor = file(
        "bad.yaml",
        "service: a b\nlisteners: { in: { listen: 80, tls: { cert: none.pem, key: none.pem } } }\n",
    );
    let (code, out, _) = weir(&["check", "-c", &poor]);
    assert_eq!(code, 64);
    for part in [
        "error[WEIR-0205]: service: ",
        "bad.yaml:1:10",
        "error[WEIR-0303]: listeners.in.tls.cert",
        "3 errors, 1 warning",
    ] {
        assert!(out.contains(part), "{part:?} is not in\n{out}");
    }
    let (code, out, _) = weir(&["check", "-c", &poor, "-o", "json"]);
    let faults: Json = serde_json::from_str(&out).unwrap();
    assert_eq!((code, faults.as_array().unwrap().len()), (64, 4));

    let (code, out, _) = weir(&["check", "-c", "no/such/file.yaml"]);
    assert!(code == 64 && out.contains("error[WEIR-0001]") && out.contains("no/such/file.yaml"), "{out}");
}

#[test]
fn the_other_commands_print_what_they_promise() {
    let (code, out, _) = weir(&["schema"]);
    assert_eq!((code, out.as_str()), (0, include_str!("../config/weir.schema.json")));
    let (code, out, _) = weir(&["completions", "bash"]);
    assert!(code == 0 && out.contains("_weir()"), "{out}");
    let (code, out, _) = weir(&["man"]);
    assert!(code == 0 && out.starts_with(".ie") && out.contains(".TH weir-check "), "{out}");
    assert_eq!(weir(&["chekc"]).0, 2);
    assert_eq!(weir(&["check", "--no-such-flag"]).0, 2);
}
