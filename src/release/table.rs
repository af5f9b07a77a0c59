//! The transition table, on one screen. `rule` says what an input does in a phase; `decide` does it.

use super::state::{Status, Step};

/// A state, told apart as far as inputs care.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are those of the states and steps")]
pub enum Phase {
    Staged,
    Queued,
    Deploying,
    Soaking,
    PausedDeploying,
    PausedSoaking,
    AwaitingApproval,
    Reverting,
    Watching,
    Ended,
}

/// What can happen to a release.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[expect(
    missing_docs,
    reason = "commands are documented in the API, alarms and reports at `Input`"
)]
pub enum Kind {
    Start,
    Stop,
    Pause,
    Resume,
    Promote,
    Approve,
    Deny,
    Abandon,
    Newer,
    CannotStart,
    ActDue,
    Reported,
    Checked,
}

/// What an input does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// Hold the Worker and owe the first stage's deployment; of a release that only watches, adopt the split in force.
    Start,
    /// End without ever having written anything.
    Cancel,
    /// Go back to the old version because a person says so.
    Stop,
    /// Stop the soak clock.
    Pause,
    /// Let it go on.
    Resume,
    /// End the soak now, as passed.
    Promote,
    /// Go on to the next stage.
    Approve,
    /// Go back, denied.
    Deny,
    /// Give up a revert that can't work.
    Abandon,
    /// Make room for a newer release.
    Yield,
    /// End a queued release that can't start.
    GiveUp,
    /// Take the lease and apply what is owed.
    Lease,
    /// Take in what came of applying a split.
    Applied,
    /// Take in what came of going back.
    WentBack,
    /// Judge windows, look for strangers, pass or hold the stage.
    Judge,
    /// Follow somebody else's split, judge its windows, say what would have been done.
    Watch,
    /// Already so: answer as if it had been done.
    Already,
    /// Refuse the command: 409.
    Refuse,
    /// An alarm or report that no longer applies: drop it.
    Drop,
}

impl Phase {
    /// Every phase.
    pub const ALL: [Self; 10] = [
        Self::Staged,
        Self::Queued,
        Self::Deploying,
        Self::Soaking,
        Self::PausedDeploying,
        Self::PausedSoaking,
        Self::AwaitingApproval,
        Self::Reverting,
        Self::Watching,
        Self::Ended,
    ];

    /// The phase of a status.
    #[must_use]
    pub fn of(status: &Status) -> Self {
        match status {
            Status::Staged => Self::Staged,
            Status::Queued => Self::Queued,
            Status::RollingOut {
                step: Step::Deploying(_),
            } => Self::Deploying,
            Status::RollingOut {
                step: Step::Soaking(_),
            } => Self::Soaking,
            Status::Paused {
                step: Step::Deploying(_),
            } => Self::PausedDeploying,
            Status::Paused {
                step: Step::Soaking(_),
            } => Self::PausedSoaking,
            Status::AwaitingApproval { .. } => Self::AwaitingApproval,
            Status::Reverting(_) => Self::Reverting,
            Status::Watching { .. } => Self::Watching,
            Status::Succeeded
            | Status::Reverted(_)
            | Status::Superseded(_)
            | Status::Cancelled(_) => Self::Ended,
        }
    }
}

impl Kind {
    /// Every kind of input.
    pub const ALL: [Self; 13] = [
        Self::Start,
        Self::Stop,
        Self::Pause,
        Self::Resume,
        Self::Promote,
        Self::Approve,
        Self::Deny,
        Self::Abandon,
        Self::Newer,
        Self::CannotStart,
        Self::ActDue,
        Self::Reported,
        Self::Checked,
    ];
}

/// The table.
#[rustfmt::skip]
#[must_use]
pub const fn rule(phase: Phase, kind: Kind) -> Rule {
    use Kind as K;
    use Phase as P;
    match (phase, kind) {
        (P::Staged | P::Queued,                                                 K::Start)    => Rule::Start,
        (P::Staged | P::Queued | P::Watching,                                   K::Stop)     => Rule::Cancel,
        (P::Deploying | P::Soaking | P::PausedDeploying | P::PausedSoaking
            | P::AwaitingApproval,                                              K::Stop)     => Rule::Stop,
        (P::Reverting,                                                          K::Stop)     => Rule::Already,
        (P::Deploying | P::Soaking,                                             K::Pause)    => Rule::Pause,
        (P::PausedDeploying | P::PausedSoaking,                                 K::Resume)   => Rule::Resume,
        (P::Soaking,                                                            K::Promote)  => Rule::Promote,
        (P::AwaitingApproval,                                                   K::Approve)  => Rule::Approve,
        (P::AwaitingApproval,                                                   K::Deny)     => Rule::Deny,
        (P::Reverting,                                                          K::Abandon)  => Rule::Abandon,
        (P::Queued | P::Deploying | P::Soaking | P::PausedDeploying | P::PausedSoaking
            | P::AwaitingApproval,                                              K::Newer)    => Rule::Yield,
        (P::Queued,                                                             K::CannotStart) => Rule::GiveUp,
        (P::Deploying | P::PausedDeploying | P::Reverting,                      K::ActDue)   => Rule::Lease,
        (P::Deploying | P::PausedDeploying,                                     K::Reported) => Rule::Applied,
        (P::Reverting,                                                          K::Reported) => Rule::WentBack,
        (P::Deploying | P::Soaking | P::PausedDeploying | P::PausedSoaking
            | P::AwaitingApproval,                                              K::Checked)  => Rule::Judge,
        (P::Watching,                                                           K::Checked)  => Rule::Watch,
        (_, K::Newer | K::CannotStart | K::ActDue | K::Reported | K::Checked)               => Rule::Drop,
        (_,                                                                     _)           => Rule::Refuse,
    }
}

