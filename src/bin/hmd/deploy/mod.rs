//! `hmd deploy`: HMD in a Cloudflare account, by the pinned wrangler. It makes what is missing, changes nothing that is right,
//! and shows each step.

mod account;
mod config;
mod plan;
mod secrets;
mod trouble;
mod wrangler;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;

use crate::failure::Failure;
use crate::fingerprint;
use crate::project::{Project, StateDir, copy_directory};
use crate::steps::Progress;
use crate::worker_build;
use config::Config;
use plan::{Found, Planned, Step, TAG_PREFIX, Wanted, plan, public_url, strangers};
use secrets::{Due, SECRETS};
use trouble::{Area, explain};
use wrangler::{Answer, Wrangler};

/// The options of `hmd deploy`.
#[derive(Debug, Args)]
pub struct DeployArgs {
    /// Show every step, build, and let wrangler bundle the Worker, without an account or the network
    #[arg(long)]
    dry_run: bool,
    /// Address under which people reach HMD [default: what the Worker has, else its workers.dev address]
    #[arg(long, value_name = "URL", value_parser = address)]
    url: Option<String>,
    /// Replace a secret that the Worker has; may be repeated
    #[arg(long, value_name = "NAME", value_parser = SECRETS.each_ref().map(|it| it.name))]
    rotate: Vec<String>,
    /// Deploy over a Worker or a database of HMD's names that does not look like HMD's
    #[arg(long)]
    adopt: bool,
    /// Where the copy of the configuration and the built Worker are put [default: .hmd/deploy]
    #[arg(long, value_name = "DIR", hide = true)]
    state_dir: Option<PathBuf>,
    /// Another program in wrangler's place
    #[arg(long, value_name = "FILE", hide = true, env = "HMD_WRANGLER")]
    wrangler: Option<PathBuf>,
}

/// Deploys, or shows what it would do.
pub async fn run(arguments: &DeployArgs) -> Result<()> {
    let project = Project::find()?;
    let config = Config::read(project.root())?;
    let hidden = project.hidden("deploy");
    let state = StateDir::open(arguments.state_dir.as_ref().unwrap_or(&hidden)).await?;
    secrets::File::remove_left_over(state.path())?;
    let wanted = Wanted {
        worker: config.worker().to_owned(),
        database: config.database().to_owned(),
        queues: config.queues(),
        url: arguments.url.clone(),
        rotate: arguments.rotate.iter().cloned().collect(),
    };

    // First: what does not compile must not have changed anything.
    worker_build::run_and_copy(&project, &state.path().join(config::WORKER_DIR)).await?;
    eprintln!("build of the Worker: done");
    copy_directory(
        &project.root().join(config.migrations_dir()),
        &state.path().join(config::MIGRATIONS_DIR),
    )?;

    let copy = config::write(state.path(), &config.filled(None, ""))?;
    let program = arguments.wrangler.as_deref();
    let mut wrangler = Wrangler::new(&project, program, state.path(), copy);
    if arguments.dry_run {
        wrangler.go_offline();
        return dry_run(&wrangler, &wanted, &state).await;
    }

    let progress = Progress::start("looking at the account");
    let found = look(&mut wrangler, &config, &wanted, &state).await;
    match &found {
        Ok(_) => progress.done(),
        Err(_) => progress.failed(),
    }
    let found = found?;
    if !arguments.adopt {
        refuse_strangers(&wanted, &found)?;
    }
    let deployment = Deployment {
        sources: worker_build::fingerprint(project.root())?,
        config,
        wanted,
        found,
        wrangler,
        state: &state,
    };
    let url = deployment.run().await?;
    next_steps(&url);
    Ok(())
}

async fn look(
    wrangler: &mut Wrangler<'_>,
    config: &Config,
    wanted: &Wanted,
    state: &StateDir,
) -> Result<Found> {
    let id = account::account_id(wrangler).await?;
    eprintln!("account {id}");
    wrangler.set_account(id);
    let mut found = account::look(wrangler, wanted).await?;
    if let Some(id) = &found.database_id {
        // wrangler finds the database by the id in its configuration.
        config::write(state.path(), &config.filled(Some(id), ""))?;
        let first = first_migration(&state.path().join(config::MIGRATIONS_DIR))?;
        let (some, all) = account::pending_migrations(wrangler, &wanted.database, &first).await?;
        found.has_pending_migrations = some;
        found.is_foreign &= all;
    }
    Ok(found)
}

/// The name of the file that is applied first.
fn first_migration(directory: &Path) -> Result<String> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(directory)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names.into_iter().min().unwrap_or_default())
}

