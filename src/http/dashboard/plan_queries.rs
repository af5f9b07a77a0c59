//! The queries that an account has saved in Workers Observability, to choose from on a plan's page. They are asked for by a button
//! of the form: a page that nobody has asked for them never waits for Cloudflare.

use ::http::Method;
use maud::{Markup, html};
use serde_json::Value;

use super::super::problem::Problem;
use super::Desk;
use super::layout::{self, sentence};
use super::plan::Draft;
use super::plan_field::value_text;
use crate::pipeline::ports::Ports;

/// The button's id.
pub(super) const BUTTON: &str = "load-queries";
/// The id of the list that fields offer.
const CHOICES: &str = "queries";
/// Longest description that is shown, in characters.
const DESCRIPTION: usize = 120;

/// A page of what the account of the plan's Worker has saved, newest first.
pub(super) async fn list<P: Ports>(
    desk: &Desk<'_, P>,
    plan: &Value,
    cursor: &str,
) -> Result<Value, Problem> {
    let part = |name: &str| -> String {
        let text = plan["worker"][name].as_str().unwrap_or_default();
        form_urlencoded::byte_serialize(text.as_bytes()).collect()
    };
    let (account, script) = (part("account_id"), part("script_name"));
    if account.is_empty() || script.is_empty() {
        let detail =
            "fill in the account id and the Worker first: queries are those of its account";
        return Err(Problem::new(400, "Of which Worker?", detail));
    }
    let cursor: u32 = cursor.parse().unwrap_or(1);
    let path = format!("/v1/workers/{account}/{script}/queries?cursor={cursor}");
    desk.call(Method::GET, &path, &[], &Value::Null).await
}

fn items<'a>(draft: &'a Draft<'_>) -> &'a [Value] {
    let listed = draft.queries.as_ref().and_then(|it| it.as_ref().ok());
    let listed = listed.and_then(|it| it["items"].as_array());
    listed.map_or(&[], Vec::as_slice)
}

/// The list that fields offer, if there is one.
pub(super) fn choices(draft: &Draft<'_>) -> Option<&'static str> {
    (!items(draft).is_empty()).then_some(CHOICES)
}

/// The button that asks for them, and what came of that.
pub(super) fn saved(draft: &Draft<'_>) -> Markup {
    let items = items(draft);
    let next = match &draft.queries {
        Some(Ok(list)) => list["next_cursor"].as_str(),
        _ => None,
    };
    let usable = |query: &&Value| query["unusable"].is_null();
    html! {
        section.saved aria-labelledby="saved" {
            h3 #saved { "Saved queries" }
            p.quiet { "An objective on a query may count what people have saved in Workers Observability: put the query’s id into its field. Each release reads it when it is created, and keeps what it read." }
            @match &draft.queries {
                Some(Err(problem)) => {
                    (layout::problem(problem))
                    p.quiet { "An id that you know can be filled in all the same." }
                }
                Some(Ok(_)) if items.is_empty() => p.empty { "This account has no saved query. Save one in Cloudflare’s dashboard, under Workers Observability." },
                _ => {}
            }
            @if !items.is_empty() {
                datalist id=(CHOICES) {
                    @for query in items.iter().filter(usable) { option value=(value_text(&query["id"])) { (value_text(&query["name"])) } }
                }
                ul { @for query in items { li { (one(query)) } } }
            }
            button id=(BUTTON) type="submit" name="do" value="queries.1" autofocus[draft.focus.as_deref() == Some(BUTTON)] {
                @if draft.queries.is_some() { "Load them again" } @else { "Load the saved queries" }
            }
            @if let Some(next) = next { " " button type="submit" name="do" value=(format!("queries.{next}")) { "Older ones" } }
        }
    }
}

fn one(query: &Value) -> Markup {
    let description: String = value_text(&query["description"])
        .chars()
        .take(DESCRIPTION)
        .collect();
    html! {
        code { (value_text(&query["id"])) } " " strong { (value_text(&query["name"])) }
        @if !description.is_empty() { " " (description) }
        @if let Some(why) = query["unusable"].as_str() { p.warn { "It can’t be used: " (sentence(&format!("it {why}"))) } }
        @else if query["filters"].as_array().is_some_and(Vec::is_empty) { p.quiet { "It has no filters, and so can stand for the events that count only." } }
    }
}
