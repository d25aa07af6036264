//! Input from an NBD client.

use crate::look;
use drivebay_spec_nbd::handshake::{
    self, ClientFlags, NAME_LEN_MAX, OPTION_HEADER_LEN, OptionHeader,
};
use drivebay_spec_nbd::transmission::{Framing, Request};

/// An option with its data. The first bytes are also read as the client's flags.
pub(crate) fn option(data: &[u8]) {
    look(data.first_chunk().map(|bytes| ClientFlags::parse(*bytes)));
    let Some((head, data)) = data.split_first_chunk::<OPTION_HEADER_LEN>() else { return };
    let Ok(header) = OptionHeader::parse(*head) else { return };
    assert_eq!(header.to_bytes(), *head);
    match handshake::Request::parse(header.option, data) {
        Ok(handshake::Request::Info(wanted) | handshake::Request::Go(wanted)) => {
            assert!(wanted.name.len() <= NAME_LEN_MAX && wanted.infos.len() * 2 <= data.len());
        }
        Ok(
            handshake::Request::ListMetaContext(contexts)
            | handshake::Request::SetMetaContext(contexts),
        ) => assert!(contexts.queries.len() * 4 <= data.len()),
        other => look(other),
    }
}

/// A byte that selects the framing, then a request.
pub(crate) fn request(data: &[u8]) {
    let Some((&framing, bytes)) = data.split_first() else { return };
    let framing =
        [Framing::Simple, Framing::Structured, Framing::Extended][usize::from(framing % 3)];
    let Ok(Some(request)) = Request::parse(framing, bytes) else { return };
    assert_eq!(request.to_bytes(framing), bytes[..framing.request_len()]);
    assert!(request.payload_len(framing) <= request.len);
}
