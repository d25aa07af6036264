//! The data that a run with verification writes: every block contains its address and its age.
//!
//! The first word of a block is its LBA, the second its generation. All other words are computed
//! from these two.

/// A block whose content differs from what the run wrote to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The address of the block.
    pub lba: u64,
    /// The offset of the first wrong word in the block, in bytes: a multiple of 8.
    pub offset_bytes: usize,
    /// The generation that was written last.
    pub generation: u32,
    /// The word that was expected.
    pub expected: u64,
    /// The word that was read.
    pub found: u64,
}

const WORD: usize = 8;

/// Fills memory with the content of the blocks from `lba` on.
pub(super) fn fill(memory: &mut [u8], block_size: usize, lba: u64, generation: u32) {
    for (block, lba) in memory.chunks_exact_mut(block_size).zip(lba..) {
        for (place, index) in block.chunks_exact_mut(WORD).zip(0..) {
            place.copy_from_slice(&word(lba, generation, index).to_le_bytes());
        }
    }
}

/// Inverts the start of each block, so that `check` detects a read that transfers nothing.
pub(super) fn spoil(memory: &mut [u8], block_size: usize) {
    for block in memory.chunks_exact_mut(block_size) {
        block.iter_mut().take(WORD).for_each(|byte| *byte = !*byte);
    }
}

/// Compares memory with what was written to the blocks from `lba` on.
pub(super) fn check(
    memory: &[u8],
    block_size: usize,
    lba: u64,
    generation: u32,
) -> Result<(), Mismatch> {
    for (block, lba) in memory.chunks_exact(block_size).zip(lba..) {
        for (place, index) in block.chunks_exact(WORD).zip(0..) {
            let expected = word(lba, generation, index);
            let found = place.try_into().map_or(0, u64::from_le_bytes);
            if found != expected {
                let offset_bytes = usize::try_from(index).unwrap_or(0) * WORD;
                return Err(Mismatch { lba, offset_bytes, generation, expected, found });
            }
        }
    }
    Ok(())
}

fn word(lba: u64, generation: u32, index: u64) -> u64 {
    match index {
        0 => lba,
        1 => u64::from(generation),
        _ => {
            let seed = lba ^ (u64::from(generation) << 32);
            (seed.wrapping_add(index)).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(23) ^ seed
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_filled_is_accepted_there_and_then_only() {
        let mut memory = vec![0; 2048];
        fill(&mut memory, 512, 70, 3);
        assert_eq!(check(&memory, 512, 70, 3), Ok(()));
        let stale = check(&memory, 512, 70, 4).unwrap_err();
        assert_eq!((stale.lba, stale.offset_bytes, stale.found), (70, 8, 3));
        let elsewhere = check(&memory, 512, 71, 3).unwrap_err();
        assert_eq!((elsewhere.lba, elsewhere.found), (71, 70));
    }

    #[test]
    fn every_byte_counts() {
        let mut memory = vec![0; 1040];
        fill(&mut memory, 520, 5, 1);
        for at in 0..memory.len() {
            memory[at] ^= 1;
            let found = check(&memory, 520, 5, 1).unwrap_err();
            assert_eq!((found.lba, found.offset_bytes), (5 + at as u64 / 520, at % 520 / 8 * 8));
            memory[at] ^= 1;
        }
    }

    #[test]
    fn a_spoiled_buffer_is_not_accepted() {
        let mut memory = vec![0; 1024];
        fill(&mut memory, 512, 9, 1);
        spoil(&mut memory, 512);
        assert!(check(&memory, 512, 9, 1).is_err());
        assert!(check(&memory[512..], 512, 10, 1).is_err());
    }
}
