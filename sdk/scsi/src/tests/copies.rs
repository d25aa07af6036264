//! EXTENDED COPY and what is asked about it.

use super::*;
use crate::Task;
use drivebay_spec_scsi::copy::{Named, Parameters, Segment};
use drivebay_spec_scsi::sense::{Key, asc as code};

const RESULTS: [u8; 16] = [0x84, 0, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];

impl Bench {
    /// A unit, as INQUIRY names it.
    fn named(&mut self, unit: u16) -> Named {
        let page = self.send_as(0, unit, &[0x12, 1, 0x83, 1, 0, 0], &[]).data;
        let len = usize::from(page[7]);
        Named { is_null: false, designator: page[4..8 + len].to_vec() }
    }

    /// Parameters with both units, 0 and 1.
    fn copy(&mut self, segments: &[Segment]) -> Parameters {
        let devices = vec![self.named(0), self.named(1)];
        Parameters { list: Some(7), devices, segments: segments.to_vec() }
    }

    /// Begins a copy, which then waits for its first I/O or has ended.
    fn begin_copy(&mut self, number: u64, parameters: &Parameters) -> Task {
        let list = parameters.encode();
        let offered = Offered { out_len: list.len() as u32, in_len: 0 };
        let mut cdb = [0; 16];
        (cdb[0], cdb[13]) = (0x83, list.len() as u8);
        let mut copy = self.device.begin(self.nexuses[0], 0, &cdb, offered, TaskKey(number));
        self.device.received(&mut copy, &list);
        copy
    }

    fn xcopy(&mut self, parameters: &Parameters) -> Outcome {
        self.xcopy_as(0, parameters)
    }

    fn xcopy_as(&mut self, who: usize, parameters: &Parameters) -> Outcome {
        let list = parameters.encode();
        let [high, low] = (list.len() as u16).to_be_bytes();
        let cdb = [0x83, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, high, low, 0, 0];
        self.send_as(who, 0, &cdb, &list)
    }
}

fn segment(source: u16, source_lba: u64, destination: u16, to: u64, blocks: u16) -> Segment {
    let counts_destination = false;
    Segment { source, destination, blocks, counts_destination, source_lba, destination_lba: to }
}

fn key(outcome: &Outcome) -> (Key, u16) {
    let sense = Sense::parse(&outcome.sense).unwrap();
    (sense.key, sense.asc)
}

#[test]
fn blocks_are_copied_in_pieces_to_another_unit_and_the_status_is_reported_once() {
    let mut bench = Bench::new();
    let data: Vec<u8> = (0..700 * BLOCK).map(|at| (at / BLOCK * 3 + at) as u8).collect();
    bench.memory[0][..700 * BLOCK].copy_from_slice(&data);
    let copy = bench.copy(&[segment(0, 0, 1, 100, 600), segment(0, 600, 1, 900, 100)]);
    assert_eq!(bench.xcopy(&copy), Outcome::good());
    assert_eq!(bench.memory[1][100 * BLOCK..700 * BLOCK], data[..600 * BLOCK]);
    assert_eq!(bench.memory[1][900 * BLOCK..1000 * BLOCK], data[600 * BLOCK..]);
    assert!(bench.memory[1][..100 * BLOCK].iter().all(|byte| *byte == 0));

    assert_eq!(asc(&bench.send_as(1, 0, &RESULTS, &[])), code::INVALID_FIELD_IN_CDB);
    let status = bench.send(&RESULTS, &[]).data;
    let len = 700_u32 * BLOCK as u32;
    assert_eq!(status[..8], [0, 0, 0, 8, 1, 0, 2, 0]);
    assert_eq!(status[8..], len.to_be_bytes());
    assert_eq!(asc(&bench.send(&RESULTS, &[])), code::INVALID_FIELD_IN_CDB);
}

#[test]
fn a_unit_of_another_device_is_not_reached_and_nothing_is_copied() {
    let mut bench = Bench::new();
    bench.memory[0].fill(5);
    let good = segment(0, 0, 1, 0, 1);
    let mut copy = bench.copy(&[good, good]);
    copy.devices[1].designator[5] ^= 1;
    let unreachable = (Key::CopyAborted, code::COPY_TARGET_DEVICE_NOT_REACHABLE);
    assert_eq!(key(&bench.xcopy(&copy)), unreachable);
    copy = bench.copy(&[good, segment(0, 0, 2, 0, 1)]);
    assert_eq!(key(&bench.xcopy(&copy)), unreachable);
    copy = bench.copy(&[good]);
    copy.devices[0].is_null = true;
    assert_eq!(key(&bench.xcopy(&copy)), unreachable);
    assert!(bench.memory[1].iter().all(|byte| *byte == 0));
}

#[test]
fn segments_past_an_end_and_to_several_units_are_refused_before_anything_is_copied() {
    let mut bench = Bench::new();
    bench.memory[0].fill(5);
    let good = segment(0, 0, 1, 0, 1);
    for (bad, wanted) in [
        (segment(0, 1023, 1, 0, 2), (Key::CopyAborted, code::NONE)),
        (segment(0, u64::MAX, 1, 0, 2), (Key::CopyAborted, code::NONE)),
        (segment(0, 0, 1, 1024, 1), (Key::CopyAborted, code::NONE)),
        (segment(1, 0, 0, 0, 1), (Key::IllegalRequest, code::INVALID_FIELD_IN_PARAMETER_LIST)),
    ] {
        let copy = bench.copy(&[good, bad]);
        assert_eq!(key(&bench.xcopy(&copy)), wanted, "{bad:?}");
    }
    assert!(bench.memory[1].iter().all(|byte| *byte == 0));
}

