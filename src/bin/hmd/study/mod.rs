//! `hmd study`: how the evidence rule behaves, reproduced from seeds: false aborts of healthy releases, times to detect bad
//! ones, what each addition costs, and the same for what others do on the same telemetry. docs/evidence.md explains it.

mod cost;
mod figures;
mod plot;
mod report;
mod rules;
mod run;
#[cfg(test)]
mod tests;
mod traffic;

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rand::SeedableRng;

use self::figures::{Figure, HMD, HMD_DEFAULTS, LEVELS, ORACLE, RATIOS};
use self::plot::Axis;
use self::report::{names, worst};
use self::rules::{BARE, Hmd};
use self::traffic::{History, Scenario};
use super::say;

/// Options of `hmd study`.
#[derive(Debug, clap::Args)]
pub struct StudyArgs {
    /// A tenth of the releases: rough figures in seconds
    #[arg(long)]
    short: bool,
    /// Every figure follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the pictures go
    #[arg(long, default_value = "docs/study")]
    out: PathBuf,
}

/// Runs everything, prints the tables and writes the pictures.
///
/// # Errors
/// If a picture can't be written.
pub fn run(arguments: &StudyArgs) -> Result<()> {
    let runs = if arguments.short { 400 } else { 4_000 };
    let seed = arguments.seed;
    say(&format!(
        "{runs} releases a figure, seed {seed}; plan 5 / 25 / 50 %, 10 min each, a look every 30 s (60 looks); alpha 0.01"
    ));
    let healthy = figures::healthy(runs, seed);
    report::print_healthy(&healthy);
    let detection = figures::detection(runs, seed + 1);
    report::print_detection(&detection, &healthy);
    report::print_additions(&figures::additions(runs, seed + 2));
    report::print_safe(&figures::safe(runs / 2, seed + 3));
    report::print_cost();
    draw(&arguments.out, &healthy, &detection, seed)
}

fn draw(out: &Path, healthy: &[Figure], detection: &[Figure], seed: u64) -> Result<()> {
    std::fs::create_dir_all(out).with_context(|| format!("creating {}", out.display()))?;
    let write = |name: &str, svg: String| {
        let path = out.join(name);
        std::fs::write(&path, svg).with_context(|| format!("writing {}", path.display()))?;
        say(&format!("wrote {}", path.display()));
        Ok::<(), anyhow::Error>(())
    };
    say("");
    let rows: Vec<(String, Vec<f64>)> = names(healthy)
        .into_iter()
        .map(|rule| {
            let of = |scenario: usize| {
                let figures = healthy.iter().filter(|f| f.level == 1);
                figures
                    .map(|f| f.of(rule).map_or(0.0, run::Outcome::share))
                    .nth(scenario)
                    .unwrap_or(0.0)
            };
            (rule.to_owned(), vec![of(0), of(1), worst(healthy, 1, rule)])
        })
        .collect();
    write(
        "false-aborts.svg",
        plot::bars(
            "Healthy releases aborted wrongly (50 requests a second, 60 looks)",
            &[
                "nothing happens",
                "outage hits both",
                "worst of 7 scenarios",
            ],
            &rows,
            0.01,
        ),
    )?;
    let times = |rule: &str| {
        let from_start = detection.iter().filter(|f| f.level == 1 && f.onset_s == 0);
        from_start
            .filter_map(|f| Some((f.ratio, f.of(rule)?.mean_s(0)?)))
            .collect::<Vec<_>>()
    };
    let rules = [
        HMD,
        ORACLE,
        HMD_DEFAULTS,
        "GrowthBook, alpha 0.05 (theirs)",
        "GrowthBook, alpha 0.01",
    ];
    let curves: Vec<plot::Curve> = rules.iter().map(|rule| (*rule, times(rule))).collect();
    write(
        "detection.svg",
        plot::curves(
            "Time to abort a bad version (50 requests a second, 0.5 % bad before)",
            &Axis {
                label: "how many times the old version's errors",
                ticks: &RATIOS,
                log: true,
            },
            &Axis {
                label: "mean seconds from the start",
                ticks: &[30.0, 60.0, 120.0, 300.0, 600.0, 1_200.0, 1_800.0],
                log: true,
            },
            &curves,
            None,
        ),
    )?;
    write("evidence.svg", evidence_over_time(seed))
}

/// The evidence in three releases.
fn evidence_over_time(seed: u64) -> String {
    let release = |scenario: Scenario| {
        let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        let history = History::draw(&scenario, &mut random);
        let mut rule = Hmd::new(&BARE, &history);
        let mut points = Vec::new();
        for look in &history.looks {
            let place = rule.place(look);
            rule.step(place, &look.window);
            let ln_e = rule.judge(place).ln_e;
            points.push((f64::from(look.at_s) / 60.0, ln_e / std::f64::consts::LN_10));
            if ln_e > 7.0 {
                break;
            }
        }
        points
    };
    plot::curves(
        "Evidence of harm over three releases (50 requests a second)",
        &Axis {
            label: "minutes (stages of 5, 25 and 50 %)",
            ticks: &[0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0],
            log: false,
        },
        &Axis {
            label: "log10 of E; 2 is harm at alpha 0.01",
            ticks: &[-2.0, -1.0, 0.0, 1.0, 2.0, 3.0],
            log: false,
        },
        &[
            (
                "healthy, with an outage upstream from minute 15 to 18",
                release(Scenario {
                    outage: Some((900, 1_080, 20.0)),
                    ..Scenario::healthy(LEVELS[1])
                }),
            ),
            (
                "3x the errors from the start",
                release(Scenario::worse(LEVELS[1], 3.0, 0)),
            ),
            (
                "3x the errors from minute 25",
                release(Scenario::worse(LEVELS[1], 3.0, 1_500)),
            ),
        ],
        Some(2.0),
    )
}
