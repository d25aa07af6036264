//! The methods: who registered them, who may call them, and when.

use super::call::{Call, Dispatcher, Peer, Responder};
use super::unknown;
use drivebay_spec_jsonrpc::{Method, Params, Role, RpcError, State, code, decode};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// Runs one call, on the RPC thread or on the thread that dispatched the call again.
pub type Handler = Arc<dyn Fn(Call) + Send + Sync>;

/// Handles a method without a handler. It either takes the call (returns `None`) and later passes
/// it to [`Registry::redispatch`], or returns the call.
pub type UnknownHook = Arc<dyn Fn(Call) -> Option<Call> + Send + Sync>;

/// Who registered a method: a plugin, or `host`. Two instances with one name are two versions of
/// one plugin. The newer one replaces the methods of the older one.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Owner {
    /// The name of the plugin.
    pub name: Arc<str>,
    /// The number of the load.
    pub instance: u64,
}

impl Owner {
    /// The instance `instance` of the plugin `name`.
    pub fn new(name: &str, instance: u64) -> Self {
        Self { name: name.into(), instance }
    }

    /// The host itself.
    pub fn host() -> Self {
        Self::new("host", 0)
    }
}

/// Why a method was not registered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RegisterError {
    /// The name or alias belongs to another owner.
    Taken {
        /// The name or alias.
        name: String,
        /// The name of its owner.
        owner: String,
    },
}

impl fmt::Display for RegisterError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self::Taken { name, owner } = self;
        write!(f, "method {name} is registered by {owner} already")
    }
}

impl std::error::Error for RegisterError {}

/// All methods of the process, shared by the server and all that register methods.
pub struct Registry {
    inner: RwLock<Inner>,
}

struct Inner {
    /// By name and by alias.
    entries: BTreeMap<String, Entry>,
    allowed: Option<BTreeSet<String>>,
    state: State,
    unknown: Option<UnknownHook>,
}

#[derive(Clone)]
struct Entry {
    method: Arc<Method>,
    owner: Owner,
    /// `None` while the method is announced and its plugin is not loaded.
    handler: Option<Handler>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::new()
    }
}

impl Registry {
    /// A registry without methods, in [`State::Startup`].
    pub fn new() -> Self {
        Self {
            inner: RwLock::new(Inner {
                entries: BTreeMap::new(),
                allowed: None,
                state: State::Startup,
                unknown: None,
            }),
        }
    }

    /// Adds a method, or replaces one of the same plugin.
    ///
    /// # Errors
    /// A name or alias belongs to another owner; then nothing is added.
    pub fn register(
        &self,
        owner: &Owner,
        method: Method,
        handler: Handler,
    ) -> Result<(), RegisterError> {
        self.insert(Entry {
            method: Arc::new(method),
            owner: owner.clone(),
            handler: Some(handler),
        })
    }

    /// Lists a method of a plugin that is not loaded yet. Calls of it go to the [`UnknownHook`]. A
    /// method that is already registered does not change.
    ///
    /// # Errors
    /// A name or alias belongs to another owner; then nothing is added.
    pub fn announce(&self, owner: &Owner, method: Method) -> Result<(), RegisterError> {
        self.insert(Entry { method: Arc::new(method), owner: owner.clone(), handler: None })
    }

    fn insert(&self, entry: Entry) -> Result<(), RegisterError> {
        let mut inner = self.write();
        let method = Arc::clone(&entry.method);
        let names = || std::iter::once(&method.name).chain(&method.aliases);
        for name in names() {
            match inner.entries.get(name) {
                Some(present) if present.owner.name != entry.owner.name => {
                    return Err(RegisterError::Taken {
                        name: name.clone(),
                        owner: present.owner.name.to_string(),
                    });
                }
                Some(present) if present.handler.is_some() && entry.handler.is_none() => {
                    return Ok(());
                }
                _ => {}
            }
        }
        for name in names() {
            inner.entries.insert(name.clone(), entry.clone());
        }
        Ok(())
    }

    /// Removes a method and its aliases if it belongs to `owner`.
    pub fn unregister(&self, owner: &Owner, name: &str) {
        self.write().entries.retain(|_, entry| entry.owner != *owner || entry.method.name != name);
    }

