//! What building and running the Worker needs, and how to get it: the wasm target, two cargo tools, the npm packages.
//!
//! Everything is looked up in files first, so that a machine that has it all is through in a few milliseconds.

use std::env;
use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use tokio::process::Command;

use crate::failure::Failure;
use crate::fingerprint;
use crate::project::Project;
use crate::steps::Step;

/// The target that Workers run.
const WASM_TARGET: &str = "wasm32-unknown-unknown";
/// The release of worker-build that belongs to the `worker` crate in Cargo.toml.
const WORKER_BUILD: &str = "0.8.7";
/// wrangler brings a newer Node along by npm; npm itself needs this much.
const OLDEST_NODE: u32 = 20;

/// Installs what is missing. The caller holds the project's lock.
pub async fn run(project: &Project) -> Result<()> {
    npm_packages(project).await?;
    wasm_target(project).await?;
    cargo_tools(project).await
}

/// The cargo that runs us, or the one on PATH.
fn cargo() -> std::ffi::OsString {
    env::var_os("CARGO").unwrap_or_else(|| "cargo".into())
}

async fn npm_packages(project: &Project) -> Result<()> {
    let lock_file = project.root().join("package-lock.json");
    let lock =
        fs::read(&lock_file).with_context(|| format!("{} can't be read", lock_file.display()))?;
    let stamp = project.hidden("npm-stamp");
    let wanted = fingerprint::of_bytes(&lock);
    // npm writes this file last, so it also says that the installation is whole.
    let is_installed = project
        .root()
        .join("node_modules/.package-lock.json")
        .is_file();
    if is_installed && fs::read_to_string(&stamp).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    check_node(project).await?;
    let step = Step {
        title: "installing wrangler and its tools (npm ci)".into(),
        hint:
            "check the network and npm's configuration, then run `npm ci` to see everything it says"
                .into(),
        needs_network: true,
    };
    step.run(|| {
        let mut npm = project.command("npm")?;
        npm.args(["ci", "--no-audit", "--no-fund", "--loglevel", "error"]);
        Ok(npm)
    })
    .await?;
    fs::create_dir_all(project.hidden(""))?;
    fs::write(&stamp, wanted).with_context(|| format!("{} can't be written", stamp.display()))
}

/// npm ci needs a Node; a message here beats what npm says when it hasn't got one.
async fn check_node(project: &Project) -> Result<()> {
    let hint = format!(
        "install Node.js {OLDEST_NODE} or newer with npm (https://nodejs.org), then run the same command again"
    );
    // Not project.command: the version that matters here is the system's, which has to install the other one.
    let found = Command::new("node")
        .arg("--version")
        .current_dir(project.root())
        .kill_on_drop(true)
        .output()
        .await;
    let version = match found {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        }
        _ => return Err(Failure::new("Node.js is missing", hint).into()),
    };
    let major = version
        .trim_start_matches('v')
        .split('.')
        .next()
        .and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < OLDEST_NODE) {
        return Err(Failure::new(format!("Node.js {version} is too old"), hint).into());
    }
    let npm = Command::new("npm")
        .arg("--version")
        .current_dir(project.root())
        .kill_on_drop(true)
        .output()
        .await;
    if !npm.is_ok_and(|output| output.status.success()) {
        return Err(Failure::new("npm is missing", hint).into());
    }
    Ok(())
}

async fn wasm_target(project: &Project) -> Result<()> {
    let missing =
        |hint: String| Failure::new(format!("Rust's {WASM_TARGET} target is missing"), hint);
    if has_wasm_target(project).await? {
        return Ok(());
    }
    let has_rustup = Command::new("rustup")
        .arg("--version")
        .kill_on_drop(true)
        .output()
        .await;
    if !has_rustup.is_ok_and(|output| output.status.success()) {
        let hint = format!(
            "install Rust with rustup (https://rustup.rs), or your system's package with the standard library for {WASM_TARGET}"
        );
        return Err(missing(hint).into());
    }
    let command = format!("rustup target add {WASM_TARGET}");
    let step = Step {
        title: format!("adding Rust's {WASM_TARGET} target"),
        hint: format!("check the network, then run `{command}`"),
        needs_network: true,
    };
    step.run(|| {
        let mut rustup = project.command("rustup")?;
        rustup.args(["target", "add", WASM_TARGET]);
        Ok(rustup)
    })
    .await?;
    if !has_wasm_target(project).await? {
        return Err(missing(format!(
            "run `{command}` in the project and look where it installs to"
        ))
        .into());
    }
    Ok(())
}

