//! What CI systems run, run as they run it: the step of the README and the GitHub Action, against the API of a simulated
//! world over HTTP.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]
#![allow(
    clippy::disallowed_methods,
    reason = "the programs under test have a clock of their own"
)]

#[path = "support/server.rs"]
mod server;
mod support;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::SystemTime;

use serde_json::Value;
use serde_yaml_ng::Value as Yaml;
use server::Server;
use support::{TOKEN, failing, healthy};

/// An empty directory of this test's own.
fn directory(name: &str) -> PathBuf {
    let name = format!("ci-{name}-{}", std::process::id());
    let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

/// A world with a Worker `shop`, whose second version fails this share of its requests. Its clock begins with the real one.
fn serve(error_rate: f64) -> Server {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let server = Server::at(i64::try_from(now.unwrap().as_millis()).unwrap());
    server.with(move |world| {
        world.worker("shop", &[healthy(), failing(error_rate)]);
        world.plan("shop", |_| ());
    });
    server
}

fn say(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    format!("{}{}", text(&output.stdout), text(&output.stderr))
}

fn executable(path: &Path, text: &str) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
}

/// Where a program is.
fn which(name: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap();
    let found = std::env::split_paths(&path).map(|dir| dir.join(name));
    found
        .into_iter()
        .find(|path| path.is_file())
        .unwrap_or_else(|| panic!("this test needs {name}"))
}

/// The script that the README shows.
fn readme_script() -> String {
    let readme = include_str!("../README.md");
    let (_, script) = readme.split_once("```bash\n#!").unwrap();
    let (script, _) = script.split_once("\n```").unwrap();
    format!("#!{script}\n")
}

/// The script of the README, with nothing else than the programs that it says it needs.
struct Step {
    directory: PathBuf,
    server: Server,
    secret: String,
}

impl Step {
    fn new(name: &str, error_rate: f64) -> Self {
        let (directory, server) = (directory(name), serve(error_rate));
        let secret = server.with(|world| {
            let path = "/v1/plans/shop/hook-secret";
            let (_, made) = world.api("POST", path, &Value::Null);
            made["secret"].as_str().unwrap().to_owned()
        });
        std::fs::write(directory.join("step.sh"), readme_script()).unwrap();
        for posix in ["date", "od", "tr", "sleep"] {
            symlink(which(posix), directory.join(posix)).unwrap();
        }
        let log = directory.join("arguments");
        for tool in ["curl", "openssl"] {
            // It notes what the list of processes would show.
            let (real, log) = (which(tool), log.display());
            let bash = which("bash");
            let text = format!(
                "#!{}\nprintf '%s\\n' {tool} \"$@\" >> '{log}'\nexec '{}' \"$@\"\n",
                bash.display(),
                real.display()
            );
            executable(&directory.join(tool), &text);
        }
        Self {
            directory,
            server,
            secret,
        }
    }

    fn run(&self, secret: &str, more: &[(&str, &str)]) -> Output {
        Command::new(which("bash"))
            .arg(self.directory.join("step.sh"))
            .env_clear()
            .env("PATH", &self.directory)
            .env("HMD_URL", &self.server.url)
            .env("HMD_PLAN", "shop")
            .env("HMD_HOOK_SECRET", secret)
            .env("HMD_INTERVAL", "0.05")
            .envs(more.iter().copied())
            .output()
            .unwrap()
    }
}

#[test]
fn the_step_of_the_readme_starts_a_release_with_curl_and_openssl() {
    let step = Step::new("step", 0.0);
    let output = step.run(&step.secret, &[("HMD_MESSAGE_ID", "run-7")]);
    let said = say(&output);
    assert!(output.status.success(), "{said}");
    let id = said.trim().strip_prefix("release ").unwrap().to_owned();
    let looked_for = id.clone();
    let events = step.server.with(move |world| world.events(&looked_for));
    assert_eq!(events[0]["actor"], "hook:shop");
    let again = say(&step.run(&step.secret, &[("HMD_MESSAGE_ID", "run-7")]));
    assert_eq!(again.trim(), format!("release {id}"), "the same message");

    // Neither the secret nor its key was ever an argument.
    let arguments = std::fs::read_to_string(step.directory.join("arguments")).unwrap();
    assert!(arguments.contains("dgst") && arguments.contains("/hooks/shop"));
    let encoded = step.secret.strip_prefix("whsec_").unwrap();
    assert!(!arguments.contains(encoded), "{arguments}");
    let hex = |text: &str| text.len() >= 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    assert!(!arguments.split(['\n', ':', '=']).any(hex), "{arguments}");
}

