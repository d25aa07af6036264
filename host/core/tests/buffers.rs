//! Each buffer pool has one buffer, and the test holds it. I/O that needs a buffer still continues,
//! and no waiter is forgotten. This is a separate test program, because the pools belong to the
//! whole process.
#![expect(unsafe_code, reason = "the tables of the ABI are C functions over raw pointers")]
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::mem_forget,
    reason = "test helpers: a panic fails the test, numbers are small, the bus uses what is forgotten"
)]

#[allow(dead_code, reason = "the tests of the bus use all of it")]
#[path = "bus/abi.rs"]
mod abi;
#[allow(dead_code, reason = "the tests of the bus use all of it")]
#[path = "bus/fixture.rs"]
mod fixture;

use drivebay_core::env::buf;
use drivebay_plugin_api::*;
use fixture::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr::{self, NonNull};
use std::sync::Once;

/// Makes pools of one buffer each, and takes both buffers.
fn take_all() -> [NonNull<u8>; 2] {
    static CONFIGURED: Once = Once::new();
    CONFIGURED.call_once(|| {
        buf::configure(buf::Options { small_count: 1, large_count: 1, ..buf::DEFAULTS }).unwrap();
    });
    // SAFETY: there is no waiter.
    let taken = |len| unsafe { buf::get(len, ptr::null_mut()) }.unwrap().0;
    [taken(512), taken(buf::max_len())]
}

fn give_back([small, large]: [NonNull<u8>; 2]) {
    buf::put(small, 512);
    buf::put(large, buf::max_len());
}

unsafe extern "C" fn count(arg: *mut c_void) {
    // SAFETY: each waiter has the box of its count as the argument. The runner never frees the boxes
    // (`fixture::next`).
    let calls = unsafe { &*arg.cast::<Cell<u32>>() };
    calls.set(calls.get() + 1);
}

/// The first waiter in the queue does not need the buffer any more when its turn comes.
#[test]
fn a_waiter_that_takes_nothing_passes_its_turn_on() {
    struct Queue {
        calls: [Box<Cell<u32>>; 2],
        waits: Box<RefCell<[bay_wait; 2]>>,
    }
    let make = || {
        let taken = take_all();
        let calls: [Box<Cell<u32>>; 2] = Default::default();
        let waits = calls.each_ref().map(|calls| {
            let arg = (&raw const **calls).cast_mut().cast();
            bay_wait { cb: Some(count), arg, link: ptr::null_mut(), rsv: 0 }
        });
        let queue = Queue { calls, waits: Box::new(RefCell::new(waits)) };
        for wait in queue.waits.borrow_mut().iter_mut() {
            // SAFETY: the waiters stay in their box, which the runner never frees (`fixture::next`).
            assert!(unsafe { buf::get(512, wait) }.is_none(), "there is another buffer");
        }
        give_back(taken);
        queue
    };
    let all_had_their_turn = |queue: &Queue| queue.calls.iter().all(|calls| calls.get() == 1);
    on_app(make, vec![Box::new(all_had_their_turn)]);
}

struct Starving {
    f: Fixture,
    taken: [NonNull<u8>; 2],
    /// Outcomes of two I/O that need a buffer and of one that needs none.
    outcomes: RefCell<Vec<Outcome>>,
    memory: Box<RefCell<Vec<u8>>>,
}

impl Starving {
    fn new(name: &str) -> Self {
        let f = Fixture::new(name, |reg| reg.align = 512);
        let taken = take_all();
        let memory = Box::new(RefCell::new(vec![7; 8 * BLOCK]));
        Self { f, taken, outcomes: RefCell::default(), memory }
    }

    /// Writes a block from unaligned memory.
    fn write(&self, lba: u64) {
        let mut memory = self.memory.borrow_mut();
        let start = memory.as_ptr().align_offset(BLOCK) + 1;
        // The list must stay valid until the I/O has completed.
        let list = Box::leak(Box::new(list(&mut memory[start..start + BLOCK])));
        let done = self.f.io(BAY_OP_WRITE, lba, list);
        self.outcomes.borrow_mut().push(done);
    }

    fn all_done(&self) -> bool {
        self.outcomes.borrow().iter().all(|done| done.get() == Some((0, 0)))
    }
}

#[test]
fn a_channel_has_one_buffer_of_its_own_which_its_io_use_in_turn() {
    let make = || {
        let starving = Starving::new("own buffer");
        starving.f.disk.hold.set(true);
        (0..3).for_each(|lba| starving.write(lba));
        assert_eq!(starving.f.seen().len(), 1, "one I/O has the channel's buffer, the others wait");
        starving
    };
    let one_by_one = |s: &Starving| {
        s.f.complete_kept(0);
        s.all_done()
    };
    let gives_back = |s: &Starving| {
        assert_eq!(s.f.disk.data.borrow()[..3 * BLOCK], [7; 3 * BLOCK]);
        give_back(s.taken);
        true
    };
    on_app(make, vec![Box::new(one_by_one), Box::new(gives_back)]);
}

/// The channel's buffer comes back while the channel already waits to ask the module again later
/// for another reason.
#[test]
fn a_module_without_resources_does_not_hide_that_the_buffer_came_back() {
    let make = || {
        let starving = Starving::new("own buffer, no resource");
        let disk = starving.f.disk;
        disk.hold.set(true);
        starving.write(0);
        starving.write(1);
        disk.hold.set(false);
        // The module lacks resources at the first attempt and again when the write has completed.
        // After that only the timer asks again.
        disk.no_memory.set(2);
        starving.outcomes.borrow_mut().push(starving.f.range(BAY_OP_UNMAP, 9, 1));
        starving.f.complete_kept(0);
        starving
    };
    let ended = |s: &Starving| {
        if s.all_done() {
            give_back(s.taken);
        }
        s.all_done()
    };
    on_app(make, vec![Box::new(ended)]);
}
