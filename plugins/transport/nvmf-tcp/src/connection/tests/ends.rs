//! Memory, back pressure, and the end of a connection.

use super::*;

#[test]
fn commands_wait_for_memory_in_their_order() {
    let mut wire = Wire::open();
    wire.keeper.pool.set(1);
    wire.send(&wire.capsule(read(1, 4096), &[]));
    wire.send(&wire.capsule(read(2, 4096), &[]));
    wire.send(&wire.capsule(in_capsule(3, 0, 4096), &pattern(4096)));
    assert_eq!(wire.keeper.lent.len(), 1);
    assert!(wire.connection.is_starving());
    for cid in 1..=3 {
        wire.answer(Status::SUCCESS, 1);
        let last = wire.take_pdus().pop().unwrap();
        assert_eq!(last.completion().cid, cid);
        wire.resume();
    }
    assert!(!wire.connection.is_starving());
    assert_eq!(wire.keeper.pool.get(), 1);
}

#[test]
fn a_peer_that_does_not_read_is_not_listened_to() {
    let mut wire = Wire::open();
    let refused = wire.capsule(write(9, 65537), &[]);
    for _ in 0..100_000 {
        wire.send(&refused);
    }
    assert!(!wire.connection.can_receive());
    assert!(wire.take().len() < 70_000, "what waits is bounded");
    wire.resume();
    assert!(wire.connection.can_receive());
    wire.end();
}

#[test]
fn a_connection_cut_at_any_byte_gives_all_memory_back() {
    let script = |wire: &mut Wire, cut: usize| {
        let mut sent = 0;
        let mut send = |wire: &mut Wire, bytes: Vec<u8>| {
            let n = bytes.len().min(cut - sent);
            wire.send(&bytes[..n]);
            sent += n;
            sent < cut
        };
        send(wire, ic_req(BOTH, 1, 0).to_vec())
            && {
                wire.digests = BOTH;
                wire.take();
                send(wire, wire.capsule(read(1, 5000), &[])) && {
                    send(wire, wire.capsule(in_capsule(2, 0, 100), &pattern(100)))
                }
            }
            && send(wire, wire.capsule(write(3, 9000), &[]))
            && {
                let r2t = wire.take_pdus().remove(0).r2t();
                send(wire, wire.h2c(r2t, 0, &pattern(200), false))
            }
    };
    let mut cut = 0;
    loop {
        cut += 1;
        let mut wire = Wire::new(LIMITS);
        wire.connection.connected(1, 4, true);
        let more = script(&mut wire, cut);
        wire.end();
        if more {
            break;
        }
    }
    assert!(cut > 600, "{cut}");
}

#[test]
fn a_closing_connection_sends_what_was_given_back_and_takes_nothing_more() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(read(1, 4096), &[]));
    wire.send(&wire.capsule(read(2, 4096), &[]));
    wire.answer(Status::SUCCESS, 1);
    wire.connection.close();
    wire.send(&wire.capsule(read(3, 4096), &[]));
    wire.answer(Status::SUCCESS, 2);
    assert_eq!(wire.take_pdus().len(), 2, "data and response of the first");
    assert_eq!(wire.connection.phase(), Phase::Closing);
    wire.end();
}

#[test]
fn a_terminated_connection_takes_nothing_more_but_keeps_reading() {
    let mut wire = Wire::open();
    wire.send(&[0xff; 8]);
    for _ in 0..100 {
        wire.send(&[0; 4096]);
    }
    assert!(wire.connection.can_receive());
    assert_eq!(wire.take_pdus().len(), 1);
    wire.end();
}