#[test]
fn the_step_of_the_readme_waits_if_it_has_the_token() {
    for (error_rate, code, state) in [(0.0, 0, "succeeded"), (0.5, 1, "reverted")] {
        let step = Step::new(state, error_rate);
        step.server.step(20_000);
        let output = step.run(&step.secret, &[("HMD_API_TOKEN", TOKEN)]);
        let said = say(&output);
        assert_eq!(output.status.code(), Some(code), "{said}");
        assert_eq!(said.lines().last(), Some(state), "{said}");
        let arguments = std::fs::read_to_string(step.directory.join("arguments")).unwrap();
        assert!(!arguments.contains(TOKEN), "{arguments}");
    }
}

#[test]
fn the_step_of_the_readme_fails_with_the_reason() {
    let step = Step::new("refused", 0.0);
    let wrong = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=";
    let output = step.run(wrong, &[]);
    assert_eq!(output.status.code(), Some(65));
    assert!(
        say(&output).contains("no signature fits"),
        "{}",
        say(&output)
    );
}

/// The action, read as GitHub reads it.
struct Action {
    document: Yaml,
    directory: PathBuf,
}

impl Action {
    fn new(name: &str) -> Self {
        let directory = directory(name);
        let document: Yaml = serde_yaml_ng::from_str(include_str!("../action.yml")).unwrap();
        assert_eq!(document["runs"]["using"], Yaml::from("composite"));
        // Building takes minutes; that `cargo` is asked for the right thing is what can go wrong here.
        let cargo = format!(
            "#!{bash}\nset -eu\n[ \"$*\" = \"build --locked --bin hmd --target-dir $RUNNER_TEMP/hmd-target\" ]\n\
             [ -f Cargo.lock ] && [ -f rust-toolchain.toml ]\n\
             mkdir -p \"$RUNNER_TEMP/hmd-target/debug\"\ncp '{hmd}' \"$RUNNER_TEMP/hmd-target/debug/hmd\"\n",
            bash = which("bash").display(),
            hmd = env!("CARGO_BIN_EXE_hmd"),
        );
        executable(&directory.join("cargo"), &cargo);
        Self {
            document,
            directory,
        }
    }

    fn step(&self, id: &str) -> &Yaml {
        let steps = self.document["runs"]["steps"].as_sequence().unwrap();
        let found = steps.iter().find(|step| step["id"] == *id);
        found.unwrap_or_else(|| panic!("no step {id}"))
    }

    /// The value of an input: as given, or its default. Fails if the action has none of this name.
    fn input(&self, given: &[(&str, &str)], name: &str) -> String {
        let input = &self.document["inputs"][name];
        assert!(input.is_mapping(), "no input {name}");
        let given = given.iter().find(|(known, _)| *known == name);
        given.map_or_else(
            || input["default"].as_str().unwrap_or_default().to_owned(),
            |(_, value)| (*value).to_owned(),
        )
    }

    /// Runs the script of a step as the runner does, and answers what it wrote into `GITHUB_OUTPUT`.
    fn run(&self, id: &str, given: &[(&str, &str)]) -> (Output, String) {
        let step = self.step(id);
        assert_eq!(step["shell"], Yaml::from("bash"));
        let script = step["run"].as_str().unwrap();
        assert!(
            !script.contains("${{"),
            "an input may be a command: {script}"
        );
        let file = self.directory.join("script.sh");
        std::fs::write(&file, script).unwrap();
        let (output, summary) = (
            self.directory.join("output"),
            self.directory.join("summary"),
        );
        let _ = std::fs::remove_file(&output);
        let path = std::env::var_os("PATH").unwrap();
        let paths = std::env::split_paths(&path);
        let path = std::env::join_paths(std::iter::once(self.directory.clone()).chain(paths));
        let mut command = Command::new(which("bash"));
        command
            .args(["--noprofile", "--norc", "-eo", "pipefail"])
            .arg(file)
            .current_dir(&self.directory)
            .env("PATH", path.unwrap())
            .env("CI", "true")
            .env("GITHUB_ACTION_PATH", env!("CARGO_MANIFEST_DIR"))
            .env("GITHUB_OUTPUT", &output)
            .env("GITHUB_STEP_SUMMARY", &summary)
            .env("GITHUB_SERVER_URL", "https://github.example")
            .env("GITHUB_REPOSITORY", "we/shop")
            .env("GITHUB_RUN_ID", "1871")
            .env("RUNNER_TEMP", &self.directory);
        for (name, value) in step["env"].as_mapping().into_iter().flatten() {
            let value = value.as_str().unwrap();
            let name_of = |text: &str| -> Option<String> {
                let inner = text.strip_prefix("${{ inputs.")?.strip_suffix(" }}")?;
                Some(inner.to_owned())
            };
            let input = name_of(value).unwrap_or_else(|| panic!("what is {value}?"));
            command.env(name.as_str().unwrap(), self.input(given, &input));
        }
        let done = command.output().unwrap();
        let wrote = std::fs::read_to_string(&output).unwrap_or_default();
        (done, wrote)
    }

