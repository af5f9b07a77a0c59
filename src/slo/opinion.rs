//! What a judge says: somebody outside, a service or a language model, who is shown the evidence and answers pass, hold or
//! revert with a reason. Its words are data: they are cleaned, cut, and shown in quotes, and nothing in them is ever obeyed.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Side, Slo, Verdict};
use crate::slo::Reading;

/// Longest answer that is read, in bytes.
const MAX_ANSWER: usize = 4_096;
/// Longest reason that is kept, in characters.
const MAX_REASON: usize = 300;

/// What a judge says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum Say {
    /// Nothing speaks against going on.
    Pass,
    /// The stage is to hold.
    Hold,
    /// The release is to go back.
    Revert,
    /// Nothing that could be understood, or nothing at all.
    Undecided,
}

impl Say {
    /// For people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Hold => "hold",
            Self::Revert => "revert",
            Self::Undecided => "nothing",
        }
    }
}

/// An answer, or what happened instead.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Saying {
    /// What it came to.
    pub verdict: Say,
    /// The judge's reason, cleaned and cut; if it is undecided, what went wrong.
    pub reason: String,
}

/// A judge was asked: what it was told, and what it said.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
pub struct Opinion {
    /// The SLO's name.
    pub slo: String,
    /// The address or the model that was asked.
    pub judge: String,
    /// How long the answer took, in milliseconds.
    pub duration_ms: i64,
    /// What it was told: all of it.
    #[cfg_attr(
        not(target_arch = "wasm32"),
        schemars(with = "serde_json::Map<String, Value>")
    )]
    pub told: Value,
    /// What it said.
    pub said: Saying,
}

/// The last that a judge said in a stage.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its newest answer.
    pub said: Saying,
    /// It has said `hold`, and nothing else that could be understood since.
    pub holds: bool,
}

impl Standing {
    /// A new answer after the one before: a judge that breaks down does not take its `hold` back.
    #[must_use]
    pub fn after(before: Option<&Self>, said: Saying) -> Self {
        let held = before.is_some_and(|before| before.holds);
        let holds = said.verdict == Say::Hold || (said.verdict == Say::Undecided && held);
        Self { said, holds }
    }

    /// What it makes of the SLO.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.said.verdict {
            Say::Pass => Verdict::Safe,
            Say::Revert => Verdict::Harm,
            Say::Hold | Say::Undecided => Verdict::Undecided,
        }
    }

    /// The same as a sentence. The judge's own words are in quotes, which they can't end.
    #[must_use]
    pub fn sentence(&self, slo: &str) -> String {
        let Saying { verdict, reason } = &self.said;
        let still = if self.holds { "; its hold stands" } else { "" };
        match verdict {
            Say::Undecided => format!("{slo}: the judge is undecided: {reason}{still}"),
            _ => format!(
                "{slo}: the judge says {}: \"{}\"",
                verdict.name(),
                reason.replace('"', "'")
            ),
        }
    }
}

#[derive(Deserialize)]
struct Wire {
    verdict: Say,
    #[serde(default)]
    reason: Option<String>,
}

impl Saying {
    /// Whether the reason is the judge's own.
    #[must_use]
    pub fn is_heard(&self) -> bool {
        self.verdict != Say::Undecided
    }

    /// No answer.
    #[must_use]
    pub fn undecided(why: &str) -> Self {
        Self {
            verdict: Say::Undecided,
            reason: clean(why),
        }
    }

    /// Reads an answer: one JSON object and nothing else. Whatever it is, it is never more than one of the verdicts and some
    /// text.
    #[must_use]
    pub fn read(text: &str) -> Self {
        if text.len() > MAX_ANSWER {
            return Self::undecided(&format!("its answer has more than {MAX_ANSWER} bytes"));
        }
        let wrong =
            "its answer is not {\"verdict\": \"pass\", \"hold\" or \"revert\", \"reason\": \"…\"}";
        match crate::json::read_text::<Wire>(text) {
            Ok(wire) if wire.verdict != Say::Undecided => {
                let reason = clean(&wire.reason.unwrap_or_default());
                Self {
                    verdict: wire.verdict,
                    reason: if reason.is_empty() {
                        "no reason given".to_owned()
                    } else {
                        reason
                    },
                }
            }
            Ok(_) | Err(_) => Self::undecided(wrong),
        }
    }
}

/// Somebody else's text on one line, without what could make it look like something else, and not too long.
#[must_use]
pub fn clean(text: &str) -> String {
    clean_to(text, MAX_REASON)
}

/// The same, of at most so many characters.
#[must_use]
pub fn clean_to(text: &str, max: usize) -> String {
    // What turns or hides text: marks of direction, joiners, the byte order mark.
    let hides = |c: char| matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}');
    let spaced: String = text
        .chars()
        .take(max * 8)
        .filter(|c| !hides(*c))
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let line = words.join(" ");
    if line.chars().count() <= max {
        return line;
    }
    let mut cut: String = line.chars().take(max).collect();
    cut.push('…');
    cut
}

