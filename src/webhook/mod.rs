//! Webhooks: keys and seals, and the Standard Webhooks signature. Pure: no I/O, no clock, no randomness.

mod keys;
mod secret;
mod signature;

pub use keys::{KEY_BYTES, KeyError, Keyring, NONCE_BYTES, Purpose, SealError};
pub use secret::{SECRET_BYTES, SecretError, WebhookSecret};
pub use signature::{Received, Rejection, TOLERANCE_MS, sign, sign_with_all, verify};
