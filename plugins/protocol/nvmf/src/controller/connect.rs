//! Connect: checks which host may connect which queue. NVMe over Fabrics 1.1, section 3.3.

use super::{Controller, QueueId, error_log, events, features, notification};
use crate::model::{ControllerKind, Model, Subsystem, TransportLimits};
use drivebay_sdk::nvmf::protocol::Address;
use drivebay_spec_nvme::fabrics::{
    CNTLID_DYNAMIC, Connect, ConnectData, ConnectResult, InvalidParameter, cattr,
};
use drivebay_spec_nvme::property::{Cc, Csts};
use drivebay_spec_nvme::{Status, nqn};
use std::collections::{BTreeMap, BTreeSet};

/// How long a discovery host without a keep alive timeout may be silent, in milliseconds. The value is the reference's.
const DISCOVERY_TIMEOUT_MS: u32 = 120_000;

/// A Connect.
#[derive(Debug)]
pub struct Attempt<'a> {
    /// The command's fields.
    pub connect: Connect,
    /// Its data.
    pub data: &'a ConnectData,
    /// The qpair of the Connect.
    pub queue: QueueId,
    /// The address that the host connected to.
    pub local: &'a Address,
    /// The limits of the transport.
    pub limits: &'a TransportLimits,
    /// The time, in nanoseconds.
    pub now_ns: u64,
}

/// An admitted queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admitted {
    /// The subsystem's name.
    pub nqn: String,
    /// The number of the listener; `None` when the subsystem does not report ANA.
    pub portid: Option<u16>,
    /// Identifier of the controller.
    pub cntlid: u16,
    /// Identifier of the queue.
    pub qid: u16,
    /// Its size, in entries.
    pub entries: u16,
    /// Whether the host uses the submission queue head (flow control).
    pub has_flow_control: bool,
    /// The host's identifier.
    pub hostid: [u8; 16],
}

/// The reason why a queue was not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Status of the completion.
    pub status: Status,
    /// DW0 of the completion: the place of the wrong field.
    pub dw0: u32,
    /// The reason, for the log.
    pub why: &'static str,
}

impl Admitted {
    /// DW0 of the completion.
    pub fn dw0(&self) -> u32 {
        ConnectResult { cntlid: self.cntlid, authreq: 0 }.to_dw0()
    }
}

impl Refused {
    /// Refused for now. An operator or time may change that, so the host should try again. With Do Not Retry it would give up for good.
    pub const fn for_now(status: Status, why: &'static str) -> Self {
        Self { status, dw0: 0, why }
    }

    /// Refused for good, because the same Connect would fail again.
    const fn for_good(status: Status, why: &'static str) -> Self {
        Self { status: status.with_dnr(), dw0: 0, why }
    }

    /// Adds the offset of the wrong field in the command's data.
    fn in_data(self, offset: u16) -> Self {
        Self { dw0: InvalidParameter::data(offset).to_dw0(), ..self }
    }

    /// Adds the offset of the wrong field in the command.
    fn in_command(self, offset: u16) -> Self {
        Self { dw0: InvalidParameter::command(offset).to_dw0(), ..self }
    }
}

const INVALID: Status = Status::CONNECT_INVALID_PARAMETERS;

