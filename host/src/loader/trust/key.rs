//! Ed25519 keys (RFC 8032) in PEM files: private keys as PKCS #8 (RFC 8410, section 7), public keys
//! as SubjectPublicKeyInfo (section 4). `openssl genpkey -algorithm ed25519` makes such files, too.

use super::super::error::{Error, Result};
use super::owner;
use ring::digest::{SHA256, digest};
use ring::rand::{SecureRandom, SystemRandom};
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// The bytes before the 32 bytes of a private key: version 0, algorithm 1.3.101.112, octet string
/// in octet string.
const PRIVATE_PREFIX: [u8; 16] =
    [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
/// The bytes before the 32 bytes of a public key: algorithm 1.3.101.112, bit string without unused
/// bits.
const PUBLIC_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0];
const KEY_LEN: usize = 32;
/// The longest key file, in bytes.
const FILE_LEN_MAX: u64 = 4096;
/// The maximum number of keys in one folder.
const KEYS_MAX: usize = 256;
/// The subfolder for keys that must not be trusted any more.
const REVOKED: &str = "revoked";

/// Identifies a public key: the SHA-256 of its 32 bytes, in hexadecimal.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Fingerprint(String);

impl Fingerprint {
    fn of(public: &[u8]) -> Self {
        Self(hex(digest(&SHA256, public).as_ref()))
    }

    /// Parses 64 hexadecimal digits.
    ///
    /// # Errors
    /// `EINVAL` with the required form.
    pub fn parse(text: &str) -> Result<Self> {
        match from_hex::<32>(text) {
            Some(bytes) => Ok(Self(hex(&bytes))),
            None => Err(Error::new(
                libc::EINVAL,
                "a key is identified by its fingerprint, 64 hexadecimal digits",
            )),
        }
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A private key.
pub struct PrivateKey(Ed25519KeyPair);

impl PrivateKey {
    /// Generates a private key in `file`, with mode 0600, and the public key in `<file>.pub`.
    ///
    /// # Errors
    /// One of the files already exists, or cannot be written.
    pub fn generate(file: &Path) -> Result<Self> {
        let mut seed = [0_u8; KEY_LEN];
        SystemRandom::new()
            .fill(&mut seed)
            .map_err(|_| Error::new(libc::EIO, "the kernel returned no random bytes"))?;
        let key = Self::of_seed(&seed)?;
        let private = encode("PRIVATE KEY", &PRIVATE_PREFIX, &seed);
        let public = encode("PUBLIC KEY", &PUBLIC_PREFIX, key.0.public_key().as_ref());
        write_new(file, 0o600, &private)?;
        write_new(&public_file(file), 0o644, &public)?;
        Ok(key)
    }

    /// Reads the private key from a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or contains something else.
    pub fn read(file: &Path) -> Result<Self> {
        let der = pem(file, &read_text(file)?, "PRIVATE KEY")?;
        // Later versions of the format add attributes and the public key at the end. The seed is at
        // the same place.
        let seed = der.get(PRIVATE_PREFIX.len()..).and_then(|rest| rest.first_chunk::<KEY_LEN>());
        match (der.get(5..PRIVATE_PREFIX.len()), seed) {
            (Some(head), Some(seed)) if Some(head) == PRIVATE_PREFIX.get(5..) => {
                Self::of_seed(seed)
            }
            _ => Err(not_a_key(file)),
        }
    }

    fn of_seed(seed: &[u8; KEY_LEN]) -> Result<Self> {
        Ed25519KeyPair::from_seed_unchecked(seed)
            .map(Self)
            .map_err(|e| Error::new(libc::EINVAL, e.to_string()))
    }

    /// The fingerprint of its public key.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        Fingerprint::of(self.0.public_key().as_ref())
    }

    /// Signs `message`. Returns the 64 bytes of the signature.
    #[must_use]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        let mut bytes = [0; 64];
        let signature = self.0.sign(message);
        // An Ed25519 signature always has 64 bytes.
        if let Some(part) = signature.as_ref().first_chunk() {
            bytes = *part;
        }
        bytes
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PrivateKey({})", self.fingerprint())
    }
}

