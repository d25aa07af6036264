//! Arrays that can lose members, on the bus. raid1 and raid10 are here: a write goes to every copy of a block, a read
//! to one of them. `parity` implements raid5f, `row_io` raid5 and raid6.

use crate::arrays;
use crate::lane::{Begun, Lane};
use crate::profile::Profile;
use crate::shared::Shared;
use drivebay_sdk::App;
use drivebay_sdk::bdev::Closing;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::runtime::Resident;
use drivebay_sdk::serde_json::{Map, Value};
use drivebay_spec_raid::MemberSet;
use std::rc::Rc;
use std::sync::Arc;

/// An array that can lose members.
#[derive(Debug)]
pub struct Redundant {
    pub(crate) profile: Profile,
    pub(crate) shared: Arc<Shared>,
}

/// One thread's channel of the array. `[reactor]`
#[derive(Debug)]
pub struct RedundantChannel(Rc<Lane>);

impl Bdev for Redundant {
    type Params = NoParams;
    type Channel = RedundantChannel;
    const OPS: OpSet = OpSet::READ_WRITE;
    const PRODUCT: &'static str = "Raid Volume";
    const BURSTS: bool = true;
    const JOINS: bool = true;
    const IO_STATE_LEN: usize = size_of::<Begun>();

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::new(errno::EOPNOTSUPP, "create arrays with bdev_raid_create"))
    }

    fn name(&self) -> &str {
        &self.profile.name
    }

    fn geometry(&self) -> Geometry {
        self.profile.geometry
    }

    fn describe(&self, registration: &mut Registration) {
        self.profile.describe(registration);
        // I/O that waits in a lane can be aborted.
        registration.ops = registration.ops.with(OpSet::ABORT);
    }

    fn open_channel(&self) -> Result<RedundantChannel> {
        let make = |views: &_| {
            Resident::here_with(Lane::new(&self.shared, views, self.profile.geometry.block_size())?)
        };
        let lane = self.shared.enter(make)?.here();
        let lane = lane.ok_or_else(|| Error::new(errno::EIO, "a channel is not on its thread"))?;
        Ok(RedundantChannel(lane))
    }

    fn close_channel(&self, channel: RedundantChannel, closing: Closing) {
        channel.0.close();
        drop(channel);
        drop(closing);
    }

    fn submit(&self, channel: &mut RedundantChannel, io: BdevIo) {
        channel.0.submit(io, 0);
    }

    fn joined(&self, channel: &mut RedundantChannel, io: BdevIo, result: IoResult) {
        channel.0.joined(io, result);
    }

    fn flush(&self, channel: &mut RedundantChannel) {
        channel.0.flush();
    }

    fn driver_specific(&self) -> Map<String, Value> {
        arrays::driver_specific(&self.profile.name)
    }
}

impl Lane {
    /// Begins an I/O with the current members.
    pub(crate) fn submit(self: &Rc<Self>, io: BdevIo, tries: u8) {
        match io.op() {
            Op::Write(range) | Op::Unmap(range) | Op::WriteZeroes(range)
                if !self.may_write(range) =>
            {
                self.wait_for_marks(io, range);
            }
            Op::Read(range) if self.shared.rows.is_some() => self.read_row(io, range, tries),
            Op::Write(range) if self.shared.rows.is_some() => {
                self.begin_row(io, range, tries, MemberSet::default());
            }
            Op::Read(range) if self.strips.is_some() => self.read_stripe(io, range, tries, None),
            Op::Write(range) if self.strips.is_some() => self.write_stripe(io, range, tries),
            Op::Read(range) => self.read(io, range, 0, None),
            Op::Write(range) => self.write(io, range, tries),
            Op::Unmap(range) => self.send_runs(io, range, tries, Op::Unmap),
            Op::WriteZeroes(range) => self.send_runs(io, range, tries, Op::WriteZeroes),
            Op::Flush | Op::Reset => self.send_all(io, tries),
            Op::Abort(id) => io.complete(self.abort(id)),
            _ => io.complete(Status::NOT_SUPPORTED),
        }
    }

