//! `/new`: choosing a version, checking it, and releasing it.

use ::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::future::join;
use maud::{Markup, html};
use serde_json::{Value, json};

use super::super::Answer;
use super::super::headers::IDEMPOTENCY_KEY;
use super::super::problem::Problem;
use super::super::releases::KEY_OF_ANOTHER;
use super::layout::{self, hidden, sentence, short, time_text};
use super::watch::watches;
use super::{Desk, Form, Nav, see_other};
use crate::pipeline::ports::Ports;
use crate::release::Release;
use crate::store::PlanInUse;

/// Versions to choose from; any other can be named.
const VERSIONS: usize = 10;
/// Calls to Cloudflare for its page: which versions there are, and which serve.
const CALLS: u32 = 2;

/// `GET /new`.
pub(super) async fn show<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let query = desk.query();
    if query.get("plan").is_empty() {
        return choose_plan(desk).await;
    }
    let checks = !query.get("check").is_empty();
    page(desk, &query, checks, None).await
}

/// Where a version is released by the plan of a release, in its mode. `checked`: with what stands before it.
pub(super) fn again(release: &Release, version: &str, checked: bool) -> String {
    let mode = if watches(release) { "&mode=watch" } else { "" };
    let check = if checked { "&check=1" } else { "" };
    format!(
        "/new?plan={}&version={version}{mode}{check}",
        release.origin.plan_name
    )
}

async fn choose_plan<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let (plans, pages) = super::plan::some(desk, "/new").await?;
    let body = html! {
        h1 { "New release" }
        @if plans.is_empty() && pages.0.is_empty() {
            section.card.empty {
                h2 { "There is no plan yet" }
                p { "A release follows a plan: its stages, and what health means." }
                p { a.button.primary href="/plans" { "Make a plan" } }
            }
        } @else {
            p { "By which plan?" }
            ul.list { @for stored in &plans { li.card {
                div { h2 { a href=(format!("/new?plan={}", stored.name)) { (stored.name) } }
                    p.quiet { "Worker " (stored.plan.worker.script_name) ", " (stored.plan.stages.len()) " stages, " (stored.plan.slos.len()) " objectives" } }
            } } }
            (pages)
        }
    };
    desk.page(Some(Nav::New), "New release", &body)
}

