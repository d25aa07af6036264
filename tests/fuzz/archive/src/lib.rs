//! The inputs of the fuzz targets. They lie in `tests/fuzz`:
//!
//! ```text
//! corpus/TARGET.tar.gz   inputs that together reach much code; `cargo xtask fuzz --merge` writes the archive
//! corpus/TARGET/NAME     inputs that somebody added since; the next merge moves them into the archive
//! crashes/TARGET/NAME    inputs that once failed, each named after what it is; they stay files
//! ```
#![forbid(unsafe_code)]

mod format;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Inputs of one target, by name.
pub type Inputs = BTreeMap<String, Vec<u8>>;

const SUFFIX: &str = ".tar.gz";

/// The inputs of all targets. Errors name the path.
#[derive(Clone, Debug)]
pub struct Corpora {
    folder: PathBuf,
}

impl Corpora {
    /// Those of `folder`, which is `tests/fuzz` of a work tree.
    #[must_use]
    pub fn new(folder: &Path) -> Self {
        Self { folder: folder.to_owned() }
    }

    /// The names of the targets that have inputs, sorted.
    ///
    /// # Errors
    /// A folder that cannot be read.
    pub fn targets(&self) -> Result<Vec<String>, String> {
        let mut names = BTreeSet::new();
        for kind in ["corpus", "crashes"] {
            for path in entries(&self.folder.join(kind))? {
                let name = name_of(&path);
                names.insert(name.strip_suffix(SUFFIX).unwrap_or(&name).to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Every input of a target, with those that once failed.
    ///
    /// # Errors
    /// A file that cannot be read; a name that two inputs have.
    pub fn all(&self, target: &str) -> Result<Inputs, String> {
        let mut inputs = self.corpus(target)?;
        add(&mut inputs, files(&self.folder.join("crashes").join(target))?)?;
        Ok(inputs)
    }

    /// The inputs of a target, without those that once failed.
    ///
    /// # Errors
    /// As [`Self::all`].
    pub fn corpus(&self, target: &str) -> Result<Inputs, String> {
        let mut inputs = self.archived(target)?;
        add(&mut inputs, files(&self.loose(target))?)?;
        Ok(inputs)
    }

    /// Makes `inputs` the corpus of a target: writes the archive, if it would differ, and removes the files
    /// beside it.
    ///
    /// # Errors
    /// A file that cannot be written or removed.
    pub fn store(&self, target: &str, inputs: &Inputs) -> Result<(), String> {
        let (archive, loose) = (self.archive(target), self.loose(target));
        if self.archived(target)? != *inputs {
            let bytes = format::pack(inputs).map_err(|error| at(&archive, &error))?;
            fs::write(&archive, bytes).map_err(|error| at(&archive, &error))?;
        }
        remove(&loose)
    }

    fn archived(&self, target: &str) -> Result<Inputs, String> {
        let path = self.archive(target);
        match fs::read(&path) {
            Ok(bytes) => format::unpack(&bytes).map_err(|error| at(&path, &error)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Inputs::new()),
            Err(error) => Err(at(&path, &error)),
        }
    }

    fn archive(&self, target: &str) -> PathBuf {
        self.folder.join("corpus").join(format!("{target}{SUFFIX}"))
    }

    fn loose(&self, target: &str) -> PathBuf {
        self.folder.join("corpus").join(target)
    }
}

/// Makes `folder` contain `inputs`, a file each, and nothing else.
///
/// # Errors
/// A file that cannot be written or removed.
pub fn write_files(folder: &Path, inputs: &Inputs) -> Result<(), String> {
    remove(folder)?;
    fs::create_dir_all(folder).map_err(|error| at(folder, &error))?;
    for (name, bytes) in inputs {
        let path = folder.join(name);
        fs::write(&path, bytes).map_err(|error| at(&path, &error))?;
    }
    Ok(())
}

/// The files of a folder. A folder that does not exist has none.
///
/// # Errors
/// A file that cannot be read.
pub fn files(folder: &Path) -> Result<Inputs, String> {
    let read = |path: PathBuf| match fs::read(&path) {
        Ok(bytes) => Ok((name_of(&path), bytes)),
        Err(error) => Err(at(&path, &error)),
    };
    entries(folder)?.into_iter().map(read).collect()
}

fn add(inputs: &mut Inputs, others: Inputs) -> Result<(), String> {
    for (name, bytes) in others {
        if inputs.get(&name).is_some_and(|known| *known != bytes) {
            return Err(format!("{name}: two inputs have this name; rename one"));
        }
        inputs.insert(name, bytes);
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, String> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(|error| at(folder, &error))?,
    };
    entries.map(|entry| Ok(entry.map_err(|error| at(folder, &error))?.path())).collect()
}

fn remove(folder: &Path) -> Result<(), String> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(folder, &error)),
        _ => Ok(()),
    }
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

fn at(path: &Path, error: &io::Error) -> String {
    format!("{}: {error}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(pairs: &[(&str, &[u8])]) -> Inputs {
        pairs.iter().map(|(name, bytes)| ((*name).to_owned(), bytes.to_vec())).collect()
    }

    #[test]
    fn storing_moves_loose_inputs_into_the_archive_and_leaves_crashes_alone() {
        let folder = tempfile::tempdir().unwrap();
        let corpora = Corpora::new(folder.path());
        write_files(&folder.path().join("corpus/a"), &inputs(&[("one", b"1")])).unwrap();
        write_files(&folder.path().join("crashes/a"), &inputs(&[("end", b"2")])).unwrap();
        corpora.store("a", &corpora.corpus("a").unwrap()).unwrap();
        assert!(!folder.path().join("corpus/a").exists());
        assert_eq!(corpora.targets().unwrap(), ["a"]);
        assert_eq!(corpora.corpus("a").unwrap(), inputs(&[("one", b"1")]));
        assert_eq!(corpora.all("a").unwrap(), inputs(&[("end", b"2"), ("one", b"1")]));
    }

    #[test]
    fn two_inputs_with_one_name_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let corpora = Corpora::new(folder.path());
        corpora_with(folder.path(), &corpora);
        let error = corpora.corpus("a").unwrap_err();
        assert!(error.starts_with("one: "), "{error}");
    }

    fn corpora_with(folder: &Path, corpora: &Corpora) {
        fs::create_dir_all(folder.join("corpus")).unwrap();
        corpora.store("a", &inputs(&[("one", b"1")])).unwrap();
        write_files(&folder.join("corpus/a"), &inputs(&[("one", b"other")])).unwrap();
    }

    #[test]
    fn the_committed_archives_are_as_a_merge_writes_them() {
        let corpora = Corpora::new(&Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
        let mut archives = 0;
        for target in corpora.targets().unwrap() {
            let Ok(bytes) = fs::read(corpora.archive(&target)) else { continue };
            let again = format::pack(&corpora.archived(&target).unwrap()).unwrap();
            // Another version of the compressor may compress better.
            assert_eq!(format::tar(&bytes).unwrap(), format::tar(&again).unwrap(), "{target}");
            archives += 1;
        }
        assert!(archives > 0);
    }
}
