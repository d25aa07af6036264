//! The plugins of this tree keep the promise `unsafe(threads_move)`: nothing in them belongs to an OS thread.
#![allow(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

/// What makes a value belong to an OS thread. Each is a piece of source text.
const TIED_TO_A_THREAD: [&str; 4] = ["thread_local!", "ThreadRng", "thread_rng()", "rand::rng()"];

/// Files that plugins are made of, and that may have thread-local state, with the reason.
const ALLOWED: [(&str, &str); 1] =
    [("sdk/src/log.rs", "the last panic, from its hook to the end of the same call")];

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().unwrap()
}

/// The Rust files in a folder and the folders in it, without tests and test doubles.
fn files(folder: &Path, into: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let is_test = ["tests", "tests.rs", "testing", "testing.rs", "target"].contains(&&*name);
        if path.is_dir() && !is_test {
            files(&path, into);
        } else if name.ends_with(".rs") && !is_test {
            into.push(path);
        }
    }
}

#[test]
fn no_code_of_a_plugin_is_tied_to_an_os_thread() {
    let (top, mut all) = (top(), Vec::new());
    for folder in ["sdk", "plugins"] {
        files(&top.join(folder), &mut all);
    }
    let mut tied = Vec::new();
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        let relative = path.strip_prefix(&top).unwrap().to_string_lossy().into_owned();
        let is_allowed = ALLOWED.iter().any(|(allowed, _)| *allowed == relative);
        // Tests of a file stand at its end.
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut code = code.lines().filter(|line| !line.trim_start().starts_with("//"));
        let is_tied = code.any(|line| TIED_TO_A_THREAD.iter().any(|tie| line.contains(tie)));
        if is_tied && !is_allowed {
            tied.push(relative);
        }
    }
    assert!(tied.is_empty(), "unsafe(threads_move) does not hold: {tied:?}");
}
