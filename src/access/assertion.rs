//! What `Cf-Access-Jwt-Assertion` holds: a JSON Web Token.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use thiserror::Error;

use super::Team;
use crate::time::UnixMs;

/// Longest assertion that is looked at.
const MAX_BYTES: usize = 16 * 1024;
/// Longest name of a person; an e-mail address has at most 254 characters.
const MAX_NAME: usize = 254;
/// Access's clock may be ahead of this one by so much.
const LEEWAY_S: i64 = 60;

/// Who has signed in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Person {
    /// Their e-mail address; of a service token, its client id.
    pub name: String,
}

/// Why an assertion is not believed.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Rejection {
    /// It is no JWT.
    #[error("it is not a JSON Web Token")]
    Garbled,
    /// It is signed in another way, or not at all.
    #[error("it is signed with {0:?}, and only RS256 is taken")]
    Algorithm(String),
    /// Its header asks for what HMD does not know.
    #[error("it has extensions that are not known here")]
    Extension,
    /// Another team's, or somebody else's.
    #[error("it was issued by somebody else than ACCESS_TEAM_DOMAIN")]
    Issuer,
    /// It is for another application.
    #[error("it is for another application than that of ACCESS_AUD")]
    Audience,
    /// Its time is over.
    #[error("it has expired")]
    Expired,
    /// Its time has not come.
    #[error("it is not valid yet")]
    NotYet,
    /// It names nobody.
    #[error("it names neither a person nor a service token")]
    Nobody,
    /// The team has no such key.
    #[error("it is signed with a key that the team does not have")]
    UnknownKey,
    /// It was not signed with the key that it names, or was altered.
    #[error("its signature is wrong")]
    Signature,
}

/// An assertion whose claims hold, if its signature does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assertion {
    /// The id of the key that must have signed it.
    pub key_id: String,
    /// The bytes that were signed.
    pub signed: Vec<u8>,
    /// Their signature.
    pub signature: Vec<u8>,
    /// Who it is about: nobody, until the signature was checked.
    person: Person,
}

fn part(text: &str) -> Result<Value, Rejection> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| Rejection::Garbled)?;
    let value = crate::json::parse_bytes(&bytes).map_err(|_| Rejection::Garbled)?;
    value.is_object().then_some(value).ok_or(Rejection::Garbled)
}

/// Seconds since the Unix epoch.
fn seconds(value: &Value) -> Option<i64> {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "it saturates, and no time is that far"
    )]
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

impl Assertion {
    /// Reads an assertion and checks all but its signature.
    ///
    /// # Errors
    /// [`Rejection`]
    pub fn read(text: &str, team: &Team, now: UnixMs) -> Result<Self, Rejection> {
        let parts: Vec<&str> = text.split('.').collect();
        let [header, payload, signature] = parts[..] else {
            return Err(Rejection::Garbled);
        };
        if text.len() > MAX_BYTES {
            return Err(Rejection::Garbled);
        }
        let (signed, head) = (format!("{header}.{payload}"), part(header)?);
        // Before anything else, and by name: whoever lets the token choose is told `none`.
        if head["alg"] != "RS256" {
            let algorithm = head["alg"].as_str().unwrap_or_default();
            return Err(Rejection::Algorithm(algorithm.chars().take(16).collect()));
        }
        if !head["crit"].is_null() {
            return Err(Rejection::Extension);
        }
        let key_id = head["kid"].as_str().ok_or(Rejection::UnknownKey)?;
        let person = claimed(&part(payload)?, team, now)?;
        let signature = URL_SAFE_NO_PAD
            .decode(signature)
            .map_err(|_| Rejection::Garbled)?;
        Ok(Self {
            key_id: key_id.to_owned(),
            signed: signed.into_bytes(),
            signature,
            person,
        })
    }

    /// Who it is about, now that its signature was checked.
    ///
    /// # Errors
    /// [`Rejection::Signature`]
    pub fn person(self, verified: bool) -> Result<Person, Rejection> {
        verified.then_some(self.person).ok_or(Rejection::Signature)
    }
}

