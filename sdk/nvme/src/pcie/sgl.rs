//! Describes data by a scatter gather list (SGL). NVMe Base 2.0, section 4.1.2.

use super::PAGE;
use drivebay_spec_nvme::identify::sgls;

/// Number of descriptors in a list. A list has the page that the command's page list would have.
const LIST_DESCRIPTORS: usize = PAGE as usize / 16;
/// Type of a descriptor, in the upper half of its last byte: a data block, and the last segment of a list.
const DATA_BLOCK: u64 = 0x00 << 56;
const LAST_SEGMENT: u64 = 0x30 << 56;

/// What a controller accepts as a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Sgl {
    /// Nothing: it has only page lists.
    #[default]
    Unsupported,
    /// Pieces that begin at a dword and are whole dwords long.
    Dwords,
    /// Any pieces.
    Bytes,
}

impl Sgl {
    /// What the field SGLS of Identify Controller says.
    #[must_use]
    pub const fn of(field: u32) -> Self {
        match field & (sgls::SUPPORTED | sgls::SUPPORTED_DWORD) {
            sgls::SUPPORTED => Self::Bytes,
            sgls::SUPPORTED_DWORD => Self::Dwords,
            _ => Self::Unsupported,
        }
    }
}

/// Describes data as a list, and returns the two words of the command's data pointer. A list of one piece is in the command itself.
/// Otherwise `put` writes the list, whose address for the controller is `list_iova`, word by word.
///
/// `None` when devices cannot access a piece (`None` in `pieces`), a piece is not aligned as the controller requires, or there are too many
/// pieces.
pub(super) fn describe(
    sgl: Sgl,
    pieces: impl Iterator<Item = Option<(u64, u32)>>,
    list_iova: u64,
    mut put: impl FnMut(usize, u64),
) -> Option<[u64; 2]> {
    let misaligned = match sgl {
        Sgl::Unsupported => return None,
        Sgl::Dwords => 3,
        Sgl::Bytes => 0,
    };
    let mut first = [0, DATA_BLOCK];
    let mut count = 0_usize;
    for piece in pieces {
        let (at, len) = piece?;
        if (at | u64::from(len)) & misaligned != 0 || count == LIST_DESCRIPTORS {
            return None;
        }
        if len == 0 {
            continue;
        }
        let descriptor = [at, u64::from(len) | DATA_BLOCK];
        if count == 0 {
            first = descriptor;
        }
        put(count * 2, descriptor[0]);
        put(count * 2 + 1, descriptor[1]);
        count += 1;
    }
    Some(if count > 1 { [list_iova, (count as u64 * 16) | LAST_SEGMENT] } else { first })
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: u64 = 0xabc_0000;

    fn list(sgl: Sgl, pieces: &[Option<(u64, u32)>]) -> Option<([u64; 2], Vec<u64>)> {
        let mut list = Vec::new();
        let pointer = describe(sgl, pieces.iter().copied(), LIST, |place, word| {
            assert_eq!(place, list.len());
            list.push(word);
        })?;
        Some((pointer, list))
    }

    #[test]
    fn one_piece_is_in_the_command_and_more_are_in_the_list() {
        let (pointer, _) = list(Sgl::Bytes, &[Some((0x1001, 513))]).unwrap();
        assert_eq!(pointer, [0x1001, 513]);
        let (pointer, list) =
            list(Sgl::Bytes, &[Some((0x1001, 511)), Some((9, 0)), Some((0x8000, 1))]).unwrap();
        assert_eq!(pointer, [LIST, 32 | 0x30 << 56]);
        assert_eq!(list, [0x1001, 511, 0x8000, 1]);
    }

    #[test]
    fn what_the_controller_does_not_accept_is_refused() {
        assert_eq!(list(Sgl::Unsupported, &[Some((0, 512))]), None);
        assert_eq!(list(Sgl::Bytes, &[Some((0, 512)), None]), None);
        assert_eq!(list(Sgl::Dwords, &[Some((2, 512))]), None);
        assert_eq!(list(Sgl::Dwords, &[Some((4, 510))]), None);
        assert!(list(Sgl::Dwords, &[Some((4, 512))]).is_some());
        let piece = Some((0x1000, 16));
        assert!(list(Sgl::Bytes, &[piece; LIST_DESCRIPTORS]).is_some());
        assert_eq!(list(Sgl::Bytes, &[piece; LIST_DESCRIPTORS + 1]), None);
    }

    #[test]
    fn the_field_of_identify_controller_is_read() {
        assert_eq!(
            [0, 1, 2, 3].map(Sgl::of),
            [Sgl::Unsupported, Sgl::Bytes, Sgl::Dwords, Sgl::Unsupported]
        );
    }
}
