//! The fabric's side of NVMe over Fabrics: transports, their groups, and the requests they lend to the target.
//!
//! A plugin implements [`Transport`] (what listens, on the app thread) and [`Group`] (what serves connections,
//! one on each poll group's thread) and calls [`register`]. The target then makes the transport and its groups.
//!
//! ```text
//!  socket ─▶ Acceptor::hand_over ─▶ target ─▶ Group::add(incoming, Qpair)
//!  bytes  ─▶ Group::poll ─▶ Qpair::exec(Request) ─▶ target ─▶ … ─▶ Group::completed(Request) ─▶ Group::flush
//! ```
//!
//! A [`Request`] is a value: lending it moves it to the target, completion moves it back. What the target says
//! while a group is at work (a completion from inside `exec`, a close) is queued and told before the round ends,
//! so a group is never entered twice.
#![expect(unsafe_code, reason = "requests and connections cross the ABI as pointers")]

use crate::broker::{self, Reference};
use crate::buf::{self, Buf};
use crate::entry::enter;
use crate::error::{Error, Result, check, errno};
use crate::host::Sink;
use crate::poller::{Poll, Poller};
use crate::thread;
use api::{
    bay_iov, bay_nvmf_addr, bay_nvmf_req, bay_nvmf_target_api, bay_nvmf_transport_ops, bay_sink,
    bay_str,
};
use drivebay_plugin_api as api;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fmt;
use std::marker::PhantomData;
use std::os::fd::RawFd;
use std::ptr;
use std::rc::Rc;
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

/// A fabric of the target, such as TCP. It lives on the app thread; its groups do not.
pub trait Transport: Sized + 'static {
    /// Transport type as RPCs name it, such as `TCP`.
    const TRTYPE: &'static str;
    /// What a group needs to know, read on the groups' threads.
    type Settings: Send + Sync + 'static;
    /// A connection that was accepted and belongs to no group yet.
    type Incoming: Send + 'static;
    /// One thread's share.
    type Group: Group<Transport = Self>;

    /// Makes the transport from the parameters of `nvmf_create_transport`, as JSON text. `acceptor` takes its connections.
    ///
    /// # Errors
    /// `EINVAL` naming the option that is not allowed; the text is logged.
    fn create(options: &str, acceptor: Acceptor<Self>) -> Result<(Self, Self::Settings)>;

    /// Writes the options in force as one JSON object.
    fn dump(&self, sink: &Sink<'_>);

    /// Begins to listen.
    ///
    /// # Errors
    /// `EADDRINUSE`, `EADDRNOTAVAIL`, or `EINVAL` for an address that is none.
    fn listen(&mut self, address: &Address) -> Result<()>;

    /// Listens no more; connections stay.
    ///
    /// # Errors
    /// `ENOENT` when it does not listen there.
    fn stop_listen(&mut self, address: &Address) -> Result<()>;
}

/// One thread's share of a transport: its connections, each known by a key that the group chooses.
///
/// A round is [`poll`](Self::poll), then what the target has said meanwhile, then [`flush`](Self::flush).
pub trait Group: Sized + 'static {
    /// What it is a share of.
    type Transport: Transport<Group = Self>;
    /// The fabric's part of a request.
    type Body: 'static;

    /// Makes a group on the current thread.
    ///
    /// # Errors
    /// When the system lacks something, such as descriptors.
    fn open(settings: &<Self::Transport as Transport>::Settings) -> Result<Self>;

    /// A descriptor that is readable when there is something to do; the same for the group's life.
    fn wake_fd(&self) -> RawFd;

    /// Serves a connection from now on as `qpair`; returns its key.
    ///
    /// # Errors
    /// The connection is closed then.
    fn add(
        &mut self,
        incoming: <Self::Transport as Transport>::Incoming,
        qpair: Qpair<Self::Body>,
    ) -> Result<usize>;

    /// Receives, and lends what is complete; whether it did something.
    fn poll(&mut self) -> bool;

    /// A request comes back with its response.
    fn completed(&mut self, key: usize, request: Request<Self::Body>);

    /// The target accepted the connection as queue `qid` with `size` entries.
    fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool);

    /// Ends a connection once the responses that came back are sent; then [`Qpair::disconnected`].
    fn close(&mut self, key: usize);

    /// The target has let go of the connection: the key is free.
    fn free(&mut self, key: usize);

    /// Sends what is ready, at the end of a round; whether it did something.
    fn flush(&mut self) -> bool;

    /// Whether there is work after all, before the thread sleeps until the descriptor or the deadline.
    fn prepare_sleep(&mut self) -> bool;

    /// When a round must come, on the host's clock in nanoseconds; `u64::MAX` = when woken.
    fn next_ns(&self) -> u64;
}

/// A transport address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Address {
    /// `TCP`, …
    pub trtype: String,
    /// `IPv4`, `IPv6`, …
    pub adrfam: String,
    /// Address.
    pub traddr: String,
    /// Service, such as a port.
    pub trsvcid: String,
}

