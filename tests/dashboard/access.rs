//! Sign-in by Cloudflare Access: whom it names, and all who only say that it does.

use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit as _, Mac as _};
use hmd::access::Team;
use hmd::pipeline::config::Config;
use http::Response;
use ring::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use serde_json::{Value, json};
use sha2::Sha256;

use crate::support::{START, TOKEN, World, healthy};
use crate::{Browser, OWN, cookie_of, form_token, text};

const TEAM: &str = "team.cloudflareaccess.com";
const AUD: &str = "32eafc7626e737969ad374e3b123abc032eafc7626e737969ad374e3b123abc0";
const HEADER: &str = "cf-access-jwt-assertion";

/// A key of a team: its private half, and how the team publishes it.
struct Signer {
    id: &'static str,
    key: RsaKeyPair,
}

impl Signer {
    fn new(name: &str, id: &'static str) -> Self {
        let keys: Value =
            serde_json::from_str(include_str!("../fixtures/access-keys.json")).unwrap();
        let key = STANDARD.decode(keys[name].as_str().unwrap()).unwrap();
        Self {
            id,
            key: RsaKeyPair::from_pkcs8(&key).unwrap(),
        }
    }

    fn modulus(&self) -> Vec<u8> {
        let public = self.key.public();
        ring::rsa::PublicKeyComponents::<Vec<u8>>::from(public).n
    }

    fn jwk(&self) -> Value {
        let n = URL_SAFE_NO_PAD.encode(self.modulus());
        json!({"kid": self.id, "kty": "RSA", "alg": "RS256", "use": "sig", "e": "AQAB", "n": n})
    }

    fn sign(&self, header: &Value, claims: &Value) -> String {
        let signed = unsigned(header, claims);
        let mut signature = vec![0; self.key.public().modulus_len()];
        let random = ring::rand::SystemRandom::new();
        self.key
            .sign(
                &RSA_PKCS1_SHA256,
                &random,
                signed.as_bytes(),
                &mut signature,
            )
            .unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    /// What Access would send for a person now.
    fn assertion(&self, email: &str, now: i64) -> String {
        let header = json!({"alg": "RS256", "kid": self.id, "typ": "JWT"});
        self.sign(&header, &claims(email, now))
    }
}

fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}", part(header), part(claims))
}

fn claims(email: &str, now: i64) -> Value {
    let now = now / 1_000;
    json!({"aud": [AUD], "email": email, "exp": now + 3_600, "iat": now, "nbf": now, "iss": format!("https://{TEAM}"),
        "type": "app", "sub": "7335d417-61da-459d-899c-0a01c76a2f94", "country": "US"})
}

fn world() -> Rc<World> {
    World::with(|config| Config {
        access: Team::read(Some(TEAM), Some(AUD), None).unwrap(),
        ..config
    })
}

fn publish(world: &World, signers: &[&Signer]) {
    let keys: Vec<Value> = signers.iter().map(|signer| signer.jwk()).collect();
    *world.access_keys.borrow_mut() = Some(json!({"keys": keys}).to_string());
}

fn ask(browser: &Browser, path: &str, assertion: &str) -> Response<Vec<u8>> {
    browser.get_with(path, &[(HEADER, assertion)])
}

#[test]
fn a_person_is_named_by_what_they_do() {
    let world = world();
    let signer = Signer::new("a", "1a2b3c");
    publish(&world, &[&signer]);
    let ada = signer.assertion("ada@example.com", START);
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["advance"] = json!("manual");
    });
    let mut browser = Browser::new(&world);
    let page = ask(&browser, "/new?plan=shop", &ada);
    assert_eq!(page.status(), 200, "{}", text(&page));
    assert!(text(&page).contains("ada@example.com"));
    assert!(text(&page).contains("/cdn-cgi/access/logout"));
    let cookie = page.headers()["set-cookie"].to_str().unwrap();
    assert!(cookie.contains("HttpOnly") && cookie.contains("SameSite=Strict"));
    browser.cookie = cookie_of(&page);
    // The cookie is kept as long as it is good, and holds nobody's address.
    assert!(
        ask(&browser, "/", &ada)
            .headers()
            .get("set-cookie")
            .is_none()
    );
    let payload = browser.cookie.split_once('=').unwrap().1;
    let payload = URL_SAFE_NO_PAD.decode(payload.split('.').next().unwrap());
    assert!(!String::from_utf8(payload.unwrap()).unwrap().contains("ada"));
    let form = form_token(&text(&page));
    let send = |path: &str, fields: &[(&str, &str)]| {
        let mut all = vec![("form", form.as_str())];
        all.extend_from_slice(fields);
        browser.send(path, &[OWN, (HEADER, &ada)], &all)
    };
    let fields = [
        ("plan", "shop"),
        ("version", "latest"),
        ("do", "start"),
        ("key", "k1"),
    ];
    let made = send("/new", &fields);
    assert_eq!(made.status(), 303, "{}", text(&made));
    let path = made.headers()["location"].to_str().unwrap();
    let path = path.strip_suffix("?done=created").unwrap();
    let id = path.strip_prefix("/releases/").unwrap();
    world.run_to(id, |it| it["state"] == "awaiting_approval");
    let page = text(&ask(&browser, path, &ada));
    assert!(page.contains("Approve…") && !page.contains("Your name"));
    // Whom Access names can't go by another name.
    let approve = [("stage", "1"), ("by", "Grace"), ("comment", "fine")];
    assert_eq!(send(&format!("{path}/approve"), &approve).status(), 303);
    world.finish(id);
    let events = world.events(id);
    let actors: Vec<&str> = events
        .iter()
        .filter_map(|it| it["actor"].as_str())
        .collect();
    let people: Vec<&&str> = actors.iter().filter(|actor| **actor != "hmd").collect();
    assert!(
        people.len() >= 2
            && people
                .iter()
                .all(|actor| **actor == "access:ada@example.com"),
        "{actors:?}"
    );
}

