//! A blobstore on a disk: the store behind logical volumes.
//!
//! One [`Store`] belongs to one thread, its metadata thread. Every operation is a future that reads and
//! writes through a [`Disk`], so the same code runs on a bdev of the host and on a simulated disk.
//! The data path does not use this crate for each I/O: it calls [`Store::place`] once and keeps the result.
//!
//! - `load` opens, creates, grows and closes stores. `persist` implements the write order of
//!   `docs/formats/lvstore.md`; no other module writes metadata.
//! - `volume` creates, renames and deletes volumes. `snapshot` has the operations that change parents.
//!   `clusters` allocates, releases, resizes and inflates. `check` checks and repairs stores.
//!
//! A failed operation leaves everything unchanged, in memory and on disk. If the store cannot write the old
//! state back, it accepts no more changes until it is loaded again.
#![forbid(unsafe_code)]

mod check;
mod clusters;
mod disk;
mod error;
mod load;
mod lock;
mod persist;
mod snapshot;
mod store;
mod volume;

pub use check::{Finding, Report, Severity, check, repair};
pub use clusters::{Place, Released, Unused};
pub use disk::{Disk, DiskError};
pub use error::{Error, Result, errno};
pub use load::{ClearMethod, NewStoreOptions};
pub use store::{Busy, Info, Store, StoreInfo};
pub use volume::NewVolume;

pub use drivebay_spec_blobstore as spec;
pub use drivebay_spec_blobstore::{BlobId, Fault, SuperBlock};
