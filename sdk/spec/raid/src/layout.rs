//! The layout of an array: which member holds which block.
//!
//! ```text
//! raid0   strip s        ─▶ member s mod n, row s / n
//! raid1   every block    ─▶ the same block of every member
//! raid10  copy c of strip s: deal d = 2 s + c ─▶ member d mod n, row d / n
//! raid5   row r: parity on member (n - 1) - r mod n; data strips on the others, in order
//! raid5f  as raid5
//! raid6   row r: P as raid5, Q on the member after P; data strips on the others, in order
//! concat  member 0 first, then member 1, …
//! ```
//!
//! raid0, raid1, raid5f and concat are the reference's; raid10 is Linux md's "near 2". Blocks of a member count
//! from the start of its data, so the caller adds the member's `data_offset`.
//!
//! An array grows without moving a block: when its members grow (for concat, the last member), and when a raid1 gets another
//! member. So [`Layout::place`], [`Layout::copies`] and [`Layout::row_of`] also hold for blocks that the array does not have yet.

use crate::Level;
use crate::superblock::MEMBERS_MAX;
use std::fmt;
use std::ops::Range;

/// The layout of one array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    level: Level,
    members: u64,
    /// Strip size in blocks is `1 << strip_shift`. For raid1, which has no strips, it is 0.
    strip_shift: u32,
    /// Blocks that each member gives to the array.
    used: Vec<u64>,
    /// Concat: first array block of each member.
    starts: Vec<u64>,
    num_blocks: u64,
}

/// A block of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The member's slot.
    pub member: u8,
    /// Block of the member, from the start of its data.
    pub lba: u64,
}

/// The places of all copies of a block.
#[derive(Clone, Debug)]
pub struct Copies<'a> {
    layout: &'a Layout,
    lba: u64,
    next: u64,
    count: u64,
}

/// What one member holds in one row of a level with parity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RowRole {
    /// Data strip of this number, from 0.
    Data(u8),
    /// The XOR of the data strips.
    P,
    /// The Reed-Solomon sum of the data strips.
    Q,
}

/// One row of strips of a level with parity: the role of each member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row {
    members: u8,
    parities: u8,
    p: u8,
}

/// How the array uses a block of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// The array's block with this number.
    Data(u64),
    /// Parity of a row, `offset` blocks into the strip.
    Parity {
        /// Number of the row.
        row: u64,
        /// `P` or `Q`.
        role: RowRole,
        /// Blocks from the start of the strip.
        offset: u64,
    },
}

/// Why members cannot form an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayoutError {
    /// Too few or too many members for the level.
    Members {
        /// The level.
        level: Level,
        /// Members given.
        given: usize,
    },
    /// The strip size is not a power of two, or is given for raid1.
    Strip {
        /// Blocks given.
        given: u32,
    },
    /// A member has less than one strip, or all together have more than 2^63 blocks.
    Size {
        /// The member's slot.
        member: u8,
        /// Its blocks.
        given: u64,
    },
}

impl fmt::Display for LayoutError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Members { level, given } => write!(
                f,
                "{level} needs {} to {MEMBERS_MAX} members, not {given}",
                level.members_min()
            ),
            Self::Strip { given } => write!(
                f,
                "a strip of {given} blocks is not allowed; allowed: a power of two, and 0 for raid1"
            ),
            Self::Size { member, given } => {
                write!(f, "member {member} gives {given} blocks, less than a strip or too many")
            }
        }
    }
}

impl std::error::Error for LayoutError {}

/// Arrays end below this block, so that no sum overflows.
const NUM_BLOCKS_MAX: u64 = 1 << 63;

