//! What decoding carries along: the faults so far, and the path to where it is.

use super::{Slot, Spanned, Wire};
use crate::config::{
    Kind, Name,
    codes::Code,
    fault::{Fault, Faults, Problem, Severity, listed, nearest, shown},
    node::{Entry, Map, Node, Origin, Value},
};

/// The most regular expressions in one live document: each may take up to
/// [`Pattern::SIZE_LIMIT`](crate::config::Pattern::SIZE_LIMIT) of memory.
const MAX_LIVE_REGEXES: u32 = 100;

/// Where decoding or validation is, and where faults go.
pub(crate) struct Cx<'a> {
    faults: &'a mut Faults,
    path: Vec<Step>,
    root: Origin,
    /// What is read is live policy: unknown fields are warnings.
    live: bool,
    /// What is read is a patch: what is missing in it may be elsewhere.
    partial: bool,
    regexes: u32,
    references: Vec<Reference>,
}

/// A resource that another one names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Reference {
    /// Its kind.
    pub(crate) kind: Kind,
    /// Its name.
    pub(crate) name: Name,
    /// The field that names it.
    pub(crate) path: String,
    /// Where it is written.
    pub(crate) origin: Origin,
}

struct Step {
    name: String,
    key: Origin,
}

impl<'a> Cx<'a> {
    /// Begins at the root of a document.
    pub(crate) fn new(faults: &'a mut Faults, root: Origin) -> Self {
        Self {
            faults,
            path: Vec::new(),
            root,
            live: false,
            partial: false,
            regexes: 0,
            references: Vec::new(),
        }
    }

    /// Begins at the root of a live document.
    pub(crate) fn live(faults: &'a mut Faults, root: Origin) -> Self {
        Self { live: true, ..Self::new(faults, root) }
    }

    /// Whether what is read is live policy.
    pub(crate) fn is_live(&self) -> bool {
        self.live
    }

    /// Reads a patch: in it nothing has to be there.
    pub(crate) fn patch<R>(&mut self, work: impl FnOnce(&mut Self) -> R) -> R {
        let before = std::mem::replace(&mut self.partial, true);
        let result = work(self);
        self.partial = before;
        result
    }

    /// Notes that the resource where we are refers to another; whether that exists is seen when all are known.
    pub(crate) fn refer(&mut self, field: &str, kind: Kind, name: &Spanned<Name>) {
        let path = self.at(field, name.origin, |cx| cx.path_text());
        self.references.push(Reference { kind, name: name.value.clone(), path, origin: name.origin });
    }

    /// What was referred to so far; nothing is left.
    pub(crate) fn take_references(&mut self) -> Vec<Reference> {
        std::mem::take(&mut self.references)
    }

    /// Reports that a reference leads nowhere.
    pub(crate) fn dangling(&mut self, reference: &Reference, problem: Problem) {
        self.put(Severity::Error, problem, reference.origin, reference.path.clone());
    }

    /// Whether one more regular expression may be compiled; if not, that is reported.
    pub(crate) fn may_compile(&mut self, origin: Origin) -> bool {
        self.regexes = self.regexes.saturating_add(1);
        if !self.live || self.regexes <= MAX_LIVE_REGEXES {
            return true;
        }
        if self.regexes == MAX_LIVE_REGEXES + 1 {
            let message = format!("more than {MAX_LIVE_REGEXES} regular expressions in one live document");
            self.problem(Problem::new(Code::OutOfBounds, message).help("join some of them by `|`"), origin);
        }
        false
    }

    /// Whether further errors will not be shown, so that advice needs no effort.
    pub(crate) fn is_full(&self) -> bool {
        self.faults.is_full()
    }

    /// Whether something is wrong with the field `name` already, so that it is there, if not in a usable way.
    pub(crate) fn is_faulty(&mut self, name: &str) -> bool {
        let path = self.at(name, Origin::default(), |cx| cx.path_text());
        let inside =
            |of: &str| of.strip_prefix(&path).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.faults.iter().any(|fault| fault.severity == Severity::Error && inside(&fault.path))
    }

    /// Where the key is written under which we are.
    pub(crate) fn here(&self) -> Origin {
        self.path.last().map_or(self.root, |step| step.key)
    }

    /// Does `work` one level deeper.
    pub(crate) fn at<R>(&mut self, name: &str, key: Origin, work: impl FnOnce(&mut Self) -> R) -> R {
        self.path.push(Step { name: name.to_owned(), key });
        let result = work(self);
        self.path.pop();
        result
    }

