//! Reading request bodies strictly: every unknown field is named, and a wrong type is pointed at.

use ::http::{Request, header};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::problem::Problem;
use crate::json;
use crate::release::FieldError;

/// Reads a JSON body. `read_only`: top-level fields that answers carry and a request may therefore repeat.
///
/// # Errors
/// 415 for another content type, 400 for what is not JSON, 422 for what does not fit, with pointers.
pub fn json_body<T: DeserializeOwned>(
    request: &Request<Vec<u8>>,
    read_only: &[&str],
) -> Result<T, Problem> {
    let mut value = json_value(request)?;
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, _| !read_only.contains(&name.as_str()));
    }
    parse(&value).map_err(Problem::invalid)
}

/// The JSON of a body, whatever it is.
///
/// # Errors
/// 415 for another content type, 400 for what is not JSON.
pub fn json_value(request: &Request<Vec<u8>>) -> Result<Value, Problem> {
    let content_type = request
        .headers()
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("");
    let media_type = content_type.split(';').next().unwrap_or("").trim();
    if !media_type.eq_ignore_ascii_case("application/json") {
        let detail = format!("the body must be application/json, not {content_type:?}");
        return Err(Problem::new(415, "Unsupported media type", detail));
    }
    json::parse_bytes(request.body())
        .map_err(|error| Problem::new(400, "Not JSON", format!("the body is not JSON: {error}")))
}

/// Reads JSON strictly.
///
/// # Errors
/// Each field that is unknown, and the first that is wrong or missing.
pub fn parse<T: DeserializeOwned>(value: &Value) -> Result<T, Vec<FieldError>> {
    let (read, notes) = json::read_noting(value);
    let unknown = notes.unknown.into_iter().map(|pointer| FieldError {
        pointer,
        detail: "is not a field that is known here".to_owned(),
    });
    let mut errors: Vec<FieldError> = unknown.collect();
    match read {
        Ok(value) if errors.is_empty() => return Ok(value),
        Ok(_) => (),
        Err(error) => errors.push(wrong_field(&error, notes.wrong)),
    }
    Err(errors)
}

fn wrong_field(error: &serde_json::Error, mut pointer: String) -> FieldError {
    let detail = error.to_string();
    // serde says of a missing field only where it is missing; point at the place where it belongs.
    if let Some(field) = detail
        .strip_prefix("missing field `")
        .and_then(|rest| rest.split('`').next())
    {
        pointer += &json::step(field);
        let detail = "is missing".to_owned();
        return FieldError { pointer, detail };
    }
    // In the words of JSON, not of the program's types.
    let detail = if let Some(rest) = detail.strip_prefix("unknown variant ") {
        format!("is not known: {rest}")
    } else if let Some((found, _)) = detail.split_once(", expected struct ") {
        format!("is no object: {found}")
    } else {
        detail
    };
    FieldError { pointer, detail }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::release::Plan;

    fn plan() -> Value {
        json!({"worker": {"account_id": "a", "script_name": "s"}, "check_interval": "10s",
            "stages": [{"percent": 100, "soak": "1m"}],
            "slos": [{"name": "e", "sli": {"kind": "error_rate"}, "objective": {"max": 0.1}}]})
    }

    fn pointers(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut value = plan();
        change(&mut value);
        parse::<Plan>(&value)
            .unwrap_err()
            .into_iter()
            .map(|error| error.pointer)
            .collect()
    }

    #[test]
    fn every_unknown_field_is_named() {
        let found = pointers(|plan| {
            plan["soack"] = json!(1);
            plan["stages"][0]["advnace"] = json!("auto");
            plan["slos"][0]["a/b"] = json!(1);
        });
        assert_eq!(found.len(), 3, "{found:?}");
        for pointer in ["/soack", "/stages/0/advnace", "/slos/0/a~1b"] {
            assert!(found.contains(&pointer.to_owned()), "{found:?}");
        }
    }

    #[test]
    fn what_is_wrong_is_said_in_the_words_of_json() {
        let detail = |value: &Value| {
            let mut errors = parse::<Plan>(value).unwrap_err();
            errors.pop().unwrap().detail
        };
        assert_eq!(detail(&json!([])), "is no object: invalid type: sequence");
        let mut wrong = plan();
        wrong["slos"][0]["sli"]["kind"] = json!("error_rte");
        assert!(detail(&wrong).starts_with("is not known: `error_rte`, expected "));
        wrong["slos"][0]["sli"] = json!({});
        assert_eq!(detail(&wrong), "is missing");
    }

    #[test]
    fn wrong_types_and_missing_fields_are_pointed_at() {
        assert_eq!(
            pointers(|p| p["stages"][0]["percent"] = json!("ten")),
            ["/stages/0/percent"]
        );
        assert_eq!(
            pointers(|p| p["stages"][0]["soak"] = json!("soon")),
            ["/stages/0/soak"]
        );
        assert_eq!(
            pointers(|p| p["stages"][0] = json!({"percent": 100})),
            ["/stages/0/soak"]
        );
        assert_eq!(
            pointers(|p| p["slos"][0]["sli"]["kind"] = json!("happiness")),
            ["/slos/0/sli/kind"]
        );
        assert_eq!(
            pointers(|p| p["slos"][0]["severity"] = json!("fatal")),
            ["/slos/0/severity"]
        );
        assert_eq!(
            pointers(|p| p["slos"][0]["objective"] = json!({"max": "x"})),
            ["/slos/0/objective/max"]
        );
        assert!(
            pointers(|p| p["slos"][0]["objective"] = json!({"max": 0.1, "max_ms": 2}))[0]
                .starts_with("/slos/0/objective")
        );
    }
}
