//! `hmd deploy`: its dry run with the real wrangler; a whole run by the real wrangler against a stand-in for Cloudflare's API
//! (`cloudflare.mjs`); and the other cases, faster, against a stand-in for wrangler itself, with an account that lives in a
//! file (`fake-wrangler.mjs`). No test here needs an account, a token or the network.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail at once"
)]

mod cloudflare;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

/// wrangler's own token, and the Worker's.
const WRANGLER_TOKEN: &str = "wranglers-own-token-83a1f0c2d4";
const WORKER_TOKEN: &str = "the-workers-token-5c7e90b1aa21";
const QUEUES: [&str; 5] = [
    "hmd-checks",
    "hmd-dead",
    "hmd-deliveries",
    "hmd-deliveries-slow",
    "hmd-transitions",
];
/// What changes an account. `triggers deploy` is not among them: it sets again what is right.
const CHANGES: [&str; 4] = [
    "d1 create",
    "queues create",
    "d1 migrations apply",
    "deploy",
];
/// What a developer's environment may hold, and these tests must not depend on.
const NOT_INHERITED: [&str; 10] = [
    "CLOUDFLARE_API_TOKEN",
    "CLOUDFLARE_ACCOUNT_ID",
    "CLOUDFLARE_API_KEY",
    "CLOUDFLARE_EMAIL",
    "CLOUDFLARE_API_BASE_URL",
    "HMD_CLOUDFLARE_API_TOKEN",
    "HMD_API_TOKEN",
    "HMD_SIGNING_KEY",
    "HMD_SIGNING_KEY_PREVIOUS",
    "HMD_WRANGLER",
];

/// An account of the stand-in, and the directory that `deploy` keeps for it.
struct Account {
    directory: PathBuf,
}

/// What a run of `hmd deploy` came to.
struct Ran {
    success: bool,
    stdout: String,
    stderr: String,
    /// What it made wrangler do.
    calls: Vec<Value>,
}

fn is_change(command: &str) -> bool {
    let is = |change: &str| {
        let rest = command.strip_prefix(change);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(' '))
    };
    CHANGES.iter().any(|change| is(change))
}

impl Ran {
    /// The commands that change an account.
    fn changes(&self) -> Vec<&str> {
        let commands = self
            .calls
            .iter()
            .map(|call| call["command"].as_str().unwrap());
        commands.filter(|command| is_change(command)).collect()
    }

    fn count(&self, command: &str) -> usize {
        let all = self.calls.iter().filter(|call| call["command"] == command);
        all.count()
    }

    fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }

    /// What it says that it made up.
    fn made_up(&self, name: &str) -> Option<&str> {
        let prefix = format!("made up {name}=");
        self.stdout
            .lines()
            .find_map(|line| line.strip_prefix(&prefix))
    }

    #[track_caller]
    fn must_succeed(self) -> Self {
        assert!(self.success, "deploy failed:\n{}", self.said());
        self
    }

    #[track_caller]
    fn must_fail_saying(self, parts: &[&str]) -> Self {
        assert!(!self.success, "deploy succeeded:\n{}", self.said());
        for part in parts {
            assert!(
                self.stderr.contains(part),
                "no {part:?} in:\n{}",
                self.stderr
            );
        }
        self
    }
}

impl Account {
    fn new(name: &str) -> Self {
        let name = format!("deploy-{name}-{}", std::process::id());
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        if directory.exists() {
            std::fs::remove_dir_all(&directory).unwrap();
        }
        std::fs::create_dir_all(&directory).unwrap();
        Self { directory }
    }

    fn calls_file(&self) -> PathBuf {
        self.directory.join("calls.ndjson")
    }

