//! Text → tree. YAML 1.2, and so JSON, with the bounds that outside input needs.

use std::{borrow::Cow, collections::HashMap};

use saphyr_parser::{Event, Parser, ScalarStyle, ScanError, Span, Tag};

use super::{
    codes::Code,
    expand,
    fault::{Fault, Faults, Severity, shown},
    node::{Entry, Map, Node, Origin, SourceId, Value},
    scalar,
};

/// The most bytes of a file: 1 MiB. The same bound holds for all that its variables expand to.
pub const MAX_BYTES: usize = 1024 * 1024;
/// The most levels of lists and maps.
pub const MAX_DEPTH: usize = 64;
/// The most nodes that aliases may add ("billion laughs").
const MAX_ALIASED: usize = 20_000;

/// What gives variables their values.
pub(super) type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads one document. Whatever is wrong goes to `faults`; `None` when there is no tree at all.
///
/// A file has a `lookup` for its variables. Without one the text is a live value, in which `${…}` is just text: whoever
/// may write policy must not be able to read the environment.
pub(super) fn read(
    text: &str,
    source: SourceId,
    lookup: Option<Lookup<'_>>,
    faults: &mut Faults,
) -> Option<Node> {
    if let Some(fault) = illegal_character(text, source) {
        faults.push(fault);
        return None;
    }
    let mut builder = Builder {
        source,
        text,
        lookup,
        faults,
        stack: Vec::new(),
        root: None,
        documents: 0,
        anchors: HashMap::new(),
        aliased: 0,
        expanded: 0,
    };
    let mut parser = Parser::new_from_str(text);
    while let Some(event) = parser.next_event() {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => {
                builder.syntax(&error);
                Err(Stop)
            }
        };
        if step.is_err() {
            return None;
        }
    }
    let root = builder.root.take();
    if root.is_none() {
        let origin = Origin { source, line: 1, column: 1, end_line: 1, end_column: 1 };
        let help = match lookup {
            Some(_) => "the smallest file has a service, a listener, an upstream and a route",
            None => "write `null` to remove the resource, or delete the key to take the overlay back",
        };
        builder.fault(Code::Empty, origin, format!("the {} is empty", builder.what()), Some(help));
    }
    root
}

/// Characters that YAML does not allow, some of which would silently end the file.
fn illegal_character(text: &str, source: SourceId) -> Option<Fault> {
    let illegal =
        |c: char| (c.is_control() && !matches!(c, '\t' | '\n' | '\r' | '\u{85}')) || c == '\u{feff}';
    let (at, found) = text.char_indices().find(|(_, c)| illegal(*c))?;
    let (line, column) = position(text.get(..at).unwrap_or_default());
    let origin = Origin { source, line, column, end_line: line, end_column: column + 1 };
    let (code, message, help) = if found == '\u{feff}' {
        (
            Code::ByteOrderMark,
            "a byte order mark".to_owned(),
            "save the file as UTF-8 without a byte order mark",
        )
    } else {
        let escape = found.escape_unicode();
        (
            Code::ControlCharacter,
            format!("the control character {escape}"),
            "in a text in double quotes it can be written as an escape",
        )
    };
    Some(Fault {
        severity: Severity::Error,
        code,
        path: String::new(),
        origin,
        message,
        help: Some(help.to_owned()),
    })
}

/// The line and column, from 1, of what follows `before`.
pub(super) fn position(before: &str) -> (u32, u32) {
    let lines = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    (narrow(lines), narrow(column))
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

/// Reading ends here; the fault is reported.
struct Stop;

struct Builder<'a> {
    source: SourceId,
    text: &'a str,
    lookup: Option<Lookup<'a>>,
    faults: &'a mut Faults,
    stack: Vec<Frame>,
    root: Option<Node>,
    documents: usize,
    /// What each finished anchor stands for, and of how many nodes it is made.
    anchors: HashMap<usize, (Node, usize)>,
    aliased: usize,
    expanded: usize,
}

/// A list or map that is still open.
struct Frame {
    origin: Origin,
    anchor: usize,
    /// Nodes in it so far, itself included.
    size: usize,
    items: Items,
}

enum Items {
    Seq(Vec<Node>),
    Map(Map, Option<Key>),
}

enum Key {
    Good(String, Origin),
    /// Its fault is reported; the value that follows is dropped.
    Bad,
}

