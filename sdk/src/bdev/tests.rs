//! Modules and clients together, on the fake host.

use super::*;
use crate::app::App;
use crate::buf::{self, Buf};
use crate::error::{Error, Result, errno};
use crate::rpc::NoParams;
use crate::testing::FakeHost;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicU32, Ordering};

/// What a test bdev does with an I/O.
#[derive(Clone, Copy)]
enum Does {
    Completes,
    Keeps,
    Drops,
    Panics,
}

struct Disk(&'static str, Does, AtomicU32);

#[derive(Default)]
struct State {
    depth: u32,
    kept: IoQueue,
}

impl Bdev for Disk {
    type Params = NoParams;
    type Channel = State;
    const PRODUCT: &'static str = "test";
    const OPS: OpSet = OpSet::READ_WRITE.with(OpSet::FLUSH);
    const POLLS: bool = true;
    const BURSTS: bool = true;

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        self.0
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 8).unwrap()
    }
    fn open_channel(&self) -> Result<State> {
        Ok(State::default())
    }
    fn submit(&self, state: &mut State, io: BdevIo) {
        state.depth += 1;
        self.2.fetch_max(state.depth, Ordering::Relaxed);
        match self.1 {
            Does::Completes => io.complete(Status::SUCCESS),
            Does::Keeps => state.kept.push(io),
            Does::Drops => {
                // When a panic of the author unwinds, it drops the I/O in the same way.
                let dropped = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(io)));
                assert!(dropped.is_err());
            }
            Does::Panics => panic!("in submit"),
        }
        state.depth -= 1;
    }
    fn poll(&self, state: &mut State) -> bool {
        let Some(io) = state.kept.pop() else { return false };
        state.depth += 1;
        io.complete(Status::SUCCESS);
        state.depth -= 1;
        true
    }
    fn flush(&self, state: &mut State) {
        self.2.fetch_max(state.depth + 1, Ordering::Relaxed);
    }
}

fn disk(name: &'static str, does: Does) -> (FakeHost, Rc<Channel>, Desc) {
    let host = FakeHost::new();
    register(host.app(), Disk(name, does, AtomicU32::new(0)), "none", serde_json::Value::Null)
        .unwrap();
    let (channel, desc) = host.open(name);
    (host, Rc::new(channel), desc)
}

/// A context that submits itself again the given number of times.
struct Again {
    buf: Buf,
    channel: Rc<Channel>,
    left: u32,
    ended: Rc<RefCell<Vec<Status>>>,
}

