//! What is done by forms.

use serde_json::{Value, json};

use crate::support::{ACCOUNT, World, failing, healthy};
use crate::{EVIL, OWN, after, form_token, scene, text};

#[test]
fn commands_do_what_the_api_does_and_are_offered_only_where_they_work() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["advance"] = json!("manual");
    });
    let page = "/new?plan=shop";
    let target = browser.done(
        page,
        "/new",
        &[
            ("plan", "shop"),
            ("version", "latest"),
            ("do", "create"),
            ("key", "k1"),
            ("note", "from here"),
        ],
    );
    let path = target.strip_suffix("?done=created").unwrap();
    // The same form again makes no second one.
    assert_eq!(
        browser.done(
            page,
            "/new",
            &[
                ("plan", "shop"),
                ("version", "latest"),
                ("do", "create"),
                ("key", "k1"),
                ("note", "from here")
            ]
        ),
        target
    );
    let id = path.strip_prefix("/releases/").unwrap();
    assert_eq!(world.get(id)["state"], "staged");
    let shown = browser.page(path);
    assert!(shown.contains("Delete…") && shown.contains("Start…") && !shown.contains("Pause…"));
    browser.done(path, &format!("{path}/start"), &[]);
    world.run_to(id, |it| it["stages"][0]["state"] == "soaking");
    for (verb, state) in [("pause", "paused"), ("resume", "rolling_out")] {
        assert_eq!(
            browser.done(path, &format!("{path}/{verb}"), &[]),
            format!("{path}?done={verb}")
        );
        assert_eq!(world.get(id)["state"], state);
    }
    // A command that does not apply is refused as by the API, in words.
    let refused = browser.post(path, &format!("{path}/resume"), &[]);
    assert_eq!(refused.status(), 409);
    assert!(text(&refused).contains("role=\"alert\""));
    world.run_to(id, |it| it["state"] == "awaiting_approval");
    browser.done(
        path,
        &format!("{path}/approve"),
        &[("stage", "1"), ("by", "Ada"), ("comment", "fine")],
    );
    browser.done(path, &format!("{path}/stop"), &[]);
    let release = world.finish(id);
    assert_eq!(release["reason"], "stopped");
    let actors: Vec<Value> = world
        .events(id)
        .iter()
        .map(|event| event["actor"].clone())
        .collect();
    assert!(
        actors.contains(&json!("dashboard:Ada")) && actors.contains(&json!("dashboard")),
        "{actors:?}"
    );
    assert!(!browser.page(path).contains("Commands"));
}

#[test]
fn a_release_is_checked_first_and_refused_in_place() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let page = "/new?plan=shop";
    let checked = browser.post(
        page,
        "/new",
        &[("plan", "shop"), ("version", "latest"), ("do", "check")],
    );
    assert!(
        text(&checked).contains("Ready to be released"),
        "{}",
        text(&checked)
    );
    world.observability(false);
    let fields = [
        ("plan", "shop"),
        ("version", "latest"),
        ("do", "start"),
        ("note", EVIL),
    ];
    let refused = browser.post(page, "/new", &fields);
    assert_eq!(refused.status(), 422);
    let shown = text(&refused);
    assert!(
        shown.contains("name=\"accept\" value=\"observability\"")
            && shown.contains("Preflight failed"),
        "{shown}"
    );
    assert!(!shown.contains("<script>"));
    let mut accepted = fields.to_vec();
    accepted.push(("accept", "observability"));
    browser.done(page, "/new", &accepted);
    let unknown = browser.post(
        page,
        "/new",
        &[
            ("plan", "shop"),
            ("other", "no-such-version"),
            ("do", "start"),
        ],
    );
    assert_eq!(
        unknown.status(),
        409,
        "another release is active: {}",
        text(&unknown)
    );
}