#[test]
fn nobody_gets_in_by_an_assertion_that_is_not_the_teams() {
    let world = world();
    let (signer, other) = (Signer::new("a", "1a2b3c"), Signer::new("b", "1a2b3c"));
    publish(&world, &[&signer]);
    let rs256 = json!({"alg": "RS256", "kid": "1a2b3c", "typ": "JWT"});
    let good = claims("eve@example.com", START);
    let changed = |name: &str, value: Value| {
        let mut claims = good.clone();
        claims[name] = value;
        signer.sign(&rs256, &claims)
    };
    let hs256 = json!({"alg": "HS256", "kid": "1a2b3c", "typ": "JWT"});
    // The public key is known to everybody: whoever takes it for a secret believes everybody.
    let by_mac = |secret: &[u8]| {
        let parts = unsigned(&hs256, &good);
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).unwrap();
        mac.update(parts.as_bytes());
        format!(
            "{parts}.{}",
            URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
        )
    };
    let none = unsigned(&json!({"alg": "none", "kid": "1a2b3c"}), &good);
    let honest = signer.sign(&rs256, &good);
    let (head, rest) = honest.split_once('.').unwrap();
    let (_, signature) = rest.split_once('.').unwrap();
    let now = START / 1_000;
    let bad = [
        ("alg none", format!("{none}.")),
        ("alg none, signed", format!("{none}.{signature}")),
        ("HS256 by the modulus", by_mac(&signer.modulus())),
        (
            "HS256 by the JWK",
            by_mac(signer.jwk().to_string().as_bytes()),
        ),
        (
            "HS256 by the modulus as text",
            by_mac(signer.jwk()["n"].as_str().unwrap().as_bytes()),
        ),
        (
            "RS256 by a foreign key of the same id",
            other.sign(&rs256, &good),
        ),
        ("of no key", signer.sign(&json!({"alg": "RS256"}), &good)),
        (
            "of an unknown key",
            signer.sign(&json!({"alg": "RS256", "kid": "9z"}), &good),
        ),
        (
            "foreign issuer",
            changed("iss", json!("https://evil.cloudflareaccess.com")),
        ),
        ("foreign audience", changed("aud", json!(["0".repeat(64)]))),
        ("no audience", changed("aud", json!([]))),
        ("expired", changed("exp", json!(now))),
        ("not yet valid", changed("nbf", json!(now + 120))),
        ("nobody", changed("email", json!(""))),
        (
            "other claims",
            format!(
                "{head}.{}.{signature}",
                URL_SAFE_NO_PAD.encode(claims("boss@example.com", START).to_string())
            ),
        ),
        (
            "no signature",
            format!("{head}.{}.", rest.split_once('.').unwrap().0),
        ),
        ("cut", honest[..honest.len() - 4].to_owned()),
        ("garbage", "garbage".to_owned()),
        ("dots", "..".to_owned()),
        ("empty", String::new()),
    ];
    for (what, assertion) in &bad {
        for path in ["/", "/new", "/sign-in"] {
            let answer = ask(&Browser::new(&world), path, assertion);
            assert_eq!(answer.status(), 403, "{what}: {}", text(&answer));
            assert!(answer.headers().get("set-cookie").is_none(), "{what}");
            assert!(text(&answer).contains("role=\"alert\""));
        }
    }
    // Nor in company of a good one, nor where HMD is not behind Access.
    let two = Browser::new(&world).get_with("/", &[(HEADER, &honest), (HEADER, "garbage")]);
    assert_eq!(two.status(), 403);
    let open = World::new();
    publish(&open, &[&signer]);
    let ignored = ask(&Browser::new(&open), "/", &honest);
    assert_eq!(ignored.status(), 303, "it names nobody there");
    assert!(open.key_reads.borrow().is_empty());
    // It is no key to the API either.
    let api = ask(&Browser::new(&world), "/v1/releases", &honest);
    assert_eq!(api.status(), 401);
    assert_eq!(ask(&Browser::new(&world), "/", &honest).status(), 200);
}

