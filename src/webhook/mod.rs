//! Webhooks: keys and seals, the Standard Webhooks signature, approval links, and what subscribers are told. Pure: no I/O, no
//! clock, no randomness.

mod address;
mod chat;
mod judge;
mod keys;
mod message;
mod schedule;
mod secret;
mod signature;
mod subscriber;
mod token;

#[cfg(not(target_arch = "wasm32"))]
pub use address::parse_url;
pub use address::{AddressError, AddressRules, ParseUrl, WebUrl, check_address};
pub use judge::judge_secrets;
pub use keys::{KEY_BYTES, KeyError, Keyring, NONCE_BYTES, Purpose, SealError};
pub use message::{Asked, Envelope, Links, MAX_BODY_BYTES, Message, Stored};
pub use schedule::{GIVE_UP_AFTER_MS, next_attempt};
pub use secret::{SECRET_BYTES, SecretError, WebhookSecret};
pub use signature::{Received, Rejection, TOLERANCE_MS, sign, sign_with_all, verify};
pub use subscriber::{
    ALERT_TYPE, ASKED_TYPE, EVENT_TYPES, Format, Subscriber, SubscriberState, TEST_TYPE,
};
pub use token::{ApprovalToken, TokenError};
