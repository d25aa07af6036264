//! `cargo xtask door`: counts instructions per I/O through the function table of a plugin, and through a direct call
//! that is not inlined.
//!
//! One program, `tests/abi/door/door.c`, has both loops, and callgrind counts them in one run.

use crate::{Failure, Outcome, run};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The maximum that the door may add to an I/O, in instructions.
const ALLOWED: f64 = 10.0;
/// Number of I/O in each loop.
const IOS: u64 = 100_000;

/// A plugin: its file, the call that creates a bdev, and an op that it completes at once.
struct Case {
    name: &'static str,
    plugin: PathBuf,
    method: &'static str,
    params: &'static str,
    op: &'static str,
    direct: Direct,
}

/// The code of the direct call: the plugin's own code, without the door.
#[derive(Clone, Copy)]
enum Direct {
    /// Completes the I/O with a status that depends on the op.
    Null,
    /// Completes the I/O in the same way, and counts it in the channel.
    Counted,
}

impl Direct {
    /// The name that the program expects, and the name of its loop.
    fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::Null => ("null", "call_directly"),
            Self::Counted => ("counted", "call_directly_and_count"),
        }
    }
}

pub(crate) fn main(args: &[&str]) -> Outcome {
    if let [other, ..] = args {
        return Err(Failure::usage("door", other, "no argument"));
    }
    if !run::succeeds(Command::new("valgrind").arg("--version")) {
        return Err("valgrind is not installed".to_owned().into());
    }
    let folder = run::target().join("door");
    std::fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    run::must(&mut run::cargo(&[
        "build",
        "--release",
        "--package",
        "drivebay-null",
        "--package",
        "drivebay-counted",
    ]))?;
    let c = folder.join("ramdisk.so");
    cc(&c, "sdk/c/examples/ramdisk.c", &["-shared", "-fPIC"])?;
    let program = folder.join("door");
    cc(&program, "tests/abi/door/door.c", &["-ldl"])?;
    let cases = [
        Case {
            name: "C (ramdisk, flush)",
            plugin: c,
            method: "bdev_ramdisk_create",
            params: r#"{"name":"d","num_blocks":8}"#,
            op: "3",
            direct: Direct::Null,
        },
        Case {
            name: "Rust (null, read)",
            plugin: run::target().join("release/libdrivebay_null.so"),
            method: "bdev_null_create",
            params: r#"{"name":"d","num_blocks":8,"block_size":512}"#,
            op: "1",
            direct: Direct::Null,
        },
        Case {
            name: "Rust (counted, read)",
            plugin: run::target().join("release/libdrivebay_counted.so"),
            method: "bdev_counted_create",
            params: r#"{"name":"d","num_blocks":8,"block_size":512}"#,
            op: "1",
            direct: Direct::Counted,
        },
    ];
    println!("\ninstructions per I/O      direct     door   difference");
    let mut is_within = true;
    for case in cases {
        let (direct, door) = count(&program, &case, &folder)?;
        println!("{:24}{direct:>8.1} {door:>8.1} {:>12.1}", case.name, door - direct);
        is_within &= door - direct <= ALLOWED;
    }
    if is_within { Ok(()) } else { Err(format!("allowed: {ALLOWED} more").into()) }
}

fn cc(to: &Path, source: &str, flags: &[&str]) -> Result<(), String> {
    run::must(
        run::command(
            "cc",
            &["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-I", "sdk/c", "-o"],
        )
        .arg(to)
        .arg(source)
        .args(flags),
    )
}

/// Instructions per I/O of the two loops.
fn count(program: &Path, case: &Case, folder: &Path) -> Result<(f64, f64), String> {
    let counts = folder.join("callgrind.out");
    let (direct, its_loop) = case.direct.names();
    let output = Command::new("valgrind")
        .arg("--tool=callgrind")
        .arg(format!("--callgrind-out-file={}", counts.display()))
        .arg(program)
        .arg(&case.plugin)
        .args([case.method, case.params, case.op, &IOS.to_string(), direct])
        .output()
        .map_err(|error| format!("valgrind: {error}"))?;
    if !output.status.success() {
        return Err(format!("{}: {}", case.name, String::from_utf8_lossy(&output.stderr)));
    }
    let annotated = Command::new("callgrind_annotate")
        .args(["--inclusive=yes", "--threshold=100"])
        .arg(&counts)
        .output()
        .map_err(|error| format!("callgrind_annotate: {error}"))?;
    let text = String::from_utf8_lossy(&annotated.stdout);
    let of = |function: &str| {
        inclusive(&text, function).ok_or_else(|| format!("{}: no count of {function}", case.name))
    };
    Ok((of(its_loop)? / IOS as f64, of("call_through_the_door")? / IOS as f64))
}

/// The count in `1,234 (56.7%)  door.c:function [door]`.
fn inclusive(text: &str, function: &str) -> Option<f64> {
    let wanted = format!(":{function}");
    let is_of = |line: &&str| {
        line.split_whitespace()
            .any(|word| word.ends_with(&wanted) || word.contains(&format!("{wanted}'")))
    };
    let line = text.lines().find(is_of)?;
    line.split_whitespace().next()?.replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_of_a_function_is_found_among_others() {
        let text = "Ir\n 12,345 (99.0%)  ???:call_directly [/x/door]\n  1,000 (8.0%)  ???:call_directly_not [/x/door]";
        assert_eq!(inclusive(text, "call_directly"), Some(12_345.0));
        assert_eq!(inclusive(text, "call"), None);
    }
}
