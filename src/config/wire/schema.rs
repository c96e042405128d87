//! The JSON Schema (draft 2020-12) that falls out of the wire types.

use serde_json::{Map, Value as Json, json};

/// The schema's named definitions.
#[derive(Debug, Default)]
pub(crate) struct Defs(Map<String, Json>);

impl Defs {
    /// A reference to the definition `name`, which `make` makes when it is not there yet.
    pub(crate) fn named(&mut self, name: &str, make: impl FnOnce(&mut Self) -> Json) -> Json {
        if !self.0.contains_key(name) {
            // Held first, so that a definition may refer to itself.
            self.0.insert(name.to_owned(), Json::Null);
            let definition = make(self);
            self.0.insert(name.to_owned(), definition);
        }
        json!({ "$ref": format!("#/$defs/{name}") })
    }

    /// All of them, in order of name.
    pub(crate) fn finish(mut self) -> Json {
        self.0.sort_keys();
        Json::Object(self.0)
    }
}

/// A text that holds an environment variable: it may become anything.
pub(super) fn variable(defs: &mut Defs) -> Json {
    defs.named("variable", |_| {
        json!({
            "description": "A value from the environment: ${NAME} or ${NAME:-default}.",
            "type": "string",
            "pattern": r"\$\{[A-Za-z_][A-Za-z0-9_]*(:-[^}]*)?\}",
        })
    })
}

/// Whether a field must be there, and what holds when it is not.
pub(crate) enum Rule {
    /// It may be left out.
    Optional,
    /// It must be there.
    Required,
    /// Left out, it has this value.
    Default(Json),
}

/// The schema of one block, as it grows.
pub(crate) struct Object {
    description: String,
    properties: Map<String, Json>,
    required: Vec<Json>,
}

impl Object {
    /// Begins it.
    pub(crate) fn new(doc: &str) -> Self {
        Self { description: prose(doc), properties: Map::new(), required: Vec::new() }
    }

    /// Adds a field.
    pub(crate) fn field(&mut self, name: &str, doc: &str, schema: Json, rule: Rule) {
        let mut field = json!({ "description": prose(doc) });
        match rule {
            Rule::Optional => {}
            Rule::Required => self.required.push(name.into()),
            Rule::Default(default) => set(&mut field, "default", default),
        }
        // A field without a value is as if it was not written, unless it must be there.
        let schema = if self.required.last().is_some_and(|last| last == name) {
            schema
        } else {
            json!({ "anyOf": [schema, { "type": "null" }] })
        };
        if let Json::Object(parts) = schema {
            for (key, part) in parts {
                set(&mut field, &key, part);
            }
        }
        self.properties.insert(name.to_owned(), field);
    }

    /// The finished schema.
    pub(crate) fn finish(self) -> Json {
        let mut object = json!({ "description": self.description, "type": "object" });
        set(&mut object, "properties", self.properties.into());
        if !self.required.is_empty() {
            set(&mut object, "required", self.required.into());
        }
        set(&mut object, "additionalProperties", false.into());
        object
    }
}

/// Sets `object[key]`.
pub(super) fn set(object: &mut Json, key: &str, value: Json) {
    if let Json::Object(map) = object {
        map.insert(key.to_owned(), value);
    }
}

/// A doc comment as one line of prose, without the marks that only rustdoc understands.
fn prose(doc: &str) -> String {
    doc.split_whitespace().collect::<Vec<_>>().join(" ")
}