/// Fails if something of these names is there that is not HMD's.
fn refuse_strangers(wanted: &Wanted, found: &Found) -> Result<()> {
    let strangers = strangers(wanted, found);
    if strangers.is_empty() {
        return Ok(());
    }
    let what = format!("the account has {}", strangers.join(" and "));
    let hint = "nothing was changed: give HMD other names in wrangler.toml (`name`, `database_name`), or run with --adopt if it is to be replaced";
    Err(Failure::new(what, hint).into())
}

/// A deployment that is going on.
struct Deployment<'a> {
    config: Config,
    wanted: Wanted,
    found: Found,
    wrangler: Wrangler<'a>,
    state: &'a StateDir,
    /// Fingerprint of what the Worker is built from.
    sources: String,
}

impl Deployment<'_> {
    /// Does what is due, in order, and answers the address.
    async fn run(&self) -> Result<String> {
        let serving = self.found.serving.clone().unwrap_or_default();
        let asked = self.wanted.url.as_deref();
        let mut url = public_url(asked, &serving.public_url, None);
        let mut database_id = self.found.database_id.clone();
        let tag = database_id.as_deref().map(|id| self.tag(Some(id), &url));
        let steps = plan(&self.wanted, &self.found, tag.as_deref());
        // Before anything is made: a secret that only a person has is not asked for half-way.
        let secrets = self.secrets(&steps)?;

        for Planned { step, due } in &steps {
            let Some(what) = due else {
                eprintln!("{step}: already there");
                continue;
            };
            match step {
                Step::Database(name) => {
                    self.change(step, what, Area::Database, &["d1", "create", name])
                        .await?;
                    let list = account::must(
                        &self.wrangler,
                        "listing D1 databases",
                        Area::Database,
                        &["d1", "list", "--json"],
                    );
                    let list = list.await?.json("d1 list")?;
                    database_id = account::id_of(&list, name);
                    database_id.as_ref().with_context(|| {
                        Failure::new(
                            format!("the database {name} was made, but is not listed"),
                            "run the same command again in a minute",
                        )
                    })?;
                }
                Step::Queue(name) => {
                    self.change(step, what, Area::Queues, &["queues", "create", name])
                        .await?;
                }
                Step::Migrations(name) => {
                    self.configure(database_id.as_deref(), &url)?;
                    let arguments = ["d1", "migrations", "apply", name, "--remote"];
                    self.change(step, what, Area::Database, &arguments).await?;
                }
                Step::Secret(_) => eprintln!("{step}: goes with the upload"),
                Step::Upload(_) => {
                    let answer = self
                        .upload(step, what, database_id.as_deref(), &url, &secrets)
                        .await?;
                    url = self.follow(&answer, database_id.as_deref(), &url).await?;
                }
                Step::Triggers => {
                    self.configure(database_id.as_deref(), &url)?;
                    let arguments = ["triggers", "deploy"];
                    let answer = self.change(step, what, Area::Worker, &arguments).await?;
                    url = self.follow(&answer, database_id.as_deref(), &url).await?;
                }
                // Done by `follow`, as soon as the address is known.
                Step::PublicUrl => {}
            }
        }
        Ok(url)
    }

    /// Sets `PUBLIC_URL` by another upload, if what was learned is not what the Worker was told.
    async fn follow(
        &self,
        answer: &Answer,
        database_id: Option<&str>,
        told: &str,
    ) -> Result<String> {
        let learned = answer.url();
        let url = public_url(self.wanted.url.as_deref(), told, learned.as_deref());
        if url.is_empty() {
            let what = "wrangler named no workers.dev address";
            let hint = "run the same command again with --url and the address that people use";
            return Err(Failure::new(what, hint).into());
        }
        if url != told {
            let due = "upload once more with it";
            self.upload(&Step::PublicUrl, due, database_id, &url, &Due::default())
                .await?;
        }
        Ok(url)
    }

    async fn upload(
        &self,
        step: &Step,
        due: &str,
        database_id: Option<&str>,
        url: &str,
        secrets: &Due,
    ) -> Result<Answer> {
        self.configure(database_id, url)?;
        let tag = self.tag(database_id, url);
        let mut arguments = vec!["deploy", "--tag", &tag, "--message", "hmd deploy"];
        if secrets.is_empty() {
            return self.change(step, due, Area::Worker, &arguments).await;
        }
        // Shown before the upload: one that seems to fail may have set them all the same.
        for (name, value) in secrets.made_up() {
            crate::say(&format!("made up {name}={value}"));
        }
        if secrets.made_up().next().is_some() {
            eprintln!(
                "keep what was made up (in a password manager, and HMD_API_TOKEN with whoever calls the API): nobody shows it again"
            );
        }
        let file = secrets.write(self.state.path())?;
        let path = file.path().to_string_lossy().into_owned();
        arguments.extend(["--secrets-file", &path]);
        self.change_with(step, due, Area::Worker, &arguments, secrets)
            .await
    }

    async fn change(
        &self,
        step: &Step,
        due: &str,
        area: Area,
        arguments: &[&str],
    ) -> Result<Answer> {
        self.change_with(step, due, area, arguments, &Due::default())
            .await
    }

    /// Runs a command that changes the account, and shows it.
    async fn change_with(
        &self,
        step: &Step,
        due: &str,
        area: Area,
        arguments: &[&str],
        secrets: &Due,
    ) -> Result<Answer> {
        let progress = Progress::start(&format!("{step}: {due}"));
        match self.wrangler.run(arguments).await? {
            Ok(answer) => {
                progress.done();
                Ok(answer)
            }
            Err(mut refusal) => {
                progress.failed();
                // wrangler has no reason to repeat a secret, but if it did, we would not.
                refusal.text = secrets.redact(&refusal.text);
                Err(explain(&step.to_string(), area, &refusal).into())
            }
        }
    }

    fn secrets(&self, steps: &[Planned]) -> Result<Due> {
        let due = steps.iter().filter(|planned| planned.due.is_some());
        let names: Vec<String> = due
            .filter_map(|planned| match &planned.step {
                Step::Secret(name) => Some(name.clone()),
                _ => None,
            })
            .collect();
        let serving = self.found.serving.as_ref();
        let replaced = serving.is_some_and(|it| it.secrets.contains(secrets::HMD_SIGNING_KEY));
        Due::collect(&names, replaced, wrangler::variable, secrets::ask)
    }

    fn configure(&self, database_id: Option<&str>, url: &str) -> Result<()> {
        config::write(self.state.path(), &self.config.filled(database_id, url)).map(drop)
    }

    /// Marks an upload by all that is in it, so that the next run can tell whether it is current.
    fn tag(&self, database_id: Option<&str>, url: &str) -> String {
        let content = self.config.filled(database_id, url);
        let all = format!("{}{content}", self.sources);
        format!("{TAG_PREFIX}{}", fingerprint::of_bytes(all.as_bytes()))
    }
}

