//! Reservations in a poll group: checks I/O against the reservation of its namespace, and sends reservation commands to the app thread.

use super::{LocalNamespace, Nvmf};
use crate::model::reservation::HostId;
use crate::ops::Reply;
use drivebay_reservation::{Access, Table};
use drivebay_sdk::nvmf::protocol::{Qpair, Request, Transfer};
use drivebay_spec_nvme::Command;
use drivebay_spec_nvme::opcode::nvm;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// Maximum number of bytes of data in a reservation command.
const DATA_LEN_MAX: usize = 16;

/// A thread's copy of a namespace's reservation. Only this thread reads and writes the copy; the app thread sends changes as messages.
#[derive(Debug, Default)]
pub struct Guard {
    is_reserved: Cell<bool>,
    table: RefCell<Option<Arc<Table<HostId>>>>,
}

impl Guard {
    /// Whether there is a reservation, so that commands need [`admits`](Self::admits).
    #[inline]
    pub fn is_reserved(&self) -> bool {
        self.is_reserved.get()
    }

    /// Whether the reservation allows a command of a host. A Copy reads and writes, and all that may write may read.
    pub fn admits(&self, host: &HostId, opcode: u8) -> bool {
        let access = match opcode {
            nvm::READ | nvm::COMPARE | nvm::VERIFY => Access::Read,
            nvm::RESERVATION_REGISTER
            | nvm::RESERVATION_REPORT
            | nvm::RESERVATION_ACQUIRE
            | nvm::RESERVATION_RELEASE => return true,
            _ => Access::Write,
        };
        self.table.borrow().as_ref().is_none_or(|table| table.allows(Some(host), access))
    }

    /// Sets the reservation; `None` removes it.
    pub fn set(&self, table: Option<Arc<Table<HostId>>>) {
        self.is_reserved.set(table.is_some());
        self.table.replace(table);
    }
}

/// Whether a reservation of the namespace forbids the command of a request now.
#[inline]
pub(super) fn forbids(namespace: &LocalNamespace, request: &Request<Nvmf>) -> bool {
    let guard = &namespace.guard;
    let [opcode, ..] = *request.command();
    guard.is_reserved() && !guard.admits(&request.qpair().state().hostid.get(), opcode)
}

/// Sends a reservation command to the app thread.
pub(super) fn forward(qpair: &Qpair<Nvmf>, request: Request<Nvmf>, command: &Command) {
    let data = match request.transfer() {
        Transfer::FromHost => request.read_data(DATA_LEN_MAX),
        Transfer::None | Transfer::ToHost => Vec::new(),
    };
    let (command, len) = (*command, request.len());
    let group = qpair.group();
    let ticket = group.park(qpair, request);
    group.app.send(move |app| app.reservation(ticket, &command, len, data));
}

impl super::Group {
    /// Sets the reservation of a namespace; `None` removes it.
    pub fn set_reservation(&self, nqn: &str, nsid: u32, table: Option<Arc<Table<HostId>>>) {
        if let Some(namespace) = self.subsystem(nqn).find(nsid) {
            namespace.guard.set(table);
        }
    }

    /// Sends `reply` when a namespace has no I/O in flight for a moment, so that all I/O that began before has ended.
    pub fn drain_namespace(&self, nqn: &str, nsid: u32, reply: Reply) {
        match self.subsystem(nqn).find(nsid) {
            Some(namespace) => LocalNamespace::drain(&namespace, reply),
            None => reply.send(Ok(())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_reservation::Kind;

    #[test]
    fn a_copy_needs_the_right_to_write_and_a_reservation_command_needs_none() {
        let (holder, other): (HostId, HostId) = ([1; 16], [2; 16]);
        let mut table = Table::default();
        table.register(vec![holder], 1).unwrap();
        table.reserve(&holder, Kind::WriteExclusive).unwrap();
        let guard = Guard::default();
        guard.set(Some(Arc::new(table)));
        assert!(guard.is_reserved());
        for (opcode, is_admitted) in [
            (nvm::READ, true),
            (nvm::COMPARE, true),
            (nvm::WRITE, false),
            (nvm::FLUSH, false),
            (nvm::WRITE_ZEROES, false),
            (nvm::DATASET_MANAGEMENT, false),
            (nvm::COPY, false),
            (nvm::RESERVATION_ACQUIRE, true),
        ] {
            assert!(guard.admits(&holder, opcode), "{opcode:#x}");
            assert_eq!(guard.admits(&other, opcode), is_admitted, "{opcode:#x}");
        }
        guard.set(None);
        assert!(!guard.is_reserved() && guard.admits(&other, nvm::WRITE));
    }
}
