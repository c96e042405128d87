//! The roles that the README gives to pods and operators: its commands are run as they stand there, against etcds with
//! authentication, by password and by certificate; then a Weir follows with what they allow, and with less.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod support;

use std::{
    path::Path,
    process::{Command, Stdio},
};

use serde_json::Value;
use support::{
    PATIENCE,
    certs::{Certs, Identity},
    etcd::{Etcd, ServerTls, Version},
    programs::{Done, finish},
    wait_until,
    weir::Weir,
};
use tempfile::TempDir;

macro_rules! each_version {
    ($($test:ident),+ $(,)?) => {
        mod on_3_4 {
            $(#[test] fn $test() { super::$test(super::Version::V3_4); })+
        }
        mod on_3_5 {
            $(#[test] fn $test() { super::$test(super::Version::V3_5); })+
        }
    };
}

each_version!(
    with_passwords_pods_and_operators_can_do_what_they_must_and_no_more,
    with_certificates_the_common_name_is_the_user,
    a_right_that_is_missing_is_named,
);

/// The commands of the README's block that follows `<!-- etcd:NAME -->`, without their prompts.
fn commands(name: &str) -> String {
    let readme = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let (_, rest) = readme.split_once(&format!("<!-- etcd:{name} -->\n")).expect("where the block begins");
    let block = rest.strip_prefix("```console\n").expect("a block").split("```").next().unwrap();
    let lines: Vec<_> = block.lines().map(|line| line.strip_prefix("$ ").expect("a prompt")).collect();
    assert!(lines.iter().all(|line| line.starts_with("etcdctl ")), "{block}");
    lines.join("\n")
}

/// Somebody with `etcdctl`.
struct Somebody<'a> {
    version: Version,
    endpoint: String,
    user: Option<&'a str>,
    tls: Option<(&'a Certs, &'a Identity)>,
}

impl<'a> Somebody<'a> {
    fn at(etcd: &Etcd, version: Version) -> Self {
        Self { version, endpoint: etcd.endpoint(), user: None, tls: None }
    }

    /// The same, who says `name:password`.
    fn user(&self, user: &'a str) -> Self {
        Self { user: Some(user), endpoint: self.endpoint.clone(), ..*self }
    }

    /// The same, who shows a certificate.
    fn with(&self, certs: &'a Certs, identity: &'a Identity) -> Self {
        Self { tls: Some((certs, identity)), endpoint: self.endpoint.clone(), ..*self }
    }

    /// Runs commands as they would be typed.
    fn runs(&self, commands: &str) -> Done {
        let folder = self.version.program().parent().unwrap().to_owned();
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        let mut command = Command::new("sh");
        command
            .args(["-ec", commands])
            .env("PATH", path)
            .env("ETCDCTL_API", "3")
            .env("ETCDCTL_ENDPOINTS", &self.endpoint)
            .envs([
                ("PASSWORD", "pods-word"),
                ("ALICE_PASSWORD", "alices-word"),
                ("ROOT_PASSWORD", "roots-word"),
            ])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if let Some(user) = self.user {
            command.env("ETCDCTL_USER", user);
        }
        if let Some((certs, identity)) = self.tls {
            command.env("ETCDCTL_CACERT", certs.ca());
            command.env("ETCDCTL_CERT", &identity.cert).env("ETCDCTL_KEY", &identity.key);
        }
        finish(command.spawn().expect("sh starts"), PATIENCE)
    }

    #[track_caller]
    fn may(&self, command: &str) {
        let done = self.runs(command);
        assert_eq!(done.code, 0, "{command}\n{}{}", done.out, done.err);
    }

    #[track_caller]
    fn may_not(&self, command: &str) {
        let done = self.runs(command);
        assert_ne!(done.code, 0, "{command}\n{}", done.out);
        assert!(done.err.contains("permission denied"), "{command}\n{}", done.err);
    }
}

/// Roles, users, and authentication turned on; gives what root says.
fn set_up(nobody: &Somebody<'_>, users: &str) {
    nobody.may(&commands("roles"));
    nobody.may(&commands(users));
    nobody.may(&commands("enable"));
}

/// An instance of `orders` whose store needs these fields.
fn weir(folder: &TempDir, etcd: &Etcd, fields: &str, boot_wait: &str) -> Weir {
    Weir::start(&format!(
        "service: orders\ninstance: pod-1\n\
         store: {{ etcd: {{ endpoints: [{}], {fields} }}, boot_wait: {boot_wait}, cache: {} }}\n\
         listeners: {{ in: {{ listen: \"{{{{in}}}}\" }} }}\n\
         policy: {{ upstreams: {{ app: {{ endpoints: [127.0.0.1:1] }} }}, routes: {{ all: {{ upstream: app }} }} }}\n",
        etcd.endpoint(),
        folder.path().join("cache/policy.cache").display(),
    ))
}

fn status(weir: &Weir) -> Value {
    serde_json::from_str(&weir.admin_get("/status").text()).unwrap()
}

fn policy_arrives(weir: &Weir, writer: &Somebody<'_>) {
    for (scope, timeout) in [("orders", "7s"), ("orders@pod-1", "8s")] {
        writer.may(&format!("etcdctl put /weir/policy/{scope}/routes/all '{{timeout: {timeout}}}'"));
        wait_until(&format!("the timeout of {scope}"), || weir.admin_get("/policy").text().contains(timeout));
    }
}

/// What pods may do beside what Weir does by itself, and what not.
fn pods_are_kept_to_their_own(pods: &Somebody<'_>) {
    pods.may("etcdctl put /weir/pods/orders/pod-1 x");
    pods.may("etcdctl get --prefix --keys-only /weir/pods/orders/");
    for refused in [
        "put /weir/policy/orders/switches/x on",
        "put /weir/policy/_all/bypass on",
        "put /weir/policy/orders@pod-1/bypass on",
        "del --prefix /weir/policy/orders/",
        "put /weir/pods/billing/pod-1 x",
        "put /weir/audit/orders/x x",
        "get --prefix /weir/policy/billing/",
        "get --prefix /weir/policy/orders2/",
        "get --prefix /weir/policy/orders2@pod-1/",
        "get --prefix /weir/policy/",
        "get --prefix /weir/pods/",
    ] {
        pods.may_not(&format!("etcdctl {refused}"));
    }
}

fn operators_are_kept_to_their_service(operator: &Somebody<'_>) {
    for allowed in [
        "put /weir/policy/orders/switches/x on",
        "del /weir/policy/orders/switches/x",
        "put /weir/audit/orders/1-x x",
        "get --prefix /weir/audit/orders/",
        "get --prefix /weir/policy/_all/",
        "get --prefix /weir/pods/orders/",
    ] {
        operator.may(&format!("etcdctl {allowed}"));
    }
    for refused in [
        "put /weir/policy/_all/bypass on",
        "put /weir/policy/billing/switches/x on",
        "put /weir/policy/orders2/switches/x on",
        "put /weir/pods/orders/pod-1 x",
        "put /weir/audit/billing/1-x x",
    ] {
        operator.may_not(&format!("etcdctl {refused}"));
    }
}

fn with_passwords_pods_and_operators_can_do_what_they_must_and_no_more(version: Version) {
    let (etcd, folder) = (Etcd::start(version), TempDir::new().unwrap());
    let nobody = Somebody::at(&etcd, version);
    set_up(&nobody, "passwords");
    let (pods, alice) = (nobody.user("weir-orders:pods-word"), nobody.user("alice:alices-word"));
    pods_are_kept_to_their_own(&pods);
    operators_are_kept_to_their_service(&alice);

    let password = folder.path().join("password");
    std::fs::write(&password, "pods-word\n").unwrap();
    let fields = format!("user: weir-orders, password_file: {}", password.display());
    let weir = weir(&folder, &etcd, &fields, "20s");
    wait_until("the policy of the store", || status(&weir)["policy"]["source"] == "store");
    policy_arrives(&weir, &alice);
}

fn with_certificates_the_common_name_is_the_user(version: Version) {
    let (certs, folder) = (Certs::new(), TempDir::new().unwrap());
    let server = ServerTls { identity: certs.localhost(), client_ca: certs.ca() };
    let etcd = Etcd::with_tls(version, server);
    let [root, pods, alice] = ["root", "weir-orders", "alice"].map(|name| certs.issue(name, &[name]));
    let nobody = Somebody::at(&etcd, version);
    let root = nobody.with(&certs, &root);
    set_up(&root, "certificates");
    let alice = nobody.with(&certs, &alice);
    pods_are_kept_to_their_own(&nobody.with(&certs, &pods));
    operators_are_kept_to_their_service(&alice);

    let fields = format!(
        "tls: {{ ca: {}, cert: {}, key: {} }}",
        certs.ca().display(),
        pods.cert.display(),
        pods.key.display()
    );
    let weir = weir(&folder, &etcd, &fields, "20s");
    wait_until("the policy of the store", || status(&weir)["policy"]["source"] == "store");
    policy_arrives(&weir, &alice);
}

fn a_right_that_is_missing_is_named(version: Version) {
    let (etcd, folder) = (Etcd::start(version), TempDir::new().unwrap());
    let nobody = Somebody::at(&etcd, version);
    set_up(&nobody, "passwords");
    let root = nobody.user("root:roots-word");
    root.may("etcdctl role revoke-permission weir-orders --prefix /weir/policy/orders@");
    let password = folder.path().join("password");
    std::fs::write(&password, "pods-word\n").unwrap();
    let fields = format!("user: weir-orders, password_file: {}", password.display());
    let weir = weir(&folder, &etcd, &fields, "100ms");

    let error = |status: &Value| status["store"]["error"]["message"].as_str().unwrap_or_default().to_owned();
    wait_until("the right in /status", || error(&status(&weir)).contains("/weir/policy/orders@"));
    let said = error(&status(&weir));
    assert!(said.contains("no role that may read"), "{said}");
    assert!(!said.contains("/weir/policy/_all/") && !said.contains("/weir/policy/orders/"), "{said}");
    wait_until("the right in the log", || weir.stderr().contains("/weir/policy/orders@"));
    assert_eq!(status(&weir)["policy"]["source"], "baseline", "and it runs");

    root.may("etcdctl role grant-permission weir-orders read --prefix /weir/policy/orders@");
    wait_until("the policy of the store", || status(&weir)["policy"]["source"] == "store");
}
