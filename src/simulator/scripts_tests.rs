//! Tests of what the API knows about Workers besides their traffic: settings, secrets, Durable Objects.

use serde_json::{Value, json};

use super::api::ApiAnswer;
use super::model_tests::{ACCOUNT, SCRIPT, START, version, with_two_versions};
use super::{Behavior, Cloudflare, LogsPatch, Resources, VersionRef, VersionSpec, WorkerPatch};

fn call(cloudflare: &mut Cloudflare, method: &str, rest: &str, body: &Value) -> ApiAnswer {
    let path = format!("/client/v4/accounts/{ACCOUNT}/workers/scripts/{SCRIPT}{rest}");
    let body = if body.is_null() {
        String::new()
    } else {
        body.to_string()
    };
    cloudflare.handle(START, method, &path, body.as_bytes())
}

fn get(cloudflare: &mut Cloudflare, rest: &str) -> ApiAnswer {
    call(cloudflare, "GET", rest, &Value::Null)
}

fn post(cloudflare: &mut Cloudflare, query: &str, parts: &[(&VersionRef, f64)]) -> ApiAnswer {
    let versions: Vec<Value> = parts
        .iter()
        .map(|(version, share)| json!({"version_id": version.id, "percentage": share}))
        .collect();
    let body = json!({"strategy": "percentage", "versions": versions});
    call(cloudflare, "POST", &format!("/deployments{query}"), &body)
}

fn code(answer: &ApiAnswer) -> (u16, i64) {
    (
        answer.status,
        answer.body["errors"][0]["code"].as_i64().unwrap_or(0),
    )
}

#[test]
fn the_settings_say_what_is_stored() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    let settings = get(&mut cloudflare, "/script-settings").body;
    let expected = json!({"enabled": true, "head_sampling_rate": 1});
    assert_eq!(settings["result"]["observability"], expected);
    let patch = WorkerPatch {
        head_sampling_rate: Some(0.25),
        logs: Some(LogsPatch {
            invocation_logs: Some(false),
            ..LogsPatch::default()
        }),
        ..WorkerPatch::default()
    };
    cloudflare
        .patch_worker(START, ACCOUNT, SCRIPT, patch)
        .unwrap();
    let settings = get(&mut cloudflare, "/script-settings").body;
    let expected = json!({
        "enabled": true, "head_sampling_rate": 0.25,
        "logs": {"enabled": true, "invocation_logs": false, "head_sampling_rate": null, "persist": true},
    });
    assert_eq!(settings["result"]["observability"], expected);
}

#[test]
fn a_changed_secret_deploys_a_version_and_bars_the_older_ones() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let with_key = VersionSpec {
        resources: Resources {
            secrets: ["API_KEY".to_owned()].into(),
            ..Resources::default()
        },
        ..version("v3", Behavior::default())
    };
    let third = cloudflare
        .upload_version(START, ACCOUNT, SCRIPT, with_key)
        .unwrap();
    assert_eq!(
        post(&mut cloudflare, "", &[(&v[0], 50.0), (&third, 50.0)]).status,
        200
    );
    for name in ["DB_URL", "API_KEY"] {
        cloudflare
            .put_secret(START, ACCOUNT, SCRIPT, name, true)
            .unwrap();
    }
    let deployments = get(&mut cloudflare, "/deployments").body;
    let head = &deployments["result"]["deployments"][0];
    assert_eq!(head["annotations"]["workers/triggered_by"], "secret");
    assert_eq!(head["versions"][0]["percentage"], 100);
    let newest = head["versions"][0]["version_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let page = get(&mut cloudflare, &format!("/versions/{newest}")).body;
    assert_eq!(
        page["result"]["annotations"]["workers/triggered_by"],
        "secret"
    );
    assert!(page["result"]["annotations"].get("workers/tag").is_none());
    let bindings = json!([
        {"type": "secret_text", "name": "API_KEY"},
        {"type": "secret_text", "name": "DB_URL"},
    ]);
    assert_eq!(page["result"]["resources"]["bindings"], bindings);

    let refused = post(&mut cloudflare, "", &[(&v[0], 100.0)]);
    assert_eq!(code(&refused), (400, 10_220));
    let message = refused.body["errors"][0]["message"].as_str().unwrap();
    assert!(
        message.ends_with("The following secrets have changed: API_KEY, DB_URL"),
        "{message}"
    );
    assert_eq!(
        post(&mut cloudflare, "?force=true", &[(&v[0], 100.0)]).status,
        200
    );
    // What is uploaded from now on has the secrets as they are.
    let fourth = cloudflare
        .upload_version(START, ACCOUNT, SCRIPT, version("v4", Behavior::default()))
        .unwrap();
    assert_eq!(post(&mut cloudflare, "", &[(&fourth, 100.0)]).status, 200);
}

