//! What a release costs to run, counted: the README quotes these figures, and this test holds it to them.
//!
//! Calls and messages are counted by the world of the host tests, which runs the very pipeline; its SQL is then run again
//! on a real local D1, which says how many rows it read and wrote.

#![allow(clippy::unwrap_used, reason = "a test may fail at once")]

#[path = "../support/mod.rs"]
mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::rc::Rc;

use hmd::pipeline::config::Config;
use hmd::pipeline::ports::{Param, Statement};
use serde_json::{Value, json};
use support::{TOKEN, Tape, World, healthy};

/// The columns of the README's table.
const COLUMNS: [&str; 5] = ["calls", "messages", "operations", "read", "written"];
/// How far the README may be off, as a share, and in ones.
const TOLERANCE: f64 = 0.05;
const ROUNDING: f64 = 0.6;

/// Counts of one stretch of work.
type Counts = BTreeMap<&'static str, f64>;

/// What was counted on the host, and the SQL that D1 has yet to count.
struct Taped {
    calls: usize,
    tape: Tape,
    minutes: i64,
    checks: usize,
}

fn production() -> Result<Config, Vec<String>> {
    Config::from_vars(|name| {
        let value = match name {
            "CLOUDFLARE_API_BASE_URL" => "http://cloudflare.test/client/v4",
            "CLOUDFLARE_API_TOKEN" => "cf-token",
            "HMD_API_TOKEN" => TOKEN,
            "HMD_SIGNING_KEY" => "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
            // Everything else as wrangler.toml has it, which are the defaults.
            _ => return None,
        };
        Some(value.to_owned())
    })
}

/// Runs something in a world and counts what it asks for.
fn tape(world: &World, run: impl FnOnce(&World)) -> Taped {
    let (calls, begun) = (world.requests.borrow().len(), world.now.get());
    *world.tape.borrow_mut() = Some(Tape::default());
    run(world);
    Taped {
        calls: world.requests.borrow().len() - calls,
        tape: world.tape.take().unwrap(),
        minutes: (world.now.get() - begun) / 60_000,
        checks: 0,
    }
}

/// A release of three stages of this length, checked every 30 s, alone in its account, from its POST to its end.
fn release(soak: &str) -> Taped {
    let mut world = World::new();
    Rc::get_mut(&mut world).unwrap().config = production();
    world.worker("shop", &[healthy(), healthy()]);
    world.plan("shop", |plan| {
        plan["check_interval"] = json!("30s");
        for stage in plan["stages"].as_array_mut().unwrap() {
            stage["soak"] = json!(soak);
        }
    });
    let mut taped = tape(&world, |world| {
        let id = world.release("shop");
        let end = world.now.get() + 6 * 3_600_000;
        // Asking for the release costs, too: so its state is looked up past the tape.
        world.run_until(end, |world| {
            let rows = world.rows("SELECT state FROM releases WHERE ended_at IS NOT NULL");
            rows.iter().any(|row| row["state"] == "succeeded")
        });
        assert!(world.now.get() < end, "{id} never ended");
    });
    taped.checks = world.rows("SELECT window_index FROM windows").len();
    taped
}

/// An hour in which nothing is going on.
fn idle() -> Taped {
    let mut world = World::new();
    Rc::get_mut(&mut world).unwrap().config = production();
    tape(&world, |world| world.run_for(3_600_000))
}

fn batches(tape: &Tape) -> Value {
    let params = |params: &[Param]| -> Vec<Value> {
        let value = |param: &Param| match param {
            Param::Text(text) => json!(text),
            Param::Number(number) => json!(number),
        };
        params.iter().map(value).collect()
    };
    let statement = |it: &Statement| json!({"sql": it.sql, "params": params(&it.params)});
    let batch = |batch: &Vec<Statement>| batch.iter().map(statement).collect::<Vec<_>>();
    tape.batches.iter().map(batch).collect()
}