impl AsMut<Buf> for Again {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

const READ: Op = Op::Read(Range::new(0, 1));

fn again(mut state: Box<Again>, result: IoResult) {
    state.ended.borrow_mut().push(result.status);
    if state.left > 0 {
        state.left -= 1;
        let channel = Rc::clone(&state.channel);
        channel.submit(READ, IoFlags::NONE, state, again);
    }
}

fn submit(channel: &Rc<Channel>, left: u32) -> Rc<RefCell<Vec<Status>>> {
    let ended = Rc::new(RefCell::new(Vec::new()));
    let state = Again {
        buf: buf::get(512).unwrap(),
        channel: Rc::clone(channel),
        left,
        ended: Rc::clone(&ended),
    };
    channel.submit(READ, IoFlags::NONE, Box::new(state), again);
    ended
}

#[test]
fn resubmitting_from_the_completion_neither_nests_nor_grows_the_stack() {
    let (_host, channel, _desc) = disk("nested", Does::Completes);
    let ended = submit(&channel, 100_000);
    assert_eq!(ended.borrow().len(), 100_001);
    assert_eq!(find::<Disk>("nested").unwrap().2.load(Ordering::Relaxed), 1);
}

#[test]
fn resubmitting_from_a_pollers_completion_does_not_nest_either() {
    let (host, channel, _desc) = disk("polled", Does::Keeps);
    let ended = submit(&channel, 100);
    host.wait(|| (ended.borrow().len() == 101).then_some(()));
    assert_eq!(find::<Disk>("polled").unwrap().2.load(Ordering::Relaxed), 1);
}

#[test]
fn a_burst_ended_from_a_completion_waits_for_the_call_that_completes() {
    struct Last(Buf, Rc<Channel>);
    impl AsMut<Buf> for Last {
        fn as_mut(&mut self) -> &mut Buf {
            &mut self.0
        }
    }
    for (name, does) in [("burst", Does::Completes), ("polled burst", Does::Keeps)] {
        let (host, channel, _desc) = disk(name, does);
        let context = Box::new(Last(buf::get(512).unwrap(), Rc::clone(&channel)));
        channel.submit(READ, IoFlags::NONE, context, |last, _| last.1.flush());
        host.run();
        assert_eq!(find::<Disk>(name).unwrap().2.load(Ordering::Relaxed), 1, "{name}");
    }
}

#[test]
fn a_dropped_io_ends_with_an_error() {
    let (_host, channel, _desc) = disk("dropped", Does::Drops);
    assert_eq!(*submit(&channel, 0).borrow(), [Status::IO_ERROR]);
}

#[test]
fn a_panic_in_submit_ends_the_io_with_an_error() {
    let (_host, channel, _desc) = disk("panics", Does::Panics);
    assert_eq!(*submit(&channel, 0).borrow(), [Status::IO_ERROR]);
}

#[test]
fn io_beyond_the_hosts_limit_waits_its_turn() {
    let (host, channel, _desc) = disk("limited", Does::Keeps);
    host.set_io_limit(2);
    let all: Vec<_> = (0..7).map(|_| submit(&channel, 0)).collect();
    assert!(all.iter().all(|ended| ended.borrow().is_empty()));
    host.wait(|| all.iter().all(|ended| ended.borrow().len() == 1).then_some(()));
}

#[test]
fn io_that_waits_is_aborted_when_its_channel_goes() {
    let (host, channel, desc) = disk("abandoned", Does::Keeps);
    host.set_io_limit(0);
    let ended = Rc::new(Cell::new(None));
    struct One(Buf, Rc<Cell<Option<Status>>>);
    impl AsMut<Buf> for One {
        fn as_mut(&mut self) -> &mut Buf {
            &mut self.0
        }
    }
    let context = Box::new(One(buf::get(512).unwrap(), Rc::clone(&ended)));
    channel.submit(READ, IoFlags::NONE, context, |one, result| one.1.set(Some(result.status)));
    drop((channel, desc));
    assert_eq!(ended.get(), Some(Status::ABORTED));
    host.run();
}

#[test]
fn data_of_another_length_than_the_blocks_is_refused() {
    let (host, channel, _desc) = disk("length", Does::Completes);
    for len in [511, 513, 1024] {
        let result = host.io(&channel, READ, IoFlags::NONE, &mut vec![0; len]);
        assert_eq!(result.status, Status::INVALID, "{len}");
    }
    let huge = Op::Read(Range::new(0, u64::MAX));
    assert_eq!(host.io(&channel, huge, IoFlags::NONE, &mut vec![0; 512]).status, Status::INVALID);
}

#[test]
fn a_channel_is_closed_from_inside_its_own_completion() {
    let (host, channel, desc) = disk("closed", Does::Keeps);
    struct Last(Buf, (Rc<Channel>, Desc));
    impl AsMut<Buf> for Last {
        fn as_mut(&mut self) -> &mut Buf {
            &mut self.0
        }
    }
    let other = Rc::clone(&channel);
    let context = Box::new(Last(buf::get(512).unwrap(), (channel, desc)));
    other.submit(READ, IoFlags::NONE, context, |last, _| drop(last.1));
    // Now only the context holds the channel and the descriptor. The poll that completes the I/O drops the context.
    drop(other);
    find::<Disk>("closed").unwrap().unregister(host.app(), |_, _| {});
    assert!(host.registered("closed").is_some());
    host.run();
    assert!(host.registered("closed").is_none());
}

#[test]
fn a_range_beyond_the_end_is_nowhere() {
    let geometry = Geometry::new(512, 8).unwrap();
    assert_eq!(geometry.bytes(Range::new(7, 1)), Some(3584..4096));
    assert_eq!(geometry.bytes(Range::new(7, 2)), None);
    assert_eq!(geometry.bytes(Range::new(u64::MAX, 1)), None);
    for (block_size, num_blocks) in [(0, 1), (513, 1), (512, 0), (512, u64::MAX)] {
        assert_eq!(Geometry::new(block_size, num_blocks).unwrap_err().errno(), errno::EINVAL);
    }
}

#[test]
fn a_uuid_is_read_with_and_without_dashes_and_nothing_else() {
    let text = "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f0";
    let uuid: Uuid = text.parse().unwrap();
    assert_eq!(uuid.to_string(), text);
    assert_eq!(text.replace('-', "").parse::<Uuid>().unwrap(), uuid);
    for bad in [
        "",
        "0b1c2d3e-4f50-6172-8394-a5b6c7d8e9f",
        &text.replace('c', "g"),
        &text.replace('-', "+"),
    ] {
        assert!(bad.parse::<Uuid>().is_err(), "{bad}");
    }
}

#[test]
fn kept_io_ends_in_order() {
    let (host, channel, _desc) = disk("order", Does::Keeps);
    let all: Vec<_> = (0..3).map(|_| submit(&channel, 0)).collect();
    host.run();
    let ended: Vec<usize> = all.iter().map(|ended| ended.borrow().len()).collect();
    assert_eq!(ended, [1, 0, 0]);
    host.run();
    host.run();
    assert!(all.iter().all(|ended| ended.borrow().len() == 1));
}

/// A bdev whose channels have no bytes. Even so, a `&mut Token` proves that no other code of the channel runs.
#[derive(Default)]
struct Tokens {
    running: AtomicU32,
    most: AtomicU32,
}

struct Token;

impl Tokens {
    fn run(&self, _: &mut Token, code: impl FnOnce()) {
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(running, Ordering::Relaxed);
        code();
        self.running.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Bdev for Tokens {
    type Params = NoParams;
    type Channel = Token;
    const PRODUCT: &'static str = "test";
    const OPS: OpSet = OpSet::READ_WRITE;
    const JOINS: bool = true;

    fn name(&self) -> &str {
        "tokens"
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(512, 8).unwrap()
    }
    fn open_channel(&self) -> Result<Token> {
        Ok(Token)
    }
    fn submit(&self, token: &mut Token, io: BdevIo) {
        self.run(token, || drop(io.fan_out()));
    }
    fn joined(&self, token: &mut Token, io: BdevIo, result: IoResult) {
        self.run(token, || io.complete_with(result));
    }
}

#[test]
fn the_code_of_a_channel_without_bytes_does_not_nest_either() {
    let host = FakeHost::new();
    register(host.app(), Tokens::default(), "none", serde_json::Value::Null).unwrap();
    let (channel, _desc) = host.open("tokens");
    let ended = submit(&Rc::new(channel), 100);
    assert_eq!(*ended.borrow(), [Status::SUCCESS; 101]);
    assert_eq!(find::<Tokens>("tokens").unwrap().most.load(Ordering::Relaxed), 1);
}
