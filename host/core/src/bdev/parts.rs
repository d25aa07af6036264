//! Between `submit` and `dispatch`: if the module cannot take an I/O unchanged, the bus replaces the I/O with parts that the
//! module can take. Each part is an I/O on the same channel and goes through `submit` again.
//!
//! | work | when | parts |
//! |---|---|---|
//! | split | a limit of the module, an optimal boundary | all at once, over slices of the list |
//! | bounce | unaligned memory, or pieces that are too small or too many | one after another, through a buffer |
//! | zeroes | write zeroes is not declared | writes from a buffer of zeroes |
//! | compare | compare is not declared, or the module cannot take this one whole | reads into a buffer, which the bus compares |
//! | write through | FUA is not declared and there is a cache | the write, then a flush |

use super::channel::Channel;
use super::complete;
use super::io::Io;
use crate::env::{buf, memory};
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;

/// The work that an I/O needs before the module can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    Split,
    Bounce,
    Zeroes,
    Compare,
    WriteThrough,
    /// A flush of a device without a write cache: nothing to do.
    Nothing,
}

/// The work that the I/O needs; `None` when the module can take it unchanged.
pub(super) fn needed(channel: &Channel, io: Io) -> Option<Work> {
    let request = io.request();
    let limits = &channel.limits;
    match request.op {
        BAY_OP_READ | BAY_OP_WRITE => {
            if must_write_through(channel, io) {
                return Some(Work::WriteThrough);
            }
            if limits.split_data {
                match next_data_part(channel, io, 0) {
                    0 => return Some(Work::Bounce), // the module cannot take even the smallest part from these pieces
                    len if len < request.nblocks => return Some(Work::Split),
                    _ => {}
                }
            }
            if limits.align > 1 && !is_aligned(io, limits.align) {
                return Some(Work::Bounce);
            }
            None
        }
        BAY_OP_COMPARE | BAY_OP_UNMAP | BAY_OP_WRITE_ZEROES if must_write_through(channel, io) => {
            Some(Work::WriteThrough)
        }
        BAY_OP_COMPARE if !goes_as_it_is(channel, io) => Some(Work::Compare),
        BAY_OP_WRITE_ZEROES if !limits.declared(BAY_OP_WRITE_ZEROES) => Some(Work::Zeroes),
        BAY_OP_FLUSH if !limits.declared(BAY_OP_FLUSH) => Some(Work::Nothing),
        BAY_OP_UNMAP if over(request.nblocks, limits.max_unmap) => Some(Work::Split),
        BAY_OP_WRITE_ZEROES if over(request.nblocks, limits.max_write_zeroes) => Some(Work::Split),
        _ => None,
    }
}

fn over(nblocks: u64, limit: u32) -> bool {
    limit != 0 && nblocks > u64::from(limit)
}

/// Whether every piece begins aligned and, except for the last one, ends aligned.
fn is_aligned(io: Io, align: u32) -> bool {
    let mask = align as usize - 1;
    let Some((last, others)) = io.iov().split_last() else { return true };
    last.addr as usize & mask == 0
        && others.iter().all(|element| (element.addr as usize | element.len as usize) & mask == 0)
}

/// Whether the module can take the whole compare. Otherwise the bus emulates it, so that the
/// reported offset of a difference counts from the start of the whole I/O.
fn goes_as_it_is(channel: &Channel, io: Io) -> bool {
    let limits = &channel.limits;
    limits.declared(BAY_OP_COMPARE)
        && (!limits.split_data || next_data_part(channel, io, 0) == io.request().nblocks)
        && is_aligned(io, limits.align)
}

/// Whether the I/O requests FUA, which the module does not support, and the module has a write
/// cache. Without a write cache the flag is not needed and is cleared, because the module did not
/// declare it.
fn must_write_through(channel: &Channel, io: Io) -> bool {
    let limits = &channel.limits;
    if io.request().flags & BAY_IO_FUA == 0 || limits.fua_declared {
        return false;
    }
    if !limits.write_cache {
        io.change(|request| request.flags &= !BAY_IO_FUA);
    }
    limits.write_cache
}

/// Starts the work. If there is none, completes the I/O.
pub(super) fn begin(io: Io, work: Work) {
    io.progress.set(0);
    io.pending.set(0);
    io.failure.set(0);
    match work {
        Work::Nothing => complete::finish(io, 0),
        Work::Split => split(io),
        Work::Bounce | Work::Compare => with_buffer(io, work),
        Work::Zeroes => next_zeroes(io),
        Work::WriteThrough => write_first(io),
    }
}

