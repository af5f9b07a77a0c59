//! `/webhooks`: who hears of what, and how telling them went.

use ::http::{Method, header};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::conditional::tag;
use super::super::problem::Problem;
use super::super::releases::{cursor_of, read_cursor};
use super::layout::{self, confirm, done, duration, hidden, select, sentence, state, time};
use super::{Desk, Form, Nav, see_other};
use crate::pipeline::ports::Ports;
use crate::store::{self, Delivery, DeliveryFilter};
use crate::webhook::{Format, Subscriber, SubscriberState};

/// Subscribers on a page.
const SUBSCRIBERS: usize = 30;
/// Attempts on a delivery's page, and characters of each answer; the API has them all.
const ATTEMPTS: usize = 12;
const ANSWER: usize = 400;
/// Deliveries on a page.
const LIMIT: i64 = 30;
/// Later than any delivery.
const FAR_FUTURE: i64 = 9_000_000_000_000;

const FORMATS: [(&str, &str); 4] = [
    ("standard", "Standard Webhooks"),
    ("cloudevents", "CloudEvents"),
    ("slack", "Slack"),
    ("discord", "Discord"),
];

/// States of deliveries to choose from.
const STATES: [(&str, &str); 4] = [
    ("", "any"),
    ("pending", "pending"),
    ("delivered", "delivered"),
    ("failed", "failed"),
];

fn format_name(format: Format) -> &'static str {
    match format {
        Format::Standard => "standard",
        Format::Cloudevents => "cloudevents",
        Format::Slack => "slack",
        Format::Discord => "discord",
    }
}

fn state_name(state: SubscriberState) -> &'static str {
    match state {
        SubscriberState::Active => "active",
        SubscriberState::Paused => "paused",
        SubscriberState::Disabled => "disabled",
    }
}

/// `GET /webhooks`.
pub(super) async fn list<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    overview(desk, &desk.query(), None).await
}

async fn overview<P: Ports>(desk: &Desk<'_, P>, form: &Form, refused: Option<&Problem>) -> Answer {
    let subscribers = store::list_subscribers(desk.pipeline.ports).await?;
    let (shown, pages) = layout::paged(&subscribers, ("/webhooks", form.get("page")), SUBSCRIBERS);
    let body = html! {
        (done(Some(form.get("done"))))
        h1 { "Webhooks" }
        @if subscribers.is_empty() {
            section.card.empty { h2 { "Nobody is told yet" } p { "A subscriber hears of releases: a chat channel, a bot, your own service." } }
        }
        ul.list { @for it in shown { li.card { div {
            h2 { a href=(format!("/webhooks/{}", it.id)) { (name(it)) } " " (state(state_name(it.state))) }
            p.quiet { (it.url) " · " (it.events.join(", ")) " · " (format_name(it.format)) @if it.approvals { " · gets links that approve" } }
            @if let Some(at) = it.failing_since { p.warn { "Everything has failed since " (time(at)) "." } }
        } } } }
        (pages)
        section.card {
            h2 { "Add a subscriber" }
            @if let Some(problem) = refused { (layout::problem(problem)) }
            form method="post" action="/webhooks" {
                (hidden("form", &desk.form_token))
                (fields(&|field| form.get(field).to_owned(), refused))
                button.primary type="submit" { "Add" }
            }
        }
    };
    desk.page_with(refused, Some(Nav::Webhooks), "Webhooks", &body)
}

fn name(subscriber: &Subscriber) -> &str {
    subscriber.description.as_deref().unwrap_or(&subscriber.url)
}