    /// Reads from the member with the fewest blocks in flight or, after a failure on a slot, from the next slot.
    fn read(&self, mut io: BdevIo, range: Range, tries: u8, after: Option<u8>) {
        let bases = self.bases.borrow();
        let copies = bases.layout.copies(range.lba);
        let mut there = copies.filter(|place| bases.readable(place.member).is_some());
        let is_torn = self.shared.marks.as_ref().is_some_and(|marks| marks.is_torn(range));
        let chosen = match after {
            // While copies may differ, all reads go to the same copy.
            None if is_torn => there.next(),
            None => there.min_by_key(|place| bases.reading(place.member)),
            Some(slot) => there.min_by_key(|place| (place.member <= slot, place.member)),
        };
        let Some(place) = chosen else { return io.complete(Status::IO_ERROR) };
        let Some(base) = bases.get(place.member) else { return io.complete(Status::IO_ERROR) };
        self.begin(&mut io, Begun { tries, slot: place.member, ..Begun::default() });
        bases.add_reading(place.member, range.nblocks);
        let at = Range::new(base.offset + place.lba, range.nblocks);
        io.fan_out().send_as(place.member, &base.channel, Op::Read(at), 0);
    }

    /// Writes every copy, including the copy of a member that the array is rebuilding.
    fn write(&self, mut io: BdevIo, range: Range, tries: u8) {
        let bases = self.bases.borrow();
        self.begin(&mut io, Begun { tries, ..Begun::default() });
        let mut fan = io.fan_out();
        let layout = &bases.layout;
        for run in layout.runs(range.lba, range.nblocks) {
            let mut is_kept = false;
            for place in layout.copies(run.start) {
                if let Some(base) = bases.get(place.member) {
                    is_kept |= base.is_readable;
                    let at = Range::new(base.offset + place.lba, run.end - run.start);
                    let first = run.start - range.lba;
                    fan.send_as(place.member, &base.channel, Op::Write(at), first);
                }
            }
            if !is_kept {
                fan.fail(Status::IO_ERROR);
            }
        }
    }

    /// Sends an op without data to every member that holds blocks of the range. On each member, the blocks are one run.
    fn send_runs(&self, mut io: BdevIo, range: Range, tries: u8, op: fn(Range) -> Op) {
        let bases = self.bases.borrow();
        self.begin(&mut io, Begun { tries, ..Begun::default() });
        let mut fan = io.fan_out();
        let layout = &bases.layout;
        for (slot, base) in bases.iter() {
            let begin = layout.blocks_before(slot, range.lba);
            let end = layout.blocks_before(slot, range.lba + range.nblocks);
            if begin < end {
                let at = Range::new(base.offset + begin, end - begin);
                fan.send_as(slot, &base.channel, op(at), 0);
            }
        }
        if !bases.hold_all(None) {
            fan.fail(Status::IO_ERROR);
        }
    }

    /// Sends an op without blocks to every member.
    fn send_all(&self, mut io: BdevIo, tries: u8) {
        let bases = self.bases.borrow();
        self.begin(&mut io, Begun { tries, ..Begun::default() });
        let op = io.op();
        let mut fan = io.fan_out();
        for (slot, base) in bases.iter() {
            fan.send_as(slot, &base.channel, op, 0);
        }
    }

    /// Completes an I/O whose children have ended, or sends it again.
    pub(crate) fn joined(self: &Rc<Self>, io: BdevIo, result: IoResult) {
        let begun: Begun = io.state().unwrap_or_default();
        self.end(begun.generation);
        let is_good = result.status.is_success();
        match io.op() {
            _ if begun.row != 0 => self.row_joined(io, begun, result),
            Op::Read(range) if self.shared.rows.is_some() => {
                self.row_read(io, range, begun, result);
            }
            Op::Read(range) if self.strips.is_some() => {
                self.stripe_read(io, range, begun, result);
            }
            Op::Read(range) => {
                self.bases.borrow().add_reading(begun.slot, range.nblocks.wrapping_neg());
                if is_good || result.status == Status::ABORTED {
                    return io.complete_with(result);
                }
                self.read_failed(io, range, begun, result);
            }
            Op::Reset => io.complete_with(result),
            _ if is_good => io.complete_with(result),
            _ => self.failed(io, begun, result),
        }
    }

    /// Reads the next copy, and asks for a repair of the bad one.
    #[cold]
    fn read_failed(&self, io: BdevIo, range: Range, begun: Begun, result: IoResult) {
        let copies = {
            let bases = self.bases.borrow();
            let copies = bases.layout.copies(range.lba);
            copies.filter(|place| bases.readable(place.member).is_some()).count()
        };
        if usize::from(begun.tries) + 1 >= copies {
            return io.complete_with(result);
        }
        self.ask_for_repair(begun.slot, range, result.status);
        self.read(io, range, begun.tries + 1, Some(begun.slot));
    }
}