    fn content(&self) -> Value {
        let text = std::fs::read_to_string(self.directory.join("account.json")).unwrap();
        serde_json::from_str(&text).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut Value)) {
        let mut content = self.content();
        change(&mut content);
        std::fs::write(self.directory.join("account.json"), content.to_string()).unwrap();
    }

    /// The secrets of the newest version, as the Worker would see them.
    fn secret(&self, name: &str) -> Option<String> {
        let content = self.content();
        let newest = content["versions"].as_array()?.last()?.clone();
        newest["secrets"][name].as_str().map(str::to_owned)
    }

    fn public_url(&self) -> String {
        let content = self.content();
        let newest = content["versions"]
            .as_array()
            .unwrap()
            .last()
            .unwrap()
            .clone();
        let bindings = newest["resources"]["bindings"].as_array().unwrap().clone();
        let found = bindings
            .iter()
            .find(|it| it["name"] == "PUBLIC_URL")
            .unwrap();
        found["text"].as_str().unwrap().to_owned()
    }

    /// Runs `hmd deploy`, logged in and with the Worker's token in the environment.
    fn deploy(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let mut all = vec![
            ("CLOUDFLARE_API_TOKEN", WRANGLER_TOKEN),
            ("HMD_CLOUDFLARE_API_TOKEN", WORKER_TOKEN),
        ];
        all.extend_from_slice(environment);
        self.deploy_as(arguments, &all)
    }

    fn deploy_as(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Ran {
        let fake = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/deploy/fake-wrangler.mjs"
        );
        if self.calls_file().exists() {
            std::fs::remove_file(self.calls_file()).unwrap();
        }
        let mut command = hmd(&self.directory.join("state"));
        command
            .args(arguments)
            .env("HMD_WRANGLER", fake)
            .env("FAKE_DIR", &self.directory)
            .envs(environment.iter().copied());
        let Output {
            status,
            stdout,
            stderr,
        } = command.output().unwrap();
        let calls = std::fs::read_to_string(self.calls_file()).unwrap_or_default();
        let ran = Ran {
            success: status.success(),
            stdout: String::from_utf8(stdout).unwrap(),
            stderr: String::from_utf8(stderr).unwrap(),
            calls: calls
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect(),
        };
        self.nothing_leaked(&ran);
        ran
    }

    /// No secret is said (but for those made up, once), handed over in arguments or environment, or left in a file.
    fn nothing_leaked(&self, ran: &Ran) {
        let said = ran.said();
        assert!(
            !said.contains(WORKER_TOKEN) && !said.contains(WRANGLER_TOKEN),
            "{said}"
        );
        let mut secrets = vec![WORKER_TOKEN.to_owned()];
        let made_up = ["HMD_API_TOKEN", "HMD_SIGNING_KEY"];
        for value in made_up.iter().filter_map(|name| ran.made_up(name)) {
            assert_eq!(
                said.matches(value).count(),
                1,
                "said more than once:\n{said}"
            );
            secrets.push(value.to_owned());
        }
        for call in &ran.calls {
            let call = call.to_string();
            assert!(
                !secrets.iter().any(|secret| call.contains(secret)),
                "a secret in {call}"
            );
        }
        secrets.push(WRANGLER_TOKEN.to_owned());
        for file in files(&self.directory.join("state")) {
            let bytes = std::fs::read(&file).unwrap();
            let text = String::from_utf8_lossy(&bytes);
            assert!(
                !secrets.iter().any(|secret| text.contains(secret)),
                "a secret in {}",
                file.display()
            );
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        // Kept for a look after a failure.
        if !std::thread::panicking() {
            std::fs::remove_dir_all(&self.directory).unwrap();
        }
    }
}

fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| {
            if path.is_dir() {
                files(&path)
            } else {
                vec![path]
            }
        })
        .collect()
}

fn hmd(state_dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_hmd"));
    command.arg("deploy").arg("--state-dir").arg(state_dir);
    for name in NOT_INHERITED {
        command.env_remove(name);
    }
    command.stdin(std::process::Stdio::null());
    command
}

