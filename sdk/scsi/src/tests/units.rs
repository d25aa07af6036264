//! What initiators learn about units.

use super::*;
use drivebay_spec_scsi::sense::asc as code;

const TUR: [u8; 6] = [0; 6];

#[test]
fn a_lun_without_a_unit_is_reported_and_any_lun_lists_the_units() {
    let mut bench = Bench::new();
    let (nexus, offered) = (bench.nexuses[0], Offered { out_len: 0, in_len: 4096 });
    let inquiry = [0x12, 0, 0, 0, 96, 0];
    let (outcome, _) = bench.run(nexus, lun::encode(7), &inquiry, &[], offered);
    assert_eq!((outcome.status, outcome.data[0]), (Status::Good, 0x7f));
    let (outcome, _) = bench.run(nexus, lun::encode(7), &TUR, &[], offered);
    assert_eq!(asc(&outcome), code::LOGICAL_UNIT_NOT_SUPPORTED);
    let list = [0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0];
    let (outcome, _) = bench.run(nexus, lun::encode(7), &list, &[], offered);
    assert_eq!((outcome.data[3], outcome.data[17]), (16, 1));
}

#[test]
fn changes_of_units_are_unit_attentions_that_are_reported_once() {
    let mut bench = Bench::new();
    assert_eq!(bench.send(&TUR, &[]), Outcome::good());
    bench.device.resize_unit(0, 2048);
    bench.device.add_unit(2, disk("c"));
    assert_eq!(bench.send(&[0x12, 0, 0, 0, 96, 0], &[]).status, Status::Good, "INQUIRY passes");
    assert_eq!(asc(&bench.send(&TUR, &[])), code::CAPACITY_DATA_HAS_CHANGED);
    assert_eq!(asc(&bench.send(&TUR, &[])), code::REPORTED_LUNS_DATA_HAS_CHANGED);
    assert_eq!(bench.send(&TUR, &[]), Outcome::good());
    // REPORT LUNS answers the question, on every unit.
    assert_eq!(bench.send(&[0xa0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0], &[]).status, Status::Good);
    assert_eq!(bench.send_as(0, 1, &TUR, &[]), Outcome::good());
    assert_eq!(asc(&bench.send_as(1, 0, &TUR, &[])), code::CAPACITY_DATA_HAS_CHANGED);
}

#[test]
fn request_sense_takes_the_unit_attention() {
    let mut bench = Bench::new();
    bench.device.resize_unit(0, 2048);
    let sense = bench.send(&[3, 0, 0, 0, 252, 0], &[]);
    assert_eq!(Sense::parse(&sense.data).unwrap().asc, code::CAPACITY_DATA_HAS_CHANGED);
    assert_eq!(bench.send(&TUR, &[]), Outcome::good());
}

#[test]
fn a_reset_is_heard_by_the_others_and_releases_what_was_reserved() {
    let mut bench = Bench::new();
    assert_eq!(bench.send_as(1, 0, &[0x16, 0, 0, 0, 0, 0], &[]), Outcome::good());
    assert_eq!(bench.send(&TUR, &[]).status, Status::ReservationConflict);
    bench.device.reset_unit(0);
    for who in 0..2 {
        let told = bench.send_as(who, 0, &TUR, &[]);
        assert_eq!(asc(&told), code::BUS_DEVICE_RESET_FUNCTION_OCCURRED);
    }
}

#[test]
fn pages_are_those_that_are_listed_and_identify_the_bdev() {
    let mut bench = Bench::new();
    let list = bench.send(&[0x12, 1, 0, 0, 255, 0], &[]).data;
    for page in &list[4..] {
        let data = bench.send(&[0x12, 1, *page, 1, 0, 0], &[]).data;
        assert_eq!(data[1], *page);
        assert_eq!(usize::from(data[3]) + 4, data.len());
    }
    assert_eq!(asc(&bench.send(&[0x12, 1, 0xb5, 0, 255, 0], &[])), code::INVALID_FIELD_IN_CDB);
    let of = |bench: &mut Bench, unit| bench.send_as(0, unit, &[0x12, 1, 0x83, 1, 0, 0], &[]).data;
    assert_ne!(of(&mut bench, 0)[8..16], of(&mut bench, 1)[8..16]);
    assert_eq!(of(&mut bench, 0)[8] >> 4, 3, "NAA 3, locally assigned");
}

#[test]
fn every_command_that_is_reported_is_known_and_no_other() {
    let mut bench = Bench::new();
    let all = bench.send(&[0xa3, 0x0c, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0], &[]).data;
    for one in all[4..].chunks(8) {
        let reporting = if one[5] & 1 != 0 { 2 } else { 1 };
        let cdb = [0xa3, 0x0c, reporting, one[0], one[2], one[3], 0, 0, 1, 0, 0, 0];
        let data = bench.send(&cdb, &[]).data;
        assert_eq!((data[1], data[4]), (3, one[0]));
        assert_eq!(data.len(), 4 + usize::from(one[7]));
        // It is not refused as unknown, whatever else is wrong with an empty CDB of it.
        let mut empty = [0; 16];
        (empty[0], empty[1]) = (one[0], one[3]);
        let outcome = bench.send(&empty, &[0; 1024]);
        if let Some(sense) = Sense::parse(&outcome.sense) {
            assert_ne!(sense.asc, code::INVALID_COMMAND_OPERATION_CODE, "{one:x?}");
        }
    }
    assert_eq!(bench.send(&[0xa3, 0x0c, 1, 0x01, 0, 0, 0, 0, 1, 0, 0, 0], &[]).data, [0, 1, 0, 0]);
}

#[test]
fn descriptor_sense_is_a_mode() {
    let mut bench = Bench::new();
    let list = [0, 0, 0, 0, 0x0a, 10, 0x06, 0x10, 0, 0, 0, 0, 0xff, 0xff, 0, 0];
    assert_eq!(bench.send(&[0x15, 0x10, 0, 0, 16, 0], &list), Outcome::good());
    assert_eq!(bench.send(&[0x28, 0, 0xff, 0, 0, 0, 0, 0, 1, 0], &[]).sense[0], 0x72);
    assert_eq!(asc(&bench.send_as(1, 0, &TUR, &[])), code::MODE_PARAMETERS_CHANGED);
    let mut wrong = list;
    wrong[8] = 0x80;
    let outcome = bench.send(&[0x15, 0x10, 0, 0, 16, 0], &wrong);
    assert_eq!(asc(&outcome), code::INVALID_FIELD_IN_PARAMETER_LIST);
}
