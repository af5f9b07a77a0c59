//! Reading JSON, by one parser and one deserializer for everything: what a type's reader is made of is then in the Worker once.
//! It tells which fields nobody knows, and points at the one that is wrong, which would otherwise take two layers of
//! deserializers around each type. An object is never read from a list, which is what derived readers take, too. And writing it.

mod text;
mod write;

use std::cell::RefCell;

use serde::de::value::StrDeserializer;
use serde::de::{
    DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected,
    IntoDeserializer, MapAccess, SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::{Error, Value};

use text::Json;

pub use write::{pretty, text, value};

/// How the name (for serde) of an enum begins whose variants a field tells apart, which is named after that: the rest of the
/// object is the variant's content. serde's own way (`tag`) copies the object first, and has a second reader for each type in it.
const TAGGED_BY: &str = "tagged by ";

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
    let read = T::deserialize(Reader::new(Node::Value(value), Some(&found)));
    let Found { unknown, wrong } = found.into_inner();
    let wrong = wrong.unwrap_or_default();
    (read, Notes { unknown, wrong })
}

/// Reads a value; fields that are not known are of a newer writer that means the same.
///
/// # Errors
/// What does not fit.
pub fn read<T: DeserializeOwned>(value: &Value) -> Result<T, Error> {
    T::deserialize(Reader::new(Node::Value(value), None))
}

/// The same from text.
///
/// # Errors
/// What is no JSON, or does not fit.
pub fn read_text<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    let json = text::parse(text)?;
    T::deserialize(Reader::new(Node::Json(&json), None))
}

/// JSON of any kind.
///
/// # Errors
/// What is no JSON.
pub fn parse(text: &str) -> Result<Value, Error> {
    Ok(text::parse(text)?.into())
}

/// The same from bytes.
///
/// # Errors
/// What is no JSON.
pub fn parse_bytes(bytes: &[u8]) -> Result<Value, Error> {
    parse(std::str::from_utf8(bytes).map_err(Error::custom)?)
}

/// One step of a JSON pointer.
#[must_use]
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

/// A value of either kind.
#[derive(Clone, Copy)]
enum Node<'a> {
    /// One that was changed on its way, or asks to be looked at twice.
    Value(&'a Value),
    /// One that was parsed to be read, and borrows from the text.
    Json(&'a Json<'a>),
    /// A field that is not there.
    Absent,
}

/// What a value is, of either kind.
enum Kind<'a> {
    Null,
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Float(f64),
    Text(&'a str),
    List(List<'a>),
    Object(Object<'a>),
    Absent,
}

#[derive(Clone, Copy)]
enum List<'a> {
    Values(&'a [Value]),
    Json(&'a [Json<'a>]),
}

#[derive(Clone, Copy)]
enum Object<'a> {
    Values(&'a serde_json::Map<String, Value>),
    Json(&'a [text::Pair<'a>]),
}

enum Pairs<'a> {
    Values(serde_json::map::Iter<'a>),
    Json(std::slice::Iter<'a, text::Pair<'a>>),
}

impl<'a> Node<'a> {
    fn kind(self) -> Kind<'a> {
        match self {
            Self::Value(value) => match value {
                Value::Null => Kind::Null,
                Value::Bool(value) => Kind::Bool(*value),
                Value::Number(number) => {
                    if let Some(number) = number.as_u64() {
                        Kind::Unsigned(number)
                    } else if let Some(number) = number.as_i64() {
                        Kind::Signed(number)
                    } else {
                        Kind::Float(number.as_f64().unwrap_or(f64::NAN))
                    }
                }
                Value::String(text) => Kind::Text(text),
                Value::Array(items) => Kind::List(List::Values(items)),
                Value::Object(fields) => Kind::Object(Object::Values(fields)),
            },
            Self::Json(json) => match json {
                Json::Null => Kind::Null,
                Json::Bool(value) => Kind::Bool(*value),
                Json::Unsigned(number) => Kind::Unsigned(*number),
                Json::Signed(number) => Kind::Signed(*number),
                Json::Float(number) => Kind::Float(*number),
                Json::Text(text) => Kind::Text(text),
                Json::List(items) => Kind::List(List::Json(items)),
                Json::Object(pairs) => Kind::Object(Object::Json(pairs)),
            },
            Self::Absent => Kind::Absent,
        }
    }
}

impl<'a> List<'a> {
    fn len(self) -> usize {
        match self {
            Self::Values(items) => items.len(),
            Self::Json(items) => items.len(),
        }
    }

