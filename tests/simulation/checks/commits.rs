//! What must hold of every decision that the store took.

use std::collections::BTreeSet;

use hmd::pipeline::ports::Row;
use hmd::release::{Advance, Reason, SYSTEM, Status, Step, slo_applies};
use hmd::slo::{Severity, Slo};
use serde_json::{Value, json};

use super::{Commit, Verdict, must};
use crate::model::{Model, Tracked};
use crate::world::{PROPAGATION_MS, TELEMETRY_LAG_MS};

pub fn sequences(_: &Model, commit: &Commit) -> Verdict {
    let (after, now) = (&commit.after, &commit.after.progress);
    let (seq, version) = commit
        .before
        .as_ref()
        .map_or((0, 0), |b| (b.progress.seq, b.progress.version));
    // A release that starts as it is created shows its row and its first decision at once.
    let starts = commit.before.is_none() && now.seq == 2;
    must(now.seq == seq + 1 || starts, || {
        format!("seq {seq} is followed by {}", now.seq)
    })?;
    let newest = commit.newest_seq.unwrap_or(1);
    must(newest == now.seq, || {
        format!("the row is at {}, its newest decision at {newest}", now.seq)
    })?;
    must(now.version >= version, || {
        format!("version {version} is followed by {}", now.version)
    })?;
    for (i, event) in after.events.iter().enumerate() {
        must(event.sequence == i as u64 + 1, || {
            format!("event {} at place {}", event.sequence, i + 1)
        })?;
    }
    must(now.last_event == after.events.len() as u64, || {
        format!("{} events of {}", after.events.len(), now.last_event)
    })
}

pub fn ended_for_good(_: &Model, commit: &Commit) -> Verdict {
    let over = commit.before.as_ref().is_some_and(Tracked::is_over);
    must(!over, || {
        format!("it was over and is now {}", commit.after.state())
    })
}

pub fn columns(_: &Model, commit: &Commit) -> Verdict {
    let progress = &commit.after.progress;
    let wanted = json!({
        "script_name": commit.after.script, "state": progress.status.stored_name(), "version": progress.version,
        "seq": progress.seq, "act_due_at": progress.act_due_at, "check_due_at": progress.check_due_at,
        "ended_at": progress.ended_at,
    });
    let shown = |row: &Row| Value::Object(row.clone());
    must(shown(&commit.after.columns) == wanted, || {
        format!("{} instead of {wanted}", shown(&commit.after.columns))
    })
}

pub fn windows(_: &Model, commit: &Commit) -> Verdict {
    let interval = commit.after.plan.check_interval.ms();
    let before = commit.before.as_ref().and_then(|before| before.counted);
    let mut requests = 0;
    let mut own = 0;
    // The windows that the stage before still has, then the present stage's.
    let earlier = before.and_then(|before| before.earlier);
    let mut due = earlier
        .into_iter()
        .flat_map(|earlier| {
            let indexes = earlier.next_window..earlier.until_window;
            indexes.map(move |index| (index, earlier.stage, false))
        })
        .chain(before.into_iter().flat_map(|before| {
            let indexes = before.next_window..;
            indexes.map(move |index| (index, before.stage, true))
        }));
    for judged in &commit.windows {
        let mut of_present = false;
        for index in judged.window.run() {
            let Some((wanted, stage, present)) = due.next() else {
                return Err(format!("window {index}, though no split is in force"));
            };
            must(index == wanted, || {
                format!("window {index} instead of {wanted}")
            })?;
            must(
                (index + 1) * interval + TELEMETRY_LAG_MS <= commit.now,
                || format!("window {index} was judged before it had settled"),
            )?;
            must(judged.stage == stage + 1, || {
                format!("window {index} was counted for stage {}", judged.stage)
            })?;
            own += i64::from(present);
            of_present = present;
        }
        if of_present {
            requests += judged.window.new.requests;
        }
    }
    let Some(after) = commit.after.counted else {
        return Ok(());
    };
    let Some(before) = before.filter(|before| before.started_at == after.started_at) else {
        let from = after.next_window * interval;
        must(from >= after.started_at + PROPAGATION_MS, || {
            format!(
                "window {} began before the split had spread",
                after.next_window
            )
        })?;
        return must(after.new_requests == 0, || {
            "a soak begins with requests".to_owned()
        });
    };
    let next = before.next_window + own;
    must(after.next_window == next, || {
        format!("next window {} instead of {next}", after.next_window)
    })?;
    let sum = before.new_requests + requests;
    must(after.new_requests == sum, || {
        format!("{} requests counted instead of {sum}", after.new_requests)
    })
}

