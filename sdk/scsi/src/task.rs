//! A command in progress: a state machine that tells its transport what to do next.

use crate::copy::{Copy, Done};
use crate::device::Device;
use crate::gate::{Pass, TaskKey};
use crate::outcome::{Outcome, sense_of};
use crate::{NexusId, data};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::status::Status;
use std::collections::VecDeque;

/// What the transport must do next for a task.
#[derive(Debug, PartialEq, Eq)]
pub enum Next {
    /// Receive the first `len` bytes of data from the initiator, and pass them to [`Device::received`](crate::Device::received).
    Receive(u32),
    /// Submit an I/O, and call [`Task::ended`] when it has ended. If there is memory, ask again at once.
    Io(Io),
    /// Ask again when an I/O has ended, or when [`Device::turn`](crate::Device::turn) returned the task.
    Wait,
    /// End the command: call [`Device::finish`](crate::Device::finish), then answer.
    End,
}

/// One I/O to a bdev of the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Io {
    /// The unit. Only EXTENDED COPY uses other units than the task's own.
    pub unit: u16,
    /// The op with its blocks.
    pub op: Op,
    /// Flags.
    pub flags: IoFlags,
    /// The place of its data.
    pub data: Data,
    /// Length of the data, in bytes.
    pub len: u32,
    /// After the write, the transport compares the same data with the medium. Only then the I/O has ended.
    pub verify: bool,
}

/// The data of an I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Data {
    /// None.
    None,
    /// Data for the initiator, at this offset of the command's data. I/Os come in the order of their offsets.
    In(u32),
    /// Data from the initiator, from this offset of the command's data on.
    Out(u32),
    /// The task's own memory: [`Task::prepare`] fills it before the I/O, [`Task::ended`] reads it afterwards.
    Own,
}

/// A command in progress. [`Device::begin`](crate::Device::begin) creates it.
#[derive(Debug)]
pub struct Task {
    /// The unit.
    pub(crate) unit: u16,
    pub(crate) nexus: NexusId,
    pub(crate) key: TaskKey,
    /// The unit whose gate it passes: the destination for EXTENDED COPY, else its own.
    pub(crate) gate_unit: u16,
    /// How it passes that gate, and whether the gate has admitted it (`true`) or it waits.
    pub(crate) pass: Option<(Pass, bool)>,
    pub(crate) state: State,
    pub(crate) descriptor_sense: bool,
    /// Length of the command's data in bytes, independent of the initiator's expectation.
    pub(crate) wanted: u64,
    in_flight: u32,
    sense: Option<Sense>,
    /// The progress of an EXTENDED COPY.
    pub(crate) copied: Option<Done>,
}

#[derive(Debug)]
pub(crate) enum State {
    /// The task waits for a parameter list of this many bytes.
    List(Command, u32),
    /// The task works on blocks.
    Work(Work),
    /// The task has ended.
    Ended(Outcome),
}

/// The work on blocks that is left.
#[derive(Debug)]
pub(crate) struct Work {
    pub(crate) unit: u16,
    pub(crate) kind: Kind,
    pub(crate) block_len: u32,
    pub(crate) piece_blocks: u32,
    /// The blocks without an I/O so far.
    pub(crate) left: Range,
    /// Offset in the command's data, in bytes.
    pub(crate) offset: u32,
    pub(crate) flags: IoFlags,
}

