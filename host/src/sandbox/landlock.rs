//! The files that a host may use, enforced by the kernel's Landlock (Linux 5.13).

use super::places::Places;
use landlock::{
    ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus,
    path_beneath_rules,
};

/// The rights to control: those of Linux 6.2, including truncation. An older kernel controls those
/// that it knows.
const RIGHTS: ABI = ABI::V3;

/// Restricts this thread, and the threads that it starts, to the files below `places`. Places that
/// do not exist are left out.
///
/// # Errors
/// The kernel has no Landlock, or the kernel's error.
pub(super) fn restrict(places: &Places) -> Result<String, String> {
    let status = enforce(places).map_err(|error| format!("--sandbox: Landlock: {error}"))?;
    if status == RulesetStatus::NotEnforced {
        return Err(
            "--sandbox: this kernel has no Landlock, or it is off (lsm=landlock)".to_owned()
        );
    }
    let list = |paths: &[std::path::PathBuf]| {
        let there = paths.iter().filter(|path| path.exists());
        there.map(|path| path.display().to_string()).collect::<Vec<_>>().join(" ")
    };
    let (read, write) = (list(&places.read), list(&places.write));
    Ok(format!("landlock: files are read below {read}, and written below {write}"))
}

fn enforce(places: &Places) -> Result<RulesetStatus, RulesetError> {
    let (all, read) = (AccessFs::from_all(RIGHTS), AccessFs::from_read(RIGHTS));
    let ruleset = Ruleset::default()
        .handle_access(all)?
        .create()?
        .add_rules(path_beneath_rules(&places.read, read))?
        .add_rules(path_beneath_rules(&places.write, all))?;
    Ok(ruleset.restrict_self()?.ruleset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_what_is_named_is_read_and_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["read", "write", "other"] {
            fs::create_dir(path(name)).unwrap();
            fs::write(path(name).join("file"), "text").unwrap();
        }
        let places = Places { read: vec![path("read")], write: vec![path("write")] };
        let root = folder.path().to_owned();
        // Landlock applies to the thread that requests it.
        let confined = std::thread::spawn(move || {
            restrict(&places).unwrap();
            let read = |name: &str| fs::read_to_string(root.join(name).join("file")).is_ok();
            let write = |name: &str| fs::write(root.join(name).join("file"), "new").is_ok();
            assert_eq!(["read", "write", "other"].map(read), [true, true, false]);
            assert_eq!(["read", "write", "other"].map(write), [false, true, false]);
        });
        confined.join().unwrap();
    }
}
