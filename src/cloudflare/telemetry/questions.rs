//! What is asked: a constant number of questions for any number of Workers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::answer::{Answer, Group};
use super::{ScriptCounts, Target};
use crate::slo::{Objective, Part, SliKind, Slo, SloCounts, VersionCounts};

/// The questions for some targets: totals first, then errors (if any SLO wants them), then slot by slot what else the
/// SLOs count. A slot holds one filter of each Worker, as an OR of (script AND filter).
pub(super) struct Questions {
    /// Filters and calculations, one object for each question.
    pub(super) bodies: Vec<Value>,
    errors_at: Option<usize>,
    slots_from: usize,
    percentiles: Vec<(&'static str, &'static str)>,
}

/// Filters that all have to hold.
type Filters = Vec<Value>;

fn leaf(key: &str, operation: &str, kind: &str, value: &Value) -> Value {
    json!({"key": key, "operation": operation, "type": kind, "value": value})
}

fn group(combination: &str, filters: &[Value]) -> Value {
    json!({"kind": "group", "filterCombination": combination, "filters": filters})
}

/// Log lines are events, too; these are the invocations.
fn invocations() -> Filters {
    vec![
        leaf("$metadata.type", "eq", "string", &json!("cf-worker-event")),
        leaf("$workers.eventType", "eq", "string", &json!("fetch")),
    ]
}

/// What makes an invocation an error.
fn failed() -> Value {
    group(
        "or",
        &[
            leaf(
                "$workers.event.response.status",
                "gte",
                "number",
                &json!(500),
            ),
            leaf(
                "$workers.outcome",
                "not_in",
                "string",
                &json!("ok,canceled,responseStreamDisconnected"),
            ),
        ],
    )
}

/// What an SLO counts beyond invocations and errors: its total (only a `query` has one of its own) and its bad ones.
fn own_filters(slo: &Slo, above_ms: Option<f64>) -> (Option<Filters>, Option<Filters>) {
    match (slo.sli.kind, slo.time_key()) {
        (SliKind::Query, _) => {
            let of = |filters: &Option<Vec<crate::slo::Filter>>| -> Filters {
                filters
                    .iter()
                    .flatten()
                    .map(|filter| json!(filter))
                    .collect()
            };
            let total = of(&slo.sli.total);
            let bad = total.iter().cloned().chain(of(&slo.sli.bad)).collect();
            (Some(total), Some(bad))
        }
        (_, Some(key)) => {
            let slow = above_ms.map(|above_ms| {
                let mut filters = invocations();
                filters.push(leaf(key, "gt", "number", &json!(above_ms)));
                filters
            });
            (None, slow)
        }
        _ => (None, None),
    }
}

/// The distinct filters of a target: each is asked in a slot of its own.
fn slots(target: &Target) -> Vec<Filters> {
    let mut slots = Vec::new();
    for (slo, above_ms) in &target.slos {
        let (total, bad) = own_filters(slo, *above_ms);
        for filters in [total, bad].into_iter().flatten() {
            if !slots.contains(&filters) {
                slots.push(filters);
            }
        }
    }
    slots
}

fn percentile(slo: &Slo) -> Option<(&'static str, &'static str)> {
    Some((slo.time_key()?, slo.sli.percentile?.operator()))
}

/// What an SLO counts of a Worker, by version, as the parameters of a query that people can open: the bad events, or those that
/// count, with the SLO's percentile if it has one. `None` if it counts no such events, or not before a release has started.
#[must_use]
pub fn parameters_of(script: &str, slo: &Slo, part: Part) -> Option<Value> {
    let above_ms = match slo.objective {
        Objective::MaxMs(max) => Some(max),
        _ => None,
    };
    let (total, bad) = own_filters(slo, above_ms);
    let filters = match (part, slo.sli.kind) {
        (Part::Total, _) => total.unwrap_or_else(invocations),
        (Part::Bad, SliKind::ErrorRate) => [invocations(), vec![failed()]].concat(),
        (Part::Bad, _) => bad?,
    };
    let of_script = leaf("$metadata.service", "eq", "string", &json!(script));
    let filters: Filters = std::iter::once(of_script).chain(filters).collect();
    let mut calculations = vec![json!({"operator": "count", "alias": "n"})];
    if let (Part::Total, Some((key, operator))) = (part, percentile(slo)) {
        calculations.push(
            json!({"operator": operator, "key": key, "keyType": "number", "alias": operator}),
        );
    }
    Some(json!({
        "datasets": ["cloudflare-workers"], "filterCombination": "and", "filters": filters,
        "calculations": calculations,
        "groupBys": [{"type": "string", "value": "$workers.scriptVersion.id"}], "limit": 100,
    }))
}

