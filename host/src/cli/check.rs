//! `drivebay plugin check`.

use clap::Args;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// Flags of `drivebay plugin check`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
exit code: 0 nothing failed, 1 something failed, 2 wrong usage, or the file is not a plugin that can be checked
what each check asks: docs/plugin-guide/conformance.md")]
pub struct Check {
    /// The file of the plugin
    pub file: PathBuf,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Run only checks whose name contains TEXT
    #[arg(long, value_name = "TEXT")]
    pub only: Option<String>,
    /// Parameters of the method that creates a bdev; they override those that the check finds, null
    /// removes one
    #[arg(long, value_name = "JSON", value_parser = object)]
    pub params: Option<Map<String, Value>>,
    /// Seed of all random choices
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Run more I/O and more rounds, which takes longer
    #[arg(long)]
    pub long: bool,
    /// Folder to search first for what the plugin requires; may be given several times
    #[arg(long, value_name = "DIR")]
    pub plugin_dir: Vec<PathBuf>,
    /// Run this check in this process, and report to the supervisor.
    #[arg(long, value_name = "NAME", hide = true)]
    pub child: Vec<String>,
    /// The folder for the child's files.
    #[arg(long, value_name = "DIR", hide = true)]
    pub child_folder: Option<PathBuf>,
}

fn object(text: &str) -> Result<Map<String, Value>, String> {
    match serde_json::from_str(text) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err("allowed: a JSON object".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}
