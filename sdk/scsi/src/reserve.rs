//! Reservations of a unit, all in one place: persistent ones (SPC-4, section 5.12) and those of RESERVE (SPC-2, section 5.5).
//!
//! | type | holder | registrants | others |
//! |---|---|---|---|
//! | write exclusive | reads, writes | read | read |
//! | exclusive access | reads, writes | nothing | nothing |
//! | … registrants only | reads, writes | read, write | read (write exclusive) or nothing |
//! | … all registrants | is every registrant | read, write | read (write exclusive) or nothing |

use crate::NexusId;
use crate::device::{Begun, Device};
use crate::outcome::Outcome;
use drivebay_spec_scsi::command::Command;
use drivebay_spec_scsi::reservation::{
    self, FullStatus, InAction, OutAction, OutParameters, Type, split_transport_id,
};
use drivebay_spec_scsi::sense::{Sense, asc};
use drivebay_spec_scsi::status::Status;

/// Most registrants of a unit.
const REGISTRANTS_MAX: usize = 256;

/// Who an initiator is, from one login to the next: what registrations belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The initiator port's TransportID.
    pub transport_id: Vec<u8>,
    /// Relative identifier of the target port.
    pub port: u16,
}

/// What a command needs of a reservation. SPC-4, table 64; SBC-3, table 15.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// It passes any reservation.
    Any,
    /// It passes a persistent reservation, not one of RESERVE.
    Persistent,
    /// It reads.
    Read,
    /// It writes, or changes the unit.
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

#[derive(Clone, Debug)]
struct Registrant {
    identity: Identity,
    key: u64,
}

/// The reservations of a unit.
#[derive(Debug, Default)]
pub(crate) struct Reservations {
    generation: u32,
    registrants: Vec<Registrant>,
    /// The persistent reservation: its type, and its holder unless all registrants are.
    held: Option<(Type, Option<Identity>)>,
    /// Who has reserved the unit by RESERVE.
    legacy: Option<NexusId>,
}

/// What a change means for others: unit attentions for them, and whose commands are to be aborted.
#[derive(Debug, Default)]
struct Told {
    attentions: Vec<(Identity, u16)>,
    aborts: Vec<Identity>,
}

type Change = Result<Told, Refusal>;

/// Why a service action is refused.
#[derive(Debug)]
enum Refusal {
    Conflict,
    Sense(Sense),
}

impl From<Sense> for Refusal {
    fn from(sense: Sense) -> Self {
        Self::Sense(sense)
    }
}

impl Reservations {
    /// Whether nothing is reserved: every command passes.
    pub(crate) fn is_free(&self) -> bool {
        self.held.is_none() && self.legacy.is_none()
    }

    /// Whether a command of a nexus passes.
    pub(crate) fn allows(
        &self,
        nexus: NexusId,
        identity: Option<&Identity>,
        access: Access,
    ) -> bool {
        if self.legacy.is_some_and(|holder| holder != nexus) {
            return access == Access::Any;
        }
        let Some((kind, _)) = &self.held else { return true };
        let is_registered = identity.is_some_and(|identity| self.key_of(identity).is_some());
        match access {
            Access::Any | Access::Persistent => true,
            _ if identity.is_some_and(|identity| self.holds(identity)) => true,
            _ if is_registered && kind.admits_registrants() => true,
            Access::Read => kind.admits_readers(),
            Access::Write => false,
        }
    }

    /// RESERVE: good without effect for a registrant, a conflict for others (SPC-4, section 5.12.3, "CRH").
    pub(crate) fn reserve_6(&mut self, nexus: NexusId, identity: Option<&Identity>) -> Status {
        if !self.registrants.is_empty() {
            let is_registered = identity.is_some_and(|identity| self.key_of(identity).is_some());
            return if is_registered { Status::Good } else { Status::ReservationConflict };
        }
        self.legacy = Some(nexus);
        Status::Good
    }

    /// RELEASE, without effect for those that have reserved nothing.
    pub(crate) fn release_6(&mut self, nexus: NexusId) {
        if self.legacy == Some(nexus) {
            self.legacy = None;
        }
    }

    /// A nexus is lost: persistent reservations stay.
    pub(crate) fn nexus_lost(&mut self, nexus: NexusId) {
        self.release_6(nexus);
    }

