//! The evidence rule on the dashboard: charts and words of a release, why it ended, and the settings on a plan's page.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::rc::Rc;

use ::http::Response;
use hmd::simulator::WorkerPatch;
use serde_json::{Value, json};
use support::{ACCOUNT, TOKEN, Tape, World, failing, healthy};

const HOST: &str = "https://hmd.example.com";
/// A text that runs if it is not escaped.
const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

fn text(response: &Response<Vec<u8>>) -> String {
    String::from_utf8(response.body().clone()).unwrap()
}

/// What stands between two texts.
fn between<'t>(text: &'t str, before: &str, after: &str) -> &'t str {
    let start = text
        .find(before)
        .unwrap_or_else(|| panic!("no {before} in {text}"))
        + before.len();
    &text[start..start + text[start..].find(after).unwrap()]
}

/// A text as pages hold it.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

/// Somebody who is signed in.
struct Browser {
    world: Rc<World>,
    cookie: String,
}

impl Browser {
    fn new(world: &Rc<World>) -> Self {
        let mut browser = Self {
            world: Rc::clone(world),
            cookie: String::new(),
        };
        let page = browser.get("/sign-in");
        browser.cookie = cookie_of(&page);
        let form = between(&text(&page), "name=\"form\" value=\"", "\"").to_owned();
        let response = browser.send("/sign-in", &[("form", &form), ("token", TOKEN)]);
        assert_eq!(response.status(), 303, "{}", text(&response));
        browser.cookie = cookie_of(&response);
        browser
    }

    fn get(&self, path: &str) -> Response<Vec<u8>> {
        let headers = [("cookie", self.cookie.as_str())];
        self.world
            .call("GET", &format!("{HOST}{path}"), &headers, Vec::new())
    }

    /// A page that must be there, small, and harmless.
    fn page(&self, path: &str) -> String {
        let response = self.get(path);
        assert_eq!(response.status(), 200, "{path}: {}", text(&response));
        let page = text(&response);
        assert!(page.len() <= 60_000, "{path} has {} bytes", page.len());
        for forbidden in [
            "<script>",
            "<img",
            " style=\"",
            "href=\"javascript:",
            "NaN",
            "inf\"",
        ] {
            assert!(!page.contains(forbidden), "{forbidden} in {path}:\n{page}");
        }
        page
    }

    fn release(&self, id: &str) -> String {
        self.page(&format!("/releases/{id}"))
    }

    fn send(&self, path: &str, fields: &[(&str, &str)]) -> Response<Vec<u8>> {
        let headers = [
            ("cookie", self.cookie.as_str()),
            ("content-type", "application/x-www-form-urlencoded"),
            ("origin", HOST),
        ];
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs(fields);
        let body = form.finish().into_bytes();
        self.world
            .call("POST", &format!("{HOST}{path}"), &headers, body)
    }
}

fn cookie_of(response: &Response<Vec<u8>>) -> String {
    let header = response.headers()["set-cookie"].to_str().unwrap();
    header.split(';').next().unwrap().to_owned()
}

fn scene() -> (Rc<World>, Browser) {
    let world = World::new();
    let browser = Browser::new(&world);
    (world, browser)
}

/// An SLO of each kind, with and without the evidence rule.
fn slos() -> Value {
    json!([
        {"name": "against old", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}, "at_full": {"margin": 4}},
        {"name": "limit", "sli": {"kind": "error_rate"}, "objective": {"max": 0.3}, "weight": 2, "severity": "pause"},
        {"name": "slow", "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2000}, "on_undecided": "hold"},
        {"name": "plain", "sli": {"kind": "error_rate"}, "objective": {"max": 0.5}, "rule": "threshold"},
        {"name": "count", "sli": {"kind": "request_count"}, "objective": {"min": 10}, "severity": "observe"},
    ])
}

fn evidence(world: &World, id: &str) -> Value {
    let (status, page) = world.api(
        "GET",
        &format!("/v1/releases/{id}/evidence?limit=200"),
        &Value::Null,
    );
    assert_eq!(status, 200, "{page}");
    page
}

fn marks(page: &str, class: &str) -> usize {
    page.matches(&format!("class=\"dot {class}\" href=\"#dot-{class}\" x=\""))
        .count()
}

