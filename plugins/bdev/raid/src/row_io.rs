//! raid5 and raid6 on their channels: writes of parts of rows, and reads of strips that no member can read.
//!
//! ```text
//! read old strips ─▶ compute ─▶ log: each member's part ─▶ flush ─▶ write the parts ─▶ flush ─▶ acknowledge
//! ```
//!
//! The row is locked from the first step to the last. All strips of an I/O are the same blocks of their members: those that a
//! write to one strip changes, or the whole strip for a longer I/O.

use crate::bases::{Base, Bases};
use crate::copy;
use crate::lane::{Begun, Lane, Verdict};
use crate::row_plan::{Plan, Work};
use crate::strips::{Flight, Home, Strip};
use drivebay_sdk::bdev::{Buffers, IoId};
use drivebay_sdk::prelude::*;
use drivebay_spec_raid::{LogEntry, MemberSet, add_data, fill_parity, recover};
use std::rc::Rc;

/// Number of a row I/O of a lane, from 1; 0 = none.
pub(crate) type RowId = u16;

/// An I/O that has locked a row.
#[derive(Debug, Default)]
pub(crate) struct RowIo {
    plan: Plan,
    /// Slots whose members could not read their strips.
    avoid: MemberSet,
    step: Step,
    /// The lane's generation when the I/O locked the row. It stays in use until the last step, so that a drain waits for all steps.
    generation: u8,
    /// Buffers that the I/O has reserved and does not use yet.
    #[expect(clippy::vec_box, reason = "an I/O takes the box as its context")]
    reserved: Vec<Box<Strip>>,
    /// By slot: strips that were read, and then the members' parts of a write.
    strips: Vec<Option<Box<Strip>>>,
    /// The members that the write writes to.
    parts: MemberSet,
    is_used: bool,
}

/// What the children of a row I/O are doing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Step {
    #[default]
    Read,
    Log,
    FlushLog,
    Write,
    FlushParts,
}

impl Step {
    fn next(self) -> Option<Self> {
        match self {
            Self::Read => Some(Self::Log),
            Self::Log => Some(Self::FlushLog),
            Self::FlushLog => Some(Self::Write),
            Self::Write => Some(Self::FlushParts),
            Self::FlushParts => None,
        }
    }
}

impl Lane {
    /// Reads blocks of one row from their members. Computes them if a member cannot read its blocks.
    pub(crate) fn read_row(self: &Rc<Self>, mut io: BdevIo, range: Range, tries: u8) {
        let bases = self.bases.borrow();
        let layout = &*bases.layout;
        if !layout.is_in_one_row(range.lba, range.nblocks) {
            return io.complete(Status::INVALID);
        }
        let runs = || layout.runs(range.lba, range.nblocks);
        if runs().any(|run| bases.readable(layout.place(run.start).member).is_none()) {
            drop(bases);
            return self.begin_row(io, range, tries, MemberSet::default());
        }
        self.begin(&mut io, Begun { tries, ..Begun::default() });
        let mut fan = io.fan_out();
        for run in runs() {
            let place = layout.place(run.start);
            if let Some(base) = bases.get(place.member) {
                let at = Range::new(base.offset + place.lba, run.end - run.start);
                fan.send_as(place.member, &base.channel, Op::Read(at), run.start - range.lba);
            }
        }
    }

    /// Completes a read whose members have answered, or computes the blocks that one could not read.
    pub(crate) fn row_read(
        self: &Rc<Self>,
        io: BdevIo,
        range: Range,
        begun: Begun,
        result: IoResult,
    ) {
        let failed = io.first_failed().filter(|_| result.status != Status::ABORTED);
        match failed {
            Some(slot) if !result.status.is_success() && begun.tries == 0 => {
                if self.shared.may_compute(self.whole_row(range)) {
                    self.ask_for_repair(slot, range, result.status);
                }
                self.begin_row(io, range, 1, [slot].into_iter().collect());
            }
            _ => io.complete_with(result),
        }
    }

    /// All blocks of the row of an I/O. A row may lie in several regions, and the mark of a write to any strip tells that the parity of
    /// the whole row may be wrong.
    fn whole_row(&self, range: Range) -> Range {
        copy::whole_rows(&self.bases.borrow().layout, range)
    }

