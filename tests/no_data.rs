//! No data is never a pass: whatever telemetry answers in place of whole, unsampled data of both versions, read by the very
//! code that a release reads it with, the evidence rule never calls the new version safe.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use hmd::access::{KnownKeys, RsaKey};
use hmd::cloudflare::{Cloudflare, Target, Urgency, measure_one};
use hmd::pipeline::config::Config;
use hmd::pipeline::ports::{
    AccessKeys, Clock, FileError, Files, HttpError, HttpOut, HttpRequest, HttpResponse, Log,
    Memory, Outgoing, QueueError, QueueName, Queues, Random, Row, Sql, SqlError, Statement, Urls,
    WebhookAnswer, WebhookRequest,
};
use hmd::slo::evidence::{Before, Evidence, Place, Protocol, StagePlan, Terms};
use hmd::slo::{Ground, Slo, Verdict, Window};
use hmd::time::UnixMs;
use serde_json::{Value, json};

const WINDOW_MS: i64 = 30_000;

/// How an answer is spoiled: the answer, and whether the question was about errors. Some are no JSON any more.
type Spoil = fn(&mut Value, bool) -> Option<Result<HttpResponse, HttpError>>;

struct Telemetry {
    spoil: Spoil,
}

impl Clock for Telemetry {
    fn now(&self) -> UnixMs {
        0
    }

    fn uuid(&self) -> uuid::Uuid {
        uuid::Uuid::nil()
    }
}

impl HttpOut for Telemetry {
    async fn fetch(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let asked: Value = serde_json::from_str(&request.body.unwrap()).unwrap();
        let errors = asked["parameters"]["filters"]
            .to_string()
            .contains("$workers.outcome");
        let row = |version: &str, count: u64| {
            json!({"groups": [{"key": "$metadata.service", "value": "shop"}, {"key": "$workers.scriptVersion.id", "value": version}],
                   "value": count, "count": count, "interval": 30, "sampleInterval": 1})
        };
        let (old, new) = if errors { (45, 5) } else { (4_500, 500) };
        let mut answer = json!({"success": true, "errors": [], "messages": [], "result": {
            "run": {"status": "COMPLETED", "timeframe": asked["timeframe"]},
            "statistics": {"elapsed": 0.1, "rows_read": 1, "bytes_read": 1},
            "calculations": [{"calculation": "count", "alias": "n", "series": [], "aggregates": [row("old", old), row("new", new)]}]}});
        if let Some(instead) = (self.spoil)(&mut answer, errors) {
            return instead;
        }
        Ok(ok(answer.to_string()))
    }

    async fn post(&self, _: WebhookRequest) -> Result<WebhookAnswer, HttpError> {
        unreachable!("nobody subscribes")
    }
}

/// The call budget is all that telemetry wants of the store; nothing of it is spent.
impl Sql for Telemetry {
    async fn batch(&self, statements: Vec<Statement>) -> Result<Vec<Vec<Row>>, SqlError> {
        let unspent = json!({"total_us": 0, "checks_us": 0, "normal_us": 0, "looks_us": 0});
        let rows = |_| vec![unspent.as_object().cloned().unwrap_or_default()];
        Ok(statements.iter().map(rows).collect())
    }
}

impl Queues for Telemetry {
    async fn send(&self, _: QueueName, _: Vec<Outgoing>) -> Result<(), QueueError> {
        unreachable!("nothing is sent")
    }
}

impl Files for Telemetry {
    async fn static_file(&self, file: hmd::http::StaticFile) -> Result<String, FileError> {
        Ok(file.text().to_owned())
    }
}

impl Urls for Telemetry {
    fn parse_url(text: &str) -> Option<hmd::webhook::WebUrl> {
        hmd::webhook::parse_url(text)
    }
}

impl Random for Telemetry {
    fn random(&self) -> [u8; 32] {
        unreachable!("nothing is sealed")
    }
}

impl Memory for Telemetry {}

impl AccessKeys for Telemetry {
    async fn read_keys(&self, _: &str, _: u32) -> Result<String, HttpError> {
        unreachable!("nobody signs in here")
    }

    async fn verifies(&self, _: &RsaKey, _: &[u8], _: &[u8]) -> bool {
        unreachable!("nobody signs in here")
    }

    fn known_keys(&self) -> KnownKeys {
        KnownKeys::default()
    }

    fn remember_keys(&self, _: KnownKeys) {}
}

impl Log for Telemetry {
    fn log(&self, line: &Value) {
        println!("{line}");
    }
}

fn ok(body: String) -> HttpResponse {
    HttpResponse {
        status: 200,
        retry_after_s: None,
        body,
    }
}

fn rows(answer: &mut Value) -> &mut Vec<Value> {
    answer["result"]["calculations"][0]["aggregates"]
        .as_array_mut()
        .unwrap()
}

