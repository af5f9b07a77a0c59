//! The command line of `hmd release`.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

/// Start releases, watch them, decide on them
#[derive(Debug, Args)]
#[command(
    after_help = "The token of the API is read from the environment variable HMD_API_TOKEN or from --token-file, never from the command line.

Exit codes:
  0  the release succeeded, or the command did what it should
  1  the release was reverted
  2  the release was superseded or cancelled
  3  the release still goes on and the time to wait is up
 64  the command line is wrong, or HMD_URL or HMD_API_TOKEN is missing
 65  HMD refused, and said why
 66  a file can't be read
 69  HMD can't be reached, or can't answer
 74  the result can't be written
 77  HMD does not accept the token
130  Ctrl-C; the release goes on"
)]
pub struct ReleaseArgs {
    #[command(flatten)]
    pub access: Access,
    #[command(subcommand)]
    pub command: Verb,
}

/// Which HMD, and how it answers.
#[derive(Debug, Args)]
pub struct Access {
    /// Where HMD is, such as <https://hmd.example.workers.dev>
    #[arg(long, env = "HMD_URL", global = true)]
    pub url: Option<String>,
    /// A file that holds the token, in place of `HMD_API_TOKEN`
    #[arg(long, value_name = "FILE", global = true)]
    pub token_file: Option<PathBuf>,
    /// Print the API's JSON on stdout, and everything for people on stderr
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Start a release of a Worker's new version
    Start(Start),
    /// Show a release
    Get(One),
    /// List releases, newest first
    List(List),
    /// Wait for the end of a release and show how it goes
    Watch(Watch),
    /// Approve a stage that waits
    Approve(Decide),
    /// Deny a stage that waits: the release goes back to the old version
    Deny(Decide),
    /// Stop the soak clock; SLOs are still checked
    Pause(One),
    /// Let the soak clock go on
    Resume(One),
    /// End the present soak as passed
    Promote(One),
    /// Go back to the old version, or cancel what has not started
    Stop(One),
    /// Give up a release that can't go back
    Abandon(One),
    /// Save, show, list and delete plans
    Plan(Plan),
}

#[derive(Debug, Args)]
pub struct Start {
    /// Name of the plan
    #[arg(long, value_parser = name)]
    pub plan: String,
    /// Id of the version, or `latest`: the newest that can be deployed
    #[arg(long, default_value = "latest")]
    pub version: String,
    /// The version that must serve all traffic now
    #[arg(long, value_name = "VERSION")]
    pub old_version: Option<String>,
    /// What happens if the Worker has an active release
    #[arg(long, value_enum, default_value_t = OnConflict::Reject)]
    pub on_conflict: OnConflict,
    /// Whether HMD deploys the stages, or only watches what others deploy and says what it would have done
    #[arg(long, value_enum, default_value_t = Mode::Deploy)]
    pub mode: Mode,
    /// For people: what is new
    #[arg(long)]
    pub note: Option<String>,
    /// For people: a link, such as to a CI run (`--url` is where HMD is)
    #[arg(long, value_name = "URL")]
    pub link: Option<String>,
    /// Started twice with the same key, it is one release; made up if absent
    #[arg(long, value_name = "KEY")]
    pub idempotency_key: Option<String>,
    /// Wait for the end of the release; the exit code says how it ended
    #[arg(long)]
    pub wait: bool,
    #[command(flatten)]
    pub waiting: Waiting,
}

/// What happens if the Worker has an active release.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OnConflict {
    /// Nothing is started
    Reject,
    /// Wait for its end
    Queue,
    /// Send it back first
    Supersede,
}

/// What HMD does with the release.
#[derive(Debug, Clone, Copy, ValueEnum, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// It applies the splits of the plan, and takes them back
    Deploy,
    /// It watches the splits that others make, and writes nothing to Cloudflare
    Watch,
}

/// How a wait goes.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Stop waiting after this time, such as 30m; the release goes on. Waits for the end if absent
    #[arg(long, value_parser = humantime::parse_duration)]
    pub timeout: Option<Duration>,
    /// How often to look
    #[arg(long, default_value = "2s", value_parser = interval)]
    pub interval: Duration,
    /// Append a summary in Markdown to this file
    #[arg(long, value_name = "FILE")]
    pub summary: Option<PathBuf>,
    /// Append id, state and reason as `name=value` lines to this file
    #[arg(long, value_name = "FILE")]
    pub outputs: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub struct One {
    /// Id of the release
    #[arg(value_parser = name)]
    pub id: String,
}

