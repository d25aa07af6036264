//! The bdevs of this library: creates, finds and deletes them by name.
#![expect(unsafe_code, reason = "gives the bus pointers to bdevs")]

use super::home::drv_ctx_len;
use super::module::Bdev;
use super::op::{Geometry, Range};
use super::registration::Registration;
use super::size_of_table;
use super::vtable::{OnBus, Ops};
use crate::app::App;
use crate::error::{Error, Result, check, errno};
use crate::host::host;
use crate::rpc::{Call, Method, params};
use drivebay_plugin_api::{self as api, bay_bdev_reg, bay_str};
use std::any::Any;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Every registered bdev of this library. Any thread may search it.
static ON_BUS: Mutex<Vec<Entry>> = Mutex::new(Vec::new());

struct Entry {
    name: String,
    id: u64,
    bdev: Weak<dyn Any + Send + Sync>,
}

fn on_bus() -> MutexGuard<'static, Vec<Entry>> {
    ON_BUS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A registered bdev of this library.
#[derive(Debug)]
pub struct Registered<B> {
    id: u64,
    on_bus: Arc<OnBus<B>>,
}

impl<B> std::ops::Deref for Registered<B> {
    type Target = B;
    fn deref(&self) -> &B {
        &self.on_bus.bdev
    }
}

/// Finds the bdev of type `B` with that name. `[any thread]`
///
/// # Errors
/// `ENODEV` when there is no such bdev.
pub fn find<B: Bdev>(name: &str) -> Result<Registered<B>> {
    let found = on_bus().iter().filter(|entry| entry.name == name).find_map(|entry| {
        let on_bus = entry.bdev.upgrade()?.downcast::<OnBus<B>>().ok()?;
        Some(Registered { id: entry.id, on_bus })
    });
    found.ok_or_else(|| Error::no_device_named(name))
}

/// Reserves a name and a UUID for a bdev that is registered later, until [`release`]. All zeroes = the
/// UUID derived from the name. `[app thread]`
///
/// # Errors
/// `EEXIST` when one of them is taken.
pub(super) fn reserve(_app: &App, name: &str, uuid: [u8; 16]) -> Result<()> {
    let host = host();
    // SAFETY: the text and the UUID outlive the call.
    let status = unsafe { (host.bdev.reserve)(host.raw, bay_str::new(name), uuid.as_ptr()) };
    check(status, format_args!("bdev {name}"))
}

/// Releases a reservation, if there is one. `[app thread]`
pub(super) fn release(_app: &App, name: &str) {
    let host = host();
    // SAFETY: the text outlives the call. If there is no reservation, the host does nothing.
    unsafe { (host.bdev.release)(host.raw, bay_str::new(name)) };
}

/// Registers a bdev. The call `method` with `params` creates it again. An empty `method` means that the
/// module creates it again without a saved call. `[app thread]`
///
/// # Errors
/// `EEXIST` when the name is taken.
pub fn register<B: Bdev>(
    _app: &App,
    bdev: B,
    method: &str,
    params: serde_json::Value,
) -> Result<String> {
    let mut registration = Registration::new(bdev.name(), B::PRODUCT, bdev.geometry(), B::OPS);
    bdev.describe(&mut registration);
    let params = Mutex::new(params);
    let id = AtomicU64::new(0);
    let on_bus_new = Arc::new(OnBus { bdev, method: method.to_owned(), params, id });
    let name = registration.name.clone();

    let weak: Weak<dyn Any + Send + Sync> = {
        let any: Arc<dyn Any + Send + Sync> = on_bus_new.clone();
        Arc::downgrade(&any)
    };
    let on_bus_here = Arc::clone(&on_bus_new);
    let ctx = Arc::into_raw(on_bus_new);
    let mut id = 0;
    let ctx_of_host = ctx.cast_mut().cast();
    let drv_ctx_size = u32::try_from(drv_ctx_len::<B>()).unwrap_or(u32::MAX);
    let status = with_record(&registration, Ops::<B>::TABLE, ctx_of_host, drv_ctx_size, |record| {
        let host = host();
        // SAFETY: `ctx` is a reference count that the host owns until `destruct`; the functions are constants.
        unsafe { (host.bdev.register)(host.raw, record, &raw mut id) }
    });
    if let Err(error) = check(status, format_args!("bdev {name}")) {
        // SAFETY: the host refused the bdev, so this function still owns the count.
        drop(unsafe { Arc::from_raw(ctx) });
        return Err(error);
    }
    on_bus_here.id.store(id, Ordering::Relaxed);
    drop(on_bus_here);
    let mut all = on_bus();
    // Search for dead entries only before the list grows, so that the cost per bdev stays constant.
    if all.len() == all.capacity() {
        all.retain(|entry| entry.bdev.strong_count() > 0);
    }
    all.push(Entry { name: name.clone(), id, bdev: weak });
    Ok(name)
}

