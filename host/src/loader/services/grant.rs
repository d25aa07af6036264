//! One instance's side of the host, from its `init` to its end.

use crate::loader::app_only::AppOnly;
use crate::loader::broker::Broker;
use crate::loader::calls::OpenCalls;
use crate::loader::error::{Error, Result};
use crate::loader::outside::Outside;
use crate::rpc::Owner;
use drivebay_plugin_api::bay_host;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::ptr;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// One instance's side of the host. It is never freed, because a library that stays mapped may
/// still have its address.
#[repr(C)]
pub(in crate::loader) struct Grant {
    host: bay_host,
    /// The number of the instance. No two instances have the same.
    pub(in crate::loader) number: u64,
    /// The name of the plugin.
    pub(in crate::loader) name: String,
    /// The permissions that it got.
    pub(in crate::loader) permissions: Vec<String>,
    pub(in crate::loader) outside: Outside,
    pub(in crate::loader) calls: Arc<OpenCalls>,
    /// Whether the instance is between `init` and its end.
    pub(in crate::loader) is_alive: AtomicBool,
    /// The place and the message of the first panic in the plugin. After it the SDK does not enter
    /// the plugin any more.
    pub(in crate::loader) panic: OnceLock<String>,
    pub(in crate::loader) own: AppOnly<Own>,
}

/// The state that only the app thread touches.
pub(in crate::loader) struct Own {
    broker: Weak<Broker>,
    pub(in crate::loader) last_method: Cell<u64>,
    pub(in crate::loader) methods: RefCell<BTreeMap<u64, String>>,
    trouble: RefCell<Option<String>>,
}

impl Grant {
    /// Creates the grant of a new instance. `host` is the table that the plugin gets; its `ctx` is
    /// set here. App thread.
    pub(in crate::loader) fn new(
        number: u64,
        name: &str,
        permissions: Vec<String>,
        outside: &Outside,
        calls: &Arc<OpenCalls>,
        broker: Weak<Broker>,
        host: bay_host,
    ) -> &'static Self {
        let own = Own {
            broker,
            last_method: Cell::new(0),
            methods: RefCell::default(),
            trouble: RefCell::default(),
        };
        let grant = Box::into_raw(Box::new(Self {
            host,
            number,
            name: name.to_owned(),
            permissions,
            outside: outside.clone(),
            calls: Arc::clone(calls),
            is_alive: AtomicBool::new(true),
            panic: OnceLock::new(),
            own: AppOnly::new(own, Arc::clone(&outside.core)),
        }));
        // SAFETY: it was just allocated, and nobody else has it yet.
        unsafe { (*grant).host.ctx = grant.cast() };
        // SAFETY: it is never freed, and from here on it is only shared.
        unsafe { &*grant }
    }

    /// The pointer that the plugin gets. The core uses it as the owner of objects.
    pub(in crate::loader) fn host(&self) -> *const bay_host {
        ptr::from_ref(self).cast()
    }

    /// The owner of its RPC methods.
    pub(in crate::loader) fn owner(&self) -> Owner {
        Owner::new(&self.name, self.number)
    }

    /// The error of the last refused call; it becomes part of the reason of a failed start.
    pub(in crate::loader) fn take_trouble(&self) -> Option<String> {
        self.own.get().ok()?.trouble.take()
    }

    /// Ends the instance: it gets no more calls, and its open calls are answered with an error. App
    /// thread.
    pub(in crate::loader) fn end(&self) {
        self.is_alive.store(false, Ordering::Release);
        self.outside.rpc.unregister_all(&self.owner());
        self.outside.events.remove_subsystems(self.number);
        // Release the lock before answering, because an answer may make a client send the next
        // call.
        drop(self.calls.take_all(self.number));
    }

    pub(in crate::loader) fn broker(&self) -> Result<Rc<Broker>> {
        let gone = || Error::new(libc::ESHUTDOWN, "the host is stopping");
        self.own.get()?.broker.upgrade().ok_or_else(gone)
    }

    /// Converts a result to 0 or a negative errno. Logs a refusal and keeps it for the reason of a
    /// failed start.
    pub(in crate::loader) fn status(&self, what: &str, result: Result<()>) -> i32 {
        let Err(error) = result else { return 0 };
        tracing::warn!(plugin = self.name, "{what}: {error}");
        if let Ok(own) = self.own.get() {
            own.trouble.replace(Some(error.to_string()));
        }
        -error.errno()
    }
}

impl fmt::Debug for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Grant").field("name", &self.name).field("number", &self.number).finish()
    }
}
