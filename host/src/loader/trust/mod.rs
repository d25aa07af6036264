//! Which files may become plugins: by owner and mode, by name, and by signature.
//!
//! - [`owner`]: only root and the host's user may install plugins.
//! - [`key`]: Ed25519 keys in PEM files, which other programs can make and read, too.
//! - [`signature`]: `<plugin>.sig`, one signature of all bytes of the file.
//! - [`policy`]: the operator's rules for names, signatures and permissions.

pub mod key;
pub mod owner;
pub mod policy;
pub mod signature;

pub use policy::Policy;
