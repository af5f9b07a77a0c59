//! Queries saved in Workers Observability, and the keys that telemetry has.

use serde::Deserialize;
use serde_json::{Value, json};

use super::client::{ApiError, Cloudflare, Urgency};
use super::lenient::null_as_default;
use crate::pipeline::ports::Ports;
use crate::release::{KeysSeen, WorkerRef};
use crate::time::UnixMs;

/// Saved queries on a page: the most that Cloudflare gives.
pub const SAVED_PER_PAGE: usize = 50;
/// Keys in one answer; one that has as many may have been cut off.
const MAX_KEYS: usize = 2_000;
/// Keys that are looked up one by one when that happens.
const MAX_LOOK_UPS: usize = 10;

/// A query saved in an account.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SavedQuery {
    /// Its id.
    pub id: String,
    /// Its name.
    #[serde(default, deserialize_with = "null_as_default")]
    pub name: String,
    /// For people.
    #[serde(default)]
    pub description: Option<String>,
    /// What it asks.
    #[serde(default)]
    pub parameters: Value,
    /// When it was saved, RFC 3339.
    #[serde(default)]
    pub created: Option<String>,
    /// When it was changed last.
    #[serde(default)]
    pub updated: Option<String>,
}

/// A query to be saved.
#[derive(Clone, Debug, PartialEq)]
pub struct NewSavedQuery {
    /// 1 to 250 characters, of its own in the account.
    pub name: String,
    /// For people.
    pub description: String,
    /// What it asks.
    pub parameters: Value,
}

#[derive(Deserialize)]
struct WireKey {
    key: String,
    #[serde(default, rename = "type", deserialize_with = "null_as_default")]
    value_type: String,
}

fn path(worker: &WorkerRef, rest: &str) -> String {
    let account = &worker.account_id;
    format!("/accounts/{account}/workers/observability/{rest}")
}

impl<P: Ports> Cloudflare<'_, P> {
    /// A page of the saved queries of a Worker's account, newest first; pages count from 1.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn saved_queries(
        &self,
        worker: &WorkerRef,
        page: u32,
    ) -> Result<Vec<SavedQuery>, ApiError> {
        let query =
            format!("queries?order=desc&orderBy=created&page={page}&perPage={SAVED_PER_PAGE}");
        let when = (Urgency::Normal, None);
        self.call(
            worker,
            "listing saved queries",
            ("GET", &path(worker, &query)),
            None,
            when,
        )
        .await
    }

    /// A saved query of a Worker's account.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn saved_query(&self, worker: &WorkerRef, id: &str) -> Result<SavedQuery, ApiError> {
        let what = format!("reading the saved query {id}");
        let when = (Urgency::Normal, None);
        self.call(
            worker,
            &what,
            ("GET", &path(worker, &format!("queries/{id}"))),
            None,
            when,
        )
        .await
    }

    /// Saves a query.
    ///
    /// # Errors
    /// [`ApiError`]; refused with status 409 if there is one of that name.
    pub async fn save_query(
        &self,
        worker: &WorkerRef,
        query: &NewSavedQuery,
    ) -> Result<SavedQuery, ApiError> {
        let what = format!("saving the query {:?}", query.name);
        let body = json!({"name": query.name, "description": query.description, "parameters": query.parameters});
        let when = (Urgency::Normal, None);
        let path = path(worker, "queries");
        self.call(worker, &what, ("POST", &path), Some(&body), when)
            .await
    }

    /// Which keys the events of a Worker's account have had in `[from, to)`, and of which types; at least those of `wanted` that they
    /// have had.
    ///
    /// # Errors
    /// [`ApiError`]
    pub async fn telemetry_keys(
        &self,
        worker: &WorkerRef,
        (from, to): (UnixMs, UnixMs),
        wanted: impl Iterator<Item = &str>,
    ) -> Result<KeysSeen, ApiError> {
        let what = "reading telemetry's keys";
        let credential = self.credential(worker).await?;
        let ask = async |needle: Option<&str>| -> Result<Vec<WireKey>, ApiError> {
            let mut body = json!({"from": from, "to": to, "datasets": ["cloudflare-workers"], "limit": MAX_KEYS});
            if let Some(needle) = needle {
                body["keyNeedle"] = json!({"value": needle, "matchCase": true});
            }
            let when = (Urgency::Normal, None);
            let path = path(worker, "telemetry/keys");
            self.call_large(&credential, what, ("POST", &path), Some(&body), when)
                .await
        };
        let mut seen = KeysSeen::new();
        let mut take = |keys: Vec<WireKey>| {
            let cut_off = keys.len() >= MAX_KEYS;
            for key in keys {
                seen.or_default(key.key).insert(key.value_type);
            }
            cut_off
        };
        if take(ask(None).await?) {
            let missing: Vec<&str> = wanted.filter(|key| !seen.contains_key(*key)).collect();
            if missing.len() > MAX_LOOK_UPS {
                let why = format!("it was cut off at {MAX_KEYS} keys");
                return Err(ApiError::unreadable(what, why));
            }
            // `take` is gone, so that `seen` could be read.
            for key in missing {
                for found in ask(Some(key)).await? {
                    seen.or_default(found.key).insert(found.value_type);
                }
            }
        }
        Ok(seen)
    }
}
