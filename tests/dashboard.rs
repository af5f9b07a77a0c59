//! The dashboard: every page, every form, and everybody who has no business there.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::rc::Rc;

use ::http::Response;
use hmd::http::sign_in_path;
use hmd::webhook::{Keyring, Purpose};
use serde_json::{Value, json};
use support::{START, TOKEN, Tape, World, failing, healthy};

const HOST: &str = "https://hmd.example.com";
const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");
const OWN: (&str, &str) = ("origin", HOST);
/// A text that runs if it is not escaped.
const EVIL: &str = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>";

fn text(response: &Response<Vec<u8>>) -> String {
    String::from_utf8(response.body().clone()).unwrap()
}

fn encode(fields: &[(&str, &str)]) -> Vec<u8> {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.extend_pairs(fields);
    form.finish().into_bytes()
}

/// What stands in an attribute after a text.
fn after<'t>(text: &'t str, before: &str) -> &'t str {
    let start = text
        .find(before)
        .unwrap_or_else(|| panic!("no {before} in {text}"))
        + before.len();
    &text[start..start + text[start..].find('"').unwrap()]
}

fn form_token(page: &str) -> String {
    after(page, "name=\"form\" value=\"").to_owned()
}

fn cookie_of(response: &Response<Vec<u8>>) -> String {
    let header = response.headers()["set-cookie"].to_str().unwrap();
    header.split(';').next().unwrap().to_owned()
}

/// Somebody at a browser.
struct Browser {
    world: Rc<World>,
    cookie: String,
}

impl Browser {
    fn new(world: &Rc<World>) -> Self {
        let world = Rc::clone(world);
        Self {
            world,
            cookie: String::new(),
        }
    }

    fn signed_in(world: &Rc<World>) -> Self {
        let mut browser = Self::new(world);
        let response = browser.sign_in(TOKEN);
        assert_eq!(response.status(), 303, "{}", text(&response));
        browser
    }

    fn sign_in(&mut self, token: &str) -> Response<Vec<u8>> {
        let page = self.get("/sign-in");
        self.cookie = cookie_of(&page);
        let form = form_token(&text(&page));
        let fields = [
            ("form", form.as_str()),
            ("token", token),
            ("next", "/plans"),
        ];
        let response = self.send("/sign-in", &[OWN], &fields);
        if response.status() == 303 {
            self.cookie = cookie_of(&response);
        }
        response
    }

    fn get(&self, path: &str) -> Response<Vec<u8>> {
        self.get_with(path, &[])
    }

    fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response<Vec<u8>> {
        let mut all = vec![("cookie", self.cookie.as_str())];
        all.extend_from_slice(headers);
        self.world
            .call("GET", &format!("{HOST}{path}"), &all, Vec::new())
    }

    /// A page that must be there.
    fn page(&self, path: &str) -> String {
        let response = self.get(path);
        assert_eq!(response.status(), 200, "{path}: {}", text(&response));
        let page = text(&response);
        assert!(page.len() < 60_000, "{path} has {} bytes", page.len());
        for forbidden in ["<script>", "<img", " style=\"", "href=\"javascript:"] {
            assert!(!page.contains(forbidden), "{forbidden} in {path}:\n{page}");
        }
        page
    }

    fn send(
        &self,
        path: &str,
        headers: &[(&str, &str)],
        fields: &[(&str, &str)],
    ) -> Response<Vec<u8>> {
        let mut all = vec![("cookie", self.cookie.as_str()), FORM];
        all.extend_from_slice(headers);
        self.world
            .call("POST", &format!("{HOST}{path}"), &all, encode(fields))
    }

    /// Sends a form of a page, as the page holds it.
    fn post(&self, page: &str, path: &str, fields: &[(&str, &str)]) -> Response<Vec<u8>> {
        let form = form_token(&self.page(page));
        let mut all = vec![("form", form.as_str())];
        all.extend_from_slice(fields);
        self.send(path, &[OWN], &all)
    }

