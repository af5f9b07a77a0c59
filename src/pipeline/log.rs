//! The log: one JSON line per transition and per check, readable in `wrangler tail`. Never a secret: lines are made of
//! decisions, which hold none.

use serde::Serialize;
use serde_json::{Value, json};

use crate::release::{Decision, Percent, Release};
use crate::slo::{Side, Verdict};

/// A check's line.
#[derive(Serialize)]
struct Check<'a> {
    log: &'static str,
    release: &'a str,
    worker: &'a str,
    stage: usize,
    split: Option<Percent>,
    window: i64,
    requests: Requests,
    slis: Vec<Sli<'a>>,
}

#[derive(Serialize)]
struct Requests {
    new: u64,
    old: u64,
    others: u64,
}

#[derive(Serialize)]
struct Sli<'a> {
    slo: &'a str,
    verdict: Verdict,
    new: &'a Side,
    old: &'a Side,
    objective: &'a str,
}

fn split(release: &Release) -> Option<Percent> {
    release.progress.status.soak().map(|soak| soak.percent)
}

/// The lines of a decision's checks: written at once, for there are many.
pub(super) fn checks(decision: &Decision) -> impl Iterator<Item = String> {
    let origin = &decision.release.origin;
    decision.judged.iter().map(|judged| {
        let planned = || Some(origin.plan.stages.get(judged.stage - 1)?.percent);
        let window = &judged.window;
        let slis = judged.readings.iter().map(|reading| Sli {
            slo: &reading.slo,
            verdict: reading.verdict,
            new: &reading.new,
            old: &reading.old,
            objective: &reading.objective,
        });
        let line = Check {
            log: "check",
            release: &origin.id,
            worker: &origin.plan.worker.script_name,
            stage: judged.stage,
            split: judged.split.map(|split| split.percent).or_else(planned),
            window: window.index,
            requests: Requests {
                new: window.new.requests,
                old: window.old.requests,
                others: window.others,
            },
            slis: slis.collect(),
        };
        crate::json::text(&line)
    })
}

/// The lines of its events.
pub(super) fn events(decision: &Decision) -> impl Iterator<Item = Value> {
    let release = &decision.release;
    let worker = &release.origin.plan.worker.script_name;
    decision.events.iter().map(move |event| {
        json!({
            "log": "transition", "release": release.id(), "worker": worker, "event": event.kind,
            "state": release.progress.status.name(), "stage": event.stage, "split": split(release),
            "actor": event.actor, "reason": event.reason, "detail": event.detail, "version": release.progress.version,
        })
    })
}
