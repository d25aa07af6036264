//! Reservations of a namespace, and how each command changes them. NVMe Base 2.0, section 8.19.
//!
//! Nothing here waits. A change returns the new state; the app thread stores it and sends it to the poll groups.

use drivebay_reservation::{Kind, Refusal, Table, Told};
use drivebay_spec_nvme::opcode::nvm;
use drivebay_spec_nvme::reservation::{
    self, Acquire, AcquireAction, Persistence, Register, RegisterAction, Release, Type,
};
use drivebay_spec_nvme::{Command, Status};

/// A host, by its identifier.
pub type HostId = [u8; 16];

const CONFLICT: Status = Status::RESERVATION_CONFLICT.with_dnr();
const INVALID: Status = Status::INVALID_FIELD.with_dnr();

/// The reservations of a namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reservations {
    /// Registrants and the reservation.
    pub table: Table<HostId>,
    /// Whether they outlast a loss of power (PTPL).
    pub is_persistent: bool,
}

/// The result of a command.
#[derive(Debug)]
pub struct Change {
    /// The reservations after the command.
    pub after: Reservations,
    /// The consequences for other hosts.
    pub told: Told<HostId>,
    /// Whether the commands of preempted hosts are aborted.
    pub aborts: bool,
}

impl Reservations {
    /// Whether a host is registered.
    pub fn is_registered(&self) -> bool {
        !self.table.registrants().is_empty()
    }

    /// The type of the reservation; `None` without one.
    pub fn kind(&self) -> Option<Type> {
        self.table.held().map(|held| type_of(held.kind))
    }

    /// Executes Reservation Register, Acquire or Release of a host. `can_persist`: the namespace has a `ptpl_file`.
    ///
    /// # Errors
    /// The status that the command ends with.
    pub fn change(
        &self,
        who: HostId,
        command: &Command,
        data: &[u8],
        can_persist: bool,
    ) -> Result<Change, Status> {
        let mut after = self.clone();
        let mut aborts = false;
        let needed = |len: usize| {
            let too_short = Status::DATA_SGL_LENGTH_INVALID.with_dnr();
            if data.len() < len { Err(too_short) } else { Ok(reservation::keys(data)) }
        };
        let told = match command.opcode() {
            nvm::RESERVATION_REGISTER => {
                let register = Register::from_command(command)?;
                let keys = needed(Register::DATA_LEN)?;
                match register.persistence {
                    Persistence::Keep => {}
                    Persistence::Off => after.is_persistent = false,
                    Persistence::On if can_persist => after.is_persistent = true,
                    Persistence::On => return Err(INVALID),
                }
                change_registration(&mut after.table, who, register, keys)?
            }
            nvm::RESERVATION_ACQUIRE => {
                let acquire = Acquire::from_command(command)?;
                let (key, other) = needed(Acquire::DATA_LEN)?;
                check_key(&after.table, who, key)?;
                aborts = acquire.action == AcquireAction::PreemptAndAbort;
                let kind = kind_of(acquire.kind);
                if acquire.action == AcquireAction::Acquire {
                    after.table.reserve(&who, kind).map_err(status_of)?;
                    Told::default()
                } else {
                    after.table.preempt(&who, kind, other).map_err(status_of)?
                }
            }
            nvm::RESERVATION_RELEASE => {
                let release = Release::from_command(command)?;
                let (key, _) = needed(Release::DATA_LEN)?;
                check_key(&after.table, who, key)?;
                if release.clears {
                    after.table.clear(&who)
                } else {
                    after.table.release(&who, release.kind.map(kind_of)).map_err(status_of)?
                }
            }
            _ => return Err(Status::INVALID_OPCODE.with_dnr()),
        };
        Ok(Change { after, told, aborts })
    }
}

fn change_registration(
    table: &mut Table<HostId>,
    who: HostId,
    register: Register,
    (key, new_key): (u64, u64),
) -> Result<Told<HostId>, Status> {
    let Register { action, ignores_key, .. } = register;
    let current = table.key_of(&who);
    let is_right_key = current.is_some_and(|current| ignores_key || current == key);
    if action != RegisterAction::Unregister && new_key == 0 {
        return Err(INVALID);
    }
    match action {
        RegisterAction::Register => match current {
            None => table.register(vec![who], new_key).map_err(status_of)?,
            Some(current) if current == new_key => {}
            Some(_) => return Err(CONFLICT),
        },
        RegisterAction::Unregister if is_right_key => return Ok(table.unregister(&[who])),
        // With IEKEY, a host that is not registered may register by Replace.
        RegisterAction::Replace if is_right_key || current.is_none() && ignores_key => {
            table.replace(vec![who], new_key).map_err(status_of)?;
        }
        RegisterAction::Unregister | RegisterAction::Replace => return Err(CONFLICT),
    }
    Ok(Told::default())
}

