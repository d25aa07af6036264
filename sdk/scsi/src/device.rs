//! A target device: its units, its nexuses, and the beginning and end of every command.

use crate::disk::Disk;
use crate::gate::{Pass, TaskKey};
use crate::outcome::Outcome;
use crate::plan;
use crate::reserve::{Access, Identity, Reservations};
use crate::reserve_out::{Change, Preempted};
use crate::task::{State, Task};
use crate::unit::Unit;
use crate::{copy, inquire, opcodes, parameters, space};
use drivebay_reservation::Table;
use drivebay_sdk::bdev::Space;
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::copy::in_action;
use drivebay_spec_scsi::sense::{Sense, asc};
use drivebay_spec_scsi::status::Status;
use drivebay_spec_scsi::{CDB_LEN, lun};
use std::collections::BTreeMap;

/// A nexus of the device: an initiator port and a target port that are connected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NexusId(pub u32);

/// A target port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Relative target port identifier.
    pub relative: u16,
    /// Name, as a SCSI name string.
    pub name: String,
}

/// The data lengths that the initiator expects, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offered {
    /// From the initiator.
    pub out_len: u32,
    /// To the initiator.
    pub in_len: u32,
}

/// A target device. It lives on one lightweight thread.
#[derive(Debug)]
pub struct Device {
    /// Name, as a SCSI name string.
    name: String,
    ports: Vec<Port>,
    pub(crate) units: BTreeMap<u16, Unit>,
    pub(crate) nexuses: BTreeMap<NexusId, Identity>,
    last_nexus: u32,
    /// The PREEMPT AND ABORT that has just ended, if the transport has not taken it yet.
    pub(crate) preempted: Option<Preempted>,
    /// Number of EXTENDED COPY commands in progress.
    pub(crate) copying: u16,
    /// Whether initiators can reserve units.
    can_reserve: bool,
    /// Whether the transport confirms changes of reservations.
    pub(crate) settles: bool,
    /// A change that the transport must confirm.
    pub(crate) change: Option<Change>,
}

impl Device {
    /// A device without units. `name`: its SCSI name.
    #[must_use]
    pub fn new(name: String) -> Self {
        let (ports, units, nexuses) = (Vec::new(), BTreeMap::new(), BTreeMap::new());
        Self {
            name,
            ports,
            units,
            nexuses,
            last_nexus: 0,
            preempted: None,
            copying: 0,
            can_reserve: true,
            settles: false,
            change: None,
        }
    }

    /// Its SCSI name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its target ports.
    #[must_use]
    pub fn ports(&self) -> &[Port] {
        &self.ports
    }

    /// Sets its target ports.
    pub fn set_ports(&mut self, ports: Vec<Port>) {
        self.ports = ports;
    }

    /// Makes the device refuse RESERVE, RELEASE, and PERSISTENT RESERVE IN and OUT. Use this for a device that does not see all initiators
    /// of its bdevs, because its reservations would not bind the other initiators.
    pub fn refuse_reservations(&mut self) {
        self.can_reserve = false;
    }

    /// Makes the transport responsible for changes of reservations: it calls [`take_change`](Self::take_change) after each task that
    /// has ended. If there is a change, it answers the task after [`settle`](Self::settle).
    pub fn settle_reservations(&mut self) {
        self.settles = true;
    }

    /// Takes the change of reservations by the task that has just ended, if the transport must confirm it.
    pub fn take_change(&mut self) -> Option<Change> {
        self.change.take()
    }

    /// Lets a unit's reservations survive a loss of power: the transport stores them. `stored`: the reservations that it read, if
    /// any.
    pub fn keep_reservations(&mut self, unit: u16, stored: Option<Table<Identity>>) {
        let Some(found) = self.units.get_mut(&unit) else { return };
        found.keeps_reservations = true;
        if let Some(table) = stored {
            found.reservations = Reservations::restored(table);
        }
    }

    /// A unit.
    #[must_use]
    pub fn unit(&self, unit: u16) -> Option<&Unit> {
        self.units.get(&unit)
    }

    /// The numbers of its units.
    #[must_use]
    pub fn unit_numbers(&self) -> Vec<u16> {
        self.units.keys().copied().collect()
    }

