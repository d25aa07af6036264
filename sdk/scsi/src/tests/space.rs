//! Thin provisioned units: what they report of their pool, and when.

use super::*;
use drivebay_sdk::bdev::Space;
use drivebay_spec_scsi::sense::asc as code;

const TUR: [u8; 6] = [0; 6];
/// Blocks of a threshold set.
const SET: u64 = 2048;

const fn space(total: u64, free: u64) -> Option<Space> {
    Some(Space { total: total * SET, free: free * SET })
}

fn log_sense(bench: &mut Bench, page: u8, subpage: u8, first: u8) -> Outcome {
    bench.send(&[0x4d, 0, 0x40 | page, subpage, 0, 0, first, 1, 0, 0], &[])
}

/// Sets LBPERE and a threshold of so many available sets.
fn set_threshold(bench: &mut Bench, count: u8) -> Outcome {
    let mut list = vec![0; 4];
    list.extend([0x01, 10, 0, 0, 0, 0, 0, 0x80, 0, 0, 0, 0]);
    list.extend([0x5c, 0x02, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    list.extend([0x80, 0x01, 0, 0, 0, 0, 0, count]);
    bench.send(&[0x15, 0x10, 0, 0, list.len() as u8, 0], &list)
}

#[test]
fn unmapped_blocks_read_zeros_where_the_bdev_says_so() {
    let mut bench = Bench::new();
    bench.device.add_unit(2, Disk { reads_zeros: false, ..disk("c") });
    bench.device.add_unit(3, Disk { can_unmap: false, ..disk("d") });
    for (unit, capacity, page) in [(0, 0xc0, 0xe4), (2, 0x80, 0xe0), (3, 0, 0)] {
        let _ = bench.send_as(0, unit, &TUR, &[]);
        let cdb = [0x9e, 0x10, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 32, 0, 0];
        assert_eq!(bench.send_as(0, unit, &cdb, &[]).data[14], capacity, "unit {unit}");
        let vpd = bench.send_as(0, unit, &[0x12, 1, 0xb2, 0, 64, 0], &[]).data;
        assert_eq!(vpd[5], page, "unit {unit}");
    }
}

#[test]
fn the_log_page_reports_what_is_free_and_what_is_used() {
    let mut bench = Bench::new();
    assert_eq!(log_sense(&mut bench, 0, 0, 0).data, [0, 0, 0, 1, 0]);
    assert_eq!(asc(&log_sense(&mut bench, 0x0c, 0, 0)), code::INVALID_FIELD_IN_CDB);
    let exponent = |bench: &mut Bench| bench.send(&[0x12, 1, 0xb2, 0, 64, 0], &[]).data[4];
    assert_eq!(exponent(&mut bench), 0, "no pool, no thresholds");

    // Used sets are rounded up, and free sets are rounded down.
    bench.device.set_space(0, Some(Space { total: 100 * SET, free: 30 * SET - 1 }));
    assert_eq!(1 << exponent(&mut bench), SET);
    assert_eq!(log_sense(&mut bench, 0, 0, 0).data, [0, 0, 0, 2, 0, 0x0c]);
    let pages = log_sense(&mut bench, 0, 0xff, 0).data;
    assert_eq!(pages, [0x40, 0xff, 0, 6, 0, 0, 0, 0xff, 0x0c, 0]);
    let page = log_sense(&mut bench, 0x0c, 0, 0).data;
    assert_eq!(page[..4], [0x0c, 0, 0, 24]);
    assert_eq!(page[4..16], [0, 1, 3, 8, 0, 0, 0, 29, 2, 0, 0, 0]);
    assert_eq!(page[16..], [0, 2, 3, 8, 0, 0, 0, 71, 2, 0, 0, 0]);
    assert_eq!(log_sense(&mut bench, 0x0c, 0, 2).data[4..], page[16..], "from parameter 2 on");
    assert_eq!(asc(&log_sense(&mut bench, 0x0c, 0, 3)), code::INVALID_FIELD_IN_CDB);
    assert_eq!(asc(&log_sense(&mut bench, 0x0c, 1, 0)), code::INVALID_FIELD_IN_CDB);
    assert_eq!(asc(&log_sense(&mut bench, 0x0d, 0, 0)), code::INVALID_FIELD_IN_CDB);
    let save = [0x4d, 1, 0x4c, 0, 0, 0, 0, 1, 0, 0];
    assert_eq!(asc(&bench.send(&save, &[])), code::INVALID_FIELD_IN_CDB, "nothing is saved");
}

#[test]
fn every_initiator_hears_once_that_the_pool_has_reached_the_threshold() {
    let mut bench = Bench::new();
    bench.device.set_space(0, space(100, 50));
    assert_eq!(set_threshold(&mut bench, 20), Outcome::good());
    assert_eq!(asc(&bench.send_as(1, 0, &TUR, &[])), code::MODE_PARAMETERS_CHANGED);
    bench.device.set_space(0, space(100, 21));
    assert_eq!(bench.send(&TUR, &[]), Outcome::good());
    for free in [20, 19, 20] {
        bench.device.set_space(0, space(100, free));
    }
    for who in 0..2 {
        let told = bench.send_as(who, 0, &TUR, &[]);
        let sense = Sense::parse(&told.sense).unwrap();
        assert_eq!(sense.asc, code::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED);
        assert_eq!(sense.information, Some(16), "the descriptor of the threshold");
        assert_eq!(bench.send_as(who, 0, &TUR, &[]), Outcome::good());
    }
    bench.device.set_space(0, space(100, 40));
    bench.device.set_space(0, space(100, 3));
    let again = asc(&bench.send(&TUR, &[]));
    assert_eq!(again, code::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED, "after more was free");
}

#[test]
fn a_new_threshold_is_reported_even_if_an_earlier_one_was() {
    let mut bench = Bench::new();
    bench.device.set_space(0, space(100, 10));
    assert_eq!(set_threshold(&mut bench, 20), Outcome::good());
    bench.device.set_space(0, space(100, 10));
    assert_eq!(asc(&bench.send(&TUR, &[])), code::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED);
    assert_eq!(set_threshold(&mut bench, 15), Outcome::good());
    bench.device.set_space(0, space(100, 10));
    assert_eq!(asc(&bench.send(&TUR, &[])), code::THIN_PROVISIONING_SOFT_THRESHOLD_REACHED);
}

#[test]
fn the_threshold_page_exists_only_where_there_is_a_pool() {
    let mut bench = Bench::new();
    assert_eq!(asc(&set_threshold(&mut bench, 20)), code::INVALID_FIELD_IN_PARAMETER_LIST);
    let sense =
        |bench: &mut Bench, page, subpage| bench.send(&[0x1a, 0x08, page, subpage, 255, 0], &[]);
    assert_eq!(asc(&sense(&mut bench, 0x1c, 2)), code::INVALID_FIELD_IN_CDB);
    let without = sense(&mut bench, 0x3f, 0xff).data.len();
    bench.device.set_space(0, space(100, 50));
    assert_eq!(sense(&mut bench, 0x3f, 0xff).data.len(), without + 24);
    assert_eq!(sense(&mut bench, 0x3f, 0).data.len(), without, "pages without subpages");
    assert_eq!(set_threshold(&mut bench, 20), Outcome::good());
    let page = sense(&mut bench, 0x1c, 2).data;
    assert_eq!(page[4..8], [0x5c, 2, 0, 20]);
    assert_eq!(page[20..], [0x80, 1, 0, 0, 0, 0, 0, 20]);
    let mask = sense(&mut bench, 0x40 | 0x1c, 2).data;
    assert_eq!(mask[20..], [0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]);
    assert_eq!(asc(&sense(&mut bench, 0x1c, 3)), code::INVALID_FIELD_IN_CDB);
    assert_eq!(asc(&sense(&mut bench, 0x3f, 2)), code::INVALID_FIELD_IN_CDB);
}