/// A public key, with the name of its file.
#[derive(Clone, Debug)]
pub struct PublicKey {
    /// The file's name without `.pub`.
    pub name: String,
    /// The fingerprint of the key.
    pub fingerprint: Fingerprint,
    bytes: [u8; KEY_LEN],
}

impl PublicKey {
    /// Reads the public key from a PEM file.
    ///
    /// # Errors
    /// The file cannot be read, or contains something else.
    pub fn read(file: &Path) -> Result<Self> {
        let text = read_text(file)?;
        Self::parse(file, &text)
    }

    /// Parses the text of a PEM file. `file` is only for errors.
    ///
    /// # Errors
    /// The text contains something else.
    pub fn parse(file: &Path, text: &str) -> Result<Self> {
        let der = pem(file, text, "PUBLIC KEY")?;
        let bytes = der.strip_prefix(&PUBLIC_PREFIX).and_then(|rest| rest.try_into().ok());
        let bytes: [u8; KEY_LEN] = bytes.ok_or_else(|| not_a_key(file))?;
        let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, fingerprint: Fingerprint::of(&bytes), bytes })
    }

    /// Whether `signature` is this key's signature of `message`.
    #[must_use]
    pub fn verifies(&self, signature: &[u8; 64], message: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, &self.bytes).verify(message, signature).is_ok()
    }
}

/// Whether the operator trusts a key.
#[derive(Clone, Debug)]
pub enum Standing {
    /// The key is in the folder.
    Trusted(PublicKey),
    /// The key is in the subfolder `revoked`, even if it is in the folder, too.
    Revoked(PublicKey),
    /// The key is in neither.
    Unknown,
}

/// The folder of trusted keys: `*.pub`, with revoked keys in `revoked/`. It is read at each use, so
/// an operator can revoke a key without telling the host.
#[derive(Clone, Debug)]
pub struct KeyFolder(pub PathBuf);

impl KeyFolder {
    /// Whether the operator trusts the key with this fingerprint.
    ///
    /// # Errors
    /// The folder or one of its keys cannot be read, or is writable by other users. A key that
    /// cannot be read might be the revoked one.
    pub fn standing(&self, fingerprint: &Fingerprint) -> Result<Standing> {
        let revoked = self.0.join(REVOKED);
        // A dangling link is an error, because its target may be a revoked key.
        let is_there = match fs::symlink_metadata(&revoked) {
            Ok(_) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(Error::of_file("read", &revoked, &error)),
        };
        if is_there && let Some(key) = find(&revoked, fingerprint)? {
            return Ok(Standing::Revoked(key));
        }
        Ok(find(&self.0, fingerprint)?.map_or(Standing::Unknown, Standing::Trusted))
    }
}

fn find(folder: &Path, fingerprint: &Fingerprint) -> Result<Option<PublicKey>> {
    let entries = fs::read_dir(folder).map_err(|e| Error::of_file("read", folder, &e))?;
    let is_key = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "pub");
    let files: Vec<PathBuf> =
        entries.flatten().map(|entry| entry.path()).filter(is_key).take(KEYS_MAX + 1).collect();
    if files.len() > KEYS_MAX {
        let message =
            format!("{}: contains more than {KEYS_MAX} keys, the limit", folder.display());
        return Err(Error::new(libc::E2BIG, message));
    }
    let mut found = None;
    for file in files {
        let metadata = fs::metadata(&file).map_err(|e| Error::of_file("read", &file, &e))?;
        owner::check_file(&file, &metadata)?;
        owner::check_folders(&file)?;
        let key = PublicKey::read(&file)?;
        if key.fingerprint == *fingerprint {
            found = Some(key);
        }
    }
    Ok(found)
}

