//! What keeps I/O from the module for a while: missing resources, a call of the module, reset,
//! quiesce.

use crate::abi::{self, bus};
use crate::fixture::*;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

#[test]
fn what_the_module_has_no_resource_for_waits_in_order_and_loses_nothing() {
    let make = || {
        let f = Fixture::new("nomem", |_| {});
        f.disk.hold.set(true);
        let first = f.range(BAY_OP_UNMAP, 0, 1); // keeps the channel busy
        f.disk.no_memory.set(1);
        let rest: Vec<_> = (1..4).map(|lba| f.range(BAY_OP_UNMAP, lba, 1)).collect();
        assert_eq!(f.seen().len(), 2, "the others wait behind the one that the module refused");
        f.disk.hold.set(false);
        f.complete_kept(0);
        assert_eq!(first.get(), Some((0, 0)));
        assert!(rest.iter().all(|done| done.get() == Some((0, 0))));
        let lbas: Vec<_> = f.seen().iter().map(|io| io.lba).collect();
        assert_eq!(lbas, [1, 2, 3]);
        // With no I/O at the module, only the timer can send it again.
        f.disk.no_memory.set(3);
        let alone = f.range(BAY_OP_UNMAP, 9, 1);
        (f, alone)
    };
    on_app(make, vec![Box::new(|(_, alone)| alone.get() == Some((0, 0)))]);
}

/// Submits one I/O after another, each from the callback of the one before.
struct Chain {
    chan: u64,
    left: Cell<u32>,
}

impl Chain {
    fn go(&self) {
        let fill = |io: &mut bay_io| (io.op, io.nblocks) = (BAY_OP_UNMAP, 1);
        let arg = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: `again` takes the chain, which the test keeps until the last I/O has completed. An
        // unmap names no memory.
        unsafe { abi::submit(self.chan, fill, again, arg) };
    }
}

unsafe extern "C" fn again(arg: *mut c_void, _io: *mut bay_io, status: i32) {
    assert_eq!(status, 0);
    // SAFETY: `go` passed the chain, which the test keeps until the last I/O has completed.
    let chain = unsafe { &*arg.cast::<Chain>() };
    if chain.left.get() > 0 {
        chain.left.set(chain.left.get() - 1);
        chain.go();
    }
}

#[test]
fn a_module_that_completes_inside_submit_does_not_grow_the_stack() {
    once(
        "stack",
        |_| {},
        |f| {
            let chain = Chain { chan: f.chan, left: Cell::new(100_000) };
            chain.go();
            assert_eq!(chain.left.get(), 0);
            assert_eq!(f.disk.deepest.get(), 1);
        },
    );
}

#[test]
fn a_reset_waits_for_what_is_in_flight_and_holds_what_comes() {
    struct Story {
        f: Fixture,
        flying: Outcome,
        reset: Outcome,
        later: RefCell<Option<Outcome>>,
        rounds: Cell<u32>,
    }
    let make = || {
        let f = Fixture::new("reset", |_| {});
        f.disk.hold.set(true);
        let flying = f.range(BAY_OP_UNMAP, 0, 1);
        let reset = f.range(BAY_OP_RESET, 0, 0);
        Story { f, flying, reset, later: RefCell::default(), rounds: Cell::new(0) }
    };
    let while_draining = |s: &Story| {
        s.rounds.set(s.rounds.get() + 1);
        if s.rounds.get() < 50 {
            return false;
        }
        s.f.disk.hold.set(false);
        let later = s.f.range(BAY_OP_UNMAP, 1, 1);
        assert!(later.get().is_none(), "the reset did not hold it");
        *s.later.borrow_mut() = Some(later);
        assert!(s.reset.get().is_none(), "the reset completed with I/O in flight");
        s.f.complete_kept(0);
        true
    };
    let ended = |s: &Story| {
        assert_eq!(s.flying.get(), Some((0, 0)));
        let later = s.later.borrow().as_ref().unwrap().get();
        s.reset.get() == Some((0, 0)) && later == Some((0, 0))
    };
    on_app(make, vec![Box::new(while_draining), Box::new(ended)]);
}

#[test]
fn a_reset_that_the_module_has_no_resource_for_fails_and_lets_go() {
    let make = || {
        let f = Fixture::new("reset nomem", |reg| reg.ops_mask |= 1 << BAY_OP_RESET);
        f.disk.no_memory.set(1);
        let reset = f.range(BAY_OP_RESET, 0, 0);
        (f, reset)
    };
    let ended = |(_, reset): &(Fixture, Outcome)| {
        reset.get().is_some_and(|(status, _)| status == -libc::EIO)
    };
    let goes_on = |(f, _): &(Fixture, Outcome)| {
        assert_eq!(f.range(BAY_OP_UNMAP, 0, 1).get(), Some((0, 0)));
        true
    };
    on_app(make, vec![Box::new(ended), Box::new(goes_on)]);
}

