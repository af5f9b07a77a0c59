//! Calculations over the rows of a telemetry query.

use serde::Deserialize;

use super::fields::{Key, Row, Type, Value};
use super::traffic::WHOLE;

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
    StandardDeviation,
    Variance,
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

/// A result, if there is one.
pub(super) type Aggregate = Option<Outcome>;

/// The result of a calculation.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Outcome {
    pub value: f64,
    /// How many events it tells of, by the estimate from those that were read.
    pub count: f64,
    /// How many of them each that was read stands for.
    pub interval: f64,
}

/// A value, and how many events it stands for, in hundredths.
type Weighted<'a> = (Value<'a>, u64);

impl Operator {
    fn parse(name: &str) -> Option<Self> {
        Some(match name.to_ascii_lowercase().as_str() {
            "count" => Self::Count,
            "uniq" | "count_distinct" => Self::Uniq,
            "max" => Self::Max,
            "min" => Self::Min,
            "sum" => Self::Sum,
            "avg" => Self::Average,
            "stddev" => Self::StandardDeviation,
            "variance" => Self::Variance,
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

    /// Nothing for values that are none, or for arithmetic on texts. Percentiles are those of the
    /// values that were read: sampling leaves them where they are.
    fn apply(self, values: &[Weighted<'_>]) -> Aggregate {
        let whole = Outcome::of_rows(values.iter().map(|(_, weight)| *weight))?;
        let numbers = || {
            let numbers = values.iter();
            numbers.filter_map(|(value, weight)| Some((value.as_number()?, weighted(*weight))))
        };
        let sum = || numbers().map(|(value, weight)| value * weight).sum::<f64>();
        let variance = || {
            let mean = sum() / whole.count;
            let squares = numbers().map(|(value, weight)| (value - mean).powi(2) * weight);
            squares.sum::<f64>() / whole.count
        };
        if !matches!(self, Self::Count | Self::Uniq) {
            numbers().next()?;
        }
        // Values are sorted: the least is the first, and equal ones stand together.
        let value = match self {
            Self::Count => whole.count,
            Self::Uniq => float(values.chunk_by(|a, b| a.0 == b.0).count()),
            Self::Min => numbers().next()?.0,
            Self::Max => numbers().next_back()?.0,
            Self::Sum => sum(),
            Self::Average => sum() / whole.count,
            Self::Variance => variance(),
            Self::StandardDeviation => variance().sqrt(),
            Self::Quantile(quantile) => {
                let place = quantile * float(values.len() - 1);
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 0 and the number of rows"
                )]
                let below = place.floor() as usize;
                let low = values.get(below)?.0.as_number()?;
                let high = values
                    .get(below + 1)
                    .and_then(|(value, _)| value.as_number())
                    .unwrap_or(low);
                low + (high - low) * place.fract()
            }
        };
        Some(Outcome { value, ..whole })
    }
}

impl Outcome {
    /// The number of events that rows of these weights stand for.
    fn of_rows(weights: impl Iterator<Item = u64>) -> Option<Self> {
        let (rows, weight) = weights.fold((0_usize, 0), |(rows, sum), one| (rows + 1, sum + one));
        let count = weighted(weight);
        (rows > 0).then(|| Self {
            value: count,
            count,
            interval: count / float(rows),
        })
    }
}

/// Hundredths as a number to calculate with.
#[expect(
    clippy::cast_precision_loss,
    reason = "of events in memory, far below 2^53"
)]
fn weighted(hundredths: u64) -> f64 {
    hundredths as f64 / f64::from(WHOLE)
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
    let mut sorted: Vec<(Key, Vec<Weighted<'_>>)> = Vec::new();
    let mut results = Vec::with_capacity(calculations.len());
    for calculation in calculations {
        results.push(match calculation.operand {
            Operand::Rows => Outcome::of_rows(rows.iter().map(|row| row.weight())),
            Operand::Values(None) => None,
            Operand::Values(Some(key)) => {
                let known = sorted.iter().position(|(other, _)| *other == key);
                let place = known.unwrap_or_else(|| {
                    let values = rows.iter();
                    let values = values.filter_map(|row| Some((row.value(key)?, row.weight())));
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
#[expect(clippy::float_cmp, reason = "whole numbers, exactly represented")]
mod tests {
    use super::*;

    fn result(operator: &str, values: &[Value<'_>], weight: u64) -> Aggregate {
        let values: Vec<Weighted<'_>> = values.iter().map(|value| (*value, weight)).collect();
        Operator::parse(operator).unwrap().apply(&values)
    }

    #[test]
    fn quantiles_lie_between_the_values_around_them() {
        let values = [10, 20, 30, 40].map(Value::Number);
        for (operator, expected) in [
            ("median", 25.0),
            ("p25", 17.5),
            ("p90", 37.0),
            ("MEDIAN", 25.0),
            ("variance", 125.0),
            ("STDDEV", 125.0_f64.sqrt()),
        ] {
            let result = result(operator, &values, 100).unwrap();
            assert!(
                (result.value - expected).abs() < 1e-9,
                "{operator}: {result:?}"
            );
            assert!((result.count - 4.0).abs() < 1e-9);
        }
        assert_eq!(Operator::parse("p50"), None);
    }

    #[test]
    fn there_is_no_result_over_nothing_and_no_arithmetic_on_texts() {
        let texts = [Value::Text("a"), Value::Text("b"), Value::Text("b")];
        for operator in ["max", "sum", "avg", "p99", "stddev", "variance"] {
            assert_eq!(result(operator, &[], 100), None);
            assert_eq!(result(operator, &texts, 100), None);
        }
        let uniq = result("uniq", &texts, 100).unwrap();
        assert_eq!((uniq.value, uniq.count), (2.0, 3.0));
    }

    #[test]
    fn a_row_counts_for_those_that_it_stands_for() {
        let values = [10, 20, 30, 40].map(Value::Number);
        let of = |operator| result(operator, &values, 1000).unwrap();
        let count = of("count");
        assert_eq!(
            (count.value, count.count, count.interval),
            (40.0, 40.0, 10.0)
        );
        assert_eq!(of("sum").value, 1000.0);
        assert_eq!(of("avg").value, 25.0);
        assert_eq!(of("median").value, 25.0);
    }
}
