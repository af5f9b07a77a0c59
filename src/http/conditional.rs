//! Conditional requests by revision: `ETag`, `If-None-Match`, `If-Match`.

use std::fmt::Display;

use ::http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use serde::Serialize;

use super::problem::Problem;
use super::{Answer, json_answer};
use crate::store::Precondition;

/// The tag of a revision.
pub(super) fn tag(revision: &dyn Display) -> String {
    format!("\"{revision}\"")
}

fn listed<'r>(request: &'r Request<Vec<u8>>, name: &HeaderName) -> Option<Vec<&'r str>> {
    let value = request.headers().get(name)?.to_str().ok()?;
    Some(
        value
            .split(',')
            .map(|tag| tag.trim().trim_start_matches("W/"))
            .collect(),
    )
}

/// 304 without a body if the caller has this revision already, else the JSON with its tag.
///
/// # Errors
/// Those of [`json_answer`].
pub fn tagged(
    request: &Request<Vec<u8>>,
    status: StatusCode,
    revision: u64,
    body: &impl Serialize,
) -> Answer {
    let tag = tag(&revision);
    let known = listed(request, &header::IF_NONE_MATCH)
        .is_some_and(|tags| tags.iter().any(|known| *known == tag || *known == "*"));
    let mut response = if known && status == StatusCode::OK && request.method().is_safe() {
        let mut response = Response::new(Vec::new());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        json_answer(status, body)?
    };
    if let Ok(value) = HeaderValue::from_str(&tag) {
        response.headers_mut().insert(header::ETAG, value);
    }
    Ok(response)
}

/// What the caller demands of the present state before it is changed.
///
/// # Errors
/// 400 for a tag that is none of HMD's.
pub fn precondition(request: &Request<Vec<u8>>) -> Result<Precondition, Problem> {
    let bad = |name: &str| {
        Problem::new(
            400,
            "Invalid header",
            format!("{name} must be one ETag of an earlier answer, or *"),
        )
    };
    if let Some(tags) = listed(request, &header::IF_MATCH) {
        return match tags[..] {
            ["*"] => Ok(Precondition::Exists),
            [tag] => tag
                .trim_matches('"')
                .parse()
                .map(Precondition::Revision)
                .map_err(|_| bad("If-Match")),
            _ => Err(bad("If-Match")),
        };
    }
    match listed(request, &header::IF_NONE_MATCH).as_deref() {
        None => Ok(Precondition::None),
        Some(["*"]) => Ok(Precondition::Absent),
        Some(_) => Err(bad("If-None-Match")),
    }
}
