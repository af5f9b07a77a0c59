//! Tests of what makes the real Cloudflare hard: permissions, limits, and answers that mislead.

use serde_json::{Value, json};

use super::api::ApiAnswer;
use super::model_tests::{ACCOUNT, SCRIPT, START, deploy, split, version, with_two_versions};
use super::{
    AiScript, Behavior, Cloudflare, FaultRule, HandDeployment, Scope, SwitchesPatch, TokenSpec,
};

const ROOT: &str = "/client/v4/accounts/acc";

fn path(rest: &str) -> String {
    format!("{ROOT}/workers/scripts/{SCRIPT}/{rest}")
}

fn call_as(cloudflare: &mut Cloudflare, at: i64, token: &str, method: &str, path: &str) -> u16 {
    let answer = cloudflare.handle_as(at, Some(token), method, path, b"{}");
    if answer.status == 403 {
        assert_eq!(answer.body["errors"][0]["code"], 10000);
    }
    answer.status
}

fn header<'a>(answer: &'a ApiAnswer, name: &str) -> Option<&'a str> {
    let mut headers = answer.headers.iter();
    headers
        .find(|(known, _)| known == name)
        .map(|(_, value)| value.as_str())
}

fn listed(cloudflare: &mut Cloudflare, at: i64, what: &str) -> Vec<Value> {
    let answer = cloudflare.handle(at, "GET", &path(what), b"");
    let name = if what == "versions" { "items" } else { what };
    answer.body["result"][name].as_array().unwrap().clone()
}

#[test]
fn a_token_may_do_what_its_permissions_say() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    let token = |token: &str, scopes: &[Scope]| TokenSpec {
        token: token.to_owned(),
        scopes: scopes.iter().copied().collect(),
    };
    let query = format!("{ROOT}/workers/observability/telemetry/query");
    let saved = format!("{ROOT}/workers/observability/queries");
    let model = format!("{ROOT}/ai/run/@cf/meta/llama");
    // By default any token passes, but there must be one.
    assert_eq!(
        call_as(&mut cloudflare, START, "any", "GET", &path("deployments")),
        200
    );
    assert_eq!(
        cloudflare
            .handle_as(START, None, "GET", &path("versions"), b"")
            .status,
        403
    );
    cloudflare.set_tokens(Some(vec![
        token("reader", &[Scope::ScriptsRead]),
        token("tail", &[Scope::TailRead]),
        token("writer", &[Scope::ScriptsWrite]),
        token("looker", &[Scope::ObservabilityRead]),
        token("watcher", &[Scope::ObservabilityWrite]),
        token("thinker", &[Scope::AiRead]),
    ]));
    let mut allowed =
        |token, method, path: &str| call_as(&mut cloudflare, START, token, method, path) != 403;
    assert!(!allowed("any", "GET", &path("deployments")));
    for reader in ["reader", "tail", "writer"] {
        assert!(
            allowed(reader, "GET", &path("versions?deployable=true")),
            "{reader}"
        );
        assert!(!allowed(reader, "POST", &query), "{reader}");
    }
    assert!(!allowed("reader", "POST", &path("deployments")));
    assert!(!allowed("tail", "GET", &path("script-settings")));
    assert!(allowed("writer", "POST", &path("deployments")));
    assert!(!allowed("watcher", "GET", &path("versions")));
    // Reading telemetry is called writing.
    assert!(!allowed("looker", "POST", &query));
    assert!(allowed("watcher", "POST", &query));
    assert!(allowed("looker", "GET", &saved));
    assert!(!allowed("looker", "POST", &saved));
    assert!(allowed("thinker", "POST", &model));
    assert!(!allowed("writer", "POST", &model));
}

