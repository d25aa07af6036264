//! The operator's policy for plugins, a JSON file (`--plugin-policy`):
//!
//! ```json
//! {
//!   "signatures": "require",
//!   "keys": "/etc/drivebay/keys",
//!   "allow": ["malloc", "nvmf", "nvmf-tcp", "acme-disk"],
//!   "deny": ["null"],
//!   "least_versions": {"acme-disk": "1.4.0"},
//!   "grants": [{"plugin": "acme-disk", "key": "<fingerprint>", "permissions": ["pci"]}]
//! }
//! ```
//!
//! Every member may be left out. Without a policy, every plugin in a folder that only root and the
//! host's user can write to may be loaded, and gets all permissions that it requests.

use super::super::error::{Error, Result};
use super::super::inspect::Inspection;
use super::super::manifest::Manifest;
use super::key::{Fingerprint, KeyFolder};
use super::owner;
use super::signature::{Verdict, sidecar_path, verify};
use semver::Version;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The longest policy file, in bytes.
const FILE_LEN_MAX: u64 = 1 << 20;
/// The permissions. Each gives access to the interface `bay.<permission>/1`.
pub const PERMISSIONS: [&str; 2] = ["pci", "key"];

/// What the policy requires of a plugin's signature.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Signatures {
    /// Nothing. Signatures are not read.
    #[default]
    Off,
    /// A missing or unknown signature is logged. A bad one forbids the load.
    Warn,
    /// A plugin is only loaded if a trusted key signed it.
    Require,
}

/// The operator's policy. The default has no rules beyond owner and mode.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What is required of signatures.
    #[serde(default)]
    pub signatures: Signatures,
    /// The folder of trusted keys; by default `keys` beside the policy file.
    #[serde(default)]
    pub keys: Option<PathBuf>,
    /// The names of the only plugins that may be loaded.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// The names of plugins that may not be loaded, even if `allow` contains them.
    #[serde(default)]
    pub deny: Vec<String>,
    /// The oldest versions that may be loaded, by plugin name. They exclude a version with a known
    /// fault, whose signature is still good.
    #[serde(default)]
    pub least_versions: BTreeMap<String, Version>,
    /// The only permissions that plugins get.
    #[serde(default)]
    pub grants: Option<Vec<GrantRule>>,
}

