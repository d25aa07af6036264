//! `perf`: one queue, a fixed number of commands outstanding, for some seconds.

use crate::histogram::Histogram;
use crate::random::Random;
use crate::{At, Found};
use clap::{Args, ValueEnum};
use drivebay_nvme_driver::{Error, Namespace, Queue, Request, Token};
use serde_json::json;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Args, Debug)]
pub(crate) struct Perf {
    #[command(flatten)]
    pub(crate) at: At,
    /// NQN of the subsystem
    #[arg(long, short)]
    nqn: String,
    /// Namespace identifier
    #[arg(long, short = 'i', default_value_t = 1)]
    nsid: u32,
    /// Number of commands outstanding
    #[arg(long, short = 'q', default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=1024))]
    depth: u16,
    /// Data of a command, in bytes: a multiple of the block size
    #[arg(long, short = 'o', default_value_t = 4096)]
    io_size: u32,
    /// Access pattern
    #[arg(long, short = 'w', value_enum, default_value_t = Pattern::Randread)]
    pattern: Pattern,
    /// Duration, in seconds
    #[arg(long, short = 't', default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=86400))]
    time: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Pattern {
    Read,
    Write,
    Randread,
    Randwrite,
}

/// Chooses the place of each command in the namespace.
struct Places {
    namespace: Namespace,
    pattern: Pattern,
    blocks: u32,
    /// The number of places.
    count: u64,
    next: u64,
    random: Random,
}

impl Places {
    fn request(&mut self) -> Result<Request, Error> {
        let place = match self.pattern {
            Pattern::Read | Pattern::Write => {
                self.next = (self.next + 1) % self.count;
                self.next
            }
            Pattern::Randread | Pattern::Randwrite => self.random.below(self.count),
        };
        let slba = place * u64::from(self.blocks);
        match self.pattern {
            Pattern::Read | Pattern::Randread => self.namespace.read(slba, self.blocks),
            Pattern::Write | Pattern::Randwrite => {
                let len = self.blocks as usize * self.namespace.block_size as usize;
                self.namespace.write(slba, vec![0xa5; len])
            }
        }
    }
}

impl Perf {
    pub(crate) fn run(&self) -> Result<Found, Error> {
        let mut controller = self.at.connect(&self.nqn)?;
        controller.set_queues(1)?;
        let namespace = controller.namespace(self.nsid)?;
        let places = self.places(namespace)?;
        let mut queue = controller.io_queue(1, self.depth.saturating_add(1))?;
        let measured = self.measure(&mut queue, places)?;
        controller.shutdown()?;
        Ok(measured)
    }

    fn places(&self, namespace: Namespace) -> Result<Places, Error> {
        let block_size = namespace.block_size;
        let blocks = self.io_size / block_size;
        let count = namespace.num_blocks / u64::from(blocks.max(1));
        if blocks == 0 || !self.io_size.is_multiple_of(block_size) || count == 0 {
            let why = format!(
                "--io-size {}: allowed: a multiple of {block_size} that the namespace holds",
                self.io_size
            );
            return Err(Error::Argument(why));
        }
        Ok(Places { namespace, pattern: self.pattern, blocks, count, next: 0, random: Random(1) })
    }

    fn measure(&self, queue: &mut Queue, mut places: Places) -> Result<Found, Error> {
        let began = Instant::now();
        let end = began + Duration::from_secs(self.time);
        let mut sent: HashMap<Token, Instant> = HashMap::new();
        let mut latencies = Histogram::default();
        loop {
            let now = Instant::now();
            while now < end && queue.outstanding() < usize::from(self.depth) {
                sent.insert(queue.submit(places.request()?)?, now);
            }
            if queue.outstanding() == 0 {
                break;
            }
            let completed = queue.reap()?;
            let token = completed.token;
            completed.ok()?;
            if let Some(at) = sent.remove(&token) {
                latencies.add(u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX));
            }
        }
        Ok(self.report(&latencies, began.elapsed().as_secs_f64()))
    }

    fn report(&self, latencies: &Histogram, seconds: f64) -> Found {
        let (count, mean, max) = (latencies.count(), latencies.mean_us(), latencies.max_us());
        let iops = count as f64 / seconds;
        let mib = iops * f64::from(self.io_size) / f64::from(1 << 20);
        let [p50, p99, p999] =
            [500_000, 990_000, 999_000].map(|millionths| latencies.at_us(millionths));
        let text = format!(
            "{iops:.0} I/O per second, {mib:.1} MiB/s\n\
             latency in µs: mean {mean:.1}, 50 % {p50:.1}, 99 % {p99:.1}, 99.9 % {p999:.1}, longest {max:.1}\n"
        );
        let json = json!({
            "ios": count,
            "seconds": seconds,
            "iops": iops,
            "mib_per_second": mib,
            "latency_us": {"mean": mean, "p50": p50, "p99": p99, "p99_9": p999, "max": max},
        });
        Found { text, json }
    }
}
