//! Faults for people, in the manner of rustc, and for machines.

use annotate_snippets::{
    AnnotationKind, Group, Level, Origin as Place, Renderer, Snippet, renderer::DecorStyle,
};
use serde_json::{Value as Json, json};

use super::{
    fault::{Fault, Severity},
    load::Loaded,
    node::{Origin, Source},
};

impl Loaded {
    /// All faults as text, each with the line it is about.
    pub fn render(&self, colour: bool) -> String {
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        let renderer = renderer.decor_style(DecorStyle::Ascii);
        let mut out = String::new();
        for fault in &self.faults {
            out.push_str(&renderer.render(&[self.group(fault)]));
            out.push_str("\n\n");
        }
        out
    }

    fn group<'a>(&'a self, fault: &'a Fault) -> Group<'a> {
        let level = match fault.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
        };
        let title = if fault.path.is_empty() {
            fault.message.clone()
        } else {
            format!("{}: {}", super::fault::shown_path(&fault.path), fault.message)
        };
        let mut group = Group::with_title(level.primary_title(title).id(fault.code.as_str()));
        if let Some(source) = self.sources.get(fault.origin.source) {
            group = match line_of(source, fault.origin) {
                Some((line, span)) => group.element(
                    Snippet::source(line)
                        .line_start(usize::try_from(fault.origin.line).unwrap_or(1))
                        .path(source.name.to_string())
                        .annotation(AnnotationKind::Primary.span(span)),
                ),
                None => group.element(Place::path(source.name.to_string())),
            };
        }
        match &fault.help {
            Some(help) => group.element(Level::HELP.message(help.as_str())),
            None => group,
        }
    }

    /// All faults as JSON objects: severity, code, file, line, column, `end_column`, path, message, help.
    pub fn to_json(&self) -> Json {
        self.faults.iter().map(|fault| self.fault_json(fault)).collect()
    }

    fn fault_json(&self, fault: &Fault) -> Json {
        let source = self.sources.get(fault.origin.source);
        json!({
            "severity": fault.severity.as_str(),
            "code": fault.code.as_str(),
            "file": source.map(|source| &*source.name),
            "line": fault.origin.line,
            "column": fault.origin.column,
            "end_column": source.map_or(fault.origin.column, |source| end_column(source, fault.origin)),
            "path": fault.path,
            "message": fault.message,
            "help": fault.help,
        })
    }
}

/// The column after the fault's last character on its first line; at least one past its first.
fn end_column(source: &Source, origin: Origin) -> u32 {
    let end = if origin.end_line > origin.line {
        let line = text_line(source, origin).unwrap_or_default();
        u32::try_from(line.chars().count() + 1).unwrap_or(u32::MAX)
    } else {
        origin.end_column
    };
    end.max(origin.column.saturating_add(1))
}

fn text_line(source: &Source, origin: Origin) -> Option<&str> {
    // What is empty still has a first line; a fault at the end of a file may be on the line after the last.
    let number = usize::try_from(origin.line).ok()?.checked_sub(1)?;
    source.text.lines().chain(std::iter::once("")).nth(number)
}

/// The line a fault is on, and the bytes of it that are to be underlined.
fn line_of(source: &Source, origin: Origin) -> Option<(&str, std::ops::Range<usize>)> {
    let line = text_line(source, origin)?;
    let byte = |column: u32| {
        let index = usize::try_from(column).unwrap_or_default().saturating_sub(1);
        line.char_indices().nth(index).map_or(line.len(), |(at, _)| at)
    };
    let start = byte(origin.column);
    Some((line, start..byte(end_column(source, origin)).max(start)))
}