#[test]
fn the_first_run_makes_everything_and_the_second_nothing() {
    let account = Account::new("twice");
    let first = account.deploy(&[], &[]).must_succeed();
    let mut expected = vec!["d1 create hmd".to_owned()];
    expected.extend(QUEUES.iter().map(|queue| format!("queues create {queue}")));
    expected.extend(["d1 migrations apply hmd", "deploy", "deploy"].map(str::to_owned));
    assert_eq!(first.changes(), expected);

    let content = account.content();
    assert_eq!(content["queues"], json!(QUEUES));
    assert_eq!(content["crons"], json!(["* * * * *"]));
    let migrations = files(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/schemas/migrations"
    )));
    assert_eq!(
        content["migrations"].as_array().unwrap().len(),
        migrations.len()
    );
    // The secrets came with the very first version, so no traffic was ever served without them.
    let versions = content["versions"].as_array().unwrap();
    for name in ["CLOUDFLARE_API_TOKEN", "HMD_API_TOKEN", "HMD_SIGNING_KEY"] {
        assert!(versions[0]["secrets"][name].is_string(), "{name} came late");
    }
    assert_eq!(
        account.secret("CLOUDFLARE_API_TOKEN").as_deref(),
        Some(WORKER_TOKEN)
    );
    assert_eq!(
        account.secret("HMD_API_TOKEN").as_deref(),
        first.made_up("HMD_API_TOKEN")
    );
    assert_eq!(account.public_url(), "https://hmd.me.workers.dev");
    assert!(
        first
            .stdout
            .contains("HMD is at https://hmd.me.workers.dev"),
        "{}",
        first.stdout
    );

    let second = account.deploy(&[], &[]).must_succeed();
    assert_eq!(second.changes(), [] as [&str; 0], "{}", second.said());
    assert_eq!(account.content(), content);
    assert_eq!(second.made_up("HMD_API_TOKEN"), None);
    for step in [
        "D1 database hmd",
        "queue hmd-dead",
        "secret HMD_SIGNING_KEY",
        "upload of the Worker hmd",
        "PUBLIC_URL",
    ] {
        assert!(
            second.stderr.contains(&format!("{step}: already there")),
            "{step}:\n{}",
            second.stderr
        );
    }
    let committed =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/wrangler.toml")).unwrap();
    assert!(committed.contains("00000000-0000-0000-0000-000000000000"));
}

#[test]
fn a_failed_step_says_what_to_do_and_the_next_run_goes_on() {
    let account = Account::new("continues");
    let trouble =
        json!({"command": "queues create hmd-dead", "code": 10000, "text": "Authentication error"});
    let failed = account
        .deploy(&[], &[("FAKE_TROUBLE", &trouble.to_string())])
        .must_fail_saying(&[
            "queue hmd-dead failed",
            "Queues Write",
            "run the same command again",
        ]);
    assert_eq!(
        failed.changes(),
        [
            "d1 create hmd",
            "queues create hmd-checks",
            "queues create hmd-dead"
        ]
    );

    let again = account.deploy(&[], &[]).must_succeed();
    assert_eq!(
        again.changes(),
        [
            "queues create hmd-dead",
            "queues create hmd-deliveries",
            "queues create hmd-deliveries-slow",
            "queues create hmd-transitions",
            "d1 migrations apply hmd",
            "deploy",
            "deploy"
        ]
    );
}

#[test]
fn each_known_trouble_is_explained() {
    let account = Account::new("troubles");
    account
        .deploy_as(&[], &[("HMD_CLOUDFLARE_API_TOKEN", WORKER_TOKEN)])
        .must_fail_saying(&["not logged in", "npx wrangler login"]);
    let missing = account
        .deploy_as(&[], &[("CLOUDFLARE_API_TOKEN", WRANGLER_TOKEN)])
        .must_fail_saying(&["HMD_CLOUDFLARE_API_TOKEN", "Workers Observability Write"]);
    // A missing token is noticed before anything is made.
    assert_eq!(missing.changes(), [] as [&str; 0]);
    account
        .deploy(&[], &[("HMD_API_TOKEN", "too-short")])
        .must_fail_saying(&["HMD_API_TOKEN is not usable", "32 characters"]);
    let cases = [
        ("d1 list", 10000, "Authentication error", "D1 Write"),
        (
            "queues create hmd-checks",
            100_129,
            "Queues is only available on a paid plan",
            "Workers Paid",
        ),
        (
            "deploy",
            10000,
            "Authentication error",
            "Workers Scripts Write",
        ),
    ];
    for (command, code, text, expected) in cases {
        let trouble = json!({"command": command, "code": code, "text": text});
        account
            .deploy(&[], &[("FAKE_TROUBLE", &trouble.to_string())])
            .must_fail_saying(&[expected]);
    }
    account.change(|content| content["logins"] = json!([{"id": "acc-1"}, {"id": "acc-2"}]));
    account.deploy(&[], &[]).must_fail_saying(&[
        "several accounts",
        "acc-2",
        "CLOUDFLARE_ACCOUNT_ID",
    ]);
    account
        .deploy(&[], &[("CLOUDFLARE_ACCOUNT_ID", "acc-2")])
        .must_succeed();
}