/// Calls `call` with the ABI's form of a registration. Its texts are valid during the call.
fn with_record<R>(
    from: &Registration,
    ops: *const api::bay_bdev_ops,
    ctx: *mut c_void,
    drv_ctx_size: u32,
    call: impl FnOnce(*const bay_bdev_reg) -> R,
) -> R {
    let aliases: Vec<bay_str> = from.aliases.iter().map(|alias| bay_str::new(alias)).collect();
    let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
    // SAFETY: the fields are numbers, texts and pointers, for which all zero bytes are valid.
    let mut record: bay_bdev_reg = unsafe { std::mem::zeroed() };
    record.size = size_of_table::<bay_bdev_reg>();
    record.flags = flag(from.has_write_cache, api::BAY_BDEV_WRITE_CACHE)
        | flag(from.is_read_only, api::BAY_BDEV_READ_ONLY)
        | flag(from.keeps_no_data, api::BAY_BDEV_NO_DATA)
        | flag(from.unmapped_reads_zeroes, api::BAY_BDEV_UNMAPPED_ZEROES)
        | flag(from.base.is_some(), api::BAY_BDEV_FILTER);
    record.ctx = ctx;
    record.ops = ops;
    record.name = bay_str::new(&from.name);
    record.product = bay_str::new(&from.product);
    record.aliases = aliases.as_ptr();
    record.naliases = u32::try_from(aliases.len()).unwrap_or(0);
    record.block_size = from.geometry.block_size();
    record.num_blocks = from.geometry.num_blocks();
    record.uuid = from.uuid;
    record.phys_block_size = from.phys_block_size;
    record.write_unit = from.write_unit;
    record.atomic_write_unit = from.atomic_write_unit;
    record.align = from.align;
    record.optimal_boundary = from.optimal_boundary;
    record.max_segments = from.max_segments;
    record.max_segment_size = from.max_segment_size;
    record.max_io_blocks = from.max_io_blocks;
    record.max_unmap = from.max_unmap;
    record.max_write_zeroes = from.max_write_zeroes;
    let zoning = from.zoning.unwrap_or_default();
    record.zone_size = zoning.zone_size;
    record.max_open_zones = zoning.max_open;
    record.max_active_zones = zoning.max_active;
    record.optimal_open_zones = zoning.optimal_open;
    record.max_zone_append = zoning.max_append;
    record.md_size = from.md_size;
    record.md_interleave = from.md_interleave.into();
    record.dif_type = from.dif_type;
    record.dif_is_head = from.dif_is_head.into();
    record.dif_pi_format = from.dif_pi_format;
    record.numa = from.numa;
    record.ops_mask = from.ops.bits();
    record.must_flags = from.must_flags.bits();
    record.max_children = from.max_children;
    record.drv_ctx_size = drv_ctx_size;
    record.base = from.base.as_deref().map_or(bay_str::EMPTY, bay_str::new);
    call(&raw const record)
}

