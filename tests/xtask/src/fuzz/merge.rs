//! Adds new inputs to the committed corpora if they reach new code and are small, and writes the archives.

use std::path::Path;

use drivebay_fuzz_archive::{Inputs, files, write_files};

use super::{build, corpora, folder};
use crate::run;
use crate::tally::Tally;

/// The maximum number of inputs in one corpus, and their maximum size in bytes.
const INPUTS: usize = 150;
const BYTES: usize = 100 << 10;

pub(super) fn all(targets: &[String]) -> Result<Tally, String> {
    let mut tally = Tally::default();
    for target in targets {
        let mut corpus = corpora().corpus(target)?;
        let new = new_inputs(target)?;
        let taken = take(&mut corpus, &new);
        corpora().store(target, &corpus)?;
        let bytes: usize = corpus.values().map(Vec::len).sum();
        let (offered, kept) = (new.len(), corpus.len());
        println!("{target}: {taken} of {offered} taken; {kept} inputs with {bytes} bytes");
        tally.passed += 1;
    }
    Ok(tally)
}

/// The inputs that the fuzzer found, without those that reach no new code. libFuzzer chooses them.
fn new_inputs(target: &str) -> Result<Inputs, String> {
    let found = folder().join("corpus").join(target);
    if files(&found)?.is_empty() {
        return Ok(Inputs::new());
    }
    let known = corpora().all(target)?;
    let chosen = folder().join("chosen").join(target);
    write_files(&chosen, &known)?;
    choose(&build()?, target, &found, &chosen)?;
    let mut new = files(&chosen)?;
    new.retain(|name, _| !known.contains_key(name));
    Ok(new)
}

/// Copies files from `found` to `chosen` until `chosen` reaches all code that both reach.
fn choose(program: &Path, target: &str, found: &Path, chosen: &Path) -> Result<(), String> {
    let mut command =
        run::command(program, &["-set_cover_merge=1", "-max_len=8192", "-verbosity=0"]);
    run::must(command.env("DRIVEBAY_FUZZ", target).arg(chosen).arg(found))
}

/// Takes inputs of all lengths, the shortest first, as long as the corpus has room. Returns how many it took.
fn take(corpus: &mut Inputs, new: &Inputs) -> usize {
    let mut by_len: Vec<_> = new.iter().collect();
    by_len.sort_by_key(|(name, bytes)| (bytes.len(), *name));
    let room = INPUTS.saturating_sub(corpus.len());
    let mut bytes: usize = corpus.values().map(Vec::len).sum();
    let before = corpus.len();
    for (name, input) in by_len.into_iter().step_by(new.len().div_ceil(room.max(1)).max(1)) {
        bytes += input.len();
        if corpus.len() >= INPUTS || bytes > BYTES {
            break;
        }
        corpus.insert(name.clone(), input.clone());
    }
    corpus.len() - before
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(lens: impl Iterator<Item = usize>) -> Inputs {
        lens.enumerate().map(|(n, len)| (format!("{n:04}"), vec![0; len])).collect()
    }

    #[test]
    fn a_corpus_takes_inputs_of_all_lengths_until_it_is_full() {
        let mut corpus = Inputs::new();
        assert_eq!(take(&mut corpus, &inputs(0..300)), INPUTS);
        assert!(corpus.values().any(|input| input.len() > 290));
        assert_eq!(take(&mut corpus, &inputs(300..310)), 0);
    }

    #[test]
    fn a_corpus_has_a_limit_in_bytes() {
        let mut corpus = Inputs::new();
        assert_eq!(take(&mut corpus, &inputs([BYTES, 1].into_iter())), 1);
        assert_eq!(corpus.values().map(Vec::len).sum::<usize>(), 1);
    }
}
