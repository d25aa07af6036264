//! Sets of cores, written as `-m 0x3` or `-m [0,1]`.

use crate::{Error, Result};
use std::fmt;

/// The highest core number that a set may contain, plus one.
pub const MAX_CORES: usize = 1024;

/// A set of cores.
#[derive(Clone, PartialEq, Eq)]
pub struct CpuSet {
    cores: Vec<usize>,
}

impl CpuSet {
    /// A set with one core.
    #[must_use]
    pub fn one(core: usize) -> Self {
        Self { cores: vec![core] }
    }

    /// The cores that this process may run on.
    #[must_use]
    pub fn available() -> Self {
        let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let list = text.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        list.and_then(|list| parse_list(list.trim()).ok()).unwrap_or_else(|| Self::one(0))
    }

    /// Parses a hexadecimal mask (`0x3`, `3`) or a list in brackets (`[0,2-3]`).
    ///
    /// # Errors
    /// `EINVAL` when the text is neither, or when the set is empty.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.trim();
        match text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            Some(list) => parse_list(list),
            None => parse_mask(text),
        }
    }

    /// The cores in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = usize> + '_ {
        self.cores.iter().copied()
    }

    /// The number of cores in the set.
    #[must_use]
    pub fn len(&self) -> usize {
        self.cores.len()
    }

    /// Whether the set has no cores; a parsed set always has at least one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.cores.is_empty()
    }

    /// The lowest core in the set.
    #[must_use]
    pub fn first(&self) -> usize {
        self.cores.first().copied().unwrap_or(0)
    }

    /// Whether `core` is in the set.
    #[must_use]
    pub fn contains(&self, core: usize) -> bool {
        self.cores.binary_search(&core).is_ok()
    }

    fn from_cores(mut cores: Vec<usize>) -> Result<Self> {
        cores.sort_unstable();
        cores.dedup();
        if cores.is_empty() { Err(bad("it contains no core")) } else { Ok(Self { cores }) }
    }
}

fn bad(why: &str) -> Error {
    Error::new(
        libc::EINVAL,
        format!("cpumask: {why}; allowed: a mask such as 0x3, or a list such as [0,2-3]"),
    )
}

fn parse_list(text: &str) -> Result<CpuSet> {
    let number = |text: &str| {
        let n: usize = text.trim().parse().map_err(|_| bad("not a core number"))?;
        if n < MAX_CORES { Ok(n) } else { Err(bad("the highest core number is 1023")) }
    };
    let mut cores = Vec::new();
    for part in text.split(',').filter(|part| !part.trim().is_empty()) {
        match part.split_once('-') {
            Some((first, last)) => cores.extend(number(first)?..=number(last)?),
            None => cores.push(number(part)?),
        }
    }
    CpuSet::from_cores(cores)
}

fn parse_mask(text: &str) -> Result<CpuSet> {
    let digits = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")).unwrap_or(text);
    if digits.is_empty() || digits.len() > MAX_CORES / 4 {
        return Err(bad("not a mask"));
    }
    let mut cores = Vec::new();
    for (place, digit) in digits.chars().rev().enumerate() {
        let digit = digit.to_digit(16).ok_or_else(|| bad("not a hexadecimal digit"))?;
        cores.extend((0..4).filter(|bit| digit & (1 << bit) != 0).map(|bit| place * 4 + bit));
    }
    CpuSet::from_cores(cores)
}

/// Formats the set as a mask, as in `thread_get_stats`.
impl fmt::Display for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let top = self.cores.last().copied().unwrap_or(0);
        for place in (0..=top / 4).rev() {
            let digit: u32 =
                (0..4).filter(|bit| self.contains(place * 4 + bit)).map(|bit| 1 << bit).sum();
            write!(f, "{digit:x}")?;
        }
        Ok(())
    }
}

impl fmt::Debug for CpuSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CpuSet(0x{self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn masks_and_lists_name_the_same_cores() {
        let cores = |text: &str| CpuSet::parse(text).unwrap().iter().collect::<Vec<_>>();
        assert_eq!(cores("0x5"), [0, 2]);
        assert_eq!(cores("[0,2]"), [0, 2]);
        assert_eq!(cores("[1-3, 8]"), [1, 2, 3, 8]);
        assert_eq!(cores("1F"), [0, 1, 2, 3, 4]);
        assert_eq!(CpuSet::parse("[4,1]").unwrap().to_string(), "12");
    }

    #[test]
    fn what_names_no_core_is_refused_with_what_is_allowed() {
        for text in ["", "0x", "0", "[]", "[a]", "xyz", "[5000]", "[0-]"] {
            let error = CpuSet::parse(text).unwrap_err();
            assert!(error.message().contains("allowed"), "{text}: {error}");
        }
    }
}
