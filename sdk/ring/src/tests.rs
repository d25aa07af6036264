//! Tests both engines with real files: on ext4 (or the file system of the temporary directory) and tmpfs.
#![expect(unsafe_code, reason = "test memory without Rust references, and poll(2)")]

use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::{Armed, Completion, Engine, Errno, FileIndex, IoBuffers, Op, Ring, Segment, open_file};

const BLOCK: usize = 4096;

/// Page-aligned memory for I/O, divided into segments.
#[derive(Debug)]
struct Request {
    memory: NonNull<u8>,
    layout: Layout,
    cuts: Vec<usize>,
    /// How often `segments` lists the memory. Each time it is the same memory.
    listed: usize,
    drops: Arc<AtomicUsize>,
}

// SAFETY: the value owns its memory.
unsafe impl Send for Request {}

// SAFETY: the value owns the memory until it is dropped, and `contents` needs the value itself.
unsafe impl IoBuffers for Request {
    fn segments(&self) -> impl Iterator<Item = Segment> {
        let once = move || {
            let mut at = 0;
            self.cuts.iter().map(move |&len| {
                let ptr = self.memory.as_ptr().wrapping_add(at);
                at += len;
                Segment { ptr, len }
            })
        };
        (0..self.listed).flat_map(move |_| once())
    }

    fn writable(&self) -> bool {
        true
    }
}

impl Request {
    fn alloc_aligned(cuts: &[usize], fill: u8) -> Self {
        let len = cuts.iter().sum::<usize>().max(1);
        let layout = Layout::from_size_align(len, BLOCK).unwrap();
        // SAFETY: the layout is not empty.
        let memory = NonNull::new(unsafe { alloc_zeroed(layout) }).unwrap();
        // SAFETY: the memory was just allocated and has `len` bytes.
        unsafe { memory.as_ptr().write_bytes(fill, len) };
        Self { memory, layout, cuts: cuts.to_vec(), listed: 1, drops: Arc::default() }
    }

    fn block(fill: u8) -> Self {
        Self::alloc_aligned(&[BLOCK], fill)
    }

    fn none() -> Self {
        Self::alloc_aligned(&[], 0)
    }

    fn counting(mut self, drops: &Arc<AtomicUsize>) -> Self {
        self.drops = Arc::clone(drops);
        self
    }

    fn contents(&self) -> &[u8] {
        // SAFETY: the memory is initialised, and no ring has the request, because the ring would own the value.
        unsafe { std::slice::from_raw_parts(self.memory.as_ptr(), self.cuts.iter().sum()) }
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        self.drops.fetch_add(1, Ordering::Relaxed);
        // SAFETY: `alloc_aligned` allocated the memory with this layout.
        unsafe { dealloc(self.memory.as_ptr(), self.layout) };
    }
}

/// A ring with one file, whose `blocks` blocks have all bytes 0xee.
struct Bench {
    ring: Ring<Request>,
    file: FileIndex,
    dir: TempDir,
}

fn dir_on(parent: &Path) -> TempDir {
    tempfile::tempdir_in(parent).unwrap()
}

impl Bench {
    fn new(engine: Engine, depth: u32, blocks: usize) -> Self {
        Self::on(engine, depth, blocks, &std::env::temp_dir(), false)
    }

    fn on(engine: Engine, depth: u32, blocks: usize, parent: &Path, direct: bool) -> Self {
        let dir = dir_on(parent);
        let path = dir.path().join("disk");
        fs::write(&path, vec![0xee; blocks * BLOCK]).unwrap();
        let mut ring = Ring::new(engine, depth).unwrap();
        // If the file system has no direct I/O, run the test without it.
        let file = open_file(&path, false, direct).or_else(|_| open_file(&path, false, false));
        let file = ring.attach(Arc::new(file.unwrap())).unwrap();
        Self { ring, file, dir }
    }

    fn path(&self) -> std::path::PathBuf {
        self.dir.path().join("disk")
    }

    fn push(&mut self, op: Op, request: Request) {
        self.ring.push(op, self.file, request).unwrap();
    }

    fn run(&mut self, op: Op, request: Request) -> Completion<Request> {
        self.push(op, request);
        let mut done = finish(&mut self.ring);
        assert_eq!(done.len(), 1);
        done.remove(0)
    }
}

