//! `hmd schemas`: writes the OpenAPI document, the JSON Schemas and the API page that the Rust types make.

use anyhow::{Context as _, Result};

use crate::project::Project;

/// Writes each file of `schemas/` that is not current, and names it.
pub fn run() -> Result<()> {
    let folder = Project::find()?.root().join("schemas");
    for file in hmd::openapi::files()? {
        let path = folder.join(file.name);
        let before = std::fs::read_to_string(&path).unwrap_or_default();
        if before == file.content {
            eprintln!("schemas/{} is current", file.name);
            continue;
        }
        std::fs::write(&path, file.content)
            .with_context(|| format!("writing schemas/{}", file.name))?;
        eprintln!("schemas/{} written", file.name);
    }
    Ok(())
}
