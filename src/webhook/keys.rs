//! Keys: everything is derived from the installation's signing key, one key per purpose, so that what was made for one
//! purpose is worth nothing for another. Each use names its key by an id, so that the signing key can be rotated: the newest
//! one signs and seals, the previous one still verifies and opens.

use std::fmt;

use aes_gcm::aead::{Aead as _, KeyInit as _, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, Mac as _};
use sha2::Sha256;
use subtle::ConstantTimeEq as _;
use thiserror::Error;

/// Bytes of a derived key, and of a signature by one.
pub const KEY_BYTES: usize = 32;
/// Fresh random bytes that each seal needs.
pub const NONCE_BYTES: usize = 12;
/// Bytes of a signing key at least.
const MIN_ROOT_BYTES: usize = 32;
/// Bytes of a key's id: enough to tell two keys apart, useless for finding one.
const KEY_ID_BYTES: usize = 6;

/// What a key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Purpose {
    /// Signing approval links.
    Approval,
    /// Sealing the secrets of subscribers.
    SubscriberSecret,
    /// Sealing the secrets of inbound hooks.
    HookSecret,
    /// Sealing the Cloudflare tokens of single Workers.
    WorkerToken,
    /// Making the secrets that requests to judges are signed with.
    Judge,
    /// Signing who is signed in to the dashboard.
    Session,
    /// Signing what a form of the dashboard carries, so that nobody else can send it.
    Form,
    /// Signing links that sign in to the dashboard once.
    SignIn,
}

impl Purpose {
    /// What goes into the derivation. Never change one: all that was made with its key would be void.
    fn label(self) -> &'static str {
        match self {
            Self::Approval => "hmd/approval/v1",
            Self::SubscriberSecret => "hmd/subscriber-secret/v1",
            Self::HookSecret => "hmd/hook-secret/v1",
            Self::WorkerToken => "hmd/worker-token/v1",
            Self::Judge => "hmd/judge/v1",
            Self::Session => "hmd/session/v1",
            Self::Form => "hmd/form/v1",
            Self::SignIn => "hmd/sign-in/v1",
        }
    }
}

/// A text is no signing key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("a signing key is the base64 of 32 bytes or more")]
pub struct KeyError;

/// Why a seal could not be made or opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum SealError {
    /// It was sealed by a key that is not here any more.
    #[error(
        "it was sealed with a signing key that this installation does not have any more; set that key as HMD_SIGNING_KEY_PREVIOUS, or make a new secret"
    )]
    UnknownKey,
    /// It is not a seal, or one for another purpose or owner, or it was altered.
    #[error("the seal is broken: it was altered, or belongs to something else")]
    Broken,
}

/// A signing key with its id.
#[derive(Clone)]
struct Root {
    id: String,
    bytes: Vec<u8>,
}

impl Root {
    fn parse(text: &str) -> Result<Self, KeyError> {
        let bytes = STANDARD.decode(text.trim()).map_err(|_| KeyError)?;
        if bytes.len() < MIN_ROOT_BYTES {
            return Err(KeyError);
        }
        let id = hmac_sha256(&bytes, &[b"hmd/key-id/v1"]);
        Ok(Self {
            id: URL_SAFE_NO_PAD.encode(&id[..KEY_ID_BYTES]),
            bytes,
        })
    }

    fn derive(&self, purpose: Purpose) -> [u8; KEY_BYTES] {
        hmac_sha256(&self.bytes, &[purpose.label().as_bytes()])
    }

    fn cipher(&self, purpose: Purpose) -> Aes256Gcm {
        Aes256Gcm::new(&Key::<Aes256Gcm>::from(self.derive(purpose)))
    }
}

/// The installation's signing key, and the one before it while keys are rotated.
#[derive(Clone)]
pub struct Keyring {
    current: Root,
    previous: Option<Root>,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keyring")
            .field("current", &self.current.id)
            .field("previous", &self.previous.as_ref().map(|root| &root.id))
            .finish()
    }
}

