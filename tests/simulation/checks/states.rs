//! What must hold of store and Cloudflare together, after every step.

use std::collections::BTreeSet;

use hmd::release::{Percent, Status};
use hmd::slo::Slo;

use super::{Verdict, must};
use crate::model::{How, Made, Model, Tracked};

pub fn one_active(model: &Model, _: i64) -> Verdict {
    let mut held = BTreeSet::new();
    for release in model.releases.values().filter(|r| r.is_active()) {
        must(held.insert(&release.script), || {
            format!(
                "{} has a second active release, {}",
                release.script, release.id
            )
        })?;
    }
    Ok(())
}

/// The new version's share that must be in force, if anything must be.
fn settled_share(release: &Tracked) -> Option<Percent> {
    match &release.progress.status {
        Status::Succeeded => Some(Percent::FULL),
        Status::Reverted(_) => Some(Percent::ZERO),
        Status::RollingOut { .. } | Status::Paused { .. } | Status::AwaitingApproval { .. }
            if release.progress.act_due_at.is_none() =>
        {
            release.progress.status.soak().map(|soak| soak.percent)
        }
        _ => None,
    }
}

pub fn split(model: &Model, _: i64) -> Verdict {
    for (script, made) in &model.made {
        let Some(Made { deployment, how }) = made.last() else {
            continue;
        };
        // A person has deployed, or nobody has.
        if matches!(how, How::Hand | How::Created) {
            continue;
        }
        let driven = || model.releases.values().filter(|r| !r.watches);
        let of_script = || driven().filter(|r| r.script == *script);
        let started = || of_script().filter(|r| r.progress.started_at.is_some());
        let active = started().find(|r| r.is_active());
        let last = active.or_else(|| started().max_by_key(|r| r.progress.ended_at));
        let Some((release, share)) = last.and_then(|r| Some((r, settled_share(r)?))) else {
            continue;
        };
        // A call that was given up may still be carried out; while the release lives, its next look mends that.
        if *how == How::Late && !release.is_over() {
            continue;
        }
        let of = |version: &str| -> f64 {
            let shares = deployment.versions.iter();
            shares
                .filter(|share| share.version_id == version)
                .map(|share| share.percentage)
                .sum()
        };
        let fits = (of(&release.new_version) - share.as_f64()).abs() < 0.005
            && (of(&release.progress.old_version) - share.rest().as_f64()).abs() < 0.005;
        must(fits, || {
            format!(
                "{script}: {} is {} and wants {share}, but {deployment:?} is in force",
                release.id,
                release.state()
            )
        })?;
    }
    Ok(())
}

/// Neither over nor waiting to begin.
fn lives(release: &Tracked) -> bool {
    !release.is_over() && !matches!(release.progress.status, Status::Staged | Status::Queued)
}

pub fn alarm(model: &Model, _: i64) -> Verdict {
    for release in model.releases.values().filter(|r| lives(r)) {
        let progress = &release.progress;
        must(
            progress.act_due_at.is_some() || progress.check_due_at.is_some(),
            || format!("{} is {} without an alarm", release.id, release.state()),
        )?;
    }
    Ok(())
}

/// The first sweep after the faults makes up for every message that was lost, and it looks a minute ahead: from then on
/// every alarm rings when it is due. Where judges may be at work it rings half a minute later.
pub fn rings(model: &Model, now: i64) -> Verdict {
    const SLACK_MS: i64 = 20_000;
    const HEARING_MS: i64 = 30_000;
    let Some(swept_at) = model.swept_at else {
        return Ok(());
    };
    for release in model.releases.values().filter(|r| lives(r)) {
        let progress = &release.progress;
        let judged = release.plan.slos.iter().any(Slo::has_judge);
        let heard_at = |due| if judged { due + HEARING_MS } else { due };
        let alarms = [progress.act_due_at, progress.check_due_at.map(heard_at)];
        for due in alarms.into_iter().flatten() {
            must(now < due.max(swept_at) + SLACK_MS, || {
                format!("{} is overdue by {} ms", release.id, now - due)
            })?;
        }
    }
    Ok(())
}
