//! Commands that move or change blocks.

use super::*;
use drivebay_spec_scsi::sense::asc as code;
use drivebay_spec_scsi::unmap::{self, Descriptor};

fn rw(op: u8, lba: u32, count: u16) -> [u8; 10] {
    let [a, b, c, d] = lba.to_be_bytes();
    let [high, low] = count.to_be_bytes();
    [op, 0, a, b, c, d, 0, high, low, 0]
}

fn long(op: u8, flags: u8, lba: u64, count: u32) -> Vec<u8> {
    let mut cdb = vec![op, flags];
    cdb.extend(lba.to_be_bytes());
    cdb.extend(count.to_be_bytes());
    cdb.extend([0, 0]);
    cdb
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 7 + at / 512) as u8).collect()
}

#[test]
fn what_was_written_is_read_in_pieces_and_only_on_its_unit() {
    let mut bench = Bench::new();
    let data = pattern(600 * BLOCK); // more than two pieces
    assert_eq!(bench.send_as(0, 1, &rw(0x2a, 3, 600), &data), Outcome::good());
    assert_eq!(bench.send_as(0, 1, &rw(0x28, 3, 600), &[]).data, data);
    assert!(bench.memory[0].iter().all(|byte| *byte == 0), "another unit was written");
}

#[test]
fn an_initiator_that_offers_less_moves_whole_blocks_of_it() {
    let mut bench = Bench::new();
    let offered = Offered { out_len: 700, in_len: 0 };
    let (outcome, wanted) = bench.run(bench.nexuses[0], 0, &rw(0x2a, 0, 2), &[9; 700], offered);
    assert_eq!((outcome, wanted), (Outcome::good(), 1024));
    assert_eq!((bench.memory[0][511], bench.memory[0][512]), (9, 0));
    let offered = Offered { out_len: 0, in_len: 700 };
    let (outcome, wanted) = bench.run(bench.nexuses[0], 0, &rw(0x28, 0, 2), &[], offered);
    assert_eq!((outcome.data.len(), wanted), (1024, 1024), "the transport cuts what it sends");
}

#[test]
fn blocks_past_the_end_and_protection_are_refused() {
    let mut bench = Bench::new();
    for op in [0x28, 0x2a, 0x2f, 0x34, 0x35, 0x2e] {
        assert_eq!(
            asc(&bench.send(&rw(op, 1023, 2), &[0; 1024])),
            code::LBA_OUT_OF_RANGE,
            "{op:x}"
        );
        assert_eq!(asc(&bench.send(&rw(op, 1024, 0), &[])), code::LBA_OUT_OF_RANGE, "{op:x}");
    }
    let end = long(0x88, 0, u64::MAX, 2);
    assert_eq!(asc(&bench.send(&end, &[])), code::LBA_OUT_OF_RANGE);
    let mut protected = rw(0x28, 0, 1);
    protected[1] = 0x20;
    assert_eq!(asc(&bench.send(&protected, &[])), code::INVALID_FIELD_IN_CDB);
    assert_eq!(bench.send(&rw(0x28, 5, 0), &[]), Outcome::good(), "no blocks are no error");
}

#[test]
fn compare_and_write_writes_only_where_the_blocks_are_as_expected() {
    let mut bench = Bench::new();
    let mut caw = long(0x89, 0, 8, 0);
    caw[13] = 2;
    let data = [vec![0; 1024], vec![7; 1024]].concat();
    assert_eq!(bench.send(&caw, &data), Outcome::good());
    assert_eq!(bench.memory[0][8 * BLOCK..10 * BLOCK], [7; 1024]);
    let outcome = bench.send(&caw, &data);
    assert_eq!(asc(&outcome), code::MISCOMPARE_DURING_VERIFY);
    assert_eq!(Sense::parse(&outcome.sense).unwrap().information, Some(0));
    assert_eq!(bench.memory[0][8 * BLOCK..10 * BLOCK], [7; 1024]);
    caw[13] = 255;
    assert_eq!(asc(&bench.send(&caw, &[])), code::INVALID_FIELD_IN_CDB);
}

#[test]
fn compare_and_write_waits_for_writers_and_holds_up_later_ones() {
    let mut bench = Bench::new();
    let (nexus, offered) = (bench.nexuses[0], Offered { out_len: 1024, in_len: 0 });
    let mut cdb = [0; 16];
    cdb[..10].copy_from_slice(&rw(0x2a, 0, 2));
    let mut caw = [0; 16];
    caw.copy_from_slice(&long(0x89, 0, 0, 0));
    caw[13] = 1;
    let mut first = bench.device.begin(nexus, 0, &cdb, offered, TaskKey(1));
    let mut swap = bench.device.begin(nexus, 0, &caw, offered, TaskKey(2));
    assert_eq!(swap.step(&bench.device), Next::Receive(1024));
    bench.device.received(&mut swap, &[0; 1024]);
    let mut later = bench.device.begin(nexus, 0, &cdb, offered, TaskKey(3));
    assert!(matches!(first.step(&bench.device), Next::Io(_)));
    assert_eq!(swap.step(&bench.device), Next::Wait);
    // Its data may be collected, but not written.
    assert!(matches!(later.step(&bench.device), Next::Io(_)) && !later.is_admitted());
    bench.device.finish(&mut first);
    assert_eq!(bench.device.turn(0), Some(TaskKey(2)));
    Device::admitted(&mut swap);
    assert!(matches!(swap.step(&bench.device), Next::Io(_)));
    assert_eq!(bench.device.turn(0), None);
    bench.device.finish(&mut swap);
    assert_eq!(bench.device.turn(0), Some(TaskKey(3)));
}

