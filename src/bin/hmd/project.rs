//! Where things are: the project, its tools and the directories that `hmd` keeps.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::failure::Failure;
use crate::processes;

/// How often a lock that somebody else holds is tried again.
const LOCK_RETRY: Duration = Duration::from_millis(200);

/// A checkout of HMD.
#[derive(Debug, Clone)]
pub struct Project {
    root: PathBuf,
}

impl Project {
    /// The project that this binary was built from or, if that has moved, the nearest one above the working directory.
    pub fn find() -> Result<Self> {
        let built_from = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let here = env::current_dir().context("the working directory can't be read")?;
        std::iter::once(built_from.as_path())
            .chain(here.ancestors())
            .find(|directory| directory.join("wrangler.toml").is_file())
            .map(|directory| Self {
                root: directory.to_path_buf(),
            })
            .ok_or_else(|| {
                Failure::new(
                    "no HMD project here (no wrangler.toml)",
                    "run this inside a checkout of HMD",
                )
                .into()
            })
    }

    /// The directory of wrangler.toml.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below `.hmd/`, where everything lives that `hmd` makes for itself.
    pub fn hidden(&self, path: impl AsRef<Path>) -> PathBuf {
        self.root.join(".hmd").join(path)
    }

    /// A program that `npm ci` installed.
    pub fn node_bin(&self, name: &str) -> PathBuf {
        self.root.join("node_modules/.bin").join(name)
    }

    /// A program that `cargo install` put into the project's own root.
    pub fn cargo_bin(&self, name: &str) -> PathBuf {
        self.hidden("tools/bin").join(name)
    }

    /// A command in the project's root that finds its own node before the system's. `main` ends it with us, gently:
    /// hence no `kill_on_drop`.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Result<Command> {
        let mut path = OsString::from(self.root.join("node_modules/.bin"));
        if let Some(inherited) = env::var_os("PATH") {
            path = env::join_paths(
                std::iter::once(PathBuf::from(path)).chain(env::split_paths(&inherited)),
            )
            .context("the project's path holds a character that PATH can't")?;
        }
        let mut command = Command::new(program);
        command
            .current_dir(&self.root)
            .env("PATH", path)
            .stdin(Stdio::null());
        processes::label(&mut command);
        Ok(command)
    }

    /// Waits until no other `hmd` installs or builds in this project, and keeps them out while the lock lives.
    pub async fn lock(&self) -> Result<Lock> {
        let path = self.hidden("lock");
        let lock = Lock::open(&path)?;
        if !lock.is_free()? {
            eprintln!("waiting for another hmd to finish building");
            while !lock.is_free()? {
                tokio::time::sleep(LOCK_RETRY).await;
            }
        }
        Ok(lock)
    }
}

/// An advisory lock on a file. The kernel lets go of it when its holder ends, however that happens.
#[derive(Debug)]
pub struct Lock {
    file: File,
    path: PathBuf,
}

impl Lock {
    fn open(path: &Path) -> Result<Self> {
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)
                .with_context(|| format!("{} can't be made", parent.display()))?;
        }
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(path)
            .with_context(|| format!("{} can't be opened", path.display()))?;
        Ok(Self {
            file,
            path: path.to_path_buf(),
        })
    }

    /// Takes the lock if nobody holds it. It never blocks: a thread blocked in the kernel could not be interrupted.
    fn is_free(&self) -> Result<bool> {
        match self.file.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => {
                Err(error).with_context(|| format!("{} can't be locked", self.path.display()))
            }
        }
    }
}

/// The directory of one local installation: its database, secrets and log. One `hmd` at a time may hold it.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: Lock,
}

impl StateDir {
    /// How long a predecessor may take to stop before its directory is called busy.
    const HANDOVER: Duration = Duration::from_secs(10);

    /// Takes the directory over: waits for a predecessor that is stopping, and ends what a killed one left running.
    pub async fn open(path: &Path) -> Result<Self> {
        fs::create_dir_all(path).with_context(|| format!("{} can't be made", path.display()))?;
        let path = path
            .canonicalize()
            .with_context(|| format!("{} can't be read", path.display()))?;
        let lock = Lock::open(&path.join("lock"))?;
        let deadline = tokio::time::Instant::now() + Self::HANDOVER;
        if !lock.is_free()? {
            eprintln!("waiting for another hmd to let go of {}", path.display());
        }
        while !lock.is_free()? {
            if tokio::time::Instant::now() > deadline {
                let what = format!("another hmd is running on {}", path.display());
                return Err(Failure::new(what, "stop it, or choose another --state-dir").into());
            }
            tokio::time::sleep(LOCK_RETRY).await;
        }
        let ended = processes::end(&processes::Whose::StateDir(path.clone())).await?;
        if ended > 0 {
            eprintln!(
                "ended {ended} processes that a killed hmd had left on {}",
                path.display()
            );
        }
        Ok(Self { path, _lock: lock })
    }

    /// As [`open`](Self::open), and forgets everything that an earlier run kept there.
    pub async fn fresh(path: &Path) -> Result<Self> {
        let state = Self::open(path).await?;
        for entry in fs::read_dir(&state.path)? {
            let entry = entry?;
            // The lock stays: removing the file would let a second hmd lock a new one of the same name.
            if entry.file_name() != "lock" {
                remove(&entry.path())?;
            }
        }
        Ok(state)
    }

    /// The canonical path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes a file or a whole directory.
fn remove(path: &Path) -> Result<()> {
    let removed = if path.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("{} can't be removed", path.display()))
}

/// Copies a directory with all that is in it over whatever was at `to`.
pub fn copy_directory(from: &Path, to: &Path) -> Result<()> {
    if to.exists() {
        remove(to)?;
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("{} can't be read", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_directory(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target)
                .with_context(|| format!("{} can't be written", target.display()))?;
        }
    }
    Ok(())
}