    /// Removes every method of exactly this instance, not those of another version of the plugin.
    pub fn unregister_all(&self, owner: &Owner) {
        self.write().entries.retain(|_, entry| entry.owner != *owner);
    }

    /// Whether this instance has registered a method with this name or alias, and it has a handler.
    pub fn is_registered(&self, owner: &Owner, name: &str) -> bool {
        let inner = self.read();
        inner.entries.get(name).is_some_and(|e| e.owner == *owner && e.handler.is_some())
    }

    /// The names, sorted. With `current`, only methods that may be called in the present state
    /// (including announced ones). With `include_aliases`, former names, too. Methods that are
    /// accepted without effect are listed, because SPDK's client refuses a configuration with
    /// methods that are not listed.
    pub fn list(&self, current: bool, include_aliases: bool) -> Vec<String> {
        let inner = self.read();
        let is_listed = |name: &str, entry: &Entry| {
            inner.allows(name, entry)
                && (include_aliases || entry.method.name == name)
                && (!current || entry.method.states.contains(&inner.state))
        };
        let entries = inner.entries.iter().filter(|(name, entry)| is_listed(name, entry));
        let without_effect = unknown::without_effect()
            .filter(|name| !inner.entries.contains_key(*name) && inner.allows_name(name));
        let mut names: Vec<String> = entries
            .map(|(name, _)| name.clone())
            .chain(without_effect.map(str::to_owned))
            .collect();
        names.sort_unstable();
        names
    }

    /// The declarations of the allowed methods, sorted by name. Announced methods have none yet.
    pub fn declarations(&self) -> Vec<Arc<Method>> {
        let inner = self.read();
        let is_own_name = |name: &str, entry: &Entry| entry.method.name == name;
        let own = inner.entries.iter().filter(|(name, entry)| is_own_name(name, entry));
        own.filter_map(|(name, entry)| inner.declaration(name, entry)).collect()
    }

    /// The declaration of an allowed method, by name or alias.
    pub fn declaration(&self, name: &str) -> Option<Arc<Method>> {
        let inner = self.read();
        inner.entries.get(name).and_then(|entry| inner.declaration(name, entry))
    }

    /// The declarations of the methods that a plugin has registered itself.
    pub fn methods_of(&self, plugin: &str) -> Vec<Arc<Method>> {
        let inner = self.read();
        let own = inner.entries.iter().filter(|(name, entry)| {
            entry.method.name == **name && entry.handler.is_some() && *entry.owner.name == *plugin
        });
        own.map(|(_, entry)| Arc::clone(&entry.method)).collect()
    }

    /// The declaration of a method, by name or alias.
    pub fn method(&self, name: &str) -> Option<Arc<Method>> {
        self.read().entries.get(name).map(|entry| Arc::clone(&entry.method))
    }

    /// The present state.
    pub fn state(&self) -> State {
        self.read().state
    }

    /// Changes the state.
    pub fn set_state(&self, state: State) {
        self.write().state = state;
    }

    /// Allows only the methods `names` (`--rpcs-allowed`); `None` allows all.
    pub fn allow_only(&self, names: Option<BTreeSet<String>>) {
        self.write().allowed = names;
    }

    /// Sets the hook for methods without a handler.
    pub fn on_unknown(&self, hook: UnknownHook) {
        self.write().unknown = Some(hook);
    }

    /// Dispatches a call again that an [`UnknownHook`] took. If there still is no handler, it is
    /// answered as unknown. Any thread.
    pub fn redispatch(&self, call: Call) {
        self.dispatch(call, false);
    }

    fn dispatch(&self, call: Call, may_ask_hook: bool) {
        let handler = match self.look_up(&call.method, &call.peer) {
            Ok(handler) => handler,
            Err(error) => return call.responder.error(error),
        };
        if let Some(handler) = handler {
            return run(&handler, call);
        }
        // Call the hook without the lock, because the hook may register methods.
        let hook = self.read().unknown.clone().filter(|_| may_ask_hook);
        let untaken = match hook {
            Some(hook) => hook(call),
            None => Some(call),
        };
        if let Some(call) = untaken {
            self.answer_unknown(call);
        }
    }

