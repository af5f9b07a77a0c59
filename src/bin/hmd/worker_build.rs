//! Builds the Worker: Rust to wasm to the `build/` that wrangler takes. Skipped while nothing that goes into it has changed.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use hmd::http::StaticFile;

use crate::alike;
use crate::failure::Failure;
use crate::fingerprint;
use crate::project::{Project, copy_directory};
use crate::setup;
use crate::steps::Step;

/// What the Worker is made from; schemas too, since SQL and JSON may be compiled in.
const PARTS: [&str; 6] = [
    ".cargo",
    "Cargo.toml",
    "Cargo.lock",
    "rust-toolchain.toml",
    "src",
    "schemas",
];
/// Parts of `src/` that are not in the Worker.
const HOST_ONLY: [&str; 3] = ["src/bin", "src/simulator", "src/simulator.rs"];

/// Where the files that are deployed beside the Worker are, in its directory.
pub const FILES_DIR: &str = "assets";

/// What the compiler may use, as worker-build has it. Not all that wasm-opt knows: it would write what workerd can't read.
const WASM_FEATURES: [&str; 7] = [
    "mutable-globals",
    "sign-ext",
    "nontrapping-float-to-int",
    "bulk-memory",
    "multivalue",
    "reference-types",
    "exception-handling",
];

/// What wasm-opt does: the names of functions go, a fifth of what would be uploaded, and what makes the compressed file smaller,
/// by 1 % in all. Most of its other passes make it larger, `-Oz` by a tenth.
const PASSES: [&str; 10] = [
    "strip-debug",
    "strip-producers",
    "duplicate-function-elimination",
    "dae-optimizing",
    "remove-unused-brs",
    "duplicate-function-elimination",
    "merge-blocks",
    "optimize-instructions",
    "vacuum",
    "reorder-locals",
];

/// What it does then: functions come in the order that [`alike`] has named them in, which makes the compressed file smaller by 8 %.
const ORDER_PASSES: [&str; 2] = ["reorder-functions-by-name", "strip-debug"];

/// Installs what is missing and builds the Worker, one `hmd` at a time.
pub async fn run(project: &Project) -> Result<()> {
    let _lock = project.lock().await?;
    prepare(project).await
}

/// As [`run`], and puts a copy of the result at `destination`: what runs there is then not changed by a later build.
pub async fn run_and_copy(project: &Project, destination: &Path) -> Result<()> {
    let _lock = project.lock().await?;
    prepare(project).await?;
    copy_directory(&project.root().join("build"), destination)
}

async fn prepare(project: &Project) -> Result<()> {
    setup::run(project).await?;
    let stamp = project.hidden("build-stamp");
    let wanted = fingerprint(project.root())?;
    let is_built = project.root().join("build/index.js").is_file();
    if is_built && fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
        return Ok(());
    }
    // A build that fails half-way must not look like the good one before it.
    match fs::remove_file(&stamp) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let title = "building the Worker (about a minute at first)";
    build(project, project.root(), title).await?;
    put_files(project)?;
    fs::write(&stamp, wanted).with_context(|| format!("{} can't be written", stamp.display()))
}

/// Builds a crate of its own below the project as the Worker is built, and puts a copy of the result at `destination`.
pub async fn build_other_and_copy(
    project: &Project,
    crate_directory: &str,
    destination: &Path,
) -> Result<()> {
    let _lock = project.lock().await?;
    setup::run(project).await?;
    let root = project.root().join(crate_directory);
    build(project, &root, &format!("building {crate_directory}")).await?;
    copy_directory(&root.join("build"), destination)
}

async fn build(project: &Project, root: &Path, title: &str) -> Result<()> {
    let step = Step {
        title: title.to_owned(),
        hint: "`cargo check --lib --target wasm32-unknown-unknown` shows what does not compile"
            .into(),
        needs_network: false,
    };
    step.run(|| {
        let mut command = project.command(project.cargo_bin("worker-build"))?;
        command
            .arg("--release")
            .current_dir(root)
            // A target directory of its own: cargo may be holding the usual one while it runs us (`cargo test`).
            .env("CARGO_TARGET_DIR", project.root().join("target/worker"))
            // Where worker-build itself failed says nothing about what did not compile.
            .env("RUST_BACKTRACE", "0")
            // worker-build downloads the tools that it isn't told of.
            .env("WASM_BINDGEN_BIN", project.cargo_bin("wasm-bindgen"))
            .env("ESBUILD_BIN", project.node_bin("esbuild"));
        Ok(command)
    })
    .await?;
    if !root.join("build/index.js").is_file() {
        let hint = "run `cargo run -- setup` after removing .hmd/tools";
        return Err(Failure::new("worker-build left no build/index.js", hint).into());
    }
    strip(project, root).await
}

/// Puts the files of the installation beside the Worker.
fn put_files(project: &Project) -> Result<()> {
    let directory = project.root().join("build").join(FILES_DIR);
    fs::create_dir_all(&directory)
        .with_context(|| format!("{} can't be made", directory.display()))?;
    for file in StaticFile::ALL {
        let path = directory.join(file.name());
        fs::write(&path, file.text())
            .with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(())
}

/// Makes the Worker small: worker-build always keeps the names of functions.
async fn strip(project: &Project, root: &Path) -> Result<()> {
    let wasm = root.join("build/index_bg.wasm");
    optimize(project, &wasm, &PASSES).await?;
    let unordered = fs::read(&wasm).with_context(|| format!("{} can't be read", wasm.display()))?;
    let named = alike::named(&unordered).context("the Worker can't be put in order")?;
    fs::write(&wasm, named).with_context(|| format!("{} can't be written", wasm.display()))?;
    optimize(project, &wasm, &ORDER_PASSES).await
}

async fn optimize(project: &Project, wasm: &Path, passes: &[&str]) -> Result<()> {
    let optimized = wasm.with_extension("optimized");
    let step = Step {
        title: "making the Worker small".into(),
        hint: "run `cargo run -- setup` after removing node_modules".into(),
        needs_network: false,
    };
    step.run(|| {
        let mut command = project.command(project.node_bin("wasm-opt"))?;
        command
            .args(WASM_FEATURES.map(|feature| format!("--enable-{feature}")))
            .args(passes.iter().map(|pass| format!("--{pass}")))
            .arg(wasm)
            .arg("-o")
            .arg(&optimized);
        Ok(command)
    })
    .await?;
    fs::rename(&optimized, wasm).with_context(|| format!("{} can't be written", wasm.display()))
}

/// A fingerprint of all that goes into the Worker.
pub fn fingerprint(root: &Path) -> Result<String> {
    fingerprint::of_files(root, &PARTS, &HOST_ONLY)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_in_the_worker_changes_the_fingerprint() -> Result<()> {
        let root = std::env::temp_dir().join(format!("hmd-fingerprint-{}", uuid::Uuid::now_v7()));
        fs::create_dir_all(root.join("src/bin/hmd"))?;
        for file in ["Cargo.toml", "src/lib.rs", "src/bin/hmd/main.rs"] {
            fs::write(root.join(file), file)?;
        }
        let before = fingerprint(&root)?;
        fs::write(root.join("src/bin/hmd/main.rs"), "other")?;
        assert_eq!(fingerprint(&root)?, before);
        fs::write(root.join("src/lib.rs"), "other")?;
        assert_ne!(fingerprint(&root)?, before);
        fs::remove_dir_all(&root)?;
        Ok(())
    }
}
