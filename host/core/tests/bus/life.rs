//! How bdevs, descriptors, claims and threads start, change and end.

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
        let unregister = bus().unregister.unwrap();
        assert_eq!(unsafe { unregister(host(), f.id, None, ptr::null_mut()) }, 0);
        (f, flying)
    };
    let let_go = |(f, flying): &(Fixture, Outcome)| {
        assert!(bdev::find("remove").is_none());
        assert_eq!(f.range(BAY_OP_UNMAP, 0, 1).get().unwrap().0, -libc::ENODEV);
        assert!(!f.disk.destructed.get());
        f.complete_kept(0);
        assert_eq!(flying.get(), Some((0, 0)));
        let close = client().close.unwrap();
        assert_eq!(unsafe { close(host(), f.desc) }, -libc::EBUSY);
        assert_eq!(unsafe { client().chan_put.unwrap()(host(), f.chan) }, 0);
        assert_eq!(unsafe { close(host(), f.desc) }, 0);
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
            let open = |flags| {
                let mut desc = 0;
                let open = client().open.unwrap();
                let name = bay_str::new("claim");
                let status =
                    unsafe { open(host(), name, flags, None, ptr::null_mut(), &raw mut desc) };
                (status, desc)
            };
            let (_, reader) = open(0);
            let claim = client().claim.unwrap();
            assert_eq!(unsafe { claim(host(), f.desc, BAY_CLAIM_EXCL_WRITE, 0) }, 0);
            assert_eq!(open(BAY_OPEN_WRITE).0, -libc::EPERM);
            assert_eq!(unsafe { claim(host(), reader, BAY_CLAIM_EXCL_WRITE, 0) }, -libc::EPERM);
            assert_eq!(bdev::find("claim").unwrap().claim(), Some("exclusive_write"));
            assert_eq!(unsafe { client().unclaim.unwrap()(host(), f.desc) }, 0);
            assert_eq!(open(BAY_OPEN_WRITE).0, 0);
        },
    );
}

#[test]
fn a_reader_may_not_write() {
    once(
        "reader",
        |_| {},
        |f| {
            let (mut desc, mut chan) = (0, 0);
            let name = bay_str::new("reader");
            unsafe {
                client().open.unwrap()(host(), name, 0, None, ptr::null_mut(), &raw mut desc);
                client().chan_get.unwrap()(host(), desc, &raw mut chan);
            }
            let reader =
                Fixture { disk: Box::default(), id: f.id, desc, chan, events: Box::default() };
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
        let resize = bus().resize.unwrap();
        assert_eq!(unsafe { resize(host(), f.id, 64) }, 0);
        assert_eq!(f.io(BAY_OP_READ, 40, &list(&mut one)).get(), Some((0, 0)));
        assert_eq!(unsafe { resize(host(), f.id, 16) }, -libc::EBUSY);
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
fn a_burst_that_ends_inside_of_a_submit_is_told_after_it() {
    unsafe extern "C" fn ended(chan: *mut c_void, _io: *mut bay_io, status: i32) {
        assert_eq!(status, 0);
        // The disk completes inside `submit` and checks where `flush` is called.
        unsafe { client().flush.unwrap()(host(), chan as u64) };
    }
    let make = || {
        let f = Fixture::new("inner burst", |_| {});
        let io = unsafe { client().io_get.unwrap()(host(), f.chan, ptr::null_mut()) };
        unsafe { (*io).op = BAY_OP_FLUSH };
        let arg = ptr::without_provenance_mut(f.chan as usize);
        unsafe { client().submit.unwrap()(host(), io, Some(ended), arg) };
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
        |_| {
            let device = bdev::find("unique").unwrap();
            assert_eq!(bdev::find(&device.uuid_text()).unwrap().id, device.id);
            let mut reg: bay_bdev_reg = unsafe { std::mem::zeroed() };
            reg.size = size_of::<bay_bdev_reg>() as u32;
            reg.ops = &raw const OPS;
            reg.name = bay_str::new("unique");
            reg.block_size = 512;
            reg.num_blocks = 1;
            let mut id = 0;
            let register = bus().register.unwrap();
            assert_eq!(unsafe { register(host(), &raw const reg, &raw mut id) }, -libc::EEXIST);
            reg.name = bay_str::new("other");
            reg.block_size = 0;
            assert_eq!(unsafe { register(host(), &raw const reg, &raw mut id) }, -libc::EINVAL);
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
        thread::send_boxed(id, || assert_eq!(unsafe { exit_here() }, 0));
        for number in 0..100 {
            // The message is called, or `send_boxed` drops the closure. Either way the sender is
            // dropped.
            let told = Told(sender.clone(), number);
            thread::send_boxed(id, move || drop(told));
        }
    }
    drop(sender);
    let told = std::iter::from_fn(|| receiver.recv_timeout(Duration::from_secs(10)).ok());
    assert_eq!(told.count(), 200 * 100);
}

unsafe fn exit_here() -> i32 {
    let threads: &bay_thread_api = unsafe { &*services::table(id::THREAD).unwrap().cast() };
    unsafe { threads.exit.unwrap()(host(), thread::current_id()) }
}

/// Sends its number when it is dropped.
struct Told(mpsc::Sender<u32>, u32);

impl Drop for Told {
    fn drop(&mut self) {
        let _ = self.0.send(self.1);
    }
}
