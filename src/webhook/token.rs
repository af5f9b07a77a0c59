//! Tokens of approval links: what may be decided, by whose link, and until when. Nothing in them is secret; the signature is
//! what makes them worth something.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::keys::{Keyring, Purpose};
use crate::json;
use crate::time::{UnixMs, rfc3339};

/// Longest token that is looked at.
const MAX_BYTES: usize = 300;

/// What a link decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalToken {
    /// Of which release.
    #[serde(rename = "r")]
    pub release: String,
    /// Which stage, from 1.
    #[serde(rename = "s")]
    pub stage: usize,
    /// Approve, or deny.
    #[serde(rename = "a")]
    pub approve: bool,
    /// The version that the release had when the link was made; of another one it decides nothing.
    #[serde(rename = "v")]
    pub version: u32,
    /// Whose link it is.
    #[serde(rename = "w")]
    pub subscriber: String,
    /// Until when it is valid.
    #[serde(rename = "x")]
    pub expires_at: UnixMs,
}

/// Why a token decides nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum TokenError {
    /// It is not as it was made.
    #[error(
        "this link is incomplete or was altered; copy it whole from the message that it came with"
    )]
    Altered,
    /// It was signed by a key that is not here.
    #[error(
        "this link was signed with a key that this installation does not use any more; ask for a new one"
    )]
    UnknownKey,
    /// It is signed, but not for deciding.
    #[error("this link is not for deciding a stage")]
    WrongPurpose,
    /// Its time is over.
    #[error("this link was valid until {}; ask for a new one", rfc3339(*.0))]
    Expired(UnixMs),
}

