//! Copies new inputs into the committed corpora if they reach new code and are small.

use std::fs;
use std::path::{Path, PathBuf};

use super::{build, corpora, folder};
use crate::run;
use crate::tally::Tally;

/// The maximum number of files in one corpus, and their maximum size in bytes.
const FILES: usize = 150;
const BYTES: u64 = 100 << 10;

pub(super) fn all(targets: &[String]) -> Result<Tally, String> {
    let program = build()?;
    let mut tally = Tally::default();
    for target in targets {
        merge(&program, target)?;
        tally.passed += 1;
    }
    Ok(tally)
}

/// Files in the corpus stay. Of the new inputs, libFuzzer chooses a set that together reaches the most code. From that set, this function
/// takes short and long inputs alternately, as long as the corpus has room.
fn merge(program: &Path, target: &str) -> Result<(), String> {
    let (corpus, found) = (corpora().join(target), folder().join("corpus").join(target));
    let chosen = folder().join("chosen").join(target);
    let told = |error: std::io::Error| format!("{}: {error}", chosen.display());
    if chosen.exists() {
        fs::remove_dir_all(&chosen).map_err(told)?;
    }
    fs::create_dir_all(&chosen).map_err(told)?;
    let mut kept = files(&corpus)?;
    for (_, file) in &kept {
        fs::copy(file, chosen.join(file.file_name().unwrap_or_default())).map_err(told)?;
    }
    let mut command =
        run::command(program, &["-set_cover_merge=1", "-max_len=8192", "-verbosity=0"]);
    run::must(command.env("DRIVEBAY_FUZZ", target).arg(&chosen).arg(&found))?;

    let mut new = files(&chosen)?;
    new.retain(|(_, file)| !corpus.join(file.file_name().unwrap_or_default()).exists());
    let (offered, room, mut taken) = (new.len(), FILES.saturating_sub(kept.len()), 0);
    let mut bytes: u64 = kept.iter().map(|(len, _)| len).sum();
    for (len, file) in new.into_iter().step_by(offered.div_ceil(room.max(1)).max(1)) {
        if kept.len() >= FILES || bytes + len > BYTES {
            break;
        }
        fs::copy(&file, corpus.join(file.file_name().unwrap_or_default())).map_err(told)?;
        bytes += len;
        taken += 1;
        kept.push((len, file));
    }
    println!("{target}: {taken} of {offered} taken; {} files with {bytes} bytes", kept.len());
    Ok(())
}

/// The files of a folder with their lengths, the shortest first.
fn files(folder: &Path) -> Result<Vec<(u64, PathBuf)>, String> {
    let told = |error: std::io::Error| format!("{}: {error}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).map_err(told)? {
        let entry = entry.map_err(told)?;
        files.push((entry.metadata().map_err(told)?.len(), entry.path()));
    }
    files.sort();
    Ok(files)
}
