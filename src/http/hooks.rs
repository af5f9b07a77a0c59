//! Inbound hooks: `POST /hooks/{plan}`, signed by the Standard Webhooks scheme, and the secrets that they are signed with.

use ::http::{HeaderName, Request, StatusCode, header};
use serde::Serialize;
use serde_json::json;

use super::body::json_body;
use super::headers;
use super::plans::checked_name;
use super::problem::Problem;
use super::releases::{Nothing, create_by_hook};
use super::{Answer, json_answer, no_content};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::store::{self, NewHookSecret};
use crate::time::{Rfc3339, UnixMs};
use crate::webhook::{
    NONCE_BYTES, Purpose, Received, Rejection, SealError, TOLERANCE_MS, WebhookSecret, verify,
};

/// How long a secret stays valid after it was replaced.
const GRACE_MS: i64 = 24 * 3_600_000;
/// How much of an address that leads nowhere is logged.
const LOGGED: usize = 64;

/// The secret of a plan's hook, shown this once.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct HookSecret {
    /// What messages to `/hooks/{plan}` are signed with: `whsec_` and base64. It is not shown again.
    secret: String,
    /// Until when messages that were signed with a secret before it are taken; null if there was none.
    previous_valid_until: Option<Rfc3339>,
}

/// `POST /v1/plans/{name}/hook-secret`: makes a secret, or a new one in place of the one before.
pub async fn make_secret<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    name: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let name = checked_name(name)?;
    if !request.body().is_empty() {
        let _: Nothing = json_body(request, &[])?;
    }
    let ports = pipeline.ports;
    let secret = WebhookSecret::from_random(ports.random());
    let id = format!("hsec_{}", ports.uuid().simple());
    let sealed = pipeline
        .config
        .keys
        .seal(Purpose::HookSecret, &id, &secret.expose(), nonce(ports))
        .map_err(|error| Problem::internal(&error))?;
    let now = ports.now();
    let new = NewHookSecret {
        plan: name,
        id: &id,
        sealed: &sealed,
        now,
        previous_until: now + GRACE_MS,
    };
    // One transaction. If its outcome is unknown the caller makes another secret, and the one in use stays valid meanwhile.
    let rotated = store::rotate_hook_secret(ports, &new)
        .await?
        .ok_or_else(|| Problem::not_found(format!("there is no plan {name:?}")))?;
    let answer = HookSecret {
        secret: secret.expose(),
        previous_valid_until: rotated.previous_until.map(Rfc3339),
    };
    json_answer(StatusCode::CREATED, &answer)
}

/// `DELETE /v1/plans/{name}/hook-secret`: nothing that was signed with any secret of the hook is taken any more.
pub async fn revoke<P: Ports>(pipeline: &Pipeline<'_, P>, name: &str) -> Answer {
    let name = checked_name(name)?;
    if store::revoke_hook_secrets(pipeline.ports, name).await? {
        return no_content();
    }
    let detail = format!("there is no plan {name:?}, or its hook has no secret");
    Err(Problem::not_found(detail))
}

fn nonce<P: Ports>(ports: &P) -> [u8; NONCE_BYTES] {
    let random = ports.random();
    std::array::from_fn(|i| random[i])
}

/// `POST /hooks/{plan}`.
pub async fn receive<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    plan: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let text = |name: &HeaderName| request.headers().get(name)?.to_str().ok();
    let received = Received {
        id: text(&headers::WEBHOOK_ID),
        timestamp: text(&headers::WEBHOOK_TIMESTAMP),
        signature: text(&headers::WEBHOOK_SIGNATURE),
        body: request.body(),
    };
    let now = pipeline.ports.now();
    let known = secrets(pipeline, plan, now).await?;
    match verify(received, &known.secrets, now) {
        Ok(message) if known.real => create_by_hook(pipeline, (plan, message), request).await,
        // Without a secret nobody can have signed; that it looks as if is no reason to believe it.
        checked => {
            let rejection = checked.err().unwrap_or(Rejection::Wrong);
            let reason = known.why(&rejection);
            let plan: String = plan.chars().take(LOGGED).collect();
            pipeline
                .ports
                .log(&json!({"log": "hook", "plan": plan, "status": 401, "detail": reason}));
            Err(refusal(received, now))
        }
    }
}

/// What messages to a plan are checked against.
struct Known {
    secrets: Vec<WebhookSecret>,
    /// They are the plan's; else there is none, and the check only takes the time that it takes.
    real: bool,
    /// Why a secret can't be used.
    unusable: Option<SealError>,
}

impl Known {
    /// Why a message was not believed, for whoever reads the log.
    fn why(&self, rejection: &Rejection) -> String {
        match (&self.unusable, self.real) {
            (Some(error), _) => format!("a secret of this hook can't be used: {error}"),
            (None, false) => "there is no such plan, or its hook has no secret yet; POST /v1/plans/{name}/hook-secret makes one".to_owned(),
            (None, true) => rejection.to_string(),
        }
    }
}

async fn secrets<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    plan: &str,
    now: UnixMs,
) -> Result<Known, Problem> {
    let (ports, keys) = (pipeline.ports, &pipeline.config.keys);
    let rows = store::hook_secrets(ports, plan, now).await?;
    let mut known = Known {
        secrets: Vec::new(),
        real: true,
        unusable: None,
    };
    for row in &rows {
        match keys.open(Purpose::HookSecret, &row.id, &row.sealed) {
            Ok(text) => known.secrets.extend(text.parse::<WebhookSecret>()),
            Err(error) => known.unusable = Some(error),
        }
    }
    if known.secrets.is_empty() {
        // An unknown plan must cost what a known one does: a seal is opened, and a signature made.
        known.real = false;
        let stand_in = WebhookSecret::from_random(ports.random());
        let sealed = keys.seal(Purpose::HookSecret, "", &stand_in.expose(), nonce(ports));
        let opened = sealed.and_then(|sealed| keys.open(Purpose::HookSecret, "", &sealed));
        known
            .secrets
            .extend(opened.ok().and_then(|text| text.parse().ok()));
    }
    Ok(known)
}

/// The refusal. It depends on the request and the clock alone, so it says nothing of plans and secrets.
fn refusal(received: Received<'_>, now: UnixMs) -> Problem {
    let mut reason = verify(received, &[], now).err().unwrap_or(Rejection::Wrong);
    let timestamp: Option<i64> = received.timestamp.and_then(|text| text.parse().ok());
    if reason == Rejection::Wrong
        && let Some(timestamp_s) = timestamp
    {
        let age_ms = now.saturating_sub(timestamp_s.saturating_mul(1_000));
        if age_ms > TOLERANCE_MS {
            reason = Rejection::TooOld(age_ms / 1_000);
        } else if age_ms < -TOLERANCE_MS {
            reason = Rejection::TooNew(-(age_ms / 1_000));
        }
    }
    let detail = format!(
        "{reason}. The address may be wrong, too: whether there is such a plan is only told in HMD's log (`wrangler tail`)."
    );
    Problem::new(401, "Not authorized", detail)
        .header(header::WWW_AUTHENTICATE, "Standard-Webhooks-v1")
}