/// The form, as far as it is filled in, with what was refused; if it `checks`, with what that finds.
async fn page<P: Ports>(
    desk: &Desk<'_, P>,
    form: &Form,
    checks: bool,
    mut refused: Option<Problem>,
) -> Answer {
    let mut checked = None;
    if checks {
        let found = desk.post("/v1/releases/preflight", &wanted(form)).await;
        match found {
            Ok(found) => checked = Some(found),
            Err(problem) => refused = Some(problem),
        }
    }
    let (checked, refused) = (checked.as_ref(), refused.as_ref());
    let plan = form.get("plan");
    let found = desk.pipeline.plan_in_use(plan, CALLS).await?;
    let Some(PlanInUse { stored, holder, .. }) = found else {
        return Err(Problem::not_found(format!("there is no plan {plan:?}")));
    };
    let worker = &stored.plan.worker;
    let base = format!("/v1/workers/{}/{}", worker.account_id, worker.script_name);
    let (versions, deployments) = (format!("{base}/versions"), format!("{base}/deployments"));
    // In boxes, for they are all of the API.
    let versions = Box::pin(get(desk, &versions));
    let (versions, deployments) = join(versions, Box::pin(get(desk, &deployments))).await;
    let serving = deployments
        .as_ref()
        .map_or(Value::Null, |it| it["items"][0]["versions"].clone());
    let random = desk.pipeline.ports.random();
    let key = match form.get("key") {
        // A check does not use the key up; a refusal is not remembered under it.
        "" => URL_SAFE_NO_PAD.encode(&random[..16]),
        key => key.to_owned(),
    };
    let body = html! {
        h1 { "New release of " (worker.script_name) }
        @if let Some(problem) = refused { (layout::problem(problem)) }
        @if let Some(checked) = checked { (preflight(checked)) }
        form method="post" action="/new" {
            (hidden("form", &desk.form_token)) (hidden("plan", plan)) (hidden("key", &key))
            section.card {
                (choices(form, versions.as_ref(), &serving))
            }
            section.card {
                fieldset {
                    legend { "Who deploys" }
                    (radios("mode", form.get("mode"), &[("deploy", "HMD deploys the stages, and takes them back"), ("watch", "Somebody else: HMD only watches, and says what it would have done")]))
                }
                fieldset {
                    legend { "If another release of this Worker is active (who only watches is in nobody's way)" }
                    @if let Some(id) = &holder { p.warn { "One is: " a href=(format!("/releases/{id}")) { (id) } "." } }
                    @else { p.quiet { "None is now." } }
                    (radios("on_conflict", form.get("on_conflict"), &[("reject", "Refuse this one"), ("queue", "Wait for its end"), ("supersede", "Send it back, then start")]))
                }
                label for="note" { "What is new (optional)" }
                textarea #note name="note" rows="2" maxlength="500" { (form.get("note")) }
                label for="url" { "Link to a CI run or a ticket (optional)" }
                input #url name="url" type="url" maxlength="500" value=(form.get("url"));
                (accepts(form, checked, refused))
            }
            div.commands {
                button type="submit" name="do" value="check" { "Check first" }
                button.go type="submit" name="do" value="start" { "Create and start" }
                button type="submit" name="do" value="create" { "Create only" }
            }
        }
        p.quiet { "By plan " a href=(format!("/plans/{plan}")) { (plan) } ": "
            @for (i, stage) in stored.plan.stages.iter().enumerate() { @if i > 0 { ", then " } (stage.percent) " for " (stage.soak) } "." }
    };
    let title = format!("New release of {}", worker.script_name);
    desk.page_with(refused, Some(Nav::New), &title, &body)
}

async fn get<P: Ports>(desk: &Desk<'_, P>, path: &str) -> Result<Value, Problem> {
    desk.call(Method::GET, path, &[], &Value::Null).await
}

fn radios(name: &str, chosen: &str, options: &[(&str, &str)]) -> Markup {
    html! {
        @for (i, (value, words)) in options.iter().enumerate() {
            label.choice { input type="radio" name=(name) value=(value) checked[chosen == *value || chosen.is_empty() && i == 0]; " " (words) }
        }
    }
}

/// The versions that can be deployed, and a field for any other.
fn choices(form: &Form, versions: Result<&Value, &Problem>, serving: &Value) -> Markup {
    let items = versions.map_or(&[][..], |it| {
        it["items"].as_array().map_or(&[][..], Vec::as_slice)
    });
    let wanted = form.get("version");
    let shown = &items[..items.len().min(VERSIONS)];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let listed = shown.iter().any(|version| text(&version["id"]) == wanted);
    let share = |id: &str| {
        let serving = serving.as_array().map_or(&[][..], Vec::as_slice);
        let found = serving.iter().find(|it| it["version_id"] == id);
        found
            .and_then(|it| it["percentage"].as_f64())
            .map(|share| crate::decimal::plain(share).to_string())
    };
    html! {
        fieldset {
            legend { "Version" }
            @if let Err(problem) = versions { (layout::problem(problem)) }
            label.choice { input type="radio" name="version" value="latest" checked[wanted.is_empty() || wanted == "latest"]; " latest: the newest when the release is created" }
            @for (i, version) in shown.iter().enumerate() {
                @let id = text(&version["id"]);
                label.choice {
                    input type="radio" name="version" value=(id) checked[wanted == id];
                    " " (short(&id)) " no. " (version["number"])
                    @if i == 0 { " " span.tag { "latest" } }
                    @if let Some(share) = share(&id) { " " span.tag.active { "active " (share) " %" } }
                    @if let Some(tag) = version["tag"].as_str() { " " span.tag { (tag) } }
                    @if let Some(message) = version["message"].as_str() { " " (message) }
                    @if let Some(at) = version["created_at"].as_str() { " " span.quiet { (time_text(at)) @if let Some(who) = version["author_email"].as_str() { " by " (who) } } }
                }
            }
            @if !wanted.is_empty() && wanted != "latest" && !listed {
                label.choice { input type="radio" name="version" value=(wanted) checked; " " code { (wanted) } }
            }
            label for="other" { "Or another version's id" }
            input #other name="other" value=(form.get("other")) autocomplete="off";
        }
    }
}

