//! The headers of requests that HMD reads. The Worker takes over no others: reading any name takes a table of all that there are.

use ::http::{HeaderName, header};

/// The key of an idempotent command.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The id of a message to a hook.
pub static WEBHOOK_ID: HeaderName = HeaderName::from_static("webhook-id");
/// When it was sent.
pub static WEBHOOK_TIMESTAMP: HeaderName = HeaderName::from_static("webhook-timestamp");
/// Who signed it.
pub static WEBHOOK_SIGNATURE: HeaderName = HeaderName::from_static("webhook-signature");
/// Where Cloudflare Access puts its assertion.
pub static ACCESS_ASSERTION: HeaderName = HeaderName::from_static("cf-access-jwt-assertion");
/// The address that a request comes from.
pub static CLIENT_ADDRESS: HeaderName = HeaderName::from_static("cf-connecting-ip");
/// Whether a browser was led here by a page of the same site.
pub static FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");
/// The dashboard's script asks for a part of a page.
pub static FRAGMENT: HeaderName = HeaderName::from_static("x-hmd-fragment");

/// All of them.
pub fn all() -> impl Iterator<Item = HeaderName> {
    let own = [
        &IDEMPOTENCY_KEY,
        &WEBHOOK_ID,
        &WEBHOOK_TIMESTAMP,
        &WEBHOOK_SIGNATURE,
        &ACCESS_ASSERTION,
        &CLIENT_ADDRESS,
        &FETCH_SITE,
        &FRAGMENT,
    ];
    let others = [
        header::ACCEPT,
        header::AUTHORIZATION,
        header::CONTENT_TYPE,
        header::COOKIE,
        header::IF_MATCH,
        header::IF_NONE_MATCH,
        header::ORIGIN,
    ];
    others.into_iter().chain(own.into_iter().cloned())
}

/// A request as the Worker takes it in, so that whoever reads another header learns it from the first test.
#[cfg(not(target_arch = "wasm32"))]
pub(super) fn taken_in(request: &::http::Request<Vec<u8>>) -> ::http::Request<Vec<u8>> {
    let mut taken = request.clone();
    taken.headers_mut().clear();
    for name in all() {
        for value in request.headers().get_all(&name) {
            taken.headers_mut().append(&name, value.clone());
        }
    }
    taken
}
