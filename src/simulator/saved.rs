//! Saved queries of an account.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value as Json, json};

use super::filter::Filter;
use super::model::Cloudflare;
use super::worker::rfc3339_micros;

const NAME_CHARS: std::ops::RangeInclusive<usize> = 1..=250;
const DESCRIPTION_CHARS: usize = 1000;
const MAX_LIMIT: u64 = 100;

/// A saved query.
#[derive(Debug, Clone)]
struct Saved {
    name: String,
    description: Option<String>,
    parameters: Json,
    created_us: i64,
    updated_us: i64,
}

/// Saved queries by account and number, which is in the order in which they were made.
#[derive(Debug, Default)]
pub(super) struct SavedQueries {
    made: u64,
    by_account: BTreeMap<String, BTreeMap<u64, Saved>>,
}

/// Why a call about saved queries is refused.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum SavedError {
    Invalid(String),
    NotFound,
    Conflict,
}

#[derive(Deserialize)]
struct Input {
    name: String,
    /// May be null, but must be there.
    description: Json,
    parameters: Json,
}

impl Input {
    fn read(body: &[u8]) -> Result<Self, SavedError> {
        let input: Self =
            serde_json::from_slice(body).map_err(|error| SavedError::Invalid(error.to_string()))?;
        input.check().map_err(SavedError::Invalid)?;
        Ok(input)
    }

    fn check(&self) -> Result<(), String> {
        if !NAME_CHARS.contains(&self.name.chars().count()) {
            return Err("name has between 1 and 250 characters".to_owned());
        }
        match &self.description {
            Json::Null => (),
            Json::String(text) if text.chars().count() <= DESCRIPTION_CHARS => (),
            _ => return Err("description is null or a text of at most 1,000 characters".to_owned()),
        }
        let parameters = &self.parameters;
        if !parameters.is_object() {
            return Err("parameters must be an object".to_owned());
        }
        let limit = parameters.get("limit").unwrap_or(&Json::Null);
        if !limit.is_null() && limit.as_u64().is_none_or(|limit| limit > MAX_LIMIT) {
            return Err("parameters.limit lies between 0 and 100".to_owned());
        }
        Filter::parse(
            parameters.get("filters"),
            parameters.get("filterCombination"),
        )?;
        Ok(())
    }
}

fn text_of(id: u64) -> String {
    format!("q_{id:08}")
}

fn number_of(id: &str) -> Option<u64> {
    id.strip_prefix("q_")?.parse().ok()
}

impl Saved {
    fn new(input: Input, created_us: i64, updated_us: i64) -> Self {
        Self {
            name: input.name,
            description: input.description.as_str().map(str::to_owned),
            parameters: input.parameters,
            created_us,
            updated_us,
        }
    }

    fn to_json(&self, id: u64) -> Json {
        json!({
            "id": text_of(id),
            "adhoc": false,
            "name": self.name,
            "description": self.description,
            "parameters": self.parameters,
            "created": rfc3339_micros(self.created_us),
            "createdBy": "u1",
            "updated": rfc3339_micros(self.updated_us),
            "updatedBy": "u1",
        })
    }
}

impl Cloudflare {
    fn saved(&mut self, account: &str) -> &mut BTreeMap<u64, Saved> {
        let accounts = &mut self.saved_queries.by_account;
        accounts.entry(account.to_owned()).or_default()
    }

    /// The parameters of a saved query.
    pub(super) fn saved_parameters(&self, account: &str, id: &str) -> Option<Json> {
        let saved = self.saved_queries.by_account.get(account)?;
        Some(saved.get(&number_of(id)?)?.parameters.clone())
    }

    /// A page of them, by default the oldest first.
    pub(super) fn list_saved(&mut self, account: &str, query: &str) -> Result<Json, SavedError> {
        let invalid = |text: &str| SavedError::Invalid(text.to_owned());
        let (mut page, mut per_page) = (1_usize, 20_usize);
        let (mut descending, mut by_update) = (false, false);
        for (name, value) in form_urlencoded::parse(query.as_bytes()) {
            match (&*name, &*value) {
                ("order", "asc") | ("orderBy", "created") => (),
                ("order", "desc") => descending = true,
                ("orderBy", "updated") => by_update = true,
                ("order" | "orderBy", _) => return Err(invalid("unknown order")),
                ("page", text) => {
                    let number = text.parse().ok().filter(|page| *page >= 1);
                    page = number.ok_or_else(|| invalid("page is at least 1"))?;
                }
                ("perPage", text) => {
                    let number = text.parse().ok().filter(|count| (5..=50).contains(count));
                    per_page = number.ok_or_else(|| invalid("perPage lies between 5 and 50"))?;
                }
                _ => (),
            }
        }
        let mut all: Vec<(&u64, &Saved)> = self
            .saved(account)
            .iter()
            .map(|one| (one.0, one.1))
            .collect();
        if by_update {
            all.sort_by_key(|(id, saved)| (saved.updated_us, **id));
        }
        if descending {
            all.reverse();
        }
        let page = all
            .into_iter()
            .skip((page - 1).saturating_mul(per_page))
            .take(per_page);
        Ok(page.map(|(id, saved)| saved.to_json(*id)).collect())
    }

    pub(super) fn create_saved(&mut self, account: &str, body: &[u8]) -> Result<Json, SavedError> {
        let input = Input::read(body)?;
        if self
            .saved(account)
            .values()
            .any(|saved| saved.name == input.name)
        {
            return Err(SavedError::Conflict);
        }
        let at_us = self.now_us();
        self.saved_queries.made += 1;
        let id = self.saved_queries.made;
        let saved = Saved::new(input, at_us, at_us);
        let shown = saved.to_json(id);
        self.saved(account).insert(id, saved);
        Ok(shown)
    }

    pub(super) fn get_saved(&mut self, account: &str, id: &str) -> Result<Json, SavedError> {
        let number = number_of(id).ok_or(SavedError::NotFound)?;
        let saved = self
            .saved(account)
            .get(&number)
            .ok_or(SavedError::NotFound)?;
        Ok(saved.to_json(number))
    }

    pub(super) fn update_saved(
        &mut self,
        account: &str,
        id: &str,
        body: &[u8],
    ) -> Result<Json, SavedError> {
        let number = number_of(id).ok_or(SavedError::NotFound)?;
        let at_us = self.now_us();
        let saved = self
            .saved(account)
            .get_mut(&number)
            .ok_or(SavedError::NotFound)?;
        *saved = Saved::new(Input::read(body)?, saved.created_us, at_us);
        Ok(saved.to_json(number))
    }

    pub(super) fn delete_saved(&mut self, account: &str, id: &str) -> Result<Json, SavedError> {
        let number = number_of(id).ok_or(SavedError::NotFound)?;
        let removed = self.saved(account).remove(&number);
        Ok(removed.ok_or(SavedError::NotFound)?.to_json(number))
    }
}
