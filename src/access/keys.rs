//! A team's public keys: Access rotates them, so they are read again when one is missing, but not at a stranger's pleasure.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

use crate::time::UnixMs;

/// Keys are read again after this long.
const FRESH_MS: i64 = 3_600_000;
/// While they can't be read again, they are good for this long: Access keeps a replaced key valid for days.
const USABLE_MS: i64 = 24 * 3_600_000;
/// An unknown key does not make HMD read them more often than this.
const AGAIN_MS: i64 = 60_000;
/// After a failed read the next one waits for this long.
const AGAIN_AFTER_FAILURE_MS: i64 = 5_000;
/// Bytes of a modulus: 2,048 to 8,192 bits.
const MODULUS_BYTES: std::ops::RangeInclusive<usize> = 256..=1_024;

/// An RSA public key, in base64url as in a JWK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RsaKey {
    /// Its id.
    pub id: String,
    /// The modulus.
    pub modulus: String,
    /// The exponent.
    pub exponent: String,
}

impl RsaKey {
    /// A key of a JWK Set, if it is one for RS256 signatures.
    fn of(jwk: &Value) -> Option<Self> {
        let text = |name: &str| jwk[name].as_str();
        // A key that says what it is for must say this.
        let says = |name: &str, wanted: &str| jwk[name].is_null() || text(name) == Some(wanted);
        if text("kty") != Some("RSA") || !says("alg", "RS256") || !says("use", "sig") {
            return None;
        }
        let (modulus, exponent) = (text("n")?, text("e")?);
        let bytes = URL_SAFE_NO_PAD.decode(modulus).ok()?;
        URL_SAFE_NO_PAD.decode(exponent).ok()?;
        MODULUS_BYTES.contains(&bytes.len()).then_some(())?;
        Some(Self {
            id: text("kid")?.to_owned(),
            modulus: modulus.to_owned(),
            exponent: exponent.to_owned(),
        })
    }
}

/// What is known of a team's keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownKeys {
    keys: Vec<RsaKey>,
    /// When they were read.
    read_at: UnixMs,
    /// They are not read again before this.
    again_at: UnixMs,
}

/// What to do about a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// This is it.
    Use(RsaKey),
    /// The keys are to be read first.
    Read,
    /// The team has no such key.
    Unknown,
    /// The keys could not be read, and it is too soon to try again.
    Unreadable,
}

impl KnownKeys {
    /// Takes in what the team's address answered.
    ///
    /// # Errors
    /// Why that is no set of keys.
    pub fn read(body: &str, now: UnixMs) -> Result<Self, String> {
        let set = crate::json::parse(body).map_err(|error| format!("it is not JSON: {error}"))?;
        let jwks = set["keys"].as_array().ok_or("it has no list of keys")?;
        let keys: Vec<RsaKey> = jwks.iter().filter_map(RsaKey::of).collect();
        if keys.is_empty() {
            return Err("none of its keys is one for RS256".to_owned());
        }
        Ok(Self {
            keys,
            read_at: now,
            again_at: now + AGAIN_MS,
        })
    }

    /// The same keys after they could not be read again.
    #[must_use]
    pub fn after_failure(self, now: UnixMs) -> Self {
        Self {
            again_at: now + AGAIN_AFTER_FAILURE_MS,
            ..self
        }
    }

    /// What to do about the key of this id.
    #[must_use]
    pub fn step(&self, id: &str, now: UnixMs) -> Step {
        let age_ms = now - self.read_at;
        let key = self.keys.iter().find(|key| key.id == id);
        let key = key.filter(|_| age_ms < USABLE_MS);
        match key {
            Some(key) if age_ms < FRESH_MS || now < self.again_at => Step::Use(key.clone()),
            _ if now >= self.again_at => Step::Read,
            _ if age_ms < USABLE_MS => Step::Unknown,
            _ => Step::Unreadable,
        }
    }

    /// What to do about it right after the keys have been read, or could not be.
    #[must_use]
    pub fn settled(&self, id: &str, now: UnixMs) -> Step {
        match self.step(id, now) {
            Step::Read => Step::Unreadable,
            step => step,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn jwk(id: &str) -> Value {
        json!({"kid": id, "kty": "RSA", "alg": "RS256", "use": "sig", "e": "AQAB", "n": URL_SAFE_NO_PAD.encode([0xc1; 256])})
    }

    fn known(ids: &[&str], now: UnixMs) -> KnownKeys {
        let keys: Vec<Value> = ids.iter().map(|id| jwk(id)).collect();
        KnownKeys::read(&json!({"keys": keys}).to_string(), now).unwrap()
    }

    #[test]
    fn keys_are_kept_for_an_hour_and_an_unknown_one_is_looked_for_once_a_minute() {
        let keys = known(&["a"], 0);
        assert!(matches!(keys.step("a", FRESH_MS - 1), Step::Use(_)));
        assert_eq!(keys.step("a", FRESH_MS), Step::Read);
        assert_eq!(keys.step("b", AGAIN_MS - 1), Step::Unknown);
        assert_eq!(keys.step("b", AGAIN_MS), Step::Read);
        assert_eq!(KnownKeys::default().step("a", 1), Step::Read);
    }

    #[test]
    fn keys_that_cannot_be_read_again_are_good_for_a_day() {
        let keys = known(&["a"], 0).after_failure(FRESH_MS);
        assert!(matches!(keys.settled("a", FRESH_MS), Step::Use(_)));
        assert_eq!(
            keys.step("a", FRESH_MS + AGAIN_AFTER_FAILURE_MS),
            Step::Read
        );
        let keys = keys.after_failure(USABLE_MS);
        assert_eq!(keys.settled("a", USABLE_MS), Step::Unreadable);
        let never = KnownKeys::default().after_failure(USABLE_MS);
        assert_eq!(never.settled("a", USABLE_MS), Step::Unreadable);
    }

    #[test]
    fn only_keys_for_these_signatures_are_taken() {
        let of = |change: &dyn Fn(&mut Value)| {
            let mut jwk = jwk("a");
            change(&mut jwk);
            KnownKeys::read(&json!({"keys": [jwk]}).to_string(), 0)
        };
        assert!(of(&|_| ()).is_ok());
        assert!(of(&|jwk| jwk["alg"] = json!(null)).is_ok());
        for (field, value) in [
            ("kty", json!("oct")),
            ("alg", json!("HS256")),
            ("use", json!("enc")),
            ("n", json!(URL_SAFE_NO_PAD.encode([0xc1; 128]))),
            ("n", json!("not base64!")),
            ("e", json!(null)),
            ("kid", json!(7)),
        ] {
            assert!(of(&|jwk| jwk[field] = value.clone()).is_err(), "{field}");
        }
        for body in ["", "[]", "{}", r#"{"keys": []}"#] {
            assert!(KnownKeys::read(body, 0).is_err(), "{body}");
        }
    }
}
