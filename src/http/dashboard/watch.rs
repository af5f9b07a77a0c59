//! What the dashboard says of releases that only watch.

use maud::{Markup, html};

use super::layout::{sentence, time, words};
use crate::release::{Mode, Percent, Release, Status};

/// Whether it only watches.
pub(super) fn watches(release: &Release) -> bool {
    release.origin.mode == Mode::Watch
}

/// What starting and stopping it do.
pub(super) fn effects(release: &Release) -> [&'static str; 2] {
    if watches(release) {
        let stops = "HMD stops watching. The traffic stays as it is.";
        ["HMD begins to watch.", stops]
    } else {
        let stops =
            "The old version gets all traffic again; one that has not started is cancelled.";
        ["The first stage begins.", stops]
    }
}

/// The tag of a release that only watches.
pub(super) fn tag(release: &Release) -> Markup {
    html! { @if watches(release) { " " span.tag { "watches only" } } }
}

/// Whether it waits for somebody to split the traffic.
pub(super) fn waits_for_a_split(release: &Release) -> bool {
    matches!(&release.progress.status, Status::Watching { soak } if soak.percent == Percent::ZERO)
}

/// What HMD would have done.
pub(super) fn would(release: &Release) -> Markup {
    if !watches(release) {
        return Markup::default();
    }
    html! {
        section.card {
            h2 { "What HMD would have done" }
            p.quiet { "HMD only watches what others deploy, and writes nothing to Cloudflare." }
            @if release.progress.would.is_empty() {
                p { "Nothing, so far." }
            } @else {
                ol.events {
                    @for would in &release.progress.would {
                        li {
                            (time(would.at)) " " strong { (sentence(&words(would.action.name()))) }
                            " At " (would.percent)
                            p { (would.detail) }
                        }
                    }
                }
            }
        }
    }
}
