//! The functions that the target calls, and the data behind the target's pointers.
#![expect(unsafe_code, reason = "the target passes the pointers that it was given")]

use super::acceptor::Conn;
use super::qpair::Link;
use super::registration::Fabric;
use super::round::{Event, GroupCell, Round};
use super::{Acceptor, Address, Group, Qpair, Request, Transport};
use crate::entry::{enter, is_poisoned};
use crate::error::{Error, Result, errno};
use crate::host::Sink;
use crate::poller::Poller;
use crate::thread;
use api::{bay_nvmf_addr, bay_nvmf_req, bay_nvmf_transport_ops, bay_sink, bay_str};
use drivebay_plugin_api as api;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};

/// What the target's transport pointer points to. Groups' threads read `settings` and `fabric` only.
struct TransportCell<T: Transport> {
    fabric: &'static Fabric,
    settings: T::Settings,
    transport: RefCell<T>,
}

/// The functions that the target calls. Each pointer argument is one that this module gave the target before.
pub(super) struct Thunks<T>(PhantomData<T>);

impl<T: Transport> Thunks<T> {
    #[expect(clippy::cast_possible_truncation, reason = "a table is far smaller than 4 GiB")]
    pub(super) const OPS: &'static bay_nvmf_transport_ops = &bay_nvmf_transport_ops {
        size: size_of::<bay_nvmf_transport_ops>() as u32,
        flags: api::BAY_NVMF_TRANSPORT_ZEROES,
        create: Some(create::<T>),
        destroy: Some(destroy::<T>),
        dump: Some(dump::<T>),
        listen: Some(listen::<T>),
        stop_listen: Some(stop_listen::<T>),
        group_create: Some(group_create::<T>),
        group_destroy: Some(group_destroy::<T>),
        group_add: Some(group_add::<T>),
        conn_refused: Some(conn_refused::<T>),
        complete: Some(complete::<T>),
        close: Some(close::<T>),
        qpair_free: Some(qpair_free::<T>),
        conn_addr: Some(conn_addr::<T>),
        connected: Some(connected::<T>),
        explain: Some(explain),
    };
}

/// The text of the fabric's last refusal, for [`explain`].
static REFUSAL: Mutex<String> = Mutex::new(String::new());

/// Returns the errno of a failed control operation, logs its text, and keeps the text for [`explain`].
fn refuse(error: &Error) -> i32 {
    tracing::error!("{error}");
    error.message().clone_into(&mut REFUSAL.lock().unwrap_or_else(PoisonError::into_inner));
    -error.errno().max(1)
}

pub(super) unsafe extern "C" fn explain(_ctx: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the caller's sink, valid for the call.
    let Some(sink) = (unsafe { Sink::new(sink) }) else { return };
    let text = std::mem::take(&mut *REFUSAL.lock().unwrap_or_else(PoisonError::into_inner));
    enter((), || sink.write(&text));
}

pub(super) unsafe extern "C" fn create<T: Transport>(
    ctx: *mut c_void,
    options: bay_str,
    transport: *mut *mut c_void,
) -> i32 {
    // SAFETY: `ctx` is the fabric that `register` leaked.
    let fabric = unsafe { &*ctx.cast_const().cast::<Fabric>() };
    let options = if options.len == 0 {
        &[][..]
    } else {
        // SAFETY: the caller's text, valid for the call.
        unsafe { std::slice::from_raw_parts(options.ptr, options.len) }
    };
    let made = enter(Err(-errno::EFAULT), || {
        let options = std::str::from_utf8(options).map_err(|_| -errno::EINVAL)?;
        let acceptor = Acceptor { fabric, _transport: PhantomData };
        T::create(options, acceptor).map_err(|error| refuse(&error))
    });
    match made {
        Ok((made, settings)) => {
            let cell = TransportCell::<T> { fabric, settings, transport: RefCell::new(made) };
            // SAFETY: `transport` is the caller's place for the result.
            unsafe { transport.write(Box::into_raw(Box::new(cell)).cast()) };
            0
        }
        Err(status) => status,
    }
}

pub(super) unsafe extern "C" fn destroy<T: Transport>(transport: *mut c_void) {
    // SAFETY: the box that `create` made; this is its only `destroy`.
    let cell = unsafe { Box::from_raw(transport.cast::<TransportCell<T>>()) };
    enter((), || drop(cell));
}

/// Runs `body` on the transport. Fails with `EBUSY` if `body` of another call is still running, which no target should cause.
///
/// # Safety
/// `transport` is the pointer that `create::<T>` stored, and this is the app thread.
unsafe fn with_transport<T: Transport>(
    transport: *mut c_void,
    body: impl FnOnce(&mut T) -> Result<()>,
) -> i32 {
    // SAFETY: the caller's promise; groups' threads do not touch this field.
    let cell = unsafe { &(*transport.cast_const().cast::<TransportCell<T>>()).transport };
    enter(-errno::EFAULT, || {
        let Ok(mut transport) = cell.try_borrow_mut() else { return -errno::EBUSY };
        body(&mut transport).map_or_else(|error| refuse(&error), |()| 0)
    })
}

