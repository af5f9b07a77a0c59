//! `POST /v1/releases/{id}/replay`: a plan on the windows of a release.

use ::http::{Request, StatusCode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::super::body::{json_body, parse};
use super::super::plans::READ_ONLY;
use super::super::problem::Problem;
use super::super::{Answer, json_answer};
use super::{Query, bad, load};
use crate::pipeline::Pipeline;
use crate::pipeline::ports::Ports;
use crate::release::{
    Backtest, Delays, FieldError, Ground, Judged, Percent, Plan, Reason, Release, Replayed,
    StageRun, StageState, State,
};
use crate::slo::{Reading, Verdict};
use crate::store;
use crate::time::{Rfc3339, rfc3339};

/// Most verdicts that one answer goes through: an invocation's time is limited.
const MOST_VERDICTS: usize = 20_000;
/// Windows that are read at once.
const CHUNK: i64 = 200;

/// What to replay.
#[derive(Deserialize, Default)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(deny_unknown_fields))]
pub struct ReplayBody {
    /// A plan, or the name of one; the release's own if absent.
    #[serde(default)]
    #[cfg_attr(not(target_arch = "wasm32"), schemars(with = "Option<PlanOrName>"))]
    plan: Option<Value>,
}

/// A plan, or the name of one.
#[cfg(not(target_arch = "wasm32"))]
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[expect(
    dead_code,
    reason = "only its schema is of use: errors are to point into the plan"
)]
enum PlanOrName {
    /// The name of a saved plan.
    Name(String),
    /// A plan, saved or not.
    Plan(Box<Plan>),
}

/// What would have happened, and what did.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "Replay"))]
pub struct ReplayView<'a> {
    /// The release's id.
    release: &'a str,
    /// Whether it is the plan that the release had.
    own_plan: bool,
    /// What the release would have come to.
    outcome: Replayed,
    /// When; null if open.
    at: Option<Rfc3339>,
    /// The same for people.
    sentence: String,
    /// What it came to.
    happened: Happened,
    /// Each stage, in order. One after a stage that did not pass is as if somebody had let the release go on.
    stages: Vec<StageView<'a>>,
    /// There were more windows than one answer goes through: the last ones are missing.
    windows_left_out: bool,
    /// The verdicts after each window, oldest first.
    items: Vec<WindowView>,
    /// The `cursor` of the next page; null on the last one.
    next_cursor: Option<String>,
}

/// What became of the release.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedRelease"))]
struct Happened {
    /// Where it stands.
    state: State,
    /// Why it ended.
    reason: Option<Reason>,
    /// When.
    ended_at: Option<Rfc3339>,
}

/// A stage as the plan would have had it.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedStage"))]
struct StageView<'a> {
    /// Stage, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: usize,
    /// The new version's share of traffic.
    percent: Percent,
    /// How long the plan would have soaked it.
    soak: String,
    /// What it would have come to.
    outcome: Replayed,
    /// When: as soon as the window that decided was known. Null if open.
    at: Option<Rfc3339>,
    /// When the release would have gone back for what this stage's windows show. Its last ones are known only after it has
    /// passed, so that may be later than `at`.
    reverts_at: Option<Rfc3339>,
    /// How many windows the release has of it.
    windows: usize,
    /// The SLOs when the release would have gone back, else at `at`, else at the last window.
    slos: Vec<SloView<'a>>,
    /// What happened to it.
    happened: StageHappened,
}

/// An SLO in a stage.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedSlo"))]
struct SloView<'a> {
    /// Its name.
    slo: &'a str,
    /// Its verdict.
    verdict: Verdict,
    /// When it was in harm first, in any window of the stage.
    first_harm_at: Option<Rfc3339>,
    /// The same for people.
    sentence: &'a str,
}

/// What happened to a stage.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedStageHistory"))]
struct StageHappened {
    /// Where it stands.
    state: StageState,
    /// When it was entered.
    entered_at: Option<Rfc3339>,
    /// When its soak ended.
    soak_ends_at: Option<Rfc3339>,
    /// When it was left.
    left_at: Option<Rfc3339>,
}

/// The verdicts after a window.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedWindow"))]
struct WindowView {
    /// Stage, from 1.
    #[cfg_attr(not(target_arch = "wasm32"), schemars(range(min = 1)))]
    stage: usize,
    /// Its start.
    from: Rfc3339,
    /// Its end.
    to: Rfc3339,
    /// Each SLO, in the plan's order.
    slos: Vec<VerdictView>,
}

