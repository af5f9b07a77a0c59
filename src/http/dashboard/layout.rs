//! What all pages share: the frame, and the small pieces that they are made of.

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::super::problem::Problem;
use super::Nav;
use crate::decimal::plain;
use crate::release::Percent;
use crate::slo::Verdict;
use crate::time::{UnixMs, rfc3339};

/// What the frame around a page says.
pub(in crate::http) struct Frame<'a> {
    /// For the browser's tab: the state first, so that a tab in the background tells.
    pub title: &'a str,
    /// Which part of the dashboard it belongs to.
    pub nav: Option<Nav>,
    /// The token of the sign-out form; none while nobody is signed in.
    pub form_token: Option<&'a str>,
    /// Whom Cloudflare Access names.
    pub person: Option<&'a str>,
    /// Whether the dashboard's script runs on it.
    pub has_script: bool,
}

/// A whole page.
pub(in crate::http) fn page(frame: &Frame<'_>, body: &Markup) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta name="robots" content="noindex";
                meta name="color-scheme" content="light dark";
                title { (frame.title) " · HMD" }
                link rel="stylesheet" href="/assets/dashboard.css";
                link rel="icon" href="/assets/icon.svg" type="image/svg+xml";
                @if frame.has_script { script src="/assets/dashboard.js" defer {} }
            }
            body {
                a.skip href="#main" { "Skip to the content" }
                header.top {
                    a.brand href="/" { "HMD" }
                    @if let Some(token) = frame.form_token {
                        nav aria-label="Dashboard" {
                            @for (nav, path, name) in Nav::ALL {
                                a href=(path) aria-current=[(Some(nav) == frame.nav).then_some("page")] { (name) }
                            }
                        }
                        @if let Some(person) = frame.person {
                            // Signing out happens at Access, where no form may lead.
                            span.who { (person) " " a href="/cdn-cgi/access/logout" { "Sign out" } }
                        } @else {
                            form method="post" action="/sign-out" { (hidden("form", token)) button.plain type="submit" { "Sign out" } }
                        }
                    }
                }
                main #main tabindex="-1" { (body) }
                footer { "Health mediated deployments" @if frame.form_token.is_some() { " · times in your zone, UTC on hover" } }
            }
        }
    }
}

/// A hidden field.
pub(in crate::http) fn hidden(name: &str, value: &str) -> Markup {
    html! { input type="hidden" name=(name) value=(value); }
}

/// A hidden field that holds JSON. In quotes of the other kind, for JSON is half quotes, and each would take six bytes.
pub(in crate::http) fn hidden_json(name: &str, value: &Value) -> Markup {
    let mut text = String::new();
    for c in crate::json::text(value).chars() {
        match c {
            '&' => text.push_str("&amp;"),
            '\'' => text.push_str("&#39;"),
            '<' => text.push_str("&lt;"),
            '>' => text.push_str("&gt;"),
            other => text.push(other),
        }
    }
    PreEscaped(format!(
        "<input type=\"hidden\" name=\"{name}\" value='{text}'>"
    ))
}

/// A moment: UTC here, the viewer's own zone where JavaScript runs.
pub(in crate::http) fn time(at: UnixMs) -> Markup {
    let text = rfc3339(at);
    let utc = utc(at);
    html! { time datetime=(text) title=(utc) { (utc) } }
}

/// A moment as Cloudflare wrote it.
pub(in crate::http) fn time_text(text: &str) -> Markup {
    if let Some(us) = crate::time::parse_rfc3339_us(text) {
        time(us.div_euclid(1_000))
    } else {
        html! { (text) }
    }
}

/// A moment in UTC, for people.
pub(in crate::http) fn utc(at: UnixMs) -> String {
    let text = rfc3339(at);
    let (date, time) = text.split_once('T').unwrap_or((&text, ""));
    let time = time.get(..8).unwrap_or(time);
    format!("{date} {time} UTC")
}

/// A duration, for people: its two largest units.
pub(in crate::http) fn duration(ms: i64) -> String {
    let seconds = ms.max(0) / 1_000;
    let units = [(86_400, "d"), (3_600, "h"), (60, "m"), (1, "s")];
    let mut rest = seconds;
    let mut parts = Vec::new();
    for (length, unit) in units {
        if rest >= length {
            parts.push(format!("{} {unit}", rest / length));
            rest %= length;
        }
    }
    parts.truncate(2);
    if parts.is_empty() {
        return "0 s".to_owned();
    }
    parts.join(" ")
}

/// The name of a state or reason as words.
pub(in crate::http) fn words(name: &str) -> String {
    name.replace('_', " ")
}

/// A state, told by colour, sign and word.
pub(in crate::http) fn state(name: &str) -> Markup {
    html! { span class=(format!("state {name}")) { span aria-hidden="true" { (sign(name)) } " " (words(name)) } }
}

/// The sign of a state, in tabs and badges.
pub(in crate::http) fn sign(state: &str) -> &'static str {
    match state {
        "rolling_out" | "soaking" | "deploying" => "▶",
        "paused" => "‖",
        "awaiting_approval" => "◆",
        "reverting" => "◀",
        "succeeded" | "passed" | "delivered" | "active" => "✔",
        "reverted" | "failed" | "disabled" => "✖",
        _ => "○",
    }
}

/// How much of the traffic each version gets.
pub(in crate::http) fn split(label: &str, new: Percent) -> Markup {
    let width = new.as_f64();
    let words = format!("{label}: {new} new, {} old", new.rest());
    html! {
        div.split {
            svg role="img" aria-label=(words) width="100%" height="14" {
                rect.old width="100%" height="14" {}
                rect.new width=(format!("{}%", plain(width))) height="14" {}
            }
            span { (label) " " strong { (new) } }
        }
    }
}

