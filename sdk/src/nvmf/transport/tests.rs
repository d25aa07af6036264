//! A fabric in memory, with a fake target.
#![expect(unsafe_code, reason = "acts as the target, which passes pointers")]

use super::registration::Fabric;
use super::round::{GroupCell, Round};
use super::thunks::{
    close, complete, connected, create, destroy, explain, group_add, listen, qpair_free,
};
use super::*;
use crate::error::{Error, errno};
use crate::poller::Poll;
use api::{bay_nvmf_req, bay_sink, bay_str};
use drivebay_plugin_api as api;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::marker::PhantomData;
use std::ptr;
use std::rc::Rc;
use std::sync::OnceLock;

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
    // SAFETY: the pointer was just made; there is no other reference.
    let lent = unsafe { &mut *raw };
    assert_eq!((lent.cmd, lent.len, lent.xfer), ([0x0707_0707_0707_0707; 8], 512, 2));
    assert!(lent.iov.is_null() && lent.iovcnt == 0);
    lent.rsp = [1, u64::from_le_bytes([2; 8])];
    lent.rsp_len = 4096;
    // SAFETY: `lent` is not used again.
    let request = unsafe { Request::<String>::from_raw(raw) };
    assert_eq!(request.body(), "body");
    assert_eq!(request.response()[8..], [2; 8]);
    assert_eq!(request.response_len(), 512, "the response is at most as long as the transfer");
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
        if options == "{}" { Ok((Self, ())) } else { Err(Error::invalid("options", options, "{}")) }
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
        if incoming == "short" {
            qpair.exec(Request::new(6, 4096, 4096));
            qpair.disconnected();
        }
        self.qpair = Some(qpair);
        if incoming == "unwanted" { Err(Error::new(errno::ENOSPC, "full")) } else { Ok(7) }
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
    /// The connection that the fake target received.
    static CONN: Cell<*mut c_void> = const { Cell::new(ptr::null_mut()) };
}

unsafe extern "C" fn keep(_target: *mut c_void, _handle: u64, conn: *mut c_void) -> i32 {
    CONN.set(conn);
    0
}

unsafe extern "C" fn refuse(_target: *mut c_void, _handle: u64, _conn: *mut c_void) -> i32 {
    -errno::ENOMEM
}

/// Accepts the queue and completes the request before it returns.
unsafe extern "C" fn exec(_target: *mut c_void, _qpair: *mut c_void, req: *mut bay_nvmf_req) {
    let conn = CONN.get();
    // SAFETY: a group serves the connection.
    unsafe { connected::<Loop>(conn, 1, 128, 0) };
    // SAFETY: the request was just lent.
    unsafe { complete::<Loop>(conn, req) };
}

