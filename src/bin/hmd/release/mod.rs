//! `hmd release`: HMD's API from a terminal or a CI job.

mod args;
mod client;
mod exit;
mod follow;
mod model;
mod out;
mod plan;
mod summary;
mod text;
mod watch;

use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::process::ExitCode;

use reqwest::Method;
use serde_json::{Value, json};

pub use args::ReleaseArgs;
use args::{Access, Decide, List, Start, Verb, Waiting};
use client::{Answer, Call, Client, read};
use exit::Error;
pub use exit::Exit;
use follow::{Followed, Patience, follow};
use model::{Page, Release};
use out::{Out, print};

/// Runs a command and says how it ended. Whatever fails has been told on stderr.
pub async fn run(arguments: &ReleaseArgs) -> ExitCode {
    let exit = carry_out(arguments).await.unwrap_or_else(|error| {
        eprintln!("error: {}", error.text());
        if let Some(waiting) = waiting(&arguments.command)
            && let Some(path) = &waiting.summary
            && let Err(error) = append(path, &summary::markdown_of_error(&error))
        {
            eprintln!("error: {}", error.text());
        }
        error.exit()
    });
    exit.into()
}

fn waiting(verb: &Verb) -> Option<&Waiting> {
    match verb {
        Verb::Start(start) => Some(&start.waiting),
        Verb::Watch(watch) => Some(&watch.waiting),
        _ => None,
    }
}

async fn carry_out(arguments: &ReleaseArgs) -> Result<Exit, Error> {
    let client = connect(&arguments.access)?;
    let json = arguments.access.json;
    match &arguments.command {
        Verb::Start(start) => self::start(&client, start, json).await,
        Verb::Watch(watch) => {
            let first = get(&client, &watch.id).await?;
            wait(&client, first, &watch.waiting, json).await
        }
        Verb::Get(one) => show(&get(&client, &one.id).await?, json),
        Verb::List(list) => self::list(&client, list, json).await,
        Verb::Approve(decide) => self::decide(&client, decide, "approve", json).await,
        Verb::Deny(decide) => self::decide(&client, decide, "deny", json).await,
        Verb::Pause(one) => command(&client, &one.id, "pause", json).await,
        Verb::Resume(one) => command(&client, &one.id, "resume", json).await,
        Verb::Promote(one) => command(&client, &one.id, "promote", json).await,
        Verb::Stop(one) => command(&client, &one.id, "stop", json).await,
        Verb::Abandon(one) => command(&client, &one.id, "abandon", json).await,
        Verb::Plan(plan) => self::plan::run(&client, &plan.command, json).await,
    }
}

/// The client, or what is missing for one.
fn connect(access: &Access) -> Result<Client, Error> {
    let url = access.url.as_deref().filter(|url| !url.is_empty());
    let url = url.ok_or_else(|| {
        Error::Usage("where is HMD? Say so with --url or the variable HMD_URL".to_owned())
    })?;
    let token = match &access.token_file {
        Some(path) => std::fs::read_to_string(path)
            .map_err(|error| Error::Input(format!("{} can't be read: {error}", path.display())))?,
        None => std::env::var("HMD_API_TOKEN").unwrap_or_default(),
    };
    let token = token.trim();
    if !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        let place = match &access.token_file {
            Some(path) => path.display().to_string(),
            None => "HMD_API_TOKEN".to_owned(),
        };
        return Err(Error::Usage(format!(
            "the token in {place} holds a space, a line break or another character that no token has"
        )));
    }
    if token.is_empty() {
        return Err(Error::Usage(
            "put the token of HMD's API into the variable HMD_API_TOKEN, or name a file that holds it with --token-file"
                .to_owned(),
        ));
    }
    let client = Client::new(url, token.to_owned())?;
    if client.is_in_the_clear() {
        eprintln!("warning: over http:// anybody on the way can read the token; use https://");
    }
    Ok(client)
}

async fn get(client: &Client, id: &str) -> Result<Answer, Error> {
    let call = Call::new(Method::GET, format!("/v1/releases/{id}"));
    client.call(&call).await
}

/// Prints a release.
fn show(answer: &Answer, json: bool) -> Result<Exit, Error> {
    if json {
        print(&answer.body.to_string())?;
    } else {
        let release: Release = read(answer.body.clone())?;
        print(&text::sheet(&release, text::now()).join("\n"))?;
    }
    Ok(Exit::Succeeded)
}

