//! The signature of a plugin's file: `<file>.sig` beside it.
//!
//! ```json
//! {"format": "drivebay-signature-1", "key": "<fingerprint>", "signature": "<128 hexadecimal digits>"}
//! ```
//!
//! It is an Ed25519 signature of all bytes of the file. It contains the key's fingerprint, so that
//! the host can distinguish an unknown key from a changed file.

use super::super::error::{Error, Result};
use super::key::{Fingerprint, KeyFolder, PrivateKey, Standing, from_hex, hex};
use super::owner::open;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

const FORMAT: &str = "drivebay-signature-1";
/// The longest signature file, in bytes.
const SIDECAR_LEN_MAX: u64 = 4096;
/// The largest file that can be signed, in bytes; it is read into memory.
const FILE_LEN_MAX: u64 = 256 << 20;

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Sidecar {
    format: String,
    key: String,
    signature: String,
}

/// The result of the check of a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// A trusted key signed these bytes.
    Good {
        /// The name of the key's file.
        name: String,
        /// The fingerprint of the key.
        key: Fingerprint,
    },
    /// There is no signature file.
    Missing,
    /// The key that signed is not trusted.
    UnknownKey(Fingerprint),
    /// The key that signed was revoked.
    RevokedKey(String),
    /// The named key did not make this signature for these bytes.
    Wrong(String),
    /// The signature file cannot be parsed.
    Malformed(String),
}

impl Verdict {
    /// Whether the check forbids the load even when unsigned plugins are allowed: the key was revoked, or the signature is wrong or
    /// malformed.
    #[must_use]
    pub fn is_bad(&self) -> bool {
        matches!(self, Self::RevokedKey(_) | Self::Wrong(_) | Self::Malformed(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Good { name, key } => write!(f, "signed by the trusted key {name} ({key})"),
            Self::Missing => f.write_str("not signed"),
            Self::UnknownKey(key) => write!(f, "signed by the key {key}, which is not trusted"),
            Self::RevokedKey(name) => write!(f, "signed by the key {name}, which was revoked"),
            Self::Wrong(name) => {
                write!(f, "its signature was not made for this file by the key {name}")
            }
            Self::Malformed(why) => write!(f, "its signature file is malformed: {why}"),
        }
    }
}

/// The path of a file's signature.
#[must_use]
pub fn sidecar_path(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".sig");
    name.into()
}

/// Signs a file: writes or replaces its signature file. Returns the path of the signature file.
///
/// # Errors
/// The file cannot be read, or the signature cannot be written.
pub fn sign(file: &Path, key: &PrivateKey) -> Result<PathBuf> {
    let signature = hex(&key.sign(&read(file)?));
    let sidecar =
        Sidecar { format: FORMAT.to_owned(), key: key.fingerprint().to_string(), signature };
    let text = serde_json::to_string_pretty(&sidecar)
        .map_err(|e| Error::new(libc::EINVAL, e.to_string()))?;
    let path = sidecar_path(file);
    fs::write(&path, text + "\n").map_err(|e| Error::of_file("write", &path, &e))?;
    Ok(path)
}

/// Checks the bytes of `file` against the signature in `sidecar`. They are two paths because the
/// host loads a copy of the file that was signed.
///
/// # Errors
/// The file or the keys cannot be read.
pub fn verify(file: &Path, sidecar: &Path, keys: &KeyFolder) -> Result<Verdict> {
    let Some(text) = read_sidecar(sidecar)? else { return Ok(Verdict::Missing) };
    let (fingerprint, signature) = match parse(&text) {
        Ok(parsed) => parsed,
        Err(why) => return Ok(Verdict::Malformed(why)),
    };
    let key = match keys.standing(&fingerprint)? {
        Standing::Trusted(key) => key,
        Standing::Revoked(key) => return Ok(Verdict::RevokedKey(key.name)),
        Standing::Unknown => return Ok(Verdict::UnknownKey(fingerprint)),
    };
    if key.verifies(&signature, &read(file)?) {
        Ok(Verdict::Good { name: key.name, key: fingerprint })
    } else {
        Ok(Verdict::Wrong(key.name))
    }
}

fn read_sidecar(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match open(path) {
        Ok(file) => file,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(Error::of_file("open", path, &e)),
    };
    let mut text = Vec::new();
    // Reads one byte more than allowed, so that a file that is too long is not taken for a good
    // one.
    file.take(SIDECAR_LEN_MAX + 1)
        .read_to_end(&mut text)
        .map_err(|e| Error::of_file("read", path, &e))?;
    Ok(Some(text))
}

/// Parses the bytes of a signature file. Returns the key and the signature.
///
/// # Errors
/// What is wrong with the bytes.
pub fn parse(text: &[u8]) -> std::result::Result<(Fingerprint, [u8; 64]), String> {
    if text.len() as u64 > SIDECAR_LEN_MAX {
        return Err(format!("more than {SIDECAR_LEN_MAX} bytes"));
    }
    let sidecar: Sidecar = serde_json::from_slice(text).map_err(|e| e.to_string())?;
    if sidecar.format != FORMAT {
        return Err(format!("format {:?}; {FORMAT:?} is required", sidecar.format));
    }
    let key = Fingerprint::parse(&sidecar.key).map_err(|e| e.to_string())?;
    let signature = from_hex(&sidecar.signature)
        .ok_or_else(|| "the signature must be 128 hexadecimal digits".to_owned())?;
    Ok((key, signature))
}