#[test]
fn a_release_shows_what_its_verdicts_rest_on() {
    let (world, browser) = scene();
    world.worker("shop", &[failing(0.01), failing(0.01)]);
    world.plan("shop", |plan| {
        plan["slos"] = slos();
        plan["slos"][0]["name"] = json!(EVIL);
    });
    world.run_for(700_000);
    let id = world.release("shop");
    let none = browser.release(&id);
    assert!(
        none.contains("No window of telemetry has been judged yet"),
        "{none}"
    );
    world.run_to(&id, |it| it["stages"][1]["state"] == "soaking");
    world.run_for(45_000);
    *world.tape.borrow_mut() = Some(Tape::default());
    let page = browser.release(&id);
    let tape = world.tape.borrow_mut().take().unwrap();
    assert_eq!(tape.batches.len(), 1, "one round trip");
    // Each SLO's sentence, and its evidence in numbers that are the API's.
    let report = evidence(&world, &id);
    let newest = &report["items"].as_array().unwrap().last().unwrap()["slos"];
    for slo in newest.as_array().unwrap() {
        let sentence = escaped(slo["sentence"].as_str().unwrap());
        let (first, rest) = sentence.split_at(1);
        let sentence = format!("{}{rest}.", first.to_uppercase());
        assert!(page.contains(&sentence), "{sentence} in {page}");
    }
    let needed = newest[0]["evidence"]["ln_e_needed"]
        .as_f64()
        .unwrap()
        .exp()
        .round();
    assert!(
        page.contains(&format!(
            " of {needed} needed; then it goes back. Evidence of safety: "
        )),
        "{needed} in {page}"
    );
    assert!(page.contains(" needed; then it pauses"), "{page}");
    // Charts: five of windows, four of all so far, three of evidence; each with a text and a table.
    assert_eq!(page.matches("class=\"chart\"").count(), 5 + 3 + 3, "{page}");
    assert_eq!(
        page.matches("role=\"img\" aria-label=\"").count(),
        page.matches("<svg class=\"chart\"").count() + 2,
        "and the two splits"
    );
    assert_eq!(page.matches("harm at E ≥ ").count(), 3);
    assert_eq!(page.matches("class=\"band\"").count(), 3);
    assert_eq!(page.matches("As a table").count(), 5);
    for (needed, times) in [
        ("limit 30 %", 1),
        ("limit 2000 ms", 1),
        ("1.25x allowed", 1),
        (">1 % allowed</text>", 1),
    ] {
        assert_eq!(page.matches(needed).count(), times, "{needed} in {page}");
    }
    // The warm-up counts only where versions are compared, and that is the first SLO.
    let charts: Vec<&str> = page.split("<article ").collect();
    assert!(
        charts[1].contains("class=\"warm-up\"") && !charts[2].contains("class=\"warm-up\""),
        "{page}"
    );
    assert!(
        charts[1].contains(">stage 1: 10 %</text>") && charts[1].contains(">stage 2: 50 %</text>"),
        "stages"
    );
    for (i, tag) in [
        (2, "harm pauses"),
        (3, "must be shown to be safe"),
        (4, "threshold rule"),
        (5, "only recorded"),
    ] {
        assert!(charts[i].contains(tag), "{tag} in {}", charts[i]);
    }
    assert!(charts[3].contains("Evidence of harm: 0."), "{}", charts[3]);
    assert!(!charts[4].contains("Evidence of harm"), "{}", charts[4]);
    // The table's newest row is the API's.
    let row = between(charts[2], "<td>", "</tr>");
    let e = newest[1]["evidence"]["ln_e"].as_f64().unwrap().exp();
    let e = (e * 10.0).round() / 10.0;
    assert!(row.contains(&format!("<td>{e}</td>")), "{e} in {row}");
    // What was asked of the newest window, to the letter.
    let queries = report["queries"].as_array().unwrap();
    assert!(
        queries.len() > 1 && page.contains(&escaped(&queries[0].to_string())),
        "{page}"
    );
}

