//! What the driver of NVMe controllers on PCIe costs an I/O, against a model of a controller: instructions, and writes of doorbells.
//!
//! `sdk/nvme/examples/ring_cost.rs` is the program. callgrind counts its functions that call the driver, and not the model.

use super::instructions::collected;
use super::{Bench, table};
use crate::run;
use std::process::Command;

/// Neither number depends on the load of the machine.
pub(super) fn print(_: &Bench) -> Result<(), String> {
    let package = ["-p", "drivebay-nvme-driver", "--features", "testing"];
    let build = ["build", "--release", "--example", "ring_cost"];
    run::must(&mut run::cargo(&[&build[..], &package[..]].concat()))?;
    table::begin(
        "The driver of NVMe controllers on PCIe, against a model",
        &["doorbells", "depth", "instructions per I/O", "writes of doorbells per I/O"],
    );
    for doorbells in ["registers", "shadow"] {
        for depth in ["1", "16", "32"] {
            let (instructions, writes) = count(doorbells, depth)?;
            let cells = [format!("{instructions:.1}"), format!("{writes:.4}")];
            table::row([doorbells, depth].into_iter().map(str::to_owned).chain(cells));
        }
    }
    Ok(())
}

fn count(doorbells: &str, depth: &str) -> Result<(f64, f64), String> {
    let program = run::target().join("release/examples/ring_cost");
    let mut valgrind = Command::new("valgrind");
    valgrind.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    valgrind.args(["--toggle-collect=*submit_all*", "--toggle-collect=*reap_all*"]);
    let output = valgrind.arg(program).args([doorbells, depth]).output();
    let output = output.map_err(|error| format!("valgrind: {error}"))?;
    let out = String::from_utf8_lossy(&output.stdout);
    let numbers: Vec<f64> = out.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match (numbers.as_slice(), collected(&String::from_utf8_lossy(&output.stderr))) {
        ([ios, writes], Some(instructions)) if *ios > 0.0 => Ok((instructions / ios, writes / ios)),
        _ => Err(format!("ring_cost said: {out}")),
    }
}