#[test]
fn without_a_subdomain_the_upload_stands_and_the_next_run_finishes() {
    let account = Account::new("subdomain");
    // Something has to be there for the account to be written.
    let trouble = json!({"command": "queues create hmd-checks", "code": 1, "text": "later"});
    account
        .deploy(&[], &[("FAKE_TROUBLE", &trouble.to_string())])
        .must_fail_saying(&["wrangler failed"]);
    account.change(|content| content["subdomain"] = Value::Null);
    let failed = account
        .deploy(&[], &[])
        .must_fail_saying(&["no workers.dev subdomain", "workers/onboarding"]);
    let token = failed.made_up("HMD_API_TOKEN").unwrap().to_owned();

    account.change(|content| content["subdomain"] = json!("us"));
    let again = account.deploy(&[], &[]).must_succeed();
    assert_eq!(again.changes(), ["deploy"], "{}", again.said());
    assert_eq!(again.count("triggers deploy"), 1);
    assert_eq!(account.secret("HMD_API_TOKEN"), Some(token));
    assert_eq!(account.public_url(), "https://hmd.us.workers.dev");
    assert_eq!(
        account.content()["consumers"].as_array().unwrap().len(),
        QUEUES.len()
    );
}

#[test]
fn secrets_stay_unless_they_are_rotated_and_an_address_of_ones_own_stays() {
    let account = Account::new("rotate");
    let key = "a2V5LW9mLXRoaXJ0eS10d28tYnl0ZXMtMDEyMzQ1Njc=";
    let given = [
        ("HMD_API_TOKEN", "given-token-of-more-than-32-characters"),
        ("HMD_SIGNING_KEY", key),
    ];
    let first = account
        .deploy(&["--url", "https://hmd.example.com"], &given)
        .must_succeed();
    assert_eq!(first.made_up("HMD_API_TOKEN"), None);
    assert!(!first.said().contains(given[0].1) && !first.said().contains(key));
    // The address was known, so one upload was enough.
    assert_eq!(first.count("deploy"), 1);
    assert_eq!(account.public_url(), "https://hmd.example.com");

    let other = "another-token-of-more-than-32-characters";
    let kept = account
        .deploy(&[], &[("HMD_API_TOKEN", other)])
        .must_succeed();
    assert_eq!(kept.changes(), [] as [&str; 0]);
    assert_eq!(account.secret("HMD_API_TOKEN").as_deref(), Some(given[0].1));

    let rotated = account
        .deploy(&["--rotate", "HMD_API_TOKEN"], &[("HMD_API_TOKEN", other)])
        .must_succeed();
    assert_eq!(rotated.changes(), ["deploy"]);
    assert_eq!(account.secret("HMD_API_TOKEN").as_deref(), Some(other));
    assert_eq!(account.secret("HMD_SIGNING_KEY").as_deref(), Some(key));
    assert_eq!(account.public_url(), "https://hmd.example.com");

    account
        .deploy(&["--rotate", "HMD_SIGNING_KEY"], &[])
        .must_fail_saying(&["HMD_SIGNING_KEY_PREVIOUS"]);
    account
        .deploy(
            &["--rotate", "HMD_SIGNING_KEY"],
            &[("HMD_SIGNING_KEY_PREVIOUS", key)],
        )
        .must_succeed();
    assert_eq!(
        account.secret("HMD_SIGNING_KEY_PREVIOUS").as_deref(),
        Some(key)
    );
    assert_ne!(account.secret("HMD_SIGNING_KEY").as_deref(), Some(key));
}