/// The fields of a form as a browser would send them: every input, select and textarea of the page's plan form.
pub fn fields_of(page: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        text.replace("&quot;", "\"")
            .replace("&#39;", "'")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    };
    let start = page.find("<form id=\"plan\"").unwrap();
    let form = &page[start..start + page[start..].find("</form>").unwrap()];
    let mut fields = Vec::new();
    for tag in form.split('<') {
        if tag.starts_with("input ") {
            // JSON stands in quotes of the other kind.
            let json = tag
                .split_once("value='")
                .and_then(|it| it.1.split_once('\''));
            let value = json.map_or_else(|| after(tag, "value=\""), |(value, _)| value);
            let mut value = plain(value);
            if !tag.contains("type=\"hidden\"") {
                value.retain(|c| !matches!(c, '\r' | '\n'));
            }
            fields.push((after(tag, "name=\"").to_owned(), value));
        } else if tag.starts_with("textarea ") {
            let value = plain(tag.split_once('>').unwrap().1).replace("\r\n", "\n");
            let value = value.strip_prefix('\n').unwrap_or(&value);
            let value = value.replace('\n', "\r\n");
            fields.push((after(tag, "name=\"").to_owned(), value));
        } else if tag.starts_with("select ") {
            fields.push((after(tag, "name=\"").to_owned(), String::new()));
        } else if tag.starts_with("option ") && tag.contains(" selected") {
            fields.last_mut().unwrap().1 = plain(after(tag, "value=\""));
        }
    }
    // A select without a chosen option sends its first, which the pages choose to be the default.
    fields.retain(|(name, value)| {
        !(value.is_empty() && (name.ends_with("advance") || name.ends_with("timeout")))
    });
    fields
}

#[test]
fn a_plan_is_made_changed_and_refused_field_by_field() {
    let (world, browser) = scene();
    let mut fields = fields_of(&browser.page("/plans/shop"));
    let set = |fields: &mut Vec<(String, String)>, name: &str, value: &str| {
        let field = fields
            .iter_mut()
            .find(|(known, _)| known == name)
            .unwrap_or_else(|| panic!("{name}"));
        value.clone_into(&mut field.1);
    };
    let send = |fields: &[(String, String)], act: &str| {
        let mut all: Vec<(&str, &str)> = fields
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        all.push(("do", act));
        browser.send("/plans/shop", &[OWN], &all)
    };
    set(&mut fields, "stages.0.percent", "ten");
    set(&mut fields, "slos.0.limit", "7");
    let refused = send(&fields, "save");
    assert_eq!(refused.status(), 422);
    let page = text(&refused);
    assert!(
        page.contains("id=\"stages-0-percent-error\"") && page.contains("value=\"ten\""),
        "{page}"
    );
    set(&mut fields, "stages.0.percent", "20");
    let page = text(&send(&fields, "save"));
    assert!(
        page.contains("id=\"account_id-error\"") && page.contains("id=\"slos-0-limit-error\""),
        "{page}"
    );
    set(&mut fields, "account_id", ACCOUNT);
    set(&mut fields, "slos.0.limit", "0.02");
    let saved = send(&fields, "save");
    assert_eq!(saved.status(), 303, "{}", text(&saved));
    let plan = |world: &World| world.api("GET", "/v1/plans/shop", &Value::Null).1;
    assert_eq!(plan(&world)["stages"][0]["percent"], 20);
    assert_eq!(plan(&world)["slos"][0]["objective"]["max"], 0.02);
    // Somebody else saved in the meantime: nobody is overwritten.
    assert_eq!(send(&fields, "save").status(), 412);
    let fields = fields_of(&browser.page("/plans/shop"));
    let page = text(&send(&fields, "down.stages.0"));
    assert!(
        page.contains("id=\"up-stages-1\"") && page.contains("autofocus"),
        "{page}"
    );
    let moved = fields_of(&page);
    let percent = |i: usize| {
        moved
            .iter()
            .find(|(name, _)| *name == format!("stages.{i}.percent"))
            .unwrap()
            .1
            .clone()
    };
    assert_eq!((percent(0), percent(1)), ("50".to_owned(), "20".to_owned()));
    assert_eq!(send(&moved, "save").status(), 422, "percentages must rise");
    let added = fields_of(&text(&send(&fields, "add.slos")));
    assert_eq!(send(&added, "save").status(), 303);
    assert_eq!(plan(&world)["slos"].as_array().unwrap().len(), 2);
    // As JSON, with what the form has no field for, and with what is none.
    let mut whole = plan(&world);
    whole["stages"][0]["description"] = json!(EVIL);
    let form = form_token(&browser.page("/plans/shop"));
    let json = |text: &str, revision: &str| {
        browser.send(
            "/plans/shop",
            &[OWN],
            &[
                ("form", &form),
                ("revision", revision),
                ("do", "json"),
                ("json", text),
            ],
        )
    };
    assert_eq!(json(&whole.to_string(), "2").status(), 303);
    assert_eq!(plan(&world)["stages"][0]["description"], EVIL);
    let garbled = json("{", "3");
    assert_eq!(garbled.status(), 400);
    assert!(text(&garbled).contains("Not JSON"));
    let wrong = json(&json!({"soack": EVIL}).to_string(), "3");
    assert_eq!(wrong.status(), 422);
    assert!(text(&wrong).contains("/soack") && !text(&wrong).contains("<script>"));
    browser.done("/plans/shop", "/plans/shop/delete", &[]);
    assert_eq!(world.api("GET", "/v1/plans/shop", &Value::Null).0, 404);
}

