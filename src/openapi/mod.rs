//! The OpenAPI document, the JSON Schemas and the API page, generated from the Rust types and one table of operations. Host
//! only: the Worker serves the committed files, `cargo run -- schemas` writes them, a test checks that they are current.

mod components;
mod docs;
mod document;
mod examples;
mod fields;
mod operation;
mod operations;
mod parameters;
mod types;
mod webhooks;

use serde::Serialize;
use serde_json::{Map, Value, json};

use components::{Generators, PREFIX, needed};
pub use operation::{Access, Answer, Body, Content, Operation, Parameter, Place, SchemaOf};
pub use operations::operations;

/// A file of `schemas/`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name.
    pub name: &'static str,
    /// What belongs in it.
    pub content: String,
}

/// A JSON Schema that stands alone, with its fields in the order that people expect.
#[derive(Serialize)]
struct Standalone {
    #[serde(rename = "$schema")]
    dialect: &'static str,
    #[serde(rename = "$id")]
    id: String,
    title: &'static str,
    #[serde(flatten)]
    schema: Value,
    #[serde(rename = "$defs")]
    definitions: Map<String, Value>,
}

/// Every generated file.
///
/// # Errors
/// What can't be written as JSON; nothing, in practice.
pub fn files() -> serde_json::Result<Vec<File>> {
    let operations = operations();
    let mut generators = Generators::new();
    generators.learn(&operations);
    let components = generators.components();
    let standalone = |name: &'static str, root: &str, title: &'static str| {
        let schema = &components[root];
        let definitions = needed(schema, &components)
            .into_iter()
            .map(|name| (name.clone(), components[&name].clone()))
            .collect();
        let schema = Standalone {
            dialect: "https://json-schema.org/draft/2020-12/schema",
            id: format!("urn:hmd:schemas:{name}"),
            title,
            schema: schema.clone(),
            definitions,
        };
        let content = pretty(&schema)?.replace(PREFIX, "#/$defs/");
        Ok::<File, serde_json::Error>(File { name, content })
    };
    Ok(vec![
        File {
            name: "openapi.json",
            content: pretty(&document::document(&operations, &components))?,
        },
        standalone("plan.schema.json", "Plan", "HMD: release plan")?,
        standalone("release.schema.json", "Release", "HMD: release")?,
        standalone("event.schema.json", "Event", "HMD: event of a release")?,
        File {
            name: "docs.html",
            content: docs::page(&operations, &components),
        },
    ])
}