/// A verdict, told by colour and word.
pub(in crate::http) fn verdict(verdict: Verdict) -> Markup {
    html! { span class=(format!("verdict {}", verdict_class(verdict))) { (verdict_words(verdict)) } }
}

pub(in crate::http) fn verdict_class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Harm => "harm",
        Verdict::Safe => "safe",
        Verdict::Undecided => "undecided",
        Verdict::NoData => "no-data",
        Verdict::NotApplicable => "not-applicable",
    }
}

pub(in crate::http) fn verdict_words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Harm => "harm",
        Verdict::Safe => "safe",
        Verdict::Undecided => "undecided",
        Verdict::NoData => "no data",
        Verdict::NotApplicable => "does not apply",
    }
}

/// Something that was done, said at the top of the page that it leads to.
pub(in crate::http) fn done(what: Option<&str>) -> Markup {
    let said = match what {
        Some("start") => "Started.",
        Some("stop") => "Stopped.",
        Some("pause") => "Paused.",
        Some("resume") => "Resumed.",
        Some("promote") => "The soak ends now.",
        Some("abandon") => "Abandoned.",
        Some("approve") => "Approved.",
        Some("deny") => "Denied.",
        Some("created") => "Created.",
        Some("connected") => "Connected: Cloudflare lets HMD deploy it and read its telemetry.",
        Some("disconnected") => "Disconnected. Its plans and releases are still here.",
        Some("saved") => "Saved.",
        Some("deleted") => "Deleted.",
        Some("test") => "A test is on its way.",
        Some("replay") => "It is sent again.",
        _ => return Markup::default(),
    };
    html! { p.done role="status" { (said) } }
}

/// What went wrong, and where.
pub(in crate::http) fn problem(problem: &Problem) -> Markup {
    html! {
        div.problem role="alert" {
            strong { (problem.title) }
            @if problem.errors.is_empty() { p { (sentence(&problem.detail)) } }
            @else { ul { @for error in &problem.errors { li { code { (error.pointer) } " " (error.detail) } } } }
        }
    }
}

/// A detail as a sentence of its own.
pub(in crate::http) fn sentence(detail: &str) -> String {
    let mut letters = detail.chars();
    let first = letters
        .next()
        .map(|first| first.to_ascii_uppercase().to_string());
    let end = if detail.ends_with(['.', '!', '?']) {
        ""
    } else {
        "."
    };
    format!("{}{}{end}", first.unwrap_or_default(), letters.as_str())
}

/// What approving or resuming waives besides.
pub(in crate::http) fn waives(names: &[&str]) -> Markup {
    html! {
        @if !names.is_empty() {
            p.warn { "This waives the harm of " strong { (names.join(", ")) } " for this stage: the evidence of it so far is forgotten, and it stops nothing any more." }
        }
    }
}

/// A command behind a confirm step that needs no JavaScript.
pub(in crate::http) fn confirm(
    (action, form_token): (&str, &str),
    (name, explained, kind): (&str, &str, &str),
    more: &Markup,
) -> Markup {
    html! {
        details.confirm id=(action) {
            summary class=(kind) { (name) "…" }
            form method="post" action=(action) {
                (hidden("form", form_token))
                p { (explained) }
                (more)
                button class=(kind) type="submit" { "Yes: " (name.to_ascii_lowercase()) }
            }
        }
    }
}

/// What is no web address stays text: nobody's link runs anything here.
pub(in crate::http) fn link_or_text(url: &str) -> Markup {
    html! {
        @if url.starts_with("https://") || url.starts_with("http://") {
            a href=(url) rel="noreferrer noopener nofollow" { (url) }
        } @else { (url) }
    }
}

/// An id, cut to what tells it apart; whole on hover.
pub(in crate::http) fn short(id: &str) -> Markup {
    let shown: String = id.chars().take(8).collect();
    html! { code title=(id) { (shown) } }
}

/// The number of a page, from 1.
pub(in crate::http) fn page_number(text: &str) -> i64 {
    text.parse().unwrap_or(1).clamp(1, 10_000)
}

/// Links to the pages around one; nothing if there are none.
pub(in crate::http) fn pages(page: i64, more: bool, link: &dyn Fn(i64) -> String) -> Markup {
    html! {
        @if page > 1 || more {
            nav.pages aria-label="Pages" {
                @if page > 1 { a href=(link(page - 1)) { "Previous" } }
                @if more { a href=(link(page + 1)) { "Next" } }
            }
        }
    }
}

/// The part of a list that a page shows, with links to the pages around it.
pub(in crate::http) fn paged<'l, T>(
    all: &'l [T],
    (path, page): (&str, &str),
    length: usize,
) -> (&'l [T], Markup) {
    let page = page_number(page);
    let before = usize::try_from(page - 1).unwrap_or(0);
    let shown = all.chunks(length).nth(before).unwrap_or_default();
    let more = all.len() > (before + 1) * length;
    let link = |page| format!("{path}?page={page}");
    (shown, pages(page, more, &link))
}

/// A choice of a form.
pub(in crate::http) fn select(
    (id, name, label): (&str, &str, &str),
    options: &[(&str, &str)],
    chosen: &str,
) -> Markup {
    html! {
        label for=(id) { (label) }
        select id=(id) name=(name) {
            @for (value, words) in options { option value=(value) selected[*value == chosen] { (words) } }
        }
    }
}