#[test]
fn subscribers_are_added_tested_changed_and_told_again() {
    let (world, browser) = scene();
    let refused = browser.post(
        "/webhooks",
        "/webhooks",
        &[
            ("url", "http://10.0.0.1/"),
            ("events", "nonsense"),
            ("format", "standard"),
        ],
    );
    assert_eq!(refused.status(), 422);
    assert!(
        text(&refused).contains("id=\"url-error\""),
        "{}",
        text(&refused)
    );
    let made = browser.post(
        "/webhooks",
        "/webhooks",
        &[
            ("url", "https://hooks.example.com/a"),
            ("events", "stage.*, release.reverted"),
            ("format", "standard"),
            ("description", EVIL),
        ],
    );
    assert_eq!(made.status(), 200);
    assert!(text(&made).contains("whsec_"));
    let subscribers = || world.api("GET", "/v1/subscribers", &Value::Null).1["items"].clone();
    assert_eq!(
        subscribers()[0]["events"],
        json!(["stage.*", "release.reverted"])
    );
    let path = format!("/webhooks/{}", subscribers()[0]["id"].as_str().unwrap());
    browser.done(&path, &format!("{path}/test"), &[]);
    world.run_for(2_000);
    assert_eq!(world.got.borrow().len(), 1);
    let page = browser.page(&path);
    let delivery = after(&page, &format!("href=\"{path}/deliveries/")).to_owned();
    browser.done(
        &format!("{path}/deliveries/{delivery}"),
        &format!("{path}/deliveries/{delivery}/replay"),
        &[],
    );
    world.run_for(2_000);
    assert_eq!(world.got.borrow().len(), 2);
    let rotated = browser.post(&path, &format!("{path}/rotate-secret"), &[]);
    assert!(text(&rotated).contains("whsec_"));
    browser.done(
        &path,
        &path,
        &[
            ("url", "https://hooks.example.com/b"),
            ("events", "*"),
            ("format", "slack"),
        ],
    );
    assert_eq!(
        (
            subscribers()[0]["url"].clone(),
            subscribers()[0]["description"].clone()
        ),
        (json!("https://hooks.example.com/b"), Value::Null)
    );
    browser.done(&path, &format!("{path}/pause"), &[]);
    assert!(browser.page(&path).contains("Resume…"));
    browser.done(&path, &format!("{path}/resume"), &[]);
    browser.done(&path, &format!("{path}/delete"), &[]);
    assert_eq!(subscribers(), json!([]));
}

