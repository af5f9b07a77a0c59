//! What is left to do: the account as it was found, against the installation as it is wanted. Pure.

use std::collections::BTreeSet;
use std::fmt;

use super::secrets::SECRETS;

/// The installation that the project describes, and what the caller asked for.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Name of the Worker.
    pub worker: String,
    /// Name of its D1 database.
    pub database: String,
    /// Every queue that it sends to, consumes or gives its dead letters to.
    pub queues: Vec<String>,
    /// The address that was asked for.
    pub url: Option<String>,
    /// Secrets that are to be replaced.
    pub rotate: BTreeSet<String>,
}

/// The account as it was found.
#[derive(Debug, Clone, Default)]
pub struct Found {
    /// Id of the D1 database, if it exists.
    pub database_id: Option<String>,
    /// Whether it lacks a migration.
    pub has_pending_migrations: bool,
    /// Whether the database has tables, and had none of the migrations.
    pub is_foreign: bool,
    /// Those of the wanted queues that exist.
    pub queues: BTreeSet<String>,
    /// The version that serves, if the Worker exists.
    pub serving: Option<Serving>,
}

/// The version of HMD's Worker that serves all traffic.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Serving {
    /// What its upload was marked with: for `deploy`, a fingerprint of sources and configuration.
    pub tag: Option<String>,
    /// Its `PUBLIC_URL`.
    pub public_url: String,
    /// Names of its secrets.
    pub secrets: BTreeSet<String>,
    /// It has a D1 database as `DB`.
    pub has_database: bool,
}

impl Serving {
    /// Whether it is HMD: `deploy` has uploaded it, or it is made like HMD.
    pub fn is_hmd(&self) -> bool {
        let tagged = self
            .tag
            .as_deref()
            .is_some_and(|tag| tag.starts_with(TAG_PREFIX));
        tagged || (self.has_database && self.secrets.contains("HMD_SIGNING_KEY"))
    }
}

/// What the marks of `deploy` begin with.
pub const TAG_PREFIX: &str = "hmd-";

/// What of the account is somebody else's by all that can be seen: a deployment would write over it.
pub fn strangers(wanted: &Wanted, found: &Found) -> Vec<String> {
    let is_there = found.serving.as_ref();
    if is_there.is_some_and(Serving::is_hmd) {
        return Vec::new();
    }
    let worker = is_there.map(|_| format!("a Worker {} that is not HMD", wanted.worker));
    // One that HMD's migrations have been applied to is left from a deployment that stopped before its upload.
    let database = found.is_foreign.then(|| {
        let name = &wanted.database;
        format!("a D1 database {name} that has tables, and none of HMD's")
    });
    worker.into_iter().chain(database).collect()
}

/// A step of a deployment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Make the D1 database.
    Database(String),
    /// Make a queue.
    Queue(String),
    /// Apply the migrations that the database lacks.
    Migrations(String),
    /// Give the Worker a secret, with its next upload.
    Secret(String),
    /// Upload the Worker; with it come the cron trigger, the queue consumers and the address.
    Upload(String),
    /// Set what an upload sets beside the code once more, in case an earlier one stopped half-way.
    Triggers,
    /// Upload once more with the address that Cloudflare gave.
    PublicUrl,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Database(name) => write!(f, "D1 database {name}"),
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Migrations(database) => write!(f, "migrations of {database}"),
            Self::Secret(name) => write!(f, "secret {name}"),
            Self::Upload(worker) => write!(f, "upload of the Worker {worker}"),
            Self::Triggers => f.write_str("cron, queue consumers and address"),
            Self::PublicUrl => f.write_str("PUBLIC_URL"),
        }
    }
}

/// A step, and why it is due; `None` if there is nothing left to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Planned {
    /// What it is about.
    pub step: Step,
    /// What is to be done, in words.
    pub due: Option<&'static str>,
}