/// Admits a queue. An admin queue gets a new controller; an I/O queue is added to its controller.
///
/// # Errors
/// The reason, with the status and DW0 of the completion.
pub fn connect(model: &mut Model, attempt: &Attempt<'_>) -> Result<Admitted, Refused> {
    let Attempt { connect, data, limits, .. } = attempt;
    if connect.recfmt != 0 {
        let status = Status::CONNECT_INCOMPATIBLE_FORMAT;
        return Err(Refused::for_good(status, "the record format is not known"));
    }
    let no_text = Refused::for_good(INVALID, "the name of the subsystem is not valid text");
    let subnqn = data.subnqn.as_str().ok_or(no_text.in_data(ConnectData::SUBNQN_OFFSET))?;
    let missing = Refused::for_now(INVALID, "there is no such subsystem");
    let subsystem = model.subsystems.get_mut(subnqn);
    let subsystem = subsystem.ok_or(missing.in_data(ConnectData::SUBNQN_OFFSET))?;
    // SPDK's initiator sends no name unless it is configured. It may connect where any host may.
    let nameless = subsystem.allow_any_host;
    let is_name = |name: &&str| nqn::check_host(name).is_ok() || (nameless && name.is_empty());
    let no_name = Refused::for_good(INVALID, "the name of the host is empty or not valid text");
    let hostnqn = data.hostnqn.as_str().filter(is_name);
    let hostnqn = hostnqn.ok_or(no_name.in_data(ConnectData::HOSTNQN_OFFSET))?;
    if !subsystem.allows(hostnqn) {
        let status = Status::CONNECT_INVALID_HOST;
        return Err(Refused::for_now(status, "the subsystem does not allow the host"));
    }
    if !subsystem.listens_at(attempt.local) {
        let elsewhere = Refused::for_now(INVALID, "the subsystem does not listen at this address");
        return Err(elsewhere.in_data(ConnectData::SUBNQN_OFFSET));
    }
    let entries_max =
        if connect.qid == 0 { limits.max_aq_depth } else { limits.max_queue_depth.into() };
    if connect.sqsize == 0 || u32::from(connect.sqsize) >= entries_max {
        let size = Refused::for_good(INVALID, "the transport has no queue of this size");
        return Err(size.in_command(Connect::SQSIZE_OFFSET));
    }
    let cntlid = match connect.qid {
        0 => admit_admin(subsystem, attempt, hostnqn)?,
        _ => admit_io(subsystem, attempt, hostnqn)?,
    };
    Ok(Admitted {
        nqn: subnqn.to_owned(),
        portid: subsystem.ana_port(attempt.local),
        cntlid,
        qid: connect.qid,
        entries: connect.sqsize.saturating_add(1),
        has_flow_control: connect.cattr & cattr::DISABLE_SQ_FLOW_CONTROL == 0,
        hostid: data.hostid,
    })
}

fn admit_admin(
    subsystem: &mut Subsystem,
    attempt: &Attempt<'_>,
    hostnqn: &str,
) -> Result<u16, Refused> {
    if attempt.data.cntlid != CNTLID_DYNAMIC {
        let fixed = Refused::for_good(
            INVALID,
            "the target assigns controllers, and a host cannot choose one",
        );
        return Err(fixed.in_data(ConnectData::CNTLID_OFFSET));
    }
    let none_left = Refused::for_now(
        Status::CONNECT_CONTROLLER_BUSY,
        "all controller identifiers of the subsystem are in use",
    );
    let cntlid = subsystem.next_cntlid().ok_or(none_left)?;
    let kato_ms = match (subsystem.kind, attempt.connect.kato_ms) {
        (ControllerKind::Discovery, 0) => DISCOVERY_TIMEOUT_MS,
        (_, wanted_ms) => attempt.limits.keep_alive_ms(wanted_ms),
    };
    let controller = Controller {
        cntlid,
        kind: subsystem.kind,
        hostnqn: hostnqn.to_owned(),
        hostid: attempt.data.hostid,
        listener: attempt.local.clone(),
        limits: attempt.limits.clone(),
        cc: Cc::default(),
        csts: Csts::default(),
        queues: BTreeMap::from([(0, attempt.queue)]),
        io_counts: BTreeMap::new(),
        features: features::Features::new(kato_ms),
        events: events::Events::default(),
        errors: error_log::ErrorLog::default(),
        changed_namespaces: BTreeSet::new(),
        notifications: notification::Notifications::default(),
        heard_ns: attempt.now_ns,
        is_suspect: false,
    };
    subsystem.controllers.insert(cntlid, controller);
    Ok(cntlid)
}

