//! The path of a command: from the fabric to the bdev and back, or to the app thread.

use super::pieces::{Kind, SHORT_BYTES};
use super::reservation;
use super::{ConnectRequest, LocalNamespace, Nvmf, Phase, copy, finish};
use crate::io::{self, Plan};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_sdk::nvmf::protocol::{Qpair, Request, Transfer};
use drivebay_spec_nvme::fabrics::ConnectData;
use drivebay_spec_nvme::opcode::{self, fabrics};
use drivebay_spec_nvme::{Command, Status, nvm};
use std::collections::VecDeque;
use std::rc::Rc;

/// Maximum number of bytes of data that an admin command reads: those of a feature.
const ADMIN_DATA_MAX: usize = 4096;
/// The status for a namespace that does not exist or is being removed.
const GONE: Status = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();

/// Executes a request of a queue.
#[inline]
pub(super) fn exec(qpair: &Qpair<Nvmf>, request: Request<Nvmf>) {
    let queue = qpair.state();
    let command = Command::parse(request.command());
    match queue.phase.get() {
        Phase::Io if command.opcode() == opcode::FABRICS => of_io_queue(qpair, request, &command),
        Phase::Io => io(qpair, request, &command),
        Phase::Admin => forward(qpair, request, command),
        Phase::New if is_connect(&command) => connect(qpair, request, command),
        Phase::New | Phase::Connecting | Phase::Ended => {
            finish(request, Status::COMMAND_SEQUENCE_ERROR.with_dnr(), 0);
        }
    }
}

fn is_connect(command: &Command) -> bool {
    command.opcode() == opcode::FABRICS && command.fctype() == fabrics::CONNECT
}

fn connect(qpair: &Qpair<Nvmf>, request: Request<Nvmf>, command: Command) {
    let data = request.read_data(ConnectData::LEN);
    if data.len() != ConnectData::LEN || request.transfer() != Transfer::FromHost {
        return finish(request, Status::DATA_SGL_LENGTH_INVALID.with_dnr(), 0);
    }
    qpair.state().phase.set(Phase::Connecting);
    let (local, peer) = qpair.addresses();
    let transport_id = qpair.transport_id();
    let group = qpair.group();
    let ticket = group.park(qpair, request);
    let connect = ConnectRequest { ticket, command, data, transport_id, local, peer };
    group.app.send(move |app| app.connect(connect));
}

/// Sends an admin command to the app thread, which owns the controllers.
fn forward(qpair: &Qpair<Nvmf>, request: Request<Nvmf>, command: Command) {
    let (group, len) = (qpair.group(), request.len());
    let data = match request.transfer() {
        Transfer::FromHost => request.read_data(ADMIN_DATA_MAX),
        Transfer::None | Transfer::ToHost => Vec::new(),
    };
    let ticket = group.park(qpair, request);
    group.app.send(move |app| app.admin(ticket, &command, len, &data));
}

fn of_io_queue(qpair: &Qpair<Nvmf>, request: Request<Nvmf>, command: &Command) {
    match command.fctype() {
        fabrics::DISCONNECT => {
            finish(request, Status::SUCCESS, 0);
            qpair.close();
        }
        fabrics::CONNECT => finish(request, Status::COMMAND_SEQUENCE_ERROR.with_dnr(), 0),
        _ => finish(request, Status::INVALID_OPCODE.with_dnr(), 0),
    }
}

#[inline]
fn io(qpair: &Qpair<Nvmf>, request: Request<Nvmf>, command: &Command) {
    let queue = qpair.state();
    let mut request = Some(request);
    if let Some(subsystem) = queue.subsystem() {
        subsystem.with(command.nsid(), |namespace| {
            // A namespace that is being removed does not take the request, so it is completed with GONE below.
            if namespace.is_ending() {
                return;
            }
            if let Some(status) = queue.access().and_then(|access| access.refusal(namespace)) {
                if let Some(request) = request.take() {
                    finish(request, status, 0);
                }
                return;
            }
            if let Some(request) = request.take() {
                start(qpair, namespace, request, command);
            }
        });
    }
    if let Some(request) = request {
        finish(request, GONE, 0);
    }
}