/// Asks for 20 windows and answers the verdict; a failed answer is asked again by a release and judges nothing here.
fn verdict(spoil: Spoil, objective: &str) -> Verdict {
    let slo: Slo = serde_json::from_str(&format!(
        r#"{{"name":"errors","sli":{{"kind":"error_rate"}},"objective":{objective}}}"#
    ))
    .unwrap();
    let config = Config::from_vars(|name| match name {
        "CLOUDFLARE_API_TOKEN" => Some("token".to_owned()),
        "HMD_API_TOKEN" => Some("t".repeat(32)),
        "HMD_SIGNING_KEY" => Some("QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVphYmNkZWY=".to_owned()),
        _ => None,
    })
    .unwrap();
    let telemetry = Telemetry { spoil };
    let cloudflare = Cloudflare::new(&telemetry, &config);
    let target = Target {
        script: "shop".to_owned(),
        slos: vec![(slo.clone(), None)],
    };
    let stages = [StagePlan {
        share: 0.1,
        soak_ms: 600_000,
    }];
    let protocol = Protocol::new(
        &[(slo.clone(), Terms::default())],
        &[Before::default()],
        &stages,
        WINDOW_MS,
        0.01,
    );
    let place = Place {
        stage: 0,
        share: 0.1,
        warming_up: false,
    };
    let mut evidence = Evidence::default();
    for index in 0..20 {
        let times = (index * WINDOW_MS, (index + 1) * WINDOW_MS);
        let account = cloudflare.installations_account("account");
        let asked = measure_one(&cloudflare, &account, times, &target, Urgency::Check);
        let Ok(mut shop) = futures_executor::block_on(asked) else {
            continue;
        };
        let window = Window {
            index,
            sampled: shop.sampled,
            old: shop.versions.remove("old").unwrap_or_default(),
            new: shop.versions.remove("new").unwrap_or_default(),
            ..Window::default()
        };
        evidence = evidence.step(&protocol, place, &window);
    }
    evidence.verdict(&protocol, place, (&slo, 0), Ground::Firm)
}

const CASES: [(&str, Spoil, Verdict); 19] = [
    (
        "empty",
        |a, _| {
            rows(a).clear();
            None
        },
        Verdict::NoData,
    ),
    (
        "no answer",
        |_, _| Some(Err(HttpError::Timeout(10_000))),
        Verdict::NoData,
    ),
    (
        "an error",
        |_, _| {
            Some(Ok(HttpResponse {
                status: 500,
                retry_after_s: None,
                body: String::new(),
            }))
        },
        Verdict::NoData,
    ),
    (
        "an error about errors alone",
        |_, errors| errors.then_some(Err(HttpError::Timeout(10_000))),
        Verdict::NoData,
    ),
    (
        "success is false",
        |a, _| {
            a["success"] = json!(false);
            None
        },
        Verdict::NoData,
    ),
    (
        "NaN, which is no JSON",
        |a, _| {
            Some(Ok(ok(a
                .to_string()
                .replace("\"count\":500", "\"count\":NaN")
                .replace("\"count\":5,", "\"count\":NaN,"))))
        },
        Verdict::NoData,
    ),
    (
        "NaN as a text",
        |a, _| {
            rows(a)[1]["count"] = json!("NaN");
            None
        },
        Verdict::NoData,
    ),
    (
        "null totals",
        |a, errors| {
            if !errors {
                rows(a)[1]["count"] = json!(null);
                rows(a)[1]["value"] = json!(null);
            }
            None
        },
        Verdict::NoData,
    ),
    (
        "null errors",
        |a, errors| {
            if errors {
                rows(a)[1]["count"] = json!(null);
                rows(a)[1]["value"] = json!(null);
            }
            None
        },
        Verdict::NoData,
    ),
    (
        "negative errors",
        |a, errors| {
            if errors {
                rows(a)[1]["count"] = json!(-5);
            }
            None
        },
        Verdict::NoData,
    ),
    (
        "null in place of the calculations",
        |a, _| {
            a["result"]["calculations"] = json!(null);
            None
        },
        Verdict::NoData,
    ),
    (
        "no calculation",
        |a, errors| {
            if errors {
                a["result"]["calculations"] = json!([]);
            }
            None
        },
        Verdict::NoData,
    ),
    (
        "truncated",
        |a, _| {
            let row = rows(a)[0].clone();
            rows(a).resize(2_000, row);
            None
        },
        Verdict::NoData,
    ),
    (
        "clamped",
        |a, _| {
            let from = a["result"]["run"]["timeframe"]["from"].as_i64().unwrap();
            a["result"]["run"]["timeframe"]["from"] = json!(from + 10_000);
            None
        },
        Verdict::NoData,
    ),
    (
        "stale: of an earlier time",
        |a, _| {
            a["result"]["run"]["timeframe"] = json!({"from": -60_000, "to": -30_000});
            None
        },
        Verdict::NoData,
    ),
    (
        "not completed",
        |a, _| {
            a["result"]["run"]["status"] = json!("STARTED");
            None
        },
        Verdict::NoData,
    ),
    (
        "only the old version",
        |a, _| {
            rows(a).pop();
            None
        },
        Verdict::NoData,
    ),
    (
        "sampled",
        |a, _| {
            for row in rows(a) {
                row["sampleInterval"] = json!(10);
            }
            None
        },
        Verdict::Undecided,
    ),
    (
        "down-sampled",
        |a, _| {
            a["result"]["statistics"]["abr_level"] = json!(10);
            None
        },
        Verdict::Undecided,
    ),
];

#[test]
fn no_answer_but_a_whole_one_is_ever_safe() {
    for objective in [r#"{"no_worse_than_old":{}}"#, r#"{"max":0.05}"#] {
        for (case, spoil, expected) in CASES {
            assert_eq!(verdict(spoil, objective), expected, "{case}, {objective}");
        }
        // The same answers unspoiled are safe, so the cases show something.
        assert_eq!(
            verdict(|_, _| None, objective),
            Verdict::Safe,
            "{objective}"
        );
    }
    // One version is enough for an objective of its own, and not for a comparison.
    let only_new: Spoil = |answer, _| {
        rows(answer).remove(0);
        None
    };
    assert_eq!(
        verdict(only_new, r#"{"no_worse_than_old":{}}"#),
        Verdict::NoData
    );
}
