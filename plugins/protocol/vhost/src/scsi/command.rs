//! Commands: a request of the driver becomes I/O, and the result becomes a response.

use super::service::Service;
use super::target::Target;
use crate::device::{Taken, finish};
use drivebay_scsi::{Data, Device, Io, Next, Offered, PIECE_LEN, Task, TaskKey};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op};
use drivebay_sdk::buf::{self, Buf};
use drivebay_spec_scsi::Status;
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_vhost::scsi::{REQUEST_LEN, RESPONSE_LEN, Request, Response, response};
use std::rc::Rc;
use std::sync::Arc;

/// Maximum number of I/Os of one command at the same time, so that long commands take a bounded share of memory and of a round.
const PIECES_MAX: u32 = 8;

/// A command in flight.
pub(super) struct Command {
    request: Taken,
    pub(super) task: Task,
    pub(super) target: Rc<Target>,
    pub(super) tag: u64,
    /// The lengths of the data from the driver and of the data for it, in bytes.
    out_len: u32,
    in_len: u32,
    /// The response to send instead of the status.
    response: Option<u8>,
}

/// Commands in flight, by key. A key has the number of a slot and counts its uses, so an old key finds nothing.
#[derive(Default)]
pub(super) struct Commands {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

#[derive(Default)]
struct Slot {
    uses: u32,
    command: Option<Command>,
}

/// An I/O that has ended.
pub(super) enum Piece {
    /// With memory of the guest.
    Guest(Part, IoResult),
    /// With memory of the host.
    Own(Box<Own>, IoResult),
}

/// An I/O with a part of the guest's memory. It can be reused, and has no state while it is unused.
pub(super) type Part = Box<drivebay_virtio::Request<Option<InFlight>>>;

/// The owner of an I/O.
pub(super) struct InFlight {
    service: Rc<Service>,
    key: TaskKey,
    io: Io,
    /// Whether it compares the data that was written.
    compares: bool,
}

/// An I/O with memory of the host.
pub(super) struct Own {
    buf: Buf,
    in_flight: InFlight,
}

impl AsMut<Buf> for Own {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

impl Commands {
    /// Adds the command that `make` creates for its key.
    fn insert(&mut self, make: impl FnOnce(TaskKey) -> Command) -> TaskKey {
        let at = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let Some(slot) = self.slots.get_mut(at) else { return TaskKey(u64::MAX) };
        slot.uses = slot.uses.wrapping_add(1);
        let key = TaskKey(u64::from(slot.uses) << 32 | at as u64);
        slot.command = Some(make(key));
        key
    }

    fn slot(&mut self, key: TaskKey) -> Option<&mut Slot> {
        let (uses, at) = (key.0 >> 32, usize::try_from(key.0 & 0xffff_ffff).ok()?);
        self.slots.get_mut(at).filter(|slot| u64::from(slot.uses) == uses)
    }

    pub(super) fn get_mut(&mut self, key: TaskKey) -> Option<&mut Command> {
        self.slot(key)?.command.as_mut()
    }

    fn remove(&mut self, key: TaskKey) -> Option<Command> {
        let command = self.slot(key)?.command.take()?;
        self.free.extend(usize::try_from(key.0 & 0xffff_ffff));
        Some(command)
    }

