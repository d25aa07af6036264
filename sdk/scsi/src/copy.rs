//! EXTENDED COPY: blocks move between units of the device without passing through the initiator. SPC-4, section 5.17.
//!
//! The initiator names units by their designators. Only those of this device are found, so no command reaches what the nexus
//! cannot address. Everything is checked before the first block is copied; reservations are checked again before each I/O.

use crate::device::{Begun, Device};
use crate::inquire;
use crate::outcome::Outcome;
use crate::reserve::Access;
use crate::task::{Data, Io, Kind, Task};
use crate::{NexusId, data, plan};
use drivebay_sdk::bdev::{IoFlags, Op, Range};
use drivebay_spec_scsi::copy::{Limits, Named, Parameters, Progress, Segment, encode_status};
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::status::Status;
use std::collections::VecDeque;

/// The limits of commands, as RECEIVE COPY OPERATING PARAMETERS and the Third-party Copy page report them. A device executes at most
/// `copies` commands at once: each has a piece of data in memory. A unit keeps the status of as many.
pub(crate) const LIMITS: Limits =
    Limits { devices: 8, segments: 64, segment_len: 512 << 20, copies: 64 };

/// A copy of blocks from one unit to another, or within a unit.
#[derive(Debug)]
pub(crate) struct Copy {
    left: VecDeque<Run>,
    step: Step,
    /// Data that was read and is not written yet.
    held: Vec<u8>,
}

/// The rest of a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Run {
    /// Source: unit and first block.
    from: (u16, u64),
    /// Destination: unit and first block.
    to: (u16, u64),
    blocks: u64,
}

impl Run {
    /// Whether the copy runs from the end to the start, so that it writes no block of an overlap before it has read it.
    fn is_backward(&self) -> bool {
        self.from.0 == self.to.0 && self.from.1 < self.to.1
    }

