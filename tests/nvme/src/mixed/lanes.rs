//! The load on one queue: lanes of blocks that no other client writes. Each lane has one command outstanding, and
//! every answer is verified.

use crate::counts::{Counts, add};
use crate::random::Random;
use crate::stamp::{Held, block};
use crate::target::BLOCK;
use drivebay_nvme_driver::spec::Status;
use drivebay_nvme_driver::{Completed, Error, Namespace, Queue, Request, Token};
use std::ops::Range;
use std::sync::atomic::AtomicU64;
use std::thread;
use std::time::Duration;

/// The maximum number of blocks of a command: 128 KiB.
const LEN_MAX: usize = 256;
/// How long to wait for an answer between two checks of the time.
const PATIENCE: Duration = Duration::from_millis(20);
/// The pause between two commands of a lane whose namespace is removed.
const AWAY: Duration = Duration::from_millis(1);

/// A disk, and how it behaves.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Disk {
    pub(crate) nsid: u32,
    /// Whether it keeps written data. Otherwise it reads as zeroes.
    pub(crate) keeps: bool,
    /// The statuses with which it may refuse commands because the namespace is being removed.
    pub(crate) refusals: &'static [Status],
}

/// The load on a queue.
#[derive(Debug)]
pub(crate) struct Lanes<'a> {
    disk: Disk,
    namespace: Namespace,
    lanes: Vec<Lane>,
    random: Random,
    generation: u64,
    counts: &'a Counts,
}

#[derive(Debug)]
struct Lane {
    /// The first block of the lanes.
    base: u64,
    held: Vec<Held>,
    doing: Option<(Token, Doing)>,
}

#[derive(Clone, Debug)]
enum Doing {
    Read(Range<usize>),
    Write(Range<usize>, u64),
    Zero(Range<usize>),
    Unmap(Range<usize>),
    /// Compares blocks with their data (`true`), or with wrong data.
    Compare(Range<usize>, bool),
    Flush,
}

impl<'a> Lanes<'a> {
    /// Makes `count` lanes of `len` blocks each, from block `base` on.
    pub(crate) fn new(
        disk: Disk,
        namespace: Namespace,
        base: u64,
        (count, len): (usize, usize),
        seed: u64,
        counts: &'a Counts,
    ) -> Self {
        let lane = |i: usize| Lane {
            base: base + (i * len) as u64,
            held: vec![Held::Any; len],
            doing: None,
        };
        let lanes = (0..count).map(lane).collect();
        // Two loads that use the same place one after another have different generations.
        let generation = seed << 32;
        Self { disk, namespace, lanes, random: Random::new(seed), generation, counts }
    }

    /// Writes all blocks of all lanes.
    pub(crate) fn fill(&mut self, queue: &mut Queue) -> Result<(), String> {
        for i in 0..self.lanes.len() {
            let len = self.lanes[i].held.len();
            for start in (0..len).step_by(LEN_MAX) {
                let doing = self.write(start..len.min(start + LEN_MAX));
                self.submit(queue, i, doing)?;
                let (token, _) = self.lanes[i].doing.as_ref().unwrap();
                let completed = queue.wait(*token).map_err(|error| self.failed("fill", &error))?;
                self.completed(completed)?;
            }
        }
        Ok(())
    }

    /// Runs until `is_over`, then waits for the outstanding commands.
    pub(crate) fn run(
        &mut self,
        queue: &mut Queue,
        is_over: impl FnMut(u64) -> bool,
    ) -> Result<(), String> {
        self.run_and_leave(queue, is_over)?;
        while queue.outstanding() > 0 {
            let completed = queue.reap().map_err(|error| self.failed("the end", &error))?;
            self.completed(completed)?;
        }
        Ok(())
    }

    /// Runs until `is_over`, which gets the number of answered commands. Leaves commands outstanding.
    pub(crate) fn run_and_leave(
        &mut self,
        queue: &mut Queue,
        mut is_over: impl FnMut(u64) -> bool,
    ) -> Result<(), String> {
        let mut answered = 0;
        while !is_over(answered) {
            for lane in 0..self.lanes.len() {
                if self.lanes[lane].doing.is_none() {
                    let doing = self.choose(lane);
                    self.submit(queue, lane, doing)?;
                }
            }
            let polled = queue.poll(PATIENCE).map_err(|error| self.failed("a poll", &error))?;
            let mut next = polled;
            while let Some(completed) = next {
                answered += 1;
                self.completed(completed)?;
                next = queue.ready();
            }
        }
        Ok(())
    }

    fn choose(&mut self, lane: usize) -> Doing {
        let range = self.range(lane);
        let known =
            || self.lanes[lane].held[range.clone()].iter().all(|held| held.generation().is_some());
        match self.random.below(100) {
            0..42 => Doing::Read(range),
            42..84 => self.write(range),
            84..88 => Doing::Zero(range),
            88..91 => Doing::Unmap(range),
            91..97 if self.disk.keeps && known() => Doing::Compare(range, self.random.below(4) > 0),
            91..97 => Doing::Read(range),
            _ => Doing::Flush,
        }
    }

    fn write(&mut self, range: Range<usize>) -> Doing {
        self.generation += 1;
        Doing::Write(range, self.generation)
    }