/// Polls until no request is in flight.
fn finish(ring: &mut Ring<Request>) -> Vec<Completion<Request>> {
    let mut all = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    ring.flush().unwrap();
    while ring.in_flight() > 0 {
        assert!(Instant::now() < deadline, "{} requests never completed", ring.in_flight());
        if ring.reap(|completion| all.push(completion)) == 0 {
            ring.flush().unwrap();
        }
    }
    all
}

/// Whether the ring's eventfd becomes readable within `timeout_ms`.
fn is_signalled(ring: &Ring<Request>, timeout_ms: i32) -> bool {
    let fd = ring.event_fd().as_raw_fd();
    let deadline = Instant::now() + Duration::from_millis(u64::try_from(timeout_ms).unwrap());
    loop {
        let mut poll = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
        // SAFETY: there is one valid entry.
        let ready = unsafe { libc::poll(&raw mut poll, 1, 10) };
        if ready == 1 || Instant::now() >= deadline {
            return ready == 1; // A negative result means that the ring's own work interrupted the call.
        }
    }
}

const fn write(block: u64) -> Op {
    Op::Write { offset: block * BLOCK as u64, durable: false }
}

const fn read(block: u64) -> Op {
    Op::Read { offset: block * BLOCK as u64 }
}

/// Makes each test twice, for `io_uring` and for `libaio`.
macro_rules! on_both_engines {
    ($($name:ident)*) => {
        mod io_uring { $(#[test] fn $name() { super::$name(crate::Engine::IoUring) })* }
        mod libaio { $(#[test] fn $name() { super::$name(crate::Engine::Libaio) })* }
    };
}

on_both_engines! {
    this_kernel_has_the_engine
    what_was_written_is_read_back
    segments_are_filled_in_order
    direct_io_works_where_the_file_system_has_it
    tmpfs_works_too
    a_durable_write_and_both_syncs_succeed
    a_punched_hole_reads_as_zeroes_and_frees_its_blocks
    a_zeroed_range_reads_as_zeroes
    a_read_at_the_end_of_the_file_is_short
    a_direct_read_across_an_end_inside_a_block_is_short
    a_transfer_larger_than_one_kernel_call_is_carried_out_whole
    a_full_ring_hands_the_request_back
    a_slot_is_usable_again_after_its_completion
    an_impossible_request_completes_with_its_error
    a_write_to_a_read_only_file_is_refused_by_the_kernel
    one_refused_request_in_a_batch_does_not_hold_up_the_others
    a_file_is_detached_only_when_idle
    dropping_the_ring_drops_each_request_once
    closing_hands_back_what_was_in_flight_and_what_was_never_flushed
    an_armed_ring_signals_a_completion
    arming_sees_what_has_already_completed
    a_ring_moves_between_threads_with_requests_in_flight
    many_rounds_at_full_depth_lose_nothing
}

fn this_kernel_has_the_engine(engine: Engine) {
    engine.probe().unwrap();
}

fn what_was_written_is_read_back(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 4);
    let done = bench.run(write(1), Request::block(0x5a));
    assert_eq!(done.result, Ok(4096));
    let done = bench.run(read(1), Request::block(0));
    assert_eq!(done.result, Ok(4096));
    assert!(done.request.contents().iter().all(|&byte| byte == 0x5a));
    let on_disk = fs::read(bench.path()).unwrap();
    assert_eq!((on_disk[BLOCK - 1], on_disk[BLOCK], on_disk[2 * BLOCK]), (0xee, 0x5a, 0xee));
}

fn segments_are_filled_in_order(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 1);
    let bytes: Vec<u8> = (0..1000).map(|i| (i % 251) as u8).collect();
    fs::write(bench.path(), &bytes).unwrap();
    let done = bench.run(Op::Read { offset: 0 }, Request::alloc_aligned(&[1, 0, 600, 399], 0));
    assert_eq!(done.result, Ok(1000));
    assert_eq!(done.request.contents(), bytes);
    let done = bench.run(Op::Write { offset: 500, durable: false }, done.request);
    assert_eq!(done.result, Ok(1000));
    assert_eq!(fs::read(bench.path()).unwrap(), [&bytes[..500], &bytes[..]].concat());
}

fn direct_io_works_where_the_file_system_has_it(engine: Engine) {
    let dir = dir_on(&std::env::temp_dir());
    fs::write(dir.path().join("probe"), [0; BLOCK]).unwrap();
    if let Err(error) = open_file(dir.path().join("probe"), false, true) {
        eprintln!("skipped: {error}");
        return;
    }
    let mut bench = Bench::on(engine, 8, 4, &std::env::temp_dir(), true);
    assert_eq!(bench.run(write(2), Request::alloc_aligned(&[BLOCK, BLOCK], 7)).result, Ok(8192));
    let done = bench.run(read(3), Request::block(0));
    assert!(done.request.contents().iter().all(|&byte| byte == 7));
    let misaligned = bench.run(Op::Read { offset: 1 }, Request::block(0));
    assert_eq!(misaligned.result, Err(Errno::INVALID));
}

fn tmpfs_works_too(engine: Engine) {
    let mut bench = Bench::on(engine, 8, 4, Path::new("/dev/shm"), false);
    assert_eq!(bench.run(write(3), Request::block(9)).result, Ok(4096));
    assert_eq!(bench.run(Op::Fdatasync, Request::none()).result, Ok(0));
    let hole = Op::PunchHole { offset: 0, len: BLOCK as u64 };
    assert_eq!(bench.run(hole, Request::none()).result, Ok(0));
    let done = bench.run(read(0), Request::alloc_aligned(&[4 * BLOCK], 1));
    let contents = done.request.contents();
    assert_eq!((contents[0], contents[BLOCK], contents[3 * BLOCK]), (0, 0xee, 9));
}

fn a_durable_write_and_both_syncs_succeed(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 2);
    let durable = Op::Write { offset: 0, durable: true };
    assert_eq!(bench.run(durable, Request::block(1)).result, Ok(4096));
    assert_eq!(bench.run(Op::Fdatasync, Request::none()).result, Ok(0));
    assert_eq!(bench.run(Op::Fsync, Request::none()).result, Ok(0));
}

fn a_punched_hole_reads_as_zeroes_and_frees_its_blocks(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 64);
    bench.run(Op::Fsync, Request::none());
    let before = fs::metadata(bench.path()).unwrap();
    let hole = Op::PunchHole { offset: BLOCK as u64, len: 32 * BLOCK as u64 };
    assert_eq!(bench.run(hole, Request::none()).result, Ok(0));
    let after = fs::metadata(bench.path()).unwrap();
    assert_eq!(after.len(), before.len());
    assert!(after.blocks() < before.blocks());
    let on_disk = fs::read(bench.path()).unwrap();
    assert!(on_disk[BLOCK..33 * BLOCK].iter().all(|&byte| byte == 0));
    assert_eq!((on_disk[BLOCK - 1], on_disk[33 * BLOCK]), (0xee, 0xee));
}

