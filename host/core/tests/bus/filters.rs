//! Filters, which pass the same request on to their base.

use crate::abi::{self, ModuleIo, client, host};
use crate::fixture::*;
use drivebay_core::bdev;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;
use std::sync::Mutex;

/// A module that passes every I/O on with a shifted position.
struct Shift {
    base: u64,
    blocks: u64,
    drv_ctx_size: u32,
}

/// The state of a filter's channel, which is that of its bdev.
fn filter<'a>(chan: *mut c_void) -> &'a Shift {
    // SAFETY: every filter's bdev has a leaked `Shift` as its context, and `shift_chan_create` makes
    // it the channel.
    unsafe { &*chan.cast::<Shift>() }
}

unsafe extern "C" fn shift(chan: *mut c_void, io: *mut bay_io) {
    let shift = filter(chan);
    // SAFETY: the bus gives the request to the module here.
    let io = unsafe { ModuleIo::new(io) };
    let lba = io.request().lba + shift.blocks;
    io.pass(shift.base, lba);
}

unsafe extern "C" fn shift_chan_create(
    bdev: *mut c_void,
    _args: *const bay_chan_args,
    chan: *mut *mut c_void,
) -> i32 {
    // SAFETY: the bus passes a valid place for the channel.
    unsafe { chan.write(bdev) };
    0
}

unsafe extern "C" fn shift_chan_destroy(_bdev: *mut c_void, _chan: *mut c_void) -> i32 {
    0
}

unsafe extern "C" fn shift_destruct(_bdev: *mut c_void) -> i32 {
    0
}

static SHIFT_OPS: bay_bdev_ops = bay_bdev_ops {
    submit: Some(shift),
    flush: None,
    chan_create: Some(shift_chan_create),
    chan_destroy: Some(shift_chan_destroy),
    destruct: Some(shift_destruct),
    ..OPS
};

/// Creates a filter over `base`, as a bdev of 48 blocks. The filter's own disk is not used.
fn over(base: &Fixture, name: &str, shift: Shift) -> Fixture {
    let shift = Box::leak(Box::new(Shift { base: base.chan, ..shift }));
    Fixture::new(name, |reg| {
        reg.ctx = ptr::from_mut(shift).cast();
        reg.ops = &raw const SHIFT_OPS;
        reg.ops_mask = ALL_OPS | 1 << BAY_OP_ABORT;
        reg.num_blocks = 48;
        reg.drv_ctx_size = shift.drv_ctx_size;
    })
}

/// A module that submits the two halves of each I/O as children, and swaps their places on the
/// disk. It passes aborts on.
unsafe extern "C" fn fork(chan: *mut c_void, io: *mut bay_io) {
    let base = filter(chan).base;
    // SAFETY: the bus gives the request to the module here.
    let io = unsafe { ModuleIo::new(io) };
    let request = io.request();
    if request.op == BAY_OP_ABORT {
        return io.pass(base, 0);
    }
    let half = request.nblocks / 2;
    io.set_link(2);
    for (first, lba) in [(0, request.lba + half), (half, request.lba)] {
        assert!(io.derive_part(base, half + 1, half).is_null(), "past the end");
        let child = io.derive_part(base, first, half);
        // SAFETY: NULL, or a new child that only this function uses until it submits it.
        let fields = unsafe { child.as_mut() }.unwrap();
        (fields.lba, fields.nblocks) = (lba, half);
        let parent = io.as_ptr().cast();
        // SAFETY: the child is new, and its memory is a part of the parent's. `half_done` takes the
        // parent, which completes only after its second child.
        unsafe { client().submit.unwrap()(host(), child, Some(half_done), parent) };
    }
}

unsafe extern "C" fn half_done(parent: *mut c_void, child: *mut bay_io, status: i32) {
    // SAFETY: `fork` passed the parent, which the module owns until its second child has completed.
    let parent = unsafe { ModuleIo::new(parent.cast()) };
    let left = parent.request().link.addr() - 1;
    parent.set_link(left);
    if left == 0 {
        let complete_from = client().complete_from.unwrap();
        // SAFETY: the module owns the parent until here, and the child is alive during its callback.
        unsafe { complete_from(host(), parent.as_ptr(), child, status) };
    }
}

