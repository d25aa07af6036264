//! RAID levels by the numbers that superblocks and the RPC use.

use std::fmt;

/// A RAID level: how an array distributes its blocks over its members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Level {
    /// Strips in turn over all members, no redundancy.
    Raid0,
    /// Every member holds everything.
    Raid1,
    /// Two copies of each strip, in turn over all members.
    Raid10,
    /// One parity strip in each row, rotating. A log keeps rows consistent.
    Raid5,
    /// As `Raid5`, but clients write whole rows only ("full stripe"), and there is no log. This is the reference's.
    Raid5f,
    /// Two parity strips in each row, rotating. A log keeps rows consistent.
    Raid6,
    /// One member after another.
    Concat,
}

impl Level {
    /// All levels.
    pub const ALL: [Self; 7] = [
        Self::Raid0,
        Self::Raid1,
        Self::Raid10,
        Self::Raid5,
        Self::Raid5f,
        Self::Raid6,
        Self::Concat,
    ];

    /// The number in a superblock. The reference has 0, 1, 95 and 99, and refuses members with any
    /// other number; 5, 6 and 10 are ours.
    #[must_use]
    pub const fn number(self) -> u32 {
        match self {
            Self::Raid0 => 0,
            Self::Raid1 => 1,
            Self::Raid10 => 10,
            Self::Raid5 => 5,
            Self::Raid5f => 95,
            Self::Raid6 => 6,
            Self::Concat => 99,
        }
    }

    /// The level with this number.
    #[must_use]
    pub fn from_number(number: u32) -> Option<Self> {
        Self::ALL.into_iter().find(|level| level.number() == number)
    }

    /// The name in the RPC.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raid0 => "raid0",
            Self::Raid1 => "raid1",
            Self::Raid10 => "raid10",
            Self::Raid5 => "raid5",
            Self::Raid5f => "raid5f",
            Self::Raid6 => "raid6",
            Self::Concat => "concat",
        }
    }

    /// The level with this name. The reference also takes a bare number: "0", "1", "5f".
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|level| level.name() == name || level.name().strip_prefix("raid") == Some(name))
    }

    /// Fewest members of an array of this level.
    #[must_use]
    pub const fn members_min(self) -> u8 {
        match self {
            Self::Raid0 | Self::Concat => 1,
            Self::Raid1 => 2,
            Self::Raid10 | Self::Raid5 | Self::Raid5f => 3,
            Self::Raid6 => 4,
        }
    }

    /// How many members may be lost, in any combination, without a loss of data.
    #[must_use]
    pub const fn may_lose(self, members: u8) -> u8 {
        match self {
            Self::Raid0 | Self::Concat => 0,
            Self::Raid1 => members.saturating_sub(1),
            Self::Raid10 | Self::Raid5 | Self::Raid5f => 1,
            Self::Raid6 => 2,
        }
    }

    /// Parity strips in a row.
    #[must_use]
    pub const fn parities(self) -> u8 {
        match self {
            Self::Raid5 | Self::Raid5f => 1,
            Self::Raid6 => 2,
            Self::Raid0 | Self::Raid1 | Self::Raid10 | Self::Concat => 0,
        }
    }

    /// Whether an array of the level has a row log, so that clients may write parts of a row.
    #[must_use]
    pub const fn has_log(self) -> bool {
        matches!(self, Self::Raid5 | Self::Raid6)
    }

    /// Whether the level has strips; `raid1` has none.
    #[must_use]
    pub const fn has_strips(self) -> bool {
        !matches!(self, Self::Raid1)
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_level_is_found_by_its_number_and_its_names() {
        for level in Level::ALL {
            assert_eq!(Level::from_number(level.number()), Some(level));
            assert_eq!(Level::from_name(level.name()), Some(level));
        }
        assert_eq!(Level::from_name("5f"), Some(Level::Raid5f));
        assert_eq!(Level::from_name("0"), Some(Level::Raid0));
        assert_eq!(Level::from_name("raid"), None);
        assert_eq!(Level::from_name("5"), Some(Level::Raid5));
        assert_eq!(Level::from_number(4), None);
    }
}
