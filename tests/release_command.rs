//! `hmd release` as a program, against the API of a simulated world.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

#[path = "support/server.rs"]
mod server;
mod support;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde_json::{Value, json};
use server::Server;
use support::{ACCOUNT, TOKEN, failing, healthy};

fn hmd(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hmd"));
    command
        .arg("release")
        .args(arguments)
        .stdin(Stdio::null())
        .env_remove("HMD_URL")
        .env_remove("HMD_API_TOKEN");
    command
}

/// A world with a Worker `shop`, whose second version fails this share of its requests.
struct Scene {
    server: Server,
}

impl Scene {
    fn new(error_rate: f64, change: impl Fn(&mut Value) + Send + 'static) -> Self {
        let server = Server::start();
        server.with(move |world| {
            world.worker("shop", &[healthy(), failing(error_rate)]);
            world.plan("shop", change);
        });
        Self { server }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = hmd(arguments);
        command
            .env("HMD_URL", &self.server.url)
            .env("HMD_API_TOKEN", TOKEN);
        command
    }

    fn run(&self, arguments: &[&str]) -> Said {
        Said::of(self.command(arguments).output().unwrap())
    }

    fn start(&self) -> String {
        self.server.with(|world| world.release("shop"))
    }

    /// Runs on its own until the release is in a state.
    fn run_to(&self, id: &str, state: &'static str) {
        let id = id.to_owned();
        self.server
            .with(move |world| world.run_to(&id, |release| release["state"] == state));
    }

    fn release(&self, id: &str) -> Value {
        let id = id.to_owned();
        self.server.with(move |world| world.get(&id))
    }

    fn events(&self, id: &str) -> Vec<Value> {
        let id = id.to_owned();
        self.server.with(move |world| world.events(&id))
    }
}

/// What a command said, and how it ended.
#[derive(Debug)]
struct Said {
    code: i32,
    out: String,
    err: String,
}

impl Said {
    fn of(output: Output) -> Self {
        let said = Self {
            code: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        };
        let all = format!("{}{}", said.out, said.err);
        assert!(!all.contains('\u{1b}'), "an escape code in a log: {said:?}");
        assert!(!all.contains(TOKEN), "the token in a log: {said:?}");
        said
    }

    /// Fails unless it ended so.
    fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:?}");
        self
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

fn file(name: &str) -> PathBuf {
    let name = format!("release-command-{}-{name}", std::process::id());
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_file(&path);
    path
}

fn end(child: Child) -> Said {
    Said::of(child.wait_with_output().unwrap())
}

#[test]
fn a_healthy_release_is_waited_for_and_told_line_by_line() {
    let scene = Scene::new(0.0, |_| ());
    scene.server.step(5_000);
    let said = scene
        .run(&[
            "start",
            "--plan",
            "shop",
            "--wait",
            "--interval",
            "20ms",
            "--note",
            "new cart",
        ])
        .code(0);
    let kinds: Vec<&str> = said
        .out
        .lines()
        .skip(1)
        .filter_map(|line| line.split_whitespace().nth(1))
        .filter(|kind| !matches!(*kind, "slo" | "hmd" | "still"))
        .collect();
    assert_eq!(
        kinds,
        [
            "release.started",
            "stage.started",
            "stage.passed",
            "stage.started",
            "stage.passed",
            "stage.started",
            "stage.passed",
            "release.succeeded",
            "end"
        ],
        "{said:?}"
    );
    assert!(said.out.contains("stage 2 of 3 (50 %)"), "{said:?}");
    assert!(said.out.contains("errors: safe; new 0.0 % of"), "{said:?}");
}

#[test]
fn a_reverted_release_is_1_and_says_why_to_people_and_to_machines() {
    let scene = Scene::new(0.5, |_| ());
    scene.server.step(5_000);
    let (summary, outputs) = (file("summary.md"), file("outputs"));
    let arguments = [
        "start",
        "--plan",
        "shop",
        "--wait",
        "--interval",
        "20ms",
        "--json",
        "--link",
        "https://ci.example/7",
        "--summary",
    ];
    let said = Said::of(
        scene
            .command(&arguments)
            .arg(&summary)
            .arg("--outputs")
            .arg(&outputs)
            .output()
            .unwrap(),
    )
    .code(1);
    let release = said.json();
    assert_eq!(release["state"], "reverted");
    assert!(said.err.contains("slo.violated"), "{said:?}");
    let page = std::fs::read_to_string(&summary).unwrap();
    assert!(
        page.contains("### Release of shop: reverted (slo violation)"),
        "{page}"
    );
    assert!(page.contains("<https://ci.example/7>"), "{page}");
    assert!(
        page.contains("| errors |") && page.contains("| harm |"),
        "{page}"
    );
    let outputs = std::fs::read_to_string(&outputs).unwrap();
    let id = release["id"].as_str().unwrap();
    let last = format!("id={id}\nstate=reverted\nreason=slo_violation\n");
    assert!(outputs.ends_with(&last), "{outputs}");
}