#[test]
fn undo_says_at_once_what_stands_before_it() {
    let (world, browser) = scene();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.finish(&id);
    let from_report = browser.page(&format!("/releases/{id}"));
    let history = browser.page("/releases");
    let undo = format!("/new?plan=shop&amp;version={}&amp;check=1", versions[0]);
    for page in [&from_report, &history] {
        assert!(page.contains(&format!("href=\"{undo}\"")), "{page}");
    }
    for version in &versions {
        assert!(
            history.contains(&format!("<code title=\"{version}\">")),
            "old and new"
        );
    }
    let page = browser.page(&undo.replace("&amp;", "&"));
    assert!(page.contains("Ready to be released"), "{page}");
    let chosen = format!("value=\"{}\" checked", versions[0]);
    assert!(page.contains(&chosen), "{page}");
    // What serves already can't be released again, and that is said before anything is done.
    let again = browser.page(&format!("/new?plan=shop&version={}&check=1", versions[1]));
    assert!(again.contains("Not ready to be released"), "{again}");
    assert_eq!(
        world.api("GET", "/v1/releases", &Value::Null).1["items"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_release_that_only_watches_is_made_shown_and_stopped() {
    let (world, browser) = scene();
    let versions = world.worker("shop", &[healthy(), failing(0.4)]);
    world.plan("shop", |_| ());
    let form = |on_conflict| {
        [
            ("plan", "shop"),
            ("version", "latest"),
            ("mode", "watch"),
            ("on_conflict", on_conflict),
            ("do", "start"),
            ("key", "k1"),
        ]
    };
    assert!(browser.page("/new?plan=shop").contains("HMD only watches"));
    let target = browser.done("/new?plan=shop", "/new", &form("queue"));
    let path = target.strip_suffix("?done=created").unwrap();
    let id = path.strip_prefix("/releases/").unwrap();
    assert_eq!(world.get(id)["mode"], "watch");
    let shown = browser.page(path);
    for text in [
        "watches only",
        "Nothing, so far.",
        "Waits for somebody to give the new version some of the traffic",
        "HMD stops watching. The traffic stays as it is.",
    ] {
        assert!(shown.contains(text), "{text}");
    }
    assert!(!shown.contains("Pause…") && !shown.contains("Promote…"));
    world.by_hand(&[(&versions[0], 75.0), (&versions[1], 25.0)]);
    world.run_to(id, |it| !it["watch"]["would"][0].is_null());
    let shown = browser.page(path);
    assert!(shown.contains("HMD would have gone back to the old version now"));
    assert!(shown.contains("At 25 %"), "{shown}");
    assert!(shown.contains("In force <strong>25 %") && !shown.contains("then it goes back"));
    browser.done(path, &format!("{path}/stop"), &[]);
    assert_eq!(world.get(id)["state"], "cancelled");
    let ended = browser.page(path);
    assert!(ended.contains("&amp;mode=watch"));
    assert!(!ended.contains("Set: 0 %"), "it set nothing: {ended}");
    // Run again, it watches again; there is nothing to undo.
    let history = browser.page("/releases");
    assert!(history.contains("watches only") && history.contains("&amp;mode=watch"));
    assert!(
        !history.contains(">Undo<") && !ended.contains(">Undo<"),
        "{history}"
    );
}

#[test]
fn a_refused_change_of_a_subscriber_keeps_what_was_typed_and_overwrites_nobody() {
    let (world, browser) = scene();
    let (_, made) = world.api(
        "POST",
        "/v1/subscribers",
        &json!({"url": "https://hooks.example.com/a"}),
    );
    let path = format!("/webhooks/{}", made["id"].as_str().unwrap());
    let subscriber = || {
        world
            .api(
                "GET",
                &format!("/v1{}", path.replace("webhooks", "subscribers")),
                &Value::Null,
            )
            .1
    };
    let shown = browser.page(&path);
    let revision = after(&shown, "name=\"revision\" value=\"").to_owned();
    let change = |revision: &str, url: &str, events: &str| {
        let fields = [
            ("revision", revision),
            ("url", url),
            ("events", events),
            ("format", "slack"),
        ];
        browser.post(&path, &path, &fields)
    };
    let refused = change(&revision, "http://10.0.0.1/typed", "release.*");
    assert_eq!(refused.status(), 422);
    let page = text(&refused);
    assert!(
        page.contains("value=\"http://10.0.0.1/typed\"") && page.contains("value=\"release.*\""),
        "{page}"
    );
    assert!(page.contains("value=\"slack\" selected"), "{page}");
    // No events at all is refused where it was typed, not passed over.
    let refused = change(&revision, "https://hooks.example.com/b", "");
    assert_eq!(refused.status(), 422);
    assert!(
        text(&refused).contains("id=\"events-error\""),
        "{}",
        text(&refused)
    );
    assert_eq!(
        change(&revision, "https://hooks.example.com/b", "*").status(),
        303
    );
    // Whoever had the page open before is told.
    let late = change(&revision, "https://hooks.example.com/c", "*");
    assert_eq!(late.status(), 412);
    assert!(text(&late).contains("value=\"https://hooks.example.com/c\""));
    assert_eq!(subscriber()["url"], "https://hooks.example.com/b");
}

#[test]
fn a_form_that_was_gone_back_to_makes_another_release() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let page = "/new?plan=shop";
    let fields = |key, note| {
        [
            ("plan", "shop"),
            ("version", "latest"),
            ("do", "create"),
            ("key", key),
            ("note", note),
        ]
    };
    browser.done(page, "/new", &fields("k1", "the first"));
    let refused = browser.post(page, "/new", &fields("k1", "the second"));
    assert_eq!(refused.status(), 409);
    let shown = text(&refused);
    assert!(
        shown.contains("This is another one") && !shown.contains("Idempotency"),
        "{shown}"
    );
    let key = after(&shown, "name=\"key\" value=\"").to_owned();
    assert_ne!(key, "k1");
    browser.done(page, "/new", &fields(&key, "the second"));
    let releases = world.api("GET", "/v1/releases", &Value::Null).1;
    assert_eq!(releases["items"].as_array().unwrap().len(), 2);
}

#[test]
fn many_subscribers_and_long_answers_fit_their_pages() {
    let (world, browser) = scene();
    let (_, made) = world.api(
        "POST",
        "/v1/subscribers",
        &json!({"url": "https://hooks.example.com/a"}),
    );
    let id = made["id"].as_str().unwrap();
    let path = format!("/webhooks/{id}");
    browser.done(&path, &format!("{path}/test"), &[]);
    world.run_for(2_000);
    world.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
         INSERT INTO delivery_attempts (message, subscriber, attempt, at, duration_ms, status, error, response)
            SELECT message, subscriber, attempt + i, at, 5, 500, 'refused', printf('%.1000c', '<') FROM delivery_attempts, n;
         CREATE TEMP TABLE copies AS SELECT * FROM subscribers;
         UPDATE copies SET url = 'https://hooks.example.com/' || printf('%.300c', 'x');
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO subscribers (id, url, events, format, approvals, state, secret, revision, created_at, updated_at)
            SELECT 'sub_copy' || i, url, events, format, approvals, state, secret, revision, created_at + i, updated_at FROM copies, n;",
    );
    let delivery = after(&browser.page(&path), &format!("href=\"{path}/deliveries/")).to_owned();
    let page = browser.page(&format!("{path}/deliveries/{delivery}"));
    assert!(page.contains("older ones are in the API"), "{page}");
    let page = browser.page("/webhooks");
    assert!(page.contains("/webhooks?page=2"), "{page}");
    browser.page("/webhooks?page=7");
}