/// The fields of a subscriber.
fn fields(value: &dyn Fn(&str) -> String, refused: Option<&Problem>) -> Markup {
    let wrong = |name: &str| {
        let errors = refused.map_or(&[][..], |problem| &problem.errors);
        let pointer = format!("/{name}");
        let found = errors
            .iter()
            .find(|error| error.pointer.starts_with(&pointer));
        found.map(|error| error.detail.clone())
    };
    html! {
        @for (field, label, hint) in [
            ("url", "Address", "https://…"), ("events", "Events", "*, stage.*, release.reverted; several with commas"),
            ("description", "Who this is (optional)", ""), ("plan", "Only this plan (optional)", ""), ("worker", "Only this Worker (optional)", ""),
        ] {
            @let error = wrong(field);
            label for=(field) { (label) @if !hint.is_empty() { " " span.quiet { (hint) } } }
            input id=(field) name=(field) value=(value(field)) autocomplete="off" aria-invalid=[error.as_ref().map(|_| "true")] aria-describedby=[error.as_ref().map(|_| format!("{field}-error"))];
            @if let Some(error) = error { p.error id=(format!("{field}-error")) { (error) } }
        }
        (select(("format", "format", "Format"), &FORMATS, &value("format")))
        label.choice { input type="checkbox" name="approvals" value="yes" checked[value("approvals") == "yes"]; " Gets links that approve and deny: whoever has one can decide" }
    }
}

/// What the form asks for. `whole`: a field that is empty is taken away, or refused if it can't be.
fn asked(form: &Form, whole: bool) -> Value {
    let mut body = json!({"url": form.get("url"), "approvals": form.get("approvals") == "yes"});
    let events: Vec<&str> = form
        .get("events")
        .split(',')
        .map(str::trim)
        .filter(|it| !it.is_empty())
        .collect();
    if whole || !events.is_empty() {
        body["events"] = json!(events);
    }
    if !form.get("format").is_empty() {
        body["format"] = json!(form.get("format"));
    }
    for name in ["description", "plan", "worker"] {
        match form.get(name) {
            "" if whole => body[name] = Value::Null,
            "" => (),
            text => body[name] = json!(text),
        }
    }
    body
}

/// `POST /webhooks`.
pub(super) async fn create<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let form = desk.form();
    match desk.post("/v1/subscribers", &asked(&form, false)).await {
        Ok(made) => secret(desk, &made),
        Err(problem) => overview(desk, &form, Some(&problem)).await,
    }
}

/// A new secret, this once.
fn secret<P: Ports>(desk: &Desk<'_, P>, made: &Value) -> Answer {
    let text = |name: &str| made[name].as_str().unwrap_or_default().to_owned();
    let warnings = made["warnings"].as_array().map_or(&[][..], Vec::as_slice);
    let body = html! {
        section.card {
            h1 { "The subscriber's secret" }
            p { "Its requests are signed with it. It is shown this once." }
            p { code.block { (text("secret")) } }
            @for warning in warnings { p.warn { (sentence(warning.as_str().unwrap_or_default())) } }
            p { a.button.primary href=(format!("/webhooks/{}", text("id"))) { "I have kept it" } }
        }
    };
    desk.page(Some(Nav::Webhooks), "A new secret", &body)
}

/// `GET /webhooks/{id}`.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>, id: &str) -> Answer {
    subscriber(desk, id, None).await
}

