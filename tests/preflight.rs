//! Preflight over the simulated Cloudflare: each check in each status, alone and on the way to a release.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

mod support;

use std::rc::Rc;

use hmd::simulator::{
    HandDeployment, LogsPatch, Resources, VersionShare, VersionSpec, WorkerPatch,
};
use serde_json::{Value, json};
use support::{ACCOUNT, Call, Fault, World, healthy};

const MINUTE: i64 = 60_000;

/// A Worker `shop` with two versions, of which the first has served for a while, and its plan.
struct Shop {
    world: Rc<World>,
    versions: Vec<String>,
}

fn shop() -> Shop {
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    world.now.set(world.now.get() + 15 * MINUTE);
    Shop { world, versions }
}

impl Shop {
    fn cloudflare<T>(&self, change: impl FnOnce(&mut hmd::simulator::Cloudflare, i64) -> T) -> T {
        change(
            &mut self.world.cloudflare.lock().unwrap(),
            self.world.now.get(),
        )
    }

    fn upload(&self, resources: Resources) -> String {
        let spec = VersionSpec {
            tag: "next".to_owned(),
            resources,
            ..VersionSpec::default()
        };
        let made = self.cloudflare(|cf, now| cf.upload_version(now, ACCOUNT, "shop", spec));
        made.unwrap().id
    }

    fn by_hand(&self, split: &[(usize, f64)]) {
        let versions = split
            .iter()
            .map(|(i, percentage)| VersionShare {
                version_id: self.versions[*i].clone(),
                percentage: *percentage,
            })
            .collect();
        let message = None;
        let deployment = HandDeployment { versions, message };
        self.cloudflare(|cf, now| cf.deploy_by_hand(now, ACCOUNT, "shop", deployment))
            .unwrap();
    }

    fn put_secret(&self) {
        self.cloudflare(|cf, now| cf.put_secret(now, ACCOUNT, "shop", "API_KEY", true))
            .unwrap();
    }

    fn logs(&self, logs: LogsPatch) {
        self.world.settings(WorkerPatch {
            logs: Some(logs),
            ..WorkerPatch::default()
        });
    }

    /// Calls whose address contains this fail so.
    fn fail(&self, part: &'static str, fault: Fault) {
        self.world.set_rule(move |call| match call {
            Call::Http(request) if request.url.contains(part) => Some(fault),
            _ => None,
        });
    }

    /// Calls whose path contains this are refused as by Cloudflare itself.
    fn refuse(&self, part: &str, status: u16) {
        let rule = hmd::simulator::FaultRule {
            path_contains: part.to_owned(),
            status: Some(status),
            ..hmd::simulator::FaultRule::default()
        };
        self.cloudflare(|cf, _| cf.set_faults(vec![rule])).unwrap();
    }

    fn preflight_of(&self, more: &Value) -> (u16, Value) {
        let mut body = json!({"plan": "shop", "new_version": self.versions[1]});
        let fields = more.as_object().cloned().unwrap_or_default();
        body.as_object_mut().unwrap().extend(fields);
        self.world.api("POST", "/v1/releases/preflight", &body)
    }

    fn preflight(&self) -> Value {
        let (status, answer) = self.preflight_of(&Value::Null);
        assert_eq!(status, 200, "{answer}");
        answer
    }

    fn create(&self, more: &Value) -> (u16, Value) {
        let mut body = json!({"plan": "shop", "new_version": self.versions[1]});
        let fields = more.as_object().cloned().unwrap_or_default();
        body.as_object_mut().unwrap().extend(fields);
        self.world.api("POST", "/v1/releases", &body)
    }
}

fn named<'a>(answer: &'a Value, name: &str) -> &'a Value {
    let mut checks = answer["checks"].as_array().unwrap().iter();
    checks.find(|check| check["name"] == name).unwrap()
}

/// Names of the checks of a list.
fn names(checks: &Value) -> Vec<&str> {
    let checks = checks.as_array().unwrap().iter();
    checks
        .map(|check| check["name"].as_str().unwrap())
        .collect()
}

/// Prepares a shop, and answers what else the request says.
type Prepare = fn(&Shop) -> Value;

