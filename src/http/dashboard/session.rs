//! Who is signed in: a signed, expiring cookie; and what a form carries, so that only a page of this dashboard can have
//! made it. Nothing is stored: whoever changes `HMD_API_TOKEN` or the signing key signs everybody out.

use ::http::{HeaderMap, header};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::access::Person;
use crate::json;
use crate::pipeline::config::Config;
use crate::time::UnixMs;
use crate::webhook::{Keyring, Purpose};

/// How long somebody stays signed in.
const SESSION_MS: i64 = 12 * 3_600_000;
/// How long a browser keeps the cookie that ties sign-in pages to it: all of its tabs share one.
const GUEST_MS: i64 = 12 * 3_600_000;
/// How long a one-time link works.
const LINK_MS: i64 = 15 * 60_000;
/// Longest cookie or token that is looked at.
const MAX_BYTES: usize = 512;
/// Over HTTPS the browser itself holds the cookie to this host, path and scheme.
const SECURE_COOKIE: &str = "__Host-hmd";
const COOKIE: &str = "hmd";
/// The sign-in form's cookie has a name of its own: a browser that comes from another site shows no strict cookie, so a guest's would
/// take the place of a session that is still good.
const SECURE_GUEST: &str = "__Host-hmd-guest";
const GUEST: &str = "hmd-guest";

/// What a session cookie says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Until when it is valid.
    #[serde(rename = "x")]
    pub expires_at: UnixMs,
    /// Fresh and random, so that no two sessions have the same form tokens.
    #[serde(rename = "n")]
    nonce: String,
    /// Which `HMD_API_TOKEN` was shown; `None`: nobody is signed in yet, and the cookie only holds the sign-in form.
    #[serde(rename = "t")]
    token: Option<String>,
    /// Whom Cloudflare Access named, as a digest: the cookie is worth something only beside an assertion that names them again.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    person: Option<String>,
}

/// How somebody who is signed in has shown it.
#[derive(Clone, Copy, Debug)]
pub(super) enum Shown<'a> {
    /// Not at all: the cookie only holds the sign-in form.
    Nothing,
    /// The API token, or a one-time link.
    Token,
    /// An assertion of Cloudflare Access.
    Person(&'a Person),
}

/// What a one-time link says.
#[derive(Serialize, Deserialize)]
pub(super) struct SignInLink {
    /// Until when it is valid.
    #[serde(rename = "x")]
    pub expires_at: UnixMs,
    /// What tells two links apart.
    #[serde(rename = "n")]
    pub nonce: String,
}

/// Claims, the key's id and the signature, as one text.
fn sign(keys: &Keyring, purpose: Purpose, claims: &impl Serialize) -> String {
    let payload = URL_SAFE_NO_PAD.encode(crate::json::text(claims));
    let signed = format!("{payload}.{}", keys.key_id());
    let mac = keys.mac(purpose, signed.as_bytes());
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac))
}

fn verify<T: DeserializeOwned>(keys: &Keyring, purpose: Purpose, text: &str) -> Option<T> {
    if text.len() > MAX_BYTES {
        return None;
    }
    let (signed, mac) = text.rsplit_once('.')?;
    let (payload, key_id) = signed.split_once('.')?;
    let mac = URL_SAFE_NO_PAD.decode(mac).ok()?;
    if !keys.verifies(purpose, key_id, signed.as_bytes(), &mac) {
        return None;
    }
    let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
    json::read(&json::parse_bytes(&payload).ok()?).ok()
}

/// Names the API token without giving it away.
fn token_tag(config: &Config) -> String {
    let named = format!("api-token\n{}", config.hmd_api_token.expose());
    let mac = config.keys.mac(Purpose::Session, named.as_bytes());
    URL_SAFE_NO_PAD.encode(&mac[..12])
}

/// Names a person without keeping their address in a cookie.
fn person_tag(config: &Config, person: &Person) -> String {
    let named = format!("person\n{}", person.name);
    let mac = config.keys.mac(Purpose::Session, named.as_bytes());
    URL_SAFE_NO_PAD.encode(&mac[..12])
}

/// A browser that was given a cookie here.
#[derive(Clone, Debug)]
pub(super) struct Visitor {
    /// The cookie's text: what form tokens are bound to.
    cookie: String,
    /// Nobody has signed in by it: it only holds the sign-in form.
    is_guest: bool,
}

impl Visitor {
    /// A new cookie. `nonce` must be fresh and random.
    pub fn new(config: &Config, now: UnixMs, nonce: [u8; 32], shown: Shown<'_>) -> Self {
        let is_guest = matches!(shown, Shown::Nothing);
        let session = Session {
            expires_at: now + if is_guest { GUEST_MS } else { SESSION_MS },
            nonce: URL_SAFE_NO_PAD.encode(&nonce[..16]),
            token: matches!(shown, Shown::Token).then(|| token_tag(config)),
            person: match shown {
                Shown::Person(person) => Some(person_tag(config, person)),
                Shown::Nothing | Shown::Token => None,
            },
        };
        let cookie = sign(&config.keys, Purpose::Session, &session);
        Self { cookie, is_guest }
    }

