//! Wire types: what people may write, exactly as they write it.
//!
//! One definition yields three things: the struct, the decoding that collects *all* faults, and the JSON Schema.
//! Serde stops at the first fault and knows no positions, so this is done here, by [`wire!`] and a few traits:
//!
//! - [`Text`]: a scalar that is read from text (a duration, a name, a path pattern);
//! - [`Wire`]: anything that can be read from a [`Node`] and described by a schema;
//! - [`Shown`]: a value that can be a default, and so is printed in the schema.

pub(super) mod bounds;
mod context;
pub(super) mod envelope;
pub(super) mod file;
pub(super) mod health;
pub(super) mod hosts;
pub(super) mod http2;
pub(super) mod limits;
mod list;
pub(super) mod patterns;
pub(super) mod plans;
mod redis;
pub(super) mod resilience;
pub(super) mod scalars;
pub(super) mod schema;
pub(super) mod short;
pub(super) mod store;
pub(super) mod switches;
pub(super) mod upstreams;

pub(super) use context::Cx;
pub(crate) use context::Reference;
pub(super) use list::{List, Many, Table};
pub(super) use schema::Defs;

use serde_json::{Value as Json, json};

use super::{
    codes::Code,
    fault::{Problem, listed, nearest, shown},
    node::{Node, Origin, Value},
};

/// A value and where it is written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Spanned<T> {
    /// The value.
    pub(crate) value: T,
    /// Where it is written; for a default, where the block is that could have held it.
    pub(crate) origin: Origin,
}

/// Something that can be read from a node.
pub(super) trait Wire: Sized {
    /// Reads it. All faults go to `cx`; `None` when nothing could be made of the node.
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self>;

    /// Its JSON Schema; parts that have a name go to `defs`.
    fn schema(defs: &mut Defs) -> Json;
}

/// A value that can be printed as people would write it.
pub(super) trait Shown {
    /// As JSON.
    fn show(&self) -> Json;
}

/// Which scalars a [`Text`] can be read from, beside texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Texts only.
    Text,
    /// Texts and integers.
    Integer,
    /// Texts and numbers.
    Number,
    /// Texts, numbers and booleans.
    Any,
    /// Integers only.
    OnlyInteger,
}

/// A scalar that is read from text.
pub(super) trait Text: Sized {
    /// What it is, with its article and an example: "a duration such as 2s".
    const WHAT: &'static str;
    /// Its name among the schema's definitions; empty = it stands inline.
    const DEF: &'static str;
    /// Which scalars it can be read from.
    const TAKES: Takes;
    /// Whether a text that begins with `~` is a regular expression, of which a live document may hold only so many.
    const REGEX: bool = false;

    /// Reads it.
    fn parse(text: &str) -> Result<Self, Problem>;

    /// What the schema says of it, without the alternative of an environment variable.
    fn describe() -> Json;
}

impl<T: Text> Wire for T {
    fn decode(node: &Node, cx: &mut Cx<'_>) -> Option<Self> {
        let from_variable = matches!(node.value, Value::String(_)) && node.raw.is_some();
        let taken = match &node.value {
            Value::String(_) => T::TAKES != Takes::OnlyInteger || from_variable,
            Value::Int(_) => T::TAKES != Takes::Text,
            Value::Float(_) => matches!(T::TAKES, Takes::Number | Takes::Any),
            Value::Bool(_) => T::TAKES == Takes::Any,
            Value::Null | Value::Seq(_) | Value::Map(_) | Value::Invalid => false,
        };
        let Some(text) = node.text().filter(|_| taken) else {
            cx.wrong_type(node, T::WHAT);
            return None;
        };
        if T::REGEX && text.starts_with('~') && !cx.may_compile(node.origin) {
            return None;
        }
        T::parse(&text).map_err(|problem| cx.problem(problem, node.origin)).ok()
    }

    fn schema(defs: &mut Defs) -> Json {
        let with_variables = |defs: &mut Defs| json!({ "anyOf": [T::describe(), schema::variable(defs)] });
        if T::DEF.is_empty() { with_variables(defs) } else { defs.named(T::DEF, with_variables) }
    }
}

/// Where a decoded field goes: into its place, or into an optional one.
pub(super) trait Slot<T> {
    /// Puts it there.
    fn put(&mut self, value: Spanned<T>);
}

impl<T> Slot<T> for Option<Spanned<T>> {
    fn put(&mut self, value: Spanned<T>) {
        *self = Some(value);
    }
}

impl<T> Slot<T> for Spanned<T> {
    fn put(&mut self, value: Spanned<T>) {
        *self = value;
    }
}

/// A block whose fields may all be left out.
pub(super) trait Defaults {
    /// It, with nothing written.
    fn defaults(origin: Origin) -> Self;
}

