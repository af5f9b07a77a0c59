//! Each check in each status, from facts.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::super::head::Deployment;
use super::super::names::Mode;
use super::super::plan::Plan;
use super::super::state::Seen;
use super::*;
use crate::release::fixture;

/// Facts that owns what it tells.
struct World {
    plan: Plan,
    wanted: String,
    required_old: Option<String>,
    holder: Option<Holder>,
    last_seen: Option<Seen>,
    mode: Mode,
    deployments: Learned<Vec<Deployment>>,
    versions: Learned<Vec<ListedVersion>>,
    old_parts: Learned<VersionParts>,
    new_parts: Learned<VersionParts>,
    observability: Learned<Observability>,
    traffic: Learned<Traffic>,
    queries: Vec<(String, Tried)>,
    token: &'static str,
}

fn version(number: i64) -> ListedVersion {
    ListedVersion {
        id: format!("v{number}"),
        number,
        tag: None,
        triggered_by: Some("upload".to_owned()),
    }
}

fn deployment(versions: &[(&str, f64)]) -> Deployment {
    Deployment {
        id: "d1".to_owned(),
        created_on: "2026-10-01T09:00:00Z".to_owned(),
        source: Some("wrangler".to_owned()),
        author_email: None,
        message: None,
        versions: versions
            .iter()
            .map(|(id, share)| ((*id).to_owned(), *share))
            .collect(),
    }
}

fn parts() -> VersionParts {
    VersionParts {
        secrets: BTreeSet::from(["KEY".to_owned()]),
        durable_objects: Some(DurableObjects::default()),
    }
}

fn stored(stored_requests: u64) -> Learned<Traffic> {
    Learned::Known(Traffic {
        stored_requests,
        period_ms: 600_000,
    })
}

