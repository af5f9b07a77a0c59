//! Who has signed in by Cloudflare Access: the assertion that it puts into each request, checked each time.

use ::http::Request;

use super::super::problem::Problem;
use crate::access::{Assertion, KnownKeys, Person, Rejection, RsaKey, Step, Team};
use crate::http::headers::ACCESS_ASSERTION;
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;

/// When reading the team's keys is given up, in milliseconds.
const TIMEOUT_MS: u32 = 5_000;

/// Whom Access says it is; `None`: it says nothing, or HMD is not behind it, and then nobody can say anything in its name.
pub(super) async fn person<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
) -> Result<Option<Person>, Problem> {
    let Some(team) = &pipeline.config.access else {
        return Ok(None);
    };
    let mut headers = request.headers().get_all(&ACCESS_ASSERTION).into_iter();
    let refused = |rejection: Rejection| {
        let detail = format!(
            "this request has an assertion of Cloudflare Access that is not believed: {rejection}. Sign out at /cdn-cgi/access/logout and in again; if that does not help, whoever runs this installation should look at ACCESS_TEAM_DOMAIN and ACCESS_AUD"
        );
        Problem::new(403, "Not signed in", detail)
    };
    let text = match (headers.next(), headers.next()) {
        (None, _) => return Ok(None),
        (Some(one), None) => one.to_str().unwrap_or_default(),
        (Some(_), Some(_)) => return Err(refused(Rejection::Garbled)),
    };
    let assertion = Assertion::read(text, team, pipeline.ports.now()).map_err(refused)?;
    let Some(key) = key(pipeline, team, &assertion.key_id).await? else {
        return Err(refused(Rejection::UnknownKey));
    };
    let ports = pipeline.ports;
    let verified = ports
        .verifies(&key, &assertion.signed, &assertion.signature)
        .await;
    assertion.person(verified).map(Some).map_err(refused)
}

/// The team's key of this id, if it has one: from memory, else from the team.
async fn key<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    team: &Team,
    id: &str,
) -> Result<Option<RsaKey>, Problem> {
    let ports = pipeline.ports;
    let (known, now) = (ports.known_keys(), ports.now());
    let mut step = known.step(id, now);
    let mut why = String::new();
    if step == Step::Read {
        // Only a read: a crash here changes nothing.
        let body = ports.read_keys(&team.certs_url, TIMEOUT_MS).await;
        let body = body.map_err(|error| error.to_string());
        let read = body.and_then(|body| KnownKeys::read(&body, now));
        let known = read.unwrap_or_else(|error| {
            why = format!(": {error}");
            let line = serde_json::json!({"log": "alert", "path": team.certs_url, "detail": format!("the keys of Cloudflare Access could not be read: {error}")});
            ports.log(&line);
            // Another request may have read them meanwhile: what it knows is not forgotten.
            let newest = ports.known_keys();
            if newest == known {
                known.after_failure(now)
            } else {
                newest
            }
        });
        step = known.settled(id, now);
        ports.remember_keys(known);
    }
    match step {
        Step::Use(key) => Ok(Some(key)),
        Step::Unknown => Ok(None),
        Step::Read | Step::Unreadable => {
            let detail = format!("the keys of Cloudflare Access can't be read just now{why}");
            Err(Problem::unavailable(detail, 5))
        }
    }
}
