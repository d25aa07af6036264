//! The parameter list of UNMAP. SBC-3, section 5.28.

use crate::bytes::{len16, put, u16_at, u32_at, u64_at};
use crate::sense::{Sense, asc};

/// Length of the header, in bytes.
pub const HEADER_LEN: usize = 8;
/// Length of a block descriptor, in bytes.
pub const DESCRIPTOR_LEN: usize = 16;

/// Blocks to unmap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptor {
    /// The first block.
    pub lba: u64,
    /// Number of blocks. 0 is not an error.
    pub blocks: u32,
}

/// Parses the descriptors of a parameter list.
///
/// # Errors
/// A list whose lengths contradict each other.
pub fn parse(list: &[u8]) -> Result<impl Iterator<Item = Descriptor> + Clone, Sense> {
    if !list.is_empty() && list.len() < HEADER_LEN {
        return Err(Sense::illegal(asc::PARAMETER_LIST_LENGTH_ERROR));
    }
    // An incomplete descriptor at the end is ignored (UNMAP BLOCK DESCRIPTOR DATA LENGTH).
    let told = usize::from(u16_at(list, 2));
    let data = list.get(HEADER_LEN..).unwrap_or_default();
    let data = data.get(..told.min(data.len())).unwrap_or_default();
    Ok(data
        .chunks_exact(DESCRIPTOR_LEN)
        .map(|descriptor| Descriptor { lba: u64_at(descriptor, 0), blocks: u32_at(descriptor, 8) }))
}

/// Encodes a parameter list.
#[must_use]
pub fn encode(descriptors: &[Descriptor]) -> Vec<u8> {
    let len = descriptors.len() * DESCRIPTOR_LEN;
    let mut bytes = vec![0; HEADER_LEN + len];
    put(&mut bytes, 0, &len16(len + HEADER_LEN - 2));
    put(&mut bytes, 2, &len16(len));
    for (index, descriptor) in descriptors.iter().enumerate() {
        let at = HEADER_LEN + index * DESCRIPTOR_LEN;
        put(&mut bytes, at, &descriptor.lba.to_be_bytes());
        put(&mut bytes, at + 8, &descriptor.blocks.to_be_bytes());
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_survive_and_a_torn_one_is_left_out() {
        let two = [Descriptor { lba: 8, blocks: 4 }, Descriptor { lba: 1 << 40, blocks: 0 }];
        let mut list = encode(&two);
        assert_eq!(parse(&list).unwrap().collect::<Vec<_>>(), two);
        list.truncate(HEADER_LEN + 20);
        assert_eq!(parse(&list).unwrap().collect::<Vec<_>>(), two[..1]);
    }

    #[test]
    fn the_length_in_the_header_counts_when_it_is_less_than_what_came() {
        let mut list = encode(&[Descriptor { lba: 1, blocks: 1 }; 3]);
        put(&mut list, 2, &len16(16));
        assert_eq!(parse(&list).unwrap().count(), 1);
        assert_eq!(parse(&[]).unwrap().count(), 0);
        assert!(parse(&[0; 7]).is_err());
    }
}
