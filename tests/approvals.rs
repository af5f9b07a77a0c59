//! Approval links: they show without acting, decide exactly once, and everything else about them is refused with its reason.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::rc::Rc;

use ::http::Response;
use hmd::pipeline::config::Config;
use hmd::webhook::{ApprovalToken, Keyring};
use serde_json::{Value, json};
use support::{Call, Fault, Got, World, healthy};

const HOOK: &str = "https://hooks.example.com/a";
const JSON: (&str, &str) = ("accept", "application/json");
const HTML: (&str, &str) = ("accept", "text/html,application/xhtml+xml");

struct Scene {
    world: Rc<World>,
    release: String,
    subscriber: String,
    approve: String,
    deny: String,
}

fn asked(world: &World) -> Vec<Got> {
    let got = world.got.borrow();
    let is_asked = |got: &&Got| got.json()["type"] == "approval.requested";
    got.iter().filter(is_asked).cloned().collect()
}

fn path(got: &Got, name: &str) -> String {
    let data = got.json()["data"].clone();
    let url = data[name].as_str().unwrap().to_owned();
    url.strip_prefix("https://hmd.example.com")
        .unwrap()
        .to_owned()
}

/// A release whose first stage waits for a person.
fn scene(timeout: Option<&str>, rest: &Value) -> Scene {
    let world = World::new();
    let mut body = json!({"url": HOOK, "approvals": true});
    body.as_object_mut()
        .unwrap()
        .extend(rest.as_object().cloned().unwrap_or_default());
    let (status, subscriber) = world.api("POST", "/v1/subscribers", &body);
    assert_eq!(status, 201, "{subscriber}");
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "30s", "advance": "manual", "description": "look at the funnel"},
            {"percent": 100, "soak": "20s"}]);
        if let Some(timeout) = timeout {
            plan["stages"][0]["approval_timeout"] = json!(timeout);
        }
    });
    let release = world.release("shop");
    world.run_to(&release, |it| it["state"] == "awaiting_approval");
    world.run_for(1_000);
    let asked = asked(&world);
    let link = |name| {
        asked
            .first()
            .filter(|got| got.body.contains(name))
            .map_or(String::new(), |got| path(got, name))
    };
    Scene {
        approve: link("approve_url"),
        deny: link("deny_url"),
        subscriber: subscriber["id"].as_str().unwrap().to_owned(),
        release,
        world,
    }
}

impl Scene {
    fn call(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Response<Vec<u8>> {
        self.world
            .call(method, path, headers, body.as_bytes().to_vec())
    }

    fn json(&self, method: &str, path: &str) -> (u16, Value) {
        let response = self.call(method, path, &[JSON], "");
        (
            response.status().as_u16(),
            serde_json::from_slice(response.body()).unwrap(),
        )
    }

    fn page(&self, method: &str, path: &str) -> (u16, String) {
        let response = self.call(method, path, &[HTML], "");
        (
            response.status().as_u16(),
            String::from_utf8(response.body().clone()).unwrap(),
        )
    }

    fn event(&self, kind: &str) -> Value {
        let events = self.world.events(&self.release);
        events
            .into_iter()
            .find(|event| event["type"] == kind)
            .unwrap()
    }

    fn revision(&self) -> Value {
        self.world.get(&self.release)["revision"].clone()
    }
}

#[test]
fn a_link_shows_what_would_happen_and_changes_nothing() {
    let scene = scene(Some("24h"), &json!({}));
    let before = scene.revision();
    let (status, shown) = scene.json("GET", &scene.approve);
    assert_eq!(status, 200, "{shown}");
    assert_eq!(
        (&shown["action"], &shown["stage"]),
        (&json!("approve"), &json!(1))
    );
    assert_eq!(
        (&shown["percent"], &shown["next_percent"]),
        (&json!(50), &json!(100))
    );
    assert_eq!(
        (&shown["decided"], &shown["asked_by"]),
        (&Value::Null, &json!("api"))
    );
    assert_eq!(shown["release"]["slis"].as_array().unwrap().len(), 2);
    let (_, denying) = scene.json("GET", &scene.deny);
    assert_eq!(
        (&denying["action"], &denying["next_percent"]),
        (&json!("deny"), &json!(0))
    );
    let (status, page) = scene.page("GET", &scene.approve);
    assert_eq!(status, 200);
    let release = scene.world.get(&scene.release);
    for needed in [
        "Approve stage 1 of 2 of shop?",
        "look at the funnel",
        "then: 100 % new",
        "errors",
        "&lt;= 5 %",
        "method=\"post\"",
        release["new_version"].as_str().unwrap(),
        release["old_version"].as_str().unwrap(),
        release["slis"][0]["slo"].as_str().unwrap(),
    ] {
        assert!(page.contains(needed), "{needed}\n{page}");
    }
    for forbidden in [
        "<script",
        "<style",
        " style=",
        "onload",
        "http-equiv",
        "src=",
    ] {
        assert!(!page.contains(forbidden), "{forbidden}");
    }
    for method in ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH"] {
        scene.call(method, &scene.approve, &[HTML], "");
        scene.call(
            method,
            &scene.approve,
            &[("user-agent", "Slackbot-LinkExpanding 1.0")],
            "",
        );
    }
    assert_eq!(scene.revision(), before);
    assert_eq!(
        scene.world.get(&scene.release)["state"],
        "awaiting_approval"
    );
    let head = scene.call("HEAD", &scene.approve, &[HTML], "");
    assert!(head.body().is_empty());
    let options = scene.call("OPTIONS", &scene.approve, &[HTML], "");
    assert_eq!(options.status(), 405);
}