#[derive(Debug, Args)]
pub struct Watch {
    /// Id of the release
    #[arg(value_parser = name)]
    pub id: String,
    #[command(flatten)]
    pub waiting: Waiting,
}

#[derive(Debug, Args)]
pub struct Decide {
    /// Id of the release
    #[arg(value_parser = name)]
    pub id: String,
    /// Which stage, from 1; the present one if absent
    #[arg(long)]
    pub stage: Option<usize>,
    /// Who decides, for the history
    #[arg(long)]
    pub by: Option<String>,
    /// Why, for the history
    #[arg(long)]
    pub comment: Option<String>,
}

#[derive(Debug, Args)]
pub struct List {
    /// Only of this Worker (script name)
    #[arg(long)]
    pub worker: Option<String>,
    /// Only of this plan
    #[arg(long)]
    pub plan: Option<String>,
    /// Only in this state, such as `rolling_out`
    #[arg(long)]
    pub state: Option<String>,
    /// Only created at this time or later, such as 2026-10-01T09:00:00Z
    #[arg(long)]
    pub since: Option<String>,
    /// Only created before this time
    #[arg(long)]
    pub until: Option<String>,
    /// At most so many, up to 200
    #[arg(long)]
    pub limit: Option<u32>,
    /// Go on where the list before ended
    #[arg(long)]
    pub cursor: Option<String>,
}

impl List {
    /// The query, with a question mark if there is anything in it.
    pub fn query(&self) -> String {
        let limit = self.limit.map(|limit| limit.to_string());
        let pairs = [
            ("worker", &self.worker),
            ("plan", &self.plan),
            ("state", &self.state),
            ("since", &self.since),
            ("until", &self.until),
            ("limit", &limit),
            ("cursor", &self.cursor),
        ];
        let mut query = form_urlencoded::Serializer::new(String::new());
        for (name, value) in pairs {
            if let Some(value) = value {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query.is_empty() {
            query
        } else {
            format!("?{query}")
        }
    }
}

#[derive(Debug, Args)]
pub struct Plan {
    #[command(subcommand)]
    pub command: PlanVerb,
}

#[derive(Debug, Subcommand)]
pub enum PlanVerb {
    /// Save a plan from a JSON file, and print what may surprise
    Apply {
        /// The file
        file: PathBuf,
        /// Name of the plan; that of the file if absent
        #[arg(long, value_parser = name)]
        name: Option<String>,
    },
    /// Print a plan as JSON
    Get {
        /// Name of the plan
        #[arg(value_parser = name)]
        name: String,
    },
    /// List the plans
    List,
    /// Delete a plan; its releases keep their snapshots
    Delete {
        /// Name of the plan
        #[arg(value_parser = name)]
        name: String,
    },
}

/// An id or a name, which becomes a step of a path.
pub fn name(text: &str) -> Result<String, String> {
    let fits = !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_');
    if fits {
        return Ok(text.to_owned());
    }
    Err("it has letters, digits, '-' and '_' only".to_owned())
}

fn interval(text: &str) -> Result<Duration, String> {
    let interval = humantime::parse_duration(text).map_err(|error| error.to_string())?;
    if interval < Duration::from_millis(10) {
        return Err("it must be 10ms or more".to_owned());
    }
    Ok(interval)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_one_step_of_a_path() {
        for good in ["rel_01", "shop", "a-b_C9"] {
            assert_eq!(name(good).unwrap(), good);
        }
        for bad in ["", "a/b", "..", "a b", "a?b", "ä"] {
            assert!(name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_query_holds_what_was_asked() {
        let mut list = List {
            worker: None,
            plan: None,
            state: None,
            since: None,
            until: None,
            limit: None,
            cursor: None,
        };
        assert_eq!(list.query(), "");
        list.worker = Some("a&b".to_owned());
        list.limit = Some(5);
        assert_eq!(list.query(), "?worker=a%26b&limit=5");
    }
}
