//! The windows that a release's charts are drawn of: all of a short release; of a long one every so many, and all that matter.

use serde_json::Value;

use super::row::{StoreError, text};
use crate::json::read;
use crate::pipeline::ports::{Row, Statement};
use crate::slo::evidence::Interval;
use crate::slo::{SloCounts, Verdict};

// Up to 400 evenly (fewer of many SLOs: a text of D1 has 2 MB at most), by seeks in the primary key, so that a release of weeks costs no more than one of hours; then those that the
// partial index knows. Of each only what a chart needs, as one text: sentences and names would be nine tenths of it.
const CHART: &str = r#"WITH RECURSIVE
    ends (lo, hi, most) AS (SELECT
        (SELECT window_index FROM windows WHERE release = ?1 ORDER BY window_index LIMIT 1),
        (SELECT window_index FROM windows WHERE release = ?1 ORDER BY window_index DESC LIMIT 1),
        (SELECT min(400, 2400 / max(json_array_length(origin, '$.plan.slos'), 1)) FROM releases WHERE id = ?1)),
    places (i) AS (SELECT lo FROM ends WHERE lo IS NOT NULL
        UNION ALL SELECT i + max(CAST((hi - lo + most - 1) / most AS INTEGER), 1) FROM places, ends WHERE i < hi),
    chosen (i) AS (
        SELECT (SELECT window_index FROM windows WHERE release = ?1 AND window_index >= places.i ORDER BY window_index LIMIT 1) FROM places
        UNION SELECT hi FROM ends
        UNION SELECT window_index FROM (SELECT window_index FROM windows INDEXED BY windows_notable WHERE release = ?1
            AND (instr(body, '"verdict":"harm"') OR instr(body, '"forgot":[')) ORDER BY window_index DESC LIMIT 60))
    SELECT json_group_array(json_array(window_index, body->'$.window.merged', stage, body->'$.warming_up', body->'$.window.sampled',
        body->'$.forgot', body->'$.window.new.slos', body->'$.window.old.slos',
        json((SELECT json_group_array(json_array(value->'$.verdict', value->'$.evidence.ln_e', value->'$.evidence.interval'))
            FROM json_each(body, '$.readings'))))) AS chart
    FROM (SELECT w.* FROM chosen JOIN windows w ON w.release = ?1 AND w.window_index = chosen.i ORDER BY chosen.i)"#;

/// A judged window, as far as a chart shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct ChartWindow {
    /// Number of its first window since the epoch, and the number after its last one.
    pub run: (i64, i64),
    /// Stage, from 1.
    pub stage: usize,
    /// The stage was still warming up.
    pub warming_up: bool,
    /// Telemetry answered from sampled data.
    pub sampled: bool,
    /// SLOs whose evidence was dropped before it.
    pub forgot: Vec<String>,
    /// Each SLO of the plan.
    pub slos: Vec<ChartSlo>,
}

/// An SLO in and after a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ChartSlo {
    /// The verdict after it.
    pub verdict: Verdict,
    /// Natural log of the e-value of harm after it; none of the threshold rule.
    pub ln_e: Option<f64>,
    /// Of all counts so far, after it.
    pub interval: Option<Interval>,
    /// What it counted of the new version.
    pub new: Option<SloCounts>,
    /// What it counted of the old version.
    pub old: Option<SloCounts>,
}

pub(super) fn statement(id: &str) -> Statement {
    Statement::new(CHART, vec![id.into()])
}

pub(super) fn windows(rows: &[Row]) -> Result<Vec<ChartWindow>, StoreError> {
    let Some(row) = rows.first() else {
        return Ok(Vec::new());
    };
    let misread = |error: &serde_json::Error| StoreError::Row(format!("a chart: {error}"));
    let all = crate::json::parse(text(row, "chart")?).map_err(|error| misread(&error))?;
    let all = all.as_array().map_or(&[][..], Vec::as_slice);
    Ok(all.iter().filter_map(window).collect())
}

/// What can't be read (of a newer HMD, say) is left out: a chart is no ground for a decision.
fn window(of: &Value) -> Option<ChartWindow> {
    let index = of[0].as_i64()?;
    let counts = |of: &Value| read::<SloCounts>(of).ok();
    let slo = |(i, reading): (usize, &Value)| {
        Some(ChartSlo {
            verdict: read(&reading[0]).ok()?,
            ln_e: reading[1].as_f64(),
            interval: read(&reading[2]).ok(),
            new: counts(&of[6][i]),
            old: counts(&of[7][i]),
        })
    };
    let slos = of[8].as_array()?.iter().enumerate().map(slo);
    Some(ChartWindow {
        run: (index, index + 1 + of[1].as_i64().unwrap_or(0)),
        stage: usize::try_from(of[2].as_u64()?).ok()?,
        warming_up: of[3].as_bool().unwrap_or(false),
        sampled: of[4].as_bool().unwrap_or(false),
        forgot: read(&of[5]).unwrap_or_default(),
        slos: slos.collect::<Option<_>>()?,
    })
}
