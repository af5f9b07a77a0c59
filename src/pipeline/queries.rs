//! What a plan counts by filters of its own, against what Workers Observability has: saved queries and keys.

use super::Pipeline;
use super::ports::Ports;
use super::start::NotReady;
use crate::cloudflare::{ApiError, ErrorKind, Urgency};
use crate::gather::join_all;
use crate::release::{Check, CheckName, FieldError, Mode, Plan};
use crate::sorted::SortedMap;

/// Keys are looked for in what telemetry keeps at most.
const KEYS_MS: i64 = 7 * 86_400_000;

/// What became of the saved queries of a plan.
#[derive(Clone, Debug, PartialEq)]
pub enum Resolved {
    /// Their filters are in the plan.
    Whole,
    /// Cloudflare did not tell of all of them; the others' filters are in the plan.
    Unread(ApiError),
}

impl<P: Ports> Pipeline<'_, P> {
    /// Puts the filters of the saved queries that a plan names into it, read at this moment: at once for all of them.
    ///
    /// # Errors
    /// Each field whose query does not exist or can't be used.
    pub async fn resolve_queries(&self, plan: &mut Plan) -> Result<Resolved, Vec<FieldError>> {
        let ids = plan.saved_queries();
        if ids.is_empty() {
            return Ok(Resolved::Whole);
        }
        let worker = plan.worker.clone();
        let calls = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        // One claim for all of them; should it fail, each call says so for itself.
        let wanted = [(Urgency::Normal, calls)];
        if let Ok(credential) = self.cloudflare.credential(&worker).await {
            let reserved = self
                .cloudflare
                .reserve(&credential, "saved queries", &wanted);
            reserved.await.ok();
        }
        let reads = ids.into_iter().map(async |id| {
            let read = self.cloudflare.saved_query(&worker, &id).await;
            (id, read)
        });
        let (mut parameters, mut unread) = (SortedMap::new(), None);
        for (id, read) in join_all(reads).await {
            match read {
                Ok(query) => {
                    parameters.insert(id, Ok(query.parameters));
                }
                Err(error) if matches!(error.kind, ErrorKind::Refused { status: 404, .. }) => {
                    let why = format!("does not exist in account {}", worker.account_id);
                    parameters.insert(id, Err(why));
                }
                Err(error) => unread = Some(error),
            }
        }
        plan.take_saved(&parameters)?;
        Ok(unread.map_or(Resolved::Whole, Resolved::Unread))
    }

    /// The same for a release that is to take a snapshot of the plan: it has to be whole.
    ///
    /// # Errors
    /// [`NotReady`]
    pub async fn snapshot_queries(&self, plan: &mut Plan) -> Result<(), NotReady> {
        match self.resolve_queries(plan).await {
            Ok(Resolved::Whole) => Ok(()),
            Ok(Resolved::Unread(error)) if error.is_denied() => {
                let of = (self.token_of(&plan.worker).await, Mode::Deploy);
                let check = Check::denied(CheckName::TelemetryToken, error.detail, of);
                Err(NotReady::Denied(Box::new(check)))
            }
            Ok(Resolved::Unread(error)) => Err(NotReady::Unreadable(error)),
            Err(errors) => {
                let said = errors
                    .iter()
                    .map(|it| format!("{} {}", it.pointer, it.detail));
                let said = said.collect::<Vec<_>>().join("; ");
                Err(NotReady::Invalid("/plan", said))
            }
        }
    }

    /// What is to be said of the keys that the plan's own filters name: one that telemetry has never had is as silent as good
    /// health. Nobody is kept from saving a plan because this can't be found out.
    pub async fn key_warnings(&self, plan: &Plan) -> Vec<FieldError> {
        let keys = plan.own_keys();
        if keys.is_empty() {
            return Vec::new();
        }
        let now = self.ports.now();
        let wanted = keys.iter().map(String::as_str);
        let seen = self
            .cloudflare
            .telemetry_keys(&plan.worker, (now - KEYS_MS, now), wanted)
            .await;
        match seen {
            Ok(seen) => plan.key_warnings(&seen),
            Err(error) => vec![FieldError {
                pointer: "/slos".to_owned(),
                detail: format!(
                    "the keys of its queries were not checked; one that no event has matches nothing, without an error: {}",
                    error.detail
                ),
            }],
        }
    }
}
