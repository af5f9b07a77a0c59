//! The table of operations: what each takes and answers, and when.

use ::http::Method;

use super::examples;
use super::operation::{Access, Content, Operation, schema};
use super::parameters::{
    CURSOR, DELIVERY_FILTERS, FILTERS, IDEMPOTENCY_KEY, IF_MATCH, IF_NEW, SIGNED, WINDOWS,
};
use crate::http::approvals::{ApprovalBody, ApprovalView};
use crate::http::connections::{ConnectionView, NewConnection};
use crate::http::deliveries::{DeliveryLog, DeliveryView, Replayed, Since};
use crate::http::forecast::{ForecastBody, ForecastView};
use crate::http::hooks::HookSecret;
use crate::http::judges::JudgeSecret;
use crate::http::plans::PlanView;
use crate::http::queries::{NewQuery, SavedQueryView};
use crate::http::releases::{
    EventView, EvidenceView, HookRelease, NewRelease, Nothing, PreflightView, ReplayBody,
    ReplayView, StageDecisionBody,
};
use crate::http::subscribers::{NewSubscriber, SubscriberPatch, SubscriberView, WithSecret};
use crate::http::workers::{DeploymentView, VersionView};
use crate::http::{Health, List};
use crate::release::{Plan, ReleaseView};

/// Groups of operations.
pub const TAGS: [(&str, &str); 7] = [
    (
        "Plans",
        "What is rolled out in which stages, and what health means. A release takes a snapshot of its plan: editing a plan never changes a running release.",
    ),
    (
        "Releases",
        "A version on its way through the stages of a plan.",
    ),
    (
        "Commands",
        "What a person does to a release. Each answers with the release as it then is; Cloudflare follows within seconds.",
    ),
    (
        "Workers",
        "Which Workers are connected, perhaps with a Cloudflare token of their own, and what Cloudflare says of a Worker, for those who choose a version. A Worker that a plan names need not be connected: then the installation's token is used.",
    ),
    (
        "Webhooks",
        "Who is told what happens, as it happens. Requests are signed by the Standard Webhooks scheme (`webhook-id`, `webhook-timestamp`, `webhook-signature`) and hold `{\"type\", \"timestamp\", \"data\"}`; `data` has the release as it was then, the event's `sequence`, and its `stage`, `slo`, `actor`, `reason` and `detail` where it has them. What is not answered with 2xx within 15 s is sent again, with the same `webhook-id`: after 5 s, 5 min, 30 min, 2 h, 5 h, 10 h and 10 h.",
    ),
    (
        "Approvals",
        "Links that show what a decision would do, and decide it, once. They come with `approval.requested` to subscribers that may have them, and need no token.",
    ),
    ("Installation", "About this installation of HMD."),
];

/// Every operation, in the order of the API page.
#[must_use]
pub fn operations() -> Vec<Operation> {
    let mut all = plans();
    all.extend(releases());
    all.extend(commands());
    all.extend(decisions());
    all.extend(subscribers());
    all.extend(deliveries());
    all.extend(approvals());
    all.extend(connections());
    all.extend(workers());
    all.extend(installation());
    all
}

const NO_PLAN: &str = "There is no plan of this name.";
const NO_RELEASE: &str = "There is no such release.";
const UNMET: &str = "The plan is not as `If-Match` or `If-None-Match` says: somebody else was faster. Read it again.";
const TAG: &str = "A condition is not an ETag of HMD's.";

