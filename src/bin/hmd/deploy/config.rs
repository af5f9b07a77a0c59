//! The project's `wrangler.toml`, and the copy of it that a deployment uses: with the database's id, the address, and paths
//! that hold where the copy lies. The committed file is never written.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::failure::Failure;

/// Where the copy finds the built Worker.
pub const WORKER_DIR: &str = "worker";
/// Where it finds the migrations.
pub const MIGRATIONS_DIR: &str = "migrations";

/// What `wrangler.toml` says.
#[derive(Debug, Clone)]
pub struct Config {
    content: Value,
}

impl Config {
    /// Reads the project's own.
    pub fn read(root: &Path) -> Result<Self> {
        let path = root.join("wrangler.toml");
        let text = fs::read_to_string(&path)
            .with_context(|| format!("{} can't be read", path.display()))?;
        Self::parse(&text).with_context(|| {
            Failure::new(
                format!("{} is not usable", path.display()),
                "mend it, or take the one of HMD's repository",
            )
        })
    }

    fn parse(text: &str) -> Result<Self> {
        let content: Value = toml::from_str(text)?;
        let config = Self { content };
        config.text("/name")?;
        config.text("/d1_databases/0/database_name")?;
        config.text("/d1_databases/0/migrations_dir")?;
        Ok(config)
    }

    fn text(&self, pointer: &str) -> Result<&str> {
        self.content
            .pointer(pointer)
            .and_then(Value::as_str)
            .with_context(|| format!("it has no {}", &pointer[1..].replace('/', ".")))
    }

    /// Name of the Worker.
    pub fn worker(&self) -> &str {
        self.text("/name").unwrap_or_default()
    }

    /// Name of its database.
    pub fn database(&self) -> &str {
        self.text("/d1_databases/0/database_name")
            .unwrap_or_default()
    }

    /// Where the project keeps the migrations, from its root.
    pub fn migrations_dir(&self) -> &str {
        self.text("/d1_databases/0/migrations_dir")
            .unwrap_or_default()
    }

    /// Every queue that it names: sent to, consumed, or the end of dead letters.
    pub fn queues(&self) -> Vec<String> {
        let producers = self.content.pointer("/queues/producers");
        let consumers = self.content.pointer("/queues/consumers");
        let all = [producers, consumers].into_iter().flatten();
        let names: BTreeSet<String> = all
            .filter_map(Value::as_array)
            .flatten()
            .flat_map(|queue| [&queue["queue"], &queue["dead_letter_queue"]])
            .filter_map(|name| name.as_str().map(str::to_owned))
            .collect();
        names.into_iter().collect()
    }

    /// The copy for an account. Without a database id it keeps the placeholder, which is enough for a dry run.
    pub fn filled(&self, database_id: Option<&str>, public_url: &str) -> Value {
        let mut content = self.content.clone();
        content["main"] = json!(format!("{WORKER_DIR}/index.js"));
        content["assets"]["directory"] = json!(format!("{WORKER_DIR}/assets"));
        content["d1_databases"][0]["migrations_dir"] = json!(MIGRATIONS_DIR);
        if let Some(id) = database_id {
            content["d1_databases"][0]["database_id"] = json!(id);
        }
        if !public_url.is_empty() {
            content["vars"]["PUBLIC_URL"] = json!(public_url);
        }
        content
    }
}

/// Writes the copy and answers its path.
pub fn write(directory: &Path, content: &Value) -> Result<PathBuf> {
    let path = directory.join("wrangler.json");
    fs::write(&path, format!("{content:#}\n"))
        .with_context(|| format!("{} can't be written", path.display()))?;
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Config {
        Config::read(Path::new(env!("CARGO_MANIFEST_DIR"))).unwrap()
    }

    #[test]
    fn all_queues_are_found_dead_letters_too() {
        let queues = ours().queues();
        for queue in ["hmd-transitions", "hmd-checks", "hmd-dead"] {
            assert!(queues.contains(&queue.to_owned()), "{queues:?}");
        }
        let text = "name = 'x'\n[[d1_databases]]\ndatabase_name = 'y'\nmigrations_dir = 'z'\n\
            [[queues.consumers]]\nqueue = 'b'\ndead_letter_queue = 'a'\n[[queues.producers]]\nqueue = 'b'\nbinding = 'B'";
        assert_eq!(Config::parse(text).unwrap().queues(), ["a", "b"]);
    }

    #[test]
    fn the_copy_differs_in_what_was_learned_only() {
        let config = ours();
        let copy = config.filled(Some("an-id"), "https://hmd.example.com");
        let mut back = copy.clone();
        assert_eq!(copy["d1_databases"][0]["database_id"], "an-id");
        assert_eq!(copy["vars"]["PUBLIC_URL"], "https://hmd.example.com");
        assert_eq!(copy["main"], "worker/index.js");
        assert_eq!(copy["assets"]["directory"], "worker/assets");
        for path in ["/main", "/assets/directory", "/vars/PUBLIC_URL"] {
            *back.pointer_mut(path).unwrap() = config.content.pointer(path).unwrap().clone();
        }
        back["d1_databases"] = config.content["d1_databases"].clone();
        assert_eq!(back, config.content);
    }

    #[test]
    fn a_config_without_a_database_is_refused() {
        let error = Config::parse("name = 'x'").unwrap_err();
        assert!(error.to_string().contains("database_name"), "{error}");
    }
}
