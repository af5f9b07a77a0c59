//! The API page for people: static HTML without a script, from the same table and schemas as the OpenAPI document.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::components::Generators;
use super::fields::{html, section, type_text};
use super::operation::{Access, Answer, Content, Operation};
use super::{operations::TAGS, reference};

/// What holds for every operation.
pub const CONVENTIONS: [(&str, &str); 7] = [
    (
        "Who gets in",
        "Send the installation's `HMD_API_TOKEN` as `Authorization: Bearer …`; only `/healthz` and approval links answer without. A browser may show it as a password for `/docs` and `/openapi.json`.",
    ),
    (
        "Bodies",
        "JSON with `Content-Type: application/json`, at most 64 KB. A field that is not known is an error that names it. A `POST` without a body needs no content type. A text has at most 500 characters.",
    ),
    (
        "Errors",
        "Are `application/problem+json` (RFC 9457): `title`, `status`, `detail`, and for a bad body `errors` with a JSON pointer to each field. A path that does not exist is 404, a method that does not work there 405 with `Allow`.",
    ),
    (
        "Times and durations",
        "Times are RFC 3339 in UTC. Durations are texts such as `90s`, `10m` or `24h`.",
    ),
    (
        "Lists",
        "Are `{\"items\": […], \"next_cursor\": …}`: send `next_cursor` as `cursor` to get the next page; on the last one it is null.",
    ),
    (
        "Conditions",
        "Plans and releases have a `revision`, which is their ETag. With `If-None-Match` a read that would show nothing new is 304 without a body; with `If-Match` a plan is changed only if nobody else was faster, else 412.",
    ),
    (
        "Trying again",
        "A 503 changed nothing; wait as long as `Retry-After` says. A decision or a command that was carried out already is answered as the first time. To create a release at most once, send an `Idempotency-Key`.",
    ),
];

/// The page.
#[must_use]
pub fn page(operations: &[Operation], components: &Map<String, Value>) -> String {
    let plan = parts_of("Plan", components);
    let event = parts_of("Event", components);
    let others: Vec<&String> = components
        .keys()
        .filter(|name| !plan.contains(name) && !event.contains(name))
        .collect();
    let mut out = String::from(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n<title>HMD: API</title>\n<style>\n",
    );
    out += include_str!("docs.css");
    out += "</style>\n</head>\n<body>\n<header>\n<h1>HMD: API</h1>\n";
    let _ = writeln!(
        out,
        "<p>Health mediated deployments for Cloudflare Workers, version {}. For programs: <a href=\"/openapi.json\">/openapi.json</a>.</p>\n</header>",
        env!("CARGO_PKG_VERSION")
    );
    out += &contents(operations);
    out += "<main>\n<section id=\"conventions\"><h2>What holds everywhere</h2>\n<dl>\n";
    for (title, text) in CONVENTIONS {
        let _ = writeln!(out, "<dt><b>{title}</b></dt><dd>{}</dd>", html(text));
    }
    out += "</dl>\n</section>\n";
    for (tag, description) in TAGS {
        let _ = writeln!(
            out,
            "<section id=\"tag-{tag}\"><h2>{tag}</h2>\n<p>{}</p>",
            html(description)
        );
        for operation in operations.iter().filter(|operation| operation.tag == tag) {
            out += &one(operation);
        }
        out += "</section>\n";
    }
    let groups = [
        (
            "plan-fields",
            "The plan's fields",
            "What <code>PUT /v1/plans/{name}</code> takes. For completion in an editor, let <code>$schema</code> of a plan file point at <code>schemas/plan.schema.json</code>.",
            plan,
        ),
        (
            "events",
            "Events",
            "What <code>GET /v1/releases/{id}/events</code> tells.",
            event,
        ),
        (
            "answers",
            "Other types",
            "What the rest of the API takes and answers.",
            others,
        ),
    ];
    for (id, title, text, names) in groups {
        let _ = writeln!(out, "<section id=\"{id}\"><h2>{title}</h2>\n<p>{text}</p>");
        for name in names {
            out += &section(name, &components[name]);
        }
        out += "</section>\n";
    }
    out + "</main>\n</body>\n</html>\n"
}

/// A schema and all that it refers to, itself first.
fn parts_of<'c>(root: &str, components: &'c Map<String, Value>) -> Vec<&'c String> {
    let needed = super::components::needed(&reference(root), components);
    let mut names: Vec<&String> = components
        .keys()
        .filter(|name| needed.contains(*name))
        .collect();
    names.sort_by_key(|name| *name != root);
    names
}

