//! `/plans/{name}/forecast`: what a plan will see, asked by a form and told as tables and sentences.

use ::http::Method;
use maud::{Markup, html};
use serde_json::{Map, Value, json};

use super::super::Answer;
use super::super::plans::checked_name;
use super::super::problem::Problem;
use super::layout::{self, hidden, time_text};
use super::{Desk, Form, Nav, plan_form};
use crate::decimal::decimal;
use crate::pipeline::ports::Ports;
use crate::slo::{SliKind, Slo};
use crate::store::{self, StoredPlan};

async fn saved<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Result<StoredPlan, Problem> {
    let stored = store::get_plan(desk.pipeline.ports, checked_name(name)?).await?;
    stored.ok_or_else(|| {
        Problem::not_found(format!(
            "there is no plan {name:?}: save it before asking what it will see"
        ))
    })
}

/// `GET /plans/{name}/forecast`: the question alone.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let stored = saved(desk, name).await?;
    let empty = html! {
        section.card.empty {
            h2 { "Not asked yet" }
            p { "It reads the last 24 hours of the Worker's telemetry. Fill in what you expect instead, if that day tells little." }
        }
    };
    page(desk, (&stored, &Form::read(b"")), None, &empty)
}

/// `POST /plans/{name}/forecast`.
pub(super) async fn ask<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let stored = saved(desk, name).await?;
    let form = desk.form();
    let path = format!("/v1/plans/{name}/forecast");
    let asked = desk
        .call(Method::POST, &path, &[], &body(&stored.plan.slos, &form))
        .await;
    match asked {
        Ok(answer) => page(desk, (&stored, &form), None, &told(&answer)),
        Err(problem) => {
            let said = layout::problem(&problem);
            page(desk, (&stored, &form), Some(&problem), &said)
        }
    }
}

/// What the form gives, as the API takes it. What is no number is sent as it is, so that the API says what is wrong.
fn body(slos: &[Slo], form: &Form) -> Value {
    let number = |text: &str| -> Option<Value> {
        let text = text.trim();
        (!text.is_empty()).then(|| plan_form::number(text))
    };
    let mut body = Map::new();
    if let Some(rate) = number(form.get("requests_per_s")) {
        body.insert("requests_per_s".to_owned(), rate);
    }
    let given = slos.iter().enumerate().filter_map(|(i, slo)| {
        let share = number(form.get(&format!("bad_share.{i}")))?;
        Some((slo.name.clone(), json!({"bad_share": share})))
    });
    let mut all = Map::new();
    all.extend(given);
    let given = all;
    if !given.is_empty() {
        body.insert("slos".to_owned(), Value::Object(given));
    }
    Value::Object(body)
}

/// Whether somebody may say how often it fails: a percentile says so itself, and a count has nothing bad.
fn has_share(slo: &Slo) -> bool {
    let relative_time = slo.time_key().is_some() && slo.objective.is_relative();
    slo.sli.kind != SliKind::RequestCount && !relative_time
}

fn page<P: Ports>(
    desk: &Desk<'_, P>,
    (stored, form): (&StoredPlan, &Form),
    refused: Option<&Problem>,
    answer: &Markup,
) -> Answer {
    let name = &stored.name;
    let field = |id: &str, label: &str| {
        html! {
            div.field { label for=(id) { (label) } input id=(id) name=(id) value=(form.get(id)) inputmode="decimal" autocomplete="off"; }
        }
    };
    let body = html! {
        h1 { "What will " (name) " see?" }
        p.quiet { a href=(format!("/plans/{name}")) { "Plan " (name) } }
        section.card {
            form method="post" action=(format!("/plans/{name}/forecast")) {
                (hidden("form", &desk.form_token))
                div.fields {
                    (field("requests_per_s", "Requests a second (empty: as measured)"))
                    @for (i, slo) in stored.plan.slos.iter().enumerate().filter(|(_, slo)| has_share(slo)) {
                        (field(&format!("bad_share.{i}"), &format!("{}: share of bad requests (0.01 is 1 %; empty: as measured)", slo.name)))
                    }
                }
                div.commands { button.primary type="submit" { "Forecast" } }
            }
        }
        (answer)
    };
    let title = format!("Forecast of {name}");
    desk.page_with(refused, Some(Nav::Plans), &title, &body)
}

