//! Checks of versions and deployments: can the release go there, and back?

use std::cmp::Reverse;

use super::super::head::Deployment;
use super::{Check, CheckName, Facts, Learned, ListedVersion};
use crate::gather::sort_short;

/// So many of the newest versions can be deployed.
const DEPLOYABLE: usize = 100;
/// An old version that so few uploads, or fewer, would make undeployable is too near the edge.
const NEAR_THE_EDGE: usize = 10;

const CAN_NOT_READ: &str = "try again; if it stays so, HMD can neither start nor watch a release";

/// The token can read deployments.
pub(super) fn deployments_token(facts: &Facts<'_>) -> Check {
    let name = CheckName::DeploymentsToken;
    match facts.deployments {
        Learned::Known(_) | Learned::NoWorker(_) if facts.watches() => {
            Check::passed(name, "the token can read deployments")
        }
        Learned::Known(_) | Learned::NoWorker(_) => Check::passed(
            name,
            "the token can read deployments; whether it may create one shows only when one is due",
        ),
        Learned::Denied(why) => Check::denied(name, why, (facts.token, facts.mode)),
        Learned::Unknown(why) => Check::warning(name, why, CAN_NOT_READ),
    }
}

/// The new version can be deployed and does not serve already.
pub(super) fn new_version(facts: &Facts<'_>) -> Check {
    let name = CheckName::NewVersion;
    let script = &facts.plan.worker.script_name;
    if let Err(why) = facts.versions.or_why() {
        return unlisted(name, facts.versions, why);
    }
    let Some(version) = facts.new_version() else {
        let detail = if facts.wanted == "latest" {
            format!("Worker {script} has no version that can be deployed")
        } else {
            format!(
                "version {:?} of {script} can't be deployed: it does not exist, or is not among the newest {DEPLOYABLE}",
                facts.wanted
            )
        };
        return Check::failed(name, detail, "upload it with `wrangler versions upload`");
    };
    let said = describe(version);
    if facts.old_version() == Some(version.id.as_str()) {
        let detail = format!("{said} serves all traffic already");
        let action = "upload the version to release with `wrangler versions upload`, or name it";
        return Check::failed(name, detail, action);
    }
    let latest = if facts.wanted == "latest" {
        "latest is "
    } else {
        ""
    };
    Check::passed(name, format!("{latest}{said}; it can be deployed"))
}

/// The new version serves some of the traffic already, or can be deployed.
pub(super) fn watched_version(facts: &Facts<'_>) -> Check {
    let name = CheckName::NewVersion;
    let serves = |head: &Deployment| head.serving().any(|id| id == facts.wanted);
    if facts.head().is_some_and(serves) && facts.old_version() != Some(facts.wanted) {
        let detail = format!("version {} serves some of the traffic", facts.wanted);
        return Check::passed(name, detail);
    }
    new_version(facts)
}

/// What serves is the version that the new one is to be compared with, alone or beside it.
pub(super) fn watched_split(facts: &Facts<'_>) -> Check {
    let name = CheckName::Serving;
    let head = match facts.deployments {
        Learned::Denied(why) | Learned::Unknown(why) => {
            return Check::warning(name, why, CAN_NOT_READ);
        }
        Learned::NoWorker(why) => return Check::failed(name, why, CORRECT_THE_PLAN),
        Learned::Known(_) => facts.head(),
    };
    let Some(head) = head else {
        let detail = format!(
            "Worker {} has no deployment yet",
            facts.plan.worker.script_name
        );
        return Check::failed(name, detail, "deploy it once with wrangler");
    };
    let new = facts
        .new_version()
        .map_or(facts.wanted, |it| it.id.as_str());
    let others: Vec<&str> = head.serving().filter(|id| *id != new).collect();
    match (others.as_slice(), facts.required_old) {
        ([old], Some(required)) if required != *old => Check::failed(
            name,
            format!("version {old} is what serves beside {new}, not old_version {required}"),
            "leave old_version out",
        ),
        ([old], _) if head.sole_version().is_some() => Check::passed(
            name,
            format!("version {old} serves 100 %: a split is waited for"),
        ),
        ([_], _) => Check::passed(name, format!("the traffic is split: {}", head.describe())),
        ([], _) => Check::failed(
            name,
            format!("version {new} serves all traffic already: nothing is left to watch"),
            "name the version that is to come, or deploy it with a share of less than 100 %",
        ),
        _ => Check::failed(
            name,
            format!(
                "the traffic is split between other versions: {}",
                head.describe()
            ),
            "name one of them as new_version",
        ),
    }
}

