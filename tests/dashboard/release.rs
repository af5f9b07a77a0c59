//! What a release's page says and offers in each of its states.

use serde_json::{Value, json};

use crate::support::{Call, Fault, failing, healthy};
use crate::{Browser, OWN, scene, text};

/// A part of a page.
fn part<'p>(page: &'p str, from: &str, to: &str) -> &'p str {
    let start = page
        .find(from)
        .unwrap_or_else(|| panic!("no {from} in {page}"));
    let length = page[start..].find(to).unwrap();
    &page[start..start + length]
}

fn stages(page: &str) -> &str {
    part(page, "<ol class=\"stages\">", "</ol>")
}

/// The hidden fields of the form of a command, as a page holds them.
fn fields(page: &str, verb: &str) -> Vec<(String, String)> {
    let form = part(page, &format!("/{verb}\">"), "</form>");
    let hidden = form.split("<input type=\"hidden\" name=\"").skip(1);
    hidden
        .map(|tag| {
            let (name, rest) = tag.split_once("\" value=\"").unwrap();
            let value = rest.split('"').next().unwrap();
            (name.to_owned(), value.to_owned())
        })
        .collect()
}

fn send(browser: &Browser, path: &str, fields: &[(String, String)]) -> (u16, String) {
    let fields: Vec<(&str, &str)> = fields
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect();
    let response = browser.send(path, &[OWN], &fields);
    (response.status().as_u16(), text(&response))
}

#[test]
fn what_was_asked_of_one_stage_is_not_done_to_the_next() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| plan["stages"][1]["soak"] = json!("1h"));
    let id = world.release("shop");
    let path = format!("/releases/{id}");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    let shown = fields(&browser.page(&path), "promote");
    world.run_to(&id, |it| it["stages"][1]["state"] == "soaking");
    // As soon as it could be promoted, were it asked for now.
    world.run_for(5 * 60_000);
    let before = world.get(&id);
    let (status, page) = send(&browser, &format!("{path}/promote"), &shown);
    assert_eq!(status, 409, "{page}");
    assert!(page.contains("has moved on since"), "{page}");
    assert_eq!(world.get(&id)["revision"], before["revision"]);
    let now = fields(&browser.page(&path), "promote");
    assert_eq!(send(&browser, &format!("{path}/promote"), &now).0, 303);
    assert_eq!(world.get(&id)["stage"], 3);
    // Programs may ask without having been shown anything.
    world.run_to(&id, |it| it["stages"][2]["state"] == "soaking");
    world.run_for(50_000);
    let promote = format!("/v1/releases/{id}/promote");
    assert_eq!(world.api("POST", &promote, &Value::Null).0, 200);
}

#[test]
fn who_resumes_or_approves_is_told_what_that_waives() {
    let (world, browser) = scene();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"][0]["advance"] = json!("manual");
        plan["slos"][0]["severity"] = json!("pause");
    });
    let id = world.release("shop");
    let path = format!("/releases/{id}");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    let waives = "This waives the harm of <strong>errors</strong>";
    browser.done(&path, &format!("{path}/pause"), &[]);
    let page = browser.page(&path);
    assert!(!page.contains("This waives"), "{page}");
    let nothing = fields(&page, "resume");
    world.set_error_rate("shop", &versions[1], 0.5);
    world.run_for(5 * 60_000);
    assert_eq!(world.get(&id)["slis"][0]["verdict"], "harm");
    // The page was open when it began.
    let (status, answer) = send(&browser, &format!("{path}/resume"), &nothing);
    assert_eq!(status, 409);
    assert!(answer.contains("harm of errors"), "{answer}");
    assert_eq!(world.get(&id)["state"], "paused");
    let page = browser.page(&path);
    assert!(
        part(&page, "/resume\">", "</form>").contains(waives),
        "{page}"
    );
    let resume = fields(&page, "resume");
    assert_eq!(send(&browser, &format!("{path}/resume"), &resume).0, 303);
    world.run_to(&id, |it| it["state"] == "awaiting_approval");
    let page = browser.page(&path);
    assert_eq!(
        world.get(&id)["slis"][0]["verdict"],
        "harm",
        "it is still that bad"
    );
    assert!(
        part(&page, "/approve\">", "</form>").contains(waives),
        "{page}"
    );
    let approve = fields(&page, "approve");
    assert_eq!(send(&browser, &format!("{path}/approve"), &approve).0, 303);
}