/// Who the claims are about, if they are for this application and moment.
fn claimed(claims: &Value, team: &Team, now: UnixMs) -> Result<Person, Rejection> {
    if claims["iss"] != *team.issuer {
        return Err(Rejection::Issuer);
    }
    let is_ours = |audience: &Value| *audience == *team.audience;
    let for_us = match &claims["aud"] {
        Value::Array(audiences) => audiences.iter().any(is_ours),
        audience => is_ours(audience),
    };
    if !for_us {
        return Err(Rejection::Audience);
    }
    let now_s = now.div_euclid(1_000);
    if seconds(&claims["exp"]).is_none_or(|at| at <= now_s) {
        return Err(Rejection::Expired);
    }
    for name in ["nbf", "iat"] {
        let wrong = |value: &Value| seconds(value).is_none_or(|at| at > now_s + LEEWAY_S);
        if !claims[name].is_null() && wrong(&claims[name]) {
            return Err(Rejection::NotYet);
        }
    }
    let named = ["email", "common_name"]
        .into_iter()
        .filter_map(|name| claims[name].as_str())
        .map(str::trim)
        .find(|name| !name.is_empty());
    let fits = |name: &&str| name.len() <= MAX_NAME && !name.chars().any(char::is_control);
    let name = named.filter(fits).ok_or(Rejection::Nobody)?;
    Ok(Person {
        name: name.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const NOW: UnixMs = 1_790_847_000_000;

    fn team() -> Team {
        let aud = "32eafc7626e737969ad374e3b123abc0";
        Team::read(Some("team.cloudflareaccess.com"), Some(aud), None)
            .unwrap()
            .unwrap()
    }

    fn claims() -> Value {
        json!({"aud": [team().audience], "email": "dev@example.com", "exp": NOW / 1_000 + 3_600, "iat": NOW / 1_000,
            "nbf": NOW / 1_000, "iss": team().issuer, "type": "app", "sub": "7335d417"})
    }

    fn token(header: &Value, claims: &Value) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        format!("{}.{}.AAAA", part(header), part(claims))
    }

    fn read(change: impl Fn(&mut Value, &mut Value)) -> Result<Person, Rejection> {
        let (mut header, mut claims) = (json!({"alg": "RS256", "kid": "a"}), claims());
        change(&mut header, &mut claims);
        let assertion = Assertion::read(&token(&header, &claims), &team(), NOW)?;
        assert_eq!(assertion.key_id, "a");
        assert_eq!(assertion.signature, [0, 0, 0]);
        assertion.person(true)
    }

    #[test]
    fn claims_must_be_for_this_application_and_moment() {
        assert_eq!(read(|_, _| ()).unwrap().name, "dev@example.com");
        let one = read(|_, claims| claims["aud"] = json!(team().audience));
        assert!(one.is_ok());
        let now = NOW / 1_000;
        for (name, value, rejection) in [
            (
                "iss",
                json!("https://other.cloudflareaccess.com"),
                Rejection::Issuer,
            ),
            ("iss", json!(null), Rejection::Issuer),
            ("aud", json!(["another"]), Rejection::Audience),
            ("aud", json!(null), Rejection::Audience),
            ("exp", json!(now), Rejection::Expired),
            ("exp", json!(null), Rejection::Expired),
            ("exp", json!("4000000000"), Rejection::Expired),
            ("nbf", json!(now + LEEWAY_S + 1), Rejection::NotYet),
            ("nbf", json!("soon"), Rejection::NotYet),
            ("iat", json!(now + LEEWAY_S + 1), Rejection::NotYet),
            ("email", json!(""), Rejection::Nobody),
            ("email", json!("a\nb@example.com"), Rejection::Nobody),
            ("email", json!("a".repeat(255)), Rejection::Nobody),
        ] {
            let read = read(|_, claims| claims[name] = value.clone());
            assert_eq!(read, Err(rejection), "{name} {value}");
        }
        let slightly_ahead = read(|_, claims| claims["nbf"] = json!(now + LEEWAY_S));
        assert!(slightly_ahead.is_ok());
    }

    #[test]
    fn a_service_token_is_named_by_its_client_id() {
        let person = read(|_, claims| {
            claims["email"] = json!(null);
            claims["common_name"] = json!("e367826f.access");
        });
        assert_eq!(person.unwrap().name, "e367826f.access");
    }

    #[test]
    fn only_one_algorithm_is_taken_and_nobody_without_a_signature() {
        for alg in [
            json!("none"),
            json!("HS256"),
            json!("RS384"),
            json!("rs256"),
            json!(null),
        ] {
            let read = read(|header, _| header["alg"] = alg.clone());
            assert!(matches!(read, Err(Rejection::Algorithm(_))), "{alg}");
        }
        assert_eq!(
            read(|header, _| header["crit"] = json!(["b64"])),
            Err(Rejection::Extension)
        );
        assert_eq!(
            read(|header, _| header["kid"] = json!(null)),
            Err(Rejection::UnknownKey)
        );
        let good = token(&json!({"alg": "RS256", "kid": "a"}), &claims());
        let read = Assertion::read(&good, &team(), NOW).unwrap();
        assert_eq!(read.person(false), Err(Rejection::Signature));
    }

    #[test]
    fn garbage_is_no_assertion() {
        let good = token(&json!({"alg": "RS256", "kid": "a"}), &claims());
        let (head, rest) = good.split_once('.').unwrap();
        for text in [
            String::new(),
            "a.b.c".to_owned(),
            "..".to_owned(),
            format!("{good}.x"),
            format!("{head}.{head}"),
            format!("W10.{rest}"),
            format!("{head}=.{rest}"),
            format!("{good}{}", "A".repeat(MAX_BYTES)),
            good.replace("AAAA", "****"),
        ] {
            assert!(Assertion::read(&text, &team(), NOW).is_err(), "{text}");
        }
    }
}
