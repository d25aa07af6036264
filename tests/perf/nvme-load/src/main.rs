//! `nvme-load`: I/O over NVMe/TCP with our own initiator, and idle connections.
//!
//! ```text
//! plan ─> links (controllers and their queues) ─> one driver a thread ─> report on standard output
//! ```
#![forbid(unsafe_code)]

mod driver;
mod links;
mod plan;
mod report;

use links::Links;
use plan::Plan;
use std::io::Read;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match Plan::parse(&args).and_then(|plan| run(&plan)) {
        Ok(text) => {
            tell(&text);
            ExitCode::SUCCESS
        }
        Err(why) => {
            eprintln!("nvme-load: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(plan: &Plan) -> Result<String, String> {
    let mut links = Links::open(plan)?;
    tell("connected");
    if plan.hold || plan.wait {
        // Wait until the parent process sends a byte or closes the pipe.
        let _ = std::io::stdin().read(&mut [0]);
    }
    if plan.hold {
        return Ok(String::new());
    }
    let queues = links.busy(plan)?;
    let plan = Plan { depth: links.depth, ..plan.clone() };
    let report = driver::run(&plan, queues, links.namespace)?;
    Ok(report.json())
}

#[expect(clippy::print_stdout, reason = "a command line program: its output is what it is for")]
fn tell(text: &str) {
    println!("{text}");
}
