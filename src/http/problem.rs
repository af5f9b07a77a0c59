//! Errors as `application/problem+json` (RFC 9457).

use std::fmt::Display;

use ::http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use crate::pipeline::ports::FileError;
use crate::release::{Check, FieldError};
use crate::store::StoreError;

/// Why a request was refused (RFC 9457): what happened, to whom, and what to do.
#[derive(Debug, Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Problem {
    /// Short and always the same for the same kind.
    pub title: String,
    /// The HTTP status.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 400, max = 599)))]
    pub status: u16,
    /// What happened this time.
    pub detail: String,
    /// What is wrong with the body, field by field.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub errors: Vec<FieldError>,
    /// The checks of a preflight that failed.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    pub checks: Box<[Check]>,
    /// Nothing has failed: nobody is to be alerted.
    #[serde(skip)]
    pub(super) foreseen: bool,
    #[serde(skip)]
    headers: Vec<(HeaderName, String)>,
}

impl Problem {
    /// A problem without fields.
    pub fn new(status: u16, title: &str, detail: impl Into<String>) -> Self {
        Self {
            title: title.to_owned(),
            status,
            detail: detail.into(),
            errors: Vec::new(),
            checks: Box::default(),
            foreseen: false,
            headers: Vec::new(),
        }
    }

    /// A body that can be read, but not accepted.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let said: Vec<String> = errors
            .iter()
            .map(|error| match error.pointer.as_str() {
                "" => format!("the body {}", error.detail),
                pointer => format!("{pointer} {}", error.detail),
            })
            .collect();
        Self {
            errors,
            ..Self::new(422, "Invalid request", said.join("; "))
        }
    }

    /// One field that can't be accepted.
    pub fn field(pointer: &str, detail: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError {
            pointer: pointer.to_owned(),
            detail: detail.into(),
        }])
    }

    /// A release that can't be expected to go well: these checks failed.
    #[must_use]
    pub fn preflight(checks: Vec<Check>) -> Self {
        let said: Vec<String> = checks
            .iter()
            .map(|check| {
                let action = check.action.as_deref().unwrap_or_default();
                format!("{}: {} ({action})", check.name, check.detail)
            })
            .collect();
        let detail = format!(
            "nothing was created. {}. To release all the same, name the checks in `accept`",
            said.join("; ")
        );
        Self {
            checks: checks.into_boxed_slice(),
            ..Self::new(422, "Preflight failed", detail)
        }
    }

    /// The token may not read what has to be known, which nobody can accept.
    #[must_use]
    pub fn denied(check: Check) -> Self {
        let action = check.action.as_deref().unwrap_or_default();
        let detail = format!(
            "nothing was changed. {}: {} ({action})",
            check.name, check.detail
        );
        Self {
            checks: [check].into(),
            ..Self::new(422, "Preflight failed", detail)
        }
    }

    /// There is nothing of that name.
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(404, "Not found", detail)
    }

    /// The state does not allow it.
    pub fn conflict(detail: impl Into<String>) -> Self {
        Self::new(409, "Conflict", detail)
    }

    /// Something that HMD needs does not answer.
    pub fn unavailable(detail: impl Into<String>, retry_after_s: i64) -> Self {
        Self::new(503, "Temporarily unavailable", detail)
            .header(header::RETRY_AFTER, &retry_after_s.to_string())
    }

    /// The call budget lets it wait, which is no failure of anybody's.
    pub fn put_off(detail: impl Into<String>, retry_after_s: i64) -> Self {
        Self {
            foreseen: true,
            ..Self::unavailable(detail, retry_after_s)
        }
    }

    /// A fault of HMD itself.
    pub fn internal(error: &dyn Display) -> Self {
        Self::new(500, "Internal error", error.to_string())
    }

    /// Adds a header to the answer.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// The answer.
    #[must_use]
    pub fn response(&self) -> Response<Vec<u8>> {
        let mut response = Response::new(crate::json::text(self).into_bytes());
        *response.status_mut() =
            StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let headers = response.headers_mut();
        headers.insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        for (name, value) in &self.headers {
            if let Ok(value) = HeaderValue::from_str(value) {
                headers.insert(name.clone(), value);
            }
        }
        response
    }
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        Self::unavailable(error.to_string(), 5)
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Row(_) => Self::internal(&error),
            StoreError::Sql(_) | StoreError::Contended(_) => {
                Self::unavailable(error.to_string(), 2)
            }
        }
    }
}
