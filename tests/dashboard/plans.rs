//! A plan's page: queries that the account has saved, and plans that are as large as plans get.

use ::http::Response;
use serde_json::{Value, json};

use crate::actions::fields_of;
use crate::support::{ACCOUNT, Call, Fault, Tape, World, healthy};
use crate::{Browser, EVIL, OWN, form_token, scene, text};

type Fields = Vec<(String, String)>;

fn set(fields: &mut Fields, name: &str, value: &str) {
    let field = fields.iter_mut().find(|(known, _)| known == name);
    value.clone_into(&mut field.unwrap_or_else(|| panic!("no {name}")).1);
}

fn field<'f>(fields: &'f Fields, name: &str) -> Option<&'f str> {
    let field = fields.iter().find(|(known, _)| known == name);
    field.map(|(_, value)| value.as_str())
}

fn send(browser: &Browser, path: &str, fields: &Fields, act: &str) -> Response<Vec<u8>> {
    let all = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()));
    let mut all: Vec<(&str, &str)> = all.collect();
    all.push(("do", act));
    browser.send(path, &[OWN], &all)
}

/// The page of a plan that was saved, though there is something to be said of it.
fn warned(response: &Response<Vec<u8>>) {
    let page = text(response);
    assert_eq!(response.status(), 200, "{page}");
    assert!(page.contains("Saved.") && page.len() < 60_000, "{page}");
}

/// Saves a query in Cloudflare, as a person would, and answers its id.
fn save(world: &World, name: &str, parameters: &Value) -> String {
    let path = format!("/client/v4/accounts/{ACCOUNT}/workers/observability/queries");
    let body = json!({"name": name, "description": EVIL, "parameters": parameters}).to_string();
    let now = world.now.get();
    let answer = world
        .cloudflare
        .lock()
        .unwrap()
        .handle(now, "POST", &path, body.as_bytes());
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["result"]["id"].as_str().unwrap().to_owned()
}

fn failed() -> Value {
    json!({"filters": [{"key": "$workers.event.response.status", "operation": "gte", "type": "number", "value": 500}]})
}

#[test]
fn saved_queries_are_chosen_from_a_list_that_only_a_button_asks_for() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    let path = "/plans/shop";
    let calls = world.requests.borrow().len();
    let fresh = browser.page(path);
    assert!(fresh.contains("Load the saved queries") && !fresh.contains("<datalist"));
    let mut fields = fields_of(&fresh);
    // Nobody knows yet of which account.
    let early = text(&send(&browser, path, &fields, "queries.1"));
    assert!(early.contains("Of which Worker?"), "{early}");
    assert_eq!(world.requests.borrow().len(), calls, "no call was made");
    set(&mut fields, "account_id", ACCOUNT);
    set(&mut fields, "stages.0.soak", "33m");
    let none = text(&send(&browser, path, &fields, "queries.1"));
    assert!(none.contains("This account has no saved query") && none.contains("Load them again"));
    assert!(!none.contains("<datalist"));

    let bad = save(&world, EVIL, &failed());
    let grouped = json!({"groupBys": [{"type": "string", "value": "$workers.outcome"}]});
    let unusable = save(&world, "by outcome", &grouped);
    let listed = send(&browser, path, &fields, "queries.1");
    assert_eq!(listed.status(), 200);
    let page = text(&listed);
    assert!(
        page.contains(&format!("<option value=\"{bad}\">&lt;script&gt;"))
            && !page.contains(&format!("<option value=\"{unusable}\"")),
        "{page}"
    );
    assert!(page.contains("It is grouped by $workers.outcome, and HMD groups by version"));
    assert!(!page.contains("<script>") && !page.contains("<img"));
    assert!(page.contains("id=\"slos-0-saved_bad\" name=\"slos.0.saved_bad\" value=\"\" autocomplete=\"off\" list=\"queries\""));
    // Asking has taken nothing of what was filled in.
    let mut fields = fields_of(&page);
    assert_eq!(field(&fields, "stages.0.soak"), Some("33m"));

    set(&mut fields, "slos.0.kind", "query");
    set(&mut fields, "slos.0.saved_bad", "no-such-query");
    let refused = text(&send(&browser, path, &fields, "save"));
    assert!(
        refused.contains("id=\"slos-0-saved_bad-error\""),
        "{refused}"
    );
    set(&mut fields, "slos.0.saved_bad", &bad);
    set(&mut fields, "slos.0.bad", &failed()["filters"].to_string());
    let twice = text(&send(&browser, path, &fields, "save"));
    assert!(twice.contains("id=\"slos-0-bad-error\"") && twice.contains("keep one of the two"));
    set(&mut fields, "slos.0.bad", "");
    warned(&send(&browser, path, &fields, "save"));
    let plan = world.api("GET", "/v1/plans/shop", &Value::Null).1;
    let sli = json!({"kind": "query", "saved": {"bad": bad}});
    assert_eq!(plan["slos"][0]["sli"], sli);
    // It is taken away again where it means nothing.
    let mut fields = fields_of(&browser.page(path));
    assert_eq!(field(&fields, "slos.0.saved_bad"), Some(bad.as_str()));
    set(&mut fields, "slos.0.kind", "error_rate");
    assert_eq!(send(&browser, path, &fields, "save").status(), 303);
    let plan = world.api("GET", "/v1/plans/shop", &Value::Null).1;
    assert_eq!(plan["slos"][0]["sli"], json!({"kind": "error_rate"}));
}

