//! The handshake, and errors in headers.

use super::*;

#[test]
fn an_icreq_byte_by_byte_is_answered_once_it_is_whole() {
    let mut wire = Wire::new(LIMITS);
    wire.chunk = 1;
    wire.send(&ic_req(BOTH, 0, 0)[..127]);
    assert!(!wire.connection.has_output());
    wire.send(&[0]);
    assert_eq!(wire.take().len(), 128);
    wire.end();
}

#[test]
fn an_unknown_format_version_is_an_unsupported_parameter_at_byte_8() {
    let mut wire = Wire::new(LIMITS);
    let mut request = ic_req(BOTH, 0, 0);
    request[8] = 1;
    wire.send(&request);
    assert_eq!(wire.terminated(), ProtocolError::unsupported(8));
}

#[test]
fn a_command_before_icreq_and_a_second_icreq_are_out_of_sequence() {
    let mut wire = Wire::new(LIMITS);
    wire.send(&wire.capsule(read(1, 512), &[]));
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::SequenceError));

    let mut wire = Wire::open();
    wire.send(&ic_req(Digests::default(), 0, 0));
    assert_eq!(wire.terminated(), ProtocolError::of(Fes::SequenceError));
}

#[test]
fn wrong_fields_of_the_common_header_are_reported_by_their_offset() {
    // A long PLEN means that there is data, but PDO is 0.
    for (byte, value, fei) in
        [(0, 5, 0), (0, 0x0a, 0), (1, 1, 1), (2, 71, 2), (4, 71, 4), (7, 1, 3)]
    {
        let mut wire = Wire::open();
        let mut capsule = wire.capsule(read(1, 512), &[]);
        capsule[byte] = value;
        wire.send(&capsule);
        assert_eq!(wire.terminated(), ProtocolError::field(fei), "byte {byte}");
    }
}

#[test]
fn the_head_of_the_pdu_in_error_follows_the_termination_request() {
    let mut wire = Wire::open();
    let mut capsule = wire.capsule(read(1, 512), &[]);
    capsule[0] = 0x42;
    wire.send(&capsule);
    let pdu = wire.take_one();
    assert_eq!(pdu.error(), ProtocolError::field(0));
    assert_eq!(pdu.data, capsule);
}

#[test]
fn the_hosts_termination_request_ends_the_connection_without_an_answer() {
    let mut wire = Wire::open();
    wire.send(&wire.capsule(read(1, 4096), &[]));
    let mut request = [0; 24];
    TermReq::new(Role::Host, ProtocolError::field(3)).encode(0, &mut request);
    wire.send(&request);
    assert_eq!(wire.connection.phase(), Phase::Ended);
    wire.end();
}