impl<B: Bdev> Registered<B> {
    /// Changes the number of blocks. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for a size that the bdev could not be created with, `EBUSY` when the bdev is open and would
    /// shrink.
    pub fn resize(&self, _app: &App, num_blocks: u64) -> Result<()> {
        Geometry::new_any(self.on_bus.bdev.geometry().block_size(), num_blocks)?;
        let host = host();
        // SAFETY: `self` owns the handle.
        let status = unsafe { (host.bdev.resize)(host.raw, self.id, num_blocks) };
        check(status, format_args!("num_blocks {num_blocks}"))?;
        let mut params = self.on_bus.params.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(saved) = params.get_mut("num_blocks") {
            *saved = num_blocks.into();
        }
        Ok(())
    }

    /// Unregisters the bdev and calls `done` when that has finished. `[app thread]`
    pub fn unregister(self, app: &App, done: impl FnOnce(&App, Result<()>) + 'static) {
        let id = self.id;
        // Drop this reference now, so that the bdev is freed when the host releases its own.
        drop(self);
        unregister(app, id, done);
    }

    /// Holds back the I/O of the bdev. Calls `done` when the module has no I/O left. Until
    /// [`unquiesce`](Self::unquiesce), the host queues new I/O and keeps its order. `[app thread]`
    ///
    /// # Errors
    /// `ENODEV` when the bdev is unregistered; `done` is then not called.
    pub fn quiesce(&self, app: &App, done: impl FnOnce(&App, Result<()>) + 'static) -> Result<()> {
        self.quiesce_blocks(app, WHOLE, done)
    }

    /// Continues the I/O that [`quiesce`](Self::quiesce) holds back. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when no I/O is held back.
    pub fn unquiesce(&self, app: &App) -> Result<()> {
        self.unquiesce_blocks(app, WHOLE)
    }

    /// As [`quiesce`](Self::quiesce), for the I/O of some blocks. Ranges may overlap. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` for blocks that are not on the bdev, `ENODEV` when the bdev is unregistered; `done` is then not called.
    pub fn quiesce_blocks(
        &self,
        _app: &App,
        blocks: Range,
        done: impl FnOnce(&App, Result<()>) + 'static,
    ) -> Result<()> {
        let done: Box<Done> = Box::new(Box::new(done));
        let arg = Box::into_raw(done);
        let Range { lba, nblocks } = blocks;
        let host = host();
        // SAFETY: the host owns `arg` until it calls back.
        let status = unsafe {
            (host.bdev.quiesce)(host.raw, self.id, lba, nblocks, Some(control_done), arg.cast())
        };
        check(status, "quiesce").inspect_err(|_| {
            // SAFETY: the host does not use `arg` after it refused the call.
            drop(unsafe { Box::from_raw(arg) });
        })
    }

    /// Continues the I/O that [`quiesce_blocks`](Self::quiesce_blocks) of the same blocks holds back. `[app thread]`
    ///
    /// # Errors
    /// `EINVAL` when no I/O of these blocks is held back.
    pub fn unquiesce_blocks(&self, _app: &App, blocks: Range) -> Result<()> {
        let done: Box<Done> = Box::new(Box::new(|_, _| {}));
        let arg = Box::into_raw(done);
        let Range { lba, nblocks } = blocks;
        let host = host();
        // SAFETY: the host owns `arg` until it calls back.
        let status = unsafe {
            (host.bdev.unquiesce)(host.raw, self.id, lba, nblocks, Some(control_done), arg.cast())
        };
        check(status, "unquiesce").inspect_err(|_| {
            // SAFETY: the host does not use `arg` after it refused the call.
            drop(unsafe { Box::from_raw(arg) });
        })
    }

