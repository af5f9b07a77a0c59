//! Which keys telemetry has, and which values. Both look at the whole account, whatever filters
//! they are given.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::fields::{KEYS, Key, Type};
use super::model::Cloudflare;
use super::needle::Needle;
use super::telemetry::Timeframe;

/// So many keys or values are listed unless the request says otherwise.
const DEFAULT_LIMIT: usize = 100;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeysRequest {
    from: Option<i64>,
    to: Option<i64>,
    timeframe: Option<Timeframe>,
    key_needle: Option<Json>,
    limit: Option<usize>,
}

#[derive(Deserialize)]
struct ValuesRequest {
    timeframe: Timeframe,
    key: String,
    #[serde(rename = "type")]
    declared: Type,
    #[serde(rename = "datasets")]
    _datasets: Vec<String>,
    needle: Option<Json>,
    limit: Option<usize>,
}

impl Cloudflare {
    /// The keys that an account's events have.
    ///
    /// # Errors
    /// What is wrong with the request, in words.
    pub(super) fn telemetry_keys(&self, account: &str, body: &[u8]) -> Result<Json, String> {
        let request: KeysRequest =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let whole = Timeframe {
            from: request.from.unwrap_or(0),
            to: request.to.unwrap_or(i64::MAX),
        };
        let window = self.window(request.timeframe.unwrap_or(whole))?;
        let needle = request.key_needle.as_ref();
        let needle = needle.map(Needle::parse).transpose()?;
        let mut last_seen = [None; KEYS.len()];
        for row in self.visible(account, &window, |_| true) {
            for (seen, (_, key)) in last_seen.iter_mut().zip(&KEYS) {
                if row.value(*key).is_some() {
                    *seen = (*seen).max(Some(row.event.at_ms));
                }
            }
        }
        let found = KEYS
            .iter()
            .zip(last_seen)
            .filter_map(|((name, key), seen)| {
                let wanted = needle.as_ref().is_none_or(|needle| needle.is_in_text(name));
                let shown =
                    json!({"key": name, "type": key.real_type().name(), "lastSeenAt": seen?});
                wanted.then_some(shown)
            });
        Ok(found.take(request.limit.unwrap_or(DEFAULT_LIMIT)).collect())
    }

    /// The values that an account's events have under a key.
    ///
    /// # Errors
    /// What is wrong with the request, in words.
    pub(super) fn telemetry_values(&self, account: &str, body: &[u8]) -> Result<Json, String> {
        let request: ValuesRequest =
            serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let window = self.window(request.timeframe)?;
        let needle = request.needle.as_ref();
        let needle = needle.map(Needle::parse).transpose()?;
        let Some(key) = Key::find(&request.key, request.declared) else {
            return Ok(json!([]));
        };
        let rows = self.visible(account, &window, |_| true);
        let rows = rows.filter(|row| needle.as_ref().is_none_or(|needle| needle.is_in(*row)));
        let values: BTreeSet<_> = rows.filter_map(|row| row.value(key)).collect();
        let shown = values.into_iter().map(|value| {
            json!({
                "dataset": "cloudflare-workers",
                "key": request.key,
                "type": request.declared.name(),
                "value": value.to_json(),
            })
        });
        Ok(shown.take(request.limit.unwrap_or(DEFAULT_LIMIT)).collect())
    }
}
