//! What judges said, on the page of a release and in its report.

use std::rc::Rc;

use serde_json::{Value, json};

use crate::support::{Reaction, Tape, World, healthy};
use crate::{Browser, EVIL, scene, text};

const URL: &str = "https://judge.example.com/hmd";

/// A release of a plan with a judge that answers this to each question.
fn judged(verdict: &str, reason: &str) -> (Rc<World>, Browser, String) {
    let (world, browser) = scene();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["stages"] = json!([{"percent": 50, "soak": "60s", "max_soak": "90s"}, {"percent": 100, "soak": "60s", "max_soak": "90s"}]);
        let judge = json!({"name": EVIL, "sli": {"kind": "judge", "url": URL}, "objective": "pass"});
        plan["slos"].as_array_mut().unwrap().push(judge);
    });
    let answer = json!({"verdict": verdict, "reason": reason}).to_string();
    let answer: &'static str = Box::leak(answer.into_boxed_str());
    world.receivers.borrow_mut().insert(
        URL.to_owned(),
        Box::new(move |_| Reaction::Status(200, answer)),
    );
    let id = world.release("shop");
    (world, browser, id)
}

#[test]
fn a_judges_words_are_shown_with_who_said_them_and_when() {
    let (world, browser, id) = judged("hold", EVIL);
    let path = format!("/releases/{id}");
    let early = browser.page(&path);
    assert!(early.contains("None has been asked yet"), "{early}");
    world.run_to(&id, |it| it["state"] == "awaiting_approval");
    *world.tape.borrow_mut() = Some(Tape::default());
    let page = browser.page(&path);
    assert_eq!(world.tape.take().unwrap().batches.len(), 1);
    for needed in [
        "<span class=\"verdict undecided\">says hold</span> <q>&lt;script&gt;alert(1)",
        "Asked was <code>https://judge.example.com/hmd</code>, which took ",
        "; the same ",
        " is asked</li>",
    ] {
        assert!(page.contains(needed), "{needed} in {page}");
    }
    let section = page.split_once("What judges said").unwrap().1;
    assert!(section.contains("<time datetime=\""), "{section}");
    world.api("POST", &format!("/v1{path}/stages/1/deny"), &Value::Null);
    world.finish(&id);
    let report = browser.page(&path);
    let report = report.split_once("What judges said last").unwrap().1;
    assert!(report.contains("says hold") && report.contains("&lt;script&gt;alert(1)"));
    // A plan without judges says nothing of them.
    world.worker("plain", &[healthy(), healthy()]);
    world.plan("plain", |_| ());
    let plain = world.release("plain");
    world.run_for(30_000);
    assert!(
        !browser
            .page(&format!("/releases/{plain}"))
            .contains("judges said")
    );
}

#[test]
fn the_report_names_the_judge_that_sent_a_release_back_and_one_that_broke_down() {
    let (world, browser, id) = judged("revert", "checkout is broken");
    assert_eq!(world.finish(&id)["state"], "reverted");
    let page = text(&browser.get(&format!("/releases/{id}")));
    let report = page.split_once("Harm that was found").unwrap().1;
    let report = report.split_once("Decided by").unwrap().0;
    for needed in [
        "the judge says revert: ",
        "Asked was <code>",
        "<q>checkout is broken</q>",
    ] {
        assert!(report.contains(needed), "{needed} in {report}");
    }
    assert!(
        !report.contains("bad of "),
        "a judge counts no requests: {report}"
    );

    let (world, browser, id) = judged("perhaps", "who knows");
    assert_eq!(world.finish(&id)["state"], "succeeded");
    let page = browser.page(&format!("/releases/{id}"));
    assert!(
        page.contains("says nothing</span> Its answer is not"),
        "{page}"
    );
    assert!(!page.contains("who knows"));
}
