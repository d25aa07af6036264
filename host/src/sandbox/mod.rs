//! The rights that a running host gives up, so that an attacker who takes it over gains less.
//!
//! | right | when | log line |
//! |---|---|---|
//! | new privileges, and system calls that no host needs | always | `seccomp` |
//! | files beyond its own | `--sandbox` | `landlock` |
//! | capabilities of root | `--sandbox` | `capabilities` |
//!
//! Each of these also applies to threads that are started later, so this runs first. `docs/security.md` says which attackers this stops.

mod capabilities;
mod landlock;
mod seccomp;

use crate::cli::Serve;
use crate::loader::search::Search;
use drivebay_core::env::runtime;
use std::path::{Path, PathBuf};

/// Confines this process. Returns one log line for each restriction. Must run before any thread is
/// started.
///
/// # Errors
/// A restriction of `--sandbox` that the system does not provide.
pub fn enter(options: &Serve) -> Result<Vec<String>, String> {
    let mut told = Vec::new();
    if options.sandbox.sandbox {
        told.push(landlock::restrict(&places(options)?)?);
        told.push(capabilities::drop_most()?);
    }
    // Install the filter last. If a container forbids it, the container has a filter of its own.
    told.push(seccomp::apply().unwrap_or_else(|why| format!("seccomp: not active: {why}")));
    Ok(told)
}

/// The files that a host uses.
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
    // These are files that are replaced as a whole, and sockets, so the host writes to their
    // folders.
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