/// The steps of a deployment, in order: whatever a later one needs comes before it. `tag` marks the upload that would be
/// made now; it is unknown while the database is, whose id is in it.
pub fn plan(wanted: &Wanted, found: &Found, tag: Option<&str>) -> Vec<Planned> {
    let when = |due: bool, what: &'static str| due.then_some(what);
    let serving = found.serving.as_ref();
    let has_database = found.database_id.is_some();
    let mut steps = vec![Planned {
        step: Step::Database(wanted.database.clone()),
        due: when(!has_database, "make it"),
    }];
    steps.extend(wanted.queues.iter().map(|queue| Planned {
        step: Step::Queue(queue.clone()),
        due: when(!found.queues.contains(queue), "make it"),
    }));
    // Before the upload: migrations only add, so that the version that serves meanwhile does not mind.
    steps.push(Planned {
        step: Step::Migrations(wanted.database.clone()),
        due: when(
            !has_database || found.has_pending_migrations,
            "apply what is missing",
        ),
    });
    let secrets: Vec<Planned> = SECRETS
        .iter()
        .map(|secret| {
            let is_there = serving.is_some_and(|serving| serving.secrets.contains(secret.name));
            let due = if is_there {
                when(wanted.rotate.contains(secret.name), "replace it")
            } else {
                Some("set it, with the upload")
            };
            Planned {
                step: Step::Secret(secret.name.to_owned()),
                due,
            }
        })
        .collect();
    let has_due_secrets = secrets.iter().any(|planned| planned.due.is_some());
    steps.extend(secrets);

    let is_current = serving.is_some_and(|serving| tag.is_some() && serving.tag.as_deref() == tag);
    let upload = match serving {
        None => Some("upload it for the first time"),
        Some(_) if !is_current => Some("upload it: it or its configuration has changed"),
        Some(_) => when(has_due_secrets, "upload it with the secrets"),
    };
    steps.push(Planned {
        step: Step::Upload(wanted.worker.clone()),
        due: upload,
    });
    if upload.is_none() {
        steps.push(Planned {
            step: Step::Triggers,
            due: Some("set them again; nothing changes where they are right"),
        });
    }
    let is_known = wanted.url.is_some() || serving.is_some_and(|it| !it.public_url.is_empty());
    steps.push(Planned {
        step: Step::PublicUrl,
        due: when(
            !is_known,
            "learn it from the upload, and upload once more with it",
        ),
    });
    steps
}

