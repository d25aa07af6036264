//! Runs the targets on the committed corpora, and on many small changes of each file, on stable Rust.
//! To keep a crash that the fuzzer found as a test, add its file to `crashes/TARGET`.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a failed check panics")]

use drivebay_fuzz::TARGETS;
use drivebay_fuzz_archive::{Corpora, Inputs};
use std::path::Path;

/// Number of changed inputs for each target.
const FORMS: usize = 20_000;

fn corpus(target: &str) -> Inputs {
    Corpora::new(Path::new(env!("CARGO_MANIFEST_DIR"))).all(target).unwrap()
}

#[test]
fn every_target_has_a_corpus_and_takes_it() {
    for target in TARGETS {
        let inputs = corpus(target.name);
        assert!(!inputs.is_empty(), "{} has no corpus", target.name);
        for (name, bytes) in inputs {
            let taken = std::panic::catch_unwind(|| (target.run)(&bytes));
            assert!(taken.is_ok(), "{}: {name}", target.name);
        }
    }
}

#[test]
fn changed_forms_of_the_corpora_are_taken() {
    for target in TARGETS {
        let inputs: Vec<_> = corpus(target.name).into_iter().collect();
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for (name, bytes) in &inputs {
            for form in 0..FORMS / inputs.len() {
                let (_, other) = &inputs[random.below(inputs.len())];
                let changed = random.change(bytes, other);
                let taken = std::panic::catch_unwind(|| (target.run)(&changed));
                assert!(taken.is_ok(), "{}: form {form} of {name}: {changed:02x?}", target.name);
            }
        }
    }
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % end.max(1) as u64).unwrap()
    }

    fn change(&mut self, bytes: &[u8], other: &[u8]) -> Vec<u8> {
        let mut changed = bytes.to_vec();
        for _ in 0..=self.below(4) {
            let place = self.below(changed.len());
            match self.below(6) {
                0 if !changed.is_empty() => changed[place] = self.next().to_le_bytes()[0],
                1 if !changed.is_empty() => changed[place] ^= 1 << self.below(8),
                2 => changed.truncate(place),
                3 => changed.insert(place, [0, 0xff, 0x7f, b'"'][self.below(4)]),
                4 => changed.extend_from_slice(&other[self.below(other.len() + 1)..]),
                _ => {
                    let value = [0, 1, u32::MAX, 1 << 31][self.below(4)].to_le_bytes();
                    let end = changed.len().min(place + 4);
                    let part = &mut changed[place..end];
                    part.copy_from_slice(&value[..part.len()]);
                }
            }
        }
        changed
    }
}
