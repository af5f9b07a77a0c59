//! `hmd release plan`: plans as files.

use std::path::Path;

use reqwest::Method;
use serde::Deserialize;
use serde_json::Value;

use super::args::{PlanVerb, name};
use super::client::{Call, Client, read};
use super::exit::{Error, Exit, FieldError};
use super::model::Page;
use super::out::print;
use super::text;

/// A plan, as far as a list and a warning go.
#[derive(Deserialize)]
struct Saved {
    name: String,
    #[serde(default)]
    revision: i64,
    worker: Worker,
    #[serde(default)]
    stages: Vec<Value>,
    #[serde(default)]
    updated_at: String,
    #[serde(default)]
    warnings: Option<Vec<FieldError>>,
}

#[derive(Deserialize)]
struct Worker {
    script_name: String,
}

/// Runs a command on plans.
pub async fn run(client: &Client, command: &PlanVerb, json: bool) -> Result<Exit, Error> {
    let path = |name: &str| format!("/v1/plans/{name}");
    match command {
        PlanVerb::Apply { file, name } => {
            let name = match name {
                Some(name) => name.clone(),
                None => name_of(file)?,
            };
            let call = Call::new(Method::PUT, path(&name))
                .body(contents(file)?)
                .repeatable();
            let answer = client.call(&call).await?;
            if json {
                print(&answer.body.to_string())?;
            }
            let saved: Saved = read(answer.body)?;
            for warning in saved.warnings.iter().flatten() {
                eprintln!("warning: {}: {}", warning.pointer, warning.detail);
            }
            if !json {
                print(&format!(
                    "plan {} is saved as revision {}",
                    saved.name, saved.revision
                ))?;
            }
        }
        PlanVerb::Get { name } => {
            let answer = client.call(&Call::new(Method::GET, path(name))).await?;
            let text = if json {
                answer.body.to_string()
            } else {
                format!("{:#}", answer.body)
            };
            print(&text)?;
        }
        PlanVerb::List => {
            let answer = client.call(&Call::new(Method::GET, "/v1/plans")).await?;
            if json {
                print(&answer.body.to_string())?;
            } else {
                let page: Page<Saved> = read(answer.body)?;
                print(&rows(page.items).join("\n"))?;
            }
        }
        PlanVerb::Delete { name } => {
            client.call(&Call::new(Method::DELETE, path(name))).await?;
            if !json {
                print(&format!("plan {name} is deleted"))?;
            }
        }
    }
    Ok(Exit::Succeeded)
}

fn rows(plans: Vec<Saved>) -> Vec<String> {
    let titles = ["PLAN", "WORKER", "STAGES", "REVISION", "SAVED"];
    let mut table = vec![titles.map(str::to_owned)];
    table.extend(plans.into_iter().map(|plan| {
        [
            plan.name,
            plan.worker.script_name,
            plan.stages.len().to_string(),
            plan.revision.to_string(),
            plan.updated_at,
        ]
    }));
    text::columns(&table)
}

fn name_of(file: &Path) -> Result<String, Error> {
    // `shop.plan.json` is a habit, too.
    let stem = file.file_stem().and_then(|stem| stem.to_str());
    let stem = stem.map_or("", |stem| stem.strip_suffix(".plan").unwrap_or(stem));
    name(stem).map_err(|why| {
        let file = file.display();
        Error::Usage(format!(
            "{file} gives the plan no name, since {why}; say --name"
        ))
    })
}

/// The file, which must be JSON: nobody else knows its lines.
fn contents(file: &Path) -> Result<String, Error> {
    let shown = file.display();
    let text = std::fs::read_to_string(file)
        .map_err(|error| Error::Input(format!("{shown} can't be read: {error}")))?;
    serde_json::from_str::<serde::de::IgnoredAny>(&text)
        .map_err(|error| Error::Input(format!("{shown} is not JSON: {error}")))?;
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_gives_its_plan_a_name() {
        assert_eq!(name_of(Path::new("plans/shop.json")).unwrap(), "shop");
        assert_eq!(name_of(Path::new("shop.plan.json")).unwrap(), "shop");
        for file in ["my shop.json", "..", "a.b.json"] {
            assert!(name_of(Path::new(file)).is_err(), "{file}");
        }
    }
}
