//! `drivebay plugin new`.

use crate::project::{Kind, Lang, Project};
use clap::Args;
use std::path::PathBuf;

/// Flags of `drivebay plugin new`.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
C has bdev and filter. Without --sdk a project in Rust takes the SDK beside this program, one in C brings its headers along.
example: drivebay plugin new acme --kind bdev --lang c && cd acme && ./check")]
pub struct New {
    /// Name of the plugin: a-z, 0-9 and _
    pub name: String,
    /// What it is
    #[arg(long, value_enum)]
    pub kind: Kind,
    /// What it is written in
    #[arg(long, value_enum)]
    pub lang: Lang,
    /// Folder to write, empty or not there yet [default: the name]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Where the SDK is: unpacked crates, a source tree, or for C a folder of headers
    #[arg(long, value_name = "PATH")]
    pub sdk: Option<PathBuf>,
}

impl New {
    /// Writes the project; what to tell of it.
    ///
    /// # Errors
    /// What is not allowed or went wrong.
    pub fn run(self) -> Result<String, String> {
        let Self { name, kind, lang, dir, sdk } = self;
        let dir = dir.unwrap_or_else(|| PathBuf::from(&name));
        Project { name, kind, lang, sdk }.write(&dir)?;
        let dir = dir.display();
        Ok(format!("{dir}: read README.md; {dir}/check builds, tests and checks it\n"))
    }
}