fn read(file: &Path) -> Result<Vec<u8>> {
    let opened = open(file).map_err(|e| Error::of_file("open", file, &e))?;
    let mut bytes = Vec::new();
    opened
        .take(FILE_LEN_MAX + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| Error::of_file("read", file, &e))?;
    if bytes.len() as u64 > FILE_LEN_MAX {
        let message = format!("{}: more than {FILE_LEN_MAX} bytes", file.display());
        return Err(Error::new(libc::EFBIG, message));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::super::key::public_file;
    use super::*;
    use proptest::prelude::*;

    struct Vendor {
        folder: tempfile::TempDir,
        keys: KeyFolder,
        key: PrivateKey,
        file: PathBuf,
    }

    /// A signed file, and a folder that trusts its key.
    fn vendor() -> Vendor {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("keys");
        fs::create_dir_all(keys.join("revoked")).unwrap();
        let private = folder.path().join("acme");
        let key = PrivateKey::generate(&private).unwrap();
        fs::copy(public_file(&private), keys.join("acme.pub")).unwrap();
        let file = folder.path().join("disk.so");
        fs::write(&file, "the plugin").unwrap();
        sign(&file, &key).unwrap();
        Vendor { folder, keys: KeyFolder(keys), key, file }
    }

    impl Vendor {
        fn verdict(&self) -> Verdict {
            verify(&self.file, &sidecar_path(&self.file), &self.keys).unwrap()
        }
    }

    #[test]
    fn what_a_trusted_key_signed_is_good() {
        let vendor = vendor();
        let expected = Verdict::Good { name: "acme".into(), key: vendor.key.fingerprint() };
        assert_eq!(vendor.verdict(), expected);
    }

    #[test]
    fn a_changed_file_or_the_signature_of_another_is_wrong() {
        let vendor = vendor();
        let other = vendor.folder.path().join("other.so");
        fs::write(&other, "another plugin").unwrap();
        sign(&other, &vendor.key).unwrap();
        fs::copy(sidecar_path(&other), sidecar_path(&vendor.file)).unwrap();
        assert_eq!(vendor.verdict(), Verdict::Wrong("acme".into()));
        sign(&vendor.file, &vendor.key).unwrap();
        fs::write(&vendor.file, "the plugiN").unwrap();
        assert_eq!(vendor.verdict(), Verdict::Wrong("acme".into()));
    }

    #[test]
    fn unknown_and_revoked_keys_are_told_apart_and_revoked_wins() {
        let vendor = vendor();
        let public = vendor.keys.0.join("acme.pub");
        fs::copy(&public, vendor.keys.0.join("revoked/acme.pub")).unwrap();
        assert_eq!(vendor.verdict(), Verdict::RevokedKey("acme".into()));
        fs::remove_file(vendor.keys.0.join("revoked/acme.pub")).unwrap();
        fs::remove_file(public).unwrap();
        assert_eq!(vendor.verdict(), Verdict::UnknownKey(vendor.key.fingerprint()));
        fs::remove_file(sidecar_path(&vendor.file)).unwrap();
        assert_eq!(vendor.verdict(), Verdict::Missing);
    }

    #[test]
    fn a_folder_of_revoked_keys_that_cannot_be_found_stops_the_judgement() {
        let vendor = vendor();
        let revoked = vendor.keys.0.join("revoked");
        fs::remove_dir(&revoked).unwrap();
        assert!(matches!(vendor.verdict(), Verdict::Good { .. }), "the subfolder need not exist");
        std::os::unix::fs::symlink("/nonexistent/revoked", &revoked).unwrap();
        let error = verify(&vendor.file, &sidecar_path(&vendor.file), &vendor.keys).unwrap_err();
        assert!(error.message().contains("keys/revoked"), "{error}");
    }

    #[test]
    fn a_key_that_cannot_be_read_stops_the_judgement() {
        let vendor = vendor();
        fs::write(vendor.keys.0.join("revoked/x.pub"), "garbage").unwrap();
        let error = verify(&vendor.file, &sidecar_path(&vendor.file), &vendor.keys).unwrap_err();
        assert!(error.message().contains("x.pub: not an Ed25519 key"), "{error}");
    }

    proptest! {
        #[test]
        fn any_signature_file_is_understood_or_malformed(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            prop_assert!(parse(&bytes).is_err(), "random bytes are not a signature");
        }

        #[test]
        fn a_signature_with_one_byte_changed_is_never_good(at in 0_usize..250, to in any::<u8>()) {
            let vendor = vendor();
            let path = sidecar_path(&vendor.file);
            let mut bytes = fs::read(&path).unwrap();
            let at = at % bytes.len();
            prop_assume!(!bytes[at].eq_ignore_ascii_case(&to));
            bytes[at] = to;
            let same = serde_json::from_slice::<serde_json::Value>(&bytes).ok()
                == serde_json::from_slice(&fs::read(&path).unwrap()).ok();
            fs::write(&path, bytes).unwrap();
            let is_good = matches!(vendor.verdict(), Verdict::Good { .. });
            prop_assert!(same || !is_good);
        }
    }
}
