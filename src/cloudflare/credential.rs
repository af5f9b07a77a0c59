//! Which of Cloudflare's tokens a Worker's calls are made with. Each has a call budget of its own: Cloudflare counts by token.

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest as _, Sha256};

use super::budget::{Budget, Correction};
use crate::pipeline::config::{Config, Secret};
use crate::release::WorkerRef;
use crate::sorted::SortedMap;
use crate::webhook::{Keyring, NONCE_BYTES, Purpose, SealError};

/// The name of the installation's own token, in budgets and for people.
pub const INSTALLATION: &str = "CLOUDFLARE_API_TOKEN";
/// What the token of a connected Worker is called.
const OF_ONE_WORKER: &str = "the Worker's own token";
/// Bytes of a digest: enough to tell tokens apart.
const ID_BYTES: usize = 12;

/// A token of Cloudflare's with its call budget.
#[derive(Clone)]
pub struct Credential(Rc<Inner>);

struct Inner {
    id: String,
    token: Secret,
    budget: Budget,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Credential").field(&self.0.id).finish()
    }
}

impl Credential {
    fn new(id: String, token: Secret, limit: u32) -> Self {
        Self(Rc::new(Inner {
            id,
            token,
            budget: Budget::new(limit),
        }))
    }

    /// What names it in budgets: a digest, for the token itself is a secret. Workers with the same token share a budget.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.0.id
    }

    /// Whether it is the installation's own.
    #[must_use]
    pub fn is_installations(&self) -> bool {
        self.0.id == INSTALLATION
    }

    /// What people know it as.
    #[must_use]
    pub fn label(&self) -> &'static str {
        if self.is_installations() {
            INSTALLATION
        } else {
            OF_ONE_WORKER
        }
    }

    pub(super) fn token(&self) -> &Secret {
        &self.0.token
    }

    /// Its call budget as this invocation knows it.
    pub(crate) fn budget(&self) -> &Budget {
        &self.0.budget
    }
}

/// An account, as somebody who has this token sees it.
#[derive(Clone, Debug)]
pub struct Account {
    /// Its id.
    pub id: String,
    /// The token.
    pub credential: Credential,
}

/// A seal that was made with the signing key before this one, and its successor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resealed {
    /// The Worker whose token it is.
    pub worker: WorkerRef,
    /// As it is stored.
    pub old: String,
    /// As it is to be stored.
    pub new: String,
}

/// The credentials that an invocation uses.
#[derive(Debug)]
pub(super) struct Credentials<'a> {
    keys: &'a Keyring,
    limit: u32,
    installation: Credential,
    /// Tokens of single Workers, by id.
    own: RefCell<SortedMap<String, Credential>>,
    /// What each Worker that was met uses, or why its token can't be read.
    of: RefCell<SortedMap<WorkerRef, Result<Credential, SealError>>>,
    resealed: RefCell<Vec<Resealed>>,
}

/// What a Worker's token is sealed for.
fn owner(worker: &WorkerRef) -> String {
    format!("{}/{}", worker.account_id, worker.script_name)
}

/// Seals a Worker's token for its row. `nonce` must be fresh and random.
///
/// # Errors
/// [`SealError::Broken`] for a text that is far too long.
pub fn seal_token(
    keys: &Keyring,
    worker: &WorkerRef,
    token: &Secret,
    nonce: [u8; NONCE_BYTES],
) -> Result<String, SealError> {
    keys.seal(Purpose::WorkerToken, &owner(worker), token.expose(), nonce)
}

impl<'a> Credentials<'a> {
    pub(super) fn new(config: &'a Config) -> Self {
        let limit = config.cloudflare_calls_per_5min;
        let token = config.cloudflare_api_token.clone();
        Self {
            keys: &config.keys,
            limit,
            installation: Credential::new(INSTALLATION.to_owned(), token, limit),
            own: RefCell::default(),
            of: RefCell::default(),
            resealed: RefCell::default(),
        }
    }

    pub(super) fn installation(&self) -> &Credential {
        &self.installation
    }

    /// What a Worker uses, if that is known here.
    pub(super) fn known(&self, worker: &WorkerRef) -> Option<Result<Credential, SealError>> {
        self.of.borrow().get(worker).cloned()
    }

    /// A Worker uses this token, or the installation's.
    pub(super) fn assign(&self, worker: &WorkerRef, token: Option<Secret>) {
        let credential = token.map_or_else(|| self.installation.clone(), |it| self.by(it));
        self.of.borrow_mut().insert(worker.clone(), Ok(credential));
    }

