//! What a batch of checks costs, whatever the number of its releases: round trips to the database, sends to queues, calls to
//! Cloudflare. `hmd bench` shows the same on the real runtime.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test may fail at once"
)]

mod support;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use support::{Call, World, healthy};

/// Round trips to the database, sends to queues and calls to Cloudflare.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    database: usize,
    sends: usize,
    calls: usize,
}

/// What each moment at which a batch came has cost, while so many releases soak: no transition, no sweep, no routine look.
fn costs(releases: usize) -> Vec<Cost> {
    let world = World::unhindered();
    for i in 0..releases {
        let script = format!("shop-{i}");
        world.worker(&script, &[healthy(), healthy()]);
        world.plan(&script, |plan| plan["stages"][0]["soak"] = "10m".into());
        world.release(&script);
    }
    // Past the sweep and the messages that it sent twice.
    world.run_for(75_000);
    let judged = || world.rows("SELECT COUNT(*) AS n FROM windows")[0]["n"].as_u64();
    let before = judged();
    let costs: Rc<RefCell<BTreeMap<i64, Cost>>> = Rc::default();
    world.set_rule({
        let (world, costs) = (Rc::clone(&world), Rc::clone(&costs));
        move |call| {
            let mut costs = costs.borrow_mut();
            let cost = costs.entry(world.now.get()).or_default();
            match call {
                Call::Sql { .. } => cost.database += 1,
                Call::Send(_) => cost.sends += 1,
                Call::Http(_) => cost.calls += 1,
                Call::Post(_) => (),
            }
            None
        }
    });
    world.run_for(30_000);
    world.clear_rule();
    assert_eq!(judged(), before.map(|n| n + 3 * releases as u64));
    costs.take().into_values().collect()
}

#[test]
fn a_batch_of_100_checks_costs_what_a_batch_of_one_does() {
    let batches = costs(100);
    assert_eq!(batches.len(), 3, "one batch a check interval: {batches:?}");
    for cost in &batches {
        assert!(cost.database <= 3, "{cost:?}");
        assert_eq!(cost.sends, 1, "{cost:?}");
        assert!(cost.calls <= 4, "{cost:?}");
    }
    assert_eq!(batches, costs(1));
}