impl Layout {
    /// The layout of an array over members with this many data blocks each.
    ///
    /// # Errors
    /// [`LayoutError`] names what does not fit.
    pub fn new(level: Level, strip_blocks: u32, data_sizes: &[u64]) -> Result<Self, LayoutError> {
        let given = data_sizes.len();
        if !(usize::from(level.members_min())..=MEMBERS_MAX).contains(&given) {
            return Err(LayoutError::Members { level, given });
        }
        let strip_shift = match (level.has_strips(), strip_blocks) {
            (true, blocks) if blocks.is_power_of_two() => blocks.ilog2(),
            (false, 0) => 0,
            _ => return Err(LayoutError::Strip { given: strip_blocks }),
        };
        let whole = |blocks: u64| blocks >> strip_shift << strip_shift;
        let smallest = whole(data_sizes.iter().copied().min().unwrap_or(0));
        let used: Vec<u64> = data_sizes
            .iter()
            .map(|&blocks| if level == Level::Concat { whole(blocks) } else { smallest })
            .collect();
        let mut starts = Vec::with_capacity(given);
        let mut sum = 0_u64;
        for (&blocks, member) in used.iter().zip(0_u8..) {
            starts.push(sum);
            sum = match sum.checked_add(blocks) {
                Some(sum) if blocks > 0 && sum < NUM_BLOCKS_MAX => sum,
                _ => return Err(LayoutError::Size { member, given: blocks }),
            };
        }
        let members = given as u64;
        let num_blocks = match level {
            Level::Raid0 | Level::Concat => sum,
            Level::Raid1 => smallest,
            // With an odd number of strips in all, the last has no second copy and is left out.
            Level::Raid10 => ((smallest >> strip_shift) * members / 2) << strip_shift,
            Level::Raid5 | Level::Raid5f | Level::Raid6 => {
                smallest * (members - u64::from(level.parities()))
            }
        };
        Ok(Self { level, members, strip_shift, used, starts, num_blocks })
    }

    /// The level.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Number of members.
    #[must_use]
    pub fn members(&self) -> u8 {
        narrow(self.members)
    }

