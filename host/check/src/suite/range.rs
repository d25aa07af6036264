//! Ranges at the edges and beyond, and lists with no elements and with many.

use crate::batch::Io;
use crate::client::{run_at_module, status_name};
use crate::rig::{Made, Rig, Wanted, channel, close_all, describe, expect, run};
use crate::verdict::{Stop, Verdict, failed, skipped};
use drivebay_plugin_api::*;

/// The number of elements of a long list.
const ELEMENTS: usize = 256;

fn data_ops(made: &Made) -> impl Iterator<Item = u16> + '_ {
    let ops = [BAY_OP_READ, BAY_OP_WRITE, BAY_OP_WRITE_ZEROES, BAY_OP_UNMAP];
    ops.into_iter().filter(|op| made.bdev.declares(*op))
}

pub(super) fn edges(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let (end, unit) =
        (made.num_blocks() / made.write_unit() * made.write_unit(), made.write_unit());
    for op in data_ops(&made) {
        for (lba, nblocks) in [(0, unit), (end - unit, unit), (0, end.min(2048 / unit * unit))] {
            expect(&channel, made.io(op, lba, nblocks, 1), "within the bdev", Wanted::SUCCESS)?;
        }
    }
    if made.keeps_data() && made.is_writable() {
        // The last block has other content than the first block and the block before the last.
        for (lba, byte) in [(0, 0x11), (end - 2 * unit, 0x22), (end - unit, 0x33)] {
            let write = made.io(BAY_OP_WRITE, lba, unit, byte);
            expect(&channel, write, "within the bdev", Wanted::SUCCESS)?;
        }
        for (lba, byte) in [(0, 0x11), (end - 2 * unit, 0x22), (end - unit, 0x33)] {
            let read = made.io(BAY_OP_READ, lba, unit, 0);
            let ended = expect(&channel, read, "within the bdev", Wanted::SUCCESS)?;
            if let Some(other) = ended.io.data.iter().find(|found| **found != byte) {
                let seen = format!("bytes {other:#04x}");
                return failed(format!("block {lba} holds bytes {byte:#04x}"), seen);
            }
        }
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

/// Ranges that reach past the end.
fn beyond(made: &Made) -> [(u64, u64); 5] {
    let (end, unit) = (made.num_blocks(), made.write_unit());
    [
        (end, unit),
        (end - unit, 2 * unit),
        (end + 1_000_000 * unit, unit),
        (u64::MAX / unit * unit, unit),
        // If the multiplication wrapped around, its first byte would be at 0 or just above.
        ((u64::MAX / u64::from(made.block_size()) / unit + 1) * unit, unit),
    ]
}

pub(super) fn past_the_end(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    for op in data_ops(&made) {
        for (lba, nblocks) in beyond(&made) {
            let io = made.io(op, lba, nblocks, 1);
            expect(&channel, io, "past the end", Wanted::Status(-libc::EINVAL))?;
        }
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

pub(super) fn past_the_end_at_module(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    if !made.keeps_data() {
        let verdict = skipped("the bdev keeps no data (BAY_BDEV_NO_DATA), so it cannot damage any");
        return rig.delete(made).and(verdict);
    }
    let ios: Vec<Io> = data_ops(&made)
        .filter(|op| *op != BAY_OP_UNMAP)
        .flat_map(|op| beyond(&made).map(|(lba, nblocks)| made.io(op, lba, nblocks, 1)))
        .collect();
    let ended = run_at_module(&made.bdev, rig.lane(), ios)
        .map_err(|why| Stop::failed("the module completes every I/O", why))?;
    for ended in ended {
        if ended.status >= 0 {
            return failed(
                format!("the module refuses {}, past its end", describe(&ended.io)),
                format!("it ended with {}", status_name(ended.status)),
            );
        }
    }
    rig.delete(made)
}

/// One element for each block, and elements of different lengths.
pub(super) fn many_elements(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let size = made.block_size() as usize;
    let unit = made.write_unit();
    let many = (ELEMENTS as u64).min(made.num_blocks()) / unit * unit;
    let len = usize::try_from(many).unwrap_or(0) * size;
    let by_block = vec![size; len / size];
    let unlike = vec![size / 2, len - size, size - size / 2];
    let contents: Vec<u8> = (0..=250).cycle().take(len).collect();
    for (pieces, what) in [(by_block, "a block per element"), (unlike, "elements of any length")] {
        if made.is_writable() {
            let write = Io::new(BAY_OP_WRITE, 0, many).with(contents.clone());
            expect(&channel, write.in_pieces(pieces.clone()), what, Wanted::SUCCESS)?;
        }
        let read = made.io(BAY_OP_READ, 0, many, 0).in_pieces(pieces.clone());
        let ended = expect(&channel, read, what, Wanted::SUCCESS)?;
        if made.is_writable() && made.keeps_data() && ended.io.data != contents {
            let at = ended.io.data.iter().zip(&contents).position(|(seen, wrote)| seen != wrote);
            let seen = format!("they differ from byte {} on", at.unwrap_or(0));
            return failed(format!("{what}: what was written is read"), seen);
        }
        if made.is_writable() {
            let zero = made.io(BAY_OP_WRITE, 0, many, 0);
            expect(&channel, zero, "one element", Wanted::SUCCESS)?;
        }
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

/// I/O without blocks or without elements is refused. Elements of length 0 are allowed.
pub(super) fn nothing(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let channel = channel(&made, rig.lane())?;
    let refused = Wanted::Status(-libc::EINVAL);
    expect(&channel, Io::new(BAY_OP_READ, 0, 0), "no block", refused)?;
    expect(&channel, Io::new(BAY_OP_READ, 0, 1), "no element", refused)?;
    let block = made.block_size() as usize;
    let with_empty = made.io(BAY_OP_READ, 0, 1, 0).in_pieces(vec![0, block, 0]);
    let ended = run(&channel, vec![with_empty], 1)?;
    if ended.iter().any(|ended| ended.status != 0) {
        return failed("a list may hold empty elements", "the read failed");
    }
    close_all(vec![channel])?;
    rig.delete(made)
}

/// The I/O must complete once, with any status.
pub(super) fn nothing_at_module(rig: &mut Rig<'_>) -> Verdict {
    let made = rig.make()?;
    let nothing = vec![Io::new(BAY_OP_READ, 0, 0), Io::new(BAY_OP_WRITE, 0, 0)];
    let declared = nothing.into_iter().filter(|io| made.bdev.declares(io.op)).collect();
    run_at_module(&made.bdev, rig.lane(), declared)
        .map_err(|why| Stop::failed("the module completes an I/O without blocks once", why))?;
    rig.delete(made)
}
