//! One call on its way through the host.

use drivebay_spec_jsonrpc::{Params, Role, RpcError, decode};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};
use std::collections::BTreeMap;
use std::fmt;

/// The outcome of a call: JSON text or an error.
pub type Outcome = Result<Box<RawValue>, RpcError>;

/// Takes the calls that a [`Server`](super::Server) reads.
pub trait Dispatcher: Send + Sync {
    /// Takes one call. It runs on the RPC thread, so it must pass long work on, and must not panic.
    fn call(&self, call: Call);
}

/// One request.
#[derive(Debug)]
pub struct Call {
    /// The name as the client wrote it, possibly an alias.
    pub method: String,
    /// The parameters as the client sent them; `None` when there were none.
    pub params: Option<Box<RawValue>>,
    /// The caller.
    pub peer: Peer,
    /// Takes the answer.
    pub responder: Responder,
}

impl Call {
    /// The parameters as JSON text; empty when there are none.
    pub fn params_text(&self) -> &str {
        self.params.as_deref().map_or("", RawValue::get)
    }

    /// Decodes the parameters.
    ///
    /// # Errors
    /// Code -32602 with the name of the parameter.
    pub fn decode<P: Params>(&self) -> Result<P, RpcError> {
        decode(self.params_text())
    }
}

/// The process at the other end, with the credentials that it had when it connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Peer {
    /// The process id; 0 when the process is in a PID namespace that this process cannot see.
    pub pid: i32,
    /// The user id.
    pub uid: u32,
    /// The group id.
    pub gid: u32,
    /// What the peer may do; `None` = nothing.
    pub role: Option<Role>,
    /// Whether the call comes from the host's own configuration. `--rpcs-allowed` does not apply to
    /// such calls.
    pub is_host: bool,
}

impl Peer {
    /// This process itself, for calls from its own configuration.
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

/// The roles of users and groups. Root and the user of this process are always [`Role::Admin`]. A
/// user who is not listed may call nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RoleTable {
    /// The roles of users, by user id.
    pub users: BTreeMap<u32, Role>,
    /// The roles of groups, by the primary group id of the peer.
    pub groups: BTreeMap<u32, Role>,
}

impl RoleTable {
    /// The higher one of the user's and the group's role.
    pub fn role_of(&self, uid: u32, gid: u32) -> Option<Role> {
        if uid == 0 || uid == nix::unistd::Uid::effective().as_raw() {
            return Some(Role::Admin);
        }
        self.users.get(&uid).max(self.groups.get(&gid)).copied()
    }
}

/// Answers one call exactly once, from any thread. If it is dropped without an answer, it answers
/// with an internal error. A notification is "answered", too, but the answer is not sent.
pub struct Responder {
    deliver: Option<Box<dyn FnOnce(Outcome) + Send>>,
}

impl Responder {
    /// A responder that passes the outcome to `deliver`, on the thread that answers.
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

    /// Answers with a list that may be long. The encoding of a long list takes milliseconds, so it
    /// runs on a separate thread.
    pub fn ok_long(self, list: Vec<Value>) {
        /// The longest list that is encoded at once.
        const SHORT: usize = 32;
        if list.len() <= SHORT {
            return self.ok(&list);
        }
        // If the thread cannot be created, the dropped responder answers with an error.
        let encode = std::thread::Builder::new().name("rpc_answer".into());
        let _ = encode.spawn(move || self.ok(&list));
    }

    /// Answers with a result that is already JSON text, such as a plugin's. Invalid JSON becomes an
    /// internal error.
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
