//! Writing JSON, byte for byte as `serde_json` does, which has a writer of its own for values and another for texts, and in each
//! step asks whether it has failed: writing to a string can't.

use std::fmt::{self, Write as _};

use serde::Serialize;
use serde::ser::{
    Error, SerializeMap, SerializeSeq, SerializeStruct, SerializeStructVariant, SerializeTuple,
    SerializeTupleStruct, SerializeTupleVariant, Serializer,
};
use serde_json::{Number, Value};

/// A value as text.
pub fn text<T: Serialize + ?Sized>(value: &T) -> String {
    let mut writer = Writer(String::new());
    let Ok(()) = value.serialize(&mut writer);
    writer.0
}

/// The same as a value.
pub fn value<T: Serialize + ?Sized>(value: &T) -> Value {
    super::parse(&text(value)).unwrap_or_default()
}

/// A text that [`text`] wrote, over several lines, as `serde_json` has it.
#[must_use]
pub fn pretty(text: &str) -> String {
    let mut pretty = String::with_capacity(text.len() * 2);
    let (mut depth, mut is_quoted, mut is_escaped) = (0, false, false);
    let mut before = ' ';
    for char in text.chars() {
        if is_quoted {
            is_quoted = is_escaped || char != '"';
            is_escaped = !is_escaped && char == '\\';
            pretty.push(char);
        } else {
            let closes = matches!(char, '}' | ']');
            let is_open = matches!(before, '{' | '[');
            if closes {
                depth -= 1;
            }
            if (closes && !is_open) || (!closes && is_open) || before == ',' {
                pretty.push('\n');
                pretty.extend(std::iter::repeat_n("  ", depth));
            }
            pretty.push(char);
            match char {
                '{' | '[' => depth += 1,
                ':' => pretty.push(' '),
                '"' => is_quoted = true,
                _ => {}
            }
        }
        before = char;
    }
    pretty
}

struct Writer(String);

/// That something can't be written, which never is.
#[derive(Debug)]
enum Never {}

impl fmt::Display for Never {
    fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {}
    }
}

impl std::error::Error for Never {}

impl Error for Never {
    /// Only of what is no JSON by its type, such as a list whose fields are to stand beside a tag: no test gets by that.
    #[cold]
    fn custom<T: fmt::Display>(message: T) -> Self {
        panic!("{message}")
    }
}

impl Writer {
    fn quoted(&mut self, text: &str) {
        self.0.push('"');
        let mut start = 0;
        for (index, byte) in text.bytes().enumerate() {
            if byte >= b' ' && byte != b'"' && byte != b'\\' {
                continue;
            }
            self.0.push_str(&text[start..index]);
            start = index + 1;
            let short = match byte {
                b'"' | b'\\' => char::from(byte),
                b'\n' => 'n',
                b'\r' => 'r',
                b'\t' => 't',
                8 => 'b',
                12 => 'f',
                _ => {
                    self.plain(&format_args!("\\u{byte:04x}"));
                    continue;
                }
            };
            self.0.push('\\');
            self.0.push(short);
        }
        self.0.push_str(&text[start..]);
        self.0.push('"');
    }

    fn whole(&mut self, is_negative: bool, mut number: u64) {
        // The largest has so many digits.
        let mut digits = [b'0'; 20];
        let mut start = digits.len();
        loop {
            start -= 1;
            let digit = (number % 10) as u8;
            digits[start] += digit;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        if is_negative {
            self.0.push('-');
        }
        self.0
            .extend(digits[start..].iter().copied().map(char::from));
    }

    /// Anything else whose text is JSON.
    fn plain(&mut self, value: &dyn fmt::Display) {
        // Strings take all.
        let _ = write!(self.0, "{value}");
    }

    fn open(&mut self, bracket: char) -> Parts<'_> {
        self.0.push(bracket);
        Parts {
            writer: self,
            is_first: true,
            end: if bracket == '{' { "}" } else { "]" },
        }
    }

    /// An object of which the one field is the variant.
    fn open_variant(&mut self, variant: &str, bracket: char) -> Parts<'_> {
        self.open('{').field(variant);
        Parts {
            end: if bracket == '{' { "}}" } else { "]}" },
            ..self.open(bracket)
        }
    }
}

/// A list or an object in the making.
struct Parts<'a> {
    writer: &'a mut Writer,
    is_first: bool,
    end: &'static str,
}

impl Parts<'_> {
    fn next(&mut self) -> &mut Writer {
        if !std::mem::take(&mut self.is_first) {
            self.writer.0.push(',');
        }
        self.writer
    }

    fn field(&mut self, name: &str) -> &mut Writer {
        let writer = self.next();
        writer.quoted(name);
        writer.0.push(':');
        writer
    }

    fn close(self) {
        self.writer.0.push_str(self.end);
    }
}

macro_rules! signed {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<(), Never> {
            self.whole(value < 0, value.unsigned_abs().into());
            Ok(())
        })*
    };
}

macro_rules! unsigned {
    ($($method:ident: $type:ty,)*) => {
        $(fn $method(self, value: $type) -> Result<(), Never> {
            self.whole(false, value.into());
            Ok(())
        })*
    };
}

impl<'a> Serializer for &'a mut Writer {
    type Ok = ();
    type Error = Never;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    signed! {
        serialize_i8: i8,
        serialize_i16: i16,
        serialize_i32: i32,
        serialize_i64: i64,
    }

    unsigned! {
        serialize_u8: u8,
        serialize_u16: u16,
        serialize_u32: u32,
        serialize_u64: u64,
    }