#[test]
fn a_release_that_does_not_run_says_nothing_of_a_split() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let make = |more: &str| {
        let mut body = json!({"plan": "shop", "new_version": "latest"});
        if more == "staged" {
            body["start"] = json!(false);
        } else {
            body["on_conflict"] = json!("queue");
        }
        let (status, release) = world.api("POST", "/v1/releases", &body);
        assert_eq!(status, 201, "{release}");
        release["id"].as_str().unwrap().to_owned()
    };
    let staged = make("staged");
    let running = world.release("shop");
    let queued = make("queued");
    assert_eq!(world.get(&queued)["state"], "queued");
    for id in [&staged, &queued] {
        let page = browser.page(&format!("/releases/{id}"));
        assert!(
            !page.contains("being told") && !page.contains("Set:"),
            "{page}"
        );
        assert!(!stages(&page).contains("aria-current"), "{page}");
        // Whose turn it is starts by itself, and is refused otherwise.
        let starts = page.contains("Start…");
        let (status, _) = world.api("POST", &format!("/v1/releases/{id}/start"), &Value::Null);
        assert_eq!(starts, id == &staged, "{page}");
        assert_eq!(status, 409);
    }
    world.run_to(&running, |it| it["stages"][0]["state"] == "soaking");
    browser.done("/", &format!("/releases/{running}/stop"), &[]);
    assert_eq!(world.get(&running)["state"], "reverting");
    let page = browser.page(&format!("/releases/{running}"));
    assert!(
        page.contains("being told that the old version gets everything"),
        "{page}"
    );
    assert!(!page.contains("being told of the split"));
}

#[test]
fn a_stage_that_is_being_deployed_has_no_clock_yet() {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    let path = format!("/releases/{id}");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    assert!(stages(&browser.page(&path)).contains("<progress"));
    world.set_rule(|call| match call {
        Call::Http(request) if request.method == "POST" && request.url.contains("/deployments") => {
            Some(Fault::Status(500))
        }
        _ => None,
    });
    world.run_to(&id, |it| it["stages"][1]["state"] == "deploying");
    world.run_for(2 * 60_000);
    let page = browser.page(&path);
    let stages = stages(&page);
    assert!(stages.contains("being told of the split"), "{stages}");
    assert!(
        !stages.contains("<progress") && !stages.contains(" left of "),
        "{stages}"
    );
}

#[test]
fn what_a_release_ended_with_says_whose_the_split_is_and_what_can_be_undone() {
    let undo = "aria-label=\"Undo: release of shop, ";
    let check = |browser: &Browser, id: &str, bar: Option<&str>, undone: bool| {
        let page = browser.page(&format!("/releases/{id}"));
        match bar {
            Some(bar) => assert!(page.contains(bar), "{page}"),
            None => assert!(
                !page.contains("Set: ") && !page.contains("In force: "),
                "{page}"
            ),
        }
        let history = browser.page("/releases");
        for page in [page, history] {
            assert_eq!(page.contains(&format!("{undo}{id}")), undone, "{page}");
            assert!(page.contains(&format!("Run again: release of shop, {id}")));
        }
    };
    // It succeeded, and went back.
    for (behavior, bar, undone) in [
        (healthy(), "Set: 100 % new", true),
        (failing(0.5), "Set: 0 % new", false),
    ] {
        let (world, browser) = scene();
        world.worker("shop", &[healthy(), behavior]);
        world.plan("shop", |_| ());
        let id = world.release("shop");
        world.finish(&id);
        check(&browser, &id, Some(bar), undone);
    }
    // A stranger took over.
    let (world, browser) = scene();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let id = world.release("shop");
    world.run_to(&id, |it| it["stages"][0]["state"] == "soaking");
    world.by_hand(&[(&versions[0], 20.0), (&versions[1], 80.0)]);
    assert_eq!(world.finish(&id)["state"], "superseded");
    check(&browser, &id, None, true);
    assert!(
        browser
            .page(&format!("/releases/{id}"))
            .contains("The split is not HMD’s any more.")
    );
    // It was stopped before it began.
    let body = json!({"plan": "shop", "new_version": "latest", "start": false});
    let (_, release) = world.api("POST", "/v1/releases", &body);
    let id = release["id"].as_str().unwrap().to_owned();
    world.api("POST", &format!("/v1/releases/{id}/stop"), &Value::Null);
    assert_eq!(world.get(&id)["state"], "cancelled");
    check(&browser, &id, None, false);
}