/// A Worker in good order: version 2 serves, version 3 is the newest.
fn good() -> World {
    let slos = json!([
        {"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}, "min_requests": 100},
        {"name": "relative", "sli": {"kind": "error_rate"}, "objective": {"no_worse_than_old": {}}, "min_requests": 100},
    ]);
    World {
        plan: fixture::plan(|plan: &mut Value| {
            plan["stages"] =
                json!([{"percent": 10, "soak": "10m"}, {"percent": 100, "soak": "10m"}]);
            plan["slos"] = slos.clone();
        }),
        wanted: "latest".to_owned(),
        required_old: None,
        holder: None,
        last_seen: None,
        mode: Mode::Deploy,
        deployments: Learned::Known(vec![deployment(&[("v2", 100.0)])]),
        versions: Learned::Known(vec![version(3), version(2), version(1)]),
        old_parts: Learned::Known(parts()),
        new_parts: Learned::Known(parts()),
        observability: Learned::Known(Observability {
            enabled: Some(true),
            head_sampling_rate: Some(1.0),
            logs_enabled: Some(true),
            logs_persist: Some(true),
            invocation_logs: Some(true),
            logs_head_sampling_rate: None,
        }),
        traffic: stored(1_000),
        queries: vec![("own".to_owned(), Tried::Answered)],
        token: "CLOUDFLARE_API_TOKEN",
    }
}

impl World {
    fn checks(&self) -> Vec<Check> {
        preflight(&Facts {
            plan: &self.plan,
            mode: self.mode,
            wanted: &self.wanted,
            required_old: self.required_old.as_deref(),
            holder: self.holder.as_ref(),
            last_seen: self.last_seen.as_ref(),
            deployments: &self.deployments,
            versions: &self.versions,
            old_parts: &self.old_parts,
            new_parts: &self.new_parts,
            observability: &self.observability,
            traffic: &self.traffic,
            queries: &self.queries,
            token: self.token,
        })
    }

    fn settings(&mut self) -> &mut Observability {
        match &mut self.observability {
            Learned::Known(settings) => settings,
            _ => panic!("the settings are known"),
        }
    }
}

/// A check of the good Worker after a change.
fn check(name: CheckName, change: impl FnOnce(&mut World)) -> Check {
    let mut world = good();
    change(&mut world);
    let checks = world.checks();
    for check in &checks {
        assert_eq!(
            check.action.is_none(),
            check.status == CheckStatus::Passed,
            "{check:?}"
        );
    }
    let mut found = checks.into_iter().filter(|it| it.name == name.name());
    found.next().unwrap()
}

#[track_caller]
fn expect(check: &Check, status: CheckStatus, words: &str) {
    let text = format!(
        "{} | {}",
        check.detail,
        check.action.as_deref().unwrap_or_default()
    );
    assert!(
        check.status == status && text.contains(words),
        "expected {status:?} with {words:?}: {check:?}"
    );
}

use CheckName as N;
use CheckStatus::{Failed, Passed, Warning};

fn denied<T>() -> Learned<T> {
    Learned::Denied("Cloudflare answered 403".to_owned())
}

fn unknown<T>() -> Learned<T> {
    Learned::Unknown("Cloudflare answered 500".to_owned())
}

fn no_worker<T>() -> Learned<T> {
    Learned::NoWorker("no such Worker".to_owned())
}

#[test]
fn a_worker_in_good_order_passes_everything() {
    let checks = good().checks();
    assert_eq!(checks.len(), 10);
    for check in checks {
        assert_eq!(check.status, Passed, "{check:?}");
    }
}

#[test]
fn tokens() {
    let name = N::DeploymentsToken;
    let failed = check(name, |w| w.deployments = denied());
    expect(&failed, Failed, "Workers Scripts Write");
    expect(&check(name, |w| w.deployments = unknown()), Warning, "500");
    expect(&check(name, |w| w.deployments = no_worker()), Passed, "");
    expect(&failed, Failed, "give CLOUDFLARE_API_TOKEN");
    let own = "the Worker's own token";
    let failed = check(name, |w| (w.deployments, w.token) = (denied(), own));
    expect(
        &failed,
        Failed,
        "give the Worker's own token the permission",
    );
    let name = N::TelemetryToken;
    let failed = check(name, |w| (w.traffic, w.token) = (denied(), own));
    expect(
        &failed,
        Failed,
        "give the Worker's own token the permission",
    );
    let failed = check(name, |w| w.traffic = denied());
    expect(&failed, Failed, "Workers Observability Write");
    expect(&check(name, |w| w.traffic = unknown()), Warning, "500");
}

#[test]
fn filters_of_the_plans_own() {
    let tried = |tried: Tried| {
        check(N::Queries, |w| {
            w.queries.push(("paths".to_owned(), tried));
        })
    };
    expect(&tried(Tried::Answered), Passed, "");
    let refused = tried(Tried::Refused("a bad pattern".to_owned()));
    expect(&refused, Failed, "paths: a bad pattern");
    let unknown = tried(Tried::Unknown("no answer".to_owned()));
    expect(&unknown, Warning, "paths: no answer");
    let mut none = good();
    none.queries.clear();
    assert!(none.checks().iter().all(|it| it.name != "queries"));
}

#[test]
fn the_new_version() {
    let name = N::NewVersion;
    expect(&check(name, |_| ()), Passed, "latest is version 3 (v3)");
    let tagged = |w: &mut World| {
        w.wanted = "v1".to_owned();
        let tag = Some("blue".to_owned());
        w.versions = Learned::Known(vec![ListedVersion { tag, ..version(1) }]);
    };
    expect(&check(name, tagged), Passed, "version 1 (v1, tag blue)");
    let gone = check(name, |w| w.wanted = "v0".to_owned());
    expect(&gone, Failed, "\"v0\"");
    let serves = check(name, |w| w.wanted = "v2".to_owned());
    expect(&serves, Failed, "serves all traffic already");
    let none = check(name, |w| w.versions = Learned::Known(Vec::new()));
    expect(&none, Failed, "no version");
    expect(
        &check(name, |w| w.versions = no_worker()),
        Failed,
        "no such",
    );
    expect(&check(name, |w| w.versions = unknown()), Warning, "500");
    expect(&check(name, |w| w.versions = denied()), Warning, "403");
}

#[test]
fn the_old_version_and_the_edge() {
    let name = N::OldVersion;
    let uploads = |newer: i64| {
        move |w: &mut World| {
            let newest = 2 + newer;
            let all = (1..=newest).rev().take(DEPLOYABLE_IN_TEST);
            w.versions = Learned::Known(all.map(version).collect());
        }
    };
    expect(&check(name, uploads(89)), Passed, "11 more uploads");
    expect(&check(name, uploads(90)), Warning, "until 10 more");
    expect(&check(name, uploads(99)), Warning, "until 1 more");
    expect(&check(name, uploads(100)), Failed, "no longer among");
    let split = |w: &mut World| {
        w.deployments = Learned::Known(vec![deployment(&[("v1", 50.0), ("v2", 50.0)])]);
    };
    expect(&check(name, split), Warning, "not known");
    expect(&check(name, |w| w.versions = unknown()), Warning, "500");
}

const DEPLOYABLE_IN_TEST: usize = 100;

#[test]
fn what_serves() {
    let name = N::Serving;
    expect(&check(name, |_| ()), Passed, "v2 serves 100 %");
    let split = |w: &mut World| {
        w.deployments = Learned::Known(vec![deployment(&[("v1", 50.0), ("v2", 50.0)])]);
    };
    expect(&check(name, split), Failed, "50 % v1");
    let none = |w: &mut World| w.deployments = Learned::Known(Vec::new());
    expect(&check(name, none), Failed, "no deployment");
    let other = |w: &mut World| w.required_old = Some("v1".to_owned());
    expect(&check(name, other), Failed, "not old_version v1");
    let same = |w: &mut World| w.required_old = Some("v2".to_owned());
    expect(&check(name, same), Passed, "");
    let held = |waits| {
        move |w: &mut World| {
            let id = "rel_1".to_owned();
            w.holder = Some(Holder { id, waits });
        }
    };
    expect(&check(name, held(false)), Failed, "rel_1");
    expect(&check(name, held(true)), Warning, "rel_1");
    let seen = |created_us| {
        move |w: &mut World| {
            let deployment_id = "d2".to_owned();
            w.last_seen = Some(Seen {
                deployment_id,
                created_us,
            });
        }
    };
    expect(&check(name, seen(i64::MAX)), Warning, "older deployment");
    expect(&check(name, seen(0)), Passed, "");
    expect(&check(name, |w| w.deployments = unknown()), Warning, "500");
    expect(&check(name, |w| w.deployments = no_worker()), Failed, "");
}

/// A switch that is off, and how the check calls it.
type Off = (fn(&mut Observability), &'static str);

#[test]
fn observability() {
    let name = N::Observability;
    let switches: [Off; 4] = [
        (
            |s| {
                s.enabled = Some(false);
                s.logs_enabled = None;
            },
            "observability.enabled",
        ),
        (|s| s.logs_enabled = Some(false), "logs.enabled"),
        (|s| s.logs_persist = Some(false), "logs.persist"),
        (|s| s.invocation_logs = Some(false), "invocation_logs"),
    ];
    for (switch, words) in switches {
        let failed = check(name, |w| switch(w.settings()));
        expect(&failed, Failed, words);
    }
    let both = check(name, |w| w.settings().enabled = Some(false));
    expect(&both, Warning, "logs.enabled is true");
    // What the settings leave open, events that are there answer.
    let silent = |traffic: Learned<Traffic>| {
        check(name, |w| {
            *w.settings() = Observability {
                enabled: Some(true),
                ..Observability::default()
            };
            w.traffic = traffic;
        })
    };
    expect(&silent(stored(1)), Passed, "recent invocations");
    expect(&silent(stored(0)), Warning, "invocation_logs");
    expect(&silent(unknown()), Warning, "invocation_logs");
    for unreadable in [unknown(), denied(), no_worker()] {
        let check = check(name, |w| w.observability = unreadable);
        expect(&check, Warning, "could not be read");
    }
}

#[test]
fn sampling_is_held_against_each_slo_and_stage() {
    let name = N::Sampling;
    // 10 % of 1,000 requests in ten minutes are just the 100 that both SLOs want.
    expect(&check(name, |_| ()), Passed, "1000 requests");
    let few = check(name, |w| w.traffic = stored(900));
    expect(
        &few,
        Warning,
        "errors expects about 90 of 100 requests in stage 1",
    );
    expect(&few, Warning, "relative expects");
    assert!(!few.detail.contains("head_sampling_rate"), "{few:?}");
    let sampled = |stored_requests| {
        check(name, |w| {
            w.settings().logs_head_sampling_rate = Some(0.1);
            w.traffic = stored(stored_requests);
        })
    };
    expect(&sampled(900), Warning, "raise head_sampling_rate");
    // What is stored is enough, sampled or not.
    expect(&sampled(1_000), Passed, "at a head_sampling_rate of 0.1");
    let none = check(name, |w| w.settings().head_sampling_rate = Some(0.0));
    expect(&none, Failed, "head_sampling_rate is 0");
    expect(
        &check(name, |w| w.traffic = stored(0)),
        Warning,
        "send traffic",
    );
    expect(
        &check(name, |w| w.traffic = unknown()),
        Warning,
        "not known",
    );
    // Nothing waits for these.
    let idle = |slo: Value| {
        check(name, |w| {
            w.plan.slos = vec![serde_json::from_value(slo).unwrap()];
            w.traffic = stored(1);
        })
    };
    let observed = json!({"name": "seen", "sli": {"kind": "error_rate"}, "objective": {"max": 0.1}, "severity": "observe"});
    expect(&idle(observed), Passed, "");
    let counted =
        json!({"name": "n", "sli": {"kind": "request_count"}, "objective": {"min": 1000}});
    expect(&idle(counted), Warning, "n expects about 0 of 1000");
    // A comparison needs both versions, so a plan of one full stage never makes one.
    let never = check(name, |w| {
        w.plan.slos.remove(0);
        w.plan.stages.remove(0);
        w.traffic = stored(1);
    });
    expect(&never, Passed, "");
}

#[test]
fn durable_objects() {
    let name = N::DurableObjects;
    let with = |change: fn(&mut DurableObjects)| {
        check(name, |w| {
            let mut objects = DurableObjects::default();
            change(&mut objects);
            w.new_parts = Learned::Known(VersionParts {
                durable_objects: Some(objects),
                ..parts()
            });
        })
    };
    let migrated = with(|objects| objects.migration_tag = Some("v2".to_owned()));
    expect(&migrated, Failed, "the old one has none, the new one v2");
    let exported = with(|objects| {
        objects.exports.insert("Cart sqlite".to_owned());
    });
    expect(&exported, Failed, "Cart sqlite");
    expect(&exported, Failed, "wrangler deploy");
    let silent = |w: &mut World| {
        w.old_parts = Learned::Known(VersionParts {
            durable_objects: None,
            ..parts()
        });
    };
    expect(&check(name, silent), Warning, "can't be compared");
    expect(&check(name, |w| w.new_parts = unknown()), Warning, "500");
    expect(
        &check(name, |w| w.versions = unknown()),
        Warning,
        "not known",
    );
}

#[test]
fn secrets() {
    let name = N::Secrets;
    let by = |number: i64, trigger: Option<&str>| {
        let trigger = trigger.map(str::to_owned);
        move |w: &mut World| {
            let all = [4, 3, 2, 1].map(|n| ListedVersion {
                triggered_by: if n == number {
                    trigger.clone()
                } else {
                    version(n).triggered_by
                },
                ..version(n)
            });
            w.wanted = "v3".to_owned();
            w.versions = Learned::Known(all.to_vec());
        }
    };
    expect(&check(name, by(3, Some("secret"))), Warning, "forced");
    expect(
        &check(name, by(4, Some("secret"))),
        Warning,
        "upload the new version",
    );
    expect(&check(name, by(2, Some("secret"))), Passed, "");
    expect(&check(name, by(1, Some("secret"))), Passed, "");
    let unlisted_change = check(name, |w| {
        by(3, Some("secret"))(w);
        w.old_parts = unknown();
    });
    expect(&unlisted_change, Warning, "forced");
    let unnumbered = |w: &mut World| {
        let unnumbered = |n| ListedVersion {
            number: 0,
            ..version(n)
        };
        w.versions = Learned::Known([3, 2].map(unnumbered).to_vec());
        w.wanted = "v3".to_owned();
    };
    expect(&check(name, unnumbered), Warning, "does not say");
    expect(&check(name, by(3, None)), Warning, "does not say");
    expect(&check(name, by(1, None)), Passed, "");
    let added = |w: &mut World| w.old_parts = Learned::Known(VersionParts::default());
    let differs = check(name, |w| {
        added(w);
        w.new_parts = Learned::Known(parts());
    });
    expect(&differs, Warning, "different secrets: KEY");
    expect(&check(name, |w| w.old_parts = unknown()), Warning, "500");
}

#[test]
fn what_failed_stops_a_release_unless_it_is_accepted() {
    let mut world = good();
    world.settings().invocation_logs = Some(false);
    world.traffic = denied();
    world.wanted = "v0".to_owned();
    let findings = |accept: &[Acceptable]| {
        let findings = Findings::of(world.checks(), &accept.iter().copied().collect());
        let names = |checks: Vec<Check>| -> Vec<String> {
            checks.into_iter().map(|check| check.name).collect()
        };
        let failed = names(findings.failed().cloned().collect());
        let blocking = names(findings.blocking());
        (failed, blocking, findings.accepted)
    };
    let (failed, blocking, accepted) = findings(&[]);
    assert_eq!(failed, ["telemetry_token", "new_version", "observability"]);
    assert_eq!(blocking, ["telemetry_token", "observability"]);
    assert_eq!(accepted, Vec::<String>::new());
    // What did not fail needs no accepting.
    let all = [
        Acceptable::Observability,
        Acceptable::TelemetryToken,
        Acceptable::DurableObjects,
    ];
    let (failed, blocking, accepted) = findings(&all);
    assert_eq!((failed, blocking), (vec!["new_version".to_owned()], vec![]));
    assert_eq!(accepted, ["telemetry_token", "observability"]);
}

#[test]
fn stored_findings_of_a_newer_hmd_are_readable() {
    let stored = json!({"checks": [{"name": "moon", "status": "warning", "detail": "full", "more": 1}], "new": []});
    let findings: Findings = serde_json::from_value(stored).unwrap();
    assert_eq!(findings.checks[0].name, "moon");
    assert!(
        serde_json::from_value::<Findings>(json!({}))
            .unwrap()
            .is_empty()
    );
}