/// The old version can be deployed, and a few uploads during the release would not change that.
pub(super) fn old_version(facts: &Facts<'_>) -> Check {
    let name = CheckName::OldVersion;
    let versions = match facts.versions.or_why() {
        Ok(versions) => versions,
        Err(why) => return unlisted(name, facts.versions, why),
    };
    let Some(old) = facts.old_version() else {
        return not_known_yet(name);
    };
    let mut newest_first: Vec<&ListedVersion> = versions.iter().collect();
    sort_short(&mut newest_first, |version| Reverse(version.number));
    let Some(place) = newest_first.iter().position(|version| version.id == old) else {
        let detail = format!(
            "version {old} serves now, but is no longer among the newest {DEPLOYABLE}: the release could not go back to it"
        );
        let action = "deploy a newer version with wrangler first, and release from that";
        return Check::failed(name, detail, action);
    };
    let said = describe(newest_first[place]);
    let uploads = DEPLOYABLE.saturating_sub(place);
    if uploads <= NEAR_THE_EDGE {
        let detail = format!(
            "{said} serves now and can be deployed only until {uploads} more are uploaded: then the release could not go back to it"
        );
        let action = "don't upload more while the release runs, or deploy a newer version first";
        return Check::warning(name, detail, action);
    }
    let detail =
        format!("{said} serves now and can be deployed; {uploads} more uploads would end that");
    Check::passed(name, detail)
}

/// One version serves everything, and nobody else holds the Worker.
pub(super) fn serving(facts: &Facts<'_>) -> Check {
    let name = CheckName::Serving;
    let script = &facts.plan.worker.script_name;
    if let Some(holder) = facts.holder {
        let detail = format!("release {} holds Worker {script} now", holder.id);
        return if holder.waits {
            let action = "nothing: this one waits for its end, and is held to what serves then";
            Check::warning(name, detail, action)
        } else {
            let action = "wait for its end, stop it, or create this one with on_conflict \"queue\" or \"supersede\"";
            Check::failed(name, detail, action)
        };
    }
    match facts.deployments {
        Learned::Denied(why) | Learned::Unknown(why) => Check::warning(name, why, CAN_NOT_READ),
        Learned::NoWorker(why) => Check::failed(name, why, CORRECT_THE_PLAN),
        Learned::Known(_) => match facts.head() {
            None => Check::failed(
                name,
                format!("Worker {script} has no deployment yet"),
                "deploy it once with wrangler",
            ),
            Some(head) => served_by(facts, head),
        },
    }
}

fn served_by(facts: &Facts<'_>, head: &Deployment) -> Check {
    let name = CheckName::Serving;
    if facts
        .last_seen
        .is_some_and(|seen| head.seen().created_us < seen.created_us)
    {
        let detail = "Cloudflare still shows an older deployment than the last release left";
        return Check::warning(name, detail, "try again in some seconds");
    }
    let Some(old) = head.sole_version() else {
        let detail = format!("the traffic is split already: {}", head.describe());
        return Check::failed(name, detail, "give one version 100 % first");
    };
    match facts.required_old {
        Some(required) if required != old => Check::failed(
            name,
            format!("version {old} serves all traffic, not old_version {required}"),
            "leave old_version out, or deploy it first",
        ),
        _ => Check::passed(name, format!("version {old} serves 100 %")),
    }
}

/// No Durable Object migration lies between the versions, and both export the same classes.
pub(super) fn durable_objects(facts: &Facts<'_>) -> Check {
    let name = CheckName::DurableObjects;
    let (old, new) = match both(facts, name) {
        Ok(both) => both,
        Err(check) => return check,
    };
    let (Some(old), Some(new)) = (&old.durable_objects, &new.durable_objects) else {
        let detail = "Cloudflare says nothing of the versions' runtime, so their Durable Objects can't be compared";
        return Check::warning(name, detail, COMPARE);
    };
    let action = "deploy the new version with `wrangler deploy`: Durable Object changes can't be rolled out in stages";
    if old.migration_tag != new.migration_tag {
        let tag = |tag: &Option<String>| tag.as_deref().unwrap_or("none").to_owned();
        let detail = format!(
            "a Durable Object migration lies between the versions: the old one has {}, the new one {}",
            tag(&old.migration_tag),
            tag(&new.migration_tag)
        );
        return Check::failed(name, detail, action);
    }
    if old.exports != new.exports {
        let differing: Vec<&str> = old
            .exports
            .symmetric_difference(&new.exports)
            .map(String::as_str)
            .collect();
        let detail = format!(
            "the versions export different Durable Objects: {}",
            differing.join(", ")
        );
        return Check::failed(name, detail, action);
    }
    Check::passed(name, "both versions have the same Durable Objects, if any")
}