fn plans() -> Vec<Operation> {
    let list = (Method::GET, "/v1/plans");
    let one = |method| (method, "/v1/plans/{name}");
    let secret = |method| (method, "/v1/plans/{name}/hook-secret");
    vec![
        Operation::new(list, ("listPlans", "Plans"), ("List plans", "All plans, by name."))
            .ok::<List<PlanView<'static>>>("The plans.", examples::plans),
        Operation::new(one(Method::GET), ("getPlan", "Plans"), ("Read a plan", "The plan as it was saved, with its defaults filled in. It may be sent back as it is."))
            .tagged::<PlanView<'static>>("The plan.", examples::saved_plan)
            .problem(404, NO_PLAN, &[]),
        Operation::new(one(Method::PUT), ("putPlan", "Plans"), ("Save a plan", "Creates or replaces it. `name`, `revision`, `created_at`, `updated_at`, `warnings` and `$schema` are ignored."))
            .parameters(&[IF_MATCH, IF_NEW])
            .body::<Plan>(true, examples::plan)
            .answer(200, "The plan was replaced; `warnings` says what may surprise.", Content::Json(schema::<PlanView<'static>>, examples::just_saved_plan), &["ETag"])
            .answer(201, "The plan was created; `warnings` says what may surprise.", Content::Json(schema::<PlanView<'static>>, examples::just_saved_plan), &["ETag"])
            .problem(400, "The body is not JSON, or a condition is not an ETag of HMD's.", &[])
            .problem(404, "This can't be a plan's name.", &[])
            .problem(412, UNMET, &[])
            .problem(422, "A field is unknown, missing or wrong, or fields do not fit together: `errors` points at each.", &[]),
        Operation::new(one(Method::DELETE), ("deletePlan", "Plans"), ("Delete a plan", "Releases keep the snapshots that they took."))
            .parameters(&[IF_MATCH])
            .answer(204, "The plan is gone.", Content::None, &[])
            .problem(400, TAG, &[])
            .problem(404, NO_PLAN, &[])
            .problem(412, UNMET, &[]),
        Operation::new((Method::POST, "/v1/plans/{name}/forecast"), ("forecastPlan", "Plans"), ("Forecast what a plan will see", "From the Worker's last 24 hours of telemetry, or from traffic that the body gives: for each stage and SLO the requests, the smallest harm that is found with 90 % power and when, how likely a healthy version stays undecided, and what soak would do. Nothing is changed. The same question has the same answer: no chance is involved but from a fixed seed."))
            .body::<ForecastBody>(false, examples::given_traffic)
            .ok::<ForecastView<'static>>("The forecast.", examples::forecast)
            .problem(404, "There is no plan of this name, or no such Worker.", &[])
            .problem(422, "A field is unknown or wrong; or telemetry holds nothing of the last 24 hours that would tell what the body leaves out: `errors` points at it.", &[])
            .problem(503, "Cloudflare or the database does not answer, or HMD is not configured: nothing was changed.", &["Retry-After"]),
        Operation::new(secret(Method::POST), ("makeHookSecret", "Plans"), ("Make or rotate the secret of a plan's hook", "The secret is shown this once. One that it replaces is taken for another 24 hours."))
            .body::<Nothing>(false, examples::nothing)
            .answer(201, "The secret.", Content::Json(schema::<HookSecret>, examples::hook_secret), &[])
            .problem(404, NO_PLAN, &[])
            .problem(422, "The body has a field.", &[]),
        Operation::new(secret(Method::DELETE), ("revokeHookSecret", "Plans"), ("Revoke the secrets of a plan's hook", "At once: nothing that was signed with any of them is taken any more."))
            .answer(204, "There is no secret any more.", Content::None, &[])
            .problem(404, "There is no plan of this name, or its hook has no secret.", &[]),
        Operation::new((Method::GET, "/v1/plans/{name}/judge-secret"), ("getJudgeSecret", "Plans"), ("Read what requests to a plan's judges are signed with", "For those who verify them, by the Standard Webhooks scheme (`webhook-id`, `webhook-timestamp`, `webhook-signature`)."))
            .ok::<JudgeSecret>("The secret.", examples::judge_secret)
            .problem(404, NO_PLAN, &[]),
    ]
}

fn releases() -> Vec<Operation> {
    let all = |method| (method, "/v1/releases");
    let one = |method| (method, "/v1/releases/{id}");
    vec![
        Operation::new(all(Method::GET), ("listReleases", "Releases"), ("List releases", "Newest first. Releases that come and go between two pages move nobody."))
            .parameters(&FILTERS)
            .parameters(&[CURSOR])
            .ok::<List<ReleaseView<'static>>>("A page of releases.", examples::releases)
            .problem(400, "A parameter is unknown or wrong.", &[]),
        Operation::new(all(Method::POST), ("createRelease", "Releases"), ("Create a release", "Takes a snapshot of the plan and, unless `start` is false, starts: the version that serves all traffic now is the old one."))
            .parameters(&[IDEMPOTENCY_KEY])
            .body::<NewRelease>(true, examples::new_release)
            .answer(201, "The release was created, or has been before with the same `Idempotency-Key`.", Content::Json(schema::<ReleaseView<'static>>, examples::release), &["Location"])
            .problem(400, "The body is not JSON, or the `Idempotency-Key` is empty or too long.", &[])
            .problem(409, "The Worker has an active release and `on_conflict` is `reject`; its traffic is split already; it is not served by `old_version`; or the `Idempotency-Key` was used with another body.", &[])
            .problem(422, "A field is unknown, missing or wrong; there is no such plan or Worker; or the version can't be deployed or serves already. `errors` points at it. Or a check of the preflight failed that `accept` does not name: `checks` holds it.", &[])
            .problem(503, "Cloudflare or the database does not answer, or HMD is not configured: nothing was created.", &["Retry-After"]),
        Operation::new((Method::POST, "/hooks/{name}"), ("receiveHook", "Releases"), ("Create a release by a signed message", "For CI systems that do not have the token. The body is that of `POST /v1/releases` but for the plan, which the address names; it is signed by the Standard Webhooks scheme with the secret of the plan's hook. The actor of the release's events is `hook:<plan>`."))
            .access(Access::Signature)
            .parameters(&SIGNED)
            .body::<HookRelease>(true, examples::hook_release)
            .answer(201, "The release was created, or has been before by the same message.", Content::Json(schema::<ReleaseView<'static>>, examples::release), &["Location"])
            .problem(401, "The message is not signed, or not with a secret of this plan's hook, or too long ago. A plan that does not exist answers the same.", &["WWW-Authenticate"])
            .problem(409, "The Worker has an active release and `on_conflict` is `reject`; its traffic is split already; it is not served by `old_version`; or the `webhook-id` was used with another body.", &[])
            .problem(422, "A field is unknown, missing or wrong; there is no such Worker; or the version can't be deployed or serves already. `errors` points at it.", &[])
            .problem(503, "Cloudflare or the database does not answer, or HMD is not configured: nothing was created.", &["Retry-After"]),
        Operation::new((Method::POST, "/v1/releases/preflight"), ("preflightRelease", "Releases"), ("Check what stands before a release", "Takes the body of `POST /v1/releases` and changes nothing. `POST /v1/releases` makes the same checks: one that failed stops it unless `accept` names it; warnings are kept with the release."))
            .body::<NewRelease>(true, examples::new_release)
            .ok::<PreflightView<'static>>("The checks.", examples::preflight)
            .problem(404, NO_PLAN, &[])
            .problem(503, "Cloudflare or the database does not answer, or HMD is not configured.", &["Retry-After"]),
        Operation::new(one(Method::GET), ("getRelease", "Releases"), ("Read a release", "Where it stands, with the newest value of each SLI."))
            .tagged::<ReleaseView<'static>>("The release.", examples::release)
            .problem(404, NO_RELEASE, &[]),
        Operation::new(one(Method::DELETE), ("deleteRelease", "Releases"), ("Delete a release", "Only one that is `staged`: the others are history."))
            .answer(204, "The release is gone.", Content::None, &[])
            .problem(404, NO_RELEASE, &[])
            .problem(409, "It is not `staged`.", &[]),
        Operation::new((Method::GET, "/v1/releases/{id}/events"), ("listEvents", "Releases"), ("List the events of a release", "What happened, when, by whom and why, oldest first."))
            .ok::<List<EventView<'static>>>("All events.", examples::events)
            .problem(404, NO_RELEASE, &[]),
        Operation::new((Method::GET, "/v1/releases/{id}/evidence"), ("listEvidence", "Releases"), ("List the evidence of a release", "Each judged window of telemetry with its counts, evidence and verdicts, oldest first, and all that they rest on: plan, what was known before the release, and the exact queries."))
            .parameters(&[WINDOWS, CURSOR])
            .ok::<EvidenceView<'static>>("A page of windows, and what their verdicts rest on.", examples::evidence)
            .problem(400, "A parameter is unknown or wrong.", &[])
            .problem(404, NO_RELEASE, &[]),
        Operation::new((Method::POST, "/v1/releases/{id}/replay"), ("replayRelease", "Releases"), ("Backtest a plan on a release", "Puts the release's judged windows through the rules of a plan: what each stage would have come to and when, beside what happened, and the verdicts after each window. Without a plan it is the release's own, and the verdicts are those that it came to. The windows are of the release's own stages and splits and hold what its SLOs counted: a plan may differ in objectives, tolerances, rules, `alpha`, weights, `min_requests`, soaks and all that is done about them. Nothing is changed. At most 20,000 divided by the number of the release's SLOs windows are replayed."))
            .parameters(&[WINDOWS, CURSOR])
            .body::<ReplayBody>(false, examples::replay_body)
            .ok::<ReplayView<'static>>("What would have happened, and a page of windows.", examples::replay)
            .problem(400, "A parameter is unknown or wrong, or the body is not JSON.", &[])
            .problem(404, NO_RELEASE, &[])
            .problem(409, "No window of it has been judged.", &[])
            .problem(422, "The plan is not one, there is none of its name, or it asks what the release did not count: `errors` points at it.", &[]),
    ]
}

fn command(
    path: &'static str,
    id: &'static str,
    texts: (&'static str, &'static str),
    conflict: &'static str,
) -> Operation {
    Operation::new((Method::POST, path), (id, "Commands"), texts)
        .body::<Nothing>(false, examples::nothing)
        .ok::<ReleaseView<'static>>("The release as it is now.", examples::release)
        .problem(404, NO_RELEASE, &[])
        .problem(409, conflict, &[])
        .problem(422, "The body has a field.", &[])
}

fn commands() -> Vec<Operation> {
    vec![
        command("/v1/releases/{id}/start", "startRelease", ("Start a staged release", "The version that serves all traffic now becomes the old one."),
            "It is not `staged`; the Worker has an active release; its traffic is split already; or it is not served by `old_version`.")
            .problem(422, "The body has a field; or the new version can't be deployed any more or serves already.", &[])
            .problem(503, "Cloudflare or the database does not answer, or HMD is not configured: nothing was changed.", &["Retry-After"]),
        command("/v1/releases/{id}/stop", "stopRelease", ("Stop a release", "One that runs goes back to the old version and ends `reverted` for `stopped`; one that is `staged` or `queued` ends `cancelled`."),
            "It is over."),
        command("/v1/releases/{id}/pause", "pauseRelease", ("Pause a release", "The soak clock stops; SLOs are still checked, and a violation still reverts. A stage that is being deployed finishes first."),
            "It is not `rolling_out`."),
        command("/v1/releases/{id}/resume", "resumeRelease", ("Resume a paused release", "The soak clock goes on. An SLO that paused the release is waived for the rest of the stage."),
            "It is not `paused`."),
        command("/v1/releases/{id}/promote", "promoteRelease", ("End the present soak as passed", "The next stage begins at once, or waits for its approval if the stage is manual; no stage is skipped."),
            "It is not soaking, an SLO is in harm, or data is lacking."),
        command("/v1/releases/{id}/abandon", "abandonRelease", ("Give up a release that can't go back", "It ends `superseded` for `abandoned`, and the traffic stays as it is."),
            "It is not `reverting`, or nothing has failed so far."),
    ]
}

fn decisions() -> Vec<Operation> {
    let decide = |path, id, texts| {
        Operation::new((Method::POST, path), (id, "Commands"), texts)
            .body::<StageDecisionBody>(false, examples::decision)
            .ok::<ReleaseView<'static>>("The release as it is now; also if the stage was decided so before.", examples::release)
            .problem(404, "There is no such release, or it has no such stage.", &[])
            .problem(409, "The stage does not wait for approval, or the opposite has been decided: `detail` says by whom and when.", &[])
    };
    vec![
        decide(
            "/v1/releases/{id}/stages/{n}/approve",
            "approveStage",
            (
                "Approve a stage",
                "The release goes on to the next one. SLOs that lacked data are waived for the stage.",
            ),
        ),
        decide(
            "/v1/releases/{id}/stages/{n}/deny",
            "denyStage",
            (
                "Deny a stage",
                "The release goes back to the old version and ends `reverted` for `denied`.",
            ),
        ),
    ]
}

const NO_SUBSCRIBER: &str = "There is no such subscriber.";

fn subscribers() -> Vec<Operation> {
    let all = |method| (method, "/v1/subscribers");
    let one = |method| (method, "/v1/subscribers/{subscriber}");
    let command = |path, id, texts| {
        Operation::new((Method::POST, path), (id, "Webhooks"), texts)
            .body::<Nothing>(false, examples::nothing)
            .problem(404, NO_SUBSCRIBER, &[])
            .problem(422, "The body has a field.", &[])
    };
    vec![
        Operation::new(all(Method::GET), ("listSubscribers", "Webhooks"), ("List subscribers", "All of them, the oldest first."))
            .ok::<List<SubscriberView<'static>>>("The subscribers.", examples::subscribers),
        Operation::new(all(Method::POST), ("createSubscriber", "Webhooks"), ("Subscribe", "It is told what happens from now on. The answer holds the secret that its requests are signed with, this once."))
            .body::<NewSubscriber>(true, examples::new_subscriber)
            .answer(201, "The subscriber, with its secret.", Content::Json(schema::<WithSecret<'static>>, examples::subscriber_with_secret), &["Location"])
            .problem(422, "A field is unknown, missing or wrong, or webhooks may not go to the address: `errors` points at it.", &[]),
        Operation::new(one(Method::GET), ("getSubscriber", "Webhooks"), ("Read a subscriber", "Without its secret."))
            .tagged::<SubscriberView<'static>>("The subscriber.", examples::subscriber)
            .problem(404, NO_SUBSCRIBER, &[]),
        Operation::new(one(Method::PATCH), ("changeSubscriber", "Webhooks"), ("Change a subscriber", "What is absent stays as it is."))
            .parameters(&[IF_MATCH])
            .body::<SubscriberPatch>(true, examples::subscriber_patch)
            .answer(200, "The subscriber as it is now.", Content::Json(schema::<SubscriberView<'static>>, examples::subscriber), &["ETag"])
            .problem(412, "The subscriber is not as `If-Match` says: somebody else was faster. Read it again.", &[])
            .problem(404, NO_SUBSCRIBER, &[]),
        Operation::new(one(Method::DELETE), ("deleteSubscriber", "Webhooks"), ("Delete a subscriber", "With its deliveries; its approval links decide nothing any more."))
            .answer(204, "The subscriber is gone.", Content::None, &[])
            .problem(404, NO_SUBSCRIBER, &[]),
        command("/v1/subscribers/{subscriber}/pause", "pauseSubscriber", ("Pause a subscriber", "What happens meanwhile is kept for it."))
            .answer(200, "The subscriber as it is now.", Content::Json(schema::<SubscriberView<'static>>, examples::subscriber), &["ETag"])
            .problem(409, "It is `disabled`.", &[]),
        command("/v1/subscribers/{subscriber}/resume", "resumeSubscriber", ("Resume a subscriber", "One that was paused gets what was kept for it; for one that was disabled, replay what failed."))
            .answer(200, "The subscriber as it is now.", Content::Json(schema::<SubscriberView<'static>>, examples::subscriber), &["ETag"]),
        command("/v1/subscribers/{subscriber}/rotate-secret", "rotateSubscriberSecret", ("Rotate a subscriber's secret", "For 24 hours requests carry a signature by each of the two secrets."))
            .ok::<WithSecret<'static>>("The subscriber, with its new secret, this once.", examples::subscriber_with_secret),
        command("/v1/subscribers/{subscriber}/test", "testSubscriber", ("Send a test", "An event of type `webhook.test`."))
            .answer(202, "It is on its way.", Content::Json(schema::<DeliveryView<'static>>, examples::delivery), &[])
            .problem(409, "The subscriber is not `active`.", &[]),
        Operation::new((Method::POST, "/v1/subscribers/{subscriber}/replay"), ("replayFailed", "Webhooks"), ("Deliver again what failed", "All that failed since a time, each with its `webhook-id` of then."))
            .body::<Since>(true, examples::since)
            .answer(202, "They are on their way.", Content::Json(schema::<Replayed>, examples::replayed), &[])
            .problem(404, NO_SUBSCRIBER, &[])
            .problem(409, "The subscriber is not `active`.", &[]),
    ]
}

fn deliveries() -> Vec<Operation> {
    const NO_DELIVERY: &str = "There is no such subscriber, or no such delivery to it.";
    let one = "/v1/subscribers/{subscriber}/deliveries/{delivery}";
    vec![
        Operation::new(
            (Method::GET, "/v1/subscribers/{subscriber}/deliveries"),
            ("listDeliveries", "Webhooks"),
            (
                "List deliveries",
                "Newest first; they are kept for 30 days.",
            ),
        )
        .parameters(&DELIVERY_FILTERS)
        .parameters(&[CURSOR])
        .ok::<List<DeliveryView<'static>>>("A page of deliveries.", examples::deliveries)
        .problem(400, "A parameter is unknown or wrong.", &[])
        .problem(404, NO_SUBSCRIBER, &[]),
        Operation::new(
            (Method::GET, one),
            ("getDelivery", "Webhooks"),
            (
                "Read a delivery",
                "With each attempt: status, duration, and how the answer begins.",
            ),
        )
        .ok::<DeliveryLog<'static>>("The delivery.", examples::delivery_log)
        .problem(404, NO_DELIVERY, &[]),
        Operation::new(
            (
                Method::POST,
                "/v1/subscribers/{subscriber}/deliveries/{delivery}/replay",
            ),
            ("replayDelivery", "Webhooks"),
            (
                "Deliver again",
                "Whatever came of it: with the same `webhook-id`, and a schedule anew.",
            ),
        )
        .answer(
            202,
            "It is on its way.",
            Content::Json(schema::<DeliveryView<'static>>, examples::delivery),
            &[],
        )
        .problem(404, NO_DELIVERY, &[])
        .problem(409, "The subscriber is not `active`.", &[]),
    ]
}

fn approvals() -> Vec<Operation> {
    let path = "/approvals/{token}";
    let link = |operation: Operation| {
        operation
            .access(Access::Everyone)
            .problem(403, "The link was withdrawn, or is not for deciding.", &[])
            .problem(404, "The release is gone.", &[])
            .problem(409, "The opposite has been decided, or the release has moved on: `detail` says by whom and when.", &[])
            .problem(410, "The link has expired, or its key is no longer in use.", &[])
    };
    vec![
        link(
            Operation::new(
                (Method::GET, path),
                ("showApproval", "Approvals"),
                (
                    "Show what a link decides",
                    "Changes nothing. People get a page, who accepts `application/json` gets that.",
                ),
            )
            .ok::<ApprovalView<'static>>(
                "What would happen, or what was decided.",
                examples::approval,
            )
            .problem(400, "The link is incomplete or was altered.", &[]),
        )
        .for_browsers(),
        link(
            Operation::new(
                (Method::POST, path),
                ("decideByLink", "Approvals"),
                (
                    "Decide by a link",
                    "Once; the same again says what was decided, by whom and when.",
                ),
            )
            .body::<ApprovalBody>(false, examples::decision)
            .ok::<ApprovalView<'static>>("What was decided.", examples::approval)
            .problem(
                400,
                "The link is incomplete or was altered, or the body is not JSON.",
                &[],
            ),
        )
        .for_browsers(),
    ]
}

const QUERIES: &str = "/v1/workers/{account_id}/{script_name}/queries";

fn workers() -> Vec<Operation> {
    let path = |rest| (Method::GET, rest);
    let unreadable = |operation: Operation| {
        operation
            .problem(404, "Cloudflare knows no such Worker in this account.", &[])
            .problem(
                503,
                "Cloudflare does not answer, or HMD is not configured.",
                &["Retry-After"],
            )
    };
    vec![
        unreadable(
            Operation::new(
                path("/v1/workers/{account_id}/{script_name}/versions"),
                ("listVersions", "Workers"),
                (
                    "List the versions of a Worker",
                    "Those that can be deployed, newest first.",
                ),
            )
            .ok::<List<VersionView<'static>>>("The versions.", examples::versions),
        ),
        unreadable(
            Operation::new(
                path("/v1/workers/{account_id}/{script_name}/deployments"),
                ("listDeployments", "Workers"),
                (
                    "List the deployments of a Worker",
                    "Newest first; the first one is in force.",
                ),
            )
            .ok::<List<DeploymentView<'static>>>("The deployments.", examples::deployments),
        ),
        unreadable(
            Operation::new(
                (Method::GET, QUERIES),
                ("listQueries", "Workers"),
                (
                    "List the saved queries for a Worker",
                    "Those that the account has saved in Workers Observability, newest first, each with what an SLI of this Worker would count by it. An SLI takes one by its id: `{\"kind\": \"query\", \"saved\": {\"bad\": \"<id>\", \"total\": \"<id>\"}}`.",
                ),
            )
            .parameters(&[CURSOR])
            .ok::<List<SavedQueryView<'static>>>("A page of saved queries.", examples::queries)
            .problem(400, "A parameter is unknown or wrong.", &[]),
        ),
        unreadable(
            Operation::new(
                (Method::POST, QUERIES),
                ("createQuery", "Workers"),
                (
                    "Save what an SLO counts as a query",
                    "People can then open the same numbers, by version, in Cloudflare's dashboard. The query is a copy: it changes neither with the plan nor the plan with it.",
                ),
            )
            .body::<NewQuery>(true, examples::new_query)
            .answer(201, "The query was saved.", Content::Json(schema::<SavedQueryView<'static>>, examples::query), &[])
            .problem(409, "The account has a saved query of this name: choose another.", &[])
            .problem(422, "A field is unknown, missing or wrong; there is no such plan or SLO, or the plan is for another Worker; or the SLO has no such part. `errors` points at it.", &[]),
        ),
    ]
}

fn connections() -> Vec<Operation> {
    let one = |method| (method, "/v1/workers/{account_id}/{script_name}");
    let unknown = "The Worker is not connected.";
    vec![
        Operation::new((Method::GET, "/v1/workers"), ("listWorkers", "Workers"), ("List connected Workers", "All of them, by name."))
            .ok::<List<ConnectionView<'static>>>("The connected Workers.", examples::connections),
        Operation::new(one(Method::GET), ("getWorker", "Workers"), ("Read a connected Worker", "Whose token is used; the token itself is never shown."))
            .ok::<ConnectionView<'static>>("The connected Worker.", examples::connection)
            .problem(404, unknown, &[]),
        Operation::new(one(Method::PUT), ("connectWorker", "Workers"), ("Connect a Worker", "Or give it another token: `token`, or the installation's if there is none. Cloudflare is asked at once whether the token may read its deployments and its telemetry; if it may not, nothing is changed. The other fields of an answer are ignored."))
            .body::<NewConnection>(false, examples::new_connection)
            .answer(200, "It was connected before, and has this token now.", Content::Json(schema::<ConnectionView<'static>>, examples::connection), &[])
            .answer(201, "It is connected.", Content::Json(schema::<ConnectionView<'static>>, examples::connection), &[])
            .problem(400, "The body is not JSON.", &[])
            .problem(404, "Cloudflare knows no such account, or no such Worker in it.", &[])
            .problem(422, "A field is unknown or wrong, or Cloudflare does not take the token: `errors` says why.", &[])
            .problem(503, "Cloudflare or the database does not answer, or HMD is not configured: nothing was changed.", &["Retry-After"]),
        Operation::new(one(Method::DELETE), ("disconnectWorker", "Workers"), ("Disconnect a Worker", "Forgets its token. Its plans and releases stay; the installation's token is used for them."))
            .answer(204, "It is not connected any more.", Content::None, &[])
            .problem(404, unknown, &[])
            .problem(409, "A release of it is active or waits: it needs the token.", &[]),
    ]
}

fn installation() -> Vec<Operation> {
    let misconfigured = "HMD is not configured; `GET /healthz` says what is missing.";
    vec![
        Operation::new(
            (Method::GET, "/healthz"),
            ("health", "Installation"),
            ("Is HMD configured?", "Needs no token."),
        )
        .access(Access::Everyone)
        .ok::<Health>("It is.", examples::health)
        .problem(
            503,
            "It is not: `detail` names each variable or secret that is missing or wrong.",
            &[],
        ),
        Operation::new(
            (Method::GET, "/openapi.json"),
            ("openapi", "Installation"),
            ("This document", "OpenAPI 3.1."),
        )
        .access(Access::Page)
        .answer(200, "The document.", Content::AnyJson, &[])
        .problem(503, misconfigured, &[]),
        Operation::new(
            (Method::GET, "/docs"),
            ("docs", "Installation"),
            ("The API page", "The same for people."),
        )
        .access(Access::Page)
        .answer(200, "The page.", Content::Html, &[])
        .problem(503, misconfigured, &[]),
    ]
}