fn a_zeroed_range_reads_as_zeroes(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 4);
    let zero = Op::ZeroRange { offset: BLOCK as u64, len: BLOCK as u64 };
    match bench.run(zero, Request::none()).result {
        Err(Errno::NOT_SUPPORTED) => {
            return eprintln!("skipped: no zero range on this file system");
        }
        result => assert_eq!(result, Ok(0)),
    }
    let on_disk = fs::read(bench.path()).unwrap();
    assert!(on_disk[BLOCK..2 * BLOCK].iter().all(|&byte| byte == 0));
    assert_eq!((on_disk[BLOCK - 1], on_disk[2 * BLOCK]), (0xee, 0xee));
}

fn a_read_at_the_end_of_the_file_is_short(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 2);
    assert_eq!(bench.run(read(1), Request::alloc_aligned(&[100, 8092], 0)).result, Ok(4096));
    assert_eq!(bench.run(read(2), Request::block(0)).result, Ok(0));
}

fn a_direct_read_across_an_end_inside_a_block_is_short(engine: Engine) {
    let mut bench = Bench::on(engine, 8, 1, &std::env::temp_dir(), true);
    fs::write(bench.path(), vec![3; 5000]).unwrap();
    let done = bench.run(read(0), Request::alloc_aligned(&[BLOCK, BLOCK], 0));
    assert_eq!(done.result, Ok(5000));
    assert_eq!(done.request.contents()[4999], 3);
}

fn a_transfer_larger_than_one_kernel_call_is_carried_out_whole(engine: Engine) {
    let mut bench = Bench::on(engine, 8, 1, Path::new("/dev/shm"), false);
    // The kernel transfers at most 2 GiB minus a page per call. A sparse file on tmpfs takes no memory.
    let (segment, count) = (4 << 20, 520);
    let file = fs::OpenOptions::new().write(true).open(bench.path()).unwrap();
    file.set_len(1 << 32).unwrap();
    let mut request = Request::alloc_aligned(&[segment], 1);
    request.listed = count;
    let bytes = u32::try_from(segment * count).unwrap();
    assert!(bytes > 0x7fff_f000);
    let done = bench.run(read(0), request);
    assert_eq!(done.result, Ok(bytes));
    assert!(done.request.contents().iter().all(|&byte| byte == 0));
}

