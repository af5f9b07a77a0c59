//! What must hold: three lists of named checkers. A commit is checked as it is made, a POST as it is sent, and the whole
//! after every step that changed anything.

mod commits;
mod posts;
mod states;

use hmd::release::{Judged, NewEvent};

use crate::model::{Look, Model, Post, Tracked};
use crate::world::World;

/// Nothing, or what is wrong.
type Verdict = Result<(), String>;

/// One decision as the store took it.
#[derive(Debug)]
pub struct Commit {
    pub now: i64,
    /// The invocation that made it.
    pub task: u64,
    pub before: Option<Tracked>,
    pub after: Tracked,
    /// The highest sequence among the release's decisions.
    pub newest_seq: Option<u64>,
    /// What this decision added.
    pub events: Vec<NewEvent>,
    /// What this decision added.
    pub windows: Vec<Judged>,
    /// What the invocation that made it was last shown of the Worker's deployments.
    pub look: Option<Look>,
}

type CommitCheck = fn(&Model, &Commit) -> Verdict;
type PostCheck = fn(&Model, &Post) -> Verdict;
type StateCheck = fn(&Model, i64) -> Verdict;

const COMMITS: [(&str, CommitCheck); 9] = [
    ("versions and sequences without gaps", commits::sequences),
    ("an end is an end", commits::ended_for_good),
    ("the row's columns are those of its JSON", commits::columns),
    ("windows without gaps, each judged once", commits::windows),
    ("the share never rises after harm", commits::harm),
    ("the share rises only after a passed stage", commits::rises),
    ("a lease ends by its holder or by time", commits::leases),
    (
        "no end over a foreign deployment in sight",
        commits::end_over_foreign,
    ),
    (
        "who watches owes nothing and ends by what serves",
        commits::watchers,
    ),
];
const POSTS: [(&str, PostCheck); 5] = [
    ("a POST carries out a committed intent", posts::intent),
    ("a POST is of a release that HMD drives", posts::driven),
    ("a POST is sent within its lease", posts::lease),
    ("a POST follows a look of its own act", posts::look),
    (
        "a POST never overwrites what was seen to be foreign",
        posts::foreign,
    ),
];
const STATES: [(&str, StateCheck); 4] = [
    ("one active release per Worker", states::one_active),
    ("the split is what the last commit says", states::split),
    ("every living release has an alarm", states::alarm),
    ("an alarm rings in time once all is quiet", states::rings),
];

pub fn commits(model: &mut Model, commit: &Commit) {
    for (name, check) in COMMITS {
        if let Err(what) = check(model, commit) {
            model.violation(name, &format!("{}: {what}", commit.after.id));
        }
    }
}

pub fn posts(world: &World, post: Result<Post, String>) {
    let mut model = world.model.borrow_mut();
    match post {
        Err(what) => model.violation(POSTS[0].0, &what),
        Ok(post) => {
            for (name, check) in POSTS {
                if let Err(what) = check(&model, &post) {
                    model.violation(name, &format!("{}: {what}", post.release.id));
                }
            }
        }
    }
}

pub fn states(world: &World) {
    let mut model = world.model.borrow_mut();
    model.dirty = false;
    for (name, check) in STATES {
        if let Err(what) = check(&model, world.now.get()) {
            model.violation(name, &what);
        }
    }
}

fn must(holds: bool, what: impl FnOnce() -> String) -> Verdict {
    if holds { Ok(()) } else { Err(what()) }
}