#[test]
fn a_secret_that_is_changed_without_a_deployment_bars_the_older_versions_too() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let before = get(&mut cloudflare, "/deployments").body;
    let made = cloudflare
        .put_secret(START, ACCOUNT, SCRIPT, "API_KEY", false)
        .unwrap();
    assert_eq!(get(&mut cloudflare, "/deployments").body, before);
    let versions = get(&mut cloudflare, "/versions?deployable=true").body;
    let newest = &versions["result"]["items"][0];
    assert_eq!(newest["id"], made.id.as_str());
    assert_eq!(newest["annotations"]["workers/triggered_by"], "secret");
    let refused = post(&mut cloudflare, "", &[(&v[0], 100.0)]);
    assert_eq!(code(&refused), (400, 10_220));
    assert_eq!(post(&mut cloudflare, "", &[(&made, 100.0)]).status, 200);
}

#[test]
fn an_unknown_account_has_no_route() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    let other = "/client/v4/accounts/00000000000000000000000000000000/workers/scripts";
    for rest in ["versions", "deployments", "script-settings"] {
        let path = format!("{other}/{SCRIPT}/{rest}");
        let answer = cloudflare.handle(START, "GET", &path, b"");
        assert_eq!(code(&answer), (404, 7_003), "{rest}");
    }
    cloudflare.put_account("00000000000000000000000000000000");
    let path = format!("{other}/{SCRIPT}/versions");
    let answer = cloudflare.handle(START, "GET", &path, b"");
    assert_eq!(code(&answer), (404, 10_007), "an account without Workers");
}

#[test]
fn durable_object_migrations_part_versions() {
    let (mut cloudflare, v) = with_two_versions(1.0);
    let migrated = VersionSpec {
        resources: Resources {
            migration_tag: Some("m1".to_owned()),
            durable_objects: ["Cart".to_owned()].into(),
            ..Resources::default()
        },
        ..version("v3", Behavior::default())
    };
    let third = cloudflare
        .upload_version(START, ACCOUNT, SCRIPT, migrated)
        .unwrap();
    let page = get(&mut cloudflare, &format!("/versions/{}", third.id)).body;
    let runtime = &page["result"]["resources"]["script_runtime"];
    assert_eq!(runtime["migration_tag"], "m1");
    assert_eq!(runtime["exports"]["Cart"]["storage"], "sqlite");
    let split = post(
        &mut cloudflare,
        "?force=true",
        &[(&v[0], 90.0), (&third, 10.0)],
    );
    assert_eq!(code(&split), (400, 100_405));
    assert_eq!(post(&mut cloudflare, "", &[(&third, 100.0)]).status, 200);
    let back = post(&mut cloudflare, "?force=true", &[(&v[0], 100.0)]);
    assert_eq!(code(&back), (400, 100_402));
}

#[test]
fn a_removed_worker_is_gone() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    assert_eq!(
        call(&mut cloudflare, "DELETE", "", &Value::Null).status,
        200
    );
    for rest in [
        "/deployments",
        "/versions",
        "/script-settings",
        "/versions/x",
    ] {
        assert_eq!(code(&get(&mut cloudflare, rest)), (404, 10_007), "{rest}");
    }
    assert_eq!(
        code(&call(&mut cloudflare, "DELETE", "", &Value::Null)),
        (404, 10_007)
    );
}

#[test]
fn an_unknown_version_is_not_found() {
    let (mut cloudflare, _) = with_two_versions(1.0);
    let rest = "/versions/00000000-0000-4000-8000-000000000000";
    assert_eq!(code(&get(&mut cloudflare, rest)), (404, 100_146));
}
