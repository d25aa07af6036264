//! What a running host gives up, so that whoever takes it over gains less.
//!
//! | what | when | told as |
//! |---|---|---|
//! | new privileges, and system calls that no host makes | always | `seccomp` |
//! | files beyond its own | `--sandbox` | `landlock` |
//! | capabilities of root | `--sandbox` | `capabilities` |
//!
//! All of it holds for threads that are started later, so it comes first of all. `docs/security.md` says
//! against whom it helps.

mod capabilities;
mod landlock;
mod seccomp;

use crate::cli::Serve;
use crate::loader::search::Search;
use drivebay_core::env::runtime;
use std::path::{Path, PathBuf};

/// Confines this process; one line for the log for each thing done. Call it before any thread is started.
///
/// # Errors
/// What `--sandbox` asks for and the system does not give.
pub fn enter(options: &Serve) -> Result<Vec<String>, String> {
    let mut told = Vec::new();
    if options.sandbox.sandbox {
        told.push(landlock::restrict(&places(options)?)?);
        told.push(capabilities::drop_most()?);
    }
    // Last, and of no harm where a container forbids it: then its own filter is in force.
    told.push(seccomp::apply().unwrap_or_else(|why| format!("seccomp: not in force: {why}")));
    Ok(told)
}

/// The files of a host.
#[derive(Debug, Default)]
struct Places {
    read: Vec<PathBuf>,
    write: Vec<PathBuf>,
}

fn places(options: &Serve) -> Result<Places, String> {
    let mut places = Places::default();
    places.write.push(runtime::folder().map_err(|error| error.message().to_owned())?);
    for path in &options.sandbox.sandbox_path {
        let found = path.canonicalize();
        let why = |error| format!("--sandbox-path {}: {error}", path.display());
        places.write.push(found.map_err(why)?);
    }
    // Files that are replaced whole, and sockets: their folders are written.
    let in_folders = [&options.state, &options.rpc_socket, &options.log_file];
    places.write.extend(in_folders.into_iter().flatten().map(|path| folder_of(path)));
    places.write.extend(options.socket_dir.clone());
    places.write.extend(["/dev/null", "/dev/zero", "/dev/urandom"].map(PathBuf::from));
    places.read.extend(["/usr", "/lib", "/lib64", "/etc", "/proc", "/sys"].map(PathBuf::from));
    places.read.extend(Search::default_folders(&options.environment.plugin_dir));
    let loaded = options.environment.load.iter().filter(|name| name.contains('/'));
    places.read.extend(loaded.map(|path| folder_of(Path::new(path))));
    let files = [&options.config, &options.environment.plugin_policy];
    places.read.extend(files.into_iter().flatten().map(|path| folder_of(path)));
    Ok(places)
}

fn folder_of(path: &Path) -> PathBuf {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    folder.unwrap_or(Path::new(".")).to_owned()
}
