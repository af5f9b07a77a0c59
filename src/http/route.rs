//! Which paths there are, and which methods each takes.

use ::http::Method;

/// A command of `POST /v1/releases/{id}/…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Start,
    Stop,
    Pause,
    Resume,
    Promote,
    Abandon,
}

/// A command of `POST /v1/subscribers/{id}/…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubscriberVerb {
    Pause,
    Resume,
    RotateSecret,
    Test,
    Replay,
}

/// A path of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route<'a> {
    Health,
    OpenApi,
    Docs,
    Plans,
    Plan(&'a str),
    /// What a plan will see.
    Forecast(&'a str),
    /// The secret of a plan's hook.
    HookSecret(&'a str),
    /// What requests to the judges of a plan are signed with.
    JudgeSecret(&'a str),
    /// The inbound hook of a plan.
    Hook(&'a str),
    Releases,
    Preflight,
    Release(&'a str),
    Events(&'a str),
    Evidence(&'a str),
    /// A plan on the windows of a release.
    Backtest(&'a str),
    Command(&'a str, Verb),
    /// Approve or deny a stage, counted from 1.
    Decide(&'a str, usize, bool),
    /// What an approval link's token stands for.
    Approval(&'a str),
    Subscribers,
    Subscriber(&'a str),
    SubscriberCommand(&'a str, SubscriberVerb),
    Deliveries(&'a str),
    /// Subscriber and delivery.
    Delivery(&'a str, &'a str),
    Replay(&'a str, &'a str),
    /// Connected Workers.
    Workers,
    /// A connected Worker: account id and script name.
    Worker(&'a str, &'a str),
    /// Versions of a Worker: account id and script name.
    Versions(&'a str, &'a str),
    /// Deployments of a Worker.
    Deployments(&'a str, &'a str),
    /// Saved queries for a Worker.
    Queries(&'a str, &'a str),
}

impl<'a> Route<'a> {
    /// The route of a path.
    pub fn of(path: &'a str) -> Option<Self> {
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        Some(match segments[..] {
            ["healthz"] => Self::Health,
            ["openapi.json"] => Self::OpenApi,
            ["docs"] => Self::Docs,
            ["v1", "plans"] => Self::Plans,
            ["v1", "plans", name] => Self::Plan(name),
            ["v1", "plans", name, "forecast"] => Self::Forecast(name),
            ["v1", "plans", name, "hook-secret"] => Self::HookSecret(name),
            ["v1", "plans", name, "judge-secret"] => Self::JudgeSecret(name),
            ["hooks", plan] => Self::Hook(plan),
            ["v1", "releases"] => Self::Releases,
            ["v1", "releases", "preflight"] => Self::Preflight,
            ["v1", "releases", id] => Self::Release(id),
            ["v1", "releases", id, "events"] => Self::Events(id),
            ["v1", "releases", id, "evidence"] => Self::Evidence(id),
            ["v1", "releases", id, "replay"] => Self::Backtest(id),
            ["v1", "workers"] => Self::Workers,
            ["v1", "workers", account, script] => Self::Worker(account, script),
            ["v1", "workers", account, script, "versions"] => Self::Versions(account, script),
            ["v1", "workers", account, script, "deployments"] => Self::Deployments(account, script),
            ["v1", "workers", account, script, "queries"] => Self::Queries(account, script),
            ["approvals", token] => Self::Approval(token),
            ["v1", "subscribers"] => Self::Subscribers,
            ["v1", "subscribers", id] => Self::Subscriber(id),
            ["v1", "subscribers", id, "deliveries"] => Self::Deliveries(id),
            ["v1", "subscribers", id, "deliveries", delivery] => Self::Delivery(id, delivery),
            ["v1", "subscribers", id, "deliveries", delivery, "replay"] => {
                Self::Replay(id, delivery)
            }
            ["v1", "subscribers", id, verb] => Self::SubscriberCommand(
                id,
                match verb {
                    "pause" => SubscriberVerb::Pause,
                    "resume" => SubscriberVerb::Resume,
                    "rotate-secret" => SubscriberVerb::RotateSecret,
                    "test" => SubscriberVerb::Test,
                    "replay" => SubscriberVerb::Replay,
                    _ => return None,
                },
            ),
            ["v1", "releases", id, verb] => Self::Command(
                id,
                match verb {
                    "start" => Verb::Start,
                    "stop" => Verb::Stop,
                    "pause" => Verb::Pause,
                    "resume" => Verb::Resume,
                    "promote" => Verb::Promote,
                    "abandon" => Verb::Abandon,
                    _ => return None,
                },
            ),
            ["v1", "releases", id, "stages", stage, "approve"] => {
                Self::Decide(id, stage.parse().ok()?, true)
            }
            ["v1", "releases", id, "stages", stage, "deny"] => {
                Self::Decide(id, stage.parse().ok()?, false)
            }
            _ => return None,
        })
    }

    /// The methods that it takes.
    pub fn methods(self) -> &'static [Method] {
        match self {
            Self::Health
            | Self::OpenApi
            | Self::Docs
            | Self::Plans
            | Self::JudgeSecret(_)
            | Self::Events(_)
            | Self::Evidence(_)
            | Self::Deliveries(_)
            | Self::Delivery(..)
            | Self::Workers
            | Self::Versions(..)
            | Self::Deployments(..) => &[Method::GET],
            Self::Release(_) => &[Method::GET, Method::DELETE],
            Self::Plan(_) | Self::Worker(..) => &[Method::GET, Method::PUT, Method::DELETE],
            Self::Releases | Self::Subscribers | Self::Approval(_) | Self::Queries(..) => {
                &[Method::GET, Method::POST]
            }
            Self::Subscriber(_) => &[Method::GET, Method::PATCH, Method::DELETE],
            Self::HookSecret(_) => &[Method::POST, Method::DELETE],
            Self::Preflight
            | Self::Forecast(_)
            | Self::Backtest(_)
            | Self::Command(..)
            | Self::Decide(..)
            | Self::Hook(_)
            | Self::SubscriberCommand(..)
            | Self::Replay(..) => &[Method::POST],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_told_apart() {
        assert_eq!(
            Route::of("/v1/releases/rel_1/stop"),
            Some(Route::Command("rel_1", Verb::Stop))
        );
        assert_eq!(
            Route::of("/v1/releases/rel_1/stages/2/deny"),
            Some(Route::Decide("rel_1", 2, false))
        );
        for path in [
            "/",
            "/v1",
            "/v1/releases/rel_1/explode",
            "/v1/releases/rel_1/stages/two/approve",
            "v1/plans",
        ] {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }
}
