//! `hmd study`: how HMD's evidence rule behaves, from seeds.

mod rules;
mod run;
mod traffic;

use anyhow::Result;
use rules::{BARE, DEFAULTS, GrowthBook, Hmd, MannWhitney, NaiveZ, Setup, Single, Threshold};
use run::{Maker, Outcome, run as simulate};
use traffic::Scenario;

#[derive(Debug, clap::Args)]
pub struct StudyArgs {
    #[arg(long)]
    pub short: bool,
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    #[arg(long, default_value_t = 2000)]
    pub runs: u32,
}

fn hmd<'a>(name: &'a str, setup: Setup) -> Maker<'a> {
    (
        name,
        Box::new(move |history| Box::new(Hmd::new(&setup, history))),
    )
}

const LEVELS: [(f64, f64); 3] = [(5.0, 0.01), (50.0, 0.005), (500.0, 0.001)];

pub fn run(args: &StudyArgs) -> Result<()> {
    for (name, sc) in [
        ("late RR3 start", Scenario::worse(LEVELS[1], 3.0, 0)),
        ("late RR2 stage3", Scenario::worse(LEVELS[1], 2.0, 1200)),
        ("late RR3 mid st3", Scenario::worse(LEVELS[1], 3.0, 1500)),
    ] {
        let makers: Vec<Maker> = vec![
            hmd("hmd", BARE),
            ("single", Box::new(|_| Box::new(Single::mixture()))),
        ];
        for o in simulate(&sc, args.runs, args.seed, &makers) {
            println!(
                "{name:20} {:10} {:.3} {:?} {:?} hurt {}",
                o.rule,
                o.share(),
                o.median_s(sc.onset_s),
                o.mean_s(sc.onset_s),
                o.median_hurt()
            );
        }
    }
    for level in LEVELS {
        for ratio in [1.0, 1.5, 2.0, 3.0, 5.0, 10.0] {
            let sc = Scenario::worse(level, ratio, 0);
            let mut makers: Vec<Maker> = vec![
                hmd("hmd", BARE),
                hmd("defaults", DEFAULTS),
                ("single", Box::new(|_| Box::new(Single::mixture()))),
            ];
            if ratio > 1.0 {
                makers.push(("oracle", Box::new(move |_| Box::new(Single::oracle(ratio)))));
            }
            for o in simulate(&sc, args.runs, args.seed, &makers) {
                println!(
                    "{level:?} {ratio:5} {:10} {:.3} {:?} {:?} hurt {}",
                    o.rule,
                    o.share(),
                    o.median_s(0),
                    o.mean_s(0),
                    o.median_hurt()
                );
            }
        }
    }
    Ok(())
}