    fn done(&self, page: &str, path: &str, fields: &[(&str, &str)]) -> String {
        let response = self.post(page, path, fields);
        assert_eq!(response.status(), 303, "{path}: {}", text(&response));
        response.headers()["location"].to_str().unwrap().to_owned()
    }
}

fn scene() -> (Rc<World>, Browser) {
    let world = World::new();
    let browser = Browser::signed_in(&world);
    (world, browser)
}

#[test]
fn nobody_sees_anything_before_signing_in() {
    let world = World::new();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let release = world.release("shop");
    let stranger = Browser::new(&world);
    for path in [
        "/",
        "/releases",
        "/plans",
        "/plans/shop",
        "/new?plan=shop",
        "/webhooks",
        &format!("/releases/{release}"),
    ] {
        let response = stranger.get(path);
        assert_eq!(response.status(), 303, "{path}");
        let target = response.headers()["location"].to_str().unwrap();
        assert!(target.starts_with("/sign-in?next="), "{target}");
        assert!(response.body().is_empty());
        let fragment = stranger.get_with(path, &[("x-hmd-fragment", "1")]);
        assert_eq!(fragment.status(), 401, "{path}");
    }
    // What a browser needs for the sign-in page itself says nothing.
    for path in [
        "/assets/dashboard.css",
        "/assets/dashboard.js",
        "/assets/icon.svg",
    ] {
        let first = stranger.get(path);
        assert_eq!(first.status(), 200, "{path}");
        let tag = first.headers()["etag"].to_str().unwrap();
        let again = stranger.get_with(path, &[("if-none-match", tag)]);
        assert_eq!(
            (again.status().as_u16(), again.body().len()),
            (304, 0),
            "{path}"
        );
    }
    // The API token is no key to pages, and the cookie none to the API.
    let bearer = format!("Bearer {TOKEN}");
    assert_eq!(
        stranger
            .get_with("/", &[("authorization", &bearer)])
            .status(),
        303
    );
    let browser = Browser::signed_in(&world);
    let api = browser.get("/v1/releases");
    assert_eq!(api.status(), 401);
}

#[test]
fn signing_in_gives_a_cookie_that_scripts_and_other_sites_do_not_get() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    let response = browser.sign_in(TOKEN);
    assert_eq!(response.headers()["location"], "/plans");
    let cookie = response.headers()["set-cookie"].to_str().unwrap();
    for needed in [
        "__Host-hmd=",
        "; HttpOnly",
        "; SameSite=Strict",
        "; Secure",
        "; Path=/",
        "; Max-Age=43200",
    ] {
        assert!(cookie.contains(needed), "{needed} in {cookie}");
    }
    assert!(!cookie.contains(TOKEN));
    let page = browser.get("/");
    let header = |name: &str| page.headers()[name].to_str().unwrap().to_owned();
    assert_eq!(header("cache-control"), "no-store");
    let policy = header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(header("x-frame-options"), "DENY");
    // Over plain HTTP, on this very machine, a browser would not keep a secure cookie.
    let plain = world.call("GET", "http://127.0.0.1:8787/sign-in", &[], Vec::new());
    let cookie = plain.headers()["set-cookie"].to_str().unwrap();
    assert!(
        cookie.starts_with("hmd=") && !cookie.contains("Secure"),
        "{cookie}"
    );
    // Signed out is signed out.
    let response = browser.post("/", "/sign-out", &[]);
    assert!(
        response.headers()["set-cookie"]
            .to_str()
            .unwrap()
            .contains("Max-Age=0")
    );
}

