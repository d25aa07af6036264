//! Bounce and compare: one part after another, through one buffer.

use super::need::Work;
use super::part::{copy_detail, note_failure, part, slice_metadata};
use super::size::{one_piece, smallest};
use crate::bdev::path::{complete, starved, submit};
use crate::bdev::state::{Channel, Io};
use crate::env::{buf, shared_copy};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr::{self, NonNull};

/// The size in bytes of a channel's reserve buffer, unless the smallest write is larger.
const RESERVE: usize = 4096;

/// How many bytes of the client's memory a compare copies at once.
const COMPARED_AT_ONCE: usize = 512;

pub(super) fn begin(parent: Io, work: Work) {
    let channel = parent.channel();
    let block = channel.limits.block_size as usize;
    let wanted = usize::try_from(parent.request().nblocks).unwrap_or(usize::MAX);
    let unit = usize::try_from(smallest(channel, parent.request().op)).unwrap_or(1);
    let largest = buf::max_len() / (block * unit) * (block * unit);
    let is_whole = parent.request().op == BAY_OP_ZONE_APPEND; // parts of an append would land apart
    let least = if is_whole { wanted.saturating_mul(block) } else { block * unit };
    if least > largest {
        return complete::finish(parent, -libc::EINVAL); // it does not fit into the host's buffers
    }
    let len = wanted.saturating_mul(block).min(largest);
    // SAFETY: the call passes no waiter.
    let got = unsafe { buf::get(len, ptr::null_mut()) }.map(|got| (got, len)).or_else(|| {
        let most = RESERVE.max(block * unit) / (block * unit) * (block * unit);
        if least > most {
            return None;
        }
        channel.reserve.take(RESERVE.max(block * unit)).map(|got| (got, len.min(most)))
    });
    let Some(((buffer, region), len)) = got else {
        return starved::wait(channel, parent, len);
    };
    let size = u32::try_from(len).unwrap_or(u32::MAX);
    parent.buffer.set((buffer.as_ptr(), size, region));
    next_through_buffer(parent, work);
}

fn put_buffer(channel: &Channel, buffer: NonNull<u8>, size: u32) {
    if channel.reserve.put(buffer) {
        channel.retry_soon();
    } else {
        buf::put(buffer, size as usize);
    }
}

fn next_through_buffer(parent: Io, work: Work) {
    let (request, begun) = (parent.request(), parent.progress.get());
    let (buffer, size, region) = parent.buffer.get();
    if begun == request.nblocks || parent.failure.get() != 0 {
        if let Some(buffer) = NonNull::new(buffer) {
            put_buffer(parent.channel(), buffer, size);
        }
        parent.buffer.set((ptr::null_mut(), 0, 0));
        return complete::finish(parent, parent.failure.get());
    }
    let block = parent.channel().limits.block_size;
    let len = (request.nblocks - begun).min(u64::from(size / block));
    let len = one_piece(parent.channel(), request.op, request.lba + begun, len);
    let bytes = u32::try_from(len * u64::from(block)).unwrap_or(size);
    let (op, cb): (u16, bay_io_cb_fn) = match (work, request.op) {
        (Work::Compare, _) => (BAY_OP_READ, compare_done),
        (_, op) => (op, bounce_done),
    };
    let (flags, lba) = (request.flags, request.lba);
    let writes = op == BAY_OP_WRITE || op == BAY_OP_ZONE_APPEND;
    if writes {
        copy(parent, begun, bytes, Direction::ToBuffer);
    }
    let child = part(parent, op, cb);
    let mut list = child.list.borrow_mut();
    list.clear();
    list.push(bay_iov { addr: buffer.cast(), len: bytes, region });
    let iov = list.as_ptr();
    drop(list);
    child.change(|request| {
        request.flags = if writes { flags } else { 0 };
        request.lba = lba + begun;
        request.nblocks = len;
        request.iov = iov;
        request.iovcnt = 1;
    });
    if work == Work::Bounce {
        slice_metadata(parent, child, begun, len);
    }
    submit::submit(child);
}

