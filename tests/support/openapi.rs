//! Holds answers against the OpenAPI document: an undocumented status, field or value fails the test that saw it.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use jsonschema::Validator;
use serde_json::{Value, json};

thread_local! {
    static CONTRACT: Contract = Contract::read();
}

struct Contract {
    document: Value,
    /// By pointer to the schema in the document.
    validators: RefCell<BTreeMap<String, Rc<Validator>>>,
}

/// Fails unless the document has this answer: the operation of the path, its status, content type and body.
///
/// # Panics
/// With all that differs.
pub fn check(method: &str, path: &str, status: u16, content_type: &str, body: &[u8]) {
    let said = CONTRACT.with(|contract| contract.check(method, path, status, content_type, body));
    if let Err(difference) = said {
        let body = String::from_utf8_lossy(body);
        panic!(
            "{method} {path} answered {status} against schemas/openapi.json: {difference}\n{body}"
        );
    }
}

/// Fails unless the document has this webhook.
///
/// # Panics
/// With all that differs.
pub fn check_webhook(operation: &str, content_type: &str, body: &str) {
    let said = CONTRACT.with(|contract| {
        let content = &contract.document["webhooks"][operation]["post"]["requestBody"]["content"];
        let schema = content
            .get(content_type)
            .ok_or("the content type is not documented")?;
        contract.validate(&schema["schema"], body.as_bytes())
    });
    if let Err(difference) = said {
        panic!("a webhook against schemas/openapi.json: {difference}\n{content_type}\n{body}");
    }
}

/// The document, as it is committed.
pub fn document() -> Value {
    CONTRACT.with(|contract| contract.document.clone())
}

/// The path template and the operations that a path leads to.
fn find<'d>(document: &'d Value, path: &str) -> Option<(&'d str, &'d Value)> {
    let path = path.split('?').next().unwrap_or_default();
    let steps: Vec<&str> = path.split('/').collect();
    let fits = |template: &str| {
        let wanted: Vec<&str> = template.split('/').collect();
        wanted.len() == steps.len()
            && wanted
                .iter()
                .zip(&steps)
                .all(|(wanted, step)| wanted.starts_with('{') || wanted == step)
    };
    let paths = document["paths"].as_object().unwrap();
    let found = paths.iter().find(|(template, _)| fits(template))?;
    Some((found.0, found.1))
}

impl Contract {
    fn read() -> Self {
        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/openapi.json");
        let mut document: Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        document["components"]["schemas"]
            .as_object_mut()
            .unwrap()
            .values_mut()
            .for_each(close);
        Self {
            document,
            validators: RefCell::default(),
        }
    }

    fn check(
        &self,
        method: &str,
        path: &str,
        status: u16,
        content_type: &str,
        body: &[u8],
    ) -> Result<(), String> {
        let asked = if method == "HEAD" { "GET" } else { method };
        let operation = find(&self.document, path)
            .map(|(template, operations)| (template, operations.get(asked.to_lowercase())));
        let problem = "/components/responses/Problem".to_owned();
        let pointer = match (operation, status) {
            // A fault of HMD's own is documented once for all.
            (_, 500) | (None, 401 | 404 | 503) | (Some((_, None)), 401 | 405 | 503) => problem,
            (None, _) => return Err("there is no such path".to_owned()),
            (Some((_, None)), _) => return Err("there is no such method".to_owned()),
            (Some((template, Some(_))), _) => format!(
                "/paths/{}/{}/responses/{status}",
                template.replace('~', "~0").replace('/', "~1"),
                asked.to_lowercase()
            ),
        };
        let response = self
            .document
            .pointer(&pointer)
            .ok_or("the status is not documented")?;
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let Some(content) = response.get("content") else {
            return match body {
                [] => Ok(()),
                _ => Err("a body where none is documented".to_owned()),
            };
        };
        let content = content.get(media_type).ok_or(format!(
            "the content type {content_type:?} is not documented"
        ))?;
        if method == "HEAD" || !media_type.ends_with("json") {
            return Ok(());
        }
        let body: Value =
            serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        if media_type == "application/problem+json" && body["status"] != status {
            return Err("the problem has another status".to_owned());
        }
        self.errors(&content["schema"], &body)
    }

    fn validate(&self, schema: &Value, body: &[u8]) -> Result<(), String> {
        let body: Value =
            serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        self.errors(schema, &body)
    }

    fn errors(&self, schema: &Value, body: &Value) -> Result<(), String> {
        let validator = self.validator(schema.to_string(), schema)?;
        let errors: Vec<String> = validator
            .iter_errors(body)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("\n"))
        }
    }

    fn validator(&self, key: String, schema: &Value) -> Result<Rc<Validator>, String> {
        if let Some(known) = self.validators.borrow().get(&key) {
            return Ok(Rc::clone(known));
        }
        let mut whole = schema.clone();
        whole["components"] = json!({"schemas": self.document["components"]["schemas"]});
        let made = Rc::new(validator(&whole)?);
        self.validators.borrow_mut().insert(key, Rc::clone(&made));
        Ok(made)
    }
}

/// Compiles a schema, formats included.
///
/// # Errors
/// What is wrong with it.
pub fn validator(schema: &Value) -> Result<Validator, String> {
    jsonschema::options()
        .with_draft(jsonschema::Draft::Draft202012)
        .should_validate_formats(true)
        .build(schema)
        .map_err(|error| error.to_string())
}

/// Answers may grow, so their schemas are open; but a test wants to see nothing that is not documented.
fn close(schema: &mut Value) {
    if schema["properties"].is_object() {
        let fields = schema.as_object_mut().unwrap();
        fields
            .entry("additionalProperties")
            .or_insert(Value::Bool(false));
    }
}
