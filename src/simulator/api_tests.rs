//! Tests of the API without sockets.

use serde_json::{Value, json};

use super::model_tests::{ACCOUNT, SCRIPT, START, split, version, with_two_versions};
use super::{ApiAnswer, Behavior, Cloudflare, FaultRule, HandDeployment, VersionRef};

const SCRIPTS: &str = "/client/v4/accounts/acc/workers/scripts";

fn get(cloudflare: &mut Cloudflare, path: &str) -> ApiAnswer {
    cloudflare.handle(START, "GET", &format!("{SCRIPTS}{path}"), b"")
}

fn deploy(cloudflare: &mut Cloudflare, body: &Value) -> ApiAnswer {
    let path = format!("{SCRIPTS}/{SCRIPT}/deployments");
    cloudflare.handle(START, "POST", &path, body.to_string().as_bytes())
}

fn wanted(parts: &[(&VersionRef, f64)], message: &str) -> Value {
    json!({
        "strategy": "percentage", "versions": split(parts),
        "annotations": {"workers/message": message},
    })
}

fn failure(answer: &ApiAnswer) -> (u16, &Value) {
    assert_eq!(answer.body["success"], false);
    assert_eq!(answer.body["result"], Value::Null);
    (answer.status, &answer.body["errors"][0]["code"])
}

#[test]
fn a_created_deployment_heads_the_list() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let body = wanted(&[(&v[0], 90.0), (&v[1], 10.0)], "hmd rel=1 seq=2");
    let made = deploy(&mut cloudflare, &body);
    assert_eq!(made.status, 200);
    let result = &made.body["result"];
    assert_eq!(
        result["versions"],
        json!([{"version_id": v[0].id, "percentage": 90}, {"version_id": v[1].id, "percentage": 10}])
    );
    assert_eq!(result["source"], "api");
    assert_eq!(result["strategy"], "percentage");
    assert_eq!(
        result["annotations"],
        json!({"workers/message": "hmd rel=1 seq=2", "workers/triggered_by": "deployment"})
    );
    let list = get(&mut cloudflare, "/shop/deployments").body;
    let deployments = list["result"]["deployments"].as_array().unwrap();
    assert_eq!(deployments.len(), 2);
    assert_eq!(deployments[0], *result);
    assert_eq!(deployments[1]["source"], "wrangler");
    assert_eq!(
        deployments[1]["versions"],
        json!([{"version_id": v[0].id, "percentage": 100}])
    );
}

#[test]
fn the_list_holds_the_newest_25_deployments_in_order() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    for seq in 0..30 {
        let body = wanted(&[(&v[seq % 2], 100.0)], &seq.to_string());
        assert_eq!(deploy(&mut cloudflare, &body).status, 200);
    }
    let by_hand = HandDeployment {
        versions: split(&[(&v[0], 100.0)]),
        message: Some("by hand".to_owned()),
    };
    cloudflare
        .deploy_by_hand(START, ACCOUNT, SCRIPT, by_hand)
        .unwrap();
    let list = get(&mut cloudflare, "/shop/deployments").body;
    let deployments = list["result"]["deployments"].as_array().unwrap();
    assert_eq!(deployments.len(), 25);
    assert_eq!(deployments[0]["annotations"]["workers/message"], "by hand");
    assert_eq!(deployments[1]["annotations"]["workers/message"], "29");
    let created = deployments.iter().map(|one| one["created_on"].as_str());
    assert!(created.is_sorted_by(|a, b| a > b));
}

#[test]
fn refused_deployments_say_why_in_status_and_code() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let mut other_strategy = wanted(&[(&v[0], 100.0)], "");
    other_strategy["strategy"] = "canary".into();
    for body in [
        wanted(&[(&v[0], 100.0), (&v[1], 0.0)], ""),
        wanted(&[(&v[0], 50.0), (&v[1], 49.0)], ""),
        wanted(&[], ""),
        other_strategy,
        json!({"strategy": "percentage"}),
        json!("not an object"),
    ] {
        assert_eq!(deploy(&mut cloudflare, &body).status, 400, "{body}");
    }
    let unknown = VersionRef {
        id: "00000000-0000-4000-8000-000000000000".to_owned(),
        ..v[0].clone()
    };
    let answer = deploy(&mut cloudflare, &wanted(&[(&unknown, 100.0)], ""));
    assert_eq!(failure(&answer), (404, &json!(100_146)));
    let list = get(&mut cloudflare, "/shop/deployments").body;
    let deployments = list["result"]["deployments"].as_array();
    assert_eq!(deployments.map(Vec::len), Some(1));
}

