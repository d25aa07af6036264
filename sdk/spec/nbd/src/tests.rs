use crate::handshake::{
    ClientFlags, Contexts, OptionHeader, Request as OptionRequest, Wanted, option,
};
use crate::transmission::{Command, Extent, Framing, Reply, Request};

#[test]
fn an_option_says_what_its_data_means() {
    let go = [&[0, 0, 0, 2], &b"m0"[..], &[0, 2, 0, 3, 0, 1]].concat();
    let wanted = Wanted { name: "m0", infos: vec![3, 1] };
    assert_eq!(OptionRequest::parse(option::GO, &go), Ok(OptionRequest::Go(wanted)));
    let query = [&[0; 4][..], &[0, 0, 0, 1, 0, 0, 0, 3], b"a:b"].concat();
    let contexts = Contexts { name: "", queries: vec!["a:b"] };
    let request = OptionRequest::parse(option::SET_META_CONTEXT, &query);
    assert_eq!(request, Ok(OptionRequest::SetMetaContext(contexts)));
}

#[test]
fn data_that_does_not_fit_its_option_is_malformed() {
    let long_name = vec![b'a'; 4097];
    let cases: [(u32, &[u8]); 6] = [
        (option::LIST, &[0]),
        (option::GO, &[0, 0, 0, 9, b'm']),
        (option::GO, &[0, 0, 0, 0, 0, 2, 0, 3]),
        (option::SET_META_CONTEXT, &[0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff]),
        (option::EXPORT_NAME, &[0xff, 0xfe]),
        (option::EXPORT_NAME, &long_name),
    ];
    for (option, data) in cases {
        assert!(OptionRequest::parse(option, data).is_err(), "option {option}: {data:?}");
    }
}

#[test]
fn flags_and_magics_that_are_not_the_protocols_are_refused() {
    assert!(ClientFlags::parse([0, 0, 0, 0]).is_err(), "oldstyle");
    assert!(ClientFlags::parse([0, 0, 0, 7]).is_err());
    assert_eq!(ClientFlags::parse([0, 0, 0, 3]), Ok(ClientFlags { no_zeroes: true }));
    assert!(OptionHeader::parse([0; 16]).is_err());
    assert!(Request::parse(Framing::Simple, &[0; 28]).is_err());
}

#[test]
fn a_request_is_read_as_it_was_written_and_is_none_until_it_is_whole() {
    let request =
        Request { flags: 1, command: Command::Write, cookie: 7, offset: 1 << 40, len: 4096 };
    for framing in [Framing::Simple, Framing::Structured, Framing::Extended] {
        let bytes = request.to_bytes(framing);
        assert_eq!(Request::parse(framing, &bytes), Ok(Some(request)));
        assert_eq!(Request::parse(framing, &bytes[..bytes.len() - 1]), Ok(None));
    }
    assert_eq!(request.payload_len(Framing::Simple), 4096);
    assert_eq!(request.payload_len(Framing::Extended), 0, "the flag PAYLOAD_LEN is not set");
}

#[test]
fn replies_have_the_lengths_that_the_protocol_says() {
    let reply = |framing| Reply { framing, cookie: 1, offset: 512 };
    let len = |head: crate::transmission::Head| head.as_bytes().len();
    assert_eq!(len(reply(Framing::Simple).data(0, 512, true)), 16);
    assert_eq!(len(reply(Framing::Structured).data(0, 512, true)), 28);
    assert_eq!(len(reply(Framing::Extended).data(0, 512, true)), 40);
    assert_eq!(len(reply(Framing::Structured).failed(5)), 26);
    let extents = [Extent { len: 1, is_hole: true }, Extent { len: 2, is_hole: false }];
    assert_eq!(reply(Framing::Structured).block_status(1, &extents).1.len(), 4 + 2 * 8);
    assert_eq!(reply(Framing::Extended).block_status(1, &extents).1.len(), 8 + 2 * 16);
}