    /// Answers a call of an unknown method.
    fn answer_unknown(&self, call: Call) {
        let Call { method, responder, .. } = call;
        if unknown::has_no_effect(&method) {
            tracing::info!(method, "accepted without effect: its subsystem does not exist here");
            return responder.ok(&true);
        }
        let why = unknown::why(&method, &self.list(false, true));
        responder.error(RpcError::method_not_found(&method, why));
    }

    /// The handler of a call, if the call is allowed; `None` when there is none yet.
    fn look_up(&self, name: &str, peer: &Peer) -> Result<Option<Handler>, RpcError> {
        let inner = self.read();
        let entry = inner.entries.get(name);
        let is_allowed = match entry {
            Some(entry) => inner.allows(name, entry),
            None => inner.allows_name(name),
        };
        if !is_allowed && !peer.is_host {
            return Err(RpcError::method_not_found(name, "--rpcs-allowed does not list it"));
        }
        let Some(entry) = entry else {
            // A peer with only the role `read` may not make the host load plugins.
            if peer.may(Role::Operate) {
                return Ok(None);
            }
            let why = "no loaded plugin has it, and this user may not load one";
            return Err(RpcError::method_not_found(name, why));
        };
        let method = &entry.method;
        if !peer.may(method.role) {
            return Err(permission_denied(method, peer));
        }
        // Do not check the state of an announced method: its plugin declares the states when it is
        // loaded.
        if entry.handler.is_some() && !method.states.contains(&inner.state) {
            return Err(invalid_state(inner.state));
        }
        if method.name != name {
            tracing::warn!(name, instead = method.name, "deprecated rpc method name");
        }
        Ok(entry.handler.clone())
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        // Nothing panics between two changes of the table.
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn allows(&self, name: &str, entry: &Entry) -> bool {
        self.allows_name(name) || self.allows_name(&entry.method.name)
    }

    fn allows_name(&self, name: &str) -> bool {
        self.allowed.as_ref().is_none_or(|allowed| allowed.contains(name))
    }

    fn declaration(&self, name: &str, entry: &Entry) -> Option<Arc<Method>> {
        let is_declared = entry.handler.is_some() && self.allows(name, entry);
        is_declared.then(|| Arc::clone(&entry.method))
    }
}

impl Dispatcher for Registry {
    fn call(&self, call: Call) {
        self.dispatch(call, true);
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("methods", &self.list(false, true)).finish()
    }
}

/// Runs a handler. A panic ends the call, not the thread: the responder answers when it is dropped.
fn run(handler: &Handler, call: Call) {
    let method = call.method.clone();
    if catch_unwind(AssertUnwindSafe(|| handler(call))).is_err() {
        tracing::error!(method, "rpc method panicked");
    }
}

/// A handler that answers at once.
pub fn handler<P: Params, R: Serialize>(
    method: impl Fn(P) -> Result<R, RpcError> + Send + Sync + 'static,
) -> Handler {
    async_handler(move |params, responder| match method(params) {
        Ok(result) => responder.ok(&result),
        Err(error) => responder.error(error),
    })
}

/// A handler that keeps the responder and answers later.
pub fn async_handler<P: Params>(method: impl Fn(P, Responder) + Send + Sync + 'static) -> Handler {
    Arc::new(move |call| match decode(call.params_text()) {
        Ok(params) => method(params, call.responder),
        Err(error) => call.responder.error(error),
    })
}

fn permission_denied(method: &Method, peer: &Peer) -> RpcError {
    let (name, uid) = (&method.name, peer.uid);
    let needed = format!("{:?}", method.role).to_lowercase();
    let message =
        format!("Permission denied: {name} needs role {needed}, which user {uid} does not have");
    RpcError::about(code::PERMISSION_DENIED, "permission_denied", message, "role", Some(needed))
}

fn invalid_state(state: State) -> RpcError {
    let message = match state {
        State::Startup => {
            "Method may only be called after framework is initialized. \
             Issue framework_start_init first."
        }
        State::Runtime => {
            "Method may only be called before framework is initialized. \
             Use --wait-for-rpc option and then issue framework_start_init \
             to complete initialization."
        }
    };
    RpcError::new(code::INVALID_STATE, "invalid_state", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::Outcome;
    use drivebay_spec_jsonrpc::NoParams;
    use std::sync::mpsc;

    fn call(registry: &Registry, method: &str, role: Option<Role>) -> Outcome {
        let (sender, outcomes) = mpsc::channel();
        registry.call(Call {
            method: method.into(),
            params: None,
            peer: Peer { role, is_host: false, ..Peer::local() },
            responder: Responder::new(move |outcome| sender.send(outcome).unwrap()),
        });
        outcomes.recv().unwrap()
    }

    fn code_of(registry: &Registry, method: &str, role: Option<Role>) -> i64 {
        call(registry, method, role).unwrap_err().code
    }

    fn method(name: &str) -> Method {
        Method::new::<NoParams>(name, Role::Operate, "For tests.").in_any_state()
    }

    fn returns(text: &'static str) -> Handler {
        handler(move |NoParams {}| Ok(text))
    }

    /// The names without the methods that are accepted without effect.
    fn own(names: &[String]) -> Vec<&str> {
        let all = names.iter().map(String::as_str);
        all.filter(|name| !unknown::has_no_effect(name)).collect()
    }

    const ADMIN: Option<Role> = Some(Role::Admin);

    #[test]
    fn a_method_answers_under_its_name_and_alias_only_to_sufficient_roles() {
        let registry = Registry::new();
        registry.register(&Owner::host(), method("now").alias("then"), returns("x")).unwrap();
        assert_eq!(call(&registry, "now", Some(Role::Operate)).unwrap().get(), "\"x\"");
        assert_eq!(call(&registry, "then", ADMIN).unwrap().get(), "\"x\"");
        assert_eq!(code_of(&registry, "now", Some(Role::Read)), code::PERMISSION_DENIED);
        assert_eq!(code_of(&registry, "now", None), code::PERMISSION_DENIED);
        assert_eq!(code_of(&registry, "never", ADMIN), code::METHOD_NOT_FOUND);
        assert_eq!(own(&registry.list(false, false)), ["now"]);
        assert_eq!(own(&registry.list(false, true)), ["now", "then"]);
    }

    #[test]
    fn a_method_outside_its_state_says_what_to_do() {
        let registry = Registry::new();
        let early = method("early").states(&[State::Startup]);
        let late = method("late").states(&[State::Runtime]);
        registry.register(&Owner::host(), early, returns("e")).unwrap();
        registry.register(&Owner::host(), late, returns("l")).unwrap();
        assert_eq!(own(&registry.list(true, false)), ["early"]);
        assert!(
            call(&registry, "late", ADMIN).unwrap_err().message.contains("only be called after")
        );
        registry.set_state(State::Runtime);
        assert_eq!(own(&registry.list(true, false)), ["late"]);
        let error = call(&registry, "early", ADMIN).unwrap_err();
        assert_eq!(error.code, -1);
        assert!(error.message.contains("Use --wait-for-rpc option"), "{error}");
    }

    #[test]
    fn what_is_not_allowed_does_not_exist() {
        let registry = Registry::new();
        registry.register(&Owner::host(), method("a"), returns("a")).unwrap();
        registry.register(&Owner::host(), method("b"), returns("b")).unwrap();
        registry.allow_only(Some(BTreeSet::from(["b".into()])));
        assert_eq!(code_of(&registry, "a", ADMIN), code::METHOD_NOT_FOUND);
        assert_eq!(call(&registry, "b", ADMIN).unwrap().get(), "\"b\"");
        assert_eq!(registry.list(false, true), ["b"]);
        let (sender, outcomes) = mpsc::channel();
        registry.call(Call {
            method: "a".into(),
            params: None,
            peer: Peer::local(),
            responder: Responder::new(move |outcome| sender.send(outcome).unwrap()),
        });
        assert_eq!(
            outcomes.recv().unwrap().unwrap().get(),
            "\"a\"",
            "the host's own configuration"
        );
        assert_eq!(registry.declaration("a"), None);
        assert_eq!(registry.declarations().len(), 1);
    }

    #[test]
    fn options_of_subsystems_that_are_not_here_are_listed_and_accepted_unless_a_plugin_has_them() {
        let registry = Registry::new();
        let name = "bdev_raid_set_options";
        assert!(registry.list(true, false).iter().any(|listed| listed == name));
        assert_eq!(call(&registry, name, ADMIN).unwrap().get(), "true");
        assert_eq!(code_of(&registry, name, Some(Role::Read)), code::METHOD_NOT_FOUND);
        registry.register(&Owner::new("raid", 1), method(name), returns("raid")).unwrap();
        assert_eq!(call(&registry, name, ADMIN).unwrap().get(), "\"raid\"");
        assert_eq!(registry.list(true, false).iter().filter(|listed| *listed == name).count(), 1);
    }

    #[test]
    fn a_name_has_one_owner_and_a_newer_instance_takes_over() {
        let registry = Registry::new();
        let (old, new) = (Owner::new("lvol", 1), Owner::new("lvol", 2));
        registry.register(&old, method("a").alias("b"), returns("old")).unwrap();
        let other = registry.register(&Owner::new("raid", 3), method("b"), returns("raid"));
        assert_eq!(other, Err(RegisterError::Taken { name: "b".into(), owner: "lvol".into() }));
        registry.register(&new, method("a"), returns("new")).unwrap();
        registry.unregister_all(&old);
        assert_eq!(call(&registry, "a", ADMIN).unwrap().get(), "\"new\"");
        assert_eq!(code_of(&registry, "b", ADMIN), code::METHOD_NOT_FOUND);
        registry.unregister(&new, "a");
        assert!(own(&registry.list(false, true)).is_empty());
    }

    #[test]
    fn an_announced_method_is_listed_and_loaded_when_it_is_called() {
        let registry = Arc::new(Registry::new());
        let owner = Owner::new("lvol", 0);
        registry.announce(&owner, method("lvol_x")).unwrap();
        assert_eq!(own(&registry.list(true, false)), ["lvol_x"]);
        assert_eq!(registry.declaration("lvol_x"), None);
        assert_eq!(code_of(&registry, "lvol_x", ADMIN), code::METHOD_NOT_FOUND);

        let loader = Arc::clone(&registry);
        registry.on_unknown(Arc::new(move |call| {
            if call.method != "lvol_x" {
                return Some(call);
            }
            let registry = Arc::clone(&loader);
            std::thread::spawn(move || {
                registry
                    .register(&Owner::new("lvol", 1), method("lvol_x"), returns("loaded"))
                    .unwrap();
                registry.redispatch(call);
            });
            None
        }));
        assert_eq!(code_of(&registry, "lvol_x", Some(Role::Read)), code::PERMISSION_DENIED);
        assert_eq!(call(&registry, "lvol_x", ADMIN).unwrap().get(), "\"loaded\"");
        assert_eq!(code_of(&registry, "acme_y", ADMIN), code::METHOD_NOT_FOUND);
    }

    #[test]
    fn an_announced_method_is_listed_in_its_state_and_asked_for_in_any() {
        let registry = Registry::new();
        registry.set_state(State::Runtime);
        let early = method("early").states(&[State::Startup]);
        registry.announce(&Owner::new("lvol", 0), early).unwrap();
        assert!(own(&registry.list(true, false)).is_empty());
        registry.on_unknown(Arc::new(|call| {
            call.responder.ok("asked");
            None
        }));
        assert_eq!(call(&registry, "early", ADMIN).unwrap().get(), "\"asked\"");
    }

    #[test]
    fn a_plugin_that_did_not_bring_what_it_announced_is_asked_once() {
        let registry = Arc::new(Registry::new());
        let loader = Arc::clone(&registry);
        registry.on_unknown(Arc::new(move |call| {
            loader.redispatch(call);
            None
        }));
        assert_eq!(code_of(&registry, "acme_y", ADMIN), code::METHOD_NOT_FOUND);
    }

    #[test]
    fn a_panic_in_a_method_is_answered_as_internal_error() {
        let registry = Registry::new();
        let broken: Handler = Arc::new(|_| panic!("for the test"));
        registry.register(&Owner::host(), method("broken"), broken).unwrap();
        assert_eq!(code_of(&registry, "broken", ADMIN), code::INTERNAL_ERROR);
    }
}