impl Address {
    /// Reads the NUL-padded texts; what is no UTF-8 is replaced.
    #[must_use]
    pub fn from_raw(raw: &bay_nvmf_addr) -> Self {
        Self {
            trtype: text(&raw.trtype),
            adrfam: text(&raw.adrfam),
            traddr: text(&raw.traddr),
            trsvcid: text(&raw.trsvcid),
        }
    }

    /// The NUL-padded texts; what is too long is cut.
    #[must_use]
    pub fn to_raw(&self) -> bay_nvmf_addr {
        bay_nvmf_addr {
            trtype: padded(&self.trtype),
            adrfam: padded(&self.adrfam),
            traddr: padded(&self.traddr),
            trsvcid: padded(&self.trsvcid),
        }
    }
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or(bytes)).into_owned()
}

fn padded<const N: usize>(text: &str) -> [u8; N] {
    let mut bytes = [0; N];
    // The last byte stays NUL.
    for (place, byte) in bytes.iter_mut().zip(text.bytes().take(N - 1)) {
        *place = byte;
    }
    bytes
}

/// What a request's data is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transfer {
    /// There is none.
    None,
    /// From the host, gathered before the request is lent.
    FromHost,
    /// To the host, sent after success.
    ToHost,
}

/// One command with its data and its response, and the fabric's part `B`.
///
/// # Invariants
/// While a request is lent nobody but the target touches it; `Slot::pieces` and `Slot::iov` stay as they are, so
/// the list and the memory that the target sees are valid until it gives the request back.
pub struct Request<B>(Box<Slot<B>>);

/// `raw` comes first: the target's pointer to it is a pointer to the slot.
#[repr(C)]
struct Slot<B> {
    raw: bay_nvmf_req,
    pieces: Vec<Buf>,
    iov: Vec<bay_iov>,
    /// Length of a piece, in bytes; the last one may be shorter.
    piece_len: u32,
    body: B,
}

impl<B> Request<B> {
    /// A request whose data is in pieces of `piece_len` bytes, at most `data_len_max` bytes in all.
    pub fn new(body: B, piece_len: u32, data_len_max: u32) -> Self {
        let piece_len = piece_len.max(1);
        let pieces = data_len_max.div_ceil(piece_len) as usize;
        Self(Box::new(Slot {
            raw: bay_nvmf_req {
                cmd: [0; 8],
                rsp: [0; 2],
                iov: ptr::null_mut(),
                iovcnt: 0,
                len: 0,
                xfer: api::BAY_NVMF_XFER_NONE,
                rsv0: 0,
                rsv1: 0,
                rsp_len: 0,
                conn: ptr::null_mut(),
                tgt: [0; 8],
            },
            pieces: Vec::with_capacity(pieces),
            iov: Vec::with_capacity(pieces),
            piece_len,
            body,
        }))
    }

    /// The fabric's part.
    pub fn body(&self) -> &B {
        &self.0.body
    }

    /// The fabric's part.
    pub fn body_mut(&mut self) -> &mut B {
        &mut self.0.body
    }

    /// Sets the command, as it came, and forgets the last one's transfer and response.
    pub fn begin(&mut self, command: &[u8; 64]) {
        let raw = &mut self.0.raw;
        for (word, bytes) in raw.cmd.iter_mut().zip(command.chunks_exact(8)) {
            *word = bytes.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
        }
        raw.rsp = [0; 2];
        raw.rsp_len = 0;
        raw.xfer = api::BAY_NVMF_XFER_NONE;
        raw.len = 0;
    }

    /// Says what the data is for; `len` in bytes.
    pub fn set_transfer(&mut self, transfer: Transfer, len: u32) {
        self.0.raw.len = len;
        self.0.raw.xfer = match transfer {
            Transfer::None => api::BAY_NVMF_XFER_NONE,
            Transfer::FromHost => api::BAY_NVMF_XFER_H2C,
            Transfer::ToHost => api::BAY_NVMF_XFER_C2H,
        };
    }

    /// Gets memory for `len` bytes of data from the host's pools, all or nothing; whether there was enough.
    pub fn obtain(&mut self, len: u32) -> bool {
        let slot = &mut *self.0;
        slot.pieces.clear();
        let mut left = len;
        while left > 0 {
            let piece = left.min(slot.piece_len);
            let Some(buf) = buf::get(piece) else {
                slot.pieces.clear();
                return false;
            };
            slot.pieces.push(buf);
            left -= piece;
        }
        true
    }

    /// Gives the memory of the data back.
    pub fn release(&mut self) {
        self.0.pieces.clear();
    }