    /// Whoever sends these headers, if they are signed in. Where Cloudflare Access names somebody, only a cookie that was made for
    /// them counts; and such a cookie is none without Access.
    pub fn of(
        headers: &HeaderMap,
        config: &Config,
        now: UnixMs,
        (secure, person): (bool, Option<&Person>),
    ) -> Option<Self> {
        let person = person.map(|person| person_tag(config, person));
        let fits = |session: &Session| {
            let tag = session.token.as_deref();
            session.person == person
                && tag.is_none_or(|tag| tag == token_tag(config))
                && (tag.is_some() || person.is_some())
        };
        Self::found(headers, config, now, (cookie_name(false, secure), &fits))
    }

    /// The browser that a sign-in page was given to, if it still has the cookie of that.
    pub fn guest(headers: &HeaderMap, config: &Config, now: UnixMs, secure: bool) -> Option<Self> {
        let fits = |session: &Session| session.token.is_none() && session.person.is_none();
        Self::found(headers, config, now, (cookie_name(true, secure), &fits))
    }

    fn found(
        headers: &HeaderMap,
        config: &Config,
        now: UnixMs,
        (wanted, fits): (&str, &dyn Fn(&Session) -> bool),
    ) -> Option<Self> {
        let cookies = headers.get_all(header::COOKIE);
        let texts = cookies.iter().filter_map(|value| value.to_str().ok());
        texts
            .flat_map(|text| text.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .filter(|(name, _)| *name == wanted)
            .find_map(|(_, cookie)| {
                let session: Session = verify(&config.keys, Purpose::Session, cookie)?;
                (fits(&session) && now < session.expires_at).then(|| Self {
                    cookie: cookie.to_owned(),
                    is_guest: session.token.is_none() && session.person.is_none(),
                })
            })
    }

    /// The header that gives the browser its cookie.
    pub fn set_cookie(&self, secure: bool) -> String {
        let ms = if self.is_guest { GUEST_MS } else { SESSION_MS };
        set_cookie((self.is_guest, secure), &self.cookie, ms / 1_000)
    }

    /// What the forms of this browser carry.
    pub fn form_token(&self, keys: &Keyring) -> String {
        let mac = keys.mac(Purpose::Form, self.cookie.as_bytes());
        format!("{}.{}", keys.key_id(), URL_SAFE_NO_PAD.encode(mac))
    }

    /// Whether a form came from a page that this browser was given.
    pub fn owns_form(&self, keys: &Keyring, token: &str) -> bool {
        let Some((key_id, mac)) = token.split_once('.') else {
            return false;
        };
        let mac = URL_SAFE_NO_PAD.decode(mac).unwrap_or_default();
        keys.verifies(Purpose::Form, key_id, self.cookie.as_bytes(), &mac)
    }
}

fn cookie_name(is_guest: bool, secure: bool) -> &'static str {
    match (is_guest, secure) {
        (false, true) => SECURE_COOKIE,
        (false, false) => COOKIE,
        (true, true) => SECURE_GUEST,
        (true, false) => GUEST,
    }
}

fn set_cookie((is_guest, secure): (bool, bool), value: &str, max_age_s: i64) -> String {
    let name = cookie_name(is_guest, secure);
    let flag = if secure { "; Secure" } else { "" };
    format!("{name}={value}; Path=/; Max-Age={max_age_s}; HttpOnly; SameSite=Strict{flag}")
}

/// The header that takes the cookie away.
pub(super) fn clear_cookie(secure: bool) -> String {
    set_cookie((false, secure), "", 0)
}

/// The path of a link that signs in to the dashboard once, within a quarter of an hour. `nonce` must be fresh and random.
#[must_use]
pub fn sign_in_path(keys: &Keyring, now: UnixMs, nonce: [u8; 32]) -> String {
    let link = SignInLink {
        expires_at: now + LINK_MS,
        nonce: URL_SAFE_NO_PAD.encode(&nonce[..16]),
    };
    format!("/sign-in/{}", sign(keys, Purpose::SignIn, &link))
}

/// What a link says, if it is one of this installation's and still valid.
pub(super) fn read_link(keys: &Keyring, token: &str, now: UnixMs) -> Option<SignInLink> {
    let link: SignInLink = verify(keys, Purpose::SignIn, token)?;
    (now < link.expires_at).then_some(link)
}

/// Names a browser's address, for counting its tries, without keeping the address. An IPv6 network counts as one.
pub(super) fn client_tag(headers: &HeaderMap, keys: &Keyring) -> String {
    let address = headers.get(&crate::http::headers::CLIENT_ADDRESS);
    let address = address.and_then(|value| value.to_str().ok()).unwrap_or("");
    let network = match address.parse() {
        Ok(std::net::IpAddr::V6(address)) => format!("{:x?}", &address.segments()[..4]),
        _ => address.to_owned(),
    };
    let mac = keys.mac(Purpose::SignIn, format!("client\n{network}").as_bytes());
    URL_SAFE_NO_PAD.encode(&mac[..12])
}
