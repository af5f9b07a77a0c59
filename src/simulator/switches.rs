//! What is not known of the real Cloudflare, or differs from call to call: as a test wants it.

use serde::Deserialize;

use super::model::Cloudflare;

/// What can be one way or the other.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Switches {
    pub partial_answers: bool,
    pub zero_percent: bool,
}

/// A change of switches; what is `None` stays. All are off at first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SwitchesPatch {
    /// The answer to a created deployment holds its id, and little else.
    pub partial_answers: Option<bool>,
    /// A version may have 0 % of a deployment's traffic.
    pub zero_percent: Option<bool>,
}

impl Cloudflare {
    /// Turns switches.
    pub fn set_switches(&mut self, patch: SwitchesPatch) {
        let old = self.switches;
        self.switches = Switches {
            partial_answers: patch.partial_answers.unwrap_or(old.partial_answers),
            zero_percent: patch.zero_percent.unwrap_or(old.zero_percent),
        };
    }
}
