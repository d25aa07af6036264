//! `drivebay perf`: a host for one measurement.
//!
//! ```text
//! -c, --rpc ─> the host's start ─> bdevs ─> drivebay_core::load ─> report
//! ```
#![forbid(unsafe_code)]

mod report;

use crate::app;
use crate::cli::Perf;
use crate::config::{self, Document, Halt, Section};
use drivebay_core::env::CpuSet;
use drivebay_core::reactor;
use drivebay_core::{bdev, load};
use serde_json::json;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// Runs the measurement and prints its report.
pub fn perf(options: &Perf, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let result = document(options).and_then(|document| {
        app::run_once(&options.host(), document, |stop| measure(options, stop))
    });
    let (text, failures) = match result {
        Ok(results) if options.json => {
            (format!("{:#}\n", report::json(options, &results)), report::failures(&results))
        }
        Ok(results) => (report::text(&results), report::failures(&results)),
        Err(Halt::Stopped) => (String::new(), vec!["stopped before it started".to_owned()]),
        Err(Halt::Failed(why)) => (String::new(), vec![why]),
    };
    // The reader may close the pipe.
    let _ = out.write_all(text.as_bytes());
    for failure in &failures {
        let _ = writeln!(err, "drivebay perf: {failure}");
    }
    u8::from(!failures.is_empty()).into()
}

/// The calls of the configuration, then those of the command line.
fn document(options: &Perf) -> Result<Document, Halt> {
    let mut document = match &options.config {
        Some(path) => config::read("--config", path).map_err(Halt::Failed)?,
        None => Document::default(),
    };
    let calls = options.rpc.iter();
    document.subsystems.push(Section {
        subsystem: "--rpc".to_owned(),
        config: Some(
            calls.map(|(method, params)| json!({"method": method, "params": params})).collect(),
        ),
    });
    Ok(document)
}

fn measure(options: &Perf, stop: &Arc<AtomicBool>) -> Result<load::Results, Halt> {
    let mut bdevs = options.bdevs.clone();
    if bdevs.is_empty() {
        bdevs = bdev::all().iter().map(|bdev| bdev.name.clone()).collect();
    }
    if bdevs.is_empty() {
        let why = "there is no disk; create one with --rpc or -c";
        return Err(Halt::Failed(why.to_owned()));
    }
    let first = reactor::all().first().map_or(0, |reactor| reactor.core);
    let plan = load::Plan {
        bdevs,
        cores: options.environment.cpumask.clone().unwrap_or_else(|| CpuSet::one(first)),
        pattern: options.load_pattern(),
        depth: options.depth,
        io_size: options.io_size,
        limit: options.limit(),
        warm_up: options.warm_up,
        verify: options.verify,
        null_loop: options.null_loop,
        copy_loop: options.copy_loop,
    };
    load::run(&plan, stop).map_err(|error| Halt::Failed(error.message().to_owned()))
}