impl Keyring {
    /// Reads `HMD_SIGNING_KEY` and, if there is one, `HMD_SIGNING_KEY_PREVIOUS`.
    ///
    /// # Errors
    /// [`KeyError`] if one of them is no key.
    pub fn parse(current: &str, previous: Option<&str>) -> Result<Self, KeyError> {
        Ok(Self {
            current: Root::parse(current)?,
            previous: previous.map(Root::parse).transpose()?,
        })
    }

    /// The id of the key that signs and seals now.
    #[must_use]
    pub fn key_id(&self) -> &str {
        &self.current.id
    }

    fn root(&self, id: &str) -> Option<&Root> {
        let roots = [Some(&self.current), self.previous.as_ref()];
        roots.into_iter().flatten().find(|root| root.id == id)
    }

    /// Whether a key of this id is here.
    #[must_use]
    pub fn knows(&self, key_id: &str) -> bool {
        self.root(key_id).is_some()
    }

    /// Signs some bytes for a purpose with the current key.
    #[must_use]
    pub fn mac(&self, purpose: Purpose, bytes: &[u8]) -> [u8; KEY_BYTES] {
        hmac_sha256(&self.current.derive(purpose), &[bytes])
    }

    /// The same with each key, the current one first.
    #[must_use]
    pub fn macs(&self, purpose: Purpose, bytes: &[u8]) -> Vec<[u8; KEY_BYTES]> {
        let roots = [Some(&self.current), self.previous.as_ref()];
        let roots = roots.into_iter().flatten();
        roots
            .map(|root| hmac_sha256(&root.derive(purpose), &[bytes]))
            .collect()
    }

    /// Whether the key of this id made this signature of these bytes for this purpose. In constant time.
    #[must_use]
    pub fn verifies(&self, purpose: Purpose, key_id: &str, bytes: &[u8], mac: &[u8]) -> bool {
        self.root(key_id).is_some_and(|root| {
            let expected = hmac_sha256(&root.derive(purpose), &[bytes]);
            bool::from(expected.as_slice().ct_eq(mac))
        })
    }

    /// Seals a text so that it opens only for the same purpose and owner (the id of the row that it is kept in). The nonce
    /// must be fresh and random.
    ///
    /// # Errors
    /// [`SealError::Broken`] for a text that is far too long.
    pub fn seal(
        &self,
        purpose: Purpose,
        owner: &str,
        text: &str,
        nonce: [u8; NONCE_BYTES],
    ) -> Result<String, SealError> {
        let payload = Payload {
            msg: text.as_bytes(),
            aad: owner.as_bytes(),
        };
        let sealed = self
            .current
            .cipher(purpose)
            .encrypt(&Nonce::from(nonce), payload)
            .map_err(|_| SealError::Broken)?;
        let bytes = [&nonce[..], &sealed].concat();
        let id = &self.current.id;
        Ok(format!("v1.{id}.{}", URL_SAFE_NO_PAD.encode(bytes)))
    }

    /// Opens what [`Keyring::seal`] made.
    ///
    /// # Errors
    /// [`SealError`]
    pub fn open(&self, purpose: Purpose, owner: &str, sealed: &str) -> Result<String, SealError> {
        let parts: Vec<&str> = sealed.split('.').collect();
        let ["v1", id, bytes] = parts[..] else {
            return Err(SealError::Broken);
        };
        let root = self.root(id).ok_or(SealError::UnknownKey)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(bytes)
            .map_err(|_| SealError::Broken)?;
        let (nonce, sealed) = bytes
            .split_first_chunk::<NONCE_BYTES>()
            .ok_or(SealError::Broken)?;
        let payload = Payload {
            msg: sealed,
            aad: owner.as_bytes(),
        };
        let opened = root
            .cipher(purpose)
            .decrypt(&Nonce::from(*nonce), payload)
            .map_err(|_| SealError::Broken)?;
        String::from_utf8(opened).map_err(|_| SealError::Broken)
    }
}

