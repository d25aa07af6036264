//! The Drivebay storage server.
#![forbid(unsafe_code)]

use clap::Parser;
use drivebay::cli::{Cli, Command, Plugin};
use drivebay::loader::report;
use drivebay::loader::search::inspect_to_load;
use drivebay::loader::trust::Policy;
use drivebay::loader::trust::key::{KeyFolder, PrivateKey};
use drivebay::{app, check, external, lvol, pci, perf, rpc_command};
use serde_json::json;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (mut out, mut err) = (io::stdout(), io::stderr());
    match cli.command {
        Command::Serve(options) => app::serve(&options),
        Command::Rpc(options) => rpc_command::run(&options, &mut out, &mut err).into(),
        Command::Perf(options) => perf::perf(&options, &mut out, &mut err),
        Command::Lvol(command) => lvol::lvol(&command, &mut out, &mut err),
        Command::Pci(command) => pci::pci(&command, &mut out, &mut err),
        Command::Plugin(command) => plugin(command, &mut out, &mut err),
        Command::Other(args) => external::run(&args, &mut err),
        Command::Completions { shell } => {
            let mut script = Vec::new();
            let mut command = Cli::completed_with(rpc_command::method_names());
            clap_complete::generate(shell, &mut command, "drivebay", &mut script);
            // The reader may close the pipe.
            let _ = out.write_all(&script);
            ExitCode::SUCCESS
        }
    }
}

fn plugin(command: Plugin, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let printed = match command {
        Plugin::Check(options) => return check::check(&options, out, err),
        Plugin::New(new) => new.run().map(|text| (text, true)).map_err(|why| format!("new: {why}")),
        Plugin::List { plugin_dir, plugin_policy, json } => list(&plugin_dir, plugin_policy, json),
        Plugin::Inspect { file, json } => inspect(&file, json),
        Plugin::Keygen { file } => PrivateKey::generate(&file)
            .map(|key| (report::keygen_text(&file, &key.fingerprint()), true))
            .map_err(text_of),
        Plugin::Sign { key, files } => PrivateKey::read(&key)
            .and_then(|key| report::sign(&files, &key))
            .map(|text| (text, true))
            .map_err(text_of),
        Plugin::Verify { keys, files } => report::verify(&files, &KeyFolder(keys)).map_err(text_of),
    };
    match printed {
        Ok((text, is_good)) => {
            // The reader may close the pipe.
            let _ = out.write_all(text.as_bytes());
            u8::from(!is_good).into()
        }
        Err(why) => {
            let _ = writeln!(err, "drivebay plugin: {why}");
            ExitCode::FAILURE
        }
    }
}

/// The output of a command, and whether it succeeded.
type Printed = Result<(String, bool), String>;

fn list(folders: &[PathBuf], policy: Option<PathBuf>, json: bool) -> Printed {
    let policy = policy.as_deref().map(Policy::read).transpose().map_err(text_of)?;
    let list = report::list(folders, policy.unwrap_or_default());
    let text = if json { format!("{:#}\n", json!(list)) } else { report::list_text(&list) };
    Ok((text, true))
}

fn inspect(file: &Path, json: bool) -> Printed {
    let inspection = inspect_to_load(file).map_err(|not| format!("{}: {not}", file.display()))?;
    let text = if json {
        format!("{:#}\n", report::inspection_json(&inspection))
    } else {
        report::inspection_text(&inspection)
    };
    Ok((text, inspection.refusals.is_empty()))
}

/// The text of an error.
fn text_of(error: impl std::fmt::Display) -> String {
    error.to_string()
}
