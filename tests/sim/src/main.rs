//! `drivebay-sim --seed N [--seeds COUNT] [--ios N]`: simulates seeds, starting with N.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "a command line program: its output is what it is for")]

use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let (mut first, mut count, mut ios) = (1, 1, 5_000);
    let mut args = std::env::args().skip(1);
    while let Some(name) = args.next() {
        let value = args.next().and_then(|text| text.parse::<u64>().ok());
        match (name.as_str(), value) {
            ("--seed", Some(value)) => first = value,
            ("--seeds", Some(value)) => count = value,
            ("--ios", Some(value)) => ios = value,
            _ => {
                eprintln!("drivebay-sim --seed N [--seeds COUNT] [--ios N]");
                return ExitCode::from(2);
            }
        }
    }
    let began = Instant::now();
    let total = drivebay_sim::run_all(first..first + count, ios);
    println!("{count} seeds from {first} on, {total} I/O, {:.1} s", began.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
