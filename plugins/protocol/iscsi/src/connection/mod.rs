//! Bytes of a connection, in and out, without a socket: [`inbox`] cuts what comes into PDUs, [`outbox`] holds what goes.

pub mod inbox;
pub mod outbox;

pub use inbox::{Broken, Inbox};
pub use outbox::{Body, Outbox};
