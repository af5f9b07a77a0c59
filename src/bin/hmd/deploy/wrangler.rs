//! Running wrangler for its answers: what it prints on stdout, and the report that it writes for programs.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use serde_json::Value;
use tokio::process::Command;

use super::secrets::{HMD_SIGNING_KEY_PREVIOUS, SECRETS};
use crate::failure::Failure;
use crate::project::Project;

/// How many of a failed command's last lines are shown.
const SHOWN: usize = 20;

/// wrangler, for one account.
#[derive(Debug)]
pub struct Wrangler<'a> {
    project: &'a Project,
    program: PathBuf,
    state_dir: &'a Path,
    config: PathBuf,
    account_id: Option<String>,
    is_offline: bool,
}

/// What a command that ended well said.
#[derive(Debug, Default)]
pub struct Answer {
    /// Its stdout.
    pub text: String,
    /// The entries of its report.
    report: Vec<Value>,
}

/// What one that failed said.
#[derive(Debug, Clone, Default)]
pub struct Refusal {
    /// Cloudflare's error code, if wrangler named one.
    pub code: Option<i64>,
    /// All of its output.
    pub text: String,
}

impl Refusal {
    /// Its last lines, for a person.
    pub fn last_lines(&self) -> Vec<String> {
        let lines: Vec<&str> = self.text.lines().map(str::trim_end).collect();
        let lines: Vec<&str> = lines.into_iter().filter(|line| !line.is_empty()).collect();
        lines[lines.len().saturating_sub(SHOWN)..]
            .iter()
            .map(|line| (*line).to_owned())
            .collect()
    }
}

impl<'a> Wrangler<'a> {
    /// The pinned wrangler, or another program in its place.
    pub fn new(
        project: &'a Project,
        program: Option<&Path>,
        state_dir: &'a Path,
        config: PathBuf,
    ) -> Self {
        let pinned = || project.node_bin("wrangler");
        Self {
            project,
            program: program.map_or_else(pinned, Path::to_path_buf),
            state_dir,
            config,
            account_id: None,
            is_offline: false,
        }
    }

    /// From here on, commands are about this account, whatever wrangler remembers.
    pub fn set_account(&mut self, id: String) {
        self.account_id = Some(id);
    }

    /// From here on, commands get no credential: what they do needs none.
    pub fn go_offline(&mut self) {
        self.is_offline = true;
    }

    /// Runs a command. `Err` inside: wrangler refused.
    pub async fn run<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Result<Result<Answer, Refusal>> {
        let report = self.state_dir.join("wrangler-report.ndjson");
        match fs::remove_file(&report) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let output = self
            .command(arguments, &report)?
            .output()
            .await
            .with_context(|| {
                Failure::new(
                    format!("{} can't be started", self.program.display()),
                    "run `cargo run -- setup`",
                )
            })?;
        let text =
            |bytes: &[u8]| console::strip_ansi_codes(&String::from_utf8_lossy(bytes)).into_owned();
        let report = read_report(&report);
        if output.status.success() {
            return Ok(Ok(Answer {
                text: text(&output.stdout),
                report,
            }));
        }
        let failed = report.iter().find(|it| it["type"] == "command-failed");
        Ok(Err(Refusal {
            code: failed.and_then(|it| it["code"].as_i64()),
            text: format!("{}\n{}", text(&output.stdout), text(&output.stderr)),
        }))
    }

    fn command<S: AsRef<OsStr>>(&self, arguments: &[S], report: &Path) -> Result<Command> {
        let mut command = self.project.command(&self.program)?;
        command
            .args(arguments)
            .arg("--config")
            .arg(&self.config)
            // It asks nothing then; what it would ask, it answers as deploying from CI wants it.
            .env("CI", "1")
            .env("NO_COLOR", "1")
            .env("FORCE_COLOR", "0")
            .env("WRANGLER_SEND_METRICS", "false")
            .env("WRANGLER_LOG_PATH", self.state_dir.join("wrangler-logs"))
            .env("WRANGLER_OUTPUT_FILE_PATH", report)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // What is HMD's is none of its business; a secret gets to it in the secrets file only.
        for name in SECRETS
            .iter()
            .map(|it| it.variable)
            .chain([HMD_SIGNING_KEY_PREVIOUS])
        {
            command.env_remove(name);
        }
        if let Some(id) = &self.account_id {
            command.env("CLOUDFLARE_ACCOUNT_ID", id);
        }
        if self.is_offline {
            for name in [
                "CLOUDFLARE_API_TOKEN",
                "CLOUDFLARE_API_KEY",
                "CLOUDFLARE_EMAIL",
                "CLOUDFLARE_ACCOUNT_ID",
            ] {
                command.env_remove(name);
            }
        }
        Ok(command)
    }
}

fn read_report(path: &Path) -> Vec<Value> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect()
}

impl Answer {
    /// Its stdout as JSON.
    pub fn json(&self, command: &str) -> Result<Value> {
        serde_json::from_str(&self.text).with_context(|| {
            Failure::new(
                format!("`wrangler {command}` answered no JSON"),
                "run `npm ci`: this wrangler may not be the pinned one",
            )
        })
    }

    /// The address on which the Worker is served, if the command said one: from its report, else from what it printed.
    pub fn url(&self) -> Option<String> {
        let reported = self.report.iter().flat_map(|entry| {
            let targets = entry["targets"].as_array().map_or(&[][..], Vec::as_slice);
            targets.iter().filter_map(Value::as_str)
        });
        reported.chain(self.text.lines()).find_map(address)
    }
}

/// The `workers.dev` address that a line consists of.
fn address(line: &str) -> Option<String> {
    let host = line.trim();
    let host = host.strip_prefix("https://").unwrap_or(host);
    let is_name = |it: char| it.is_ascii_alphanumeric() || "-.".contains(it);
    let fits = host.ends_with(".workers.dev") && host.chars().all(is_name);
    fits.then(|| format!("https://{host}"))
}

/// What the environment says, if it says anything.
pub fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_address_is_found_in_the_report_or_in_the_output() {
        let entry = json!({"type": "deploy", "targets": ["https://hmd.me.workers.dev", "schedule: * * * * *"]});
        let reported = Answer {
            report: vec![json!({"type": "wrangler-session"}), entry],
            ..Answer::default()
        };
        assert_eq!(
            reported.url().as_deref(),
            Some("https://hmd.me.workers.dev")
        );
        let printed = Answer {
            text: "Deployed hmd triggers (1.2 sec)\n  https://hmd.me.workers.dev\n  schedule: * * * * *\n".into(),
            ..Answer::default()
        };
        assert_eq!(printed.url().as_deref(), Some("https://hmd.me.workers.dev"));
        for line in [
            "see https://x.workers.dev for more",
            "https://hmd.example.com",
            "Consumer for hmd-dead",
        ] {
            assert_eq!(address(line), None, "{line}");
        }
    }

    #[test]
    fn a_refusal_shows_its_last_lines() {
        let refusal = Refusal {
            code: None,
            text: (0..50)
                .map(|line| format!("line {line}\n"))
                .collect::<Vec<_>>()
                .join("\n"),
        };
        let lines = refusal.last_lines();
        assert_eq!(
            (lines.len(), lines.last().unwrap().as_str()),
            (SHOWN, "line 49")
        );
    }
}
