//! `${NAME}`, `${NAME:-default}` and `$$` inside scalars.
//!
//! Expansion happens after parsing, scalar by scalar, so that no value of the environment can change the
//! structure of the file.

use std::borrow::Cow;

use super::{
    codes::Code,
    fault::{Problem, shown},
};

/// What is known of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostFacts {
    /// Its name; `${HOSTNAME}` where the environment has none.
    pub hostname: String,
    /// How many CPUs the process may use.
    pub cpus: usize,
}

/// A problem, and the piece of the scalar that it is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ExpandProblem {
    pub(super) problem: Problem,
    /// The byte at which the piece begins in the unexpanded text, and its length.
    pub(super) at: (usize, usize),
}

/// Whether [`expand`] would change `text` or find fault with it.
pub(super) fn wants_expansion(text: &str) -> bool {
    text.contains("${") || text.contains("$$")
}

/// Replaces variables by what `lookup` says. A dollar sign before anything but `{` or `$` stands for itself.
pub(super) fn expand<'t>(
    text: &'t str,
    lookup: &dyn Fn(&str) -> Option<String>,
) -> Result<Cow<'t, str>, ExpandProblem> {
    if !wants_expansion(text) {
        return Ok(Cow::Borrowed(text));
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        let start = text.len() - after.len() - 1;
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let Some((inside, after)) = after.split_once('}') else {
                let problem = Problem::new(Code::Expansion, "`${` without its `}`")
                    .help("write `${NAME}` or `${NAME:-default}`, and `$$` for a dollar sign");
                return Err(ExpandProblem { problem, at: (start, text.len() - start) });
            };
            let value = variable(inside, lookup)
                .map_err(|problem| ExpandProblem { problem, at: (start, inside.len() + 3) })?;
            out.push_str(&value);
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    Ok(Cow::Owned(out))
}

fn variable(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Problem> {
    let (name, default) = match inside.split_once(":-") {
        Some((name, default)) => (name, Some(default)),
        None => (inside, None),
    };
    let legal = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || !name.bytes().all(legal) || name.starts_with(|c: char| c.is_ascii_digit()) {
        return Err(Problem::new(
            Code::Expansion,
            format!("`{}` is not the name of a variable", shown(name)),
        )
        .help("write `${NAME}` or `${NAME:-default}`, and `$$` for a dollar sign"));
    }
    match (lookup(name), default) {
        // As in a shell: `:-` also stands in for a variable that is set to nothing.
        (Some(value), Some(default)) if value.is_empty() => Ok(default.to_owned()),
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => {
            Err(Problem::new(Code::Unset, format!("the environment variable `{name}` is not set"))
                .help(format!("set {name}, or give a default: `${{{name}:-value}}`")))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_env(text: &str) -> Result<String, (Code, (usize, usize))> {
        let lookup = |name: &str| match name {
            "PORT" => Some("8080".to_owned()),
            "EMPTY" => Some(String::new()),
            "EVIL" => Some("a: b\n- ${PORT}".to_owned()),
            _ => None,
        };
        expand(text, &lookup).map(Cow::into_owned).map_err(|e| (e.problem.code, e.at))
    }

    #[test]
    fn variables_defaults_and_dollar_signs() {
        for (text, expected) in [
            ("plain", "plain"),
            ("${PORT}", "8080"),
            ("127.0.0.1:${PORT}/x", "127.0.0.1:8080/x"),
            ("${NONE:-fall back}", "fall back"),
            ("${EMPTY:-fall back}", "fall back"),
            ("${EMPTY}", ""),
            ("${NONE:-}", ""),
            ("$$", "$"),
            ("$${PORT}", "${PORT}"),
            ("a$b$", "a$b$"),
            ("~^/a$", "~^/a$"),
            // What a variable holds is not expanded again.
            ("${EVIL}", "a: b\n- ${PORT}"),
        ] {
            assert_eq!(with_env(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn faults_name_their_place() {
        assert_eq!(with_env("ab${NONE}c"), Err((Code::Unset, (2, 7))));
        assert_eq!(with_env("${PORT"), Err((Code::Expansion, (0, 6))));
        assert_eq!(with_env("ä${}"), Err((Code::Expansion, (2, 3))));
        assert_eq!(with_env("${1A}"), Err((Code::Expansion, (0, 5))));
    }
}