    /// Adds a unit. Every nexus gets a unit attention that the list of LUNs has changed.
    pub fn add_unit(&mut self, unit: u16, disk: Disk) {
        self.luns_changed();
        self.units.insert(unit, Unit::new(unit, disk));
    }

    /// Removes a unit. Every nexus gets a unit attention that the list of LUNs has changed. The transport ends the unit's tasks.
    pub fn remove_unit(&mut self, unit: u16) {
        self.units.remove(&unit);
        self.luns_changed();
    }

    /// Sets the number of blocks of a unit. Every nexus gets a unit attention.
    pub fn resize_unit(&mut self, unit: u16, blocks: u64) {
        let Some(found) = self.units.get_mut(&unit) else { return };
        found.disk.blocks = blocks;
        for nexus in self.nexuses.keys() {
            found.attend(*nexus, asc::CAPACITY_DATA_HAS_CHANGED);
        }
    }

    /// Sets the size and the free space of a unit's pool. Every nexus gets a unit attention when the free space has fallen to the
    /// threshold that an initiator has set. The transport calls this periodically.
    pub fn set_space(&mut self, unit: u16, space: Option<Space>) {
        let Some(found) = self.units.get_mut(&unit) else { return };
        found.provisioning.space = space;
        if found.modes.watches_space() && found.provisioning.reaches(found.modes.threshold) {
            for nexus in self.nexuses.keys() {
                found.attend(*nexus, asc::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED);
            }
        }
    }

    fn luns_changed(&mut self) {
        for unit in self.units.values_mut() {
            for nexus in self.nexuses.keys() {
                unit.attend(*nexus, asc::REPORTED_LUNS_DATA_HAS_CHANGED);
            }
        }
    }

    /// Adds a nexus for an initiator port that has logged in.
    pub fn attach(&mut self, identity: Identity) -> NexusId {
        self.last_nexus += 1;
        let nexus = NexusId(self.last_nexus);
        self.nexuses.insert(nexus, identity);
        nexus
    }

    /// Removes a nexus. This affects no other nexus.
    pub fn detach(&mut self, nexus: NexusId) {
        self.nexuses.remove(&nexus);
        for unit in self.units.values_mut() {
            unit.forget(nexus);
        }
    }

