//! INQUIRY data and its vital product data pages. SPC-4, sections 6.6 and 7.8; SBC-3, section 6.6.

use crate::bytes::{len16, put};

/// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE of an existing disk.
pub const DISK: u8 = 0x00;
/// PERIPHERAL QUALIFIER and PERIPHERAL DEVICE TYPE of a LUN at which the target has no unit.
pub const NO_UNIT: u8 = 0x7f;

/// Version descriptors: SAM-5, iSCSI, SPC-4, SBC-3. SPC-4, annex E.
const VERSIONS: [u16; 4] = [0x00a0, 0x0960, 0x0460, 0x04c0];

/// Length of standard INQUIRY data, in bytes.
pub const STANDARD_LEN: usize = 96;

/// Standard INQUIRY data.
#[derive(Clone, Copy, Debug)]
pub struct Standard<'a> {
    /// [`DISK`] or [`NO_UNIT`].
    pub peripheral: u8,
    /// T10 vendor, up to 8 bytes of ASCII.
    pub vendor: &'a str,
    /// Product, up to 16 bytes of ASCII.
    pub product: &'a str,
    /// Revision, up to 4 bytes of ASCII.
    pub revision: &'a str,
    /// 3PC: third-party copies are supported.
    pub third_party_copy: bool,
}

impl Standard<'_> {
    /// Encodes it: SPC-4, HISUP, command queuing, no protection information, implicit target port groups of one.
    #[must_use]
    pub fn encode(&self) -> [u8; STANDARD_LEN] {
        let mut bytes = [0; STANDARD_LEN];
        put(&mut bytes, 0, &[self.peripheral, 0, 6, 0x12, 91]);
        put(&mut bytes, 5, &[if self.third_party_copy { 0x08 } else { 0 }, 0x10, 0x02]);
        put_text(&mut bytes, 8, 8, self.vendor);
        put_text(&mut bytes, 16, 16, self.product);
        put_text(&mut bytes, 32, 4, self.revision);
        for (index, version) in VERSIONS.iter().enumerate() {
            put(&mut bytes, 58 + 2 * index, &version.to_be_bytes());
        }
        bytes
    }
}

/// Codes of vital product data pages.
#[allow(missing_docs, reason = "the names are the standards'")]
pub mod page {
    pub const SUPPORTED: u8 = 0x00;
    pub const UNIT_SERIAL_NUMBER: u8 = 0x80;
    pub const DEVICE_IDENTIFICATION: u8 = 0x83;
    pub const EXTENDED_INQUIRY: u8 = 0x86;
    pub const MODE_PAGE_POLICY: u8 = 0x87;
    pub const SCSI_PORTS: u8 = 0x88;
    pub const THIRD_PARTY_COPY: u8 = 0x8f;
    pub const BLOCK_LIMITS: u8 = 0xb0;
    pub const BLOCK_DEVICE_CHARACTERISTICS: u8 = 0xb1;
    pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0xb2;
}

/// A vital product data page with its header.
#[must_use]
pub fn vpd(peripheral: u8, code: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![peripheral, code];
    bytes.extend(len16(body.len()));
    bytes.extend(body);
    bytes
}

/// Text of a fixed width, padded with spaces; bytes that are not printable ASCII become `?`.
pub fn put_text(bytes: &mut [u8], at: usize, width: usize, text: &str) {
    let Some(place) = bytes.get_mut(at..at + width) else { return };
    place.fill(b' ');
    for (to, from) in place.iter_mut().zip(text.bytes()) {
        *to = if (0x20..=0x7e).contains(&from) { from } else { b'?' };
    }
}

/// The object that a designator names. SPC-4, table 531.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Association {
    /// The logical unit.
    Unit = 0,
    /// The target port.
    Port = 1,
    /// The target device.
    Device = 2,
}

/// A designation descriptor. SPC-4, section 7.8.6.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Designator {
    /// The object that the designator names.
    pub association: Association,
    /// The designator.
    pub kind: DesignatorKind,
}