#[test]
fn too_many_calls_shut_a_token_out_of_everything_for_five_minutes() {
    let (mut cloudflare, _) = with_two_versions(0.0);
    let list = path("deployments");
    for call in 0..1_200 {
        let at = START + call * 100;
        assert_eq!(
            call_as(&mut cloudflare, at, "t", "GET", &list),
            200,
            "{call}"
        );
    }
    let refused_at = START + 120_000;
    let answer = cloudflare.handle_as(refused_at, Some("t"), "GET", &list, b"");
    assert_eq!(
        (answer.status, header(&answer, "retry-after")),
        (429, Some("300"))
    );
    // Also what would save the day, and also when the first calls are long past.
    for (after_s, left) in [(1, "299"), (250, "50"), (299, "1")] {
        let at = refused_at + after_s * 1000;
        let answer = cloudflare.handle_as(at, Some("t"), "POST", &list, b"{}");
        assert_eq!(
            (answer.status, header(&answer, "retry-after")),
            (429, Some(left))
        );
    }
    assert_eq!(
        call_as(&mut cloudflare, refused_at, "other", "GET", &list),
        200
    );
    let again = cloudflare.handle_as(refused_at + 300_000, Some("t"), "GET", &list, b"");
    assert_eq!(again.status, 200);
    assert_eq!(
        header(&again, "ratelimit"),
        Some("\"default\";r=1199;t=300")
    );
    assert_eq!(
        header(&again, "ratelimit-policy"),
        Some("\"default\";q=1200;w=300")
    );
}

#[test]
fn the_call_limit_slides_and_can_be_changed() {
    let (mut cloudflare, _) = with_two_versions(0.0);
    let list = path("deployments");
    cloudflare.set_call_limit(Some(2));
    let mut at = |seconds: i64| call_as(&mut cloudflare, START + seconds * 1000, "t", "GET", &list);
    assert_eq!([at(0), at(200), at(300), at(400)], [200, 200, 200, 429]);
    cloudflare.set_call_limit(None);
    for _ in 0..3_000 {
        assert_eq!(
            call_as(&mut cloudflare, START + 400_000, "t", "GET", &list),
            200
        );
    }
}

#[test]
fn created_deployments_may_be_told_of_in_part() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    cloudflare.set_switches(SwitchesPatch {
        partial_answers: Some(true),
        ..SwitchesPatch::default()
    });
    let body = json!({"strategy": "percentage", "versions": split(&[(&v[1], 100.0)])}).to_string();
    let answer = cloudflare.handle(START, "POST", &path("deployments"), body.as_bytes());
    let told = &answer.body["result"];
    assert!(told["id"].is_string());
    for field in [
        "strategy",
        "versions",
        "created_on",
        "source",
        "author_email",
    ] {
        assert!(told.get(field).is_none(), "{field}");
    }
    assert_eq!(
        listed(&mut cloudflare, START, "deployments")[0]["id"],
        told["id"]
    );
}

#[test]
fn zero_percent_is_taken_only_if_switched_on() {
    let (mut cloudflare, v) = with_two_versions(50.0);
    let parts = [(&v[0], 100.0), (&v[1], 0.0)];
    assert!(deploy(&mut cloudflare, START, &parts).is_err());
    cloudflare.set_switches(SwitchesPatch {
        zero_percent: Some(true),
        ..SwitchesPatch::default()
    });
    deploy(&mut cloudflare, START, &parts).unwrap();
    let status = cloudflare
        .worker_status(START + 60_000, ACCOUNT, SCRIPT)
        .unwrap();
    assert_eq!(status.versions[1].requests, 0);
    assert!(status.versions[0].requests > 2_000);
}

#[test]
fn nothing_compares_before_it_writes() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let read = listed(&mut cloudflare, START, "deployments")[0]["id"].clone();
    let hotfix = HandDeployment {
        versions: split(&[(&v[1], 100.0)]),
        message: None,
    };
    cloudflare
        .deploy_by_hand(START, ACCOUNT, SCRIPT, hotfix)
        .unwrap();
    // Whoever read before the hotfix overwrites it without a word.
    deploy(&mut cloudflare, START, &[(&v[0], 100.0)]).unwrap();
    let all = listed(&mut cloudflare, START, "deployments");
    assert_eq!((all.len(), &all[2]["id"]), (3, &read));
    assert_eq!(all[0]["versions"][0]["version_id"], v[0].id.as_str());
}