static FORK_OPS: bay_bdev_ops = bay_bdev_ops { submit: Some(fork), ..SHIFT_OPS };

#[test]
fn children_carry_their_part_of_the_parents_data_and_are_aborted_with_it() {
    once(
        "forked",
        |_| {},
        |base| {
            let fork = Box::leak(Box::new(Shift { base: base.chan, ..shifted(0) }));
            let filter = Fixture::new("fork", |reg| {
                reg.ctx = ptr::from_mut(fork).cast();
                reg.ops = &raw const FORK_OPS;
                reg.ops_mask = ALL_OPS | 1 << BAY_OP_ABORT;
            });
            let mut data = pattern(4 * BLOCK);
            let (left, right) = data.split_at_mut(700);
            let two = [list(left)[0], list(right)[0]];
            assert_eq!(filter.io(BAY_OP_WRITE, 8, &two).get(), Some((0, 0)));
            let on_disk = base.disk.data.borrow()[8 * BLOCK..12 * BLOCK].to_vec();
            let whole = pattern(4 * BLOCK);
            let (first, second) = whole.split_at(2 * BLOCK);
            assert_eq!(on_disk, [second, first].concat());
            let mut back = vec![0; 4 * BLOCK];
            assert_eq!(filter.io(BAY_OP_READ, 8, &list(&mut back)).get(), Some((0, 0)));
            assert_eq!(back, whole);

            base.disk.hold.set(true);
            let kept = base.range(BAY_OP_UNMAP, 40, 1);
            base.disk.no_memory.set(u32::MAX);
            let mut id = 0;
            let parent = filter.submit(|io| {
                (io.op, io.lba, io.nblocks) = (BAY_OP_UNMAP, 0, 4);
                id = io.id;
            });
            let abort = filter.submit(|io| {
                io.op = BAY_OP_ABORT;
                io.arg = [id, 0];
            });
            assert_eq!(abort.get(), Some((0, 0)));
            assert_eq!(parent.get(), Some((BAY_ST_ABORTED, 0)));
            base.disk.no_memory.set(0);
            base.complete_kept(0);
            assert_eq!(kept.get(), Some((0, 0)));
        },
    );
}

fn shifted(blocks: u64) -> Shift {
    Shift { base: 0, blocks, drv_ctx_size: 0 }
}

type Counted = std::sync::Arc<Mutex<Option<bdev::stats::IoStat>>>;

fn counted(name: &str) -> Counted {
    let result = Counted::default();
    let place = std::sync::Arc::clone(&result);
    bdev::stats::collect(&bdev::find(name).unwrap(), move |total, _| {
        *place.lock().unwrap() = Some(total);
    });
    result
}

#[test]
fn what_filters_pass_on_is_done_by_the_base_and_counted_on_each() {
    let make = || {
        let base = Fixture::new("passed base", |_| {});
        let low = over(&base, "passed low", shifted(8));
        let high = over(&low, "passed high", shifted(0));
        for lba in [1, 2] {
            let mut data = pattern(2 * BLOCK);
            assert_eq!(high.io(BAY_OP_WRITE, lba, &list(&mut data)).get(), Some((0, 0)));
        }
        assert_eq!(base.seen().iter().map(|io| io.lba).collect::<Vec<_>>(), [9, 10]);
        let mut back = vec![0; 2 * BLOCK];
        assert_eq!(high.io(BAY_OP_READ, 2, &list(&mut back)).get(), Some((0, 0)));
        assert_eq!(back, pattern(2 * BLOCK));
        base.disk.fail.set(-libc::EIO);
        assert_eq!(high.io(BAY_OP_READ, 2, &list(&mut back)).get(), Some((-libc::EIO, 0)));
        // The filter is larger than its base.
        assert_eq!(low.range(BAY_OP_UNMAP, 47, 1).get(), Some((0, 0)));
        let names = ["passed base", "passed low", "passed high"];
        (base, low, high, names.map(counted))
    };
    let all_counted: Step<(Fixture, Fixture, Fixture, [Counted; 3])> = Box::new(|(.., counted)| {
        let all = counted.each_ref().map(|one| *one.lock().unwrap());
        let [Some(base), Some(low), Some(high)] = all else { return false };
        for one in [base, low, high] {
            assert_eq!((one.write.ops, one.write.blocks, one.read.ops, one.errors), (2, 4, 1, 1));
        }
        assert_eq!([base, low, high].map(|one| one.unmap.ops), [1, 1, 0]);
        true
    });
    on_app(make, vec![all_counted]);
}