    fn summary(&self) -> String {
        std::fs::read_to_string(self.directory.join("summary")).unwrap_or_default()
    }

    /// Takes the steps up to the release.
    fn prepare(&self) {
        let (done, wrote) = self.run("sources", &[]);
        assert!(done.status.success(), "{}", say(&done));
        let hash = wrote.trim().strip_prefix("hash=").unwrap();
        assert!(hash.len() >= 40, "{wrote}");
        let (again, same) = self.run("sources", &[]);
        assert!(again.status.success() && same == wrote, "{same}");
        let (done, _) = self.run("build", &[]);
        assert!(done.status.success(), "{}", say(&done));
    }
}

#[test]
fn the_action_starts_a_release_waits_and_writes_a_summary() {
    for (error_rate, code, state) in [(0.0, 0, "succeeded"), (0.5, 1, "reverted")] {
        let (action, server) = (Action::new(&format!("action-{state}")), serve(error_rate));
        action.prepare();
        server.step(40_000);
        let given = [
            ("url", server.url.as_str()),
            ("token", TOKEN),
            ("plan", "shop"),
            ("timeout", "5m"),
            ("note", "it's \"new\" $(rm -rf .)"),
        ];
        let (done, wrote) = action.run("release", &given);
        let said = say(&done);
        assert_eq!(done.status.code(), Some(code), "{said}");
        assert!(!said.contains('\u{1b}') && !said.contains(TOKEN), "{said}");
        assert!(wrote.contains(&format!("state={state}\n")), "{wrote}");
        for (name, _) in action.document["outputs"].as_mapping().unwrap() {
            let line = format!("{}=", name.as_str().unwrap());
            assert!(wrote.lines().any(|it| it.starts_with(&line)), "{wrote}");
        }
        let summary = action.summary();
        assert!(
            summary.contains(&format!("### Release of shop: {state}")),
            "{summary}"
        );
        assert!(
            summary.contains("<https://github.example/we/shop/actions/runs/1871>"),
            "{summary}"
        );
        let id = wrote
            .lines()
            .find_map(|line| line.strip_prefix("id="))
            .unwrap()
            .to_owned();
        let release = server.with(move |world| world.get(&id));
        assert_eq!(release["note"], given[4].1);
    }
}

#[test]
fn the_action_need_not_wait_and_says_when_nothing_was_started() {
    let (action, server) = (Action::new("action-no-wait"), serve(0.0));
    action.prepare();
    let given = [
        ("url", server.url.as_str()),
        ("token", TOKEN),
        ("plan", "shop"),
        ("wait", "false"),
    ];
    let (done, wrote) = action.run("release", &given);
    assert!(done.status.success(), "{}", say(&done));
    assert!(wrote.contains("state=rolling_out"), "{wrote}");
    let summary = action.summary();
    assert!(
        summary.contains("### Release of shop: rolling out"),
        "{summary}"
    );
    let (done, wrote) = action.run("release", &given);
    assert_eq!(
        (done.status.code(), wrote.as_str()),
        (Some(65), ""),
        "{}",
        say(&done)
    );
    assert!(
        action.summary().contains("already has an active release"),
        "{}",
        action.summary()
    );
}

#[test]
fn the_parts_of_the_action_fit_together() {
    let action = Action::new("action-parts");
    let outputs = action.document["outputs"].as_mapping().unwrap();
    for (name, output) in outputs {
        let value = output["value"].as_str().unwrap();
        let name = name.as_str().unwrap();
        assert_eq!(value, format!("${{{{ steps.release.outputs.{name} }}}}"));
    }
    let cache = action.step("cache");
    let bin = "${{ runner.temp }}/hmd-bin";
    assert_eq!(cache["with"]["path"], Yaml::from(bin));
    assert!(
        cache["with"]["key"]
            .as_str()
            .unwrap()
            .ends_with("${{ steps.sources.outputs.hash }}")
    );
    assert_eq!(
        action.step("build")["if"],
        Yaml::from("steps.cache.outputs.cache-hit != 'true'")
    );
    // Each input that is there is used.
    let env = action.step("release")["env"].as_mapping().unwrap();
    for (name, _) in action.document["inputs"].as_mapping().unwrap() {
        let used = format!("${{{{ inputs.{} }}}}", name.as_str().unwrap());
        assert!(
            env.values()
                .any(|value| value == &Yaml::from(used.as_str())),
            "{used}"
        );
    }
}