/// Creates a part of `parent` with the op `op` and without flags, lists and position.
fn part(parent: Io, op: u16, cb: bay_io_cb_fn) -> Io {
    let child = parent.channel().pool.get(parent.channel());
    child.begin(parent.writable.get(), true);
    child.set_callback(Some(cb), parent.into_arg());
    let (ext, prio) = (parent.request().ext, parent.request().prio);
    child.change(|request| {
        request.op = op;
        request.flags = 0;
        request.iov = ptr::null();
        request.iovcnt = 0;
        request.lba = 0;
        request.nblocks = 0;
        request.ext = ext;
        request.prio = prio;
        request.arg = [0; 2];
        request.arg_len = 0;
    });
    child
}

/// Keeps the status and the detail of the first part that failed.
fn note_failure(parent: Io, child: Io, status: i32) {
    if parent.failure.get() == 0 {
        parent.failure.set(status);
        let (detail, kind) = (child.request().detail, child.request().detail_kind);
        parent.change(|request| {
            request.detail = detail;
            request.detail_kind = kind;
        });
    }
}

// ---- split ------------------------------------------------------------------------------------

fn split(parent: Io) {
    let channel = parent.channel();
    let (op, flags, lba, nblocks) = {
        let request = parent.request();
        (request.op, request.flags, request.lba, request.nblocks)
    };
    // Counts one extra part, so that parts that complete at once do not complete the parent.
    parent.pending.set(1);
    let mut begun = 0;
    while begun < nblocks {
        let len = match op {
            BAY_OP_UNMAP => in_units(channel, op, channel.limits.max_unmap.into()),
            BAY_OP_WRITE_ZEROES => in_units(channel, op, channel.limits.max_write_zeroes.into()),
            // If the pieces are smaller than the module takes, the part goes through a buffer.
            _ => next_data_part(channel, parent, begun).max(smallest(channel, op)),
        }
        .min(nblocks - begun);
        let child = part(parent, op, split_done);
        if matches!(op, BAY_OP_READ | BAY_OP_WRITE) {
            slice(parent, child, begun, len);
        }
        child.change(|request| {
            request.flags = flags;
            request.lba = lba + begun;
            request.nblocks = len;
        });
        parent.pending.set(parent.pending.get() + 1);
        begun += len;
        super::submit(child);
    }
    split_part_ended(parent);
}

unsafe extern "C" fn split_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its parts.
    let parent = unsafe { Io::from_arg(arg) };
    if status != 0 {
        // SAFETY: the I/O is alive until its callback returns.
        note_failure(parent, unsafe { Io::from_abi(child) }, status);
    }
    split_part_ended(parent);
}

fn split_part_ended(parent: Io) {
    let left = parent.pending.get() - 1;
    parent.pending.set(left);
    if left == 0 {
        complete::finish(parent, parent.failure.get());
    }
}

/// The smallest number of blocks that an I/O with this op may have.
fn smallest(channel: &Channel, op: u16) -> u64 {
    if op == BAY_OP_READ || op == BAY_OP_COMPARE { 1 } else { channel.limits.write_unit.into() }
}

/// Rounds a number of blocks down to a multiple of the smallest one for this op.
fn in_units(channel: &Channel, op: u16, nblocks: u64) -> u64 {
    let unit = smallest(channel, op);
    if unit == 1 { nblocks } else { nblocks / unit * unit }
}

/// The number of blocks, from block `begun` of the I/O on, that the module takes in one part. It is
/// 0 when the module cannot take even the smallest part.
fn next_data_part(channel: &Channel, io: Io, begun: u64) -> u64 {
    let limits = &channel.limits;
    let request = io.request();
    let mut len = request.nblocks - begun;
    if limits.max_io_blocks != 0 {
        len = len.min(u64::from(limits.max_io_blocks));
    }
    if limits.optimal_boundary != 0 {
        let boundary = u64::from(limits.optimal_boundary);
        len = len.min(boundary - (request.lba + begun) % boundary);
    }
    if limits.max_segments != 0 || limits.max_segment_size != 0 {
        len = len.min(blocks_within_segments(channel, io, begun));
    }
    in_units(channel, request.op, len)
}

/// How many of the `len` blocks at `lba` the module takes in one part when they are contiguous in
/// memory. The bus does not put more into the buffer, because the part would then be split again,
/// at worse places.
fn one_piece(channel: &Channel, op: u16, lba: u64, mut len: u64) -> u64 {
    let limits = &channel.limits;
    if limits.max_io_blocks != 0 {
        len = len.min(u64::from(limits.max_io_blocks));
    }
    if limits.optimal_boundary != 0 {
        let boundary = u64::from(limits.optimal_boundary);
        len = len.min(boundary - lba % boundary);
    }
    if limits.max_segment_size != 0 {
        len = len.min(u64::from(limits.max_segment_size / limits.block_size));
    }
    in_units(channel, op, len)
}

