//! Secrets of webhooks, `whsec_` and base64, as Standard Webhooks writes them.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::alphabet;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use thiserror::Error;

/// What every secret begins with.
const PREFIX: &str = "whsec_";
/// Bytes of a secret that HMD makes.
pub const SECRET_BYTES: usize = 32;
/// Bytes of a secret that somebody else made.
const ALLOWED_BYTES: std::ops::RangeInclusive<usize> = 24..=64;
/// Padding is optional in other people's secrets.
const LENIENT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The symmetric secret of one sender and one receiver.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

/// A text is no secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a webhook secret is whsec_ followed by the base64 of 24 to 64 bytes")]
pub struct SecretError;

impl WebhookSecret {
    /// A secret of fresh random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; SECRET_BYTES]) -> Self {
        Self(bytes.to_vec())
    }

    /// The secret as its owner is shown it, once.
    #[must_use]
    pub fn expose(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl FromStr for WebhookSecret {
    type Err = SecretError;

    fn from_str(text: &str) -> Result<Self, SecretError> {
        let encoded = text.strip_prefix(PREFIX).ok_or(SecretError)?;
        let bytes = LENIENT.decode(encoded).map_err(|_| SecretError)?;
        if ALLOWED_BYTES.contains(&bytes.len()) {
            Ok(Self(bytes))
        } else {
            Err(SecretError)
        }
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_reads_back_and_is_never_shown_by_accident() {
        let secret = WebhookSecret::from_random([9; SECRET_BYTES]);
        assert_eq!(secret.expose().parse::<WebhookSecret>().unwrap(), secret);
        assert_eq!(format!("{secret:?}"), "[secret]");
    }

    #[test]
    fn what_is_no_secret_is_refused() {
        let of = |bytes: usize| format!("whsec_{}", STANDARD.encode(vec![1; bytes]));
        for text in [
            String::new(),
            "whsec_".to_owned(),
            "whsec_????".to_owned(),
            of(23),
            of(65),
            of(32).replace("whsec_", "whsk_"),
        ] {
            assert_eq!(text.parse::<WebhookSecret>(), Err(SecretError), "{text}");
        }
        for bytes in [24, 32, 64] {
            assert!(of(bytes).parse::<WebhookSecret>().is_ok());
            assert!(
                of(bytes)
                    .trim_end_matches('=')
                    .parse::<WebhookSecret>()
                    .is_ok()
            );
        }
    }
}
