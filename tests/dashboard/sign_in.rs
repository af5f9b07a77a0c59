//! Who gets in, and who does not.

use hmd::http::sign_in_path;
use hmd::webhook::{Keyring, Purpose};
use serde_json::{Value, json};

use crate::support::{START, TOKEN, World, healthy};
use crate::{Browser, HOST, OWN, cookie_of, form_token, scene, text};

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
        "/connect",
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
        cookie.starts_with("hmd-guest=") && !cookie.contains("Secure"),
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
        format!("/releases/{release}/approve"),
        "/new".to_owned(),
        "/connect".to_owned(),
        format!("/workers/{}/shop/disconnect", crate::support::ACCOUNT),
        "/plans/shop".to_owned(),
        "/plans/shop/delete".to_owned(),
        "/plans/shop/forecast".to_owned(),
        "/webhooks".to_owned(),
        format!("/webhooks/{subscriber}"),
        format!("/webhooks/{subscriber}/delete"),
        format!("/webhooks/{subscriber}/rotate-secret"),
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
    let form = browser.sign_in_form();
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
        let form = browser.sign_in_form();
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

#[test]
fn who_comes_from_another_site_keeps_their_session() {
    let world = World::new();
    let mut browser = Browser::signed_in(&world);
    let session = browser.cookie.clone();
    let form = form_token(&browser.page("/"));
    // A link on another site: the browser sends no strict cookie, and would take a new one.
    let guest = std::mem::take(&mut browser.guest);
    browser.cookie.clear();
    for path in ["/", "/releases?state=paused&worker=a", "/sign-in?next=/"] {
        let bounced = browser.get_with(path, &[("sec-fetch-site", "cross-site")]);
        assert_eq!(bounced.status(), 200, "{path}");
        assert!(bounced.headers().get("set-cookie").is_none(), "{path}");
        let path = path.replace('&', "&amp;");
        let refresh = format!("<meta http-equiv=\"refresh\" content=\"0; url={path}\">");
        assert!(text(&bounced).contains(&refresh), "{}", text(&bounced));
    }
    // An old browser says nothing of where it comes from: what it is given has another name than the session.
    assert_eq!(browser.get("/").status(), 303);
    let page = browser.get("/sign-in?next=/");
    let given = cookie_of(&page);
    assert!(given.starts_with("__Host-hmd-guest="), "{given}");
    // Then this page itself asks, with all cookies.
    browser.cookie = session;
    browser.guest = given.clone();
    let asked = browser.get_with("/", &[("sec-fetch-site", "same-origin")]);
    assert_eq!(asked.status(), 200);
    let stop = browser.send("/releases/rel_none/stop", &[OWN], &[("form", &form)]);
    assert_eq!(
        stop.status(),
        404,
        "the form of the other tab is still good"
    );
    // Neither is worth anything under the other's name.
    let renamed =
        |cookie: &str, name: &str| format!("{name}={}", cookie.split_once('=').unwrap().1);
    let (session, mut stranger) = (browser.cookie.clone(), Browser::new(&world));
    stranger.cookie = renamed(&given, "__Host-hmd");
    assert_eq!(stranger.get("/").status(), 303);
    stranger.cookie = renamed(&session, "__Host-hmd-guest");
    assert_eq!(stranger.get("/").status(), 303);
    assert_ne!(guest, given);
}

#[test]
fn all_tabs_that_wait_for_a_sign_in_share_a_cookie() {
    let world = World::new();
    let mut browser = Browser::new(&world);
    let first = browser.sign_in_form();
    let again = browser.get("/sign-in");
    assert!(again.headers().get("set-cookie").is_none());
    assert_eq!(form_token(&text(&again)), first);
    let wrong = [("form", first.as_str()), ("token", "a guess")];
    let refused = browser.send("/sign-in", &[OWN], &wrong);
    assert_eq!(refused.status(), 403);
    assert!(refused.headers().get("set-cookie").is_none());
    for _ in 0..2 {
        let fields = [("form", first.as_str()), ("token", TOKEN)];
        let response = browser.send("/sign-in", &[OWN], &fields);
        assert_eq!(response.status(), 303, "{}", text(&response));
        assert!(cookie_of(&response).starts_with("__Host-hmd="));
    }
}