/// A check, what makes it so, its status, and words in its detail or its action.
type Case = (&'static str, Prepare, &'static str, &'static str);

fn hold(cases: &[Case]) {
    for (name, prepare, status, words) in cases {
        let shop = shop();
        let more = prepare(&shop);
        let (answered, answer) = shop.preflight_of(&more);
        assert_eq!(answered, 200, "{answer}");
        let check = named(&answer, name);
        let text = format!("{} | {}", check["detail"], check["action"]);
        assert!(
            check["status"] == *status && text.contains(words),
            "expected {status} with {words:?}: {check}"
        );
        assert_eq!(check["action"].is_null(), *status == "passed", "{check}");
        let statuses = answer["checks"].as_array().unwrap().iter();
        let failed = statuses.filter(|check| check["status"] == "failed").count();
        assert_eq!(answer["ok"], failed == 0, "{answer}");
    }
}

#[test]
fn a_worker_in_good_order_passes_everything_and_nothing_is_changed() {
    let shop = shop();
    let (status, answer) = shop.preflight_of(&json!({"new_version": "latest"}));
    assert_eq!(status, 200, "{answer}");
    for check in answer["checks"].as_array().unwrap() {
        assert_eq!(check["status"], "passed", "{check}");
    }
    assert_eq!(
        (&answer["ok"], names(&answer["checks"]).len()),
        (&json!(true), 9)
    );
    assert_eq!(answer["old_version"], shop.versions[0]);
    assert_eq!(answer["new_version"], shop.versions[1]);
    let new = named(&answer, "new_version")["detail"].as_str().unwrap();
    assert!(new.starts_with("latest is version 2 ("), "{new}");
    assert_eq!(shop.world.rows("SELECT id FROM releases").len(), 0);
    assert!(shop.world.queue.borrow().is_empty());
    let requests = shop.world.requests.borrow();
    assert_eq!(requests.len(), 6, "{requests:?}");
    let writes = |(method, path): &&(String, String)| method != "GET" && !path.ends_with("/query");
    assert_eq!(requests.iter().find(writes), None);
}

#[test]
fn tokens() {
    hold(&[
        ("deployments_token", |_| Value::Null, "passed", "read"),
        (
            "deployments_token",
            |shop| {
                shop.refuse("/deployments", 403);
                Value::Null
            },
            "failed",
            "Workers Scripts Write",
        ),
        (
            "deployments_token",
            |shop| {
                shop.fail("/deployments", Fault::Status(500));
                Value::Null
            },
            "warning",
            "500",
        ),
        ("telemetry_token", |_| Value::Null, "passed", "ask"),
        (
            "telemetry_token",
            |shop| {
                shop.refuse("/telemetry", 403);
                Value::Null
            },
            "failed",
            "Workers Observability Write",
        ),
        (
            "telemetry_token",
            |shop| {
                shop.fail("/telemetry", Fault::Unanswered);
                Value::Null
            },
            "warning",
            "no answer within",
        ),
    ]);
}

#[test]
fn versions_and_what_serves() {
    hold(&[
        (
            "new_version",
            |_| json!({"new_version": "none"}),
            "failed",
            "none",
        ),
        (
            "new_version",
            |shop| json!({"new_version": shop.versions[0]}),
            "failed",
            "serves all traffic already",
        ),
        (
            "new_version",
            |shop| {
                shop.fail("versions?deployable", Fault::Status(502));
                Value::Null
            },
            "warning",
            "502",
        ),
        ("old_version", |_| Value::Null, "passed", "99 more uploads"),
        (
            "old_version",
            |shop| {
                for _ in 0..89 {
                    shop.upload(Resources::default());
                }
                json!({"new_version": "latest"})
            },
            "warning",
            "until 10 more",
        ),
        (
            "old_version",
            |shop| {
                for _ in 0..99 {
                    shop.upload(Resources::default());
                }
                json!({"new_version": "latest"})
            },
            "failed",
            "no longer among",
        ),
        ("serving", |_| Value::Null, "passed", "serves 100 %"),
        (
            "serving",
            |shop| {
                shop.by_hand(&[(0, 70.0), (1, 30.0)]);
                Value::Null
            },
            "failed",
            "split already",
        ),
        (
            "serving",
            |shop| json!({"old_version": shop.versions[1]}),
            "failed",
            "not old_version",
        ),
        (
            "serving",
            |shop| {
                assert_eq!(shop.create(&Value::Null).0, 201);
                Value::Null
            },
            "failed",
            "holds Worker",
        ),
        (
            "serving",
            |shop| {
                assert_eq!(shop.create(&Value::Null).0, 201);
                json!({"on_conflict": "queue"})
            },
            "warning",
            "waits for its end",
        ),
    ]);
}

#[test]
fn observability() {
    hold(&[
        (
            "observability",
            |shop| {
                shop.world.observability(false);
                Value::Null
            },
            "failed",
            "observability.enabled",
        ),
        (
            "observability",
            |shop| {
                shop.logs(LogsPatch {
                    invocation_logs: Some(false),
                    ..LogsPatch::default()
                });
                Value::Null
            },
            "failed",
            "logs.invocation_logs is false",
        ),
        (
            "observability",
            |shop| {
                shop.logs(LogsPatch {
                    persist: Some(false),
                    ..LogsPatch::default()
                });
                Value::Null
            },
            "failed",
            "logs.persist is false",
        ),
        (
            "observability",
            |shop| {
                shop.logs(LogsPatch::default());
                Value::Null
            },
            "passed",
            "logs are on",
        ),
        (
            "observability",
            |shop| {
                shop.fail("script-settings", Fault::Status(404));
                Value::Null
            },
            "warning",
            "could not be read",
        ),
    ]);
}

#[test]
fn sampling() {
    hold(&[
        ("sampling", |_| Value::Null, "passed", "enough for each SLO"),
        (
            "sampling",
            |shop| {
                shop.world.plan("shop", |plan| {
                    plan["slos"][1]["min_requests"] = json!(1_000);
                });
                Value::Null
            },
            "warning",
            "of 1000 requests in stage 1",
        ),
        (
            "sampling",
            |shop| {
                // Counted is what is stored: a tenth of the traffic would do for no stage, though all of it would.
                shop.world.settings(WorkerPatch {
                    head_sampling_rate: Some(0.1),
                    ..WorkerPatch::default()
                });
                shop.world.now.set(shop.world.now.get() + 15 * MINUTE);
                Value::Null
            },
            "warning",
            "raise head_sampling_rate",
        ),
        (
            "sampling",
            |shop| {
                shop.world.settings(WorkerPatch {
                    head_sampling_rate: Some(0.0),
                    ..WorkerPatch::default()
                });
                Value::Null
            },
            "failed",
            "head_sampling_rate is 0",
        ),
        (
            "sampling",
            |shop| {
                shop.fail("/telemetry", Fault::Status(500));
                Value::Null
            },
            "warning",
            "not known",
        ),
    ]);
    let world = World::new();
    let versions = world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |_| ());
    let idle = Shop { world, versions }.preflight();
    let sampling = named(&idle, "sampling");
    assert_eq!(
        (&sampling["status"], &idle["ok"]),
        (&json!("warning"), &json!(true))
    );
    assert!(
        sampling["action"]
            .as_str()
            .unwrap()
            .starts_with("send traffic")
    );
}

