//! The stand-in for Cloudflare's API, as a child.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// It ends with this.
pub struct Cloudflare {
    _child: Child,
    url: String,
}

impl Cloudflare {
    /// Starts it and waits until it listens.
    pub async fn start(directory: &Path) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        // Its node is installed by the setup, which another test may be doing just now.
        let setup = Command::new(env!("CARGO_BIN_EXE_hmd"))
            .arg("setup")
            .status();
        assert!(
            setup.await.unwrap().success(),
            "`hmd setup` failed; see above"
        );
        let mut child = Command::new(root.join("node_modules/.bin/node"))
            .arg(root.join("tests/deploy/cloudflare.mjs"))
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdout = child.stdout.take().unwrap();
        let port = BufReader::new(stdout).lines().next_line().await.unwrap();
        Self {
            _child: child,
            url: format!("http://127.0.0.1:{}", port.unwrap()),
        }
    }

    /// Base of the API.
    pub fn api_url(&self) -> String {
        format!("{}/client/v4", self.url)
    }

    /// The account, and the calls since the last look that could have changed it.
    pub async fn state(&self) -> Value {
        let answer = reqwest::get(format!("{}/state", self.url)).await.unwrap();
        answer.json().await.unwrap()
    }

    /// Lets writes to paths with this text be refused; nothing, if it is empty.
    pub async fn forbid(&self, text: &str) {
        let url = format!("{}/forbid?{text}", self.url);
        reqwest::get(url).await.unwrap().error_for_status().unwrap();
    }
}