    /// Learns what is stored of a Worker: its sealed token, if it has one. One that was sealed with the previous signing key
    /// is sealed anew, for that key will go. `nonce` makes fresh random bytes.
    pub(super) fn learn(
        &self,
        worker: &WorkerRef,
        sealed: Option<&str>,
        nonce: impl FnOnce() -> [u8; NONCE_BYTES],
    ) {
        let Some(sealed) = sealed else {
            return self.assign(worker, None);
        };
        let opened = self.keys.open(Purpose::WorkerToken, &owner(worker), sealed);
        let token = match opened {
            Ok(text) => Secret::new(text),
            Err(error) => {
                self.of.borrow_mut().insert(worker.clone(), Err(error));
                return;
            }
        };
        let key_id = sealed.split('.').nth(1);
        if key_id != Some(self.keys.key_id())
            && let Ok(new) = seal_token(self.keys, worker, &token, nonce())
        {
            self.resealed.borrow_mut().push(Resealed {
                worker: worker.clone(),
                old: sealed.to_owned(),
                new,
            });
        }
        self.assign(worker, Some(token));
    }

    fn by(&self, token: Secret) -> Credential {
        if token == *self.installation.token() {
            return self.installation.clone();
        }
        let digest = Sha256::digest(token.expose().as_bytes());
        let id = format!("token_{}", URL_SAFE_NO_PAD.encode(&digest[..ID_BYTES]));
        let mut own = self.own.borrow_mut();
        let new = || Credential::new(id.clone(), token, self.limit);
        own.or_insert_with(id.clone(), new).clone()
    }

    /// What is to be stored of seals; whoever takes it has to store it, or the next one who opens them will.
    pub(super) fn take_resealed(&self) -> Vec<Resealed> {
        self.resealed.take()
    }

    /// What was spent and the database has yet to be told, by credential.
    pub(super) fn take_corrections(&self) -> Vec<(Credential, Correction)> {
        let own = self.own.borrow();
        let all = std::iter::once(&self.installation).chain(own.values());
        all.filter_map(|credential| {
            credential.budget().drop_acts();
            let correction = credential.budget().take_correction()?;
            Some((credential.clone(), correction))
        })
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn config(key: u8, previous: Option<u8>) -> Config {
        Config::from_vars(|name| match name {
            "CLOUDFLARE_API_TOKEN" => Some("the installation's".to_owned()),
            "HMD_API_TOKEN" => Some("t".repeat(32)),
            "HMD_SIGNING_KEY" => Some(STANDARD.encode([key; 32])),
            "HMD_SIGNING_KEY_PREVIOUS" => previous.map(|key| STANDARD.encode([key; 32])),
            _ => None,
        })
        .unwrap()
    }

    fn worker(script: &str) -> WorkerRef {
        WorkerRef {
            account_id: "0".repeat(32),
            script_name: script.to_owned(),
        }
    }

    fn sealed(config: &Config, script: &str, token: &str) -> String {
        let token = Secret::new(token.to_owned());
        seal_token(&config.keys, &worker(script), &token, [5; 12]).unwrap()
    }

    #[test]
    fn workers_with_the_same_token_share_a_budget_and_no_name_gives_it_away() {
        let config = config(1, None);
        let credentials = Credentials::new(&config);
        let of = |script: &str, token: Option<&str>| {
            let sealed = token.map(|token| sealed(&config, script, token));
            credentials.learn(&worker(script), sealed.as_deref(), || [6; 12]);
            credentials.known(&worker(script)).unwrap().unwrap()
        };
        let (a, b, c) = (of("a", Some("x")), of("b", Some("x")), of("c", Some("y")));
        assert!(Rc::ptr_eq(&a.0, &b.0) && a.id() != c.id());
        assert!(of("d", None).is_installations());
        assert!(of("e", Some("the installation's")).is_installations());
        assert!(!format!("{c:?}").contains("\"y\""), "{c:?}");
        assert!(credentials.take_resealed().is_empty());
        assert!(credentials.known(&worker("f")).is_none());
    }

    #[test]
    fn a_seal_of_the_previous_key_is_made_anew_and_one_of_an_unknown_key_is_an_error() {
        let old = config(1, None);
        let stored = sealed(&old, "a", "x");
        let both = config(2, Some(1));
        let credentials = Credentials::new(&both);
        credentials.learn(&worker("a"), Some(&stored), || [6; 12]);
        let resealed = credentials.take_resealed();
        assert_eq!((resealed.len(), &resealed[0].old), (1, &stored));
        let new = config(2, None);
        let credentials = Credentials::new(&new);
        credentials.learn(&worker("a"), Some(&resealed[0].new), || [7; 12]);
        let known = credentials.known(&worker("a")).unwrap().unwrap();
        assert_eq!(known.token().expose(), "x");
        credentials.learn(&worker("a"), Some(&stored), || [8; 12]);
        let error = credentials.known(&worker("a")).unwrap().unwrap_err();
        assert_eq!(error, SealError::UnknownKey);
        // A seal opens only where it belongs.
        credentials.learn(&worker("b"), Some(&resealed[0].new), || [9; 12]);
        let error = credentials.known(&worker("b")).unwrap().unwrap_err();
        assert_eq!(error, SealError::Broken);
    }
}
