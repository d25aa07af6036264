//! A model of a disk's content. The content of each block says which write made it, and a read is
//! compared with what the block may contain.

use crate::batch::Completed;
use crate::random::Random;
use drivebay_plugin_api::*;
use std::ops::Range;

/// The content that a block may have.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Block {
    /// Unknown, because the block was never written, or was unmapped.
    Unknown,
    /// One of these versions; 0 = zeroes.
    OneOf(Vec<u64>),
}

/// The blocks of a window of a disk.
#[derive(Debug)]
pub struct Model {
    seed: u64,
    block_size: usize,
    first: u64,
    blocks: Vec<Block>,
    last_version: u64,
}

impl Model {
    /// A model of the blocks `window`. Their content is unknown at first.
    #[must_use]
    pub fn new(seed: u64, block_size: u32, window: Range<u64>) -> Self {
        let len = usize::try_from(window.end - window.start).unwrap_or(0);
        Self {
            seed,
            block_size: block_size as usize,
            first: window.start,
            blocks: vec![Block::Unknown; len],
            last_version: 0,
        }
    }

    /// The number of blocks in the window.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.blocks.len() as u64
    }

    /// The first block of the window.
    #[must_use]
    pub fn first(&self) -> u64 {
        self.first
    }

    /// Content for blocks that differs from all earlier content.
    pub fn fresh(&mut self, lba: u64, nblocks: u64) -> Vec<u8> {
        self.last_version += 1;
        let version = self.last_version;
        (lba..lba + nblocks).flat_map(|lba| self.contents(lba, version)).collect()
    }

    /// The content of blocks, if all of it is known.
    #[must_use]
    pub fn known(&self, lba: u64, nblocks: u64) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        for lba in lba..lba + nblocks {
            match self.blocks.get(self.index(lba)?)? {
                Block::OneOf(versions) if versions.len() == 1 => {
                    all.extend(self.contents(lba, *versions.first()?));
                }
                _ => return None,
            }
        }
        Some(all)
    }

    /// Updates the model with an I/O that has completed.
    ///
    /// # Errors
    /// A read returned data that cannot be there, or a compare had the wrong status.
    pub fn account(&mut self, ended: &Completed) -> Result<(), String> {
        let io = &ended.io;
        match (io.op, ended.status) {
            (BAY_OP_READ, 0) => self.check(io.lba, &io.data),
            (BAY_OP_WRITE, status) => {
                let version = version_of(&io.data);
                self.each(io.lba, io.nblocks, |block| block.written(version, status == 0));
                Ok(())
            }
            (BAY_OP_WRITE_ZEROES, status) => {
                self.each(io.lba, io.nblocks, |block| block.written(0, status == 0));
                Ok(())
            }
            (BAY_OP_UNMAP, _) => {
                self.each(io.lba, io.nblocks, |block| *block = Block::Unknown);
                Ok(())
            }
            (BAY_OP_COMPARE, status @ (0 | BAY_ST_MISCOMPARE)) => {
                match (self.known(io.lba, io.nblocks), status) {
                    (Some(known), 0) if known != io.data => {
                        Err(format!("compare of lba {} with other data succeeded", io.lba))
                    }
                    (Some(known), BAY_ST_MISCOMPARE) if known == io.data => {
                        Err(format!("compare of lba {} with its own data miscompared", io.lba))
                    }
                    _ => Ok(()),
                }
            }
            _ => Ok(()),
        }
    }

    fn each(&mut self, lba: u64, nblocks: u64, change: impl Fn(&mut Block)) {
        for lba in lba..lba + nblocks {
            let index = self.index(lba);
            index.and_then(|index| self.blocks.get_mut(index)).into_iter().for_each(&change);
        }
    }

    /// Compares the data that was read from `lba` on with what may be there.
    fn check(&self, lba: u64, data: &[u8]) -> Result<(), String> {
        for (lba, found) in (lba..).zip(data.chunks(self.block_size)) {
            let block = self.index(lba).and_then(|index| self.blocks.get(index));
            let Some(Block::OneOf(versions)) = block else { continue };
            if !versions.iter().any(|version| self.contents(lba, *version) == found) {
                let wanted: Vec<String> = versions.iter().map(|version| named(*version)).collect();
                let seen = self.describe(lba, found);
                return Err(format!("block {lba} must hold {}, holds {seen}", wanted.join(" or ")));
            }
        }
        Ok(())
    }

    fn describe(&self, lba: u64, found: &[u8]) -> String {
        if found.iter().all(|byte| *byte == 0) {
            return "zeroes".to_owned();
        }
        let (of, version) = (word(found, 0), version_of(found));
        if self.contents(of, version) != found {
            let same = self.contents(lba, version);
            let at = same.iter().zip(found).position(|(wanted, seen)| wanted != seen);
            return match at {
                Some(at) if at >= 16 => {
                    format!("write {version} up to byte {at} and other data from there on")
                }
                _ => "data that this run never wrote".to_owned(),
            };
        }
        if of == lba {
            format!("write {version}")
        } else {
            format!("write {version} of block {of}")
        }
    }

    fn index(&self, lba: u64) -> Option<usize> {
        usize::try_from(lba.checked_sub(self.first)?).ok()
    }

    /// The content of a block: its LBA and version, then words that are computed from both.
    fn contents(&self, lba: u64, version: u64) -> Vec<u8> {
        let mut all = vec![0; self.block_size];
        if version == 0 {
            return all;
        }
        let mut random = Random::new(self.seed ^ lba.rotate_left(32) ^ version);
        for (at, word) in all.chunks_mut(8).enumerate() {
            let value = match at {
                0 => lba,
                1 => version,
                _ => random.number(),
            };
            word.copy_from_slice(value.to_le_bytes().get(..word.len()).unwrap_or_default());
        }
        all
    }
}

