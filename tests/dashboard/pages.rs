//! What pages show, and what they cost.

use serde_json::Value;

use hmd::pipeline::ports::Statement;
use hmd::simulator::{VersionSpec, WorkerSpec};

use crate::support::{ACCOUNT, Tape, World, healthy};
use crate::{EVIL, after, full, scene, text};

#[test]
#[expect(clippy::too_many_lines, reason = "one page after the other")]
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
                "Run again",
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
fn texts_of_versions_and_of_those_who_decide_run_nowhere() {
    let (world, browser, ids) = full();
    let version = |tag: &str| VersionSpec {
        tag: tag.to_owned(),
        message: Some(EVIL.to_owned()),
        ..VersionSpec::default()
    };
    let spec = WorkerSpec {
        requests_per_second: 40.0,
        versions: vec![version("v1"), version(EVIL)],
    };
    let made = world
        .cloudflare
        .lock()
        .unwrap()
        .put_worker(world.now.get(), ACCOUNT, "evil", spec);
    made.unwrap();
    world.plan("evil", |_| ());
    let page = browser.page("/new?plan=evil");
    assert!(page.contains("&lt;script&gt;alert(1)"), "{page}");
    let path = format!("/releases/{}", ids[2]);
    let fields = [("stage", "1"), ("by", EVIL), ("comment", EVIL)];
    browser.done(&path, &format!("{path}/approve"), &fields);
    let page = browser.page(&path);
    assert!(page.contains("dashboard:&lt;script&gt;alert(1)"), "{page}");
    // In an address, too.
    for path in [
        "/?search=",
        "/releases?worker=",
        "/releases?state=",
        "/connect?script_name=",
        "/new?plan=",
        "/plans?name=",
        "/?done=",
    ] {
        let page = text(&browser.get(&format!("{path}%3Cscript%3Ealert(1)%3C/script%3E%22%3E")));
        assert!(!page.contains("<script>"), "{path}: {page}");
    }
}

/// How SQLite goes about a statement, step by step.
fn plan_of(world: &World, statement: &Statement) -> Vec<String> {
    let sql = statement.sql.replace("?1", "'x'");
    let mut sql = sql.replace("?2", "48").replace("?3", "0");
    for i in 4..=8 {
        sql = sql.replace(&format!("?{i}"), "7");
    }
    let rows = world.rows(&format!("EXPLAIN QUERY PLAN {sql}"));
    let detail = |row: &serde_json::Map<String, Value>| row["detail"].as_str().unwrap().to_owned();
    rows.iter().map(detail).collect()
}

/// Whether a step goes through the rows of a table: not through an index, nor to rows that an index or key names.
fn reads_a_table(step: &str) -> bool {
    step.starts_with("SCAN ") && !step.contains("INDEX") && !step.contains("CONSTANT ROW")
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
        "/new",
        "/new?plan=good",
        "/webhooks",
        &release,
    ] {
        *world.tape.borrow_mut() = Some(Tape::default());
        browser.page(path);
        let tape = world.tape.borrow_mut().take().unwrap();
        assert_eq!(tape.batches.len(), 1, "{path}");
        if path == "/" {
            // Of releases, only those that are shown are read; plans are few.
            let steps = plan_of(&world, &tape.batches[0][1]);
            let reads = |step: &&String| {
                reads_a_table(step) && !["SCAN k", "SCAN w", "SCAN s"].contains(&step.as_str())
            };
            let tables: Vec<&String> = steps.iter().filter(reads).collect();
            let few = [
                "SCAN plans",
                "SCAN connected_workers",
                "SCAN (subquery",
                "SCAN seen",
            ];
            assert!(
                steps.iter().all(|step| !step.starts_with("SCAN releases")
                    || step == "SCAN releases USING COVERING INDEX releases_worker"),
                "{steps:#?}"
            );
            let of_worker = "USING COVERING INDEX releases_worker (account_id=? AND script_name>?)";
            assert!(
                steps.iter().any(|step| step.ends_with(of_worker)),
                "{steps:#?}"
            );
            assert!(
                tables
                    .iter()
                    .all(|step| few.iter().any(|few| step.starts_with(few))),
                "{steps:#?}"
            );
        }
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
        let steps = plan_of(&world, &tape.batches[0][0]);
        assert!(
            steps.iter().all(|step| !reads_a_table(step)),
            "{path}: {steps:?}"
        );
        let by_id = |step: &String| {
            step.starts_with("SEARCH ") && (step.contains("(id=?)") || step.contains("(rowid=?)"))
        };
        assert!(steps.len() == 1 && by_id(&steps[0]), "{steps:?}");
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
         INSERT INTO plans SELECT 'shop' || i, json_set(body, '$.worker.script_name', 'shop' || i), revision, created_at, updated_at
            FROM plans, n WHERE name = 'shop';
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
        "/plans",
        "/plans?page=4",
        "/plans?page=99999999999999999999",
        "/new",
        "/new?page=2",
    ] {
        browser.page(path);
    }
    assert!(browser.page("/").contains("Next"));
    for path in ["/plans", "/new"] {
        let plans = |page: usize| browser.page(&format!("{path}?page={page}"));
        let first = plans(1);
        assert_eq!(first.matches("<li class=\"card\">").count(), 60);
        assert!(!first.contains("Previous") && first.contains("Next"));
        let last = plans(4);
        assert_eq!(last.matches("<li class=\"card\">").count(), 202 - 180);
        assert!(last.contains("Previous") && !last.contains("Next"));
        // There are plans, though none here.
        let none = plans(99);
        assert!(none.contains("Previous") && !none.contains("plan yet"));
    }
    let older = browser.page("/releases");
    let next = after(&older, "aria-label=\"Pages\"><a href=\"").replace("&amp;", "&");
    assert!(browser.page(&next).contains("Older releases"));
}

