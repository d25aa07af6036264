//! The seed's numbers: xorshift64*, the same everywhere.

use std::cell::Cell;

/// A stream of numbers from a seed.
#[derive(Debug)]
pub struct Rng(Cell<u64>);

impl Rng {
    /// The stream of a seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        // Mixing puts neighboring seeds far apart. The state must not be 0.
        Self(Cell::new(mix(seed.wrapping_add(0x9e37_79b9_7f4a_7c15)) | 1))
    }

    /// The next number.
    pub fn next(&self) -> u64 {
        let mut state = self.0.get();
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        self.0.set(state);
        state.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// From 0 to `end - 1`; 0 for an end of 0.
    pub fn below(&self, end: u64) -> u64 {
        ((u128::from(self.next()) * u128::from(end)) >> 64) as u64
    }

    /// An index of a slice of `len` elements.
    pub fn index(&self, len: usize) -> usize {
        self.below(len as u64) as usize
    }

    /// From `first` to `last`.
    pub fn within(&self, first: u64, last: u64) -> u64 {
        first + self.below(last - first + 1)
    }

    /// True in `percent` of 100 cases.
    pub fn chance(&self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// Returns a random element of a list.
    pub fn pick<T: Copy>(&self, list: &[T]) -> T {
        list[self.index(list.len())]
    }
}

/// Mixes a number, so that neighbors get unrelated results.
#[must_use]
pub fn mix(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}