fn pretty(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// The value of a reference to a named schema.
fn reference(name: &str) -> Value {
    json!({"$ref": format!("{PREFIX}{name}")})
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::http::route::{Route, SubscriberVerb, Verb};

    /// The path of a route: the compiler asks for a new one here.
    fn path(route: Route<'_>) -> &'static str {
        match route {
            Route::Health => "/healthz",
            Route::OpenApi => "/openapi.json",
            Route::Docs => "/docs",
            Route::Plans => "/v1/plans",
            Route::Plan(_) => "/v1/plans/{name}",
            Route::Forecast(_) => "/v1/plans/{name}/forecast",
            Route::HookSecret(_) => "/v1/plans/{name}/hook-secret",
            Route::JudgeSecret(_) => "/v1/plans/{name}/judge-secret",
            Route::Hook(_) => "/hooks/{name}",
            Route::Releases => "/v1/releases",
            Route::Preflight => "/v1/releases/preflight",
            Route::Release(_) => "/v1/releases/{id}",
            Route::Events(_) => "/v1/releases/{id}/events",
            Route::Backtest(_) => "/v1/releases/{id}/replay",
            Route::Evidence(_) => "/v1/releases/{id}/evidence",
            Route::Command(_, Verb::Start) => "/v1/releases/{id}/start",
            Route::Command(_, Verb::Stop) => "/v1/releases/{id}/stop",
            Route::Command(_, Verb::Pause) => "/v1/releases/{id}/pause",
            Route::Command(_, Verb::Resume) => "/v1/releases/{id}/resume",
            Route::Command(_, Verb::Promote) => "/v1/releases/{id}/promote",
            Route::Command(_, Verb::Abandon) => "/v1/releases/{id}/abandon",
            Route::Decide(_, _, true) => "/v1/releases/{id}/stages/{n}/approve",
            Route::Decide(_, _, false) => "/v1/releases/{id}/stages/{n}/deny",
            Route::Approval(_) => "/approvals/{token}",
            Route::Subscribers => "/v1/subscribers",
            Route::Subscriber(_) => "/v1/subscribers/{subscriber}",
            Route::SubscriberCommand(_, SubscriberVerb::Pause) => {
                "/v1/subscribers/{subscriber}/pause"
            }
            Route::SubscriberCommand(_, SubscriberVerb::Resume) => {
                "/v1/subscribers/{subscriber}/resume"
            }
            Route::SubscriberCommand(_, SubscriberVerb::RotateSecret) => {
                "/v1/subscribers/{subscriber}/rotate-secret"
            }
            Route::SubscriberCommand(_, SubscriberVerb::Test) => {
                "/v1/subscribers/{subscriber}/test"
            }
            Route::SubscriberCommand(_, SubscriberVerb::Replay) => {
                "/v1/subscribers/{subscriber}/replay"
            }
            Route::Deliveries(_) => "/v1/subscribers/{subscriber}/deliveries",
            Route::Delivery(..) => "/v1/subscribers/{subscriber}/deliveries/{delivery}",
            Route::Replay(..) => "/v1/subscribers/{subscriber}/deliveries/{delivery}/replay",
            Route::Workers => "/v1/workers",
            Route::Worker(..) => "/v1/workers/{account_id}/{script_name}",
            Route::Versions(..) => "/v1/workers/{account_id}/{script_name}/versions",
            Route::Deployments(..) => "/v1/workers/{account_id}/{script_name}/deployments",
            Route::Queries(..) => "/v1/workers/{account_id}/{script_name}/queries",
        }
    }

    /// One of each, in the order of the match above.
    const ROUTES: [Route<'_>; 39] = [
        Route::Health,
        Route::OpenApi,
        Route::Docs,
        Route::Plans,
        Route::Plan("x"),
        Route::Forecast("x"),
        Route::HookSecret("x"),
        Route::JudgeSecret("x"),
        Route::Hook("x"),
        Route::Releases,
        Route::Preflight,
        Route::Release("x"),
        Route::Events("x"),
        Route::Evidence("x"),
        Route::Backtest("x"),
        Route::Command("x", Verb::Start),
        Route::Command("x", Verb::Stop),
        Route::Command("x", Verb::Pause),
        Route::Command("x", Verb::Resume),
        Route::Command("x", Verb::Promote),
        Route::Command("x", Verb::Abandon),
        Route::Decide("x", 1, true),
        Route::Decide("x", 1, false),
        Route::Approval("x"),
        Route::Subscribers,
        Route::Subscriber("x"),
        Route::SubscriberCommand("x", SubscriberVerb::Pause),
        Route::SubscriberCommand("x", SubscriberVerb::Resume),
        Route::SubscriberCommand("x", SubscriberVerb::RotateSecret),
        Route::SubscriberCommand("x", SubscriberVerb::Test),
        Route::SubscriberCommand("x", SubscriberVerb::Replay),
        Route::Deliveries("x"),
        Route::Delivery("x", "x"),
        Route::Replay("x", "x"),
        Route::Workers,
        Route::Worker("x", "x"),
        Route::Versions("x", "x"),
        Route::Deployments("x", "x"),
        Route::Queries("x", "x"),
    ];

    #[test]
    fn the_table_has_exactly_the_routes_and_methods_of_the_api() {
        let routed: BTreeSet<(String, String)> = ROUTES
            .into_iter()
            .flat_map(|route| {
                let methods = route.methods().iter();
                methods.map(move |method| (method.to_string(), path(route).to_owned()))
            })
            .collect();
        let documented: BTreeSet<(String, String)> = operations()
            .into_iter()
            .map(|operation| (operation.method.to_string(), operation.path.to_owned()))
            .collect();
        assert_eq!(documented, routed);
        for operation in operations() {
            let real: String = operation
                .path
                .split_inclusive('}')
                .map(|part| match part.split_once('{') {
                    Some((before, "n}")) => format!("{before}1"),
                    Some((before, _)) => format!("{before}x"),
                    None => part.to_owned(),
                })
                .collect();
            assert_eq!(Route::of(&real).map(path), Some(operation.path));
        }
    }

    #[test]
    fn operations_have_a_name_of_their_own() {
        let names: BTreeSet<&str> = operations().iter().map(|operation| operation.id).collect();
        assert_eq!(names.len(), operations().len());
    }
}
