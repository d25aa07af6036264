//! Reservations of a unit: persistent ones (SPC-4, section 5.12) and those of RESERVE (SPC-2, section 5.5).
//!
//! A [`Table`], which NVMe uses too, holds the registrants and the persistent reservation. This file adds the rules of SCSI. PERSISTENT
//! RESERVE OUT is in `reserve_out.rs`.

use crate::NexusId;
use drivebay_reservation::{Access as Needed, Held, Kind, Table};
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::reservation::{self, FullStatus, InAction, Type};
use drivebay_spec_scsi::status::Status;

/// The identity of an initiator across logins. Registrations belong to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The initiator port's TransportID.
    pub transport_id: Vec<u8>,
    /// Relative identifier of the target port.
    pub port: u16,
}

/// The access that a command needs. SPC-4, table 64; SBC-3, table 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// The command passes any reservation.
    Any,
    /// The command passes a persistent reservation, but not a RESERVE of another nexus.
    Persistent,
    /// The command reads.
    Read,
    /// The command writes, or changes the unit.
    Write,
}

impl Access {
    pub(crate) fn of(command: &Command) -> Self {
        match command {
            Command::Inquiry { .. }
            | Command::ReportLuns { .. }
            | Command::RequestSense { .. }
            | Command::Release6 => Self::Any,
            Command::TestUnitReady
            | Command::ReserveIn { .. }
            | Command::ReserveOut { .. }
            | Command::ReadCapacity10
            | Command::ReadCapacity16 { .. }
            | Command::LogSense { .. }
            | Command::PreventRemoval
            | Command::ReportOpcodes { .. }
            | Command::ReportTaskManagement { .. }
            | Command::Reserve6 => Self::Persistent,
            Command::Read(_)
            | Command::PreFetch(_)
            | Command::Verify { .. }
            | Command::GetLbaStatus { .. }
            | Command::ModeSense { .. }
            | Command::ReceiveCopyResults { .. } => Self::Read,
            Command::StartStop { start: true, power_condition: 0, .. } => Self::Persistent,
            _ => Self::Write,
        }
    }
}

/// The reservations of a unit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reservations {
    /// Registrants and the persistent reservation.
    pub(crate) table: Table<Identity>,
    /// Whether they survive a loss of power: APTPL of the last registration.
    pub(crate) aptpl: bool,
    /// The nexus that has reserved the unit by RESERVE.
    legacy: Option<NexusId>,
}

impl Reservations {
    /// Restores stored reservations.
    pub(crate) fn restored(table: Table<Identity>) -> Self {
        Self { table, aptpl: true, legacy: None }
    }

    /// Whether the unit is not reserved, so that every command passes.
    pub(crate) fn is_free(&self) -> bool {
        self.table.held().is_none() && self.legacy.is_none()
    }

    /// Whether a nexus has this access.
    pub(crate) fn allows(
        &self,
        nexus: NexusId,
        identity: Option<&Identity>,
        access: Access,
    ) -> bool {
        if self.legacy.is_some_and(|holder| holder != nexus) {
            return access == Access::Any;
        }
        match access {
            Access::Any | Access::Persistent => true,
            Access::Read => self.table.allows(identity, Needed::Read),
            Access::Write => self.table.allows(identity, Needed::Write),
        }
    }

    /// RESERVE. While initiators are registered, it is GOOD without effect for them and a conflict for others (SPC-4, section
    /// 5.12.3, "CRH").
    pub(crate) fn reserve_6(&mut self, nexus: NexusId, identity: Option<&Identity>) -> Status {
        if !self.table.registrants().is_empty() {
            let key = identity.and_then(|identity| self.table.key_of(identity));
            return if key.is_some() { Status::Good } else { Status::ReservationConflict };
        }
        self.legacy = Some(nexus);
        Status::Good
    }

    /// RELEASE. It has no effect for a nexus that has not reserved the unit.
    pub(crate) fn release_6(&mut self, nexus: NexusId) {
        if self.legacy == Some(nexus) {
            self.legacy = None;
        }
    }

    /// Ends the RESERVE of a nexus that has ended. Persistent reservations stay.
    pub(crate) fn nexus_lost(&mut self, nexus: NexusId) {
        self.release_6(nexus);
    }

    /// Ends a RESERVE, because the unit is reset. Persistent reservations stay.
    pub(crate) fn reset(&mut self) {
        self.legacy = None;
    }

    /// The data of PERSISTENT RESERVE IN. `can_keep`: reservations can survive a loss of power.
    pub(crate) fn report(&self, action: InAction, can_keep: bool) -> Vec<u8> {
        let Self { table, .. } = self;
        let keys = table.registrants().iter().map(|registrant| registrant.key);
        match action {
            InAction::ReadKeys => reservation::encode_keys(table.generation(), keys),
            InAction::ReadReservation => {
                let holder = table.held().map(|Held { kind, holder }| {
                    let key = holder.as_ref().and_then(|holder| table.key_of(holder));
                    (key.unwrap_or(0), type_of(*kind))
                });
                reservation::encode_reservation(table.generation(), holder)
            }
            InAction::ReportCapabilities => {
                let aptpl = can_keep.then_some(self.aptpl);
                reservation::encode_capabilities(true, true, aptpl).to_vec()
            }
            InAction::ReadFullStatus => {
                let all = table.registrants().iter().map(|registrant| FullStatus {
                    key: registrant.key,
                    holds: table
                        .held()
                        .filter(|_| table.holds(&registrant.who))
                        .map(|held| type_of(held.kind)),
                    port: Some(registrant.who.port),
                    transport_id: &registrant.who.transport_id,
                });
                reservation::encode_full_status(table.generation(), all)
            }
        }
    }
}

/// The kind of a SCSI type.
#[must_use]
pub fn kind_of(of: Type) -> Kind {
    match of {
        Type::WriteExclusive => Kind::WriteExclusive,
        Type::ExclusiveAccess => Kind::ExclusiveAccess,
        Type::WriteExclusiveRegistrants => Kind::WriteExclusiveRegistrants,
        Type::ExclusiveAccessRegistrants => Kind::ExclusiveAccessRegistrants,
        Type::WriteExclusiveAll => Kind::WriteExclusiveAll,
        Type::ExclusiveAccessAll => Kind::ExclusiveAccessAll,
    }
}

/// The SCSI type of a kind.
#[must_use]
pub fn type_of(kind: Kind) -> Type {
    match kind {
        Kind::WriteExclusive => Type::WriteExclusive,
        Kind::ExclusiveAccess => Type::ExclusiveAccess,
        Kind::WriteExclusiveRegistrants => Type::WriteExclusiveRegistrants,
        Kind::ExclusiveAccessRegistrants => Type::ExclusiveAccessRegistrants,
        Kind::WriteExclusiveAll => Type::WriteExclusiveAll,
        Kind::ExclusiveAccessAll => Type::ExclusiveAccessAll,
    }
}