    /// Whether reservations let a nexus read the source and write the destination.
    fn is_allowed(&self, device: &Device, nexus: NexusId) -> bool {
        let identity = device.nexuses.get(&nexus);
        let mut both = [(self.from.0, Access::Read), (self.to.0, Access::Write)].into_iter();
        both.all(|(unit, access)| {
            let unit = device.unit(unit);
            unit.is_some_and(|unit| unit.reservations.allows(nexus, identity, access))
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Read,
    Reading,
    Write,
    Writing,
}

impl Copy {
    /// Whether it reads from or writes to a unit.
    pub(crate) fn touches(&self, unit: u16) -> bool {
        self.left.iter().any(|run| run.from.0 == unit || run.to.0 == unit)
    }

    /// Whether everything was copied.
    pub(crate) fn is_done(&self) -> bool {
        self.left.is_empty()
    }

    /// Whether reservations admit the next I/O. Another nexus may have reserved a unit since the copy began.
    pub(crate) fn may_go_on(&self, device: &Device, nexus: NexusId) -> bool {
        let has_next = matches!(self.step, Step::Read | Step::Write);
        !has_next || self.left.front().is_none_or(|run| run.is_allowed(device, nexus))
    }

    /// The next I/O, of at most `piece_blocks` blocks of `block_len` bytes; `None` while one is in flight.
    pub(crate) fn next(&mut self, piece_blocks: u32, block_len: u32) -> Option<Io> {
        let run = self.left.front()?;
        let blocks = run.blocks.min(piece_blocks.into());
        let offset = if run.is_backward() { run.blocks - blocks } else { 0 };
        let (unit, op) = match self.step {
            Step::Read => (run.from.0, Op::Read(Range::new(run.from.1 + offset, blocks))),
            Step::Write => (run.to.0, Op::Write(Range::new(run.to.1 + offset, blocks))),
            Step::Reading | Step::Writing => return None,
        };
        self.step = if self.step == Step::Read { Step::Reading } else { Step::Writing };
        let len = u32::try_from(blocks * u64::from(block_len)).unwrap_or(u32::MAX);
        Some(Io { unit, op, flags: IoFlags::NONE, data: Data::Own, len, verify: false })
    }

    /// Takes back the I/O that [`next`](Self::next) returned.
    pub(crate) fn put_back(&mut self) {
        self.step = match self.step {
            Step::Reading | Step::Read => Step::Read,
            Step::Writing | Step::Write => Step::Write,
        };
    }

    /// Fills the memory of a write.
    pub(crate) fn prepare(&self, memory: &mut [u8]) {
        if self.step == Step::Writing {
            data::copy(&self.held, memory);
        }
    }

    /// Handles the success of an I/O. For a write, returns the number of copied blocks, and whether they end their segment.
    pub(crate) fn ended(&mut self, io: &Io, memory: &[u8]) -> Option<(u64, bool)> {
        if let Op::Read(_) = io.op {
            self.held.clear();
            self.held.extend_from_slice(memory);
            self.step = Step::Write;
            return None;
        }
        let Op::Write(range) = io.op else { return None };
        self.step = Step::Read;
        let run = self.left.front_mut()?;
        if !run.is_backward() {
            run.from.1 += range.nblocks;
            run.to.1 += range.nblocks;
        }
        run.blocks = run.blocks.saturating_sub(range.nblocks);
        let is_end = run.blocks == 0;
        if is_end {
            self.left.pop_front();
        }
        Some((range.nblocks, is_end))
    }
}

/// The copies of a unit whose status their initiators can request.
#[derive(Debug, Default)]
pub(crate) struct Copies(Vec<Tracked>);

#[derive(Debug)]
struct Tracked {
    nexus: NexusId,
    list: u8,
    progress: Progress,
    done: Done,
}

/// The progress of a copy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Done {
    /// The list identifier for status requests.
    list: Option<u8>,
    segments: u16,
    len: u64,
}

impl Done {
    /// Counts `len` bytes that were copied.
    pub(crate) fn add(&mut self, len: u64, ends_segment: bool) {
        self.len += len;
        self.segments += u16::from(ends_segment);
    }
}

impl Copies {
    fn begin(&mut self, nexus: NexusId, list: u8) -> Result<(), Outcome> {
        if let Some(at) = self.find(nexus, list) {
            if self.0.get(at).is_some_and(|copy| copy.progress == Progress::InProgress) {
                return Err(Outcome::check(&Sense::illegal(asc::OPERATION_IN_PROGRESS), false));
            }
            self.0.remove(at);
        }
        if self.0.len() >= usize::from(LIMITS.copies) {
            // Drop the oldest ended copy when the list is full.
            let ended = self.0.iter().position(|copy| copy.progress != Progress::InProgress);
            self.0.remove(ended.ok_or_else(|| Outcome::of(Status::TaskSetFull))?);
        }
        let (progress, done) = (Progress::InProgress, Done::default());
        self.0.push(Tracked { nexus, list, progress, done });
        Ok(())
    }

    /// Records the end of a copy.
    pub(crate) fn end(&mut self, nexus: NexusId, done: Done, is_good: bool) {
        let found = done.list.and_then(|list| self.find(nexus, list));
        if let Some(copy) = found.and_then(|at| self.0.get_mut(at)) {
            copy.progress = if is_good { Progress::Completed } else { Progress::Failed };
            copy.done = done;
        }
    }

    /// The data of RECEIVE COPY STATUS. A copy in progress reports no blocks. The status of an ended copy is removed.
    pub(crate) fn status(&mut self, nexus: NexusId, list: u8) -> Result<Vec<u8>, Sense> {
        let at = self.find(nexus, list).ok_or(Sense::invalid_cdb(2, None))?;
        let missing = Sense::invalid_cdb(2, None);
        let copy = self.0.get(at).ok_or(missing)?;
        let status = encode_status(copy.progress, copy.done.segments, copy.done.len).to_vec();
        if copy.progress != Progress::InProgress {
            self.0.remove(at);
        }
        Ok(status)
    }

    /// Removes the copies of a nexus that has ended.
    pub(crate) fn forget(&mut self, nexus: NexusId) {
        self.0.retain(|copy| copy.nexus != nexus);
    }

    fn find(&self, nexus: NexusId, list: u8) -> Option<usize> {
        self.0.iter().position(|copy| copy.nexus == nexus && copy.list == list)
    }
}

/// Begins an EXTENDED COPY whose parameter list has arrived.
pub(crate) fn receive(device: &mut Device, task: &mut Task, list: &[u8]) -> Result<Begun, Sense> {
    let Parameters { list, devices, segments } = Parameters::parse(list, &LIMITS)?;
    let units: Vec<Option<u16>> = devices.iter().map(|named| find(device, named)).collect();
    let mut left = VecDeque::new();
    for segment in segments {
        let run = run(device, &units, segment)?;
        if run.blocks > 0 {
            left.push_back(run);
        }
    }
    let Some(to) = left.front().map(|run| run.to.0) else {
        return Ok(Begun::Ended(Outcome::good()));
    };
    if left.iter().any(|run| run.to.0 != to) {
        // A task passes one gate, so a copy has one destination unit.
        return Err(Sense::invalid_parameter(8, None));
    }
    if !left.iter().all(|run| run.is_allowed(device, task.nexus)) {
        return Ok(Begun::Ended(Outcome::of(Status::ReservationConflict)));
    }
    let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
    if device.unit(to).ok_or(missing)?.is_protected() {
        return Err(Sense::new(Key::DataProtect, asc::WRITE_PROTECTED));
    }
    if device.copying >= LIMITS.copies.into() {
        return Ok(Begun::Ended(Outcome::of(Status::TaskSetFull)));
    }
    let own = device.units.get_mut(&task.unit).ok_or(missing)?;
    if let Some(list) = list
        && let Err(outcome) = own.copies.begin(task.nexus, list)
    {
        return Ok(Begun::Ended(outcome));
    }
    let copy = Copy { left, step: Step::Read, held: Vec::new() };
    let destination = device.unit(to).ok_or(missing)?;
    let work = plan::work(destination, Kind::Copy(copy), Range::new(0, 0), false);
    device.copying += 1;
    task.copied = Some(Done { list, ..Done::default() });
    task.gate_unit = to;
    Ok(Begun::Work(work, 0))
}

/// The unit of this device that a designator names.
fn find(device: &Device, named: &Named) -> Option<u16> {
    if named.is_null {
        return None;
    }
    let mut designator = named.designator.clone();
    if let [code_set, kind, ..] = designator.as_mut_slice() {
        // PROTOCOL IDENTIFIER and PIV mean nothing here.
        (*code_set, *kind) = (*code_set & 0x0f, *kind & 0x3f);
    }
    let mut units = device.units.iter();
    units.find(|(_, unit)| inquire::designator(&unit.disk) == designator).map(|(unit, _)| *unit)
}

/// Checks a segment against its units.
fn run(device: &Device, units: &[Option<u16>], segment: Segment) -> Result<Run, Sense> {
    let aborted = |code| Sense::new(Key::CopyAborted, code);
    let unit = |number: u16| {
        let unit = units.get(usize::from(number)).copied().flatten();
        let found = unit.and_then(|unit| Some((unit, &device.unit(unit)?.disk)));
        found.ok_or(aborted(asc::COPY_TARGET_DEVICE_NOT_REACHABLE))
    };
    let ((from, source), (to, destination)) = (unit(segment.source)?, unit(segment.destination)?);
    if source.block_len != destination.block_len {
        return Err(aborted(asc::INCORRECT_COPY_TARGET_DEVICE_TYPE));
    }
    let blocks = u64::from(segment.blocks);
    let fits = |lba: u64, len: u64| lba.checked_add(blocks).is_some_and(|end| end <= len);
    let is_inside = fits(segment.source_lba, source.blocks)
        && fits(segment.destination_lba, destination.blocks)
        && blocks <= destination.cover_max().into();
    if !is_inside {
        return Err(aborted(asc::NONE));
    }
    Ok(Run { from: (from, segment.source_lba), to: (to, segment.destination_lba), blocks })
}