#[test]
fn durable_objects_and_secrets() {
    hold(&[
        ("durable_objects", |_| Value::Null, "passed", "same"),
        (
            "durable_objects",
            |shop| {
                let new_version = shop.upload(Resources {
                    migration_tag: Some("v2".to_owned()),
                    ..Resources::default()
                });
                json!({"new_version": new_version})
            },
            "failed",
            "wrangler deploy",
        ),
        (
            "durable_objects",
            |shop| {
                let new_version = shop.upload(Resources {
                    durable_objects: ["Cart".to_owned()].into(),
                    ..Resources::default()
                });
                json!({"new_version": new_version})
            },
            "failed",
            "Cart",
        ),
        (
            "durable_objects",
            |shop| {
                shop.fail("/versions/", Fault::Status(500));
                Value::Null
            },
            "warning",
            "could not be compared",
        ),
        (
            "secrets",
            |_| Value::Null,
            "passed",
            "no secret has changed",
        ),
        (
            "secrets",
            |shop| {
                shop.put_secret();
                Value::Null
            },
            "warning",
            "upload the new version again",
        ),
        (
            "secrets",
            |shop| {
                // Its value is changed, and then the version from before is put back.
                shop.put_secret();
                let uploaded = shop.upload(Resources::default());
                shop.cloudflare(|cf, now| {
                    let old = VersionShare {
                        version_id: shop.versions[0].clone(),
                        percentage: 100.0,
                    };
                    cf.force_deploy_by_api(now, ACCOUNT, "shop", vec![old], None)
                })
                .unwrap();
                json!({"new_version": uploaded})
            },
            "warning",
            "first split may be refused",
        ),
        (
            "secrets",
            |shop| {
                shop.fail("/versions/", Fault::Status(500));
                Value::Null
            },
            "warning",
            "could not be compared",
        ),
    ]);
}