#[test]
fn a_release_that_went_back_says_why_and_where_to_look() {
    let (world, browser) = scene();
    let versions = world.worker("shop", &[failing(0.01), failing(0.25)]);
    world.plan("shop", |plan| plan["slos"] = slos());
    world.run_for(700_000);
    let id = world.release("shop");
    assert_eq!(world.finish(&id)["state"], "reverted");
    let page = browser.release(&id);
    let report = between(&page, "card report\">", "</section>");
    let events = world.events(&id);
    let violated = events
        .iter()
        .find(|event| event["type"] == "slo.violated")
        .unwrap();
    let reading = &violated["data"]["slo"];
    for needed in [
        "Slo violation.",
        "Harm that was found",
        "against old",
        "goes",
        reading["sentence"].as_str().unwrap().split_at(1).1,
        &format!("{} bad of ", reading["new"]["bad"]),
    ] {
        assert!(
            needed == "goes" || report.contains(&escaped(needed)),
            "{needed} in {report}"
        );
    }
    assert!(
        report.contains("Evidence of harm: ") && report.contains(" needed."),
        "{report}"
    );
    assert!(marks(&page, "harm") >= 1, "{page}");
    let base =
        format!("https://dash.cloudflare.com/{ACCOUNT}/workers/services/view/shop/production");
    assert!(
        report.contains(&format!("{base}/deployments\"")),
        "{report}"
    );
    let link = between(report, &format!("{base}/observability/logs?"), "\"").replace("&amp;", "&");
    let pairs: Vec<(String, String)> = form_urlencoded::parse(link.as_bytes())
        .into_owned()
        .collect();
    let filters: Value = serde_json::from_str(&pairs[1].1).unwrap();
    assert_eq!(filters[0]["value"], versions[1].as_str());
    let times: Value = serde_json::from_str(&pairs[2].1).unwrap();
    assert!(
        times["to"].as_i64().unwrap() > times["from"].as_i64().unwrap(),
        "{times}"
    );
}

#[test]
fn waivers_holds_early_passes_and_sampling_are_told() {
    let (world, browser) = scene();
    world.worker("shop", &[failing(0.01), failing(0.2)]);
    world.plan("shop", |plan| {
        plan["slos"] = json!([{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.02}, "severity": "pause"}]);
        plan["stages"][0]["early"] = json!(true);
        plan["stages"][0]["soak"] = json!("10m");
    });
    let id = world.release("shop");
    world.run_to(&id, |it| it["state"] == "paused");
    let page = browser.release(&id);
    assert!(
        page.contains("may pass early") && !page.contains("waived for this stage"),
        "{page}"
    );
    let (status, _) = world.api("POST", &format!("/v1/releases/{id}/resume"), &Value::Null);
    assert_eq!(status, 200);
    world.run_for(30_000);
    let page = browser.release(&id);
    for needed in [
        "waived for this stage",
        "A person has waived its harm",
        "class=\"waived\"",
        "waived before",
    ] {
        assert!(page.contains(needed), "{needed} in {page}");
    }

    // Undecided to the end, and a plan that wants to know.
    world.worker("holds", &[failing(0.01), failing(0.012)]);
    world.plan("holds", |plan| {
        plan["slos"] = json!([{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.013}, "on_undecided": "hold"}]);
        plan["stages"] = json!([{"percent": 10, "soak": "60s", "max_soak": "30m"}, {"percent": 100, "soak": "60s"}]);
    });
    let id = world.release("holds");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    world.run_for(240_000);
    let page = browser.release(&id);
    assert!(page.contains("The soak is over, but the stage holds: errors is undecided, and must be shown to be safe. At most until"), "{page}");

    // Safe before its time.
    world.worker("early", &[healthy(), healthy()]);
    world.plan("early", |plan| {
        plan["slos"] =
            json!([{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.2}}]);
        plan["stages"] =
            json!([{"percent": 50, "soak": "30m", "early": true}, {"percent": 100, "soak": "60s"}]);
    });
    let id = world.release("early");
    assert_eq!(world.finish(&id)["state"], "succeeded");
    let page = browser.release(&id);
    assert!(page.contains("passed before its soak was over"), "{page}");
    assert!(marks(&page, "safe") > 0);

    // Sampled answers.
    world.worker("sampled", &[healthy(), healthy()]);
    world
        .cloudflare
        .lock()
        .unwrap()
        .patch_worker(
            world.now.get(),
            ACCOUNT,
            "sampled",
            WorkerPatch {
                abr_level: Some(10),
                ..WorkerPatch::default()
            },
        )
        .unwrap();
    world.plan("sampled", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "5m"}, {"percent": 100, "soak": "60s"}]);
    });
    let id = world.release("sampled");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    world.run_for(120_000);
    let page = browser.release(&id);
    assert!(
        page.contains("they can show harm, but not safety"),
        "{page}"
    );
    assert!(marks(&page, "sampled") > 1, "{page}");

    // Traffic that is not split as set.
    world.execute(&format!(
        "UPDATE releases SET progress = json_set(progress, '$.evidence.share.new', 9000, '$.evidence.share.old', 1000) WHERE id = '{id}'"
    ));
    let page = browser.release(&id);
    assert!(
        page.contains("The split is not what was set.") && page.contains("instead of 50.0 %"),
        "{page}"
    );
}

