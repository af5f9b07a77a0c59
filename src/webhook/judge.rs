//! What requests to judges are signed with.

use super::keys::{Keyring, Purpose};
use super::secret::WebhookSecret;

/// The secrets that sign what the judges of a plan are told, the present one first: while the signing key is replaced, that of
/// the one before signs, too. They are derived, so nothing is stored and nothing can be lost.
#[must_use]
pub fn judge_secrets(keys: &Keyring, plan: &str) -> Vec<WebhookSecret> {
    let macs = keys.macs(Purpose::Judge, plan.as_bytes());
    macs.into_iter().map(WebhookSecret::from_random).collect()
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;

    use super::*;

    #[test]
    fn each_plan_has_its_own_and_the_signing_keys_rotation_keeps_the_old_one() {
        let key = |byte: u8| STANDARD.encode([byte; 32]);
        let shown = |keys: &Keyring, plan: &str| -> Vec<String> {
            let secrets = judge_secrets(keys, plan);
            secrets.iter().map(WebhookSecret::expose).collect()
        };
        let before = Keyring::parse(&key(1), None).unwrap();
        let during = Keyring::parse(&key(2), Some(&key(1))).unwrap();
        assert_eq!(shown(&before, "shop").len(), 1);
        assert_ne!(shown(&before, "shop"), shown(&before, "blog"));
        assert_eq!(shown(&during, "shop")[1], shown(&before, "shop")[0]);
        assert_ne!(shown(&during, "shop")[0], shown(&before, "shop")[0]);
        let secret: Result<WebhookSecret, _> = shown(&before, "shop")[0].parse();
        assert!(secret.is_ok());
    }
}
