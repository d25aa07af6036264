//! `drivebay NAME` runs the program `drivebay-NAME`, as git does: from beside this program, or from PATH.

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};

/// Replaces this process by the program that the first of `args` names, with the other `args` as its arguments. Returns only when that
/// fails.
pub fn run(args: &[OsString], err: &mut dyn Write) -> ExitCode {
    let Some((name, rest)) = args.split_first() else { return ExitCode::from(2) };
    let name = name.to_string_lossy();
    let why = match find(&name) {
        Some(program) => {
            let error = Command::new(&program).args(rest).exec();
            format!("{}: {error}", program.display())
        }
        None => format!(
            "unrecognized subcommand '{name}', and there is no program drivebay-{name} beside this one or on PATH; \
             'drivebay --help' lists the subcommands"
        ),
    };
    let _ = writeln!(err, "drivebay: {why}");
    ExitCode::from(2)
}

fn find(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return None;
    }
    let program = format!("drivebay-{name}");
    let beside = std::env::current_exe().ok()?.parent().map(PathBuf::from);
    let path = std::env::var_os("PATH");
    let folders = path.iter().flat_map(|path| std::env::split_paths::<OsStr>(path));
    beside
        .into_iter()
        .chain(folders)
        .map(|folder| folder.join(&program))
        .find(|file| file.is_file())
}