#[test]
fn forged_altered_and_expired_cookies_are_worth_nothing() {
    let world = World::new();
    let mut browser = Browser::signed_in(&world);
    let good = browser.cookie.clone();
    assert_eq!(browser.get("/").status(), 200);
    let (name, value) = good.split_once('=').unwrap();
    let (payload, rest) = value.split_once('.').unwrap();
    let key_id = rest.split('.').next().unwrap();
    let foreign = Keyring::parse("YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXoxMjM0NTY=", None).unwrap();
    let keys = &world.config.as_ref().unwrap().keys;
    let base64 = |bytes: &[u8]| {
        use base64::Engine as _;
        base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
    };
    let signed = |keys: &Keyring, purpose, payload: &str| {
        let signed = format!("{payload}.{key_id}");
        let mac = base64(&keys.mac(purpose, signed.as_bytes()));
        format!("{name}={signed}.{mac}")
    };
    let other = base64(br#"{"x":9000000000000,"n":"n","t":"another token"}"#);
    let mut bad = vec![
        format!("{name}="),
        format!("{name}={payload}"),
        format!("{name}={payload}.{key_id}."),
        signed(&foreign, Purpose::Session, payload),
        signed(keys, Purpose::Approval, payload),
        signed(keys, Purpose::SignIn, payload),
        // Of an HMD_API_TOKEN that is not in force any more.
        signed(keys, Purpose::Session, &other),
        // The name that only plain HTTP uses.
        format!("hmd={value}"),
    ];
    for i in (0..value.len()).step_by(7) {
        let mut altered = value.to_owned().into_bytes();
        altered[i] = if altered[i] == b'A' { b'B' } else { b'A' };
        bad.push(format!("{name}={}", String::from_utf8(altered).unwrap()));
    }
    for cookie in bad {
        browser.cookie.clone_from(&cookie);
        assert_eq!(browser.get("/").status(), 303, "{cookie}");
    }
    browser.cookie = good;
    world.now.set(START + 12 * 3_600_000 - 1);
    assert_eq!(browser.get("/").status(), 200);
    world.now.set(START + 12 * 3_600_000);
    assert_eq!(browser.get("/").status(), 303);
}

#[test]
fn no_form_works_without_its_token_or_from_another_site() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let release = world.release("shop");
    let (_, made) = world.api(
        "POST",
        "/v1/subscribers",
        &json!({"url": "https://hooks.example.com/a"}),
    );
    let subscriber = made["id"].as_str().unwrap();
    let form = form_token(&browser.page("/"));
    let other = form_token(&Browser::signed_in(&world).page("/"));
    let paths = [
        format!("/releases/{release}/stop"),
        format!("/releases/{release}/delete"),
        "/new".to_owned(),
        "/plans/shop".to_owned(),
        "/plans/shop/delete".to_owned(),
        "/webhooks".to_owned(),
        format!("/webhooks/{subscriber}"),
        format!("/webhooks/{subscriber}/delete"),
        format!("/webhooks/{subscriber}/deliveries/msg_1/replay"),
        "/sign-out".to_owned(),
        "/sign-in".to_owned(),
    ];
    let before = world.get(&release)["revision"].clone();
    for path in &paths {
        for (headers, token) in [
            (vec![OWN], ""),
            (vec![OWN], "x.y"),
            (vec![OWN], other.as_str()),
            (vec![("origin", "https://evil.example")], form.as_str()),
            (vec![("origin", "null")], form.as_str()),
            (
                vec![("origin", "https://hmd.example.com.evil.example")],
                form.as_str(),
            ),
            (vec![("origin", "http://hmd.example.com")], form.as_str()),
            (vec![("sec-fetch-site", "cross-site")], form.as_str()),
            (vec![], form.as_str()),
        ] {
            let response = browser.send(
                path,
                &headers,
                &[("form", token), ("token", TOKEN), ("plan", "shop")],
            );
            assert_eq!(response.status(), 403, "{path} {headers:?} {token}");
        }
    }
    assert_eq!(world.get(&release)["revision"], before);
    assert_eq!(world.api("GET", "/v1/plans/shop", &Value::Null).0, 200);
    // And a good token without the cookie that it belongs to.
    let stranger = Browser::new(&world);
    let response = stranger.send(&paths[0], &[OWN], &[("form", &form)]);
    assert_eq!(response.status(), 403);
    // Reading never changes anything, and commands are not to be had by reading.
    for path in &paths[..2] {
        assert_eq!(browser.get(path).status(), 405, "{path}");
    }
}