    /// The unit is reset: persistent reservations stay.
    pub(crate) fn reset(&mut self) {
        self.legacy = None;
    }

    /// PERSISTENT RESERVE IN.
    pub(crate) fn report(&self, action: InAction) -> Vec<u8> {
        let keys = self.registrants.iter().map(|registrant| registrant.key);
        match action {
            InAction::ReadKeys => reservation::encode_keys(self.generation, keys),
            InAction::ReadReservation => {
                let holder = self.held.as_ref().map(|(kind, holder)| {
                    let key = holder.as_ref().and_then(|holder| self.key_of(holder));
                    (key.unwrap_or(0), *kind)
                });
                reservation::encode_reservation(self.generation, holder)
            }
            InAction::ReportCapabilities => {
                reservation::encode_capabilities(true, true, None).to_vec()
            }
            InAction::ReadFullStatus => {
                let all = self.registrants.iter().map(|registrant| FullStatus {
                    key: registrant.key,
                    holds: self
                        .held
                        .as_ref()
                        .filter(|_| self.holds(&registrant.identity))
                        .map(|(kind, _)| *kind),
                    port: Some(registrant.identity.port),
                    transport_id: &registrant.identity.transport_id,
                });
                reservation::encode_full_status(self.generation, all)
            }
        }
    }

    fn key_of(&self, identity: &Identity) -> Option<u64> {
        let found = self.registrants.iter().find(|registrant| registrant.identity == *identity);
        found.map(|registrant| registrant.key)
    }

    /// Whether it is a holder of the reservation, of those that are all registrants' too.
    fn holds(&self, identity: &Identity) -> bool {
        match &self.held {
            Some((_, Some(holder))) => holder == identity,
            Some((_, None)) => self.key_of(identity).is_some(),
            None => false,
        }
    }

    /// REGISTER, and REGISTER AND IGNORE EXISTING KEY. `elsewhere`: the same initiator port at the other target ports when ALL_TG_PT is
    /// set. The initiator ports that SPEC_I_PT names are then registered there, too.
    fn register(
        &mut self,
        who: &Identity,
        out: &OutParameters,
        ignores: bool,
        elsewhere: &[Identity],
    ) -> Change {
        let key = out.service_action_key;
        let current = self.key_of(who);
        if !ignores && current.unwrap_or(0) != out.key {
            return Err(Refusal::Conflict);
        }
        if out.has_initiators && (ignores || current.is_some() || key == 0) {
            return Err(Sense::invalid_parameter(20, Some(3)).into());
        }
        let Some(_) = current else {
            if key == 0 {
                return Ok(Told::default());
            }
            let mut new = Vec::new();
            for there in [who].into_iter().chain(elsewhere) {
                new.push(there.clone());
                new.extend(transport_ids(&out.transport_ids, there.port)?);
            }
            self.add(new, key)?;
            self.generation = self.generation.wrapping_add(1);
            return Ok(Told::default());
        };
        if key == 0 {
            self.generation = self.generation.wrapping_add(1);
            let mut told = self.unregister(who);
            for one in elsewhere {
                told.attentions.extend(self.unregister(one).attentions);
            }
            return Ok(told);
        }
        self.add(elsewhere.to_vec(), key)?;
        self.generation = self.generation.wrapping_add(1);
        // The reservation follows: it belongs to the registrant, not to the key.
        let is_meant =
            |one: &&mut Registrant| one.identity == *who || elsewhere.contains(&one.identity);
        for registrant in self.registrants.iter_mut().filter(is_meant) {
            registrant.key = key;
        }
        Ok(Told::default())
    }

    /// Adds those that are not registrants yet, each once; all or none.
    fn add(&mut self, new: Vec<Identity>, key: u64) -> Result<(), Sense> {
        let before = self.registrants.len();
        for identity in new {
            if self.key_of(&identity).is_some() {
                continue;
            }
            if self.registrants.len() == REGISTRANTS_MAX {
                self.registrants.truncate(before);
                return Err(Sense::illegal(asc::INSUFFICIENT_REGISTRATION_RESOURCES));
            }
            self.registrants.push(Registrant { identity, key });
        }
        Ok(())
    }

