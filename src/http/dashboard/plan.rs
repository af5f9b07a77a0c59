//! `/plans`: the plans, and one of them as a form.

use ::http::{HeaderName, Method, StatusCode, header};
use maud::{Markup, html};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::plans::checked_name;
use super::super::problem::Problem;
use super::layout::{confirm, done, duration, hidden, time};
use super::plan_field::{Field, add, choice, field, moves, refusal, value_text};
use super::plan_form::{Edit, first, read, rest};
use super::plan_sentence::preview;
use super::{Desk, Nav, see_other};
use crate::pipeline::ports::Ports;
use crate::release::{FieldError, Plan};
use crate::store::{self, StoredPlan};

/// `GET /plans`, and `GET /plans?name=…` of the form that names a new one.
pub(super) async fn list<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let query = desk.query();
    if !query.get("name").is_empty() {
        return see_other(&format!("/plans/{}", checked_name(query.get("name"))?));
    }
    let plans = store::list_plans(desk.pipeline.ports).await?;
    let (shown, pages) = super::layout::paged(&plans, ("/plans", query.get("page")), PLANS);
    let body = html! {
        (done(Some(query.get("done"))))
        h1 { "Plans" }
        @if plans.is_empty() {
            section.card.empty { h2 { "No plan yet" } p { "A plan says which stages a new version of a Worker goes through, and what health means." } }
        }
        ul.list { @for stored in shown { li.card { div {
            h2 { a href=(format!("/plans/{}", stored.name)) { (stored.name) } }
            p.quiet { "Worker " (stored.plan.worker.script_name) " · "
                @for (i, stage) in stored.plan.stages.iter().enumerate() { @if i > 0 { ", " } (stage.percent) }
                " · last saved " (time(stored.updated_at)) }
            p { a href=(format!("/new?plan={}", stored.name)) aria-label=(format!("New release by {}", stored.name)) { "New release" } }
        } } } }
        (pages)
        section.card {
            h2 { "Make a plan" }
            form.filter method="get" action="/plans" {
                label for="name" { "Its name: letters, digits, - and _" }
                input #name name="name" required pattern="[A-Za-z0-9_\\-]{1,64}" autocomplete="off";
                button.primary type="submit" { "Go on" }
            }
        }
    };
    desk.page(Some(Nav::Plans), "Plans", &body)
}

/// Plans on a page.
const PLANS: usize = 60;

/// What a page of a plan shows.
pub(super) struct Draft<'a> {
    name: &'a str,
    plan: Value,
    /// Empty for one that was never saved.
    revision: String,
    saved_at: Option<i64>,
    /// What is wrong, where.
    pub errors: Vec<FieldError>,
    refused: Option<Problem>,
    /// The field that is to have the focus.
    pub focus: Option<String>,
    /// The text of the JSON view, if that is what was sent.
    text: Option<String>,
    done: String,
}

async fn saved<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Result<Option<StoredPlan>, Problem> {
    Ok(store::get_plan(desk.pipeline.ports, checked_name(name)?).await?)
}

/// `GET /plans/{name}`: a plan of that name need not exist yet.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let stored = saved(desk, name).await?;
    let draft = Draft {
        name,
        plan: stored
            .as_ref()
            .map_or_else(|| first(name), |it| json!(it.plan)),
        revision: stored
            .as_ref()
            .map_or(String::new(), |it| it.revision.to_string()),
        saved_at: stored.as_ref().map(|it| it.updated_at),
        errors: Vec::new(),
        refused: None,
        focus: None,
        text: None,
        done: desk.query().get("done").to_owned(),
    };
    page(desk, &draft)
}

/// `POST /plans/{name}`: saves it, or changes the form.
pub(super) async fn submit<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let name = checked_name(name)?;
    let form = desk.form();
    let act = form.get("do");
    let mut draft = Draft {
        name,
        plan: Value::Null,
        revision: form.get("revision").to_owned(),
        saved_at: None,
        errors: Vec::new(),
        refused: None,
        focus: None,
        text: None,
        done: String::new(),
    };
    if act == "json" {
        let text = form.get("json");
        draft.text = Some(text.to_owned());
        match crate::json::parse(text) {
            Ok(plan) => draft.plan = plan,
            Err(error) => {
                draft.refused = Some(Problem::new(400, "Not JSON", error.to_string()));
                draft.plan = first(name);
                return page(desk, &draft);
            }
        }
    } else {
        draft.plan = read(&form);
    }
    if let Some(edit) = Edit::of(&form) {
        draft.focus = edit.apply(&mut draft.plan);
        return page(desk, &draft);
    }
    // Only over what the form was made from: whoever saved in the meantime is not overwritten.
    let condition: (HeaderName, String) = if draft.revision.is_empty() {
        (header::IF_NONE_MATCH, "*".to_owned())
    } else {
        (header::IF_MATCH, format!("\"{}\"", draft.revision))
    };
    let path = format!("/v1/plans/{name}");
    match desk
        .call(Method::PUT, &path, &[condition], &draft.plan)
        .await
    {
        Ok(_) => see_other(&format!("/plans/{name}?done=saved")),
        Err(mut problem) => {
            if problem.status == 412 {
                "somebody else has saved this plan in the meantime; load the page again to see it, and change that one".clone_into(&mut problem.detail);
            }
            draft.errors.clone_from(&problem.errors);
            draft.refused = Some(problem);
            page(desk, &draft)
        }
    }
}

