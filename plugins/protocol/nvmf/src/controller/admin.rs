//! Admin commands, and the Fabrics commands of a connected admin queue.

use super::property::{self, Effect};
use super::{Controller, Ticket, events, features, identify, log_page};
use crate::model::{ControllerKind, Model};
use drivebay_spec_nvme::admin::{Abort, GetFeatures, GetLogPage, Identify, SetFeatures};
use drivebay_spec_nvme::command::Fuse;
use drivebay_spec_nvme::fabrics::{PropertyGet, PropertySet};
use drivebay_spec_nvme::feature::fid;
use drivebay_spec_nvme::identify::LEN;
use drivebay_spec_nvme::log::lid;
use drivebay_spec_nvme::opcode::{self, admin, fabrics};
use drivebay_spec_nvme::{Command, NSID_ALL, Status};

/// The status when the controller has ended. The host may connect again and then retry, so Do Not Retry is not set.
pub const GONE: Status = Status::COMMAND_SEQUENCE_ERROR;

/// The answer to a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status.
    pub status: Status,
    /// DW0 and DW1 of the completion.
    pub result: u64,
    /// Data for the host; may be empty.
    pub data: Vec<u8>,
}

/// The outcome of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It completes.
    Answer(Answer),
    /// It waits for an event.
    Waits,
    /// It completes. The controller's I/O queues end, and these requests are aborted.
    AndReset(Answer, Vec<Ticket>),
    /// It completes, and this other request is aborted.
    AndAbort(Answer, Ticket),
}

/// A command of an admin queue.
#[derive(Clone, Copy, Debug)]
pub struct Received<'a> {
    /// Name of the subsystem.
    pub nqn: &'a str,
    /// Identifier of the controller.
    pub cntlid: u16,
    /// Names the request.
    pub ticket: Ticket,
    /// The command.
    pub command: &'a Command,
    /// Length of the command's data according to its SGL, in bytes.
    pub len: u32,
    /// The beginning of the data that the host sent: as much as any command reads.
    pub data: &'a [u8],
    /// The time, in nanoseconds.
    pub now_ns: u64,
}

impl Answer {
    /// Success, with DW0.
    pub fn dw0(dw0: u32) -> Self {
        Self { status: Status::SUCCESS, result: dw0.into(), data: Vec::new() }
    }

    /// Success, with data.
    pub fn data(data: Vec<u8>) -> Self {
        Self { status: Status::SUCCESS, result: 0, data }
    }
}

impl From<Status> for Answer {
    fn from(status: Status) -> Self {
        Self { status, result: 0, data: Vec::new() }
    }
}

impl From<Status> for Outcome {
    fn from(status: Status) -> Self {
        Self::Answer(status.into())
    }
}

/// Executes a command of an admin queue. Adds failures to the controller's error log.
pub fn execute(model: &mut Model, received: Received<'_>) -> Outcome {
    let outcome = dispatch(model, received).unwrap_or_else(Outcome::from);
    if let Outcome::Answer(answer) = &outcome
        && !answer.status.is_success()
        && let Some(controller) = controller_of(model, received)
    {
        controller.errors.add(0, received.command, answer.status);
    }
    outcome
}

fn controller_of<'m>(model: &'m mut Model, received: Received<'_>) -> Option<&'m mut Controller> {
    let subsystem = model.subsystems.get_mut(received.nqn)?;
    subsystem.controllers.get_mut(&received.cntlid)
}

fn dispatch(model: &mut Model, received: Received<'_>) -> Result<Outcome, Status> {
    let controller = controller_of(model, received).ok_or(GONE)?;
    controller.heard_ns = received.now_ns;
    let command = received.command;
    if command.opcode() == opcode::FABRICS {
        return of_fabrics(controller, command);
    }
    if !controller.csts.rdy {
        return Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr());
    }
    if command.fuse() != Fuse::Normal {
        return Err(Status::INVALID_FIELD.with_dnr());
    }
    if controller.kind == ControllerKind::Discovery && !is_for_discovery(command.opcode()) {
        return Err(Status::INVALID_OPCODE.with_dnr());
    }
    let answer = match command.opcode() {
        admin::IDENTIFY => identify_data(model, received)?,
        admin::GET_LOG_PAGE => log_page_data(model, received)?,
        admin::GET_FEATURES if is_persistence(command) => persistence(model, received)?,
        admin::GET_FEATURES => feature(controller, received)?,
        admin::SET_FEATURES if is_mask(command) => set_mask(model, received)?,
        admin::SET_FEATURES => {
            let set = SetFeatures::from_command(command);
            Answer::dw0(features::set(controller, set, received.data)?)
        }
        admin::KEEP_ALIVE => Answer::dw0(0),
        admin::ASYNC_EVENT_REQUEST => return async_event_request(controller, received.ticket),
        admin::ABORT => return Ok(abort(controller, Abort::from_command(command))),
        _ => return Err(Status::INVALID_OPCODE.with_dnr()),
    };
    Ok(Outcome::Answer(answer))
}