#[test]
fn a_failed_check_stops_a_release_unless_it_is_accepted() {
    for start in [true, false] {
        let shop = shop();
        shop.world.observability(false);
        let (status, problem) = shop.create(&json!({"start": start}));
        assert_eq!(status, 422, "{problem}");
        assert_eq!(names(&problem["checks"]), ["observability"]);
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("observability: "), "{detail}");
        assert_eq!(shop.world.rows("SELECT id FROM releases").len(), 0);
        // Another check does not do.
        let (status, _) = shop.create(&json!({"start": start, "accept": ["sampling"]}));
        assert_eq!(status, 422);
        let body = json!({"start": start, "accept": ["observability", "sampling"]});
        let (_, answer) = shop.preflight_of(&body);
        assert_eq!(answer["ok"], true, "{answer}");
        let (status, release) = shop.create(&body);
        assert_eq!(status, 201, "{release}");
        assert_eq!(names(&release["preflight"]), ["observability"]);
        let id = release["id"].as_str().unwrap();
        assert_eq!(shop.world.get(id)["preflight"], release["preflight"]);
        if !start {
            let path = format!("/v1/releases/{id}/start");
            let (status, answer) = shop.world.api("POST", &path, &Value::Null);
            assert_eq!(status, 200, "{answer}");
        }
        let started = &shop.world.events(id)[0];
        assert_eq!(started["type"], "release.started");
        assert_eq!(started["data"]["accepted"], json!(["observability"]));
        assert_eq!(started["data"]["preflight"], release["preflight"]);
    }
}

#[test]
fn what_was_always_refused_is_refused_as_always() {
    let shop = shop();
    shop.world.observability(false);
    let (status, problem) = shop.create(&json!({"new_version": "none"}));
    assert_eq!(
        (status, &problem["errors"][0]["pointer"]),
        (422, &json!("/new_version"))
    );
    let (status, problem) = shop.create(&json!({"old_version": shop.versions[1]}));
    assert_eq!(status, 409, "{problem}");
    shop.by_hand(&[(0, 70.0), (1, 30.0)]);
    let (status, problem) = shop.create(&Value::Null);
    assert_eq!(status, 409, "{problem}");
    // One that starts later is held to what serves by then.
    shop.world.observability(true);
    let (status, release) = shop.create(&json!({"start": false}));
    assert_eq!(status, 201, "{release}");
    assert!(
        names(&release["preflight"]).contains(&"serving"),
        "{release}"
    );
    shop.fail("versions?deployable", Fault::Status(500));
    let (status, problem) = shop.create(&Value::Null);
    assert_eq!(status, 503, "{problem}");
}

#[test]
fn what_can_not_be_accepted_is_pointed_at() {
    let shop = shop();
    for path in ["/v1/releases", "/v1/releases/preflight"] {
        for unknown in ["observabillity", "new_version", "serving"] {
            let body =
                json!({"plan": "shop", "new_version": "latest", "accept": ["sampling", unknown]});
            let (status, problem) = shop.world.api("POST", path, &body);
            assert_eq!(status, 422, "{problem}");
            assert_eq!(problem["errors"][0]["pointer"], "/accept/1", "{problem}");
        }
    }
}

