//! Which files may become plugins: by owner and mode, by name, and by signature.
//!
//! - [`owner`]: root and the host's user may put a plugin before the host, nobody else.
//! - [`key`]: Ed25519 keys, in the PEM files that other programs make and read too.
//! - [`signature`]: `<plugin>.sig`, one signature over the bytes of the file.
//! - [`policy`]: what the operator allows: names, signatures, permissions.

pub mod key;
pub mod owner;
pub mod policy;
pub mod signature;

pub use owner::{check_file, check_folders, check_owner, open};
pub use policy::Policy;