/// Checks that the host is registered with this key.
fn check_key(table: &Table<HostId>, who: HostId, key: u64) -> Result<(), Status> {
    if table.key_of(&who) == Some(key) { Ok(()) } else { Err(CONFLICT) }
}

fn status_of(refusal: Refusal) -> Status {
    match refusal {
        Refusal::Conflict => CONFLICT,
        Refusal::WrongKind | Refusal::KeyZero => INVALID,
        Refusal::Full => Status::INTERNAL_ERROR.with_dnr(),
    }
}

/// Converts an NVMe type.
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

/// Converts a kind to the NVMe type.
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

#[cfg(test)]
mod tests {
    use super::*;

    const A: HostId = [1; 16];
    const B: HostId = [2; 16];

    struct Bench(Reservations);

    impl Bench {
        fn run(
            &mut self,
            who: HostId,
            opcode: u8,
            cdw10: u32,
            keys: (u64, u64),
        ) -> Result<Change, Status> {
            let mut command = Command::new(opcode);
            command.dw[10] = cdw10;
            let data = [keys.0.to_le_bytes(), keys.1.to_le_bytes()].concat();
            let change = self.0.change(who, &command, &data, true)?;
            self.0 = change.after.clone();
            Ok(change)
        }

        fn status(&mut self, who: HostId, opcode: u8, cdw10: u32, keys: (u64, u64)) -> Status {
            self.run(who, opcode, cdw10, keys).err().unwrap_or(Status::SUCCESS)
        }
    }

    #[test]
    fn registering_looks_at_the_keys_as_each_action_says() {
        let mut bench = Bench(Reservations::default());
        let (register, unregister, replace, ignores) = (0, 1, 2, 8);
        for (cdw10, keys, expected) in [
            (register, (0, 0), INVALID),
            (register, (9, 5), Status::SUCCESS),
            (register, (0, 5), Status::SUCCESS),
            (register, (5, 6), CONFLICT),
            (replace, (4, 6), CONFLICT),
            (replace, (5, 6), Status::SUCCESS),
            (replace | ignores, (0, 7), Status::SUCCESS),
            (unregister, (6, 0), CONFLICT),
            (unregister, (7, 0), Status::SUCCESS),
            (unregister | ignores, (7, 0), CONFLICT),
            (replace, (0, 8), CONFLICT),
            (replace | ignores, (0, 8), Status::SUCCESS),
        ] {
            let status = bench.status(A, nvm::RESERVATION_REGISTER, cdw10, keys);
            assert_eq!(status, expected, "{cdw10:#x} {keys:?}");
        }
        assert_eq!(bench.0.table.key_of(&A), Some(8));
    }

    #[test]
    fn a_host_acquires_preempts_releases_and_clears_with_its_own_key_only() {
        let mut bench = Bench(Reservations::default());
        for (who, key) in [(A, 1), (B, 2)] {
            bench.run(who, nvm::RESERVATION_REGISTER, 0, (0, key)).unwrap();
        }
        let acquire = nvm::RESERVATION_ACQUIRE;
        assert_eq!(bench.status(A, acquire, 2 << 8, (2, 0)), CONFLICT);
        assert_eq!(bench.status(A, acquire, 2 << 8, (1, 0)), Status::SUCCESS);
        assert_eq!(bench.0.kind(), Some(Type::ExclusiveAccess));
        assert_eq!(bench.status(B, acquire, 2 << 8, (2, 0)), CONFLICT);
        assert_eq!(bench.status(B, nvm::RESERVATION_RELEASE, 2 << 8, (2, 0)), Status::SUCCESS);
        assert!(bench.0.table.holds(&A), "another host's release has no effect");
        let change = bench.run(B, acquire, 1 << 8 | 2, (2, 1)).unwrap();
        assert!(change.aborts && change.told.preempted == [A]);
        assert_eq!(bench.status(B, acquire, 1 << 8 | 1, (2, 0)), INVALID);
        assert_eq!(bench.status(B, nvm::RESERVATION_RELEASE, 2 << 8, (2, 0)), INVALID);
        assert_eq!(bench.status(B, nvm::RESERVATION_RELEASE, 1, (2, 0)), Status::SUCCESS);
        assert!(!bench.0.is_registered());
    }

    #[test]
    fn persistence_needs_a_file_and_short_data_is_refused() {
        let mut command = Command::new(nvm::RESERVATION_REGISTER);
        command.dw[10] = 3 << 30;
        let none = Reservations::default();
        let data = [[0; 8], [1; 8]].concat();
        assert_eq!(none.change(A, &command, &data, false).unwrap_err(), INVALID);
        assert!(none.change(A, &command, &data, true).unwrap().after.is_persistent);
        let refused = none.change(A, &command, &data[..15], true).unwrap_err();
        assert_eq!(refused, Status::DATA_SGL_LENGTH_INVALID.with_dnr());
    }
}
