//! Registered fabrics and their transports. App thread.
#![expect(unsafe_code, reason = "calls the fabric's functions with the fabric's pointers")]

use super::server::Serving;
use super::{Address, GroupRef, Target};
use crate::error::{Error, Result, check, errno};
use api::{Collected, bay_cb_fn, bay_nvmf_transport_ops, bay_str};
use drivebay_plugin_api as api;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

/// A fabric's pointer that may move between threads. Only the fabric knows what it points to.
#[derive(Clone, Copy)]
pub(super) struct Ptr(*mut c_void);

// SAFETY: this code does not dereference it; the fabric's functions accept it on the threads they document.
unsafe impl Send for Ptr {}
// SAFETY: as above.
unsafe impl Sync for Ptr {}

impl Ptr {
    pub(super) const NULL: Self = Self(ptr::null_mut());

    pub(super) const fn new(pointer: *mut c_void) -> Self {
        Self(pointer)
    }

    pub(super) const fn get(self) -> *mut c_void {
        self.0
    }
}

macro_rules! ops {
    ($($function:ident: $type:ident),* $(,)?) => {
        /// The functions of a fabric, with every required function present.
        #[derive(Clone, Copy)]
        pub(super) struct Ops {
            $(pub(super) $function: api::$type,)*
            pub(super) connected: Option<api::bay_nvmf_connected_fn>,
            pub(super) explain: Option<api::bay_nvmf_explain_fn>,
            /// Whether the fabric can send zeroes without memory that contains them.
            pub(super) sends_zeroes: bool,
        }

        impl Ops {
            /// The functions of a table, or the name of a function that it lacks.
            pub(super) fn of(table: &bay_nvmf_transport_ops) -> Result<Self, &'static str> {
                Ok(Self {
                    $($function: table.$function.ok_or(stringify!($function))?,)*
                    connected: table.connected,
                    explain: table.explain,
                    sends_zeroes: table.flags & api::BAY_NVMF_TRANSPORT_ZEROES != 0,
                })
            }
        }
    };
}

ops! {
    create: bay_nvmf_create_fn,
    destroy: bay_nvmf_destroy_fn,
    dump: bay_nvmf_dump_fn,
    listen: bay_nvmf_listen_fn,
    stop_listen: bay_nvmf_listen_fn,
    group_create: bay_nvmf_group_create_fn,
    group_destroy: bay_nvmf_group_destroy_fn,
    group_add: bay_nvmf_group_add_fn,
    conn_refused: bay_nvmf_conn_refused_fn,
    complete: bay_nvmf_complete_fn,
    close: bay_nvmf_close_fn,
    qpair_free: bay_nvmf_qpair_free_fn,
    conn_addr: bay_nvmf_conn_addr_fn,
}

/// A fabric that unregisters. End its transport, if there is one, then drop this value. App thread.
#[derive(Debug)]
pub struct Leaving {
    pub(super) id: u64,
    pub(super) done: Option<bay_cb_fn>,
    pub(super) arg: *mut c_void,
}

impl Leaving {
    /// Id of the fabric, as in [`Transport::id`].
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // SAFETY: the fabric's callback with its argument; this is the only call.
            unsafe { done(self.arg, 0) };
        }
    }
}

/// A registered fabric. It stays on the app thread.
pub struct Fabric<T: Target> {
    /// Makes the type not `Send`.
    pub(super) _app: PhantomData<*const ()>,
    pub(super) serving: &'static Serving<T>,
    pub(super) id: u64,
    pub(super) ctx: Ptr,
    pub(super) ops: Ops,
}

impl<T: Target> fmt::Debug for Fabric<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fabric").field("id", &self.id).finish_non_exhaustive()
    }
}

