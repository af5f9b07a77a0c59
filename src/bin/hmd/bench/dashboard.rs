//! The dashboard's pages on an installation with a past: how soon each is there, what it weighs, and what it asks of D1.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use reqwest::header::{COOKIE, ETAG, IF_NONE_MATCH, SET_COOKIE};
use reqwest::{Client, Response, StatusCode};

use super::figures::{Figure, per, percentile};
use super::{plan, start_hmd};
use crate::project::Project;
use crate::settings::Settings;

/// Releases that are over, and releases that run.
const PAST: usize = 1_000;
const RUNNING: usize = 200;
/// How often each page is asked for, and how often before that.
const TIMES: usize = 40;
const WARM_UP: usize = 5;
const TICK: Duration = Duration::from_secs(1);
const CALL_LIMIT: Duration = Duration::from_secs(10);
const STATE_LIMIT: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(200);
/// What the probe says of a request: round trips to D1.
const D1: &str = "x-bench-d1";

/// What a page took.
struct Page {
    ms: Vec<f64>,
    bytes: usize,
    d1: usize,
}

/// Somebody who is signed in.
struct Visitor {
    client: Client,
    base: String,
    cookie: String,
}

impl Visitor {
    async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response> {
        let mut request = self.client.get(format!("{}{path}", self.base));
        request = request.header(COOKIE, &self.cookie);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
            .send()
            .await
            .with_context(|| format!("{path} failed"))
    }

    /// Asks for the same page again and again.
    async fn measure(
        &self,
        path: &str,
        (headers, status): (&[(&str, &str)], StatusCode),
    ) -> Result<Page> {
        let mut page = Page {
            ms: Vec::new(),
            bytes: 0,
            d1: 0,
        };
        for i in 0..WARM_UP + TIMES {
            let begun = Instant::now();
            let response = self.get(path, headers).await?;
            let (got, d1) = (response.status(), d1(&response)?);
            let body = response.bytes().await?;
            let took = begun.elapsed();
            ensure!(got == status, "{path} answered {got}");
            if i >= WARM_UP {
                page.ms.push(took.as_secs_f64() * 1_000.0);
            }
            page.bytes = page.bytes.max(body.len());
            page.d1 = page.d1.max(d1);
        }
        Ok(page)
    }
}

fn d1(response: &Response) -> Result<usize> {
    let counted = response.headers().get(D1);
    let counted = counted.and_then(|value| value.to_str().ok()?.parse().ok());
    counted.context("the probe has not counted")
}

/// What makes a past out of one release that is over and one that runs. Nothing rings for the copies, and no sweep runs.
fn copies() -> [String; 3] {
    let copy = |count: usize, kind: &str, state: &str| {
        format!(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {count})
             INSERT INTO releases (id, account_id, script_name, plan, origin, progress, state, version, seq, created_at, ended_at)
             SELECT 'rel_{kind}' || i, account_id, 'page-' || (i % {RUNNING}), plan,
                 json_set(origin, '$.id', 'rel_{kind}' || i, '$.plan.worker.script_name', 'page-' || (i % {RUNNING})),
                 progress, state, version, seq, created_at - i, ended_at - i
             FROM releases, n WHERE {state}"
        )
        .replace('\n', " ")
    };
    // Each Worker has a plan.
    let plans = format!(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {RUNNING}) \
         INSERT INTO plans (name, body, revision, created_at, updated_at) \
         SELECT 'page-' || i, json_set(body, '$.worker.script_name', 'page-' || i), revision, created_at, updated_at \
         FROM plans, n WHERE name = 'over'"
    );
    [
        plans,
        copy(PAST, "past", "ended_at IS NOT NULL"),
        copy(
            RUNNING,
            "runs",
            "ended_at IS NULL AND id NOT LIKE 'rel_past%'",
        ),
    ]
}