/// `POST /plans/{name}/delete`.
pub(super) async fn delete<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let path = format!("/v1/plans/{name}");
    desk.call(Method::DELETE, &path, &[], &Value::Null).await?;
    see_other("/plans?done=deleted")
}

fn page<P: Ports>(desk: &Desk<'_, P>, draft: &Draft<'_>) -> Answer {
    let name = draft.name;
    let body = html! {
        (done(Some(&draft.done)))
        h1 { "Plan " (name) }
        p.quiet {
            @if let Some(at) = draft.saved_at { "Last saved " (time(at)) ", revision " (draft.revision) ". "
                a href=(format!("/new?plan={name}")) { "New release by this plan" } }
            @else if draft.revision.is_empty() { "Not saved yet." }
            @else { "Changed, and not saved yet." }
        }
        @if let Some(problem) = &draft.refused { (refusal(problem)) }
        form #plan method="post" action=(format!("/plans/{name}")) {
            // The first button is what Enter presses.
            button.hidden type="submit" name="do" value="save" tabindex="-1" aria-hidden="true" { "Save" }
            (hidden("form", &desk.form_token)) (hidden("revision", &draft.revision))
            (hidden("plan.base", &rest(&draft.plan).to_string()))
            section.card { h2 { "Worker" } (general(draft)) }
            section.card { h2 { "Stages" } (stages(draft)) }
            section.card { h2 { "Objectives" } (slos(draft)) }
            (forecast(desk, draft))
            div.commands { button.primary type="submit" name="do" value="save" { "Save" } }
        }
        @if draft.saved_at.is_some() {
            section.card {
                h2 { "Forecast" }
                p { "How small a harm each stage will see with the Worker's traffic of the last 24 hours, how soon, and how likely a healthy version stays undecided." }
                form method="post" action=(format!("/plans/{name}/forecast")) { (hidden("form", &desk.form_token)) button type="submit" { "Forecast" } }
            }
        }
        section.card {
            details open[draft.text.is_some()] {
                summary { "JSON" }
                form method="post" action=(format!("/plans/{name}")) {
                    (hidden("form", &desk.form_token)) (hidden("revision", &draft.revision))
                    label for="json" { "The plan as the API has it" }
                    textarea #json name="json" rows="20" spellcheck="false" { (json_text(draft)) }
                    button type="submit" name="do" value="json" { "Save this JSON" }
                }
            }
        }
        @if !draft.revision.is_empty() {
            (confirm((&format!("/plans/{name}/delete"), &desk.form_token), ("Delete", "The plan and the secret of its hook are gone; releases keep their copy.", "danger"), &Markup::default()))
        }
    };
    let status = draft
        .refused
        .as_ref()
        .and_then(|it| StatusCode::from_u16(it.status).ok());
    let title = format!("Plan {name}");
    desk.page_with(
        status.unwrap_or(StatusCode::OK),
        Some(Nav::Plans),
        &title,
        &body,
    )
}

fn json_text(draft: &Draft<'_>) -> String {
    match &draft.text {
        Some(text) => text.clone(),
        None => serde_json::to_string_pretty(&draft.plan).unwrap_or_default(),
    }
}

fn general(draft: &Draft<'_>) -> Markup {
    let plan = &draft.plan;
    let all = [
        (
            "account_id",
            "Cloudflare account id",
            &plan["worker"]["account_id"],
        ),
        (
            "script_name",
            "Worker (script name)",
            &plan["worker"]["script_name"],
        ),
        ("check_interval", "Check every", &plan["check_interval"]),
        ("alpha", "Alpha (empty: 0.01)", &plan["alpha"]),
    ];
    html! {
        div.fields { @for (id, label, value) in all { (field(draft, &Field { id, name: id, label, value }, false)) } }
    }
}

