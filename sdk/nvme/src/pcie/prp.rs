//! Describes data by physical region pages (PRP). NVMe Base 2.0, section 4.1.1.

use super::PAGE;

/// Number of entries of a page list. A list is one page long.
pub(super) const LIST_ENTRIES: usize = PAGE as usize / 8;

/// The data pointer of a command.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Prps {
    pub(super) first: u64,
    pub(super) second: u64,
}

/// Describes data by pages. The first page may begin at any dword; each further one begins at the start of a page. Each but the last ends
/// at the end of a page. When the two pointers of the command are not enough, `put` writes the pages to the command's list, whose address
/// for the controller is `list_iova`.
///
/// `None` when pages cannot describe the data: devices cannot access a piece (`None` in `pieces`), the first piece does not begin at a
/// dword, a piece ends or begins within a page where another one meets it, or there are too many pages.
pub(super) fn describe(
    pieces: impl Iterator<Item = Option<(u64, u32)>>,
    list_iova: u64,
    mut put: impl FnMut(usize, u64),
) -> Option<Prps> {
    const MASK: u64 = PAGE as u64 - 1;
    let (mut first, mut second) = (0, 0);
    let mut count = 0_usize;
    // The end of the data described so far.
    let mut end = 0;
    for piece in pieces {
        let (mut at, len) = piece?;
        if len == 0 {
            continue;
        }
        let piece_end = at.checked_add(len.into())?;
        if count == 0 {
            if at & 3 != 0 {
                return None;
            }
            (first, count) = (at, 1);
            at = (at | MASK).checked_add(1)?;
        } else if at == end && end & MASK != 0 {
            // The piece continues in the same page.
            at = (at | MASK).checked_add(1)?;
        } else if (at | end) & MASK != 0 {
            return None;
        }
        while at < piece_end {
            let place = count - 1;
            if place >= LIST_ENTRIES {
                return None;
            }
            put(place, at);
            if place == 0 {
                second = at;
            }
            count += 1;
            at += u64::from(PAGE);
        }
        end = piece_end;
    }
    Some(Prps { first, second: if count > 2 { list_iova } else { second } })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIST: u64 = 0xabc_0000;

    fn prps(pieces: &[(u64, u32)]) -> Option<(Prps, Vec<u64>)> {
        let mut list = Vec::new();
        let pieces = pieces.iter().map(|piece| Some(*piece));
        let prps = describe(pieces, LIST, |place, page| {
            assert_eq!(place, list.len());
            list.push(page);
        })?;
        Some((prps, list))
    }

    #[test]
    fn two_pages_need_no_list_and_more_do() {
        let first = |pieces| prps(pieces).map(|(prps, _)| (prps.first, prps.second));
        assert_eq!(first(&[]), Some((0, 0)));
        assert_eq!(first(&[(0x10_0200, 512)]), Some((0x10_0200, 0)));
        assert_eq!(first(&[(0x10_0200, 4096)]), Some((0x10_0200, 0x10_1000)));
        assert_eq!(first(&[(0x10_0000, 8192)]), Some((0x10_0000, 0x10_1000)));
        assert_eq!(first(&[(0x10_0200, 8192)]), Some((0x10_0200, LIST)));
        let (_, list) = prps(&[(0x10_0200, 8192)]).unwrap();
        assert_eq!(list, [0x10_1000, 0x10_2000]);
    }

    #[test]
    fn pieces_that_are_not_whole_pages_inside_are_refused() {
        assert_eq!(prps(&[(0x10_0001, 512)]), None);
        assert_eq!(prps(&[(0x10_0000, 512), (0x20_0000, 512)]), None);
        assert_eq!(prps(&[(0x10_0000, 4096), (0x20_0200, 512)]), None);
        // Adjacent pieces in one page share an entry.
        assert_eq!(prps(&[(0x10_0000, 512), (0x10_0200, 3584)]).unwrap().0.first, 0x10_0000);
        assert!(prps(&[(0x10_0200, 3584), (0x20_0000, 4096), (0x30_0000, 100)]).is_some());
        assert_eq!(describe([None].into_iter(), LIST, |_, _| {}), None);
        assert_eq!(prps(&[(0, u32::MAX)]), None);
    }

    proptest! {
        /// A controller that reads the pages finds exactly the pieces.
        #[test]
        fn what_the_controller_reads_is_the_data(
            pieces in proptest::collection::vec((0_u64..1 << 20, prop_oneof![1_u32..20_000, Just(4096), Just(8192)]), 0..6),
            aligned: bool,
        ) {
            let pieces: Vec<(u64, u32)> = pieces
                .into_iter()
                .map(|(at, len)| if aligned { (at & !0xfff, len.next_multiple_of(4096)) } else { (at, len) })
                .collect();
            let total: u64 = pieces.iter().map(|(_, len)| u64::from(*len)).sum();
            if let Some((Prps { first, second }, list)) = prps(&pieces) {
                let mut pages = vec![first];
                match list.len() {
                    0 => {}
                    1 => pages.push(second),
                    _ => {
                        prop_assert_eq!(second, LIST);
                        pages.extend(list);
                    }
                }
                let mut read = Vec::new();
                let mut left = total;
                for page in pages {
                    let len = (4096 - (page & 0xfff)).min(left);
                    read.extend(page..page + len);
                    left -= len;
                }
                prop_assert_eq!(left, 0);
                let wanted: Vec<u64> =
                    pieces.iter().flat_map(|(at, len)| *at..*at + u64::from(*len)).collect();
                prop_assert_eq!(read, wanted);
            } else {
                prop_assert!(!aligned || pieces.len() > 1 || total > 2 << 20);
            }
        }
    }
}
