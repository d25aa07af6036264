//! Unmap and write zeroes. The bus does not split them at clusters, so this code walks through the clusters.
//!
//! Clusters that are neighbors on the base share one child I/O. An unmap gives whole clusters back to the store.
//! What the store does not take back is unmapped on the base.

use crate::map::Entry;
use crate::requests::{self, Need};
use crate::volume::ThreadState;
use drivebay_sdk::bdev::FanOut;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::Resident;
use std::rc::Rc;

/// An I/O that walks through the clusters of its range.
#[derive(Debug)]
pub(crate) struct Walk {
    parent: FanOut,
    rest: Range,
    /// Blocks of the base for the next child.
    run: Range,
}

impl Walk {
    fn new(io: BdevIo, range: Range) -> Self {
        Self { parent: io.fan_out(), rest: range, run: Range::new(0, 0) }
    }

    /// The cluster of the next block, and the part of the range in that cluster.
    fn next(&self, per_cluster: u64) -> Option<(u64, Range)> {
        let Range { lba, nblocks } = self.rest;
        let left = per_cluster - lba % per_cluster;
        (nblocks > 0).then(|| (lba / per_cluster, Range::new(lba, nblocks.min(left))))
    }

    fn advance(&mut self, nblocks: u64) {
        self.rest = Range::new(self.rest.lba + nblocks, self.rest.nblocks - nblocks);
    }

    /// Completes the I/O with a failure, after its children have ended.
    pub(crate) fn fail(mut self, status: Status) {
        self.parent.fail(status);
    }
}

impl ThreadState {
    /// Writes zeroes, from the next cluster of the walk to the end of the range.
    pub(crate) fn write_zeroes(self: &Rc<Self>, own: &Resident<Self>, mut walk: Walk) {
        while let Some((index, blocks)) = walk.next(self.blocks_per_cluster) {
            match self.entry(index) {
                Entry::Own(cluster) => self.add_to_run(&mut walk, index, cluster, blocks),
                Entry::Zero => {}
                Entry::Changing => return self.hold(own, index, Need::Settled, walk),
                Entry::Inherited(_) | Entry::External => {
                    return self.hold(own, index, Need::Cluster, walk);
                }
            }
            walk.advance(blocks.nblocks);
        }
        self.send_run(&mut walk);
    }

    pub(crate) fn begin_write_zeroes(
        self: &Rc<Self>,
        own: &Resident<Self>,
        io: BdevIo,
        range: Range,
    ) {
        self.write_zeroes(own, Walk::new(io, range));
    }

    /// Releases the clusters that the range covers completely, and unmaps parts of others on the base.
    pub(crate) fn unmap(self: &Rc<Self>, own: &Resident<Self>, io: BdevIo, range: Range) {
        let mut walk = Walk::new(io, range);
        let is_thin = self.map().is_thin();
        let mut whole = Vec::new();
        while let Some((index, blocks)) = walk.next(self.blocks_per_cluster) {
            // Without a cluster of its own, the volume may read the same as before.
            if let Entry::Own(cluster) = self.entry(index) {
                match u32::try_from(index) {
                    Ok(index) if is_thin && blocks.nblocks == self.blocks_per_cluster => {
                        whole.push(index);
                    }
                    _ => self.add_to_run(&mut walk, index, cluster, blocks),
                }
            }
            walk.advance(blocks.nblocks);
        }
        self.send_run(&mut walk);
        if whole.is_empty() {
            return;
        }
        let job = self.add_unmap(walk);
        requests::unmap(&self.store_uuid, self.id, whole, job, own.clone());
    }

    /// Ends an unmap: the store has taken its clusters away, except those in `kept`.
    pub(crate) fn unmapped(&self, job: u64, kept: &[u32]) {
        let Some(mut walk) = self.take_unmap(job) else { return };
        for index in kept.iter().map(|index| u64::from(*index)) {
            if let Entry::Own(cluster) = self.entry(index) {
                let blocks = Range::new(index * self.blocks_per_cluster, self.blocks_per_cluster);
                self.add_to_run(&mut walk, index, cluster, blocks);
            }
        }
        self.send_run(&mut walk);
        drop(walk);
        self.flush();
    }

    /// Adds blocks in one cluster of the volume to the run. Sends the run first if they do not follow it.
    fn add_to_run(&self, walk: &mut Walk, index: u64, cluster: u64, blocks: Range) {
        let in_cluster = blocks.lba - index * self.blocks_per_cluster;
        let lba = cluster * self.blocks_per_cluster + in_cluster;
        if walk.run.lba + walk.run.nblocks == lba {
            walk.run.nblocks += blocks.nblocks;
            return;
        }
        self.send_run(walk);
        walk.run = Range::new(lba, blocks.nblocks);
    }

    fn send_run(&self, walk: &mut Walk) {
        let run = std::mem::replace(&mut walk.run, Range::new(0, 0));
        if run.nblocks == 0 {
            return;
        }
        let op = match walk.parent.op() {
            Op::Unmap(_) if !self.base_unmaps => return,
            Op::Unmap(_) => Op::Unmap(run),
            _ => Op::WriteZeroes(run),
        };
        match &*self.base.borrow() {
            Some(base) => walk.parent.send(base, op, 0),
            None => walk.parent.fail(Status::IO_ERROR),
        }
    }
}