#[derive(Debug)]
pub(crate) enum Kind {
    Read,
    Write {
        verify: bool,
    },
    /// Compare the initiator's data with the blocks.
    Compare,
    /// Read the blocks, and compare each with this block if there is one.
    Look(Option<Vec<u8>>),
    /// Fill the blocks with copies of this block.
    Fill(Vec<u8>),
    Zero,
    Unmap(VecDeque<Range>),
    Flush,
    /// EXTENDED COPY.
    Copy(Copy),
    /// COMPARE AND WRITE: the expected data and the new data.
    Swap {
        expected: Vec<u8>,
        new: Vec<u8>,
        step: Swap,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Swap {
    Read,
    Write,
}

impl Task {
    pub(crate) fn new(unit: u16, nexus: NexusId, key: TaskKey, descriptor_sense: bool) -> Self {
        let state = State::Ended(Outcome::good());
        Self {
            unit,
            nexus,
            key,
            gate_unit: unit,
            pass: None,
            state,
            descriptor_sense,
            wanted: 0,
            in_flight: 0,
            sense: None,
            copied: None,
        }
    }

    pub(crate) fn ended_with(mut self, outcome: Outcome) -> Self {
        self.wanted = outcome.data.len() as u64;
        self.state = State::Ended(outcome);
        self
    }

    /// The unit that the command addresses.
    #[must_use]
    pub fn unit(&self) -> u16 {
        self.unit
    }

    /// The nexus that sent the command.
    #[must_use]
    pub fn nexus(&self) -> NexusId {
        self.nexus
    }

    /// The unit whose gate it passes. When the task has ended, call [`turn`](crate::Device::turn) for it.
    #[must_use]
    pub fn gate_unit(&self) -> u16 {
        self.gate_unit
    }

    /// Whether the task needs a unit, either as its own or as the source or destination of a copy.
    #[must_use]
    pub fn touches(&self, unit: u16) -> bool {
        let copies = match &self.state {
            State::Work(Work { kind: Kind::Copy(copy), .. }) => copy.touches(unit),
            _ => false,
        };
        self.unit == unit || copies
    }

    /// Length of the command's data in bytes, from which residuals are computed.
    #[must_use]
    pub fn wanted(&self) -> u64 {
        self.wanted
    }

    /// Number of I/Os that have not ended.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Whether its I/Os may be submitted. The transport collects a write's data earlier, so that it blocks no other task's data.
    #[must_use]
    pub fn is_admitted(&self) -> bool {
        !matches!(self.pass, Some((_, false)))
    }

    /// Returns the next step. A returned I/O counts as in flight. `device`: the device of the task.
    pub fn step(&mut self, device: &Device) -> Next {
        let is_admitted = self.is_admitted();
        let work = match &mut self.state {
            State::List(_, len) => return Next::Receive(*len),
            State::Ended(_) => return Next::End,
            State::Work(work) => work,
        };
        if !is_admitted && !matches!(work.kind, Kind::Write { .. }) {
            return Next::Wait;
        }
        if let Kind::Copy(copy) = &work.kind
            && self.sense.is_none()
            && !copy.may_go_on(device, self.nexus)
        {
            self.sense = Some(Sense::new(Key::CopyAborted, asc::THIRD_PARTY_DEVICE_FAILURE));
        }
        match if self.sense.is_some() { None } else { work.next() } {
            Some(io) => {
                self.in_flight += 1;
                Next::Io(io)
            }
            None if self.in_flight > 0 => Next::Wait,
            None => {
                let outcome = match self.sense.take() {
                    Some(sense) => Outcome::check(&sense, self.descriptor_sense),
                    None => Outcome::good(),
                };
                self.state = State::Ended(outcome);
                Next::End
            }
        }
    }

    /// Takes back the last I/O that [`step`](Self::step) returned, because there is no memory for it. `step` returns it again.
    pub fn put_back(&mut self, io: &Io) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let State::Work(work) = &mut self.state {
            work.put_back(io);
        }
    }

    /// Whether all I/Os have succeeded, so that only the status is left.
    #[must_use]
    pub fn is_done(&self) -> bool {
        let has_none_left = match &self.state {
            State::Work(Work { kind: Kind::Unmap(ranges), .. }) => ranges.is_empty(),
            State::Work(Work { kind: Kind::Copy(copy), .. }) => copy.is_done(),
            State::Work(work) => work.left.nblocks == 0,
            State::List(..) | State::Ended(_) => false,
        };
        has_none_left && self.in_flight == 0 && self.sense.is_none()
    }

    /// Drops an I/O that [`step`](Self::step) returned and that is never submitted, because the task has failed.
    pub fn forget_io(&mut self) {
        self.in_flight = self.in_flight.saturating_sub(1);
    }

    /// Fills the task's own memory for an I/O.
    pub fn prepare(&self, memory: &mut [u8]) {
        let State::Work(work) = &self.state else { return };
        match &work.kind {
            Kind::Fill(block) => data::repeat(block, memory),
            Kind::Copy(copy) => copy.prepare(memory),
            Kind::Swap { new, step: Swap::Write, .. } => data::copy(new, memory),
            _ => {}
        }
    }

    /// Handles the end of an I/O. `memory`: the memory of a [`Data::Own`] I/O.
    pub fn ended(&mut self, io: &Io, result: IoResult, memory: Option<&[u8]>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        let is_read = matches!(io.op, Op::Read(_));
        let mut failed = sense_of(result, is_read).or_else(|| self.look(io, memory.unwrap_or(&[])));
        if self.copied.is_some() && failed.is_some() {
            failed = Some(Sense::new(Key::CopyAborted, asc::THIRD_PARTY_DEVICE_FAILURE));
        }
        // The task reports the first failure.
        self.sense = self.sense.or(failed);
    }

    /// Fails the task. It ends with the sense data as soon as its I/Os have ended, and begins no others.
    pub fn fail(&mut self, sense: Sense) {
        self.sense = self.sense.or(Some(sense));
        if self.in_flight == 0 {
            let sense = self.sense.unwrap_or(sense);
            self.state = State::Ended(Outcome::check(&sense, self.descriptor_sense));
        }
    }

    /// Replaces the outcome of a task whose change of reservations was undone.
    pub fn end_with(&mut self, outcome: Outcome) {
        self.state = State::Ended(outcome);
    }

    pub(crate) fn is_good(&self) -> bool {
        matches!(&self.state, State::Ended(Outcome { status: Status::Good, .. }))
    }

    /// The outcome of a task that has ended.
    #[must_use]
    pub fn into_outcome(self) -> Outcome {
        match self.state {
            State::Ended(outcome) => outcome,
            _ => Outcome::of(Status::Busy),
        }
    }

    /// Checks the data that was read into the task's own memory.
    fn look(&mut self, io: &Io, memory: &[u8]) -> Option<Sense> {
        let State::Work(work) = &mut self.state else { return None };
        let miscompare = |at: usize| {
            let sense = Sense::new(Key::Miscompare, asc::MISCOMPARE_DURING_VERIFY);
            Some(sense.with_information(at as u64))
        };
        match &mut work.kind {
            Kind::Copy(copy) => {
                if let (Some((blocks, ends_segment)), Some(done)) =
                    (copy.ended(io, memory), &mut self.copied)
                {
                    done.add(blocks * u64::from(work.block_len), ends_segment);
                }
                None
            }
            Kind::Look(Some(block)) => {
                data::first_difference_from_copies(block, memory).and_then(miscompare)
            }
            Kind::Swap { expected, step, .. } if matches!(io.op, Op::Read(_)) => {
                *step = Swap::Write;
                data::first_difference(expected, memory).and_then(miscompare)
            }
            _ => None,
        }
    }
}

impl Work {
    /// The next I/O; `None` if all were returned, or if the next one must wait for the current one.
    fn next(&mut self) -> Option<Io> {
        if let Kind::Unmap(ranges) = &mut self.kind {
            let range = ranges.pop_front()?;
            return Some(self.without_data(Op::Unmap(range)));
        }
        if let Kind::Copy(copy) = &mut self.kind {
            return copy.next(self.piece_blocks, self.block_len);
        }
        if self.left.nblocks == 0 {
            return None;
        }
        let is_whole = matches!(self.kind, Kind::Flush | Kind::Zero | Kind::Swap { .. });
        let blocks = if is_whole {
            self.left.nblocks
        } else {
            self.left.nblocks.min(self.piece_blocks.into())
        };
        let range = Range::new(self.left.lba, blocks);
        let len = u32::try_from(blocks * u64::from(self.block_len)).unwrap_or(u32::MAX);
        let with = |op, data| {
            Some(Io { unit: self.unit, op, flags: self.flags, data, len, verify: false })
        };
        let io = match &self.kind {
            Kind::Read => with(Op::Read(range), Data::In(self.offset)),
            Kind::Write { verify } => {
                let io = with(Op::Write(range), Data::Out(self.offset));
                io.map(|io| Io { verify: *verify, ..io })
            }
            Kind::Compare => with(Op::Compare(range), Data::Out(self.offset)),
            Kind::Look(_) => with(Op::Read(range), Data::Own),
            Kind::Fill(_) => with(Op::Write(range), Data::Own),
            Kind::Zero => Some(self.without_data(Op::WriteZeroes(range))),
            Kind::Flush => Some(self.without_data(Op::Flush)),
            Kind::Swap { step: Swap::Read, .. } => {
                // `left` keeps the blocks, because the write follows the read.
                return self.swap_read(range, len);
            }
            Kind::Swap { step: Swap::Write, .. } => with(Op::Write(range), Data::Own),
            Kind::Unmap(_) | Kind::Copy(_) => None,
        };
        self.left = Range::new(self.left.lba + blocks, self.left.nblocks - blocks);
        self.offset = self.offset.saturating_add(len);
        io
    }

