//! The variables and secrets of a local installation: where each comes from, and how it gets to the Worker.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, Result};
use hmd::webhook::Keyring;
use rand::TryRngCore;

use crate::failure::Failure;

/// Cloudflare's API token; the simulator asks for the same one.
pub const CLOUDFLARE_API_TOKEN: &str = "CLOUDFLARE_API_TOKEN";
/// The bearer token of HMD's own API.
pub const HMD_API_TOKEN: &str = "HMD_API_TOKEN";
/// The secrets that every installation has, and that are made up where they are missing.
const NEEDED_SECRETS: [&str; 3] = [CLOUDFLARE_API_TOKEN, HMD_API_TOKEN, "HMD_SIGNING_KEY"];
/// The secret that exists only while the signing key is rotated.
const PREVIOUS_SIGNING_KEY: &str = "HMD_SIGNING_KEY_PREVIOUS";

/// Local checks come every second, ten times as often as the shortest interval of a deployed HMD: so may the calls.
pub const LOCAL_CALLS_PER_5MIN: &str = "12000";
/// What Cloudflare allows a token.
const CLOUDFLARES_CALLS_PER_5MIN: &str = "1200";

/// The default for an API at this address: only a simulated one may be asked more than the real one.
pub fn calls_per_5min(api: Option<&str>) -> &'static str {
    match api {
        Some(url) if url.contains("cloudflare.com") => CLOUDFLARES_CALLS_PER_5MIN,
        _ => LOCAL_CALLS_PER_5MIN,
    }
}

/// What the Worker's environment will hold.
pub struct Settings {
    /// Public, and shown in logs.
    vars: BTreeMap<&'static str, String>,
    /// Never on a command line and never in a log.
    secrets: BTreeMap<&'static str, String>,
    /// The secrets that were made up for this state directory.
    made_up: Vec<&'static str>,
    /// Those of them that an earlier run made up.
    kept: Vec<&'static str>,
}

impl Settings {
    /// Takes each variable and secret from `source` (the environment) where it has one, else the default of a local
    /// installation. Secrets that are missing come from the state directory, or are made up and kept there.
    pub fn resolve(
        source: impl Fn(&str) -> Option<String>,
        defaults: impl IntoIterator<Item = (&'static str, String)>,
        state_dir: &Path,
    ) -> Result<Self> {
        let given = |name: &str| source(name).filter(|value| !value.is_empty());
        let local = [
            ("MIN_CHECK_INTERVAL", "1s"),
            ("PROPAGATION_DELAY", "0s"),
            ("TELEMETRY_LAG", "1s"),
            ("WEBHOOKS_TO_LOOPBACK", "true"),
        ];
        let mut vars: BTreeMap<_, _> = local.map(|(name, value)| (name, value.to_owned())).into();
        vars.extend(defaults);
        let names = [
            "TELEMETRY_LAG",
            "PROPAGATION_DELAY",
            "MIN_CHECK_INTERVAL",
            "CLOUDFLARE_CALLS_PER_5MIN",
            "PUBLIC_URL",
            "WEBHOOKS_TO_LOOPBACK",
            "ACCESS_TEAM_DOMAIN",
            "ACCESS_AUD",
            "ACCESS_CERTS_URL",
        ];
        vars.extend(
            names
                .into_iter()
                .filter_map(|name| Some((name, given(name)?))),
        );

        let kept_at = state_dir.join("secrets");
        let mut kept = read_env_file(&kept_at)?;
        let (mut secrets, mut made_up) = (BTreeMap::new(), Vec::new());
        let mut from_before = Vec::new();
        for name in NEEDED_SECRETS {
            let value = if let Some(value) = given(name) {
                value
            } else {
                made_up.push(name);
                match kept.get(name) {
                    Some(value) => {
                        from_before.push(name);
                        value.clone()
                    }
                    None => kept.entry(name.to_owned()).or_insert(random()?).clone(),
                }
            };
            secrets.insert(name, value);
        }
        secrets.extend(given(PREVIOUS_SIGNING_KEY).map(|value| (PREVIOUS_SIGNING_KEY, value)));
        write_env_file(
            &kept_at,
            kept.iter()
                .map(|(name, value)| (name.as_str(), value.as_str())),
        )?;
        Ok(Self {
            vars,
            secrets,
            made_up,
            kept: from_before,
        })
    }

    /// Whether a secret was made up by an earlier run on the same state directory.
    pub fn is_kept(&self, name: &str) -> bool {
        self.kept.contains(&name)
    }

    /// Sets a variable that the caller decides, whatever the environment says.
    pub fn set(&mut self, name: &'static str, value: impl Into<String>) {
        self.vars.insert(name, value.into());
    }

    /// A link that signs in to the dashboard once, of an installation that serves at this address.
    pub fn sign_in_link(&self, url: &str) -> Result<String> {
        let keys = Keyring::parse(self.secret("HMD_SIGNING_KEY"), None)?;
        let mut nonce = [0; 32];
        rand::rngs::OsRng.try_fill_bytes(&mut nonce)?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let now = i64::try_from(now.as_millis())?;
        Ok(format!(
            "{url}{}",
            hmd::http::sign_in_path(&keys, now, nonce)
        ))
    }

    /// The variables, for the command line.
    pub fn vars(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.vars
            .iter()
            .map(|(name, value)| (*name, value.as_str()))
    }

    /// One secret; empty if there is none of that name.
    pub fn secret(&self, name: &str) -> &str {
        self.secrets.get(name).map_or("", String::as_str)
    }

    /// The secrets that a person could not know otherwise.
    pub fn made_up(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.made_up.iter().map(|name| (*name, self.secret(name)))
    }

    /// Writes the secrets to the file that wrangler reads them from, readable by nobody else.
    pub fn write_secrets(&self, state_dir: &Path) -> Result<PathBuf> {
        let path = state_dir.join("secrets.env");
        for (name, value) in &self.secrets {
            // wrangler's reader expands `$` and knows three kinds of quotes: rather than out-quote it, refuse.
            if value
                .chars()
                .any(|character| !character.is_ascii_graphic() || "'\"`$#\\".contains(character))
            {
                let what = format!(
                    "{name} holds a space, a quote or another character that can't be handed to wrangler"
                );
                return Err(Failure::new(what, "choose one of letters, digits and -._~+/=").into());
            }
        }
        write_env_file(
            &path,
            self.secrets
                .iter()
                .map(|(name, value)| (*name, value.as_str())),
        )?;
        Ok(path)
    }
}

/// 32 random bytes in hex. Hex digits are base64 digits too, so it also serves as the signing key (as 48 bytes).
pub fn random() -> Result<String> {
    let mut bytes = [0_u8; 32];
    rand::rngs::OsRng
        .try_fill_bytes(&mut bytes)
        .context("the system has no randomness")?;
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15])
        .filter_map(|digit| char::from_digit(digit.into(), 16));
    Ok(digits.collect())
}

