//! Fabrics that have registered, and the transports made of them. App thread.
#![expect(unsafe_code, reason = "calls the fabric's functions with its own pointers")]

use super::server::Serving;
use super::{Address, GroupRef, Target};
use crate::error::{Error, Result, check, errno};
use api::{Collected, bay_cb_fn, bay_nvmf_transport_ops, bay_str};
use drivebay_plugin_api as api;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr;

/// A fabric's pointer, on its way between threads. Only the fabric knows what it points to.
#[derive(Clone, Copy)]
pub(super) struct Ptr(*mut c_void);

// SAFETY: it is not followed here; the fabric's functions take it on the threads they name.
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
        /// What a fabric does, every required function known to be there.
        #[derive(Clone, Copy)]
        pub(super) struct Ops {
            $(pub(super) $function: api::$type,)*
            pub(super) connected: Option<api::bay_nvmf_connected_fn>,
            pub(super) explain: Option<api::bay_nvmf_explain_fn>,
            /// It sends zeroes without memory that holds them.
            pub(super) sends_zeroes: bool,
        }

        impl Ops {
            /// The functions of a table, or the name of one that it lacks.
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

/// A fabric that goes away: end its transport, if there is one, then drop this. App thread.
#[derive(Debug)]
pub struct Leaving {
    pub(super) id: u64,
    pub(super) done: Option<bay_cb_fn>,
    pub(super) arg: *mut c_void,
}

impl Leaving {
    /// The fabric, as [`Transport::id`].
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }
}

impl Drop for Leaving {
    fn drop(&mut self) {
        if let Some(done) = self.done.take() {
            // SAFETY: the fabric's callback with its argument, called once.
            unsafe { done(self.arg, 0) };
        }
    }
}

/// A fabric that has registered. It stays on the app thread.
pub struct Fabric<T: Target> {
    /// Not `Send`.
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
    /// Makes the transport; `options` is the JSON text of an object.
    ///
    /// # Errors
    /// What the fabric refuses, with its reason.
    pub fn create(self, options: &str) -> Result<Transport<T>> {
        let mut raw = ptr::null_mut();
        // SAFETY: the fabric's function with its own context; text and result live through the call.
        let status =
            unsafe { (self.ops.create)(self.ctx.get(), bay_str::new(options), &raw mut raw) };
        self.check(status, "transport options")?;
        let raw = Ptr::new(raw);
        self.serving.set_transport(self.id, raw);
        Ok(Transport { fabric: self, raw })
    }

    /// The fabric's status with its own words, or else with `what` was asked for.
    fn check(&self, status: i32, what: impl fmt::Display) -> Result<()> {
        let (true, Some(explain)) = (status < 0, self.ops.explain) else {
            return check(status, what);
        };
        let mut text = Collected::new(TEXT_MAX);
        let sink = text.sink();
        // SAFETY: the fabric's function with its own context; the sink lives through the call.
        unsafe { explain(self.ctx.get(), &raw const sink) };
        let text = text.into_text();
        if text.is_empty() { check(status, what) } else { Err(Error::new(-status, text)) }
    }
}

/// A transport. It stays on the app thread; end it with [`destroy`](Self::destroy).
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
    /// Names the fabric, whatever comes and goes.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.fabric.id
    }

    /// The options in force: the JSON text of one object.
    #[must_use]
    pub fn dump(&self) -> String {
        let mut text = Collected::new(TEXT_MAX);
        let sink = text.sink();
        // SAFETY: the fabric's function with its own transport; the sink lives through the call.
        unsafe { (self.fabric.ops.dump)(self.raw.get(), &raw const sink) };
        text.into_text()
    }

    /// Begins to listen.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, `EINVAL`.
    pub fn listen(&self, address: &Address) -> Result<()> {
        let raw = address.to_raw();
        // SAFETY: as `dump`, with an address that lives through the call.
        let status = unsafe { (self.fabric.ops.listen)(self.raw.get(), &raw const raw) };
        self.fabric.check(status, format_args!("listen at {}:{}", address.traddr, address.trsvcid))
    }

    /// Listens there no more; connections stay.
    ///
    /// # Errors
    /// `ENOENT` when it does not listen there.
    pub fn stop_listen(&self, address: &Address) -> Result<()> {
        let raw = address.to_raw();
        // SAFETY: as `listen`.
        let status = unsafe { (self.fabric.ops.stop_listen)(self.raw.get(), &raw const raw) };
        self.fabric
            .check(status, format_args!("stop listening at {}:{}", address.traddr, address.trsvcid))
    }

    /// Gives a poll group its share; `done` is called on the group's thread.
    pub fn join(&self, group: &GroupRef<T>, done: impl FnOnce(Result<()>) + Send + 'static) {
        let (fabric, ops, transport) = (self.fabric.id, self.fabric.ops, self.raw);
        // SAFETY: the transport is destroyed after its shares have left.
        group.send(move |group| done(unsafe { group.join(fabric, ops, transport) }));
    }

    /// Takes a poll group's share back, which must have no connection left; `done` is called on the group's thread.
    pub fn leave(&self, group: &GroupRef<T>, done: impl FnOnce() + Send + 'static) {
        let fabric = self.fabric.id;
        group.send(move |group| {
            group.leave(fabric);
            done();
        });
    }

    /// Ends the transport, after all groups have left it and all listeners have ended.
    pub fn destroy(self) {
        self.fabric.serving.set_transport(self.fabric.id, Ptr::NULL);
        // SAFETY: the fabric's own transport, ended once.
        unsafe { (self.fabric.ops.destroy)(self.raw.get()) };
    }
}

/// Longest text of a fabric, in bytes.
const TEXT_MAX: usize = 1 << 20;

/// What `register` answers for a type that is taken, as a negative errno.
pub(super) const TAKEN: i32 = -errno::EEXIST;
