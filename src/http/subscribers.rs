//! `/v1/subscribers`.

use ::http::{Request, Response, StatusCode, header};
use serde::{Deserialize, Deserializer, Serialize};

use super::body::json_body;
use super::conditional::{precondition, tagged};
use super::problem::Problem;
use super::releases::{Nothing, short_texts};
use super::route::SubscriberVerb;
use super::{Answer, json_answer, list_answer, no_content};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::store::{self, Precondition, StoreError};
use crate::time::{Rfc3339, UnixMs};
use crate::webhook::{Format, NONCE_BYTES, Purpose, Subscriber, SubscriberState, WebhookSecret};

/// How long the secret before still signs after a rotation.
const GRACE_MS: i64 = 24 * 3_600_000;
/// How often a change is tried again because somebody else was faster.
const TRIES: usize = 4;

/// The body of `POST /v1/subscribers`.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct NewSubscriber {
    /// Where webhooks go: a public HTTPS address.
    url: String,
    /// Types of events: `*`, a group such as `stage.*`, or a type.
    #[serde(default = "everything")]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(min = 1, max = 20)))]
    events: Vec<String>,
    /// What the requests look like.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(extend("default" = "standard")))]
    format: Format,
    /// Whether `approval.requested` carries links that decide. Whoever has such a link can approve and deny.
    #[serde(default)]
    approvals: bool,
    /// Only events of this plan's releases.
    #[serde(default)]
    plan: Option<String>,
    /// Only events of Workers of this script name.
    #[serde(default)]
    worker: Option<String>,
    /// For people: who this is.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(length(max = crate::release::MAX_TEXT)))]
    description: Option<String>,
}

fn everything() -> Vec<String> {
    vec!["*".to_owned()]
}

/// The body of `PATCH /v1/subscribers/{id}`: what is absent stays as it is.
#[derive(Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct SubscriberPatch {
    /// Where webhooks go.
    #[serde(default)]
    url: Option<String>,
    /// Types of events.
    #[serde(default)]
    events: Option<Vec<String>>,
    /// What the requests look like.
    #[serde(default)]
    format: Option<Format>,
    /// Whether `approval.requested` carries links that decide.
    #[serde(default)]
    approvals: Option<bool>,
    /// Only events of this plan's releases; null: of all.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "Option<String>"))]
    plan: Change<String>,
    /// Only events of Workers of this script name; null: of all.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "Option<String>"))]
    worker: Change<String>,
    /// For people; null: nothing.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "Option<String>"))]
    description: Change<String>,
}

/// What a patch says of a field that may be null.
#[derive(Default)]
enum Change<T> {
    /// Nothing: the field is absent.
    #[default]
    Keep,
    /// It is this now.
    To(Option<T>),
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Change<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let Given(value) = Given::deserialize(deserializer)?;
        Ok(Self::To(value))
    }
}

/// What is there, if only a null: an `Option` by itself would also be read of a field that is absent.
#[derive(Deserialize)]
struct Given<T>(Option<T>);

impl<T: Clone> Change<T> {
    fn apply(&self, target: &mut Option<T>) {
        if let Self::To(value) = self {
            target.clone_from(value);
        }
    }
}

/// Takes over what was given.
fn take<T: Clone>(given: Option<&T>, target: &mut T) {
    if let Some(value) = given {
        target.clone_from(value);
    }
}

/// A subscriber: who hears of what.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Subscriber"))]
pub struct SubscriberView<'a> {
    /// `sub_` and a time-ordered UUID.
    id: &'a str,
    /// Where webhooks go.
    url: &'a str,
    /// Types of events.
    events: &'a [String],
    /// What the requests look like.
    format: Format,
    /// Whether `approval.requested` carries links that decide.
    approvals: bool,
    /// Only events of this plan's releases.
    plan: Option<&'a str>,
    /// Only events of Workers of this script name.
    worker: Option<&'a str>,
    /// For people.
    description: Option<&'a str>,
    /// Whether it gets anything.
    state: SubscriberState,
    /// It timed out and has not answered since, so it is tried apart from the others.
    slow: bool,
    /// Since when everything has failed.
    failing_since: Option<Rfc3339>,
    /// Why it was disabled.
    disabled_reason: Option<&'a str>,
    /// When it was disabled.
    disabled_at: Option<Rfc3339>,
    /// Until when the secret before the last rotation signs, too.
    previous_secret_until: Option<Rfc3339>,
    /// Rises with every change; the `ETag`.
    revision: i64,
    /// When it was created.
    created_at: Rfc3339,
    /// When it was last changed.
    updated_at: Rfc3339,
}

