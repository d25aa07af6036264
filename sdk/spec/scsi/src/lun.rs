//! Logical unit numbers and their list. SAM-5, section 4.7; SPC-4, section 6.33.

use crate::bytes::{len32, put};

/// Maximum number of units that an address of one level can name: 14 bits.
pub const LUN_MAX: u16 = 0x3fff;

/// The well known unit that answers REPORT LUNS.
pub const REPORT_LUNS_WELL_KNOWN: u64 = 0xc101_0000_0000_0000;

/// The unit that an 8-byte LUN addresses: peripheral device addressing on bus 0, or flat space addressing. `None` for other methods and for
/// addresses of several levels, which name no unit here.
#[must_use]
pub const fn decode(lun: u64) -> Option<u16> {
    let first = (lun >> 48) as u16;
    if lun << 16 != 0 {
        return None;
    }
    match first >> 14 {
        0 if first <= 0xff => Some(first),
        1 => Some(first & LUN_MAX),
        _ => None,
    }
}

/// The 8-byte LUN of a unit: peripheral device addressing up to 255, flat space addressing beyond.
#[must_use]
pub const fn encode(unit: u16) -> u64 {
    let first = if unit <= 0xff { unit } else { 0x4000 | unit & LUN_MAX };
    (first as u64) << 48
}

/// The data of REPORT LUNS.
#[must_use]
pub fn encode_list(luns: impl IntoIterator<Item = u64>) -> Vec<u8> {
    let mut bytes = vec![0; 8];
    for lun in luns {
        bytes.extend(lun.to_be_bytes());
    }
    let len = len32(bytes.len() - 8);
    put(&mut bytes, 0, &len);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_survives_and_other_addresses_name_none() {
        for unit in 0..=LUN_MAX {
            assert_eq!(decode(encode(unit)), Some(unit));
        }
        assert_eq!(decode(0x4001 << 48), Some(1), "flat space addressing of a small number");
        assert_eq!(decode(0x0101 << 48), None, "another bus");
        assert_eq!(decode(0x8001 << 48), None, "logical unit addressing");
        assert_eq!(decode(0x0001_0001_0000_0000), None, "two levels");
        assert_eq!(decode(REPORT_LUNS_WELL_KNOWN), None);
    }

    #[test]
    fn the_list_has_its_length_in_bytes() {
        assert_eq!(encode_list([]), [0; 8]);
        let list = encode_list([encode(0), encode(300)]);
        assert_eq!(list[..8], [0, 0, 0, 16, 0, 0, 0, 0]);
        assert_eq!(list[16..18], [0x41, 0x2c]);
    }
}