#[test]
fn no_answer_is_kept_or_tells_where_it_was() {
    let scene = scene(None, &json!({}));
    let altered = format!("{}x", scene.approve);
    for (method, path) in [
        ("GET", &scene.approve),
        ("GET", &altered),
        ("POST", &altered),
        ("POST", &scene.approve),
    ] {
        for accept in [HTML, JSON] {
            let response = scene.call(method, path, &[accept], "");
            let header = |name: &str| response.headers()[name].to_str().unwrap().to_owned();
            assert_eq!(header("cache-control"), "no-store");
            assert_eq!(header("referrer-policy"), "no-referrer");
            assert!(header("x-robots-tag").contains("noindex"));
            let policy = header("content-security-policy");
            assert!(
                policy.starts_with("default-src 'none'")
                    && !policy.contains("script")
                    && !policy.contains("unsafe"),
                "{policy}"
            );
        }
    }
}

#[test]
fn a_link_decides_once_and_then_says_who_did_and_when() {
    let scene = scene(Some("24h"), &json!({}));
    let form = [HTML, ("content-type", "application/x-www-form-urlencoded")];
    let response = scene.call(
        "POST",
        &scene.approve,
        &form,
        "by=Ann+%3Cb%3E&comment=+sales+are+up+",
    );
    let page = String::from_utf8(response.body().clone()).unwrap();
    assert_eq!(response.status(), 200, "{page}");
    let granted = scene.event("approval.granted");
    let actor = format!("link:{}:Ann <b>", scene.subscriber);
    assert_eq!(
        (&granted["actor"], &granted["detail"]),
        (&json!(actor), &json!("sales are up"))
    );
    let at = granted["at"].as_str().unwrap();
    assert!(
        page.contains("was approved") && page.contains("Ann &lt;b&gt;") && page.contains(at),
        "{page}"
    );
    let revision = scene.revision();
    for method in ["GET", "POST"] {
        let (status, again) = scene.json(method, &scene.approve);
        assert_eq!(status, 200, "{again}");
        assert_eq!(
            again["decided"],
            json!({"approved": true, "by": actor, "at": at})
        );
        let (status, page) = scene.page(method, &scene.approve);
        assert!(
            status == 200 && page.contains("was approved") && !page.contains("<form"),
            "{page}"
        );
        let (status, other) = scene.json(method, &scene.deny);
        assert_eq!(status, 409, "{other}");
        let detail = other["detail"].as_str().unwrap();
        assert!(
            detail.contains("approved") && detail.contains("Ann") && detail.contains(at),
            "{detail}"
        );
        assert_eq!(scene.page(method, &scene.deny).0, 409);
    }
    assert_eq!(scene.revision(), revision);
    assert_eq!(scene.world.finish(&scene.release)["state"], "succeeded");
    assert_eq!(
        scene.json("POST", &scene.approve).0,
        200,
        "still told at the end"
    );
    let granted: Vec<Value> = scene.world.events(&scene.release);
    assert_eq!(
        granted
            .iter()
            .filter(|it| it["type"] == "approval.granted")
            .count(),
        1
    );
}

