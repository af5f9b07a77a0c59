//! `/connect`: connecting a Worker, and disconnecting one.

use ::http::Method;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::problem::Problem;
use super::layout::{self, hidden, sentence};
use super::{Desk, Form, Nav, see_other};
use crate::pipeline::ports::Ports;

/// `GET /connect`.
pub(super) fn show<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    page(desk, &desk.query(), None)
}

/// The field that a refusal is about.
fn field_of(problem: &Problem) -> Option<&'static str> {
    if problem.errors.iter().any(|it| it.pointer == "/token") {
        return Some("token");
    }
    let fields = [("account id", "account_id"), ("no Worker", "script_name")];
    let named = fields
        .iter()
        .find(|(words, _)| problem.status == 404 && problem.detail.contains(words));
    named.map(|(_, field)| *field)
}

fn page<P: Ports>(desk: &Desk<'_, P>, form: &Form, refused: Option<&Problem>) -> Answer {
    let wrong = refused.and_then(field_of);
    let said = refused.map(|problem| {
        let first = problem.errors.first();
        sentence(first.map_or(&problem.detail, |error| &error.detail))
    });
    let error = |field: &str| {
        let said = said.as_deref().filter(|_| wrong == Some(field));
        html! { @if let Some(said) = said { p.error id=(format!("{field}-error")) role="alert" { (said) } } }
    };
    let input = |field: &'static str, label: &str, hint: &str, kind: &str| -> Markup {
        let is_wrong = wrong == Some(field);
        let described = is_wrong.then(|| format!("{field}-error"));
        // A token is never sent back to the browser.
        let value = if kind == "password" {
            ""
        } else {
            form.get(field)
        };
        html! {
            label for=(field) { (label) }
            p.quiet { (hint) }
            input id=(field) name=(field) type=(kind) value=(value) autocomplete="off" required[kind != "password"]
                aria-invalid=[is_wrong.then_some("true")] aria-describedby=[described];
            (error(field))
        }
    };
    let body = html! {
        h1 { "Connect a Worker" }
        section.card.narrow {
            @if let (Some(problem), None) = (refused, wrong) { (layout::problem(problem)) }
            p { "HMD asks Cloudflare at once whether it may deploy this Worker and read its telemetry." }
            form method="post" action="/connect" {
                (hidden("form", &desk.form_token))
                (input("account_id", "Account id", "32 letters and digits; Cloudflare's dashboard shows it under Workers & Pages.", "text"))
                (input("script_name", "Name", "The Worker's name, as in its wrangler.toml.", "text"))
                (input("token", "A token of its own (optional)", "With Workers Scripts Write and Workers Observability Write. It is sealed and never shown again. Without one, the installation's is used.", "password"))
                button.primary type="submit" { "Connect" }
            }
        }
    };
    desk.page_with(refused, Some(Nav::Workers), "Connect a Worker", &body)
}

fn path(account: &str, script: &str) -> String {
    let part =
        |text: &str| -> String { form_urlencoded::byte_serialize(text.as_bytes()).collect() };
    format!("/v1/workers/{}/{}", part(account), part(script))
}

/// `POST /connect`.
pub(super) async fn submit<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let form = desk.form();
    let path = path(form.get("account_id"), form.get("script_name"));
    let body = match form.get("token") {
        "" => json!({}),
        token => json!({"token": token}),
    };
    match desk.call(Method::PUT, &path, &[], &body).await {
        Ok(_) => see_other("/?done=connected"),
        Err(problem) => page(desk, &form, Some(&problem)),
    }
}

/// `POST /workers/{account_id}/{script_name}/disconnect`.
pub(super) async fn disconnect<P: Ports>(
    desk: &Desk<'_, P>,
    (account, script): (&str, &str),
) -> Answer {
    let path = path(account, script);
    desk.call(Method::DELETE, &path, &[], &Value::Null).await?;
    see_other("/?done=disconnected")
}
