//! People and CI: plans, releases, commands at random moments, versions that go bad, and now and then a deployment by hand.

use hmd::release::{Phase, Status};
use hmd::simulator::{
    Behavior, BehaviorPatch, HandDeployment, VersionShare, VersionSpec, WorkerPatch, WorkerSpec,
};
use rand::Rng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

use crate::model::How;
use crate::plans::plan;
use crate::scheduler::Scheduler;
use crate::world::{ACCOUNT, CLOUDFLARE_TOKEN, TOKEN, World};

/// What a new release may ask for if its Worker is taken.
const ON_CONFLICT: [&str; 3] = ["reject", "queue", "supersede"];

/// A Worker and its versions, oldest first.
struct Worker {
    script: String,
    versions: Vec<String>,
}

pub struct People {
    workers: Vec<Worker>,
    /// What this history's people do, by weight.
    habits: Vec<(Deed, u32)>,
    /// The mean time between two deeds.
    pace_ms: i64,
}

/// What people do.
#[derive(Clone, Copy, Debug)]
enum Deed {
    Release,
    Stage,
    Command(&'static str),
    /// Two at once, of which one must lose or find the other done.
    Both(&'static str, &'static str),
    GoBad,
    GoWell,
    Observability,
    Replan,
    DeployByHand,
    Watch,
    SplitByHand,
}

/// With the most that each may weigh; a history draws its own weights.
const DEEDS: [(Deed, u32); 20] = [
    (Deed::Release, 30),
    (Deed::Stage, 6),
    (Deed::Command("start"), 6),
    (Deed::Command("stop"), 5),
    (Deed::Command("pause"), 8),
    (Deed::Command("resume"), 14),
    (Deed::Command("promote"), 10),
    (Deed::Command("abandon"), 3),
    (Deed::Command("approve"), 25),
    (Deed::Command("deny"), 4),
    (Deed::Both("approve", "deny"), 6),
    (Deed::Both("pause", "stop"), 3),
    (Deed::Both("resume", "pause"), 4),
    (Deed::GoBad, 8),
    (Deed::GoWell, 4),
    (Deed::Observability, 4),
    (Deed::Replan, 4),
    (Deed::DeployByHand, 3),
    (Deed::Watch, 8),
    (Deed::SplitByHand, 12),
];

pub fn choose<T: Copy>(world: &World, from: &[T]) -> T {
    *from.choose(&mut *world.rng.borrow_mut()).unwrap()
}

pub fn one_in(world: &World, n: i64) -> bool {
    world.pick(0..n) == 0
}

impl People {
    /// Creates the Workers, and saves a plan for each.
    pub fn arrive(scheduler: &mut Scheduler) -> Self {
        let world = std::rc::Rc::clone(&scheduler.world);
        let mut workers = Vec::new();
        for i in 0..world.pick(2..5) {
            let script = format!("worker-{i}");
            let versions = (1..=world.pick(2..5))
                .map(|n| VersionSpec {
                    tag: format!("v{n}"),
                    message: None,
                    behavior: Behavior::default(),
                    ..VersionSpec::default()
                })
                .collect();
            let spec = WorkerSpec {
                requests_per_second: choose(&world, &[0.2, 1.0, 2.0, 3.0]),
                versions,
            };
            let made = world
                .cloudflare
                .borrow_mut()
                .put_worker(world.now.get(), ACCOUNT, &script, spec)
                .unwrap();
            world.deployed(&script, How::Created);
            let versions = made.into_iter().map(|version| version.id).collect();
            workers.push(Worker { script, versions });
        }
        for worker in &workers {
            api(
                scheduler,
                "PUT",
                &format!("/v1/plans/{}", worker.script),
                &plan(&world, &worker.script),
            );
        }
        let mut habits: Vec<(Deed, u32)> = DEEDS.to_vec();
        for (_, weight) in &mut habits[1..] {
            let share: f64 = world.rng.borrow_mut().random();
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "small and positive"
            )]
            let drawn = (f64::from(*weight) * 2.0 * share) as u32;
            // Some do some things not at all.
            *weight = if one_in(&world, 4) { 0 } else { drawn };
        }
        let pace_ms = world.pick(5_000..40_000);
        Self {
            workers,
            habits,
            pace_ms,
        }
    }

    /// Somebody does something.
    pub fn act(&mut self, scheduler: &mut Scheduler) {
        let world = std::rc::Rc::clone(&scheduler.world);
        scheduler.people_at = world.now.get() + world.pick(0..2 * self.pace_ms);
        let chosen = self
            .habits
            .choose_weighted(&mut *world.rng.borrow_mut(), |(_, weight)| *weight);
        let deed = chosen.unwrap().0;
        let worker =
            &self.workers[usize::try_from(world.pick(0..100)).unwrap() % self.workers.len()];
        match deed {
            Deed::Release | Deed::Stage => {
                let new_version = worker.versions.choose(&mut *world.rng.borrow_mut());
                let body = json!({
                    "plan": worker.script, "start": matches!(deed, Deed::Release),
                    "new_version": if one_in(&world, 3) { "latest" } else { new_version.unwrap() },
                    "on_conflict": choose(&world, &ON_CONFLICT),
                    "accept": if one_in(&world, 4) { json!([]) } else { json!(["observability"]) },
                });
                api(scheduler, "POST", "/v1/releases", &body);
            }
            Deed::Command(verb) => commands(scheduler, &[verb]),
            Deed::Both(one, other) => commands(scheduler, &[one, other]),
            Deed::GoBad | Deed::GoWell => {
                let error_rate = match deed {
                    Deed::GoBad => choose(&world, &[0.1, 0.3, 0.8]),
                    _ => 0.001,
                };
                let version = worker
                    .versions
                    .choose(&mut *world.rng.borrow_mut())
                    .unwrap();
                world.note(|| format!("{} {} fails {error_rate}", worker.script, &version[..8]));
                let patch = BehaviorPatch {
                    error_rate: Some(error_rate),
                    ..BehaviorPatch::default()
                };
                let mut cloudflare = world.cloudflare.borrow_mut();
                cloudflare
                    .patch_behavior(world.now.get(), ACCOUNT, &worker.script, version, patch)
                    .unwrap();
            }
            Deed::Observability => {
                let on = one_in(&world, 2);
                world.note(|| format!("{} observability {on}", worker.script));
                let patch = WorkerPatch {
                    observability: Some(on),
                    ..WorkerPatch::default()
                };
                let mut cloudflare = world.cloudflare.borrow_mut();
                cloudflare
                    .patch_worker(world.now.get(), ACCOUNT, &worker.script, patch)
                    .unwrap();
            }
            Deed::Replan => {
                let path = format!("/v1/plans/{}", worker.script);
                api(scheduler, "PUT", &path, &plan(&world, &worker.script));
            }
            Deed::DeployByHand => by_hand(&world, worker),
            Deed::Watch => {
                let new_version = worker.versions.choose(&mut *world.rng.borrow_mut());
                let body = json!({
                    "plan": worker.script, "mode": "watch", "start": !one_in(&world, 6),
                    "new_version": if one_in(&world, 3) { "latest" } else { new_version.unwrap() },
                    "accept": ["observability"],
                });
                api(scheduler, "POST", "/v1/releases", &body);
            }
            Deed::SplitByHand => split_by_hand(&world, &worker.script),
        }
    }
}

