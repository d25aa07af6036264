//! The rules that a module may rely on, checked for every request.

use crate::disk::{Chan, Disk};
use drivebay_core::reactor::thread;
use drivebay_plugin_api::*;
use std::cell::Cell;

/// Marks that the host is inside a function of a channel, for as long as the value lives.
pub(crate) struct Entered<'a>(&'a Cell<bool>);

impl<'a> Entered<'a> {
    pub(crate) fn new(channel: &'a Cell<bool>) -> Self {
        assert!(!channel.replace(true), "the host called a channel from inside another call of it");
        Self(channel)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Disk {
    /// Checks the promises of the bus for a request.
    pub(crate) fn check(&self, chan: &Chan, request: &bay_io) {
        let reg = &self.reg;
        let op = request.op;
        assert_eq!(chan.thread, thread::current_id(), "submitted on another thread");
        assert!(reg.ops_mask & (1 << op) != 0, "op {op} is not declared");
        assert_eq!(request.flags >> 16 & !(reg.must_flags >> 16), 0, "undeclared flag");
        assert!(!self.resetting.get(), "submitted during a reset");
        if !matches!(op, BAY_OP_RESET | BAY_OP_ABORT) {
            let hit = self.quiesced.borrow().iter().any(|&(lba, nblocks)| {
                nblocks == 0
                    || (op != BAY_OP_FLUSH
                        && request.lba < lba + nblocks
                        && lba < request.lba + request.nblocks)
            });
            assert!(!hit, "submitted to a quiesced range");
        }
        let ranged = !matches!(op, BAY_OP_FLUSH | BAY_OP_RESET | BAY_OP_ABORT);
        if !ranged {
            return;
        }
        assert!(request.nblocks > 0 && request.lba + request.nblocks <= self.blocks.get());
        let writes = matches!(op, BAY_OP_WRITE | BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES);
        if writes && reg.write_unit > 1 {
            let unit = u64::from(reg.write_unit);
            let fits = |value: u64| value.is_multiple_of(unit);
            assert!(fits(request.lba) && fits(request.nblocks), "write unit");
        }
        let within = |limit: u32, value: u64| limit == 0 || value <= u64::from(limit);
        match op {
            BAY_OP_UNMAP => return assert!(within(reg.max_unmap, request.nblocks)),
            BAY_OP_WRITE_ZEROES => {
                return assert!(within(reg.max_write_zeroes, request.nblocks));
            }
            _ => {}
        }
        assert!(within(reg.max_io_blocks, request.nblocks), "too many blocks");
        assert!(within(reg.max_segments, request.iovcnt.into()), "too many segments");
        if reg.optimal_boundary != 0 {
            let boundary = u64::from(reg.optimal_boundary);
            let last = request.lba + request.nblocks - 1;
            assert_eq!(request.lba / boundary, last / boundary, "over a boundary");
        }
        let mut total = 0;
        for element in list(request) {
            assert!(within(reg.max_segment_size, element.len.into()), "segment too long");
            assert_eq!(element.addr as usize % reg.align.max(1) as usize, 0, "not aligned");
            total += u64::from(element.len);
        }
        assert_eq!(total, request.nblocks * u64::from(reg.block_size), "list and range differ");
    }

    /// Checks that no other request wrote this request's driver context.
    pub(crate) fn mark_ctx(&self, request: &bay_io) {
        if self.reg.drv_ctx_size >= 8 {
            assert_eq!(request.drv_ctx as usize % 64, 0, "drv_ctx is not aligned");
            // SAFETY: `drv_ctx` has at least 8 bytes, is aligned, and is the disk's until it completes the request.
            unsafe { request.drv_ctx.cast::<u64>().write(request.id) };
        }
    }

    pub(crate) fn check_ctx(&self, request: &bay_io) {
        if self.reg.drv_ctx_size >= 8 {
            // SAFETY: the disk has not completed the request, so `drv_ctx` is the 8 bytes that `mark_ctx` wrote.
            let id = unsafe { request.drv_ctx.cast::<u64>().read() };
            assert_eq!(id, request.id, "drv_ctx was written by another");
        }
    }
}

fn list(request: &bay_io) -> &[bay_iov] {
    if request.iovcnt == 0 {
        return &[];
    }
    // SAFETY: the host keeps the list of `iovcnt` pieces unchanged until the request completes.
    unsafe { std::slice::from_raw_parts(request.iov, request.iovcnt.into()) }
}

/// Walks the first `len` bytes of the list until `visit` returns false. Returns the place where it
/// stopped.
pub(crate) fn gather(
    request: &bay_io,
    len: usize,
    mut visit: impl FnMut(usize, &mut [u8]) -> bool,
) -> Option<usize> {
    let mut at = 0;
    for element in list(request) {
        let here = (element.len as usize).min(len - at);
        // SAFETY: the piece has `element.len` bytes of the client or of the host. Only the disk uses them until
        // it completes the request.
        let memory = unsafe { std::slice::from_raw_parts_mut(element.addr.cast::<u8>(), here) };
        if !visit(at, memory) {
            return Some(at);
        }
        at += here;
    }
    None
}

pub(crate) fn first_difference(request: &bay_io, offset: usize, data: &[u8]) -> usize {
    let mut found = 0;
    gather(request, usize::MAX / 2, |at, memory| {
        if at == offset {
            found = memory.iter().zip(data).position(|(a, b)| a != b).unwrap();
        }
        true
    });
    found
}
