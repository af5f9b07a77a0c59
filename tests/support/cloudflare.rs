//! Holds what is said to Cloudflare, and what it answers, against the subset of its OpenAPI document.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use jsonschema::Validator;
use serde_json::{Value, json};

use super::openapi::validator;

const BASE: &str = "/client/v4";
const FAILURE: &str = "/components/schemas/workers_api-response-common-failure";

thread_local! {
    static SUBSET: Subset = Subset::read();
}

struct Subset {
    /// As it is published, made into JSON Schema.
    open: Value,
    /// The same, but objects hold nothing that is not described: what HMD writes is to be exact.
    closed: Value,
    validators: RefCell<BTreeMap<(bool, String), Rc<Validator>>>,
}

/// Fails unless Cloudflare describes this request: its path, method, query parameters and body.
///
/// # Panics
/// With all that differs.
pub fn check_request(method: &str, path_and_query: &str, body: &[u8]) {
    let said = SUBSET.with(|subset| subset.request(method, path_and_query, body));
    if let Err(difference) = said {
        let body = String::from_utf8_lossy(body);
        panic!("{method} {path_and_query} is not as Cloudflare describes it: {difference}\n{body}");
    }
}

/// Fails unless Cloudflare describes this answer.
///
/// # Panics
/// With all that differs.
pub fn check_answer(method: &str, path_and_query: &str, status: u16, body: &Value) {
    if let Err(difference) = answer(method, path_and_query, status, body) {
        panic!(
            "{method} {path_and_query} answered {status}, not as Cloudflare describes it: {difference}\n{body}"
        );
    }
}

/// What differs between this answer and what Cloudflare describes.
///
/// # Errors
/// All that differs.
pub fn answer(method: &str, path_and_query: &str, status: u16, body: &Value) -> Result<(), String> {
    SUBSET.with(|subset| subset.answer(method, path_and_query, status, body))
}

/// The path template of the document that a path leads to.
pub fn template_of(path_and_query: &str) -> Option<String> {
    SUBSET.with(|subset| subset.find(path_and_query).map(str::to_owned))
}

/// All operations of the document: method and path template.
pub fn operations() -> Vec<(String, String)> {
    SUBSET.with(|subset| {
        let paths = subset.open["paths"].as_object().unwrap().iter();
        let operations = paths.flat_map(|(template, operations)| {
            let methods = operations.as_object().unwrap().keys();
            methods.map(move |method| (method.to_uppercase(), template.clone()))
        });
        operations.collect()
    })
}

