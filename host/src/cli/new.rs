//! `drivebay plugin new`.

use crate::project::{Kind, Lang, Project};
use clap::Args;
use std::path::PathBuf;

/// Flags of `drivebay plugin new`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
In C there are templates for the kinds bdev and filter. Without --sdk, a Rust project uses the SDK beside this program, and a C project gets copies of its headers.
example: drivebay plugin new acme --kind bdev --lang c && cd acme && ./check")]
pub struct New {
    /// Name of the plugin: a-z, 0-9 and _
    pub name: String,
    /// What the plugin does
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// The language of the plugin
    #[arg(long, value_enum)]
    pub lang: Lang,
    /// Folder to write; must be empty or not exist yet [default: the name]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Path of the SDK: unpacked crates, a source tree, or for C a folder of headers
    #[arg(long, value_name = "PATH")]
    pub sdk: Option<PathBuf>,
}

impl New {
    /// Writes the project. Returns the text to print.
    ///
    /// # Errors
    /// What is not allowed or what failed.
    pub fn run(self) -> Result<String, String> {
        let Self { name, kind, lang, dir, sdk } = self;
        let dir = dir.unwrap_or_else(|| PathBuf::from(&name));
        Project { name, kind, lang, sdk }.write(&dir)?;
        let dir = dir.display();
        Ok(format!("{dir}: read README.md; {dir}/check builds, tests and checks it\n"))
    }
}