#[test]
fn an_op_without_a_row_of_its_own_is_counted_as_none_of_the_others() {
    let make = || {
        let declare = |reg: &mut bay_bdev_reg| {
            reg.ops_mask |= 1 << BAY_OP_WRITE_UNCORRECTABLE | 1 << BAY_OP_SEEK_DATA;
        };
        let base = Fixture::new("rare", declare);
        for op in [BAY_OP_WRITE_UNCORRECTABLE, BAY_OP_SEEK_DATA, BAY_OP_FLUSH] {
            assert_eq!(base.range(op, 0, 1).get(), Some((0, 0)));
        }
        (base, counted("rare"))
    };
    let none_counted: Step<(Fixture, Counted)> = Box::new(|(_, counted)| {
        let Some(all) = *counted.lock().unwrap() else { return false };
        assert_eq!([all.read.ops, all.write.ops, all.unmap.ops, all.errors], [0; 4]);
        true
    });
    on_app(make, vec![none_counted]);
}

#[test]
fn a_passed_io_waits_at_the_base_and_is_aborted_there_by_its_id() {
    once(
        "passed wait",
        |_| {},
        |base| {
            let filter = over(base, "passed wait filter", shifted(4));
            base.disk.hold.set(true);
            let kept = filter.range(BAY_OP_UNMAP, 0, 1);
            base.disk.no_memory.set(1);
            let mut id = 0;
            let waits = filter.submit(|io| {
                (io.op, io.lba, io.nblocks) = (BAY_OP_UNMAP, 1, 1);
                id = io.id;
            });
            let abort = filter.submit(|io| {
                io.op = BAY_OP_ABORT;
                io.arg = [id, 0];
            });
            assert_eq!(abort.get(), Some((0, 0)));
            assert_eq!(waits.get(), Some((BAY_ST_ABORTED, 0)));
            assert_eq!(kept.get(), None);
            base.complete_kept(0);
            assert_eq!(kept.get(), Some((0, 0)));
        },
    );
}

#[test]
fn a_long_stack_and_a_base_that_needs_more_room_take_a_second_request() {
    once(
        "passed deep",
        |reg| reg.drv_ctx_size = 64,
        |base| {
            let mut top = over(base, "passed deep 0", shifted(1));
            for layer in 1..12 {
                let name = format!("passed deep {layer}");
                top = over(&top, &name, shifted(1));
            }
            let mut data = pattern(BLOCK);
            for _ in 0..3 {
                assert_eq!(top.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((0, 0)));
            }
            assert!(base.seen().iter().all(|io| io.lba == 17));
            base.disk.fail.set(-libc::ENOSPC);
            assert_eq!(top.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((-libc::ENOSPC, 0)));
        },
    );
}

#[test]
fn a_base_that_goes_ends_what_its_filter_still_passes_on() {
    once(
        "passed gone",
        |_| {},
        |base| {
            let filter = over(base, "passed gone filter", shifted(0));
            let mut data = pattern(BLOCK);
            for _ in 0..2 {
                assert_eq!(filter.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((0, 0)));
            }
            assert_eq!(abi::unregister(base.id), 0);
            assert_eq!(
                filter.io(BAY_OP_WRITE, 5, &list(&mut data)).get(),
                Some((-libc::ENODEV, 0))
            );
            // A handle is not valid any more after its channel was put.
            abi::chan_put(base.chan);
            assert_eq!(filter.io(BAY_OP_WRITE, 5, &list(&mut data)).get(), Some((-libc::EBADF, 0)));
        },
    );
}
