//! What a version is made of besides its code.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::client::{ApiError, Cloudflare, Urgency};
use super::deployments::path;
use crate::gather::Gather as _;
use crate::pipeline::ports::Ports;
use crate::release::{DurableObjects, VersionParts, WorkerRef};

/// The bindings whose values Cloudflare compares before it goes back to an older version.
const SECRETS: [&str; 2] = ["secret_text", "secret_key"];

#[derive(Deserialize)]
struct WireVersion {
    resources: WireResources,
}

#[derive(Deserialize)]
struct WireResources {
    bindings: Vec<WireBinding>,
    #[serde(default)]
    script_runtime: Option<WireRuntime>,
}

#[derive(Deserialize)]
struct WireBinding {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
}

#[derive(Deserialize)]
struct WireRuntime {
    #[serde(default)]
    migration_tag: Option<String>,
    #[serde(default)]
    exports: Option<BTreeMap<String, Value>>,
}

impl From<WireVersion> for VersionParts {
    fn from(wire: WireVersion) -> Self {
        let secrets = wire
            .resources
            .bindings
            .into_iter()
            .filter(|binding| SECRETS.contains(&binding.kind.as_str()))
            .map(|binding| binding.name)
            .into_tree();
        Self {
            secrets,
            durable_objects: wire.resources.script_runtime.map(DurableObjects::from),
        }
    }
}

impl From<WireRuntime> for DurableObjects {
    fn from(wire: WireRuntime) -> Self {
        let exports = wire
            .exports
            .into_iter()
            .flatten()
            // A named entrypoint is an export, too, and may differ.
            .filter(|(_, declared)| declared["type"] != "worker")
            .map(|(class, declared)| {
                let of = |field: &str| declared[field].as_str().map(str::to_owned);
                // Created is what a class is that says nothing of its state.
                let state = of("state").filter(|state| state != "created");
                let parts = [Some(class), of("type"), of("storage"), state];
                parts.into_iter().flatten().collect::<Vec<_>>().join(" ")
            })
            .into_tree();
        Self {
            migration_tag: wire.migration_tag.filter(|tag| !tag.is_empty()),
            exports,
        }
    }
}

impl<P: Ports> Cloudflare<'_, P> {
    /// What a version is made of.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn version_parts(
        &self,
        worker: &WorkerRef,
        version: &str,
    ) -> Result<VersionParts, ApiError> {
        let what = format!("reading version {version} of {}", worker.script_name);
        let version: WireVersion = self
            .call(
                worker,
                &what,
                ("GET", &path(worker, &format!("versions/{version}"))),
                None,
                (Urgency::Normal, None),
            )
            .await?;
        Ok(version.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(resources: &Value) -> VersionParts {
        let version = json!({"id": "v", "resources": resources});
        crate::json::read::<WireVersion>(&version).unwrap().into()
    }

    #[test]
    fn secrets_and_durable_objects_are_read() {
        let parts = read(&json!({
            "bindings": [{"type": "secret_text", "name": "KEY"}, {"type": "d1", "name": "DB"}, {"name": "odd"}],
            "script_runtime": {"migration_tag": "v2", "exports": {
                "Cart": {"type": "durable-object", "storage": "sqlite"}, "Api": {"type": "worker"}}},
        }));
        assert_eq!(
            parts.secrets,
            std::collections::BTreeSet::from(["KEY".to_owned()])
        );
        let objects = parts.durable_objects.unwrap();
        assert_eq!(objects.migration_tag.as_deref(), Some("v2"));
        let cart = "Cart durable-object sqlite".to_owned();
        assert_eq!(objects.exports, std::collections::BTreeSet::from([cart]));
    }

    #[test]
    fn a_class_that_says_nothing_of_its_state_is_created() {
        let with = |declared: Value| {
            read(&json!({"bindings": [], "script_runtime": {"exports": {"Cart": declared}}}))
        };
        let silent = with(json!({"type": "durable-object", "storage": "sqlite"}));
        let state = |state: Value| {
            with(json!({"type": "durable-object", "storage": "sqlite", "state": state}))
        };
        assert_eq!(state(json!("created")), silent);
        assert_eq!(state(Value::Null), silent);
        assert_ne!(state(json!("deleted")), silent);
    }

    #[test]
    fn nothing_is_made_of_what_is_not_said() {
        assert_eq!(read(&json!({"bindings": []})), VersionParts::default());
        let silent = read(&json!({"bindings": [], "script_runtime": {"exports": null}}));
        assert_eq!(silent.durable_objects, Some(DurableObjects::default()));
        assert!(serde_json::from_value::<WireVersion>(json!({"id": "v"})).is_err());
    }
}