const fn is_for_discovery(opcode: u8) -> bool {
    matches!(
        opcode,
        admin::IDENTIFY
            | admin::GET_LOG_PAGE
            | admin::GET_FEATURES
            | admin::SET_FEATURES
            | admin::KEEP_ALIVE
            | admin::ASYNC_EVENT_REQUEST
    )
}

fn of_fabrics(controller: &mut Controller, command: &Command) -> Result<Outcome, Status> {
    match command.fctype() {
        fabrics::PROPERTY_GET => {
            let get = PropertyGet::from_command(command).map_err(Status::with_dnr)?;
            let result = property::get(controller, get)?;
            Ok(Outcome::Answer(Answer { status: Status::SUCCESS, result, data: Vec::new() }))
        }
        fabrics::PROPERTY_SET => {
            let set = PropertySet::from_command(command).map_err(Status::with_dnr)?;
            let ends = match property::set(controller, set)? {
                Effect::None | Effect::Enabled => return Ok(Outcome::Answer(Answer::dw0(0))),
                Effect::Reset => controller.reset(),
                Effect::ShutDown => Vec::new(),
            };
            Ok(Outcome::AndReset(Answer::dw0(0), ends))
        }
        // A second Connect is out of sequence. Disconnect is only for I/O queues.
        fabrics::CONNECT => Err(Status::COMMAND_SEQUENCE_ERROR.with_dnr()),
        fabrics::DISCONNECT => Err(Status::INVALID_QUEUE_TYPE.with_dnr()),
        _ => Err(Status::INVALID_OPCODE.with_dnr()),
    }
}

fn identify_data(model: &Model, received: Received<'_>) -> Result<Answer, Status> {
    if (received.len as usize) < LEN {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    let (subsystem, controller) = parts(model, received)?;
    let command = Identify::from_command(received.command);
    let data = identify::identify(subsystem, controller, model.crdt, command)?;
    Ok(Answer::data(data.to_vec()))
}

fn parts<'m>(
    model: &'m Model,
    received: Received<'_>,
) -> Result<(&'m crate::model::Subsystem, &'m Controller), Status> {
    let subsystem = model.subsystems.get(received.nqn).ok_or(GONE)?;
    Ok((subsystem, subsystem.controllers.get(&received.cntlid).ok_or(GONE)?))
}

