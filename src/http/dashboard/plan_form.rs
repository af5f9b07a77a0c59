//! A plan as a form, and a form as a plan. Pure: what is wrong with the result is for the API to say.

use serde_json::{Map, Value, json};

use super::super::plans::READ_ONLY;
use super::Form;

/// The lists of a plan whose items can be added, removed and moved.
pub(super) const LISTS: [&str; 2] = ["stages", "slos"];

/// What a plan is at first.
pub(super) fn first(name: &str) -> Value {
    json!({
        "worker": {"account_id": "", "script_name": name},
        "check_interval": "30s",
        "stages": [{"percent": 10, "soak": "10m"}, {"percent": 50, "soak": "10m"}, {"percent": 100, "soak": "10m"}],
        "slos": [{"name": "errors", "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}}],
    })
}

/// A number where it is one; else the text, so that the API can point at it.
pub(super) fn number(text: &str) -> Value {
    if let Ok(number) = text.parse::<i64>() {
        return number.into();
    }
    // As JSON has numbers, and with no digit on one side of the point: a second parser with its tables would be 12 KB of the Worker.
    let whole = match text.as_bytes() {
        [b'.', ..] => format!("0{text}"),
        [.., b'.'] => format!("{text}0"),
        _ => text.to_owned(),
    };
    match crate::json::parse(&whole) {
        Ok(number @ Value::Number(_)) => number,
        _ => text.into(),
    }
}

/// Sets a field, or takes it away where the form leaves it empty.
fn set(item: &mut Map<String, Value>, name: &str, value: Value) {
    match &value {
        Value::String(text) if text.is_empty() => {
            item.remove(name);
        }
        _ => {
            item.insert(name.to_owned(), value);
        }
    }
}

/// What a text field holds. A browser takes the line breaks out of an input and writes those of a textarea in its own way, and white
/// space at the ends can't be seen: a text that nobody has changed stays as it was.
fn text(form: &Form, name: &str, before: Option<&Value>) -> Value {
    let plain = |text: &str| text.replace("\r\n", "\n");
    let sent = plain(form.all(name).next().unwrap_or_default());
    let is_same = |text: &str| text == sent || text.replace('\n', "") == sent;
    match before {
        Some(Value::String(text)) if is_same(&plain(text)) => text.as_str().into(),
        _ => sent.trim().into(),
    }
}

/// The items of a list, in the order in which the form holds them: a browser that has moved them sends them so.
fn order(form: &Form, list: &str) -> Vec<String> {
    let mut order: Vec<String> = Vec::new();
    for (name, _) in &form.0 {
        let rest = name
            .strip_prefix(list)
            .and_then(|rest| rest.strip_prefix('.'));
        if let Some((number, _)) = rest.and_then(|rest| rest.split_once('.'))
            && !order.iter().any(|known| known == number)
        {
            order.push(number.to_owned());
        }
    }
    order
}

/// The item that the form was made from: what it has no fields for stays as it was.
fn base(form: &Form, prefix: &str) -> Map<String, Value> {
    let base = crate::json::parse(form.get(&format!("{prefix}.base")));
    match base {
        Ok(Value::Object(base)) => base,
        _ => Map::new(),
    }
}

/// Whether the form has fields for an item: of one that is folded it has only what it was made from.
fn is_open(form: &Form, prefix: &str, field: &str) -> bool {
    let name = format!("{prefix}.{field}");
    form.0.iter().any(|(known, _)| *known == name)
}

fn stage(form: &Form, prefix: &str) -> Value {
    let mut stage = base(form, prefix);
    if !is_open(form, prefix, "percent") {
        return Value::Object(stage);
    }
    let field = |name: &str| form.get(&format!("{prefix}.{name}")).to_owned();
    // Never taken away: without them the API could not point at the field.
    stage.insert("percent".to_owned(), number(&field("percent")));
    stage.insert("soak".to_owned(), field("soak").into());
    let description = text(
        form,
        &format!("{prefix}.description"),
        stage.get("description"),
    );
    set(&mut stage, "description", description);
    for name in [
        "advance",
        "approval_timeout",
        "on_approval_timeout",
        "max_soak",
    ] {
        set(&mut stage, name, field(name).into());
    }
    let early = if field("early") == "true" {
        true.into()
    } else {
        field("early").into()
    };
    set(&mut stage, "early", early);
    Value::Object(stage)
}

fn slo(form: &Form, prefix: &str) -> Value {
    let mut slo = base(form, prefix);
    if !is_open(form, prefix, "name") {
        return Value::Object(slo);
    }
    let field = |name: &str| form.get(&format!("{prefix}.{name}")).to_owned();
    let name = text(form, &format!("{prefix}.name"), slo.get("name"));
    slo.insert("name".to_owned(), name);
    let kind = field("kind");
    let mut sli = match slo.remove("sli") {
        Some(Value::Object(sli)) => sli,
        _ => Map::new(),
    };
    let is_time = kind == "wall_time" || kind == "cpu_time";
    set(
        &mut sli,
        "percentile",
        if is_time {
            number(&field("percentile"))
        } else {
            "".into()
        },
    );
    for name in ["bad", "total"] {
        let text = if kind == "query" {
            field(name)
        } else {
            String::new()
        };
        // What is no JSON stays text, and the API says that it should be a list.
        set(
            &mut sli,
            name,
            crate::json::parse(&text).unwrap_or(Value::String(text)),
        );
    }
    sli.remove("saved");
    let saved = ["bad", "total"].map(|part| (part, field(&format!("saved_{part}"))));
    for (part, id) in saved {
        if kind == "query" && !id.is_empty() {
            let saved = sli.entry("saved").or_insert(json!({}));
            saved[part] = id.into();
        }
    }
    for name in ["url", "model"] {
        let text = if kind == "judge" {
            field(name)
        } else {
            String::new()
        };
        set(&mut sli, name, text.into());
    }
    sli.insert("kind".to_owned(), kind.into());
    slo.insert("sli".to_owned(), sli.into());
    let limit = number(&field("limit"));
    let objective = match field("objective").as_str() {
        "no_worse_than_old" => json!({"no_worse_than_old": {"tolerance": limit}}),
        "pass" => "pass".into(),
        other => json!({other: limit}),
    };
    slo.insert("objective".to_owned(), objective);
    for name in ["severity", "on_no_data", "rule"] {
        set(&mut slo, name, field(name).into());
    }
    evidence(&mut slo, &field);
    set(&mut slo, "min_requests", number(&field("min_requests")));
    Value::Object(slo)
}

/// What only the evidence rule goes by; a page hides it where it means nothing, and then it is not sent on either.
fn evidence(slo: &mut Map<String, Value>, field: &dyn Fn(&str) -> String) {
    // A judge has no rule, and may be undecided.
    let applies = field("rule") != "threshold" || field("kind") == "judge";
    let relative = field("objective") == "no_worse_than_old";
    let text = |name: &str, applies: bool| {
        if applies { field(name) } else { String::new() }
    };
    set(slo, "on_undecided", text("on_undecided", applies).into());
    for name in ["weight", "overdispersion"] {
        set(slo, name, number(&text(name, applies)));
    }
    let margin = text("at_full", applies && relative);
    let at_full = if margin.is_empty() {
        "".into()
    } else {
        json!({"margin": number(&margin)})
    };
    set(slo, "at_full", at_full);
}

/// The plan that a form holds.
pub(super) fn read(form: &Form) -> Value {
    let mut plan = base(form, "plan");
    plan.insert(
        "worker".to_owned(),
        json!({"account_id": form.get("account_id"), "script_name": form.get("script_name")}),
    );
    plan.insert(
        "check_interval".to_owned(),
        form.get("check_interval").into(),
    );
    set(&mut plan, "alpha", number(form.get("alpha")));
    for list in LISTS {
        let item = if list == "stages" { stage } else { slo };
        let items = order(form, list);
        let items = items
            .iter()
            .map(|number| item(form, &format!("{list}.{number}")));
        plan.insert(list.to_owned(), items.collect());
    }
    Value::Object(plan)
}

/// What the form has no fields for.
pub(super) fn rest(plan: &Value) -> Value {
    let mut rest = plan.clone();
    if let Some(fields) = rest.as_object_mut() {
        for name in ["worker", "check_interval", "alpha", "stages", "slos"] {
            fields.remove(name);
        }
        for name in READ_ONLY {
            fields.remove(name);
        }
    }
    rest
}

/// A button that was pressed to change a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Edit<'f> {
    Add(&'f str),
    Remove(&'f str, usize),
    Up(&'f str, usize),
    Down(&'f str, usize),
    /// Shows the fields of one that is folded.
    Open(&'f str, usize),
}

impl<'f> Edit<'f> {
    /// The button of a form that was pressed, if it is one of these: `add.stages`, `up.slos.2` and so on. The number names an item as the
    /// form's fields do; its place is where the browser has moved it to.
    pub fn of(form: &'f Form) -> Option<Self> {
        let mut parts = form.get("do").split('.');
        let (verb, list, item) = (parts.next()?, parts.next()?, parts.next());
        if !LISTS.contains(&list) {
            return None;
        }
        let place = || {
            let item = item?;
            order(form, list).iter().position(|known| known == item)
        };
        // An item that is not there is no ground for saving anything.
        let place = place().unwrap_or(usize::MAX);
        Some(match verb {
            "add" => Self::Add(list),
            "remove" => Self::Remove(list, place),
            "up" => Self::Up(list, place),
            "down" => Self::Down(list, place),
            "open" => Self::Open(list, place),
            _ => return None,
        })
    }

    /// Changes the plan. Answers the field that is then to have the focus, so that keys alone can go on.
    pub fn apply(self, plan: &mut Value) -> Option<String> {
        let (Self::Add(list)
        | Self::Remove(list, _)
        | Self::Up(list, _)
        | Self::Down(list, _)
        | Self::Open(list, _)) = self;
        let items = plan.get_mut(list)?.as_array_mut()?;
        let is_stages = list == "stages";
        // The last stage is 100 %, and stays the last.
        let movable = items.len() - usize::from(is_stages && !items.is_empty());
        match self {
            Self::Add(_) if is_stages => {
                let before = movable
                    .checked_sub(1)
                    .and_then(|i| items[i]["percent"].as_f64());
                let percent = (before.unwrap_or(0.0) + 1.0).min(99.0);
                items.insert(
                    movable,
                    json!({"percent": number(&crate::decimal::plain(percent).to_string()), "soak": "10m"}),
                );
                Some(format!("stages-{movable}-percent"))
            }
            Self::Add(_) => {
                let name = format!("slo-{}", items.len() + 1);
                items.push(json!({"name": name, "sli": {"kind": "error_rate"}, "objective": {"max": 0.01}}));
                Some(format!("slos-{}-name", items.len() - 1))
            }
            Self::Remove(_, at) if at < movable => {
                items.remove(at);
                Some(format!("add-{list}"))
            }
            Self::Up(_, at) if at > 0 && at < movable => {
                items.swap(at, at - 1);
                let verb = if at == 1 { "down" } else { "up" };
                Some(format!("{verb}-{list}-{}", at - 1))
            }
            Self::Down(_, at) if at < movable.saturating_sub(1) => {
                items.swap(at, at + 1);
                let verb = if at + 2 == movable { "up" } else { "down" };
                Some(format!("{verb}-{list}-{}", at + 1))
            }
            Self::Open(_, at) => {
                let field = if is_stages { "percent" } else { "name" };
                Some(format!("{list}-{at}-{field}"))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::Plan;

    fn form(pairs: &[(&str, &str)]) -> Form {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        Form(pairs.iter().map(owned).collect())
    }

    const PAIRS: [(&str, &str); 16] = [
        ("account_id", "0123456789abcdef0123456789abcdef"),
        ("script_name", "shop"),
        ("check_interval", "30s"),
        ("stages.1.percent", "10"),
        ("stages.1.soak", "10m"),
        ("stages.1.description", ""),
        ("stages.0.percent", "100"),
        ("stages.0.soak", "5m"),
        ("slos.0.base", r#"{"later":true}"#),
        ("slos.0.name", "slow"),
        ("slos.0.kind", "wall_time"),
        ("slos.0.percentile", "99.9"),
        ("slos.0.objective", "max_ms"),
        ("slos.0.limit", "250"),
        ("slos.0.bad", "[1]"),
        ("slos.0.min_requests", "40"),
    ];

    #[test]
    fn a_form_is_a_plan_in_the_order_that_it_was_sent_in() {
        let read = read(&form(&PAIRS));
        let plan: Plan = serde_json::from_value(read.clone()).unwrap();
        assert!(plan.errors(10_000).is_empty(), "{:?}", plan.errors(10_000));
        assert_eq!(read["stages"][0]["percent"], 10);
        assert!(
            read["slos"][0]["sli"].get("bad").is_none(),
            "only a query has them: {read}"
        );
        assert_eq!(read["slos"][0]["later"], true, "what has no field stays");
    }

    #[test]
    fn the_settings_of_the_evidence_rule_are_read_where_they_mean_something() {
        let more = [
            ("stages.1.early", "true"),
            ("slos.0.rule", "evidence"),
            ("slos.0.weight", "2.5"),
            ("slos.0.overdispersion", "3"),
            ("slos.0.at_full", "4"),
            ("slos.0.on_undecided", "hold"),
            ("alpha", "0.02"),
        ];
        let with = |changes: &[(&str, &str)]| {
            let mut pairs = PAIRS.to_vec();
            pairs.extend(more);
            for (name, value) in changes {
                pairs.iter_mut().find(|pair| pair.0 == *name).unwrap().1 = value;
            }
            read(&form(&pairs))
        };
        let plan = with(&[
            ("slos.0.objective", "no_worse_than_old"),
            ("slos.0.limit", "1.5"),
        ]);
        let whole: Plan = serde_json::from_value(plan.clone()).unwrap();
        assert!(
            whole.errors(10_000).is_empty(),
            "{:?}",
            whole.errors(10_000)
        );
        assert_eq!(
            (&plan["alpha"], &plan["stages"][0]["early"]),
            (&json!(0.02), &json!(true))
        );
        assert!(plan["stages"][1].get("early").is_none());
        let slo = &plan["slos"][0];
        assert_eq!(slo["at_full"], json!({"margin": 4}));
        assert_eq!(
            (&slo["weight"], &slo["overdispersion"], &slo["on_undecided"]),
            (&json!(2.5), &json!(3), &json!("hold"))
        );
        // Hidden, and so left out.
        let absolute = &with(&[])["slos"][0];
        assert!(
            absolute.get("at_full").is_none() && absolute["weight"] == 2.5,
            "{absolute}"
        );
        let judged = &with(&[("slos.0.rule", "threshold"), ("slos.0.kind", "judge")])["slos"][0];
        assert_eq!(judged["on_undecided"], "hold", "a judge has no rule");
        let judged = &with(&[("slos.0.rule", "threshold")])["slos"][0];
        for field in ["at_full", "weight", "overdispersion", "on_undecided"] {
            assert!(judged.get(field).is_none(), "{field} in {judged}");
        }
    }

    #[test]
    fn what_is_no_number_stays_for_the_api_to_point_at() {
        let mut pairs = PAIRS.to_vec();
        pairs[3].1 = "ten";
        assert_eq!(read(&form(&pairs))["stages"][0]["percent"], "ten");
    }

    #[test]
    fn the_last_stage_stays_the_last() {
        let mut plan = first("shop");
        let percents = |plan: &Value| -> Vec<Value> {
            let stages = plan["stages"].as_array().unwrap();
            stages
                .iter()
                .map(|stage| stage["percent"].clone())
                .collect()
        };
        let edit_of = |text: &str, order: [&str; 4]| -> Form {
            let fields = order.map(|item| (format!("stages.{item}.soak"), String::new()));
            let mut form = Form(fields.into());
            form.0.push(("do".to_owned(), text.to_owned()));
            form
        };
        let mut edit = |text: &str| {
            let form = edit_of(text, ["0", "1", "2", "3"]);
            let focus = Edit::of(&form).unwrap().apply(&mut plan);
            (percents(&plan), focus)
        };
        assert_eq!(
            edit("add.stages"),
            (
                vec![json!(10), json!(50), json!(51), json!(100)],
                Some("stages-2-percent".to_owned())
            )
        );
        assert_eq!(edit("up.stages.2").0, [10, 51, 50, 100]);
        assert_eq!(
            edit("up.stages.1"),
            (
                vec![json!(51), json!(10), json!(50), json!(100)],
                Some("down-stages-0".to_owned())
            )
        );
        for refused in [
            "up.stages.3",
            "down.stages.2",
            "remove.stages.3",
            "up.stages.0",
            "up.stages.99",
            "up.stages.x",
            "remove.stages",
        ] {
            assert_eq!(
                edit(refused),
                (vec![json!(51), json!(10), json!(50), json!(100)], None),
                "{refused}"
            );
        }
        assert_eq!(edit("remove.stages.0").0, [10, 50, 100]);
        let order = ["1", "0", "2", "3"];
        for garbled in ["", "up", "up.worker.1", "explode.stages.1"] {
            assert_eq!(Edit::of(&edit_of(garbled, order)), None, "{garbled}");
        }
        // The mouse has moved the second before the first: a button still means the item that it stands at.
        for (text, meant) in [
            ("remove.stages.0", Edit::Remove("stages", 1)),
            ("up.stages.0", Edit::Up("stages", 1)),
            ("down.stages.1", Edit::Down("stages", 0)),
            ("remove.stages.2", Edit::Remove("stages", 2)),
        ] {
            assert_eq!(Edit::of(&edit_of(text, order)), Some(meant), "{text}");
        }
    }
}
