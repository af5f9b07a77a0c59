//! What somebody who watches a release has seen of it, and what is new to them. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};

use super::model::{Event, Release};
use super::text;
use crate::api::Sli;

/// After so long without a line it says that it goes on.
const SILENCE: TimeDelta = TimeDelta::minutes(5);

/// What has been seen of a release.
#[derive(Debug)]
pub struct Watch {
    /// The release as it was last seen.
    pub release: Release,
    /// Its events as they were last seen.
    pub events: Vec<Event>,
    /// The last measurements that it showed: an ended release has none any more.
    pub slis: Vec<Sli>,
    told: u64,
    verdicts: BTreeMap<String, Option<String>>,
    spoke_at: DateTime<Utc>,
}

impl Watch {
    /// Begins with the first sight. What has happened before is told, too.
    pub fn new(release: Release, now: DateTime<Utc>) -> Self {
        Self {
            slis: release.slis.clone(),
            release,
            events: Vec::new(),
            told: 0,
            verdicts: BTreeMap::new(),
            spoke_at: now,
        }
    }

    /// Takes in a new sight, and answers a line for each thing that is new.
    pub fn see(&mut self, release: Release, events: Vec<Event>, now: DateTime<Utc>) -> Vec<String> {
        let waited = self.release.state == "awaiting_approval" && self.told > 0;
        self.release = release;
        self.events = events;
        let mut lines: Vec<String> = Vec::new();
        let told = self.told;
        for event in self.events.iter().filter(|event| event.sequence > told) {
            lines.push(text::event_line(&self.release, event));
            self.told = self.told.max(event.sequence);
            // What ended it may have been measured after the last look.
            let violated = event.sli().filter(|_| event.kind == "slo.violated");
            if let Some(sli) = violated {
                self.slis.retain(|known| known.slo != sli.slo);
                self.slis.push(sli);
            }
            if event.kind == "stage.started" {
                // Another stage is judged anew.
                self.verdicts.clear();
            }
        }
        for sli in &self.release.slis {
            let before = self.verdicts.insert(sli.slo.clone(), sli.verdict.clone());
            if before.as_ref() != Some(&sli.verdict) {
                lines.push(text::verdict_line(now, sli));
            }
        }
        if !self.release.slis.is_empty() {
            self.slis.clone_from(&self.release.slis);
        }
        self.slis.sort_by(|one, other| one.slo.cmp(&other.slo));
        if self.release.state == "awaiting_approval" && !waited {
            lines.push(text::approval_line(&self.release, now));
        }
        if !lines.is_empty() {
            self.spoke_at = now;
        }
        lines
    }

