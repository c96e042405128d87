//! A store of either kind, and the command line on it.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use tempfile::TempDir;
use weir::store::{
    client::{Client, Transaction, Write},
    directory::{self, Tree},
    etcd::Config,
};

use crate::support::{
    PATIENCE, driver,
    etcd::{Etcd, Version},
    programs::{Done, finish},
};

/// A file whose service is `orders`, without a store.
pub const FILE: &str = "\
service: orders
instance: pod-1
listeners:
  inbound: { listen: 127.0.0.1:18080 }
policy:
  upstreams:
    app: { endpoints: [127.0.0.1:3000] }
    stock: { endpoints: [127.0.0.1:3001], connect_timeout: 1s }
    pay: { endpoints: [127.0.0.1:3002], breaker: { mode: closed } }
  routes:
    in: { listener: inbound, upstream: app }
    stock: { listener: inbound, match: { path: /stock/* }, upstream: stock }
  limits:
    checkout: { match: { path: /checkout }, rate: 500/s, burst: 100 }
  switches:
    no-recs: { match: { path: /recs/* }, reject: { status: 503 }, state: off }
    no-ads: { match: { path: /ads/* }, reject: { status: 503 } }
  plans:
    sale: { switches: { no-recs: on }, limits: { checkout: { rate: 2000/s } } }
    spring: { switches: { no-recs: 25%, no-ads: on } }
";

/// Where policy lies.
pub enum Store {
    /// An etcd.
    Etcd(Box<Etcd>),
    /// A directory.
    Directory(PathBuf),
}

/// A folder with `weir.yaml`, and a store.
pub struct Bench {
    pub folder: TempDir,
    pub store: Store,
}

impl Bench {
    /// On an etcd.
    pub fn etcd() -> Self {
        let etcd = Etcd::start(Version::V3_4);
        let block = format!("store: {{ etcd: {{ endpoints: [{}] }} }}\n", etcd.endpoint());
        Self::with(Store::Etcd(Box::new(etcd)), &block)
    }

    /// On a directory.
    pub fn directory() -> Self {
        let bench = Self::with(Store::Directory("live".into()), "store: { directory: ./live }\n");
        std::fs::create_dir(bench.path("live")).unwrap();
        Self { store: Store::Directory(bench.path("live")), ..bench }
    }

    fn with(store: Store, block: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("weir.yaml"), format!("{FILE}{block}")).unwrap();
        Self { folder, store }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file into the folder.
    pub fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    /// `--store` for it.
    pub fn option(&self) -> String {
        match &self.store {
            Store::Etcd(etcd) => format!("etcd:{}", etcd.endpoint()),
            Store::Directory(path) => format!("dir:{}", path.display()),
        }
    }

    /// Starts a command in the folder, where `weir.yaml` is found by itself.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        spawn(self.folder.path(), arguments)
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&self, arguments: &[&str]) -> Done {
        finish(self.spawn(arguments), PATIENCE * 3)
    }

    /// Runs `weir policy …`, which must end with `code`.
    #[track_caller]
    pub fn policy(&self, code: i32, arguments: &[&str]) -> Done {
        let arguments: Vec<_> = ["policy"].iter().chain(arguments).copied().collect();
        self.weir(code, &arguments)
    }

    /// Runs `weir …`, which must end with `code`.
    #[track_caller]
    pub fn weir(&self, code: i32, arguments: &[&str]) -> Done {
        let done = self.run(arguments);
        assert_eq!(done.code, code, "{arguments:?}\n--- out\n{}\n--- err\n{}", done.out, done.err);
        done
    }

    /// The same with `-o json`: its answer.
    #[track_caller]
    pub fn json(&self, code: i32, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().chain(&["-o", "json"]).copied().collect();
        let done = self.policy(code, &arguments);
        serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}", done.out))
    }

    /// Runs `weir … -o json`: its answer.
    #[track_caller]
    pub fn answer(&self, code: i32, arguments: &[&str]) -> Value {
        let arguments: Vec<_> = arguments.iter().chain(&["-o", "json"]).copied().collect();
        let done = self.weir(code, &arguments);
        serde_json::from_str(&done.out).unwrap_or_else(|error| panic!("{error}: {}", done.out))
    }

    /// What a key below `<root>/policy/` holds, read without the command line.
    pub fn value(&self, key: &str) -> Option<String> {
        match &self.store {
            Store::Etcd(_) => {
                self.keys(&format!("/weir/policy/{key}")).into_iter().next().map(|(_, value)| value)
            }
            Store::Directory(path) => {
                let item = Tree::new(path).get(key).unwrap();
                item.map(|item| String::from_utf8(item.value.to_vec()).unwrap())
            }
        }
    }

    /// What a key holds, as a document.
    #[track_caller]
    pub fn document(&self, key: &str) -> Value {
        let text = self.value(key).unwrap_or_else(|| panic!("{key} is not there"));
        serde_yaml::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The audit entries of a service, the oldest first.
    pub fn audits(&self, scope: &str) -> Vec<Value> {
        let texts: Vec<String> = match &self.store {
            Store::Etcd(_) => {
                self.keys(&format!("/weir/audit/{scope}/")).into_iter().map(|(_, value)| value).collect()
            }
            Store::Directory(path) => {
                let Ok(entries) = std::fs::read_dir(path.join(".audit").join(scope)) else {
                    return Vec::new();
                };
                let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
                paths.sort();
                paths.iter().map(|path| std::fs::read_to_string(path).unwrap()).collect()
            }
        };
        texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
    }

    fn client(&self) -> Client {
        let Store::Etcd(etcd) = &self.store else { panic!("no etcd") };
        let config =
            Config { endpoints: vec![etcd.endpoint()], root: "/weir".to_owned(), ..Config::default() };
        Client::new(config, Duration::from_secs(5)).unwrap()
    }

    /// The keys of an etcd that begin with `prefix`.
    pub fn keys(&self, prefix: &str) -> Vec<(String, String)> {
        let (mut client, prefix) = (self.client(), prefix.to_owned());
        driver::run(async move {
            let range = client.range(&prefix, 0, 10_000).await.unwrap();
            let text = |bytes| String::from_utf8(bytes).unwrap();
            range.items.into_iter().map(|item| (text(item.key), text(item.value))).collect()
        })
    }

    /// Writes many keys of an etcd, in this order.
    pub fn put_all(&self, items: &[(String, String)]) {
        for part in items.chunks(100) {
            let mut client = self.client();
            let write = |(key, value): &(String, String)| Write::Put {
                key: key.clone(),
                value: value.clone().into_bytes(),
                lease: None,
            };
            let writes = part.iter().map(write).collect();
            driver::run(async move {
                client.commit(&Transaction { expect: Vec::new(), writes }).await.unwrap();
            });
        }
    }

    /// Writes a key as another program would: the whole key in etcd, below the directory otherwise.
    pub fn put(&self, key: &str, value: &str) {
        match &self.store {
            Store::Etcd(_) => {
                let mut client = self.client();
                let write = Write::Put { key: key.to_owned(), value: value.into(), lease: None };
                driver::run(async move {
                    client.commit(&Transaction { expect: Vec::new(), writes: vec![write] }).await.unwrap();
                });
            }
            Store::Directory(path) => {
                let key = key.strip_prefix("/weir/policy/").unwrap().to_owned();
                let write = directory::Write {
                    key,
                    value: Some(value.to_owned()),
                    expect: directory::Expect::Anything,
                };
                Tree::new(path).commit(&[write], None).unwrap();
            }
        }
    }
}

/// Starts a command in a folder, as `ann`, without a terminal.
pub fn spawn(folder: &Path, arguments: &[&str]) -> Child {
    Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .env("USER", "ann")
        .env_remove("WEIR_CONFIG")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts")
}

/// Runs a command that reads `input`.
#[track_caller]
pub fn run_with_input(folder: &Path, arguments: &[&str], input: &str) -> Done {
    let mut child = Command::new(binary())
        .args(arguments)
        .current_dir(folder)
        .env("USER", "ann")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary starts");
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finish(child, PATIENCE)
}

fn binary() -> String {
    std::env::var("WEIR_TEST_BINARY").unwrap_or_else(|_| env!("CARGO_BIN_EXE_weir").to_owned())
}
