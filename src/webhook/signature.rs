//! Standard Webhooks 1.0, symmetric: HMAC-SHA256 over `id.timestamp.body`, byte for byte as it is sent.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use subtle::{Choice, ConstantTimeEq as _};
use thiserror::Error;

use super::keys::hmac_sha256;
use super::secret::WebhookSecret;
use crate::time::UnixMs;

/// How far the sender's clock may be from ours, either way.
pub const TOLERANCE_MS: i64 = 5 * 60_000;
/// Longest `webhook-id` that is taken.
const MAX_ID_BYTES: usize = 255;
/// Most signatures of one header that are looked at.
const MAX_SIGNATURES: usize = 10;
const SCHEME: &str = "v1,";

/// Signs a message: what belongs into `webhook-signature`.
#[must_use]
pub fn sign(secret: &WebhookSecret, id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let mac = mac(secret, id, &timestamp_s.to_string(), body);
    format!("{SCHEME}{}", STANDARD.encode(mac))
}

/// Signs a message with several secrets, as while one is rotated: a receiver that has any of them is content.
#[must_use]
pub fn sign_with_all(secrets: &[WebhookSecret], id: &str, timestamp_s: i64, body: &[u8]) -> String {
    let signatures: Vec<String> = secrets
        .iter()
        .map(|secret| sign(secret, id, timestamp_s, body))
        .collect();
    signatures.join(" ")
}

fn mac(secret: &WebhookSecret, id: &str, timestamp_s: &str, body: &[u8]) -> [u8; 32] {
    let parts = [id.as_bytes(), b".", timestamp_s.as_bytes(), b".", body];
    hmac_sha256(secret.bytes(), &parts)
}

/// A message as it came in: its headers, if they were there and are text, and its exact bytes.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// `webhook-id`
    pub id: Option<&'a str>,
    /// `webhook-timestamp`
    pub timestamp: Option<&'a str>,
    /// `webhook-signature`
    pub signature: Option<&'a str>,
    /// The body.
    pub body: &'a [u8],
}

/// Why a message is not believed, for the owner of the secret. Strangers are told none of it.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// A header is not there.
    #[error("the header {0} is missing")]
    Missing(&'static str),
    /// The id can't be one.
    #[error("webhook-id must be 1 to 255 visible characters without a full stop")]
    Id,
    /// The timestamp is no number.
    #[error("webhook-timestamp must be whole seconds since 1970")]
    Timestamp,
    /// It was signed too long ago.
    #[error(
        "webhook-timestamp is {0} s in the past; a message is taken for 5 minutes, and each attempt must be signed anew"
    )]
    TooOld(i64),
    /// It was signed in the future.
    #[error("webhook-timestamp is {0} s in the future; check the sender's clock")]
    TooNew(i64),
    /// No signature of the scheme `v1`.
    #[error("webhook-signature holds no signature of the form v1,<base64>")]
    NoSignature,
    /// None of the signatures is right.
    #[error(
        "no signature fits: check the secret, and that the exact bytes of the body were signed, as id.timestamp.body"
    )]
    Wrong,
}

