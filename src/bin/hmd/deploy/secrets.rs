//! The Worker's secrets: where a missing one comes from, and how it gets to wrangler without being seen on the way.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::failure::Failure;
use crate::settings;

/// A secret that every installation has.
#[derive(Debug)]
pub struct Secret {
    /// Its name in the Worker.
    pub name: &'static str,
    /// The environment variable that `deploy` takes it from. Not always the same name: wrangler has a
    /// `CLOUDFLARE_API_TOKEN` of its own, with other permissions.
    pub variable: &'static str,
    /// What it must be.
    must_be: &'static str,
    fits: fn(&str) -> bool,
    /// Whether one can be made up.
    is_ours: bool,
}

/// The token of the Worker for Cloudflare's API.
pub const CLOUDFLARE_API_TOKEN: &str = "CLOUDFLARE_API_TOKEN";
/// The root of signatures and seals.
pub const HMD_SIGNING_KEY: &str = "HMD_SIGNING_KEY";
/// The key before it, while it is rotated.
pub const HMD_SIGNING_KEY_PREVIOUS: &str = "HMD_SIGNING_KEY_PREVIOUS";

/// All of them.
pub const SECRETS: [Secret; 3] = [
    Secret {
        name: CLOUDFLARE_API_TOKEN,
        variable: "HMD_CLOUDFLARE_API_TOKEN",
        must_be: "a Cloudflare API token with Workers Scripts Write and Workers Observability Write",
        fits: |text| text.len() >= 20 && text.chars().all(|it| it.is_ascii_graphic()),
        is_ours: false,
    },
    Secret {
        name: "HMD_API_TOKEN",
        variable: "HMD_API_TOKEN",
        must_be: "32 characters or more, without spaces",
        fits: |text| text.len() >= 32 && text.chars().all(|it| it.is_ascii_graphic()),
        is_ours: true,
    },
    Secret {
        name: HMD_SIGNING_KEY,
        variable: HMD_SIGNING_KEY,
        must_be: "the base64 of 32 bytes or more",
        fits: is_key,
        is_ours: true,
    },
];

fn is_key(text: &str) -> bool {
    STANDARD.decode(text).is_ok_and(|bytes| bytes.len() >= 32)
}

/// Secrets for the next upload.
#[derive(Default)]
pub struct Due {
    values: BTreeMap<String, String>,
    /// Which of them nobody knows yet.
    made_up: Vec<&'static str>,
}

impl Due {
    /// Collects the secrets of these names: from `source` (the environment), else from `ask` where only a person can have it,
    /// else made up. `replaced` are those that the Worker already has.
    pub fn collect(
        names: &[String],
        replaced: bool,
        source: impl Fn(&str) -> Option<String>,
        ask: impl Fn(&Secret) -> Result<Option<String>>,
    ) -> Result<Self> {
        let given = |name: &str| source(name).filter(|value| !value.is_empty());
        let mut due = Self::default();
        for secret in SECRETS
            .iter()
            .filter(|it| names.iter().any(|name| name == it.name))
        {
            let value = match given(secret.variable) {
                Some(value) => value,
                None if secret.is_ours => {
                    due.made_up.push(secret.name);
                    settings::random()?
                }
                None => ask(secret)?.ok_or_else(|| missing(secret))?,
            };
            if !(secret.fits)(&value) {
                let what = format!(
                    "{} is not usable as the Worker's {}",
                    secret.variable, secret.name
                );
                return Err(Failure::new(what, format!("it must be {}", secret.must_be)).into());
            }
            due.values.insert(secret.name.to_owned(), value);
        }
        if replaced && due.values.contains_key(HMD_SIGNING_KEY) {
            let previous = given(HMD_SIGNING_KEY_PREVIOUS).filter(|key| is_key(key));
            let Some(previous) = previous else {
                let hint = "set HMD_SIGNING_KEY_PREVIOUS to the present key: what is sealed or signed with it stays readable. Cloudflare never shows it again; it was printed when it was made up";
                return Err(Failure::new(
                    "HMD_SIGNING_KEY can't be replaced without the present one",
                    hint,
                )
                .into());
            };
            due.values
                .insert(HMD_SIGNING_KEY_PREVIOUS.to_owned(), previous);
        }
        Ok(due)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// Those that a person could not know otherwise, to be shown once.
    pub fn made_up(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.made_up
            .iter()
            .map(|name| (*name, self.values.get(*name).map_or("", String::as_str)))
    }

    /// Takes every value out of a text before it is shown.
    pub fn redact(&self, text: &str) -> String {
        self.values.values().fold(text.to_owned(), |text, value| {
            text.replace(value, "[secret]")
        })
    }

    /// Writes them to a file that nobody else can read, for as long as it is held.
    pub fn write(&self, directory: &Path) -> Result<File> {
        let path = File::path_in(directory);
        let write = || {
            fs::File::options()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)?
                .write_all(serde_json::to_string(&self.values)?.as_bytes())
        };
        write().with_context(|| format!("{} can't be written", path.display()))?;
        Ok(File { path })
    }
}