    /// The pieces of `len` bytes of data from `offset` on.
    pub fn data(&self, offset: u32, len: u32) -> impl Iterator<Item = &[u8]> {
        let (mut skip, mut left) = (offset as usize, len as usize);
        self.0.pieces.iter().filter_map(move |piece| {
            let from = skip.min(piece.len() as usize);
            skip -= from;
            let rest = piece.get(from..)?;
            let bytes = rest.get(..left).unwrap_or(rest);
            left -= bytes.len();
            (!bytes.is_empty()).then_some(bytes)
        })
    }

    /// The data from `offset` to the end of its piece; empty behind the end.
    pub fn data_mut(&mut self, offset: u32) -> &mut [u8] {
        let slot = &mut *self.0;
        let (index, within) = (offset / slot.piece_len, offset % slot.piece_len);
        let piece = slot.pieces.get_mut(index as usize);
        piece.and_then(|piece| piece.get_mut(within as usize..)).unwrap_or_default()
    }

    /// The 16-byte response.
    #[must_use]
    pub fn response(&self) -> [u8; 16] {
        let [low, high] = self.0.raw.rsp;
        let mut bytes = [0; 16];
        let (low_place, high_place) = bytes.split_at_mut(8);
        low_place.copy_from_slice(&low.to_le_bytes());
        high_place.copy_from_slice(&high.to_le_bytes());
        bytes
    }

    /// How much data the target sends to the host, in bytes; at most the length of the transfer.
    #[must_use]
    pub fn response_len(&self) -> u32 {
        self.0.raw.rsp_len.min(self.0.raw.len)
    }

    /// Gives the request to whoever holds the pointer.
    fn into_raw(mut self, conn: *mut c_void) -> *mut bay_nvmf_req {
        let slot = &mut *self.0;
        slot.iov.clear();
        for piece in &mut slot.pieces {
            let (len, region) = (piece.len(), piece.region());
            slot.iov.push(bay_iov { addr: piece.as_mut_ptr().cast(), len, region });
        }
        slot.raw.iovcnt = u32::try_from(slot.iov.len()).unwrap_or(0);
        slot.raw.iov = if slot.iov.is_empty() { ptr::null_mut() } else { slot.iov.as_mut_ptr() };
        slot.raw.conn = conn;
        Box::into_raw(self.0).cast()
    }

    /// # Safety
    /// `raw` came from `into_raw` of a `Request<B>` and is given back once.
    unsafe fn from_raw(raw: *mut bay_nvmf_req) -> Self {
        // SAFETY: the caller's promise; `raw` is the first field of the slot.
        Self(unsafe { Box::from_raw(raw.cast()) })
    }
}

impl<B: fmt::Debug> fmt::Debug for Request<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request").field("body", &self.0.body).finish_non_exhaustive()
    }
}

/// A connection as the target knows it.
#[derive(Debug)]
pub struct Qpair<B> {
    target: *mut c_void,
    exec: api::bay_nvmf_exec_fn,
    disconnected: api::bay_nvmf_disconnected_fn,
    raw: *mut c_void,
    conn: *mut c_void,
    is_gone: Cell<bool>,
    _requests: PhantomData<fn(Request<B>)>,
}

impl<B: 'static> Qpair<B> {
    /// Lends a request; it comes back by [`Group::completed`], after this call. Dropped once the connection is told gone.
    pub fn exec(&self, request: Request<B>) {
        if self.is_gone.get() {
            return;
        }
        let raw = request.into_raw(self.conn);
        // SAFETY: the target's function; the qpair lives until `free`, and the request is its until it comes back.
        unsafe { (self.exec)(self.target, self.raw, raw) };
    }

    /// Tells the target that the connection is gone; [`Group::free`] follows once all requests came back.
    pub fn disconnected(&self) {
        if !self.is_gone.replace(true) {
            // SAFETY: as `exec`.
            unsafe { (self.disconnected)(self.target, self.raw) };
        }
    }
}

/// Where a transport hands its new connections over. App thread.
#[derive(Debug)]
pub struct Acceptor<T> {
    fabric: &'static Fabric,
    _transport: PhantomData<T>,
}

impl<T: Transport> Acceptor<T> {
    /// Gives a connection to the target, which picks a group for it.
    ///
    /// # Errors
    /// When the target takes none; the connection is dropped.
    pub fn hand_over(&self, incoming: T::Incoming, local: &Address, peer: &Address) -> Result<()> {
        let conn = Box::into_raw(Box::new(Conn::<T> {
            incoming: Some(incoming),
            local: local.to_raw(),
            peer: peer.to_raw(),
            group: ptr::null(),
            key: 0,
        }));
        let fabric = self.fabric;
        let handle = fabric.handle.get().copied().unwrap_or(0);
        // SAFETY: the target's function, on the app thread; the connection is the target's to pass around.
        let status = unsafe { (fabric.new_qpair)(fabric.target, handle, conn.cast()) };
        if status < 0 {
            // SAFETY: the target refused it and does not know it any more.
            drop(unsafe { Box::from_raw(conn) });
        }
        check(status.min(0), "new connection")
    }
}

