//! Instructions per I/O, counted by callgrind.

use super::case::{self, CASES, Case, DEPTHS};
use crate::run;
use std::process::Command;

/// I/O of the two runs whose difference counts.
const SHORT: u64 = 20_000;
const LONG: u64 = 120_000;

pub(super) fn print() -> Result<(), String> {
    if !run::succeeds(Command::new("valgrind").arg("--version")) {
        println!("\ninstructions per I/O: skipped, valgrind is not installed");
        return Ok(());
    }
    println!("\ninstructions per 4 KiB I/O, the generator's own included\n");
    print!("{:30}", "");
    DEPTHS.iter().for_each(|depth| print!(" {:>12}", format!("depth {depth}")));
    println!();
    for case in &CASES {
        print!("{:30}", case.name);
        for depth in DEPTHS {
            let per_io =
                (count(case, depth, LONG)? - count(case, depth, SHORT)?) / (LONG - SHORT) as f64;
            print!(" {per_io:>12.0}");
        }
        println!();
    }
    Ok(())
}

/// All instructions of a run of `ios` I/O.
fn count(case: &Case, depth: u32, ios: u64) -> Result<f64, String> {
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]).arg(case::program());
    valgrind.args(case.arguments(depth)).args(["-n", &ios.to_string()]);
    let output = valgrind.output().map_err(|error| format!("valgrind: {error}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("{}: {}: {text}", case.name, output.status));
    }
    collected(&text).ok_or_else(|| format!("{}: callgrind told no count: {text}", case.name))
}

/// The number in `==1== Collected : 123`.
fn collected(text: &str) -> Option<f64> {
    let line = text.lines().find(|line| line.contains("Collected :"))?;
    line.rsplit(' ').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_stands_in_callgrinds_last_words() {
        let text = "==7== \n==7== Events    : Ir\n==7== Collected : 110240441\n==7== \n";
        assert_eq!(collected(text), Some(110_240_441.0));
        assert_eq!(collected("==7== Events : Ir"), None);
    }
}