impl<'a> SubscriberView<'a> {
    fn of(subscriber: &'a Subscriber, now: UnixMs) -> Self {
        let previous = subscriber.previous_until.filter(|until| now < *until);
        Self {
            id: &subscriber.id,
            url: &subscriber.url,
            events: &subscriber.events,
            format: subscriber.format,
            approvals: subscriber.approvals,
            plan: subscriber.plan.as_deref(),
            worker: subscriber.worker.as_deref(),
            description: subscriber.description.as_deref(),
            state: subscriber.state,
            slow: subscriber.slow,
            failing_since: subscriber.failing_since.map(Rfc3339),
            disabled_reason: subscriber.disabled_reason.as_deref(),
            disabled_at: subscriber.disabled_at.map(Rfc3339),
            previous_secret_until: previous.map(Rfc3339),
            revision: subscriber.revision,
            created_at: Rfc3339(subscriber.created_at),
            updated_at: Rfc3339(subscriber.updated_at),
        }
    }
}

/// A subscriber with its new secret, which is shown this once.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "SubscriberWithSecret"))]
pub struct WithSecret<'a> {
    #[serde(flatten)]
    subscriber: SubscriberView<'a>,
    /// What its requests are signed with: shown once, and never again.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(regex(pattern = "^whsec_")))]
    secret: String,
    /// What will surprise its owner.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<&'static str>,
}

fn no_subscriber(id: &str) -> Problem {
    Problem::not_found(format!("there is no subscriber {id:?}"))
}

pub(super) async fn load<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
) -> Result<Subscriber, Problem> {
    let found = store::get_subscriber(pipeline.ports, id).await?;
    found.ok_or_else(|| no_subscriber(id))
}

/// A fresh secret, and its seal.
fn secret<P: Ports>(pipeline: &Pipeline<'_, P>, owner: &str) -> Result<(String, String), Problem> {
    let secret = WebhookSecret::from_random(pipeline.ports.random()).expose();
    let mut nonce = [0; NONCE_BYTES];
    nonce.copy_from_slice(&pipeline.ports.random()[..NONCE_BYTES]);
    let keys = &pipeline.config.keys;
    let sealed = keys
        .seal(Purpose::SubscriberSecret, owner, &secret, nonce)
        .map_err(|error| Problem::internal(&error))?;
    Ok((secret, sealed))
}

fn checked<P: Ports>(pipeline: &Pipeline<'_, P>, asked: &Subscriber) -> Result<(), Problem> {
    let errors = asked.errors(pipeline.address_rules());
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    short_texts(&[
        ("/description", &asked.description),
        ("/plan", &asked.plan),
        ("/worker", &asked.worker),
    ])
}

/// `POST /v1/subscribers`.
pub async fn create<P: Ports>(pipeline: &Pipeline<'_, P>, request: &Request<Vec<u8>>) -> Answer {
    let body: NewSubscriber = json_body(request, &[])?;
    let now = pipeline.ports.now();
    let id = format!("sub_{}", pipeline.ports.uuid().simple());
    let (secret, sealed) = secret(pipeline, &id)?;
    let subscriber = Subscriber {
        id,
        url: body.url,
        events: body.events,
        format: body.format,
        approvals: body.approvals,
        plan: body.plan,
        worker: body.worker,
        description: body.description,
        state: SubscriberState::Active,
        secret: sealed,
        previous_secret: None,
        previous_until: None,
        slow: false,
        failing_since: None,
        disabled_reason: None,
        disabled_at: None,
        revision: 1,
        created_at: now,
        updated_at: now,
    };
    checked(pipeline, &subscriber)?;
    store::create_subscriber(pipeline.ports, &subscriber).await?;
    let mut warnings = Vec::new();
    if subscriber.approvals && pipeline.config.public_url.is_none() {
        warnings.push("there will be no links to approve or deny by: PUBLIC_URL is not set");
    }
    let mut response = json_answer(
        StatusCode::CREATED,
        &WithSecret {
            subscriber: SubscriberView::of(&subscriber, now),
            secret,
            warnings,
        },
    )?;
    if let Ok(location) = format!("/v1/subscribers/{}", subscriber.id).parse() {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// `GET /v1/subscribers`.
pub async fn list<P: Ports>(pipeline: &Pipeline<'_, P>) -> Answer {
    let subscribers = store::list_subscribers(pipeline.ports).await?;
    let now = pipeline.ports.now();
    let views = subscribers.iter().map(|it| SubscriberView::of(it, now));
    list_answer(views.collect(), None)
}

/// `GET /v1/subscribers/{id}`.
pub async fn get<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    shown(pipeline, &load(pipeline, id).await?, request)
}

fn shown<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    subscriber: &Subscriber,
    request: &Request<Vec<u8>>,
) -> Answer {
    let view = SubscriberView::of(subscriber, pipeline.ports.now());
    let revision = subscriber.revision.unsigned_abs();
    tagged(request, StatusCode::OK, revision, &view)
}