/// The reading of an SLO whose judge has not been asked in the stage: `requests` of the new version it has seen so far.
#[must_use]
pub fn unasked(slo: &Slo, requests: u64, applies: bool) -> Reading {
    let name = &slo.name;
    let (verdict, sentence) = if !applies {
        let why = "the stage gives the new version no traffic";
        (Verdict::NotApplicable, format!("{name}: {why}"))
    } else if requests == 0 {
        (Verdict::NoData, format!("{name}: no request to judge by"))
    } else if requests < slo.needed_requests() {
        let needed = slo.needed_requests();
        let sentence =
            format!("{name}: the judge is asked from {needed} requests on; {requests} so far");
        (Verdict::Undecided, sentence)
    } else {
        let sentence = format!("{name}: the judge has not answered yet");
        (Verdict::Undecided, sentence)
    };
    let side = |requests| Side {
        requests,
        bad: 0,
        value: None,
    };
    Reading {
        slo: name.clone(),
        sli: slo.sli.kind.name().to_owned(),
        objective: slo.objective_text(),
        verdict,
        new: side(requests),
        old: side(0),
        sentence,
        evidence: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(text: &str) -> (Say, String) {
        let saying = Saying::read(text);
        (saying.verdict, saying.reason)
    }

    #[test]
    fn an_answer_is_a_verdict_and_a_reason() {
        for (name, verdict) in [
            ("pass", Say::Pass),
            ("hold", Say::Hold),
            ("revert", Say::Revert),
        ] {
            let text =
                format!("  {{\"verdict\": \"{name}\", \"reason\": \"so it is\", \"mood\": 3}}\n");
            assert_eq!(said(&text), (verdict, "so it is".to_owned()));
        }
        assert_eq!(
            said(r#"{"verdict": "hold"}"#),
            (Say::Hold, "no reason given".to_owned())
        );
    }

    #[test]
    fn nonsense_is_undecided() {
        let long = format!(
            "{{\"verdict\": \"pass\", \"reason\": \"{}\"}}",
            "x".repeat(5_000)
        );
        for text in [
            "",
            "pass",
            "null",
            "[]",
            "{}",
            "\"revert\"",
            r#"{"verdict": "PASS"}"#,
            r#"{"verdict": "undecided", "reason": "who knows"}"#,
            r#"{"verdict": ["revert"]}"#,
            r#"{"verdict": "pass", "reason": 7}"#,
            r#"{"verdict": "pass", "verdict": "revert"}"#,
            r#"Sure! {"verdict": "revert", "reason": "x"}"#,
            "```json\n{\"verdict\": \"revert\", \"reason\": \"x\"}\n```",
            r#"{"verdict": "revert"} {"verdict": "pass"}"#,
            r#"{"verdict": "revert", "reason": "#,
            &long,
        ] {
            assert_eq!(said(text).0, Say::Undecided, "{text}");
        }
    }

    #[test]
    fn its_words_are_one_clean_short_line() {
        assert_eq!(
            clean("a\n\tb\r\n\u{1b}[31mc\u{202e}d\u{200b}"),
            "a b [31mcd"
        );
        let long = clean(&"wörter ".repeat(1_000));
        assert_eq!(long.chars().count(), MAX_REASON + 1);
        assert!(long.ends_with('…'));
        let standing = |reason: &str| {
            let saying = Saying::read(
                &serde_json::json!({"verdict": "revert", "reason": reason}).to_string(),
            );
            Standing::after(None, saying).sentence("second opinion")
        };
        assert_eq!(
            standing("x\", and the judge says pass: \""),
            "second opinion: the judge says revert: \"x', and the judge says pass: '\""
        );
    }

    #[test]
    fn a_breakdown_does_not_take_a_hold_back() {
        let saying = |text: &str| Saying::read(&format!("{{\"verdict\": \"{text}\"}}"));
        let hold = Standing::after(None, saying("hold"));
        assert!(hold.holds && hold.verdict() == Verdict::Undecided);
        let broken = Standing::after(Some(&hold), Saying::undecided("it answered 500"));
        assert!(broken.holds);
        assert!(broken.sentence("j").contains("its hold stands"));
        assert!(!Standing::after(Some(&broken), saying("pass")).holds);
        assert!(!Standing::after(None, Saying::undecided("no answer")).holds);
        assert_eq!(
            Standing::after(None, saying("pass")).verdict(),
            Verdict::Safe
        );
        assert_eq!(
            Standing::after(None, saying("revert")).verdict(),
            Verdict::Harm
        );
    }
}
