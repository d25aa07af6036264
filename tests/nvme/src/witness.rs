//! Clients beside a test: one verifies its data and must notice nothing, the other runs until it is ended.

use crate::target::{BLOCK, BLOCKS, pattern};
use drivebay_nvme_driver::{Controller, Error, Options};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// I/Os outstanding.
const DEPTH: u64 = 8;
/// The maximum number of blocks of an I/O.
const BLOCKS_MAX: u64 = 64;
/// The number of blocks that only one client uses.
const REGION: u64 = DEPTH * BLOCKS_MAX;

/// The number of clients so far. Each gets the next region.
static STARTED: AtomicU64 = AtomicU64::new(0);

/// A client on its own thread. It writes to a namespace, reads back and compares, again and again.
#[derive(Debug)]
pub(crate) struct Witness {
    shared: Arc<Shared>,
    thread: JoinHandle<Result<(), Error>>,
}

#[derive(Debug, Default)]
struct Shared {
    is_to_stop: AtomicBool,
    ios: AtomicU64,
    longest_us: AtomicU64,
}

impl Witness {
    pub(crate) fn start(options: Options, nsid: u32) -> Self {
        let shared = Arc::new(Shared::default());
        let its = Arc::clone(&shared);
        let thread = thread::spawn(move || run(options, nsid, &its));
        let witness = Self { shared, thread };
        witness.wait_for(DEPTH);
        witness
    }

    /// The number of verified I/Os.
    pub(crate) fn ios(&self) -> u64 {
        self.shared.ios.load(Ordering::Relaxed)
    }

    /// Waits until `more` I/Os more were verified, or the client has ended.
    pub(crate) fn wait_for(&self, more: u64) {
        let wanted = self.ios() + more;
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.ios() < wanted && !self.thread.is_finished() {
            assert!(Instant::now() < deadline, "the client beside the test makes no progress");
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Stops the client. It must have noticed nothing: no error, no wrong data, no round longer than `longest`.
    pub(crate) fn finish(self, longest: Duration) {
        self.wait_for(2 * DEPTH);
        self.shared.is_to_stop.store(true, Ordering::Relaxed);
        let noticed = self.thread.join().expect("the client beside the test found wrong data");
        noticed.expect("the client beside the test met an error");
        let took = Duration::from_micros(self.shared.longest_us.load(Ordering::Relaxed));
        assert!(took < longest, "a round of the client beside the test took {took:?}");
    }

    /// Waits until something else ends the client. Returns the cause.
    pub(crate) fn ended_by(self) -> Error {
        let ended = self.thread.join().expect("the client beside the test found wrong data");
        ended.expect_err("an error must end it")
    }
}

fn run(options: Options, nsid: u32, shared: &Shared) -> Result<(), Error> {
    let mut controller = Controller::connect(options)?;
    let namespace = controller.namespace(nsid)?;
    let mut queue = controller.io_queue(1, 32)?;
    let base = STARTED.fetch_add(1, Ordering::Relaxed) * REGION % BLOCKS;
    let mut generation = 0;
    while !shared.is_to_stop.load(Ordering::Relaxed) {
        generation += 1;
        let begun = Instant::now();
        let place = |i: u64| (base + i * BLOCKS_MAX, 1 + (generation * 7 + i * 13) % BLOCKS_MAX);
        let data = |i: u64| pattern(place(i).0, generation, usize::try_from(place(i).1).unwrap());
        for i in 0..DEPTH {
            queue.submit(namespace.write(place(i).0, data(i))?)?;
        }
        for _ in 0..DEPTH {
            queue.reap()?.ok()?;
        }
        let mut reads = Vec::new();
        for i in 0..DEPTH {
            let blocks = u32::try_from(place(i).1).unwrap();
            reads.push((i, queue.submit(namespace.read(place(i).0, blocks)?)?));
        }
        for (i, token) in reads {
            let read = queue.wait(token)?.ok()?;
            let at = read.chunks(BLOCK).zip(data(i).chunks(BLOCK)).position(|(a, b)| a != b);
            assert!(
                read.len() == data(i).len() && at.is_none(),
                "block {at:?} of place {i} differs"
            );
        }
        let took_us = u64::try_from(begun.elapsed().as_micros()).unwrap();
        shared.longest_us.fetch_max(took_us, Ordering::Relaxed);
        shared.ios.fetch_add(2 * DEPTH, Ordering::Relaxed);
        // Pause, because the client only observes and must not load the target.
        thread::sleep(Duration::from_micros(500));
    }
    drop(queue);
    controller.shutdown()
}