/// Nothing shows that a secret has changed in a way that Cloudflare asks about before going back.
pub(super) fn secrets(facts: &Facts<'_>) -> Check {
    let name = CheckName::Secrets;
    let listed = |id: &str| {
        let versions = facts.versions.known()?;
        versions.iter().find(|version| version.id == id)
    };
    let (Some(old), Some(new)) = (facts.old_version().and_then(listed), facts.new_version()) else {
        return not_known_yet(name);
    };
    let later = |than: i64| {
        let versions = facts.versions.known().into_iter().flatten();
        versions.filter(move |version| version.number > than)
    };
    let by_secret = |version: &&ListedVersion| {
        let trigger = version.triggered_by.as_deref().unwrap_or_default();
        trigger.contains("secret")
    };
    if let Some(change) = later(new.number).find(by_secret) {
        let detail = format!(
            "a secret was changed by {} after {} was uploaded: Cloudflare may refuse to deploy it (code 10220)",
            describe(change),
            describe(new)
        );
        let action = "upload the new version again, so that it has the present secrets";
        return Check::warning(name, detail, action);
    }
    if let Some(change) = later(old.number)
        .filter(by_secret)
        .max_by_key(|it| it.number)
    {
        let detail = format!(
            "a secret was changed by {} after {} was uploaded: Cloudflare may refuse a split with that version (code 10220), and refuses to go back without force",
            describe(change),
            describe(old)
        );
        return Check::warning(name, detail, PRESENT_SECRETS);
    }
    let (old_parts, new_parts) = match both(facts, name) {
        Ok(both) => both,
        Err(check) => return check,
    };
    let differing: Vec<&str> = old_parts
        .secrets
        .symmetric_difference(&new_parts.secrets)
        .map(String::as_str)
        .collect();
    if !differing.is_empty() {
        let detail = format!(
            "the versions have different secrets: {}; Cloudflare may refuse to split between them, and to go back without force (code 10220)",
            differing.join(", ")
        );
        return Check::warning(name, detail, PRESENT_SECRETS);
    }
    let oldest = old.number.min(new.number);
    if oldest == 0 || later(oldest).any(|it| it.triggered_by.is_none()) {
        let detail = "Cloudflare does not say what made each newer version, so a changed secret would not show";
        return Check::warning(name, detail, PRESENT_SECRETS);
    }
    Check::passed(
        name,
        "no secret has changed since the old version was uploaded",
    )
}

const PRESENT_SECRETS: &str = "to be sure, first give 100 % to a version that has the present secrets and the old code (one that the change of a secret made, or the old code uploaded again), and release from that. Else the first split may be refused: HMD forces no split, so the release ends as deploy_failed, and the old version serves on. A revert is forced, which is safe: the old version served with its secrets until the release began";
const CORRECT_THE_PLAN: &str = "correct the plan's worker, or deploy the Worker once with wrangler";
const COMPARE: &str = "look yourself whether a Durable Object migration lies between the versions; if so, use `wrangler deploy`";

type Both<'a> = (&'a super::VersionParts, &'a super::VersionParts);

/// What both versions are made of, or what the check says if that is not known.
fn both<'a>(facts: &Facts<'a>, name: CheckName) -> Result<Both<'a>, Check> {
    if facts.old_version().is_none() || facts.new_version().is_none() {
        return Err(not_known_yet(name));
    }
    match (facts.old_parts.or_why(), facts.new_parts.or_why()) {
        (Ok(old), Ok(new)) => Ok((old, new)),
        (Err(why), _) | (_, Err(why)) => {
            let detail = format!("the versions could not be compared: {why}");
            let action = "try again, or compare the versions yourself";
            Err(Check::warning(name, detail, action))
        }
    }
}

fn unlisted<T>(name: CheckName, versions: &Learned<T>, why: &str) -> Check {
    match versions {
        Learned::NoWorker(_) => Check::failed(name, why, CORRECT_THE_PLAN),
        _ => Check::warning(name, why, CAN_NOT_READ),
    }
}

fn not_known_yet(name: CheckName) -> Check {
    Check::warning(
        name,
        "it is not known from which version to which the release would go",
        "see the checks of versions and of what serves; ask again when they pass",
    )
}

/// `version 42 (7f1f3c52-…, tag v42)`
fn describe(version: &ListedVersion) -> String {
    let number = match version.number {
        0 => String::new(),
        number => format!(" {number}"),
    };
    let tag = version.tag.as_ref().map(|tag| format!(", tag {tag}"));
    format!(
        "version{number} ({}{})",
        version.id,
        tag.unwrap_or_default()
    )
}
