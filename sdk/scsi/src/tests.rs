//! Commands to a device of two units, with a disk in memory.

#![allow(clippy::cast_possible_truncation, reason = "small numbers")]

mod blocks;
mod copies;
mod reservations;
mod space;
mod units;

use crate::{Data, Device, Disk, Identity, Next, NexusId, Offered, Outcome, TaskKey};
use drivebay_sdk::Status as IoStatus;
use drivebay_sdk::bdev::{IoResult, Op, Range};
use drivebay_spec_scsi::sense::Sense;
use drivebay_spec_scsi::status::Status;
use drivebay_spec_scsi::{lun, reservation};

const BLOCK: usize = 512;
const BLOCKS: u64 = 1024;

pub(super) fn disk(name: &str) -> Disk {
    Disk {
        name: name.into(),
        uuid: [name.as_bytes()[0]; 16],
        block_len: 512,
        blocks: BLOCKS,
        can_unmap: true,
        reads_zeros: true,
        write_cache: true,
        read_only: false,
    }
}

/// A device, the memory of its units, and three initiators.
pub(super) struct Bench {
    pub(super) device: Device,
    pub(super) memory: Vec<Vec<u8>>,
    pub(super) nexuses: Vec<NexusId>,
    last_key: u64,
}

impl Bench {
    pub(super) fn new() -> Self {
        let mut device = Device::new("iqn.2016-06.io.spdk:disk1".into());
        device.add_unit(0, disk("a"));
        device.add_unit(1, disk("b"));
        let memory = (0..2).map(|_| vec![0; BLOCK * BLOCKS as usize]).collect();
        let attach = |n: u8| device.attach(identity(n));
        let nexuses = (0..3).map(attach).collect();
        Self { device, memory, nexuses, last_key: 0 }
    }

    /// A command of the first initiator to unit 0, with everything that it offers.
    pub(super) fn send(&mut self, cdb: &[u8], out: &[u8]) -> Outcome {
        self.send_as(0, 0, cdb, out)
    }

    pub(super) fn send_as(&mut self, who: usize, unit: u16, cdb: &[u8], out: &[u8]) -> Outcome {
        let offered = Offered { out_len: out.len() as u32, in_len: 1 << 24 };
        self.run(self.nexuses[who], lun::encode(unit), cdb, out, offered).0
    }

    /// Runs a command to its end: the outcome, with what was read as its data, and the length that it means.
    pub(super) fn run(
        &mut self,
        nexus: NexusId,
        lun: u64,
        cdb: &[u8],
        out: &[u8],
        offered: Offered,
    ) -> (Outcome, u64) {
        let mut whole = [0; 16];
        whole[..cdb.len()].copy_from_slice(cdb);
        self.last_key += 1;
        let mut task = self.device.begin(nexus, lun, &whole, offered, TaskKey(self.last_key));
        let mut read = Vec::new();
        loop {
            match task.step(&self.device) {
                Next::Receive(len) => self.device.received(&mut task, &out[..len as usize]),
                Next::Wait => panic!("nothing to wait for"),
                Next::End => break,
                Next::Io(io) => {
                    let mut own = vec![0; io.len as usize];
                    task.prepare(&mut own);
                    let result = self.io(&io, out, &mut own, &mut read);
                    task.ended(&io, result, Some(&own));
                }
            }
        }
        self.device.finish(&mut task);
        let wanted = task.wanted();
        let mut outcome = task.into_outcome();
        outcome.data.extend(read);
        (outcome, wanted)
    }

    fn io(&mut self, io: &crate::Io, out: &[u8], own: &mut [u8], read: &mut Vec<u8>) -> IoResult {
        let memory = &mut self.memory[usize::from(io.unit)];
        let bytes = |range: Range| {
            let from = range.lba as usize * BLOCK;
            from..from + range.nblocks as usize * BLOCK
        };
        let given = match io.data {
            Data::Out(at) => &out[at as usize..(at + io.len) as usize],
            _ => own as &[u8],
        };
        match io.op {
            Op::Read(range) if io.data == Data::Own => own.copy_from_slice(&memory[bytes(range)]),
            Op::Read(range) => read.extend(&memory[bytes(range)]),
            Op::Write(range) => memory[bytes(range)].copy_from_slice(given),
            Op::Compare(range) if memory[bytes(range)] != *given => {
                return IoResult::new(IoStatus::MISCOMPARE);
            }
            Op::WriteZeroes(range) | Op::Unmap(range) => memory[bytes(range)].fill(0),
            _ => {}
        }
        IoResult::new(IoStatus::SUCCESS)
    }
}

pub(super) fn identity(n: u8) -> Identity {
    let transport_id = reservation::iscsi_transport_id("iqn.host", [0, 0, 0, 0, 0, n]);
    Identity { transport_id, port: 1 }
}

/// The additional sense code of an outcome that is CHECK CONDITION.
pub(super) fn asc(outcome: &Outcome) -> u16 {
    assert_eq!(outcome.status, Status::CheckCondition, "{outcome:?}");
    Sense::parse(&outcome.sense).unwrap().asc
}
