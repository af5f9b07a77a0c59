//! The log: one JSON line per transition and per check, readable in `wrangler tail`. Never a secret: lines are made of
//! decisions, which hold none.

use serde_json::{Value, json};

use crate::release::{Decision, Percent, Release};

fn split(release: &Release) -> Option<Percent> {
    release.progress.status.soak().map(|soak| soak.percent)
}

/// The lines of a committed decision.
pub(super) fn lines(decision: &Decision) -> Vec<Value> {
    let release = &decision.release;
    let worker = &release.origin.plan.worker.script_name;
    let mut lines = Vec::new();
    for judged in &decision.judged {
        let slis: Vec<Value> = judged
            .readings
            .iter()
            .map(|r| {
                json!({"slo": r.slo, "verdict": r.verdict, "new": r.new, "old": r.old, "objective": r.objective})
            })
            .collect();
        lines.push(json!({
            "log": "check", "release": release.id(), "worker": worker, "stage": judged.stage,
            "split": judged.split.map(|split| split.percent)
                .or_else(|| release.origin.plan.stages.get(judged.stage - 1).map(|stage| stage.percent)),
            "window": judged.window.index,
            "requests": {"new": judged.window.new.requests, "old": judged.window.old.requests, "others": judged.window.others},
            "slis": slis,
        }));
    }
    for event in &decision.events {
        lines.push(json!({
            "log": "transition", "release": release.id(), "worker": worker, "event": event.kind,
            "state": release.progress.status.name(), "stage": event.stage, "split": split(release),
            "actor": event.actor, "reason": event.reason, "detail": event.detail, "version": release.progress.version,
        }));
    }
    lines
}