/// Reads one of a fixed set of words.
pub(super) fn choose<T: Copy>(
    text: &str,
    what: &str,
    choices: &[(&'static str, T)],
    later: &[&str],
) -> Result<T, Problem> {
    if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
        return Ok(*value);
    }
    let words = || choices.iter().map(|(word, _)| *word);
    if later.contains(&text) {
        let message = format!("`{text}` is known, but this version does not have it yet");
        return Err(
            Problem::new(Code::LaterVersion, message).help(format!("this version takes {}", listed(words())))
        );
    }
    let help = match nearest(text, words()) {
        Some(word) => format!("did you mean `{word}`? It takes {}", listed(words())),
        None => format!("it takes {}", listed(words())),
    };
    Err(Problem::new(Code::UnknownChoice, format!("`{}` is not {what}", shown(text))).help(help))
}

/// Defines a block of fields: the struct, its decoding and its schema.
///
/// A field is `name: Type`, and behind that its rule: nothing (optional), `= required`, `= empty` (a block whose
/// fields all have defaults) or `= default(value)`. `name("written")` renames. Fields under `later` are known but
/// belong to a later version.
macro_rules! wire {
    (
        $(#[doc = $doc:literal])*
        $name:ident as $def:literal {
            $( $(#[doc = $fdoc:literal])* $field:ident $(($text:literal))? : $ty:ty $(= $rule:ident $(($default:expr))?)? , )*
        }
        $(later { $($later:literal),* $(,)? })?
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, PartialEq)]
        pub(crate) struct $name {
            $( $(#[doc = $fdoc])* pub(crate) $field: $crate::config::wire::wire!(@type $ty $(, $rule)?), )*
        }

        impl $crate::config::wire::Defaults for $name {
            fn defaults(origin: $crate::config::node::Origin) -> Self {
                let _ = origin;
                Self { $( $field: $crate::config::wire::wire!(@absent origin, $ty $(, $rule $(($default))?)?), )* }
            }
        }

        impl $crate::config::wire::Wire for $name {
            fn decode(node: &$crate::config::node::Node, cx: &mut $crate::config::wire::Cx<'_>) -> Option<Self> {
                const FIELDS: &[&str] = &[$( $crate::config::wire::wire!(@text $field $(, $text)?), )*];
                const LATER: &[&str] = &[$($($later),*)?];
                let map = cx.map(node, $def)?;
                let mut out = <Self as $crate::config::wire::Defaults>::defaults(cx.here());
                for (key, entry) in map {
                    match key.as_str() {
                        $( $crate::config::wire::wire!(@text $field $(, $text)?) => cx.field(key, entry, &mut out.$field), )*
                        _ => cx.unknown(key, entry, FIELDS, LATER),
                    }
                }
                $( $crate::config::wire::wire!(@check cx, map, $crate::config::wire::wire!(@text $field $(, $text)?) $(, $rule)?); )*
                Some(out)
            }

            fn schema(defs: &mut $crate::config::wire::Defs) -> serde_json::Value {
                defs.named($def, |defs| {
                    let mut object = $crate::config::wire::schema::Object::new(concat!($($doc),*));
                    $( object.field(
                        $crate::config::wire::wire!(@text $field $(, $text)?),
                        concat!($($fdoc),*),
                        <$ty as $crate::config::wire::Wire>::schema(defs),
                        $crate::config::wire::wire!(@rule $ty $(, $rule $(($default))?)?),
                    ); )*
                    object.finish()
                })
            }
        }
    };

    (@text $field:ident) => { stringify!($field) };
    (@text $field:ident, $text:literal) => { $text };

    (@type $ty:ty) => { Option<$crate::config::wire::Spanned<$ty>> };
    (@type $ty:ty, required) => { Option<$crate::config::wire::Spanned<$ty>> };
    (@type $ty:ty, empty) => { $crate::config::wire::Spanned<$ty> };
    (@type $ty:ty, default) => { $crate::config::wire::Spanned<$ty> };

    (@absent $origin:ident, $ty:ty) => { None };
    (@absent $origin:ident, $ty:ty, required) => { None };
    (@absent $origin:ident, $ty:ty, empty) => {
        $crate::config::wire::Spanned { value: <$ty as $crate::config::wire::Defaults>::defaults($origin), origin: $origin }
    };
    (@absent $origin:ident, $ty:ty, default($default:expr)) => {
        $crate::config::wire::Spanned { value: $default, origin: $origin }
    };

    (@check $cx:ident, $map:ident, $text:expr) => {};
    (@check $cx:ident, $map:ident, $text:expr, required) => { $cx.required($map, $text); };
    (@check $cx:ident, $map:ident, $text:expr, empty) => {};
    (@check $cx:ident, $map:ident, $text:expr, default) => {};

    (@rule $ty:ty) => { $crate::config::wire::schema::Rule::Optional };
    (@rule $ty:ty, required) => { $crate::config::wire::schema::Rule::Required };
    (@rule $ty:ty, empty) => { $crate::config::wire::schema::Rule::Optional };
    (@rule $ty:ty, default($default:expr)) => {{
        let default: $ty = $default;
        $crate::config::wire::schema::Rule::Default($crate::config::wire::Shown::show(&default))
    }};
}
pub(super) use wire;
