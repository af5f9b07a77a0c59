//! What a plan says of judges: SLOs that somebody outside decides on.

use super::{Errors, Plan};
use crate::slo::{Objective, Slo};

/// Most judges of a plan: each is asked in every check.
const MAX_JUDGES: usize = 3;
/// Longest name of a model.
const MAX_MODEL: usize = 100;

/// Whether this can be the name of a model of Workers AI; it becomes part of an address.
fn is_model(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
    };
    let parts: Vec<&str> = name.split('/').collect();
    let ["@cf" | "@hf", author, model] = parts[..] else {
        return false;
    };
    name.len() <= MAX_MODEL && part(author) && part(model)
}

pub(super) fn judge_errors(errors: &mut Errors, i: usize, slo: &Slo) {
    let at = |name: &str| format!("/slos/{i}/{name}");
    let (url, model) = (&slo.sli.url, &slo.sli.model);
    let says_pass = slo.objective == Objective::Pass;
    if !slo.has_judge() {
        errors.when(url.is_some(), at("sli/url"), "only a judge has an address");
        errors.when(model.is_some(), at("sli/model"), "only a judge has a model");
        errors.when(says_pass, at("objective"), "pass is for a judge");
        return;
    }
    errors.when(
        !says_pass,
        at("objective"),
        "of a judge must be \"pass\": it says more than a number does",
    );
    errors.when(
        url.is_none() && model.is_none(),
        at("sli/url"),
        "is missing: a judge has a url that is asked, or a model of Workers AI",
    );
    errors.when(
        url.is_some() && model.is_some(),
        at("sli/model"),
        "a judge has a url or a model; keep one of the two",
    );
    errors.when(
        model.as_deref().is_some_and(|name| !is_model(name)),
        at("sli/model"),
        "can't be the name of a model: @cf/<author>/<model> or @hf/<author>/<model>",
    );
}

impl Plan {
    /// Its judges that are addresses: where each is given, and the address.
    pub fn judge_urls(&self) -> impl Iterator<Item = (String, &str)> {
        let slos = self.slos.iter().enumerate();
        slos.filter_map(|(i, slo)| Some((format!("/slos/{i}/sli/url"), slo.sli.url.as_deref()?)))
    }

    pub(super) fn witness_errors(&self, errors: &mut Errors) {
        let judges = self.slos.iter().filter(|slo| slo.has_judge()).count();
        errors.when(
            judges > MAX_JUDGES,
            "/slos",
            format!("a plan has at most {MAX_JUDGES} judges"),
        );
        errors.when(
            judges > 0 && judges == self.slos.len(),
            "/slos",
            "a judge is a second witness: a plan needs an SLO that counts beside it",
        );
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pointers(slos: &Value) -> Vec<String> {
        let plan = json!({"worker": {"account_id": "a", "script_name": "shop"}, "check_interval": "30s",
            "stages": [{"percent": 100, "soak": "10m"}], "slos": slos});
        let plan: Plan = serde_json::from_value(plan).unwrap();
        let errors = plan.errors(1_000).into_iter();
        errors.map(|error| error.pointer).collect()
    }

    #[test]
    fn a_judge_is_an_address_or_a_model_beside_an_slo_that_counts() {
        let counts =
            json!({"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.1}});
        let model = "@cf/meta/llama-3.3-70b-instruct-fp8-fast";
        for (sli, objective, expected) in [
            (
                json!({"kind": "judge", "url": "https://judge.example.com"}),
                json!("pass"),
                None,
            ),
            (
                json!({"kind": "judge", "model": model}),
                json!("pass"),
                None,
            ),
            (
                json!({"kind": "judge"}),
                json!("pass"),
                Some("/slos/1/sli/url"),
            ),
            (
                json!({"kind": "judge", "url": "https://judge.example.com", "model": model}),
                json!("pass"),
                Some("/slos/1/sli/model"),
            ),
            (
                json!({"kind": "judge", "model": model}),
                json!({"max": 0.1}),
                Some("/slos/1/objective"),
            ),
            (
                json!({"kind": "error_rate"}),
                json!("pass"),
                Some("/slos/1/objective"),
            ),
            (
                json!({"kind": "error_rate", "model": model}),
                json!({"max": 0.1}),
                Some("/slos/1/sli/model"),
            ),
            (
                json!({"kind": "error_rate", "url": "https://judge.example.com"}),
                json!({"max": 0.1}),
                Some("/slos/1/sli/url"),
            ),
            (
                json!({"kind": "judge", "model": "@cf/../../x"}),
                json!("pass"),
                Some("/slos/1/sli/model"),
            ),
            (
                json!({"kind": "judge", "model": "@cf/a/b?c=d"}),
                json!("pass"),
                Some("/slos/1/sli/model"),
            ),
        ] {
            let judge = json!({"name": "judge", "sli": sli, "objective": objective});
            let found = pointers(&json!([counts, judge]));
            assert_eq!(found, expected.into_iter().collect::<Vec<_>>(), "{judge}");
        }
        let judge = |name: &str| json!({"name": name, "sli": {"kind": "judge", "model": model}, "objective": "pass"});
        assert_eq!(pointers(&json!([judge("alone")])), ["/slos"]);
        let four = json!([counts, judge("a"), judge("b"), judge("c"), judge("d")]);
        assert_eq!(pointers(&four), ["/slos"]);
    }
}