#[test]
fn a_release_that_somebody_else_ended_is_2() {
    let scene = Scene::new(0.0, |_| ());
    let id = scene.start();
    scene.run_to(&id, "rolling_out");
    scene.server.with(|world| {
        world.run_for(20_000);
        let now = world.now.get();
        let mut cloudflare = world.cloudflare.lock().unwrap();
        let path = format!("/client/v4/accounts/{ACCOUNT}/workers/scripts/shop/deployments");
        let answer = cloudflare.handle(now, "GET", &path, b"");
        let old = answer.body["result"]["deployments"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()["versions"][0]["version_id"]
            .clone();
        let by_hand =
            json!({"strategy": "percentage", "versions": [{"version_id": old, "percentage": 100}]});
        let answer = cloudflare.handle(now, "POST", &path, by_hand.to_string().as_bytes());
        assert_eq!(answer.status, 200, "{}", answer.body);
    });
    scene.server.step(5_000);
    let said = scene.run(&["watch", &id, "--interval", "20ms"]).code(2);
    assert!(
        said.out.contains("superseded (foreign deployment)"),
        "{said:?}"
    );

    let queued = scene.start();
    let waits = scene
        .run(&[
            "start",
            "--plan",
            "shop",
            "--on-conflict",
            "queue",
            "--json",
        ])
        .code(0);
    let waits = waits.json()["id"].as_str().unwrap().to_owned();
    assert_ne!(queued, waits);
    scene.run(&["stop", &waits]).code(0);
    let said = scene.run(&["watch", &waits, "--interval", "20ms"]).code(2);
    assert!(said.out.contains("cancelled (stopped)"), "{said:?}");
}

#[test]
fn a_release_that_goes_on_at_the_timeout_is_3() {
    let scene = Scene::new(0.0, |plan| plan["stages"][0]["advance"] = json!("manual"));
    scene.server.step(5_000);
    let summary = file("running.md");
    let said = Said::of(
        scene
            .command(&[
                "start",
                "--plan",
                "shop",
                "--wait",
                "--interval",
                "20ms",
                "--timeout",
                "3s",
                "--summary",
            ])
            .arg(&summary)
            .output()
            .unwrap(),
    )
    .code(3);
    assert!(said.out.contains("hmd release approve rel_"), "{said:?}");
    assert!(said.out.contains("the time to wait is up"), "{said:?}");
    let page = std::fs::read_to_string(&summary).unwrap();
    assert!(
        page.contains("awaiting approval") || page.contains("rolling out"),
        "{page}"
    );
}

#[test]
fn a_wrong_command_line_is_64_and_help_is_0() {
    let wrong: [&[&str]; 9] = [
        &[],
        &["start"],
        &["start", "--plan", "a/b"],
        &["start", "--plan", "shop", "--timeout", "soon"],
        &["start", "--plan", "shop", "--version"],
        &["get"],
        &["get", "../plans"],
        &["frobnicate"],
        &["start", "--plan", "shop", "--token", "x"],
    ];
    for arguments in wrong {
        let said = Said::of(hmd(arguments).output().unwrap()).code(64);
        assert!(said.out.is_empty() && !said.err.is_empty(), "{said:?}");
    }
    for arguments in [&["--help"][..], &["start", "--help"]] {
        let said = Said::of(hmd(arguments).output().unwrap()).code(0);
        assert!(said.out.contains("--url"), "{said:?}");
    }
    let scene = Scene::new(0.0, |_| ());
    let said = scene
        .run(&["start", "--plan", "shop", "--timeout", "5m"])
        .code(64);
    assert!(said.err.contains("--wait"), "{said:?}");
    // What is missing from the environment is named.
    let said = Said::of(hmd(&["list"]).output().unwrap()).code(64);
    assert!(said.err.contains("HMD_URL"), "{said:?}");
    let said = Said::of(
        hmd(&["list", "--url", "http://127.0.0.1:9"])
            .output()
            .unwrap(),
    )
    .code(64);
    assert!(said.err.contains("HMD_API_TOKEN"), "{said:?}");
}

#[test]
fn what_can_not_be_reached_is_69() {
    // A port that was free a moment ago.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let mut command = hmd(&["start", "--plan", "shop", "--wait", "--url", &url]);
    let said = Said::of(command.env("HMD_API_TOKEN", TOKEN).output().unwrap()).code(69);
    assert!(said.err.contains(&url), "{said:?}");

    // Something is there, but it is not HMD, and it stays so for the whole time to wait.
    let scene = Scene::new(0.0, |_| ());
    let id = scene.start();
    let child = scene
        .command(&["watch", &id, "--interval", "20ms", "--timeout", "2s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(800));
    scene.server.set_down(true);
    let said = end(child).code(69);
    assert!(said.err.contains("Bad gateway"), "{said:?}");
    assert!(
        said.out.contains(&format!("hmd release watch {id}")),
        "{said:?}"
    );
}

#[test]
fn a_short_outage_is_waited_out() {
    let scene = Scene::new(0.0, |plan| plan["stages"][0]["advance"] = json!("manual"));
    let id = scene.start();
    let child = scene
        .command(&["watch", &id, "--interval", "20ms", "--timeout", "60s"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(500));
    scene.server.set_down(true);
    sleep(Duration::from_millis(700));
    scene.run_to(&id, "awaiting_approval");
    scene.server.with(|_| ());
    let approve = format!("/v1/releases/{id}/stages/1/approve");
    scene
        .server
        .with(move |world| world.api("POST", &approve, &Value::Null));
    scene.server.step(5_000);
    scene.server.set_down(false);
    let said = end(child).code(0);
    assert!(said.out.contains("trying again"), "{said:?}");
    assert!(said.out.contains("HMD answers again"), "{said:?}");
}

#[test]
fn ctrl_c_leaves_the_release_alone_and_says_how_to_go_on() {
    let scene = Scene::new(0.0, |_| ());
    let child = scene
        .command(&["start", "--plan", "shop", "--wait", "--interval", "20ms"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    sleep(Duration::from_millis(800));
    let killed = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(killed.unwrap().success());
    let said = end(child).code(130);
    let id = said.out.split_whitespace().next().unwrap().to_owned();
    assert!(
        said.out.contains(&format!("hmd release watch {id}")),
        "{said:?}"
    );
    assert_eq!(scene.release(&id)["state"], "rolling_out");
}

#[test]
fn refusals_are_told_with_each_field() {
    let scene = Scene::new(0.0, |_| ());
    let said = scene.run(&["start", "--plan", "none"]).code(65);
    assert!(
        said.err.contains("/plan: there is no plan \"none\""),
        "{said:?}"
    );
    let said = scene.run(&["get", "rel_none"]).code(65);
    assert!(said.err.contains("Not found (404)"), "{said:?}");
    scene.start();
    let said = scene.run(&["start", "--plan", "shop"]).code(65);
    assert!(
        said.err.contains("already has an active release"),
        "{said:?}"
    );
    let mut command = scene.command(&["list"]);
    let said = Said::of(command.env("HMD_API_TOKEN", "wrong").output().unwrap()).code(77);
    assert!(said.err.contains("HMD_API_TOKEN"), "{said:?}");
}

#[test]
fn the_same_key_starts_one_release() {
    let scene = Scene::new(0.0, |_| ());
    let start = [
        "start",
        "--plan",
        "shop",
        "--idempotency-key",
        "run-7",
        "--json",
    ];
    let (first, second) = (scene.run(&start).code(0), scene.run(&start).code(0));
    assert_eq!(first.json()["id"], second.json()["id"]);
}

#[test]
fn people_decide_by_it() {
    let scene = Scene::new(0.0, |plan| plan["stages"][0]["advance"] = json!("manual"));
    let id = scene.start();
    scene.server.with(|world| world.run_for(20_000));
    assert_eq!(
        scene.run(&["pause", &id, "--json"]).code(0).json()["state"],
        "paused"
    );
    scene.run(&["pause", &id]).code(65);
    assert_eq!(
        scene.run(&["resume", &id, "--json"]).code(0).json()["state"],
        "rolling_out"
    );
    scene.run_to(&id, "awaiting_approval");
    let approve = [
        "approve",
        &id,
        "--by",
        "dana",
        "--comment",
        "the funnel looks fine",
    ];
    let said = scene.run(&approve).code(0);
    assert!(said.out.contains("rolling out"), "{said:?}");
    let events = scene.events(&id);
    let granted = events
        .iter()
        .find(|event| event["type"] == "approval.granted")
        .unwrap();
    assert_eq!(
        (&granted["actor"], &granted["stage"]),
        (&json!("api:dana"), &json!(1))
    );
    let said = scene.run(&["deny", &id, "--stage", "1"]).code(65);
    assert!(said.err.contains("dana"), "{said:?}");
    scene.server.with(|world| world.run_for(50_000));
    scene.run(&["promote", &id]).code(0);
    scene.run(&["abandon", &id]).code(65);
    scene.run(&["stop", &id]).code(0);
    scene.run_to(&id, "reverted");
    let said = scene.run(&["get", &id]).code(0);
    assert!(said.out.contains("reverted (stopped)"), "{said:?}");

    let said = scene
        .run(&["list", "--plan", "shop", "--state", "reverted"])
        .code(0);
    assert!(
        said.out.lines().count() == 2 && said.out.contains(&id),
        "{said:?}"
    );
    let said = scene
        .run(&["list", "--state", "succeeded", "--json"])
        .code(0);
    assert_eq!(said.json()["items"], json!([]));
    scene.run(&["list", "--state", "happy"]).code(65);
}

#[test]
fn plans_are_files() {
    let scene = Scene::new(0.0, |_| ());
    let path = file("cart.json");
    let mut plan = scene
        .server
        .with(|world| world.api("GET", "/v1/plans/shop", &Value::Null).1);
    plan["stages"] = json!([{"percent": 10, "soak": "10s"}, {"percent": 100, "soak": "60s"}]);
    std::fs::write(&path, plan.to_string()).unwrap();
    let apply = |name: &str| {
        let mut command = scene.command(&["plan", "apply", "--name", name]);
        Said::of(command.arg(&path).output().unwrap())
    };
    let said = apply("cart").code(0);
    assert!(
        said.out.contains("plan cart is saved as revision 1"),
        "{said:?}"
    );
    assert!(said.err.contains("warning: /stages/0/soak: "), "{said:?}");
    assert!(apply("cart").code(0).out.contains("revision 2"));
    // The file's name is the plan's.
    let said = Said::of(
        scene
            .command(&["plan", "apply"])
            .arg(&path)
            .output()
            .unwrap(),
    )
    .code(0);
    let stem = path.file_stem().unwrap().to_str().unwrap();
    assert!(said.out.contains(stem), "{said:?}");
    let said = scene.run(&["plan", "get", "cart"]).code(0);
    assert_eq!(said.json()["stages"][0]["percent"], 10);
    assert!(scene.run(&["plan", "list"]).code(0).out.contains("cart"));

    plan["stages"][0]["soack"] = json!("1m");
    std::fs::write(&path, plan.to_string()).unwrap();
    let said = apply("cart").code(65);
    assert!(said.err.contains("/stages/0/soack"), "{said:?}");
    std::fs::write(&path, "{").unwrap();
    let said = apply("cart").code(66);
    assert!(said.err.contains("is not JSON"), "{said:?}");
    scene.run(&["plan", "delete", "cart"]).code(0);
    scene.run(&["plan", "get", "cart"]).code(65);
}

#[test]
fn the_token_may_be_in_a_file() {
    let scene = Scene::new(0.0, |_| ());
    let path = file("token");
    let mut token = std::fs::File::create(&path).unwrap();
    writeln!(token, "{TOKEN}").unwrap();
    let mut command = hmd(&["list", "--url", &scene.server.url, "--token-file"]);
    Said::of(command.arg(&path).output().unwrap()).code(0);
    let mut command = hmd(&[
        "list",
        "--url",
        &scene.server.url,
        "--token-file",
        "/nowhere",
    ]);
    Said::of(command.output().unwrap()).code(66);
}