impl Questions {
    pub(super) fn of(targets: &[Target]) -> Self {
        let scripts: BTreeSet<&str> = targets.iter().map(|t| t.script.as_str()).collect();
        let scripts: Vec<&str> = scripts.into_iter().collect();
        // Never by version: a third one must be seen.
        let of_scripts = leaf(
            "$metadata.service",
            "in",
            "string",
            &json!(scripts.join(",")),
        );
        let mut base = vec![of_scripts.clone()];
        base.extend(invocations());
        let slos = || {
            targets
                .iter()
                .flat_map(|target| &target.slos)
                .map(|(slo, _)| slo)
        };
        let mut percentiles = Vec::new();
        for percentile in slos().filter_map(percentile) {
            if !percentiles.contains(&percentile) {
                percentiles.push(percentile);
            }
        }
        let count = json!({"operator": "count", "alias": "n"});
        let mut calculations = vec![count.clone()];
        for (i, (key, operator)) in percentiles.iter().enumerate() {
            let alias = format!("t{i}");
            calculations.push(
                json!({"operator": operator, "key": key, "keyType": "number", "alias": alias}),
            );
        }
        let mut bodies = vec![json!({"filters": base, "calculations": calculations})];
        let mut counted = |filters: &[Value]| {
            bodies.push(json!({"filters": filters, "calculations": [count]}));
            bodies.len() - 1
        };
        let wants_errors = slos().any(|slo| slo.sli.kind == SliKind::ErrorRate);
        let errors_at = wants_errors.then(|| counted(&[base.as_slice(), &[failed()]].concat()));
        let slots_from = 1 + usize::from(wants_errors);
        let most = targets
            .iter()
            .map(|target| slots(target).len())
            .max()
            .unwrap_or(0);
        for slot in 0..most {
            let each = targets.iter().filter_map(|target| {
                let mut filters = vec![leaf(
                    "$metadata.service",
                    "eq",
                    "string",
                    &json!(target.script),
                )];
                filters.extend(slots(target).get(slot)?.iter().cloned());
                Some(group("and", &filters))
            });
            counted(&[of_scripts.clone(), group("or", &each.collect::<Vec<_>>())]);
        }
        Self {
            bodies,
            errors_at,
            slots_from,
            percentiles,
        }
    }

    /// What the answers, one for each question, say of each Worker.
    pub(super) fn read(
        &self,
        targets: &[Target],
        answers: &[Answer],
    ) -> BTreeMap<String, ScriptCounts> {
        let sampled = answers.iter().any(|answer| answer.sampled);
        let mut counts: BTreeMap<String, ScriptCounts> = BTreeMap::new();
        for target in targets {
            let slots = slots(target);
            // A version shows up by its invocations, or by what a query of its own counts.
            let mine = self.slots_from..self.slots_from + slots.len();
            let seen: BTreeSet<&Group> = std::iter::once(&answers[0])
                .chain(&answers[mine])
                .flat_map(|answer| answer.groups(&target.script))
                .collect();
            for at in seen {
                let of = VersionCounts {
                    requests: answers[0].count(at),
                    slos: target
                        .slos
                        .iter()
                        .map(|(slo, above_ms)| self.counts_of(slo, *above_ms, &slots, answers, at))
                        .collect(),
                };
                let entry = counts.entry(target.script.clone()).or_default();
                entry.sampled = sampled;
                entry.versions.insert(at.version.clone(), of);
            }
        }
        counts
    }

    fn counts_of(
        &self,
        slo: &Slo,
        above_ms: Option<f64>,
        slots: &[Filters],
        answers: &[Answer],
        at: &Group,
    ) -> SloCounts {
        let (total, bad) = own_filters(slo, above_ms);
        let in_slot = |filters: Filters| {
            let slot = slots.iter().position(|slot| *slot == filters);
            slot.map_or(0, |slot| answers[self.slots_from + slot].count(at))
        };
        let requests = total.map_or_else(|| answers[0].count(at), &in_slot);
        let bad = match slo.sli.kind {
            SliKind::ErrorRate => self
                .errors_at
                .map_or(0, |question| answers[question].count(at)),
            _ => bad.map_or(0, in_slot),
        };
        // An event that came in between two questions must not make more bad requests than requests.
        let bad = bad.min(requests);
        let shown = percentile(slo)
            .and_then(|wanted| self.percentiles.iter().position(|p| *p == wanted))
            .and_then(|i| answers[0].value(&format!("t{i}"), at));
        SloCounts {
            requests,
            bad,
            shown,
        }
    }
}