fn admit_io(
    subsystem: &mut Subsystem,
    attempt: &Attempt<'_>,
    hostnqn: &str,
) -> Result<u16, Refused> {
    let (data, qid) = (attempt.data, attempt.connect.qid);
    let admin_queue = subsystem.controllers.get(&data.cntlid);
    // The ANA log of a controller is about one listener.
    let is_elsewhere = admin_queue.is_some_and(|admin| {
        subsystem.ana_port(&admin.listener) != subsystem.ana_port(attempt.local)
    });
    // The controller may have ended, and another one may have its identifier. Then the host should connect again, not give up.
    let no_controller = Refused::for_now(INVALID, "the host has no such controller");
    let controller = subsystem.controllers.get_mut(&data.cntlid);
    let controller = controller.ok_or(no_controller.in_data(ConnectData::CNTLID_OFFSET))?;
    if controller.hostnqn != hostnqn {
        return Err(no_controller.in_data(ConnectData::HOSTNQN_OFFSET));
    }
    if controller.hostid != data.hostid {
        return Err(no_controller.in_data(ConnectData::HOSTID_OFFSET));
    }
    if is_elsewhere {
        let elsewhere = Refused::for_good(INVALID, "its controller uses another listener");
        return Err(elsewhere.in_data(ConnectData::CNTLID_OFFSET));
    }
    if controller.kind != ControllerKind::Io || qid > controller.limits.max_io_qpairs_per_ctrlr {
        let number = Refused::for_good(INVALID, "the controller has no such queue");
        return Err(number.in_command(Connect::QID_OFFSET));
    }
    if !controller.csts.rdy || controller.csts.shst != 0 {
        let not_ready = Refused::for_now(INVALID, "the controller is not ready");
        return Err(not_ready.in_command(Connect::QID_OFFSET));
    }
    if controller.queues.contains_key(&qid) {
        let status = Status::COMMAND_SEQUENCE_ERROR;
        return Err(Refused::for_now(status, "the queue is connected"));
    }
    controller.queues.insert(qid, attempt.queue);
    Ok(controller.cntlid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::address_of;
    use crate::model::tests::model;
    use drivebay_spec_nvme::text::NulText;

    const NQN: &str = "nqn.2016-06.io.spdk:cnode1";
    const HOST: &str = "nqn.2016-06.io.spdk:host1";

    struct Case {
        model: Model,
        connect: Connect,
        data: ConnectData,
        local: Address,
    }

    impl Case {
        fn admin() -> Self {
            Self {
                model: model(),
                connect: Connect { sqsize: 31, kato_ms: 15_000, ..Connect::default() },
                data: ConnectData {
                    hostid: [7; 16],
                    cntlid: CNTLID_DYNAMIC,
                    subnqn: NulText::new(NQN).unwrap(),
                    hostnqn: NulText::new(HOST).unwrap(),
                },
                local: address_of("tcp", None, "127.0.0.1", "4420"),
            }
        }

        /// With an admin queue that is enabled, and an I/O queue about to be connected.
        fn io() -> Self {
            let mut case = Self::admin();
            let admitted = case.run(1).unwrap();
            case.controller().csts.rdy = true;
            case.connect.qid = 1;
            case.data.cntlid = admitted.cntlid;
            case
        }

        fn controller(&mut self) -> &mut Controller {
            self.model.subsystems.get_mut(NQN).unwrap().controllers.get_mut(&1).unwrap()
        }

        fn run(&mut self, number: u64) -> Result<Admitted, Refused> {
            let attempt = Attempt {
                connect: self.connect,
                data: &self.data,
                queue: QueueId { group: 0, number },
                local: &self.local,
                limits: &TransportLimits::default(),
                now_ns: 5,
            };
            connect(&mut self.model, &attempt)
        }
    }

    #[test]
    fn an_admin_queue_makes_a_controller() {
        let mut case = Case::admin();
        let admitted = case.run(1).unwrap();
        assert_eq!((admitted.cntlid, admitted.qid, admitted.entries), (1, 0, 32));
        assert!(admitted.has_flow_control);
        let controller = case.controller();
        assert_eq!((controller.features.kato_ms, controller.heard_ns), (20_000, 5));
        assert_eq!(case.run(2).unwrap().cntlid, 2);
    }

    #[test]
    fn an_io_queue_joins_its_controller() {
        let mut case = Case::io();
        case.connect.cattr = cattr::DISABLE_SQ_FLOW_CONTROL;
        let admitted = case.run(2).unwrap();
        assert_eq!((admitted.cntlid, admitted.qid, admitted.has_flow_control), (1, 1, false));
        assert_eq!(case.controller().num_io_queues(), 1);
    }

    #[test]
    fn each_wrong_field_of_an_admin_connect_is_named_and_only_what_time_cannot_heal_is_for_good() {
        type Break = fn(&mut Case);
        let for_good = INVALID.with_dnr();
        let cases: [(&str, Break, Status, u32); 11] = [
            (
                "record format",
                |c| c.connect.recfmt = 1,
                Status::CONNECT_INCOMPATIBLE_FORMAT.with_dnr(),
                0,
            ),
            (
                "no such subsystem",
                |c| c.data.subnqn = NulText::new("nqn.2016-06.io.spdk:no").unwrap(),
                INVALID,
                0x1_0100,
            ),
            (
                "subsystem's name has no end",
                |c| c.data.subnqn = ConnectData::parse(&[b'a'; 1024]).subnqn,
                for_good,
                0x1_0100,
            ),
            (
                "host's name has a control character",
                |c| c.data.hostnqn = NulText::new("me\n").unwrap(),
                for_good,
                0x1_0200,
            ),
            (
                "host's name has no end",
                |c| c.data.hostnqn = ConnectData::parse(&[b'a'; 1024]).hostnqn,
                for_good,
                0x1_0200,
            ),
            (
                "host not allowed",
                |c| c.model.subsystems.get_mut(NQN).unwrap().allow_any_host = false,
                Status::CONNECT_INVALID_HOST,
                0,
            ),
            (
                "not listening here",
                |c| c.local = address_of("tcp", None, "127.0.0.1", "4421"),
                INVALID,
                0x1_0100,
            ),
            ("queue of no entry", |c| c.connect.sqsize = 0, for_good, 44),
            ("queue too large", |c| c.connect.sqsize = 128, for_good, 44),
            ("static controller", |c| c.data.cntlid = 0xfffe, for_good, 0x1_0010),
            (
                "no controller left",
                |c| {
                    c.model.subsystems.get_mut(NQN).unwrap().options.cntlids = 1..=1;
                    c.run(9).unwrap();
                },
                Status::CONNECT_CONTROLLER_BUSY,
                0,
            ),
        ];
        for (name, break_it, status, dw0) in cases {
            let mut case = Case::admin();
            break_it(&mut case);
            let refused = case.run(1).unwrap_err();
            assert_eq!((refused.status, refused.dw0), (status, dw0), "{name}");
        }
    }

    #[test]
    fn each_wrong_field_of_an_io_connect_is_named_and_only_what_time_cannot_heal_is_for_good() {
        type Break = fn(&mut Case);
        let (wrong, for_good) = (INVALID, INVALID.with_dnr());
        let cases: [(&str, Break, Status, u32); 8] = [
            ("no such controller", |c| c.data.cntlid = 9, wrong, 0x1_0010),
            (
                "another host",
                |c| c.data.hostnqn = NulText::new("nqn.2016-06.io.spdk:h2").unwrap(),
                wrong,
                0x1_0200,
            ),
            ("another host identifier", |c| c.data.hostid = [8; 16], wrong, 0x1_0000),
            ("not enabled", |c| c.controller().csts.rdy = false, wrong, 42),
            ("shut down", |c| c.controller().csts.shst = 2, wrong, 42),
            ("beyond the last queue", |c| c.connect.qid = 128, for_good, 42),
            ("queue too large", |c| c.connect.sqsize = 128, for_good, 44),
            (
                "twice",
                |c| {
                    c.run(2).unwrap();
                },
                Status::COMMAND_SEQUENCE_ERROR,
                0,
            ),
        ];
        for (name, break_it, status, dw0) in cases {
            let mut case = Case::io();
            break_it(&mut case);
            let refused = case.run(3).unwrap_err();
            assert_eq!((refused.status, refused.dw0), (status, dw0), "{name}");
        }
    }

    #[test]
    fn a_discovery_host_without_keep_alive_is_not_kept_for_ever() {
        let mut case = Case::admin();
        case.connect.kato_ms = 0;
        case.data.subnqn = NulText::new(nqn::DISCOVERY).unwrap();
        let cntlid = case.run(1).unwrap().cntlid;
        let controller = &case.model.subsystems[nqn::DISCOVERY].controllers[&cntlid];
        assert_eq!(controller.features.kato_ms, DISCOVERY_TIMEOUT_MS);
    }

    #[test]
    fn the_discovery_subsystem_is_wherever_a_host_could_connect_and_has_no_io_queues() {
        let mut case = Case::admin();
        case.data.subnqn = NulText::new(nqn::DISCOVERY).unwrap();
        case.local = address_of("tcp", None, "127.0.0.1", "8009");
        let admitted = case.run(1).unwrap();
        let discovery = case.model.subsystems.get_mut(nqn::DISCOVERY).unwrap();
        discovery.controllers.get_mut(&admitted.cntlid).unwrap().csts.rdy = true;
        case.connect.qid = 1;
        case.data.cntlid = admitted.cntlid;
        assert_eq!(case.run(2).unwrap_err().dw0, 42);
    }
}