#[test]
fn a_plans_page_does_without_cloudflare() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["slos"][0]["sli"] = json!({"kind": "judge", "url": "https://judge.example.com/"});
        plan["slos"][0]["objective"] = json!("pass");
    });
    world.set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Status(503)));
    let page = browser.page("/plans/shop");
    assert!(
        page.contains("value=\"https://judge.example.com/\""),
        "a judge has fields"
    );
    let listed = send(&browser, "/plans/shop", &fields_of(&page), "queries.1");
    assert_eq!(listed.status(), 200, "the form is still there to be saved");
    let page = text(&listed);
    assert!(
        page.contains("listing saved queries: Cloudflare answered 503")
            || page.contains("Listing saved queries: Cloudflare answered 503"),
        "{page}"
    );
    assert!(page.contains("An id that you know can be filled in all the same"));
}

/// A plan with all that a plan may hold, twenty times each.
fn large(plan: &mut Value) {
    let stage = |i: usize| {
        let last = i == 19;
        json!({"percent": if last { 100 } else { 5 * (i + 1) }, "soak": "1h 30m", "max_soak": "3h", "early": true,
            "advance": if last { "auto" } else { "manual" }, "approval_timeout": if last { Value::Null } else { json!("12h") },
            "description": format!("Look at the funnel in the {i}th dashboard, and at the \"carts\" that were left behind")})
    };
    let slo = |i: usize| {
        let sli = match i % 4 {
            0 => json!({"kind": "error_rate"}),
            1 => json!({"kind": "wall_time", "percentile": 99.9}),
            2 => json!({"kind": "query", "saved": {"total": "q_0123456789abcdef"}, "bad": [
                {"key": "$workers.event.response.status", "operation": "gte", "type": "number", "value": 500}]}),
            _ => json!({"kind": "cpu_time", "percentile": 95}),
        };
        json!({"name": format!("objective of the shop no. {i}"), "sli": sli, "objective": {"no_worse_than_old": {"tolerance": 1.25}},
            "severity": "pause", "min_requests": 1_000 + i, "on_no_data": "continue", "on_undecided": "hold", "weight": 2.5,
            "overdispersion": 3, "at_full": {"margin": 2}})
    };
    plan["stages"] = (0..20).map(stage).collect();
    plan["slos"] = (0..20).map(slo).collect();
}