    /// Chooses some blocks of a lane: one, a few, or many.
    fn range(&mut self, lane: usize) -> Range<usize> {
        let whole = self.lanes[lane].held.len();
        let most = [1, 8, 8, 32, LEN_MAX][self.random.below(5)].min(whole);
        let len = 1 + self.random.below(most);
        let start = self.random.below(whole - len + 1);
        start..start + len
    }

    fn submit(&mut self, queue: &mut Queue, lane: usize, doing: Doing) -> Result<(), String> {
        let request = self
            .request(&self.lanes[lane], &doing)
            .map_err(|error| self.failed("a request", &error))?;
        let token = queue.submit(request).map_err(|error| self.failed("a submission", &error))?;
        self.lanes[lane].doing = Some((token, doing));
        Ok(())
    }

    fn request(&self, lane: &Lane, doing: &Doing) -> Result<Request, Error> {
        let at = |range: &Range<usize>| lane.base + range.start as u64;
        let len = |range: &Range<usize>| u32::try_from(range.len()).unwrap();
        let bytes = |range: &Range<usize>, generation: &dyn Fn(usize) -> u64| -> Vec<u8> {
            range
                .clone()
                .flat_map(|i| block(self.disk.nsid, lane.base + i as u64, generation(i)))
                .collect()
        };
        match doing {
            Doing::Read(range) => self.namespace.read(at(range), len(range)),
            Doing::Write(range, generation) => {
                let data = bytes(range, &|_| *generation);
                // One write in eight has force unit access.
                let write =
                    if generation % 8 == 0 { Namespace::write_fua } else { Namespace::write };
                write(&self.namespace, at(range), data)
            }
            Doing::Zero(range) => self.namespace.write_zeroes(at(range), len(range), false),
            Doing::Unmap(range) => self.namespace.deallocate(&[(at(range), len(range))]),
            Doing::Compare(range, is_right) => {
                let mut data = bytes(range, &|i| lane.held[i].generation().unwrap_or(0));
                if !is_right {
                    let last = data.len() - 1;
                    data[last] ^= 1;
                }
                self.namespace.compare(at(range), data)
            }
            Doing::Flush => Ok(self.namespace.flush()),
        }
    }

    fn completed(&mut self, completed: Completed) -> Result<(), String> {
        let is_its =
            |lane: &Lane| lane.doing.as_ref().is_some_and(|(token, _)| *token == completed.token);
        let lane = self.lanes.iter().position(is_its).ok_or("an answer without a command")?;
        let (_, doing) = self.lanes[lane].doing.take().unwrap();
        let status = completed.completion.status;
        if self.disk.refusals.contains(&status) {
            // The connection is gone, so nobody knows whether the command was executed.
            if let Doing::Write(range, _) | Doing::Zero(range) | Doing::Unmap(range) = doing {
                self.lanes[lane].held[range].fill(Held::Any);
            }
            add(&self.counts.refused, 1);
            thread::sleep(AWAY);
            return Ok(());
        }
        let nsid = self.disk.nsid;
        match doing {
            Doing::Compare(_, false) if status.code() == Status::COMPARE_FAILURE => {}
            Doing::Compare(range, false) => {
                return Err(format!(
                    "namespace {nsid}: a compare of {range:?} with other data ended with {status}"
                ));
            }
            _ if !status.is_success() => {
                let base = self.lanes[lane].base;
                return Err(format!("namespace {nsid}: {doing:?} from {base} ended with {status}"));
            }
            _ => {}
        }
        self.done(lane, doing, &completed.data)
    }

    fn done(&mut self, lane: usize, doing: Doing, data: &[u8]) -> Result<(), String> {
        let Self { disk, counts, .. } = self;
        let Lane { base, held, .. } = &mut self.lanes[lane];
        let zeroes = Held::One(0);
        let kept = |held: Held| if disk.keeps { held } else { zeroes };
        let one = |counter: &AtomicU64| add(counter, 1);
        match doing {
            Doing::Read(range) => {
                if data.len() != range.len() * BLOCK {
                    return Err(format!(
                        "namespace {}: {} bytes for {range:?}",
                        disk.nsid,
                        data.len()
                    ));
                }
                for (i, bytes) in range.zip(data.chunks_exact(BLOCK)) {
                    kept(held[i])
                        .check(disk.nsid, *base + i as u64, bytes)
                        .map_err(|wrong| wrong.to_string())?;
                    add(&counts.blocks_verified, u64::from(held[i] != Held::Any));
                }
                one(&counts.reads);
                add(&counts.bytes_read, data.len() as u64);
            }
            Doing::Write(range, generation) => {
                one(&counts.writes);
                add(&counts.bytes_written, (range.len() * BLOCK) as u64);
                held[range].fill(kept(Held::One(generation)));
            }
            Doing::Zero(range) => {
                one(&counts.zeroings);
                held[range].fill(zeroes);
            }
            Doing::Unmap(range) => {
                one(&counts.unmaps);
                for held in &mut held[range] {
                    *held = held.generation().map_or(Held::Any, Held::OrZeroes);
                }
            }
            Doing::Compare(range, _) => {
                one(&counts.compares);
                add(&counts.blocks_verified, range.len() as u64);
            }
            Doing::Flush => one(&counts.flushes),
        }
        Ok(())
    }

    fn failed(&self, what: &str, error: &Error) -> String {
        format!("namespace {}: {what}: {error}", self.disk.nsid)
    }
}