    /// A sign of life, if there was none for long.
    pub fn remind(&mut self, now: DateTime<Utc>) -> Option<String> {
        if now - self.spoke_at < SILENCE {
            return None;
        }
        self.spoke_at = now;
        Some(text::still_line(&self.release, now))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn release(change: impl Fn(&mut Value)) -> Release {
        let mut release = json!({
            "id": "rel_1", "plan": "shop", "state": "rolling_out", "reason": null, "detail": null,
            "old_version": "a", "new_version": "b", "stage": 2,
            "stages": [
                {"percent": 10, "state": "passed"},
                {"percent": 50, "state": "soaking", "entered_at": "2026-01-01T00:00:10Z", "soak_ends_at": "2026-01-01T00:10:10Z"},
                {"percent": 100, "state": "pending"}],
            "slis": [{"slo": "errors", "sli": "error_rate", "new": {"requests": 120, "value": 0.003},
                      "old": {"requests": 80, "value": null}, "objective": "<= 5 %", "verdict": "safe"}],
        });
        change(&mut release);
        serde_json::from_value(release).unwrap()
    }

    fn event(sequence: u64, kind: &str, more: &Value) -> Event {
        let mut event = json!({"sequence": sequence, "type": kind, "at": "2026-01-01T00:00:10.250Z", "actor": "hmd"});
        for (name, value) in more.as_object().unwrap() {
            event[name] = value.clone();
        }
        serde_json::from_value(event).unwrap()
    }

    fn time(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    #[test]
    fn each_thing_is_told_once() {
        let now = time("2026-01-01T00:01:00Z");
        let mut watch = Watch::new(release(|_| ()), now);
        let started = event(1, "release.started", &json!({"actor": "hook:shop"}));
        let stage = event(2, "stage.started", &json!({"stage": 2}));
        let events = vec![started.clone(), stage.clone()];
        assert_eq!(
            watch.see(release(|_| ()), events.clone(), now),
            [
                "2026-01-01T00:00:10Z  release.started     by hook:shop",
                "2026-01-01T00:00:10Z  stage.started       stage 2 of 3 (50 %)",
                "2026-01-01T00:01:00Z  slo                 errors: safe; new 0.3 % of 120, old no data, wanted <= 5 %",
            ]
        );
        assert!(watch.see(release(|_| ()), events.clone(), now).is_empty());

        let harm = release(|it| it["slis"][0]["verdict"] = json!("harm"));
        let said = watch.see(harm, events.clone(), now);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].contains("errors: harm;"), "{said:?}");

        let measured = json!({"slo": "errors", "sli": "error_rate", "verdict": "harm", "new": {"requests": 300, "value": 0.09}});
        let violated = event(
            3,
            "slo.violated",
            &json!({"data": {"severity": "revert", "slo": measured}}),
        );
        let more = json!({"reason": "slo_violation", "detail": "errors\n\u{2002}at 9 %"});
        let reverting = event(4, "release.reverting", &more);
        let over = release(|it| {
            it["state"] = json!("reverted");
            it["reason"] = json!("slo_violation");
            it["slis"] = json!([]);
        });
        let said = watch.see(over, [events, vec![violated, reverting]].concat(), now);
        assert_eq!(said.len(), 2, "{said:?}");
        assert_eq!(
            said[1],
            "2026-01-01T00:00:10Z  release.reverting   slo violation; errors at 9 %"
        );
        assert_eq!(watch.slis.len(), 1, "the last measurements are kept");
        let last = watch.slis[0].new.as_ref().unwrap();
        assert_eq!(last.requests, 300, "what ended it counts");
    }

    #[test]
    fn who_is_to_approve_is_told_how_once_for_each_stage() {
        let now = time("2026-01-01T00:01:00Z");
        let waiting = || release(|it| it["state"] = json!("awaiting_approval"));
        let mut watch = Watch::new(waiting(), now);
        let asked = event(1, "approval.requested", &json!({"stage": 2}));
        let said = watch.see(waiting(), vec![asked.clone()], now);
        assert!(
            said.last().unwrap().contains("hmd release approve rel_1"),
            "{said:?}"
        );
        assert!(watch.see(waiting(), vec![asked], now).is_empty());
    }

    #[test]
    fn silence_is_broken_after_five_minutes() {
        let mut watch = Watch::new(release(|_| ()), time("2026-01-01T00:00:30Z"));
        assert_eq!(watch.remind(time("2026-01-01T00:05:00Z")), None);
        assert_eq!(
            watch.remind(time("2026-01-01T00:05:30Z")).unwrap(),
            "2026-01-01T00:05:30Z  still               rolling out; stage 2 of 3 (50 %); 280 s of the soak left; \
             errors: safe; new 0.3 % of 120, old no data, wanted <= 5 %"
        );
        assert_eq!(watch.remind(time("2026-01-01T00:06:00Z")), None);
    }

    #[test]
    fn plain_lines_have_no_escape_codes() {
        console::set_colors_enabled(true);
        let now = time("2026-01-01T00:01:00Z");
        let mut watch = Watch::new(release(|_| ()), now);
        let lines = watch.see(
            release(|_| ()),
            vec![event(1, "stage.started", &json!({}))],
            now,
        );
        let all = [
            lines,
            vec![
                text::end_line(&watch.release, now),
                text::headline(&watch.release),
            ],
        ];
        console::set_colors_enabled(false);
        assert!(!all.concat().join("").contains('\u{1b}'), "{all:?}");
    }
}
