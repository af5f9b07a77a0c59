//! The OpenAPI document, from the table of operations.

use serde::ser::SerializeMap as _;
use serde::{Serialize, Serializer};
use serde_json::{Map, Value, json};

use super::components::Generators;
use super::operation::{Access, Content, Operation, Parameter};
use super::reference;

/// The document, with its fields in the order that people expect.
#[derive(Serialize)]
pub struct Document<'a> {
    openapi: &'static str,
    info: Value,
    servers: Value,
    security: Value,
    tags: Value,
    paths: Paths<'a>,
    components: Value,
}

/// Paths in the order of the table, each with its operations.
struct Paths<'a>(&'a [Operation]);

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct OperationObject<'a> {
    operation_id: &'a str,
    tags: [&'a str; 1],
    summary: &'a str,
    description: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    security: Option<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    parameters: Vec<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_body: Option<Value>,
    responses: Map<String, Value>,
}

/// Makes the document.
#[must_use]
pub fn document<'a>(operations: &'a [Operation], components: &Map<String, Value>) -> Document<'a> {
    Document {
        openapi: "3.1.0",
        info: json!({
            "title": "HMD",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "Health mediated deployments for Cloudflare Workers",
            "description": super::docs::CONVENTIONS.map(|(title, text)| format!("**{title}.** {text}")).join("\n\n"),
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        }),
        servers: json!([{"url": "/", "description": "The installation that serves this document"}]),
        security: json!([{"token": []}]),
        tags: super::operations::TAGS
            .map(|(name, description)| json!({"name": name, "description": description}))
            .into(),
        paths: Paths(operations),
        components: json!({
            "schemas": components,
            "responses": {"Problem": problem("Anything else that goes wrong; status 500 is a fault of HMD itself.", &[])},
            "headers": headers(),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "The installation's `HMD_API_TOKEN`."},
                "password": {"type": "http", "scheme": "basic", "description": "For browsers, on the two pages for people only: any name, and `HMD_API_TOKEN` as the password."},
                "signature": {"type": "apiKey", "in": "header", "name": "webhook-signature", "description": "Standard Webhooks v1: `v1,` and the base64 of the HMAC-SHA256 of `id.timestamp.body` with the plan's hook secret."},
            },
        }),
    }
}

/// Headers of answers, by name: what they say, and an example.
pub const HEADERS: [(&str, &str, &str); 4] = [
    (
        "ETag",
        "The revision, for `If-None-Match` and `If-Match`.",
        "\"31\"",
    ),
    (
        "Location",
        "Where the new release is.",
        "/v1/releases/rel_0192f0c1d2e37abc8def0123456789ab",
    ),
    (
        "Retry-After",
        "Seconds to wait before trying again; absent if waiting does not help.",
        "5",
    ),
    ("WWW-Authenticate", "How to show who one is.", "Bearer"),
];

fn headers() -> Value {
    let headers = HEADERS.map(|(name, description, example)| {
        let header =
            json!({"description": description, "schema": {"type": "string"}, "example": example});
        (name.to_owned(), header)
    });
    Value::Object(headers.into_iter().collect())
}

fn problem(when: &str, headers: &[&str]) -> Value {
    with_headers(
        json!({"description": when, "content": {"application/problem+json": {"schema": reference("Problem")}}}),
        headers,
    )
}

/// The same answer for people.
fn page(mut response: Value) -> Value {
    response["content"]["text/html"] = json!({"schema": {"type": "string"}});
    response
}

fn with_headers(mut response: Value, headers: &[&str]) -> Value {
    for name in headers {
        response["headers"][*name] = json!({"$ref": format!("#/components/headers/{name}")});
    }
    response
}

impl Serialize for Paths<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        let mut generators = Generators::new();
        for (i, first) in self.0.iter().enumerate() {
            if self.0[..i].iter().any(|before| before.path == first.path) {
                continue;
            }
            let of_path = self.0.iter().filter(|other| other.path == first.path);
            map.serialize_entry(
                first.path,
                &Methods(
                    of_path
                        .map(|operation| {
                            (
                                operation.method.as_str().to_lowercase(),
                                object(operation, &mut generators),
                            )
                        })
                        .collect(),
                ),
            )?;
        }
        map.end()
    }
}

struct Methods<'a>(Vec<(String, OperationObject<'a>)>);

impl Serialize for Methods<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(method, object)| (method, object)))
    }
}

fn object<'a>(operation: &'a Operation, generators: &mut Generators) -> OperationObject<'a> {
    let mut responses = Map::new();
    for answer in &operation.answers {
        let json = |schema: Value| json!({"description": answer.when, "content": {"application/json": {"schema": schema}}});
        let response = match answer.content {
            Content::None => json!({"description": answer.when}),
            Content::Problem => problem(answer.when, &[]),
            Content::Html => {
                json!({"description": answer.when, "content": {"text/html": {"schema": {"type": "string"}}}})
            }
            Content::AnyJson => {
                json!({"description": answer.when, "content": {"application/json": {"schema": {"type": "object"}}}})
            }
            Content::Json(schema, _) => json(generators.answer(schema)),
            Content::Page(schema, _) => page(json(generators.answer(schema))),
            Content::ProblemPage => page(problem(answer.when, &[])),
        };
        responses.insert(
            answer.status.to_string(),
            with_headers(response, answer.headers),
        );
    }
    responses.insert(
        "default".to_owned(),
        json!({"$ref": "#/components/responses/Problem"}),
    );
    OperationObject {
        operation_id: operation.id,
        tags: [operation.tag],
        summary: operation.summary,
        description: operation.description,
        security: match operation.access {
            Access::Token => None,
            Access::Page => Some(json!([{"token": []}, {"password": []}])),
            Access::Signature => Some(json!([{"signature": []}])),
            Access::Everyone => Some(json!([])),
        },
        parameters: operation
            .parameters
            .iter()
            .map(|p| parameter(p, generators))
            .collect(),
        request_body: operation.body.as_ref().map(|body| {
            let schema = generators.request(body.schema);
            let mut content = json!({"application/json": {"schema": schema}});
            if body.form {
                content["application/x-www-form-urlencoded"] = json!({"schema": schema});
            }
            json!({"required": body.required, "content": content})
        }),
        responses,
    }
}

fn parameter(parameter: &Parameter, generators: &mut Generators) -> Value {
    json!({
        "name": parameter.name, "in": parameter.place.name(), "required": parameter.place.is_required(),
        "description": parameter.description, "schema": generators.request(parameter.schema),
    })
}