fn by_hand(world: &World, worker: &Worker) {
    let version = worker
        .versions
        .choose(&mut *world.rng.borrow_mut())
        .unwrap();
    deploy(world, &worker.script, vec![share_of(version, 100.0)]);
}

/// Somebody rolls out by hand what a release watches, mostly; else the first two versions that there are.
fn split_by_hand(world: &World, script: &str) {
    let model = world.model.borrow();
    let mut watchers = model.releases.values().filter(|r| {
        r.watches && r.script == script && matches!(r.progress.status, Status::Watching { .. })
    });
    let Some(watcher) = watchers.next() else {
        return;
    };
    let (old, new) = (
        watcher.progress.old_version.clone(),
        watcher.new_version.clone(),
    );
    drop(model);
    let percent = choose(
        world,
        &[0.0, 1.0, 10.0, 10.0, 33.3, 50.0, 50.0, 90.0, 100.0],
    );
    let shares = [share_of(&old, 100.0 - percent), share_of(&new, percent)];
    let shares = shares.into_iter().filter(|share| share.percentage > 0.0);
    deploy(world, script, shares.collect());
}

fn share_of(version: &str, percentage: f64) -> VersionShare {
    VersionShare {
        version_id: version.to_owned(),
        percentage,
    }
}

fn deploy(world: &World, script: &str, versions: Vec<VersionShare>) {
    let hand = HandDeployment {
        versions,
        message: Some("hotfix".to_owned()),
    };
    let mut cloudflare = world.cloudflare.borrow_mut();
    let made = cloudflare.deploy_by_hand(world.now.get(), ACCOUNT, script, hand);
    drop(cloudflare);
    made.unwrap();
    world.deployed(script, How::Hand);
}