impl Builder<'_> {
    /// What the text is, for messages.
    fn what(&self) -> &'static str {
        if self.lookup.is_some() { "file" } else { "value" }
    }

    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), Stop> {
        let origin = self.origin(span);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.documents += 1;
                if self.documents > 1 {
                    let help = format!("a {} is one document: take the `---` out", self.what());
                    let message = "a second document begins here".to_owned();
                    self.fault(Code::ManyDocuments, origin, message, Some(&help));
                    return Err(Stop);
                }
                Ok(())
            }
            Event::Scalar(text, style, anchor, tag) => {
                let node = self.scalar(&text, style, tag.as_deref(), origin);
                self.add(node, 1, anchor);
                Ok(())
            }
            Event::SequenceStart(anchor, tag) => {
                self.open(Items::Seq(Vec::new()), anchor, tag.as_deref(), origin)
            }
            Event::MappingStart(anchor, tag) => {
                self.open(Items::Map(Map::new(), None), anchor, tag.as_deref(), origin)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                self.close();
                Ok(())
            }
            Event::Alias(anchor) => self.alias(anchor, origin),
        }
    }

    fn open(&mut self, items: Items, anchor: usize, tag: Option<&Tag>, origin: Origin) -> Result<(), Stop> {
        self.check_tag(tag, origin);
        if self.stack.len() >= MAX_DEPTH {
            self.fault(
                Code::TooDeep,
                origin,
                format!("more than {MAX_DEPTH} levels of lists and maps"),
                None,
            );
            return Err(Stop);
        }
        self.stack.push(Frame { origin, anchor, size: 1, items });
        Ok(())
    }

    fn close(&mut self) {
        let Some(frame) = self.stack.pop() else { return };
        let value = match frame.items {
            Items::Seq(items) => Value::Seq(items),
            Items::Map(map, _) => Value::Map(map),
        };
        self.add(Node::new(value, frame.origin), frame.size, frame.anchor);
    }

    /// Puts a finished node where it belongs: into the open list or map, as a key, or at the root.
    fn add(&mut self, node: Node, size: usize, anchor: usize) {
        if anchor != 0 {
            self.anchors.insert(anchor, (node.clone(), size));
        }
        let Some(frame) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        frame.size += size;
        match &mut frame.items {
            Items::Seq(items) => items.push(node),
            Items::Map(map, key) => match key.take() {
                None => *key = Some(self.faults.key(&node, map)),
                Some(Key::Bad) => {}
                Some(Key::Good(name, origin)) => {
                    map.insert(name, Entry { key: origin, node });
                }
            },
        }
    }

    fn alias(&mut self, anchor: usize, origin: Origin) -> Result<(), Stop> {
        let Some((node, size)) = self.anchors.get(&anchor).cloned() else {
            self.fault(Code::Alias, origin, "an alias inside of what it stands for".to_owned(), None);
            return Err(Stop);
        };
        self.aliased = self.aliased.saturating_add(size);
        if self.aliased > MAX_ALIASED || self.stack.len() + depth(&node) > MAX_DEPTH {
            let message = format!(
                "the aliases of this {} expand to more than {MAX_ALIASED} values or {MAX_DEPTH} levels",
                self.what()
            );
            self.fault(Code::Alias, origin, message, None);
            return Err(Stop);
        }
        self.add(node, size, 0);
        Ok(())
    }

    fn scalar(&mut self, written: &str, style: ScalarStyle, tag: Option<&Tag>, origin: Origin) -> Node {
        // Keys stand for themselves: what a field or a resource is called does not depend on where Weir runs.
        let is_key = matches!(self.stack.last(), Some(Frame { items: Items::Map(_, None), .. }));
        let expanded = match self.lookup {
            Some(lookup) if !is_key => expand::expand(written, lookup),
            _ => Ok(Cow::Borrowed(written)),
        };
        let text = match expanded {
            Ok(text) => text,
            Err(error) => {
                let (at, length) = error.at;
                let origin = if self.faults.is_full() {
                    origin
                } else {
                    self.inside(origin, written.get(at..at + length).unwrap_or_default())
                };
                self.push(error.problem.code, origin, error.problem.message, error.problem.help);
                return Node::new(Value::Invalid, origin);
            }
        };
        if let Cow::Owned(text) = &text {
            self.expanded = self.expanded.saturating_add(text.len());
            if self.expanded > MAX_BYTES {
                let message = format!("the variables of this file expand to more than {MAX_BYTES} bytes");
                self.fault(Code::Expansion, origin, message, None);
                return Node::new(Value::Invalid, origin);
            }
        }
        let literal = style != ScalarStyle::Plain || self.check_tag(tag, origin);
        let value = if literal { Value::String(text.clone().into_owned()) } else { scalar::resolve(&text) };
        let raw = match value {
            Value::String(_) => matches!(text, Cow::Owned(_)).then(|| Box::from(written)),
            _ => (!text.is_empty()).then(|| Box::from(&*text)),
        };
        Node { value, origin, raw }
    }

    /// Whether the tag makes a text of a plain scalar.
    fn check_tag(&mut self, tag: Option<&Tag>, origin: Origin) -> bool {
        let Some(tag) = tag else { return false };
        if tag.is_yaml_core_schema() {
            return tag.suffix == "str";
        }
        if tag.handle.is_empty() && tag.suffix == "!" || tag.handle == "!" && tag.suffix.is_empty() {
            return true;
        }
        let message = format!("the tag `{}` has no meaning here", shown(&tag.to_string()));
        self.fault(Code::Tag, origin, message, Some("a text that begins with `!` needs quotes"));
        false
    }

    /// Where `piece` stands inside the scalar at `origin`; the scalar itself when it cannot be told (escapes).
    fn inside(&self, origin: Origin, piece: &str) -> Origin {
        let first = usize::try_from(origin.line).unwrap_or_default().saturating_sub(1);
        let last = usize::try_from(origin.end_line).unwrap_or_default();
        for (number, line) in self.text.lines().enumerate().take(last).skip(first) {
            let skip =
                if number == first { usize::try_from(origin.column).unwrap_or_default() - 1 } else { 0 };
            let from = line.char_indices().nth(skip).map_or(line.len(), |(at, _)| at);
            if let Some(found) = line.get(from..).and_then(|rest| rest.find(piece)) {
                let before = line.get(..from + found).unwrap_or_default().chars().count();
                let (line, column) = (narrow(number + 1), narrow(before + 1));
                let end_column = column + narrow(piece.chars().count());
                return Origin { line, column, end_line: line, end_column, ..origin };
            }
        }
        origin
    }

    fn syntax(&mut self, error: &ScanError) {
        let mark = error.marker();
        let (line, column) = (narrow(mark.line()), narrow(mark.col() + 1));
        let origin = Origin { source: self.source, line, column, end_line: line, end_column: column + 1 };
        let written = self.text.lines().nth(mark.line().saturating_sub(1)).unwrap_or_default();
        let indent = written.len() - written.trim_start().len();
        let help = if written.get(..indent).is_some_and(|space| space.contains('\t')) {
            Some("YAML is indented with spaces; this line begins with a tab")
        } else if self.lookup.is_some() && written.contains("${") {
            Some("inside `[ ]` and `{ }` a `${…}` needs quotes: `\"${NAME}\"`")
        } else {
            None
        };
        self.fault(Code::Syntax, origin, format!("this is not YAML: {}", error.info()), help);
    }

    fn origin(&self, span: Span) -> Origin {
        Origin {
            source: self.source,
            line: narrow(span.start.line()),
            column: narrow(span.start.col() + 1),
            end_line: narrow(span.end.line()),
            end_column: narrow(span.end.col() + 1),
        }
    }

    fn fault(&mut self, code: Code, origin: Origin, message: String, help: Option<&str>) {
        self.push(code, origin, message, help.map(str::to_owned));
    }

    fn push(&mut self, code: Code, origin: Origin, message: String, help: Option<String>) {
        self.faults.push(Fault {
            severity: Severity::Error,
            code,
            path: String::new(),
            origin,
            message,
            help,
        });
    }
}