/// The checks that a person may accept although they failed.
fn accepts(form: &Form, checked: Option<&Value>, refused: Option<&Problem>) -> Markup {
    let known = [
        "deployments_token",
        "telemetry_token",
        "observability",
        "sampling",
        "durable_objects",
        "queries",
    ];
    let failed = |name: &str| {
        let seen = checked.and_then(|it| it["checks"].as_array());
        seen.is_some_and(|checks| {
            checks
                .iter()
                .any(|it| it["name"] == name && it["status"] == "failed")
        }) || refused.is_some_and(|problem| problem.checks.iter().any(|it| it.name == name))
    };
    let given: Vec<&str> = form.all("accept").collect();
    html! {
        @if known.iter().any(|name| failed(name) || given.contains(name)) {
            fieldset {
                legend { "Release all the same, although this failed" }
                @for name in known {
                    @if failed(name) || given.contains(&name) {
                        label.choice { input type="checkbox" name="accept" value=(name) checked[given.contains(&name)]; " " (layout::words(name)) }
                    }
                }
            }
        }
    }
}

fn preflight(found: &Value) -> Markup {
    let checks = found["checks"].as_array().map_or(&[][..], Vec::as_slice);
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    html! {
        section.card aria-label="Preflight" {
            h2 { @if found["ok"] == true { "Ready to be released" } @else { "Not ready to be released" } }
            ul.checks {
                @for check in checks {
                    li class=(text(&check["status"])) {
                        span.tag { (text(&check["status"])) } " " strong { (layout::words(&text(&check["name"]))) } " "
                        (sentence(&text(&check["detail"])))
                        @if let Some(action) = check["action"].as_str() { " " (sentence(action)) }
                    }
                }
            }
        }
    }
}

/// The release that a form asks for, as the API takes it.
fn wanted(form: &Form) -> Value {
    let version = match (form.get("other"), form.get("version")) {
        ("", "") => "latest",
        ("", version) => version,
        (other, _) => other,
    };
    let mut body = json!({
        "plan": form.get("plan"), "new_version": version, "start": form.get("do") != "create",
        "on_conflict": match form.get("on_conflict") { "" => "reject", choice => choice },
        "accept": form.all("accept").collect::<Vec<_>>(),
    });
    if form.get("mode") == "watch" {
        body["mode"] = json!("watch");
        body["on_conflict"] = json!("reject");
    }
    for name in ["note", "url"] {
        if !form.get(name).is_empty() {
            body[name] = json!(form.get(name));
        }
    }
    body
}

/// `POST /new`.
pub(super) async fn submit<P: Ports>(desk: &Desk<'_, P>) -> Answer {
    let mut form = desk.form();
    if form.get("do") == "check" {
        return page(desk, &form, true, None).await;
    }
    // The same form sent twice makes one release.
    let key = format!("dashboard-{}", form.get("key"));
    let headers = [(IDEMPOTENCY_KEY.clone(), key)];
    match desk
        .call(Method::POST, "/v1/releases", &headers, &wanted(&form))
        .await
    {
        Ok(release) => {
            let id = release["id"].as_str().unwrap_or_default();
            see_other(&format!("/releases/{id}?done=created"))
        }
        Err(mut problem) => {
            // A page that was gone back to. What it holds now is another release, and needs a key of its own to be one.
            if problem.detail == KEY_OF_ANOTHER {
                "a release was created from this page already. This is another one: send it once more if it is wanted, too".clone_into(&mut problem.detail);
                form.0.retain(|(name, _)| name != "key");
            }
            page(desk, &form, false, Some(problem)).await
        }
    }
}