fn a_full_ring_hands_the_request_back(engine: Engine) {
    let mut bench = Bench::new(engine, 3, 4);
    for block in 0..3 {
        bench.push(read(block), Request::block(0));
    }
    let refused = bench.ring.push(read(3), bench.file, Request::block(0x77)).unwrap_err();
    assert_eq!(refused.0.contents()[0], 0x77);
    assert_eq!(bench.ring.in_flight(), 3);
    assert_eq!(finish(&mut bench.ring).len(), 3);
}

fn a_slot_is_usable_again_after_its_completion(engine: Engine) {
    let mut bench = Bench::new(engine, 1, 4);
    for block in 0..4 {
        assert_eq!(bench.run(read(block), Request::block(0)).result, Ok(4096));
    }
}

fn an_impossible_request_completes_with_its_error(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 1);
    let past_the_end = Op::Read { offset: u64::MAX };
    assert_eq!(bench.run(past_the_end, Request::block(0)).result, Err(Errno::INVALID));
    let file = bench.file;
    bench.ring.detach(file).unwrap();
    assert_eq!(bench.run(read(0), Request::block(0)).result, Err(Errno::BAD_FILE));
    assert_eq!(bench.ring.detach(file).unwrap_err().raw_os_error(), Some(libc::EBADF));
}

fn a_write_to_a_read_only_file_is_refused_by_the_kernel(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 1);
    let read_only = Arc::new(open_file(bench.path(), true, false).unwrap());
    bench.file = bench.ring.attach(read_only).unwrap();
    assert_eq!(bench.run(write(0), Request::block(0)).result, Err(Errno::BAD_FILE));
    let hole = Op::PunchHole { offset: 0, len: 4096 };
    assert_eq!(bench.run(hole, Request::none()).result, Err(Errno::BAD_FILE));
    assert_eq!(fs::read(bench.path()).unwrap(), vec![0xee; BLOCK]);
}

fn one_refused_request_in_a_batch_does_not_hold_up_the_others(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 4);
    let writable = bench.file;
    let read_only = Arc::new(open_file(bench.path(), true, false).unwrap());
    let read_only = bench.ring.attach(read_only).unwrap();
    for (block, file) in [(0, writable), (1, read_only), (2, writable), (3, read_only)] {
        bench.ring.push(write(block), file, Request::block(1)).unwrap();
    }
    let results: Vec<_> = finish(&mut bench.ring).into_iter().map(|done| done.result).collect();
    assert_eq!(results.iter().filter(|&&result| result == Ok(4096)).count(), 2);
    assert_eq!(results.iter().filter(|&&result| result == Err(Errno::BAD_FILE)).count(), 2);
}

fn a_file_is_detached_only_when_idle(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 1);
    bench.push(read(0), Request::block(0));
    let busy = bench.ring.detach(bench.file).unwrap_err();
    assert_eq!(busy.raw_os_error(), Some(libc::EBUSY));
    finish(&mut bench.ring);
    bench.ring.detach(bench.file).unwrap();
    let path = bench.path();
    let again = bench.ring.attach(Arc::new(open_file(&path, true, false).unwrap())).unwrap();
    assert_eq!(again, bench.file);
}

fn dropping_the_ring_drops_each_request_once(engine: Engine) {
    let mut bench = Bench::on(engine, 32, 32, &std::env::temp_dir(), true);
    let drops = Arc::new(AtomicUsize::new(0));
    for block in 0..32 {
        if block == 24 {
            bench.ring.flush().unwrap(); // Do not flush the last eight requests.
        }
        bench.push(write(block), Request::block(1).counting(&drops));
    }
    assert_eq!(drops.load(Ordering::Relaxed), 0);
    drop(bench);
    assert_eq!(drops.load(Ordering::Relaxed), 32);
}

