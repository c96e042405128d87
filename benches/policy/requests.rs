//! What a request costs with few and with many routes and overlays: instructions of the worker's thread of the finished
//! binary, counted by callgrind, so that the figures are the same on a busy machine.

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use tempfile::TempDir;

use crate::machinery::{Client1, Etcd, fail, free, origin, runtime, wait, weir};

const WARM: usize = 1_000;
const REQUESTS: usize = 4_000;

pub(crate) fn measure() {
    println!("\n## Instructions of a request, with as many routes as overlays of them\n");
    println!("| routes | overlays | instructions |\n|---:|---:|---:|");
    for routes in [10, 10_000] {
        println!("| {routes} | {routes} | {} |", instructions(routes));
    }
}

fn instructions(routes: usize) -> u64 {
    let (etcd, folder, listen) = (Etcd::start(), TempDir::new().expect("a folder"), free());
    let route = |n| {
        let value = format!("{{upstream: app, match: {{host: h{n}.example.com, path: /a/*}}}}");
        [(format!("_all/routes/r{n}"), value), (format!("orders/routes/r{n}"), "{timeout: 3s}".to_owned())]
    };
    runtime().block_on(etcd.fill((0..routes).flat_map(route)));
    let file = format!(
        "service: orders\ninstance: pod-1\nworkers: 1\nadmin: {{ listen: {admin} }}\ntelemetry: {{ listen: {telemetry} }}\n\
         store: {{ etcd: {{ endpoints: [{etcd}], connect_timeout: 30s, request_timeout: 30s }}, boot_wait: 10m, cache: {cache} }}\n\
         listeners: {{ inbound: {{ listen: {listen} }} }}\n\
         policy:\n  upstreams: {{ app: {{ endpoints: [{origin}] }} }}\n  routes: {{ rest: {{ upstream: app }} }}\n",
        admin = free(),
        telemetry = free(),
        etcd = etcd.endpoint(),
        cache = folder.path().join("policy.cache").display(),
        origin = origin("hello"),
    );
    // A step that is prime to the number of routes: near and far ones in turn.
    count(folder.path(), &file, listen, |n| format!("h{}.example.com", n * 7_919 % routes))
}

/// Instructions of a request by a Weir with this file, of the worker's thread alone; `host` is that of the request of
/// such a number.
pub(crate) fn count(folder: &Path, file: &str, listen: SocketAddr, host: impl Fn(usize) -> String) -> u64 {
    let dump = folder.join("dump");
    let out = format!("--callgrind-out-file={}", dump.display());
    let program =
        weir(folder, file, listen, &["valgrind", "--tool=callgrind", "--separate-threads=yes", &out]);
    let mut client = Client1::connect(listen);
    let mut ask = |requests| {
        for n in 0..requests {
            client.get(&host(n), "/a/thing");
        }
    };
    ask(WARM);
    control("-z", program.pid());
    ask(REQUESTS);
    control("-d", program.pid());
    busiest(folder) / u64::try_from(REQUESTS).expect("a small number")
}

fn control(what: &str, pid: u32) {
    let done = Command::new("callgrind_control").args([what, &pid.to_string()]).output();
    if !done.is_ok_and(|done| done.status.success()) {
        fail("callgrind_control, of the Debian package valgrind, failed");
    }
}

/// The most that one thread did, in the first dump: the worker, which alone does what is asked for.
fn busiest(folder: &Path) -> u64 {
    let totals = || -> Vec<u64> {
        let files = std::fs::read_dir(folder).expect("a folder").flatten();
        let dumps = files.filter(|file| file.file_name().to_string_lossy().starts_with("dump.1"));
        let total = |text: String| {
            let line = text.lines().find_map(|line| line.strip_prefix("totals: ").map(str::to_owned))?;
            line.trim().parse().ok()
        };
        dumps.filter_map(|file| std::fs::read_to_string(file.path()).ok()).filter_map(total).collect()
    };
    // Dumps are written after the command has returned.
    wait("callgrind's dump", || totals().len() >= 2);
    std::thread::sleep(Duration::from_secs(1));
    totals().into_iter().max().unwrap_or_default()
}
