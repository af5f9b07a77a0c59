//! What is asked: a constant number of questions for any number of Workers.

use serde_json::{Value, json};

use super::answer::{Answer, Group};
use super::apart::{Piece, Suspects};
use super::{Measured, ScriptCounts, Target, WHAT};
use crate::cloudflare::client::ApiError;
use crate::gather::Gather as _;
use crate::slo::{Filter, Objective, Part, SliKind, Slo, SloCounts, VersionCounts};

/// The questions for some targets: totals first, then errors (if any SLO wants them), then slot by slot what else the
/// SLOs count. A slot holds what one SLO of each Worker counts, as an OR of (scripts AND filters).
pub(super) struct Questions<'a> {
    /// Filters and calculations of totals and errors, one object for each question.
    pub(super) base: Vec<Value>,
    /// What is counted in each slot.
    pub(super) slots: Vec<Vec<Kind<'a>>>,
    of_scripts: Value,
    percentiles: Vec<(&'static str, &'static str)>,
}

/// Workers that count the same share a group of filters: as a rule there are few kinds of them.
#[derive(Clone)]
pub(super) struct Kind<'a> {
    counted: Counted<'a>,
    /// The Workers.
    pub(super) scripts: Vec<&'a str>,
}

impl Kind<'_> {
    /// What it counts, as text: by this it is known again.
    pub(super) fn name(&self) -> String {
        Value::Array(self.counted.filters()).to_string()
    }
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

/// What is counted in each slot, and of which Workers.
fn kinds(targets: &[Target]) -> Vec<Vec<Kind<'_>>> {
    let mut kinds: Vec<Vec<Kind<'_>>> = Vec::new();
    for target in targets {
        for (slot, counted) in slots(target).into_iter().enumerate() {
            if kinds.len() <= slot {
                kinds.push(Vec::new());
            }
            let alike = &mut kinds[slot];
            match alike.iter_mut().find(|other| other.counted == counted) {
                Some(kind) => kind.scripts.push(&target.script),
                None => alike.push(Kind {
                    counted,
                    scripts: vec![&target.script],
                }),
            }
        }
    }
    kinds
}

