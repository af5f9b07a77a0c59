//! What a plan counts by filters of its own: their form, the saved queries that stand in their place, and the keys that they
//! name.

use std::collections::BTreeSet;

use serde_json::Value;

use super::{Errors, FieldError, MAX_ITEMS, Plan};
use crate::gather::Gather as _;
use crate::slo::{Filter, Part, SliKind, Slo, is_query_id, usable_filters};
use crate::sorted::{SortedMap, SortedSet};

/// The keys that telemetry has, each with the types of its values.
pub type KeysSeen = SortedMap<String, BTreeSet<String>>;

/// A key that a plan names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct NamedKey<'a> {
    pointer: String,
    key: &'a str,
    value_type: &'a str,
}

fn place(i: usize, part: Part) -> String {
    format!("/slos/{i}/sli/{}", part.name())
}

fn saved_place(i: usize, part: Part) -> String {
    format!("/slos/{i}/sli/saved/{}", part.name())
}

/// How many filters a part has at least: without any, every event would be bad.
fn least(part: Part) -> usize {
    match part {
        Part::Bad => 1,
        Part::Total => 0,
    }
}

pub(super) fn filter_errors(errors: &mut Errors, i: usize, slo: &Slo) {
    let is_query = slo.sli.kind == SliKind::Query;
    if let Some(saved) = &slo.sli.saved {
        let pointer = || format!("/slos/{i}/sli/saved");
        errors.when(!is_query, pointer(), "only a query takes saved queries");
        errors.when(
            saved.bad.is_none() && saved.total.is_none(),
            pointer(),
            "names no query: give the id of one as bad, total, or both",
        );
    }
    for part in Part::ALL {
        let pointer = place(i, part);
        if let Some(id) = slo.sli.saved_id(part) {
            errors.when(
                !is_query_id(id),
                saved_place(i, part),
                "can't be the id of a saved query: 1 to 100 letters, digits, '-' or '_'",
            );
            errors.when(
                slo.sli.filters(part).is_some(),
                pointer,
                format!("is given by the saved query {id:?} already; keep one of the two"),
            );
            continue;
        }
        let Some(filters) = slo.sli.filters(part) else {
            errors.when(
                is_query && least(part) > 0,
                pointer,
                "is missing: the filters that make an event a bad one, or a saved query in saved.bad",
            );
            continue;
        };
        errors.when(!is_query, pointer.clone(), "only a query has filters");
        errors.when(
            !(least(part)..=MAX_ITEMS).contains(&filters.len()),
            pointer.clone(),
            format!("must have {} to {MAX_ITEMS} filters", least(part)),
        );
        for (k, filter) in filters.iter().enumerate() {
            for (field, detail) in filter.errors(false) {
                errors.add(format!("{pointer}/{k}{field}"), detail);
            }
        }
    }
}

impl Plan {
    /// The ids of the saved queries that its SLOs name.
    #[must_use]
    pub fn saved_queries(&self) -> BTreeSet<String> {
        let ids = |slo: &Slo| Part::ALL.map(|part| slo.sli.saved_id(part).map(str::to_owned));
        self.slos.iter().flat_map(ids).flatten().into_tree()
    }

    /// Takes the filters of the saved queries that it names: `parameters` are those of each by its id, or half a sentence that
    /// says why there are none. A query that is absent from them is left alone.
    ///
    /// # Errors
    /// What can't be used, each at its field.
    pub fn take_saved(
        &mut self,
        parameters: &SortedMap<String, Result<Value, String>>,
    ) -> Result<(), Vec<FieldError>> {
        let mut errors = Errors(Vec::new());
        for (i, slo) in self.slos.iter_mut().enumerate() {
            for part in Part::ALL {
                let id = slo.sli.saved_id(part).map(str::to_owned);
                let Some((id, read)) = id.and_then(|id| parameters.get_key_value(&id)) else {
                    continue;
                };
                let filters = read
                    .clone()
                    .and_then(|it| usable_filters(&it, &self.worker.script_name));
                match filters {
                    Ok(filters) if (least(part)..=MAX_ITEMS).contains(&filters.len()) => {
                        *slo.sli.filters_mut(part) = Some(filters);
                    }
                    Ok(filters) => errors.add(
                        saved_place(i, part),
                        format!(
                            "the saved query {id:?} has {} filters; it must have {} to {MAX_ITEMS}",
                            filters.len(),
                            least(part)
                        ),
                    ),
                    Err(why) => {
                        errors.add(
                            saved_place(i, part),
                            format!("the saved query {id:?} {why}"),
                        );
                    }
                }
            }
        }
        if errors.0.is_empty() {
            Ok(())
        } else {
            Err(errors.0)
        }
    }

