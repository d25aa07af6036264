//! Mode parameters: headers, block descriptors and the pages of a disk. SPC-4, sections 6.11 and 7.5; SBC-3, section 6.5.

use crate::bytes::{len16, put, u8_at, u16_at, u32_at};
use crate::sense::{Sense, asc};

/// Codes of mode pages.
#[allow(missing_docs, reason = "the names are the standards'")]
pub mod page {
    pub const READ_WRITE_ERROR_RECOVERY: u8 = 0x01;
    pub const CACHING: u8 = 0x08;
    pub const CONTROL: u8 = 0x0a;
    pub const INFORMATIONAL_EXCEPTIONS: u8 = 0x1c;
    pub const ALL: u8 = 0x3f;
}

/// Codes of subpages.
#[allow(missing_docs, reason = "the names are the standards'")]
pub mod subpage {
    pub const NONE: u8 = 0x00;
    /// Of page [`INFORMATIONAL_EXCEPTIONS`](super::page::INFORMATIONAL_EXCEPTIONS).
    pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0x02;
    pub const ALL: u8 = 0xff;
}

/// SPF: a page has a subpage code and a header of four bytes.
const SPF: u8 = 0x40;

/// The values that MODE SENSE requests (PC).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Control {
    /// The current values.
    Current = 0,
    /// A mask of the changeable bits.
    Changeable = 1,
    /// The default values.
    Default = 2,
    /// The saved values.
    Saved = 3,
}

impl Control {
    /// The two bits of the CDB.
    #[must_use]
    pub const fn from_bits(bits: u8) -> Self {
        match bits & 3 {
            0 => Self::Current,
            1 => Self::Changeable,
            2 => Self::Default,
            _ => Self::Saved,
        }
    }
}

/// The Caching page: only WCE is ever set. SBC-3, section 6.5.5.
#[must_use]
pub fn caching(write_cache: bool) -> Vec<u8> {
    let mut page = vec![0; 20];
    put(&mut page, 0, &[page::CACHING, 18, if write_cache { 0x04 } else { 0 }]);
    page
}

/// The Control page. SPC-4, section 7.5.8.
#[must_use]
pub fn control(flags: ControlFlags) -> Vec<u8> {
    let mut page = vec![0; 12];
    put(&mut page, 0, &[page::CONTROL, 10]);
    let descriptor = if flags.descriptor_sense { 0x04 } else { 0 };
    put(&mut page, 2, &[descriptor | if flags.global_logging { 0x02 } else { 0 }]);
    put(&mut page, 3, &[if flags.unrestricted_reordering { 0x10 } else { 0 }]);
    let protect = if flags.write_protect { 0x08 } else { 0 };
    put(&mut page, 4, &[protect]);
    put(&mut page, 5, &[if flags.task_aborted_status { 0x40 } else { 0 }]);
    put(&mut page, 8, &if flags.busy_timeout { [0xff; 2] } else { [0; 2] });
    page
}

/// The flags of the Control page.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ControlFlags {
    /// D_SENSE: sense data in descriptor format.
    pub descriptor_sense: bool,
    /// GLTSD: the unit does not save log parameters by itself.
    pub global_logging: bool,
    /// QUEUE ALGORITHM MODIFIER 1: the unit may reorder commands.
    pub unrestricted_reordering: bool,
    /// SWP: the unit is write protected.
    pub write_protect: bool,
    /// TAS: commands that another initiator aborts end with TASK ABORTED.
    pub task_aborted_status: bool,
    /// BUSY TIMEOUT PERIOD is not limited.
    pub busy_timeout: bool,
}

impl ControlFlags {
    /// Reads a page with its two bytes of header.
    #[must_use]
    pub fn parse(page: &[u8]) -> Self {
        Self {
            descriptor_sense: u8_at(page, 2) & 0x04 != 0,
            global_logging: u8_at(page, 2) & 0x02 != 0,
            unrestricted_reordering: u8_at(page, 3) & 0xf0 == 0x10,
            write_protect: u8_at(page, 4) & 0x08 != 0,
            task_aborted_status: u8_at(page, 5) & 0x40 != 0,
            busy_timeout: u16_at(page, 8) == u16::MAX,
        }
    }
}

/// The Informational Exceptions Control page: the unit reports no exceptions. SPC-4, section 7.5.11.
#[must_use]
pub fn informational_exceptions() -> Vec<u8> {
    let mut page = vec![0; 12];
    put(&mut page, 0, &[page::INFORMATIONAL_EXCEPTIONS, 10]);
    page
}