#[test]
fn keys_are_read_again_when_they_were_rotated_but_not_for_strangers() {
    let world = world();
    let (old, new) = (Signer::new("a", "old"), Signer::new("b", "new"));
    publish(&world, &[&old]);
    let reads = || world.key_reads.borrow().len();
    let status = |assertion: &str| ask(&Browser::new(&world), "/", assertion).status().as_u16();
    for _ in 0..5 {
        assert_eq!(status(&old.assertion("ada@example.com", START)), 200);
    }
    assert_eq!(
        *world.key_reads.borrow(),
        [format!("https://{TEAM}/cdn-cgi/access/certs")]
    );
    // Unknown ids do not make HMD ask each time.
    publish(&world, &[&old, &new]);
    for _ in 0..5 {
        assert_eq!(status(&new.assertion("ada@example.com", START)), 403);
    }
    assert_eq!(reads(), 1);
    world.now.set(START + 60_000);
    assert_eq!(status(&new.assertion("ada@example.com", START)), 200);
    assert_eq!(status(&old.assertion("ada@example.com", START)), 200);
    assert_eq!(reads(), 2);
    // A key that is gone is gone with the next reading.
    publish(&world, &[&new]);
    world.now.set(START + 2 * 3_600_000);
    let now = world.now.get();
    assert_eq!(status(&new.assertion("ada@example.com", now)), 200);
    assert_eq!(status(&old.assertion("ada@example.com", now)), 403);
    // While the team does not answer, what is known is good for a while, and then nobody gets in.
    *world.access_keys.borrow_mut() = None;
    world.now.set(now + 3_600_000);
    let now = world.now.get();
    assert_eq!(status(&new.assertion("ada@example.com", now)), 200);
    world.now.set(now + 24 * 3_600_000);
    let now = world.now.get();
    assert_eq!(status(&new.assertion("ada@example.com", now)), 503);
    let before = reads();
    assert_eq!(status(&new.assertion("ada@example.com", now)), 503);
    assert_eq!(reads(), before, "a failed reading is not repeated at once");
    *world.access_keys.borrow_mut() = Some("<html>".to_owned());
    world.now.set(now + 5_000);
    assert_eq!(status(&new.assertion("ada@example.com", now)), 503);
    publish(&world, &[&new]);
    world.now.set(now + 10_000);
    assert_eq!(status(&new.assertion("ada@example.com", now)), 200);
}

#[test]
fn a_cookie_made_for_one_person_is_worth_nothing_to_others_or_without_access() {
    let world = world();
    let signer = Signer::new("a", "1a2b3c");
    publish(&world, &[&signer]);
    let ada = signer.assertion("ada@example.com", START);
    let bob = signer.assertion("bob@example.com", START);
    let mut browser = Browser::new(&world);
    let page = ask(&browser, "/plans/shop", &ada);
    browser.cookie = cookie_of(&page);
    let form = form_token(&text(&page));
    // Around Access, by the Worker's own address.
    assert_eq!(browser.get("/").status(), 303);
    let fields = [("form", form.as_str()), ("do", "json"), ("json", "{}")];
    let send = |headers: &[(&str, &str)]| {
        browser
            .send("/plans/shop", headers, &fields)
            .status()
            .as_u16()
    };
    assert_eq!(send(&[OWN]), 403);
    assert_eq!(send(&[OWN, (HEADER, &bob)]), 403, "somebody else's form");
    assert_eq!(send(&[(HEADER, &ada)]), 403, "from nowhere");
    assert_eq!(
        send(&[("origin", "https://evil.example"), (HEADER, &ada)]),
        403
    );
    assert_eq!(
        send(&[OWN, (HEADER, &ada)]),
        422,
        "it is read, and refused for itself"
    );
    let bobs = ask(&browser, "/", &bob);
    assert_eq!(bobs.status(), 200);
    assert!(text(&bobs).contains("bob@example.com") && bobs.headers().contains_key("set-cookie"));
    // A poll without the page's cookie is told to load the page anew.
    let stranger = Browser::new(&world);
    let poll = stranger.get_with("/", &[(HEADER, &ada), ("x-hmd-fragment", "1")]);
    assert_eq!(poll.status(), 401);
    // The API token still signs in, where Access is not in between.
    let mut browser = Browser::new(&world);
    assert_eq!(browser.sign_in(TOKEN).status(), 303);
    assert_eq!(browser.get("/").status(), 200);
    // Names are texts.
    let evil = "<script>alert(1)</script>@example.com";
    let page = text(&ask(
        &Browser::new(&world),
        "/",
        &signer.assertion(evil, START),
    ));
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains(evil));
    // Whoever comes from another site shows no cookie: a new one would take the place of the one that forms are tied to.
    let page =
        Browser::new(&world).get_with("/", &[(HEADER, &ada), ("sec-fetch-site", "cross-site")]);
    assert_eq!(page.status(), 200);
    assert!(page.headers().get("set-cookie").is_none() && text(&page).contains("http-equiv"));
}