    /// Forgets a registrant; what it held is released, or goes on with the other registrants.
    fn unregister(&mut self, who: &Identity) -> Told {
        let was_holder = self.holds(who);
        self.registrants.retain(|registrant| registrant.identity != *who);
        let Some((kind, _)) = &self.held else { return Told::default() };
        let kind = *kind;
        if !was_holder || (kind.is_all_registrants() && !self.registrants.is_empty()) {
            return Told::default();
        }
        self.held = None;
        self.released(who, kind)
    }

    /// A reservation that registrants shared is released: they hear of it.
    fn released(&self, by: &Identity, kind: Type) -> Told {
        let mut told = Told::default();
        if kind.admits_registrants() {
            let others = self.registrants.iter().filter(|one| one.identity != *by);
            told.attentions
                .extend(others.map(|one| (one.identity.clone(), asc::RESERVATIONS_RELEASED)));
        }
        told
    }

    fn reserve(&mut self, who: &Identity, kind: Type) -> Change {
        match &self.held {
            None => {
                self.hold(who, kind);
                Ok(Told::default())
            }
            Some((held, _)) if *held == kind && self.holds(who) => Ok(Told::default()),
            Some(_) => Err(Refusal::Conflict),
        }
    }

    fn hold(&mut self, who: &Identity, kind: Type) {
        let holder = (!kind.is_all_registrants()).then(|| who.clone());
        self.held = Some((kind, holder));
    }

    fn release(&mut self, who: &Identity, kind: Option<Type>) -> Change {
        let Some((held, _)) = &self.held else { return Ok(Told::default()) };
        if !self.holds(who) {
            return Ok(Told::default());
        }
        if Some(*held) != kind {
            return Err(Sense::illegal(asc::INVALID_RELEASE_OF_PERSISTENT_RESERVATION).into());
        }
        let kind = *held;
        self.held = None;
        Ok(self.released(who, kind))
    }

    fn clear(&mut self, who: &Identity) -> Told {
        let others = std::mem::take(&mut self.registrants).into_iter();
        let others = others.map(|one| one.identity).filter(|identity| identity != who);
        self.held = None;
        self.generation = self.generation.wrapping_add(1);
        let attentions = others.map(|one| (one, asc::RESERVATIONS_PREEMPTED)).collect();
        Told { attentions, aborts: Vec::new() }
    }

    /// PREEMPT, and PREEMPT AND ABORT. SPC-4, section 5.12.11.2.4.
    fn preempt(&mut self, who: &Identity, kind: Option<Type>, key: u64, aborts: bool) -> Change {
        let (takes, previous) = match &self.held {
            Some((held, None)) => (key == 0, Some(*held)),
            Some((held, Some(holder))) => (self.key_of(holder) == Some(key), Some(*held)),
            None => (false, None),
        };
        if key == 0 && !takes {
            return Err(Sense::invalid_parameter(8, None).into());
        }
        let kind = match kind {
            Some(kind) => kind,
            None if takes => return Err(Sense::invalid_cdb(2, Some(3)).into()),
            None => Type::WriteExclusive, // not looked at
        };
        let is_meant = |one: &Registrant| key == 0 || one.key == key;
        if !takes && !self.registrants.iter().any(is_meant) {
            return Err(Refusal::Conflict);
        }
        let removed: Vec<Identity> = self
            .registrants
            .iter()
            .filter(|one| is_meant(one) && one.identity != *who)
            .map(|one| one.identity.clone())
            .collect();
        if !takes && removed.is_empty() {
            // Its own key, and it is no holder: as if it unregistered, others have nothing to hear.
            self.registrants.retain(|one| one.identity != *who);
        }
        self.registrants.retain(|one| !removed.contains(&one.identity));
        self.generation = self.generation.wrapping_add(1);
        let mut told = Told::default();
        for one in &removed {
            told.attentions.push((one.clone(), asc::REGISTRATIONS_PREEMPTED));
        }
        if takes {
            if previous.is_some_and(|previous| previous != kind && previous.admits_registrants()) {
                let others = self.registrants.iter().filter(|one| one.identity != *who);
                told.attentions
                    .extend(others.map(|one| (one.identity.clone(), asc::RESERVATIONS_RELEASED)));
            }
            self.hold(who, kind);
        }
        if aborts {
            told.aborts = removed;
        }
        Ok(told)
    }