/// Checks a message against the secrets that are valid now; answers its id, by which a repeated message is known.
///
/// # Errors
/// [`Rejection`]
pub fn verify<'a>(
    received: Received<'a>,
    secrets: &[WebhookSecret],
    now: UnixMs,
) -> Result<&'a str, Rejection> {
    let id = received.id.ok_or(Rejection::Missing("webhook-id"))?;
    let timestamp = received
        .timestamp
        .ok_or(Rejection::Missing("webhook-timestamp"))?;
    let signature = received
        .signature
        .ok_or(Rejection::Missing("webhook-signature"))?;
    let visible = |byte: u8| byte.is_ascii_graphic() && byte != b'.';
    if !(1..=MAX_ID_BYTES).contains(&id.len()) || !id.bytes().all(visible) {
        return Err(Rejection::Id);
    }
    // Only digits: what is signed is the text, so there must be one text for each number.
    if timestamp.is_empty() || !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Rejection::Timestamp);
    }
    let timestamp_s: i64 = timestamp.parse().map_err(|_| Rejection::Timestamp)?;
    let signatures: Vec<Vec<u8>> = signature
        .split(' ')
        .filter_map(|one| STANDARD.decode(one.strip_prefix(SCHEME)?).ok())
        .take(MAX_SIGNATURES)
        .collect();
    if signatures.is_empty() {
        return Err(Rejection::NoSignature);
    }
    // Every secret against every signature, in constant time: how long it takes must not tell which one was nearly right.
    let mut right = Choice::from(0);
    for secret in secrets {
        let expected = mac(secret, id, timestamp, received.body);
        for signature in &signatures {
            right |= expected.as_slice().ct_eq(signature);
        }
    }
    if !bool::from(right) {
        return Err(Rejection::Wrong);
    }
    // Last, so that only who has the secret learns how our clocks differ.
    let age_ms = now.saturating_sub(timestamp_s.saturating_mul(1_000));
    if age_ms > TOLERANCE_MS {
        return Err(Rejection::TooOld(age_ms / 1_000));
    }
    if age_ms < -TOLERANCE_MS {
        return Err(Rejection::TooNew(-age_ms / 1_000));
    }
    Ok(id)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    // The vector of the reference implementations.
    const SECRET: &str = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    const ID: &str = "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk";
    const AT_S: i64 = 1_649_367_553;
    const BODY: &[u8] = br#"{"email":"test@example.com","username":"test_user"}"#;
    const SIGNATURE: &str = "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=";

    fn secret() -> WebhookSecret {
        SECRET.parse().unwrap()
    }

    fn other() -> WebhookSecret {
        WebhookSecret::from_random([1; 32])
    }

    fn check(change: impl FnOnce(&mut Received<'_>)) -> Result<(), Rejection> {
        let mut received = Received {
            id: Some(ID),
            timestamp: Some("1649367553"),
            signature: Some(SIGNATURE),
            body: BODY,
        };
        change(&mut received);
        verify(received, &[secret()], AT_S * 1_000).map(|_| ())
    }

    #[test]
    fn the_reference_vector_holds_both_ways() {
        assert_eq!(sign(&secret(), ID, AT_S, BODY), SIGNATURE);
        assert_eq!(check(|_| ()), Ok(()));
    }

    #[test]
    fn each_fault_is_named() {
        let missing = Rejection::Missing;
        assert_eq!(check(|r| r.id = None), Err(missing("webhook-id")));
        assert_eq!(
            check(|r| r.timestamp = None),
            Err(missing("webhook-timestamp"))
        );
        assert_eq!(
            check(|r| r.signature = None),
            Err(missing("webhook-signature"))
        );
        for id in ["", "a.b", "a b", "é"] {
            assert_eq!(check(|r| r.id = Some(id)), Err(Rejection::Id), "{id}");
        }
        for text in ["", "soon", "-1", "+1", "1e9", "99999999999999999999"] {
            let found = check(|r| r.timestamp = Some(text));
            assert_eq!(found, Err(Rejection::Timestamp), "{text}");
        }
        for text in ["", "v1", "v1,!", "v1a,AAAA", "tZ1I4"] {
            let found = check(|r| r.signature = Some(text));
            assert_eq!(found, Err(Rejection::NoSignature), "{text}");
        }
        assert_eq!(check(|r| r.body = b"{}"), Err(Rejection::Wrong));
        assert_eq!(check(|r| r.id = Some("msg_other")), Err(Rejection::Wrong));
        // Another text of the same number was not signed.
        let padded = check(|r| r.timestamp = Some("01649367553"));
        assert_eq!(padded, Err(Rejection::Wrong));
    }

    #[test]
    fn the_clock_may_be_five_minutes_off_either_way_and_no_more() {
        let at = |now_s: i64| {
            let received = Received {
                id: Some(ID),
                timestamp: Some("1649367553"),
                signature: Some(SIGNATURE),
                body: BODY,
            };
            verify(received, &[secret()], now_s * 1_000).map(|_| ())
        };
        for off in [-300, -1, 0, 299, 300] {
            assert_eq!(at(AT_S + off), Ok(()), "{off}");
        }
        assert_eq!(at(AT_S + 301), Err(Rejection::TooOld(301)));
        assert_eq!(at(AT_S - 301), Err(Rejection::TooNew(301)));
    }

    #[test]
    fn any_of_several_signatures_by_any_of_several_secrets_is_enough() {
        let secrets = [other(), secret()];
        let both = sign_with_all(&secrets, ID, AT_S, BODY);
        assert_eq!(both.split(' ').count(), 2);
        let signed = |signature: &str, secrets: &[WebhookSecret]| {
            let received = Received {
                id: Some(ID),
                timestamp: Some("1649367553"),
                signature: Some(signature),
                body: BODY,
            };
            verify(received, secrets, AT_S * 1_000).map(|_| ())
        };
        assert_eq!(signed(&both, &[secret()]), Ok(()));
        assert_eq!(signed(&both, &[other()]), Ok(()));
        assert_eq!(signed(SIGNATURE, &secrets), Ok(()));
        assert_eq!(signed(SIGNATURE, &[other()]), Err(Rejection::Wrong));
        assert_eq!(signed(SIGNATURE, &[]), Err(Rejection::Wrong));
        // Signatures of schemes that are unknown here are left alone.
        let more = format!("v1a,AAAA v9,zz {SIGNATURE}");
        assert_eq!(signed(&more, &secrets), Ok(()));
    }

    proptest! {
        #[test]
        fn whatever_comes_in_is_judged_without_a_panic_and_never_believed(
            id in ".{0,40}", timestamp in ".{0,20}", signature in ".{0,80}", body in proptest::collection::vec(any::<u8>(), 0..200),
        ) {
            let received = Received { id: Some(&id), timestamp: Some(&timestamp), signature: Some(&signature), body: &body };
            prop_assert!(verify(received, &[secret()], AT_S * 1_000).is_err());
        }

        #[test]
        fn what_is_signed_is_believed_and_nothing_else(
            id in "[a-zA-Z0-9_-]{1,60}", at in 0_i64..4_000_000_000, body in proptest::collection::vec(any::<u8>(), 0..300),
            flip in any::<prop::sample::Index>(), key in any::<[u8; 32]>(),
        ) {
            let secret = WebhookSecret::from_random(key);
            let signature = sign(&secret, &id, at, &body);
            let timestamp = at.to_string();
            let received = |signature| Received { id: Some(&id), timestamp: Some(&timestamp), signature: Some(signature), body: &body };
            prop_assert_eq!(verify(received(&signature), std::slice::from_ref(&secret), at * 1_000), Ok(id.as_str()));
            let mut altered = body.clone();
            if !altered.is_empty() {
                let i = flip.index(altered.len());
                altered[i] ^= 1;
                let received = Received { body: &altered, ..received(&signature) };
                prop_assert_eq!(verify(received, &[secret], at * 1_000), Err(Rejection::Wrong));
            }
        }
    }
}
