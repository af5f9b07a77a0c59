//! Asking judges: an address that is posted to, or a model of Workers AI. It happens between load and decide, for those checks
//! only that the numbers alone do not decide, and after the batch's messages are done with, so that a judge that takes its
//! time delays nobody else's check.

use std::cell::RefCell;

use futures_util::StreamExt as _;
use futures_util::stream;
use serde_json::{Value, json};

use super::Pipeline;
use super::ports::{HttpError, Ports, WebhookRequest};
use crate::cloudflare::error_templates;
use crate::release::{Hearing, Input, Release, decide, hearing};
use crate::slo::{Opinion, Saying, Slo};
use crate::time::UnixMs;
use crate::webhook::{check_address, judge_secrets, sign_with_all};

/// How long a judge may take to answer.
const TIMEOUT_MS: u32 = 8_000;
/// Judges of so many releases are asked at once: the other connections of the invocation are for the rest.
const AT_ONCE: usize = 2;
/// After so long nobody else is asked in the invocation: the checks go on without.
const PATIENCE_MS: i64 = 20_000;

/// After so long a check that asked judges is settled, or whoever asked them is no more.
pub(super) const HEARING_MS: i64 = PATIENCE_MS + 10_000;

/// Checks that wait for judges.
#[derive(Debug, Default)]
pub(super) struct Waiting(RefCell<Vec<(Release, Input, Hearing)>>);

impl<P: Ports> Pipeline<'_, P> {
    /// Puts a check aside if judges are to be heard before it is decided; answers it otherwise.
    pub(super) fn unless_heard(&self, check: (Release, Input)) -> Option<(Release, Input)> {
        let (release, input) = &check;
        if !release.origin.plan.slos.iter().any(Slo::has_judge) {
            return Some(check);
        }
        // What the numbers alone would come to: if that sends the release back, it is done at once and nobody is asked.
        let would = decide(release, input, &self.moment()).ok();
        let Some(hearing) = would.and_then(|would| hearing(release, &would)) else {
            return Some(check);
        };
        let (release, input) = check;
        self.waiting.0.borrow_mut().push((release, input, hearing));
        None
    }

    /// Asks the judges that the checks of a batch wait for, and settles those checks. To be called after
    /// [`Pipeline::consume`], whose messages may be acked before: until a check is settled its alarm stands in the row, so a
    /// crash here costs at most the minute until the sweep and half a minute more. The judge may then be asked a second time about the same
    /// windows, as when a queue delivers a message twice; its request carries the same `webhook-id`, and only one of the two
    /// answers is taken. What the sweep sends meanwhile is put off (`spare` of a message).
    pub async fn ask_judges(&self) {
        let mut waiting = self.waiting.0.take();
        if waiting.is_empty() {
            return;
        }
        // Who is asked last may not be asked at all: it is somebody else each time.
        let now_s = usize::try_from(self.ports.now().div_euclid(1_000)).unwrap_or(0);
        let first = now_s % waiting.len();
        waiting.rotate_left(first);
        let until = self.ports.now() + PATIENCE_MS;
        stream::iter(waiting)
            .map(|(release, input, hearing)| self.hear(release, input, hearing, until))
            .buffer_unordered(AT_ONCE)
            .for_each(async |()| ())
            .await;
        self.cloudflare.report_spending().await;
    }

    async fn hear(&self, release: Release, mut input: Input, mut hearing: Hearing, until: UnixMs) {
        let plan = &release.origin.plan;
        if self.ports.now() < until {
            let interval = plan.check_interval.ms();
            let versions = (
                release.progress.old_version.as_str(),
                release.origin.new_version.as_str(),
            );
            let times = (hearing.from * interval, hearing.to * interval);
            // Only for the judge's better understanding: without them it is told that they are not known.
            let errors = error_templates(&self.cloudflare, &plan.worker, versions, times).await;
            hearing.with_errors(errors.ok().as_deref());
        }
        let mut heard = Vec::new();
        for (slo, told) in hearing.asks {
            let check = format!("{}_{slo}_{}", release.id(), hearing.to);
            heard.push(self.opinion(&release, slo, (&check, told), until).await);
        }
        if let Input::Checked { opinions, .. } = &mut input {
            *opinions = heard;
        }
        let id = release.id().to_owned();
        if let Err(error) = self.settle_inputs(vec![(release, input)]).await {
            let detail = format!("{error}; the sweep wakes the check again");
            self.ports
                .log(&json!({"log": "alert", "release": id, "detail": detail}));
        }
    }

    /// One judge's opinion; whatever goes wrong is an opinion, too.
    async fn opinion(
        &self,
        release: &Release,
        slo: usize,
        (check, told): (&str, Value),
        until: UnixMs,
    ) -> Opinion {
        let slo = &release.origin.plan.slos[slo];
        let at = self.ports.now();
        let (judge, said) = match (&slo.sli.url, &slo.sli.model) {
            _ if at >= until => ("", Err("there was no time left to ask it".to_owned())),
            // Only read from outside: a crash at either call leaves everything as it was, and the windows are judged anew.
            (Some(url), _) => (
                url.as_str(),
                self.ask_address(release, url, check, &told).await,
            ),
            (None, Some(model)) => {
                let worker = &release.origin.plan.worker;
                let asked = self.cloudflare.ask_model(worker, model, &told).await;
                (model.as_str(), asked.map_err(|error| error.detail))
            }
            (None, None) => ("", Err("it has neither address nor model".to_owned())),
        };
        Opinion {
            slo: slo.name.clone(),
            judge: judge.to_owned(),
            duration_ms: self.ports.now() - at,
            told,
            said: match said {
                Ok(text) => Saying::read(&text),
                Err(why) => Saying::undecided(&why),
            },
        }
    }

    /// Posts what a judge is told to its address, signed by the Standard Webhooks scheme.
    async fn ask_address(
        &self,
        release: &Release,
        url: &str,
        check: &str,
        told: &Value,
    ) -> Result<String, String> {
        // The rules may have changed since the plan was saved.
        let url = check_address(url, self.address_rules())
            .map_err(|error| format!("not asked: its address {error}"))?;
        let body = told.to_string();
        let id = format!("judge_{check}");
        let timestamp_s = self.ports.now().div_euclid(1_000);
        let secrets = judge_secrets(&self.config.keys, &release.origin.plan_name);
        let signature = sign_with_all(&secrets, &id, timestamp_s, body.as_bytes());
        let request = WebhookRequest {
            url: url.href,
            headers: vec![
                ("content-type", "application/json".to_owned()),
                (
                    "user-agent",
                    concat!("hmd/", env!("CARGO_PKG_VERSION")).to_owned(),
                ),
                ("webhook-id", id),
                ("webhook-timestamp", timestamp_s.to_string()),
                ("webhook-signature", signature),
            ],
            body,
            timeout_ms: TIMEOUT_MS,
        };
        match self.ports.post(request).await {
            Ok(answer) if (200..300).contains(&answer.status) => Ok(answer.body),
            Ok(answer) => Err(format!("it answered {}", answer.status)),
            Err(HttpError::Timeout(ms)) => Err(format!("no answer within {ms} ms")),
            Err(error) => Err(error.to_string()),
        }
    }
}
