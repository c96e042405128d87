//! `weir.yaml`: whatever is in it, it is read without a panic, and what has no faults is what it says it is.

#![no_main]

use libfuzzer_sys::fuzz_target;
use weir::config::{Env, HostFacts, load};

fuzz_target!(|text: &[u8]| {
    let vars = |name: &str| (name == "SET").then(|| "value".to_owned());
    let host = HostFacts { hostname: "fuzz".to_owned(), cpus: 2 };
    let env = Env { vars: &vars, host: &host, probe: &|_, _| Ok(()) };
    let loaded = load("weir.yaml", text, &env);
    assert!(loaded.file.is_some() || loaded.faults.any_error(), "no file and no reason");
});