    /// The keys that its own filters name, as far as they are known.
    #[must_use]
    pub fn own_keys(&self) -> BTreeSet<String> {
        self.named_keys()
            .into_iter()
            .map(|it| it.key.to_owned())
            .into_tree()
    }

    /// Of those keys, the ones that telemetry has never had, or has with values of another type: Cloudflare answers both with
    /// silence, which would look like health.
    #[must_use]
    pub fn key_warnings(&self, seen: &KeysSeen) -> Vec<FieldError> {
        let mut warnings = Errors(Vec::new());
        for named in self.named_keys() {
            let NamedKey {
                pointer,
                key,
                value_type,
            } = named;
            match seen.get(key) {
                None => warnings.add(
                    pointer,
                    format!(
                        "the key {key:?} was in no event of the account in the last 7 days: check how it is written; a filter on an unknown key matches nothing, without an error"
                    ),
                ),
                Some(types) if !types.contains(value_type) => {
                    let types: Vec<&str> = types.iter().map(String::as_str).collect();
                    warnings.add(
                        pointer,
                        format!(
                            "the key {key:?} holds values of type {}, and is compared as {value_type}: that matches nothing",
                            types.join(" and ")
                        ),
                    );
                }
                Some(_) => (),
            }
        }
        warnings.0
    }

    /// Each key once for each field that it stands in.
    fn named_keys(&self) -> SortedSet<NamedKey<'_>> {
        let mut named = SortedSet::new();
        for (i, slo) in self.slos.iter().enumerate() {
            for part in Part::ALL {
                let filters = slo.sli.filters(part).map_or(&[][..], Vec::as_slice);
                let saved = slo.sli.saved_id(part).is_some();
                for (k, filter) in filters.iter().enumerate() {
                    let pointer = if saved {
                        saved_place(i, part)
                    } else {
                        format!("{}/{k}", place(i, part))
                    };
                    add_keys(&mut named, filter, &pointer, saved);
                }
            }
        }
        named
    }
}