    /// REGISTER AND MOVE. SPC-4, section 5.12.8.
    fn register_and_move(&mut self, who: &Identity, out: &OutParameters) -> Change {
        let Some((kind, Some(holder))) = self.held.clone() else { return Err(Refusal::Conflict) };
        if holder != *who {
            return Err(Refusal::Conflict);
        }
        if out.service_action_key == 0 {
            return Err(Sense::invalid_parameter(8, None).into());
        }
        let ids = transport_ids(&out.transport_ids, out.relative_port)?;
        let [to] = ids.as_slice() else { return Err(Sense::invalid_parameter(20, None).into()) };
        if to == who {
            return Err(Sense::invalid_parameter(24, None).into());
        }
        if self.key_of(to).is_none() && self.registrants.len() >= REGISTRANTS_MAX {
            return Err(Sense::illegal(asc::INSUFFICIENT_REGISTRATION_RESOURCES).into());
        }
        self.registrants
            .retain(|one| one.identity != *to && !(out.unregister && one.identity == *who));
        self.registrants.push(Registrant { identity: to.clone(), key: out.service_action_key });
        self.held = Some((kind, Some(to.clone())));
        self.generation = self.generation.wrapping_add(1);
        Ok(Told::default())
    }
}

/// The initiator ports that TransportIDs name, at a target port.
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

/// PERSISTENT RESERVE OUT, with its parameter list.
pub(crate) fn receive(
    device: &mut Device,
    nexus: NexusId,
    unit: u16,
    command: Command,
    list: &[u8],
) -> Result<Begun, Sense> {
    let missing = Sense::illegal(asc::LOGICAL_UNIT_NOT_SUPPORTED);
    let Command::ReserveOut { action, scope, kind, .. } = command else { return Err(missing) };
    let who = device.nexuses.get(&nexus).cloned().ok_or(missing)?;
    let out = OutParameters::parse(action, list)?;
    if out.aptpl {
        // Nothing is kept through a loss of power yet, as REPORT CAPABILITIES says.
        let byte = if action == OutAction::RegisterAndMove { 17 } else { 20 };
        return Err(Sense::invalid_parameter(byte, Some(0)));
    }
    let mut elsewhere = Vec::new();
    if out.all_ports {
        let others =
            device.ports().iter().map(|port| port.relative).filter(|port| *port != who.port);
        elsewhere.extend(others.map(|port| Identity { port, ..who.clone() }));
    }
    let found = device.units.get_mut(&unit).ok_or(missing)?;
    let table = &mut found.reservations;
    let changed = match action {
        OutAction::Register => table.register(&who, &out, false, &elsewhere),
        OutAction::RegisterAndIgnore => table.register(&who, &out, true, &elsewhere),
        _ => change(table, &who, action, (scope, kind), &out),
    };
    match changed {
        Ok(told) => {
            device.tell(unit, told.attentions, &told.aborts);
            Ok(Begun::Ended(Outcome::good()))
        }
        Err(Refusal::Conflict) => Ok(Begun::Ended(Outcome::of(Status::ReservationConflict))),
        Err(Refusal::Sense(sense)) => Err(sense),
    }
}

fn change(
    table: &mut Reservations,
    who: &Identity,
    action: OutAction,
    (scope, kind): (u8, u8),
    out: &OutParameters,
) -> Change {
    if table.key_of(who) != Some(out.key) {
        return Err(Refusal::Conflict);
    }
    let has_type = matches!(
        action,
        OutAction::Reserve | OutAction::Release | OutAction::Preempt | OutAction::PreemptAndAbort
    );
    if has_type && scope != 0 {
        return Err(Sense::invalid_cdb(2, Some(7)).into());
    }
    let kind = Type::from_bits(kind);
    match action {
        OutAction::Reserve => table.reserve(who, kind.ok_or(Sense::invalid_cdb(2, Some(3)))?),
        OutAction::Release => table.release(who, kind),
        OutAction::Clear => Ok(table.clear(who)),
        OutAction::Preempt => table.preempt(who, kind, out.service_action_key, false),
        OutAction::PreemptAndAbort => table.preempt(who, kind, out.service_action_key, true),
        OutAction::RegisterAndMove => table.register_and_move(who, out),
        OutAction::Register | OutAction::RegisterAndIgnore => Ok(Told::default()),
    }
}