#[test]
fn a_new_migration_and_a_split_are_noticed() {
    let account = Account::new("drift");
    account.deploy(&[], &[]).must_succeed();
    account.change(|content| drop(content["migrations"].as_array_mut().unwrap().pop()));
    let migrated = account.deploy(&[], &[]).must_succeed();
    assert_eq!(migrated.changes(), ["d1 migrations apply hmd"]);

    account.change(|content| {
        let active =
            json!([{"version_id": "a", "percentage": 90}, {"version_id": "b", "percentage": 10}]);
        content["active"] = active;
    });
    let split = account
        .deploy(&[], &[])
        .must_fail_saying(&["split between 2 versions", "end the split first"]);
    assert_eq!(split.changes(), [] as [&str; 0]);
}

#[tokio::test]
async fn the_real_wrangler_makes_an_installation_and_leaves_it_alone() {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR"))
        .join(format!("deploy-wrangler-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let cloudflare = cloudflare::Cloudflare::start(&directory).await;
    let deploy = || {
        let output = hmd(&directory.join("state"))
            .env("XDG_CONFIG_HOME", &directory)
            .env("CLOUDFLARE_API_BASE_URL", cloudflare.api_url())
            .env("CLOUDFLARE_API_TOKEN", WRANGLER_TOKEN)
            .env("HMD_CLOUDFLARE_API_TOKEN", WORKER_TOKEN)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8(text).unwrap());
        (output.status.success(), said.concat())
    };

    cloudflare.forbid("/consumers").await;
    let (success, said) = deploy();
    assert!(!success, "{said}");
    for part in [
        "upload of the Worker hmd failed",
        "lacks a permission",
        "give it Queues Write",
        "run the same command again",
    ] {
        assert!(said.contains(part), "no {part:?} in:\n{said}");
    }
    cloudflare.forbid("").await;
    let (success, said) = deploy();
    assert!(success, "{said}");
    assert!(
        said.contains("HMD is at https://hmd.stand-in.workers.dev"),
        "{said}"
    );
    // Made by the first run, whose upload stood, and not made again.
    assert!(!said.contains("made up"), "{said}");

    let state = cloudflare.state().await;
    let names = |list: &str, key: &str| -> Vec<String> {
        let items = state[list].as_array().unwrap().iter();
        let mut names: Vec<_> = items
            .map(|it| it[key].as_str().unwrap().to_owned())
            .collect();
        names.sort();
        names
    };
    assert_eq!(names("databases", "name"), ["hmd"]);
    assert_eq!(names("queues", "queue_name"), QUEUES);
    for queue in state["queues"].as_array().unwrap() {
        assert_eq!(queue["consumers"].as_array().unwrap().len(), 1, "{queue}");
    }
    assert_eq!(state["crons"], json!(["* * * * *"]));
    let migrations = files(Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/schemas/migrations"
    )));
    assert!(!state["assets"].as_array().unwrap().is_empty());
    let applied = state["migrations"].as_array().unwrap();
    assert_eq!(applied.len(), migrations.len());
    let versions = state["versions"].as_array().unwrap();
    let secrets = |version: &Value| {
        let bindings = version["resources"]["bindings"].as_array().unwrap();
        let all = bindings.iter().filter(|it| it["type"] == "secret_text");
        all.count()
    };
    assert!(versions.iter().all(|version| secrets(version) == 3));
    let url = json!({"type": "plain_text", "name": "PUBLIC_URL", "text": "https://hmd.stand-in.workers.dev"});
    let bindings = &versions.last().unwrap()["resources"]["bindings"];
    assert!(bindings.as_array().unwrap().contains(&url), "{bindings}");

    let (success, said) = deploy();
    assert!(success, "{said}");
    let after = cloudflare.state().await;
    for part in [
        "databases",
        "queues",
        "versions",
        "migrations",
        "crons",
        "assets",
    ] {
        assert_eq!(after[part], state[part], "the second run changed {part}");
    }
    // What is set again is what an upload sets beside the code; wrangler also makes sure of its own migrations table.
    let writes: Vec<_> = after["writes"].as_array().unwrap().iter().collect();
    let is_expected = |write: &str| {
        ["/query", "/subdomain", "/schedules"]
            .iter()
            .any(|end| write.ends_with(end))
            || write.starts_with("PUT /queues/")
    };
    assert!(
        writes.iter().all(|it| is_expected(it.as_str().unwrap())),
        "{writes:?}"
    );
    drop(cloudflare);
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_dry_run_shows_every_step_and_bundles_the_worker_with_its_bindings() {
    let directory =
        Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("deploy-dry-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    // A home without a login, and no token: nothing can be asked.
    let output = hmd(&directory.join("state"))
        .arg("--dry-run")
        .env("XDG_CONFIG_HOME", &directory)
        .output()
        .unwrap();
    let stdout = String::from_utf8(output.stdout).unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success(), "{stdout}\n{stderr}");
    let mut steps = vec![
        "D1 database hmd: would".to_owned(),
        "migrations of hmd: would".to_owned(),
    ];
    steps.extend(QUEUES.iter().map(|queue| format!("queue {queue}: would")));
    for name in ["CLOUDFLARE_API_TOKEN", "HMD_API_TOKEN", "HMD_SIGNING_KEY"] {
        steps.push(format!("secret {name}: would"));
    }
    steps.extend(
        [
            "build of the Worker: done",
            "upload of the Worker hmd: would",
            "PUBLIC_URL: would",
        ]
        .map(str::to_owned),
    );
    for step in steps {
        assert!(stderr.contains(&step), "no {step:?} in:\n{stderr}");
    }
    for binding in [
        "env.DB (hmd)",
        "env.TRANSITIONS (hmd-transitions)",
        "env.CHECKS (hmd-checks)",
        "env.PUBLIC_URL",
    ] {
        assert!(stdout.contains(binding), "no {binding:?} in:\n{stdout}");
    }
    let bundle = files(&directory.join("state/bundle"));
    let wasm = bundle
        .iter()
        .find(|path| path.extension().is_some_and(|it| it == "wasm"));
    assert!(
        wasm.is_some_and(|path| path.metadata().unwrap().len() > 100_000),
        "{bundle:?}"
    );
    assert!(
        bundle.iter().any(|path| path.ends_with("index.js")),
        "{bundle:?}"
    );
    std::fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn what_somebody_else_has_of_these_names_is_left_alone() {
    let account = Account::new("stranger");
    account.deploy(&[], &[]).must_succeed();
    let foreign = json!([{"id": "v", "annotations": {"workers/tag": "shop-7"},
        "resources": {"bindings": [{"type": "secret_text", "name": "SHOP_KEY"}]}, "secrets": {}}]);
    account.change(|content| {
        content["versions"] = foreign.clone();
        content["active"] = json!([{"version_id": "v", "percentage": 100}]);
    });
    let said = ["a Worker hmd that is not HMD", "--adopt"];
    let ran = account.deploy(&[], &[]).must_fail_saying(&said);
    assert_eq!(ran.changes(), [] as [&str; 0]);
    // So is a database that has tables, but not HMD's.
    account.change(|content| {
        content["versions"] = json!([]);
        content["databases"][0]["num_tables"] = json!(7);
        content["migrations"] = json!([]);
    });
    let said = ["a D1 database hmd", "--adopt"];
    let ran = account.deploy(&[], &[]).must_fail_saying(&said);
    assert_eq!(ran.changes(), [] as [&str; 0]);
    let adopted = account.deploy(&["--adopt"], &[]).must_succeed();
    assert!(adopted.changes().contains(&"deploy"));
}
