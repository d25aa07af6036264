//! The bytes of a connection, without its socket: [`inbox`] splits received bytes into PDUs, [`outbox`] holds the PDUs to send.

pub mod inbox;
pub mod outbox;

pub use inbox::{Broken, Inbox};
pub use outbox::{Body, Outbox};