    /// Returns the read of COMPARE AND WRITE once. `offset` shows whether it was returned.
    fn swap_read(&mut self, range: Range, len: u32) -> Option<Io> {
        if self.offset > 0 {
            return None;
        }
        self.offset = len;
        let (unit, flags) = (self.unit, IoFlags::NONE);
        Some(Io { unit, op: Op::Read(range), flags, data: Data::Own, len, verify: false })
    }

    fn without_data(&self, op: Op) -> Io {
        let (unit, flags) = (self.unit, self.flags);
        Io { unit, op, flags, data: Data::None, len: 0, verify: false }
    }

    fn put_back(&mut self, io: &Io) {
        match (&mut self.kind, io.op) {
            (Kind::Unmap(ranges), Op::Unmap(range)) => ranges.push_front(range),
            (Kind::Copy(copy), _) => copy.put_back(),
            (Kind::Swap { step: Swap::Read, .. }, _) => self.offset = 0,
            (
                _,
                Op::Read(range) | Op::Write(range) | Op::Compare(range) | Op::WriteZeroes(range),
            ) => {
                self.left = Range::new(range.lba, self.left.nblocks + range.nblocks);
                self.offset = self.offset.saturating_sub(io.len);
            }
            (_, Op::Flush) => self.left.nblocks = 1,
            _ => {}
        }
    }
}