/// The target, as a registered fabric reaches it. One for the life of the library.
#[derive(Debug)]
struct Fabric {
    target: *mut c_void,
    exec: api::bay_nvmf_exec_fn,
    disconnected: api::bay_nvmf_disconnected_fn,
    new_qpair: api::bay_nvmf_new_qpair_fn,
    unregister: api::bay_nvmf_unregister_fn,
    handle: OnceLock<u64>,
}

// SAFETY: constant but for the handle; the target takes its pointer on the threads that its functions name, and
// those who call them are on these threads.
unsafe impl Send for Fabric {}
// SAFETY: as above.
unsafe impl Sync for Fabric {}

/// The library's fabric while the target knows it.
static REGISTERED: Mutex<Option<Registered>> = Mutex::new(None);

struct Registered {
    fabric: &'static Fabric,
    reference: Reference<bay_nvmf_target_api>,
}

// SAFETY: `register` and `unregister` make sure that they are on the app thread before they touch it.
unsafe impl Send for Registered {}

fn registered() -> MutexGuard<'static, Option<Registered>> {
    REGISTERED.lock().unwrap_or_else(PoisonError::into_inner)
}

fn on_app_thread() -> Result<()> {
    let wrong = || Error::new(errno::EINVAL, "a fabric is registered on the app thread only");
    if thread::app().is_current() { Ok(()) } else { Err(wrong()) }
}

/// Registers the library's fabric with the target. `[app thread]`
///
/// # Errors
/// `ENOENT` when there is no target, `EEXIST` when the library has registered one or the type is taken.
pub fn register<T: Transport>() -> Result<()> {
    on_app_thread()?;
    if registered().is_some() {
        return Err(Error::new(errno::EEXIST, "the library has registered a fabric already"));
    }
    let reference = broker::acquire::<bay_nvmf_target_api>(|| {
        if let Err(error) = unregister(|_| ()) {
            tracing::error!("the target goes: {error}");
        }
    })?;
    let table = reference.table();
    let lacks = |what| Error::new(errno::ENOSYS, format!("bay.nvmf_target/1 lacks {what}"));
    let register = table.register.ok_or_else(|| lacks("register"))?;
    // The last callbacks of connections may come after the end of the registration: it is never freed.
    let fabric: &'static Fabric = Box::leak(Box::new(Fabric {
        target: table.target,
        exec: table.exec.ok_or_else(|| lacks("exec"))?,
        disconnected: table.disconnected.ok_or_else(|| lacks("disconnected"))?,
        new_qpair: table.new_qpair.ok_or_else(|| lacks("new_qpair"))?,
        unregister: table.unregister.ok_or_else(|| lacks("unregister"))?,
        handle: OnceLock::new(),
    }));
    let mut handle = 0;
    // SAFETY: operations and context live for ever.
    let status = unsafe {
        register(
            fabric.target,
            bay_str::new(T::TRTYPE),
            Thunks::<T>::OPS,
            ptr::from_ref(fabric).cast_mut().cast(),
            &raw mut handle,
        )
    };
    check(status, format_args!("transport {}", T::TRTYPE))?;
    let _ = fabric.handle.set(handle);
    *registered() = Some(Registered { fabric, reference });
    Ok(())
}

/// Takes the fabric off: its connections are closed and its listeners end, then `done` gets 0 or a negative errno.
/// Without a registration `done` is called at once. `[app thread]`
///
/// # Errors
/// When this is not the app thread.
pub fn unregister(done: impl FnOnce(i32) + 'static) -> Result<()> {
    type Done = Box<dyn FnOnce(i32)>;
    unsafe extern "C" fn ended(arg: *mut c_void, status: i32) {
        // SAFETY: the box that was given below, called once.
        let done = unsafe { Box::from_raw(arg.cast::<Done>()) };
        enter((), || done(status));
    }
    on_app_thread()?;
    let Some(Registered { fabric, reference }) = registered().take() else {
        done(0);
        return Ok(());
    };
    let done: Done = Box::new(move |status| {
        drop(reference);
        done(status);
    });
    let arg = Box::into_raw(Box::new(done)).cast();
    let handle = fabric.handle.get().copied().unwrap_or(0);
    // SAFETY: the target's function, on the app thread; `arg` is `ended`'s.
    let status = unsafe { (fabric.unregister)(fabric.target, handle, Some(ended), arg) };
    if status < 0 {
        // SAFETY: refused: `ended` is not called, so the box is still ours.
        unsafe { ended(arg, status) };
    }
    Ok(())
}

/// What the target holds of a connection.
struct Conn<T: Transport> {
    /// Until a group takes it.
    incoming: Option<T::Incoming>,
    local: bay_nvmf_addr,
    peer: bay_nvmf_addr,
    /// The group that serves it; a group outlives its connections.
    group: *const GroupCell<T::Group>,
    key: usize,
}