#[test]
fn write_same_fills_and_zeroes_within_its_limit() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(&long(0x93, 0, 0, 400), &pattern(512)), Outcome::good());
    assert_eq!(bench.memory[0][399 * BLOCK..400 * BLOCK], pattern(512));
    assert_eq!(bench.send(&long(0x93, 8, 0, 400), &[0; 512]), Outcome::good());
    assert!(bench.memory[0].iter().all(|byte| *byte == 0));
    bench.memory[0].fill(1);
    assert_eq!(bench.send(&long(0x93, 1, 4, 1), &[]), Outcome::good(), "NDOB has no data");
    assert_eq!(bench.memory[0][4 * BLOCK..5 * BLOCK], [0; 512]);
    assert_eq!(asc(&bench.send(&long(0x93, 0, 0, 0), &[0; 512])), code::INVALID_FIELD_IN_CDB);
    assert_eq!(asc(&bench.send(&long(0x93, 0x10, 0, 1), &[0; 512])), code::INVALID_FIELD_IN_CDB);
}

#[test]
fn unmap_does_all_ranges_or_none() {
    let mut bench = Bench::new();
    bench.memory[0].fill(1);
    let list = unmap::encode(&[Descriptor { lba: 0, blocks: 1 }, Descriptor { lba: 8, blocks: 2 }]);
    let len = list.len() as u8;
    assert_eq!(bench.send(&[0x42, 0, 0, 0, 0, 0, 0, 0, len, 0], &list), Outcome::good());
    let zeros = bench.memory[0].iter().filter(|byte| **byte == 0).count();
    assert_eq!(zeros, 3 * BLOCK);
    let list =
        unmap::encode(&[Descriptor { lba: 4, blocks: 1 }, Descriptor { lba: 1024, blocks: 1 }]);
    let outcome = bench.send(&[0x42, 0, 0, 0, 0, 0, 0, 0, len, 0], &list);
    assert_eq!(asc(&outcome), code::LBA_OUT_OF_RANGE);
    assert_eq!(bench.memory[0][4 * BLOCK], 1);
}

#[test]
fn verify_compares_the_data_or_one_block_of_it() {
    let mut bench = Bench::new();
    bench.memory[0].fill(5);
    let mut verify = rw(0x2f, 0, 300);
    assert_eq!(bench.send(&verify, &[]), Outcome::good());
    verify[1] = 2;
    assert_eq!(bench.send(&verify, &[5; 300 * BLOCK]), Outcome::good());
    assert_eq!(asc(&bench.send(&verify, &[4; 300 * BLOCK])), code::MISCOMPARE_DURING_VERIFY);
    verify[1] = 6;
    assert_eq!(bench.send(&verify, &[5; BLOCK]), Outcome::good());
    bench.memory[0][299 * BLOCK] = 0;
    assert_eq!(asc(&bench.send(&verify, &[5; BLOCK])), code::MISCOMPARE_DURING_VERIFY);
}

#[test]
fn a_read_only_or_protected_unit_is_not_written() {
    let mut bench = Bench::new();
    bench.device.units.get_mut(&0).unwrap().disk.read_only = true;
    for cdb in [rw(0x2a, 0, 1).to_vec(), long(0x93, 1, 0, 1), rw(0x2e, 0, 1).to_vec()] {
        assert_eq!(asc(&bench.send(&cdb, &[1; 512])), code::WRITE_PROTECTED);
    }
    assert_eq!(bench.send(&rw(0x28, 0, 1), &[]).data, [0; 512]);
    // SWP does the same, and MODE SENSE shows it.
    let mut list = vec![0, 0, 0, 0, 0x0a, 10, 0x02, 0x10, 0x08, 0, 0, 0, 0xff, 0xff, 0, 0];
    assert_eq!(bench.send_as(0, 1, &[0x15, 0x10, 0, 0, 16, 0], &list), Outcome::good());
    assert_eq!(asc(&bench.send_as(0, 1, &rw(0x2a, 0, 1), &[1; 512])), code::WRITE_PROTECTED);
    let sensed = bench.send_as(0, 1, &[0x1a, 8, 0x0a, 0, 255, 0], &[]);
    assert_eq!((sensed.data[2] & 0x80, sensed.data[8]), (0x80, 0x08));
    list[8] = 0;
    assert_eq!(bench.send_as(0, 1, &[0x15, 0x10, 0, 0, 16, 0], &list), Outcome::good());
    assert_eq!(bench.send_as(0, 1, &rw(0x2a, 0, 1), &[1; 512]), Outcome::good());
}
