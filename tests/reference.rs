//! The Python reference implementation of Standard Webhooks verifies what HMD signs, and what it signs HMD takes. (The one for
//! Node is asked by the end-to-end tests, which install it.)

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]
#![cfg(not(target_arch = "wasm32"))]

use std::process::Command;

use hmd::webhook::{Received, WebhookSecret, sign_with_all, verify};

const SCRIPT: &str = r#"
import sys
from datetime import datetime, timezone
from standardwebhooks import Webhook
secret, id, at, body, signature = sys.argv[1:]
webhook = Webhook(secret)
headers = {"webhook-id": id, "webhook-timestamp": at, "webhook-signature": signature}
webhook.verify(body, headers)
for other_body, other in [(body + " ", headers), (body, {**headers, "webhook-id": id + "x"})]:
    try:
        webhook.verify(other_body, other)
        sys.exit("it takes anything")
    except Exception:
        pass
sys.stdout.write(webhook.sign(id, datetime.fromtimestamp(int(at), tz=timezone.utc), body))
"#;

#[test]
#[ignore = "needs PYTHON, an interpreter with the package standardwebhooks; .ci/run sets one up"]
fn the_python_reference_implementation_agrees() {
    let python = std::env::var("PYTHON").unwrap();
    let bodies = ["{}", r#"{"type":"stage.passed","data":{"é":"…"}}"#];
    for (i, body) in bodies.into_iter().enumerate() {
        let first = u8::try_from(i).unwrap();
        let secret = WebhookSecret::from_random([first; 32]);
        let previous = WebhookSecret::from_random([first + 9; 32]);
        // The reference reads the clock, so a real time is needed.
        let at = hmd::simulator::system_clock()() / 1_000;
        // As while a secret is rotated.
        let both = [previous, secret.clone()];
        let signature = sign_with_all(&both, "msg_1", at, body.as_bytes());
        let output = Command::new(&python)
            .args(["-c", SCRIPT, &secret.expose(), "msg_1", &at.to_string()])
            .args([body, &signature])
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success(),
            "the reference refused ours: {said}"
        );
        let theirs = String::from_utf8(output.stdout).unwrap();
        let received = Received {
            id: Some("msg_1"),
            timestamp: Some(&at.to_string()),
            signature: Some(&theirs),
            body: body.as_bytes(),
        };
        let taken = verify(received, &[secret], at * 1_000);
        assert!(taken.is_ok(), "{taken:?}: {theirs}");
    }
}
