//! The model of a bdev: the contents that each block may have.

use crate::rng::mix;
use std::cell::RefCell;

/// Contents of a block, by number; 0 is all zeroes.
pub(crate) type Tag = u64;

#[derive(Clone, Debug, Default)]
struct Block {
    /// The last successful write, then the writes that may have happened or not.
    possible: Vec<Tag>,
    readers: u32,
    writers: u32,
    /// Sequence numbers of the last change that began and of the last change that completed.
    begun: u64,
    ended: u64,
}

/// The model of one bdev.
#[derive(Debug)]
pub(crate) struct Model {
    blocks: RefCell<Vec<Block>>,
    block_size: usize,
}

/// How an I/O uses its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    Read,
    Write,
}

impl Model {
    pub(crate) fn new(nblocks: u64, block_size: u32) -> Self {
        let model = Self { blocks: RefCell::default(), block_size: block_size as usize };
        model.grow(nblocks);
        model
    }

    pub(crate) fn len(&self) -> u64 {
        self.blocks.borrow().len() as u64
    }

    /// New blocks are zeroes.
    pub(crate) fn grow(&self, nblocks: u64) {
        let fresh = Block { possible: vec![0], ..Block::default() };
        self.blocks.borrow_mut().resize(nblocks as usize, fresh);
    }

    /// Whether no I/O in flight makes the result depend on the order.
    pub(crate) fn is_free(&self, lba: u64, nblocks: u64, how: Use) -> bool {
        let blocks = self.blocks.borrow();
        blocks[range(lba, nblocks)]
            .iter()
            .all(|block| block.writers == 0 && (how == Use::Read || block.readers == 0))
    }

    pub(crate) fn begin(&self, lba: u64, nblocks: u64, how: Use, sequence: u64) {
        for block in &mut self.blocks.borrow_mut()[range(lba, nblocks)] {
            match how {
                Use::Read => block.readers += 1,
                Use::Write => {
                    block.writers += 1;
                    block.begun = sequence;
                }
            }
        }
    }

    pub(crate) fn read_completed(&self, lba: u64, nblocks: u64) {
        self.blocks.borrow_mut()[range(lba, nblocks)]
            .iter_mut()
            .for_each(|block| block.readers -= 1);
    }

    /// A change completed. After success the blocks hold it, otherwise they may hold it.
    pub(crate) fn write_completed(
        &self,
        lba: u64,
        nblocks: u64,
        tag: impl Fn(u64) -> Tag,
        success: bool,
        sequence: u64,
    ) {
        let mut blocks = self.blocks.borrow_mut();
        for (index, block) in blocks[range(lba, nblocks)].iter_mut().enumerate() {
            block.writers -= 1;
            block.ended = sequence;
            if success {
                block.possible.clear();
            }
            block.possible.push(tag(index as u64));
        }
    }

    /// Checks the data of a read and remembers it.
    pub(crate) fn check_read(&self, lba: u64, data: &[u8]) -> Result<(), String> {
        let mut blocks = self.blocks.borrow_mut();
        for (index, bytes) in data.chunks_exact(self.block_size).enumerate() {
            let block = &mut blocks[lba as usize + index];
            let Some(&tag) = block.possible.iter().find(|&&tag| holds(bytes, tag)) else {
                return Err(format!(
                    "block {} holds {:x?}…, allowed: {:x?}",
                    lba + index as u64,
                    &bytes[..8],
                    block.possible
                ));
            };
            block.possible.clear();
            block.possible.push(tag);
        }
        Ok(())
    }

    /// The contents, if the model knows them.
    pub(crate) fn known(&self, lba: u64, nblocks: u64) -> Option<Vec<Tag>> {
        let blocks = self.blocks.borrow();
        let known = blocks[range(lba, nblocks)].iter().map(|block| match block.possible[..] {
            [tag] => Some(tag),
            _ => None,
        });
        known.collect()
    }

    /// Checks the contents after a power cut, for the blocks that did not change since `sequence`.
    pub(crate) fn check_stable(
        &self,
        lba: u64,
        nblocks: u64,
        sequence: u64,
        mut stable: impl FnMut(u64, &mut [u8]),
    ) -> Result<(), String> {
        let mut bytes = vec![0; self.block_size];
        for (index, block) in self.blocks.borrow()[range(lba, nblocks)].iter().enumerate() {
            if block.begun > sequence || block.ended > sequence || block.writers != 0 {
                continue;
            }
            let lba = lba + index as u64;
            stable(lba, &mut bytes);
            if !block.possible.iter().any(|&tag| holds(&bytes, tag)) {
                return Err(format!(
                    "block {lba} is not durable: {:x?}…, allowed: {:x?}",
                    &bytes[..8],
                    block.possible
                ));
            }
        }
        Ok(())
    }
}

fn range(lba: u64, nblocks: u64) -> std::ops::Range<usize> {
    lba as usize..(lba + nblocks) as usize
}

fn word(tag: Tag, index: usize) -> u64 {
    if tag == 0 { 0 } else { mix(tag).wrapping_add(index as u64) }
}

/// Writes a block's contents.
pub(crate) fn fill(bytes: &mut [u8], tag: Tag) {
    for (index, word_bytes) in bytes.chunks_exact_mut(8).enumerate() {
        word_bytes.copy_from_slice(&word(tag, index).to_le_bytes());
    }
}

fn holds(bytes: &[u8], tag: Tag) -> bool {
    bytes
        .chunks_exact(8)
        .enumerate()
        .all(|(index, word_bytes)| word_bytes == word(tag, index).to_le_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(tag: Tag) -> Vec<u8> {
        let mut bytes = vec![0; 16];
        fill(&mut bytes, tag);
        bytes
    }

    #[test]
    fn a_failed_write_may_have_happened_and_a_read_settles_it() {
        let model = Model::new(4, 16);
        model.begin(1, 1, Use::Write, 1);
        assert!(!model.is_free(1, 1, Use::Read));
        model.write_completed(1, 1, |_| 7, false, 2);
        assert!(model.is_free(0, 4, Use::Write));
        assert_eq!(model.known(1, 1), None);
        assert!(model.check_read(1, &block(9)).is_err());
        assert!(model.check_read(1, &block(7)).is_ok());
        assert!(model.check_read(1, &block(0)).is_err(), "an earlier read saw 7");
    }

    #[test]
    fn what_is_not_stable_is_found_unless_it_changed_meanwhile() {
        let model = Model::new(1, 16);
        model.begin(0, 1, Use::Write, 1);
        model.write_completed(0, 1, |_| 3, true, 2);
        let old = |_, bytes: &mut [u8]| fill(bytes, 0);
        assert!(model.check_stable(0, 1, 2, old).is_err());
        assert!(model.check_stable(0, 1, 1, old).is_ok());
    }
}