unsafe extern "C" fn gone(_target: *mut c_void, _qpair: *mut c_void) {
    // SAFETY: no request of the connection is lent.
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

fn group_of(fabric: &'static Fabric) -> Rc<GroupCell<LoopGroup>> {
    Rc::new(GroupCell {
        fabric,
        group: RefCell::new(LoopGroup::open(&()).unwrap()),
        events: RefCell::default(),
        poller: RefCell::default(),
    })
}

#[test]
fn what_the_target_says_inside_exec_is_heard_after_it_and_the_connection_is_freed_once() {
    let fabric = fabric(keep);
    let acceptor = Acceptor::<Loop> { fabric, _transport: PhantomData };
    let cell = group_of(fabric);
    let group = Rc::as_ptr(&cell).cast_mut().cast();
    acceptor.hand_over("peer", &Address::default(), &Address::default()).unwrap();
    // SAFETY: the connection was just handed over, and the group is live.
    assert_eq!(unsafe { group_add::<Loop>(group, CONN.get(), ptr::dangling_mut()) }, 0);
    let mut round = Round(Rc::clone(&cell));
    assert!(round.poll());
    // SAFETY: a group serves the connection.
    unsafe { close::<Loop>(CONN.get()) };
    assert!(round.prepare_sleep(), "a queued call of the target is work");
    round.poll();
    let heard = &cell.group.borrow().heard;
    assert_eq!(
        *heard,
        ["add peer", "connected 7 1 128 false", "completed 7 5", "close 7", "free 7"]
    );
}

thread_local! {
    /// How many calls the target received.
    static CALLS: Cell<u32> = const { Cell::new(0) };
}

unsafe extern "C" fn count_exec(_target: *mut c_void, _qpair: *mut c_void, _: *mut bay_nvmf_req) {
    CALLS.set(CALLS.get() + 1);
}

unsafe extern "C" fn count_gone(_target: *mut c_void, _qpair: *mut c_void) {
    CALLS.set(CALLS.get() + 1);
}

#[test]
fn a_group_that_keeps_the_link_of_a_connection_that_it_refused_cannot_reach_the_target() {
    let unregister = unregister_never;
    let (target, new_qpair, handle) = (ptr::null_mut(), keep, OnceLock::new());
    let (exec, disconnected) = (count_exec, count_gone);
    let fabric = Fabric { target, exec, disconnected, new_qpair, unregister, handle };
    let fabric: &'static Fabric = Box::leak(Box::new(fabric));
    let acceptor = Acceptor::<Loop> { fabric, _transport: PhantomData };
    let cell = group_of(fabric);
    let group = Rc::as_ptr(&cell).cast_mut().cast();
    acceptor.hand_over("unwanted", &Address::default(), &Address::default()).unwrap();
    // SAFETY: the connection was just handed over, and the group is live.
    let status = unsafe { group_add::<Loop>(group, CONN.get(), ptr::dangling_mut()) };
    assert_eq!(status, -errno::ENOSPC);
    let mut kept = cell.group.borrow_mut();
    kept.poll();
    kept.close(7);
    assert!(kept.request.is_none(), "the group tried to lend its request");
    assert_eq!(CALLS.get(), 0);
}

#[test]
fn a_connection_that_ends_while_it_is_added_is_reported_after_that() {
    let fabric = fabric(keep);
    let acceptor = Acceptor::<Loop> { fabric, _transport: PhantomData };
    let cell = group_of(fabric);
    let group = Rc::as_ptr(&cell).cast_mut().cast();
    acceptor.hand_over("short", &Address::default(), &Address::default()).unwrap();
    // SAFETY: the connection was just handed over, and the group is live.
    assert_eq!(unsafe { group_add::<Loop>(group, CONN.get(), ptr::dangling_mut()) }, 0);
    assert_eq!(cell.group.borrow().heard, ["add short"], "the target got no request");
    Round(Rc::clone(&cell)).poll();
    assert_eq!(cell.group.borrow().heard, ["add short", "free 7"]);
}

#[test]
fn a_connection_that_the_target_refuses_is_dropped() {
    let acceptor = Acceptor::<Loop> { fabric: fabric(refuse), _transport: PhantomData };
    let refused = acceptor.hand_over("peer", &Address::default(), &Address::default());
    assert_eq!(refused.unwrap_err().errno(), errno::ENOMEM);
}

#[test]
fn the_transports_errno_and_its_reason_reach_the_target_once() {
    let fabric = ptr::from_ref(fabric(keep)).cast_mut().cast();
    let mut transport = ptr::null_mut();
    // SAFETY: the fabric is live; the text and the place for the result are valid.
    let status = unsafe { create::<Loop>(fabric, bay_str::new("[]"), &raw mut transport) };
    assert_eq!(status, -errno::EINVAL);
    unsafe extern "C" fn append(ctx: *mut c_void, text: bay_str) {
        // SAFETY: `ctx` is the text below.
        let whole = unsafe { &mut *ctx.cast::<Vec<String>>() };
        // SAFETY: the text is valid for the call.
        whole.push(unsafe { crate::host::text(text) }.to_owned());
    }
    let mut texts = Vec::<String>::new();
    let sink = bay_sink { ctx: (&raw mut texts).cast(), write: Some(append) };
    for _ in 0..2 {
        // SAFETY: the fabric and the sink are live.
        unsafe { explain(fabric, &raw const sink) };
    }
    assert_eq!(texts, ["options [] is not allowed; allowed: {}", ""]);
    // SAFETY: as above.
    let status = unsafe { create::<Loop>(fabric, bay_str::new("{}"), &raw mut transport) };
    assert_eq!(status, 0);
    let address = Address::default().to_raw();
    // SAFETY: the transport was just created.
    assert_eq!(unsafe { listen::<Loop>(transport, &raw const address) }, -98);
    // SAFETY: as above; this is the last call.
    unsafe { destroy::<Loop>(transport) };
}
