//! Connecting Workers, and disconnecting them.

use serde_json::{Value, json};

use crate::support::{ACCOUNT, Call, Fault, OWN_TOKEN, World, healthy};
use crate::{EVIL, scene, text};

fn connected(world: &World) -> Value {
    world.api("GET", "/v1/workers", &Value::Null).1["items"].clone()
}

#[test]
fn a_worker_is_connected_tried_at_once_and_disconnected() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    assert!(browser.page("/").contains("Connect a Worker"));
    let send = |account: &str, script: &str, token: &str| {
        let fields = [
            ("account_id", account),
            ("script_name", script),
            ("token", token),
        ];
        browser.post("/connect", "/connect", &fields)
    };
    let none = send(ACCOUNT, "none", OWN_TOKEN);
    assert_eq!(none.status(), 404);
    let page = text(&none);
    assert!(page.contains("id=\"script_name-error\"") && page.contains("value=\"none\""));
    assert!(!page.contains(OWN_TOKEN), "a token is not sent back");
    let evil = send(EVIL, EVIL, "");
    assert_eq!(evil.status(), 404);
    assert!(!text(&evil).contains("<script>"));
    for (status, field, words) in [
        (401, "token", "revoked"),
        (403, "token", "permission"),
        (404, "account_id", "account id"),
    ] {
        world.set_rule(move |call| matches!(call, Call::Http(_)).then_some(Fault::Status(status)));
        let page = text(&send(ACCOUNT, "shop", OWN_TOKEN));
        assert!(
            page.contains(&format!("id=\"{field}-error\"")) && page.contains(words),
            "{status}: {page}"
        );
        world.clear_rule();
    }
    assert_eq!(connected(&world), json!([]));
    let done = send(ACCOUNT, "shop", OWN_TOKEN);
    assert_eq!(done.headers()["location"], "/?done=connected");
    assert_eq!(connected(&world)[0]["credential"], "own");
    let page = browser.page("/");
    assert!(
        page.contains("a token of its own") && page.contains("Disconnect…"),
        "{page}"
    );
    assert!(!page.contains(OWN_TOKEN));
    // An open page learns of it.
    let fragment = ("x-hmd-fragment", "1");
    let first = browser.get_with("/", &[fragment]);
    let tag = first.headers()["etag"].to_str().unwrap().to_owned();
    let poll = || browser.get_with("/", &[fragment, ("if-none-match", &tag)]);
    assert_eq!(poll().status(), 304);
    world.plan("shop", |_| ());
    let release = world.release("shop");
    let path = format!("/workers/{ACCOUNT}/shop/disconnect");
    let refused = browser.post("/", &path, &[]);
    assert_eq!(refused.status(), 409);
    assert!(text(&refused).contains(&release));
    world.finish(&release);
    assert_eq!(browser.done("/", &path, &[]), "/?done=disconnected");
    assert_eq!(poll().status(), 200);
    assert_eq!(connected(&world), json!([]));
    assert!(
        browser.page("/").contains("shop"),
        "its plan is still there"
    );
    assert_eq!(browser.post("/", &path, &[]).status(), 404);
}

#[test]
fn the_list_tells_of_watches_of_other_pages_and_of_what_it_can_not_read() {
    let (world, browser) = scene();
    for script in ["shop", "mail"] {
        world.worker(script, &[healthy(), healthy()]);
        world.plan(script, |_| ());
    }
    world.api("PUT", "/v1/plans/shop-fast", &{
        let mut plan = world.api("GET", "/v1/plans/shop", &Value::Null).1;
        plan["stages"] = json!([{"percent": 100, "soak": "60s"}]);
        plan
    });
    let body = json!({"plan": "shop", "new_version": "latest", "mode": "watch"});
    let (status, watch) = world.api("POST", "/v1/releases", &body);
    assert_eq!(status, 201, "{watch}");
    let watch = format!("href=\"/releases/{}\"", watch["id"].as_str().unwrap());
    let card = |page: &str| {
        let start = page.find("<h2>shop</h2>").unwrap();
        page[start..start + page[start..].find("</article>").unwrap()].to_owned()
    };
    let shop = card(&browser.page("/"));
    assert!(
        shop.contains(&watch) && shop.contains("watches only"),
        "{shop}"
    );
    assert!(!shop.contains("No release is running"), "{shop}");
    for plan in ["shop", "shop-fast"] {
        assert!(shop.contains(&format!("href=\"/plans/{plan}\"")), "{shop}");
    }
    // The title is of all Workers.
    let id = world.release("mail");
    for path in ["/", "/?search=shop", "/?page=9"] {
        let page = browser.page(path);
        assert!(
            page.contains("<title>▶ 1 running · Workers"),
            "{path}: {page}"
        );
    }
    let empty = browser.page("/?page=9");
    assert!(!empty.contains("No Worker yet") && empty.contains("No Worker on this page"));
    // Of a newer HMD.
    world.execute(&format!(
        "UPDATE releases SET progress = json_set(progress, '$.schema', 99) WHERE id = '{id}'"
    ));
    let page = browser.page("/");
    assert!(
        page.contains("this version of HMD can&#39;t read")
            || page.contains("this version of HMD can't read"),
        "{page}"
    );
    assert!(page.contains(&format!("href=\"/releases/{id}\"")));
}

#[test]
fn the_list_has_each_worker_that_only_releases_name_once() {
    let (world, browser) = scene();
    assert!(browser.page("/").contains("No Worker yet"));
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.finish(&id);
    world.api("DELETE", "/v1/plans/shop", &Value::Null);
    let names = [("a", "mail"), ("a", "shop"), ("b", "api"), ("z", "mail")];
    for (account, script) in names {
        world.execute(&format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 50)
             INSERT INTO releases SELECT id || '{account}{script}' || i, '{account}', '{script}', plan, origin, progress, state, version, seq,
                act_due_at, check_due_at, created_at - i, ended_at - i FROM releases, n WHERE id = '{id}'"
        ));
    }
    let page = browser.page("/");
    for (script, times) in [("mail", 2), ("shop", 2), ("api", 1)] {
        let found = page.matches(&format!("<h2>{script}</h2>")).count();
        assert_eq!(found, times, "{script}: {page}");
    }
    assert_eq!(page.matches("<h2>").count(), names.len() + 1, "{page}");
}