    /// Locks the row of an I/O and begins it, or lets it wait.
    pub(crate) fn begin_row(
        self: &Rc<Self>,
        io: BdevIo,
        range: Range,
        tries: u8,
        avoid: MemberSet,
    ) {
        let (Some(strips), Some(rows)) = (&self.strips, &self.shared.rows) else {
            return io.complete(Status::IO_ERROR);
        };
        let is_write = matches!(io.op(), Op::Write(_));
        let row = self.whole_row(range);
        let is_synced = self.shared.marks.as_ref().is_none_or(|marks| !marks.is_torn(row));
        let plan = Plan::new(&self.bases.borrow(), range, is_write, is_synced, avoid);
        let plan = match plan {
            Ok(plan) => plan,
            Err(status) => return io.complete(status),
        };
        // A crash left the row with strips that may not agree.
        let has_bad_strip = avoid != MemberSet::default();
        let computes_client_data = plan.work == Work::Recover && (!is_write || has_bad_strip);
        if computes_client_data && !self.shared.may_compute(row) {
            return io.complete(Status::MEDIA);
        }
        if !strips.has_room() {
            return strips.wait(io);
        }
        if !rows.lock(plan.number) {
            return self.unlocked.borrow_mut().push(io);
        }
        let id = self.add_row_io(plan, is_write, avoid);
        self.read_strips(io, id, tries);
    }

    /// Takes all buffers that the I/O may need, so that it cannot run out of them after it has begun.
    fn add_row_io(&self, plan: Plan, is_write: bool, avoid: MemberSet) -> RowId {
        let mut row_ios = self.row_ios.borrow_mut();
        let free = row_ios.iter().position(|row| !row.is_used).unwrap_or(row_ios.len());
        if free == row_ios.len() {
            row_ios.push(RowIo::default());
        }
        if let Some(row) = row_ios.get_mut(free) {
            let members = usize::from(self.bases.borrow().layout.members());
            row.strips.resize_with(members, || None);
            (row.plan, row.avoid, row.step) = (plan, avoid, Step::Read);
            (row.parts, row.is_used) = (MemberSet::default(), true);
            row.generation = self.enter_generation();
            // A reconstruct-write computes the parities in further buffers.
            let computes_parity = is_write && plan.work != Work::Modify;
            let needed = if computes_parity { members } else { plan.reads.iter().count() };
            let buffers =
                self.strips.iter().flat_map(|strips| (0..needed).map_while(|_| strips.take()));
            row.reserved.extend(buffers);
        }
        // Each row I/O has at least one buffer, and a channel has at most 32 * 255 of them.
        RowId::try_from(free + 1).unwrap_or(0)
    }

    /// Calls `change` with a row I/O. No other I/O may begin or end meanwhile.
    fn with_row<R>(&self, id: RowId, change: impl FnOnce(&mut RowIo) -> R) -> Option<R> {
        let mut row_ios = self.row_ios.borrow_mut();
        usize::from(id).checked_sub(1).and_then(|place| row_ios.get_mut(place)).map(change)
    }

    /// Keeps a strip that a member has read or written.
    pub(crate) fn keep_strip(&self, id: RowId, slot: u8, strip: Box<Strip>) {
        let keep = |row: &mut RowIo| match row.strips.get_mut(usize::from(slot)) {
            Some(place) => place.replace(strip),
            None => Some(strip),
        };
        let left = self.with_row(id, keep).flatten();
        if let (Some(strips), Some(left)) = (&self.strips, left) {
            strips.give(left);
        }
    }

    fn read_strips(self: &Rc<Self>, mut io: BdevIo, id: RowId, tries: u8) {
        let Some(strips) = &self.strips else { return io.complete(Status::IO_ERROR) };
        let bases = self.bases.borrow();
        let Some(plan) = self.with_row(id, |row| row.plan) else {
            return io.complete(Status::IO_ERROR);
        };
        self.begin(&mut io, Begun { tries, row: id, ..Begun::default() });
        let mut fan = io.fan_out();
        let lba = plan.number * bases.layout.strip_blocks() + plan.first;
        for slot in plan.reads.iter() {
            let reserved = self.with_row(id, |row| row.reserved.pop()).flatten();
            let (Some(base), Some(mut strip)) = (bases.get(slot), reserved) else {
                fan.fail(Status::IO_ERROR);
                continue;
            };
            strip.buf.set_len(strips.len_of(plan.nblocks));
            let child = fan.child_as(slot);
            strip.flight = Some(Flight { child, lane: Rc::clone(self), home: Home::Row(id, slot) });
            let at = Range::new(base.offset + lba, plan.nblocks);
            base.channel.submit(Op::Read(at), IoFlags::NONE, strip, Strip::ended);
        }
    }