fn missing(secret: &Secret) -> Failure {
    let what = format!("the Worker's own {} is missing", secret.name);
    let hint = format!(
        "make {} (dashboard, My Profile, API Tokens) and put it into {}; it is not wrangler's own CLOUDFLARE_API_TOKEN, which may do more",
        secret.must_be, secret.variable
    );
    Failure::new(what, hint)
}

/// Asks a person for a secret, without echo; `None` where nobody can be asked.
pub fn ask(secret: &Secret) -> Result<Option<String>> {
    let terminal = console::Term::stderr();
    if !terminal.is_term() || !console::user_attended() {
        return Ok(None);
    }
    eprintln!(
        "HMD's Worker needs {} (hidden; Enter alone gives up):",
        secret.must_be
    );
    let line = terminal
        .read_secure_line()
        .context("the terminal can't be read")?;
    Ok(Some(line.trim().to_owned()).filter(|line| !line.is_empty()))
}

/// A file of secrets. It goes away with this.
#[derive(Debug)]
pub struct File {
    path: PathBuf,
}

impl File {
    fn path_in(directory: &Path) -> PathBuf {
        directory.join("secrets.json")
    }

    /// Removes what a killed run may have left.
    pub fn remove_left_over(directory: &Path) -> Result<()> {
        match fs::remove_file(Self::path_in(directory)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(error).context("a left-over file of secrets can't be removed")
            }
            _ => Ok(()),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for File {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            eprintln!(
                "{} can't be removed ({error}): remove it, it holds secrets",
                self.path.display()
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    const TOKEN: &str = "a-token-of-the-worker-0123";

    fn all() -> Vec<String> {
        SECRETS.iter().map(|it| it.name.to_owned()).collect()
    }

    #[expect(clippy::unnecessary_wraps, reason = "as one that asks")]
    fn nobody(_: &Secret) -> Result<Option<String>> {
        Ok(None)
    }

    #[test]
    fn ours_are_made_up_and_cloudflares_is_asked_for() -> Result<()> {
        let due = Due::collect(&all(), false, |_| None, |_| Ok(Some(TOKEN.into())))?;
        let made_up: Vec<_> = due.made_up().map(|(name, _)| name).collect();
        assert_eq!(made_up, ["HMD_API_TOKEN", HMD_SIGNING_KEY]);
        for secret in &SECRETS {
            assert!((secret.fits)(&due.values[secret.name]), "{}", secret.name);
        }
        assert!(!due.redact(&format!("x {TOKEN} y")).contains(TOKEN));
        let error = Due::collect(&all(), false, |_| None, nobody).err();
        assert!(error.is_some_and(|it| it.to_string().contains(CLOUDFLARE_API_TOKEN)));
        Ok(())
    }

    #[test]
    fn wranglers_token_is_never_taken_for_the_workers() {
        let environment = |name: &str| (name == "CLOUDFLARE_API_TOKEN").then(|| TOKEN.to_owned());
        assert!(Due::collect(&all(), false, environment, nobody).is_err());
        let environment =
            |name: &str| (name == "HMD_CLOUDFLARE_API_TOKEN").then(|| TOKEN.to_owned());
        assert!(Due::collect(&all(), false, environment, nobody).is_ok());
    }

    #[test]
    fn a_short_secret_is_refused_by_name_and_not_shown() {
        let environment = |name: &str| (name == "HMD_API_TOKEN").then(|| "short".to_owned());
        let names = ["HMD_API_TOKEN".to_owned()];
        let error = Due::collect(&names, false, environment, nobody)
            .err()
            .unwrap();
        let said = error.to_string();
        assert!(
            said.contains("HMD_API_TOKEN") && !said.contains("short"),
            "{said}"
        );
    }

    #[test]
    fn the_signing_key_is_replaced_only_beside_the_one_before() -> Result<()> {
        let names = [HMD_SIGNING_KEY.to_owned()];
        assert!(Due::collect(&names, true, |_| None, nobody).is_err());
        let before = STANDARD.encode([1; 32]);
        let environment = |name: &str| (name == HMD_SIGNING_KEY_PREVIOUS).then(|| before.clone());
        let due = Due::collect(&names, true, environment, nobody)?;
        assert_eq!(due.values[HMD_SIGNING_KEY_PREVIOUS], before);
        Ok(())
    }

    #[test]
    fn the_file_is_private_and_goes_away() -> Result<()> {
        let directory = std::env::temp_dir().join(format!("hmd-secrets-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(&directory)?;
        let due = Due::collect(&["HMD_API_TOKEN".to_owned()], false, |_| None, nobody)?;
        let file = due.write(&directory)?;
        assert_eq!(
            fs::metadata(file.path())?.permissions().mode() & 0o777,
            0o600
        );
        let path = file.path().to_path_buf();
        drop(file);
        assert!(!path.exists());
        fs::remove_dir_all(directory)?;
        Ok(())
    }
}