    /// Reads the field `key` into `slot`. A field without a value is as if it was not written (RFC 7396).
    pub(crate) fn field<T: Wire>(&mut self, key: &str, entry: &Entry, slot: &mut impl Slot<T>) {
        if entry.node.is_null() {
            return;
        }
        self.at(key, entry.key, |cx| {
            if let Some(value) = T::decode(&entry.node, cx) {
                slot.put(Spanned { value, origin: entry.node.origin });
            }
        });
    }

    /// The entries of a map.
    pub(crate) fn map<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n Map> {
        let Value::Map(map) = &node.value else {
            self.wrong_block(node, &format!("a map ({what})"), short_form(what));
            return None;
        };
        Some(map)
    }

    /// A field that does not exist, or not yet.
    pub(crate) fn unknown(&mut self, key: &str, entry: &Entry, fields: &[&str], later: &[&str]) {
        let problem = if later.contains(&key) {
            Problem::new(
                Code::LaterVersion,
                format!("`{key}` is known, but this version does not have it yet"),
            )
            .help(LATER_HELP)
        } else {
            let known = listed(fields.iter().copied()).replace(" or ", " and ");
            let guess = if self.is_full() { None } else { nearest(key, fields.iter().copied()) };
            let guess = guess.map(|field| format!("did you mean `{field}`? ")).unwrap_or_default();
            Problem::new(Code::UnknownField, format!("there is no field `{}` here", shown(key)))
                .help(format!("{guess}The fields are {known}"))
        };
        // A newer publisher must not break older instances.
        let severity = if self.live { Severity::Warning } else { Severity::Error };
        self.at(key, entry.key, |cx| cx.push(severity, problem, entry.key));
    }

    /// Reports `key` when the map does not have it.
    pub(crate) fn required(&mut self, map: &Map, key: &str) {
        if self.partial {
            return;
        }
        if map.get(key).is_none_or(|entry| entry.node.is_null()) {
            let origin = map.get(key).map_or_else(|| self.here(), |entry| entry.key);
            self.problem(Problem::new(Code::Missing, format!("`{key}` is missing")), origin);
        }
    }

    /// A node of another type than wanted.
    pub(crate) fn wrong_type(&mut self, node: &Node, wanted: &str) {
        self.wrong_block(node, wanted, None);
    }

    /// A node of another type than the block wanted; a text is shown as it would be right in `form`.
    pub(crate) fn wrong_block(&mut self, node: &Node, wanted: &str, form: Option<(&str, &str)>) {
        if matches!(node.value, Value::Invalid) {
            return;
        }
        let origin = if node.is_null() || matches!(node.value, Value::Map(_) | Value::Seq(_)) {
            self.here()
        } else {
            node.origin
        };
        let message = format!("expected {wanted}, found {}", node.kind());
        let mut problem = Problem::new(Code::WrongType, message);
        if let (Some((before, behind)), Value::String(text)) = (form, &node.value) {
            problem = problem.help(format!("write `{before}{}{behind}`", shown(text)));
        }
        self.problem(problem, origin);
    }

    /// Reports a problem that is at `origin`, in the field where we are.
    pub(crate) fn problem(&mut self, problem: Problem, origin: Origin) {
        self.push(Severity::Error, problem, origin);
    }

    /// Reports something that is probably not meant.
    pub(crate) fn warn(&mut self, problem: Problem, origin: Origin) {
        self.push(Severity::Warning, problem, origin);
    }

    fn push(&mut self, severity: Severity, problem: Problem, origin: Origin) {
        let path = self.path_text();
        self.put(severity, problem, origin, path);
    }

    fn path_text(&self) -> String {
        self.path.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(".")
    }

    fn put(&mut self, severity: Severity, problem: Problem, origin: Origin, path: String) {
        let Problem { code, message, help } = problem;
        self.faults.push(Fault { severity, code, path, origin, message, help });
    }
}

/// What stands around a text where a block is wanted that begins with just this: people who know the one thing that
/// they want to say leave its field out.
fn short_form(block: &str) -> Option<(&'static str, &'static str)> {
    match block {
        "listener" | "admin" | "telemetry" => Some(("{ listen: ", " }")),
        "upstream" | "etcd" => Some(("{ endpoints: [", "] }")),
        "route" | "fallback" => Some(("{ upstream: ", " }")),
        "match" => Some(("{ path: ", " }")),
        "balancer" => Some(("{ policy: ", " }")),
        "discover" => Some(("{ dns: ", " }")),
        "log" => Some(("{ level: ", " }")),
        "store" => Some(("{ directory: ", " }")),
        "redis" => Some(("{ url: ", " }")),
        _ => None,
    }
}

/// What to do about a field of a later version.
const LATER_HELP: &str = "take it out, or use a version of Weir that has it";