impl Block {
    fn written(&mut self, version: u64, is_certain: bool) {
        match self {
            _ if is_certain => *self = Self::OneOf(vec![version]),
            Self::OneOf(versions) => versions.push(version),
            Self::Unknown => {}
        }
    }
}

fn named(version: u64) -> String {
    if version == 0 { "zeroes".to_owned() } else { format!("write {version}") }
}

fn version_of(data: &[u8]) -> u64 {
    word(data, 8)
}

fn word(data: &[u8], at: usize) -> u64 {
    let bytes = data.get(at..at + 8).and_then(|bytes| bytes.first_chunk());
    bytes.map_or(0, |bytes| u64::from_le_bytes(*bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::batch::Io;

    fn completed(op: u16, lba: u64, data: &[u8], status: i32) -> Completed {
        let io = Io::new(op, lba, data.len() as u64 / 512).with(data.to_vec());
        Completed { io, status }
    }

    fn written() -> (Model, Vec<u8>) {
        let mut model = Model::new(1, 512, 0..64);
        let data = model.fresh(4, 2);
        model.account(&completed(BAY_OP_WRITE, 4, &data, 0)).unwrap();
        (model, data)
    }

    #[test]
    fn what_was_written_must_be_read() {
        let (mut model, data) = written();
        model.account(&completed(BAY_OP_READ, 4, &data, 0)).unwrap();
        let zeroes = vec![0; 1024];
        let error = model.account(&completed(BAY_OP_READ, 4, &zeroes, 0)).unwrap_err();
        assert_eq!(error, "block 4 must hold write 1, holds zeroes");
    }

    #[test]
    fn a_misplaced_and_a_torn_block_are_told_apart() {
        let (mut model, data) = written();
        let mut swapped = data[512..].to_vec();
        swapped.extend(&data[..512]);
        let error = model.account(&completed(BAY_OP_READ, 4, &swapped, 0)).unwrap_err();
        assert!(error.ends_with("holds write 1 of block 5"), "{error}");
        let mut torn = data.clone();
        torn[100] ^= 1;
        let error = model.account(&completed(BAY_OP_READ, 4, &torn, 0)).unwrap_err();
        assert!(error.contains("up to byte 100"), "{error}");
    }

    #[test]
    fn a_write_that_failed_may_have_happened_or_not() {
        let (mut model, old) = written();
        let new = model.fresh(4, 2);
        model.account(&completed(BAY_OP_WRITE, 4, &new, -libc::EIO)).unwrap();
        model.account(&completed(BAY_OP_READ, 4, &old, 0)).unwrap();
        model.account(&completed(BAY_OP_READ, 4, &new, 0)).unwrap();
        assert_eq!(model.known(4, 2), None);
    }
}