impl ApprovalToken {
    /// The token as it stands in a link: what it decides, the key's id, and the signature.
    #[must_use]
    pub fn sign(&self, keys: &Keyring) -> String {
        let payload = URL_SAFE_NO_PAD.encode(crate::json::text(self));
        let signed = format!("{payload}.{}", keys.key_id());
        let mac = keys.mac(Purpose::Approval, signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
    }

    /// Reads a token that this installation made.
    ///
    /// # Errors
    /// [`TokenError`]
    pub fn verify(text: &str, keys: &Keyring, now: UnixMs) -> Result<Self, TokenError> {
        if text.len() > MAX_BYTES {
            return Err(TokenError::Altered);
        }
        let (signed, mac) = text.rsplit_once('.').ok_or(TokenError::Altered)?;
        let (payload, key_id) = signed.split_once('.').ok_or(TokenError::Altered)?;
        // One text for each token: base64 with stray bits at its end is refused by the decoder.
        let decode = |text| URL_SAFE_NO_PAD.decode(text);
        let (Ok(payload), Ok(mac)) = (decode(payload), decode(mac)) else {
            return Err(TokenError::Altered);
        };
        let verifies = |purpose| keys.verifies(purpose, key_id, signed.as_bytes(), &mac);
        if !verifies(Purpose::Approval) {
            let others = [Purpose::SubscriberSecret, Purpose::HookSecret];
            return Err(if others.into_iter().any(verifies) {
                TokenError::WrongPurpose
            } else if keys.knows(key_id) {
                TokenError::Altered
            } else {
                TokenError::UnknownKey
            });
        }
        let payload = json::parse_bytes(&payload).map_err(|_| TokenError::WrongPurpose)?;
        let token: Self = json::read(&payload).map_err(|_| TokenError::WrongPurpose)?;
        if now >= token.expires_at {
            return Err(TokenError::Expired(token.expires_at));
        }
        Ok(token)
    }

    /// The action, as people call it.
    #[must_use]
    pub fn action(&self) -> &'static str {
        if self.approve { "approve" } else { "deny" }
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    use super::*;

    fn ring(current: u8, previous: Option<u8>) -> Keyring {
        let key = |byte: u8| STANDARD.encode([byte; 32]);
        Keyring::parse(&key(current), previous.map(key).as_deref()).unwrap()
    }

    fn token() -> ApprovalToken {
        ApprovalToken {
            release: "rel_0192f0c1d2e37abc8def0123456789ab".to_owned(),
            stage: 20,
            approve: false,
            version: u32::MAX,
            subscriber: "sub_0192f0c1d2e37abc8def0123456789ab".to_owned(),
            expires_at: 9_000_000_000_000,
        }
    }

    #[test]
    fn a_token_reads_back_is_short_and_fits_a_url() {
        let text = token().sign(&ring(1, None));
        assert!(text.len() < 300, "{}", text.len());
        assert!(
            text.bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
        );
        assert_eq!(ApprovalToken::verify(&text, &ring(1, None), 0), Ok(token()));
    }

    #[test]
    fn each_fault_has_an_error_of_its_own() {
        let text = token().sign(&ring(1, None));
        let verify = |text: &str, keys: &Keyring, now| ApprovalToken::verify(text, keys, now);
        let late = token().expires_at;
        assert_eq!(
            verify(&text, &ring(1, None), late),
            Err(TokenError::Expired(late))
        );
        assert_eq!(verify(&text, &ring(2, Some(1)), 0), Ok(token()));
        assert_eq!(
            verify(&text, &ring(2, None), 0),
            Err(TokenError::UnknownKey)
        );
        let keys = ring(1, None);
        for purpose in [Purpose::HookSecret, Purpose::SubscriberSecret] {
            let (signed, _) = text.rsplit_once('.').unwrap();
            let mac = keys.mac(purpose, signed.as_bytes());
            let other = format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac));
            assert_eq!(verify(&other, &keys, 0), Err(TokenError::WrongPurpose));
        }
        for text in ["", ".", "..", "a.b", "a.b.c", &"a".repeat(400)] {
            assert!(verify(text, &keys, 0).is_err(), "{text}");
        }
    }

    #[test]
    fn of_ten_thousand_altered_tokens_none_is_accepted() {
        const LETTERS: &[u8] =
            b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";
        let keys = ring(1, Some(2));
        let text = token().sign(&keys).into_bytes();
        let mut tried = 0;
        let mut refused = |altered: Vec<u8>| {
            let altered = String::from_utf8(altered).unwrap();
            let found = ApprovalToken::verify(&altered, &keys, 0);
            assert!(found.is_err(), "{altered}: {found:?}");
            tried += 1;
        };
        for i in 0..text.len() {
            for letter in LETTERS {
                if text[i] != *letter {
                    let mut altered = text.clone();
                    altered[i] = *letter;
                    refused(altered);
                }
            }
            let mut shorter = text.clone();
            shorter.remove(i);
            refused(shorter);
            refused(text[..i].to_vec());
            let mut longer = text.clone();
            longer.insert(i, b'A');
            refused(longer);
        }
        assert!(tried >= 10_000, "{tried}");
    }

    #[test]
    fn each_field_is_signed() {
        let keys = ring(1, None);
        let text = token().sign(&keys);
        let (_, mac) = text.rsplit_once('.').unwrap();
        let changes: [fn(&mut ApprovalToken); 6] = [
            |token| token.release.replace_range(35.., "c"),
            |token| token.stage = 1,
            |token| token.approve = true,
            |token| token.version = 3,
            |token| token.subscriber.replace_range(35.., "c"),
            |token| token.expires_at += 1,
        ];
        for change in changes {
            let mut other = token();
            change(&mut other);
            let payload = URL_SAFE_NO_PAD.encode(serde_json::json!(other).to_string());
            let forged = format!("{payload}.{}.{mac}", keys.key_id());
            let found = ApprovalToken::verify(&forged, &keys, 0);
            assert_eq!(found, Err(TokenError::Altered));
        }
    }

    proptest! {
        #[test]
        fn no_text_panics_and_none_is_accepted(text in "\\PC{0,120}", more in "[A-Za-z0-9_.-]{0,250}") {
            prop_assert!(ApprovalToken::verify(&text, &ring(1, None), 0).is_err());
            prop_assert!(ApprovalToken::verify(&more, &ring(1, None), 0).is_err());
        }
    }
}
