//! The Drivebay storage server.
#![forbid(unsafe_code)]

use clap::{CommandFactory, Parser};
use drivebay::cli::{Cli, Command, Plugin};
use drivebay::loader::report;
use drivebay::{app, perf, rpc};
use serde_json::json;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (io::stdout(), io::stderr());
    match cli.command {
        Command::Serve(options) => app::serve(&options),
        Command::Rpc(request) => rpc::command::run(&request, &mut out, &mut err).into(),
        Command::Perf(options) => perf::perf(&options, &mut out, &mut err),
        Command::Plugin(command) => plugin(command, &mut out, &mut err),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "drivebay", &mut script);
            // A closed pipe is the reader's choice.
            let _ = out.write_all(&script);
            ExitCode::SUCCESS
        }
    }
}

fn plugin(command: Plugin, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let (text, exit) = match command {
        Plugin::List { plugin_dir, json } => {
            let list = report::list(&plugin_dir);
            let text = if json { format!("{:#}\n", json!(list)) } else { report::list_text(&list) };
            (text, ExitCode::SUCCESS)
        }
        Plugin::New(new) => match new.run() {
            Ok(text) => (text, ExitCode::SUCCESS),
            Err(why) => {
                let _ = writeln!(err, "drivebay plugin new: {why}");
                return ExitCode::FAILURE;
            }
        },
        Plugin::Inspect { file, json } => match report::inspect(&file) {
            Ok(inspection) => {
                let text = if json {
                    format!("{:#}\n", report::inspection_json(&inspection))
                } else {
                    report::inspection_text(&inspection)
                };
                (text, u8::from(!inspection.refusals.is_empty()).into())
            }
            Err(not) => {
                let _ = writeln!(err, "drivebay plugin: {}: {}", file.display(), not.0);
                return ExitCode::FAILURE;
            }
        },
    };
    let _ = out.write_all(text.as_bytes());
    exit
}
