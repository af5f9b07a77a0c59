//! The stages and the objectives of a plan as lists of fields. Of a plan that is too large for one page each has a line, and
//! its fields on demand.

use maud::{Markup, html};
use serde_json::{Value, json};

use super::layout::hidden_json;
use super::plan::Draft;
use super::plan_field::{Field, Input, add, choice, field, field_id, moves, value_text};
use super::plan_queries;
use super::plan_sentence::{objective, preview};
use crate::release::Plan;

fn items<'a>(draft: &'a Draft<'_>, list: &str) -> &'a [Value] {
    draft.plan[list].as_array().map_or(&[], Vec::as_slice)
}

type Choice = (
    &'static str,
    &'static str,
    [(&'static str, &'static str); 2],
);

const STAGE_CHOICES: [Choice; 3] = [
    (
        "early",
        "Pass",
        [
            ("", "when the time is over"),
            ("true", "as soon as all is safe"),
        ],
    ),
    (
        "advance",
        "Then",
        [
            ("auto", "goes on by itself"),
            ("manual", "waits for approval"),
        ],
    ),
    (
        "on_approval_timeout",
        "If nobody approves",
        [("deny", "deny"), ("wait", "wait")],
    ),
];

/// Items with something wrong that are shown with their fields.
const WRONG: usize = 2;

/// Whether the fields of an item are shown: of a large plan those of the one that was asked for, and of some with something wrong.
fn is_open(draft: &Draft<'_>, list: &str, i: usize) -> bool {
    let prefix = format!("{list}-{i}-");
    let wrong = draft.errors.iter().take(WRONG);
    !draft.folded
        || draft
            .focus
            .as_ref()
            .is_some_and(|it| it.starts_with(&prefix))
        || wrong
            .map(|error| field_id(&error.pointer))
            .any(|id| id.starts_with(&prefix))
}

/// An item with its head, what it is now, and its fields or a button for them.
fn item(
    draft: &Draft<'_>,
    (list, i, movable): (&str, usize, usize),
    (what, more): (&str, &Markup),
    value: &Value,
    (line, fields): (&Markup, &dyn Fn() -> Markup),
) -> Markup {
    let what = format!("{what} {}", i + 1);
    html! {
        li.item draggable=[(i < movable).then_some("true")] {
            div.head { h3 { (what) (more) } (moves(draft, list, i, movable, &what)) }
            (hidden_json(&format!("{list}.{i}.base"), value))
            (line)
            @if is_open(draft, list, i) { div.fields { (fields()) } }
            @else { button type="submit" name="do" value=(format!("open.{list}.{i}")) aria-label=(format!("Change {what}")) { "Change" } }
        }
    }
}

/// A stage of a large plan in short.
fn in_short(stage: &Value) -> Markup {
    html! {
        p.quiet { (value_text(&stage["percent"])) " % for " (value_text(&stage["soak"]))
            @if stage["advance"] == "manual" { ", then waits for approval" } }
    }
}

pub(super) fn stages(draft: &Draft<'_>) -> Markup {
    let stages = items(draft, "stages");
    let movable = stages.len().saturating_sub(1);
    let fields = |i: usize, stage: &Value| {
        html! {
            @for (name, label) in [("percent", "Percent"), ("soak", "Watch for"), ("description", "Description"), ("max_soak", "Hold at most"), ("approval_timeout", "Approval within")] {
                @let id = format!("stages-{i}-{name}");
                @let input = match name { "description" => Input::Lines, "percent" if i == movable && stage[name] == 100 => Input::Locked, _ => Input::Line };
                (field(draft, &Field { id: &id, name: &format!("stages.{i}.{name}"), label, value: &stage[name], input }))
            }
            @for (name, label, options) in STAGE_CHOICES {
                (choice(draft, (&format!("stages-{i}-{name}"), &format!("stages.{i}.{name}"), label), &options, &value_text(&stage[name])))
            }
        }
    };
    html! {
        ol.items data-list="stages" {
            @for (i, stage) in stages.iter().enumerate() {
                @let more = html! { @if i == movable { " " span.tag { "always 100 %" } } };
                @let line = if draft.folded { in_short(stage) } else { Markup::default() };
                (item(draft, ("stages", i, movable), ("Stage", &more), stage, (&line, &|| fields(i, stage))))
            }
        }
        (add(draft, "stages", "Add a stage"))
    }
}

const KINDS: [(&str, &str); 6] = [
    ("error_rate", "error rate"),
    ("wall_time", "wall time"),
    ("cpu_time", "CPU time"),
    ("request_count", "request count"),
    ("query", "query"),
    ("judge", "judge"),
];
const OBJECTIVES: [(&str, &str); 5] = [
    ("max", "share at most (0.01: 1 %)"),
    ("max_ms", "milliseconds at most"),
    ("min", "requests at least"),
    ("no_worse_than_old", "times the old version’s, at most"),
    ("pass", "approved by the judge"),
];