    /// The keys of the commands that `is_meant` accepts.
    pub(super) fn keys(&self, is_meant: impl Fn(&Command) -> bool) -> Vec<TaskKey> {
        let found = self.slots.iter().enumerate().filter_map(|(at, slot)| {
            let command = slot.command.as_ref()?;
            is_meant(command).then(|| TaskKey(u64::from(slot.uses) << 32 | at as u64))
        });
        found.collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.free.len() == self.slots.len()
    }
}

impl Service {
    /// Begins a command.
    pub(super) fn begin(self: &Rc<Self>, request: Taken) {
        let mut header = [0; REQUEST_LEN];
        let has_header = request.chain.read(0, &mut header);
        let in_len = request.chain.writable_len().checked_sub(RESPONSE_LEN as u64);
        let (true, Some(in_len), Some(parsed)) = (has_header, in_len, Request::parse(&header))
        else {
            return finish(request, 0);
        };
        let target = parsed.address.and_then(|address| self.target(address.target));
        let target = target.filter(|target| !target.is_leaving());
        let (Some(target), Some(address)) = (target, parsed.address) else {
            return respond(
                request,
                0,
                &Response { response: response::BAD_TARGET, ..Response::default() },
            );
        };
        let bounded = |len: u64| u32::try_from(len).unwrap_or(u32::MAX);
        let out_len = bounded(request.chain.readable_len() - REQUEST_LEN as u64);
        let in_len = bounded(in_len);
        target.num_commands.set(target.num_commands.get() + 1);
        let key = self.commands.borrow_mut().insert(|key| {
            let offered = Offered { out_len, in_len };
            let mut device = target.device.borrow_mut();
            let task = device.begin(target.nexus, address.lun, &parsed.cdb, offered, key);
            drop(device);
            Command { request, task, target, tag: parsed.tag, out_len, in_len, response: None }
        });
        self.advance(key);
    }

    /// Carries out the steps of a command until it must wait or ends.
    pub(super) fn advance(self: &Rc<Self>, key: TaskKey) {
        loop {
            let mut commands = self.commands.borrow_mut();
            let Some(command) = commands.get_mut(key) else { return };
            let next = command.task.step(&command.target.device.borrow());
            match next {
                Next::Receive(len) => command.receive(len),
                // A command that writes waits for its turn, which `end` of another command gives it.
                Next::Io(io) if !command.task.is_admitted() => return command.task.put_back(&io),
                // The end of another I/O continues this command.
                Next::Io(io) if command.task.in_flight() > PIECES_MAX => {
                    return command.task.put_back(&io);
                }
                Next::Io(io) => {
                    if !self.submit_piece(key, command, io) {
                        return;
                    }
                }
                Next::Wait => return,
                Next::End => {
                    drop(commands);
                    return self.end(key);
                }
            }
        }
    }

    /// Submits an I/O of a command. Returns false when memory is short; then the next round continues the command.
    fn submit_piece(self: &Rc<Self>, key: TaskKey, command: &mut Command, io: Io) -> bool {
        let in_flight = InFlight { service: Rc::clone(self), key, io, compares: false };
        if io.data == Data::Own {
            let Some(buf) = buf::get(io.len) else {
                command.task.put_back(&io);
                self.ready.borrow_mut().push_back(key);
                return false;
            };
            let mut own = Box::new(Own { buf, in_flight });
            if matches!(io.op, Op::Read(_)) && command.target.keeps_no_data {
                own.buf.fill(0);
            }
            command.task.prepare(&mut own.buf);
            command.target.channel.submit(io.op, io.flags, own, own_ended);
            return true;
        }
        let mut part = self.part(command);
        if !command.lend(&mut part, &io) {
            command.task.forget_io();
            command.fail(response::OVERRUN, Sense::illegal(asc::INVALID_FIELD_IN_CDB));
            self.free.borrow_mut().push(part);
            return true;
        }
        part.state = Some(in_flight);
        command.target.channel.submit(io.op, io.flags, part, part_ended);
        true
    }

    /// Gets an I/O context for the memory of a command's request.
    fn part(&self, command: &Command) -> Part {
        let memory = command.request.memory();
        match self.free.borrow_mut().pop() {
            Some(part) if Arc::ptr_eq(part.memory(), memory) => part,
            _ => drivebay_virtio::Request::new(Arc::clone(memory), None),
        }
    }

    /// Continues the command of an I/O that has ended.
    pub(super) fn piece_ended(self: &Rc<Self>, piece: Piece) {
        let key = match piece {
            Piece::Guest(mut part, result) => {
                let Some(in_flight) = part.state.take() else { return };
                let InFlight { key, io, compares, .. } = in_flight;
                let mut commands = self.commands.borrow_mut();
                let Some(command) = commands.get_mut(key) else { return };
                let is_written = io.verify && !compares && result.status.is_success();
                if let (true, Op::Write(range)) = (is_written, io.op) {
                    part.state = Some(InFlight { compares: true, ..in_flight });
                    let channel = &command.target.channel;
                    return channel.submit(Op::Compare(range), IoFlags::NONE, part, part_ended);
                }
                command.task.ended(&io, result, None);
                self.free.borrow_mut().push(part);
                key
            }
            Piece::Own(own, result) => {
                let InFlight { key, io, .. } = &own.in_flight;
                if let Some(command) = self.commands.borrow_mut().get_mut(*key) {
                    command.task.ended(io, result, Some(&own.buf));
                }
                *key
            }
        };
        self.advance(key);
    }