/// As if a release had gone on for 9,000 windows more, each like its first one.
fn repeat_first_window(world: &World, id: &str) {
    world.execute(&format!(
        r"WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 9000),
            w AS (SELECT * FROM windows WHERE release = '{id}' ORDER BY window_index LIMIT 1)
         INSERT INTO windows SELECT release, window_index - i, stage, json_set(body, '$.window.index', window_index - i) FROM w, n;"
    ));
}

#[test]
fn a_release_of_weeks_fits_the_page_and_hides_nothing() {
    let (world, browser) = scene();
    world.worker("shop", &[failing(0.01), failing(0.01)]);
    world.plan("shop", |plan| plan["slos"] = slos());
    let id = world.release("shop");
    world.run_to(&id, |it| it["stages"][1]["state"] == "soaking");
    world.run_for(30_000);
    // Far back a window in harm, and one before which a person has waived it.
    repeat_first_window(&world, &id);
    world.execute(&format!(
        r#"UPDATE windows SET body = json_set(body, '$.readings[1].verdict', 'harm', '$.window.new.slos[1].bad', 7) WHERE release = '{id}'
            AND window_index = (SELECT min(window_index) + 4567 FROM windows WHERE release = '{id}');
         UPDATE windows SET body = json_set(body, '$.forgot', json('["limit"]')) WHERE release = '{id}'
            AND window_index = (SELECT min(window_index) + 4571 FROM windows WHERE release = '{id}');"#
    ));
    let page = browser.release(&id);
    assert_eq!(marks(&page, "harm"), 1, "{page}");
    assert_eq!(page.matches("waived before</title>").count(), 1, "{page}");
    let plan = world.rows(&format!(
        "EXPLAIN QUERY PLAN SELECT window_index FROM windows INDEXED BY windows_notable WHERE release = '{id}'
            AND (instr(body, '\"verdict\":\"harm\"') OR instr(body, '\"forgot\":[')) ORDER BY window_index DESC LIMIT 60"
    ));
    assert!(
        json!(plan).to_string().contains("windows_notable"),
        "{plan:?}"
    );

    // Twenty objectives, each with its own question, and texts that would run.
    world.worker("many", &[failing(0.01), failing(0.01)]);
    world.plan("many", |plan| {
        let slo = |i: usize| json!({"name": format!("{i} {EVIL}"), "sli": {"kind": "wall_time", "percentile": 99}, "objective": {"max_ms": 2000 + i}});
        plan["slos"] = (0..20).map(slo).collect();
    });
    let id = world.release("many");
    world.run_to(&id, |it| it["stages"][2]["state"] == "soaking");
    world.run_for(30_000);
    repeat_first_window(&world, &id);
    let page = browser.release(&id);
    // The charts of four, and those of each other on a page of its own.
    assert_eq!(page.matches("class=\"chart\"").count(), 4 * 3);
    assert!(page.contains("more, which the API shows"), "{page}");
    assert_eq!(page.matches(">Its charts</a>").count(), 16);
    let page = browser.page(&format!("/releases/{id}?slo=19"));
    assert_eq!(page.matches("class=\"chart\"").count(), 3);
    assert!(
        page.split("<article ")
            .nth(20)
            .unwrap()
            .contains("class=\"chart\""),
        "{page}"
    );
    for odd in ["20", "-1", "x", ""] {
        browser.page(&format!("/releases/{id}?slo={odd}"));
    }
    // However much each window holds, what D1 answers with is far from its limit of 2 MB.
    world.execute(&format!(
        "UPDATE windows SET body = replace(body, '\"verdict\":\"safe\"', '\"verdict\":\"harm\"') WHERE release = '{id}'"
    ));
    *world.tape.borrow_mut() = Some(Tape::default());
    browser.release(&id);
    let tape = world.tape.borrow_mut().take().unwrap();
    let chart = tape.batches[0]
        .iter()
        .find(|it| it.sql.contains("AS chart"));
    let rows = world.rows(&chart.unwrap().sql.replace("?1", &format!("'{id}'")));
    let bytes = rows[0]["chart"].as_str().unwrap().len();
    assert!((100_000..1_000_000).contains(&bytes), "{bytes}");
}