/// A verdict, and what it was.
#[derive(Serialize)]
#[cfg_attr(not(target_arch = "wasm32"), derive(schemars::JsonSchema))]
#[cfg_attr(not(target_arch = "wasm32"), schemars(rename = "ReplayedVerdict"))]
struct VerdictView {
    /// The SLO's name.
    slo: String,
    /// The verdict by the plan.
    verdict: Verdict,
    /// What the release said of the SLO of this name; null if it has none.
    was: Option<Verdict>,
}

/// The plan to replay: `None` for the release's own.
async fn wanted<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    request: &Request<Vec<u8>>,
) -> Result<Option<Plan>, Problem> {
    if request.body().is_empty() {
        return Ok(None);
    }
    let body: ReplayBody = json_body(request, &[])?;
    let mut value = match body.plan {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(name)) => {
            let stored = store::get_plan(pipeline.ports, &name).await?;
            let missing = || Problem::field("/plan", format!("there is no plan {name:?}"));
            return Ok(Some(stored.ok_or_else(missing)?.plan));
        }
        Some(value) => value,
    };
    if let Value::Object(fields) = &mut value {
        fields.retain(|name, _| !READ_ONLY.contains(&name.as_str()));
    }
    let plan: Plan = parse(&value).map_err(within)?;
    let errors = plan.errors(pipeline.config.min_check_interval_ms);
    if errors.is_empty() {
        Ok(Some(plan))
    } else {
        Err(within(errors))
    }
}

/// What is wrong with the body's plan.
fn within(errors: Vec<FieldError>) -> Problem {
    let inside = |error: FieldError| FieldError {
        pointer: format!("/plan{}", error.pointer),
        ..error
    };
    Problem::invalid(errors.into_iter().map(inside).collect())
}

/// `POST /v1/releases/{id}/replay`.
pub async fn replay<P: Ports>(
    pipeline: &Pipeline<'_, P>,
    id: &str,
    request: &Request<Vec<u8>>,
) -> Answer {
    let query = Query::read(request, &["limit", "cursor"])?;
    let limit = usize::try_from(query.limit(200)?).unwrap_or(200);
    let page_from: i64 = match query.get("cursor") {
        Some(cursor) => cursor
            .parse()
            .map_err(|_| bad("cursor", "a next_cursor of an earlier answer"))?,
        None => i64::MIN,
    };
    let release = load(pipeline, id).await?;
    let wanted = wanted(pipeline, request).await?;
    let own = &release.origin.plan;
    let plan = wanted.as_ref().unwrap_or(own);
    let ground = Ground::of(&release, plan).map_err(within)?;
    let delays = Delays {
        propagation_ms: pipeline.config.propagation_delay_ms,
        telemetry_lag_ms: pipeline.config.telemetry_lag_ms,
    };
    let mut backtest = Backtest::new(plan, &ground, delays);
    let (mut items, mut next_cursor) = (Vec::new(), None);
    let mut left = MOST_VERDICTS / own.slos.len().max(plan.slos.len()).max(1);
    let mut from = 0;
    let windows_left_out = loop {
        let judged = store::windows(pipeline.ports, id, from, CHUNK).await?;
        let last = i64::try_from(judged.len()).is_ok_and(|read| read < CHUNK);
        let Some(newest) = judged.last().map(|judged| judged.window.index) else {
            break false;
        };
        if left == 0 {
            break true;
        }
        from = newest + 1;
        for judged in judged.iter().take(left) {
            let readings = backtest.step(judged);
            if judged.window.index < page_from {
                continue;
            }
            if items.len() < limit {
                items.push(window_view(judged, &readings, plan.check_interval.ms()));
            } else if next_cursor.is_none() {
                next_cursor = Some(judged.window.index.to_string());
            }
        }
        if judged.len() > left {
            break true;
        }
        if last {
            break false;
        }
        left = left.saturating_sub(judged.len());
    };
    if from == 0 {
        let detail =
            format!("no window of release {id} has been judged: there is nothing to replay");
        return Err(Problem::conflict(detail));
    }
    let runs = backtest.finish();
    let (outcome, at, sentence) = total(plan, &runs);
    let view = ReplayView {
        release: &release.origin.id,
        own_plan: plan == own,
        outcome,
        at: at.map(Rfc3339),
        sentence,
        happened: Happened {
            state: release.progress.status.state(),
            reason: release.progress.status.ending().map(|end| end.reason),
            ended_at: release.progress.ended_at.map(Rfc3339),
        },
        stages: stages(&release, plan, &runs),
        windows_left_out,
        items,
        next_cursor,
    };
    json_answer(StatusCode::OK, &view)
}

