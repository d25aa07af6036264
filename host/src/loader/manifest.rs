//! The manifest: the description of a plugin in its note, which is read before any of its code
//! runs.

use super::error::{Error, Result};
use semver::{Version, VersionReq};
use serde::{Deserialize, Serialize};

/// The longest manifest, in bytes.
pub const MANIFEST_LEN_MAX: usize = 64 * 1024;
/// The maximum number of entries of one list in the manifest.
const LIST_MAX: usize = 1024;
/// The longest name or entry of a list, in bytes.
const NAME_LEN_MAX: usize = 128;

/// A parsed manifest. Members that this host does not know are ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The name: lower-case letters, digits, `-` and `_`.
    pub name: String,
    /// The version of the plugin.
    pub version: Version,
    /// The kind, such as `bdev`, `filter`, `target` or `transport`.
    #[serde(default)]
    pub kind: String,
    /// The ABI major and minor that it was compiled with.
    pub abi: (u16, u16),
    /// The oldest ABI minor of a host that it can run on.
    #[serde(default)]
    pub needs_minor: u16,
    /// What a panic does in it: `unwind` or `abort`.
    #[serde(default)]
    pub panic: String,
    /// The programming language.
    #[serde(default)]
    pub lang: String,
    /// Who makes it, as text for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub vendor: String,
    /// Its license, as an SPDX expression if there is one.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub license: String,
    /// The names of its bdev modules.
    #[serde(default)]
    pub modules: Vec<String>,
    /// What the plugin provides, which makes the host load it on demand: `rpc:METHOD`,
    /// `nvmf.transport/TCP`, an interface id. `rpc.startup:METHOD` in addition means that the
    /// method is called before the initialization. `rpc.last:METHOD` means that a configuration
    /// calls the method after all others, because it lets clients in.
    #[serde(default)]
    pub provides: Vec<String>,
    /// What must be present before it is loaded: an interface id, or a plugin's name with an
    /// optional version requirement (`nvmf ^1.2`).
    #[serde(default)]
    pub requires: Vec<String>,
    /// The permissions that it requests.
    #[serde(default)]
    pub permissions: Vec<String>,
}

/// One entry of `requires`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Requirement {
    /// Something that a plugin provides: an interface id, `rpc:METHOD`, `nvmf.transport/TCP`.
    Provision(String),
    /// A plugin by name, with a version that fits.
    Plugin(String, VersionReq),
}

impl Manifest {
    /// Whether hosts outside reach disks through it.
    #[must_use]
    pub fn serves_hosts(&self) -> bool {
        matches!(self.kind.as_str(), "target" | "transport")
    }

    /// Parses the text of a manifest note.
    ///
    /// # Errors
    /// What is wrong, with the name of the member.
    pub fn parse(text: &str) -> Result<Self> {
        let bad = |message: String| Error::new(libc::EINVAL, format!("manifest: {message}"));
        if text.len() > MANIFEST_LEN_MAX {
            return Err(bad(format!("{} bytes; at most {MANIFEST_LEN_MAX}", text.len())));
        }
        let manifest: Self = serde_json::from_str(text).map_err(|e| bad(e.to_string()))?;
        if !is_plugin_name(&manifest.name) {
            return Err(bad(format!(
                "name {:?} must be 1 to 64 lower-case letters, digits, `-` or `_`",
                manifest.name
            )));
        }
        for (member, text) in [("vendor", &manifest.vendor), ("license", &manifest.license)] {
            if text.len() > NAME_LEN_MAX || text.chars().any(char::is_control) {
                let message = format!("{member} must be at most {NAME_LEN_MAX} bytes on one line");
                return Err(bad(message));
            }
        }
        for (member, list) in [
            ("modules", &manifest.modules),
            ("provides", &manifest.provides),
            ("requires", &manifest.requires),
            ("permissions", &manifest.permissions),
        ] {
            if list.len() > LIST_MAX {
                let len = list.len();
                return Err(bad(format!("{member} has {len} entries; at most {LIST_MAX}")));
            }
            if let Some(entry) = list.iter().find(|entry| !is_entry(entry)) {
                return Err(bad(format!(
                    "{member}: {entry:?} must be 1 to {NAME_LEN_MAX} printable ASCII characters"
                )));
            }
        }
        manifest.requirements().map_err(|e| bad(e.to_string()))?;
        Ok(manifest)
    }

