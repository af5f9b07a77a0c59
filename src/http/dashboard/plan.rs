//! `/plans`: the plans, and one of them as a form.

use ::http::{HeaderName, Method, header};
use maud::{Markup, html};
use serde_json::Value;

use super::super::Answer;
use super::super::conditional::tag;
use super::super::plans::checked_name;
use super::super::problem::Problem;
use super::layout::{self, confirm, done, duration, hidden, hidden_json, time};
use super::plan_field::{Field, Input, field, pointed, refusal, value_text};
use super::plan_form::{Edit, first, read, rest};
use super::plan_items::{slos, stages};
use super::{Desk, Nav, plan_queries, see_other};
use crate::pipeline::ports::Ports;
use crate::release::{FieldError, Plan};
use crate::store::{self, StoredPlan};

/// `GET /plans`, and `GET /plans?name=…` of the form that names a new one.
pub(super) async fn list<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let query = desk.query();
    if !query.get("name").is_empty() {
        return see_other(&format!("/plans/{}", checked_name(query.get("name"))?));
    }
    let (plans, pages) = some(desk, "/plans").await?;
    let body = html! {
        (done(Some(query.get("done"))))
        h1 { "Plans" }
        @if plans.is_empty() && pages.0.is_empty() {
            section.card.empty { h2 { "No plan yet" } p { "A plan says which stages a new version of a Worker goes through, and what health means." } }
        }
        ul.list { @for stored in &plans { li.card { div {
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
const PLANS: i64 = 60;

/// The plans of the page of a list that was asked for, with links to the pages around it.
pub(super) async fn some<P: Ports>(
    desk: &Desk<'_, P>,
    path: &str,
) -> Result<(Vec<StoredPlan>, Markup), Problem> {
    let page = layout::page_number(desk.query().get("page"));
    // One more than are shown says whether there are more.
    let bounds = (PLANS + 1, (page - 1) * PLANS);
    let mut plans = store::list_plans(desk.pipeline.ports, bounds).await?;
    let shown = usize::try_from(PLANS).unwrap_or(0);
    let more = plans.len() > shown;
    plans.truncate(shown);
    let link = |page| format!("{path}?page={page}");
    Ok((plans, layout::pages(page, more, &link)))
}

/// What a page of a plan shows.
#[derive(Default)]
pub(super) struct Draft<'a> {
    name: &'a str,
    pub plan: Value,
    /// Empty for one that was never saved.
    revision: String,
    saved_at: Option<i64>,
    /// What is wrong, where.
    pub errors: Vec<FieldError>,
    refused: Option<Problem>,
    /// What its author should know of it, though it was saved.
    warnings: Vec<FieldError>,
    /// The field that is to have the focus.
    pub focus: Option<String>,
    /// The text of the JSON view, if that is what was sent.
    text: Option<String>,
    done: String,
    /// The queries that the account has saved, or why they can't be listed; none as long as nobody has asked.
    pub queries: Option<Result<Value, Problem>>,
    /// The plan is too large for the fields of all of its stages and objectives to be on one page.
    pub folded: bool,
    /// It is shown as JSON alone.
    as_json: bool,
}

/// Bytes of a plan's fields on its page: with what is around them a page has at most 60 KB.
const ROOM: usize = 55_000;

/// The plan of a name as it was saved, or what it is at first.
async fn saved<'a, P: Ports>(desk: &Desk<'_, P>, name: &'a str) -> Result<Draft<'a>, Problem> {
    let mut draft = Draft {
        name,
        ..Draft::default()
    };
    match store::get_plan(desk.pipeline.ports, checked_name(name)?).await? {
        Some(stored) => {
            draft.plan = crate::json::value(&stored.plan);
            draft.revision = stored.revision.to_string();
            draft.saved_at = Some(stored.updated_at);
        }
        None => draft.plan = first(name),
    }
    Ok(draft)
}

/// `GET /plans/{name}`: a plan of that name need not exist yet.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let mut draft = saved(desk, name).await?;
    desk.query().get("done").clone_into(&mut draft.done);
    page(desk, draft)
}

/// `POST /plans/{name}`: saves it, or changes the form.
pub(super) async fn submit<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let name = checked_name(name)?;
    let form = desk.form();
    let act = form.get("do");
    let mut draft = Draft {
        name,
        revision: form.get("revision").to_owned(),
        ..Draft::default()
    };
    let shows_form = act == "form";
    if act == "json" || shows_form {
        let text = form.get("json");
        match crate::json::parse(text) {
            Ok(plan) => draft.plan = plan,
            Err(error) => {
                // The form holds what was saved; the text is still one of the plan that it was made from.
                draft.plan = saved(desk, name).await?.plan;
                draft.refused = Some(Problem::new(400, "Not JSON", error.to_string()));
            }
        }
        draft.text = Some(text.to_owned());
        if draft.refused.is_some() {
            return page(desk, draft);
        }
    } else {
        draft.plan = read(&form);
    }
    if let Some(edit) = Edit::of(&form) {
        draft.focus = edit.apply(&mut draft.plan);
        return page(desk, draft);
    }
    if let Some(cursor) = act.strip_prefix("queries.") {
        draft.queries = Some(plan_queries::list(desk, &draft.plan, cursor).await);
        draft.focus = Some(plan_queries::BUTTON.to_owned());
        return page(desk, draft);
    }
    if shows_form || act == "as-json" {
        draft.as_json = !shows_form;
        draft.text = None;
        return page(desk, draft);
    }
    // Only over what the form was made from: whoever saved in the meantime is not overwritten.
    let condition: (HeaderName, String) = if draft.revision.is_empty() {
        (header::IF_NONE_MATCH, "*".to_owned())
    } else {
        (header::IF_MATCH, tag(&draft.revision))
    };
    let path = format!("/v1/plans/{name}");
    match desk
        .call(Method::PUT, &path, &[condition], &draft.plan)
        .await
    {
        Ok(answer) => {
            let warnings = answer["warnings"].as_array();
            draft.warnings = warnings.map_or_else(Vec::new, |it| it.iter().map(warning).collect());
            if draft.warnings.is_empty() {
                return see_other(&format!("/plans/{name}?done=saved"));
            }
            // Some of them are found by asking Cloudflare, and only when it is saved.
            draft.revision = answer["revision"].to_string();
            draft.saved_at = Some(desk.pipeline.ports.now());
            "saved".clone_into(&mut draft.done);
            draft.text = None;
            page(desk, draft)
        }
        Err(mut problem) => {
            if problem.status == 412 {
                "somebody else has saved this plan in the meantime; load the page again to see it, and change that one".clone_into(&mut problem.detail);
            }
            draft.errors.clone_from(&problem.errors);
            draft.refused = Some(problem);
            page(desk, draft)
        }
    }
}

fn warning(said: &Value) -> FieldError {
    FieldError {
        pointer: value_text(&said["pointer"]),
        detail: value_text(&said["detail"]),
    }
}

/// `POST /plans/{name}/delete`.
pub(super) async fn delete<P: Ports>(desk: &Desk<'_, P>, name: &str) -> Answer {
    let path = format!("/v1/plans/{name}");
    desk.call(Method::DELETE, &path, &[], &Value::Null).await?;
    see_other("/plans?done=deleted")
}

fn page<P: Ports>(desk: &Desk<'_, P>, mut draft: Draft<'_>) -> Answer {
    let mut body = whole(desk, &draft);
    if body.0.len() > ROOM {
        draft.folded = true;
        draft.as_json |= draft.text.is_some();
        body = whole(desk, &draft);
    }
    let refused = draft.refused.as_ref();
    let title = format!("Plan {}", draft.name);
    desk.page_with(refused, Some(Nav::Plans), &title, &body)
}

fn whole<P: Ports>(desk: &Desk<'_, P>, draft: &Draft<'_>) -> Markup {
    let name = draft.name;
    html! {
        (done(Some(&draft.done)))
        h1 { "Plan " (name) }
        p.quiet {
            @if let Some(at) = draft.saved_at { "Last saved " (time(at)) ", revision " (draft.revision) ". "
                a href=(format!("/new?plan={name}")) { "New release by this plan" } }
            @else if draft.revision.is_empty() { "Not saved yet." }
            @else { "Changed, and not saved yet." }
        }
        @if let Some(problem) = &draft.refused { (refusal(problem)) }
        @if !draft.warnings.is_empty() { div.warn role="status" { (pointed(&draft.warnings)) } }
        @if !draft.as_json { (fields(desk, draft)) }
        @if draft.saved_at.is_some() {
            section.card {
                h2 { "Forecast" }
                p { "How small a harm each stage will see with the Worker's traffic of the last 24 hours, how soon, and how likely a healthy version stays undecided." }
                form method="post" action=(format!("/plans/{name}/forecast")) { (hidden("form", &desk.form_token)) button type="submit" { "Forecast" } }
            }
        }
        @if draft.as_json || !draft.folded {
            section.card {
                details open[draft.as_json || draft.text.is_some()] {
                    summary { "JSON" }
                    form method="post" action=(format!("/plans/{name}")) {
                        (hidden("form", &desk.form_token)) (hidden("revision", &draft.revision))
                        label for="json" { "The plan as the API has it" }
                        textarea #json name="json" rows="20" spellcheck="false" { (json_text(draft)) }
                        @if !draft.as_json { p.quiet { "Only the text is saved: what you change in the form above is not in it, and the form does not save what you change here." } }
                        button type="submit" name="do" value="json" { "Save this JSON" }
                        @if draft.as_json { " " button type="submit" name="do" value="form" { "Show it as a form" } }
                    }
                }
            }
        }
        @if !draft.revision.is_empty() {
            (confirm((&format!("/plans/{name}/delete"), &desk.form_token), ("Delete", "The plan and the secret of its hook are gone; releases keep their copy.", "danger"), &Markup::default()))
        }
    }
}

fn fields<P: Ports>(desk: &Desk<'_, P>, draft: &Draft<'_>) -> Markup {
    html! {
        form #plan method="post" action=(format!("/plans/{}", draft.name)) {
            // The first button is what Enter presses.
            button.hidden type="submit" name="do" value="save" tabindex="-1" aria-hidden="true" { "Save" }
            (hidden("form", &desk.form_token)) (hidden("revision", &draft.revision))
            (hidden_json("plan.base", &rest(&draft.plan)))
            section.card { h2 { "Worker" } (general(draft)) }
            section.card { h2 { "Stages" } (stages(draft)) }
            section.card { h2 { "Objectives" } (slos(draft)) (plan_queries::saved(draft)) }
            (forecast(desk, draft))
            div.commands {
                button.primary type="submit" name="do" value="save" { "Save" }
                @if draft.folded { button type="submit" name="do" value="as-json" { "Show it as JSON" } }
            }
        }
    }
}

fn json_text(draft: &Draft<'_>) -> String {
    match &draft.text {
        Some(text) => text.clone(),
        None => crate::json::pretty(&crate::json::text(&draft.plan)),
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
        div.fields { @for (id, label, value) in all { (field(draft, &Field { id, name: id, label, value, input: Input::Line })) } }
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
    // Those of saving it hold these.
    let warnings = if draft.warnings.is_empty() {
        plan.warnings(config.telemetry_lag_ms, config.propagation_delay_ms)
    } else {
        Vec::new()
    };
    html! {
        section.card {
            h2 { "What to expect" }
            p { "A healthy release soaks for " (duration(shortest)) " in all; one that lacks data holds for up to " (duration(longest)) ", besides waiting for people. Harm is seen about " (duration(plan.check_interval.ms() + config.telemetry_lag_ms)) " after it begins." }
            @if !warnings.is_empty() { div.warn { (pointed(&warnings)) } }
        }
    }
}