#[test]
fn a_plan_of_twenty_stages_and_twenty_objectives_fits_a_page_and_can_be_changed_there() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    let total = json!({"filters": []});
    let id = save(&world, "all", &total);
    world.plan("shop", |plan| {
        large(plan);
        for slo in plan["slos"].as_array_mut().unwrap() {
            if slo["sli"]["kind"] == "query" {
                slo["sli"]["saved"]["total"] = json!(id);
            }
        }
    });
    let saved = || {
        let mut plan = world.api("GET", "/v1/plans/shop", &Value::Null).1;
        plan.as_object_mut().unwrap().remove("revision");
        plan.as_object_mut().unwrap().remove("updated_at");
        plan
    };
    let before = saved();
    let path = "/plans/shop";
    *world.tape.borrow_mut() = Some(Tape::default());
    let page = browser.page(path);
    assert_eq!(world.tape.take().unwrap().batches.len(), 1);
    assert!(!page.contains("name=\"slos.3.limit\""), "it is folded");
    let fits = |response: &Response<Vec<u8>>| {
        let page = text(response);
        assert!(page.len() < 60_000, "{} bytes", page.len());
        page
    };
    // Saved as it is, nothing of it changes.
    let mut fields = fields_of(&page);
    warned(&send(&browser, path, &fields, "save"));
    assert_eq!(saved(), before);
    // One after the other is changed, and nothing is lost in between.
    fields = fields_of(&browser.page(path));
    let opened = fits(&send(&browser, path, &fields, "open.slos.7"));
    assert!(opened.contains("id=\"slos-7-name\" name=\"slos.7.name\" value=\"objective of the shop no. 7\" autocomplete=\"off\" autofocus"), "{opened}");
    fields = fields_of(&opened);
    set(&mut fields, "slos.7.name", "seven");
    fields = fields_of(&fits(&send(&browser, path, &fields, "open.stages.2")));
    assert_eq!(field(&fields, "slos.7.name"), None);
    set(&mut fields, "stages.2.soak", "2h");
    fields = fields_of(&fits(&send(&browser, path, &fields, "down.slos.0")));
    fits(&send(&browser, path, &fields, "queries.1"));
    warned(&send(&browser, path, &fields, "save"));
    let after = saved();
    assert_eq!(after["slos"][7]["name"], "seven");
    assert_eq!(after["stages"][2]["soak"], "2h");
    assert_eq!(after["slos"][0], before["slos"][1]);
    // What is wrong is shown with its fields.
    fields = fields_of(&browser.page(path));
    fields = fields_of(&fits(&send(&browser, path, &fields, "open.stages.4")));
    set(&mut fields, "stages.4.percent", "1");
    let refused = send(&browser, path, &fields, "save");
    assert_eq!(refused.status(), 422);
    let page = fits(&refused);
    assert!(page.contains("-percent-error\""), "{page}");
    // As JSON, and back.
    fields = fields_of(&browser.page(path));
    let shown = fits(&send(&browser, path, &fields, "as-json"));
    assert!(shown.contains("Show it as a form") && !shown.contains("<form id=\"plan\""));
    let whole = serde_json::to_string(&after).unwrap();
    let (form, revision) = (
        form_token(&shown),
        field(&fields, "revision").unwrap().to_owned(),
    );
    let json = |act: &str, text: &str| {
        let fields = [
            ("form", form.as_str()),
            ("revision", &revision),
            ("do", act),
            ("json", text),
        ];
        browser.send(path, &[OWN], &fields)
    };
    assert!(fits(&json("form", &whole)).contains("<form id=\"plan\""));
    let wrong = json("json", &whole.replace("\"2h\"", "\"two hours\""));
    assert_eq!(wrong.status(), 422);
    assert!(fits(&wrong).contains("/stages/2/soak"));
}

fn plan_of(world: &World) -> Value {
    let mut plan = world.api("GET", "/v1/plans/shop", &Value::Null).1;
    for field in ["revision", "updated_at"] {
        plan.as_object_mut().unwrap().remove(field);
    }
    plan
}

