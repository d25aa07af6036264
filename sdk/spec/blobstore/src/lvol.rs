//! Logical volumes: the names and values that a volume store keeps in blobs.

use crate::blob::Blob;

/// The type of a volume store in the super block.
pub const BSTYPE: [u8; 16] = *b"LVOLSTORE\0\0\0\0\0\0\0";
/// Maximum length of a name on disk with its terminating zero, in bytes.
pub const NAME_BYTES: usize = 64;
/// Length of a UUID as text with its terminating zero, in bytes.
pub const UUID_BYTES: usize = 37;
/// Xattr of store and volume: the name.
pub const NAME: &[u8] = b"name";
/// Xattr of store and volume: the UUID.
pub const UUID: &[u8] = b"uuid";

/// Internal xattr: the parent, a snapshot in the store (8 bytes).
pub const PARENT: &[u8] = b"SNAP";
/// Internal xattr of a snapshot that is being created: its origin (8 bytes).
pub const SNAPSHOT_IN_PROGRESS: &[u8] = b"SNAPTMP";
/// Internal xattr of a snapshot that is being deleted: its clone (8 bytes).
pub const SNAPSHOT_PENDING_REMOVAL: &[u8] = b"SNAPRM";
/// Internal xattr: name of the parent outside of the store.
pub const EXTERNAL_SNAPSHOT: &[u8] = b"EXTSNAP";

/// Name and UUID of a store or a volume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// Its name.
    pub name: String,
    /// Its UUID as text; volumes of old stores have none.
    pub uuid: Option<String>,
}

impl Names {
    /// Reads the names in a blob; `None` when there is no usable name.
    #[must_use]
    pub fn of(blob: &Blob) -> Option<Self> {
        let name = text(blob.xattr(NAME)?)?;
        let uuid = blob.xattr(UUID).and_then(text);
        let is_usable = !name.is_empty() && name.len() < NAME_BYTES;
        is_usable.then_some(Self { name, uuid })
    }

    /// The values of both xattrs of a volume, as on disk.
    #[must_use]
    pub fn values(name: &str, uuid: &str) -> [(&'static [u8], Vec<u8>); 2] {
        [(NAME, padded(name, NAME_BYTES)), (UUID, padded(uuid, UUID_BYTES))]
    }
}

fn padded(text: &str, bytes: usize) -> Vec<u8> {
    let mut value = text.as_bytes().to_vec();
    value.resize(bytes, 0);
    value
}

/// The text up to the first zero.
fn text(value: &[u8]) -> Option<String> {
    let text = value.split(|byte| *byte == 0).next()?;
    String::from_utf8(text.to_vec()).ok()
}