unsafe extern "C" fn dump<T: Transport>(transport: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the caller's sink, valid for the call.
    let Some(sink) = (unsafe { Sink::new(sink) }) else { return };
    // SAFETY: the target passes the pointer that it was given.
    unsafe {
        with_transport::<T>(transport, |transport| {
            transport.dump(&sink);
            Ok(())
        })
    };
}

pub(super) unsafe extern "C" fn listen<T: Transport>(
    transport: *mut c_void,
    addr: *const bay_nvmf_addr,
) -> i32 {
    // SAFETY: the caller's address, valid for the call.
    let address = Address::from_raw(unsafe { &*addr });
    // SAFETY: the target passes the pointer that it was given.
    unsafe { with_transport::<T>(transport, |transport| transport.listen(&address)) }
}

unsafe extern "C" fn stop_listen<T: Transport>(
    transport: *mut c_void,
    addr: *const bay_nvmf_addr,
) -> i32 {
    // SAFETY: the caller's address, valid for the call.
    let address = Address::from_raw(unsafe { &*addr });
    // SAFETY: the target passes the pointer that it was given.
    unsafe { with_transport::<T>(transport, |transport| transport.stop_listen(&address)) }
}

unsafe extern "C" fn group_create<T: Transport>(
    transport: *mut c_void,
    group: *mut *mut c_void,
) -> i32 {
    let cell = transport.cast_const().cast::<TransportCell<T>>();
    // SAFETY: the transport outlives its groups, and all threads may share `settings`.
    let settings = unsafe { &(*cell).settings };
    // SAFETY: as above.
    let fabric = unsafe { (*cell).fabric };
    let made = enter(Err(-errno::EFAULT), || {
        open_group::<T::Group>(settings, fabric).map_err(|error| refuse(&error))
    });
    match made {
        Ok(made) => {
            // SAFETY: `group` is the caller's place for the result.
            unsafe { group.write(Rc::into_raw(made).cast_mut().cast()) };
            0
        }
        Err(status) => status,
    }
}

fn open_group<G: Group>(
    settings: &<G::Transport as Transport>::Settings,
    fabric: &'static Fabric,
) -> Result<Rc<GroupCell<G>>> {
    const POLLIN: u32 = 1;
    let group = G::open(settings)?;
    let fd = group.wake_fd();
    let cell = Rc::new(GroupCell {
        fabric,
        group: RefCell::new(group),
        events: RefCell::default(),
        poller: RefCell::default(),
    });
    let poller = Poller::register(
        &format!("nvmf_{}", G::Transport::TRTYPE.to_ascii_lowercase()),
        0,
        Round(Rc::clone(&cell)),
    )?;
    poller.wake_fd(fd, POLLIN)?;
    cell.poller.replace(Some(poller));
    Ok(cell)
}

unsafe extern "C" fn group_destroy<T: Transport>(group: *mut c_void) {
    // SAFETY: the reference count from `group_create`; this is its only `group_destroy`.
    let cell = unsafe { Rc::from_raw(group.cast_const().cast::<GroupCell<T::Group>>()) };
    enter((), || {
        if let Some(poller) = cell.poller.take()
            && let Ok(group) = cell.group.try_borrow()
        {
            // If this fails, the host removes the descriptor together with the poller.
            let _ = poller.wake_fd(group.wake_fd(), 0);
        }
        drop(cell);
    });
}

pub(super) unsafe extern "C" fn group_add<T: Transport>(
    group: *mut c_void,
    conn: *mut c_void,
    qpair: *mut c_void,
) -> i32 {
    let group = group.cast_const().cast::<GroupCell<T::Group>>();
    // SAFETY: the group is live, and this is its thread.
    let cell = unsafe { &*group };
    // SAFETY: the connection from `hand_over`; the group owns it from now on.
    let mut given = unsafe { Box::from_raw(conn.cast::<Conn<T>>()) };
    let fabric = cell.fabric;
    let link = Rc::new(Cell::new(Link::Adding));
    let qpair = Qpair {
        target: fabric.target,
        exec: fabric.exec,
        disconnected: fabric.disconnected,
        raw: qpair,
        conn,
        link: Rc::clone(&link),
        _requests: PhantomData,
    };
    let target_qpair = qpair.raw;
    let status = enter(-errno::EFAULT, || {
        let Ok(mut group) = cell.group.try_borrow_mut() else { return -errno::EBUSY };
        let Some(incoming) = given.incoming.take() else { return -errno::EINVAL };
        match group.add(incoming, qpair) {
            Ok(key) => {
                given.key = key;
                0
            }
            Err(error) => refuse(&error),
        }
    });
    if status != 0 {
        link.set(Link::Closed);
        enter((), move || drop(given));
        return status;
    }
    given.group = group;
    given.qpair = target_qpair;
    given.link = Some(Rc::clone(&link));
    // It has the same address as `conn`; the target owns it until `qpair_free`.
    let _ = Box::into_raw(given);
    if link.replace(Link::Open) == Link::AddingClosed {
        link.set(Link::Closed);
        // SAFETY: the target's function. The group reported the end during `add`, and this is the only call for it.
        unsafe { (fabric.disconnected)(fabric.target, target_qpair) };
    }
    0
}

