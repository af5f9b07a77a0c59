//! What an open list of Workers asks each second: one row, which changes with all that the list shows and with no check.

use std::cell::RefCell;

use serde_json::{Value, json};

use crate::support::{ACCOUNT, OWN_TOKEN, Tape, World, failing, healthy};
use crate::{Browser, after, scene, text};

/// The list as somebody sees it: its tag, and what it shows.
fn look(browser: &Browser) -> (String, String) {
    let response = browser.get_with("/", &[("x-hmd-fragment", "1")]);
    assert_eq!(response.status(), 200);
    let tag = response.headers()["etag"].to_str().unwrap().to_owned();
    let shown = text(&response);
    let title = after(&shown, "data-title=\"").to_owned();
    let (_, body) = shown.split_once('>').unwrap();
    (tag, title + body)
}

fn revision(world: &World) -> i64 {
    world.rows("SELECT revision FROM dashboard_revision")[0]["revision"]
        .as_i64()
        .unwrap()
}

#[test]
fn the_list_of_workers_has_a_new_tag_whenever_it_shows_something_new() {
    let (world, browser) = scene();
    let last = RefCell::new(look(&browser));
    let changes = RefCell::new(0);
    let compare = |what: &str| {
        let now = look(&browser);
        let mut last = last.borrow_mut();
        if now.1 != last.1 {
            assert_ne!(now.0, last.0, "{what}: {}\n{}", last.1, now.1);
            *changes.borrow_mut() += 1;
        }
        *last = now;
    };
    let shows = |what: &str| {
        let before = *changes.borrow();
        compare(what);
        assert!(*changes.borrow() > before, "{what} is not shown");
    };
    let run = |what: &str, id: &str, until: &str| {
        for _ in 0..2_000 {
            if world.get(id)["state"] == until {
                return;
            }
            world.run_for(500);
            compare(what);
        }
        panic!("{what}: {}", world.get(id));
    };
    world.worker("shop", &[healthy(), healthy()]);
    world.worker("bad", &[healthy(), failing(0.4)]);
    let connection = format!("/v1/workers/{ACCOUNT}/shop");
    world.api("PUT", &connection, &json!({}));
    shows("a connected Worker");
    world.api("PUT", &connection, &json!({"token": OWN_TOKEN}));
    shows("a token of its own");
    world.api("DELETE", &connection, &Value::Null);
    shows("a Worker that is not connected any more");
    world.plan("shop", |plan| {
        plan["stages"][0]["advance"] = json!("manual");
    });
    shows("a plan");
    world.plan("other", |plan| {
        plan["worker"]["script_name"] = json!("shop");
    });
    shows("another plan of the Worker");
    world.plan("other", |plan| {
        plan["worker"]["script_name"] = json!("else");
    });
    shows("a plan for another Worker");
    world.api("DELETE", "/v1/plans/other", &Value::Null);
    shows("a plan that is gone");
    world.plan("bad", |_| ());
    shows("a second plan");

    let id = world.release("shop");
    let waits = json!({"plan": "shop", "new_version": "latest", "on_conflict": "queue"});
    let queued = world.api("POST", "/v1/releases", &waits).1["id"].clone();
    let queued = queued.as_str().unwrap();
    shows("a release with one behind it");
    run("the first stage", &id, "awaiting_approval");
    let release = format!("/v1/releases/{id}");
    world.api("POST", &format!("{release}/stages/1/approve"), &Value::Null);
    shows("an approval");
    world.run_to(&id, |it| it["stages"][1]["state"] == "soaking");
    shows("the second stage");
    for verb in ["pause", "resume"] {
        world.api("POST", &format!("{release}/{verb}"), &Value::Null);
        shows(verb);
    }
    run("the last stages", &id, "succeeded");
    compare("the end");
    // Its version serves already, so it ends by itself.
    run("the one behind it", queued, "cancelled");

    let bad = world.release("bad");
    run("a bad version", &bad, "reverted");
    compare("a revert");
    let staged = json!({"plan": "bad", "new_version": "latest", "start": false});
    let staged = world.api("POST", "/v1/releases", &staged).1["id"].clone();
    let path = format!("/v1/releases/{}", staged.as_str().unwrap());
    compare("a staged release");
    world.api("DELETE", &path, &Value::Null);
    compare("a staged release that is gone");
    assert!(*changes.borrow() >= 15, "{}", changes.borrow());
}

#[test]
fn an_unchanged_list_is_one_row_and_checks_leave_it_alone() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["soak"] = json!("10m");
        plan["check_interval"] = json!("10s");
    });
    let id = world.release("shop");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    let before = revision(&world);
    world.run_for(120_000);
    let windows = world.rows("SELECT window_index FROM windows").len();
    assert!(windows > 3, "{windows}");
    assert_eq!(revision(&world), before, "a check has changed the list");
    // The page itself says which revision it shows, so that its first poll is an unchanged one.
    let tag = browser.get("/").headers()["etag"]
        .to_str()
        .unwrap()
        .to_owned();
    *world.tape.borrow_mut() = Some(Tape::default());
    let again = browser.get_with("/", &[("x-hmd-fragment", "1"), ("if-none-match", &tag)]);
    assert_eq!(again.status(), 304);
    let tape = world.tape.borrow_mut().take().unwrap();
    let asked: Vec<&str> = tape.batches.iter().flatten().map(|it| it.sql).collect();
    assert_eq!(asked.len(), 1, "{asked:?}");
    let steps = world.rows(&format!("EXPLAIN QUERY PLAN {}", asked[0]));
    assert_eq!(steps.len(), 1);
    let step = steps[0]["detail"].as_str().unwrap();
    assert_eq!(
        step,
        "SEARCH dashboard_revision USING INTEGER PRIMARY KEY (rowid=?)"
    );
}