    /// The children of a row I/O have ended.
    pub(crate) fn row_joined(self: &Rc<Self>, io: BdevIo, begun: Begun, result: IoResult) {
        let Some(step) = self.with_row(begun.row, |row| row.step) else {
            return io.complete(Status::IO_ERROR);
        };
        match (result.status.is_success(), step) {
            (false, Step::Read) => self.strips_not_read(io, begun, result),
            (false, Step::Log | Step::FlushLog) => {
                // No member has changed the row. The I/O begins again after the failure is on record.
                self.end_row(begun.row);
                self.failed(io, Begun { row: 0, ..begun }, result);
                self.resume();
            }
            (false, Step::Write | Step::FlushParts) => self.parts_failed(io, begun, result),
            (true, Step::Read) => self.compute(io, begun),
            (true, _) => match step.next() {
                Some(next) => self.send_parts(io, begun, next),
                None => self.finish_row(io, begun.row, IoResult::new(Status::SUCCESS)),
            },
        }
    }

    /// Releases the row and the buffers of an I/O and completes it.
    fn finish_row(self: &Rc<Self>, io: BdevIo, id: RowId, result: IoResult) {
        self.end_row(id);
        io.complete_with(result);
        self.resume();
    }

    fn end_row(self: &Rc<Self>, id: RowId) {
        let Some(strips) = &self.strips else { return };
        let end = |row: &mut RowIo| {
            let held = row.strips.iter_mut().filter_map(Option::take);
            held.chain(row.reserved.drain(..)).for_each(|strip| strips.give(strip));
            row.is_used = false;
            (row.plan.number, row.generation)
        };
        if let Some((number, generation)) = self.with_row(id, end) {
            self.shared.unlock_row(number);
            self.end(generation);
        }
    }

    /// A member could not read its strip: computes it from the others. The I/O fails after more bad strips than the row has parities.
    #[cold]
    fn strips_not_read(self: &Rc<Self>, io: BdevIo, begun: Begun, result: IoResult) {
        let mut avoid = self.with_row(begun.row, |row| row.avoid).unwrap_or_default();
        let most = usize::from(self.bases.borrow().layout.level().parities());
        let may_retry = avoid.iter().count() < most;
        let slot = io.first_failed().filter(|_| result.status != Status::ABORTED);
        match (slot, io.op()) {
            (Some(slot), Op::Read(range) | Op::Write(range)) if may_retry => {
                self.end_row(begun.row);
                if self.shared.may_compute(self.whole_row(range)) {
                    self.ask_for_repair(slot, range, result.status);
                }
                // The array may have cleared the mark of the region meanwhile.
                if matches!(io.op(), Op::Write(_)) && !self.may_write(range) {
                    self.wait_for_marks(io, range);
                } else {
                    avoid.insert(slot);
                    self.begin_row(io, range, 1, avoid);
                }
                self.resume();
            }
            _ => self.finish_row(io, begun.row, result),
        }
    }

    /// Computes what a row I/O needs from the strips that were read.
    fn compute(self: &Rc<Self>, io: BdevIo, begun: Begun) {
        let computed = {
            let bases = self.bases.borrow();
            let compute = |row: &mut RowIo| self.compute_row(&bases, row, &io);
            self.with_row(begun.row, compute).flatten()
        };
        match (computed, io.op()) {
            (Some(()), Op::Write(_)) => self.send_parts(io, begun, Step::Log),
            (Some(()), _) => self.finish_row(io, begun.row, IoResult::new(Status::SUCCESS)),
            (None, _) => self.finish_row(io, begun.row, IoResult::new(Status::IO_ERROR)),
        }
    }

