//! Schemas for people: tables of fields and values as HTML.

use std::fmt::Write as _;

use serde_json::{Map, Value};

use super::components::PREFIX;

/// Text as HTML; what stands between backticks is code, and between two stars strong.
#[must_use]
pub fn html(text: &str) -> String {
    let escaped = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;");
    let mut parts = escaped.split('`');
    let mut out = parts.next().unwrap_or_default().to_owned();
    for (i, part) in parts.enumerate() {
        out.push_str(if i % 2 == 0 { "<code>" } else { "</code>" });
        out.push_str(part);
    }
    out
}

/// What a schema allows, in few words, with links to named schemas.
#[must_use]
pub fn type_text(schema: &Value) -> String {
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.trim_start_matches(PREFIX);
        return format!("<a href=\"#schema-{name}\">{name}</a>");
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(options) = schema[key].as_array() {
            return options
                .iter()
                .map(type_text)
                .collect::<Vec<_>>()
                .join(" or ");
        }
    }
    if let Some(constant) = schema.get("const") {
        return format!("<code>{}</code>", html(&constant.to_string()));
    }
    if let Some(values) = schema["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .map(|value| format!("<code>{}</code>", html(&value.to_string())))
            .collect();
        return values.join(", ");
    }
    let names: Vec<&str> = match &schema["type"] {
        Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
        Value::String(name) => vec![name.as_str()],
        _ => vec!["anything"],
    };
    let texts: Vec<String> = names
        .into_iter()
        .map(|name| match name {
            "array" => format!("list of {}", type_text(&schema["items"])),
            "string" if schema["format"] == "date-time" => "time (RFC 3339)".to_owned(),
            other => other.to_owned(),
        })
        .collect();
    texts.join(" or ") + &limits(schema)
}

fn limits(schema: &Value) -> String {
    let mut limits = Vec::new();
    let bounds = [
        ("minimum", "maximum", ""),
        ("minLength", "maxLength", " characters"),
        ("minItems", "maxItems", " items"),
    ];
    for (least, most, unit) in bounds {
        match (schema.get(least), schema.get(most)) {
            // Every unsigned integer has this one.
            (Some(least), None) if least.as_f64() == Some(0.0) => (),
            (Some(least), None) => limits.push(format!("at least {least}{unit}")),
            (None, Some(most)) => limits.push(format!("at most {most}{unit}")),
            (Some(least), Some(most)) => limits.push(format!("{least} to {most}{unit}")),
            (None, None) => (),
        }
    }
    if let Some(pattern) = schema["pattern"].as_str().filter(|it| it.len() < 60) {
        limits.push(format!("matches <code>{}</code>", html(pattern)));
    }
    if limits.is_empty() {
        return String::new();
    }
    format!(", {}", limits.join(", "))
}

/// A named schema as a section with its fields or values.
#[must_use]
pub fn section(name: &str, schema: &Value) -> String {
    let mut out = format!("<section id=\"schema-{name}\"><h3>{name}</h3>\n");
    if let Some(description) = schema["description"].as_str() {
        let _ = writeln!(out, "<p>{}</p>", html(description));
    }
    if let Some(properties) = schema["properties"].as_object() {
        out += &table(properties, schema);
    } else if let Some(options) = schema["oneOf"].as_array() {
        out += "<dl>\n";
        for option in options {
            out += &one_of(option);
        }
        out += "</dl>\n";
    } else {
        let _ = writeln!(out, "<p>{}</p>", type_text(schema));
    }
    // Whole objects are shown where they are used.
    let examples = schema["examples"].as_array();
    if let Some(examples) = examples.filter(|examples| !examples[0].is_object()) {
        let examples: Vec<String> = examples
            .iter()
            .map(|example| format!("<code>{}</code>", html(&example.to_string())))
            .collect();
        let _ = writeln!(out, "<p>Examples: {}</p>", examples.join(", "));
    }
    out + "</section>\n"
}

/// A value of an enum, or an object with one field of several.
fn one_of(option: &Value) -> String {
    let described = html(option["description"].as_str().unwrap_or_default());
    if let Some((name, field)) = option["properties"]
        .as_object()
        .and_then(|properties| properties.iter().next())
    {
        return format!(
            "<dt><code>{{&quot;{name}&quot;: …}}</code> <small>{}</small></dt><dd>{described}</dd>\n",
            type_text(field)
        );
    }
    if let Some(values) = option["enum"].as_array() {
        let values: Vec<String> = values
            .iter()
            .map(|value| format!("<code>{}</code>", html(&value.to_string())))
            .collect();
        return format!("<dt>{}</dt><dd>{described}</dd>\n", values.join(", "));
    }
    format!("<dt>{}</dt><dd>{described}</dd>\n", type_text(option))
}

fn table(properties: &Map<String, Value>, schema: &Value) -> String {
    let required = |name: &str| {
        schema["required"]
            .as_array()
            .is_some_and(|names| names.iter().any(|known| known == name))
    };
    let mut fields: Vec<(&String, &Value)> = properties.iter().collect();
    // Who writes one wants to know first what can't be left out.
    fields.sort_by_key(|(name, field)| (field["readOnly"] == true, !required(name)));
    let mut out = String::from("<dl>\n");
    for (name, field) in fields {
        let mut notes = vec![type_text(field)];
        if field["readOnly"] == true {
            notes.push("ignored in requests".to_owned());
        } else if required(name) {
            notes.push("<b>required</b>".to_owned());
        }
        if let Some(default) = field.get("default") {
            notes.push(format!(
                "default <code>{}</code>",
                html(&default.to_string())
            ));
        }
        let _ = writeln!(
            out,
            "<dt><code>{name}</code> <small>{}</small></dt><dd>{}</dd>",
            notes.join("; "),
            html(field["description"].as_str().unwrap_or_default())
        );
    }
    out + "</dl>\n"
}