unsafe extern "C" fn conn_refused<T: Transport>(_transport: *mut c_void, conn: *mut c_void) {
    // SAFETY: the connection from `hand_over`, which no group has taken.
    let conn = unsafe { Box::from_raw(conn.cast::<Conn<T>>()) };
    enter((), || drop(conn));
}

/// Returns a connection's group and key.
///
/// # Safety
/// `group_add::<T>` has taken `conn`, it is not freed yet, and this is the group's thread.
unsafe fn served<'a, T: Transport>(conn: *mut c_void) -> (&'a GroupCell<T::Group>, usize) {
    // SAFETY: the caller's promise.
    let conn = unsafe { &*conn.cast_const().cast::<Conn<T>>() };
    // SAFETY: a group outlives its connections.
    (unsafe { &*conn.group }, conn.key)
}

pub(super) unsafe extern "C" fn complete<T: Transport>(conn: *mut c_void, req: *mut bay_nvmf_req) {
    // SAFETY: the target passes the pointer that it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    // SAFETY: `Qpair::exec` of this group has lent the request; it returns once.
    let request = unsafe { Request::from_raw(req) };
    enter((), || group.queue_event(Event::Completed(key, request)));
}

pub(super) unsafe extern "C" fn close<T: Transport>(conn: *mut c_void) {
    if is_poisoned() {
        // SAFETY: the target passes the pointer that it was given.
        return unsafe { abandon::<T>(conn) };
    }
    // SAFETY: as above.
    let (group, key) = unsafe { served::<T>(conn) };
    enter((), || group.queue_event(Event::Close(key)));
}

/// Reports the end of a connection whose group cannot run any more, because the library is poisoned. The report is a message,
/// because the target may be in the middle of its own work.
///
/// # Safety
/// As [`served`].
unsafe fn abandon<T: Transport>(conn: *mut c_void) {
    // SAFETY: the caller's promise.
    let conn = unsafe { &*conn.cast_const().cast::<Conn<T>>() };
    let is_open = conn.link.as_ref().is_some_and(|link| link.replace(Link::Closed) == Link::Open);
    let Some(thread) = thread::current().filter(|_| is_open) else { return };
    // SAFETY: a group outlives its connections.
    let fabric = unsafe { &*conn.group }.fabric;
    let qpair = conn.qpair;
    let report = move || {
        // SAFETY: the target's function. The link was open, so the target keeps the qpair until this call, which is the only one.
        unsafe { (fabric.disconnected)(fabric.target, qpair) };
    };
    // SAFETY: the message stays on this thread.
    if let Err(error) = unsafe { thread.send_even_poisoned(report) } {
        tracing::error!("the target does not learn that a connection has ended: {error}");
    }
}

pub(super) unsafe extern "C" fn qpair_free<T: Transport>(conn: *mut c_void) {
    // SAFETY: the target passes the pointer that it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    enter((), || group.queue_event(Event::Free(key)));
    // SAFETY: the connection from `hand_over`; the target has released it.
    let conn = unsafe { Box::from_raw(conn.cast::<Conn<T>>()) };
    enter((), move || drop(conn));
}

unsafe extern "C" fn conn_addr<T: Transport>(
    conn: *mut c_void,
    local: *mut bay_nvmf_addr,
    peer: *mut bay_nvmf_addr,
) -> i32 {
    // SAFETY: the connection from `hand_over`, which is alive.
    let conn = unsafe { &*conn.cast_const().cast::<Conn<T>>() };
    if !local.is_null() {
        // SAFETY: `local` is the caller's place for the result.
        unsafe { local.write(conn.local) };
    }
    if !peer.is_null() {
        // SAFETY: as above.
        unsafe { peer.write(conn.peer) };
    }
    0
}

pub(super) unsafe extern "C" fn connected<T: Transport>(
    conn: *mut c_void,
    qid: u16,
    sqsize: u16,
    sq_flow_control: u32,
) {
    // SAFETY: the target passes the pointer that it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    let sq_flow_control = sq_flow_control != 0;
    enter((), || group.queue_event(Event::Connected { key, qid, size: sqsize, sq_flow_control }));
}