    /// Size of the array, in blocks.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.num_blocks
    }

    /// Blocks that a member gives to the array, 0 when there is no such member.
    #[must_use]
    pub fn used_blocks(&self, member: u8) -> u64 {
        self.used.get(usize::from(member)).copied().unwrap_or(0)
    }

    /// Blocks of a strip; the whole member for raid1.
    #[must_use]
    pub fn strip_blocks(&self) -> u64 {
        if self.level.has_strips() { 1 << self.strip_shift } else { self.num_blocks }
    }

    /// Data blocks of a row: what one parity strip protects. 0 for levels without parity.
    #[must_use]
    pub fn row_blocks(&self) -> u64 {
        match self.level.parities() {
            0 => 0,
            parities => (self.members - u64::from(parities)) << self.strip_shift,
        }
    }

    /// How many of `nblocks` blocks from `lba` on are consecutive on the same members.
    #[must_use]
    #[inline]
    pub fn run(&self, lba: u64, nblocks: u64) -> u64 {
        match self.level {
            Level::Raid1 => nblocks,
            Level::Concat => {
                let end = self.starts.get(self.concat_member(lba) + 1);
                nblocks.min(end.copied().unwrap_or(u64::MAX).saturating_sub(lba))
            }
            Level::Raid0 if self.members == 1 => nblocks,
            Level::Raid0 | Level::Raid10 | Level::Raid5 | Level::Raid5f | Level::Raid6 => {
                let strip = 1 << self.strip_shift;
                nblocks.min(strip - (lba & (strip - 1)))
            }
        }
    }

    /// Splits `nblocks` blocks from `lba` on into ranges that are consecutive on the same members.
    pub fn runs(&self, lba: u64, nblocks: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = lba + nblocks;
        let mut next = lba;
        std::iter::from_fn(move || {
            let first = next;
            next += if first < end { self.run(first, end - first) } else { 0 };
            (first < next).then_some(first..next)
        })
    }

    /// The place of a block: its first copy. `lba` is below [`num_blocks`](Self::num_blocks).
    #[must_use]
    #[inline]
    pub fn place(&self, lba: u64) -> Place {
        self.copy(lba, 0)
    }

    /// The places of all copies of a block, the first copy first. `lba` is below
    /// [`num_blocks`](Self::num_blocks).
    #[must_use]
    pub fn copies(&self, lba: u64) -> Copies<'_> {
        let count = match self.level {
            Level::Raid1 => self.members,
            Level::Raid10 => 2,
            Level::Raid0 | Level::Raid5 | Level::Raid5f | Level::Raid6 | Level::Concat => 1,
        };
        Copies { layout: self, lba, next: 0, count }
    }

    /// The row of a block of a level with parity, the number of its data strip in the row, and its offset in the
    /// strip, in blocks.
    #[must_use]
    #[inline]
    pub fn row_of(&self, lba: u64) -> (u64, u8, u64) {
        let (strip, offset) = self.strip_of(lba);
        let data = u64::from(self.data_strips());
        (strip / data, narrow(strip % data), offset)
    }

    /// Whether blocks of a level with parity are all in one row.
    #[must_use]
    #[inline]
    pub fn is_in_one_row(&self, lba: u64, nblocks: u64) -> bool {
        let last = lba + nblocks.saturating_sub(1);
        self.row_of(lba).0 == self.row_of(last).0
    }

    /// The roles of the members in a row of a level with parity.
    #[must_use]
    #[inline]
    pub fn row(&self, row: u64) -> Row {
        Row {
            members: narrow(self.members),
            parities: self.level.parities(),
            p: narrow(self.members - 1 - row % self.members),
        }
    }

    /// The blocks of all rows that hold `nblocks` blocks from `lba` on. For levels without parity, these blocks.
    #[must_use]
    pub fn whole_rows(&self, lba: u64, nblocks: u64) -> Range<u64> {
        let end = lba + nblocks;
        match self.row_blocks() {
            0 => lba..end,
            row => lba / row * row..end.next_multiple_of(row).min(self.num_blocks.max(end)),
        }
    }

    /// Number of rows of a level with parity.
    #[must_use]
    pub fn num_rows(&self) -> u64 {
        match self.row_blocks() {
            0 => 0,
            blocks => self.num_blocks / blocks,
        }
    }

    /// How the array uses a block of a member: the inverse of [`copies`](Self::copies) and [`row`](Self::row). `None`
    /// when the array does not use the block.
    #[must_use]
    pub fn piece(&self, place: Place) -> Option<Piece> {
        if place.lba >= self.used_blocks(place.member) {
            return None;
        }
        let member = u64::from(place.member);
        let (row, offset) = self.strip_of(place.lba);
        let at = |strip: u64| (strip << self.strip_shift) + offset;
        let lba = match self.level {
            Level::Raid0 => at(row * self.members + member),
            Level::Raid1 => place.lba,
            Level::Raid10 => at((row * self.members + member) / 2),
            Level::Concat => self.starts.get(usize::from(place.member))? + place.lba,
            Level::Raid5 | Level::Raid5f | Level::Raid6 => match self.row(row).role(place.member) {
                RowRole::Data(number) => {
                    at(row * u64::from(self.data_strips()) + u64::from(number))
                }
                role => return Some(Piece::Parity { row, role, offset }),
            },
        };
        (lba < self.num_blocks).then_some(Piece::Data(lba))
    }

    /// How many blocks of a member hold blocks of the array below `lba`. For levels without parity.
    ///
    /// The blocks of an I/O on a member are consecutive. They go from the result for the first block of the I/O to the
    /// result for its end.
    #[must_use]
    pub fn blocks_before(&self, member: u8, lba: u64) -> u64 {
        let number = u64::from(member);
        let copies = match self.level {
            Level::Concat => {
                let start = |slot| self.starts.get(slot).copied();
                let first = start(usize::from(member)).unwrap_or(0);
                // The last member has no end here, because it may grow.
                let end = start(usize::from(member) + 1).unwrap_or(u64::MAX);
                return lba.clamp(first, end) - first;
            }
            Level::Raid1 => return lba,
            Level::Raid10 => 2,
            Level::Raid0 | Level::Raid5 | Level::Raid5f | Level::Raid6 => 1,
        };
        // Members get the copies of all strips in turn.
        let (strip, offset) = self.strip_of(lba);
        let first = strip * copies;
        let dealt = |deals: u64| (deals + self.members - 1 - number) / self.members;
        let (whole, begun) = (dealt(first), dealt(first + copies));
        (whole << self.strip_shift) + if begun > whole { offset } else { 0 }
    }

    /// Whether the array has all of its data when some members are missing.
    #[must_use]
    pub fn survives(&self, is_missing: impl Fn(u8) -> bool) -> bool {
        let members = narrow(self.members);
        let missing = (0..members).filter(|&member| is_missing(member)).count();
        match self.level {
            Level::Raid10 => {
                let even = members.is_multiple_of(2);
                let firsts = (0..members).filter(|first| !even || first.is_multiple_of(2));
                firsts.into_iter().all(|first| {
                    let second = if first + 1 == members { 0 } else { first + 1 };
                    !is_missing(first) || !is_missing(second)
                })
            }
            level => missing <= level.may_lose(members).into(),
        }
    }

    #[inline]
    fn copy(&self, lba: u64, copy: u64) -> Place {
        let (strip, offset) = self.strip_of(lba);
        let at = |member: u64, row: u64| Place {
            member: narrow(member),
            lba: (row << self.strip_shift) + offset,
        };
        match self.level {
            Level::Raid0 => at(strip % self.members, strip / self.members),
            Level::Raid1 => Place { member: narrow(copy), lba },
            Level::Raid10 => {
                let deal = 2 * strip + copy;
                at(deal % self.members, deal / self.members)
            }
            Level::Raid5 | Level::Raid5f | Level::Raid6 => {
                let (row, number, _) = self.row_of(lba);
                at(self.row(row).data(number).into(), row)
            }
            Level::Concat => {
                let member = self.concat_member(lba);
                let start = self.starts.get(member).copied().unwrap_or(0);
                Place { member: narrow(member as u64), lba: lba - start }
            }
        }
    }

    #[inline]
    fn strip_of(&self, lba: u64) -> (u64, u64) {
        (lba >> self.strip_shift, lba & ((1 << self.strip_shift) - 1))
    }

    /// Data strips of a row; all members for a level without parity.
    #[must_use]
    #[inline]
    pub fn data_strips(&self) -> u8 {
        narrow(self.members - u64::from(self.level.parities()))
    }

    /// The member of a concat that holds a block.
    #[inline]
    fn concat_member(&self, lba: u64) -> usize {
        self.starts.partition_point(|&start| start <= lba).saturating_sub(1)
    }
}