fn items<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("–")
}

fn percent(share: &Value) -> String {
    share.as_f64().map_or("–".to_owned(), |share| {
        format!("{} %", decimal(share * 100.0, 0))
    })
}

fn rate(value: &Value) -> String {
    let rate = value.as_f64().unwrap_or_default();
    let digits = if rate < 10.0 { 2 } else { 0 };
    decimal(rate, digits).to_string()
}

/// The answer of the API for people.
fn told(answer: &Value) -> Markup {
    let traffic = &answer["traffic"];
    html! {
        section.card {
            h2 { "Traffic" }
            p {
                (rate(&traffic["requests_per_s"])) " requests a second"
                @if let (Some(from), Some(until)) = (traffic["from"].as_str(), traffic["until"].as_str()) {
                    ", from telemetry of " (time_text(from)) " to " (time_text(until))
                }
                @if let Some(quiet) = traffic["quiet"].as_object() {
                    "; in the quietest part " (rate(&quiet["requests_per_s"]))
                }
                "."
            }
            @if traffic["sampled"] == true { p.warn { "Cloudflare answered from sampled data: there may be more requests than were counted." } }
            ul { @for slo in items(traffic, "slos") { li {
                (text(&slo["slo"])) ": " (share_text(slo))
            } } }
        }
        @for stage in items(answer, "stages") { (of_stage(stage)) }
    }
}

fn share_text(slo: &Value) -> String {
    let share = slo["bad_share"].as_f64().unwrap_or_default() * 100.0;
    let digits = if share < 0.1 { 4 } else { 2 };
    let bad = format!("{} % bad", decimal(share, digits));
    match slo["source"].as_str() {
        Some("given") => format!("{bad}, as given"),
        Some("none_seen") => format!("no bad request seen; taken as {bad}"),
        Some("definition") => format!("{bad}, by definition"),
        Some("count") => "a number of requests".to_owned(),
        _ => format!("{bad}, as measured"),
    }
}

fn of_stage(stage: &Value) -> Markup {
    let heading = format!(
        "Stage {}: {} % for {}",
        stage["stage"],
        stage["percent"],
        text(&stage["soak"])
    );
    html! {
        section.card {
            h2 { (heading) }
            p.quiet { "About " (stage["requests"]["new"]) " requests of the new version, " (stage["requests"]["old"]) " of the old one." }
            div.scroll tabindex="0" role="region" aria-label=(heading) {
                table {
                    thead { tr {
                        th scope="col" { "Objective" }
                        th scope="col" { "Judged / needed" }
                        th scope="col" { "Smallest harm seen (90 %)" }
                        th scope="col" { "2x, 3x, 5x, 10x seen" }
                        th scope="col" { "Healthy: safe, undecided" }
                        th scope="col" { "Quietest part" }
                    } }
                    tbody { @for slo in items(stage, "slos") { (row(slo)) } }
                }
            }
            ul { @for slo in items(stage, "slos") { li { (text(&slo["sentence"])) } } }
        }
    }
}

fn smallest(harm: &Value) -> Markup {
    html! {
        @if let Some(ratio) = harm["ratio"].as_f64() { (format!("{}x", decimal(ratio, 1))) " within " (text(&harm["median_time"])) }
        @else { "none" }
    }
}

fn row(slo: &Value) -> Markup {
    let (test, quiet) = (&slo["test"], &slo["quiet"]);
    html! {
        tr {
            th scope="row" { (text(&slo["slo"])) }
            td { (slo["judged_requests"]) " / " (slo["needed_requests"]) @if slo["enough_requests"].as_f64() < Some(0.9) { " (holds)" } }
            @if test.is_object() {
                td { (smallest(&test["smallest_harm"])) }
                td { @for (i, harm) in items(test, "harms").iter().enumerate() { @if i > 0 { ", " } (percent(&harm["power"])) } }
                td { (percent(&test["healthy"]["safe"])) ", " (percent(&test["healthy"]["undecided"])) }
            } @else { td { "–" } td { "–" } td { "–" } }
            td {
                @if quiet.is_object() {
                    (quiet["judged_requests"]) " judged"
                    @if test.is_object() { ", " (smallest(&quiet["smallest_harm"])) ", undecided " (percent(&quiet["undecided"])) }
                } @else { "–" }
            }
        }
    }
}