/// The Read-Write Error Recovery page. `reports_thresholds`: LBPERE, the unit reports provisioning thresholds. SBC-3, section 6.5.9.
#[must_use]
pub fn error_recovery(reports_thresholds: bool) -> Vec<u8> {
    let mut page = vec![0; 12];
    put(&mut page, 0, &[page::READ_WRITE_ERROR_RECOVERY, 10]);
    put(&mut page, 7, &[if reports_thresholds { 0x80 } else { 0 }]);
    page
}

/// LBPERE of a Read-Write Error Recovery page with its two bytes of header.
#[must_use]
pub fn reports_thresholds(page: &[u8]) -> bool {
    u8_at(page, 7) & 0x80 != 0
}

/// The descriptor of a soft threshold of the available resources. SBC-3, section 6.5.7.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Threshold {
    /// ENABLED.
    pub is_enabled: bool,
    /// THRESHOLD COUNT, in threshold sets. The unit reports when there are not more than this available.
    pub count: u32,
}

impl Threshold {
    /// The descriptor's offset in the Logical Block Provisioning page, in bytes.
    pub const AT: u16 = 16;
    /// THRESHOLD RESOURCE: available LBA mapping resources.
    const AVAILABLE: u8 = 0x01;

    /// Reads it from a Logical Block Provisioning page with its four bytes of header.
    #[must_use]
    pub fn parse(page: &[u8]) -> Self {
        let at = usize::from(Self::AT);
        Self { is_enabled: u8_at(page, at) & 0x80 != 0, count: u32_at(page, at + 4) }
    }
}

/// The Logical Block Provisioning page with one threshold. It is soft, it reports a decrease, and every initiator gets the report.
/// `is_mask`: the page is a mask of the changeable bits. SBC-3, section 6.5.7.
#[must_use]
pub fn provisioning(threshold: Threshold, is_mask: bool) -> Vec<u8> {
    let mut page = vec![0; 24];
    let code = page::INFORMATIONAL_EXCEPTIONS | SPF;
    put(&mut page, 0, &[code, subpage::LOGICAL_BLOCK_PROVISIONING]);
    put(&mut page, 2, &len16(20));
    let resource = if is_mask { 0 } else { Threshold::AVAILABLE };
    let enabled = if threshold.is_enabled { 0x80 } else { 0 };
    let at = usize::from(Threshold::AT);
    put(&mut page, at, &[enabled, resource]);
    put(&mut page, at + 4, &threshold.count.to_be_bytes());
    page
}

/// The data of MODE SENSE: header, block descriptor and pages.
#[derive(Clone, Copy, Debug)]
pub struct Sensed<'a> {
    /// MODE SENSE (10); else (6).
    pub is_ten: bool,
    /// WP: the unit is write protected.
    pub write_protect: bool,
    /// DPOFUA: the DPO and FUA bits are supported.
    pub dpo_fua: bool,
    /// The block descriptor: number of blocks, bytes of a block, and whether it has the long form (LLBAA). `None` if DBD is set.
    pub blocks: Option<(u64, u32, bool)>,
    /// The pages.
    pub pages: &'a [u8],
}

impl Sensed<'_> {
    /// Encodes it. The length in the header does not count itself and is not cut by the allocation length.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let specific =
            if self.write_protect { 0x80 } else { 0 } | if self.dpo_fua { 0x10 } else { 0 };
        let mut descriptor = Vec::new();
        let mut is_long = false;
        if let Some((blocks, block_len, long)) = self.blocks {
            is_long = long && self.is_ten;
            if is_long {
                descriptor.extend(blocks.to_be_bytes());
                descriptor.extend([0; 4]);
            } else {
                descriptor.extend(u32::try_from(blocks).unwrap_or(u32::MAX).to_be_bytes());
            }
            descriptor.extend(block_len.to_be_bytes());
        }
        let mut bytes = if self.is_ten {
            let len = 6 + descriptor.len() + self.pages.len();
            let mut bytes = len16(len).to_vec();
            bytes.extend([0, specific, u8::from(is_long), 0]);
            bytes.extend(len16(descriptor.len()));
            bytes
        } else {
            let len = u8::try_from(3 + descriptor.len() + self.pages.len()).unwrap_or(u8::MAX);
            vec![len, 0, specific, u8::try_from(descriptor.len()).unwrap_or(0)]
        };
        bytes.extend(descriptor);
        bytes.extend(self.pages);
        bytes
    }
}

