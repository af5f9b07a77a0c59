//! What must hold of every deployment that HMD asks Cloudflare for, at the moment in which it does.

use super::{Verdict, must};
use crate::model::{Model, Post};

pub fn intent(_: &Model, post: &Post) -> Verdict {
    must(
        (post.share - post.intent.percent.as_f64()).abs() < 0.005,
        || {
            format!(
                "a share of {} instead of {}",
                post.share, post.intent.percent
            )
        },
    )
}

pub fn driven(_: &Model, post: &Post) -> Verdict {
    must(!post.release.watches, || "it only watches".to_owned())
}

pub fn lease(_: &Model, post: &Post) -> Verdict {
    // The call may take 10 s, and its effect must come within the lease.
    must(post.sent_at + 10_000 <= post.lease_until, || {
        format!(
            "it is sent {} ms before the lease ends",
            post.lease_until - post.sent_at
        )
    })
}

pub fn look(_: &Model, post: &Post) -> Verdict {
    let leased = post.intent.lease.map(|(_, tick)| tick);
    let looked = post.look.as_ref().map(|look| look.tick);
    must(looked.is_some() && looked >= leased, || {
        "it was not preceded by a look".to_owned()
    })
}

pub fn foreign(_: &Model, post: &Post) -> Verdict {
    must(post.foreign.is_empty(), || {
        format!("it had been shown {:?}", post.foreign)
    })
}
