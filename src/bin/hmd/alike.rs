//! The order of functions in a wasm module. What compresses it sees 32 KB back, so functions that are much alike (the same for
//! several types, mostly) belong beside each other.

use std::cmp::Reverse;
use std::collections::VecDeque;

use anyhow::{Context, Result, ensure};

/// How much of two functions must be the same to count as a likeness, in bytes.
const RUN: usize = 5;
/// The rest of the 64 bits that hold a run and whose it is.
const FUNCTION_BITS: u32 = 24;
/// A run that more functions have says nothing of them.
const MAX_HOLDERS: usize = 200;
/// As if each function were so many runs longer: between a large function and a small one that is all in it, the large one.
const HEADSTART: usize = 1000;
/// What a likeness to the last function counts, to the one before, and so on.
const WEIGHTS: [usize; 8] = [8, 6, 4, 3, 2, 2, 1, 1];

const CUSTOM: u8 = 0;
const IMPORTS: u8 = 2;
const CODE: u8 = 10;

/// The module, with names for its functions in whose order they are to be. Names that it has must have been taken off.
///
/// # Errors
/// What is no such module.
pub fn named(wasm: &[u8]) -> Result<Vec<u8>> {
    let mut imported = 0;
    let mut bodies = Vec::new();
    let mut rest = Bytes(wasm.get(8..).context("it is no wasm")?);
    while !rest.0.is_empty() {
        let section = rest.byte()?;
        let content = rest.list()?;
        match section {
            IMPORTS => imported = imported_functions(content)?,
            CODE => {
                let mut code = Bytes(content);
                for _ in 0..code.number()? {
                    bodies.push(code.list()?);
                }
            }
            _ => {}
        }
    }
    ensure!(!bodies.is_empty(), "no function is in it");
    let mut ranks = vec![0; bodies.len()];
    for (rank, function) in order(&bodies).into_iter().enumerate() {
        ranks[function] = rank;
    }
    let mut names = number(ranks.len());
    for (function, rank) in ranks.iter().enumerate() {
        names.extend(number(imported + function));
        names.extend(list(format!("{rank:06}").as_bytes()));
    }
    let mut section = list(b"name");
    // Of functions.
    section.push(1);
    section.extend(list(&names));
    Ok([wasm, &[CUSTOM], &list(&section)].concat())
}

/// Each time the one that is most like the last ones.
fn order(bodies: &[&[u8]]) -> Vec<usize> {
    let runs = Runs::of(bodies);
    let mut largest: Vec<usize> = (0..bodies.len()).collect();
    largest.sort_by_key(|&function| Reverse(bodies[function].len()));
    let mut is_placed = vec![false; bodies.len()];
    let mut placed = Vec::with_capacity(bodies.len());
    let mut scores = vec![0; bodies.len()];
    let mut recent = VecDeque::new();
    for first in largest {
        let mut next = Some(first).filter(|&first| !is_placed[first]);
        while let Some(function) = next {
            is_placed[function] = true;
            placed.push(function);
            recent.push_front(runs.likenesses(function, &is_placed, &mut scores));
            recent.truncate(WEIGHTS.len());
            let mut candidates = Vec::new();
            for (likenesses, weight) in recent.iter().zip(WEIGHTS) {
                for &(other, likeness) in likenesses.iter().filter(|(it, _)| !is_placed[*it]) {
                    if scores[other] == 0 {
                        candidates.push(other);
                    }
                    scores[other] += weight * likeness;
                }
            }
            // In whole numbers, so that it is the same everywhere.
            let share = |&other: &usize| {
                let share = scores[other] * 1_000_000 / (runs.of[other].len() + HEADSTART);
                (share, Reverse(other))
            };
            next = candidates.iter().copied().max_by_key(share);
            for other in candidates {
                scores[other] = 0;
            }
        }
    }
    placed
}

/// Which functions have which runs of bytes.
struct Runs {
    /// By run: the functions, once each.
    holders: Vec<Vec<usize>>,
    /// By function: its runs that others have, too.
    of: Vec<Vec<usize>>,
}

