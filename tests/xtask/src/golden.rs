//! `cargo xtask golden`: builds the golden plugins, which every later host must load, as a vendor builds
//! plugins.
//!
//! The Rust ones come from the templates, the C ones from the SDK's examples. They are small, stripped, and
//! contain no path of this machine.

use crate::{Failure, Outcome, run};
use std::fs;
use std::path::{Path, PathBuf};

/// File in `tests/abi/golden` and example in `sdk/c/examples`.
const IN_C: [(&str, &str); 3] = [
    ("c_bdev.so", "ramdisk.c"),
    ("c_filter.so", "xor_filter.c"),
    ("c_transport.so", "unix_transport.c"),
];
/// Kinds of templates; the plugins are called `golden_<kind>`.
const IN_RUST: [&str; 3] = ["bdev", "filter", "transport"];
/// The maximum size of all files together, in bytes.
const LEN_MAX: u64 = 2 << 20;

pub(crate) fn main(args: &[&str]) -> Outcome {
    if let [other, ..] = args {
        return Err(Failure::usage("golden", other, "no argument"));
    }
    let golden = run::top().join("tests/abi/golden");
    for (file, source) in IN_C {
        in_c(&golden.join(file), source)?;
    }
    run::must(&mut run::cargo(&["build", "--workspace"]))?;
    for kind in IN_RUST {
        in_rust(&golden.join(format!("rust_{kind}.so")), kind)?;
    }
    let files = IN_C.iter().map(|(file, _)| (*file).to_owned());
    let files: Vec<String> = files.chain(IN_RUST.map(|kind| format!("rust_{kind}.so"))).collect();
    let mut len = 0;
    for file in files {
        let bytes = fs::read(golden.join(&file)).map_err(|error| format!("{file}: {error}"))?;
        check(&file, &bytes)?;
        println!("{:>8} bytes  {file}", bytes.len());
        len += bytes.len() as u64;
    }
    if len > LEN_MAX { Err(format!("{len} bytes; allowed: {LEN_MAX}").into()) } else { Ok(()) }
}

fn in_c(to: &Path, source: &str) -> Result<(), String> {
    let top = run::top();
    let flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Os", "-s"];
    run::must(
        run::command("cc", &flags)
            .arg(format!("-ffile-prefix-map={}=.", top.display()))
            .args(["-Wl,--build-id=none", "-I", "sdk/c", "-o"])
            .arg(to)
            .arg(format!("sdk/c/examples/{source}")),
    )
}

fn in_rust(to: &Path, kind: &str) -> Result<(), String> {
    let name = format!("golden_{kind}");
    let project = run::target().join("golden").join(&name);
    let context = |error: std::io::Error| format!("{}: {error}", project.display());
    if project.exists() {
        fs::remove_dir_all(&project).map_err(context)?;
    }
    let program = run::target().join("debug/drivebay");
    run::must(
        run::command(
            program,
            &["plugin", "new", &name, "--kind", kind, "--lang", "rust", "--sdk", "."],
        )
        .arg("--dir")
        .arg(&project),
    )?;
    fs::copy(run::top().join("Cargo.lock"), project.join("Cargo.lock")).map_err(context)?;
    let built = run::target().join("golden/build");
    run::must(
        run::cargo(&["build", "--quiet", "--release", "--offline"])
            .current_dir(&project)
            .env("CARGO_TARGET_DIR", &built)
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "z")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("RUSTFLAGS", remap()),
    )?;
    let library = built.join(format!("release/lib{name}.so"));
    fs::copy(&library, to).map(|_| ()).map_err(|error| format!("{}: {error}", library.display()))
}

/// This machine's folders and the names that replace them in the files.
fn folders() -> Vec<(PathBuf, &'static str)> {
    let home = std::env::var_os("HOME").map_or_else(|| PathBuf::from("/root"), PathBuf::from);
    let cargo = std::env::var_os("CARGO_HOME").map_or_else(|| home.join(".cargo"), PathBuf::from);
    // rustc uses the last match, so outer folders come before the folders that they contain.
    vec![(home, "/home"), (cargo, "/cargo"), (run::top(), "/drivebay"), (run::target(), "/build")]
}

/// The compiler options for [`folders`]. All projects use the same, so that they share built dependencies.
fn remap() -> String {
    let folders = folders();
    let flags =
        folders.iter().map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
    flags.collect::<Vec<String>>().join(" ")
}

/// Fails if the file contains a path of this machine.
fn check(file: &str, bytes: &[u8]) -> Result<(), String> {
    for (folder, _) in folders() {
        let folder = folder.to_string_lossy().into_owned() + "/";
        if bytes.windows(folder.len()).any(|part| part == folder.as_bytes()) {
            return Err(format!("{file} holds the path {folder}"));
        }
    }
    Ok(())
}