#[test]
fn a_fault_can_hang_before_or_after_the_effect() {
    for executed in [false, true] {
        let (mut cloudflare, v) = with_two_versions(1.0);
        let rule = FaultRule {
            method: Some("POST".to_owned()),
            hang: true,
            executed,
            times: Some(1),
            ..FaultRule::default()
        };
        cloudflare.add_fault(rule).unwrap();
        let body = json!({"strategy": "percentage", "versions": split(&[(&v[1], 100.0)])});
        let body = body.to_string();
        let answer = cloudflare.handle(START, "POST", &path("deployments"), body.as_bytes());
        assert!(answer.hangs);
        let made = listed(&mut cloudflare, START, "deployments").len();
        assert_eq!(made, 1 + usize::from(executed));
        let answer = cloudflare.handle(START, "POST", &path("deployments"), body.as_bytes());
        assert!(!answer.hangs && answer.status == 200);
    }
}

#[test]
fn lists_can_lag_and_be_cut() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    deploy(&mut cloudflare, START + 10_000, &[(&v[1], 100.0)]).unwrap();
    let third = version("v3", Behavior::default());
    let third = cloudflare
        .upload_version(START + 10_000, ACCOUNT, SCRIPT, third)
        .unwrap();
    let rule = FaultRule {
        lag_ms: 5_000,
        ..FaultRule::default()
    };
    cloudflare.set_faults(vec![rule]).unwrap();
    let page = path(&format!("versions/{}", third.id));
    let mut seen = |at| {
        let deployments = listed(&mut cloudflare, at, "deployments").len();
        let versions = listed(&mut cloudflare, at, "versions").len();
        (
            deployments,
            versions,
            cloudflare.handle(at, "GET", &page, b"").status,
        )
    };
    assert_eq!(seen(START + 14_000), (1, 2, 404));
    assert_eq!(seen(START + 15_000), (2, 3, 200));
    let rule = FaultRule {
        keep_items: Some(1),
        ..FaultRule::default()
    };
    cloudflare.set_faults(vec![rule]).unwrap();
    let cut = listed(&mut cloudflare, START + 15_000, "versions");
    assert_eq!((cut.len(), &cut[0]["id"]), (1, &json!(third.id)));
    assert_eq!(
        listed(&mut cloudflare, START + 15_000, "deployments").len(),
        1
    );
}

#[test]
fn a_deployment_is_found_by_its_id_and_the_serving_one_stays() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    deploy(&mut cloudflare, START, &[(&v[1], 100.0)]).unwrap();
    let all = listed(&mut cloudflare, START, "deployments");
    let one = |at: usize| path(&format!("deployments/{}", all[at]["id"].as_str().unwrap()));
    let found = cloudflare.handle(START, "GET", &one(1), b"");
    assert_eq!(found.body["result"], all[1]);
    assert_eq!(cloudflare.handle(START, "DELETE", &one(0), b"").status, 400);
    assert_eq!(cloudflare.handle(START, "DELETE", &one(1), b"").status, 200);
    let gone = cloudflare.handle(START, "GET", &one(1), b"");
    assert_eq!(gone.body["errors"][0]["code"], 10336);
}

#[test]
fn models_say_what_they_are_told_to() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    let run = |cloudflare: &mut Cloudflare, model: &str, body: &Value| {
        let path = format!("{ROOT}/ai/run/{model}");
        cloudflare.handle(START, "POST", &path, body.to_string().as_bytes())
    };
    let ask = json!({"messages": [{"role": "user", "content": "why?"}]});
    let model = "@cf/meta/llama-3.3-70b-instruct-fp8-fast";
    let answer = run(&mut cloudflare, model, &ask);
    assert!(answer.body["result"]["response"].as_str().unwrap().len() > 20);
    assert!(answer.body["result"]["usage"]["total_tokens"].is_u64());
    let fails = AiScript {
        status: Some(500),
        times: Some(1),
        ..AiScript::default()
    };
    let says = AiScript {
        model_contains: "llama".to_owned(),
        text: Some("no".to_owned()),
        delay_ms: 7,
        ..AiScript::default()
    };
    cloudflare.set_ai(vec![fails, says]).unwrap();
    assert_eq!(run(&mut cloudflare, model, &ask).status, 500);
    let answer = run(&mut cloudflare, model, &ask);
    assert_eq!(
        (&answer.body["result"]["response"], answer.delay_ms),
        (&json!("no"), 7)
    );
    assert_eq!(run(&mut cloudflare, "gpt", &ask).status, 400);
    assert_eq!(run(&mut cloudflare, model, &json!({})).status, 400);
}
