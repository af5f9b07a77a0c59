//! The dashboard: every page, every form, and everybody who has no business there.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod actions;
mod pages;
mod plans;
mod polls;
mod release;
mod sign_in;
mod witness;
mod workers;

use std::rc::Rc;

use ::http::Response;
use serde_json::json;
use support::{TOKEN, World, failing, healthy};

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
    /// The session's.
    cookie: String,
    /// What ties sign-in pages to it.
    guest: String,
}

impl Browser {
    fn new(world: &Rc<World>) -> Self {
        let world = Rc::clone(world);
        Self {
            world,
            cookie: String::new(),
            guest: String::new(),
        }
    }

    fn signed_in(world: &Rc<World>) -> Self {
        let mut browser = Self::new(world);
        let response = browser.sign_in(TOKEN);
        assert_eq!(response.status(), 303, "{}", text(&response));
        browser
    }

    fn sign_in(&mut self, token: &str) -> Response<Vec<u8>> {
        let form = self.sign_in_form();
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

    /// The token of the sign-in form, with its cookie kept.
    fn sign_in_form(&mut self) -> String {
        let page = self.get("/sign-in");
        if page.headers().contains_key("set-cookie") {
            self.guest = cookie_of(&page);
        }
        form_token(&text(&page))
    }

    fn cookies(&self) -> String {
        format!("{}; {}", self.guest, self.cookie)
    }

    fn get(&self, path: &str) -> Response<Vec<u8>> {
        self.get_with(path, &[])
    }

    fn get_with(&self, path: &str, headers: &[(&str, &str)]) -> Response<Vec<u8>> {
        let cookies = self.cookies();
        let mut all = vec![("cookie", cookies.as_str())];
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
        let cookies = self.cookies();
        let mut all = vec![("cookie", cookies.as_str()), FORM];
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