/// HMAC-SHA256 of some parts, one after the other.
pub(super) fn hmac_sha256(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_BYTES] {
    // HMAC takes keys of any length, so this never happens.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(key) else {
        return [0; KEY_BYTES];
    };
    for part in parts {
        mac.update(part);
    }
    mac.finalize().into_bytes().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    fn ring(current: u8, previous: Option<u8>) -> Keyring {
        Keyring::parse(&key(current), previous.map(key).as_deref()).unwrap()
    }

    #[test]
    fn a_signature_is_worth_nothing_for_another_purpose_or_key_or_text() {
        let ring = ring(1, None);
        let id = ring.key_id().to_owned();
        let mac = ring.mac(Purpose::Approval, b"approve");
        assert!(ring.verifies(Purpose::Approval, &id, b"approve", &mac));
        assert!(!ring.verifies(Purpose::HookSecret, &id, b"approve", &mac));
        assert!(!ring.verifies(Purpose::Approval, &id, b"approve!", &mac));
        assert!(!ring.verifies(Purpose::Approval, "another", b"approve", &mac));
        assert!(!ring.verifies(Purpose::Approval, &id, b"approve", &mac[..31]));
        assert!(!ring.verifies(Purpose::Approval, &id, b"approve", &[]));
    }

    #[test]
    fn while_keys_rotate_the_previous_one_verifies_and_opens() {
        let (old, both, new) = (ring(1, None), ring(2, Some(1)), ring(2, None));
        let id = old.key_id().to_owned();
        let mac = old.mac(Purpose::Approval, b"x");
        assert!(both.verifies(Purpose::Approval, &id, b"x", &mac));
        assert!(!new.verifies(Purpose::Approval, &id, b"x", &mac));
        let sealed = old
            .seal(Purpose::SubscriberSecret, "sub_1", "secret", [3; 12])
            .unwrap();
        let open = |ring: &Keyring| ring.open(Purpose::SubscriberSecret, "sub_1", &sealed);
        assert_eq!(open(&both).unwrap(), "secret");
        assert_eq!(open(&new), Err(SealError::UnknownKey));
        assert_ne!(both.key_id(), id);
    }

    #[test]
    fn a_seal_opens_only_whole_and_where_it_belongs() {
        let ring = ring(1, None);
        let sealed = ring
            .seal(Purpose::SubscriberSecret, "sub_1", "secret", [3; 12])
            .unwrap();
        assert!(!sealed.contains("secret"));
        let broken = Err(SealError::Broken);
        assert_eq!(ring.open(Purpose::HookSecret, "sub_1", &sealed), broken);
        assert_eq!(
            ring.open(Purpose::SubscriberSecret, "sub_2", &sealed),
            broken
        );
        for i in 0..sealed.len() {
            let mut altered = sealed.clone().into_bytes();
            altered[i] = if altered[i] == b'A' { b'B' } else { b'A' };
            let altered = String::from_utf8(altered).unwrap();
            let opened = ring.open(Purpose::SubscriberSecret, "sub_1", &altered);
            assert!(opened.is_err(), "altered at {i}: {opened:?}");
        }
        for text in ["", "v1", "v1..", "v2.a.b", "v1.a.b.c"] {
            assert!(
                ring.open(Purpose::SubscriberSecret, "sub_1", text).is_err(),
                "{text}"
            );
        }
    }

    #[test]
    fn short_or_garbled_signing_keys_are_refused_and_none_is_shown() {
        for text in ["", "c2hvcnQ=", "not base64!"] {
            assert_eq!(Keyring::parse(text, None).unwrap_err(), KeyError, "{text}");
        }
        let shown = format!("{:?}", ring(1, Some(2)));
        assert!(
            !shown.contains(&key(1)) && !shown.contains("[1, 1"),
            "{shown}"
        );
    }
}