/// Commands to one release, all at the same moment.
fn commands(scheduler: &mut Scheduler, verbs: &[&str]) {
    let world = std::rc::Rc::clone(&scheduler.world);
    let model = world.model.borrow();
    let (living, over): (Vec<_>, Vec<_>) = model.releases.values().partition(|r| !r.is_over());
    // Mostly to those that are not over, and to those whom the command fits.
    let fits = |phase: Phase| match verbs[0] {
        "approve" | "deny" => phase == Phase::AwaitingApproval,
        "resume" => matches!(phase, Phase::PausedDeploying | Phase::PausedSoaking),
        "start" => phase == Phase::Staged,
        _ => phase != Phase::Ended,
    };
    let fitting: Vec<_> = living
        .iter()
        .copied()
        .filter(|r| fits(Phase::of(&r.progress.status)))
        .collect();
    let from = [&fitting, &living, &over]
        .into_iter()
        .find(|from| !from.is_empty() && !one_in(&world, 8));
    let Some(release) = from.map(|from| choose(&world, from)) else {
        return;
    };
    let (id, stage) = (release.id.clone(), release.progress.stage + 1);
    drop(model);
    for verb in verbs {
        command(scheduler, &id, stage, verb);
    }
}

/// Stops whatever waits for a person.
pub fn stop_all(scheduler: &mut Scheduler) {
    let model = scheduler.world.model.borrow();
    let living = model.releases.values().filter(|r| !r.is_over());
    let living: Vec<String> = living.map(|r| r.id.clone()).collect();
    drop(model);
    for id in living {
        command(scheduler, &id, 1, "stop");
    }
}

fn command(scheduler: &mut Scheduler, id: &str, stage: usize, verb: &str) {
    let path = match verb {
        "approve" | "deny" => format!("/v1/releases/{id}/stages/{stage}/{verb}"),
        _ => format!("/v1/releases/{id}/{verb}"),
    };
    api(scheduler, "POST", &path, &Value::Null);
}

/// Calls HMD's API; the call is an invocation like any other.
fn api(scheduler: &mut Scheduler, method: &str, path: &str, body: &Value) {
    let bytes = if body.is_null() {
        Vec::new()
    } else {
        body.to_string().into_bytes()
    };
    let request = http::Request::builder()
        .method(method)
        .uri(path)
        .header("authorization", format!("Bearer {TOKEN}"))
        .header("content-type", "application/json")
        .body(bytes)
        .unwrap();
    let what = format!("{method} {path} {body}");
    scheduler.spawn("api", Vec::new(), |port, _| {
        Box::pin(async move {
            let world = &port.world;
            world.note(|| format!("[{}] {what}", port.task));
            let response = hmd::http::handle(&port, &world.config, &request).await;
            let (status, answer) = (response.status(), response.into_body());
            let answer = String::from_utf8(answer).unwrap();
            world.note(|| {
                let short: String = answer.chars().take(200).collect();
                format!("[{}] answers {status} {short}", port.task)
            });
            let mut model = world.model.borrow_mut();
            let mut watchers = model.releases.values().filter(|r| r.watches);
            if status == 409 && what.contains("/v1/releases {") {
                let blocked = watchers
                    .find(|r| answer.contains(&r.id))
                    .map(|r| r.id.clone());
                if let Some(id) = blocked {
                    let what = format!("{what}: {answer}, by {id}");
                    model.violation("who watches is in nobody's way", &what);
                }
            }
            if answer.contains(TOKEN) || answer.contains(CLOUDFLARE_TOKEN) {
                model.violation("no secret in any answer", &answer);
            }
            // A call from before the quiet may still have been struck.
            let quiet = model
                .quiet_since
                .is_some_and(|at| world.now.get() > at + 120_000);
            if quiet && status.is_server_error() {
                model.violation("no 5xx without a fault", &format!("{what}: {answer}"));
            }
        })
    });
}
