//! How large the Worker is as Cloudflare counts it.

use anyhow::{Context, Result};

use crate::failure::Failure;
use crate::project::Project;

/// What `wrangler deploy` would upload, compressed, in bytes.
pub async fn uploaded_bytes(project: &Project) -> Result<f64> {
    let mut wrangler = project.command(project.node_bin("wrangler"))?;
    let output = wrangler
        .args(["deploy", "--dry-run"])
        .env("CI", "1")
        .env("WRANGLER_SEND_METRICS", "false")
        .env("WRANGLER_LOG_PATH", project.hidden("bench/wrangler-logs"))
        .output()
        .await
        .context("wrangler can't be started")?;
    let text = String::from_utf8_lossy(&output.stdout);
    compressed_bytes(&text).ok_or_else(|| {
        let lines = text.lines().map(str::to_owned).collect();
        let hint = "`npx wrangler deploy --dry-run` must print a line with `gzip:`";
        Failure::new("wrangler does not say how large the Worker is", hint)
            .with_output(lines)
            .into()
    })
}

/// From the line `Total Upload: 1.00 KiB / gzip: 0.50 KiB`.
fn compressed_bytes(output: &str) -> Option<f64> {
    let (_, size) = output.split_once("gzip: ")?;
    let mut words = size.split_whitespace();
    let number: f64 = words.next()?.parse().ok()?;
    let unit = match words.next()? {
        "KiB" => 1024.0,
        "MiB" => 1024.0 * 1024.0,
        _ => return None,
    };
    Some(number * unit)
}

#[cfg(test)]
mod tests {
    use super::compressed_bytes;

    #[test]
    fn reads_what_wrangler_prints() {
        let bytes = compressed_bytes("x\nTotal Upload: 2013.51 KiB / gzip: 640.50 KiB\n");
        assert_eq!(bytes, Some(640.5 * 1024.0));
        assert_eq!(compressed_bytes("Total Upload: 1 KiB"), None);
    }
}