impl<T: Target> Fabric<T> {
    /// Creates the transport. `options` is the JSON text of an object.
    ///
    /// # Errors
    /// The fabric's refusal with its reason.
    pub fn create(self, options: &str) -> Result<Transport<T>> {
        let mut raw = ptr::null_mut();
        // SAFETY: the fabric's function with its own context; the text and the result outlive the call.
        let status =
            unsafe { (self.ops.create)(self.ctx.get(), bay_str::new(options), &raw mut raw) };
        self.check(status, "transport options")?;
        let raw = Ptr::new(raw);
        self.serving.set_transport(self.id, raw);
        Ok(Transport { fabric: self, raw })
    }

    /// Makes an error from the fabric's status. Its text is the fabric's own, or `what` if the fabric has none.
    fn check(&self, status: i32, what: impl fmt::Display) -> Result<()> {
        let (true, Some(explain)) = (status < 0, self.ops.explain) else {
            return check(status, what);
        };
        let mut text = Collected::new(TEXT_MAX);
        let sink = text.sink();
        // SAFETY: the fabric's function with its own context; the sink outlives the call.
        unsafe { explain(self.ctx.get(), &raw const sink) };
        let text = text.into_text();
        if text.is_empty() { check(status, what) } else { Err(Error::new(-status, text)) }
    }
}

/// A transport. It stays on the app thread. End it with [`destroy`](Self::destroy).
pub struct Transport<T: Target> {
    fabric: Fabric<T>,
    raw: Ptr,
}

impl<T: Target> fmt::Debug for Transport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("fabric", &self.fabric).finish_non_exhaustive()
    }
}

impl<T: Target> Transport<T> {
    /// Id of the fabric. It is never used again for another fabric.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.fabric.id
    }

    /// The current options: the JSON text of one object.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = Collected::new(TEXT_MAX);
        let sink = text.sink();
        // SAFETY: the fabric's function with its own transport; the sink outlives the call.
        unsafe { (self.fabric.ops.dump)(self.raw.get(), &raw const sink) };
        text.into_text()
    }

    /// Starts listening on an address.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, `EINVAL`.
    pub fn listen(&self, address: &Address) -> Result<()> {
        let raw = address.to_raw();
        // SAFETY: as in `dump`; the address outlives the call.
        let status = unsafe { (self.fabric.ops.listen)(self.raw.get(), &raw const raw) };
        self.fabric.check(status, format_args!("listen at {}:{}", address.traddr, address.trsvcid))
    }

    /// Stops listening on an address. Existing connections stay.
    ///
    /// # Errors
    /// `ENOENT` when the transport does not listen there.
    pub fn stop_listen(&self, address: &Address) -> Result<()> {
        let raw = address.to_raw();
        // SAFETY: as in `listen`.
        let status = unsafe { (self.fabric.ops.stop_listen)(self.raw.get(), &raw const raw) };
        self.fabric
            .check(status, format_args!("stop listening at {}:{}", address.traddr, address.trsvcid))
    }

    /// Creates the transport's part in a poll group. Calls `done` on the group's thread.
    pub fn join(&self, group: &GroupRef<T>, done: impl FnOnce(Result<()>) + Send + 'static) {
        let (fabric, ops, transport) = (self.fabric.id, self.fabric.ops, self.raw);
        // SAFETY: the transport is destroyed after its parts have left.
        group.send(move |group| done(unsafe { group.join(fabric, ops, transport) }));
    }

    /// Destroys the transport's part in a poll group. It must have no connection left. Calls `done` on the group's thread.
    pub fn leave(&self, group: &GroupRef<T>, done: impl FnOnce() + Send + 'static) {
        let fabric = self.fabric.id;
        group.send(move |group| {
            group.leave(fabric);
            done();
        });
    }

    /// Destroys the transport. All groups must have left it and all listeners must have ended.
    pub fn destroy(self) {
        self.fabric.serving.set_transport(self.fabric.id, Ptr::NULL);
        // SAFETY: the fabric's own transport; this is its only `destroy`.
        unsafe { (self.fabric.ops.destroy)(self.raw.get()) };
    }
}

/// Maximum length of a text from a fabric, in bytes.
const TEXT_MAX: usize = 1 << 20;

/// Result of `register` for a transport type that is taken, as a negative errno.
pub(super) const TAKEN: i32 = -errno::EEXIST;
