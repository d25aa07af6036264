//! PERSISTENT RESERVE OUT. SPC-4, section 6.16.
//!
//! The table changes at once. If the transport has to confirm the change (see [`Change`]), the unit refuses further changes with BUSY
//! until then, and other initiators get no unit attention before that. If the transport reports a failure, the unit restores the old
//! table.

use crate::NexusId;
use crate::device::{Begun, Device};
use crate::gate::TaskKey;
use crate::outcome::Outcome;
use crate::reserve::{Identity, Reservations, kind_of};
use crate::task::Task;
use drivebay_reservation::{Notice, REGISTRANTS_MAX, Refusal, Table, Told};
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::reservation::{OutAction, OutParameters, Type, split_transport_id};
use drivebay_spec_scsi::sense::{Key, Sense, asc};
use drivebay_spec_scsi::status::Status;

/// A change of a unit's reservations that the transport has to confirm with [`Device::settle`].
#[derive(Debug)]
pub struct Change {
    /// The unit.
    pub unit: u16,
    /// Whether an initiator is registered now. If so, the bdev must have no other exports: they would not obey the reservation.
    pub is_registered: bool,
    /// The table that must survive a loss of power. `None`: no reservation survives it, and the transport removes the stored table.
    pub stored: Option<Table<Identity>>,
}

/// The transport's verdict on a [`Change`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settled {
    /// The change is in force.
    Kept,
    /// The bdev has other exports, so the change is undone.
    InUse,
    /// The transport cannot store the table, so the change is undone.
    NotStored,
}

/// What the transport must do after a PREEMPT AND ABORT: abort the commands of these nexuses to the unit, and answer when they
/// have ended. SPC-4, section 5.12.11.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preempted {
    /// The unit.
    pub unit: u16,
    /// The nexuses whose registrations were removed. A nexus that has ended is not among them, although its I/O may still be at the
    /// bdev.
    pub nexuses: Vec<NexusId>,
}

/// A change that the transport has not confirmed yet.
#[derive(Debug)]
pub(crate) struct Unsettled {
    /// The task of the command that made the change.
    by: TaskKey,
    before: Reservations,
    told: Told<Identity>,
    aborts: bool,
}

enum Refused {
    Conflict,
    Sense(Sense),
}

impl From<Sense> for Refused {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        Self::Sense(match refusal {
            Refusal::Conflict => return Self::Conflict,
            Refusal::Full => Sense::illegal(asc::INSUFFICIENT_REGISTRATION_RESOURCES),
            Refusal::WrongKind => Sense::illegal(asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION),
            Refusal::KeyZero => Sense::invalid_parameter(8, None),
        })
    }
}

/// Runs the command of a task, whose parameter list has arrived.
pub(crate) fn receive(
    device: &mut Device,
    task: &Task,
    command: Command,
    list: &[u8],
) -> Result<Begun, Sense> {
    let (nexus, unit, by) = (task.nexus, task.unit, task.key);
    let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
    let Command::ReserveOut { action, scope, kind, .. } = command else { return Err(missing) };
    let who = device.nexuses.get(&nexus).cloned().ok_or(missing)?;
    let out = OutParameters::parse(action, list)?;
    let mut elsewhere = Vec::new();
    if out.all_ports {
        let others =
            device.ports().iter().map(|port| port.relative).filter(|port| *port != who.port);
        elsewhere.extend(others.map(|port| Identity { port, ..who.clone() }));
    }
    let settles = device.settles;
    let found = device.units.get_mut(&unit).ok_or(missing)?;
    if out.aptpl && !found.keeps_reservations {
        let byte = if action == OutAction::RegisterAndMove { 17 } else { 20 };
        return Err(Sense::invalid_parameter(byte, Some(0)));
    }
    if found.unsettled.is_some() {
        return Ok(Begun::Ended(Outcome::of(Status::Busy)));
    }
    let before = found.reservations.clone();
    let table = &mut found.reservations.table;
    let told = match change(table, &who, action, (scope, kind), &out, elsewhere) {
        Ok(told) => told,
        Err(Refused::Conflict) => {
            return Ok(Begun::Ended(Outcome::of(Status::ReservationConflict)));
        }
        Err(Refused::Sense(sense)) => return Err(sense),
    };
    let registers = matches!(
        action,
        OutAction::Register | OutAction::RegisterAndIgnore | OutAction::RegisterAndMove
    );
    if registers {
        found.reservations.aptpl = out.aptpl;
    }
    let was_registered = !before.table.registrants().is_empty();
    let is_registered = !found.reservations.table.registrants().is_empty();
    let must_settle = before.aptpl || found.reservations.aptpl || was_registered != is_registered;
    let aborts = action == OutAction::PreemptAndAbort;
    found.unsettled = Some(Unsettled { by, before, told, aborts });
    if settles && must_settle {
        let reservations = &found.reservations;
        let stored = reservations.aptpl.then(|| reservations.table.clone());
        device.change = Some(Change { unit, is_registered, stored });
    } else {
        device.settle(unit, by, Settled::Kept);
    }
    Ok(Begun::Ended(Outcome::good()))
}