    /// Responds to a command that has ended.
    fn end(&self, key: TaskKey) {
        let Some(command) = self.commands.borrow_mut().remove(key) else { return };
        let Command { request, mut task, target, out_len, in_len, response, .. } = command;
        let mut device = target.device.borrow_mut();
        device.finish(&mut task);
        while let Some(next) = device.turn(task.gate_unit()) {
            if let Some(next) = self.commands.borrow_mut().get_mut(next) {
                Device::admitted(&mut next.task);
            }
            self.ready.borrow_mut().push_back(next);
        }
        drop(device);
        let wanted = task.wanted();
        let mut outcome = task.into_outcome();
        outcome.data.truncate(usize::try_from(in_len).unwrap_or(usize::MAX));
        let _ = request.chain.write(RESPONSE_LEN as u64, &outcome.data); // `truncate` made it fit
        let expected = out_len.max(in_len);
        let is_good = matches!(outcome.status, Status::Good | Status::ConditionMet);
        let moved = if is_good { wanted.min(expected.into()) } else { 0 };
        let told = Response {
            response: response.unwrap_or(response::OK),
            status: outcome.status as u8,
            residual: expected - u32::try_from(moved).unwrap_or(expected),
            sense: &outcome.sense,
        };
        respond(request, moved.min(in_len.into()), &told);
        target.num_commands.set(target.num_commands.get() - 1);
        self.drop_if_left(&target);
    }
}

impl Command {
    /// Reads the parameter list.
    fn receive(&mut self, len: u32) {
        if len > PIECE_LEN {
            let sense = Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
            return self.fail(response::OK, sense);
        }
        let mut list = vec![0; usize::try_from(len).unwrap_or(0)];
        if !self.request.chain.read(REQUEST_LEN as u64, &mut list) {
            return self.fail(response::OVERRUN, Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
        }
        self.target.device.borrow_mut().received(&mut self.task, &list);
    }

    /// Lends the guest's memory to an I/O. Returns false when the request has less memory than the I/O needs.
    fn lend(&self, part: &mut Part, io: &Io) -> bool {
        let len = u64::from(io.len);
        match io.data {
            Data::In(at) => {
                part.lend_writable_of(&self.request, RESPONSE_LEN as u64 + u64::from(at), len)
            }
            Data::Out(at) => {
                part.lend_readable_of(&self.request, REQUEST_LEN as u64 + u64::from(at), len)
            }
            Data::None | Data::Own => {
                part.lend_nothing();
                true
            }
        }
    }

    /// Fails the command. It begins no more I/Os, and ends when those in flight have ended.
    fn fail(&mut self, response: u8, sense: Sense) {
        self.response = (response != response::OK).then_some(response);
        self.task.fail(sense);
    }

    /// Fails the command for a task management function.
    pub(super) fn abort(&mut self) {
        self.fail(response::ABORTED, Sense::new(Key::AbortedCommand, asc::NONE));
    }
}

fn part_ended(part: Part, result: IoResult) {
    let Some(service) = part.state.as_ref().map(|state| Rc::clone(&state.service)) else { return };
    service.ended.borrow_mut().push(Piece::Guest(part, result));
}

fn own_ended(own: Box<Own>, result: IoResult) {
    let service = Rc::clone(&own.in_flight.service);
    service.ended.borrow_mut().push(Piece::Own(own, result));
}

/// Writes the response in front of `data_len` bytes of data, and gives the request back.
fn respond(request: Taken, data_len: u64, response: &Response<'_>) {
    let is_written = request.chain.write(0, &response.to_bytes());
    finish(request, if is_written { RESPONSE_LEN as u64 + data_len } else { 0 });
}
