//! `bay.nvmf_target/1`: fabrics register here and report their connections.
#![expect(unsafe_code, reason = "fabrics pass pointers")]

use super::fabric::{Fabric, Leaving, Ops, Ptr, TAKEN};
use super::group::Group;
use super::qpair::Qpair;
use super::{GroupRef, Target};
use crate::app::App;
use crate::broker::{self, Provided};
use crate::entry::enter;
use crate::error::{Result, errno};
use crate::host::{host, text};
use crate::runtime;
use crate::thread;
use api::{
    bay_cb_fn, bay_nvmf_req, bay_nvmf_target_api, bay_nvmf_transport_ops, bay_str, copy_open,
};
use drivebay_plugin_api as api;
use std::cell::RefCell;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::{self, NonNull};
use std::sync::{Mutex, MutexGuard, PoisonError};

type OnLeave = Box<dyn Fn(&App, Leaving)>;

/// The target, as fabrics see it. One for the life of the library.
pub(super) struct Serving<T: Target> {
    groups: Mutex<Option<runtime::Group<Group<T>>>>,
    fabrics: Mutex<Fabrics>,
    /// Used on the app thread only.
    on_leave: OnLeave,
    /// Used on the app thread only.
    provided: RefCell<Option<Provided<bay_nvmf_target_api>>>,
}

// SAFETY: only functions of the app thread use the fields that are not `Send`.
unsafe impl<T: Target> Send for Serving<T> {}
// SAFETY: as above.
unsafe impl<T: Target> Sync for Serving<T> {}

#[derive(Default)]
struct Fabrics {
    last_id: u64,
    list: Vec<Record>,
}

struct Record {
    id: u64,
    name: String,
    ops: Ops,
    ctx: Ptr,
    /// NULL until the transport is created.
    transport: Ptr,
}

fn lock<V>(mutex: &Mutex<V>) -> MutexGuard<'_, V> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<T: Target> Serving<T> {
    pub(super) fn set_transport(&self, id: u64, transport: Ptr) {
        let mut fabrics = lock(&self.fabrics);
        if let Some(record) = fabrics.list.iter_mut().find(|record| record.id == id) {
            record.transport = transport;
        }
    }

    fn find(&'static self, name: &str) -> Option<Fabric<T>> {
        let fabrics = lock(&self.fabrics);
        let record = fabrics.list.iter().find(|record| record.name == name)?;
        Some(Fabric {
            _app: PhantomData,
            serving: self,
            id: record.id,
            ctx: record.ctx,
            ops: record.ops,
        })
    }
}

/// Access to the fabrics and poll groups of a served target. App thread.
pub struct Server<T: Target>(&'static Serving<T>, PhantomData<*const ()>);

impl<T: Target> fmt::Debug for Server<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// Provides the target to fabrics. Calls `on_leave` when a fabric unregisters. App thread.
///
/// # Errors
/// `EEXIST` when another plugin provides the target.
pub fn serve<T: Target>(
    app: &App,
    on_leave: impl Fn(&App, Leaving) + 'static,
) -> Result<Server<T>> {
    // The last callbacks of connections may arrive after the target is withdrawn, so this is never freed.
    let serving: &'static Serving<T> = Box::leak(Box::new(Serving {
        groups: Mutex::default(),
        fabrics: Mutex::default(),
        on_leave: Box::new(on_leave),
        provided: RefCell::default(),
    }));
    let provided = broker::provide(
        app,
        bay_nvmf_target_api {
            size: crate::bdev::size_of_table::<bay_nvmf_target_api>(),
            flags: 0,
            target: ptr::from_ref(serving).cast_mut().cast(),
            register: Some(register::<T>),
            unregister: Some(unregister::<T>),
            new_qpair: Some(new_qpair::<T>),
            exec: Some(exec::<T>),
            disconnected: Some(disconnected::<T>),
        },
    )?;
    serving.provided.replace(Some(provided));
    Ok(Server(serving, PhantomData))
}

impl<T: Target> Server<T> {
    /// Creates the poll groups, one on each core, on threads `NAME_000` and so on. Each state is created on its thread, by index.
    ///
    /// # Errors
    /// `EINVAL` for a core without a reactor.
    pub fn start_groups(
        &self,
        name: &str,
        cores: impl IntoIterator<Item = u32>,
        make: impl Fn(usize) -> T::Group + Send + Clone + 'static,
    ) -> Result<()> {
        let groups = runtime::Group::start(name, cores, move |index| Group::new(make(index)))?;
        *lock(&self.0.groups) = Some(groups);
        Ok(())
    }

    /// The poll groups.
    #[must_use]
    pub fn groups(&self) -> Vec<GroupRef<T>> {
        let groups = lock(&self.0.groups);
        groups.iter().flat_map(runtime::Group::members).cloned().collect()
    }

    /// Removes the poll groups. New connections are refused afterwards.
    #[must_use]
    pub fn take_groups(&self) -> Option<runtime::Group<Group<T>>> {
        lock(&self.0.groups).take()
    }

    /// Returns the fabric of a transport type. If none is registered, the host loads the plugin that provides it, if there is one.
    #[must_use]
    pub fn fabric(&self, name: &str) -> Option<Fabric<T>> {
        self.0.find(name).or_else(|| {
            load_provider(&format!("nvmf.transport/{name}"));
            self.0.find(name)
        })
    }

    /// Withdraws the target from fabrics.
    pub fn withdraw(&self) {
        self.0.provided.replace(None);
    }
}