    fn get(self, index: usize) -> Option<Node<'a>> {
        match self {
            Self::Values(items) => items.get(index).map(Node::Value),
            Self::Json(items) => items.get(index).map(Node::Json),
        }
    }
}

impl<'a> Object<'a> {
    fn pairs(self) -> Pairs<'a> {
        match self {
            Self::Values(fields) => Pairs::Values(fields.iter()),
            Self::Json(pairs) => Pairs::Json(pairs.iter()),
        }
    }

    /// The value of that name, and where to look for the next: most texts have the fields in the order of their type.
    fn get(self, name: &str, start: usize) -> Option<(Node<'a>, usize)> {
        match self {
            Self::Values(fields) => Some((Node::Value(fields.get(name)?), 0)),
            Self::Json(pairs) => {
                let start = start.min(pairs.len());
                let of_name = |(known, _): &text::Pair<'_>| known == name;
                let index = match pairs[start..].iter().position(of_name) {
                    Some(further) => start + further,
                    None => pairs[..start].iter().position(of_name)?,
                };
                Some((Node::Json(&pairs[index].1), index + 1))
            }
        }
    }
}

impl<'a> Iterator for Pairs<'a> {
    type Item = (&'a str, Node<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        match self {
            Self::Values(pairs) => {
                let (name, value) = pairs.next()?;
                Some((name, Node::Value(value)))
            }
            Self::Json(pairs) => {
                let (name, value) = pairs.next()?;
                Some((name, Node::Json(value)))
            }
        }
    }
}

#[derive(Clone, Copy)]
struct Reader<'a> {
    node: Node<'a>,
    at: At<'a>,
    /// Where what is odd is noted, if somebody wants to know.
    found: Option<&'a RefCell<Found>>,
    /// A field that is no part of the content: it said of which variant this is the content.
    tag: Option<&'static str>,
}

impl<'a> Reader<'a> {
    fn new(node: Node<'a>, found: Option<&'a RefCell<Found>>) -> Self {
        Self {
            node,
            at: At::Root,
            found,
            tag: None,
        }
    }

