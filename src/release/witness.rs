//! Judges: when one is asked, what it is told, and how its answers become readings. What it says is one more input of a
//! decision; the numbers come first, and no answer takes back what they have shown.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::input::{Decision, Judged};
use super::plan::{Plan, slo_applies};
use super::state::{Release, Status};
use crate::slo::{Opinion, Reading, Slo, Standing, Verdict, clean_to};
use crate::time::{Rfc3339, UnixMs};

/// Most error templates that a judge is shown.
pub const MAX_ERRORS: usize = 10;
/// Longest of them, in characters.
const MAX_TEMPLATE: usize = 200;
/// Number of the form in which judges are told things.
const FORM: u32 = 1;

/// How often errors of one kind were logged. The template is the error's text without what differs from one to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorCount {
    /// The template, as Cloudflare makes it.
    pub template: String,
    /// Of the new version.
    pub new: u64,
    /// Of the old version.
    pub old: u64,
}

/// What judges are to be asked in a check, before it is decided.
#[derive(Clone, Debug, PartialEq)]
pub struct Hearing {
    /// Number of the first window that the check judges.
    pub from: i64,
    /// Number of the window after the last.
    pub to: i64,
    /// Each judge: the number of its SLO, and what it is told.
    pub asks: Vec<(usize, Value)>,
}

impl Hearing {
    /// Adds the errors of the time; none if they are not known.
    pub fn with_errors(&mut self, errors: Option<&[ErrorCount]>) {
        let errors: Option<Vec<ErrorCount>> = errors.map(|errors| {
            let errors = errors.iter().take(MAX_ERRORS);
            let clean = |error: &ErrorCount| ErrorCount {
                template: clean_to(&error.template, MAX_TEMPLATE),
                ..*error
            };
            errors.map(clean).collect()
        });
        for (_, told) in &mut self.asks {
            told["errors"] = crate::json::value(&errors);
        }
    }
}

/// While a stage waits for a person, judges are asked so often, in milliseconds.
const ASK_WHILE_WAITING_MS: i64 = 5 * 60_000;

/// Whom to ask about a check, given what it would come to without being asked: nobody, if the numbers alone send the release
/// back, pause it or end it.
#[must_use]
pub fn hearing(before: &Release, would: &Decision) -> Option<Hearing> {
    let plan = &before.origin.plan;
    if !plan.slos.iter().any(Slo::has_judge) {
        return None;
    }
    let soak = before.progress.status.soak()?;
    let after = &would.release.progress.status;
    let pauses = matches!(after, Status::Paused { .. })
        && !matches!(before.progress.status, Status::Paused { .. });
    if would.release.is_over() || matches!(after, Status::Reverting(_)) || pauses {
        return None;
    }
    let stage = soak.stage + 1;
    let of_soak = |judged: &&Judged| {
        judged.stage == stage && judged.split.map(|split| split.number) == soak.split
    };
    let judged = || would.judged.iter().filter(of_soak);
    let (first, last) = (judged().next()?, judged().next_back()?);
    // While a person has the word, it is asked now and then: that may go on for days.
    let waits = matches!(
        before.progress.status,
        Status::Paused { .. } | Status::AwaitingApproval { .. }
    );
    let interval = plan.check_interval.ms();
    let period = |window: i64| (window * interval).div_euclid(ASK_WHILE_WAITING_MS);
    if waits && period(first.window.index) == period(last.window.run().end) {
        return None;
    }
    let ask = |(i, slo): (usize, &Slo)| {
        let reading = last.readings.get(i)?;
        let wanted = slo.has_judge()
            && !soak.waived.contains(&slo.name)
            && slo_applies(slo, soak.percent)
            && reading.new.requests >= slo.needed_requests();
        wanted.then(|| (i, told(before, slo, (first, last))))
    };
    let asks: Vec<(usize, Value)> = plan.slos.iter().enumerate().filter_map(ask).collect();
    (!asks.is_empty()).then(|| Hearing {
        from: first.window.index,
        to: last.window.run().end,
        asks,
    })
}

/// What a judge is told: names that the plan's author gave, and counts.
fn told(release: &Release, judge: &Slo, (first, last): (&Judged, &Judged)) -> Value {
    let origin = &release.origin;
    let plan = &origin.plan;
    let interval = plan.check_interval.ms();
    let time = |window: i64| -> Rfc3339 {
        let at: UnixMs = window * interval;
        Rfc3339(at)
    };
    let counted = plan.slos.iter().zip(&last.readings);
    let slos: Vec<Value> = counted
        .filter(|(slo, _)| !slo.has_judge())
        .map(|(slo, reading)| {
            let mut told = crate::json::value(reading);
            told["severity"] = crate::json::value(&slo.severity);
            told
        })
        .collect();
    let of_stage = || plan.stages.get(last.stage - 1).map(|stage| stage.percent);
    let percent = last.split.map(|split| split.percent).or_else(of_stage);
    json!({
        "form": FORM,
        "release": origin.id,
        "plan": origin.plan_name,
        "worker": plan.worker.script_name,
        "slo": judge.name,
        "old_version": release.progress.old_version,
        "new_version": origin.new_version,
        "stage": {"number": last.stage, "of": plan.stages.len(), "percent": percent},
        "window": {"from": time(first.window.index), "to": time(last.window.run().end)},
        "slos": slos,
    })
}

/// Puts what judges have said last into the readings of a stage.
pub(super) fn hear(plan: &Plan, readings: &mut [Reading], standing: &BTreeMap<String, Standing>) {
    for (slo, reading) in plan.slos.iter().zip(readings) {
        let answers =
            slo.has_judge() && !matches!(reading.verdict, Verdict::NotApplicable | Verdict::NoData);
        if let Some(standing) = standing.get(&slo.name).filter(|_| answers) {
            reading.verdict = standing.verdict();
            reading.sentence = standing.sentence(&slo.name);
        }
    }
}

/// Takes new answers in.
pub(super) fn take(standing: &mut BTreeMap<String, Standing>, opinions: &[Opinion]) {
    for opinion in opinions {
        let before = standing.get(&opinion.slo);
        let now = Standing::after(before, opinion.said.clone());
        standing.insert(opinion.slo.clone(), now);
    }
}