impl Device {
    /// Confirms or undoes the change that a task made. Returns the outcome of its command if that is not GOOD. Does nothing for a
    /// change of an earlier unit with the same number.
    pub fn settle(&mut self, unit: u16, by: TaskKey, settled: Settled) -> Option<Outcome> {
        let found = self.units.get_mut(&unit)?;
        let change = found.unsettled.take_if(|change| change.by == by)?;
        let Unsettled { before, told, aborts, .. } = change;
        let descriptor = found.modes.descriptor_sense;
        match settled {
            Settled::Kept => {
                self.tell(unit, told, aborts);
                return None;
            }
            Settled::InUse | Settled::NotStored => found.reservations = before,
        }
        Some(match settled {
            Settled::InUse => Outcome::of(Status::ReservationConflict),
            _ => {
                let sense = Sense::new(Key::HardwareError, asc::INTERNAL_TARGET_FAILURE);
                Outcome::check(&sense, descriptor)
            }
        })
    }

    /// Raises the unit attentions of a change, and notes what it aborts.
    fn tell(&mut self, unit: u16, told: Told<Identity>, aborts: bool) {
        let Self { units, nexuses, preempted, .. } = self;
        let Some(found) = units.get_mut(&unit) else { return };
        for (identity, notice) in told.notices {
            let code = match notice {
                Notice::RegistrationPreempted => asc::REGISTRATIONS_PREEMPTED,
                Notice::ReservationReleased => asc::RESERVATIONS_RELEASED,
                Notice::ReservationPreempted => asc::RESERVATIONS_PREEMPTED,
            };
            for (nexus, _) in nexuses.iter().filter(|(_, other)| **other == identity) {
                found.attend(*nexus, code);
            }
        }
        if aborts {
            let meant = nexuses.iter().filter(|(_, other)| told.preempted.contains(other));
            *preempted =
                Some(Preempted { unit, nexuses: meant.map(|(nexus, _)| *nexus).collect() });
        }
    }
}

