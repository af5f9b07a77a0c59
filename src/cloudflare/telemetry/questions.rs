//! What is asked: a constant number of questions for any number of Workers.

use serde_json::{Value, json};

use super::answer::{Answer, Group};
use super::{ScriptCounts, Target};
use crate::gather::Gather as _;
use crate::slo::{Filter, Objective, Part, SliKind, Slo, SloCounts, VersionCounts};
use crate::sorted::SortedMap;

/// The questions for some targets: totals first, then errors (if any SLO wants them), then slot by slot what else the
/// SLOs count. A slot holds what one SLO of each Worker counts, as an OR of (scripts AND filters).
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

/// What an SLO counts beyond invocations and errors: told apart without making filters of it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Counted<'a> {
    /// Invocations that took longer.
    Slower { key: &'static str, than_ms: f64 },
    /// Events that pass all filters of both.
    Events {
        total: &'a [Filter],
        bad: &'a [Filter],
    },
}

impl Counted<'_> {
    fn filters(self) -> Filters {
        match self {
            Self::Slower { key, than_ms } => {
                let mut filters = invocations();
                filters.push(leaf(key, "gt", "number", &json!(than_ms)));
                filters
            }
            Self::Events { total, bad } => {
                total.iter().chain(bad).map(crate::json::value).collect()
            }
        }
    }
}

/// An SLO's total (only a `query` has one of its own) and its bad ones.
fn counted(slo: &Slo, above_ms: Option<f64>) -> (Option<Counted<'_>>, Option<Counted<'_>>) {
    match (slo.sli.kind, slo.time_key()) {
        (SliKind::Query, _) => {
            let total = slo.sli.total.as_deref().unwrap_or_default();
            let bad = slo.sli.bad.as_deref().unwrap_or_default();
            let of = |bad| Some(Counted::Events { total, bad });
            (of(&[]), of(bad))
        }
        (_, Some(key)) => (
            None,
            above_ms.map(|than_ms| Counted::Slower { key, than_ms }),
        ),
        _ => (None, None),
    }
}

/// What a target's SLOs count, each once: a slot each.
fn slots(target: &Target) -> Vec<Counted<'_>> {
    let mut slots = Vec::new();
    for (slo, above_ms) in &target.slos {
        let (total, bad) = counted(slo, *above_ms);
        for counted in [total, bad].into_iter().flatten() {
            if !slots.contains(&counted) {
                slots.push(counted);
            }
        }
    }
    slots
}

fn wants_errors(targets: &[Target]) -> bool {
    let mut slos = targets.iter().flat_map(|target| &target.slos);
    slos.any(|(slo, _)| slo.sli.kind == SliKind::ErrorRate)
}

/// How many questions there are for some targets.
pub(super) fn count(targets: &[Target]) -> usize {
    let most = targets.iter().map(|target| slots(target).len()).max();
    1 + usize::from(wants_errors(targets)) + most.unwrap_or(0)
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
    let (total, bad) = counted(slo, above_ms);
    let filters = match (part, slo.sli.kind) {
        (Part::Total, _) => total.map_or_else(invocations, Counted::filters),
        (Part::Bad, SliKind::ErrorRate) => [invocations(), vec![failed()]].concat(),
        (Part::Bad, _) => bad?.filters(),
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
        let scripts = targets.iter().map(|t| t.script.as_str()).into_set();
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
        let mut ask = |filters: &[Value]| {
            bodies.push(json!({"filters": filters, "calculations": [count]}));
            bodies.len() - 1
        };
        let wants_errors = wants_errors(targets);
        let errors_at = wants_errors.then(|| ask(&[base.as_slice(), &[failed()]].concat()));
        let slots_from = 1 + usize::from(wants_errors);
        let counted_of: Vec<(&str, Vec<Counted<'_>>)> = targets
            .iter()
            .map(|target| (target.script.as_str(), slots(target)))
            .collect();
        let most = counted_of.iter().map(|(_, slots)| slots.len()).max();
        for slot in 0..most.unwrap_or(0) {
            // Workers that count the same share a group: as a rule there are few kinds of them.
            let mut alike: Vec<(Counted<'_>, Vec<&str>)> = Vec::new();
            for (script, slots) in &counted_of {
                let Some(counted) = slots.get(slot) else {
                    continue;
                };
                match alike.iter_mut().find(|(other, _)| other == counted) {
                    Some((_, scripts)) => scripts.push(script),
                    None => alike.push((*counted, vec![script])),
                }
            }
            let each = alike.into_iter().map(|(counted, scripts)| {
                let operation = if scripts.len() == 1 { "eq" } else { "in" };
                let scripts = json!(scripts.join(","));
                let mut filters = vec![leaf("$metadata.service", operation, "string", &scripts)];
                filters.extend(counted.filters());
                group("and", &filters)
            });
            ask(&[of_scripts.clone(), group("or", &each.collect::<Vec<_>>())]);
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
    ) -> SortedMap<String, ScriptCounts> {
        let sampled = answers.iter().any(|answer| answer.sampled);
        let mut counts: SortedMap<String, ScriptCounts> = SortedMap::new();
        for target in targets {
            let slots = slots(target);
            // A version shows up by its invocations, or by what a query of its own counts.
            let mine = self.slots_from..self.slots_from + slots.len();
            let seen = std::iter::once(&answers[0])
                .chain(&answers[mine])
                .flat_map(|answer| answer.groups(&target.script))
                .into_set();
            for at in seen {
                let of = VersionCounts {
                    requests: answers[0].count(at),
                    slos: target
                        .slos
                        .iter()
                        .map(|(slo, above_ms)| self.counts_of(slo, *above_ms, &slots, answers, at))
                        .collect(),
                };
                let entry = counts.or_default(target.script.clone());
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
        slots: &[Counted<'_>],
        answers: &[Answer],
        at: &Group,
    ) -> SloCounts {
        let (total, bad) = counted(slo, above_ms);
        let in_slot = |counted: Counted<'_>| {
            let slot = slots.iter().position(|slot| *slot == counted);
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