impl Row {
    /// The member with the XOR.
    #[must_use]
    #[inline]
    pub fn p(self) -> u8 {
        self.p
    }

    /// The member with the Reed-Solomon sum, in raid6.
    #[must_use]
    pub fn q(self) -> Option<u8> {
        (self.parities > 1).then(|| self.after_p())
    }

    /// Number of data strips.
    #[must_use]
    #[inline]
    pub fn data_strips(self) -> u8 {
        self.members - self.parities
    }

    /// The members with parity: P, and Q in raid6.
    pub fn parities(self) -> impl Iterator<Item = u8> {
        std::iter::once(self.p).chain(self.q())
    }

    /// The member with this data strip.
    #[must_use]
    #[inline]
    pub fn data(self, number: u8) -> u8 {
        let mut member = number;
        if self.parities > 1 {
            let (p, q) = (self.p, self.after_p());
            member += u8::from(member >= p.min(q));
            member += u8::from(member >= p.max(q));
        } else {
            member += u8::from(member >= self.p);
        }
        member
    }

    /// What a member holds.
    #[must_use]
    pub fn role(self, member: u8) -> RowRole {
        let q = self.q();
        if member == self.p {
            return RowRole::P;
        }
        if Some(member) == q {
            return RowRole::Q;
        }
        RowRole::Data(member - u8::from(self.p < member) - u8::from(q.is_some_and(|q| q < member)))
    }

    fn after_p(self) -> u8 {
        if self.p + 1 == self.members { 0 } else { self.p + 1 }
    }
}

impl Iterator for Copies<'_> {
    type Item = Place;

    fn next(&mut self) -> Option<Place> {
        let copy = self.next;
        if copy == self.count {
            return None;
        }
        self.next += 1;
        Some(self.layout.copy(self.lba, copy))
    }
}