/// The `PUBLIC_URL` that an installation should have: the one that was asked for, else a domain of one's own that it already
/// has, else the address that Cloudflare gave.
pub fn public_url(asked: Option<&str>, kept: &str, learned: Option<&str>) -> String {
    let is_own = !kept.is_empty() && !kept.ends_with(".workers.dev");
    match (asked, learned) {
        (Some(url), _) => url,
        (None, Some(url)) if !is_own => url,
        _ => kept,
    }
    .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted() -> Wanted {
        Wanted {
            worker: "hmd".into(),
            database: "hmd".into(),
            queues: vec!["hmd-checks".into(), "hmd-dead".into()],
            ..Wanted::default()
        }
    }

    fn complete() -> Found {
        Found {
            database_id: Some("id".into()),
            has_pending_migrations: false,
            is_foreign: false,
            queues: ["hmd-checks".to_owned(), "hmd-dead".to_owned()].into(),
            serving: Some(Serving {
                tag: Some("tag".into()),
                public_url: "https://hmd.me.workers.dev".into(),
                secrets: SECRETS.iter().map(|it| it.name.to_owned()).collect(),
                has_database: true,
            }),
        }
    }

    #[test]
    fn who_is_not_known_as_hmd_is_a_stranger() {
        let of = |change: fn(&mut Found)| {
            let mut found = complete();
            change(&mut found);
            strangers(&wanted(), &found).len()
        };
        assert_eq!(of(|_| ()), 0, "made like HMD");
        let tagged = |tag: &str| Serving {
            tag: Some(tag.to_owned()),
            ..Serving::default()
        };
        assert_eq!(
            strangers(
                &wanted(),
                &Found {
                    serving: Some(tagged("hmd-1")),
                    ..complete()
                }
            )
            .len(),
            0
        );
        assert_eq!(
            strangers(
                &wanted(),
                &Found {
                    serving: Some(tagged("v1")),
                    ..complete()
                }
            )
            .len(),
            1
        );
        assert_eq!(
            of(|found| found.serving.as_mut().unwrap().has_database = false),
            1
        );
        assert_eq!(
            of(|found| found.serving = None),
            0,
            "left by a run that stopped"
        );
        assert_eq!(
            of(|found| (found.serving, found.is_foreign) = (None, true)),
            1
        );
    }

    fn due(wanted: &Wanted, found: &Found, tag: Option<&str>) -> Vec<String> {
        let steps = plan(wanted, found, tag);
        let due = steps.iter().filter(|planned| planned.due.is_some());
        due.map(|planned| planned.step.to_string()).collect()
    }

    /// What is changed in a complete account, and what is due then.
    type Case<'a> = (fn(&mut Found), &'a [&'a str]);

    const TRIGGERS: &str = "cron, queue consumers and address";

    #[test]
    fn an_empty_account_needs_everything_in_an_order_that_works() {
        let steps = due(&wanted(), &Found::default(), None);
        let expected = [
            "D1 database hmd",
            "queue hmd-checks",
            "queue hmd-dead",
            "migrations of hmd",
            "secret CLOUDFLARE_API_TOKEN",
            "secret HMD_API_TOKEN",
            "secret HMD_SIGNING_KEY",
            "upload of the Worker hmd",
            "PUBLIC_URL",
        ];
        assert_eq!(steps, expected);
    }

    #[test]
    fn a_complete_account_needs_nothing_but_a_look_at_the_triggers() {
        assert_eq!(due(&wanted(), &complete(), Some("tag")), [TRIGGERS]);
    }

    #[test]
    fn what_is_missing_is_due_and_nothing_else() {
        let upload = "upload of the Worker hmd";
        let cases: [Case; 5] = [
            (
                |found| found.queues.retain(|queue| queue != "hmd-dead"),
                &["queue hmd-dead", TRIGGERS],
            ),
            (
                |found| found.has_pending_migrations = true,
                &["migrations of hmd", TRIGGERS],
            ),
            (
                |found| {
                    let serving = found.serving.as_mut().unwrap();
                    serving.secrets.remove("HMD_API_TOKEN");
                },
                &["secret HMD_API_TOKEN", upload],
            ),
            (
                |found| found.serving.as_mut().unwrap().tag = None,
                &[upload],
            ),
            (
                |found| found.serving.as_mut().unwrap().public_url.clear(),
                &[TRIGGERS, "PUBLIC_URL"],
            ),
        ];
        for (change, expected) in cases {
            let mut found = complete();
            change(&mut found);
            assert_eq!(due(&wanted(), &found, Some("tag")), expected);
        }
    }

    #[test]
    fn another_tag_or_a_rotated_secret_is_an_upload() {
        assert_eq!(
            due(&wanted(), &complete(), Some("other")),
            ["upload of the Worker hmd"]
        );
        let mut wanted = wanted();
        wanted.rotate.insert("HMD_API_TOKEN".into());
        assert_eq!(
            due(&wanted, &complete(), Some("tag")),
            ["secret HMD_API_TOKEN", "upload of the Worker hmd"]
        );
    }

    #[test]
    fn a_domain_of_ones_own_stays() {
        let ours = "https://hmd.example.com";
        let theirs = "https://hmd.me.workers.dev";
        let moved = "https://hmd.us.workers.dev";
        assert_eq!(public_url(Some(ours), theirs, Some(theirs)), ours);
        assert_eq!(public_url(None, ours, Some(theirs)), ours);
        assert_eq!(public_url(None, theirs, Some(moved)), moved);
        assert_eq!(public_url(None, "", Some(theirs)), theirs);
        assert_eq!(public_url(None, theirs, None), theirs);
    }
}