fn window_view(judged: &Judged, readings: &[Reading], interval_ms: i64) -> WindowView {
    let verdict = |reading: &Reading| VerdictView {
        slo: reading.slo.clone(),
        verdict: reading.verdict,
        was: judged
            .readings
            .iter()
            .find(|was| was.slo == reading.slo)
            .map(|was| was.verdict),
    };
    WindowView {
        stage: judged.stage,
        from: Rfc3339(judged.window.index * interval_ms),
        to: Rfc3339(judged.window.run().end * interval_ms),
        slos: readings.iter().map(verdict).collect(),
    }
}

fn stages<'a>(release: &Release, plan: &'a Plan, runs: &'a [StageRun]) -> Vec<StageView<'a>> {
    let stages = plan.stages.iter().zip(runs).zip(&release.progress.stages);
    let view = |(i, ((stage, run), record)): (usize, _)| {
        let (stage, run): (&'a crate::release::Stage, &'a StageRun) = (stage, run);
        let record: &crate::release::StageRecord = record;
        let slos = run.readings.iter().zip(&run.first_harm);
        StageView {
            stage: i + 1,
            percent: stage.percent,
            soak: stage.soak.to_string(),
            outcome: run.outcome,
            at: run.at.map(Rfc3339),
            reverts_at: run.reverts_at.map(Rfc3339),
            windows: run.windows,
            slos: slos
                .map(|(reading, first_harm)| SloView {
                    slo: &reading.slo,
                    verdict: reading.verdict,
                    first_harm_at: first_harm.map(Rfc3339),
                    sentence: &reading.sentence,
                })
                .collect(),
            happened: StageHappened {
                state: record.state,
                entered_at: record.entered_at.map(Rfc3339),
                soak_ends_at: record.soak_ends_at.map(Rfc3339),
                left_at: record.left_at.map(Rfc3339),
            },
        }
    };
    stages.enumerate().map(view).collect()
}

/// What the release would have come to, when, and in words.
fn total(plan: &Plan, runs: &[StageRun]) -> (Replayed, Option<i64>, String) {
    let reverted = runs.iter().filter(|run| run.reverts_at.is_some());
    let decisive = reverted.min_by_key(|run| run.reverts_at).or_else(|| {
        let passed =
            |run: &&StageRun| matches!(run.outcome, Replayed::Passed | Replayed::PassedEarly);
        runs.iter().find(|run| !passed(run))
    });
    let Some(run) = decisive else {
        let at = runs.iter().filter_map(|run| run.at).max();
        let when = at.map(rfc3339).unwrap_or_default();
        let sentence = format!(
            "would have passed all {} stages, the last at {when}",
            runs.len()
        );
        return (Replayed::Passed, at, sentence);
    };
    let stage = 1 + runs
        .iter()
        .position(|it| std::ptr::eq(it, run))
        .unwrap_or(0);
    let (outcome, at) = match run.reverts_at {
        Some(at) => (Replayed::Reverted, Some(at)),
        None => (run.outcome, run.at),
    };
    let when = at.map(rfc3339).unwrap_or_default();
    let of = |wanted: &[Verdict]| {
        let readings = run
            .readings
            .iter()
            .filter(|it| wanted.contains(&it.verdict));
        let sentences: Vec<&str> = readings.map(|it| it.sentence.as_str()).collect();
        sentences.join("; ")
    };
    let sentence = match outcome {
        Replayed::Reverted if of(&[Verdict::Harm]).is_empty() => {
            format!(
                "would have gone back in stage {stage} at {when} for want of data: {}",
                of(&[Verdict::NoData, Verdict::Undecided])
            )
        }
        Replayed::Reverted => format!(
            "would have gone back in stage {stage} at {when}: {}",
            of(&[Verdict::Harm])
        ),
        Replayed::Paused => format!(
            "would have paused in stage {stage} at {when}: {}",
            of(&[Verdict::Harm])
        ),
        Replayed::Asked => format!(
            "stage {stage} would have held and asked a person at {when}: {}",
            of(&[Verdict::NoData, Verdict::Undecided])
        ),
        _ if run.windows == 0 => format!(
            "the release has no window of stage {stage}, so nobody can say how it would have gone on"
        ),
        _ => format!(
            "the windows of stage {stage} end before the plan would have been done with it (soak {}), so nobody can say how it would have gone on",
            plan.stages
                .get(stage - 1)
                .map(|it| it.soak.to_string())
                .unwrap_or_default()
        ),
    };
    (outcome, at, sentence)
}