/// The page of a subscriber; `refused`: with the form as it was sent, and what was wrong with it.
async fn subscriber<P: Ports>(
    desk: &Desk<'_, P>,
    id: &str,
    refused: Option<(&Form, &Problem)>,
) -> Answer {
    let (sent, refused) = refused.unzip();
    let query = desk.query();
    let wanted = query.get("state");
    let known = STATES.iter().any(|(name, _)| *name == wanted);
    let filter = DeliveryFilter {
        state: if known {
            wanted.to_owned()
        } else {
            String::new()
        },
        kind: String::new(),
        release: String::new(),
        since: 0,
        until: FAR_FUTURE,
        before: read_cursor(query.get("cursor")).unwrap_or((FAR_FUTURE, String::new())),
        limit: LIMIT,
    };
    let found = store::subscriber_page(desk.pipeline.ports, id, &filter).await?;
    let Some((it, deliveries, next)) = found else {
        return Err(Problem::not_found(format!("there is no subscriber {id:?}")));
    };
    let stored = |field: &str| match field {
        "url" => it.url.clone(),
        "events" => it.events.join(", "),
        "description" => it.description.clone().unwrap_or_default(),
        "plan" => it.plan.clone().unwrap_or_default(),
        "worker" => it.worker.clone().unwrap_or_default(),
        "format" => format_name(it.format).to_owned(),
        "approvals" if it.approvals => "yes".to_owned(),
        _ => String::new(),
    };
    let value = |field: &str| sent.map_or_else(|| stored(field), |form| form.get(field).to_owned());
    let revision = sent.map_or(it.revision.to_string(), |form| {
        form.get("revision").to_owned()
    });
    let body = html! {
        (done(Some(query.get("done"))))
        h1 { (name(&it)) }
        p.lead { (state(state_name(it.state))) @if it.slow { " answers slowly" } }
        @if let Some(reason) = &it.disabled_reason { p.warn { (sentence(reason)) } }
        @if let Some(problem) = refused { (layout::problem(problem)) }
        (commands(&it, &desk.form_token))
        section.card {
            h2 { "Deliveries" }
            form.filter method="get" action=(format!("/webhooks/{id}")) {
                div { (select(("state", "state", "State"), &STATES, wanted)) }
                button type="submit" { "Filter" }
            }
            @if deliveries.is_empty() { p.quiet { "None yet." } }
            ul.list { @for delivery in &deliveries { li { (line(id, delivery)) } } }
            @if let Some((at, message)) = &next { nav.pages aria-label="Pages" { a href=(format!("/webhooks/{id}?state={}&cursor={}", filter.state, cursor_of(*at, message))) { "Older deliveries" } } }
        }
        section.card {
            details open[refused.is_some()] {
                summary { "Change" }
                form method="post" action=(format!("/webhooks/{id}")) {
                    (hidden("form", &desk.form_token)) (hidden("revision", &revision))
                    (fields(&value, refused))
                    button.primary type="submit" { "Save" }
                }
            }
        }
    };
    desk.page_with(refused, Some(Nav::Webhooks), name(&it), &body)
}

/// What can be done to a subscriber as it is.
fn commands(subscriber: &Subscriber, form_token: &str) -> Markup {
    let id = &subscriber.id;
    let act = |verb: &str, words: (&str, &str, &str)| {
        let path = format!("/webhooks/{id}/{verb}");
        confirm((&path, form_token), words, &Markup::default())
    };
    html! {
        section.commands aria-label="Commands" {
            @if subscriber.state == SubscriberState::Active {
                (act("test", ("Test", "It is sent a message that says nothing has happened.", "")))
                (act("pause", ("Pause", "What happens is kept for it until it is resumed.", "")))
            } @else { (act("resume", ("Resume", "It is told again, and what was kept for it is sent.", "go"))) }
            (act("rotate-secret", ("Rotate the secret", "It gets a new secret, shown once; the old one signs along for a day.", "")))
            (act("delete", ("Delete", "It is forgotten with all its deliveries.", "danger")))
        }
    }
}

fn line(id: &str, delivery: &Delivery) -> Markup {
    let times = if delivery.attempts == 1 {
        "attempt"
    } else {
        "attempts"
    };
    html! {
        p {
            a href=(format!("/webhooks/{id}/deliveries/{}", delivery.message)) { (delivery.kind) } " " (state(&delivery.state)) " "
            span.quiet { (time(delivery.created_at)) " · " (delivery.attempts) " " (times)
                @if let Some(at) = delivery.due_at.filter(|_| !delivery.in_flight) { " · next at " (time(at)) } }
        }
    }
}

/// `POST /webhooks/{id}`.
pub(super) async fn change<P: Ports>(desk: &Desk<'_, P>, id: &str) -> Answer {
    let path = format!("/v1/subscribers/{id}");
    let form = desk.form();
    // Only over what the form was made from.
    let revision = match form.get("revision") {
        "" => "*".to_owned(),
        revision => tag(&revision),
    };
    let changed = desk
        .call(
            Method::PATCH,
            &path,
            &[(header::IF_MATCH, revision)],
            &asked(&form, true),
        )
        .await;
    match changed {
        Ok(_) => see_other(&format!("/webhooks/{id}?done=saved")),
        Err(problem) if problem.status == 404 => Err(problem),
        Err(mut problem) => {
            if problem.status == 412 {
                "somebody else has changed this subscriber in the meantime; load the page again to see it, and change that one".clone_into(&mut problem.detail);
            }
            subscriber(desk, id, Some((&form, &problem))).await
        }
    }
}