fn read_env_file(path: &Path) -> Result<BTreeMap<String, String>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let pairs = text.lines().filter_map(|line| line.split_once('='));
            Ok(pairs
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(BTreeMap::new()),
        Err(error) => Err(error).with_context(|| format!("{} can't be read", path.display())),
    }
}

fn write_env_file<'a>(path: &Path, pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Result<()> {
    let text: String = pairs
        .flat_map(|(name, value)| [name, "=", value, "\n"])
        .collect();
    // Written beside and renamed: it is never half there, and never has other permissions.
    let new = path.with_extension("new");
    let write = || {
        if new.exists() {
            fs::remove_file(&new)?;
        }
        fs::File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&new)?
            .write_all(text.as_bytes())?;
        fs::rename(&new, path)
    };
    write().with_context(|| format!("{} can't be written", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn scratch() -> Result<PathBuf> {
        let path = std::env::temp_dir().join(format!("hmd-settings-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&path)?;
        Ok(path)
    }

    #[test]
    fn made_up_secrets_survive_a_restart_and_given_ones_are_not_kept() -> Result<()> {
        let state = scratch()?;
        let given = |name: &str| (name == CLOUDFLARE_API_TOKEN).then(|| "given".to_owned());
        let first = Settings::resolve(given, [], &state)?;
        let second = Settings::resolve(given, [], &state)?;
        assert_eq!(first.secret(CLOUDFLARE_API_TOKEN), "given");
        assert_eq!(first.secret(HMD_API_TOKEN).len(), 64);
        assert_eq!(first.secret(HMD_API_TOKEN), second.secret(HMD_API_TOKEN));
        assert_eq!(second.made_up().count(), 2);
        assert!(second.is_kept(HMD_API_TOKEN) && !first.is_kept(HMD_API_TOKEN));
        let kept = state.join("secrets");
        assert!(!fs::read_to_string(&kept)?.contains("given"));
        for file in [kept, first.write_secrets(&state)?] {
            assert_eq!(fs::metadata(file)?.permissions().mode() & 0o777, 0o600);
        }
        fs::remove_dir_all(state)?;
        Ok(())
    }

    #[test]
    fn the_environment_wins_over_defaults_and_empty_is_unset() -> Result<()> {
        let state = scratch()?;
        let given = |name: &str| match name {
            "TELEMETRY_LAG" => Some("3s".to_owned()),
            "PUBLIC_URL" => Some(String::new()),
            _ => None,
        };
        let defaults = [
            ("TELEMETRY_LAG", "2s".to_owned()),
            ("PUBLIC_URL", "here".to_owned()),
        ];
        let settings = Settings::resolve(given, defaults, &state)?;
        let vars: BTreeMap<_, _> = settings.vars().collect();
        assert_eq!(vars["TELEMETRY_LAG"], "3s");
        assert_eq!(vars["PUBLIC_URL"], "here");
        assert_eq!(vars["MIN_CHECK_INTERVAL"], "1s");
        fs::remove_dir_all(state)?;
        Ok(())
    }

    #[test]
    fn the_real_api_is_never_asked_more_than_it_allows() {
        assert_eq!(calls_per_5min(None), "12000");
        assert_eq!(
            calls_per_5min(Some("http://127.0.0.1:9000/client/v4")),
            "12000"
        );
        let real = "https://api.cloudflare.com/client/v4";
        assert_eq!(calls_per_5min(Some(real)), "1200");
    }

    #[test]
    fn a_secret_that_would_be_mangled_is_refused() -> Result<()> {
        let state = scratch()?;
        let given = |name: &str| (name == HMD_API_TOKEN).then(|| "a$b".to_owned());
        let refused = Settings::resolve(given, [], &state)?.write_secrets(&state);
        assert!(refused.is_err_and(|error| error.to_string().starts_with(HMD_API_TOKEN)));
        fs::remove_dir_all(state)?;
        Ok(())
    }
}