/// The settings that a name does not explain.
const TERMS: [(&str, &str); 8] = [
    (
        "Judge",
        "A service of yours or a model of Workers AI that is shown the numbers and says pass, hold or revert; its objective is “approved by the judge”. Requests to an address are signed with the secret of GET /v1/plans/{name}/judge-secret.",
    ),
    (
        "Judged by",
        "Evidence: sequential tests, which may be looked at as often as one likes. Threshold: harm as soon as the newest windows are over the limit, by chance or not.",
    ),
    (
        "Alpha",
        "The chance that a release of a version within its objectives is ever aborted, by any of its objectives.",
    ),
    (
        "Weight",
        "An objective’s part of alpha, in comparison with the others: twice the weight shows harm with half the evidence.",
    ),
    (
        "Overdispersion",
        "Failures that come in bursts count for one in so many. If empty, an objective against the old version takes what was seen before the release, others 1.",
    ),
    (
        "Margin at 100 %",
        "An objective against the old version has nothing to compare with at 100 %. With a margin it is held to the old version’s rate from before the release, times this.",
    ),
    (
        "Undecided at the end",
        "Neither harm nor safety was shown when the soak is over: the stage passes, or holds up to its longest time and then asks.",
    ),
    (
        "Requests needed",
        "A stage never passes with fewer requests to the new version than this.",
    ),
];

pub(super) fn slos(draft: &Draft<'_>) -> Markup {
    let slos = items(draft, "slos");
    let plan = crate::json::read::<Plan>(&draft.plan).ok();
    html! {
        ol.items data-list="slos" {
            @for (i, slo) in slos.iter().enumerate() {
                @let line = html! { p.quiet { @if is_open(draft, "slos", i) { (preview(plan.as_ref(), slo, i)) } @else { (objective(slo)) } } };
                @let more = html! { @if draft.folded { ": " (value_text(&slo["name"])) } };
                (item(draft, ("slos", i, slos.len()), ("Objective", &more), slo, (&line, &|| slo_fields(draft, slo, i))))
            }
        }
        details.how {
            summary { "What the settings mean" }
            dl.facts {
                @for (term, words) in TERMS { dt { (term) } dd { (words) } }
            }
        }
        (add(draft, "slos", "Add an objective"))
    }
}

fn slo_fields(draft: &Draft<'_>, slo: &Value, i: usize) -> Markup {
    let (kind, limit) = match slo["objective"].as_object().and_then(|it| it.iter().next()) {
        Some((kind, Value::Object(inner))) => (
            kind.as_str(),
            inner.get("tolerance").cloned().unwrap_or(json!(1.25)),
        ),
        Some((kind, limit)) => (kind.as_str(), limit.clone()),
        None if slo["objective"] == "pass" => ("pass", Value::Null),
        None => ("max", Value::Null),
    };
    let id = |name: &str| format!("slos-{i}-{name}");
    let full = |name: &str| format!("slos.{i}.{name}");
    let one = |name: &str, label: &str, value: &Value| {
        field(
            draft,
            &Field {
                id: &id(name),
                name: &full(name),
                label,
                value,
                input: Input::Line,
            },
        )
    };
    let choice = |name: &str, label: &str, options: &[(&str, &str)], chosen: &str| {
        choice(draft, (&id(name), &full(name), label), options, chosen)
    };
    let chosen = |name: &str, default: &str| match value_text(&slo[name]).as_str() {
        "" => default.to_owned(),
        text => text.to_owned(),
    };
    html! {
        (one("name", "Name", &slo["name"]))
        (choice("kind", "Indicator", &KINDS, &value_text(&slo["sli"]["kind"])))
        div data-for="wall_time cpu_time" {
            (choice("percentile", "Percentile", &[("50", "median"), ("90", "90"), ("95", "95"), ("99", "99"), ("99.9", "99.9")], match value_text(&slo["sli"]["percentile"]).as_str() { "" => "99", text => text }))
        }
        (choice("objective", "Must be", &OBJECTIVES, kind))
        (one("limit", "Limit", &limit))
        (choice("severity", "Harm", &[("revert", "goes back at once"), ("pause", "pauses"), ("observe", "is only recorded")], &chosen("severity", "revert")))
        (one("min_requests", "Requests needed (empty: 30)", &slo["min_requests"]))
        (choice("on_no_data", "Without data", &[("ask", "ask a person"), ("continue", "go on"), ("revert", "go back")], &chosen("on_no_data", "ask")))
        (choice("rule", "Judged by", &[("evidence", "evidence"), ("threshold", "threshold")], &chosen("rule", "evidence")))
        div data-rule="evidence" { (choice("on_undecided", "Undecided at the end", &[("pass", "passes"), ("hold", "holds")], &chosen("on_undecided", "pass"))) }
        @for (name, label) in [("weight", "Weight (empty: 1)"), ("overdispersion", "Overdispersion (optional)")] {
            div data-rule="evidence" { (one(name, label, &slo[name])) }
        }
        div data-rule="evidence" data-objective="no_worse_than_old" { (one("at_full", "Margin at 100 % (optional)", &slo["at_full"]["margin"])) }
        @for (name, label) in [("bad", "Bad events (filters as JSON)"), ("total", "Events that count (filters as JSON)")] {
            div data-for="query" { (one(name, label, &slo["sli"][name])) }
        }
        @for (name, label) in [("bad", "Or bad events by a saved query (its id)"), ("total", "Or events that count by a saved query (its id)")] {
            @let field_name = format!("saved_{name}");
            div data-for="query" { (field(draft, &Field { id: &id(&field_name), name: &full(&field_name), label, value: &slo["sli"]["saved"][name], input: Input::Offering(plan_queries::choices(draft)) })) }
        }
        @for (name, label) in [("url", "Address of the judge"), ("model", "or model of Workers AI")] {
            div data-for="judge" { (one(name, label, &slo["sli"][name])) }
        }
    }
}
