//! The bytes of a connection, without its socket: `Inbox` splits received bytes into PDUs, [`outbox`] holds the PDUs to send.

pub mod outbox;

pub use drivebay_spec_iscsi::inbox::{Broken, Framing, Inbox};
pub use outbox::{Body, Outbox};