/// Permissions for one plugin.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrantRule {
    /// The name of the plugin.
    plugin: String,
    /// The fingerprint of the key that must have signed it; without it, any key or none.
    #[serde(default)]
    key: Option<String>,
    /// The permissions that the plugin gets, as far as it requests them.
    permissions: Vec<String>,
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// The file cannot be read, other users may write it, or a member is wrong.
    pub fn read(file: &Path) -> Result<Self> {
        let refused = |errno, why: String| Error::new(errno, format!("{}: {why}", file.display()));
        let io = |e: std::io::Error| Error::of_file("read", file, &e);
        let metadata = fs::metadata(file).map_err(io)?;
        owner::check_file(file, &metadata)?;
        owner::check_folders(file)?;
        if metadata.len() > FILE_LEN_MAX {
            return Err(refused(libc::EFBIG, format!("more than {FILE_LEN_MAX} bytes")));
        }
        let text = fs::read_to_string(file).map_err(io)?;
        let mut policy = Self::parse(&text).map_err(|e| refused(e.errno(), e.to_string()))?;
        let beside = file.parent().unwrap_or(Path::new(".")).join("keys");
        policy.keys.get_or_insert(beside);
        Ok(policy)
    }

    /// Parses the text of a policy file.
    ///
    /// # Errors
    /// The member that is wrong.
    pub fn parse(text: &str) -> Result<Self> {
        let mut policy: Self =
            serde_json::from_str(text).map_err(|e| Error::new(libc::EINVAL, e.to_string()))?;
        policy.check()?;
        Ok(policy)
    }

    /// Checks every member, and converts keys to the form in which they are compared.
    fn check(&mut self) -> Result<()> {
        for rule in self.grants.iter_mut().flatten() {
            if let Some(key) = &mut rule.key {
                *key = Fingerprint::parse(key)
                    .map_err(|e| Error::new(e.errno(), format!("grants: key {key:?}: {e}")))?
                    .to_string();
            }
            if let Some(unknown) = rule.permissions.iter().find(|p| !is_permission(p)) {
                let message =
                    format!("grants: permission {unknown:?}; allowed: {}", PERMISSIONS.join(", "));
                return Err(Error::new(libc::EINVAL, message));
            }
        }
        Ok(())
    }

    /// Whether a plugin of this name and version may be loaded.
    ///
    /// # Errors
    /// `EPERM` with the member that forbids it.
    pub fn check_manifest(&self, manifest: &Manifest) -> Result<()> {
        self.check_name(&manifest.name)?;
        match self.least_versions.get(&manifest.name) {
            Some(least) if manifest.version < *least => {
                let found = &manifest.version;
                let message = format!(
                    "version {found}; the plugin policy's `least_versions` requires {least} or later"
                );
                Err(Error::new(libc::EPERM, message))
            }
            _ => Ok(()),
        }
    }

    /// Whether the lists `allow` and `deny` let a plugin of this name be loaded.
    ///
    /// # Errors
    /// `EPERM` with the list that forbids it.
    pub fn check_name(&self, name: &str) -> Result<()> {
        if self.deny.iter().any(|denied| denied == name) {
            return Err(Error::new(libc::EPERM, "the plugin policy's list `deny` names it"));
        }
        if self.allow.as_ref().is_some_and(|allow| !allow.iter().any(|allowed| allowed == name)) {
            return Err(Error::new(libc::EPERM, "it is not in the plugin policy's list `allow`"));
        }
        Ok(())
    }

    /// Checks where the dynamic loader looks for the libraries that a plugin needs. A signature
    /// does not cover these libraries, so with `require` they may only come from the system's
    /// folders.
    ///
    /// # Errors
    /// `EPERM` with the folder or library that is not trusted.
    pub fn check_libraries(&self, inspection: &Inspection) -> Result<()> {
        let folders: Vec<&str> =
            inspection.runpath.iter().flat_map(|list| list.split(':')).collect();
        let by_path = inspection.needed.iter().find(|name| name.contains('/'));
        if self.signatures == Signatures::Require
            && let Some(place) = folders.first().copied().or(by_path.map(String::as_str))
        {
            let message = format!(
                "it makes the dynamic loader look for libraries at {place}, which no signature covers; with `signatures: require` a plugin must have neither DT_RUNPATH nor paths in DT_NEEDED"
            );
            return Err(Error::new(libc::EPERM, message));
        }
        let in_folders = folders
            .iter()
            .flat_map(|folder| inspection.needed.iter().map(|name| Path::new(folder).join(name)));
        for library in in_folders.chain(by_path.map(PathBuf::from)) {
            if let Ok(metadata) = fs::metadata(&library) {
                owner::check_file(&library, &metadata)?;
                owner::check_folders(&library)?;
            }
        }
        Ok(())
    }

    /// Checks the signature of the staged copy of the plugin at `path`. Returns the key if a
    /// trusted key signed it.
    ///
    /// # Errors
    /// `EPERM` with what is wrong with the signature, and what is required.
    pub fn check_signature(&self, path: &Path, staged: &Path) -> Result<Option<Fingerprint>> {
        if self.signatures == Signatures::Off {
            return Ok(None);
        }
        let keys = KeyFolder(self.keys.clone().unwrap_or_default());
        let verdict = verify(staged, &sidecar_path(path), &keys)?;
        if let Verdict::Good { key, .. } = &verdict {
            tracing::info!(path = %path.display(), "{verdict}");
            return Ok(Some(key.clone()));
        }
        if self.signatures == Signatures::Warn && !verdict.is_bad() {
            tracing::warn!(path = %path.display(), "{verdict}; the policy lets it load with this warning");
            return Ok(None);
        }
        let message = format!(
            "{verdict}; the plugin policy requires a signature by a key in {}",
            keys.0.display()
        );
        Err(Error::new(libc::EPERM, message))
    }

    /// Returns those of the requested permissions that the policy grants to the plugin.
    #[must_use]
    pub fn granted(&self, manifest: &Manifest, signer: Option<&Fingerprint>) -> Vec<String> {
        let signer = signer.map(Fingerprint::to_string);
        let gives = |permission: &str| match &self.grants {
            None => true,
            Some(rules) => rules.iter().any(|rule| {
                rule.plugin == manifest.name
                    && (rule.key.is_none() || rule.key == signer)
                    && rule.permissions.iter().any(|p| p == permission)
            }),
        };
        let wanted = manifest.permissions.iter().filter(|p| is_permission(p));
        wanted.filter(|permission| gives(permission)).cloned().collect()
    }
}

fn is_permission(text: &str) -> bool {
    PERMISSIONS.contains(&text)
}

