//! What an installation is configured with: `wrangler.toml` variables and secrets.

use std::fmt;

use crate::access::Team;
use crate::release::Moment;
use crate::time::{Span, UnixMs};
use crate::webhook::{KeyError, Keyring};

/// A text that must never be shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// A text that must never be shown.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself, for whoever has to send or compare it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The configuration, checked.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base of Cloudflare's API, without a slash at its end.
    pub cloudflare_api_base_url: String,
    /// How long after a window's end its telemetry is complete.
    pub telemetry_lag_ms: i64,
    /// How long after a split the edge follows it everywhere.
    pub propagation_delay_ms: i64,
    /// Shortest check interval that a plan may ask for.
    pub min_check_interval_ms: i64,
    /// Calls to Cloudflare's API that its token may make in 5 minutes.
    pub cloudflare_calls_per_5min: u32,
    /// Token for Cloudflare's API.
    pub cloudflare_api_token: Secret,
    /// Token that callers of HMD's API show.
    pub hmd_api_token: Secret,
    /// What signs and seals, from `HMD_SIGNING_KEY` and `HMD_SIGNING_KEY_PREVIOUS`.
    pub keys: Keyring,
    /// Where people reach this installation, without a slash at the end; `None`: unknown, so no links are made.
    pub public_url: Option<String>,
    /// The Cloudflare Access application that people sign in by; `None`: only by the API token.
    pub access: Option<Team>,
    /// Webhooks may go to this very machine over plain HTTP: for trying things out only.
    pub webhooks_to_loopback: bool,
}

impl Config {
    /// Reads the configuration through `var`, which answers the variable or secret of a name.
    ///
    /// # Errors
    /// A sentence for each variable or secret that is missing or wrong, with what to do; never a secret's value.
    pub fn from_vars(var: impl Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let mut errors = Vec::new();
        let mut span = |name: &str, default: &str| {
            let text = var(name).filter(|text| !text.is_empty());
            match Span::parse(text.as_deref().unwrap_or(default)) {
                Ok(span) => span.ms(),
                Err(error) => {
                    errors.push(format!("{name}: {error}"));
                    0
                }
            }
        };
        let telemetry_lag_ms = span("TELEMETRY_LAG", "120s");
        let propagation_delay_ms = span("PROPAGATION_DELAY", "30s");
        let min_check_interval_ms = span("MIN_CHECK_INTERVAL", "10s").max(1_000);
        let mut secret = |name: &str, fits: &dyn Fn(&str) -> bool, wanted: &str| {
            let text = var(name).unwrap_or_default();
            if !fits(&text) {
                let is = if text.is_empty() {
                    "is missing"
                } else {
                    "is not usable"
                };
                errors.push(format!(
                    "secret {name} {is}: it must be {wanted}; set it with `wrangler secret put {name}`"
                ));
            }
            Secret(text)
        };
        let cloudflare_api_token = secret(
            "CLOUDFLARE_API_TOKEN",
            &|text| !text.is_empty(),
            "a Cloudflare API token with Workers Scripts Write and Workers Observability Write",
        );
        let hmd_api_token = secret(
            "HMD_API_TOKEN",
            &|text| text.len() >= 32,
            "32 characters or more",
        );
        let is_key = |text: &str| Keyring::parse(text, None).is_ok();
        let wanted = "the base64 of 32 bytes or more";
        let key = secret("HMD_SIGNING_KEY", &is_key, wanted);
        let is_none_or_key = |text: &str| text.is_empty() || is_key(text);
        let previous = secret("HMD_SIGNING_KEY_PREVIOUS", &is_none_or_key, wanted);
        let base = var("CLOUDFLARE_API_BASE_URL")
            .filter(|text| !text.is_empty())
            .unwrap_or_else(|| "https://api.cloudflare.com/client/v4".to_owned());
        if !base.starts_with("https://") && !base.starts_with("http://") {
            errors.push(
                "CLOUDFLARE_API_BASE_URL must begin with https:// (or http:// for a simulator)"
                    .to_owned(),
            );
        }
        let public_url = var("PUBLIC_URL")
            .map(|url| url.trim().trim_end_matches('/').to_owned())
            .filter(|url| !url.is_empty());
        let is_url = |url: &String| url.starts_with("https://") || url.starts_with("http://");
        if !public_url.as_ref().is_none_or(is_url) {
            errors.push("PUBLIC_URL must begin with https://".to_owned());
        }
        let webhooks_to_loopback = match var("WEBHOOKS_TO_LOOPBACK").as_deref() {
            Some("true") => true,
            None | Some("" | "false") => false,
            Some(_) => {
                errors.push("WEBHOOKS_TO_LOOPBACK must be true or false".to_owned());
                false
            }
        };
        let access = team(&var, &mut errors);
        let calls = var("CLOUDFLARE_CALLS_PER_5MIN").filter(|text| !text.is_empty());
        let cloudflare_calls_per_5min = match calls.as_deref().unwrap_or("1200").parse() {
            Ok(calls) if calls > 0 => calls,
            _ => {
                errors.push(
                    "CLOUDFLARE_CALLS_PER_5MIN must be a whole number above 0; Cloudflare allows 1200"
                        .to_owned(),
                );
                0
            }
        };
        if !errors.is_empty() {
            return Err(errors);
        }
        let previous = Some(previous.expose()).filter(|text| !text.is_empty());
        let keys = Keyring::parse(key.expose(), previous)
            .map_err(|error: KeyError| vec![format!("HMD_SIGNING_KEY: {error}")])?;
        Ok(Self {
            cloudflare_api_base_url: base.trim_end_matches('/').to_owned(),
            telemetry_lag_ms,
            propagation_delay_ms,
            min_check_interval_ms,
            cloudflare_calls_per_5min,
            cloudflare_api_token,
            hmd_api_token,
            keys,
            public_url,
            access,
            webhooks_to_loopback,
        })
    }