/// Rows read and written, as a real local D1 counts them.
fn on_d1(parts: &Value) -> Value {
    let root = env!("CARGO_MANIFEST_DIR");
    let setup = Command::new(env!("CARGO_BIN_EXE_hmd"))
        .arg("setup")
        .status();
    assert!(setup.unwrap().success(), "`hmd setup` failed; see above");
    let mut migrations: Vec<_> = std::fs::read_dir(format!("{root}/schemas/migrations"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    migrations.sort();
    let read = |path| std::fs::read_to_string(path).unwrap();
    let texts: Vec<String> = migrations.into_iter().map(read).collect();
    // Nothing waits for each other: the script reads all of its input before it answers.
    let mut node = Command::new(format!("{root}/node_modules/.bin/node"))
        .arg("tests/costs/replay.mjs")
        .env("WRANGLER_SEND_METRICS", "false")
        .env_remove("CLOUDFLARE_API_TOKEN")
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let input = json!({"migrations": texts, "parts": parts}).to_string();
    node.stdin
        .take()
        .unwrap()
        .write_all(input.as_bytes())
        .unwrap();
    let output = node.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "the tape does not run on D1; see above"
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn counts(taped: &Taped, rows: &Value) -> Counts {
    let operations = 3 * taped.tape.messages + taped.tape.retries;
    let number = |name: &str| rows[name].as_f64().unwrap();
    [
        ("calls", taped.calls as f64),
        ("messages", taped.tape.messages as f64),
        // Written, read, deleted; and read again for each retry.
        ("operations", operations as f64),
        ("read", number("read")),
        ("written", number("written")),
    ]
    .into()
}

/// The numbers of the README's row that begins like this.
fn quoted(title: &str) -> Counts {
    let readme = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
    let text = std::fs::read_to_string(readme).unwrap();
    let row = text
        .lines()
        .find(|line| line.starts_with(&format!("| {title}")));
    let row = row.unwrap_or_else(|| panic!("the README has no row {title:?}"));
    let cells = row.trim_matches('|').split('|').skip(1);
    let numbers = cells.map(|cell| cell.trim().replace(',', "").parse().unwrap());
    COLUMNS.into_iter().zip(numbers).collect()
}

#[test]
#[expect(clippy::cast_precision_loss, reason = "small counts")]
fn the_readme_says_what_a_release_costs() {
    let (short, long, idle) = (release("10m"), release("20m"), idle());
    // Each on a database of its own, as they were taped.
    let rows = |taped: &Taped| on_d1(&json!({"all": batches(&taped.tape)}))["all"].clone();
    let [short_counts, long_counts, idle_counts] =
        [&short, &long, &idle].map(|taped| counts(taped, &rows(taped)));
    let per = |counts: &Counts, share: f64| -> Counts {
        let scaled = counts.iter().map(|(name, count)| (*name, count / share));
        scaled.collect()
    };
    let minute = per(&idle_counts, idle.minutes as f64);
    let less = |counts: &Counts, other: &Counts, times: f64| -> Counts {
        let rest = counts
            .iter()
            .map(|(name, count)| (*name, count - other[name] * times));
        rest.collect()
    };
    // The sweep runs with or without releases, so a release is what comes on top of it.
    let of_short = less(&short_counts, &minute, short.minutes as f64);
    let of_long = less(&long_counts, &minute, long.minutes as f64);
    let more_checks = (long.checks - short.checks) as f64;
    let check = per(&less(&of_long, &of_short, 1.0), more_checks);

    let all = [
        ("one release", of_short),
        ("one check more", check),
        ("an idle minute", minute),
    ];
    for (title, counted) in &all {
        println!("{title}: {counted:.2?}");
    }
    println!("the release was checked {} times", short.checks);

    let mut wrong = Vec::new();
    for (title, counted) in all {
        let quoted = quoted(title);
        for column in COLUMNS {
            let (said, is) = (quoted[column], counted[column]);
            if (said - is).abs() > (is * TOLERANCE).max(ROUNDING) {
                wrong.push(format!(
                    "{title}, {column}: the README says {said}, counted were {is:.2}"
                ));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "update the README's table of costs:\n{}",
        wrong.join("\n")
    );
}