/// How many questions there are for some targets.
pub(super) fn count(targets: &[Target], suspects: &Suspects) -> usize {
    let of_slots = if suspects.is_empty() {
        let most = targets.iter().map(|target| slots(target).len()).max();
        most.unwrap_or(0)
    } else {
        let kinds = kinds(targets);
        kinds.iter().map(|kinds| suspects.part(kinds).len()).sum()
    };
    1 + usize::from(wants_errors(targets)) + of_slots
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

impl<'a> Questions<'a> {
    pub(super) fn of(targets: &'a [Target]) -> Self {
        let scripts = targets.iter().map(|t| t.script.as_str()).into_set();
        let scripts: Vec<&str> = scripts.into_iter().collect();
        // Never by version: a third one must be seen.
        let of_scripts = leaf(
            "$metadata.service",
            "in",
            "string",
            &json!(scripts.join(",")),
        );
        let mut filters = vec![of_scripts.clone()];
        filters.extend(invocations());
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
        let mut calculations = vec![count_events()];
        for (i, (key, operator)) in percentiles.iter().enumerate() {
            let alias = format!("t{i}");
            calculations.push(
                json!({"operator": operator, "key": key, "keyType": "number", "alias": alias}),
            );
        }
        let mut base = vec![json!({"filters": filters, "calculations": calculations})];
        if wants_errors(targets) {
            filters.push(failed());
            base.push(json!({"filters": filters, "calculations": [count_events()]}));
        }
        Self {
            base,
            slots: kinds(targets),
            of_scripts,
            percentiles,
        }
    }

    /// The question that asks for some of a slot's kinds.
    pub(super) fn of_kinds(&self, kinds: &[Kind<'_>]) -> Value {
        let each = kinds.iter().map(|kind| {
            let operation = if kind.scripts.len() == 1 { "eq" } else { "in" };
            let scripts = json!(kind.scripts.join(","));
            let mut filters = vec![leaf("$metadata.service", operation, "string", &scripts)];
            filters.extend(kind.counted.filters());
            group("and", &filters)
        });
        let filters = [
            self.of_scripts.clone(),
            group("or", &each.collect::<Vec<_>>()),
        ];
        json!({"filters": filters, "calculations": [count_events()]})
    }

    /// What the answers say of each Worker: those to totals and errors, and the pieces of each slot.
    pub(super) fn read(
        &self,
        targets: &[Target],
        base: &[Answer],
        pieces: &[Vec<Piece<'_>>],
    ) -> Measured {
        let answered = pieces
            .iter()
            .flatten()
            .filter_map(|piece| piece.answer.as_ref().ok());
        let sampled = base.iter().chain(answered).any(|answer| answer.sampled);
        let mut measured = Measured::default();
        for target in targets {
            let slots = slots(target);
            let of_slots = slots
                .iter()
                .zip(pieces)
                .map(|(counted, pieces)| answer_of(target, *counted, pieces));
            let of_slots: Vec<&Answer> = match of_slots.collect() {
                Ok(answers) => answers,
                Err(error) => {
                    measured.failed.insert(target.script.clone(), error);
                    continue;
                }
            };
            // A version shows up by its invocations, or by what a query of its own counts.
            let seen = std::iter::once(&base[0])
                .chain(of_slots.iter().copied())
                .flat_map(|answer| answer.groups(&target.script))
                .into_set();
            for at in seen {
                let counts_of = |(slo, above_ms): &(Slo, Option<f64>)| {
                    self.counts_of((slo, *above_ms), &slots, (base, &of_slots), at)
                };
                let of = VersionCounts {
                    requests: base[0].count(at),
                    slos: target.slos.iter().map(counts_of).collect(),
                };
                let entry: &mut ScriptCounts = measured.counts.or_default(target.script.clone());
                entry.sampled = sampled;
                entry.versions.insert(at.version.clone(), of);
            }
        }
        measured
    }

    fn counts_of(
        &self,
        (slo, above_ms): (&Slo, Option<f64>),
        slots: &[Counted<'_>],
        (base, of_slots): (&[Answer], &[&Answer]),
        at: &Group,
    ) -> SloCounts {
        let (total, bad) = counted(slo, above_ms);
        let in_slot = |counted: Counted<'_>| {
            let slot = slots.iter().position(|slot| *slot == counted);
            slot.map_or(0, |slot| of_slots[slot].count(at))
        };
        let requests = total.map_or_else(|| base[0].count(at), &in_slot);
        let bad = match slo.sli.kind {
            SliKind::ErrorRate => base.get(1).map_or(0, |errors| errors.count(at)),
            _ => bad.map_or(0, in_slot),
        };
        // An event that came in between two questions must not make more bad requests than requests.
        let bad = bad.min(requests);
        let shown = percentile(slo)
            .and_then(|wanted| self.percentiles.iter().position(|p| *p == wanted))
            .and_then(|i| base[0].value(&format!("t{i}"), at));
        SloCounts {
            requests,
            bad,
            shown,
        }
    }
}

fn count_events() -> Value {
    json!({"operator": "count", "alias": "n"})
}

/// The answer that tells of a Worker in one slot, or why there is none and which SLOs it was for.
fn answer_of<'p>(
    target: &Target,
    wanted: Counted<'_>,
    pieces: &'p [Piece<'_>],
) -> Result<&'p Answer, ApiError> {
    let tells = |piece: &&Piece<'_>| {
        let mut kinds = piece.kinds.iter();
        kinds.any(|kind| kind.counted == wanted)
    };
    // Mostly there is but one.
    let piece = match pieces {
        [piece] => Some(piece),
        _ => pieces.iter().find(tells),
    };
    let Some(piece) = piece else {
        return Err(ApiError::unreadable(WHAT, "a question was not answered"));
    };
    piece.answer.as_ref().map_err(|error| {
        let counts = |(slo, above_ms): &&(Slo, Option<f64>)| {
            let (total, bad) = counted(slo, *above_ms);
            [total, bad].contains(&Some(wanted))
        };
        let names = target.slos.iter().filter(counts);
        let names: Vec<&str> = names.map(|(slo, _)| slo.name.as_str()).collect();
        ApiError {
            kind: error.kind,
            detail: format!("for SLO {}: {}", names.join(", "), error.detail),
        }
    })
}
