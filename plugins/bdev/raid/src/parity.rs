//! raid5f on its channels. A write is a whole stripe; the lane computes the parity and sends it with the data. If a strip cannot
//! be read, the lane computes it from the other strips of its row.

use crate::lane::{Begun, Lane};
use crate::repair::{self, Fault};
use crate::strips::{Flight, Home, Strip};
use drivebay_sdk::bdev::Buffers;
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::xor_into;
use std::rc::Rc;

/// Bytes of parity to compute at a time: they stay in the first-level cache.
const PARITY_STEP: usize = 16 << 10;

impl Lane {
    /// Writes a stripe: the data strips from the I/O's buffers, the parity from a buffer of the lane.
    pub(crate) fn write_stripe(self: &Rc<Self>, mut io: BdevIo, range: Range, tries: u8) {
        let bases = self.bases.borrow();
        let layout = &*bases.layout;
        let (number, ..) = layout.row_of(range.lba);
        let is_whole = range == Range::new(number * layout.row_blocks(), layout.row_blocks());
        let Some(strips) = self.strips.as_ref().filter(|_| is_whole) else {
            return io.complete(Status::INVALID);
        };
        if !strips.has_room() {
            return strips.wait(io);
        }
        if !bases.hold_all(None) {
            return io.complete(Status::IO_ERROR);
        }
        self.begin(&mut io, Begun { tries, ..Begun::default() });
        let row = layout.row(number);
        let at = |offset: u64| {
            Range::new(offset + number * layout.strip_blocks(), layout.strip_blocks())
        };
        let mut fan = io.fan_out();
        // The parity comes first: the lane must not read the client's buffers after it has sent the data.
        if let Some(base) = bases.get(row.p())
            && let Some(mut strip) = strips.take_with(layout.strip_blocks())
        {
            sum_data(fan.buffers(), &mut strip.buf);
            let child = fan.child_as(row.p());
            strip.flight = Some(Flight { child, lane: Rc::clone(self), home: Home::Sum(0) });
            base.channel.submit(Op::Write(at(base.offset)), fan.flags(), strip, Strip::ended);
        }
        for number in 0..layout.data_strips() {
            let member = row.data(number);
            if let Some(base) = bases.get(member) {
                let from = u64::from(number) * layout.strip_blocks();
                fan.send_as(member, &base.channel, Op::Write(at(base.offset)), from);
            }
        }
    }

    /// Reads blocks of one stripe. Computes the blocks of the slot `avoid`, and those of a missing member or of a rebuild target.
    pub(crate) fn read_stripe(
        self: &Rc<Self>,
        mut io: BdevIo,
        range: Range,
        tries: u8,
        avoid: Option<u8>,
    ) {
        let bases = self.bases.borrow();
        let layout = &*bases.layout;
        let last = range.lba + range.nblocks.saturating_sub(1);
        let is_in_one = layout.row_of(range.lba).0 == layout.row_of(last).0;
        let Some(strips) = self.strips.as_ref().filter(|_| is_in_one) else {
            return io.complete(Status::INVALID);
        };
        let base_of = |slot: u8| bases.readable(slot).filter(|_| Some(slot) != avoid);
        // Each member has at most one run of the blocks.
        let runs = || layout.runs(range.lba, range.nblocks);
        let lost = runs().find(|run| base_of(layout.place(run.start).member).is_none());
        let sum = match &lost {
            None => 0,
            Some(_) if !layout.survives(|slot| base_of(slot).is_none()) => {
                return io.complete(Status::IO_ERROR);
            }
            // A crash interrupted a write of these blocks, so their sum may be neither the old nor the new data.
            Some(_) if !self.shared.may_compute(range) => return io.complete(Status::MEDIA),
            Some(_) if !strips.has_room() => return strips.wait(io),
            Some(run) => strips.begin_sum(run.start - range.lba),
        };
        self.begin(&mut io, Begun { tries, sum, ..Begun::default() });
        let mut fan = io.fan_out();
        for run in runs().filter(|run| Some(run) != lost.as_ref()) {
            let place = layout.place(run.start);
            if let Some(base) = base_of(place.member) {
                let at = Range::new(base.offset + place.lba, run.end - run.start);
                fan.send_as(place.member, &base.channel, Op::Read(at), run.start - range.lba);
            }
        }
        let Some(lost) = lost else { return };
        let place = layout.place(lost.start);
        let nblocks = lost.end - lost.start;
        for slot in (0..layout.members()).filter(|slot| *slot != place.member) {
            let (Some(base), Some(mut strip)) = (base_of(slot), strips.take()) else { continue };
            strip.buf.set_len(strips.len_of(nblocks));
            let child = fan.child_as(slot);
            strip.flight = Some(Flight { child, lane: Rc::clone(self), home: Home::Sum(sum) });
            let at = Range::new(base.offset + place.lba, nblocks);
            base.channel.submit(Op::Read(at), IoFlags::NONE, strip, Strip::ended);
        }
    }

    /// Completes a read whose children have ended, or sends it again to compute the blocks that a member could not read.
    pub(crate) fn stripe_read(
        self: &Rc<Self>,
        io: BdevIo,
        range: Range,
        begun: Begun,
        result: IoResult,
    ) {
        let is_good = result.status.is_success();
        if let Some(strips) = &self.strips {
            strips.end_sum(begun.sum, &io, is_good);
        }
        let failed = io.first_failed().filter(|_| begun.tries == 0 && begun.sum == 0);
        match failed {
            Some(slot) if !is_good && result.status != Status::ABORTED => {
                if self.shared.may_compute(range) {
                    self.ask_for_repair(slot, range, result.status);
                }
                self.read_stripe(io, range, 1, Some(slot));
            }
            _ => io.complete_with(result),
        }
        self.resume();
    }

    /// Asks for a repair of blocks that a member could not read.
    #[cold]
    pub(crate) fn ask_for_repair(&self, slot: u8, range: Range, status: Status) {
        let bases = self.bases.borrow();
        if let Some(base) = bases.get(slot).filter(|_| status != Status::errno(errno::ENODEV)) {
            // Without room, the next read of the blocks asks again.
            repair::ask(&self.shared, Fault::Unreadable(base.serial), range);
        }
    }
}

/// Computes the parity of a stripe.
fn sum_data(data: Buffers<'_>, parity: &mut [u8]) {
    let strip_len = parity.len();
    let strips = data.len() / strip_len.max(1);
    for (step, sum) in parity.chunks_mut(PARITY_STEP).enumerate() {
        for number in 0..strips {
            let len = sum.len();
            let mut rest = &mut *sum;
            data.look_at(number * strip_len + step * PARITY_STEP, len, &mut |seen| {
                let (now, later) = std::mem::take(&mut rest).split_at_mut(seen.len());
                match number {
                    0 => now.copy_from_slice(seen),
                    _ => xor_into(now, seen),
                }
                rest = later;
            });
        }
    }
}