#[test]
fn the_page_of_a_plan_leads_to_its_forecast() {
    let world = World::new();
    world.worker("shop", &[failing(0.005)]);
    world.plan("shop", |plan| {
        plan["slos"][0]["name"] = json!(EVIL);
        plan["slos"][0]["objective"] = json!({"no_worse_than_old": {}});
    });
    let browser = Browser::new(&world);
    let plan = browser.page("/plans/shop");
    assert!(plan.contains("action=\"/plans/shop/forecast\""), "{plan}");
    // Before it is asked.
    let empty = browser.page("/plans/shop/forecast");
    assert!(empty.contains("Not asked yet"), "{empty}");
    let form = between(&empty, "name=\"form\" value=\"", "\"").to_owned();
    // Nothing to go by: what is missing is said, and what was filled in stays.
    let fields = [("form", form.as_str()), ("bad_share.0", "0.005")];
    let refused = browser.send("/plans/shop/forecast", &fields);
    assert_eq!(refused.status(), 422);
    let page = text(&refused);
    assert!(
        page.contains("role=\"alert\"") && page.contains("last 24 hours"),
        "{page}"
    );
    assert!(page.contains("value=\"0.005\""), "{page}");
    let fields = [("form", form.as_str()), ("requests_per_s", "many")];
    let refused = text(&browser.send("/plans/shop/forecast", &fields));
    assert!(refused.contains("/requests_per_s"), "{refused}");
    // From telemetry.
    world.run_for(600_000);
    let told = browser.send("/plans/shop/forecast", &[("form", &form)]);
    assert_eq!(told.status(), 200);
    let page = text(&told);
    for expected in [
        "Stage 1: 10 % for 60s",
        "Smallest harm seen",
        "as measured",
        "in the quietest part",
    ] {
        assert!(page.contains(expected), "{expected}: {page}");
    }
    assert!(
        page.contains(&escaped(&format!("{EVIL} at 10 % for 60s"))) && !page.contains("<script>"),
        "{page}"
    );
    // As given.
    let fields = [
        ("form", form.as_str()),
        ("requests_per_s", "500"),
        ("bad_share.0", "0.01"),
        ("bad_share.1", "0.001"),
    ];
    let page = text(&browser.send("/plans/shop/forecast", &fields));
    assert!(
        page.contains("500 requests a second") && page.contains("1.00 % bad, as given"),
        "{page}"
    );
    assert_eq!(browser.get("/plans/none/forecast").status(), 404);
    // Without the form's token nothing is asked.
    assert_eq!(browser.send("/plans/shop/forecast", &[]).status(), 403);
}

/// The fields of a plan's form as a browser would send them.
fn fields_of(page: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        text.replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    };
    let form = between(page, "<form id=\"plan\"", "</form>");
    let mut fields: Vec<(String, String)> = Vec::new();
    let mut is_first = false;
    for tag in form.split('<') {
        if tag.starts_with("input ") {
            let name = between(tag, "name=\"", "\"");
            // JSON stands in quotes of the other kind.
            let quote = if tag.contains("value='") { "'" } else { "\"" };
            let value = between(tag, &format!("value={quote}"), quote);
            fields.push((name.to_owned(), plain(value)));
        } else if tag.starts_with("select ") {
            fields.push((between(tag, "name=\"", "\"").to_owned(), String::new()));
            is_first = true;
        } else if tag.starts_with("option ") {
            // Without a chosen option, the first one is sent.
            if is_first || tag.contains(" selected") {
                fields.last_mut().unwrap().1 = plain(between(tag, "value=\"", "\""));
            }
            is_first = false;
        }
    }
    fields
}