    /// `None` if too few strips were read.
    fn compute_row(&self, bases: &Bases, row: &mut RowIo, io: &BdevIo) -> Option<()> {
        let layout = &*bases.layout;
        let strips = self.strips.as_ref()?;
        let RowIo { plan, strips: held, parts, reserved, .. } = row;
        let mut unused = || {
            let mut strip = reserved.pop()?;
            strip.buf.set_len(strips.len_of(plan.nblocks));
            Some(strip)
        };
        let roles = layout.row(plan.number);
        if plan.work == Work::Recover && !recover(roles, held) {
            return None;
        }
        let (Op::Read(range) | Op::Write(range)) = io.op() else { return None };
        let is_write = matches!(io.op(), Op::Write(_));
        for run in layout.runs(range.lba, range.nblocks) {
            let (_, number, offset) = layout.row_of(run.start);
            let slot = usize::from(roles.data(number));
            let at = strips.len_of(run.start - range.lba) as usize;
            let from = strips.len_of(offset - plan.first) as usize;
            let end = from + strips.len_of(run.end - run.start) as usize;
            if !is_write {
                io.buffers().fill_at(at, held.get(slot)?.as_ref()?.buf.get(from..end)?);
                continue;
            }
            parts.insert(roles.data(number));
            let mut strip = match held.get_mut(slot)?.take() {
                Some(strip) => strip,
                None => unused()?,
            };
            let mut change_parity = |strip: &Strip| {
                if plan.work != Work::Modify {
                    return;
                }
                for parity in roles.parities() {
                    let Some(Some(sum)) = held.get_mut(usize::from(parity)) else { continue };
                    let sum = Some(&mut *sum.buf);
                    let (p, q) = if parity == roles.p() { (sum, None) } else { (None, sum) };
                    add_data(p, q, number, &strip.buf);
                }
            };
            change_parity(&strip);
            copy_from(io.buffers(), at, strip.buf.get_mut(from..end)?);
            change_parity(&strip);
            *held.get_mut(slot)? = Some(strip);
        }
        if !is_write {
            return Some(());
        }
        for parity in roles.parities().filter(|slot| bases.get(*slot).is_some()) {
            let slot = usize::from(parity);
            if plan.work == Work::Modify {
                // A parity that was not read belongs to a member that has joined since, and its rebuild comes to the row later.
                if matches!(held.get(slot), Some(Some(_))) {
                    parts.insert(parity);
                }
                continue;
            }
            parts.insert(parity);
            let mut sum = match held.get_mut(slot)?.take() {
                Some(sum) => sum,
                None => unused()?,
            };
            if !fill_parity(roles, roles.role(parity), held, &mut sum.buf) {
                return None;
            }
            *held.get_mut(slot)? = Some(sum);
        }
        // The other buffers are not needed any more.
        let others = (0_u8..).zip(held).filter(|(slot, _)| !parts.contains(*slot));
        let others = others.filter_map(|(_, strip)| strip.take());
        others.chain(reserved.drain(..)).for_each(|strip| strips.give(strip));
        Some(())
    }

    /// Sends the members' parts of a write to the log or to their places, or flushes them.
    fn send_parts(self: &Rc<Self>, mut io: BdevIo, begun: Begun, step: Step) {
        let bases = self.bases.borrow();
        let begin = |row: &mut RowIo| {
            row.step = step;
            (row.plan, row.parts)
        };
        let Some((plan, parts)) = self.with_row(begun.row, begin) else {
            return io.complete(Status::IO_ERROR);
        };
        self.begin(&mut io, begun);
        let mut fan = io.fan_out();
        if !bases.hold_all(None) {
            fan.fail(Status::IO_ERROR);
            return;
        }
        let there = || parts.iter().filter_map(|slot| Some((slot, bases.get(slot)?)));
        let mut entry = match (step, &self.shared.rows) {
            (Step::Log, Some(rows)) => Some(LogEntry {
                array: self.shared.uuid,
                row: plan.number,
                change: rows.next_change(),
                member: 0,
                members: there().map(|(slot, _)| slot).collect(),
                first: u32::try_from(plan.first).unwrap_or(0),
                len: 0,
            }),
            _ => None,
        };
        for (slot, base) in there() {
            match step {
                Step::FlushLog | Step::FlushParts if base.is_cached => {
                    fan.send_as(slot, &base.channel, Op::Flush, 0);
                }
                Step::Log | Step::Write => {
                    let take = |row: &mut RowIo| row.strips.get_mut(usize::from(slot))?.take();
                    let Some(mut strip) = self.with_row(begun.row, take).flatten() else {
                        fan.fail(Status::IO_ERROR);
                        continue;
                    };
                    let at = match &mut entry {
                        Some(entry) => self.seal(entry, slot, &plan, &mut strip),
                        None => self.place(&bases, base, &plan, &mut strip),
                    };
                    let child = fan.child_as(slot);
                    let home = Home::Row(begun.row, slot);
                    strip.flight = Some(Flight { child, lane: Rc::clone(self), home });
                    base.channel.submit(Op::Write(at), IoFlags::NONE, strip, Strip::ended);
                }
                _ => {}
            }
        }
    }