/// A member's number: there are at most 255.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "an array has at most 255 members")]
fn narrow(member: u64) -> u8 {
    member as u8
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn place(member: u8, lba: u64) -> Place {
        Place { member, lba }
    }

    fn layout(level: Level, strip: u32, sizes: &[u64]) -> Layout {
        Layout::new(level, strip, sizes).unwrap()
    }

    #[test]
    fn raid0_deals_strips_in_turn() {
        let array = layout(Level::Raid0, 4, &[17, 16]);
        assert_eq!(array.num_blocks(), 32);
        assert_eq!(array.place(3), place(0, 3));
        assert_eq!(array.place(4), place(1, 0));
        assert_eq!(array.place(9), place(0, 5));
        assert_eq!(array.run(2, 9), 2);
    }

    #[test]
    fn raid1_has_every_block_on_every_member() {
        let array = layout(Level::Raid1, 0, &[10, 12, 11]);
        assert_eq!(array.num_blocks(), 10);
        let copies: Vec<Place> = array.copies(7).collect();
        assert_eq!(copies, [place(0, 7), place(1, 7), place(2, 7)]);
    }

    #[test]
    fn raid10_of_three_members_never_has_both_copies_on_one() {
        let array = layout(Level::Raid10, 2, &[8, 8, 8]);
        assert_eq!(array.num_blocks(), 12);
        let copies: Vec<Place> = array.copies(2).collect();
        assert_eq!(copies, [place(2, 0), place(0, 2)]);
    }

    #[test]
    fn raid5f_rotates_its_parity_as_the_reference_does() {
        let array = layout(Level::Raid5f, 2, &[8, 8, 8]);
        assert_eq!(array.num_blocks(), 16);
        assert_eq!((0..4).map(|row| array.row(row).p()).collect::<Vec<_>>(), [2, 1, 0, 2]);
        // Row 1 has its parity on member 1: data strips 2 and 3 are on members 0 and 2.
        assert_eq!(array.place(4), place(0, 2));
        assert_eq!(array.place(6), place(2, 2));
    }

    #[test]
    fn raid6_has_q_on_the_member_after_p() {
        let array = layout(Level::Raid6, 1, &[4, 4, 4, 4]);
        let row = array.row(0);
        assert_eq!((row.p(), row.q()), (3, Some(0)));
        assert_eq!((row.data(0), row.data(1)), (1, 2));
        assert_eq!(array.num_blocks(), 8);
    }

    #[test]
    fn concat_uses_whole_strips_of_each_member() {
        let array = layout(Level::Concat, 4, &[9, 5, 8]);
        assert_eq!(array.num_blocks(), 8 + 4 + 8);
        assert_eq!(array.place(8), place(1, 0));
        assert_eq!(array.place(12), place(2, 0));
        assert_eq!(array.run(6, 10), 2);
    }

    #[test]
    fn members_that_do_not_fit_are_refused_with_the_reason() {
        let error = |level, strip, sizes: &[u64]| Layout::new(level, strip, sizes).unwrap_err();
        assert_eq!(
            error(Level::Raid5f, 4, &[8, 8]).to_string(),
            "raid5f needs 3 to 255 members, not 2"
        );
        assert_eq!(error(Level::Raid0, 3, &[8]), LayoutError::Strip { given: 3 });
        assert_eq!(error(Level::Raid1, 4, &[8, 8]), LayoutError::Strip { given: 4 });
        assert_eq!(error(Level::Raid0, 8, &[8, 7]), LayoutError::Size { member: 0, given: 0 });
        let huge = [u64::MAX; 3];
        assert!(matches!(error(Level::Concat, 8, &huge), LayoutError::Size { .. }));
    }

    #[test]
    fn an_array_may_have_255_members() {
        let array = layout(Level::Raid0, 1, &[2; MEMBERS_MAX]);
        assert_eq!((array.members(), array.num_blocks()), (255, 510));
        assert_eq!(array.place(254), place(254, 0));
        let error = Layout::new(Level::Raid0, 1, &[2; MEMBERS_MAX + 1]).unwrap_err();
        assert_eq!(error, LayoutError::Members { level: Level::Raid0, given: 256 });
    }

    prop_compose! {
        fn arrays()(
            level in prop::sample::select(Level::ALL.to_vec()),
            shift in 0_u32..4,
            sizes in prop::collection::vec(16_u64..70, 4..9),
        ) -> Layout {
            let strip = if level.has_strips() { 1 << shift } else { 0 };
            layout(level, strip, &sizes)
        }
    }

    proptest! {
        /// No two blocks share a place, each place knows its block, and what is left on the members is parity.
        #[test]
        fn every_level_maps_there_and_back(array in arrays()) {
            let mut taken = HashSet::new();
            for lba in 0..array.num_blocks() {
                let copies: Vec<Place> = array.copies(lba).collect();
                let members: HashSet<u8> = copies.iter().map(|place| place.member).collect();
                prop_assert_eq!(members.len(), copies.len(), "two copies on one member");
                for place in copies {
                    prop_assert!(place.lba < array.used_blocks(place.member));
                    prop_assert!(taken.insert((place.member, place.lba)), "{:?} twice", place);
                    prop_assert_eq!(array.piece(place), Some(Piece::Data(lba)));
                }
            }
            for row in 0..array.num_rows() {
                for member in 0..array.members() {
                    let first = row * array.strip_blocks();
                    match (array.row(row).role(member), array.piece(Place { member, lba: first })) {
                        (RowRole::Data(_), Some(Piece::Data(_))) => {}
                        (role, Some(Piece::Parity { row: found, role: also, offset: 0 })) => {
                            prop_assert_eq!((found, also), (row, role));
                        }
                        other => prop_assert!(false, "{:?}", other),
                    }
                }
            }
        }

        /// The blocks of a run follow each other, on the same members.
        #[test]
        fn a_run_stays_on_its_members(array in arrays(), at in 0_u64..500, len in 1_u64..40) {
            let lba = at % array.num_blocks();
            let len = len.min(array.num_blocks() - lba);
            let run = array.run(lba, len);
            prop_assert!((1..=len).contains(&run));
            for step in 0..run {
                let there: Vec<Place> = array.copies(lba + step).collect();
                let first: Vec<Place> =
                    array.copies(lba).map(|p| Place { lba: p.lba + step, ..p }).collect();
                prop_assert_eq!(there, first);
            }
        }

        /// The blocks of an I/O over many strips are one run on each member.
        #[test]
        fn a_long_run_is_one_run_on_each_member(array in arrays(), at in 0_u64..500, len in 1_u64..200) {
            if array.level().parities() == 0 {
                let lba = at % array.num_blocks();
                let end = lba + len.min(array.num_blocks() - lba);
                for member in 0..array.members() {
                    let mut there: Vec<u64> = (lba..end).flat_map(|lba| array.copies(lba))
                        .filter(|place| place.member == member).map(|place| place.lba).collect();
                    there.sort_unstable();
                    let run = array.blocks_before(member, lba)..array.blocks_before(member, end);
                    prop_assert_eq!(there, run.collect::<Vec<_>>());
                }
            }
        }

        /// A larger array has every block where the smaller one has it, so channels may keep the old layout while it grows.
        #[test]
        fn growing_moves_no_block(
            level in prop::sample::select(Level::ALL.to_vec()),
            sizes in prop::collection::vec(16_u64..40, 4..9),
            by in 1_u64..40,
        ) {
            let strip = if level.has_strips() { 4 } else { 0 };
            let old = layout(level, strip, &sizes);
            let mut larger = sizes.clone();
            let last = sizes.len() - 1;
            let grow = |(slot, size): (usize, &mut u64)| {
                *size += if level == Level::Concat && slot != last { 0 } else { by };
            };
            larger.iter_mut().enumerate().for_each(grow);
            let new = layout(level, strip, &larger);
            prop_assert!(new.num_blocks() >= old.num_blocks());
            for lba in 0..new.num_blocks() {
                let (before, after): (Vec<Place>, Vec<Place>) =
                    (old.copies(lba).collect(), new.copies(lba).collect());
                prop_assert_eq!(before, after);
                prop_assert_eq!(old.run(lba, 7), new.run(lba, 7));
            }
            if level == Level::Raid1 {
                larger.push(99);
                let wider = layout(level, 0, &larger);
                let first = wider.copies(3).take(sizes.len()).collect::<Vec<_>>();
                prop_assert_eq!(first, new.copies(3).collect::<Vec<_>>());
            }
        }

        /// Data survives when each block has a copy, or when each row lacks no more members than it has parities.
        #[test]
        fn data_survives_as_long_as_every_block_can_be_read(array in arrays(), missing in 0_u32..256) {
            let is_missing = |member: u8| missing >> member & 1 != 0;
            let lost = (0..array.members()).filter(|&member| is_missing(member)).count();
            let can_read = |lba: u64| match array.level().parities() {
                0 => array.copies(lba).any(|place| !is_missing(place.member)),
                parities => lost <= parities.into(),
            };
            // In a small array, a pair of members may hold no blocks of the array.
            if (0..array.num_blocks()).any(|lba| !can_read(lba)) {
                prop_assert!(!array.survives(is_missing));
            } else if lost == 0 {
                prop_assert!(array.survives(is_missing));
            }
        }

        /// Data strip numbers and members of a row are one to one.
        #[test]
        fn a_row_gives_each_member_one_role(array in arrays(), row in 0_u64..1000) {
            if array.level().parities() > 0 {
                let row = array.row(row);
                let data = array.members() - array.level().parities();
                for number in 0..data {
                    prop_assert_eq!(row.role(row.data(number)), RowRole::Data(number));
                }
                prop_assert_eq!(row.role(row.p()), RowRole::P);
            }
        }
    }
}