#[test]
#[expect(clippy::too_many_lines, reason = "one refusal after the other")]
fn the_settings_of_the_evidence_rule_are_edited_and_refused_at_their_fields() {
    let (world, browser) = scene();
    world.plan("shop", |plan| {
        plan["slos"] = slos();
        plan["stages"][0]["early"] = json!(true);
        plan["alpha"] = json!(0.02);
    });
    let plan = || world.api("GET", "/v1/plans/shop", &Value::Null).1;
    let before = plan();
    let page = browser.page("/plans/shop");
    for needed in [
        "once the evidence of harm is ",
        "At 100 %, where there is no old version to compare with, it is held to 4 times the rate before the release.",
        "The release pauses once",
        "A stage holds until it is shown to be safe.",
        "when the newest windows with 30 requests are over that",
        "data-rule=\"evidence\" data-objective=\"no_worse_than_old\"",
        "as soon as all is safe",
    ] {
        assert!(page.contains(needed), "{needed} in {page}");
    }
    let fields = fields_of(&page);
    let send = |changes: &[(&str, &str)]| {
        let mut fields = fields.clone();
        for (name, value) in changes {
            let field = fields.iter_mut().find(|(known, _)| known == name);
            (*value).clone_into(&mut field.unwrap_or_else(|| panic!("{name}")).1);
        }
        let mut all: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.push(("do", "save"));
        browser.send("/plans/shop", &all)
    };
    // Each refusal names its field, at the field.
    let wrong = [
        ("alpha", "0.9", "alpha"),
        ("slos.0.weight", "0", "slos-0-weight"),
        ("slos.1.overdispersion", "0.5", "slos-1-overdispersion"),
        ("slos.0.at_full", "0.1", "slos-0-at_full"),
        ("slos.2.rule", "guess", "slos-2-rule"),
        ("slos.2.on_undecided", "shrug", "slos-2-on_undecided"),
        ("stages.0.early", "perhaps", "stages-0-early"),
    ];
    for (name, value, id) in wrong {
        let refused = send(&[(name, value)]);
        assert_eq!(refused.status(), 422, "{name}");
        let page = text(&refused);
        let field = between(&page, &format!("id=\"{id}\""), ">");
        assert!(
            field.contains(&format!(
                "aria-invalid=\"true\" aria-describedby=\"{id}-error\""
            )),
            "{field}"
        );
        assert!(
            page.contains(&format!("href=\"#{id}\"")),
            "{name} in {page}"
        );
    }
    // Saved as it was, nothing has changed; the page is back with what the save warns of: no key of the query was ever seen.
    let is_saved =
        |answer: &Response<Vec<u8>>| answer.status() == 200 && text(answer).contains("Saved.");
    let saved = send(&[]);
    assert!(is_saved(&saved), "{}", text(&saved));
    let after = plan();
    for part in ["stages", "slos", "alpha", "worker", "check_interval"] {
        assert_eq!(before[part], after[part], "{part}");
    }
    // And all of it is changed.
    let again = fields_of(&browser.page("/plans/shop"));
    let revision = again
        .iter()
        .find(|(name, _)| name == "revision")
        .unwrap()
        .1
        .clone();
    let changes = [
        ("revision", revision.as_str()),
        ("alpha", "0.05"),
        ("stages.0.early", ""),
        ("stages.1.early", "true"),
        ("slos.0.weight", "3"),
        ("slos.0.overdispersion", "2.5"),
        ("slos.0.at_full", ""),
        ("slos.1.rule", "threshold"),
        ("slos.2.on_undecided", "pass"),
        ("slos.3.rule", "evidence"),
    ];
    let saved = send(&changes);
    assert!(is_saved(&saved), "{}", text(&saved));
    let after = plan();
    assert_eq!(after["alpha"], 0.05);
    assert!(
        after["stages"][0].get("early").is_none() && after["stages"][1]["early"] == true,
        "{after}"
    );
    let slos = &after["slos"];
    assert_eq!(
        (&slos[0]["weight"], &slos[0]["overdispersion"]),
        (&json!(3.0), &json!(2.5))
    );
    assert!(slos[0].get("at_full").is_none(), "{slos}");
    assert_eq!(
        (&slos[1]["rule"], &slos[2]["on_undecided"], &slos[3]["rule"]),
        (&json!("threshold"), &json!("pass"), &json!("evidence"))
    );
}
