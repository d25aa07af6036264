//! `drivebay plugin new`: starts a plugin's project outside of this repository.
//!
//! ```text
//! name, kind, language ─> templates (inside the program) ─> files with their words filled in ─> folder
//! ```

mod kind;
mod sdk;
mod templates;

pub use kind::{Kind, Lang};

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use templates::Template;

/// The longest name of a project, in bytes. The name becomes part of method names.
const NAME_LEN_MAX: usize = 40;

/// A project to write.
#[derive(Clone, Debug)]
pub struct Project {
    /// The name of the plugin.
    pub name: String,
    /// What the plugin does.
    pub kind: Kind,
    /// The language of the plugin.
    pub lang: Lang,
    /// The path of the SDK: unpacked crates or a source tree; for C a folder with the headers.
    /// Without it, a Rust project uses the SDK beside this program, and a C project gets copies of
    /// the headers.
    pub sdk: Option<PathBuf>,
}

/// What the original promises to the host. The new author decides whether the new plugin promises it, too.
const PROMISE: &str = ", unsafe(threads_move)";

/// One file to write.
#[derive(Clone, Debug, PartialEq, Eq)]
struct File {
    path: String,
    text: String,
    is_executable: bool,
}

impl Project {
    /// Writes the project into a folder that is empty or does not exist yet. If a check fails, it
    /// writes nothing.
    ///
    /// # Errors
    /// What is not allowed and what is allowed, or the system's error with the path.
    pub fn write(&self, folder: &Path) -> Result<(), String> {
        let files = self.files()?;
        let at = |path: &Path, error: std::io::Error| format!("{}: {error}", path.display());
        if fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_some()) {
            return Err(format!(
                "{}: the folder must be empty or must not exist yet",
                folder.display()
            ));
        }
        for file in files {
            let path = folder.join(&file.path);
            let parent = path.parent().unwrap_or(folder);
            fs::create_dir_all(parent).map_err(|error| at(parent, error))?;
            fs::write(&path, file.text).map_err(|error| at(&path, error))?;
            if file.is_executable {
                let mode = fs::Permissions::from_mode(0o755);
                fs::set_permissions(&path, mode).map_err(|error| at(&path, error))?;
            }
        }
        Ok(())
    }

    fn files(&self) -> Result<Vec<File>, String> {
        check_name(&self.name)?;
        let parts = templates::of(self.kind, self.lang)
            .ok_or("--kind: allowed in C: bdev, filter; the others are written in Rust")?;
        let (patch, sdk) = match (self.lang, &self.sdk) {
            (Lang::C, None) => (String::new(), "include".to_owned()),
            (Lang::Rust, None) => (sdk::patch(&sdk::beside_this_program()?)?, String::new()),
            (Lang::Rust, Some(path)) => (sdk::patch(path)?, String::new()),
            (Lang::C, Some(path)) => (String::new(), sdk::headers(path)?),
        };
        let mut templates: Vec<Template> = parts.concat();
        if self.lang == Lang::C && self.sdk.is_none() {
            templates.extend_from_slice(templates::C_HEADERS);
        }
        let words = [
            ("{{name}}", self.name.as_str()),
            ("{{NAME}}", &self.name.to_ascii_uppercase()),
            ("{{version}}", env!("CARGO_PKG_VERSION")),
            ("{{dependencies}}\n", templates::dependencies(self.kind)),
            ("{{patch}}\n", &patch),
            ("{{sdk}}", &sdk),
            ("{{calls}}", &self.calls()),
        ];
        Ok(templates.iter().map(|template| self.fill(template, &words)).collect())
    }

    fn fill(&self, template: &Template, words: &[(&str, &str)]) -> File {
        let fill = |text: &str| {
            words.iter().fold(text.to_owned(), |text, (word, with)| text.replace(word, with))
        };
        let mut text = fill(template.text);
        if let Some(original) = templates::original(self.kind, self.lang) {
            text = text.replace(original, &self.name).replace(PROMISE, "");
        }
        File { path: fill(template.path), text, is_executable: template.is_executable }
    }

    /// The calls that create the disk `D0`, for a test of a C plugin.
    fn calls(&self) -> String {
        let name = &self.name;
        match self.kind {
            Kind::Filter => format!(
                "\\\n\t\t--rpc 'bdev_malloc_create {{\"name\": \"M0\", \"num_blocks\": 65536, \"block_size\": 512}}' \\\n\
                 \t\t--rpc 'bdev_{name}_create {{\"name\": \"D0\", \"base_bdev_name\": \"M0\"}}'"
            ),
            _ => format!(
                "\\\n\t\t--rpc 'bdev_{name}_create {{\"name\": \"D0\", \"num_blocks\": 65536}}'"
            ),
        }
    }
}

/// A name must be valid in C and in Rust, in file names, and in method names.
fn check_name(name: &str) -> Result<(), String> {
    let mut letters = name.bytes();
    let begins = letters.next().is_some_and(|first| first.is_ascii_lowercase());
    let goes_on = letters.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
    if begins && goes_on && name.len() <= NAME_LEN_MAX && !NOT_NAMES.contains(&name) {
        return Ok(());
    }
    Err(format!(
        "NAME: {name:?} is not allowed; allowed: a lower-case letter, then up to {} of a-z, 0-9 and _, \
         and not a word of Rust",
        NAME_LEN_MAX - 1
    ))
}

/// Keywords of Rust and names of its standard crates. A crate must not have such a name.
const NOT_NAMES: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "drivebay_sdk",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "rustix",
    "self",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "where",
    "while",
    "yield",
];

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    fn project(name: &str, kind: Kind, lang: Lang) -> Project {
        Project { name: name.into(), kind, lang, sdk: None }
    }

    #[test]
    fn no_word_of_a_template_is_left_over() {
        for kind in Kind::value_variants() {
            for lang in Lang::value_variants() {
                let Ok(files) = project("acme", *kind, *lang).files() else {
                    assert_eq!(*lang, Lang::C);
                    continue;
                };
                for file in files.iter().filter(|file| !file.path.starts_with("include/")) {
                    let of_another = ["ramdisk", "passthru"].map(|name| file.text.contains(name));
                    assert_eq!(of_another, [false; 2], "{kind:?} {lang:?} {}", file.path);
                    assert!(!file.text.contains("{{n"), "{}", file.path);
                    assert!(!file.text.contains("unsafe("), "{}: a promise", file.path);
                }
            }
        }
    }

    #[test]
    fn a_name_that_is_no_word_everywhere_is_refused() {
        for name in ["", "a-b", "../x", "A", "1a", "_a", "type", "test", &"x".repeat(41)] {
            let error = project(name, Kind::Bdev, Lang::Rust).files().unwrap_err();
            assert!(error.starts_with("NAME: "), "{error}");
        }
        assert!(project("a1_b", Kind::Bdev, Lang::Rust).files().is_ok());
    }

    #[test]
    fn what_is_there_is_not_written_over() {
        let folder = tempfile::tempdir().unwrap();
        let acme = project("acme", Kind::Bdev, Lang::C);
        acme.write(&folder.path().join("new/acme")).unwrap();
        let error = acme.write(&folder.path().join("new/acme")).unwrap_err();
        assert!(error.contains("must be empty"), "{error}");
        acme.write(folder.path()).unwrap_err();
    }
}