unsafe extern "C" fn count_calls(arg: *mut c_void, status: i32) {
    assert_eq!(status, 0);
    // SAFETY: `Quiet::call` passed its box of the count, which the runner never frees (`next`).
    let calls = unsafe { &*arg.cast::<Cell<u32>>() };
    calls.set(calls.get() + 1);
}

struct Quiet {
    f: Fixture,
    reported: Box<Cell<u32>>,
    flying: Outcome,
    held: RefCell<Vec<Outcome>>,
}

impl Quiet {
    /// A disk with I/O for blocks 0 and 1 at the module.
    fn new(name: &str) -> Self {
        let f = Fixture::new(name, |_| {});
        f.disk.hold.set(true);
        let flying = f.range(BAY_OP_UNMAP, 0, 2);
        f.disk.hold.set(false);
        Self { f, reported: Box::default(), flying, held: RefCell::default() }
    }

    fn call(&self, call: Option<bay_bdev_quiesce_fn>, lba: u64, nblocks: u64) -> i32 {
        let arg = (&raw const *self.reported).cast_mut().cast();
        // SAFETY: the bus checks the handle and the range. `count_calls` takes the count, which the
        // runner never frees (`next`).
        unsafe { call.unwrap()(abi::host(), self.f.id, lba, nblocks, Some(count_calls), arg) }
    }
}

#[test]
fn quiesce_of_a_range_waits_for_its_io_holds_it_back_and_lets_the_rest_pass() {
    let make = || {
        let quiet = Quiet::new("quiesce");
        assert_eq!(quiet.call(bus().quiesce, 60, 5), -libc::EINVAL);
        assert_eq!(quiet.call(bus().unquiesce, 1, 4), -libc::EINVAL);
        assert_eq!(quiet.call(bus().quiesce, 1, 4), 0);
        quiet
    };
    let rounds = Mutex::new(0);
    let while_flying = move |q: &Quiet| {
        let mut rounds = rounds.lock().unwrap();
        *rounds += 1;
        if *rounds < 50 {
            return false;
        }
        assert_eq!(q.reported.get(), 0, "called with I/O at the module");
        assert_eq!(q.f.range(BAY_OP_UNMAP, 5, 1).get(), Some((0, 0)), "outside of the range");
        let held = q.f.range(BAY_OP_UNMAP, 4, 2);
        assert!(held.get().is_none(), "quiesce did not hold it back");
        q.held.borrow_mut().push(held);
        q.f.complete_kept(0);
        assert_eq!(q.flying.get(), Some((0, 0)));
        true
    };
    let reported = |q: &Quiet| q.reported.get() == 1;
    let let_go = |q: &Quiet| {
        assert!(q.held.borrow()[0].get().is_none());
        assert_eq!(q.call(bus().unquiesce, 1, 4), 0);
        true
    };
    let goes_on = |q: &Quiet| q.reported.get() == 2 && q.held.borrow()[0].get() == Some((0, 0));
    on_app(
        make,
        vec![Box::new(while_flying), Box::new(reported), Box::new(let_go), Box::new(goes_on)],
    );
}

#[test]
fn what_is_quiesced_whole_can_be_reset_and_removed() {
    let make = || {
        let quiet = Quiet::new("quiesce whole");
        assert_eq!(quiet.call(bus().quiesce, 0, 0), 0);
        quiet
    };
    let all_held = |q: &Quiet| {
        q.f.complete_kept(0);
        if q.reported.get() == 0 {
            return false;
        }
        q.held.borrow_mut().extend([
            q.f.range(BAY_OP_RESET, 0, 0),
            q.f.range(BAY_OP_UNMAP, 9, 1),
            q.f.range(BAY_OP_FLUSH, 0, 0),
        ]);
        true
    };
    let reset = |q: &Quiet| q.held.borrow()[0].get() == Some((0, 0));
    let remove = |q: &Quiet| {
        assert!(q.held.borrow()[1..].iter().all(|held| held.get().is_none()));
        assert_eq!(abi::unregister(q.f.id), 0);
        true
    };
    let failed = |q: &Quiet| {
        let held = q.held.borrow();
        held[1..].iter().all(|held| held.get() == Some((-libc::ENODEV, 0)))
    };
    on_app(make, vec![Box::new(all_held), Box::new(reset), Box::new(remove), Box::new(failed)]);
}