#[test]
fn what_does_not_exist_is_not_found_with_its_code() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    for path in ["/nope/versions", "/nope/deployments", "/nope/versions/x"] {
        assert_eq!(failure(&get(&mut cloudflare, path)), (404, &json!(10007)));
    }
    let answer = get(&mut cloudflare, "/shop/versions/nope");
    assert_eq!(failure(&answer), (404, &json!(100_146)));
    for path in ["", "/shop", "/shop/secrets", "/shop/deployments/x/y"] {
        assert_eq!(failure(&get(&mut cloudflare, path)), (404, &json!(7003)));
    }
    let answer = get(&mut cloudflare, "/shop/deployments/x");
    assert_eq!(failure(&answer), (404, &json!(10336)));
    let deleted = cloudflare.handle(START, "DELETE", "/client/v4/accounts/acc", b"");
    assert_eq!(failure(&deleted), (404, &json!(7003)));
    let query = "/client/v4/accounts/other/workers/observability/telemetry/query";
    let answer = cloudflare.handle(START, "POST", query, b"{}");
    assert_eq!(failure(&answer), (404, &json!(7003)));
}

#[test]
fn versions_are_listed_newest_first_and_in_pages() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    for number in 3..=105 {
        let spec = version(&format!("v{number}"), Behavior::default());
        cloudflare
            .upload_version(START, ACCOUNT, SCRIPT, spec)
            .unwrap();
    }
    let mut numbers = |query: &str| {
        let answer = get(&mut cloudflare, &format!("/shop/versions{query}"));
        assert_eq!(answer.status, 200);
        let items = answer.body["result"]["items"].as_array().unwrap().clone();
        let numbers = items.iter().filter_map(|item| item["number"].as_u64());
        (numbers.collect::<Vec<_>>(), items)
    };
    let (deployable, items) = numbers("?deployable=true&page=3");
    assert_eq!(deployable, (6..=105).rev().collect::<Vec<_>>());
    assert_eq!(items[0]["annotations"]["workers/tag"], "v105");
    assert_eq!(numbers("?page=2&per_page=3").0, [102, 101, 100]);
    assert!(numbers("?page=36&per_page=3").0.is_empty());
    assert_eq!(numbers("").0.len(), 20);
    assert_eq!(get(&mut cloudflare, "/shop/versions?page=0").status, 400);

    let one = get(&mut cloudflare, &format!("/shop/versions/{}", v[1].id)).body;
    assert_eq!(one["result"]["number"], 2);
    assert!(one["result"]["resources"]["script"].is_object());
}

fn deployments_fault() -> FaultRule {
    FaultRule {
        method: Some("POST".to_owned()),
        path_contains: "/deployments".to_owned(),
        status: Some(503),
        times: Some(1),
        ..FaultRule::default()
    }
}

fn head(cloudflare: &mut Cloudflare) -> Value {
    let list = get(cloudflare, "/shop/deployments").body;
    list["result"]["deployments"][0]["versions"][0]["version_id"].clone()
}

#[test]
fn a_fault_keeps_a_call_from_happening() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    cloudflare.set_faults(vec![deployments_fault()]).unwrap();
    let body = wanted(&[(&v[1], 100.0)], "");
    assert_eq!(
        failure(&deploy(&mut cloudflare, &body)),
        (503, &json!(10013))
    );
    assert_eq!(head(&mut cloudflare), v[0].id);
    assert_eq!(deploy(&mut cloudflare, &body).status, 200);
    assert_eq!(head(&mut cloudflare), v[1].id);
}

#[test]
fn an_executed_fault_loses_only_the_answer() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let lost = FaultRule {
        executed: true,
        ..deployments_fault()
    };
    cloudflare.set_faults(vec![lost]).unwrap();
    let answer = deploy(&mut cloudflare, &wanted(&[(&v[1], 100.0)], ""));
    assert_eq!(failure(&answer), (503, &json!(10013)));
    assert_eq!(head(&mut cloudflare), v[1].id);
}

#[test]
fn the_first_rule_with_times_left_counts() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let limited = FaultRule {
        status: Some(429),
        times: Some(2),
        ..deployments_fault()
    };
    let blocked = FaultRule {
        status: Some(400),
        code: Some(10220),
        message: Some("The following secrets have changed: KEY".to_owned()),
        ..deployments_fault()
    };
    let slow = FaultRule {
        status: None,
        delay_ms: 250,
        times: None,
        ..deployments_fault()
    };
    cloudflare.set_faults(vec![limited, blocked, slow]).unwrap();
    let body = wanted(&[(&v[1], 100.0)], "");
    for _ in 0..2 {
        let answer = deploy(&mut cloudflare, &body);
        assert_eq!(answer.status, 429);
        let retry_after = ("retry-after".to_owned(), "1".to_owned());
        assert_eq!(answer.headers, [retry_after]);
    }
    assert_eq!(
        failure(&deploy(&mut cloudflare, &body)),
        (400, &json!(10220))
    );
    let late = deploy(&mut cloudflare, &body);
    assert_eq!((late.status, late.delay_ms), (200, 250));
    assert_eq!(get(&mut cloudflare, "/shop/deployments").delay_ms, 0);

    let nonsense = FaultRule {
        status: Some(200),
        ..deployments_fault()
    };
    assert!(cloudflare.set_faults(vec![nonsense]).is_err());
}
