//! Filters of telemetry queries: leaves, and groups of them.

use std::cmp::Ordering;

use regex::Regex;
use serde_json::Value as Json;

use super::fields::{Key, Row, Type, Value};
use super::worker::Worker;

/// Groups may be nested this deep.
const MAX_DEPTH: usize = 4;

/// A filter, ready to be asked about events.
#[derive(Debug, Clone)]
pub(super) enum Filter {
    All(Vec<Filter>),
    Any(Vec<Filter>),
    /// The key's value must pass the test; an event without the key does not.
    Leaf(Key, Test),
    /// The key must be absent.
    Absent(Key),
    /// Unknown keys, and keys of another type: no event passes.
    Never,
}

/// What a value must be like.
#[derive(Debug, Clone)]
pub(super) enum Test {
    Exists,
    Compare(Comparison, Operand),
    /// Among these, or (`false`) not among them.
    Among(bool, Vec<Operand>),
    /// A text that has this (`false`: has not) in this place.
    Text(bool, Place, String),
    /// A text that the pattern is found in.
    Pattern(Regex),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Anywhere,
    Start,
    End,
}

/// The value a filter compares with.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Operand {
    Text(String),
    Number(f64),
    Flag(bool),
}

impl Filter {
    /// Reads the filters of a query and how they combine (`and` if not said).
    ///
    /// # Errors
    /// What is wrong with them, in words.
    pub fn parse(filters: Option<&Json>, combination: Option<&Json>) -> Result<Self, String> {
        Self::parse_group(filters, combination, 0)
    }

    fn parse_group(
        filters: Option<&Json>,
        combination: Option<&Json>,
        depth: usize,
    ) -> Result<Self, String> {
        if depth > MAX_DEPTH {
            return Err(format!("filter groups nest at most {MAX_DEPTH} deep"));
        }
        let nodes = match filters {
            None => &[],
            Some(filters) => filters
                .as_array()
                .ok_or("filters must be an array")?
                .as_slice(),
        };
        let nodes = nodes.iter().map(|node| Self::parse_node(node, depth));
        let nodes: Vec<Self> = nodes.collect::<Result<_, _>>()?;
        match combination.map(Json::as_str) {
            None | Some(Some("and" | "AND")) => Ok(Self::All(nodes)),
            // Without any filter there is nothing that an event could fail.
            Some(Some("or" | "OR")) if nodes.is_empty() => Ok(Self::All(nodes)),
            Some(Some("or" | "OR")) => Ok(Self::Any(nodes)),
            _ => Err("filterCombination must be and, or".to_owned()),
        }
    }

    fn parse_node(node: &Json, depth: usize) -> Result<Self, String> {
        if node["kind"] == "group" {
            return Self::parse_group(
                node.get("filters"),
                node.get("filterCombination"),
                depth + 1,
            );
        }
        let name = node["key"].as_str().ok_or("a filter needs a key")?;
        let declared: Type = serde_json::from_value(node["type"].clone())
            .map_err(|_| format!("the type of filter {name} must be string, number or boolean"))?;
        let operation = node["operation"].as_str().unwrap_or_default();
        let operand = || operand(&node["value"], declared, name);
        let compare = |comparison| Ok::<_, String>(Test::Compare(comparison, operand()?));
        let among = |wanted| Ok::<_, String>(Test::Among(wanted, list(node, declared, name)?));
        let substring = |wanted, place| match &node["value"] {
            Json::String(text) => Ok(Test::Text(wanted, place, text.clone())),
            _ => Err(format!("filter {name} needs a text as value")),
        };
        let key = Key::find(name, declared);
        let test = match operation {
            "eq" | "=" => compare(Comparison::Equal)?,
            "neq" | "!=" => compare(Comparison::NotEqual)?,
            "gt" | ">" => compare(Comparison::Greater)?,
            "gte" | ">=" => compare(Comparison::GreaterOrEqual)?,
            "lt" | "<" => compare(Comparison::Less)?,
            "lte" | "<=" => compare(Comparison::LessOrEqual)?,
            "in" | "IN" => among(true)?,
            "not_in" | "NOT_IN" => among(false)?,
            "includes" | "INCLUDES" => substring(true, Place::Anywhere)?,
            "not_includes" | "DOES_NOT_INCLUDE" => substring(false, Place::Anywhere)?,
            "starts_with" | "STARTS_WITH" => substring(true, Place::Start)?,
            "ends_with" | "ENDS_WITH" => substring(true, Place::End)?,
            "exists" | "EXISTS" => Test::Exists,
            "is_null" | "DOES_NOT_EXIST" => return Ok(key.map_or(Self::Never, Self::Absent)),
            "regex" | "MATCH_REGEX" => match &node["value"] {
                Json::String(pattern) => Test::Pattern(regex(pattern)?),
                _ => return Err(format!("filter {name} needs a pattern as value")),
            },
            other => return Err(format!("filter {name} has an unknown operation: {other:?}")),
        };
        Ok(key.map_or(Self::Never, |key| Self::Leaf(key, test)))
    }

