//! A blobstore on a disk: the store behind logical volumes.
//!
//! One [`Store`] belongs to one thread, its metadata thread. Every operation is a future that reads and
//! writes through a [`Disk`], so the same code runs over a host's bdev and over a simulated disk.
//! The data path does not come here: it asks [`Store::place`] once and keeps the answer.
//!
//! - `load` opens, makes, grows and closes stores; `persist` has the write order of
//!   `docs/formats/lvstore.md`, and is the only place that writes metadata.
//! - `volume` makes, renames and deletes volumes; `snapshot` does what changes parents; `clusters`
//!   allocates, gives back, resizes and inflates. `check` checks and repairs stores.
//!
//! A failed operation leaves everything as it was, in memory and on disk. When even that cannot be
//! written, the store takes no more changes until it is loaded again.
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