/// A designator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DesignatorKind {
    /// T10 vendor identification and vendor-specific identifier.
    T10Vendor(String, String),
    /// NAA, 8 or 16 bytes.
    Naa(Vec<u8>),
    /// The target port's relative identifier.
    RelativePort(u16),
    /// The target port group.
    PortGroup(u16),
    /// A SCSI name string: UTF-8.
    Name(String),
}

impl Designator {
    /// Protocol identifier of iSCSI, which designators of ports and devices carry.
    const ISCSI: u8 = 5;

    /// Appends the descriptor.
    pub fn encode(&self, to: &mut Vec<u8>) {
        let (code_set, kind, value) = match &self.kind {
            DesignatorKind::T10Vendor(vendor, rest) => {
                let mut value = vec![b' '; 8];
                put_text(&mut value, 0, 8, vendor);
                value.extend(rest.bytes().take(200));
                (2, 1, value)
            }
            DesignatorKind::Naa(value) => (1, 3, value.clone()),
            DesignatorKind::RelativePort(port) => (1, 4, u32::from(*port).to_be_bytes().to_vec()),
            DesignatorKind::PortGroup(group) => (1, 5, u32::from(*group).to_be_bytes().to_vec()),
            DesignatorKind::Name(name) => (3, 8, name_bytes(name)),
        };
        let (protocol, valid) = match self.association {
            Association::Unit => (0, 0),
            Association::Port | Association::Device => (Self::ISCSI << 4, 0x80),
        };
        let len = u8::try_from(value.len()).unwrap_or(0);
        to.extend([protocol | code_set, valid | (self.association as u8) << 4 | kind, 0, len]);
        to.extend(value);
    }
}

/// A SCSI name string: ended by a NUL and padded to a multiple of 4 bytes, 252 at most.
#[must_use]
pub fn name_bytes(name: &str) -> Vec<u8> {
    let mut bytes: Vec<u8> = name.bytes().take(251).collect();
    bytes.resize((bytes.len() + 1).next_multiple_of(4), 0);
    bytes
}

/// The body of the Device Identification page.
#[must_use]
pub fn device_identification(designators: &[Designator]) -> Vec<u8> {
    let mut body = Vec::new();
    for designator in designators {
        designator.encode(&mut body);
    }
    body
}

/// The body of the Extended INQUIRY Data page. SPC-4, section 7.8.7.
#[must_use]
pub fn extended_inquiry() -> Vec<u8> {
    let mut body = vec![0; 60];
    put(&mut body, 1, &[0x07]); // SIMPSUP, ORDSUP, HEADSUP
    put(&mut body, 2, &[0x01]); // V_SUP
    body
}

/// The body of the Mode Page Policy page: all pages shared. SPC-4, section 7.8.11.
#[must_use]
pub fn mode_page_policy() -> Vec<u8> {
    vec![0x3f, 0xff, 0, 0]
}

/// The body of the SCSI Ports page: relative identifier and name of each target port. SPC-4, section 7.8.14.
#[must_use]
pub fn scsi_ports(ports: &[(u16, String)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (relative, name) in ports {
        body.extend([0, 0]);
        body.extend(relative.to_be_bytes());
        body.extend([0; 6]);
        let mut designators = Vec::new();
        let kind = DesignatorKind::Name(name.clone());
        Designator { association: Association::Port, kind }.encode(&mut designators);
        body.extend(len16(designators.len()));
        body.extend(designators);
    }
    body
}

/// The Block Limits page, in blocks. 0 means "no limit reported", or "not supported" for the limits of UNMAP. SBC-3, section
/// 6.6.3.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BlockLimits {
    /// WSNZ: the unit refuses WRITE SAME of 0 blocks.
    pub write_same_nonzero: bool,
    /// Maximum number of blocks of COMPARE AND WRITE.
    pub compare_and_write: u8,
    /// Granularity of transfers.
    pub optimal_granularity: u16,
    /// Maximum number of blocks of one command.
    pub transfer_max: u32,
    /// Best length of a transfer.
    pub transfer_optimal: u32,
    /// Maximum number of blocks of one UNMAP.
    pub unmap_blocks: u32,
    /// Maximum number of descriptors of one UNMAP.
    pub unmap_descriptors: u32,
    /// Granularity of unmapping.
    pub unmap_granularity: u32,
    /// Maximum number of blocks of WRITE SAME.
    pub write_same: u64,
}

