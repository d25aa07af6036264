//! PDUs in wire format. RFC 7143, section 11.2.

use drivebay_spec_iscsi::{BHS_LEN, digest, pad_len};

/// Which digests are in use.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Digests {
    pub(super) header: bool,
    pub(super) data: bool,
}

/// A PDU with its padding and right digests.
pub(super) fn pdu(bhs: &[u8; BHS_LEN], data: &[u8], digests: Digests) -> Vec<u8> {
    let mut bytes = bhs.to_vec();
    if digests.header {
        bytes.extend(digest::of(bhs));
    }
    let start = bytes.len();
    bytes.extend(data);
    bytes.extend(&[0; 3][..pad_len(data.len())]);
    if digests.data && !data.is_empty() {
        let digest = digest::of(&bytes[start..]);
        bytes.extend(digest);
    }
    bytes
}

/// Changes a bit of the last byte: that of a digest, if the PDU ends with one.
pub(super) fn corrupt(bytes: &mut [u8]) {
    if let Some(last) = bytes.last_mut() {
        *last ^= 0x10;
    }
}

/// Sets DataSegmentLength, and TotalAHSLength to 0.
pub(super) fn set_data_len(bhs: &mut [u8; BHS_LEN], len: usize) {
    let [_, high, middle, low] = (len as u32).to_be_bytes();
    bhs[4..8].copy_from_slice(&[0, high, middle, low]);
}