/// Shows every step as it would be in an account that has nothing, and lets wrangler bundle the Worker.
async fn dry_run(wrangler: &Wrangler<'_>, wanted: &Wanted, state: &StateDir) -> Result<()> {
    for Planned { step, due } in plan(wanted, &Found::default(), None) {
        let Some(due) = due else { continue };
        eprintln!("{step}: would {due}, unless it is there");
    }
    let progress = Progress::start("wrangler deploy --dry-run");
    let bundle = state.path().join("bundle").to_string_lossy().into_owned();
    match wrangler
        .run(&["deploy", "--dry-run", "--outdir", &bundle])
        .await?
    {
        Ok(answer) => {
            progress.done();
            for line in answer.text.lines().filter(|line| !line.trim().is_empty()) {
                crate::say(&format!("  | {}", line.trim_end()));
            }
            crate::say("nothing was changed; `cargo run -- deploy` does it");
            Ok(())
        }
        Err(refusal) => {
            progress.failed();
            Err(explain("wrangler deploy --dry-run", Area::Worker, &refusal).into())
        }
    }
}

fn next_steps(url: &str) {
    crate::say(&format!("HMD is at {url}"));
    crate::say("next:");
    crate::say(&format!(
        "  curl {url}/healthz          (a new address may take some minutes to resolve)"
    ));
    crate::say(&format!(
        "  open {url}/docs             (the API; your browser asks for HMD_API_TOKEN as the password)"
    ));
    crate::say("  tests/simulated-service/README.md walks through a first release");
}

/// An address without a path, as `PUBLIC_URL` is put before one.
fn address(text: &str) -> Result<String, String> {
    let text = text.trim_end_matches('/');
    let url = reqwest::Url::parse(text).map_err(|error| error.to_string())?;
    let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1"));
    if url.scheme() != "https" && !is_local {
        return Err("it must begin with https://".to_owned());
    }
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        return Err("it must be an origin, such as https://hmd.example.com".to_owned());
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_an_origin() {
        assert_eq!(
            address("https://hmd.example.com/").unwrap(),
            "https://hmd.example.com"
        );
        for wrong in [
            "hmd.example.com",
            "http://hmd.example.com",
            "https://x.example/hmd",
            "https://x.example?y",
        ] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }
}