    /// Puts the header of a log entry behind the blocks of a part. Returns where the entry goes on its member.
    fn seal(&self, entry: &mut LogEntry, slot: u8, plan: &Plan, strip: &mut Strip) -> Range {
        let (Some(strips), Some(rows)) = (&self.strips, &self.shared.rows) else {
            return Range::new(0, 0);
        };
        let len = strips.len_of(plan.nblocks);
        (entry.member, entry.len) = (slot, len);
        let header_len = u32::try_from(rows.log.header_len()).unwrap_or(0);
        strip.buf.set_len(len + header_len);
        if let Some((blocks, header)) = strip.buf.split_at_mut_checked(len as usize) {
            entry.write(header, blocks);
        }
        let header_at = rows.log.header_at(rows.log.slot_of(plan.number));
        let block_size = u64::from(strips.len_of(1));
        let nblocks = u64::from(header_len) / block_size;
        Range::new(header_at / block_size - plan.nblocks, plan.nblocks + nblocks)
    }

    /// Where a part goes on its member.
    fn place(&self, bases: &Bases, base: &Base, plan: &Plan, strip: &mut Strip) -> Range {
        if let Some(strips) = &self.strips {
            strip.buf.set_len(strips.len_of(plan.nblocks));
        }
        let lba = plan.number * bases.layout.strip_blocks() + plan.first;
        Range::new(base.offset + lba, plan.nblocks)
    }

    /// A member could not write or flush its part. Other members may have written theirs, so the I/O keeps the row and its parts,
    /// and the lane sends the parts again to the members that remain.
    #[cold]
    fn parts_failed(self: &Rc<Self>, io: BdevIo, begun: Begun, result: IoResult) {
        match self.judge(&io, begun, result) {
            Verdict::Again { tries } => {
                self.send_parts(io, Begun { tries, ..begun }, Step::Write);
            }
            Verdict::Hold => self.held_rows.borrow_mut().push(io),
            Verdict::Repaired => self.finish_row(io, begun.row, result),
            Verdict::Final => {
                self.note_torn(&io);
                self.finish_row(io, begun.row, result);
            }
        }
    }

    /// Sends the parts again that wait for the record of a failure.
    pub(crate) fn send_held_rows(self: &Rc<Self>) {
        let mut held = self.held_rows.take();
        while let Some(io) = held.pop() {
            let begun: Begun = io.state().unwrap_or_default();
            self.send_parts(io, Begun { tries: 0, ..begun }, Step::Write);
        }
    }

    /// Fails the I/O whose parts wait for the record of a failure.
    pub(crate) fn fail_held_rows(self: &Rc<Self>) {
        let mut held = self.held_rows.take();
        while let Some(io) = held.pop() {
            self.fail_held_row(io, Status::IO_ERROR);
        }
    }

    fn fail_held_row(self: &Rc<Self>, io: BdevIo, status: Status) {
        let begun: Begun = io.state().unwrap_or_default();
        self.note_torn(&io);
        self.finish_row(io, begun.row, IoResult::new(status));
    }

    /// Begins the I/O again that waits for rows.
    pub(crate) fn resume_rows(self: &Rc<Self>) {
        let mut waiting = self.unlocked.take();
        while let Some(io) = waiting.pop() {
            self.submit(io, 0);
        }
        self.flush();
    }

    /// Aborts an I/O that waits for a row, or for the record of a failure. Returns whether there is one.
    pub(crate) fn abort_row(self: &Rc<Self>, id: IoId) -> bool {
        let unlocked = self.unlocked.borrow_mut().remove(id);
        if let Some(io) = unlocked {
            io.complete(Status::ABORTED);
            return true;
        }
        let held = self.held_rows.borrow_mut().remove(id);
        let is_held = held.is_some();
        held.into_iter().for_each(|io| self.fail_held_row(io, Status::ABORTED));
        is_held
    }
}

/// Copies bytes of an I/O from `at` on.
fn copy_from(buffers: Buffers<'_>, at: usize, to: &mut [u8]) {
    let len = to.len();
    let mut rest = to;
    buffers.look_at(at, len, &mut |seen| {
        let (now, later) = std::mem::take(&mut rest).split_at_mut(seen.len());
        now.copy_from_slice(seen);
        rest = later;
    });
}