unsafe extern "C" fn bounce_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    // SAFETY: the I/O is alive until its callback returns.
    let child = unsafe { Io::from_abi(child) };
    if status != 0 {
        note_failure(parent, child, status);
    } else if child.request().op == BAY_OP_READ {
        let bytes = child.iov().first().map_or(0, |element| element.len);
        copy(parent, parent.progress.get(), bytes, Direction::FromBuffer);
    } else {
        copy_detail(parent, child); // where an append wrote
    }
    parent.progress.set(parent.progress.get() + child.request().nblocks);
    next_through_buffer(parent, Work::Bounce);
}

unsafe extern "C" fn compare_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    // SAFETY: the I/O is alive until its callback returns.
    let child = unsafe { Io::from_abi(child) };
    let begun = parent.progress.get();
    if status != 0 {
        note_failure(parent, child, status);
    } else {
        let bytes = child.iov().first().map_or(0, |element| element.len);
        if let Some(offset) = first_difference(parent, begun, bytes) {
            let start = begun * u64::from(parent.channel().limits.block_size);
            parent.failure.set(BAY_ST_MISCOMPARE);
            parent.change(|request| {
                request.detail_kind = BAY_DETAIL_OFFSET;
                request.detail = start + offset;
            });
        }
    }
    parent.progress.set(begun + child.request().nblocks);
    next_through_buffer(parent, Work::Compare);
}

#[derive(Clone, Copy)]
enum Direction {
    ToBuffer,
    FromBuffer,
}

/// Iterates over the pieces of the parent's memory that cover `bytes` bytes from block `begun`.
/// Each item is an address, an offset in the buffer and a length.
fn pieces(parent: Io, begun: u64, bytes: u32) -> impl Iterator<Item = (*mut u8, usize, usize)> {
    let block = u64::from(parent.channel().limits.block_size);
    let mut skip = usize::try_from(begun * block).unwrap_or(usize::MAX);
    let mut place = 0;
    let bytes = bytes as usize;
    let list: Vec<bay_iov> = parent.iov().to_vec();
    list.into_iter().filter_map(move |element| {
        let here = element.len as usize;
        if skip >= here || place == bytes {
            skip = skip.saturating_sub(here);
            return None;
        }
        let len = (here - skip).min(bytes - place);
        let piece = (element.addr.cast::<u8>().wrapping_add(skip), place, len);
        skip = 0;
        place += len;
        Some(piece)
    })
}

fn copy(parent: Io, begun: u64, bytes: u32, direction: Direction) {
    let (buffer, ..) = parent.buffer.get();
    for (memory, place, len) in pieces(parent, begun, bytes) {
        let slot = buffer.wrapping_add(place);
        let (from, to) = match direction {
            Direction::ToBuffer => (memory.cast_const(), slot),
            Direction::FromBuffer => (slot.cast_const(), memory),
        };
        // SAFETY: `pieces` stays inside the client's list, whose memory is valid until completion,
        // and inside our buffer.
        unsafe { shared_copy::copy(from, to, len) };
    }
}

/// The offset of the first byte in which the client's memory and the buffer differ. A guest may
/// change its memory meanwhile, so the code compares a copy.
fn first_difference(parent: Io, begun: u64, bytes: u32) -> Option<u64> {
    let (buffer, ..) = parent.buffer.get();
    let mut copied = [0_u8; COMPARED_AT_ONCE];
    pieces(parent, begun, bytes).find_map(|(memory, place, len)| {
        (0..len).step_by(COMPARED_AT_ONCE).find_map(|from| {
            let (theirs, _) = copied.split_at_mut(COMPARED_AT_ONCE.min(len - from));
            let (addr, here) = (memory.wrapping_add(from), buffer.wrapping_add(place + from));
            // SAFETY: as in `copy`; `theirs` is the caller's own.
            unsafe { shared_copy::copy(addr, theirs.as_mut_ptr(), theirs.len()) };
            // SAFETY: as in `copy`; the read into the buffer has completed.
            let ours = unsafe { std::slice::from_raw_parts(here, theirs.len()) };
            let at = theirs.iter().zip(ours).position(|(a, b)| a != b)?;
            Some((place + from + at) as u64)
        })
    })
}