/// What the target holds of a transport. Groups' threads read `settings` and `fabric` only.
struct TransportCell<T: Transport> {
    fabric: &'static Fabric,
    settings: T::Settings,
    transport: RefCell<T>,
}

/// What the target holds of a group.
struct GroupCell<G: Group> {
    fabric: &'static Fabric,
    group: RefCell<G>,
    said: RefCell<VecDeque<Said<G::Body>>>,
    poller: RefCell<Option<Poller>>,
}

/// What the target has said and the group is still to hear.
enum Said<B> {
    Completed(usize, Request<B>),
    Connected { key: usize, qid: u16, size: u16, sq_flow_control: bool },
    Close(usize),
    Free(usize),
}

impl<G: Group> GroupCell<G> {
    fn say(&self, said: Said<G::Body>) {
        self.said.borrow_mut().push_back(said);
    }

    fn next_said(&self) -> Option<Said<G::Body>> {
        self.said.borrow_mut().pop_front()
    }
}

struct Round<G: Group>(Rc<GroupCell<G>>);

impl<G: Group> Poll for Round<G> {
    const SLEEPS: bool = true;

    fn poll(&mut self) -> bool {
        let Ok(mut group) = self.0.group.try_borrow_mut() else { return false };
        let mut did = group.poll();
        while let Some(said) = self.0.next_said() {
            did = true;
            match said {
                Said::Completed(key, request) => group.completed(key, request),
                Said::Connected { key, qid, size, sq_flow_control } => {
                    group.connected(key, qid, size, sq_flow_control);
                }
                Said::Close(key) => group.close(key),
                Said::Free(key) => group.free(key),
            }
        }
        group.flush() || did
    }

    fn prepare_sleep(&mut self) -> bool {
        let has_said = !self.0.said.borrow().is_empty();
        has_said || self.0.group.try_borrow_mut().is_ok_and(|mut group| group.prepare_sleep())
    }

    fn next_ns(&mut self) -> u64 {
        self.0.group.try_borrow().map_or(u64::MAX, |group| group.next_ns())
    }
}

/// The functions that the target calls. Each pointer is what this module gave the target before.
struct Thunks<T>(PhantomData<T>);

impl<T: Transport> Thunks<T> {
    #[expect(clippy::cast_possible_truncation, reason = "a table is far smaller than 4 GiB")]
    const OPS: &'static bay_nvmf_transport_ops = &bay_nvmf_transport_ops {
        size: size_of::<bay_nvmf_transport_ops>() as u32,
        flags: 0,
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
    };
}

/// The errno of a failed control operation, whose text only the log can tell.
fn told(error: &Error) -> i32 {
    tracing::error!("{error}");
    -error.errno().max(1)
}

unsafe extern "C" fn create<T: Transport>(
    ctx: *mut c_void,
    options: bay_str,
    transport: *mut *mut c_void,
) -> i32 {
    // SAFETY: `ctx` is the fabric that `register` leaked.
    let fabric = unsafe { &*ctx.cast_const().cast::<Fabric>() };
    let options = if options.len == 0 {
        &[][..]
    } else {
        // SAFETY: the caller's text, valid through the call.
        unsafe { std::slice::from_raw_parts(options.ptr, options.len) }
    };
    let made = enter(Err(-errno::EFAULT), || {
        let options = std::str::from_utf8(options).map_err(|_| -errno::EINVAL)?;
        let acceptor = Acceptor { fabric, _transport: PhantomData };
        T::create(options, acceptor).map_err(|error| told(&error))
    });
    match made {
        Ok((made, settings)) => {
            let cell = TransportCell::<T> { fabric, settings, transport: RefCell::new(made) };
            // SAFETY: the caller's place for the result.
            unsafe { transport.write(Box::into_raw(Box::new(cell)).cast()) };
            0
        }
        Err(status) => status,
    }
}

unsafe extern "C" fn destroy<T: Transport>(transport: *mut c_void) {
    // SAFETY: the box that `create` made, ended once.
    let cell = unsafe { Box::from_raw(transport.cast::<TransportCell<T>>()) };
    enter((), || drop(cell));
}

/// Enters the transport. Called from inside itself, which no target has a reason to do, it is busy.
///
/// # Safety
/// `transport` is what `create::<T>` gave, on the app thread.
unsafe fn with_transport<T: Transport>(
    transport: *mut c_void,
    body: impl FnOnce(&mut T) -> Result<()>,
) -> i32 {
    // SAFETY: the caller's promise; groups' threads do not touch this field.
    let cell = unsafe { &(*transport.cast_const().cast::<TransportCell<T>>()).transport };
    enter(-errno::EFAULT, || {
        let Ok(mut transport) = cell.try_borrow_mut() else { return -errno::EBUSY };
        body(&mut transport).map_or_else(|error| told(&error), |()| 0)
    })
}

