//! What a project is: the kind and the language of its plugin.

use clap::ValueEnum;

/// What a plugin does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// Creates disks.
    Bdev,
    /// Creates disks on other disks.
    Filter,
    /// A transport of NVMe over Fabrics.
    Transport,
    /// Serves disks with its own protocol.
    Target,
}

/// The language of a plugin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Lang {
    /// Rust, with the SDK's crates.
    Rust,
    /// C11, with only the header.
    C,
}
