//! Input from iSCSI connections.

pub(crate) mod connection;
mod disks;
pub(crate) mod initiator;
pub(crate) mod node;
mod wire;

use crate::look;
use drivebay_spec_iscsi::negotiation::{Agreed, Offer, negotiate};
use drivebay_spec_iscsi::{Header, Opcode, chap, name, pdu, text};

/// A basic header segment.
pub(crate) fn pdu(data: &[u8]) {
    let Some(bhs) = data.first_chunk::<48>() else { return };
    let header = Header::parse(bhs);
    assert!(header.data_len < 1 << 24 && header.ahs_len <= 1020);
    macro_rules! survives {
        ($($name:ident)*) => {
            match header.kind() {
                $(Some(Opcode::$name) => {
                    let read = pdu::$name::parse(bhs);
                    let written = read.encode(header.data_len);
                    assert_eq!(pdu::$name::parse(&written), read);
                    assert_eq!(Header::parse(&written).data_len, header.data_len);
                })*
                None => {}
            }
        };
    }
    survives!(NopOut ScsiCommand TaskManagement Login Text DataOut Logout Snack NopIn ScsiResponse
        TaskManagementResponse LoginResponse TextResponse DataIn LogoutResponse R2t AsyncMessage Reject);
    if header.kind() == Some(Opcode::Login) {
        let login = pdu::Login::parse(bhs);
        look((login.current(), login.next()));
    }
}

/// A byte with the values that this end wants, then the text.
pub(crate) fn text(data: &[u8]) {
    let Some((&wants, rest)) = data.split_first() else { return };
    let Ok(pairs) = text::parse(rest) else { return };
    let wanted = Agreed {
        header_digest: wants & 1 != 0,
        data_digest: wants & 2 != 0,
        initial_r2t: wants & 4 != 0,
        ..Agreed::default()
    };
    let offer = Offer {
        wanted,
        require_header_digest: wants & 8 != 0,
        require_data_digest: wants & 16 != 0,
    };
    let mut agreed = Agreed::default();
    for (key, value) in pairs {
        let answer = negotiate(key, value, &offer, &mut agreed, wants & 32 != 0);
        assert!(answer.text().is_none_or(|text| text.len() <= 255));
        look(name::check(value));
        if let Some(bytes) = chap::decode(value) {
            assert!(bytes.len() <= chap::BINARY_LEN_MAX);
            assert_eq!(chap::decode(&chap::encode(&bytes)), Some(bytes));
        }
    }
    assert!(agreed.max_burst_len >= 512 && agreed.peer_segment_len >= 512);
    assert!(agreed.max_outstanding_r2t >= 1 && agreed.max_connections >= 1);
    assert!(agreed.initial_r2t || !wanted.initial_r2t, "InitialR2T is an OR");
}