#[test]
fn a_reservation_or_write_protection_of_either_unit_counts() {
    let mut bench = Bench::new();
    let copy = bench.copy(&[segment(0, 0, 1, 0, 1)]);
    assert_eq!(bench.send_as(1, 1, &[0x16, 0, 0, 0, 0, 0], &[]), Outcome::good());
    assert_eq!(bench.xcopy(&copy).status, Status::ReservationConflict);
    assert_eq!(bench.send_as(1, 1, &[0x17, 0, 0, 0, 0, 0], &[]), Outcome::good());
    assert_eq!(bench.xcopy(&copy), Outcome::good());
    bench.device.units.get_mut(&1).unwrap().disk.read_only = true;
    assert_eq!(asc(&bench.xcopy(&copy)), code::WRITE_PROTECTED);
}

#[test]
fn a_copy_waits_at_the_gate_of_its_destination_and_an_identifier_in_use_is_refused() {
    let mut bench = Bench::new();
    let parameters = bench.copy(&[segment(0, 0, 1, 0, 8)]);
    let mut copy = bench.begin_copy(1, &parameters);
    let Next::Io(read) = copy.step(&bench.device) else { panic!("a read") };
    assert_eq!((read.unit, read.op), (0, Op::Read(Range::new(0, 8))));
    assert!(copy.touches(0) && copy.touches(1) && copy.gate_unit() == 1);
    assert_eq!(copy.step(&bench.device), Next::Wait);

    assert_eq!(asc(&bench.xcopy(&parameters)), code::OPERATION_IN_PROGRESS);
    assert_eq!(bench.send(&RESULTS, &[]).data[4], 0);

    // A read that has failed ends the copy; nothing is written.
    copy.ended(&read, IoResult::new(IoStatus::MEDIA), None);
    assert_eq!(copy.step(&bench.device), Next::End);
    bench.device.finish(&mut copy);
    let failed = (Key::CopyAborted, code::THIRD_PARTY_DEVICE_FAILURE);
    assert_eq!(key(&copy.into_outcome()), failed);
    assert_eq!(bench.send(&RESULTS, &[]).data[4], 2);
}

#[test]
fn a_device_executes_as_many_copies_at_once_as_it_reports() {
    let mut bench = Bench::new();
    let copy = bench.copy(&[segment(0, 0, 1, 0, 8)]);
    let unlisted = Parameters { list: None, ..copy };
    let operating = [0x84, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let reported = u64::from(bench.send(&operating, &[]).data[36]);
    let mut copies: Vec<_> = (0..reported).map(|at| bench.begin_copy(at, &unlisted)).collect();
    assert!(copies.iter_mut().all(|copy| matches!(copy.step(&bench.device), Next::Io(_))));
    assert_eq!(bench.xcopy(&unlisted).status, Status::TaskSetFull);
    bench.device.finish(&mut copies[0]);
    assert_eq!(bench.xcopy(&unlisted), Outcome::good());
}

#[test]
fn a_copy_within_a_unit_is_right_though_its_parts_overlap() {
    let data: Vec<u8> = (0..700 * BLOCK).map(|at| (at / BLOCK * 3 + at) as u8).collect();
    for (from, to) in [(0, 10), (10, 0), (0, 600), (5, 5)] {
        let mut bench = Bench::new();
        let place = |lba: u64| lba as usize * BLOCK..(lba as usize + 400) * BLOCK;
        bench.memory[0][..data.len()].copy_from_slice(&data);
        let mut wanted = bench.memory[0].clone();
        wanted.copy_within(place(from), place(to).start);
        let copy = bench.copy(&[segment(0, from, 0, to, 400)]);
        assert_eq!(bench.xcopy(&copy), Outcome::good());
        assert!(bench.memory[0] == wanted, "{from} to {to}");
    }
}

#[test]
fn a_reservation_that_comes_during_a_copy_stops_it_before_the_next_io() {
    for (unit, ios) in [(0, 2), (1, 1), (1, 2)] {
        let mut bench = Bench::new();
        let parameters = bench.copy(&[segment(0, 0, 1, 0, 600)]);
        let mut copy = bench.begin_copy(1, &parameters);
        for number in 1..=ios {
            let Next::Io(io) = copy.step(&bench.device) else { panic!("I/O {number}") };
            if number == ios {
                // Another initiator reserves the unit while the I/O is in flight.
                let reserve = [0x16, 0, 0, 0, 0, 0];
                assert_eq!(bench.send_as(1, unit, &reserve, &[]), Outcome::good());
                assert_eq!(copy.step(&bench.device), Next::Wait);
            }
            let memory = vec![0; io.len as usize];
            copy.ended(&io, IoResult::new(IoStatus::SUCCESS), Some(&memory));
        }
        assert_eq!(copy.step(&bench.device), Next::End);
        bench.device.finish(&mut copy);
        let stopped = (Key::CopyAborted, code::THIRD_PARTY_DEVICE_FAILURE);
        assert_eq!(key(&copy.into_outcome()), stopped, "unit {unit} after {ios} I/Os");
    }
}