    /// Whether it can be loaded for `provision`.
    #[must_use]
    pub fn provides(&self, provision: &str) -> bool {
        self.provides.iter().any(|p| p == provision)
    }

    /// The RPC methods that it provides.
    pub fn methods(&self) -> impl Iterator<Item = &str> {
        self.provides.iter().filter_map(|p| p.strip_prefix("rpc:"))
    }

    /// Whether a method is called before the initialization, not after it.
    #[must_use]
    pub fn is_for_startup(&self, method: &str) -> bool {
        self.provides.iter().any(|p| p.strip_prefix("rpc.startup:") == Some(method))
    }

    /// The parsed entries of `requires`.
    ///
    /// # Errors
    /// The entry whose version requirement is not valid.
    pub fn requirements(&self) -> Result<Vec<Requirement>> {
        self.requires.iter().map(|entry| parse_requirement(entry)).collect()
    }
}

fn parse_requirement(entry: &str) -> Result<Requirement> {
    if entry.contains('/') || entry.starts_with("rpc:") {
        return Ok(Requirement::Provision(entry.to_owned()));
    }
    let (name, version) = entry.split_once(' ').unwrap_or((entry, "*"));
    let version = VersionReq::parse(version)
        .map_err(|e| Error::new(libc::EINVAL, format!("requires: {entry:?}: {e}")))?;
    Ok(Requirement::Plugin(name.to_owned(), version))
}

/// Names of plugins become parts of file names, so the rules are strict.
fn is_plugin_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    !name.is_empty() && name.len() <= 64 && !name.starts_with('-') && name.bytes().all(allowed)
}

fn is_entry(entry: &str) -> bool {
    (1..=NAME_LEN_MAX).contains(&entry.len()) && entry.bytes().all(|b| (b' '..=b'~').contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn unknown_members_are_ignored_and_missing_lists_are_empty() {
        let manifest =
            Manifest::parse(r#"{"name":"malloc","version":"1.2.3","abi":[1,0],"new":true}"#);
        let manifest = manifest.unwrap();
        assert_eq!(manifest.version, Version::new(1, 2, 3));
        assert!(manifest.provides.is_empty());
    }

    #[test]
    fn a_name_that_could_leave_the_folder_is_refused() {
        for name in ["", "../x", "a/b", "A", "-x", &"x".repeat(65)] {
            let text = format!(r#"{{"name":"{name}","version":"1.0.0","abi":[1,0]}}"#);
            let error = Manifest::parse(&text).unwrap_err();
            assert!(error.message().contains("lower-case"), "{name}: {error}");
        }
    }

    #[test]
    fn a_version_that_is_not_semver_is_refused_by_name() {
        let error = Manifest::parse(r#"{"name":"x","version":"1","abi":[1,0]}"#).unwrap_err();
        assert!(error.message().starts_with("manifest: "), "{error}");
    }

    #[test]
    fn requirements_are_ids_or_names_with_versions() {
        let manifest = Manifest::parse(
            r#"{"name":"x","version":"1.0.0","abi":[1,0],"requires":["bay.nvmf_target/1","nvmf ^1.2","aio"]}"#,
        )
        .unwrap();
        assert_eq!(
            manifest.requirements().unwrap(),
            [
                Requirement::Provision("bay.nvmf_target/1".into()),
                Requirement::Plugin("nvmf".into(), VersionReq::parse("^1.2").unwrap()),
                Requirement::Plugin("aio".into(), VersionReq::STAR),
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_a_manifest_or_refused(
            text in "(?s).{0,300}",
            place in 0_usize..120,
            piece in "[\"{}\\[\\],:0-9a-z.-]{0,4}",
        ) {
            let _ = Manifest::parse(&text);
            let mut near = r#"{"name":"x","version":"1.0.0","abi":[1,0],"provides":["rpc:a"],"requires":["nvmf ^1.2"],"license":"MIT"}"#.to_owned();
            near.insert_str(place.min(near.len()), &piece);
            if let Ok(manifest) = Manifest::parse(&near) {
                prop_assert!(manifest.requirements().is_ok(), "{near}");
            }
        }
    }
}
