//! Data that an R2T requests.

use super::*;

#[test]
fn a_write_asks_for_as_much_as_the_host_permits_and_then_for_the_rest() {
    for (maxr2t, at_once) in [(0, 1), (1, 2), (3, 4), (u32::MAX, 4)] {
        let mut wire = Wire::open_with(LIMITS, BOTH, maxr2t, 0);
        let data = pattern(45_000);
        wire.send(&wire.capsule(write(5, 45_000), &[]));
        let mut asked = wire.take_pdus();
        assert_eq!(asked.len(), at_once);
        while !asked.is_empty() {
            let r2t = asked.remove(0).r2t();
            let bytes = &data[r2t.r2to as usize..][..r2t.r2tl as usize];
            let (head, tail) = bytes.split_at(1000);
            wire.send(&wire.h2c(r2t, r2t.r2to, head, false));
            wire.send(&wire.h2c(r2t, r2t.r2to + 1000, tail, true));
            asked.extend(wire.take_pdus());
        }
        assert_eq!(wire.keeper.lent[0].bytes(), data);
        wire.answer(Status::SUCCESS, 1);
        assert_eq!(wire.take_one().completion().cid, 5);
        assert_eq!(wire.keeper.pool.get(), POOL);
        wire.end();
    }
}

#[test]
fn data_that_was_not_requested_is_fatal_and_the_error_says_what_is_wrong_with_it() {
    let out_of_range = ProtocolError::of(Fes::DataOutOfRange);
    type Change = fn(&mut R2t, &mut u32, &mut usize, &mut bool);
    let cases: [(Change, ProtocolError); 8] = [
        (|r2t, _, _, _| r2t.ttag = 0xfff0, ProtocolError::field(10)),
        (|r2t, _, _, _| r2t.ttag += 1, ProtocolError::field(10)),
        (|r2t, _, _, _| r2t.cccid += 1, ProtocolError::field(8)),
        (|_, datao, _, _| *datao = 4, out_of_range),
        (|_, datao, _, _| *datao = u32::MAX - 3, out_of_range),
        (|_, _, len, _| *len = 4100, out_of_range),
        (|_, _, len, _| *len = 8196, ProtocolError::of(Fes::LimitExceeded)),
        (|_, _, _, last| *last = false, ProtocolError::field(1)),
    ];
    for (i, (change, expected)) in cases.into_iter().enumerate() {
        let mut wire = Wire::open();
        wire.send(&wire.capsule(write(5, 4096), &[]));
        let mut r2t = wire.take_one().r2t();
        let (mut datao, mut len, mut last) = (0, 4096, true);
        change(&mut r2t, &mut datao, &mut len, &mut last);
        wire.send(&wire.h2c(r2t, datao, &pattern(len), last));
        assert_eq!(wire.terminated(), expected, "case {i}");
    }
}

#[test]
fn data_for_no_command_at_all_is_fatal() {
    let mut wire = Wire::open();
    let r2t = R2t { cccid: 0, ttag: 0, r2to: 0, r2tl: 4 };
    wire.send(&wire.h2c(r2t, 0, &[0; 4], true));
    assert_eq!(wire.terminated(), ProtocolError::field(10));
}

#[test]
fn data_after_the_last_of_its_r2t_is_fatal() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(write(5, 4096), &[]));
    let r2t = wire.take_one().r2t();
    wire.send(&wire.h2c(r2t, 0, &pattern(4096), true));
    assert_eq!(wire.keeper.lent.len(), 1);
    wire.send(&wire.h2c(r2t, 0, &pattern(4096), true));
    assert_eq!(wire.terminated(), ProtocolError::field(10));
}