fn blocks_within_segments(channel: &Channel, io: Io, begun: u64) -> u64 {
    let limits = &channel.limits;
    let block = u64::from(limits.block_size);
    let most = if limits.max_segments == 0 { usize::MAX } else { limits.max_segments as usize };
    let mut skip = begun * block;
    let mut bytes = 0;
    let mut segments = 0;
    for element in io.iov() {
        let len = u64::from(element.len);
        if skip >= len {
            skip -= len;
            continue;
        }
        let len = len - std::mem::take(&mut skip);
        if segments == most {
            break;
        }
        segments += 1;
        if limits.max_segment_size != 0 && len > u64::from(limits.max_segment_size) {
            bytes += u64::from(limits.max_segment_size);
            break;
        }
        bytes += len;
    }
    bytes / block
}

/// Gives `child` the slices of the parent's list and metadata for `len` blocks from block `begun`.
/// The child owns the list's memory and reuses it.
pub(super) fn slice(parent: Io, child: Io, begun: u64, len: u64) {
    slice_metadata(parent, child, begun, len);
    let block = u64::from(parent.channel().limits.block_size);
    let (mut skip, mut left) = (begun * block, len * block);
    let mut list = child.list.borrow_mut();
    list.clear();
    for element in parent.iov() {
        let here = u64::from(element.len);
        if skip >= here {
            skip -= here;
            continue;
        }
        if left == 0 {
            break;
        }
        let take = (here - skip).min(left);
        let offset = usize::try_from(std::mem::take(&mut skip)).unwrap_or(0);
        left -= take;
        list.push(bay_iov {
            addr: element.addr.wrapping_byte_add(offset),
            len: u32::try_from(take).unwrap_or(u32::MAX),
            region: element.region,
        });
    }
    let (iov, count) = (list.as_ptr(), list.len());
    drop(list);
    child.change(|request| {
        request.iov = iov;
        request.iovcnt = u16::try_from(count).unwrap_or(u16::MAX);
    });
}

fn slice_metadata(parent: Io, child: Io, begun: u64, len: u64) {
    let (md, size) = (parent.request().md, u64::from(parent.channel().limits.md_size));
    if md.is_null() {
        return;
    }
    child.change(|request| {
        request.md = md.wrapping_byte_add(usize::try_from(begun * size).unwrap_or(usize::MAX));
        request.md_len = u32::try_from(len * size).unwrap_or(u32::MAX);
        request.md_region = parent.request().md_region;
    });
}

// ---- bounce and compare: one part after another through one buffer ------------------------------

/// The size in bytes of a channel's reserve buffer, unless the smallest write is larger.
const RESERVE: usize = 4096;

fn with_buffer(parent: Io, work: Work) {
    let channel = parent.channel();
    let block = channel.limits.block_size as usize;
    let wanted = usize::try_from(parent.request().nblocks).unwrap_or(usize::MAX);
    let unit = usize::try_from(smallest(channel, parent.request().op)).unwrap_or(1);
    let largest = buf::max_len() / (block * unit) * (block * unit);
    if largest == 0 {
        return complete::finish(parent, -libc::EINVAL); // a block does not fit into the host's buffers
    }
    let len = wanted.saturating_mul(block).min(largest);
    // SAFETY: the call passes no waiter.
    let got = unsafe { buf::get(len, ptr::null_mut()) }.map(|got| (got, len)).or_else(|| {
        let most = RESERVE.max(block * unit) / (block * unit) * (block * unit);
        channel.reserve.take(RESERVE.max(block * unit)).map(|got| (got, len.min(most)))
    });
    let Some(((buffer, region), len)) = got else {
        return channel.wait_for_buffer(parent, len);
    };
    let size = u32::try_from(len).unwrap_or(u32::MAX);
    parent.buffer.set((buffer.as_ptr(), size, region));
    next_through_buffer(parent, work);
}

fn put_buffer(channel: &Channel, buffer: NonNull<u8>, size: u32) {
    if channel.reserve.put(buffer) {
        channel.look_again();
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
    if op == BAY_OP_WRITE {
        copy(parent, begun, bytes, Direction::ToBuffer);
    }
    let child = part(parent, op, cb);
    let mut list = child.list.borrow_mut();
    list.clear();
    list.push(bay_iov { addr: buffer.cast(), len: bytes, region });
    let iov = list.as_ptr();
    drop(list);
    child.change(|request| {
        request.flags = if op == BAY_OP_WRITE { flags } else { 0 };
        request.lba = lba + begun;
        request.nblocks = len;
        request.iov = iov;
        request.iovcnt = 1;
    });
    if work == Work::Bounce {
        slice_metadata(parent, child, begun, len);
    }
    super::submit(child);
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
        // and inside our buffer. They are different allocations.
        unsafe { ptr::copy_nonoverlapping(from, to, len) };
    }
}