    /// Reads it, and notes its place if nothing within it is the culprit.
    fn read<'de, S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let read = seed.deserialize(self);
        if read.is_err() {
            self.note_wrong();
        }
        read
    }

    #[cold]
    #[inline(never)]
    fn note_wrong(self) {
        if let Some(found) = self.found {
            let mut found = found.borrow_mut();
            found.wrong.get_or_insert_with(|| self.at.pointer());
        }
    }

    #[cold]
    #[inline(never)]
    fn mismatch(self, expected: &dyn Expected) -> Error {
        let unexpected = match self.node.kind() {
            Kind::Null => Unexpected::Unit,
            Kind::Bool(value) => Unexpected::Bool(value),
            Kind::Unsigned(number) => Unexpected::Unsigned(number),
            Kind::Signed(number) => Unexpected::Signed(number),
            Kind::Float(number) => Unexpected::Float(number),
            Kind::Text(text) => Unexpected::Str(text),
            Kind::List(_) => Unexpected::Seq,
            Kind::Object(_) => Unexpected::Map,
            Kind::Absent => return Error::custom(""),
        };
        Error::invalid_type(unexpected, expected)
    }

    fn text(self, expected: &dyn Expected) -> Result<&'a str, Error> {
        match self.node.kind() {
            Kind::Text(text) => Ok(text),
            _ => Err(self.mismatch(expected)),
        }
    }

    fn items(&self, expected: &dyn Expected) -> Result<Items<'_>, Error> {
        match self.node.kind() {
            Kind::List(list) => Ok(Items::new(self, Parts::List(list))),
            _ => Err(self.mismatch(expected)),
        }
    }

    /// The values of these fields, in this order.
    fn ordered(
        &self,
        names: &'static [&'static str],
        expected: &dyn Expected,
    ) -> Result<Items<'_>, Error> {
        match self.node.kind() {
            Kind::Object(object) => {
                self.check_names(object, names)?;
                Ok(Items::new(self, Parts::Fields(object, names)))
            }
            _ => Err(self.mismatch(expected)),
        }
    }

    /// Refuses a text that names a known field twice, and notes those that are not known.
    fn check_names(&self, object: Object<'a>, names: &'static [&'static str]) -> Result<(), Error> {
        for (index, (name, node)) in object.pairs().enumerate() {
            let known = names.iter().find(|known| **known == name);
            if let Some(known) = known {
                // Of a value each name is there once.
                if let Object::Json(pairs) = object
                    && pairs[..index].iter().any(|(before, _)| before == name)
                {
                    return Err(Error::duplicate_field(known));
                }
            } else if self.tag != Some(name) {
                let at = At::Field(&self.at, name);
                Reader { node, at, ..*self }.note_unknown();
            }
        }
        Ok(())
    }

    fn fields(&self, expected: &dyn Expected) -> Result<Fields<'_>, Error> {
        match self.node.kind() {
            Kind::Object(object) => Ok(Fields {
                of: self,
                tag: self.tag,
                pairs: object.pairs(),
                value: None,
            }),
            _ => Err(self.mismatch(expected)),
        }
    }

    /// Name and content of an enum's variant.
    fn variant<'s>(&'s self, enum_name: &'static str) -> Result<Variant<'s>, Error> {
        if let Some(tag) = enum_name.strip_prefix(TAGGED_BY) {
            let fields = self.fields(&"map")?;
            let found = fields.pairs.into_iter().find(|(name, _)| *name == tag);
            let (_, name) = found.ok_or_else(|| Error::missing_field(tag))?;
            let Kind::Text(name) = name.kind() else {
                return Err(Error::custom(format!("{tag} must be a string")));
            };
            let content = Reader {
                tag: Some(tag),
                ..*self
            };
            return Ok(Variant {
                name,
                content: Some(content),
            });
        }
        let expected: &dyn Expected = &"string or map";
        match self.node.kind() {
            Kind::Text(name) => Ok(Variant {
                name,
                content: None,
            }),
            Kind::Object(object) => {
                let mut pairs = object.pairs();
                let (Some((name, node)), None) = (pairs.next(), pairs.next()) else {
                    let expected = &"map with a single key";
                    return Err(Error::invalid_value(Unexpected::Map, expected));
                };
                Ok(Variant {
                    name,
                    content: Some(Reader {
                        node,
                        at: At::Field(&self.at, name),
                        found: self.found,
                        tag: None,
                    }),
                })
            }
            _ => Err(self.mismatch(expected)),
        }
    }

    fn note_unknown(self) {
        if let Some(found) = self.found {
            found.borrow_mut().unknown.push(self.at.pointer());
        }
    }
}

