//! Asynchronous file I/O with a safe interface, over io_uring or Linux native AIO ("libaio").
//!
//! A [`Ring`] belongs to one io_channel. A request *moves* into the ring with its buffers, and the ring
//! returns it when the kernel no longer uses them. So safe code can neither free nor reuse memory under
//! I/O:
//!
//! ```text
//! push(op, file, request) ─► slot ─► flush() ─► kernel ─► reap(|completion| …) ─► request
//!        └─ Full(request)                         └─ short: resubmit the rest
//! ```
//!
//! Files of the crate, top down: [`Ring`] (`ring`), its operations (`op`), the requests in flight
//! (`slots`, `transfer`), the two engines (`uring`, `libaio`), the contract for memory (`buffers`), the
//! file (`file`) and its lock (`lock`). [`ublk`] serves block devices of the kernel instead.
//!
//! A ring has one owner at a time and may move between threads. On Linux an io_uring request ends with
//! `ECANCELED` when the thread that flushed it *exits*. Moving the ring away from a thread that continues
//! to run is harmless.

#[cfg(not(target_pointer_width = "64"))]
compile_error!("drivebay-ring needs a 64-bit target");

mod buffers;
mod engine;
mod errno;
mod event;
mod file;
mod libaio;
mod lock;
mod op;
mod ring;
mod slots;
#[cfg(test)]
mod tests;
mod transfer;
pub mod ublk;
mod uring;

pub use buffers::{IoBuffers, Segment};
pub use engine::Engine;
pub use errno::Errno;
pub use file::{BackingFile, FileError, open_file};
pub use lock::{FileLock, lock_file};
pub use op::Op;
pub use ring::{Armed, Completion, FileIndex, Full, MAX_DEPTH, MAX_FILES, Ring};