fn first_difference(parent: Io, begun: u64, bytes: u32) -> Option<u64> {
    let (buffer, ..) = parent.buffer.get();
    pieces(parent, begun, bytes).find_map(|(memory, place, len)| {
        // SAFETY: as in `copy`; nobody writes to the client's memory during a compare.
        let theirs = unsafe { std::slice::from_raw_parts(memory, len) };
        // SAFETY: as in `copy`; the read into the buffer has completed.
        let ours = unsafe { std::slice::from_raw_parts(buffer.wrapping_add(place), len) };
        let at = theirs.iter().zip(ours).position(|(a, b)| a != b)?;
        Some((place + at) as u64)
    })
}

// ---- zeroes -----------------------------------------------------------------------------------

/// The size of the buffer of zeroes, in bytes.
const ZEROES: usize = 1 << 20;

/// A buffer of zeroes that nobody writes to, with its region. `None` when there is no memory for
/// it.
fn zeroes() -> Option<(*mut c_void, u32)> {
    static ZERO: OnceLock<Option<(usize, u32)>> = OnceLock::new();
    let (addr, region) = (*ZERO.get_or_init(|| {
        memory::alloc(ZEROES, 4096).ok().map(|(base, region)| (base.as_ptr() as usize, region))
    }))?;
    Some((addr as *mut c_void, region))
}

fn next_zeroes(parent: Io) {
    let (request, begun) = (parent.request(), parent.progress.get());
    if begun == request.nblocks || parent.failure.get() != 0 {
        return complete::finish(parent, parent.failure.get());
    }
    let Some((addr, region)) = zeroes() else { return complete::finish(parent, -libc::ENOMEM) };
    let limits = &parent.channel().limits;
    let (block, md_size) = (limits.block_size, u64::from(limits.md_size));
    let most = ZEROES as u64 / u64::from(block).max(md_size);
    let most = in_units(parent.channel(), BAY_OP_WRITE, most);
    let (lba, flags, len) =
        (request.lba + begun, request.flags, (request.nblocks - begun).min(most));
    let child = part(parent, BAY_OP_WRITE, zeroes_done);
    let bytes = u32::try_from(len * u64::from(block)).unwrap_or(0);
    let mut list = child.list.borrow_mut();
    list.clear();
    list.push(bay_iov { addr, len: bytes, region });
    let iov = list.as_ptr();
    drop(list);
    child.change(|request| {
        request.flags = flags;
        request.lba = lba;
        request.nblocks = len;
        request.iov = iov;
        request.iovcnt = 1;
        if md_size != 0 {
            request.md = addr;
            request.md_len = u32::try_from(len * md_size).unwrap_or(0);
            request.md_region = region;
        }
    });
    super::submit(child);
}

unsafe extern "C" fn zeroes_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    // SAFETY: the I/O is alive until its callback returns.
    let child = unsafe { Io::from_abi(child) };
    if status != 0 {
        note_failure(parent, child, status);
    }
    parent.progress.set(parent.progress.get() + child.request().nblocks);
    next_zeroes(parent);
}

// ---- write through ----------------------------------------------------------------------------

fn write_first(parent: Io) {
    let child = part(parent, parent.request().op, write_done);
    let (lba, nblocks, iov, iovcnt, flags) = {
        let request = parent.request();
        (request.lba, request.nblocks, request.iov, request.iovcnt, request.flags)
    };
    child.change(|request| {
        request.flags = flags & !BAY_IO_FUA;
        request.lba = lba;
        request.nblocks = nblocks;
        request.iov = iov;
        request.iovcnt = iovcnt;
    });
    slice_metadata(parent, child, 0, nblocks);
    super::submit(child);
}

unsafe extern "C" fn write_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    if status != 0 {
        // SAFETY: the I/O is alive until its callback returns.
        note_failure(parent, unsafe { Io::from_abi(child) }, status);
        return complete::finish(parent, status);
    }
    let flush = part(parent, BAY_OP_FLUSH, flush_done);
    super::submit(flush);
}

unsafe extern "C" fn flush_done(arg: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `part` set the parent as the argument, and the parent waits for its part.
    let parent = unsafe { Io::from_arg(arg) };
    if status != 0 {
        // SAFETY: the I/O is alive until its callback returns.
        note_failure(parent, unsafe { Io::from_abi(child) }, status);
    }
    complete::finish(parent, status);
}
