//! Namespace lists and controller lists. NVMe Base 2.0, sections 4.4.1 and 4.4.2.

use super::LEN;
use crate::layout::Field;

/// Makes a namespace list: the first 1024 of `nsids` that are greater than `after`. `nsids` must be in increasing order.
#[must_use]
pub fn namespace_list(nsids: impl IntoIterator<Item = u32>, after: u32) -> [u8; LEN] {
    let mut data = [0; LEN];
    let listed = nsids.into_iter().filter(|&nsid| nsid > after);
    for (place, nsid) in data.chunks_exact_mut(4).zip(listed) {
        place.copy_from_slice(&nsid.to_le_bytes());
    }
    data
}

/// Returns the identifiers of a namespace list, up to its first zero.
pub fn parse_namespace_list(data: &[u8; LEN]) -> impl Iterator<Item = u32> {
    (0..LEN).step_by(4).map(|offset| u32::take(data, offset)).take_while(|&nsid| nsid != 0)
}

/// Makes a controller list: the first 2047 of `cntlids` that are at least `from`. `cntlids` must be in increasing order.
#[must_use]
pub fn controller_list(cntlids: impl IntoIterator<Item = u16>, from: u16) -> [u8; LEN] {
    let mut data = [0; LEN];
    let listed = cntlids.into_iter().filter(|&cntlid| cntlid >= from);
    let mut count = 0u16;
    for (place, cntlid) in data.chunks_exact_mut(2).skip(1).zip(listed) {
        place.copy_from_slice(&cntlid.to_le_bytes());
        count += 1;
    }
    count.put(&mut data, 0);
    data
}

/// Returns the identifiers of a controller list. Limits a count that is past the end of the list.
pub fn parse_controller_list(data: &[u8; LEN]) -> impl Iterator<Item = u16> {
    let count = u16::take(data, 0);
    (2..LEN).step_by(2).map(|offset| u16::take(data, offset)).take(count.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_namespace_list_starts_after_the_identifier_given() {
        let data = namespace_list([1, 2, 5], 1);
        assert_eq!(data[..12], [2, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(parse_namespace_list(&data).collect::<Vec<_>>(), [2, 5]);
    }

    #[test]
    fn lists_hold_no_more_than_fits() {
        let full = namespace_list(1..=2000, 0);
        assert_eq!(parse_namespace_list(&full).count(), 1024);
        let full = controller_list(0..3000, 0);
        assert_eq!(parse_controller_list(&full).count(), 2047);
        assert_eq!(parse_controller_list(&[0xff; 4096]).count(), 2047);
    }

    #[test]
    fn a_controller_list_starts_with_its_count() {
        let data = controller_list([1, 2, 5], 2);
        assert_eq!(data[..6], [2, 0, 2, 0, 5, 0]);
    }
}
