//! The whole way: text → tree → wire types → validated types.

use std::path::Path;

use serde_json::{Value as Json, json};

use super::{
    Bootstrap, Documents, Policy,
    codes::Code,
    expand::HostFacts,
    fault::{Fault, Faults, Problem, Severity},
    live,
    node::{Node, Origin, Sources},
    validate,
    wire::{Cx, Defs, Wire, file::FileWire},
    yaml,
};

/// What loading knows of the world: passed in, so that loading itself stays pure.
#[derive(Clone, Copy)]
pub struct Env<'a> {
    /// The environment variables.
    pub vars: &'a dyn Fn(&str) -> Option<String>,
    /// What is known of the host.
    pub host: &'a HostFacts,
    /// Says what is wrong with a file that the configuration names; `Ok` when it is there and holds what it must.
    pub probe: &'a dyn Fn(&Path, PemKind) -> Result<(), String>,
}

/// What a file that the configuration names must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PemKind {
    /// At least one certificate.
    Certificates,
    /// A private key.
    Key,
    /// A password: some text, and not much of it.
    Password,
}

/// A file without errors.
#[derive(Debug, Clone)]
pub struct File {
    /// What is fixed for the life of the process.
    pub bootstrap: Bootstrap,
    /// The baseline, with the changes of those of its plans that are on.
    pub policy: Policy,
    /// What was written, and where.
    pub documents: Documents,
}

/// What came of loading.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The file, unless there are errors.
    pub file: Option<File>,
    /// Errors and warnings, in the order of the text.
    pub faults: Faults,
    /// The texts that the faults point into.
    pub sources: Sources,
}

/// Loads a file's text. Never panics and never stops at the first fault.
pub fn load(source_name: &str, text: &[u8], env: &Env<'_>) -> Loaded {
    let mut sources = Sources::default();
    let mut faults = Faults::default();
    let file = read(source_name, text, env, &mut sources, &mut faults);
    faults.sort();
    let file = file.filter(|_| !faults.any_error());
    Loaded { file, faults, sources }
}

impl Loaded {
    /// What came of a file that could not even be read.
    pub fn unreadable(source_name: &str, why: &str, help: Option<&str>) -> Self {
        let mut sources = Sources::default();
        let source = sources.add(source_name, "");
        let mut faults = Faults::default();
        let origin = Origin { source, ..Origin::default() };
        faults.push(whole(Code::Unreadable, origin, format!("cannot read the file: {why}"), help));
        Self { file: None, faults, sources }
    }
}

fn read(name: &str, text: &[u8], env: &Env<'_>, sources: &mut Sources, faults: &mut Faults) -> Option<File> {
    if text.len() > yaml::MAX_BYTES {
        let source = sources.add(name, "");
        let origin = Origin { source, ..Origin::default() };
        let message = format!("the file has {} bytes; at most {} are read", text.len(), yaml::MAX_BYTES);
        faults.push(whole(Code::TooLarge, origin, message, None));
        return None;
    }
    let text = match std::str::from_utf8(text) {
        Ok(text) => text,
        Err(error) => {
            faults.push(not_utf8(name, text, error.valid_up_to(), sources));
            return None;
        }
    };
    let source = sources.add(name, text);
    let lookup = |variable: &str| {
        (env.vars)(variable).or_else(|| (variable == "HOSTNAME").then(|| env.host.hostname.clone()))
    };
    let root = yaml::read(text, source, Some(&lookup), faults)?;
    from_node(&root, env, sources, faults)
}

/// From the tree on: what a merged document takes as well.
fn from_node(root: &Node, env: &Env<'_>, sources: &Sources, faults: &mut Faults) -> Option<File> {
    let top = Origin { line: 1, column: 1, end_line: 1, end_column: 1, ..root.origin };
    let mut cx = Cx::new(faults, top);
    if root.is_null() {
        cx.problem(Problem::new(Code::Empty, "the file is empty"), top);
        return None;
    }
    let wire = FileWire::decode(root, &mut cx)?;
    let bootstrap = validate::bootstrap(&wire, env, &mut cx);
    let mut policy = validate::policy(&wire, env, &mut cx);
    let documents = Documents::of_file(root, sources.clone());
    live::plans(&mut policy, &documents, &validate::Facts::of(&wire, env), faults);
    Some(File { bootstrap: bootstrap?, policy, documents })
}

fn not_utf8(name: &str, text: &[u8], valid: usize, sources: &mut Sources) -> Fault {
    let lossy = String::from_utf8_lossy(text);
    let source = sources.add(name, &lossy);
    let before = text.get(..valid).and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
    let (line, column) = yaml::position(before);
    let origin = Origin { source, line, column, end_line: line, end_column: column + 1 };
    let byte = text.get(valid).copied().unwrap_or_default();
    let help = if text.starts_with(&[0xff, 0xfe]) || text.starts_with(&[0xfe, 0xff]) {
        "the file is UTF-16: save it as UTF-8"
    } else {
        "save the file as UTF-8"
    };
    whole(Code::NotUtf8, origin, format!("the byte 0x{byte:02x} is not UTF-8"), Some(help))
}

fn whole(code: Code, origin: Origin, message: String, help: Option<&str>) -> Fault {
    let help = help.map(str::to_owned);
    Fault { severity: Severity::Error, code, path: String::new(), origin, message, help }
}

/// The JSON Schema (draft 2020-12) of the file.
pub fn schema() -> Json {
    let mut defs = Defs::default();
    let root = FileWire::schema(&mut defs);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://weir.dev/weir.schema.json",
        "title": "weir.yaml",
        "$ref": root.get("$ref"),
        "$defs": defs.finish(),
    })
}