    /// Resets a unit: ends a reservation by RESERVE and resets the mode parameters. Every nexus gets a unit attention, including the
    /// one that requested the reset (SAM-5, section 6.3.3). The transport aborts the unit's tasks.
    pub fn reset_unit(&mut self, unit: u16) {
        let Some(found) = self.units.get_mut(&unit) else { return };
        found.modes = crate::modes::Modes::default();
        found.reservations.reset();
        for nexus in self.nexuses.keys() {
            found.attend(*nexus, asc::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
        }
    }

    /// Raises the unit attention that another nexus cleared the tasks of this nexus.
    pub fn tasks_cleared(&mut self, unit: u16, nexus: NexusId) {
        if let Some(found) = self.units.get_mut(&unit) {
            found.attend(nexus, asc::COMMANDS_CLEARED_BY_ANOTHER_INITIATOR);
        }
    }

    /// Takes what the transport must abort because of the PREEMPT AND ABORT that has just ended.
    pub fn take_preempted(&mut self) -> Option<Preempted> {
        self.preempted.take()
    }

    /// Begins a command.
    #[must_use]
    pub fn begin(
        &mut self,
        nexus: NexusId,
        lun: u64,
        cdb: &[u8; CDB_LEN],
        offered: Offered,
        key: TaskKey,
    ) -> Task {
        let unit = lun::decode(lun).filter(|unit| self.units.contains_key(unit));
        let command = Command::parse(cdb);
        let Some(unit) = unit else {
            return Task::new(u16::MAX, nexus, key, false).ended_with(self.without_unit(command));
        };
        let descriptor = self.units.get(&unit).is_some_and(|unit| unit.modes.descriptor_sense);
        let mut task = Task::new(unit, nexus, key, descriptor);
        let begun = command.and_then(|command| match self.admit(nexus, unit, &command)? {
            Some(outcome) => Ok(Begun::Ended(outcome)),
            None => self.execute(nexus, unit, command, offered),
        });
        match begun {
            Ok(Begun::Ended(outcome)) => return task.ended_with(outcome),
            Ok(Begun::List(command, len)) => {
                task.wanted = len.into();
                // If the initiator offers less, the list is short, and its parser reports that.
                task.state = State::List(command, len.min(offered.out_len));
            }
            Ok(Begun::Work(work, wanted)) => {
                task.wanted = wanted;
                self.enter(&mut task, plan::pass_of(&work.kind));
                task.state = State::Work(work);
            }
            Err(sense) => return task.ended_with(Outcome::check(&sense, descriptor)),
        }
        task
    }

    /// Continues a task with the parameter list that [`Next::Receive`](crate::Next::Receive) asked for.
    pub fn received(&mut self, task: &mut Task, list: &[u8]) {
        let State::List(command, _) = task.state else { return };
        let given = match command {
            Command::ExtendedCopy { .. } => copy::receive(self, task, list),
            _ => parameters::receive(self, task, command, list),
        };
        task.state = match given {
            Ok(Begun::Ended(outcome)) => State::Ended(outcome),
            Ok(Begun::Work(work, _)) => {
                self.enter(task, plan::pass_of(&work.kind));
                State::Work(work)
            }
            Ok(Begun::List(..)) => State::Ended(Outcome::of(Status::Busy)),
            Err(sense) => State::Ended(Outcome::check(&sense, task.descriptor_sense)),
        };
    }

    /// Releases the resources of a task that has ended or is aborted. Then [`turn`](Self::turn) returns the tasks whose turn has
    /// come.
    pub fn finish(&mut self, task: &mut Task) {
        if let Some(done) = task.copied.take() {
            self.copying = self.copying.saturating_sub(1);
            if let Some(unit) = self.units.get_mut(&task.unit) {
                unit.copies.end(task.nexus, done, task.is_good());
            }
        }
        let Some((pass, is_inside)) = task.pass.take() else { return };
        if let Some(unit) = self.units.get_mut(&task.gate_unit) {
            if is_inside {
                unit.gate.leave(pass);
            } else {
                unit.gate.forget(task.key);
            }
        }
    }

    /// The next task whose turn at a unit's gate has come. The transport must call [`admitted`](Self::admitted) for it.
    pub fn turn(&mut self, unit: u16) -> Option<TaskKey> {
        self.units.get_mut(&unit)?.gate.next()
    }

    /// Lets a task pass the gate, after [`turn`](Self::turn) returned it.
    pub fn admitted(task: &mut Task) {
        if let Some((_, is_inside)) = &mut task.pass {
            *is_inside = true;
        }
    }

    fn enter(&mut self, task: &mut Task, pass: Option<Pass>) {
        let (Some(pass), Some(unit)) = (pass, self.units.get_mut(&task.gate_unit)) else { return };
        task.pass = Some((pass, unit.gate.enter(task.key, pass)));
    }

    /// Checks unit attentions and reservations. Returns the outcome of a command that they stop. SAM-5, section 5.14; SPC-4,
    /// section 5.12.
    fn admit(
        &mut self,
        nexus: NexusId,
        unit: u16,
        command: &Command,
    ) -> Result<Option<Outcome>, Sense> {
        let Some(found) = self.units.get_mut(&unit) else { return Ok(None) };
        let passes_attention = matches!(
            command,
            Command::Inquiry { .. } | Command::ReportLuns { .. } | Command::RequestSense { .. }
        );
        if !passes_attention && let Some(code) = found.take_attention(nexus) {
            return Err(space::attention(code));
        }
        if found.reservations.is_free() {
            return Ok(None);
        }
        let identity = self.nexuses.get(&nexus);
        let is_allowed = found.reservations.allows(nexus, identity, Access::of(command));
        Ok((!is_allowed).then(|| Outcome::of(Status::ReservationConflict)))
    }

    fn execute(
        &mut self,
        nexus: NexusId,
        unit: u16,
        command: Command,
        offered: Offered,
    ) -> Result<Begun, Sense> {
        match command {
            Command::ReportLuns { select, allocation } => {
                let data = self.report_luns(nexus, select)?;
                return Ok(Begun::data(data, allocation));
            }
            Command::Inquiry { page, allocation } => {
                let data = inquire::inquiry(self, unit, nexus, page)?;
                return Ok(Begun::data(data, allocation));
            }
            Command::ReportOpcodes { reporting, timeouts, allocation } => {
                let found = self.units.get(&unit);
                let can_unmap = found.is_some_and(|unit| unit.disk.can_unmap);
                let report = opcodes::report(reporting, timeouts, can_unmap, self.can_reserve)?;
                return Ok(Begun::data(report, allocation));
            }
            Command::ReserveIn { .. }
            | Command::ReserveOut { .. }
            | Command::Reserve6
            | Command::Release6
                if !self.can_reserve =>
            {
                return Err(Sense::illegal(asc::INVALID_COMMAND_OPERATION_CODE));
            }
            _ => {}
        }
        let Self { units, nexuses, .. } = self;
        let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
        let found = units.get_mut(&unit).ok_or(missing)?;
        match command {
            Command::RequestSense { descriptor, allocation } => {
                let waiting = found.take_attention(nexus).map(space::attention);
                let none = Sense::new(drivebay_spec_scsi::sense::Key::NoSense, asc::NONE);
                let sense = waiting.unwrap_or(none).encode(descriptor);
                Ok(Begun::data(sense, allocation))
            }
            Command::ReserveIn { action, allocation } => {
                let report = found.reservations.report(action, found.keeps_reservations);
                Ok(Begun::data(report, allocation))
            }
            Command::ReceiveCopyResults { action: in_action::STATUS, list_id, allocation } => {
                Ok(Begun::data(found.copies.status(nexus, list_id)?, allocation))
            }
            Command::Reserve6 => {
                let identity = nexuses.get(&nexus);
                Ok(Begun::Ended(Outcome::of(found.reservations.reserve_6(nexus, identity))))
            }
            Command::Release6 => {
                found.reservations.release_6(nexus);
                Ok(Begun::Ended(Outcome::good()))
            }
            command => plan::plan(found, command, offered),
        }
    }

    /// The outcome of a command to a LUN without a unit. SPC-4, section 6.6.1; SAM-5, section 5.11.
    fn without_unit(&self, command: Result<Command, Sense>) -> Outcome {
        let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
        let given = match command {
            Ok(Command::Inquiry { page: None, allocation }) => {
                Ok(Outcome::data(inquire::without_unit(), allocation))
            }
            Ok(Command::ReportLuns { select, allocation }) => {
                self.lun_list(select).map(|data| Outcome::data(data, allocation))
            }
            Ok(Command::RequestSense { descriptor, allocation }) => {
                Ok(Outcome::data(missing.encode(descriptor), allocation))
            }
            Ok(_) | Err(_) => Err(missing),
        };
        given.unwrap_or_else(|sense| Outcome::check(&sense, false))
    }

    fn report_luns(&mut self, nexus: NexusId, select: u8) -> Result<Vec<u8>, Sense> {
        let data = self.lun_list(select)?;
        for unit in self.units.values_mut() {
            unit.forget_attention(nexus, asc::REPORTED_LUNS_DATA_HAS_CHANGED);
        }
        Ok(data)
    }

    fn lun_list(&self, select: u8) -> Result<Vec<u8>, Sense> {
        let units = self.units.keys().map(|unit| lun::encode(*unit));
        match select {
            0x00 | 0x02 => Ok(lun::encode_list(units)),
            0x01 | 0x10 | 0x12 => Ok(lun::encode_list([])), // no well known units, no conglomerates
            0x11 => Ok(lun::encode_list(units)),
            _ => Err(Sense::invalid_cdb(2, None)),
        }
    }
}

/// The result of beginning a command.
#[derive(Debug)]
pub(crate) enum Begun {
    /// It has ended.
    Ended(Outcome),
    /// It needs a parameter list of this many bytes.
    List(Command, u32),
    /// It works on blocks. The number is the length of its data in bytes.
    Work(crate::task::Work, u64),
}

impl Begun {
    pub(crate) fn data(data: Vec<u8>, allocation: u32) -> Self {
        Self::Ended(Outcome::data(data, allocation))
    }
}