    /// The host's handle.
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// The parameters that create the bdev again.
    pub(super) fn saved_params(&self) -> serde_json::Value {
        self.on_bus.params.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Stands for all blocks of a bdev, even if its size changes.
const WHOLE: Range = Range::new(0, 0);

type Done = Box<dyn FnOnce(&App, Result<()>)>;

fn unregister(app: &App, id: u64, done: impl FnOnce(&App, Result<()>) + 'static) {
    let done: Box<Done> = Box::new(Box::new(done));
    let arg = Box::into_raw(done);
    let host = host();
    // SAFETY: the host owns `arg` until it calls back.
    let status = unsafe { (host.bdev.unregister)(host.raw, id, Some(control_done), arg.cast()) };
    if let Err(error) = check(status, "unregister") {
        // SAFETY: the host does not use `arg` after it refused the call.
        let done = unsafe { Box::from_raw(arg) };
        done(app, Err(error));
    }
}

unsafe extern "C" fn control_done(arg: *mut c_void, status: i32) {
    // SAFETY: `arg` is the box that the host was given; this is the only call for it.
    let done = unsafe { Box::from_raw(arg.cast::<Done>()) };
    // SAFETY: the host calls this function on the app thread.
    let app = unsafe { App::assume() };
    crate::entry::enter((), || done(app, check(status, "bdev")));
}

/// Unregisters every bdev of this library. Drops `done` when all are gone. `[app thread]`
pub(crate) fn unregister_all(app: &App, done: impl Sized + 'static) {
    let ids: Vec<u64> = on_bus()
        .drain(..)
        .filter(|entry| entry.bdev.strong_count() > 0)
        .map(|entry| entry.id)
        .collect();
    let done = std::rc::Rc::new(done);
    for id in ids {
        let done = std::rc::Rc::clone(&done);
        unregister(app, id, move |_, _| drop(done));
    }
}

/// Creates a bdev from the parameters of `method`. `[app thread]`
pub(super) fn create<B: Bdev>(app: &App, method: &str, params: B::Params) -> Result<String> {
    let mut saved = serde_json::to_value(&params)
        .map_err(|error| Error::new(errno::EINVAL, error.to_string()))?;
    let bdev = B::create(app, params)?;
    let is_named =
        <B::Params as crate::rpc::Params>::params().iter().any(|param| param.name == "name");
    if let Some(saved) = saved.as_object_mut().filter(|_| is_named) {
        saved.insert("name".into(), bdev.name().into());
    }
    register(app, bdev, method, saved)
}

params! {
    /// Parameters of the methods that delete a bdev.
    pub struct Delete {
        /// Name of the bdev.
        pub name: String,
    }
}

/// Registers `bdev_<module>_create` and `bdev_<module>_delete`. `[app thread]`
///
/// # Errors
/// `EEXIST` when a method's name is taken.
pub fn serve<B: Bdev>(app: &App, module: &str) -> Result<()> {
    serve_with(app, module, create::<B>, |app, name, call| match find::<B>(name) {
        Ok(bdev) => bdev.unregister(app, |_, gone| call.answer(gone.map(|()| true))),
        Err(error) => call.fail(error),
    })
}

pub(super) fn serve_with<P: crate::rpc::Params + 'static>(
    app: &App,
    module: &str,
    create: fn(&App, &str, P) -> Result<String>,
    delete: fn(&App, &str, Call),
) -> Result<()> {
    let method = format!("bdev_{module}_create");
    Method::immediate(
        &method.clone(),
        &format!("Creates a {module} bdev."),
        move |app, params: P| create(app, &method, params),
    )
    .describe(|method| {
        method.result("Name of the new bdev.").error(-17, "exists", "A bdev has that name.")
    })
    .register(app)?;
    Method::new(
        &format!("bdev_{module}_delete"),
        &format!("Deletes a {module} bdev.\n\nThe answer comes when its I/O has completed and the bdev is gone."),
        move |app, call, params: Delete| delete(app, &params.name, call),
    )
    .describe(|method| {
        method.result("true").returns::<bool>().error(
            -19,
            "no_such_device",
            "No bdev of this module has that name.",
        )
    })
    .register(app)
}