/// Changes the table. `elsewhere`: the same initiator port at the other target ports if ALL_TG_PT is set, else empty.
fn change(
    table: &mut Table<Identity>,
    who: &Identity,
    action: OutAction,
    (scope, kind): (u8, u8),
    out: &OutParameters,
    elsewhere: Vec<Identity>,
) -> Result<Told<Identity>, Refused> {
    let ignores_key = action == OutAction::RegisterAndIgnore;
    if matches!(action, OutAction::Register | OutAction::RegisterAndIgnore) {
        return register(table, who, out, ignores_key, elsewhere);
    }
    if table.key_of(who) != Some(out.key) {
        return Err(Refused::Conflict);
    }
    let has_type = matches!(
        action,
        OutAction::Reserve | OutAction::Release | OutAction::Preempt | OutAction::PreemptAndAbort
    );
    if has_type && scope != 0 {
        return Err(Sense::invalid_cdb(2, Some(7)).into());
    }
    let kind = Type::from_bits(kind).map(kind_of);
    let no_kind = Sense::invalid_cdb(2, Some(3));
    let other_key = out.service_action_key;
    match action {
        OutAction::Reserve => table.reserve(who, kind.ok_or(no_kind)?)?,
        OutAction::Release => return Ok(table.release(who, kind)?),
        OutAction::Clear => return Ok(table.clear(who)),
        OutAction::Preempt | OutAction::PreemptAndAbort => {
            // A preemption that takes no reservation ignores the type.
            let kind = if table.takes(other_key) { kind.ok_or(no_kind)? } else { NOT_LOOKED_AT };
            return Ok(table.preempt(who, kind, other_key)?);
        }
        OutAction::RegisterAndMove => register_and_move(table, who, out)?,
        OutAction::Register | OutAction::RegisterAndIgnore => {}
    }
    Ok(Told::default())
}

const NOT_LOOKED_AT: drivebay_reservation::Kind = drivebay_reservation::Kind::WriteExclusive;

/// REGISTER, and REGISTER AND IGNORE EXISTING KEY. With ALL_TG_PT, the initiator ports that SPEC_I_PT names are registered at every
/// target port, too.
fn register(
    table: &mut Table<Identity>,
    who: &Identity,
    out: &OutParameters,
    ignores_key: bool,
    elsewhere: Vec<Identity>,
) -> Result<Told<Identity>, Refused> {
    let key = out.service_action_key;
    let current = table.key_of(who);
    if !ignores_key && current.unwrap_or(0) != out.key {
        return Err(Refused::Conflict);
    }
    if out.has_initiators && (ignores_key || current.is_some() || key == 0) {
        return Err(Sense::invalid_parameter(20, Some(3)).into());
    }
    let mut hosts = vec![who.clone()];
    hosts.extend(elsewhere);
    match (current, key) {
        (None, 0) => {}
        (None, _) => {
            let mut new = Vec::new();
            for there in hosts {
                let named = transport_ids(&out.transport_ids, there.port)?;
                new.push(there);
                new.extend(named);
            }
            table.register(new, key)?;
        }
        (Some(_), 0) => return Ok(table.unregister(&hosts)),
        (Some(_), _) => table.replace(hosts, key)?,
    }
    Ok(Told::default())
}

/// REGISTER AND MOVE. SPC-4, section 5.12.8.
fn register_and_move(
    table: &mut Table<Identity>,
    who: &Identity,
    out: &OutParameters,
) -> Result<(), Refused> {
    let holds_alone = table.held().is_some_and(|held| held.holder.as_ref() == Some(who));
    if !holds_alone {
        return Err(Refused::Conflict);
    }
    if out.service_action_key == 0 {
        return Err(Sense::invalid_parameter(8, None).into());
    }
    let ids = transport_ids(&out.transport_ids, out.relative_port)?;
    let [to] = ids.as_slice() else { return Err(Sense::invalid_parameter(20, None).into()) };
    if to == who {
        return Err(Sense::invalid_parameter(24, None).into());
    }
    Ok(table.move_to(who, to, out.service_action_key, out.unregister)?)
}

/// The identities of the initiator ports that a list of TransportIDs names, at one target port.
fn transport_ids(list: &[u8], port: u16) -> Result<Vec<Identity>, Sense> {
    let mut all = Vec::new();
    let mut rest = list;
    while !rest.is_empty() {
        if all.len() == REGISTRANTS_MAX {
            return Err(Sense::illegal(asc::INSUFFICIENT_REGISTRATION_RESOURCES));
        }
        let (one, later) = split_transport_id(rest)?;
        all.push(Identity { transport_id: one.to_vec(), port });
        rest = later;
    }
    Ok(all)
}
