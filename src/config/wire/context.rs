//! What decoding carries along: the faults so far, and the path to where it is.

use super::{Slot, Spanned, Wire};
use crate::config::{
    codes::Code,
    fault::{Fault, Faults, Problem, Severity, listed, nearest, shown},
    node::{Entry, Map, Node, Origin, Value},
};

/// Where decoding or validation is, and where faults go.
pub(crate) struct Cx<'a> {
    faults: &'a mut Faults,
    path: Vec<Step>,
    root: Origin,
}

struct Step {
    name: String,
    key: Origin,
}

impl<'a> Cx<'a> {
    /// Begins at the root of a document.
    pub(crate) fn new(faults: &'a mut Faults, root: Origin) -> Self {
        Self { faults, path: Vec::new(), root }
    }

    /// Whether further errors will not be shown, so that advice needs no effort.
    pub(crate) fn is_full(&self) -> bool {
        self.faults.is_full()
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
        self.at(key, entry.key, |cx| cx.problem(problem, entry.key));
    }

    /// Reports `key` when the map does not have it.
    pub(crate) fn required(&mut self, map: &Map, key: &str) {
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
        let path = self.path.iter().map(|step| step.name.as_str()).collect::<Vec<_>>().join(".");
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
        "route" => Some(("{ upstream: ", " }")),
        "match" => Some(("{ path: ", " }")),
        "balancer" => Some(("{ policy: ", " }")),
        "log" => Some(("{ level: ", " }")),
        "store" => Some(("{ directory: ", " }")),
        _ => None,
    }
}

/// What to do about a field of a later version.
const LATER_HELP: &str = "take it out, or use a version of Weir that has it";