unsafe extern "C" fn dump<T: Transport>(transport: *mut c_void, sink: *const bay_sink) {
    // SAFETY: the caller's sink, valid through the call.
    let Some(sink) = (unsafe { Sink::new(sink) }) else { return };
    // SAFETY: the target gives back what it was given.
    unsafe {
        with_transport::<T>(transport, |transport| {
            transport.dump(&sink);
            Ok(())
        })
    };
}

unsafe extern "C" fn listen<T: Transport>(
    transport: *mut c_void,
    addr: *const bay_nvmf_addr,
) -> i32 {
    // SAFETY: the caller's address, valid through the call.
    let address = Address::from_raw(unsafe { &*addr });
    // SAFETY: the target gives back what it was given.
    unsafe { with_transport::<T>(transport, |transport| transport.listen(&address)) }
}

unsafe extern "C" fn stop_listen<T: Transport>(
    transport: *mut c_void,
    addr: *const bay_nvmf_addr,
) -> i32 {
    // SAFETY: the caller's address, valid through the call.
    let address = Address::from_raw(unsafe { &*addr });
    // SAFETY: the target gives back what it was given.
    unsafe { with_transport::<T>(transport, |transport| transport.stop_listen(&address)) }
}

unsafe extern "C" fn group_create<T: Transport>(
    transport: *mut c_void,
    group: *mut *mut c_void,
) -> i32 {
    let cell = transport.cast_const().cast::<TransportCell<T>>();
    // SAFETY: the transport outlives its groups, and `settings` is shared between threads.
    let settings = unsafe { &(*cell).settings };
    // SAFETY: as above.
    let fabric = unsafe { (*cell).fabric };
    let made = enter(Err(-errno::EFAULT), || {
        open_group::<T::Group>(settings, fabric).map_err(|error| told(&error))
    });
    match made {
        Ok(made) => {
            // SAFETY: the caller's place for the result.
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
        said: RefCell::default(),
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
    // SAFETY: the count that `group_create` gave away, taken back once.
    let cell = unsafe { Rc::from_raw(group.cast_const().cast::<GroupCell<T::Group>>()) };
    enter((), || {
        if let Some(poller) = cell.poller.take()
            && let Ok(group) = cell.group.try_borrow()
        {
            // The host forgets the descriptor with the poller if it does not now.
            let _ = poller.wake_fd(group.wake_fd(), 0);
        }
        drop(cell);
    });
}

unsafe extern "C" fn group_add<T: Transport>(
    group: *mut c_void,
    conn: *mut c_void,
    qpair: *mut c_void,
) -> i32 {
    let group = group.cast_const().cast::<GroupCell<T::Group>>();
    // SAFETY: a live group, on its own thread.
    let cell = unsafe { &*group };
    // SAFETY: the connection of `hand_over`; it is the group's from now on.
    let mut given = unsafe { Box::from_raw(conn.cast::<Conn<T>>()) };
    let fabric = cell.fabric;
    let qpair = Qpair {
        target: fabric.target,
        exec: fabric.exec,
        disconnected: fabric.disconnected,
        raw: qpair,
        conn,
        is_gone: Cell::new(false),
        _requests: PhantomData,
    };
    let status = enter(-errno::EFAULT, || {
        let Ok(mut group) = cell.group.try_borrow_mut() else { return -errno::EBUSY };
        let Some(incoming) = given.incoming.take() else { return -errno::EINVAL };
        match group.add(incoming, qpair) {
            Ok(key) => {
                given.key = key;
                0
            }
            Err(error) => told(&error),
        }
    });
    if status == 0 {
        given.group = group;
        // The same address as `conn`, the target's until `qpair_free`.
        let _ = Box::into_raw(given);
    }
    status
}

unsafe extern "C" fn conn_refused<T: Transport>(_transport: *mut c_void, conn: *mut c_void) {
    // SAFETY: the connection of `hand_over`, which no group has taken.
    let conn = unsafe { Box::from_raw(conn.cast::<Conn<T>>()) };
    enter((), || drop(conn));
}

/// The group of a connection, and the connection's key.
///
/// # Safety
/// `conn` was taken by `group_add::<T>` and is not freed yet, on the group's thread.
unsafe fn served<'a, T: Transport>(conn: *mut c_void) -> (&'a GroupCell<T::Group>, usize) {
    // SAFETY: the caller's promise.
    let conn = unsafe { &*conn.cast_const().cast::<Conn<T>>() };
    // SAFETY: a group outlives its connections.
    (unsafe { &*conn.group }, conn.key)
}

unsafe extern "C" fn complete<T: Transport>(conn: *mut c_void, req: *mut bay_nvmf_req) {
    // SAFETY: the target gives back what it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    // SAFETY: lent by `Qpair::exec` of this group, given back once.
    let request = unsafe { Request::from_raw(req) };
    enter((), || group.say(Said::Completed(key, request)));
}

unsafe extern "C" fn close<T: Transport>(conn: *mut c_void) {
    // SAFETY: the target gives back what it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    enter((), || group.say(Said::Close(key)));
}

unsafe extern "C" fn qpair_free<T: Transport>(conn: *mut c_void) {
    // SAFETY: the target gives back what it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    enter((), || group.say(Said::Free(key)));
    // SAFETY: the connection of `hand_over`; the target has let go of it.
    drop(unsafe { Box::from_raw(conn.cast::<Conn<T>>()) });
}

unsafe extern "C" fn conn_addr<T: Transport>(
    conn: *mut c_void,
    local: *mut bay_nvmf_addr,
    peer: *mut bay_nvmf_addr,
) -> i32 {
    // SAFETY: the connection of `hand_over`, alive.
    let conn = unsafe { &*conn.cast_const().cast::<Conn<T>>() };
    if !local.is_null() {
        // SAFETY: the caller's place for the result.
        unsafe { local.write(conn.local) };
    }
    if !peer.is_null() {
        // SAFETY: as above.
        unsafe { peer.write(conn.peer) };
    }
    0
}

unsafe extern "C" fn connected<T: Transport>(
    conn: *mut c_void,
    qid: u16,
    sqsize: u16,
    sq_flow_control: u32,
) {
    // SAFETY: the target gives back what it was given.
    let (group, key) = unsafe { served::<T>(conn) };
    let sq_flow_control = sq_flow_control != 0;
    enter((), || group.say(Said::Connected { key, qid, size: sqsize, sq_flow_control }));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_abi_and_a_long_one_is_cut_before_its_nul() {
        let address = Address {
            trtype: "TCP".into(),
            adrfam: "IPv4".into(),
            traddr: "127.0.0.1".into(),
            trsvcid: "4420".into(),
        };
        assert_eq!(Address::from_raw(&address.to_raw()), address);
        let long = Address { trsvcid: "9".repeat(99), ..address };
        assert_eq!(Address::from_raw(&long.to_raw()).trsvcid, "9".repeat(31));
    }

    #[test]
    fn a_lent_request_comes_back_with_its_body_and_what_the_target_wrote() {
        let mut request = Request::new(String::from("body"), 8192, 131_072);
        request.begin(&[7; 64]);
        request.set_transfer(Transfer::ToHost, 512);
        let raw = request.into_raw(ptr::dangling_mut());
        // SAFETY: the pointer just made; nobody else has it.
        let lent = unsafe { &mut *raw };
        assert_eq!((lent.cmd, lent.len, lent.xfer), ([0x0707_0707_0707_0707; 8], 512, 2));
        assert!(lent.iov.is_null() && lent.iovcnt == 0);
        lent.rsp = [1, u64::from_le_bytes([2; 8])];
        lent.rsp_len = 4096;
        // SAFETY: `lent` is not used any more.
        let request = unsafe { Request::<String>::from_raw(raw) };
        assert_eq!(request.body(), "body");
        assert_eq!(request.response()[8..], [2; 8]);
        assert_eq!(request.response_len(), 512, "never more than the transfer");
    }

    /// A fabric whose only connection lends one request as soon as it is added.
    struct Loop;

    struct LoopGroup {
        qpair: Option<Qpair<u32>>,
        request: Option<Request<u32>>,
        heard: Vec<String>,
    }

    impl Transport for Loop {
        const TRTYPE: &'static str = "LOOP";
        type Settings = ();
        type Incoming = &'static str;
        type Group = LoopGroup;

        fn create(options: &str, _acceptor: Acceptor<Self>) -> Result<(Self, ())> {
            if options == "{}" {
                Ok((Self, ()))
            } else {
                Err(Error::invalid("options", options, "{}"))
            }
        }
        fn dump(&self, sink: &Sink<'_>) {
            sink.write("{}");
        }
        fn listen(&mut self, address: &Address) -> Result<()> {
            Err(Error::new(98, address.traddr.clone()))
        }
        fn stop_listen(&mut self, _address: &Address) -> Result<()> {
            Ok(())
        }
    }

    impl Group for LoopGroup {
        type Transport = Loop;
        type Body = u32;

        fn open((): &()) -> Result<Self> {
            Ok(Self { qpair: None, request: Some(Request::new(5, 4096, 4096)), heard: Vec::new() })
        }
        fn wake_fd(&self) -> RawFd {
            -1
        }
        fn add(&mut self, incoming: &'static str, qpair: Qpair<u32>) -> Result<usize> {
            self.heard.push(format!("add {incoming}"));
            self.qpair = Some(qpair);
            Ok(7)
        }
        fn poll(&mut self) -> bool {
            if let (Some(qpair), Some(mut request)) = (&self.qpair, self.request.take()) {
                request.begin(&[1; 64]);
                qpair.exec(request);
            }
            false
        }
        fn completed(&mut self, key: usize, request: Request<u32>) {
            self.heard.push(format!("completed {key} {}", request.body()));
        }
        fn connected(&mut self, key: usize, qid: u16, size: u16, sq_flow_control: bool) {
            self.heard.push(format!("connected {key} {qid} {size} {sq_flow_control}"));
        }
        fn close(&mut self, key: usize) {
            self.heard.push(format!("close {key}"));
            self.qpair.iter().for_each(Qpair::disconnected);
        }
        fn free(&mut self, key: usize) {
            self.heard.push(format!("free {key}"));
            self.qpair = None;
        }
        fn flush(&mut self) -> bool {
            false
        }
        fn prepare_sleep(&mut self) -> bool {
            false
        }
        fn next_ns(&self) -> u64 {
            u64::MAX
        }
    }

    thread_local! {
        /// The connection that the fake target was given.
        static CONN: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
    }

    unsafe extern "C" fn keep(_target: *mut c_void, _handle: u64, conn: *mut c_void) -> i32 {
        CONN.set(conn);
        0
    }

    unsafe extern "C" fn refuse(_target: *mut c_void, _handle: u64, _conn: *mut c_void) -> i32 {
        -errno::ENOMEM
    }

    /// Accepts the queue and gives the request back before it returns.
    unsafe extern "C" fn exec(_target: *mut c_void, _qpair: *mut c_void, req: *mut bay_nvmf_req) {
        let conn = CONN.get();
        // SAFETY: the connection is served.
        unsafe { connected::<Loop>(conn, 1, 128, 0) };
        // SAFETY: lent a moment ago.
        unsafe { complete::<Loop>(conn, req) };
    }

    unsafe extern "C" fn gone(_target: *mut c_void, _qpair: *mut c_void) {
        // SAFETY: the connection has no request lent.
        unsafe { qpair_free::<Loop>(CONN.get()) };
    }

    unsafe extern "C" fn unregister_never(
        _target: *mut c_void,
        _handle: u64,
        _done: Option<api::bay_cb_fn>,
        _arg: *mut c_void,
    ) -> i32 {
        -errno::ENOENT
    }

    fn fabric(new_qpair: api::bay_nvmf_new_qpair_fn) -> &'static Fabric {
        Box::leak(Box::new(Fabric {
            target: ptr::null_mut(),
            exec,
            disconnected: gone,
            new_qpair,
            unregister: unregister_never,
            handle: OnceLock::new(),
        }))
    }

    #[test]
    fn what_the_target_says_inside_exec_is_heard_after_it_and_the_connection_is_freed_once() {
        let fabric = fabric(keep);
        let acceptor = Acceptor::<Loop> { fabric, _transport: PhantomData };
        let cell = Rc::new(GroupCell {
            fabric,
            group: RefCell::new(LoopGroup::open(&()).unwrap()),
            said: RefCell::default(),
            poller: RefCell::default(),
        });
        let group = Rc::as_ptr(&cell).cast_mut().cast();
        acceptor.hand_over("peer", &Address::default(), &Address::default()).unwrap();
        // SAFETY: the connection just handed over, and a live group.
        assert_eq!(unsafe { group_add::<Loop>(group, CONN.get(), ptr::dangling_mut()) }, 0);
        let mut round = Round(Rc::clone(&cell));
        assert!(round.poll());
        // SAFETY: the connection is served.
        unsafe { close::<Loop>(CONN.get()) };
        assert!(round.prepare_sleep(), "what was said is work");
        round.poll();
        let heard = &cell.group.borrow().heard;
        assert_eq!(
            *heard,
            ["add peer", "connected 7 1 128 false", "completed 7 5", "close 7", "free 7"]
        );
    }

    #[test]
    fn a_connection_that_the_target_refuses_is_dropped() {
        let acceptor = Acceptor::<Loop> { fabric: fabric(refuse), _transport: PhantomData };
        let refused = acceptor.hand_over("peer", &Address::default(), &Address::default());
        assert_eq!(refused.unwrap_err().errno(), errno::ENOMEM);
    }

    #[test]
    fn the_transports_errno_reaches_the_target() {
        let fabric = ptr::from_ref(fabric(keep)).cast_mut().cast();
        let mut transport = ptr::null_mut();
        // SAFETY: a live fabric, text and place for the result.
        let status = unsafe { create::<Loop>(fabric, bay_str::new("[]"), &raw mut transport) };
        assert_eq!(status, -errno::EINVAL);
        // SAFETY: as above.
        let status = unsafe { create::<Loop>(fabric, bay_str::new("{}"), &raw mut transport) };
        assert_eq!(status, 0);
        let address = Address::default().to_raw();
        // SAFETY: the transport just made.
        assert_eq!(unsafe { listen::<Loop>(transport, &raw const address) }, -98);
        // SAFETY: as above, for the last time.
        unsafe { destroy::<Loop>(transport) };
    }
}
