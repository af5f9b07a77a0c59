//! What a version is made of besides its code: bindings, secrets and Durable Objects.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::spec::SimError;

/// What a version is made of besides its code. By default it has no bindings and no Durable Objects.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Resources {
    /// The names of its secrets, beside those that the Worker's newest version has: an upload keeps them.
    pub secrets: BTreeSet<String>,
    /// The tag of the last Durable Object migration that the version knows.
    pub migration_tag: Option<String>,
    /// The names of the Durable Object classes that the version exports.
    pub durable_objects: BTreeSet<String>,
}

impl Resources {
    /// The bindings, `script` and `script_runtime` of the version's page.
    pub(super) fn to_json(&self, etag: &str) -> Value {
        let secrets = self.secrets.iter();
        let mut bindings: Vec<Value> = secrets
            .map(|name| json!({"type": "secret_text", "name": name}))
            .collect();
        let classes = self.durable_objects.iter();
        bindings.extend(classes.clone().map(|class| {
            json!({"type": "durable_object_namespace", "name": class.to_uppercase(), "class_name": class})
        }));
        let mut runtime = json!({
            "compatibility_date": "2026-10-01",
            "compatibility_flags": [],
            "usage_model": "standard",
        });
        if let Some(tag) = &self.migration_tag {
            runtime["migration_tag"] = tag.as_str().into();
        }
        if !self.durable_objects.is_empty() {
            runtime["exports"] = classes
                .map(|class| {
                    let export = json!({"type": "durable-object", "storage": "sqlite"});
                    (class.clone(), export)
                })
                .collect();
        }
        json!({
            "bindings": bindings,
            "script": {"etag": etag, "handlers": ["fetch"], "last_deployed_from": "wrangler"},
            "script_runtime": runtime,
        })
    }

    /// Whether both can serve at the same time.
    ///
    /// # Errors
    /// [`SimError::DurableObjects`] if their Durable Objects differ.
    pub(super) fn check_split_with(&self, other: &Self) -> Result<(), SimError> {
        if self.migration_tag == other.migration_tag
            && self.durable_objects == other.durable_objects
        {
            return Ok(());
        }
        Err(SimError::DurableObjects {
            code: 100_405,
            message: "The versions of a deployment must have identical Durable Object exports and migrations."
                .to_owned(),
        })
    }
}

/// By name: the number of the first version that has the secret's present value.
#[derive(Debug, Clone, Default)]
pub(super) struct SecretChanges(BTreeMap<String, u64>);

impl SecretChanges {
    /// The secret has a new value from this version on.
    pub fn note(&mut self, name: &str, version_number: u64) {
        self.0.insert(name.to_owned(), version_number);
    }

    /// The secrets that were changed after this version was uploaded.
    pub fn since(&self, version_number: u64) -> Vec<String> {
        let later = self.0.iter().filter(|(_, first)| **first > version_number);
        later.map(|(name, _)| name.clone()).collect()
    }
}
