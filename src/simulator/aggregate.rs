//! Calculations over the rows of a telemetry query.

use serde::Deserialize;

use super::fields::{Key, Row, Type, Value};

/// A calculation as a query asks for it.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CalculationSpec {
    operator: String,
    key: Option<String>,
    key_type: Option<Type>,
    alias: Option<String>,
}

/// What a calculation makes of the values in a group.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Operator {
    Count,
    Uniq,
    Max,
    Min,
    Sum,
    Average,
    /// A quantile from 0 to 1.
    Quantile(f64),
}

/// The operand of a calculation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operand {
    /// Whole rows: no key was given.
    Rows,
    /// The values of a key, or none for a key that no event has.
    Values(Option<Key>),
}

/// A calculation, ready to be made.
pub(super) struct Calculation {
    /// The operator as the query names it.
    pub name: String,
    /// Empty if the query gives none.
    pub alias: String,
    operator: Operator,
    operand: Operand,
}

/// A result and the number of rows it was made from.
pub(super) type Aggregate = Option<(f64, usize)>;

impl Operator {
    fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "count" => Self::Count,
            "uniq" | "count_distinct" => Self::Uniq,
            "max" => Self::Max,
            "min" => Self::Min,
            "sum" => Self::Sum,
            "avg" => Self::Average,
            "median" => Self::Quantile(0.5),
            "p001" => Self::Quantile(0.001),
            "p01" => Self::Quantile(0.01),
            "p05" => Self::Quantile(0.05),
            "p10" => Self::Quantile(0.10),
            "p25" => Self::Quantile(0.25),
            "p75" => Self::Quantile(0.75),
            "p90" => Self::Quantile(0.90),
            "p95" => Self::Quantile(0.95),
            "p99" => Self::Quantile(0.99),
            "p999" => Self::Quantile(0.999),
            _ => return None,
        })
    }

    /// Nothing for values that are none, or for arithmetic on texts.
    fn apply(self, values: &[Value<'_>]) -> Aggregate {
        let rows = values.len();
        if rows == 0 {
            return None;
        }
        let numbers = || values.iter().filter_map(|value| value.as_number());
        // Values are sorted: the least is the first, and equal ones stand together.
        let result = match self {
            Self::Count => float(rows),
            Self::Uniq => float(values.chunk_by(|a, b| a == b).count()),
            Self::Min => numbers().next()?,
            Self::Max => numbers().next_back()?,
            Self::Sum => numbers().next().map(|_| numbers().sum())?,
            Self::Average => numbers().next().map(|_| numbers().sum::<f64>())? / float(rows),
            Self::Quantile(quantile) => {
                let place = quantile * float(rows - 1);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and the number of rows"
                )]
                let below = place.floor() as usize;
                let low = values.get(below)?.as_number()?;
                let high = values
                    .get(below + 1)
                    .and_then(|value| value.as_number())
                    .unwrap_or(low);
                low + (high - low) * place.fract()
            }
        };
        Some((result, rows))
    }
}

impl CalculationSpec {
    /// # Errors
    /// An unknown operator, or one without the key or key type it needs.
    pub fn compile(self) -> Result<Calculation, String> {
        let name = self.operator;
        let operator = Operator::parse(&name)
            .ok_or_else(|| format!("the operator {name:?} does not exist or is not simulated"))?;
        let operand = match (self.key, self.key_type) {
            (Some(key), Some(declared)) => Operand::Values(Key::find(&key, declared)),
            (Some(key), None) => return Err(format!("keyType is required with key {key}")),
            (None, _) if operator == Operator::Count => Operand::Rows,
            (None, _) => return Err(format!("the operator {name} needs a key")),
        };
        Ok(Calculation {
            name,
            alias: self.alias.unwrap_or_default(),
            operator,
            operand,
        })
    }
}

/// All calculations over the rows of a group.
pub(super) fn calculate(rows: &[Row<'_>], calculations: &[Calculation]) -> Vec<Aggregate> {
    // Percentiles of the same key share one sorted list.
    let mut sorted: Vec<(Key, Vec<Value<'_>>)> = Vec::new();
    let mut results = Vec::with_capacity(calculations.len());
    for calculation in calculations {
        results.push(match calculation.operand {
            Operand::Rows => Some((float(rows.len()), rows.len())),
            Operand::Values(None) => None,
            Operand::Values(Some(key)) => {
                let known = sorted.iter().position(|(other, _)| *other == key);
                let place = known.unwrap_or_else(|| {
                    let values = rows.iter().filter_map(|row| row.value(key));
                    let mut values: Vec<_> = values.collect();
                    values.sort_unstable();
                    sorted.push((key, values));
                    sorted.len() - 1
                });
                calculation.operator.apply(&sorted[place].1)
            }
        });
    }
    results
}

/// A count as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "a count of rows in memory, far below 2^53"
)]
pub(super) fn float(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_lie_between_the_values_around_them() {
        let values = [10, 20, 30, 40].map(Value::Number);
        for (operator, expected) in [
            ("median", 25.0),
            ("p25", 17.5),
            ("p90", 37.0),
            ("MEDIAN", 25.0),
        ] {
            let operator = Operator::parse(operator).unwrap();
            let (result, rows) = operator.apply(&values).unwrap();
            assert!((result - expected).abs() < 1e-9, "{operator:?}: {result}");
            assert_eq!(rows, 4);
        }
        assert_eq!(Operator::parse("p50"), None);
    }

    #[test]
    fn there_is_no_result_over_nothing_and_no_arithmetic_on_texts() {
        let texts = [Value::Text("a"), Value::Text("b"), Value::Text("b")];
        for operator in ["max", "sum", "avg", "p99"] {
            let operator = Operator::parse(operator).unwrap();
            assert_eq!(operator.apply(&[]), None);
            assert_eq!(operator.apply(&texts), None);
        }
        assert_eq!(Operator::Uniq.apply(&texts), Some((2.0, 3)));
    }
}
