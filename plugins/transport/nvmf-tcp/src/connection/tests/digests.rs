//! Wrong digests.

use super::*;

#[test]
fn a_wrong_header_digest_is_fatal() {
    let mut wire = Wire::open_with(LIMITS, BOTH, 0, 0);
    let mut capsule = wire.capsule(Command::new(FLUSH).with_cid(1), &[]);
    capsule[72] ^= 1;
    wire.send(&capsule);
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::HeaderDigest));
}

#[test]
fn a_wrong_data_digest_fails_the_command_only() {
    let mut wire = Wire::open_with(LIMITS, BOTH, 0, 0);
    let mut capsule = wire.capsule(in_capsule(1, 0, 512), &pattern(512));
    *capsule.last_mut().unwrap() ^= 1;
    wire.send(&capsule);
    assert_eq!(wire.take_one().completion().status, Status::TRANSIENT_TRANSPORT_ERROR);

    wire.send(&wire.capsule(write(2, 12_000), &[]));
    let r2t = wire.take_one().r2t();
    let mut piece = wire.h2c(r2t, 0, &pattern(8192), true);
    piece[100] ^= 1;
    wire.send(&piece);
    assert_eq!(wire.take_one().completion().status, Status::TRANSIENT_TRANSPORT_ERROR);
    assert!(wire.keeper.lent.is_empty());
    assert_eq!(wire.connection.phase(), Phase::Open);
    wire.end();
}