#[test]
fn warnings_do_not_stop_a_release_and_are_kept_with_it() {
    let shop = shop();
    // Everything that a Cloudflare may lack is lacking.
    shop.world.set_rule(|call| match call {
        Call::Http(request) if request.url.ends_with("script-settings") => Some(Fault::Status(404)),
        Call::Http(request) if request.url.contains("/versions/") => Some(Fault::Status(500)),
        Call::Http(request) if request.url.ends_with("/query") => Some(Fault::Unanswered),
        _ => None,
    });
    let key = [("idempotency-key", "run-7")];
    let body = json!({"plan": "shop", "new_version": "latest"});
    let create = || shop.world.try_api("POST", "/v1/releases", &key, &body);
    let (status, release) = create().unwrap();
    assert_eq!(status, 201, "{release}");
    let unread = [
        "telemetry_token",
        "observability",
        "sampling",
        "durable_objects",
        "secrets",
    ];
    assert_eq!(names(&release["preflight"]), unread);
    for check in release["preflight"].as_array().unwrap() {
        assert_eq!(check["status"], "warning", "{check}");
    }
    assert_eq!(
        create().unwrap(),
        (201, release.clone()),
        "the first answer again"
    );
    let started = &shop.world.events(release["id"].as_str().unwrap())[0];
    assert_eq!(names(&started["data"]["preflight"]), unread);
    assert_eq!(started["data"]["accepted"], json!([]));
}

#[test]
fn a_release_costs_no_more_than_six_calls_to_create() {
    let shop = shop();
    let (status, release) = shop.create(&Value::Null);
    assert_eq!(
        (status, &release["preflight"]),
        (201, &json!([])),
        "{release}"
    );
    let started = &shop.world.events(release["id"].as_str().unwrap())[0];
    assert!(started.get("data").is_none_or(Value::is_null), "{started}");
    let requests = shop.world.requests.borrow();
    assert_eq!(requests.len(), 6, "{requests:?}");
}

#[test]
fn only_a_cloudflare_that_says_nothing_at_all_is_unavailable() {
    let shop = shop();
    shop.world
        .set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Status(500)));
    assert_eq!(shop.preflight_of(&Value::Null).0, 503);
    // A token that may do nothing is an answer.
    shop.world
        .set_rule(|call| matches!(call, Call::Http(_)).then_some(Fault::Status(403)));
    let answer = shop.preflight();
    assert_eq!(answer["ok"], false);
    assert_eq!(answer["old_version"], Value::Null);
    for token in ["deployments_token", "telemetry_token"] {
        assert_eq!(named(&answer, token)["status"], "failed", "{answer}");
    }
    // So is a Worker that does not exist.
    shop.world.clear_rule();
    shop.world
        .plan("shop", |plan| plan["worker"]["script_name"] = json!("none"));
    let answer = shop.preflight();
    assert_eq!(
        (&answer["ok"], &named(&answer, "serving")["status"]),
        (&json!(false), &json!("failed"))
    );
}

#[test]
fn an_old_version_with_old_secrets_is_replaced_before_the_release() {
    let shop = shop();
    // `wrangler versions secret put`, and then the new version.
    let changed = shop.cloudflare(|cf, now| cf.put_secret(now, ACCOUNT, "shop", "API_KEY", false));
    let with_secret = changed.unwrap().id;
    let new_version = shop.upload(Resources::default());
    let wanted = json!({"new_version": new_version});
    let (_, answer) = shop.preflight_of(&wanted);
    assert_eq!(named(&answer, "secrets")["status"], "warning", "{answer}");
    let (_, release) = shop.create(&wanted);
    let end = shop.world.finish(release["id"].as_str().unwrap());
    assert_eq!(end["reason"], "deploy_failed", "{end}");
    assert_eq!(
        shop.world.split("shop"),
        [(shop.versions[0].clone(), 100.0)].into()
    );
    // What the check says helps.
    let share = VersionShare {
        version_id: with_secret,
        percentage: 100.0,
    };
    let by_hand = HandDeployment {
        versions: vec![share],
        message: None,
    };
    shop.cloudflare(|cf, now| cf.deploy_by_hand(now, ACCOUNT, "shop", by_hand))
        .unwrap();
    let (_, answer) = shop.preflight_of(&wanted);
    assert_eq!(named(&answer, "secrets")["status"], "passed", "{answer}");
    let (_, release) = shop.create(&wanted);
    let end = shop.world.finish(release["id"].as_str().unwrap());
    assert_eq!(end["state"], "succeeded", "{end}");
}
