//! The schemas of everything that goes over the wire, generated from the Rust types.

use std::collections::BTreeSet;

use schemars::generate::{SchemaGenerator, SchemaSettings};
use serde_json::{Map, Value, json};

use super::operation::{Content, Operation, SchemaOf};
use crate::http::Problem;
use crate::http::plans::READ_ONLY;

/// Where schemas refer to each other in the OpenAPI document.
pub const PREFIX: &str = "#/components/schemas/";

/// Two generators, since a request may leave out what an answer always has.
#[derive(Debug)]
pub struct Generators {
    requests: SchemaGenerator,
    answers: SchemaGenerator,
    examples: Vec<(String, Value)>,
}

impl Generators {
    /// Generators that know no type yet.
    #[must_use]
    pub fn new() -> Self {
        let settings = || {
            SchemaSettings::draft2020_12().with(|settings| {
                settings.definitions_path = "/components/schemas".into();
            })
        };
        let mut answers = settings().for_serialize().into_generator();
        answers.subschema_for::<Problem>();
        Self {
            requests: settings().for_deserialize().into_generator(),
            answers,
            examples: vec![(format!("{PREFIX}Problem"), super::examples::problem())],
        }
    }

    /// The schema of a request body, or of a parameter.
    pub fn request(&mut self, of: SchemaOf) -> Value {
        tidied(of(&mut self.requests).to_value())
    }

    /// The schema of an answer.
    pub fn answer(&mut self, of: SchemaOf) -> Value {
        tidied(of(&mut self.answers).to_value())
    }

    /// Learns what the operations take and answer.
    pub fn learn(&mut self, operations: &[Operation]) {
        for operation in operations {
            for parameter in &operation.parameters {
                self.request(parameter.schema);
            }
            if let Some(body) = &operation.body {
                let schema = self.request(body.schema);
                self.exemplify(&schema, body.example);
            }
            for answer in &operation.answers {
                if let Content::Json(schema, example) | Content::Page(schema, example) =
                    answer.content
                {
                    let schema = self.answer(schema);
                    self.exemplify(&schema, example);
                }
            }
        }
    }

    /// Gives a named schema its example; the first one counts.
    fn exemplify(&mut self, schema: &Value, example: fn() -> Value) {
        let name = schema["$ref"].as_str().unwrap_or_default();
        if !self.examples.iter().any(|(known, _)| known == name) {
            self.examples.push((name.to_owned(), example()));
        }
    }

    /// All named schemas. Of a type that goes both ways, what a request may be holds.
    #[must_use]
    pub fn components(mut self) -> Map<String, Value> {
        let mut components = self.answers.take_definitions(true);
        components.values_mut().for_each(open_answer);
        components.append(&mut self.requests.take_definitions(true));
        components.values_mut().for_each(tidy);
        allow_read_only(&mut components);
        for (name, example) in self.examples {
            let name = name.trim_start_matches(PREFIX);
            if let Some(schema) = components.get_mut(name) {
                schema["examples"] = json!([example]);
            }
        }
        components
    }
}

impl Default for Generators {
    fn default() -> Self {
        Self::new()
    }
}

/// Answers may grow, and what is absent from them is absent, not null.
fn open_answer(schema: &mut Value) {
    let Some(schema) = schema.as_object_mut() else {
        return;
    };
    schema.remove("additionalProperties");
    schema.remove("unevaluatedProperties");
    let required = schema.get("required").cloned().unwrap_or_default();
    let required = |name: &String| {
        required
            .as_array()
            .is_some_and(|names| names.iter().any(|known| known == name))
    };
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        for (_, property) in properties.iter_mut().filter(|(name, _)| !required(name)) {
            strip_null(property);
        }
    }
}

fn strip_null(property: &mut Value) {
    let is_null = |schema: &Value| *schema == json!({"type": "null"}) || schema == "null";
    for key in ["type", "anyOf"] {
        if let Some(Value::Array(options)) = property.get_mut(key) {
            options.retain(|option| !is_null(option));
            if let [only] = &options[..] {
                let only = only.clone();
                match only {
                    Value::Object(fields) => {
                        property
                            .as_object_mut()
                            .map(|property| property.remove(key));
                        for (name, value) in fields {
                            property[name] = value;
                        }
                    }
                    name => property[key] = name,
                }
            }
        }
    }
}

/// A plan file may name its schema, and a plan that was read may be sent back as it is.
fn allow_read_only(components: &mut Map<String, Value>) {
    let saved = components["SavedPlan"]["properties"].clone();
    let Some(Value::Object(plan)) = components
        .get_mut("Plan")
        .and_then(|plan| plan.get_mut("properties"))
    else {
        return;
    };
    for name in READ_ONLY {
        let schema = if let Some(mut schema) = saved.get(name).cloned() {
            schema["readOnly"] = json!(true);
            schema
        } else {
            json!({"type": "string", "description": "Where this schema is, for editors; not kept."})
        };
        plan.insert(name.to_owned(), schema);
    }
}

fn tidied(mut schema: Value) -> Value {
    tidy(&mut schema);
    schema
}

/// Takes out what only Rust knows: links in comments, line ends, sizes of integers.
fn tidy(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(tidy),
        Value::Object(fields) => {
            if let Some(Value::String(text)) = fields.get_mut("description") {
                *text = text
                    .replace("[`", "`")
                    .replace("`]", "`")
                    .replace('\n', " ");
            }
            let rusty = |format: &Value| format.as_str().is_some_and(|it| it.starts_with("uint"));
            if fields.get("format").is_some_and(rusty) {
                fields.remove("format");
            }
            if fields.get("default") == Some(&Value::Null) {
                fields.remove("default");
            }
            fields.values_mut().for_each(tidy);
        }
        _ => (),
    }
}

/// The names of the schemas that a schema needs.
#[must_use]
pub fn needed(schema: &Value, components: &Map<String, Value>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![schema];
    while let Some(next) = open.pop() {
        match next {
            Value::Array(items) => open.extend(items),
            Value::Object(fields) => {
                let name = fields.get("$ref").and_then(Value::as_str);
                if let Some(name) = name.and_then(|name| name.strip_prefix(PREFIX))
                    && found.insert(name.to_owned())
                {
                    open.extend(components.get(name));
                }
                open.extend(fields.values());
            }
            _ => (),
        }
    }
    found
}