/// `DELETE /v1/subscribers/{id}`.
pub async fn delete<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    if store::delete_subscriber(pipeline.ports, id).await? {
        return no_content();
    }
    Err(no_subscriber(id))
}

/// Changes a subscriber as often as it takes: whoever loses a race reads and changes again.
async fn change<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    change: impl Fn(&mut Subscriber) -> Result<(), Problem>,
) -> Result<Subscriber, Problem> {
    for _ in 0..TRIES {
        let mut subscriber = load(pipeline, id).await?;
        change(&mut subscriber)?;
        subscriber.updated_at = pipeline.ports.now();
        if let Some(changed) = store::change_subscriber(pipeline.ports, &subscriber).await? {
            return Ok(changed);
        }
    }
    Err(StoreError::Contended(id.to_owned()).into())
}

/// `PATCH /v1/subscribers/{id}`.
pub async fn patch<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let patch: SubscriberPatch = json_body(request, &[])?;
    let condition = precondition(request)?;
    let apply = |subscriber: &mut Subscriber| {
        if matches!(condition, Precondition::Revision(wanted) if wanted != subscriber.revision) {
            let detail = "the subscriber is not as If-Match says; read it again";
            return Err(Problem::new(412, "Precondition failed", detail));
        }
        take(patch.url.as_ref(), &mut subscriber.url);
        take(patch.events.as_ref(), &mut subscriber.events);
        take(patch.format.as_ref(), &mut subscriber.format);
        take(patch.approvals.as_ref(), &mut subscriber.approvals);
        patch.plan.apply(&mut subscriber.plan);
        patch.worker.apply(&mut subscriber.worker);
        patch.description.apply(&mut subscriber.description);
        checked(pipeline, subscriber)
    };
    let changed = change(pipeline, id, apply).await?;
    shown(pipeline, &changed, request)
}

/// `POST /v1/subscribers/{id}/pause`, `resume`, `rotate-secret` and `test`.
pub async fn command<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    verb: SubscriberVerb,
    request: &Request<Vec<u8>>,
) -> Answer {
    if verb == SubscriberVerb::Replay {
        return super::deliveries::replay_failed(pipeline, id, request).await;
    }
    if !request.body().is_empty() {
        let _: Nothing = json_body(request, &[])?;
    }
    match verb {
        SubscriberVerb::Pause => {
            let pause = |subscriber: &mut Subscriber| {
                if subscriber.state == SubscriberState::Disabled {
                    return Err(Problem::conflict(
                        "the subscriber is disabled; it gets nothing until it is resumed",
                    ));
                }
                subscriber.state = SubscriberState::Paused;
                Ok(())
            };
            shown(pipeline, &change(pipeline, id, pause).await?, request)
        }
        SubscriberVerb::Resume => {
            let resume = |subscriber: &mut Subscriber| {
                subscriber.state = SubscriberState::Active;
                subscriber.slow = false;
                subscriber.failing_since = None;
                subscriber.disabled_at = None;
                subscriber.disabled_reason = None;
                Ok(())
            };
            let changed = change(pipeline, id, resume).await?;
            // A crash here leaves what was held to the sweep: it is due since the change.
            send_due(pipeline, id).await?;
            shown(pipeline, &changed, request)
        }
        SubscriberVerb::RotateSecret => rotate(pipeline, id).await,
        SubscriberVerb::Test | SubscriberVerb::Replay => {
            super::deliveries::test(pipeline, id).await
        }
    }
}

async fn rotate<P: Ports>(pipeline: &Pipeline<'_, P>, id: &str) -> Answer {
    load(pipeline, id).await?;
    let (secret, sealed) = secret(pipeline, id)?;
    let now = pipeline.ports.now();
    let replace = |subscriber: &mut Subscriber| {
        let previous = std::mem::replace(&mut subscriber.secret, sealed.clone());
        subscriber.previous_secret = Some(previous);
        subscriber.previous_until = Some(now + GRACE_MS);
        Ok(())
    };
    let changed = change(pipeline, id, replace).await?;
    json_answer(
        StatusCode::OK,
        &WithSecret {
            subscriber: SubscriberView::of(&changed, now),
            secret,
            warnings: Vec::new(),
        },
    )
}

/// Sends calls for all that a subscriber is owed now.
pub(super) async fn send_due<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
) -> Result<(), Problem> {
    let now = pipeline.ports.now();
    let owed = store::due_deliveries_of(pipeline.ports, id, now).await?;
    pipeline.send_owed(&owed).await;
    Ok(())
}

/// An answer that something will be done.
pub(super) fn accepted(body: &impl Serialize) -> Result<Response<Vec<u8>>, Problem> {
    json_answer(StatusCode::ACCEPTED, body)
}