/// A page of a MODE SELECT parameter list, with its header, and its offset in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selected<'a> {
    /// Offset in the parameter list, in bytes.
    pub at: u16,
    /// The page.
    pub page: &'a [u8],
}

impl Selected<'_> {
    /// Its code.
    #[must_use]
    pub fn code(&self) -> u8 {
        u8_at(self.page, 0) & 0x3f
    }

    /// Its subpage; [`subpage::NONE`] if it has none.
    #[must_use]
    pub fn subpage(&self) -> u8 {
        if u8_at(self.page, 0) & SPF != 0 { u8_at(self.page, 1) } else { subpage::NONE }
    }
}

/// Parses the pages of a MODE SELECT parameter list, and skips the block descriptor. SPC-4, section 7.5.2.
///
/// # Errors
/// A list that ends within a field.
pub fn parse_select(list: &[u8], is_ten: bool) -> Result<Vec<Selected<'_>>, Sense> {
    if list.is_empty() {
        return Ok(Vec::new());
    }
    let short = Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR);
    let (header, descriptors) =
        if is_ten { (8, usize::from(u16_at(list, 6))) } else { (4, usize::from(u8_at(list, 3))) };
    if list.len() < header + descriptors {
        return Err(short);
    }
    let mut at = header + descriptors;
    let mut pages = Vec::new();
    while let Some(rest) = list.get(at..).filter(|rest| !rest.is_empty()) {
        let place = u16::try_from(at).map_err(|_| short)?;
        let has_subpage = u8_at(rest, 0) & SPF != 0;
        let len = if has_subpage {
            4 + usize::from(u16_at(rest, 2))
        } else {
            2 + usize::from(u8_at(rest, 1))
        };
        let page = rest.get(..len).ok_or(short)?;
        pages.push(Selected { at: place, page });
        at += len;
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn both_headers_count_what_follows_them() {
        let pages = [caching(true), control(ControlFlags::default())].concat();
        let mut sensed = Sensed {
            is_ten: false,
            write_protect: true,
            dpo_fua: true,
            blocks: Some((100, 512, true)),
            pages: &pages,
        };
        let six = sensed.encode();
        assert_eq!(six[..4], [u8::try_from(six.len()).unwrap() - 1, 0, 0x90, 8]);
        assert_eq!(six[4..12], [0, 0, 0, 100, 0, 0, 2, 0]);
        sensed.is_ten = true;
        let ten = sensed.encode();
        assert_eq!(usize::from(u16_at(&ten, 0)), ten.len() - 2);
        assert_eq!(ten[3..8], [0x90, 1, 0, 0, 16]);
    }

    #[test]
    fn the_control_page_survives() {
        let flags = ControlFlags {
            descriptor_sense: true,
            global_logging: true,
            unrestricted_reordering: true,
            write_protect: true,
            task_aborted_status: true,
            busy_timeout: true,
        };
        assert_eq!(ControlFlags::parse(&control(flags)), flags);
        let none = ControlFlags::default();
        assert_eq!(ControlFlags::parse(&control(none)), none);
    }

    #[test]
    fn selected_pages_are_found_behind_the_block_descriptor() {
        let mut list = vec![0, 0, 0, 8];
        list.extend([0; 8]);
        list.extend(caching(true));
        list.extend(control(ControlFlags::default()));
        let threshold = Threshold { is_enabled: true, count: 7 };
        list.extend(provisioning(threshold, false));
        let pages = parse_select(&list, false).unwrap();
        let ids: Vec<_> = pages.iter().map(|p| (p.at, p.code(), p.subpage())).collect();
        assert_eq!(ids, [(12, 8, 0), (32, 10, 0), (44, 0x1c, 2)]);
        assert_eq!(Threshold::parse(pages[2].page), threshold);
        assert!(parse_select(&list[..40], false).is_err(), "the last page is cut");
        assert!(parse_select(&[0, 0, 0], false).is_err());
    }

    proptest! {
        #[test]
        fn any_list_is_read_without_a_panic(
            list in proptest::collection::vec(any::<u8>(), 0..96),
            is_ten: bool,
        ) {
            let _ = parse_select(&list, is_ten);
        }
    }
}