#[test]
fn a_link_denies() {
    let scene = scene(None, &json!({}));
    let response = scene.call(
        "POST",
        &scene.deny,
        &[JSON, ("content-type", "application/json")],
        r#"{"by": "bob", "comment": "no"}"#,
    );
    assert_eq!(response.status(), 200);
    let over = scene.world.finish(&scene.release);
    assert_eq!(
        (&over["state"], &over["reason"]),
        (&json!("reverted"), &json!("denied"))
    );
    assert_eq!(scene.json("POST", &scene.approve).0, 409);
    assert_eq!(scene.json("POST", &scene.deny).0, 200);
}

#[test]
fn what_is_no_good_link_says_why_and_decides_nothing() {
    let scene = scene(Some("24h"), &json!({}));
    let keys = &scene.world.config.as_ref().unwrap().keys;
    let text = scene.approve.strip_prefix("/approvals/").unwrap();
    let token = ApprovalToken::verify(text, keys, 0).unwrap();
    let link = |change: &dyn Fn(&mut ApprovalToken), keys: &Keyring| {
        let mut token = token.clone();
        change(&mut token);
        format!("/approvals/{}", token.sign(keys))
    };
    let foreign = Keyring::parse("YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4eXphYmNkZWZnaGk=", None).unwrap();
    let mut pages = std::collections::BTreeSet::new();
    for (path, status, words) in [
        (format!("{}A", scene.approve), 400, "altered"),
        ("/approvals/x".to_owned(), 400, "altered"),
        (link(&|_| (), &foreign), 410, "key"),
        (
            link(&|token| token.expires_at = 1, keys),
            410,
            "valid until",
        ),
        (
            link(&|token| token.version += 1, keys),
            409,
            "earlier state",
        ),
        (
            link(&|token| token.subscriber = "sub_x".to_owned(), keys),
            403,
            "may not decide",
        ),
        (
            link(&|token| token.release = "rel_x".to_owned(), keys),
            404,
            "no release",
        ),
    ] {
        for method in ["GET", "POST"] {
            let (found, problem) = scene.json(method, &path);
            assert_eq!(found, status, "{path}: {problem}");
            assert!(
                problem["detail"].as_str().unwrap().contains(words),
                "{problem}"
            );
            let (found, page) = scene.page(method, &path);
            assert_eq!(found, status);
            assert!(page.contains(words) && !page.contains("<form"), "{page}");
            pages.insert(page);
        }
    }
    assert!(pages.len() >= 6, "pages of their own");
    assert_eq!(
        scene.world.get(&scene.release)["state"],
        "awaiting_approval"
    );
    // What comes with a decision is read strictly, too.
    let json_type = ("content-type", "application/json");
    for (body, status) in [
        ("{", 400),
        (r#"{"bye": 1}"#, 422),
        (&format!(r#"{{"by": "{}"}}"#, "x".repeat(501)), 422),
    ] {
        let response = scene.call("POST", &scene.approve, &[JSON, json_type], body);
        assert_eq!(response.status(), status, "{body}");
    }
    let form = [HTML, ("content-type", "application/x-www-form-urlencoded")];
    assert_eq!(
        scene
            .call("POST", &scene.approve, &form, "admin=1")
            .status(),
        422
    );
    // Nor does one decide whose owner was taken its right.
    let path = format!("/v1/subscribers/{}", scene.subscriber);
    assert_eq!(
        scene
            .world
            .api("PATCH", &path, &json!({"approvals": false}))
            .0,
        200
    );
    assert_eq!(scene.json("POST", &scene.approve).0, 403);
    assert_eq!(
        scene.world.get(&scene.release)["state"],
        "awaiting_approval"
    );
}

#[test]
fn a_link_is_void_when_the_release_has_gone_on_without_it() {
    let scene = scene(Some("24h"), &json!({}));
    let (status, _) = scene.world.api(
        "POST",
        &format!("/v1/releases/{}/stop", scene.release),
        &Value::Null,
    );
    assert_eq!(status, 200);
    let (status, problem) = scene.json("POST", &scene.approve);
    assert_eq!(status, 409, "{problem}");
    assert!(
        problem["detail"]
            .as_str()
            .unwrap()
            .contains("earlier state")
    );
    assert_eq!(scene.world.finish(&scene.release)["reason"], "stopped");
}

#[test]
fn a_reminder_brings_fresh_links_before_the_time_is_over() {
    let scene = scene(Some("40m"), &json!({}));
    let begun = scene.world.now.get();
    scene.world.run_for(35 * 60_000);
    let asked = asked(&scene.world);
    assert_eq!(asked.len(), 2, "one reminder");
    let (first, second) = (&asked[0], &asked[1]);
    assert!(
        (29..=31).contains(&((second.at - begun) / 60_000)),
        "a quarter of the time is left"
    );
    assert_eq!(second.json()["data"]["reminder"], true);
    assert_ne!(first.headers["webhook-id"], second.headers["webhook-id"]);
    let (status, _) = scene.json("POST", &path(second, "approve_url"));
    assert_eq!(status, 200);
    assert_eq!(scene.world.finish(&scene.release)["state"], "succeeded");
}

#[test]
fn of_two_decisions_at_once_one_holds() {
    let scene = scene(Some("24h"), &json!({}));
    let world = Rc::clone(&scene.world);
    let (deny, mut nested) = (scene.deny.clone(), false);
    let weak = Rc::downgrade(&world);
    // Between the reading and the writing of one, the other is made.
    world.set_rule(move |call| {
        if matches!(call, Call::Sql { writes: true }) && !nested {
            nested = true;
            let world = weak.upgrade().unwrap();
            assert_eq!(world.call("POST", &deny, &[JSON], Vec::new()).status(), 200);
        }
        None
    });
    let (status, problem) = scene.json("POST", &scene.approve);
    assert_eq!(status, 409, "{problem}");
    scene.world.clear_rule();
    let over = scene.world.finish(&scene.release);
    assert_eq!(
        (&over["state"], &over["reason"]),
        (&json!("reverted"), &json!("denied"))
    );
}

#[test]
fn a_failing_database_decides_nothing_and_says_so_without_the_token() {
    let scene = scene(Some("24h"), &json!({}));
    scene
        .world
        .set_rule(|call| matches!(call, Call::Sql { .. }).then_some(Fault::Refused));
    for accept in [JSON, HTML] {
        let response = scene.call("POST", &scene.approve, &[accept], "");
        assert_eq!(response.status(), 503);
    }
    scene.world.clear_rule();
    let token = scene.approve.strip_prefix("/approvals/").unwrap();
    assert!(
        !json!(*scene.world.lines.borrow())
            .to_string()
            .contains(token)
    );
    assert_eq!(
        scene.world.get(&scene.release)["state"],
        "awaiting_approval"
    );
}

#[test]
fn links_are_only_for_subscribers_that_may_have_them() {
    let scene = scene(None, &json!({"approvals": false}));
    let asked = asked(&scene.world);
    assert_eq!(asked.len(), 1);
    assert!(!asked[0].body.contains("/approvals/"));
}

#[test]
fn chats_get_buttons_and_links_that_decide() {
    for (format, words) in [("slack", "\"actions\""), ("discord", "[Approve…](")] {
        let scene = scene(None, &json!({"format": format}));
        let got = scene.world.got.borrow();
        let asked = got
            .iter()
            .find(|got| got.body.contains("/approvals/"))
            .unwrap();
        assert!(asked.body.contains(words), "{}", asked.body);
        let link = asked.body.split("https://hmd.example.com").nth(1).unwrap();
        let link = link.split(['"', ')']).next().unwrap().to_owned();
        drop(got);
        assert_eq!(scene.json("POST", &link).0, 200);
        assert_eq!(scene.world.get(&scene.release)["state"], "rolling_out");
    }
}

#[test]
fn without_a_public_url_there_are_no_links_and_a_warning() {
    let world = World::new();
    let config = Config::from_vars(|name| match name {
        "CLOUDFLARE_API_TOKEN" => Some("cf-token".to_owned()),
        "HMD_API_TOKEN" => Some(support::TOKEN.to_owned()),
        "HMD_SIGNING_KEY" => Some("MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=".to_owned()),
        _ => None,
    });
    let token = format!("Bearer {}", support::TOKEN);
    let headers = [
        ("authorization", token.as_str()),
        ("content-type", "application/json"),
    ];
    let body = json!({"url": HOOK, "approvals": true})
        .to_string()
        .into_bytes();
    let response = world
        .try_call(&config, ("POST", "/v1/subscribers"), &headers, body)
        .unwrap();
    let answer: Value = serde_json::from_slice(response.body()).unwrap();
    assert!(
        answer["warnings"][0]
            .as_str()
            .unwrap()
            .contains("PUBLIC_URL"),
        "{answer}"
    );
}