fn log_page_data(model: &mut Model, received: Received<'_>) -> Result<Answer, Status> {
    let command = GetLogPage::from_command(received.command);
    if u64::from(received.len) < command.length_bytes() {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    let (subsystem, controller) = parts(model, received)?;
    let data = log_page::get(model, subsystem, controller, command)?;
    if let Some(controller) = controller_of(model, received)
        && !command.rae
    {
        controller.events.log_was_read(command.lid);
        match command.lid {
            lid::CHANGED_NAMESPACES => controller.changed_namespaces.clear(),
            lid::RESERVATION_NOTIFICATION => controller.notifications.was_read(),
            _ => {}
        }
    }
    Ok(Answer::data(data))
}

fn feature(controller: &Controller, received: Received<'_>) -> Result<Answer, Status> {
    let value = features::get(controller, GetFeatures::from_command(received.command))?;
    if (received.len as usize) < value.data.len() {
        return Err(Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
    Ok(Answer { data: value.data, ..Answer::dw0(value.dw0) })
}

fn is_persistence(command: &Command) -> bool {
    GetFeatures::from_command(command).fid == fid::RESERVATION_PERSISTENCE
}

/// The feature Reservation Persistence: whether a namespace's reservations outlast a loss of power.
fn persistence(model: &Model, received: Received<'_>) -> Result<Answer, Status> {
    let (subsystem, _) = parts(model, received)?;
    let missing = Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr();
    let namespace = subsystem.namespaces.get(&received.command.nsid()).ok_or(missing)?;
    Ok(Answer::dw0(namespace.reservations.is_persistent.into()))
}

fn is_mask(command: &Command) -> bool {
    SetFeatures::from_command(command).fid == fid::RESERVATION_NOTIFICATION_MASK
}

/// Sets the mask of reservation notifications, for a namespace or for all of them. A host must not make the target keep masks of
/// namespaces that do not exist.
fn set_mask(model: &mut Model, received: Received<'_>) -> Result<Answer, Status> {
    let set = SetFeatures::from_command(received.command);
    let (subsystem, _) = parts(model, received)?;
    if set.nsid != NSID_ALL && !subsystem.namespaces.contains_key(&set.nsid) {
        return Err(Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr());
    }
    let controller = controller_of(model, received).ok_or(GONE)?;
    Ok(Answer::dw0(features::set(controller, set, received.data)?))
}

fn async_event_request(controller: &mut Controller, ticket: Ticket) -> Result<Outcome, Status> {
    match controller.events.request(ticket) {
        events::Answer::Waits => Ok(Outcome::Waits),
        events::Answer::Event(event) => Ok(Outcome::Answer(Answer::dw0(event.to_dw0()))),
        events::Answer::TooMany => Err(Status::ASYNC_EVENT_REQUEST_LIMIT_EXCEEDED.with_dnr()),
    }
}

/// Aborts a waiting Asynchronous Event Request. Other commands are not aborted, because the bus cannot abort them; bit 0 of DW0 says so.
fn abort(controller: &mut Controller, abort: Abort) -> Outcome {
    const NOT_ABORTED: u32 = 1;
    let waiting = (abort.sqid == 0)
        .then(|| controller.events.take(|ticket| ticket.cid == abort.cid))
        .flatten();
    match waiting {
        Some(ticket) => Outcome::AndAbort(Answer::dw0(0), ticket),
        None => Outcome::Answer(Answer::dw0(NOT_ABORTED)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::tests::{ready, ticket};
    use crate::model::tests::model;
    use drivebay_spec_nvme::property::offset;

    const NQN: &str = "nqn.2016-06.io.spdk:cnode1";

    fn model_with(controller: Controller) -> Model {
        let mut model = model();
        let subsystem = model.subsystems.get_mut(NQN).unwrap();
        subsystem.controllers.insert(1, controller);
        model
    }

    fn run(model: &mut Model, command: &Command, len: u32) -> Outcome {
        let received =
            Received { nqn: NQN, cntlid: 1, ticket: ticket(7), command, len, data: &[], now_ns: 9 };
        execute(model, received)
    }

    fn status(outcome: Outcome) -> Status {
        match outcome {
            Outcome::Answer(answer) => answer.status,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn commands_end_with_the_status_of_what_is_wrong() {
        let log = GetLogPage { lid: lid::ERROR, numd: 15, ..GetLogPage::default() }.to_command();
        let identify = Identify { cns: 1, ..Identify::default() }.to_command();
        let host_id = GetFeatures { fid: 0x81, cdw11: 1, ..GetFeatures::default() }.to_command();
        for (name, command, len, expected) in [
            ("identify", identify, 4096, Status::SUCCESS),
            ("identify, too short", identify, 4095, Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
            ("log", log, 64, Status::SUCCESS),
            ("log, too short", log, 60, Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
            ("host identifier", host_id, 16, Status::SUCCESS),
            ("host identifier, too short", host_id, 8, Status::DATA_SGL_LENGTH_INVALID.with_dnr()),
            ("keep alive", Command::new(admin::KEEP_ALIVE), 0, Status::SUCCESS),
            (
                "create queue",
                Command::new(admin::CREATE_IO_SQ),
                0,
                Status::INVALID_OPCODE.with_dnr(),
            ),
            ("no opcode", Command::new(0xff), 0, Status::INVALID_OPCODE.with_dnr()),
        ] {
            assert_eq!(status(run(&mut model_with(ready()), &command, len)), expected, "{name}");
        }
    }

    #[test]
    fn a_fused_admin_command_is_refused() {
        let mut identify = Identify { cns: 1, ..Identify::default() }.to_command();
        identify.dw[0] |= 1 << 8;
        let refused = Status::INVALID_FIELD.with_dnr();
        assert_eq!(status(run(&mut model_with(ready()), &identify, 4096)), refused);
    }

    #[test]
    fn before_it_is_enabled_a_controller_takes_fabrics_commands_only() {
        let mut model = model_with(crate::controller::tests::controller());
        let keep_alive = Command::new(admin::KEEP_ALIVE);
        let early = Status::COMMAND_SEQUENCE_ERROR.with_dnr();
        assert_eq!(status(run(&mut model, &keep_alive, 0)), early);
        let enable = PropertySet { wide: false, offset: offset::CC, value: 0x0046_0001 };
        assert_eq!(status(run(&mut model, &enable.to_command(), 0)), Status::SUCCESS);
        assert_eq!(status(run(&mut model, &keep_alive, 0)), Status::SUCCESS);
    }

    #[test]
    fn reservation_notifications_are_masked_for_namespaces_that_exist_only() {
        let mut model = model_with(ready());
        let mask = |nsid| {
            let fid = fid::RESERVATION_NOTIFICATION_MASK;
            SetFeatures { nsid, fid, save: false, cdw11: 2 }.to_command()
        };
        for (nsid, expected) in [
            (1, Status::SUCCESS),
            (2, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr()),
            (0, Status::INVALID_NAMESPACE_OR_FORMAT.with_dnr()),
            (NSID_ALL, Status::SUCCESS),
        ] {
            assert_eq!(status(run(&mut model, &mask(nsid), 0)), expected, "{nsid:#x}");
        }
    }

    #[test]
    fn a_discovery_controller_refuses_what_it_has_no_use_for() {
        let mut model = model_with(Controller { kind: ControllerKind::Discovery, ..ready() });
        let abort = Abort { sqid: 0, cid: 1 }.to_command();
        assert_eq!(status(run(&mut model, &abort, 0)), Status::INVALID_OPCODE.with_dnr());
    }

    #[test]
    fn an_event_request_waits_and_can_be_aborted() {
        let mut model = model_with(ready());
        let request = Command::new(admin::ASYNC_EVENT_REQUEST);
        assert_eq!(run(&mut model, &request, 0), Outcome::Waits);
        let abort = |cid| Abort { sqid: 0, cid }.to_command();
        assert_eq!(run(&mut model, &abort(5), 0), Outcome::Answer(Answer::dw0(1)));
        assert_eq!(run(&mut model, &abort(100), 0), Outcome::AndAbort(Answer::dw0(0), ticket(7)));
    }

    #[test]
    fn a_reset_ends_what_waits() {
        let mut model = model_with(ready());
        run(&mut model, &Command::new(admin::ASYNC_EVENT_REQUEST), 0);
        let controller = model.subsystems.get_mut(NQN).unwrap().controllers.get_mut(&1).unwrap();
        controller.cc.en = true;
        let reset = PropertySet { wide: false, offset: offset::CC, value: 0x0046_0000 };
        let outcome = run(&mut model, &reset.to_command(), 0);
        assert_eq!(outcome, Outcome::AndReset(Answer::dw0(0), vec![ticket(7)]));
    }

    #[test]
    fn a_failure_is_found_in_the_error_log_and_a_sign_of_life_is_noted() {
        let mut model = model_with(ready());
        run(&mut model, &Command::new(0xff).with_cid(3), 0);
        let controller = &model.subsystems[NQN].controllers[&1];
        assert_eq!((controller.errors.count(), controller.heard_ns), (1, 9));
        assert_eq!(controller.errors.page()[10], 3);
    }

    #[test]
    fn reading_the_changed_namespaces_clears_them_unless_the_event_is_retained() {
        let mut model = model_with(ready());
        let changed = |model: &mut Model| {
            let subsystem = model.subsystems.get_mut(NQN).unwrap();
            let controller = subsystem.controllers.get_mut(&1).unwrap();
            controller.namespace_changed(1);
            controller.changed_namespaces.len()
        };
        changed(&mut model);
        let read = |rae| {
            let page = lid::CHANGED_NAMESPACES;
            GetLogPage { lid: page, rae, numd: 1023, ..GetLogPage::default() }.to_command()
        };
        run(&mut model, &read(true), 4096);
        assert_eq!(model.subsystems[NQN].controllers[&1].changed_namespaces.len(), 1);
        run(&mut model, &read(false), 4096);
        assert!(model.subsystems[NQN].controllers[&1].changed_namespaces.is_empty());
        assert_eq!(changed(&mut model), 1);
    }
}
