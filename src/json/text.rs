//! JSON as it stands in a text: parsed once, by the one parser that the Worker has, and mostly borrowed, so that it costs little to
//! throw away again.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Error, Value};

/// A field of an object.
pub(super) type Pair<'a> = (Cow<'a, str>, Json<'a>);

/// A value.
pub(super) enum Json<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(Cow<'a, str>),
    List(Vec<Json<'a>>),
    /// In the order of the text, repeated names included.
    Object(Vec<Pair<'a>>),
}

/// Parses a text.
///
/// # Errors
/// What is no JSON.
pub(super) fn parse(text: &str) -> Result<Json<'_>, Error> {
    let mut parser = serde_json::Deserializer::from_str(text);
    let json = Any.deserialize(&mut parser)?;
    parser.end()?;
    Ok(json)
}

impl From<Json<'_>> for Value {
    fn from(json: Json<'_>) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(value),
            Json::Unsigned(number) => Self::Number(number.into()),
            Json::Signed(number) => Self::Number(number.into()),
            Json::Float(number) => Self::from(number),
            Json::Text(text) => Self::String(text.into_owned()),
            Json::List(items) => {
                let mut values = Vec::with_capacity(items.len());
                for item in items {
                    values.push(Self::from(item));
                }
                Self::Array(values)
            }
            Json::Object(pairs) => {
                let mut fields = serde_json::Map::new();
                for (name, value) in pairs {
                    fields.insert(name.into_owned(), Self::from(value));
                }
                Self::Object(fields)
            }
        }
    }
}

struct Any;

impl<'de> DeserializeSeed<'de> for Any {
    type Value = Json<'de>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Json<'de>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Any {
    type Value = Json<'de>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("any valid JSON value")
    }

    fn visit_unit<E>(self) -> Result<Json<'de>, E> {
        Ok(Json::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Json<'de>, E> {
        Ok(Json::Bool(value))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Json<'de>, E> {
        Ok(Json::Unsigned(number))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Json<'de>, E> {
        Ok(Json::Signed(number))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Json<'de>, E> {
        Ok(Json::Float(number))
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Json<'de>, E> {
        Ok(Json::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Json<'de>, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(Self)? {
            list.push(item);
        }
        Ok(Json::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Json<'de>, A::Error> {
        let mut pairs = Vec::new();
        while let Some(name) = fields.next_key_seed(Name)? {
            pairs.push((name, fields.next_value_seed(Self)?));
        }
        Ok(Json::Object(pairs))
    }
}

/// The name of a field.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string key")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(text.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_read_is_what_serde_json_reads() {
        for text in [
            "null",
            " [true, false, null]",
            "[0, 1, -1, 1.5, -0.0, 1e300, 18446744073709551615, -9223372036854775808, 18446744073709551616]",
            r#"{"a": "b\n\u00fc\ud83d\ude00", "\"": {}, "c": [[], {}]}"#,
            r#"{"a": 1, "a": 2}"#,
        ] {
            let wanted: Value = serde_json::from_str(text).unwrap();
            assert_eq!(Value::from(parse(text).unwrap()), wanted, "{text}");
        }
        for text in [
            "",
            "nul",
            "[1,]",
            "{\"a\" 1}",
            "1 2",
            "\"\\x\"",
            "[1e999]",
            &"[".repeat(200),
        ] {
            let wanted = serde_json::from_str::<Value>(text).unwrap_err();
            let error = parse(text).err().unwrap();
            assert_eq!(error.to_string(), wanted.to_string(), "{text}");
        }
    }

    #[test]
    fn plain_text_is_borrowed() {
        let text = r#"{"a": "b"}"#;
        let Json::Object(pairs) = parse(text).unwrap() else {
            panic!("an object");
        };
        assert!(matches!(
            pairs[..],
            [(Cow::Borrowed("a"), Json::Text(Cow::Borrowed("b")))]
        ));
    }

    proptest! {
        #[test]
        fn every_number_stays_as_it_is(number in any::<f64>(), whole in any::<i64>()) {
            let text = json!([number, whole]).to_string();
            let wanted: Value = serde_json::from_str(&text).unwrap();
            prop_assert_eq!(Value::from(parse(&text).unwrap()), wanted);
        }
    }
}