impl Faults {
    /// What a finished node is as a key of `map`.
    fn key(&mut self, node: &Node, map: &Map) -> Key {
        let origin = node.origin;
        let (code, message) = match node.text() {
            Some(name) if map.contains_key(&*name) => {
                (Code::DuplicateKey, format!("`{}` stands here twice", shown(&name)))
            }
            Some(name) => return Key::Good(name.into_owned(), origin),
            None if matches!(node.value, Value::Invalid) => return Key::Bad,
            None => (Code::BadKey, format!("a key must be a text; this is {}", node.kind())),
        };
        let help = (code == Code::DuplicateKey)
            .then(|| "a map holds each key once: take one of them out".to_owned());
        self.push(Fault { severity: Severity::Error, code, path: String::new(), origin, message, help });
        Key::Bad
    }
}

/// How many levels of lists and maps `node` holds.
fn depth(node: &Node) -> usize {
    match &node.value {
        Value::Seq(items) => 1 + items.iter().map(depth).max().unwrap_or_default(),
        Value::Map(map) => 1 + map.values().map(|entry| depth(&entry.node)).max().unwrap_or_default(),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::node::Sources;

    fn parse(text: &str) -> Result<Node, Vec<(Code, u32, u32)>> {
        let mut sources = Sources::default();
        let id = sources.add("t", text);
        let mut faults = Faults::default();
        let lookup = |name: &str| (name == "N").then(|| "7".to_owned());
        let node = read(text, id, Some(&lookup), &mut faults);
        let list: Vec<_> = faults.iter().map(|f| (f.code, f.origin.line, f.origin.column)).collect();
        if list.is_empty() { Ok(node.unwrap()) } else { Err(list) }
    }

    fn json(text: &str) -> serde_json::Value {
        parse(text).unwrap().to_json()
    }

    #[test]
    fn yaml_and_json() {
        let expected = serde_json::json!({"a": 1, "b": ["x", null, true, 1.5], "c": {"d": "on"}});
        assert_eq!(json("a: 1\nb: [x, ~, true, 1.5]\nc:\n  d: on\n"), expected);
        assert_eq!(json(&serde_json::to_string_pretty(&expected).unwrap()), expected);
        assert_eq!(
            json("a: '1'\nb: !!str 1\nc: \"\\u00e4\"\nd: |\n  t\n"),
            serde_json::json!({"a": "1", "b": "1", "c": "ä", "d": "t\n"})
        );
    }

    #[test]
    fn expansion_comes_after_parsing_and_before_typing() {
        assert_eq!(json("a${N}: 1\n$$: 2"), serde_json::json!({"a${N}": 1, "$$": 2}));
        assert_eq!(
            json("a: ${N}\nb: '${N}'\nc: ${X:-}\nd: ${X:-a b}"),
            serde_json::json!({"a": 7, "b": "7", "c": null, "d": "a b"})
        );
        assert_eq!(
            parse("a: x\nb: [1, 'q${NO}']\nc: a${NO}"),
            Err(vec![(Code::Unset, 2, 10), (Code::Unset, 3, 5)])
        );
    }

    #[test]
    fn positions_count_characters_from_one() {
        let node = parse("ä: {ö: ü, a: [bb]}\nnext:\n  - x y\n").unwrap();
        let inner = node.get("ä").unwrap();
        assert_eq!((inner.key.line, inner.key.column, inner.key.end_column), (1, 1, 2));
        let umlaut = inner.node.get("ö").unwrap();
        assert_eq!((umlaut.node.origin.column, umlaut.node.origin.end_column), (8, 9));
        let Value::Seq(items) = &node.get("next").unwrap().node.value else { panic!() };
        let origin = items[0].origin;
        assert_eq!((origin.line, origin.column, origin.end_line, origin.end_column), (3, 5, 3, 8));
    }

    #[test]
    fn aliases_are_values_and_are_bounded() {
        assert_eq!(json("a: &x {b: 1}\nc: *x"), serde_json::json!({"a": {"b": 1}, "c": {"b": 1}}));
        let mut laughs = String::from("a0: &a0 [l, l, l, l, l, l, l, l, l, l]\n");
        for n in 1..10 {
            let items = vec![format!("*a{}", n - 1); 10].join(", ");
            laughs += &["a", &n.to_string(), ": &a", &n.to_string(), " [", &items, "]\n"].concat();
        }
        assert_eq!(parse(&laughs).unwrap_err()[0].0, Code::Alias);
        assert_eq!(parse("a: &x [*x]").unwrap_err()[0].0, Code::Alias);
    }

    #[test]
    fn depth_is_bounded() {
        let deep = |n: usize| "[".repeat(n) + &"]".repeat(n);
        assert!(parse(&deep(64)).is_ok());
        assert_eq!(parse(&deep(65)), Err(vec![(Code::TooDeep, 1, 65)]));
    }
}
