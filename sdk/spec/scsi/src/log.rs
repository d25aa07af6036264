//! Log pages. SPC-4, section 7.3; SBC-3, section 6.4.

use crate::bytes::len16;

/// Codes of log pages.
#[allow(missing_docs, reason = "the names are the standards'")]
pub mod page {
    pub const SUPPORTED: u8 = 0x00;
    pub const LOGICAL_BLOCK_PROVISIONING: u8 = 0x0c;
}

/// The subpage code that stands for all subpages.
pub const ALL_SUBPAGES: u8 = 0xff;

/// A parameter of the Logical Block Provisioning log page. SBC-3, section 6.4.5.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resources {
    /// The parameter, one of [`AVAILABLE`](Self::AVAILABLE) and [`USED`](Self::USED).
    pub code: u16,
    /// RESOURCE COUNT, in threshold sets.
    pub count: u32,
}

impl Resources {
    /// Available LBA mapping resources.
    pub const AVAILABLE: u16 = 0x0001;
    /// Used LBA mapping resources.
    pub const USED: u16 = 0x0002;
    /// SCOPE: other units share the resources.
    const SHARED: u8 = 0x02;
    /// FORMAT AND LINKING: a binary list.
    const BINARY_LIST: u8 = 0x03;

    /// Encodes it.
    #[must_use]
    pub fn encode(self) -> [u8; 12] {
        let ([high, low], [a, b, c, d]) = (self.code.to_be_bytes(), self.count.to_be_bytes());
        [high, low, Self::BINARY_LIST, 8, a, b, c, d, Self::SHARED, 0, 0, 0]
    }
}

/// A page with its header. `subpage`: 0 for a page without subpages.
#[must_use]
pub fn encode(page: u8, subpage: u8, body: &[u8]) -> Vec<u8> {
    let has_subpage = if subpage == 0 { 0 } else { 0x40 };
    let mut bytes = vec![page & 0x3f | has_subpage, subpage];
    bytes.extend(len16(body.len()));
    bytes.extend(body);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_has_its_code_its_subpage_and_its_length() {
        assert_eq!(encode(page::SUPPORTED, 0, &[0, 0x0c]), [0, 0, 0, 2, 0, 0x0c]);
        assert_eq!(encode(page::SUPPORTED, ALL_SUBPAGES, &[0, 0]), [0x40, 0xff, 0, 2, 0, 0]);
    }

    #[test]
    fn resources_are_a_parameter_of_twelve_bytes() {
        let used = Resources { code: Resources::USED, count: 0x0102_0304 };
        assert_eq!(used.encode(), [0, 2, 3, 8, 1, 2, 3, 4, 2, 0, 0, 0]);
    }
}