/// Whether it goes forward: a split with the new version is in force or owed.
fn forward(release: &Tracked) -> bool {
    matches!(
        release.state(),
        "rolling_out" | "paused" | "awaiting_approval" | "succeeded"
    )
}

pub fn harm(_: &Model, commit: &Commit) -> Verdict {
    must(
        !(commit.after.harmed && forward(&commit.after) && !commit.after.watches),
        || format!("it is {} after harm", commit.after.state()),
    )
}

/// The stage whose split is wanted, one more for the deployment that completes the release; none while going back.
fn reached(release: &Tracked) -> Option<usize> {
    let completing = match &release.progress.status {
        Status::Succeeded => true,
        Status::RollingOut {
            step: Step::Deploying(d),
        }
        | Status::Paused {
            step: Step::Deploying(d),
        } => d.completing,
        _ => false,
    };
    let started = release.progress.started_at.is_some() && !release.watches;
    (started && forward(release)).then(|| release.progress.stage + usize::from(completing))
}

pub fn rises(_: &Model, commit: &Commit) -> Verdict {
    let now = reached(&commit.after);
    let before = commit.before.as_ref().and_then(reached);
    let (Some(now), Some(before)) = (now, before) else {
        let first = now.is_none_or(|now| now == 0);
        return must(first, || format!("it enters at stage {now:?}"));
    };
    must(now == before || now == before + 1, || {
        format!("from stage {before} to {now}, counted from 0")
    })?;
    if now == before {
        return Ok(());
    }
    stage_passed(&commit.after, before)
}

/// Every SLO that could have blocked stage `index` was safe when it was left.
fn safe_at(release: &Tracked, index: usize) -> bool {
    let soak = release.progress.status.soak();
    let Some(soak) = soak.filter(|soak| soak.stage == index) else {
        return false;
    };
    let slos = release.plan.slos.iter().zip(&soak.readings);
    let mut blocking = slos.filter(|(slo, _)| slo.severity != Severity::Observe);
    !soak.readings.is_empty()
        && blocking.all(|(_, reading)| {
            matches!(
                reading.verdict,
                hmd::slo::Verdict::Safe | hmd::slo::Verdict::NotApplicable
            )
        })
}

/// Stage `index` may be left for the next one.
fn stage_passed(release: &Tracked, index: usize) -> Verdict {
    let stage = &release.plan.stages[index];
    let of_stage = |kind: &'static str| {
        let events = release.events.iter().rev();
        events
            .filter(move |e| e.kind == kind && e.stage == Some(index + 1))
            .collect::<Vec<_>>()
    };
    let Some(passed) = of_stage("stage.passed").first().copied() else {
        return Err(format!("stage {} has not passed", index + 1));
    };
    let granted = of_stage("approval.granted").first().copied();
    let last = index + 1 == release.plan.stages.len();
    if stage.advance == Advance::Manual && !last {
        must(granted.is_some_and(|e| e.actor != SYSTEM), || {
            format!("nobody approved stage {}", index + 1)
        })?;
    }
    let began = of_stage("stage.started").first().map_or(i64::MAX, |e| e.at);
    if passed.actor == SYSTEM && passed.at - began < stage.soak.ms() {
        must(stage.early && safe_at(release, index), || {
            format!("stage {} passed after {} ms", index + 1, passed.at - began)
        })?;
    }
    let waived: BTreeSet<&str> = release
        .events
        .iter()
        .filter(|e| e.stage == Some(index + 1))
        .filter_map(|e| e.data.as_ref()?["waived"].as_array())
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let counted = release.counted.map_or(0, |counted| counted.new_requests);
    let needs_data = |slo: &&Slo| {
        slo.severity != Severity::Observe
            && slo_applies(slo, stage.percent)
            && !waived.contains(slo.name.as_str())
    };
    for slo in release.plan.slos.iter().filter(needs_data) {
        must(counted >= slo.min_requests, || {
            format!(
                "stage {} passed with {counted} requests, {} needs {}",
                index + 1,
                slo.name,
                slo.min_requests
            )
        })?;
    }
    Ok(())
}