    /// Whether the event passes.
    pub fn matches(&self, row: Row<'_>) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.matches(row)),
            Self::Any(filters) => filters.iter().any(|filter| filter.matches(row)),
            Self::Leaf(key, test) => row.value(*key).is_some_and(|value| test.passes(value)),
            Self::Absent(key) => row.value(*key).is_none(),
            Self::Never => false,
        }
    }

    /// Whether any event of this Worker could pass. A query mostly names one Worker, and the
    /// events of the others need not be looked at.
    pub fn may_match(&self, worker: &Worker) -> bool {
        match self {
            Self::All(filters) => filters.iter().all(|filter| filter.may_match(worker)),
            Self::Any(filters) => filters.iter().any(|filter| filter.may_match(worker)),
            Self::Leaf(Key::Service, test) => test.passes(Value::Text(&worker.script)),
            Self::Leaf(..) | Self::Absent(_) => true,
            Self::Never => false,
        }
    }
}

impl Test {
    fn passes(&self, value: Value<'_>) -> bool {
        match self {
            Self::Exists => true,
            Self::Compare(comparison, operand) => operand
                .order_of(value)
                .is_some_and(|order| comparison.accepts(order)),
            Self::Among(wanted, operands) => {
                let mut orders = operands.iter().map(|operand| operand.order_of(value));
                orders.any(|order| order == Some(Ordering::Equal)) == *wanted
            }
            Self::Text(wanted, place, part) => {
                let found = |text: &str| match place {
                    Place::Anywhere => text.contains(part),
                    Place::Start => text.starts_with(part),
                    Place::End => text.ends_with(part),
                };
                with_text(value, |text| found(text) == *wanted)
            }
            Self::Pattern(pattern) => with_text(value, |text| pattern.is_match(text)),
        }
    }
}

impl Comparison {
    fn accepts(self, order: Ordering) -> bool {
        match self {
            Self::Equal => order.is_eq(),
            Self::NotEqual => order.is_ne(),
            Self::Greater => order.is_gt(),
            Self::GreaterOrEqual => order.is_ge(),
            Self::Less => order.is_lt(),
            Self::LessOrEqual => order.is_le(),
        }
    }
}

impl Operand {
    /// How the value stands to this operand; nothing if they are of different types.
    fn order_of(&self, value: Value<'_>) -> Option<Ordering> {
        match (self, value) {
            (Self::Text(operand), Value::Text(text)) => Some(text.cmp(operand)),
            (Self::Text(operand), Value::Id(..)) => Some(value.to_text()?.cmp(operand)),
            (Self::Flag(operand), Value::Flag(flag)) => Some(flag.cmp(operand)),
            (Self::Number(operand), Value::Number(number)) => {
                f64::from(number).partial_cmp(operand)
            }
            _ => None,
        }
    }
}

/// Whether a text passes; a number or a flag does not.
fn with_text(value: Value<'_>, passes: impl Fn(&str) -> bool) -> bool {
    match value {
        Value::Text(text) => passes(text),
        other => other.to_text().is_some_and(|text| passes(&text)),
    }
}

/// A pattern in the syntax of RE2, without look-around.
pub(super) fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| format!("the pattern {pattern:?} is wrong: {error}"))
}

fn operand(value: &Json, declared: Type, name: &str) -> Result<Operand, String> {
    match (declared, value) {
        (Type::String, Json::String(text)) => Ok(Operand::Text(text.clone())),
        (Type::Number, Json::Number(number)) => {
            Ok(Operand::Number(number.as_f64().unwrap_or(f64::NAN)))
        }
        (Type::Boolean, Json::Bool(flag)) => Ok(Operand::Flag(*flag)),
        _ => Err(format!(
            "the value of filter {name} is missing or not of its type"
        )),
    }
}

/// The operands of a comma-separated text.
fn list(node: &Json, declared: Type, name: &str) -> Result<Vec<Operand>, String> {
    let Json::String(text) = &node["value"] else {
        return Err(format!(
            "filter {name} needs one comma-separated text as value"
        ));
    };
    let items = text.split(',').map(str::trim);
    match declared {
        Type::Number => items
            .map(|item| item.parse().map(Operand::Number))
            .collect::<Result<_, _>>()
            .map_err(|_| format!("filter {name} needs numbers")),
        Type::Boolean => Ok(items.map(|item| Operand::Flag(item == "true")).collect()),
        Type::String => Ok(items.map(|item| Operand::Text(item.to_owned())).collect()),
    }
}
