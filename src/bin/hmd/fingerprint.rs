//! Fingerprints of files, to tell whether what was made from them is still good.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// A fingerprint that changes with the content (FNV-1a, 64 bits): against mistakes, not against malice.
pub fn of_bytes(content: &[u8]) -> String {
    let hash = content
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    format!("{hash:016x}")
}

/// A fingerprint of the names and contents of `parts` of `root` (files, or directories with all that is in them), without
/// those that are `left_out`. A part that is missing is like one that is empty.
pub fn of_files(root: &Path, parts: &[&str], left_out: &[&str]) -> Result<String> {
    let mut files = Vec::new();
    for part in parts {
        list(root, PathBuf::from(part), left_out, &mut files)?;
    }
    files.sort();
    let mut all = Vec::new();
    for file in files {
        let content = fs::read(root.join(&file))
            .with_context(|| format!("{} can't be read", file.display()))?;
        all.extend(file.as_os_str().as_encoded_bytes());
        all.extend(content.len().to_le_bytes());
        all.extend(content);
    }
    Ok(of_bytes(&all))
}

fn list(root: &Path, path: PathBuf, left_out: &[&str], files: &mut Vec<PathBuf>) -> Result<()> {
    let full = root.join(&path);
    if left_out.iter().any(|part| path == Path::new(part)) {
        return Ok(());
    }
    if full.is_dir() {
        for entry in
            fs::read_dir(&full).with_context(|| format!("{} can't be read", full.display()))?
        {
            list(root, path.join(entry?.file_name()), left_out, files)?;
        }
    } else if full.exists() {
        files.push(path);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_the_published_hash() {
        assert_eq!(of_bytes(b""), "cbf29ce484222325");
        assert_eq!(of_bytes(b"a"), "af63dc4c8601ec8c");
    }
}
