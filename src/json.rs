//! Reading JSON that has been taken apart already, by one deserializer for everything that is not read often: what a type's
//! reader is made of is then in the Worker once. It tells which fields nobody knows, and points at the one that is wrong,
//! which would otherwise take two layers of deserializers around each type.

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, IntoDeserializer,
    MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Error, Value};

/// What was found out while reading.
#[derive(Debug, Default)]
pub struct Notes {
    /// JSON pointers to fields that are not known.
    pub unknown: Vec<String>,
    /// The JSON pointer to the value that is wrong, or that lacks something.
    pub wrong: String,
}

/// Reads a value, and notes what is odd about it.
pub fn read_noting<T: DeserializeOwned>(value: &Value) -> (Result<T, Error>, Notes) {
    let found = RefCell::new(Found::default());
    let read = T::deserialize(Reader {
        value,
        at: At::Root,
        found: &found,
    });
    let Found { unknown, wrong } = found.into_inner();
    let wrong = wrong.unwrap_or_default();
    (read, Notes { unknown, wrong })
}

/// Reads a value; fields that are not known are of a newer writer that means the same.
///
/// # Errors
/// What does not fit.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    read_noting(value).0
}

/// The same from text.
///
/// # Errors
/// What is no JSON, or does not fit.
pub fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    read(&serde_json::from_str(text)?)
}

/// One step of a JSON pointer.
pub fn step(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

#[derive(Default)]
struct Found {
    unknown: Vec<String>,
    wrong: Option<String>,
}

/// Where a value is.
#[derive(Clone, Copy)]
enum At<'a> {
    Root,
    Field(&'a At<'a>, &'a str),
    Item(&'a At<'a>, usize),
}

impl At<'_> {
    fn pointer(self) -> String {
        match self {
            Self::Root => String::new(),
            Self::Field(parent, name) => parent.pointer() + &step(name),
            Self::Item(parent, index) => parent.pointer() + &step(&index.to_string()),
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    value: &'a Value,
    at: At<'a>,
    found: &'a RefCell<Found>,
}

impl Reader<'_> {
    /// Reads it, and notes its place if nothing within it is the culprit.
    fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let read = seed.deserialize(self);
        if read.is_err() {
            let mut found = self.found.borrow_mut();
            found.wrong.get_or_insert_with(|| self.at.pointer());
        }
        read
    }

    fn unexpected(&self) -> Unexpected<'_> {
        match self.value {
            Value::Null => Unexpected::Unit,
            Value::Bool(value) => Unexpected::Bool(*value),
            Value::Number(number) => {
                let other = || Unexpected::Float(number.as_f64().unwrap_or(f64::NAN));
                let signed = number.as_i64().map(Unexpected::Signed);
                let unsigned = number.as_u64().map(Unexpected::Unsigned);
                unsigned.or(signed).unwrap_or_else(other)
            }
            Value::String(text) => Unexpected::Str(text),
            Value::Array(_) => Unexpected::Seq,
            Value::Object(_) => Unexpected::Map,
        }
    }
}

impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            Value::Number(number) => {
                if let Some(number) = number.as_u64() {
                    visitor.visit_u64(number)
                } else if let Some(number) = number.as_i64() {
                    visitor.visit_i64(number)
                } else {
                    visitor.visit_f64(number.as_f64().unwrap_or(f64::NAN))
                }
            }
            Value::String(text) => visitor.visit_str(text),
            Value::Array(items) => {
                let mut left = Items {
                    of: self,
                    values: items,
                    next: 0,
                };
                let read = visitor.visit_seq(&mut left)?;
                if left.next < items.len() {
                    return Err(Error::invalid_length(
                        items.len(),
                        &"fewer elements in array",
                    ));
                }
                Ok(read)
            }
            Value::Object(fields) => visitor.visit_map(Fields {
                of: self,
                pairs: fields.iter(),
                value: None,
            }),
        }
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let (name, content) = match self.value {
            Value::String(name) => (name, None),
            Value::Object(fields) => match fields.iter().next() {
                Some((name, content)) if fields.len() == 1 => (name, Some(content)),
                _ => {
                    let expected = &"map with a single key";
                    return Err(Error::invalid_value(Unexpected::Map, expected));
                }
            },
            _ => return Err(Error::invalid_type(self.unexpected(), &"string or map")),
        };
        visitor.visit_enum(Variant {
            name,
            content: content.map(|value| Reader {
                value,
                at: At::Field(&self.at, name),
                found: self.found,
            }),
        })
    }

    /// Whoever ignores a value does not know its field.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.found.borrow_mut().unknown.push(self.at.pointer());
        visitor.visit_unit()
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier
    }
}

struct Items<'a> {
    of: Reader<'a>,
    values: &'a [Value],
    next: usize,
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(value) = self.values.get(self.next) else {
            return Ok(None);
        };
        let item = Reader {
            value,
            at: At::Item(&self.of.at, self.next),
            found: self.of.found,
        };
        self.next += 1;
        item.read(seed).map(Some)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.values.len() - self.next)
    }
}

struct Fields<'a> {
    of: Reader<'a>,
    pairs: serde_json::map::Iter<'a>,
    value: Option<(&'a str, &'a Value)>,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some((name, value)) = self.pairs.next() else {
            return Ok(None);
        };
        self.value = Some((name, value));
        seed.deserialize(key(name)).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((name, value)) = self.value.take() else {
            return Err(Error::custom("a value without a key"));
        };
        let field = Reader {
            value,
            at: At::Field(&self.of.at, name),
            found: self.of.found,
        };
        field.read(seed)
    }
}

fn key(name: &str) -> StrDeserializer<'_, Error> {
    name.into_deserializer()
}

struct Variant<'a> {
    name: &'a str,
    content: Option<Reader<'a>>,
}

impl<'de, 'a> EnumAccess<'de> for Variant<'a> {
    type Error = Error;
    type Variant = Content<'a>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Content<'a>), Error> {
        Ok((seed.deserialize(key(self.name))?, Content(self.content)))
    }
}

/// What a variant holds, if it holds something.
struct Content<'a>(Option<Reader<'a>>);

impl<'a> Content<'a> {
    fn reader(self) -> Result<Reader<'a>, Error> {
        let nothing = || Error::invalid_type(Unexpected::UnitVariant, &"a variant with content");
        self.0.ok_or_else(nothing)
    }
}

impl<'de> VariantAccess<'de> for Content<'_> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.0.map_or(Ok(()), <()>::deserialize)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.reader()?.read(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.reader()?.deserialize_any(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.reader()?.deserialize_any(visitor)
    }
}
