//! The content of blocks. The first word of a block is its place, the second its generation, and all others depend on
//! both. So a wrong, stale or torn block is found and identified.

use crate::target::BLOCK;
use std::fmt;

/// The content of a block, as far as its only writer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Held {
    /// Unknown.
    Any,
    /// The data of this generation; 0 means zeroes.
    One(u64),
    /// The data of this generation, or zeroes.
    OrZeroes(u64),
}

impl Held {
    /// The generation, if only one is possible.
    pub(crate) fn generation(self) -> Option<u64> {
        if let Self::One(generation) = self { Some(generation) } else { None }
    }

    /// Whether the bytes of block `lba` of disk `disk` have this content.
    pub(crate) fn check(self, disk: u32, lba: u64, bytes: &[u8]) -> Result<(), Wrong> {
        let is = |generation| bytes == block(disk, lba, generation);
        let is_right = match self {
            Self::Any => true,
            Self::One(generation) => is(generation),
            Self::OrZeroes(generation) => is(generation) || is(0),
        };
        if is_right {
            Ok(())
        } else {
            Err(Wrong { disk, lba, held: self, found: Found::of(bytes) })
        }
    }
}

/// The bytes of one block.
pub(crate) fn block(disk: u32, lba: u64, generation: u64) -> [u8; BLOCK] {
    let mut bytes = [0; BLOCK];
    if generation == 0 {
        return bytes;
    }
    let place = u64::from(disk) << 48 | lba;
    let mut state = place.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ generation.rotate_left(32);
    for (i, chunk) in bytes.chunks_exact_mut(8).enumerate() {
        let word = match i {
            0 => place,
            1 => generation,
            _ => {
                state =
                    state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
                state
            }
        };
        chunk.copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

/// A block with wrong content.
#[derive(Debug)]
pub(crate) struct Wrong {
    disk: u32,
    lba: u64,
    held: Held,
    found: Found,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { disk, lba, held, found } = self;
        write!(f, "block {lba} of namespace {disk} holds {found:?}; {held:?} is right")
    }
}

/// The kind of a wrong block, found from its first words.
#[derive(Debug)]
#[expect(dead_code, reason = "for its Debug")]
enum Found {
    Zeroes,
    /// A whole block that belongs to another place, or that an earlier write left.
    Block {
        disk: u64,
        lba: u64,
        generation: u64,
    },
    /// The block begins like this block, and differs from this byte on.
    Torn {
        disk: u64,
        lba: u64,
        generation: u64,
        at: usize,
    },
}

impl Found {
    fn of(bytes: &[u8]) -> Self {
        let word = |i: usize| u64::from_le_bytes(bytes[i * 8..][..8].try_into().unwrap());
        let (disk, lba, generation) = (word(0) >> 48, word(0) & 0xffff_ffff_ffff, word(1));
        let whole = block(u32::try_from(disk).unwrap(), lba, generation);
        match bytes.iter().zip(whole).position(|(found, whole)| *found != whole) {
            _ if bytes.iter().all(|byte| *byte == 0) => Self::Zeroes,
            None => Self::Block { disk, lba, generation },
            Some(at) => Self::Torn { disk, lba, generation, at },
        }
    }
}

#[test]
fn wrong_stale_and_torn_blocks_are_noticed_and_named() {
    let good = block(1, 7, 3);
    let reported =
        |bytes: &[u8]| Held::One(3).check(1, 7, bytes).map_err(|wrong| wrong.to_string());
    assert!(reported(&good).is_ok());
    assert!(Held::OrZeroes(3).check(1, 7, &[0; BLOCK]).is_ok());
    assert!(reported(&block(1, 7, 2)).unwrap_err().contains("generation: 2"));
    assert!(reported(&block(1, 8, 3)).unwrap_err().contains("lba: 8"));
    assert!(reported(&block(2, 7, 3)).unwrap_err().contains("Block { disk: 2"));
    assert!(reported(&[0; BLOCK]).unwrap_err().contains("Zeroes"));
    let mut torn = good;
    torn[256..].copy_from_slice(&block(1, 7, 2)[256..]);
    assert!(reported(&torn).unwrap_err().contains("Torn"));
}
