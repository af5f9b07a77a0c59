//! Who can't be asked together. One question asks for many Workers by filters that people wrote, and one filter that Cloudflare
//! refuses, or can't apply in time, would keep all of them from their data. So a question that fails is asked in parts until the
//! filters that it fails for stand alone, and the instance remembers those and asks them apart from the beginning.

use super::Asking;
use super::answer::{Answer, ask};
use super::questions::{Kind, Questions};
use crate::cloudflare::client::{ApiError, ErrorKind};
use crate::gather::{Gather as _, join_all};
use crate::pipeline::ports::Ports;
use crate::sorted::{SortedMap, SortedSet};
use crate::time::UnixMs;

/// A question that fails is asked in so many parts: more need fewer rounds, and about as many calls in all.
const PARTS: usize = 4;
/// Filters stay suspect for so long after they have failed.
const SUSPECT_MS: i64 = 10 * 60_000;
/// Most filters that are suspect at once: each costs a question.
const MOST: usize = 20;

/// Some of what a slot counts, and the answer of the question that asked for it.
pub(super) struct Piece<'a> {
    /// What was asked for.
    pub(super) kinds: Vec<Kind<'a>>,
    /// What was answered.
    pub(super) answer: Result<Answer, ApiError>,
}

/// Filters that a question has failed for lately.
#[derive(Debug, Default)]
pub struct Remembered(SortedMap<(String, String), UnixMs>);

/// Those of them that are of one account.
#[derive(Debug, Default)]
pub(super) struct Suspects(SortedSet<String>);

impl Suspects {
    /// What this instance remembers.
    pub(super) fn of<P: Ports>(ports: &P, account: &str) -> Self {
        let now = ports.now();
        ports.kept(|kept| {
            let known = &mut kept.suspects.0;
            if known.is_empty() {
                return Self::default();
            }
            known.retain(|_, until| *until > now);
            let of_account = known.keys().filter(|(of, _)| of == account);
            Self(of_account.map(|(_, name)| name.clone()).into_set())
        })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The kinds of a slot in the parts that they are asked in: the suspects one by one.
    pub(super) fn part<'a>(&self, kinds: &[Kind<'a>]) -> Vec<Vec<Kind<'a>>> {
        if self.is_empty() || kinds.len() < 2 {
            return vec![kinds.to_vec()];
        }
        let (mut parts, mut others) = (Vec::new(), Vec::new());
        for kind in kinds {
            if self.0.contains(&kind.name()) {
                parts.push(vec![kind.clone()]);
            } else {
                others.push(kind.clone());
            }
        }
        if !others.is_empty() {
            parts.push(others);
        }
        parts
    }

    /// Remembers what has failed by itself, and forgets what has not.
    fn learn<P: Ports>(&self, (ports, account): (&P, &str), pieces: &[Vec<Piece<'_>>]) {
        let alone = pieces
            .iter()
            .flatten()
            .filter_map(|piece| Some((piece.kinds.first()?, piece)))
            .filter(|(_, piece)| piece.kinds.len() == 1);
        for (kind, piece) in alone {
            let failed = piece.answer.as_ref().is_err_and(is_its_own);
            if !failed && self.is_empty() {
                continue;
            }
            let (name, until) = (kind.name(), ports.now() + SUSPECT_MS);
            ports.kept(|kept| {
                let known = &mut kept.suspects.0;
                let key = (account.to_owned(), name);
                if !failed {
                    known.remove(&key);
                } else if known.len() < MOST || known.contains_key(&key) {
                    known.insert(key, until);
                }
            });
        }
    }
}

/// Whether a question may have failed for what it asks, and not for who asks, or how often.
fn is_its_own(error: &ApiError) -> bool {
    match error.kind {
        // Who asks to be left alone for a while is not troubled by what was asked.
        ErrorKind::Unknown { retry_after_ms } => retry_after_ms == 0,
        ErrorKind::Refused { .. } => !error.is_denied(),
        _ => false,
    }
}

/// Asks what each slot counts. Only whoever asks for what fails goes without an answer.
pub(super) async fn ask_slots<'a, P: Ports>(
    asking: &Asking<'_, P>,
    questions: &Questions<'a>,
    suspects: &Suspects,
) -> Vec<Vec<Piece<'a>>> {
    let slots = questions.slots.iter().enumerate();
    let parts = slots.flat_map(|(slot, kinds)| {
        let parts = suspects.part(kinds).into_iter();
        parts.map(move |kinds| (slot, kinds))
    });
    ask_parts(asking, questions, parts.collect()).await
}

async fn ask_parts<'a, P: Ports>(
    asking: &Asking<'_, P>,
    questions: &Questions<'a>,
    parts: Vec<(usize, Vec<Kind<'a>>)>,
) -> Vec<Vec<Piece<'a>>> {
    let answers = parts.iter().map(async |(_, kinds)| {
        let question = questions.of_kinds(kinds);
        ask(asking, &question).await
    });
    let answers = join_all(answers).await;
    let mut pieces: Vec<Vec<Piece<'a>>> = questions.slots.iter().map(|_| Vec::new()).collect();
    for ((slot, kinds), answer) in parts.into_iter().zip(answers) {
        pieces[slot].push(Piece { kinds, answer });
    }
    pieces
}

/// Asks in parts what could not be answered as one, until what fails stands alone; and remembers that.
pub(super) async fn ask_apart<'a, P: Ports>(
    asking: &Asking<'_, P>,
    questions: &Questions<'a>,
    suspects: &Suspects,
    mut pieces: Vec<Vec<Piece<'a>>>,
) -> Vec<Vec<Piece<'a>>> {
    let divides =
        |piece: &Piece<'_>| piece.kinds.len() > 1 && piece.answer.as_ref().is_err_and(is_its_own);
    loop {
        let mut parts = Vec::new();
        for (slot, pieces) in pieces.iter().enumerate() {
            for piece in pieces.iter().filter(|piece| divides(piece)) {
                let size = piece.kinds.len().div_ceil(PARTS);
                parts.extend(piece.kinds.chunks(size).map(|part| (slot, part.to_vec())));
            }
        }
        let calls = u32::try_from(parts.len()).unwrap_or(u32::MAX);
        // What is put off here fails as it has failed: it is told so, and tried again like any failure.
        if parts.is_empty() || asking.admit(calls).await.is_err() {
            break;
        }
        let asked = ask_parts(asking, questions, parts).await;
        for (pieces, asked) in pieces.iter_mut().zip(asked) {
            pieces.retain(|piece| !divides(piece));
            pieces.extend(asked);
        }
    }
    let ports = asking.cloudflare.ports;
    suspects.learn((ports, &asking.account.id), &pieces);
    pieces
}