/// Where a rule leads from a phase: each phase that can follow, the same one included.
#[must_use]
#[expect(clippy::match_same_arms, reason = "one line per rule, as in the table")]
pub const fn leads_to(phase: Phase, rule: Rule) -> &'static [Phase] {
    use Phase as P;
    match (rule, phase) {
        (Rule::Start, P::Staged) => &[P::Deploying, P::Watching],
        (Rule::Start | Rule::Approve, _) => &[P::Deploying],
        (Rule::Watch, _) => &[P::Watching, P::Ended],
        (Rule::Cancel | Rule::Abandon | Rule::GiveUp, _) | (Rule::Yield, P::Queued) => &[P::Ended],
        (Rule::Stop | Rule::Deny | Rule::Yield, _) => &[P::Reverting],
        (Rule::Pause, P::Deploying) => &[P::PausedDeploying],
        (Rule::Pause, _) => &[P::PausedSoaking],
        (Rule::Resume, P::PausedDeploying) => &[P::Deploying],
        (Rule::Resume, _) => &[P::Soaking],
        (Rule::Promote, _) => &[P::Deploying, P::AwaitingApproval],
        (Rule::Lease, P::Deploying) => &[P::Deploying],
        (Rule::Lease, P::PausedDeploying) => &[P::PausedDeploying],
        (Rule::Lease, _) => &[P::Reverting],
        (Rule::Applied, P::Deploying) => &[P::Deploying, P::Soaking, P::Reverting, P::Ended],
        (Rule::Applied, _) => &[P::PausedDeploying, P::PausedSoaking, P::Reverting, P::Ended],
        (Rule::WentBack, _) => &[P::Reverting, P::Ended],
        (Rule::Judge, P::Deploying) => &[P::Deploying, P::PausedDeploying, P::Reverting, P::Ended],
        (Rule::Judge, P::Soaking) => &[
            P::Soaking,
            P::Deploying,
            P::PausedSoaking,
            P::AwaitingApproval,
            P::Reverting,
            P::Ended,
        ],
        (Rule::Judge, P::PausedDeploying) => &[P::PausedDeploying, P::Reverting, P::Ended],
        (Rule::Judge, P::PausedSoaking) => {
            &[P::PausedSoaking, P::PausedDeploying, P::Reverting, P::Ended]
        }
        (Rule::Judge, _) => &[P::AwaitingApproval, P::Reverting, P::Ended],
        (Rule::Already | Rule::Refuse | Rule::Drop, _) => &[],
    }
}

/// Every transition there is: phase, input, and the phase that may follow.
#[must_use]
pub fn transitions() -> Vec<(Phase, Kind, Phase)> {
    let mut all = Vec::new();
    for from in Phase::ALL {
        for kind in Kind::ALL {
            let targets = leads_to(from, rule(from, kind)).iter();
            all.extend(targets.map(|to| (from, kind, *to)));
        }
    }
    all
}

/// The table as a Mermaid state diagram: an arrow for each pair of phases, with the inputs that lead there.
#[must_use]
pub fn diagram() -> String {
    let mut arrows: Vec<((Phase, Phase), Vec<String>)> = Vec::new();
    for (from, kind, to) in transitions() {
        if from == to {
            continue;
        }
        let label = format!("{kind:?}");
        match arrows.iter_mut().find(|(pair, _)| *pair == (from, to)) {
            Some((_, labels)) => labels.push(label),
            None => arrows.push(((from, to), vec![label])),
        }
    }
    let mut lines = vec![
        "stateDiagram-v2".to_owned(),
        "    [*] --> Staged".to_owned(),
        "    [*] --> Queued".to_owned(),
    ];
    for ((from, to), labels) in arrows {
        lines.push(format!("    {from:?} --> {to:?}: {}", labels.join(", ")));
    }
    lines.push("    Ended --> [*]".to_owned());
    lines.join("\n")
}