/// Asks the broker for an id without a table, so that the host loads the plugin that provides it.
fn load_provider(id: &str) {
    let host = host();
    let mut reference = 0;
    // SAFETY: the text and the result outlive the call; there is no callback, so no argument either.
    let table = unsafe {
        (host.broker.acquire)(host.raw, bay_str::new(id), None, ptr::null_mut(), &raw mut reference)
    };
    if !table.is_null() {
        // SAFETY: the host has just returned this reference.
        unsafe { (host.broker.release)(host.raw, reference) };
    }
}

/// # Safety
/// `target` is the pointer that `serve::<T>` provided.
unsafe fn serving<T: Target>(target: *mut c_void) -> &'static Serving<T> {
    // SAFETY: the caller's promise; the value is never freed.
    unsafe { &*target.cast_const().cast() }
}

unsafe extern "C" fn register<T: Target>(
    target: *mut c_void,
    name: bay_str,
    ops: *const bay_nvmf_transport_ops,
    ctx: *mut c_void,
    handle: *mut u64,
) -> i32 {
    // SAFETY: fabrics pass the pointer from the table.
    let serving = unsafe { serving::<T>(target) };
    // SAFETY: the text is valid for the call.
    let name = unsafe { text(name) }.to_owned();
    // SAFETY: the fabric's table, which begins with its size.
    let Some(table) = (unsafe { copy_open(ops) }) else { return -errno::EINVAL };
    let id = enter(Err(-errno::EFAULT), || {
        let ops = Ops::of(&table).map_err(|lacking| {
            tracing::error!("fabric {name} lacks {lacking}");
            -errno::EINVAL
        })?;
        let mut fabrics = lock(&serving.fabrics);
        if fabrics.list.iter().any(|record| record.name == name) {
            return Err(TAKEN);
        }
        fabrics.last_id += 1;
        let (id, ctx) = (fabrics.last_id, Ptr::new(ctx));
        fabrics.list.push(Record { id, name, ops, ctx, transport: Ptr::NULL });
        Ok(id)
    });
    match id {
        Ok(id) => {
            // SAFETY: `handle` is the fabric's place for the result.
            unsafe { handle.write(id) };
            0
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn unregister<T: Target>(
    target: *mut c_void,
    handle: u64,
    done: Option<bay_cb_fn>,
    arg: *mut c_void,
) -> i32 {
    // SAFETY: fabrics pass the pointer from the table.
    let serving = unsafe { serving::<T>(target) };
    // SAFETY: fabrics call this function on the app thread.
    let app = unsafe { App::assume() };
    enter(-errno::EFAULT, || {
        let mut fabrics = lock(&serving.fabrics);
        let Some(place) = fabrics.list.iter().position(|record| record.id == handle) else {
            return -errno::ENOENT;
        };
        // It is no longer found by name. Its record stays until the transport is destroyed, for connections on their way.
        if let Some(record) = fabrics.list.get_mut(place) {
            record.name.clear();
        }
        drop(fabrics);
        (serving.on_leave)(app, Leaving { id: handle, done, arg });
        0
    })
}

unsafe extern "C" fn new_qpair<T: Target>(
    target: *mut c_void,
    handle: u64,
    conn: *mut c_void,
) -> i32 {
    // SAFETY: fabrics pass the pointer from the table.
    let serving = unsafe { serving::<T>(target) };
    enter(-errno::EFAULT, || {
        let fabrics = lock(&serving.fabrics);
        let record = fabrics.list.iter().find(|record| record.id == handle);
        let Some((ops, transport)) = record.map(|record| (record.ops, record.transport)) else {
            return -errno::ENOENT;
        };
        drop(fabrics);
        let groups = lock(&serving.groups);
        // Only a connection's Connect says whether it is an admin or an I/O queue. If groups took turns and each host opened one
        // queue of each type, then with two groups one of them would get all I/O queues. So pick the least loaded group.
        let Some((group, weight)) = groups.as_ref().and_then(runtime::Group::least_loaded) else {
            return -errno::ENODEV;
        };
        let conn = Ptr::new(conn);
        group.send(move |group| {
            // SAFETY: the fabric has just reported the connection, and it goes to this group only.
            if let Err(error) = unsafe { group.add(handle, conn, weight) } {
                tracing::warn!("a connection was refused: {error}");
                refuse(ops, transport, conn);
            }
        });
        0
    })
}

/// Returns a connection that no group serves to its fabric, on the app thread.
fn refuse(ops: Ops, transport: Ptr, conn: Ptr) {
    let call = move || {
        // SAFETY: the fabric's function with its own pointers, on the thread that the ABI requires.
        unsafe { (ops.conn_refused)(transport.get(), conn.get()) };
    };
    if let Err(error) = thread::app().send(call) {
        tracing::error!("a refused connection cannot be returned to its fabric: {error}");
    }
}

unsafe extern "C" fn exec<T: Target>(
    _target: *mut c_void,
    qpair: *mut c_void,
    req: *mut bay_nvmf_req,
) {
    let Some(request) = NonNull::new(req) else { return };
    // SAFETY: `qpair` is the fabric's reference count, and the request is lent for it.
    unsafe { Qpair::<T>::exec(qpair.cast_const().cast(), request) };
}

unsafe extern "C" fn disconnected<T: Target>(_target: *mut c_void, qpair: *mut c_void) {
    // SAFETY: `qpair` is the fabric's reference count; the fabric reports the end once.
    unsafe { Qpair::<T>::disconnected(qpair.cast_const().cast()) };
}