pub fn leases(_: &Model, commit: &Commit) -> Verdict {
    let Some(before) = &commit.before else {
        return Ok(());
    };
    let Some((version, Some(lease))) = before.owed() else {
        return Ok(());
    };
    // Turning back or giving way is anybody's right; the holder is still at it then, and its report comes later.
    let well = matches!(commit.after.state(), "succeeded" | "reverted");
    let settled = match commit.after.owed() {
        Some((owed, actor)) => owed == version && actor != Some(lease),
        None => well || commit.after.is_active(),
    };
    let holder = before.intents.get(&version).map(|intent| intent.holder);
    let over = lease.until <= commit.now;
    must(!settled || over || holder == Some(commit.task), || {
        format!("act {} was ended by task {}", lease.act, commit.task)
    })
}

pub fn end_over_foreign(model: &Model, commit: &Commit) -> Verdict {
    let well = matches!(commit.after.state(), "succeeded" | "reverted");
    let well = well && !commit.after.watches;
    let foreign = model.foreign_in(&commit.after, commit.look.as_ref());
    must(!well || foreign.is_empty(), || {
        format!("it ends {} over {foreign:?}", commit.after.state())
    })
}

pub fn watchers(model: &Model, commit: &Commit) -> Verdict {
    let (after, progress) = (&commit.after, &commit.after.progress);
    if !after.watches {
        return Ok(());
    }
    let idle = progress.act_due_at.is_none() && progress.acts == 0 && after.owed().is_none();
    must(idle, || "it owes Cloudflare something".to_owned())?;
    let known = matches!(
        progress.status,
        Status::Staged
            | Status::Watching { .. }
            | Status::Succeeded
            | Status::Reverted(_)
            | Status::Superseded(_)
            | Status::Cancelled(_)
    );
    must(known, || format!("it is {}", after.state()))?;
    if !after.is_over() || after.state() == "cancelled" {
        let by_a_person = progress
            .status
            .ending()
            .is_none_or(|end| end.reason == Reason::Stopped);
        return must(by_a_person, || format!("{:?}", progress.status));
    }
    // What ended it was the newest deployment that this invocation was shown.
    let made = model.made.get(&after.script).into_iter().flatten();
    let look = commit.look.as_ref();
    let shown = made.filter(|made| look.is_some_and(|l| l.ids.contains(&made.deployment.id)));
    let newest = shown.max_by_key(|made| made.deployment.created_us);
    let serving: BTreeSet<&str> = newest
        .into_iter()
        .flat_map(|made| &made.deployment.versions)
        .filter(|share| share.percentage > 0.0)
        .map(|share| share.version_id.as_str())
        .collect();
    let (old, new) = (progress.old_version.as_str(), after.new_version.as_str());
    let fits = match after.state() {
        "succeeded" => serving == BTreeSet::from([new]),
        "reverted" => serving == BTreeSet::from([old]),
        _ => serving
            .iter()
            .any(|version| *version != old && *version != new),
    };
    must(fits, || {
        format!(
            "it is {} though {serving:?} serve, {old} being the old one",
            after.state()
        )
    })
}