/// Whether the compiler's sysroot holds the target, whoever installed it.
async fn has_wasm_target(project: &Project) -> Result<bool> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = project
        .command(rustc)?
        .args(["--print", "sysroot"])
        .output()
        .await
        .context("rustc can't be started")?;
    if !output.status.success() {
        bail!(
            "rustc --print sysroot failed: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    let sysroot = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim());
    Ok(sysroot
        .join("lib/rustlib")
        .join(WASM_TARGET)
        .join("lib")
        .is_dir())
}

async fn cargo_tools(project: &Project) -> Result<()> {
    let lock_file = project.root().join("Cargo.lock");
    let lock = fs::read_to_string(&lock_file)
        .with_context(|| format!("{} can't be read", lock_file.display()))?;
    let Some(wasm_bindgen) = locked_version(&lock, "wasm-bindgen") else {
        bail!("Cargo.lock names no wasm-bindgen");
    };
    // wasm-bindgen refuses a module that another release of its library made: the two versions must be the same.
    if !is_installed(project, "worker-build", WORKER_BUILD, "worker-build") {
        install(project, "worker-build", WORKER_BUILD, &["--locked"]).await?;
    }
    if !is_installed(project, "wasm-bindgen-cli", wasm_bindgen, "wasm-bindgen") {
        // Not --locked: its lock file may name a version that a registry lacks, and did.
        install(project, "wasm-bindgen-cli", wasm_bindgen, &[]).await?;
    }
    // Only good while more than one tool is being built, and large.
    let leftovers = project.hidden("tools-target");
    if leftovers.exists() {
        fs::remove_dir_all(&leftovers)
            .with_context(|| format!("{} can't be removed", leftovers.display()))?;
    }
    Ok(())
}

/// Whether cargo's own list of what it installed here names exactly this version.
fn is_installed(project: &Project, package: &str, version: &str, program: &str) -> bool {
    let listed = fs::read_to_string(project.hidden("tools/.crates.toml"))
        .is_ok_and(|list| list.contains(&format!("\"{package} {version} (")));
    listed && project.cargo_bin(program).is_file()
}

async fn install(project: &Project, package: &str, version: &str, options: &[&str]) -> Result<()> {
    let step = Step {
        title: format!("building {package} {version} (takes minutes, once)"),
        hint: format!(
            "check the network, then run `cargo install {package} --version ={version} --root .hmd/tools` to see everything it says"
        ),
        needs_network: true,
    };
    step.run(|| {
        let mut cargo = project.command(cargo())?;
        cargo
            .args([
                "install",
                package,
                "--version",
                &format!("={version}"),
                "--force",
            ])
            .args(options)
            .arg("--root");
        cargo
            .arg(project.hidden("tools"))
            .env("CARGO_TARGET_DIR", project.hidden("tools-target"));
        Ok(cargo)
    })
    .await
}

/// The version of a package in a Cargo.lock.
fn locked_version<'a>(lock: &'a str, package: &str) -> Option<&'a str> {
    let name = format!("name = \"{package}\"");
    let mut lines = lock.lines().skip_while(|line| *line != name).skip(1);
    lines
        .next()?
        .strip_prefix("version = \"")?
        .strip_suffix('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_a_locked_version_by_its_whole_name() {
        let lock = "[[package]]\nname = \"wasm-bindgen-futures\"\nversion = \"0.4.1\"\n\n[[package]]\nname = \"wasm-bindgen\"\nversion = \"0.2.130\"\n";
        assert_eq!(locked_version(lock, "wasm-bindgen"), Some("0.2.130"));
        assert_eq!(locked_version(lock, "wasm"), None);
    }
}
