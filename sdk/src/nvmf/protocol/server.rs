//! `bay.nvmf_target/1`: where fabrics register and bring their connections.
#![expect(unsafe_code, reason = "fabrics enter here with pointers")]

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

/// The target as fabrics reach it. One for the life of the library.
pub(super) struct Serving<T: Target> {
    groups: Mutex<Option<runtime::Group<Group<T>>>>,
    fabrics: Mutex<Fabrics>,
    /// App thread only.
    on_leave: OnLeave,
    /// App thread only.
    provided: RefCell<Option<Provided<bay_nvmf_target_api>>>,
}

// SAFETY: what is not `Send` in it is used on the app thread alone, by functions that say so.
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
    /// NULL until it is made.
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

/// Serves fabrics from now on. App thread.
pub struct Server<T: Target>(&'static Serving<T>, PhantomData<*const ()>);

impl<T: Target> fmt::Debug for Server<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").finish_non_exhaustive()
    }
}

/// Offers the target to fabrics. `on_leave` is called when one goes away. App thread.
///
/// # Errors
/// `EEXIST` when another plugin serves them.
pub fn serve<T: Target>(
    app: &App,
    on_leave: impl Fn(&App, Leaving) + 'static,
) -> Result<Server<T>> {
    // Connections may outlive the offer by their last callbacks: it is never freed.
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
    /// Makes the poll groups, one on each core, on threads `NAME_000` and so on. Their states are made there, by index.
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

    /// Takes the poll groups off: connections that come are refused.
    #[must_use]
    pub fn take_groups(&self) -> Option<runtime::Group<Group<T>>> {
        lock(&self.0.groups).take()
    }

    /// The fabric of a transport type; where none has registered the host loads the plugin that provides it, if it finds one.
    #[must_use]
    pub fn fabric(&self, name: &str) -> Option<Fabric<T>> {
        self.0.find(name).or_else(|| {
            load_provider(&format!("nvmf.transport/{name}"));
            self.0.find(name)
        })
    }

    /// Serves no fabric any more.
    pub fn withdraw(&self) {
        self.0.provided.replace(None);
    }
}

/// Asks the broker for an id that stands for no table, so that the host loads the plugin that provides it.
fn load_provider(id: &str) {
    let host = host();
    let mut reference = 0;
    // SAFETY: text and result live through the call; without a callback there is no argument.
    let table = unsafe {
        (host.broker.acquire)(host.raw, bay_str::new(id), None, ptr::null_mut(), &raw mut reference)
    };
    if !table.is_null() {
        // SAFETY: the reference just given.
        unsafe { (host.broker.release)(host.raw, reference) };
    }
}

/// # Safety
/// `target` is the pointer that `serve::<T>` offered.
unsafe fn serving<T: Target>(target: *mut c_void) -> &'static Serving<T> {
    // SAFETY: the caller's promise; it is never freed.
    unsafe { &*target.cast_const().cast() }
}

unsafe extern "C" fn register<T: Target>(
    target: *mut c_void,
    name: bay_str,
    ops: *const bay_nvmf_transport_ops,
    ctx: *mut c_void,
    handle: *mut u64,
) -> i32 {
    // SAFETY: fabrics give back what they were given.
    let serving = unsafe { serving::<T>(target) };
    // SAFETY: valid for the call.
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
            // SAFETY: the fabric's place for the result.
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
    // SAFETY: fabrics give back what they were given.
    let serving = unsafe { serving::<T>(target) };
    // SAFETY: fabrics call it on the app thread.
    let app = unsafe { App::assume() };
    enter(-errno::EFAULT, || {
        let mut fabrics = lock(&serving.fabrics);
        let Some(place) = fabrics.list.iter().position(|record| record.id == handle) else {
            return -errno::ENOENT;
        };
        // No longer found by name; its record stays for connections on their way until the transport is gone.
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
    // SAFETY: fabrics give back what they were given.
    let serving = unsafe { serving::<T>(target) };
    enter(-errno::EFAULT, || {
        let fabrics = lock(&serving.fabrics);
        let record = fabrics.list.iter().find(|record| record.id == handle);
        let Some((ops, transport)) = record.map(|record| (record.ops, record.transport)) else {
            return -errno::ENOENT;
        };
        drop(fabrics);
        let groups = lock(&serving.groups);
        // What a connection becomes is told by its Connect only. In turns, every second one of hosts that make an admin and an
        // I/O queue each would be an admin queue: with two groups, one would have all the I/O.
        let Some((group, weight)) = groups.as_ref().and_then(runtime::Group::least_loaded) else {
            return -errno::ENODEV;
        };
        let conn = Ptr::new(conn);
        group.send(move |group| {
            // SAFETY: the fabric gave the connection just now, and to this group alone.
            if let Err(error) = unsafe { group.add(handle, conn, weight) } {
                tracing::warn!("a connection is refused: {error}");
                refuse(ops, transport, conn);
            }
        });
        0
    })
}

/// Gives a connection that no group serves back to its fabric, on the app thread.
fn refuse(ops: Ops, transport: Ptr, conn: Ptr) {
    let call = move || {
        // SAFETY: the fabric's function with its own pointers, on the thread it names.
        unsafe { (ops.conn_refused)(transport.get(), conn.get()) };
    };
    if let Err(error) = thread::app().send(call) {
        tracing::error!("a connection is lost: {error}");
    }
}

unsafe extern "C" fn exec<T: Target>(
    _target: *mut c_void,
    qpair: *mut c_void,
    req: *mut bay_nvmf_req,
) {
    let Some(request) = NonNull::new(req) else { return };
    // SAFETY: the fabric's count of the qpair, and a request lent for it.
    unsafe { Qpair::<T>::exec(qpair.cast_const().cast(), request) };
}

unsafe extern "C" fn disconnected<T: Target>(_target: *mut c_void, qpair: *mut c_void) {
    // SAFETY: the fabric's count of the qpair, told gone once.
    unsafe { Qpair::<T>::disconnected(qpair.cast_const().cast()) };
}
