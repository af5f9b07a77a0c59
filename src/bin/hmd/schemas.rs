//! `hmd schemas`: writes what is generated from the Rust types: the OpenAPI document, the JSON Schemas, the API page, and the
//! transition diagram in ARCHITECTURE.md.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::project::Project;

/// Writes each generated file that is not current, and names it.
pub fn run() -> Result<()> {
    let root = Project::find()?.root().to_owned();
    for file in hmd::openapi::files()? {
        let name = format!("schemas/{}", file.name);
        write(&root, &name, |_| Some(file.content.clone()))?;
    }
    write(&root, "ARCHITECTURE.md", |text| {
        let (before, rest) = text.split_once("```mermaid\n")?;
        let (_, after) = rest.split_once("```")?;
        let diagram = hmd::release::diagram();
        Some(format!("{before}```mermaid\n{diagram}\n```{after}"))
    })
}

fn write(root: &Path, name: &str, make: impl Fn(&str) -> Option<String>) -> Result<()> {
    let path = root.join(name);
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    let after = make(&before).with_context(|| format!("{name} has no place for it"))?;
    if before == after {
        eprintln!("{name} is current");
        return Ok(());
    }
    std::fs::write(&path, after).with_context(|| format!("writing {name}"))?;
    eprintln!("{name} written");
    Ok(())
}
