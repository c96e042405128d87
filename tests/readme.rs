//! What the README says is held against the code and the binary.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

use std::{path::Path, process::Command};

use weir::{error::Reason, telemetry::names};

fn readme() -> String {
    std::fs::read_to_string(path()).unwrap()
}

fn path() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")
}

/// The blocks of a language.
fn blocks(language: &str) -> Vec<String> {
    let readme = readme();
    let opening = format!("```{language}\n");
    readme.split(&opening).skip(1).map(|part| part.split("```").next().unwrap().to_owned()).collect()
}

#[test]
fn the_files_in_the_readme_are_good() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("weir.yaml");
    let blocks = blocks("yaml");
    assert!(!blocks.is_empty());
    for block in blocks {
        std::fs::write(&file, &block).unwrap();
        let done =
            Command::new(env!("CARGO_BIN_EXE_weir")).args(["check", "-c"]).arg(&file).output().unwrap();
        assert!(done.status.success(), "{block}\n{}", String::from_utf8_lossy(&done.stderr));
    }
}

/// `UPDATE_README=1 cargo test --test readme` writes the table anew.
#[test]
fn the_table_of_metrics_is_that_of_the_code() {
    let (begin, end) = ("<!-- metrics:begin -->\n", "<!-- metrics:end -->");
    let readme = readme();
    let (before, rest) = readme.split_once(begin).expect("where the table begins");
    let (table, after) = rest.split_once(end).expect("where the table ends");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(path(), format!("{before}{begin}{}{end}{after}", names::markdown())).unwrap();
        return;
    }
    assert_eq!(table, names::markdown(), "UPDATE_README=1 cargo test --test readme");
}

#[test]
fn reasons_in_the_readme_have_the_status_of_the_code() {
    let readme = readme();
    let rows = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .map(|line| line.split('|').map(str::trim).collect());
    let mut found = 0;
    for row in rows {
        let row: Vec<&str> = row;
        let names: Vec<&str> = row[1].split(", ").map(|name| name.trim_matches('`')).collect();
        let written = |column: usize, at: usize| -> String {
            let values: Vec<&str> =
                row.get(column).map(|cell| cell.split(", ").collect()).unwrap_or_default();
            let value = if values.len() == 1 { values.first() } else { values.get(at) };
            value.map(ToString::to_string).unwrap_or_default()
        };
        for (at, name) in names.iter().enumerate() {
            let Some(reason) = Reason::ALL.iter().find(|reason| reason.as_str() == *name) else { continue };
            found += 1;
            if *reason == Reason::Fault {
                // Policy says which.
                assert_eq!((written(2, at), written(3, at)), ("as set".to_owned(), "mapped".to_owned()));
                continue;
            }
            assert_eq!(written(2, at), reason.status().as_u16().to_string(), "the status of {name}");
            assert_eq!(written(3, at), reason.grpc_status().to_string(), "the gRPC status of {name}");
        }
    }
    assert!(found >= 18, "{found} reasons found");
}
