//! The errors of the driver.

use drivebay_spec_nvme::Status;
use drivebay_spec_nvme_tcp::ProtocolError;
use std::{fmt, io};

/// Why a call failed. After any error except [`Error::Status`], [`Error::QueueFull`] and [`Error::Argument`] the queue cannot
/// be used any more.
#[derive(Debug)]
pub enum Error {
    /// The socket failed, or the controller closed it.
    Io(io::Error),
    /// Nothing arrived in time.
    Timeout {
        /// What the call waited for.
        what: &'static str,
    },
    /// The controller broke the protocol. The driver has reported this to it, and the connection is over.
    Protocol(ProtocolError),
    /// The controller reports that the host broke the protocol; the connection is over.
    Terminated {
        /// Fatal error status.
        fes: u16,
        /// Fatal error information.
        fei: u32,
    },
    /// A command failed.
    Status {
        /// The command.
        what: &'static str,
        /// Its status.
        status: Status,
        /// DW0 of its completion.
        dw0: u32,
    },
    /// The queue is full: it has as many commands outstanding as its depth.
    QueueFull {
        /// The queue's depth, in commands.
        depth: u16,
    },
    /// An argument of the caller is not allowed.
    Argument(String),
    /// The controller sent an answer that is not valid.
    Unexpected(String),
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Io(error) => write!(f, "connection: {error}"),
            Self::Timeout { what } => write!(f, "timeout: {what}"),
            Self::Protocol(error) => write!(f, "the controller broke the protocol: {error}"),
            Self::Terminated { fes, fei } => {
                write!(
                    f,
                    "the controller terminated the connection: fes {fes:02x}h, fei {fei:08x}h"
                )
            }
            Self::Status { what, status, dw0 } => {
                write!(f, "{what} failed: {status}, dw0 {dw0:08x}h")
            }
            Self::QueueFull { depth } => write!(f, "the queue takes {depth} commands at once"),
            Self::Argument(text) | Self::Unexpected(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io(error) => Some(error),
            Self::Protocol(error) => Some(error),
            _ => None,
        }
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<ProtocolError> for Error {
    fn from(error: ProtocolError) -> Self {
        Self::Protocol(error)
    }
}