impl BlockLimits {
    /// The body of the page.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut body = vec![0; 60];
        put(&mut body, 0, &[u8::from(self.write_same_nonzero), self.compare_and_write]);
        put(&mut body, 2, &self.optimal_granularity.to_be_bytes());
        put(&mut body, 4, &self.transfer_max.to_be_bytes());
        put(&mut body, 8, &self.transfer_optimal.to_be_bytes());
        put(&mut body, 16, &self.unmap_blocks.to_be_bytes());
        put(&mut body, 20, &self.unmap_descriptors.to_be_bytes());
        put(&mut body, 24, &self.unmap_granularity.to_be_bytes());
        put(&mut body, 32, &self.write_same.to_be_bytes());
        body
    }
}

/// The body of the Block Device Characteristics page: not rotating, form factor not reported. SBC-3, section 6.6.2.
#[must_use]
pub fn block_device_characteristics() -> Vec<u8> {
    let mut body = vec![0; 60];
    put(&mut body, 0, &1_u16.to_be_bytes());
    body
}

/// The body of the Logical Block Provisioning page. `threshold_exponent`: a threshold set has 2^n blocks; 0 = no thresholds. SBC-3,
/// section 6.6.4.
#[must_use]
pub fn provisioning(can_unmap: bool, reads_zeros: bool, threshold_exponent: u8) -> Vec<u8> {
    let flags = if can_unmap { 0xe0 } else { 0 } | if reads_zeros { 0x04 } else { 0 };
    let kind = if can_unmap { 2 } else { 0 }; // thin provisioned
    vec![threshold_exponent, flags, kind, 0]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn standard_data_have_their_texts_padded_and_their_length() {
        let standard = Standard {
            peripheral: DISK,
            vendor: "Drivebay",
            product: "disk\n",
            revision: "0.1.0",
            third_party_copy: false,
        };
        let bytes = standard.encode();
        assert_eq!(bytes[..8], [0, 0, 6, 0x12, 91, 0, 0x10, 2]);
        assert_eq!(&bytes[8..36], b"Drivebaydisk?           0.1.");
        assert_eq!(bytes.len(), usize::from(bytes[4]) + 5);
    }

    #[test]
    fn a_page_has_its_code_and_length() {
        assert_eq!(vpd(DISK, page::SUPPORTED, &[0, 0x80]), [0, 0, 0, 2, 0, 0x80]);
    }

    #[test]
    fn designators_say_what_they_belong_to() {
        let mut bytes = Vec::new();
        let naa = DesignatorKind::Naa(vec![0x60; 16]);
        Designator { association: Association::Unit, kind: naa }.encode(&mut bytes);
        assert_eq!(bytes[..4], [1, 3, 0, 16]);
        bytes.clear();
        let port = DesignatorKind::RelativePort(7);
        Designator { association: Association::Port, kind: port }.encode(&mut bytes);
        assert_eq!(bytes, [0x51, 0x94, 0, 4, 0, 0, 0, 7]);
        bytes.clear();
        let name = DesignatorKind::Name("iqn.a".into());
        Designator { association: Association::Device, kind: name }.encode(&mut bytes);
        assert_eq!(bytes, [0x53, 0xa8, 0, 8, b'i', b'q', b'n', b'.', b'a', 0, 0, 0]);
    }

    #[test]
    fn limits_lie_where_the_standard_says() {
        let limits = BlockLimits {
            write_same_nonzero: true,
            compare_and_write: 2,
            unmap_descriptors: 3,
            write_same: 4,
            ..BlockLimits::default()
        };
        let body = limits.encode();
        assert_eq!((body[0], body[1], body[23], body[39]), (1, 2, 3, 4));
        assert_eq!(provisioning(true, true, 11), [11, 0xe4, 2, 0]);
    }
}