impl Runs {
    fn of(bodies: &[&[u8]]) -> Self {
        // The run in front, the function behind it: older bytes fall out at the top.
        let mut all: Vec<u64> = Vec::new();
        for (function, body) in (0..).zip(bodies) {
            let mut run = 0;
            for (index, &byte) in body.iter().enumerate() {
                run = run << 8 | u64::from(byte) << FUNCTION_BITS;
                if index + 1 >= RUN {
                    all.push(run | function);
                }
            }
        }
        all.sort_unstable();
        all.dedup();
        let mut runs = Self {
            holders: Vec::new(),
            of: vec![Vec::new(); bodies.len()],
        };
        for same in all.chunk_by(|one, other| one >> FUNCTION_BITS == other >> FUNCTION_BITS) {
            if (2..=MAX_HOLDERS).contains(&same.len()) {
                let function = |held: &u64| {
                    usize::try_from(held & ((1 << FUNCTION_BITS) - 1)).unwrap_or_default()
                };
                let holders: Vec<usize> = same.iter().map(function).collect();
                for &holder in &holders {
                    runs.of[holder].push(runs.holders.len());
                }
                runs.holders.push(holders);
            }
        }
        runs
    }

    /// The functions that are not placed yet and have runs of this one, each with their number. `counts` are zero before and after.
    fn likenesses(
        &self,
        function: usize,
        is_placed: &[bool],
        counts: &mut [usize],
    ) -> Vec<(usize, usize)> {
        let mut others = Vec::new();
        for &run in &self.of[function] {
            for &other in &self.holders[run] {
                if counts[other] == 0 {
                    others.push(other);
                }
                counts[other] += 1;
            }
        }
        let mut likenesses = Vec::new();
        for other in others {
            if !is_placed[other] {
                likenesses.push((other, counts[other]));
            }
            counts[other] = 0;
        }
        likenesses
    }
}

/// What is left of a module to read.
struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    fn take(&mut self, length: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length).context("it ends early")?;
        self.0 = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn number(&mut self) -> Result<usize> {
        let mut number = 0;
        for place in (0..35).step_by(7) {
            let byte = self.byte()?;
            number |= usize::from(byte & 0x7f) << place;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        anyhow::bail!("a number in it is too long")
    }

    /// Bytes behind their number.
    fn list(&mut self) -> Result<&'a [u8]> {
        let length = self.number()?;
        self.take(length)
    }

    fn limits(&mut self) -> Result<()> {
        let has_most = self.byte()? & 1 == 1;
        self.number()?;
        if has_most {
            self.number()?;
        }
        Ok(())
    }
}

fn imported_functions(content: &[u8]) -> Result<usize> {
    let mut imports = Bytes(content);
    let mut functions = 0;
    for _ in 0..imports.number()? {
        imports.list()?;
        imports.list()?;
        match imports.byte()? {
            0 => {
                imports.number()?;
                functions += 1;
            }
            1 => {
                imports.byte()?;
                imports.limits()?;
            }
            2 => imports.limits()?,
            3 => {
                imports.take(2)?;
            }
            4 => {
                imports.byte()?;
                imports.number()?;
            }
            kind => anyhow::bail!("it imports something of the unknown kind {kind}"),
        }
    }
    Ok(functions)
}

fn number(mut number: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    loop {
        #[expect(clippy::cast_possible_truncation, reason = "of seven bits")]
        let low = (number & 0x7f) as u8;
        number >>= 7;
        if number == 0 {
            bytes.push(low);
            return bytes;
        }
        bytes.push(low | 0x80);
    }
}

fn list(bytes: &[u8]) -> Vec<u8> {
    let mut list = number(bytes.len());
    list.extend(bytes);
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_alike_is_put_together() {
        let bodies: [&[u8]; 5] = [
            b"abcdefghijklmn",
            b"0123456789",
            b"xabcdefghijklm",
            b"9876543210",
            b"x0123456789",
        ];
        assert_eq!(order(&bodies), [0, 2, 4, 1, 3]);
    }

    #[test]
    fn names_go_to_the_functions_after_the_imported_ones() -> Result<()> {
        let section = |id: u8, content: &[u8]| [&[id][..], &list(content)].concat();
        let imports = section(IMPORTS, b"\x02\x01m\x01f\x00\x00\x01m\x01t\x01\x70\x00\x01");
        let code = section(CODE, b"\x02\x01\x0b\x0212");
        let wasm = [b"\0asm\x01\0\0\0", &imports[..], &code].concat();
        // The larger one comes first.
        let names = section(CUSTOM, b"\x04name\x01\x11\x02\x01\x06000001\x02\x06000000");
        assert_eq!(named(&wasm)?, [&wasm[..], &names].concat());
        assert!(named(&wasm[..wasm.len() - 1]).is_err());
        assert!(named(b"").is_err());
        Ok(())
    }
}