fn contents(operations: &[Operation]) -> String {
    let mut out = String::from(
        "<nav aria-label=\"Contents\">\n<ul>\n<li><a href=\"#conventions\">What holds everywhere</a></li>\n",
    );
    for (tag, _) in TAGS {
        let _ = writeln!(out, "<li><a href=\"#tag-{tag}\">{tag}</a>\n<ul>");
        for operation in operations.iter().filter(|operation| operation.tag == tag) {
            let _ = writeln!(
                out,
                "<li><a href=\"#{}\">{}</a></li>",
                operation.id,
                html(operation.summary)
            );
        }
        out += "</ul></li>\n";
    }
    out + "<li><a href=\"#plan-fields\">The plan's fields</a></li>\n<li><a href=\"#events\">Events</a></li>\n<li><a href=\"#answers\">Other types</a></li>\n</ul>\n</nav>\n"
}

fn one(operation: &Operation) -> String {
    let mut generators = Generators::new();
    let mut out = format!(
        "<section id=\"{}\"><h3>{}</h3>\n<p><span class=\"method\">{}</span> <code>{}</code></p>\n<p>{}</p>\n",
        operation.id,
        html(operation.summary),
        operation.method,
        operation.path,
        html(operation.description)
    );
    if !operation.parameters.is_empty() {
        out += "<h4>Parameters</h4>\n<dl>\n";
        for parameter in &operation.parameters {
            let _ = writeln!(
                out,
                "<dt><code>{}</code> <small>{}; {}</small></dt><dd>{}</dd>",
                parameter.name,
                parameter.place.name(),
                type_text(&generators.request(parameter.schema)),
                html(parameter.description)
            );
        }
        out += "</dl>\n";
    }
    if let Some(body) = &operation.body {
        let _ = writeln!(
            out,
            "<h4>Body</h4>\n<p>{}{}</p>",
            type_text(&generators.request(body.schema)),
            if body.required {
                ""
            } else {
                "; may be left out"
            }
        );
    }
    let _ = writeln!(
        out,
        "<h4>Example</h4>\n<pre><code>{}</code></pre>",
        html(&curl(operation))
    );
    out += "<h4>Answers</h4>\n<dl>\n";
    for answer in &operation.answers {
        out += &answered(answer, &mut generators);
    }
    out += "</dl>\n";
    if let Some(example) = operation
        .answers
        .iter()
        .find_map(|answer| match answer.content {
            Content::Json(_, example) | Content::Page(_, example) => Some(example()),
            _ => None,
        })
    {
        let _ = writeln!(
            out,
            "<pre><code>{}</code></pre>",
            html(&format!("{example:#}"))
        );
    }
    out + "</section>\n"
}

fn answered(answer: &Answer, generators: &mut Generators) -> String {
    let content = match answer.content {
        Content::None => "no body".to_owned(),
        Content::Json(schema, _) => type_text(&generators.answer(schema)),
        Content::AnyJson => "JSON".to_owned(),
        Content::Problem => type_text(&reference("Problem")),
        Content::Html => "HTML".to_owned(),
        Content::Page(schema, _) => format!("HTML, or {}", type_text(&generators.answer(schema))),
        Content::ProblemPage => format!("HTML, or {}", type_text(&reference("Problem"))),
    };
    let class = if answer.status >= 400 {
        " class=\"error\""
    } else {
        ""
    };
    let names = answer
        .headers
        .iter()
        .map(|name| format!(", <code>{name}</code>"));
    let headers = names.collect::<Vec<_>>().concat();
    format!(
        "<dt><b{class}>{}</b> <small>{content}{headers}</small></dt><dd>{}</dd>\n",
        answer.status,
        html(answer.when)
    )
}

fn curl(operation: &Operation) -> String {
    let method = match operation.method.as_str() {
        "GET" => String::new(),
        method => format!(" -X {method}"),
    };
    let path = operation
        .path
        .replace("{name}", "shop")
        .replace("{id}", "$RELEASE")
        .replace("{n}", "2")
        .replace("{subscriber}", "$SUBSCRIBER")
        .replace("{delivery}", "$DELIVERY")
        .replace("{token}", "$TOKEN")
        .replace("{account_id}", "$ACCOUNT")
        .replace("{script_name}", "shop");
    let mut out = format!("curl{method} \"$HMD{path}\"");
    match operation.access {
        Access::Everyone => (),
        Access::Signature => {
            out += " -H \"webhook-id: $ID\" -H \"webhook-timestamp: $NOW\" -H \"webhook-signature: $SIGNATURE\"";
        }
        Access::Token | Access::Page => out += " -H \"Authorization: Bearer $HMD_API_TOKEN\"",
    }
    let example = operation.body.as_ref().map(|body| (body.example)());
    if let Some(example) =
        example.filter(|example| example.as_object().is_some_and(|it| !it.is_empty()))
    {
        let _ = write!(
            out,
            " \\\n  -H 'Content-Type: application/json' -d '{example:#}'"
        );
    }
    out
}