    fn serialize_bool(self, value: bool) -> Result<(), Never> {
        self.0.push_str(if value { "true" } else { "false" });
        Ok(())
    }

    fn serialize_f32(self, value: f32) -> Result<(), Never> {
        self.serialize_f64(value.into())
    }

    fn serialize_f64(self, value: f64) -> Result<(), Never> {
        match Number::from_f64(value) {
            Some(number) => self.plain(&number),
            None => self.0.push_str("null"),
        }
        Ok(())
    }

    fn serialize_char(self, value: char) -> Result<(), Never> {
        self.serialize_str(value.encode_utf8(&mut [0; 4]))
    }

    fn serialize_str(self, value: &str) -> Result<(), Never> {
        self.quoted(value);
        Ok(())
    }

    fn serialize_bytes(self, value: &[u8]) -> Result<(), Never> {
        self.collect_seq(value)
    }

    fn serialize_none(self) -> Result<(), Never> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Never> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Never> {
        self.0.push_str("null");
        Ok(())
    }

    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Never> {
        self.serialize_unit()
    }

    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
    ) -> Result<(), Never> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Never> {
        let mut object = self.open('{');
        let Ok(()) = value.serialize(object.field(variant));
        object.close();
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Never> {
        Ok(self.open('['))
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Never> {
        Ok(self.open('['))
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Never> {
        Ok(self.open('['))
    }

    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Never> {
        Ok(self.open_variant(variant, '['))
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, Never> {
        Ok(self.open('{'))
    }

    fn serialize_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Never> {
        Ok(self.open('{'))
    }

    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Never> {
        Ok(self.open_variant(variant, '{'))
    }

    fn collect_str<T: fmt::Display + ?Sized>(self, value: &T) -> Result<(), Never> {
        self.quoted(&value.to_string());
        Ok(())
    }
}

macro_rules! lists {
    ($($trait:ident $method:ident,)*) => {
        $(impl $trait for Parts<'_> {
            type Ok = ();
            type Error = Never;

            fn $method<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Never> {
                value.serialize(self.next())
            }

            fn end(self) -> Result<(), Never> {
                self.close();
                Ok(())
            }
        })*
    };
}

lists! {
    SerializeSeq serialize_element,
    SerializeTuple serialize_element,
    SerializeTupleStruct serialize_field,
    SerializeTupleVariant serialize_field,
}

macro_rules! objects {
    ($($trait:ident,)*) => {
        $(impl $trait for Parts<'_> {
            type Ok = ();
            type Error = Never;

            fn serialize_field<T: Serialize + ?Sized>(
                &mut self,
                name: &'static str,
                value: &T,
            ) -> Result<(), Never> {
                value.serialize(self.field(name))
            }

            fn end(self) -> Result<(), Never> {
                self.close();
                Ok(())
            }
        })*
    };
}

objects! { SerializeStruct, SerializeStructVariant, }

impl SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Never;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Never> {
        let writer = self.next();
        let start = writer.0.len();
        let Ok(()) = key.serialize(&mut *writer);
        // Numbers are names, too.
        if !writer.0[start..].starts_with('"') {
            writer.0.insert(start, '"');
            writer.0.push('"');
        }
        writer.0.push(':');
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Never> {
        value.serialize(&mut *self.writer)
    }

    fn end(self) -> Result<(), Never> {
        self.close();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[derive(Serialize)]
    enum Shape {
        Nothing,
        Dot(f64),
        Pair(i8, Option<char>),
        Line { from: u64, to: Box<Shape> },
    }

    #[derive(Serialize)]
    #[serde(tag = "kind")]
    enum Tagged {
        Empty,
        Full { number: i64 },
    }

    #[derive(Serialize)]
    struct All {
        shapes: Vec<Shape>,
        tagged: (Tagged, Tagged),
        by_number: BTreeMap<u32, bool>,
        by_text: BTreeMap<String, Vec<u8>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        absent: Option<u8>,
        #[serde(flatten)]
        rest: Value,
    }

    #[test]
    fn what_is_written_is_what_serde_json_writes() {
        let all = All {
            shapes: vec![
                Shape::Nothing,
                Shape::Dot(-0.0),
                Shape::Dot(f64::NAN),
                Shape::Pair(-7, Some('"')),
                Shape::Pair(0, None),
                Shape::Line {
                    from: u64::MAX,
                    to: Box::new(Shape::Dot(1e300)),
                },
            ],
            tagged: (Tagged::Empty, Tagged::Full { number: i64::MIN }),
            by_number: BTreeMap::from([(1, true), (20, false)]),
            by_text: BTreeMap::from([("ä\u{1}\n".into(), vec![]), ("{\"\\".into(), vec![1, 2])]),
            absent: None,
            rest: json!({"list": [{}, [], [{}], ":,"], "last": {"a": {"b": null}}, "true": true}),
        };
        let written = text(&all);
        assert_eq!(written, serde_json::to_string(&all).unwrap());
        let indented = serde_json::to_string_pretty(&all).unwrap();
        assert_eq!(pretty(&written), indented);
        assert_eq!(value(&all), serde_json::to_value(&all).unwrap());
    }

    proptest! {
        #[test]
        fn so_is_every_text_and_number(text_ in any::<String>(), number in any::<f64>(), whole in any::<i64>()) {
            let all = (&text_, number, whole);
            prop_assert_eq!(text(&all), serde_json::to_string(&all).unwrap());
            let indented = serde_json::to_string_pretty(&all).unwrap();
            prop_assert_eq!(pretty(&text(&all)), indented);
        }
    }
}