/// The path where [`PrivateKey::generate`] puts the public key.
#[must_use]
pub fn public_file(private: &Path) -> PathBuf {
    let mut name = private.as_os_str().to_owned();
    name.push(".pub");
    name.into()
}

fn encode(label: &str, prefix: &[u8], key: &[u8]) -> String {
    pem::encode(&pem::Pem::new(label, [prefix, key].concat()))
}

fn read_text(file: &Path) -> Result<String> {
    let mut text = String::new();
    let opened = File::open(file).map_err(|e| Error::of_file("open", file, &e))?;
    opened
        .take(FILE_LEN_MAX)
        .read_to_string(&mut text)
        .map_err(|e| Error::of_file("read", file, &e))?;
    Ok(text)
}

/// The bytes of the single block in the text of a PEM file.
fn pem(file: &Path, text: &str, label: &str) -> Result<Vec<u8>> {
    match pem::parse(text) {
        Ok(block) if block.tag() == label => Ok(block.into_contents()),
        Ok(block) => {
            let message =
                format!("{}: holds a {}; a {label} is required", file.display(), block.tag());
            Err(Error::new(libc::EINVAL, message))
        }
        Err(_) => Err(not_a_key(file)),
    }
}

fn write_new(file: &Path, mode: u32, text: &str) -> Result<()> {
    OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(file)
        .and_then(|mut opened| opened.write_all(text.as_bytes()))
        .map_err(|e| Error::of_file("make", file, &e))
}

fn not_a_key(file: &Path) -> Error {
    let message = format!("{}: not an Ed25519 key in a PEM file", file.display());
    Error::new(libc::EINVAL, message)
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub(super) fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    // `from_str_radix` would accept a sign as a digit.
    if text.len() != 2 * N || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    for (n, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_digits_are_digits_and_as_many_as_are_wanted() {
        assert_eq!(from_hex("0aFf"), Some([0x0a, 0xff]));
        for text in ["+aff", "0a+f", "-aff", "0af", "0aff0", "0ag0", " aff", "0aé"] {
            assert_eq!(from_hex::<2>(text), None, "{text}");
        }
    }

    #[test]
    fn a_key_survives_its_files_and_no_file_is_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("vendor");
        let made = PrivateKey::generate(&file).unwrap();
        let private = PrivateKey::read(&file).unwrap();
        let public = PublicKey::read(&public_file(&file)).unwrap();
        assert_eq!(made.fingerprint(), private.fingerprint());
        assert_eq!(made.fingerprint(), public.fingerprint);
        assert_eq!(public.name, "vendor");
        let signature = private.sign(b"bytes");
        assert!(public.verifies(&signature, b"bytes"));
        assert!(!public.verifies(&signature, b"other"));
        let mode = std::os::unix::fs::MetadataExt::mode(&fs::metadata(&file).unwrap());
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(PrivateKey::generate(&file).unwrap_err().errno(), libc::EEXIST);
    }

    #[test]
    fn the_key_of_rfc_8032_is_read_and_signs_as_it_says() {
        // Section 7.1, test 1, in the PEM format of RFC 8410.
        let seed: [u8; 32] =
            from_hex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60").unwrap();
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k");
        fs::write(&file, encode("PRIVATE KEY", &PRIVATE_PREFIX, &seed)).unwrap();
        let signature = PrivateKey::read(&file).unwrap().sign(b"");
        assert!(
            hex(&signature)
                .starts_with("e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155")
        );
    }

    #[test]
    fn a_private_key_among_the_public_ones_is_reported() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("k.pub");
        PrivateKey::generate(&file).unwrap();
        let error = PublicKey::read(&file).unwrap_err();
        assert!(
            error.message().contains("holds a PRIVATE KEY; a PUBLIC KEY is required"),
            "{error}"
        );
        fs::write(&file, "hello").unwrap();
        assert!(PublicKey::read(&file).unwrap_err().message().contains("not an Ed25519 key"));
    }
}
