//! One call on its way through the host.

use drivebay_spec_jsonrpc::{Params, Role, RpcError, decode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::fmt;

/// What a call gives: JSON text or an error.
pub type Outcome = Result<Box<RawValue>, RpcError>;

/// Takes the calls that a [`Server`](super::Server) reads.
pub trait Dispatcher: Send + Sync {
    /// Takes one call. Runs on the RPC thread: hand on what takes long, and do not panic.
    fn call(&self, call: Call);
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// Name as it was called, possibly an alias.
    pub method: String,
    /// Parameters as they were sent; `None` when there were none.
    pub params: Option<Box<RawValue>>,
    /// Who calls.
    pub peer: Peer,
    /// Where the answer goes.
    pub responder: Responder,
}

impl Call {
    /// The parameters as JSON text, empty when there are none.
    pub fn params_text(&self) -> &str {
        self.params.as_deref().map_or("", RawValue::get)
    }

    /// The parameters decoded.
    ///
    /// # Errors
    /// Code -32602 naming the parameter.
    pub fn decode<P: Params>(&self) -> Result<P, RpcError> {
        decode(self.params_text())
    }
}

/// The process at the other end, by the credentials it had when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// Process id; 0 when it is in a PID namespace that this process cannot see.
    pub pid: i32,
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// What it may do; `None` is nothing.
    pub role: Option<Role>,
    /// Whether the host itself calls, from its own configuration. `--rpcs-allowed` does not bind it.
    pub is_host: bool,
}

impl Peer {
    /// This process itself: calls from its own configuration.
    pub fn local() -> Self {
        Self {
            pid: i32::try_from(std::process::id()).unwrap_or(0),
            uid: nix::unistd::Uid::effective().as_raw(),
            gid: nix::unistd::Gid::effective().as_raw(),
            role: Some(Role::Admin),
            is_host: true,
        }
    }

    /// Whether the peer may do what needs `role`.
    pub fn may(&self, role: Role) -> bool {
        self.role.is_some_and(|own| own >= role)
    }
}

/// Roles by user and group. Root and the user of this process are always
/// [`Role::Admin`]; whoever is not listed may call nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleTable {
    /// Roles of users, by user id.
    pub users: BTreeMap<u32, Role>,
    /// Roles of groups, by the primary group id of the peer.
    pub groups: BTreeMap<u32, Role>,
}

impl RoleTable {
    /// The higher of the user's and the group's role.
    pub fn role_of(&self, uid: u32, gid: u32) -> Option<Role> {
        if uid == 0 || uid == nix::unistd::Uid::effective().as_raw() {
            return Some(Role::Admin);
        }
        self.users.get(&uid).max(self.groups.get(&gid)).copied()
    }
}

/// Answers one call, exactly once, from any thread. Dropped unanswered, it
/// answers with an internal error. A notification is "answered" too; its
/// answer is not sent.
pub struct Responder {
    deliver: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

impl Responder {
    /// A responder that hands the outcome to `deliver`, on the answering thread.
    pub fn new(deliver: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { deliver: Some(Box::new(deliver)) }
    }

    /// Answers with `outcome`.
    pub fn answer(mut self, outcome: Outcome) {
        self.deliver(outcome);
    }

    /// Answers with a result.
    pub fn ok(self, result: &(impl Serialize + ?Sized)) {
        self.answer(to_raw_value(result).map_err(RpcError::internal));
    }

    /// Answers with a list that may be long: its text takes milliseconds then, and is made on a thread of its own.
    pub fn ok_long(self, list: Vec<Value>) {
        /// Elements that are turned to text at once.
        const SHORT: usize = 32;
        if list.len() <= SHORT {
            return self.ok(&list);
        }
        // Without the thread the responder, dropped, answers with an error.
        let encode = std::thread::Builder::new().name("rpc_answer".into());
        let _ = encode.spawn(move || self.ok(&list));
    }

    /// Answers with a result that is JSON text already, such as a plugin's. Text
    /// that is no JSON becomes an internal error.
    pub fn ok_json(self, result: String) {
        self.answer(RawValue::from_string(result).map_err(RpcError::internal));
    }

    /// Answers with an error.
    pub fn error(self, error: RpcError) {
        self.answer(Err(error));
    }

    fn deliver(&mut self, outcome: Outcome) {
        if let Some(deliver) = self.deliver.take() {
            deliver(outcome);
        }
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.deliver(Err(RpcError::internal("the method ended without an answer")));
    }
}

impl fmt::Debug for Responder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;

    #[test]
    fn a_responder_dropped_unanswered_sends_an_internal_error_once() {
        let (sender, outcomes) = mpsc::channel();
        let deliver = sender.clone();
        drop(Responder::new(move |outcome| deliver.send(outcome).unwrap()));
        assert_eq!(outcomes.recv().unwrap().unwrap_err().code, -32603);
        Responder::new(move |outcome| sender.send(outcome).unwrap()).ok(&1);
        assert_eq!(outcomes.recv().unwrap().unwrap().get(), "1");
        assert!(outcomes.recv().is_err(), "a second answer was sent");
    }

    #[test]
    fn text_of_a_plugin_that_is_no_json_becomes_an_internal_error() {
        let (sender, outcomes) = mpsc::channel();
        Responder::new(move |outcome| sender.send(outcome).unwrap()).ok_json("{".into());
        assert_eq!(outcomes.recv().unwrap().unwrap_err().code, -32603);
    }

    #[test]
    fn roles_come_from_user_or_group_and_strangers_have_none() {
        let own = nix::unistd::Uid::effective().as_raw();
        let table = RoleTable {
            users: BTreeMap::from([(own + 1, Role::Read)]),
            groups: BTreeMap::from([(7, Role::Operate)]),
        };
        assert_eq!(table.role_of(0, 7), Some(Role::Admin));
        assert_eq!(table.role_of(own, 1), Some(Role::Admin));
        assert_eq!(table.role_of(own + 1, 1), Some(Role::Read));
        assert_eq!(table.role_of(own + 1, 7), Some(Role::Operate));
        assert_eq!(table.role_of(own + 2, 1), None);
    }
}