/// `POST /webhooks/{id}/{verb}`.
pub(super) async fn act<P: Ports>(desk: &Desk<'_, P>, id: &str, verb: &str) -> Answer {
    match verb {
        "delete" => {
            let path = format!("/v1/subscribers/{id}");
            desk.call(Method::DELETE, &path, &[], &Value::Null).await?;
            see_other("/webhooks?done=deleted")
        }
        "rotate-secret" => {
            let made = desk
                .post(&format!("/v1/subscribers/{id}/{verb}"), &Value::Null)
                .await?;
            secret(desk, &made)
        }
        "test" | "pause" | "resume" => {
            desk.post(&format!("/v1/subscribers/{id}/{verb}"), &Value::Null)
                .await?;
            see_other(&format!("/webhooks/{id}?done={verb}"))
        }
        _ => Err(Problem::not_found(format!("{verb:?} is no command"))),
    }
}

/// `GET /webhooks/{id}/deliveries/{message}`.
pub(super) async fn delivery<P: Ports>(desk: &Desk<'_, P>, id: &str, message: &str) -> Answer {
    let found = store::get_delivery(desk.pipeline.ports, id, message).await?;
    let Some((delivery, attempts)) = found else {
        return Err(Problem::not_found(format!(
            "there is no delivery {message:?}"
        )));
    };
    let body = html! {
        (done(Some(desk.query().get("done"))))
        h1 { (delivery.kind) }
        p.lead { (state(&delivery.state)) }
        section.card {
            dl.facts {
                dt { "Id" } dd { code { (delivery.message) } }
                dt { "Subscriber" } dd { a href=(format!("/webhooks/{id}")) { (id) } }
                @if let Some(release) = &delivery.release { dt { "Release" } dd { a href=(format!("/releases/{release}")) { (release) } } }
                dt { "Happened" } dd { (time(delivery.created_at)) }
                @if let Some(at) = delivery.finished_at { dt { "Finished" } dd { (time(at)) } }
                @if let Some(at) = delivery.due_at.filter(|_| !delivery.in_flight) { dt { "Next attempt" } dd { (time(at)) } }
            }
            (confirm((&format!("/webhooks/{id}/deliveries/{message}/replay"), &desk.form_token), ("Send again", "The same message with the same id, and its schedule anew.", ""), &Markup::default()))
        }
        section.card {
            h2 { "Attempts" }
            @if attempts.is_empty() { p.quiet { "None yet." } }
            @let older = attempts.len().saturating_sub(ATTEMPTS);
            @if older > 0 { p.quiet { (older) " older ones are in the API." } }
            ol.list { @for attempt in &attempts[older..] { li {
                p { (attempt.attempt) ". " (time(attempt.at)) " took " (duration_ms(attempt.duration_ms)) ", "
                    @match attempt.status { Some(status) => { "answered " (status) }, None => "no answer" }
                    @if let Some(error) = &attempt.error { ": " (error) } }
                @if let Some(response) = attempt.response.as_ref().filter(|it| !it.is_empty()) { pre tabindex="0" { (cut(response)) } }
            } } }
        }
    };
    desk.page(Some(Nav::Webhooks), &delivery.kind, &body)
}

fn cut(text: &str) -> String {
    let mut letters = text.chars();
    let mut shown: String = letters.by_ref().take(ANSWER).collect();
    if letters.next().is_some() {
        shown.push('…');
    }
    shown
}

fn duration_ms(ms: i64) -> String {
    if ms < 10_000 {
        return format!("{ms} ms");
    }
    duration(ms)
}

/// `POST /webhooks/{id}/deliveries/{message}/replay`.
pub(super) async fn replay<P: Ports>(desk: &Desk<'_, P>, id: &str, message: &str) -> Answer {
    let path = format!("/v1/subscribers/{id}/deliveries/{message}/replay");
    desk.post(&path, &Value::Null).await?;
    see_other(&format!("/webhooks/{id}/deliveries/{message}?done=replay"))
}
