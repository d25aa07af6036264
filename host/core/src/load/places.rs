//! Chooses for each I/O its place on the bdev, and whether it reads or writes.

use super::plan::Pattern;
use std::cell::{Cell, RefCell};

/// The part of a bdev that one worker uses, in units of one I/O.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    /// The first unit.
    pub(super) first: u64,
    /// The number of units, at least 1.
    pub(super) len: u64,
    /// The unit where a sequential pattern starts, counted from `first`.
    pub(super) start: u64,
}

/// Generates the place and the direction of each I/O.
#[derive(Debug)]
pub(super) struct Places {
    span: Span,
    random: bool,
    /// The I/O is a read when the lower 32 bits of a draw are below this.
    read_below: u64,
    next: Cell<u64>,
    state: Cell<u64>,
}

impl Places {
    pub(super) fn new(pattern: Pattern, span: Span, seed: u64) -> Self {
        let (random, read_percent) = match pattern {
            Pattern::Read => (false, 100),
            Pattern::Write | Pattern::Verify => (false, 0),
            Pattern::ReadWrite(percent) => (false, percent),
            Pattern::RandRead => (true, 100),
            Pattern::RandWrite => (true, 0),
            Pattern::RandReadWrite(percent) => (true, percent),
        };
        let read_below = (u64::from(read_percent) << 32) / 100;
        let state = Cell::new(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        Self { span, random, read_below, next: Cell::new(span.start), state }
    }

    /// The next unit of the bdev, and whether the I/O is a read.
    pub(super) fn next(&self) -> (u64, bool) {
        if !self.random && (self.read_below == 0 || self.read_below == 1 << 32) {
            return (self.next_in_order(), self.read_below != 0);
        }
        let draw = self.draw();
        let read = (draw & u64::from(u32::MAX)) < self.read_below;
        let unit = if self.random { self.scale(draw) } else { self.next_in_order() };
        (unit, read)
    }

    fn next_in_order(&self) -> u64 {
        let unit = self.next.get();
        self.next.set(if unit + 1 == self.span.len { 0 } else { unit + 1 });
        self.span.first + unit
    }

    /// xorshift64*: a full period and few instructions.
    fn draw(&self) -> u64 {
        let mut x = self.state.get();
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        self.state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// Maps a draw to the span. The high bits of the draw decide; the low ones have already decided
    /// the direction.
    fn scale(&self, draw: u64) -> u64 {
        let scaled = (u128::from(draw) * u128::from(self.span.len)) >> 64;
        // The result is below the span's length, so it fits.
        self.span.first + u64::try_from(scaled).unwrap_or(0)
    }
}

/// The newest generation of each unit of a span, and which units have an I/O in flight.
pub(super) struct Generations {
    first: u64,
    units: RefCell<Box<[u32]>>,
}

const BUSY: u32 = 1 << 31;

impl Generations {
    pub(super) fn new(span: Span) -> Self {
        let len = usize::try_from(span.len).unwrap_or(0);
        Self { first: span.first, units: RefCell::new(vec![0; len].into_boxed_slice()) }
    }

    /// Reserves `unit`, or the next free one. Returns the unit and its generation; 0 = never
    /// written. The caller must have fewer I/O in flight than there are units.
    pub(super) fn reserve(&self, unit: u64) -> (u64, u32) {
        let mut units = self.units.borrow_mut();
        let start = usize::try_from(unit - self.first).unwrap_or(0);
        for index in (start..units.len()).chain(0..start) {
            if let Some(generation) = units.get_mut(index)
                && *generation & BUSY == 0
            {
                *generation |= BUSY;
                return (self.first + index as u64, *generation & !BUSY);
            }
        }
        (unit, 0)
    }

    /// Releases a reserved unit and sets its generation.
    pub(super) fn release(&self, unit: u64, generation: u32) {
        let index = usize::try_from(unit - self.first).unwrap_or(usize::MAX);
        if let Some(place) = self.units.borrow_mut().get_mut(index) {
            *place = generation & !BUSY;
        }
    }

    /// The generation that follows `generation`; never 0.
    pub(super) fn after(generation: u32) -> u32 {
        ((generation + 1) & !BUSY).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: Span = Span { first: 100, len: 8, start: 6 };

    #[test]
    fn a_sequential_pattern_walks_its_span_and_begins_anew() {
        let places = Places::new(Pattern::Read, SPAN, 1);
        let units: Vec<_> = (0..10).map(|_| places.next()).collect();
        let wanted: Vec<_> =
            [106, 107, 100, 101, 102, 103, 104, 105, 106, 107].map(|unit| (unit, true)).into();
        assert_eq!(units, wanted);
    }

    #[test]
    fn a_random_pattern_visits_all_of_its_span_about_equally() {
        let places = Places::new(Pattern::RandWrite, SPAN, 7);
        let mut visits = [0_u32; 8];
        for _ in 0..8000 {
            let (unit, read) = places.next();
            assert!(!read);
            visits[usize::try_from(unit - 100).unwrap()] += 1;
        }
        assert!(visits.iter().all(|&n| (850..1150).contains(&n)), "{visits:?}");
    }

    #[test]
    fn a_mix_has_its_share_of_reads() {
        for pattern in [Pattern::ReadWrite(70), Pattern::RandReadWrite(70)] {
            let places = Places::new(pattern, SPAN, 3);
            let reads = (0..10_000).filter(|_| places.next().1).count();
            assert!((6800..7200).contains(&reads), "{pattern:?}: {reads}");
        }
    }

    #[test]
    fn a_unit_in_flight_is_stepped_over_until_it_is_released() {
        let generations = Generations::new(SPAN);
        assert_eq!(generations.reserve(107), (107, 0));
        assert_eq!(generations.reserve(107), (100, 0));
        generations.release(107, 5);
        assert_eq!(generations.reserve(107), (107, 5));
        assert_eq!(Generations::after(5), 6);
        assert_eq!(Generations::after(BUSY - 1), 1);
    }
}
