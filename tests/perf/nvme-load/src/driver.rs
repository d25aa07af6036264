//! Keeps I/O in flight. Each core that the program may use has one polling thread with its share of the
//! connections.
//!
//! A thread serves its connections in turn. It waits for one completion of a connection, submits the next I/O
//! there, and continues with the next connection. So all connections have their full depth in flight.

use crate::plan::Plan;
use crate::report::Report;
use drivebay_nvme_driver::{Error, Namespace, Queue, Request, Token};
use std::time::{Duration, Instant};

/// A connection, and the start times of its I/O.
struct Lane {
    queue: Queue,
    began: Vec<(Token, Instant)>,
    left: u64,
}

pub(crate) fn run(plan: &Plan, queues: Vec<Queue>, namespace: Namespace) -> Result<Report, String> {
    // With more threads than cores, each thread would run for milliseconds while completions for the others wait.
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = queues.len().div_ceil(threads).max(1);
    let mut lanes = queues.into_iter().map(|queue| Lane {
        queue,
        began: Vec::with_capacity(usize::from(plan.depth)),
        left: plan.ios.unwrap_or(u64::MAX),
    });
    let mut groups: Vec<Vec<Lane>> = Vec::new();
    loop {
        let group: Vec<Lane> = lanes.by_ref().take(share).collect();
        if group.is_empty() {
            break;
        }
        groups.push(group);
    }
    let began = Instant::now();
    let results: Vec<Result<Vec<u32>, Error>> = std::thread::scope(|scope| {
        let drivers = groups.into_iter().enumerate().map(|(seed, group)| {
            scope.spawn(move || Driver::new(plan, namespace, seed as u64).drive(group))
        });
        let drivers: Vec<_> = drivers.collect();
        drivers.into_iter().filter_map(|driver| driver.join().ok()).collect()
    });
    let elapsed = began.elapsed();
    let mut latencies_ns = Vec::new();
    for result in results {
        latencies_ns.extend(result.map_err(|error| error.to_string())?);
    }
    Ok(Report::new(latencies_ns, elapsed))
}

struct Driver<'a> {
    plan: &'a Plan,
    namespace: Namespace,
    blocks: u32,
    random: u64,
    end: Option<Instant>,
    latencies_ns: Vec<u32>,
}

impl<'a> Driver<'a> {
    fn new(plan: &'a Plan, namespace: Namespace, seed: u64) -> Self {
        let end = plan.ios.is_none().then(|| Instant::now() + plan.time);
        let blocks = plan.io_size / namespace.block_size;
        let random = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { plan, namespace, blocks, random, end, latencies_ns: Vec::new() }
    }

    /// Runs until all I/O is done. Returns the latencies in nanoseconds.
    fn drive(mut self, mut lanes: Vec<Lane>) -> Result<Vec<u32>, Error> {
        for lane in &mut lanes {
            lane.queue.set_polled(true)?;
            while lane.began.len() < usize::from(self.plan.depth) && lane.left > 0 {
                self.submit(lane)?;
            }
            lane.queue.flush()?;
        }
        while lanes.iter().any(|lane| !lane.began.is_empty()) {
            for lane in lanes.iter_mut().filter(|lane| !lane.began.is_empty()) {
                self.turn(lane)?;
            }
        }
        Ok(self.latencies_ns)
    }

    /// Takes the completed I/O of a connection, at least one, and submits as many new ones.
    fn turn(&mut self, lane: &mut Lane) -> Result<(), Error> {
        let first = lane.queue.reap()?;
        let mut next = Some(first);
        while let Some(completed) = next {
            let token = completed.token;
            completed.ok()?;
            if let Some(place) = lane.began.iter().position(|(begun, _)| *begun == token) {
                let (_, began) = lane.began.swap_remove(place);
                let ns = began.elapsed().as_nanos();
                self.latencies_ns.push(u32::try_from(ns).unwrap_or(u32::MAX));
            }
            next = lane.queue.ready();
        }
        if self.end.is_some_and(|end| Instant::now() >= end) {
            lane.left = 0;
        }
        while lane.began.len() < usize::from(self.plan.depth) && lane.left > 0 {
            self.submit(lane)?;
        }
        lane.queue.flush()
    }

    fn submit(&mut self, lane: &mut Lane) -> Result<(), Error> {
        if self.plan.pause > Duration::ZERO {
            std::thread::sleep(self.plan.pause);
        }
        let request = self.request()?;
        lane.left -= 1;
        let began = Instant::now();
        let token = lane.queue.submit(request)?;
        lane.began.push((token, began));
        Ok(())
    }

    /// Makes an I/O at a random place in the namespace.
    fn request(&mut self) -> Result<Request, Error> {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let units = (self.namespace.num_blocks / u64::from(self.blocks)).max(1);
        let slba = self.random % units * u64::from(self.blocks);
        if self.plan.write {
            let len = usize::try_from(self.plan.io_size).unwrap_or_default();
            self.namespace.write(slba, vec![0x5a; len])
        } else {
            self.namespace.read(slba, self.blocks)
        }
    }
}
