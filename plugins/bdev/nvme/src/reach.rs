//! The transport and address of a controller: over TCP or on PCIe.

use std::fmt;
use std::sync::Arc;

use drivebay_nvme_driver::qpair::Agreed;
use drivebay_sdk::runtime::net::Stream;

use crate::dial::Target;
use crate::path::Ticket;
use crate::pci::Function;
use crate::pci::queue::IoQueue;

/// The address of a controller.
#[derive(Clone, Debug)]
pub(crate) enum Reach {
    Tcp(Target),
    /// Its PCI address.
    Pci(String),
}

/// How to open the I/O queues of a connected controller.
#[derive(Clone, Debug)]
pub(crate) enum Way {
    Tcp(Target),
    Pci(Arc<Function>),
}

/// An I/O queue that has just been opened.
pub(crate) enum Opened {
    Socket(Stream, Agreed, Ticket),
    Ring(IoQueue),
}

impl Reach {
    /// The host NQN, by which this host identifies itself to the controller. Empty on PCIe, where hosts have no NQN.
    pub(crate) fn hostnqn(&self) -> &str {
        match self {
            Self::Tcp(target) => &target.hostnqn,
            Self::Pci(_) => "",
        }
    }
}

impl fmt::Display for Reach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(target) => target.address.fmt(f),
            Self::Pci(address) => f.write_str(address),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(target) => target.address.fmt(f),
            Self::Pci(function) => f.write_str(function.address()),
        }
    }
}