fn closing_hands_back_what_was_in_flight_and_what_was_never_flushed(engine: Engine) {
    let mut bench = Bench::on(engine, 16, 16, &std::env::temp_dir(), true);
    for block in 0..8 {
        bench.push(write(block), Request::block(1));
    }
    bench.ring.flush().unwrap();
    for block in 8..16 {
        bench.push(write(block), Request::block(1));
    }
    let path = bench.path();
    let mut done = Vec::new();
    bench.ring.close(|completion| done.push(completion.result));
    assert_eq!(done.len(), 16);
    let canceled = done.iter().filter(|&&result| result == Err(Errno::CANCELED)).count();
    let written = done.iter().filter(|&&result| result == Ok(4096)).count();
    assert_eq!(canceled + written, 16);
    assert!(canceled >= 8, "the eight requests that were not flushed cannot have been written");
    if engine == Engine::Libaio {
        assert_eq!(written, 8, "the kernel cannot cancel its requests, so the ring waits for them");
    }
    assert!(fs::read(path).unwrap()[8 * BLOCK..].iter().all(|&byte| byte == 0xee));
}

fn an_armed_ring_signals_a_completion(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 1);
    for _ in 0..3 {
        assert_eq!(bench.ring.arm().unwrap(), Armed::MaySleep);
        assert!(!is_signalled(&bench.ring, 0));
        bench.push(Op::Fsync, Request::none());
        bench.ring.flush().unwrap();
        assert!(is_signalled(&bench.ring, 5000));
        bench.ring.disarm();
        assert_eq!(finish(&mut bench.ring).len(), 1);
    }
    if engine == Engine::IoUring {
        assert_eq!(bench.ring.arm().unwrap(), Armed::MaySleep);
        bench.ring.disarm();
        bench.push(Op::Fsync, Request::none());
        finish(&mut bench.ring);
        assert!(!is_signalled(&bench.ring, 0), "polling must not cause signals");
    }
}

fn arming_sees_what_has_already_completed(engine: Engine) {
    let mut bench = Bench::new(engine, 8, 1);
    bench.push(Op::Read { offset: u64::MAX }, Request::none());
    assert_eq!(bench.ring.arm().unwrap(), Armed::WorkWaiting, "refused without the kernel");
    finish(&mut bench.ring);
    bench.push(read(0), Request::block(0)); // The data is in the page cache, so the flush completes it.
    if engine == Engine::Libaio {
        bench.ring.flush().unwrap();
        assert!(is_signalled(&bench.ring, 5000)); // libaio's thread submits it. Arming discarded the earlier signal.
    }
    assert_eq!(bench.ring.arm().unwrap(), Armed::WorkWaiting);
    assert_eq!(finish(&mut bench.ring).len(), 1);
    assert_eq!(bench.ring.arm().unwrap(), Armed::MaySleep);
}

fn a_ring_moves_between_threads_with_requests_in_flight(engine: Engine) {
    let mut bench = Bench::on(engine, 16, 16, &std::env::temp_dir(), true);
    for block in 0..16 {
        bench.push(read(block), Request::block(0));
    }
    bench.ring.flush().unwrap();
    let elsewhere = thread::spawn(move || {
        let done = finish(&mut bench.ring);
        assert_eq!(bench.run(read(0), Request::block(0)).result, Ok(4096));
        done
    });
    while !elsewhere.is_finished() {
        std::hint::spin_loop(); // The thread that submitted continues to run, as a reactor does.
    }
    let done = elsewhere.join().unwrap();
    assert_eq!(done.len(), 16);
    assert!(done.iter().all(|done| done.result == Ok(4096)));
}

fn many_rounds_at_full_depth_lose_nothing(engine: Engine) {
    let (depth, rounds) = (64, 2000);
    let mut bench = Bench::on(engine, depth, 64, &std::env::temp_dir(), true);
    let mut idle: Vec<_> = (0..depth).map(|_| Request::block(0)).collect();
    let (mut pushed, mut reaped) = (0_u64, 0);
    while reaped < rounds {
        while let Some(request) = idle.pop().filter(|_| pushed < rounds) {
            bench.push(read(pushed % 64), request);
            pushed += 1;
        }
        bench.ring.flush().unwrap();
        bench.ring.reap(|done| {
            assert_eq!(done.result, Ok(4096));
            assert_eq!(done.request.contents()[BLOCK - 1], 0xee);
            idle.push(done.request);
            reaped += 1;
        });
    }
    assert_eq!(bench.ring.in_flight(), 0);
}

#[test]
fn a_depth_outside_the_limits_is_refused_with_what_is_allowed() {
    for depth in [0, 4097] {
        let error = Ring::<Request>::new(Engine::IoUring, depth).unwrap_err();
        assert_eq!(error.to_string(), format!("depth {depth} must be 1 to 4096"));
    }
    Ring::<Request>::new(Engine::IoUring, 4096).unwrap();
}
