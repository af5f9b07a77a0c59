//! What is in the account: read by wrangler, changed by nothing here.

use std::collections::BTreeSet;

use anyhow::Result;
use serde_json::Value;

use super::plan::{Found, Serving, Wanted};
use super::trouble::{Area, explain};
use super::wrangler::{Refusal, Wrangler, variable};
use crate::failure::Failure;

/// Cloudflare's codes for a Worker that does not exist.
const NO_SUCH_WORKER: [i64; 2] = [10007, 10090];

/// Runs a command that must end well.
pub async fn must(
    wrangler: &Wrangler<'_>,
    doing: &str,
    area: Area,
    arguments: &[&str],
) -> Result<super::wrangler::Answer> {
    Ok(wrangler
        .run(arguments)
        .await?
        .map_err(|refusal| explain(doing, area, &refusal))?)
}

/// The account that is meant: the one that was chosen, else the only one of who is logged in. A token that may not read
/// accounts is enough for the first.
pub async fn account_id(wrangler: &Wrangler<'_>) -> Result<String> {
    if let Some(id) = variable("CLOUDFLARE_ACCOUNT_ID") {
        return Ok(id);
    }
    let doing = "asking who is logged in";
    let answer = must(wrangler, doing, Area::Account, &["whoami", "--json"]).await?;
    only_account(&answer.json("whoami")?)
}

fn only_account(whoami: &Value) -> Result<String> {
    let accounts = whoami["accounts"].as_array().map_or(&[][..], Vec::as_slice);
    let ids: Vec<&str> = accounts.iter().filter_map(|it| it["id"].as_str()).collect();
    let hint = "set CLOUDFLARE_ACCOUNT_ID to the account that HMD shall live in";
    match ids[..] {
        [id] => Ok(id.to_owned()),
        [] => Err(Failure::new("the login names no account", hint).into()),
        _ => {
            let what = "the login reaches several accounts";
            let list = ids.into_iter().map(str::to_owned).collect();
            Err(Failure::new(what, hint).with_output(list).into())
        }
    }
}

/// Looks for everything that is wanted, but for the migrations.
pub async fn look(wrangler: &Wrangler<'_>, wanted: &Wanted) -> Result<Found> {
    let list = must(
        wrangler,
        "listing D1 databases",
        Area::Database,
        &["d1", "list", "--json"],
    );
    let databases = list.await?.json("d1 list")?;
    let database_id = id_of(&databases, &wanted.database);
    let mut queues = BTreeSet::new();
    for queue in &wanted.queues {
        match wrangler.run(&["queues", "info", queue]).await? {
            Ok(_) => drop(queues.insert(queue.clone())),
            Err(refusal) if refusal.text.contains("does not exist") => {}
            Err(refusal) => {
                return Err(explain("looking at the queues", Area::Queues, &refusal).into());
            }
        }
    }
    Ok(Found {
        database_id,
        has_pending_migrations: false,
        is_foreign: has_tables(&databases, &wanted.database),
        queues,
        serving: serving(wrangler, &wanted.worker).await?,
    })
}

/// The id of a database in wrangler's list.
pub fn id_of(databases: &Value, name: &str) -> Option<String> {
    let found = databases
        .as_array()?
        .iter()
        .find(|database| database["name"] == name)?;
    found["uuid"].as_str().map(str::to_owned)
}

/// Whether a database of wrangler's list has tables, as far as it says, besides the one that wrangler makes to list migrations.
fn has_tables(databases: &Value, name: &str) -> bool {
    let mut all = databases.as_array().map_or(&[][..], Vec::as_slice).iter();
    let found = all.find(|database| database["name"] == name);
    found.is_some_and(|database| database["num_tables"].as_u64().unwrap_or(0) > 1)
}

/// Whether the database lacks a migration, and whether it lacks the first.
pub async fn pending_migrations(
    wrangler: &Wrangler<'_>,
    database: &str,
    first: &str,
) -> Result<(bool, bool)> {
    let arguments = ["d1", "migrations", "list", database, "--remote"];
    let answer = must(wrangler, "listing migrations", Area::Database, &arguments).await?;
    let some = !answer.text.contains("No migrations to apply");
    Ok((some, some && answer.text.contains(first)))
}