#[test]
fn whatever_the_history_is_filtered_by_is_found_by_an_index() {
    let (world, browser) = scene();
    for (query, index) in [
        ("", "releases_created"),
        ("worker=a", "releases_of_worker"),
        ("worker=a&plan=b&state=paused", "releases_of_worker"),
        ("plan=b&state=paused", "releases_of_plan"),
        ("state=superseded", "releases_of_state"),
        ("state=rolling_out", "releases_of_state"),
    ] {
        *world.tape.borrow_mut() = Some(Tape::default());
        browser.page(&format!("/releases?{query}"));
        let tape = world.tape.borrow_mut().take().unwrap();
        let steps = plan_of(&world, &tape.batches[0][0]);
        assert!(
            steps[0].starts_with("SEARCH releases") && steps[0].contains(index),
            "{query}: {steps:?}"
        );
        let sorts = steps.iter().any(|step| step.contains("TEMP B-TREE"));
        assert_eq!(sorts, query == "state=rolling_out", "{query}: {steps:?}");
    }
}

#[test]
fn events_have_pages_and_a_report_knows_its_end_however_much_has_happened() {
    let (world, browser, ids) = full();
    let path = format!("/releases/{}", ids[1]);
    let short = browser.page(&path);
    assert!(!short.contains("Older events") && short.contains("Harm that was found"));
    world.execute(&format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 100)
         INSERT INTO events SELECT release, 1000 + i, json_object('sequence', 1000 + i, 'type', 'alert.raised', 'at', 1790845200000,
            'actor', 'hmd', 'stage', NULL, 'reason', NULL, 'detail', 'alert no. ' || i, 'data', NULL)
            FROM n, (SELECT DISTINCT release FROM events WHERE release = '{}')",
        ids[1]
    ));
    let page = browser.page(&path);
    assert!(page.contains("alert no. 100") && !page.contains("alert no. 60<"));
    assert!(
        page.contains("Harm that was found") && page.contains("Decided by"),
        "{page}"
    );
    let older = after(&page, "aria-label=\"Events\"><a href=\"");
    let next = browser.page(&format!("{path}{}", older.split('#').next().unwrap()));
    assert!(
        next.contains("alert no. 60<") && !next.contains("alert no. 61<"),
        "{next}"
    );
    assert!(next.contains("Harm that was found"));
}

#[test]
fn compared_releases_show_what_was_judged_last() {
    let (_world, browser, ids) = full();
    let page = browser.page(&format!("/compare?id={}&id={}", ids[0], ids[1]));
    for needed in [
        "Health at last",
        "verdict safe",
        "verdict harm",
        "In stage 3",
    ] {
        assert!(page.contains(needed), "{needed} in {page}");
    }
}

#[test]
fn who_comes_by_a_link_is_told_nothing_that_did_not_happen() {
    let (_world, browser, ids) = full();
    let path = format!("/releases/{}?done=approve", ids[0]);
    assert!(browser.page(&path).contains("Approved."));
    let from = |site| text(&browser.get_with(&path, &[("sec-fetch-site", site)]));
    assert!(from("same-origin").contains("Approved."));
    assert!(!from("none").contains("Approved.") && !from("cross-site").contains("Approved."));
}

#[test]
fn a_refused_command_leads_back_and_keeps_what_was_typed() {
    let (_world, browser, ids) = full();
    let path = format!("/releases/{}", ids[0]);
    let fields = [("stage", "1"), ("comment", EVIL)];
    let refused = browser.post(&path, &format!("{path}/deny"), &fields);
    assert_eq!(refused.status(), 409);
    let page = text(&refused);
    assert!(
        page.contains(&format!("<a href=\"{path}\">Back</a>")),
        "{page}"
    );
    assert!(page.contains("&lt;script&gt;alert(1)") && !page.contains("<script>"));
    let missing = text(&browser.get("/webhooks/sub_none/deliveries/msg_none"));
    assert!(
        missing.contains("<a href=\"/webhooks/sub_none\">Back</a>"),
        "{missing}"
    );
}
