//! Load for an NVMe/TCP target from one core. See README.md.
#![forbid(unsafe_code)]

mod args;
mod connection;
mod latency;
mod load;
mod target;

use args::Args;
use connection::Connection;
use drivebay_nvme_driver::{Controller, Options};
use rustix::thread::CpuSet;
use std::error::Error;
use std::process::ExitCode;

/// Queues of one controller; more connections take more controllers.
const QUEUES: u16 = 64;

#[expect(clippy::print_stdout, reason = "the result is what the program is for")]
fn main() -> ExitCode {
    match Args::parse(std::env::args().skip(1)).map_err(Into::into).and_then(|args| run(&args)) {
        Ok(line) => {
            println!("{line}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("nvme-load: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> Result<String, Box<dyn Error>> {
    if let Some(core) = args.core {
        let mut set = CpuSet::new();
        set.set(core);
        rustix::thread::sched_setaffinity(None, &set)?;
    }
    let (mut controllers, mut connections) = (Vec::new(), Vec::new());
    while connections.len() < usize::from(args.connections) {
        let mut controller = Controller::connect(Options::new(args.address, &args.nqn))?;
        let namespace = controller.namespace(args.nsid)?;
        // One entry of a queue is never used.
        let depth = args.depth.min(controller.cap().mqes);
        let in_capsule_len = (controller.data().ioccsz * 16).saturating_sub(64);
        let granted = controller.set_queues(QUEUES)?;
        let args = &Args { depth, ..args.clone() };
        let missing = usize::from(args.connections) - connections.len();
        for qid in (1..=granted).take(missing) {
            let (cntlid, len) = (controller.cntlid(), in_capsule_len);
            connections.push(Connection::open(args, namespace, cntlid, qid, len)?);
        }
        controllers.push(controller);
    }
    let outcome = load::run(args, &mut connections)?;
    let (latencies, seconds) = (&outcome.latencies, outcome.elapsed.as_secs_f64());
    let ios = latencies.count();
    let us = |ns: u64| ns as f64 / 1000.0;
    Ok(format!(
        "{{\"ios\":{ios},\"iops\":{:.0},\"mean_us\":{:.1},\"p50_us\":{:.1},\"p99_us\":{:.1},\"p999_us\":{:.1},\
\"max_us\":{:.0},\"target_cpu_ns\":{},\"target_rss_kib\":{},\"failed\":{}}}",
        ios as f64 / seconds,
        us(latencies.mean_ns()),
        us(latencies.percentile_ns(500)),
        us(latencies.percentile_ns(990)),
        us(latencies.percentile_ns(999)),
        us(latencies.max_ns()),
        outcome.target_cpu_ns.checked_div(ios).unwrap_or(0),
        args.pid.map_or(0, target::resident_kib),
        outcome.failed,
    ))
}
