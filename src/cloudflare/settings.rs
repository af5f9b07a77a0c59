//! A Worker's settings that no version carries, as far as telemetry depends on them.

use serde::Deserialize;

use super::client::{ApiError, Cloudflare, Urgency};
use super::deployments::path;
use crate::pipeline::ports::Ports;
use crate::release::{Observability, WorkerRef};

// Each field may be absent or null.
#[derive(Deserialize)]
struct WireSettings {
    #[serde(default)]
    observability: Option<WireObservability>,
}

#[derive(Deserialize, Default)]
struct WireObservability {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    head_sampling_rate: Option<f64>,
    #[serde(default)]
    logs: Option<WireLogs>,
}

#[derive(Deserialize, Default)]
struct WireLogs {
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    persist: Option<bool>,
    #[serde(default)]
    invocation_logs: Option<bool>,
    #[serde(default)]
    head_sampling_rate: Option<f64>,
}

impl From<WireSettings> for Observability {
    fn from(wire: WireSettings) -> Self {
        let observability = wire.observability.unwrap_or_default();
        let logs = observability.logs.unwrap_or_default();
        Self {
            enabled: observability.enabled,
            head_sampling_rate: observability.head_sampling_rate,
            logs_enabled: logs.enabled,
            logs_persist: logs.persist,
            invocation_logs: logs.invocation_logs,
            logs_head_sampling_rate: logs.head_sampling_rate,
        }
    }
}

impl<P: Ports> Cloudflare<'_, P> {
    /// What a Worker keeps of its invocations.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn observability(&self, worker: &WorkerRef) -> Result<Observability, ApiError> {
        let what = format!("reading the settings of {}", worker.script_name);
        let settings: WireSettings = self
            .call(
                worker,
                &what,
                ("GET", &path(worker, "script-settings")),
                None,
                (Urgency::Normal, None),
            )
            .await?;
        Ok(settings.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: &Value) -> Observability {
        crate::json::read::<WireSettings>(value).unwrap().into()
    }

    #[test]
    fn what_is_not_said_is_not_known() {
        for nothing in [
            json!({}),
            json!({"observability": null, "logpush": false}),
            json!({"observability": {"enabled": null, "logs": null}}),
        ] {
            assert_eq!(read(&nothing), Observability::default());
        }
    }

    #[test]
    fn what_is_said_is_read() {
        let said = json!({"tags": [], "observability": {"enabled": true, "head_sampling_rate": 0.5, "traces": {},
            "logs": {"enabled": true, "persist": false, "invocation_logs": true, "head_sampling_rate": 1}}});
        let expected = Observability {
            enabled: Some(true),
            head_sampling_rate: Some(0.5),
            logs_enabled: Some(true),
            logs_persist: Some(false),
            invocation_logs: Some(true),
            logs_head_sampling_rate: Some(1.0),
        };
        assert_eq!(read(&said), expected);
    }
}
