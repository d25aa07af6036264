//! JSON-RPC 2.0 as SPDK uses it: framing, messages, method declarations.
//!
//! Converts between bytes and values; does no I/O. The modules, starting from the wire:
//!
//! - [`frame`] splits a byte stream into top-level JSON values.
//! - [`message`] reads requests and batches and writes answers.
//! - [`params!`] declares the parameters of a method once. It creates the
//!   decoder ([`decode`]) and the description ([`Param`], [`Kind`]).
//! - [`Method`] describes a whole method; its JSON text crosses the plugin ABI.
//! - [`doc`] writes help, Markdown and an OpenRPC document from [`Method`]s.
#![forbid(unsafe_code)]

mod check;
pub mod doc;
mod error;
pub mod frame;
mod kind;
pub mod message;
mod method;
mod number;
mod params;

pub use error::{ErrorData, RpcError, code};
pub use frame::{FrameError, FrameLimits, Framer};
pub use kind::{Choice, Kind, Param};
pub use message::{Id, Incoming, Request};
pub use method::{ErrorDoc, Method, MethodTextError, Role, State};
pub use params::{NoParams, ParamType, Params, decode};

#[doc(hidden)]
pub mod private {
    //! Names that [`params!`](crate::params!) expands to.
    pub use crate::params::{join_doc, plain_name};
    pub use serde;
    pub use serde_json;
}