async fn start(client: &Client, start: &Start, json: bool) -> Result<Exit, Error> {
    if start.waiting.timeout.is_some() && !start.wait {
        return Err(Error::Usage(
            "--timeout says how long to --wait, and nobody waits".to_owned(),
        ));
    }
    let key = match &start.idempotency_key {
        Some(key) => key.clone(),
        None => format!("hmd-{}", uuid::Uuid::now_v7()),
    };
    let mut body = json!({
        "plan": start.plan, "new_version": start.version, "on_conflict": start.on_conflict, "mode": start.mode,
    });
    let optional = [
        ("old_version", &start.old_version),
        ("note", &start.note),
        ("url", &start.link),
    ];
    for (name, value) in optional {
        if let Some(value) = value {
            body[name] = json!(value);
        }
    }
    // The key makes it one release, however often it is sent.
    let call = Call::new(Method::POST, "/v1/releases")
        .body(body.to_string())
        .header("idempotency-key", &key)
        .repeatable();
    let created = client.call(&call).await?;
    if start.wait {
        return wait(client, created, &start.waiting, json).await;
    }
    let release: Release = read(created.body.clone())?;
    record(&start.waiting, &release)?;
    if let Some(path) = &start.waiting.summary {
        let watch = watch::Watch::new(release.clone(), text::now());
        append(
            path,
            &summary::markdown(&watch, Exit::Succeeded, client.base()),
        )?;
    }
    if json {
        print(&created.body.to_string())?;
    } else {
        print(&text::headline(&release))?;
        eprintln!("`hmd release watch {}` shows how it goes", release.id);
    }
    Ok(Exit::Succeeded)
}

/// Waits for the end of a release.
async fn wait(
    client: &Client,
    first: Answer,
    waiting: &Waiting,
    json: bool,
) -> Result<Exit, Error> {
    let release: Release = read(first.body.clone())?;
    // At once: if this command is killed, the next step of the job can still find the release.
    record(waiting, &release)?;
    let patience = Patience {
        timeout: waiting.timeout,
        interval: waiting.interval,
    };
    let mut out = Out::new(json);
    let Followed {
        exit,
        body,
        watch,
        error,
    } = follow(client, first, patience, &mut out).await?;
    record(waiting, &watch.release)?;
    if let Some(path) = &waiting.summary {
        append(path, &summary::markdown(&watch, exit, client.base()))?;
    }
    if json {
        print(&body.to_string())?;
    }
    match error {
        Some(error) => Err(error),
        None => Ok(exit),
    }
}

/// Tells the next steps of a job; a later line of the same name counts.
fn record(waiting: &Waiting, release: &Release) -> Result<(), Error> {
    match &waiting.outputs {
        Some(path) => append(path, &summary::outputs(release)),
        None => Ok(()),
    }
}

fn append(path: &Path, text: &str) -> Result<(), Error> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| Error::Output(format!("{} can't be written: {error}", path.display())))
}

async fn list(client: &Client, list: &List, json: bool) -> Result<Exit, Error> {
    let call = Call::new(Method::GET, format!("/v1/releases{}", list.query()));
    let answer = client.call(&call).await?;
    if json {
        print(&answer.body.to_string())?;
        return Ok(Exit::Succeeded);
    }
    let page: Page<Release> = read(answer.body)?;
    if page.items.is_empty() {
        eprintln!("there are none");
        return Ok(Exit::Succeeded);
    }
    print(&text::rows(&page.items).join("\n"))?;
    if let Some(cursor) = page.next_cursor {
        eprintln!("there are more: --cursor {cursor}");
    }
    Ok(Exit::Succeeded)
}

async fn command(client: &Client, id: &str, verb: &str, json: bool) -> Result<Exit, Error> {
    let call = Call::new(Method::POST, format!("/v1/releases/{id}/{verb}"));
    show(&client.call(&call).await?, json)
}

async fn decide(client: &Client, decide: &Decide, verb: &str, json: bool) -> Result<Exit, Error> {
    let id = &decide.id;
    let stage = match decide.stage {
        Some(stage) => stage,
        None => read::<Release>(get(client, id).await?.body)?.stage,
    };
    let mut body = serde_json::Map::new();
    for (name, value) in [("by", &decide.by), ("comment", &decide.comment)] {
        if let Some(value) = value {
            body.insert(name.to_owned(), json!(value));
        }
    }
    // The same decision again is answered with what was decided.
    let call = Call::new(
        Method::POST,
        format!("/v1/releases/{id}/stages/{stage}/{verb}"),
    )
    .body(Value::Object(body).to_string())
    .repeatable();
    show(&client.call(&call).await?, json)
}