impl Subset {
    fn read() -> Self {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/fixtures/cloudflare-openapi-subset.json"
        );
        let mut open: Value =
            serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
        to_json_schema(&mut open);
        // Cloudflare's own documents contradict each other about 0 %; whether it is taken is tried out.
        let share = "/components/schemas/workers_deployment/properties/versions/items/properties/percentage";
        *open.pointer_mut(&format!("{share}/minimum")).unwrap() = json!(0);
        let mut closed = open.clone();
        close(&mut closed);
        Self {
            open,
            closed,
            validators: RefCell::default(),
        }
    }

    fn find(&self, path_and_query: &str) -> Option<&str> {
        let path = path_and_query.split('?').next().unwrap_or_default();
        let path = path.strip_prefix(BASE)?;
        let steps: Vec<&str> = path.split('/').collect();
        let fits = |template: &&String| {
            let wanted: Vec<&str> = template.split('/').collect();
            let mut pairs = wanted.iter().zip(&steps);
            wanted.len() == steps.len()
                && pairs.all(|(wanted, step)| wanted.starts_with('{') || wanted == step)
        };
        let paths = self.open["paths"].as_object().unwrap();
        paths.keys().find(fits).map(String::as_str)
    }

    fn pointer(template: &str, method: &str) -> String {
        let template = template.replace('~', "~0").replace('/', "~1");
        format!("/paths/{template}/{}", method.to_lowercase())
    }

    fn request(&self, method: &str, path_and_query: &str, body: &[u8]) -> Result<(), String> {
        let Some(template) = self.find(path_and_query) else {
            // The subset lacks these, which HMD may use.
            let known = ["/script-settings", "/ai/run/"];
            let described = known.iter().any(|part| path_and_query.contains(part));
            return described
                .then_some(())
                .ok_or_else(|| "there is no such path".to_owned());
        };
        let pointer = Self::pointer(template, method);
        let operation = self
            .open
            .pointer(&pointer)
            .ok_or("there is no such method")?;
        let (_, query) = path_and_query.split_once('?').unwrap_or_default();
        let known = operation["parameters"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        for (name, _) in form_urlencoded::parse(query.as_bytes()) {
            let named = |one: &Value| one["in"] == "query" && one["name"] == *name;
            if !known.iter().any(named) {
                return Err(format!("there is no query parameter {name}"));
            }
        }
        let pointer = format!("{pointer}/requestBody/content/application~1json/schema");
        if self.closed.pointer(&pointer).is_none() {
            return match body {
                [] => Ok(()),
                _ => Err("a body where none is described".to_owned()),
            };
        }
        let body = serde_json::from_slice(body).map_err(|error| format!("not JSON: {error}"))?;
        self.validate(true, &pointer, &body)
    }

    fn answer(
        &self,
        method: &str,
        path_and_query: &str,
        status: u16,
        body: &Value,
    ) -> Result<(), String> {
        if body["success"] != (status == 200) {
            return Err("success is not what the status says".to_owned());
        }
        let described = self.find(path_and_query).map(|template| {
            let responses = format!("{}/responses", Self::pointer(template, method));
            let exact = format!("{responses}/{status}/content/application~1json/schema");
            let class = format!(
                "{responses}/{}XX/content/application~1json/schema",
                status / 100
            );
            [exact, class]
                .into_iter()
                .find(|one| self.open.pointer(one).is_some())
        });
        match described {
            Some(Some(pointer)) => {
                // A created deployment may be told of in part.
                let partial = method == "POST"
                    && path_and_query.contains("/deployments")
                    && body["result"]["id"].is_string()
                    && body["result"].get("strategy").is_none();
                if partial {
                    Ok(())
                } else {
                    self.validate(false, &pointer, body)
                }
            }
            Some(None) | None if status != 200 => self.validate(false, FAILURE, body),
            Some(_) => Err("the status is not described".to_owned()),
            None if body["errors"] == json!([]) && body.get("result").is_some() => Ok(()),
            None => Err("not the envelope of a success".to_owned()),
        }
    }

    fn validate(&self, exact: bool, pointer: &str, value: &Value) -> Result<(), String> {
        let document = if exact { &self.closed } else { &self.open };
        let key = (exact, pointer.to_owned());
        let known = self.validators.borrow().get(&key).map(Rc::clone);
        let validator = if let Some(known) = known {
            known
        } else {
            let mut whole = document.pointer(pointer).unwrap().clone();
            whole["components"] = json!({"schemas": document["components"]["schemas"]});
            let made = Rc::new(validator(&whole)?);
            self.validators.borrow_mut().insert(key, Rc::clone(&made));
            made
        };
        let errors: Vec<String> = validator
            .iter_errors(value)
            .map(|error| format!("{}: {error}", error.instance_path()))
            .collect();
        if errors.is_empty() {
            Ok(())
        } else {
            Err(errors.join("\n"))
        }
    }
}

/// OpenAPI 3.0 says with `nullable` what JSON Schema says with a type.
fn to_json_schema(node: &mut Value) {
    if node["nullable"] == true {
        let kind = node["type"].clone();
        node["type"] = json!([kind, "null"]);
    }
    match node {
        Value::Object(fields) => fields.values_mut().for_each(to_json_schema),
        Value::Array(items) => items.iter_mut().for_each(to_json_schema),
        _ => (),
    }
}

/// Lets objects hold what is described for a request and no more. Parts that are put together can't be closed one by one.
fn close(node: &mut Value) {
    match node {
        Value::Object(fields) => {
            if fields
                .get("allOf")
                .and_then(Value::as_array)
                .is_some_and(|all| all.len() > 1)
            {
                return;
            }
            if fields.get("properties").is_some_and(Value::is_object) && fields.contains_key("type")
            {
                fields
                    .entry("additionalProperties")
                    .or_insert(Value::Bool(false));
            }
            if let Some(Value::Object(properties)) = fields.get_mut("properties") {
                // What is read-only is for answers alone.
                properties.retain(|_, property| property["readOnly"] != true);
                let names: Vec<String> = properties.keys().cloned().collect();
                if let Some(Value::Array(required)) = fields.get_mut("required") {
                    required.retain(|name| names.iter().any(|known| name == known));
                }
            }
            fields.values_mut().for_each(close);
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => (),
    }
}
