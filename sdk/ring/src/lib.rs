//! Asynchronous file I/O with a safe face, over io_uring or Linux native AIO ("libaio").
//!
//! A [`Ring`] belongs to one io_channel. A request is *moved* into the ring with its buffers and
//! handed back when the kernel is done with them, so that memory under I/O can be neither freed
//! nor reused by safe code:
//!
//! ```text
//! push(op, file, request) ─► slot ─► flush() ─► kernel ─► reap(|completion| …) ─► request
//!        └─ Full(request)                         └─ short: the rest goes round again
//! ```
//!
//! Files of the crate, top down: [`Ring`] (`ring`), what can be asked (`op`), the slots of what is
//! in flight (`slots`, `transfer`), the two engines (`uring`, `libaio`), the promise about memory
//! (`buffers`), the file behind it all (`file`) and its lock (`lock`).
//!
//! The ring itself has one owner at a time and may move between threads. On Linux an io_uring request
//! ends with `ECANCELED` when the thread that flushed it *exits*; moving on from a thread that
//! lives is harmless.

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
mod uring;

pub use buffers::{IoBuffers, Segment};
pub use engine::Engine;
pub use errno::Errno;
pub use file::{BackingFile, FileError, open_file};
pub use lock::{FileLock, lock_file};
pub use op::Op;
pub use ring::{Armed, Completion, FileIndex, Full, MAX_DEPTH, MAX_FILES, Ring};