fn items<'a>(draft: &'a Draft<'_>, list: &str) -> &'a [Value] {
    draft.plan[list].as_array().map_or(&[], Vec::as_slice)
}

type Choice = (
    &'static str,
    &'static str,
    [(&'static str, &'static str); 2],
);

const STAGE_CHOICES: [Choice; 3] = [
    (
        "early",
        "Pass",
        [
            ("", "when the time is over"),
            ("true", "as soon as all is safe"),
        ],
    ),
    (
        "advance",
        "Then",
        [
            ("auto", "goes on by itself"),
            ("manual", "waits for approval"),
        ],
    ),
    (
        "on_approval_timeout",
        "If nobody approves",
        [("deny", "deny"), ("wait", "wait")],
    ),
];

fn stages(draft: &Draft<'_>) -> Markup {
    let stages = items(draft, "stages");
    let movable = stages.len().saturating_sub(1);
    html! {
        ol.items data-list="stages" {
            @for (i, stage) in stages.iter().enumerate() {
                @let last = i == movable;
                li.item draggable=[(!last).then_some("true")] {
                    div.head { h3 { "Stage " (i + 1) @if last { " " span.tag { "always 100 %" } } } (moves(draft, "stages", i, movable, &format!("Stage {}", i + 1))) }
                    (hidden(&format!("stages.{i}.base"), &stage.to_string()))
                    div.fields {
                        @for (name, label) in [("percent", "Percent"), ("soak", "Watch for"), ("description", "Description"), ("max_soak", "Hold at most"), ("approval_timeout", "Approval within")] {
                            @let id = format!("stages-{i}-{name}");
                            (field(draft, &Field { id: &id, name: &format!("stages.{i}.{name}"), label, value: &stage[name] }, last && name == "percent" && stage[name] == 100))
                        }
                        @for (name, label, options) in STAGE_CHOICES {
                            (choice(draft, (&format!("stages-{i}-{name}"), &format!("stages.{i}.{name}"), label), &options, &value_text(&stage[name])))
                        }
                    }
                }
            }
        }
        (add(draft, "stages", "Add a stage"))
    }
}

const KINDS: [(&str, &str); 6] = [
    ("error_rate", "error rate"),
    ("wall_time", "wall time"),
    ("cpu_time", "CPU time"),
    ("request_count", "request count"),
    ("query", "query"),
    ("judge", "judge"),
];
const OBJECTIVES: [(&str, &str); 5] = [
    ("max", "share at most (0.01: 1 %)"),
    ("max_ms", "milliseconds at most"),
    ("min", "requests at least"),
    ("no_worse_than_old", "times the old version’s, at most"),
    ("pass", "approved by the judge"),
];

/// The settings that a name does not explain.
const TERMS: [(&str, &str); 7] = [
    (
        "Judged by",
        "Evidence: sequential tests, which may be looked at as often as one likes. Threshold: harm as soon as the newest windows are over the limit, by chance or not.",
    ),
    (
        "Alpha",
        "The chance that a release of a version within its objectives is ever aborted, by any of its objectives.",
    ),
    (
        "Weight",
        "An objective’s part of alpha, in comparison with the others: twice the weight shows harm with half the evidence.",
    ),
    (
        "Overdispersion",
        "Failures that come in bursts count for one in so many. If empty, an objective against the old version takes what was seen before the release, others 1.",
    ),
    (
        "Margin at 100 %",
        "An objective against the old version has nothing to compare with at 100 %. With a margin it is held to the old version’s rate from before the release, times this.",
    ),
    (
        "Undecided at the end",
        "Neither harm nor safety was shown when the soak is over: the stage passes, or holds up to its longest time and then asks.",
    ),
    (
        "Requests needed",
        "A stage never passes with fewer requests to the new version than this.",
    ),
];

fn slos(draft: &Draft<'_>) -> Markup {
    let slos = items(draft, "slos");
    let plan = crate::json::read::<Plan>(&draft.plan).ok();
    html! {
        ol.items data-list="slos" {
            @for (i, slo) in slos.iter().enumerate() {
                li.item draggable="true" {
                    div.head { h3 { "Objective " (i + 1) } (moves(draft, "slos", i, slos.len(), &format!("Objective {}", i + 1))) }
                    (hidden(&format!("slos.{i}.base"), &slo.to_string()))
                    p.quiet { (preview(plan.as_ref(), slo, i)) }
                    div.fields { (slo_fields(draft, slo, i)) }
                }
            }
        }
        details.how {
            summary { "What the settings mean" }
            dl.facts {
                @for (term, words) in TERMS { dt { (term) } dd { (words) } }
            }
        }
        (add(draft, "slos", "Add an objective"))
    }
}