/// Measures every page.
pub async fn measure(project: &Project, verbose: bool) -> Result<Vec<Figure>> {
    let (cloud, hmd, api, state) = start_hmd(project, "bench/dashboard", verbose).await?;
    let mut ids = Vec::new();
    for script in ["over", "runs"] {
        cloud.add_worker(script)?;
        api.put_plan(script, plan(script, TICK)).await?;
        ids.push(api.release_latest(script, "bench").await?.id);
    }
    let [over, runs] = &ids[..] else {
        bail!("two releases were started");
    };
    let deadline = Instant::now() + STATE_LIMIT;
    let client = crate::api::client(CALL_LIMIT)?;
    // Long enough for a chart with some windows.
    tokio::time::sleep(10 * TICK).await;
    api.command(over, "stop").await?;
    while api.release(over).await?.state != "reverted" {
        ensure!(Instant::now() < deadline, "a release does not end");
        tokio::time::sleep(POLL).await;
    }
    for sql in copies() {
        let sent = client.post(format!("{}/bench/sql", hmd.runtime.url()));
        sent.body(sql).send().await?.error_for_status()?;
    }

    // The secrets that were made up for it are still there.
    let settings = Settings::resolve(|_| None, [], state.path())?;
    let link = settings.sign_in_link(hmd.runtime.url())?;
    let signed_in = client.get(link).send().await?.error_for_status()?;
    let cookie = signed_in.headers().get(SET_COOKIE);
    let cookie = cookie.and_then(|value| value.to_str().ok()?.split(';').next());
    let visitor = Visitor {
        cookie: cookie.context("signing in gave no cookie")?.to_owned(),
        base: hmd.runtime.url().to_owned(),
        client,
    };
    let paths = [
        "/".to_owned(),
        "/?page=3".to_owned(),
        "/?search=page-1".to_owned(),
        "/releases".to_owned(),
        "/releases?state=rolling_out".to_owned(),
        "/compare?id=rel_past1&id=rel_past2".to_owned(),
        "/plans".to_owned(),
        "/plans?page=2".to_owned(),
        "/plans/over".to_owned(),
        "/new".to_owned(),
        "/connect".to_owned(),
        "/webhooks".to_owned(),
        format!("/releases/{over}"),
        format!("/releases/{runs}"),
    ];
    eprintln!(
        "{} pages with {PAST} past releases and {RUNNING} running",
        paths.len()
    );
    let (mut pages, mut cpus) = (Vec::new(), Vec::new());
    for path in &paths {
        let before = hmd.runtime.cpu_time();
        let page = visitor.measure(path, (&[], StatusCode::OK)).await?;
        let cpu = hmd.runtime.cpu_time().saturating_sub(before);
        cpus.push(cpu.as_secs_f64() * 1_000.0 / per(WARM_UP + TIMES, 1.0));
        let (p50, p95) = (percentile(&page.ms, 50.0), percentile(&page.ms, 95.0));
        eprintln!(
            "  {path}: p50 {p50:.1} ms, p95 {p95:.1} ms, CPU {:.1} ms, {} bytes, {} D1 batches",
            cpus[cpus.len() - 1],
            page.bytes,
            page.d1
        );
        pages.push(page);
    }
    // What an open page asks each second; the running release is not checked meanwhile, or it would change.
    hmd.hold(true).await?;
    tokio::time::sleep(3 * TICK).await;
    let mut polls = Vec::new();
    for path in ["/".to_owned(), format!("/releases/{runs}")] {
        let fragment = ("x-hmd-fragment", "1");
        let first = visitor.get(&path, &[fragment]).await?;
        let tag = first.headers().get(ETAG);
        let tag = tag.and_then(|tag| tag.to_str().ok()).context("no ETag")?;
        let known = [fragment, (IF_NONE_MATCH.as_str(), tag)];
        let wanted = (&known[..], StatusCode::NOT_MODIFIED);
        polls.push(visitor.measure(&path, wanted).await?);
    }
    hmd.runtime.stop().await?;
    Ok(figures(&pages, &polls, &cpus))
}

fn figures(pages: &[Page], polls: &[Page], cpus: &[f64]) -> Vec<Figure> {
    let slowest = |pages: &[Page], percent| {
        let of = |page: &Page| percentile(&page.ms, percent);
        pages.iter().map(of).fold(f64::NAN, f64::max)
    };
    let most = |of: &dyn Fn(&Page) -> usize, pages: &[Page]| {
        per(pages.iter().map(of).max().unwrap_or(usize::MAX), 1.0)
    };
    let (bytes, d1) = (most(&|it| it.bytes, pages), most(&|it| it.d1, pages));
    let (p95, poll) = (slowest(pages, 95.0), slowest(polls, 95.0));
    let poll_d1 = most(&|it| it.d1, polls);
    vec![
        Figure::at_most(
            "slowest page of the dashboard, 1,000 releases over and 200 running, p95 in ms",
            format!("p50 {:.1}, p95 {p95:.1}", slowest(pages, 50.0)),
            p95,
            50.0,
        ),
        Figure::shown(
            "CPU of the local runtime for such a page, at most, ms",
            format!("{:.1}", percentile(cpus, 100.0)),
        ),
        Figure::at_most(
            "the largest page, KB of HTML",
            format!("{:.1}", bytes / 1_000.0),
            bytes / 1_000.0,
            60.0,
        ),
        Figure::at_most("D1 batches a page", format!("{d1}"), d1, 1.0),
        Figure::at_most(
            "D1 batches of an unchanged poll (304)",
            format!("{poll_d1}"),
            poll_d1,
            1.0,
        ),
        Figure::shown("the same, p95 in ms", format!("{poll:.1}")),
    ]
}