fn add_keys<'a>(named: &mut SortedSet<NamedKey<'a>>, filter: &'a Filter, at: &str, saved: bool) {
    if let (Some(key), Some(value_type)) = (&filter.key, &filter.value_type) {
        let pointer = if saved {
            at.to_owned()
        } else {
            format!("{at}/key")
        };
        named.insert(NamedKey {
            pointer,
            key,
            value_type,
        });
    }
    for (k, inner) in filter.filters.iter().flatten().enumerate() {
        let at = if saved {
            at.to_owned()
        } else {
            format!("{at}/filters/{k}")
        };
        add_keys(named, inner, &at, saved);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn plan(sli: &Value) -> Plan {
        let plan = json!({"worker": {"account_id": "a", "script_name": "shop"}, "check_interval": "30s",
            "stages": [{"percent": 100, "soak": "10m"}],
            "slos": [{"name": "own", "sli": sli, "objective": {"max": 0.01}}]});
        serde_json::from_value(plan).unwrap()
    }

    fn leaf(key: &str, kind: &str) -> Value {
        json!({"key": key, "operation": "exists", "type": kind})
    }

    fn pointers(found: &[FieldError]) -> Vec<&str> {
        found.iter().map(|it| it.pointer.as_str()).collect()
    }

    #[test]
    fn bad_is_given_once_by_filters_or_by_a_saved_query() {
        let bad = json!([leaf("a", "string")]);
        for (sli, expected) in [
            (json!({"kind": "query"}), vec!["/slos/0/sli/bad"]),
            (json!({"kind": "query", "bad": bad}), vec![]),
            (json!({"kind": "query", "saved": {"bad": "q_1"}}), vec![]),
            (
                json!({"kind": "query", "bad": bad, "saved": {"total": "q_1"}}),
                vec![],
            ),
            (
                json!({"kind": "query", "saved": {"total": "q_1"}}),
                vec!["/slos/0/sli/bad"],
            ),
            (
                json!({"kind": "query", "bad": bad, "saved": {"bad": "q_1"}}),
                vec!["/slos/0/sli/bad"],
            ),
            (
                json!({"kind": "query", "bad": bad, "saved": {}}),
                vec!["/slos/0/sli/saved"],
            ),
            (
                json!({"kind": "query", "saved": {"bad": "../x"}}),
                vec!["/slos/0/sli/saved/bad"],
            ),
            (
                json!({"kind": "error_rate", "saved": {"bad": "q_1"}}),
                vec!["/slos/0/sli/saved"],
            ),
        ] {
            assert_eq!(pointers(&plan(&sli).errors(1_000)), expected, "{sli}");
        }
    }

    #[test]
    fn saved_queries_become_filters_and_what_is_wrong_is_at_its_field() {
        let sli = json!({"kind": "query", "saved": {"bad": "q_1", "total": "q_2"}});
        let mut taken = plan(&sli);
        assert_eq!(taken.saved_queries().len(), 2);
        let read = |bad: Value| {
            SortedMap::from([
                ("q_1".to_owned(), Ok(bad)),
                ("q_2".to_owned(), Ok(json!({}))),
            ])
        };
        let filters = json!({"filters": [leaf("a", "string")]});
        taken.take_saved(&read(filters)).unwrap();
        let shown = serde_json::to_value(&taken.slos[0].sli).unwrap();
        assert_eq!(
            (
                &shown["bad"][0]["key"],
                &shown["total"],
                &shown["saved"]["bad"]
            ),
            (&json!("a"), &json!([]), &json!("q_1"))
        );
        let mut empty = plan(&sli);
        let errors = empty.take_saved(&read(json!({"filters": []}))).unwrap_err();
        assert_eq!(pointers(&errors), ["/slos/0/sli/saved/bad"]);
        assert!(errors[0].detail.contains("has 0 filters"), "{errors:?}");
        let gone = SortedMap::from([("q_2".to_owned(), Err("does not exist".to_owned()))]);
        let errors = plan(&sli).take_saved(&gone).unwrap_err();
        assert_eq!(pointers(&errors), ["/slos/0/sli/saved/total"]);
        assert_eq!(errors[0].detail, "the saved query \"q_2\" does not exist");
    }

    #[test]
    fn keys_that_nobody_has_seen_are_pointed_at() {
        let sli = json!({"kind": "query", "bad": [
            {"kind": "group", "filterCombination": "or", "filters": [leaf("seen", "string"), leaf("unseen", "string")]},
            leaf("seen", "number"),
        ]});
        let seen = KeysSeen::from([("seen".to_owned(), BTreeSet::from(["string".to_owned()]))]);
        let inline = plan(&sli);
        let warnings = inline.key_warnings(&seen);
        assert_eq!(
            pointers(&warnings),
            ["/slos/0/sli/bad/0/filters/1/key", "/slos/0/sli/bad/1/key"]
        );
        assert!(warnings[0].detail.contains("\"unseen\""), "{warnings:?}");
        assert!(
            warnings[1].detail.contains("compared as number"),
            "{warnings:?}"
        );
        assert_eq!(inline.own_keys().len(), 2);
        let mut saved = plan(&json!({"kind": "query", "saved": {"bad": "q_1"}}));
        assert_eq!(saved.own_keys().len(), 0);
        let parameters = json!({"filters": [leaf("unseen", "string"), leaf("unseen", "string")]});
        let read = SortedMap::from([("q_1".to_owned(), Ok(parameters))]);
        saved.take_saved(&read).unwrap();
        let warnings = saved.key_warnings(&seen);
        assert_eq!(pointers(&warnings), ["/slos/0/sli/saved/bad"], "once");
    }
}