async fn serving(wrangler: &Wrangler<'_>, worker: &str) -> Result<Option<Serving>> {
    let doing = "looking at the Worker";
    let status = match wrangler
        .run(&["deployments", "status", "--json", "--name", worker])
        .await?
    {
        Ok(answer) => answer.json("deployments status")?,
        Err(refusal) if is_absent(&refusal) => return Ok(None),
        Err(refusal) => return Err(explain(doing, Area::Worker, &refusal).into()),
    };
    let version = only_version(&status, worker)?;
    let arguments = ["versions", "view", version, "--json", "--name", worker];
    let answer = must(wrangler, doing, Area::Worker, &arguments).await?;
    Ok(Some(read_version(&answer.json("versions view")?)))
}

fn is_absent(refusal: &Refusal) -> bool {
    refusal
        .code
        .is_some_and(|code| NO_SUCH_WORKER.contains(&code))
        || refusal.text.contains("has no deployments")
}

/// The version that serves all traffic. An upload puts itself on all of it, so a split must be somebody's to end first.
fn only_version<'a>(status: &'a Value, worker: &str) -> Result<&'a str> {
    let versions = status["versions"].as_array().map_or(&[][..], Vec::as_slice);
    if let [version] = versions
        && let Some(id) = version["version_id"].as_str()
    {
        return Ok(id);
    }
    let what = format!(
        "the Worker {worker} itself is split between {} versions",
        versions.len()
    );
    let hint = format!(
        "an upload would take all traffic: end the split first (`npx wrangler versions deploy --name {worker}`), then run the same command again"
    );
    Err(Failure::new(what, hint).into())
}

fn read_version(version: &Value) -> Serving {
    let bindings = version["resources"]["bindings"].as_array();
    let bindings = bindings.map_or(&[][..], Vec::as_slice);
    let name = |binding: &Value| binding["name"].as_str().map(str::to_owned);
    let url = bindings
        .iter()
        .find(|it| it["type"] == "plain_text" && it["name"] == "PUBLIC_URL");
    Serving {
        tag: version["annotations"]["workers/tag"]
            .as_str()
            .map(str::to_owned),
        public_url: url
            .and_then(|it| it["text"].as_str())
            .unwrap_or_default()
            .to_owned(),
        has_database: bindings
            .iter()
            .any(|it| it["type"] == "d1" && it["name"] == "DB"),
        secrets: bindings
            .iter()
            .filter(|it| it["type"] == "secret_text")
            .filter_map(name)
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_account_is_only_taken_if_there_is_no_other() {
        let one = json!({"loggedIn": true, "accounts": [{"name": "me", "id": "a"}]});
        let two = json!({"accounts": [{"id": "a"}, {"id": "b"}]});
        assert_eq!(only_account(&one).unwrap(), "a");
        assert!(only_account(&two).is_err());
        assert!(only_account(&json!({"accounts": []})).is_err());
    }

    #[test]
    fn a_version_tells_its_tag_address_and_secrets() {
        let version = json!({"id": "v", "annotations": {"workers/tag": "hmd-1"}, "resources": {"bindings": [
            {"type": "d1", "name": "DB", "id": "x"},
            {"type": "plain_text", "name": "PUBLIC_URL", "text": "https://hmd.me.workers.dev"},
            {"type": "secret_text", "name": "HMD_API_TOKEN"}]}});
        let serving = read_version(&version);
        assert_eq!(serving.tag.as_deref(), Some("hmd-1"));
        assert_eq!(serving.public_url, "https://hmd.me.workers.dev");
        assert_eq!(serving.secrets, ["HMD_API_TOKEN".to_owned()].into());
        assert_eq!(read_version(&json!({})), Serving::default());
    }

    #[test]
    fn a_split_is_left_alone() {
        let one = json!({"versions": [{"version_id": "v", "percentage": 100}]});
        assert_eq!(only_version(&one, "hmd").unwrap(), "v");
        let two = json!({"versions": [{"version_id": "v"}, {"version_id": "w"}]});
        assert!(
            only_version(&two, "hmd")
                .unwrap_err()
                .to_string()
                .contains("split")
        );
    }

    #[test]
    fn databases_are_found_by_their_whole_name() {
        let list = json!([{"name": "hmd-old", "uuid": "1"}, {"name": "hmd", "uuid": "2"}]);
        assert_eq!(id_of(&list, "hmd").as_deref(), Some("2"));
        assert_eq!(id_of(&json!([]), "hmd"), None);
    }
}