#[test]
fn who_guesses_is_made_to_wait() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    for _ in 0..10 {
        let response = browser.sign_in("a guess");
        assert_eq!(response.status(), 403);
        assert!(
            text(&response).contains("not the installation&#39;s token")
                || text(&response).contains("not the installation's token")
        );
    }
    let refused = browser.sign_in(TOKEN);
    assert_eq!(
        refused.status(),
        429,
        "even the right one, or guessing could go on"
    );
    assert_eq!(refused.headers()["retry-after"], "600");
    // Another address is another matter; no address is kept.
    let page = browser.get("/sign-in");
    browser.cookie = cookie_of(&page);
    let form = form_token(&text(&page));
    let headers = [OWN, ("cf-connecting-ip", "203.0.113.7")];
    let other = browser.send(
        "/sign-in",
        &headers,
        &[("form", &form), ("token", "a guess")],
    );
    assert_eq!(other.status(), 403);
    let kept = json!(world.rows("SELECT * FROM sign_in_attempts")).to_string();
    assert!(!kept.contains("203.0.113"), "{kept}");
    world.now.set(START + 600_000);
    assert_eq!(browser.sign_in(TOKEN).status(), 303);
    assert!(world.rows("SELECT * FROM sign_in_attempts").is_empty());
}

#[test]
fn only_pages_of_the_dashboard_are_gone_on_to() {
    let world = World::new();
    for (next, goes_to) in [
        ("/releases?state=paused", "/releases?state=paused"),
        ("//evil.example/", "/"),
        ("https://evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("/v1/releases", "/"),
        ("/sign-out", "/"),
        ("/releases\r\nset-cookie: a=b", "/"),
    ] {
        let mut browser = Browser::new(&world);
        let page = browser.get("/sign-in");
        browser.cookie = cookie_of(&page);
        let form = form_token(&text(&page));
        let fields = [("form", form.as_str()), ("token", TOKEN), ("next", next)];
        let response = browser.send("/sign-in", &[OWN], &fields);
        assert_eq!(response.headers()["location"], goes_to, "{next}");
    }
}

#[test]
fn a_link_signs_in_once_and_not_for_long() {
    let world = World::new();
    let keys = &world.config.as_ref().unwrap().keys;
    let path = sign_in_path(keys, START, [7; 32]);
    let mut browser = Browser::new(&world);
    let head = world.call("HEAD", &format!("{HOST}{path}"), &[], Vec::new());
    assert!(head.headers().get("set-cookie").is_none());
    let response = browser.get(&path);
    assert_eq!(response.status(), 200);
    browser.cookie = cookie_of(&response);
    assert_eq!(browser.get("/").status(), 200);
    assert_eq!(browser.get(&path).status(), 403, "it has been used");
    let late = sign_in_path(keys, START, [8; 32]);
    let mut altered = late.clone();
    altered.pop();
    assert_eq!(browser.get(&altered).status(), 403);
    world.now.set(START + 15 * 60_000);
    assert_eq!(browser.get(&late).status(), 403, "its time is over");
}

/// Releases of all kinds, with texts that would run.
fn full() -> (Rc<World>, Browser, Vec<String>) {
    let (world, browser) = scene();
    let (_, made) = world.api("POST", "/v1/subscribers", &json!({"url": "https://hooks.example.com/a?x=<b>", "description": EVIL, "approvals": true}));
    assert!(made["id"].is_string(), "{made}");
    for script in ["good", "bad", "asks"] {
        world.worker(
            script,
            &[
                healthy(),
                if script == "bad" {
                    failing(0.5)
                } else {
                    healthy()
                },
            ],
        );
        world.plan(script, |plan| {
            plan["slos"][0]["name"] = json!(EVIL);
            plan["stages"][0]["description"] = json!(EVIL);
            if script == "asks" {
                plan["stages"][0]["advance"] = json!("manual");
            }
        });
    }
    let start = |script: &str| {
        let body = json!({"plan": script, "new_version": "latest", "note": EVIL, "url": "javascript:alert(1)"});
        let (status, release) = world.api("POST", "/v1/releases", &body);
        assert_eq!(status, 201, "{release}");
        release["id"].as_str().unwrap().to_owned()
    };
    let ids: Vec<String> = ["good", "bad", "asks"]
        .iter()
        .map(|script| start(script))
        .collect();
    world.run_to(&ids[2], |it| it["state"] == "awaiting_approval");
    world.finish(&ids[0]);
    world.finish(&ids[1]);
    world.run_for(5_000);
    (world, browser, ids)
}

#[test]
#[allow(clippy::too_many_lines, reason = "one line per page")]
fn every_page_shows_what_there_is_and_runs_nobodys_text() {
    let (world, browser, ids) = full();
    let subscriber = &world.api("GET", "/v1/subscribers", &Value::Null).1["items"][0];
    let subscriber = subscriber["id"].as_str().unwrap();
    let deliveries = world
        .api(
            "GET",
            &format!("/v1/subscribers/{subscriber}/deliveries"),
            &Value::Null,
        )
        .1;
    let delivery = deliveries["items"][0]["id"].as_str().unwrap();
    let pages = [
        (
            "/".to_owned(),
            vec![
                "good",
                "bad",
                "asks",
                "awaiting approval",
                "succeeded",
                "reverted",
                "◆ 1 waiting for approval · Workers · HMD</title>",
            ],
        ),
        (
            format!("/releases/{}", ids[0]),
            vec![
                "✔ succeeded · good · HMD</title>",
                "All stages passed",
                "Undo",
                "<svg",
                "release.succeeded",
            ],
        ),
        (
            format!("/releases/{}", ids[1]),
            vec![
                "✖ reverted · bad",
                "Why it ended",
                "Slo violation.",
                "dot harm",
                "Run it again",
            ],
        ),
        (
            format!("/releases/{}", ids[2]),
            vec![
                "◆ awaiting approval · asks",
                "Approve…",
                "Deny…",
                "Stop…",
                "Measured",
                "dash.cloudflare.com",
                "javascript:alert(1)",
            ],
        ),
        (
            "/releases".to_owned(),
            vec!["good", "bad", "asks", "Compare"],
        ),
        (
            "/releases?state=reverted&worker=bad".to_owned(),
            vec!["bad"],
        ),
        (
            format!("/compare?id={}&id={}", ids[0], ids[1]),
            vec!["Compare", "succeeded", "reverted"],
        ),
        ("/plans".to_owned(), vec!["good", "bad"]),
        (
            "/plans/good".to_owned(),
            vec!["Last saved", "What to expect", "always 100 %", "JSON"],
        ),
        ("/plans/fresh".to_owned(), vec!["Not saved yet"]),
        ("/new".to_owned(), vec!["By which plan?"]),
        (
            "/new?plan=good".to_owned(),
            vec!["latest", "active 100 %", "None is now", "Create and start"],
        ),
        ("/new?plan=asks".to_owned(), vec!["One is:"]),
        (
            "/webhooks".to_owned(),
            vec!["hooks.example.com", "gets links that approve"],
        ),
        (
            format!("/webhooks/{subscriber}"),
            vec!["approval.requested", "delivered", "Rotate the secret"],
        ),
        (
            format!("/webhooks/{subscriber}/deliveries/{delivery}"),
            vec!["Attempts", "answered 200"],
        ),
    ];
    for (path, needed) in pages {
        let response = browser.get(&path);
        assert_eq!(response.status(), 200, "{path}: {}", text(&response));
        let page = text(&response);
        for needed in needed {
            assert!(page.contains(needed), "{needed:?} in {path}:\n{page}");
        }
        for forbidden in ["<script>", "<img", "href=\"javascript:", " style=\""] {
            assert!(!page.contains(forbidden), "{forbidden} in {path}:\n{page}");
        }
        assert!(page.len() < 60_000, "{path} has {} bytes", page.len());
    }
    for path in [
        "/releases/rel_none",
        "/webhooks/sub_none",
        "/webhooks/sub_none/deliveries/msg_none",
        "/new?plan=none",
        "/plans/%3Cscript%3E",
    ] {
        let response = browser.get(path);
        assert_eq!(response.status(), 404, "{path}");
        assert!(text(&response).contains("role=\"alert\""), "{path}");
    }
}

#[test]
fn a_page_reads_the_database_once_and_an_unchanged_one_reads_a_row() {
    let (world, browser, ids) = full();
    let release = format!("/releases/{}", ids[2]);
    for path in [
        "/",
        "/releases",
        "/plans",
        "/plans/good",
        "/webhooks",
        &release,
    ] {
        *world.tape.borrow_mut() = Some(Tape::default());
        browser.page(path);
        let tape = world.tape.borrow_mut().take().unwrap();
        assert_eq!(tape.batches.len(), 1, "{path}");
    }
    for (path, command) in [("/", "stages/1/approve"), (release.as_str(), "stop")] {
        let fragment = ("x-hmd-fragment", "1");
        let first = browser.get_with(path, &[fragment]);
        let tag = first.headers()["etag"].to_str().unwrap().to_owned();
        assert!(text(&first).starts_with("<div id=\"live\""), "{path}");
        *world.tape.borrow_mut() = Some(Tape::default());
        let known = [fragment, ("if-none-match", tag.as_str())];
        let again = browser.get_with(path, &known);
        assert_eq!(
            (again.status().as_u16(), again.body().len()),
            (304, 0),
            "{path}"
        );
        let tape = world.tape.borrow_mut().take().unwrap();
        assert_eq!(
            (tape.batches.len(), tape.batches[0].len()),
            (1, 1),
            "{path}"
        );
        world.api(
            "POST",
            &format!("/v1/releases/{}/{command}", ids[2]),
            &Value::Null,
        );
        let changed = browser.get_with(path, &known);
        assert_eq!(changed.status(), 200, "{path}");
    }
}

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
fn fields_of(page: &str) -> Vec<(String, String)> {
    let plain = |text: &str| {
        text.replace("&quot;", "\"")
            .replace("&lt;", "<")
            .replace("&gt;", ">")
            .replace("&amp;", "&")
    };
    let start = page.find("<form id=\"plan\"").unwrap();
    let form = &page[start..start + page[start..].find("</form>").unwrap()];
    let mut fields = Vec::new();
    for tag in form.split('<') {
        if tag.starts_with("input ") {
            fields.push((
                after(tag, "name=\"").to_owned(),
                plain(after(tag, "value=\"")),
            ));
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
    set(&mut fields, "account_id", support::ACCOUNT);
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
fn a_thousand_releases_and_two_hundred_running_fit_a_page() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let ended = world.release("shop");
    world.finish(&ended);
    world.worker("other", &[healthy(), healthy()]);
    world.plan("other", |_| ());
    let running = world.release("other");
    world.run_to(&running, |it| it["stages"][0]["state"] == "soaking");
    world.execute(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 1000)
         INSERT INTO releases SELECT 'rel_old' || i, account_id, 'shop' || (i % 200), plan, json_set(origin, '$.id', 'rel_old' || i), progress, state, version, seq,
            act_due_at, check_due_at, created_at - i, ended_at - i FROM releases, n WHERE ended_at IS NOT NULL;
         WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 200)
         INSERT INTO releases SELECT 'rel_run' || i, account_id, 'shop' || i, plan, json_set(origin, '$.id', 'rel_run' || i), progress, state, version, seq,
            act_due_at, check_due_at, created_at - i, ended_at FROM releases, n WHERE state = 'rolling_out';",
    );
    for path in [
        "/",
        "/?page=2",
        "/?search=shop19",
        "/releases",
        "/releases?state=succeeded",
    ] {
        browser.page(path);
    }
    assert!(browser.page("/").contains("Next"));
    let older = browser.page("/releases");
    let next = after(&older, "aria-label=\"Pages\"><a href=\"").replace("&amp;", "&");
    assert!(browser.page(&next).contains("Older releases"));
}