fn slo_fields(draft: &Draft<'_>, slo: &Value, i: usize) -> Markup {
    let (kind, limit) = match slo["objective"].as_object().and_then(|it| it.iter().next()) {
        Some((kind, Value::Object(inner))) => (
            kind.as_str(),
            inner.get("tolerance").cloned().unwrap_or(json!(1.25)),
        ),
        Some((kind, limit)) => (kind.as_str(), limit.clone()),
        None if slo["objective"] == "pass" => ("pass", Value::Null),
        None => ("max", Value::Null),
    };
    let id = |name: &str| format!("slos-{i}-{name}");
    let full = |name: &str| format!("slos.{i}.{name}");
    let one = |name: &str, label: &str, value: &Value| {
        field(
            draft,
            &Field {
                id: &id(name),
                name: &full(name),
                label,
                value,
            },
            false,
        )
    };
    let choice = |name: &str, label: &str, options: &[(&str, &str)], chosen: &str| {
        choice(draft, (&id(name), &full(name), label), options, chosen)
    };
    let chosen = |name: &str, default: &str| match value_text(&slo[name]).as_str() {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    html! {
        (one("name", "Name", &slo["name"]))
        (choice("kind", "Indicator", &KINDS, &value_text(&slo["sli"]["kind"])))
        div data-for="wall_time cpu_time" {
            (choice("percentile", "Percentile", &[("50", "median"), ("90", "90"), ("95", "95"), ("99", "99"), ("99.9", "99.9")], match value_text(&slo["sli"]["percentile"]).as_str() { "" => "99", text => text }))
        }
        (choice("objective", "Must be", &OBJECTIVES, kind))
        (one("limit", "Limit", &limit))
        (choice("severity", "Harm", &[("revert", "goes back at once"), ("pause", "pauses"), ("observe", "is only recorded")], &chosen("severity", "revert")))
        (one("min_requests", "Requests needed (empty: 30)", &slo["min_requests"]))
        (choice("on_no_data", "Without data", &[("ask", "ask a person"), ("continue", "go on"), ("revert", "go back")], &chosen("on_no_data", "ask")))
        (choice("rule", "Judged by", &[("evidence", "evidence"), ("threshold", "threshold")], &chosen("rule", "evidence")))
        div data-rule="evidence" { (choice("on_undecided", "Undecided at the end", &[("pass", "passes"), ("hold", "holds")], &chosen("on_undecided", "pass"))) }
        @for (name, label) in [("weight", "Weight (empty: 1)"), ("overdispersion", "Overdispersion (optional)")] {
            div data-rule="evidence" { (one(name, label, &slo[name])) }
        }
        div data-rule="evidence" data-objective="no_worse_than_old" { (one("at_full", "Margin at 100 % (optional)", &slo["at_full"]["margin"])) }
        @for (name, label) in [("bad", "Bad events (filters as JSON)"), ("total", "Events that count (filters as JSON)")] {
            div data-for="query" { (one(name, label, &slo["sli"][name])) }
        }
        @for (name, label) in [("url", "Address of the judge"), ("model", "or model of Workers AI")] {
            div data-for="judge" { (one(name, label, &slo["sli"][name])) }
        }
    }
}

/// What a release by this plan will be like.
fn forecast<P: Ports>(desk: &Desk<'_, P>, draft: &Draft<'_>) -> Markup {
    let Ok(plan) = crate::json::read::<Plan>(&draft.plan) else {
        return Markup::default();
    };
    let config = desk.pipeline.config;
    let shortest: i64 = plan.stages.iter().map(|stage| stage.soak.ms()).sum();
    let longest: i64 = plan
        .stages
        .iter()
        .map(crate::release::Stage::max_soak_ms)
        .sum();
    let warnings = plan.warnings(config.telemetry_lag_ms, config.propagation_delay_ms);
    html! {
        section.card {
            h2 { "What to expect" }
            p { "A healthy release soaks for " (duration(shortest)) " in all; one that lacks data holds for up to " (duration(longest)) ", besides waiting for people. Harm is seen about " (duration(plan.check_interval.ms() + config.telemetry_lag_ms)) " after it begins." }
            @for warning in &warnings { p.warn { code { (warning.pointer) } " " (warning.detail) } }
        }
    }
}