    /// The moment of a decision taken now.
    #[must_use]
    pub fn moment(&self, now: UnixMs) -> Moment {
        Moment {
            now,
            telemetry_lag_ms: self.telemetry_lag_ms,
            propagation_delay_ms: self.propagation_delay_ms,
        }
    }
}

fn team(var: impl Fn(&str) -> Option<String>, errors: &mut Vec<String>) -> Option<Team> {
    let [domain, audience, certs_url] =
        ["ACCESS_TEAM_DOMAIN", "ACCESS_AUD", "ACCESS_CERTS_URL"].map(var);
    let team = Team::read(domain.as_deref(), audience.as_deref(), certs_url.as_deref());
    team.unwrap_or_else(|wrong| {
        errors.extend(wrong);
        None
    })
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    fn config(change: (&str, Option<&str>)) -> Result<Config, Vec<String>> {
        Config::from_vars(|name| {
            if name == change.0 {
                return change.1.map(str::to_owned);
            }
            match name {
                "CLOUDFLARE_API_TOKEN" => Some("cf".to_owned()),
                "HMD_API_TOKEN" => Some("t".repeat(32)),
                "HMD_SIGNING_KEY" => Some(STANDARD.encode([7; 32])),
                _ => None,
            }
        })
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let config = config(("", None)).unwrap();
        assert_eq!(
            config.cloudflare_api_base_url,
            "https://api.cloudflare.com/client/v4"
        );
        assert_eq!(
            (
                config.telemetry_lag_ms,
                config.propagation_delay_ms,
                config.min_check_interval_ms
            ),
            (120_000, 30_000, 10_000)
        );
    }

    #[test]
    fn a_missing_or_short_secret_is_refused_by_name_and_never_shown() {
        for (name, value) in [
            ("CLOUDFLARE_API_TOKEN", None),
            ("HMD_API_TOKEN", Some("short-secret")),
            ("HMD_SIGNING_KEY", Some("bm90IGxvbmcgZW5vdWdo")),
            ("HMD_SIGNING_KEY_PREVIOUS", Some("bm90IGxvbmcgZW5vdWdo")),
            ("PUBLIC_URL", Some("hmd.example.com")),
            ("WEBHOOKS_TO_LOOPBACK", Some("yes")),
            ("TELEMETRY_LAG", Some("soon")),
            ("ACCESS_TEAM_DOMAIN", Some("team.cloudflareaccess.com")),
            ("ACCESS_AUD", Some("32eafc7626e737969ad374e3b123abc0")),
        ] {
            let errors = config((name, value)).unwrap_err();
            assert_eq!(errors.len(), 1, "{errors:?}");
            assert!(
                errors[0].contains(name) && !errors[0].contains("short-secret"),
                "{errors:?}"
            );
        }
        assert!(!format!("{:?}", config(("", None)).unwrap()).contains("tttt"));
    }
}