#[test]
fn a_form_that_nobody_has_changed_loses_nothing() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["description"] = json!("\nLook at\r\n  the funnel,\nthen <go>.\n");
        plan["slos"][0]["name"] = json!(" errors\nof the shop ");
        let counts = plan["slos"][0].clone();
        let judge = json!({"name": "judge", "sli": {"kind": "judge", "url": "https://judge.example.com/"}, "objective": "pass",
            "on_undecided": "hold", "rule": "threshold"});
        plan["slos"] = json!([counts, judge]);
    });
    let path = "/plans/shop";
    let before = plan_of(&world);
    let fields = fields_of(&browser.page(path));
    assert_eq!(
        field(&fields, "stages.0.description"),
        Some("\r\nLook at\r\n  the funnel,\r\nthen <go>.\r\n")
    );
    assert_eq!(send(&browser, path, &fields, "save").status(), 303);
    assert_eq!(plan_of(&world), before);
    // Nor does it on its way through a form that was not saved yet.
    let fields = fields_of(&browser.page(path));
    let mut fields = fields_of(&text(&send(&browser, path, &fields, "down.slos.0")));
    fields = fields_of(&text(&send(&browser, path, &fields, "up.slos.1")));
    assert_eq!(send(&browser, path, &fields, "save").status(), 303);
    assert_eq!(plan_of(&world), before);
    // What is changed is saved, without what can't be seen.
    let mut fields = fields_of(&browser.page(path));
    set(&mut fields, "stages.0.description", "Look\r\nagain \r\n");
    set(&mut fields, "slos.0.name", "errors ");
    set(&mut fields, "slos.1.on_undecided", "pass");
    assert_eq!(send(&browser, path, &fields, "save").status(), 303);
    let after = plan_of(&world);
    assert_eq!(after["stages"][0]["description"], "Look\nagain");
    assert_eq!(after["slos"][0]["name"], "errors");
    assert_eq!(after["slos"][1]["on_undecided"], "pass");
}

#[test]
fn what_only_saving_finds_out_is_said_when_a_plan_is_saved() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    let path = "/plans/shop";
    let mut fields = fields_of(&browser.page(path));
    set(&mut fields, "account_id", ACCOUNT);
    set(&mut fields, "slos.0.kind", "query");
    let filters = json!([{"key": EVIL, "operation": "eq", "type": "string", "value": "b"}]);
    set(&mut fields, "slos.0.bad", &filters.to_string());
    set(&mut fields, "slos.0.total", "[]");
    let saved = send(&browser, path, &fields, "save");
    assert_eq!(saved.status(), 200, "{}", text(&saved));
    let page = text(&saved);
    assert!(
        page.contains("Saved.") && page.contains("revision 1") && !page.contains("Not saved"),
        "{page}"
    );
    assert!(
        page.contains("<a href=\"#slos-0-bad\">/slos/0/sli/bad")
            && page.contains("was in no event of the account in the last 7 days"),
        "{page}"
    );
    assert!(!page.contains("<script>") && !page.contains("<img"));
    // It goes on from there, and what is known without asking is said once.
    let mut fields = fields_of(&page);
    set(&mut fields, "stages.0.soak", "1m");
    let page = text(&send(&browser, path, &fields, "save"));
    assert!(page.contains("revision 2"), "{page}");
    assert_eq!(page.matches(">/stages/0/soak<").count(), 1, "{page}");
    let page = browser.page(path);
    assert_eq!(page.matches(">/stages/0/soak<").count(), 1, "{page}");
    assert!(!page.contains("in no event"), "{page}");
}

#[test]
fn a_slip_in_the_json_leaves_the_form_with_the_saved_plan() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["stages"][0]["soak"] = json!("77m"));
    let path = "/plans/shop";
    let before = plan_of(&world);
    let page = browser.page(path);
    let form = form_token(&page);
    let slip = [
        ("form", form.as_str()),
        ("revision", "1"),
        ("do", "json"),
        ("json", "{\"slip\": <"),
    ];
    let refused = browser.send(path, &[OWN], &slip);
    assert_eq!(refused.status(), 400);
    let page = text(&refused);
    assert!(page.contains("Not JSON") && page.contains("{&quot;slip&quot;: &lt;"));
    let fields = fields_of(&page);
    assert_eq!(field(&fields, "stages.0.soak"), Some("77m"));
    assert_eq!(send(&browser, path, &fields, "save").status(), 303);
    assert_eq!(plan_of(&world), before);
}
