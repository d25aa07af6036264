//! Mode parameters: headers, block descriptors and the three pages of a disk. SPC-4, sections 6.11 and 7.5; SBC-3, section 6.5.

use crate::bytes::{len16, put, u8_at, u16_at};
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

/// The Read-Write Error Recovery page. SBC-3, section 6.5.9.
#[must_use]
pub fn error_recovery() -> Vec<u8> {
    let mut page = vec![0; 12];
    put(&mut page, 0, &[page::READ_WRITE_ERROR_RECOVERY, 10]);
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

/// A page of a MODE SELECT parameter list, with its two bytes of header, and its offset in the list.
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
}

/// Parses the pages of a MODE SELECT parameter list, and skips the block descriptor. SPC-4, section 7.5.2.
///
/// # Errors
/// A list that ends within a field, a page with subpages, a header with reserved fields set.
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
        if u8_at(rest, 0) & 0x40 != 0 {
            return Err(Sense::invalid_parameter(place, Some(6)));
        }
        let len = 2 + usize::from(u8_at(rest, 1));
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
        let pages = parse_select(&list, false).unwrap();
        assert_eq!(pages.iter().map(|p| (p.at, p.code())).collect::<Vec<_>>(), [(12, 8), (32, 10)]);
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
