//! `cargo xtask docs`: generates docs/rpc from the declarations of the methods.
//!
//! The task starts a host with all plugins of this tree and asks it for its methods. It calls every
//! example of the reference, so no example can be wrong. An example that needs more than a host is
//! not called, and its page says so. [`examples`] makes the calls, [`pages`] the text.

mod examples;
mod pages;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use drivebay_spec_jsonrpc::Method;
use serde_json::{Value, json};

use crate::host::Host;
use crate::tally::Tally;
use crate::{Failure, Outcome, run};

/// The text of each file, by file name.
type Files = BTreeMap<String, String>;

pub(crate) fn main(args: &[&str]) -> Outcome {
    let only_checks = match args {
        [] => false,
        ["--check"] => true,
        [other, ..] => return Err(Failure::usage("docs", other, "--check")),
    };
    run::must(&mut run::cargo(&["build", "--workspace"]))?;
    let built = run::target().join("debug");
    if only_checks {
        let tally = check(&built)?;
        println!("{tally}");
        return if tally.failed == 0 { Ok(()) } else { Err(Failure::Counted) };
    }
    let (folder, files) = (folder(), generate(&built)?);
    let failed = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
    fs::create_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    for name in committed(&folder).keys().filter(|name| !files.contains_key(*name)) {
        fs::remove_file(folder.join(name)).map_err(|error| failed(&folder.join(name), error))?;
    }
    for (name, text) in &files {
        fs::write(folder.join(name), text).map_err(|error| failed(&folder.join(name), error))?;
    }
    println!("docs: {} files in {}", files.len(), folder.display());
    Ok(())
}

/// Compares the generated files with the committed ones. Each file counts as one test.
pub(crate) fn check(built: &Path) -> Result<Tally, String> {
    let (mut wanted, committed) = (generate(built)?, committed(&folder()));
    for name in committed.keys() {
        wanted.entry(name.clone()).or_default();
    }
    let mut tally = Tally::default();
    for (name, text) in &wanted {
        if committed.get(name) == Some(text) {
            tally.passed += 1;
        } else {
            println!("FAILED docs/rpc/{name} is not what `cargo xtask docs` makes");
            tally.failed += 1;
        }
    }
    Ok(tally)
}

fn generate(built: &Path) -> Result<Files, String> {
    let plugins = plugins();
    let mut flags = vec!["--wait-for-rpc", "--silence-noticelog"];
    for plugin in &plugins {
        flags.extend(["--load", plugin]);
    }
    let mut host = Host::start(built, "docs", &flags)?;
    let methods = methods(&host)?;
    let examples = examples::call_all(&host, built, &methods)?;
    host.wait_for_its_end()?;
    pages::make(&methods, &examples)
}

/// The methods of the host and of the plugins that it loaded, by name.
fn methods(host: &Host) -> Result<Vec<Method>, String> {
    let document = host.answer("rpc.discover", &json!({}))?;
    let listed = document.get("methods").and_then(Value::as_array);
    let names = listed.into_iter().flatten().filter_map(|method| method.get("name"));
    names
        .map(|name| {
            let text = host.answer("rpc_describe", &json!({"method": name}))?.to_string();
            Method::parse(&text).map_err(|error| format!("{name}: {error}"))
        })
        .collect()
}

/// The plugins of this tree: the names of their folders.
fn plugins() -> Vec<String> {
    let below = |folder: PathBuf| {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        entries.map(|entry| entry.path()).filter(|path| path.is_dir()).collect::<Vec<_>>()
    };
    let kinds = below(run::top().join("plugins"));
    let folders = kinds.into_iter().flat_map(below).filter(|path| path.join("Cargo.toml").exists());
    let mut names: Vec<String> =
        folders.filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned())).collect();
    names.sort();
    names
}

fn folder() -> PathBuf {
    run::top().join("docs/rpc")
}

fn committed(folder: &Path) -> Files {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let text = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        Some((name, fs::read_to_string(entry.path()).ok()?))
    };
    entries.filter_map(text).collect()
}
