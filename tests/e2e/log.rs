//! Reading the Worker's log.

use std::collections::BTreeMap;
use std::path::Path;

use serde_json::Value;

/// HMD's lines about a release. What wrangler itself says is not JSON.
pub fn lines_of(log: &Path, release: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(log).unwrap();
    text.lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter(|line| line["release"] == release)
        .collect()
}

/// Those of one kind: `transition`, `check` and so on.
pub fn of_kind<'a>(lines: &'a [Value], kind: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["log"] == kind).collect()
}

/// The windows that `check` lines tell of, by stage, in the order of the log.
pub fn windows(lines: &[Value]) -> BTreeMap<u64, Vec<i64>> {
    let mut windows: BTreeMap<u64, Vec<i64>> = BTreeMap::new();
    for line in of_kind(lines, "check") {
        let stage = windows.entry(line["stage"].as_u64().unwrap()).or_default();
        stage.push(line["window"].as_i64().unwrap());
    }
    windows
}
