//! The fields of a plan's form, each with what is wrong with it, and the buttons of its lists.

use maud::{Markup, html};
use serde_json::Value;

use super::super::problem::Problem;
use super::layout;
use super::plan::Draft;
use crate::release::FieldError;

/// The id of the field that a pointer is about.
pub(super) fn field_id(pointer: &str) -> String {
    let steps: Vec<&str> = pointer.split('/').skip(1).collect();
    match steps[..] {
        ["slos", i, "objective", ..] => format!("slos-{i}-limit"),
        ["slos", i, "sli", "saved", part] => format!("slos-{i}-saved_{part}"),
        ["slos", i, "sli", field, ..] => format!("slos-{i}-{field}"),
        [list, i, field, ..] => format!("{list}-{i}-{field}"),
        ["worker", field] => field.to_owned(),
        _ => steps.join("-"),
    }
}

pub(super) fn refusal(problem: &Problem) -> Markup {
    if problem.errors.is_empty() {
        return layout::problem(problem);
    }
    html! {
        div.problem role="alert" {
            strong { "Not saved" }
            (pointed(&problem.errors))
        }
    }
}

/// What is to be said of fields, each with a link to its own.
pub(super) fn pointed(errors: &[FieldError]) -> Markup {
    html! {
        ul { @for error in errors { li { a href=(format!("#{}", field_id(&error.pointer))) { (error.pointer) } " " (error.detail) } } }
    }
}

/// A text field with its label and what is wrong with it.
pub(super) struct Field<'a> {
    pub id: &'a str,
    pub name: &'a str,
    pub label: &'a str,
    pub value: &'a Value,
    pub input: Input<'a>,
}

/// What takes a text field's text.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Input<'a> {
    /// One line.
    Line,
    /// One line that can't be changed.
    Locked,
    /// One line; the browser offers the choices of a list, if there is one.
    Offering(Option<&'a str>),
    /// Any number of lines.
    Lines,
}

pub(super) fn value_text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

pub(super) fn field(draft: &Draft<'_>, field: &Field<'_>) -> Markup {
    let error = error_of(draft, field.id);
    let list = match field.input {
        Input::Offering(list) => list,
        _ => None,
    };
    let error_id = format!("{}-error", field.id);
    html! {
        div.field {
            label for=(field.id) { (field.label) }
            @if field.input == Input::Lines {
                // A browser leaves out the first line break.
                textarea id=(field.id) name=(field.name) rows="2"
                    aria-invalid=[error.map(|_| "true")] aria-describedby=[error.map(|_| error_id.as_str())] { "\n" (value_text(field.value)) }
            } @else {
                input id=(field.id) name=(field.name) value=(value_text(field.value)) autocomplete="off" readonly[field.input == Input::Locked] list=[list]
                    autofocus[draft.focus.as_deref() == Some(field.id)]
                    aria-invalid=[error.map(|_| "true")] aria-describedby=[error.map(|_| error_id.as_str())];
            }
            @if let Some(error) = error { p.error id=(error_id) { (error.detail) } }
        }
    }
}

/// A choice with its label and what is wrong with it.
pub(super) fn choice(
    draft: &Draft<'_>,
    (id, name, label): (&str, &str, &str),
    options: &[(&str, &str)],
    chosen: &str,
) -> Markup {
    let error = error_of(draft, id);
    let error_id = format!("{id}-error");
    html! {
        div.field {
            label for=(id) { (label) }
            select id=(id) name=(name) aria-invalid=[error.map(|_| "true")] aria-describedby=[error.map(|_| error_id.as_str())] {
                @for (value, words) in options { option value=(value) selected[*value == chosen] { (words) } }
            }
            @if let Some(error) = error { p.error id=(error_id) { (error.detail) } }
        }
    }
}

fn error_of<'a>(draft: &'a Draft<'_>, id: &str) -> Option<&'a FieldError> {
    let mut errors = draft.errors.iter();
    errors.find(|error| field_id(&error.pointer) == id)
}

/// The buttons that move or remove an item.
pub(super) fn moves(draft: &Draft<'_>, list: &str, i: usize, movable: usize, what: &str) -> Markup {
    let button = |verb: &str, sign: &str, possible: bool| {
        let id = format!("{verb}-{list}-{i}");
        html! {
            button id=(id) name="do" value=(format!("{verb}.{list}.{i}")) disabled[!possible]
                autofocus[draft.focus.as_deref() == Some(id.as_str())] aria-label=(format!("{what}: {verb}")) { (sign) }
        }
    };
    html! {
        div.moves {
            (button("up", "↑", i > 0 && i < movable))
            (button("down", "↓", i + 1 < movable))
            (button("remove", "✕", i < movable))
        }
    }
}

pub(super) fn add(draft: &Draft<'_>, list: &str, label: &str) -> Markup {
    let id = format!("add-{list}");
    html! {
        button id=(id) type="submit" name="do" value=(format!("add.{list}")) autofocus[draft.focus.as_deref() == Some(id.as_str())] { (label) }
    }
}
