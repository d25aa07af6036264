//! Finds the SDK that `--sdk` means.

use std::fmt::Write;
use std::path::{Path, PathBuf};

/// The SDK's crates that every plugin needs, and the place of each in a source tree.
const CRATES: [(&str, &str); 4] = [
    ("drivebay-sdk", "sdk"),
    ("drivebay-plugin-api", "plugin-api"),
    ("drivebay-spec-errno", "sdk/spec/errno"),
    ("drivebay-spec-jsonrpc", "sdk/spec/jsonrpc"),
];

/// The maximum number of folders above the program that are searched:
/// `<tree>/target/<profile>/deps/<test>` needs the most.
const LEVELS_MAX: usize = 5;

/// The part of a `Cargo.toml` that takes the SDK's crates from a folder, which contains unpacked
/// packages (`drivebay-sdk-0.1.0` …) or a source tree.
///
/// # Errors
/// What the folder lacks.
pub(super) fn patch(folder: &Path) -> Result<String, String> {
    let folder = absolute(folder)?;
    let mut text = String::from("\n[patch.crates-io]\n");
    for (name, in_tree) in CRATES {
        let packaged = folder.join(format!("{name}-{}", env!("CARGO_PKG_VERSION")));
        let found = [packaged, folder.join(in_tree)];
        let found = found.iter().find(|path| path.join("Cargo.toml").is_file()).ok_or_else(|| {
            let (version, folder) = (env!("CARGO_PKG_VERSION"), folder.display());
            format!("--sdk: {folder} has neither {name}-{version}/Cargo.toml nor {in_tree}/Cargo.toml")
        })?;
        let path = toml_string(&found.to_string_lossy());
        // Writing to a `String` cannot fail.
        let _ = writeln!(text, "{name} = {{ path = {path} }}");
    }
    Ok(text)
}

/// The SDK in the source tree or the installation that this program belongs to.
///
/// # Errors
/// When there is none. The crates are in no registry, so a project could not be built without them.
pub(super) fn beside_this_program() -> Result<PathBuf, String> {
    let program = std::env::current_exe().and_then(|program| program.canonicalize());
    let program = program
        .map_err(|error| format!("--sdk: the folder of this program cannot be found: {error}"))?;
    beside(&program)
}

fn beside(program: &Path) -> Result<PathBuf, String> {
    let above = program.ancestors().skip(1).take(LEVELS_MAX);
    let places =
        above.flat_map(|folder| ["", "share/drivebay/sdk"].map(|place| folder.join(place)));
    places.into_iter().find(|folder| patch(folder).is_ok()).ok_or_else(|| {
        format!(
            "--sdk: give the folder of the SDK's crates: a source tree of Drivebay, or unpacked packages; \
             there are none beside {}, and no registry has them",
            program.display()
        )
    })
}

/// The text of `bay_abi.h`, from the given folder or from its place in a source tree or an
/// installation.
///
/// # Errors
/// When none of these places has it.
pub(super) fn headers(folder: &Path) -> Result<String, String> {
    let folder = absolute(folder)?;
    let places = ["", "sdk/c", "include/drivebay"].map(|place| folder.join(place));
    let found = places.iter().find(|place| place.join("bay_abi.h").is_file());
    let found = found.ok_or_else(|| format!("--sdk: {} has no bay_abi.h", folder.display()))?;
    Ok(found.to_string_lossy().trim_end_matches('/').to_owned())
}

fn absolute(folder: &Path) -> Result<PathBuf, String> {
    folder.canonicalize().map_err(|error| format!("--sdk: {}: {error}", folder.display()))
}

fn toml_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_tree_and_unpacked_packages_are_found() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        assert!(patch(&tree).unwrap().contains("/sdk/spec/jsonrpc\" }"));
        assert!(headers(&tree).unwrap().ends_with("/sdk/c"));
        let folder = tempfile::tempdir().unwrap();
        for (name, _) in CRATES {
            let unpacked = folder.path().join(format!("{name}-{}", env!("CARGO_PKG_VERSION")));
            std::fs::create_dir(&unpacked).unwrap();
            std::fs::write(unpacked.join("Cargo.toml"), "").unwrap();
        }
        assert!(patch(folder.path()).unwrap().contains("drivebay-plugin-api = { path = \""));
    }

    #[test]
    fn the_sdk_beside_the_program_is_found_and_without_one_the_flag_is_named() {
        let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").canonicalize().unwrap();
        assert_eq!(beside(&tree.join("target/debug/drivebay")).unwrap(), tree.join(""));
        let folder = tempfile::tempdir().unwrap();
        let error = beside(&folder.path().join("bin/drivebay")).unwrap_err();
        assert!(error.starts_with("--sdk: give the folder"), "{error}");
        for (name, _) in CRATES {
            let crate_name = format!("{name}-{}", env!("CARGO_PKG_VERSION"));
            let unpacked = folder.path().join("share/drivebay/sdk").join(crate_name);
            std::fs::create_dir_all(&unpacked).unwrap();
            std::fs::write(unpacked.join("Cargo.toml"), "").unwrap();
        }
        let found = beside(&folder.path().join("bin/drivebay")).unwrap();
        assert!(found.ends_with("share/drivebay/sdk"), "{}", found.display());
    }

    #[test]
    fn what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        assert!(patch(folder.path()).unwrap_err().contains("drivebay-sdk-"));
        assert!(headers(folder.path()).unwrap_err().contains("bay_abi.h"));
        assert!(patch(Path::new("/nonexistent")).unwrap_err().starts_with("--sdk: /nonexistent"));
    }
}
