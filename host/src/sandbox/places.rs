//! The files that a host uses.

use crate::cli::Serve;
use crate::loader::search::Search;
use drivebay_core::env::runtime;
use std::path::{Path, PathBuf};

/// The files that a host uses.
#[derive(Debug, Default)]
pub(super) struct Places {
    pub(super) read: Vec<PathBuf>,
    pub(super) write: Vec<PathBuf>,
}

pub(super) fn of(options: &Serve) -> Result<Places, String> {
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
