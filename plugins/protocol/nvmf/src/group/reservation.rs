//! Reservations in a poll group: whom a namespace's reservation keeps out, and the way of reservation commands to the app thread.

use super::{LocalNamespace, Nvmf};
use crate::model::reservation::HostId;
use crate::ops::Reply;
use drivebay_reservation::{Access, Table};
use drivebay_sdk::nvmf::protocol::{Qpair, Request, Transfer};
use drivebay_spec_nvme::Command;
use drivebay_spec_nvme::opcode::nvm;
use std::cell::{Cell, RefCell};
use std::sync::Arc;

/// The longest data that a reservation command sends, in bytes.
const DATA_LEN_MAX: usize = 16;

/// A thread's copy of a namespace's reservation.
#[derive(Debug, Default)]
pub struct Guard {
    is_reserved: Cell<bool>,
    table: RefCell<Option<Arc<Table<HostId>>>>,
}

impl Guard {
    /// Whether a command has to be looked at by [`admits`](Self::admits).
    #[inline]
    pub fn is_reserved(&self) -> bool {
        self.is_reserved.get()
    }

    /// Whether a command of a host passes the reservation.
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

    /// The reservation has changed; `None`: there is none.
    pub fn set(&self, table: Option<Arc<Table<HostId>>>) {
        self.is_reserved.set(table.is_some());
        self.table.replace(table);
    }
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
    /// The reservation of a namespace has changed.
    pub fn set_reservation(&self, nqn: &str, nsid: u32, table: Option<Arc<Table<HostId>>>) {
        if let Some(namespace) = self.subsystem(nqn).find(nsid) {
            namespace.guard.set(table);
        }
    }

    /// Answers when no I/O that began before is in flight at a namespace: when none is for a moment.
    pub fn drain_namespace(&self, nqn: &str, nsid: u32, reply: Reply) {
        match self.subsystem(nqn).find(nsid) {
            Some(namespace) => LocalNamespace::drain(&namespace, reply),
            None => reply.send(Ok(())),
        }
    }
}