/// The permission that an interface requires; `None` = every plugin may use it.
#[must_use]
pub fn permission_for(interface: &str) -> Option<&'static str> {
    let name = interface.strip_prefix("bay.")?;
    let name = name.strip_prefix("draft.").unwrap_or(name);
    let (name, _) = name.split_once('/')?;
    PERMISSIONS.into_iter().find(|permission| *permission == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(text: &str) -> Result<Policy> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plugins.json");
        fs::write(&file, text).unwrap();
        Policy::read(&file)
    }

    fn manifest(name: &str) -> Manifest {
        let text = format!(
            r#"{{"name":"{name}","version":"1.0.0","abi":[1,0],"permissions":["pci","key","fly"]}}"#
        );
        Manifest::parse(&text).unwrap()
    }

    #[test]
    fn names_are_allowed_and_denied() {
        let policy = policy(r#"{"allow":["a","b"],"deny":["b"]}"#).unwrap();
        policy.check_name("a").unwrap();
        assert!(policy.check_name("b").unwrap_err().message().contains("`deny`"));
        assert!(policy.check_name("c").unwrap_err().message().contains("`allow`"));
        Policy::default().check_name("c").unwrap();
    }

    #[test]
    fn permissions_are_those_wanted_and_granted() {
        let key = "aB".repeat(32); // The digits of a key are not case-sensitive.
        let text = format!(
            r#"{{"grants":[{{"plugin":"a","key":"{key}","permissions":["pci"]}},{{"plugin":"a","permissions":["key"]}}]}}"#
        );
        let policy = policy(&text).unwrap();
        let signer = Fingerprint::parse(&key).unwrap();
        assert_eq!(policy.granted(&manifest("a"), Some(&signer)), ["pci", "key"]);
        assert_eq!(policy.granted(&manifest("a"), None), ["key"]);
        assert!(policy.granted(&manifest("b"), Some(&signer)).is_empty());
        assert_eq!(Policy::default().granted(&manifest("a"), None), ["pci", "key"]);
    }

    #[test]
    fn versions_before_the_least_one_are_refused() {
        let of = |text: &str| policy(text).unwrap().check_manifest(&manifest("a"));
        of(r#"{"least_versions":{"a":"1.0.0","b":"2.0.0"}}"#).unwrap();
        let error = of(r#"{"least_versions":{"a":"1.0.1"}}"#).unwrap_err();
        assert_eq!(error.errno(), libc::EPERM);
        assert!(
            error
                .message()
                .contains("version 1.0.0; the plugin policy's `least_versions` requires 1.0.1"),
            "{error}"
        );
    }

    #[test]
    fn libraries_come_from_where_no_other_user_can_put_one() {
        let folder = tempfile::tempdir().unwrap();
        let library = folder.path().join("libx.so");
        fs::write(&library, "").unwrap();
        let of = |runpath: &[&str], needed: &str| Inspection {
            runpath: runpath.iter().map(|path| (*path).to_owned()).collect(),
            needed: vec!["libc.so.6".to_owned(), needed.to_owned()],
            ..Inspection::default()
        };
        let place = format!("/nonexistent:{}", folder.path().display());
        let (off, require) = (Policy::default(), policy(r#"{"signatures":"require"}"#).unwrap());
        let system = of(&[], "libm.so.6");
        off.check_libraries(&system).unwrap();
        require.check_libraries(&system).unwrap();
        for inspection in [of(&[&place], "libx.so"), of(&[], &library.to_string_lossy())] {
            off.check_libraries(&inspection).unwrap();
            assert_eq!(require.check_libraries(&inspection).unwrap_err().errno(), libc::EPERM);
        }
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o666);
        fs::set_permissions(&library, everybody).unwrap();
        for inspection in [of(&[&place], "libx.so"), of(&[], &library.to_string_lossy())] {
            let error = off.check_libraries(&inspection).unwrap_err();
            assert!(error.message().contains("libx.so: has mode 0666"), "{error}");
        }
    }

    #[test]
    fn a_policy_that_others_may_replace_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("plugins.json");
        fs::write(&file, "{}").unwrap();
        Policy::read(&file).unwrap();
        let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
        fs::set_permissions(folder.path(), everybody).unwrap();
        let error = Policy::read(&file).unwrap_err();
        assert!(error.message().contains("has mode 0777"), "{error}");
    }

    #[test]
    fn a_wrong_member_is_named() {
        for (text, part) in [
            (r#"{"sign":"off"}"#, "unknown field `sign`"),
            (r#"{"signatures":"maybe"}"#, "unknown variant `maybe`"),
            (r#"{"grants":[{"plugin":"a","permissions":["fly"]}]}"#, "allowed: pci, key"),
            (r#"{"grants":[{"plugin":"a","key":"xy","permissions":[]}]}"#, "64 hexadecimal digits"),
        ] {
            let error = policy(text).unwrap_err();
            assert!(error.message().contains(part), "{error}");
        }
    }

    #[test]
    fn a_permission_opens_its_interface_and_its_draft() {
        assert_eq!(permission_for("bay.pci/1"), Some("pci"));
        assert_eq!(permission_for("bay.draft.key/1"), Some("key"));
        assert_eq!(permission_for("bay.bdev/1"), None);
    }
}
