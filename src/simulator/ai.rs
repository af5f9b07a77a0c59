//! Workers AI: models that answer what a test told them to.

use serde::Deserialize;
use serde_json::{Value, json};

use super::api::ApiAnswer;
use super::model::Cloudflare;
use super::spec::SimError;

/// What a model says if nobody told it what to say.
const DEFAULT_TEXT: &str = "The new version fails more requests than the old one in the same minutes, so going back is right.";

/// What models answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AiScript {
    /// Only models whose name contains this; an empty text is in all.
    pub model_contains: String,
    /// The text of the answer; it is in place of `result`.
    pub text: Option<String>,
    /// The whole `result`.
    pub result: Option<Value>,
    /// Fails with this status, from 400 to 599.
    pub status: Option<u16>,
    /// So many milliseconds pass before the answer.
    pub delay_ms: u64,
    /// It holds for so many calls; `None` for all.
    pub times: Option<u32>,
}

impl Cloudflare {
    /// Replaces what models answer; the first entry that fits counts.
    ///
    /// # Errors
    /// [`SimError::Invalid`] for a status outside 400..=599.
    pub fn set_ai(&mut self, scripts: Vec<AiScript>) -> Result<(), SimError> {
        let statuses = scripts.iter().filter_map(|script| script.status);
        if !statuses
            .into_iter()
            .all(|status| (400..600).contains(&status))
        {
            let text = "the status of a model's failure lies between 400 and 599";
            return Err(SimError::Invalid(text.to_owned()));
        }
        self.ai = scripts;
        Ok(())
    }

    pub(super) fn run_model(&mut self, model: &str, body: &[u8]) -> ApiAnswer {
        let fail = |status, code: u32, message: String| {
            ApiAnswer::failure(status, &json!({"code": code, "message": message}))
        };
        if !model.starts_with("@cf/") && !model.starts_with("@hf/") {
            return fail(400, 5007, format!("AiError: No such model {model} or task"));
        }
        let input: Value = serde_json::from_slice(body).unwrap_or_default();
        let has_prompt = input["prompt"].is_string();
        if !has_prompt && !input["messages"].is_array() {
            let message =
                "AiError: Bad input: Error: required properties at '/' are 'prompt' or 'messages'";
            return fail(400, 5006, message.to_owned());
        }
        let fits = |script: &&mut AiScript| {
            script.times != Some(0) && model.contains(&script.model_contains)
        };
        let Some(script) = self.ai.iter_mut().find(fits) else {
            return ApiAnswer::success(&generated(&input, DEFAULT_TEXT));
        };
        script.times = script.times.map(|times| times.saturating_sub(1));
        let mut answer = match (script.status, &script.text, &script.result) {
            (Some(status), ..) => fail(status, 3043, "AiError: Internal server error".to_owned()),
            (None, Some(text), _) => ApiAnswer::success(&generated(&input, text)),
            (None, None, Some(result)) => ApiAnswer::success(result),
            (None, None, None) => ApiAnswer::success(&generated(&input, DEFAULT_TEXT)),
        };
        answer.delay_ms = script.delay_ms;
        answer
    }
}

/// A result of text generation. Tokens are estimated: four characters each.
fn generated(input: &Value, text: &str) -> Value {
    let prompt_tokens = input.to_string().len() / 4;
    let completion_tokens = text.len() / 4;
    json!({
        "response": text,
        "tool_calls": [],
        "usage": {
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": prompt_tokens + completion_tokens,
        },
    })
}
