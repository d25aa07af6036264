//! The Drivebay storage server.
#![forbid(unsafe_code)]

use clap::{CommandFactory, Parser};
use drivebay::cli::{Cli, Command, Plugin};
use drivebay::loader::report;
use drivebay::loader::trust::Policy;
use drivebay::loader::trust::key::{KeyFolder, PrivateKey};
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
    match plugin_text(command) {
        Ok((text, is_good)) => {
            // A closed pipe is the reader's choice.
            let _ = out.write_all(text.as_bytes());
            u8::from(!is_good).into()
        }
        Err(why) => {
            let _ = writeln!(err, "drivebay plugin: {why}");
            ExitCode::FAILURE
        }
    }
}

/// What a command has to say, and whether it is good news.
fn plugin_text(command: Plugin) -> Result<(String, bool), String> {
    match command {
        Plugin::List { plugin_dir, plugin_policy, json } => {
            let policy = plugin_policy.as_deref().map(Policy::read).transpose();
            let list = report::list(&plugin_dir, policy.map_err(told)?.unwrap_or_default());
            let text = if json { format!("{:#}\n", json!(list)) } else { report::list_text(&list) };
            Ok((text, true))
        }
        Plugin::Inspect { file, json } => {
            let inspection =
                report::inspect(&file).map_err(|not| format!("{}: {}", file.display(), not.0))?;
            let text = if json {
                format!("{:#}\n", report::inspection_json(&inspection))
            } else {
                report::inspection_text(&inspection)
            };
            Ok((text, inspection.refusals.is_empty()))
        }
        Plugin::Keygen { file } => {
            let key = PrivateKey::generate(&file).map_err(told)?;
            Ok((report::keygen_text(&file, &key.fingerprint()), true))
        }
        Plugin::Sign { key, files } => {
            let key = PrivateKey::read(&key).map_err(told)?;
            report::sign(&files, &key).map(|text| (text, true)).map_err(told)
        }
        Plugin::Verify { keys, files } => report::verify(&files, &KeyFolder(keys)).map_err(told),
    }
}

fn told(error: impl std::fmt::Display) -> String {
    error.to_string()
}
