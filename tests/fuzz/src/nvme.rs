//! Input from NVMe/TCP connections.

use crate::look;
use drivebay_spec_nvme::command::Command;
use drivebay_spec_nvme::fabrics::{Connect, ConnectData, PropertyGet, PropertySet};
use drivebay_spec_nvme::{admin, nqn, nvm, sgl::SglDescriptor};
use drivebay_spec_nvme_tcp::{
    Alignment, C2hData, CapsuleCmd, CapsuleResp, CommonHeader, Digests, Frame, H2cData, IcReq,
    IcResp, PduType, R2t, Receiver, Role, TermReq, digest,
};

/// A PDU as either end receives it: two bytes with the negotiated options, then the PDU.
pub(crate) fn pdu(data: &[u8]) {
    let Some((&[agreed, alignment], bytes)) = data.split_first_chunk::<2>() else { return };
    let Some(&header) = bytes.first_chunk::<8>() else { return };
    let role = if agreed & 1 == 0 { Role::Controller } else { Role::Host };
    let mut receiver = Receiver::new(role);
    receiver.digests = Digests { header: agreed & 2 != 0, data: agreed & 4 != 0 };
    receiver.alignment = Alignment::from_bits(alignment % 32).unwrap_or_default();
    let header = CommonHeader::parse(&header);
    assert_eq!(CommonHeader::parse(&header.encode()), header);
    let Ok(frame) = Frame::parse(&header, &receiver) else { return };

    assert!(frame.header_end() <= frame.data_offset, "the data begins inside of the header");
    // The alignment is up to 32 dwords, and a sender may add more padding than the alignment needs.
    assert!(frame.data_offset <= 255, "the data begins beyond the range of PDO");
    let end = frame.data_offset as u64
        + u64::from(frame.data_len)
        + if frame.data_digest { 4 } else { 0 };
    assert!(end <= u64::from(frame.plen), "the data ends beyond the PDU");
    assert_eq!(frame.data_offset - frame.header_end(), frame.pad_len());
    read_header(&frame, bytes, receiver.digests);
    look(digest::of(bytes));
}

fn read_header(frame: &Frame, bytes: &[u8], digests: Digests) {
    let short = bytes.first_chunk::<24>();
    match (frame.pdu_type, short) {
        (PduType::IcReq, _) => {
            let Some(bytes) = bytes.first_chunk::<128>() else { return };
            if let Ok(read) = IcReq::parse(bytes) {
                let mut out = [0; 128];
                read.encode(&mut out);
                assert_eq!(IcReq::parse(&out), Ok(read));
            }
        }
        (PduType::IcResp, _) => {
            let Some(bytes) = bytes.first_chunk::<128>() else { return };
            look(IcResp::parse(bytes, digests));
        }
        (PduType::CapsuleCmd, _) => {
            let Some(bytes) = bytes.first_chunk::<72>() else { return };
            look(CapsuleCmd::parse(bytes));
        }
        (PduType::CapsuleResp, Some(bytes)) => {
            look(CapsuleResp::parse(bytes));
        }
        (PduType::H2cData, Some(bytes)) => {
            look(H2cData::parse(bytes, frame));
        }
        (PduType::C2hData, Some(bytes)) => {
            look(C2hData::parse(bytes, frame));
        }
        (PduType::R2t, Some(bytes)) => {
            look(R2t::parse(bytes));
        }
        (PduType::H2cTermReq, Some(bytes)) => {
            look(TermReq::parse(bytes, Role::Host).error());
        }
        (PduType::C2hTermReq, Some(bytes)) => {
            look(TermReq::parse(bytes, Role::Controller).error());
        }
        _ => {}
    }
}

/// The fields of the command in a command capsule.
pub(crate) fn command(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<64>() else { return };
    let command = Command::parse(bytes);
    assert_eq!(command.encode(), *bytes, "a bit was lost");
    look((command.fuse(), command.psdt(), command.cid(), command.nsid(), command.mptr()));
    let sgl = command.sgl1();
    assert_eq!(SglDescriptor::from_dwords(sgl.to_dwords()), sgl);
    if let Ok(data) = sgl.capsule_data() {
        look(data.length());
    }
    look(nvm::BlockCommand::from_command(&command));
    look(nvm::DatasetManagement::from_command(&command));
    look(admin::Identify::from_command(&command));
    look(admin::GetLogPage::from_command(&command));
    look(admin::GetFeatures::from_command(&command));
    look(admin::SetFeatures::from_command(&command));
    look(admin::Abort::from_command(&command));
}

/// A Fabrics command, then the data of a Connect.
pub(crate) fn fabrics(data: &[u8]) {
    let Some((bytes, rest)) = data.split_first_chunk::<64>() else { return };
    let command = Command::parse(bytes);
    look(command.fctype());
    let connect = Connect::from_command(&command);
    assert_eq!(Connect::from_command(&connect.to_command()), connect);
    if let Ok(get) = PropertyGet::from_command(&command) {
        assert_eq!(PropertyGet::from_command(&get.to_command()), Ok(get));
    }
    if let Ok(set) = PropertySet::from_command(&command) {
        assert_eq!(PropertySet::from_command(&set.to_command()), Ok(set));
    }
    let mut page = [0; 1024];
    for (to, from) in page.iter_mut().zip(rest) {
        *to = *from;
    }
    look(ConnectData::parse(&page));
    if let Ok(text) = std::str::from_utf8(rest) {
        look(nqn::check(text));
    }
}