#[inline]
fn start(
    qpair: &Qpair<Nvmf>,
    namespace: &Rc<LocalNamespace>,
    mut request: Request<Nvmf>,
    command: &Command,
) {
    let queue = qpair.state();
    if reservation::forbids(namespace, &request) {
        return finish(request, Status::RESERVATION_CONFLICT.with_dnr(), 0);
    }
    let max_len = queue.max_io_size.get();
    let geometry = namespace.geometry.get();
    let durable = |durable| if durable { IoFlags::FUA } else { IoFlags::NONE };
    let (op, flags) = match io::plan(command, &geometry, request.len(), max_len) {
        Ok(Plan::Read(range)) => {
            if geometry.keeps_no_data {
                request.send_zeroes(); // Send zeroes: the bdev does not fill the memory, which still holds data of its last owner.
            }
            (Op::Read(range), IoFlags::NONE)
        }
        Ok(Plan::Write(range, fua)) => (Op::Write(range), durable(fua)),
        Ok(Plan::Compare(range)) => (Op::Compare(range), IoFlags::NONE),
        Ok(Plan::WriteZeroes(range, fua)) => {
            return write_zeroes(namespace, request, range, durable(fua));
        }
        Ok(Plan::Flush) => (Op::Flush, IoFlags::NONE),
        Ok(Plan::Deallocate(ranges)) => return deallocate(namespace, request, ranges),
        Ok(Plan::Copy(command)) => return begin_copy(namespace, request, command),
        Ok(Plan::Nothing) => return finish(request, Status::SUCCESS, 0),
        Ok(Plan::Reservation) => return reservation::forward(qpair, request, command),
        Err(status) => return finish(request, status, 0),
    };
    namespace.submit(op, flags, request, ended);
}

/// The bdev has executed a command.
#[inline]
fn ended(mut request: Request<Nvmf>, result: IoResult) {
    leave(&request, LocalNamespace::leave);
    if result.status.is_success() && request.transfer() == Transfer::ToHost {
        let len = request.len();
        request.set_response_len(len);
    }
    end(request, result);
}

/// Unmaps the ranges of a Dataset Management piece by piece.
fn deallocate(namespace: &Rc<LocalNamespace>, request: Request<Nvmf>, num_ranges: usize) {
    let data = request.read_data(num_ranges * nvm::DsmRange::LEN);
    let geometry = namespace.geometry.get();
    match io::deallocate(&data, &geometry, namespace.limits.unmap_blocks) {
        Ok(ranges) => begin_long(request, namespace, Kind::Unmap, ranges),
        Err(status) => finish(request, status, 0),
    }
}

/// Checks the ranges of a Copy and starts it.
fn begin_copy(namespace: &Rc<LocalNamespace>, request: Request<Nvmf>, command: nvm::CopyCommand) {
    let data = request.read_data(command.num_ranges() * nvm::CopyRange::LEN);
    match io::copy(command, &data, &namespace.geometry.get()) {
        Ok(plan) => copy::begin(request, namespace, plan),
        Err(status) => finish(request, status, 0),
    }
}

/// Writes zeroes. A long command is done piece by piece.
fn write_zeroes(
    namespace: &Rc<LocalNamespace>,
    request: Request<Nvmf>,
    range: Range,
    flags: IoFlags,
) {
    let block_size = namespace.geometry.get().block_size;
    let len = range.nblocks * u64::from(block_size);
    if len > namespace.limits.zeroes_bytes {
        return finish(request, Status::INVALID_FIELD.with_dnr(), 0);
    }
    if len > SHORT_BYTES {
        return begin_long(request, namespace, Kind::WriteZeroes(flags), [range]);
    }
    namespace.submit(Op::WriteZeroes(range), flags, request, ended);
}

fn begin_long(
    request: Request<Nvmf>,
    namespace: &Rc<LocalNamespace>,
    kind: Kind,
    ranges: impl Into<VecDeque<Range>>,
) {
    let chores = Rc::clone(&request.qpair().group().chores);
    chores.long.borrow_mut().begin(request, namespace, kind, ranges);
}

/// The status with which a command of several steps ends before its next step, because its queue or its namespace has ended, or because a
/// new reservation forbids the command. `None` when the step may begin.
pub(super) fn stop_status(request: &Request<Nvmf>, namespace: &LocalNamespace) -> Option<Status> {
    if request.qpair().state().phase.get() == Phase::Ended {
        return Some(Status::ABORTED_SQ_DELETION);
    }
    if namespace.is_ending() {
        return Some(GONE);
    }
    reservation::forbids(namespace, request).then_some(Status::RESERVATION_CONFLICT.with_dnr())
}

/// Runs `leave`, which counts an I/O as ended, with the namespace of a request.
#[inline]
pub(super) fn leave<V>(
    request: &Request<Nvmf>,
    leave: impl FnOnce(&Rc<LocalNamespace>) -> V,
) -> Option<V> {
    let [_, _, _, _, nsid @ .., _, _, _, _] = *request.command().first_chunk::<12>()?;
    request.qpair().state().subsystem()?.with(u32::from_le_bytes(nsid), leave)
}

#[inline]
pub(super) fn end(request: Request<Nvmf>, result: IoResult) {
    let [opcode, ..] = *request.command();
    let counter = &request.qpair().group().counters.completed;
    counter.set(counter.get() + 1);
    if let (true, Some(counts)) = (result.status.is_success(), request.qpair().state().counts()) {
        match opcode {
            opcode::nvm::READ => counts.count_read(request.len()),
            opcode::nvm::WRITE => counts.count_write(request.len()),
            _ => {}
        }
    }
    finish(request, io::nvme_status(opcode, result), 0);
}
