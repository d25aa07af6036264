//! Counts of tests, read from the output of the test runners and added up for the closing line.

use std::fmt;
use std::ops::AddAssign;

/// How many tests passed, failed and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: u64,
    pub(crate) failed: u64,
    pub(crate) skipped: u64,
}

impl Tally {
    /// A runner that failed without naming a failed test counts as one failure.
    pub(crate) const BROKEN: Self = Self { passed: 0, failed: 1, skipped: 0 };

    /// Reads the closing line of cargo-nextest, of one libtest binary, or of our own Python runner. nextest indents the
    /// output of a failed test. Such lines do not count, because nextest's own closing line has that test.
    pub(crate) fn from_line(line: &str) -> Option<Self> {
        let summary = line.trim_start().strip_prefix("Summary [");
        if let Some((_, counts)) = summary.and_then(|rest| rest.split_once(" run: ")) {
            return Some(Self::from_counts(counts));
        }
        if let Some((_, counts)) =
            line.strip_prefix("test result: ").and_then(|rest| rest.split_once(". "))
        {
            return Some(Self::from_counts(counts));
        }
        let ours = !line.starts_with(' ')
            && line.trim_end().ends_with(" skipped")
            && line.contains(" passed, ");
        ours.then(|| Self::from_counts(line))
    }

    /// Reads a text such as `5 passed (1 slow), 1 failed, 2 ignored`. Unknown words do not count.
    fn from_counts(text: &str) -> Self {
        let mut tally = Self::default();
        for count in text.split([',', ';']) {
            let mut words = count.split_whitespace();
            let number = words.next().and_then(|word| word.parse().ok()).unwrap_or(0);
            // nextest prints `1 exec failed` and `1 timed out` beside `1 failed`.
            match words.next() {
                Some("passed") => tally.passed += number,
                Some("failed" | "timed" | "exec") => tally.failed += number,
                Some("skipped" | "ignored") => tally.skipped += number,
                _ => {}
            }
        }
        tally
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { passed, failed, skipped } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(passed: u64, failed: u64, skipped: u64) -> Option<Tally> {
        Some(Tally { passed, failed, skipped })
    }

    #[test]
    fn nextest_summary_is_read_with_its_rarer_outcomes() {
        let line = "     Summary [   1.204s] 9 tests run: 5 passed (1 slow), 2 failed, 1 timed out, \
                    1 exec failed, 3 skipped";
        assert_eq!(Tally::from_line(line), tally(5, 4, 3));
        assert_eq!(
            Tally::from_line("Summary [ 0.004s] 1 test run: 1 passed, 0 skipped"),
            tally(1, 0, 0)
        );
    }

    #[test]
    fn libtest_result_is_read_and_what_was_filtered_out_is_not_counted() {
        let line = "test result: FAILED. 4 passed; 1 failed; 2 ignored; 0 measured; 7 filtered out; \
                    finished in 0.00s";
        assert_eq!(Tally::from_line(line), tally(4, 1, 2));
        let shown_by_nextest = format!("    {line}");
        assert_eq!(Tally::from_line(&shown_by_nextest), None);
    }

    #[test]
    fn our_closing_line_survives_the_round_trip() {
        let ours = Tally { passed: 3, failed: 2, skipped: 1 };
        assert_eq!(Tally::from_line(&ours.to_string()), Some(ours));
    }

    #[test]
    fn other_lines_are_no_counts() {
        assert_eq!(Tally::from_line("running 3 tests"), None);
        assert_eq!(Tally::from_line("test a ... ok"), None);
        assert_eq!(Tally::from_line("skipped: no nvme-cli"), None);
    }
}