/// Each kind of value asks the visitor for that kind alone: what a visitor would make of the others is then not in the Worker.
impl<'de> Deserializer<'de> for Reader<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind() {
            Kind::Null => visitor.visit_unit(),
            Kind::Bool(value) => visitor.visit_bool(value),
            Kind::Unsigned(number) => visitor.visit_u64(number),
            Kind::Signed(number) => visitor.visit_i64(number),
            Kind::Float(number) => visitor.visit_f64(number),
            Kind::Text(text) => visitor.visit_str(text),
            Kind::List(_) => self.deserialize_seq(visitor),
            Kind::Object(_) => self.deserialize_map(visitor),
            Kind::Absent => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind() {
            Kind::Bool(value) => visitor.visit_bool(value),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_i64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind() {
            Kind::Unsigned(number) => visitor.visit_u64(number),
            Kind::Signed(number) => visitor.visit_i64(number),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind() {
            Kind::Unsigned(number) => visitor.visit_u64(number),
            Kind::Signed(number) => visitor.visit_i64(number),
            Kind::Float(number) => visitor.visit_f64(number),
            _ => Err(self.mismatch(&visitor)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let text = self.text(&visitor)?;
        visitor.visit_str(text)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let items = self.items(&visitor)?;
        items.visit(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let fields = self.fields(&visitor)?;
        visitor.visit_map(fields)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.kind() {
            Kind::Null | Kind::Absent => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        // Else one of an `Option` would be there with nothing in it.
        if matches!(self.node, Node::Absent) {
            return Err(self.mismatch(&visitor));
        }
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        _variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = self.variant(name)?;
        visitor.visit_enum(variant)
    }

    /// Whoever ignores a value does not know its field.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.note_unknown();
        visitor.visit_unit()
    }

    fn deserialize_i8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_i32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u8<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u16<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_i64(visitor)
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _length: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    /// As a list of its fields in the order of the type: what a derived reader makes of that is half as large as what it makes of
    /// names and values in any order.
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let items = self.ordered(fields, &visitor)?;
        items.visit(visitor)
    }

    forward_to_deserialize_any! {
        i128 u128 char bytes byte_buf unit unit_struct tuple_struct
    }
}

/// What is read in a fixed order.
#[derive(Clone, Copy)]
enum Parts<'a> {
    List(List<'a>),
    /// The fields of a type.
    Fields(Object<'a>, &'static [&'static str]),
}

struct Items<'a> {
    of: &'a Reader<'a>,
    parts: Parts<'a>,
    next: usize,
    /// Where in an object the field after the last one may be.
    start: usize,
    /// The newest field, if it is absent and something must be there.
    missing: Option<&'static str>,
}

impl<'a> Items<'a> {
    fn new(of: &'a Reader<'a>, parts: Parts<'a>) -> Self {
        Self {
            of,
            parts,
            next: 0,
            start: 0,
            missing: None,
        }
    }

    fn visit<'de, V: Visitor<'de>>(mut self, visitor: V) -> Result<V::Value, Error> {
        let read = visitor.visit_seq(&mut self);
        match self.finish(read.is_ok()) {
            Some(error) => Err(error),
            None => read,
        }
    }

    fn take(&mut self) -> Option<Reader<'a>> {
        let (node, at) = match self.parts {
            Parts::List(list) => {
                let at = At::Item(&self.of.at, self.next);
                (list.get(self.next)?, at)
            }
            Parts::Fields(object, names) => {
                let name = *names.get(self.next)?;
                self.missing = None;
                let mut node = Node::Absent;
                if let Some((found, start)) = object.get(name, self.start) {
                    (node, self.start) = (found, start);
                }
                (node, At::Field(&self.of.at, name))
            }
        };
        self.next += 1;
        Some(Reader {
            node,
            at,
            found: self.of.found,
            tag: None,
        })
    }

    /// What to make of a part that can't be read: of a field that is absent, that its type has no word for that.
    #[cold]
    #[inline(never)]
    fn not_read(&mut self, part: Reader<'_>, error: Error) -> Result<(), Error> {
        if let (Node::Absent, Parts::Fields(_, names)) = (part.node, self.parts) {
            self.missing = names.get(self.next - 1).copied();
            return Ok(());
        }
        part.note_wrong();
        Err(error)
    }

    /// What is wrong with the whole, in better words than the visitor's if it gave up.
    fn finish(&self, is_read: bool) -> Option<Error> {
        match self.parts {
            Parts::List(list) if is_read && self.next < list.len() => {
                let expected = &"fewer elements in array";
                Some(Error::invalid_length(list.len(), expected))
            }
            Parts::Fields(..) if !is_read => self.missing.map(Error::missing_field),
            _ => None,
        }
    }
}

impl<'de> SeqAccess<'de> for &mut Items<'_> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let Some(part) = self.take() else {
            return Ok(None);
        };
        match seed.deserialize(part) {
            Ok(value) => Ok(Some(value)),
            Err(error) => self.not_read(part, error).map(|()| None),
        }
    }

    fn size_hint(&self) -> Option<usize> {
        match self.parts {
            Parts::List(list) => Some(list.len() - self.next),
            Parts::Fields(..) => None,
        }
    }
}

struct Fields<'a> {
    of: &'a Reader<'a>,
    tag: Option<&'static str>,
    pairs: Pairs<'a>,
    value: Option<(&'a str, Node<'a>)>,
}

impl<'a> Fields<'a> {
    fn take_name(&mut self) -> Option<&'a str> {
        let tag = self.tag;
        self.value = self.pairs.find(|(name, _)| tag != Some(*name));
        self.value.map(|(name, _)| name)
    }

    fn take_value(&mut self) -> Result<Reader<'a>, Error> {
        let Some((name, node)) = self.value.take() else {
            return Err(Error::custom("a value without a key"));
        };
        Ok(Reader {
            node,
            at: At::Field(&self.of.at, name),
            found: self.of.found,
            tag: None,
        })
    }
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        match self.take_name() {
            Some(name) => seed.deserialize(key(name)).map(Some),
            None => Ok(None),
        }
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.take_value()?.read(seed)
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
        match self.0 {
            // Fields beside the tag are of a newer writer.
            Some(Reader { tag: Some(_), .. }) | None => Ok(()),
            Some(reader) => <()>::deserialize(reader),
        }
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.reader()?.read(seed)
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.reader()?.deserialize_seq(visitor)
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.reader()?.deserialize_struct("", fields, visitor)
    }
}

#[cfg(test)]
mod tests;
