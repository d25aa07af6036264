//! How bdevs, descriptors, claims and threads start, change and end.

use crate::abi;
use crate::fixture::*;
use drivebay_core::bdev;
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::thread;
use drivebay_core::services;
use drivebay_plugin_api::*;
use std::ffi::c_void;
use std::ptr;
use std::sync::mpsc;
use std::time::Duration;

#[test]
fn a_removed_bdev_tells_its_clients_fails_new_io_and_goes_when_the_last_lets_go() {
    let make = || {
        let f = Fixture::new("remove", |_| {});
        f.disk.hold.set(true);
        let flying = f.range(BAY_OP_UNMAP, 0, 1);
        assert_eq!(abi::unregister(f.id), 0);
        (f, flying)
    };
    let let_go = |(f, flying): &(Fixture, Outcome)| {
        assert!(bdev::find("remove").is_none());
        assert_eq!(f.range(BAY_OP_UNMAP, 0, 1).get().unwrap().0, -libc::ENODEV);
        assert!(!f.disk.destructed.get());
        f.complete_kept(0);
        assert_eq!(flying.get(), Some((0, 0)));
        assert_eq!(abi::close(f.desc), -libc::EBUSY);
        abi::chan_put(f.chan);
        assert_eq!(abi::close(f.desc), 0);
        true
    };
    on_app(
        make,
        vec![
            Box::new(|(f, _)| *f.events.borrow() == [(BAY_EVENT_REMOVE, 0)]),
            Box::new(let_go),
            Box::new(|(f, _)| f.disk.destructed.get()),
        ],
    );
}

#[test]
fn a_claim_keeps_other_writers_out_until_it_is_given_back() {
    once(
        "claim",
        |_| {},
        |f| {
            let open = |flags| abi::open("claim", flags);
            let reader = open(0).unwrap();
            assert_eq!(abi::claim(f.desc, BAY_CLAIM_EXCL_WRITE, 0), 0);
            assert_eq!(open(BAY_OPEN_WRITE), Err(-libc::EPERM));
            assert_eq!(abi::claim(reader, BAY_CLAIM_EXCL_WRITE, 0), -libc::EPERM);
            assert_eq!(bdev::find("claim").unwrap().claim(), Some("exclusive_write"));
            assert_eq!(abi::unclaim(f.desc), 0);
            assert!(open(BAY_OPEN_WRITE).is_ok());
        },
    );
}

#[test]
fn a_reader_may_not_write() {
    once(
        "reader",
        |_| {},
        |f| {
            let desc = abi::open("reader", 0).unwrap();
            let reader = Fixture { desc, chan: abi::chan_get(desc), ..*f };
            let mut data = vec![0; BLOCK];
            let write = reader.io(BAY_OP_WRITE, 0, &list(&mut data));
            assert_eq!(write.get().unwrap().0, -libc::EBADF);
            assert_eq!(reader.io(BAY_OP_READ, 0, &list(&mut data)).get(), Some((0, 0)));
        },
    );
}

#[test]
fn a_grown_bdev_tells_its_clients_and_takes_io_at_its_new_end() {
    let make = || {
        let f = Fixture::new("grow", |reg| reg.num_blocks = 32);
        let mut one = vec![0; BLOCK];
        assert_eq!(f.io(BAY_OP_READ, 40, &list(&mut one)).get().unwrap().0, -libc::EINVAL);
        assert_eq!(abi::resize(f.id, 64), 0);
        assert_eq!(f.io(BAY_OP_READ, 40, &list(&mut one)).get(), Some((0, 0)));
        assert_eq!(abi::resize(f.id, 16), -libc::EBUSY);
        f
    };
    on_app(make, vec![Box::new(|f| *f.events.borrow() == [(BAY_EVENT_RESIZE, 64)])]);
}

#[test]
fn the_module_hears_of_the_end_of_a_burst_once_a_round() {
    let make = || {
        let f = Fixture::new("burst", |_| {});
        for lba in 0..10 {
            f.range(BAY_OP_UNMAP, lba, 1);
        }
        assert_eq!(f.disk.flushes.get(), 0);
        f
    };
    let flushed = |f: &Fixture| {
        assert!(f.disk.flushes.get() <= 1, "one burst");
        f.disk.flushes.get() == 1
    };
    on_app(make, vec![Box::new(flushed)]);
}

#[test]
fn a_burst_that_ends_inside_a_submit_is_flushed_after_it() {
    unsafe extern "C" fn ended(chan: *mut c_void, _io: *mut bay_io, status: i32) {
        assert_eq!(status, 0);
        // The disk completes inside `submit` and checks where `flush` is called.
        abi::flush(chan as u64);
    }
    let make = || {
        let f = Fixture::new("inner burst", |_| {});
        let arg = ptr::without_provenance_mut(f.chan as usize);
        // SAFETY: `ended` takes the channel's handle, and a flush names no memory.
        unsafe { abi::submit(f.chan, |io| io.op = BAY_OP_FLUSH, ended, arg) };
        assert_eq!(f.disk.flushes.get(), 0);
        f
    };
    on_app(make, vec![Box::new(|f| f.disk.flushes.get() == 1)]);
}

#[test]
fn names_are_unique_and_uuids_are_names_too() {
    once(
        "unique",
        |_| {},
        |f| {
            let device = bdev::find("unique").unwrap();
            assert_eq!(bdev::find(&device.uuid_text()).unwrap().id, device.id);
            assert_eq!(register("unique", f.disk, |_| {}), Err(-libc::EEXIST));
            let no_blocks = register("other", f.disk, |reg| reg.block_size = 0);
            assert_eq!(no_blocks, Err(-libc::EINVAL));
        },
    );
}

#[test]
fn what_is_sent_to_a_thread_that_ends_is_called() {
    let _guard = reactors();
    let (sender, receiver) = mpsc::channel();
    for round in 0..200 {
        let one = CpuSet::one(round % 2);
        let id = thread::create("short", &one).unwrap();
        thread::send_boxed(id, || assert_eq!(exit_here(), 0));
        for number in 0..100 {
            // The message is called, or `send_boxed` drops the closure. Either way the sender is
            // dropped.
            let reported = DropSignal(sender.clone(), number);
            thread::send_boxed(id, move || drop(reported));
        }
    }
    drop(sender);
    let reported = std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(10)).ok());
    assert_eq!(reported.count(), 200 * 100);
}

/// Ends the current thread.
fn exit_here() -> i32 {
    let table = services::table(id::THREAD).unwrap();
    // SAFETY: the core returns its static table of this type for this id.
    let threads: &bay_thread_api = unsafe { &*table.cast() };
    // SAFETY: the host checks that the id is the current thread's.
    unsafe { threads.exit.unwrap()(abi::host(), thread::current_id()) }
}

/// Sends its number when it is dropped.
struct DropSignal(mpsc::Sender<u32>, u32);

impl Drop for DropSignal {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}
