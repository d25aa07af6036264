//! Limits how many log lines a component may write, so that a flood, which any peer may cause, does
//! not fill the disk.

use std::collections::BTreeMap;
use std::time::Instant;

/// The lines that a component may write in one burst.
const BURST: f64 = 1000.0;
/// The lines that it may write for each second after that.
const PER_SECOND: f64 = 20.0;
/// The maximum number of components with their own count; the rest share one.
const COMPONENTS_MAX: usize = 256;

/// Counts the lines of each component.
#[derive(Debug, Default)]
pub(super) struct Limit {
    components: BTreeMap<String, Count>,
}

#[derive(Debug)]
struct Count {
    /// The number of lines that may be written now.
    left: f64,
    since: Instant,
    left_out: u64,
}

/// What happens to a line.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The line is written.
    Write {
        /// The lines that were left out since the last one that was written.
        left_out: u64,
    },
    /// The line is left out.
    LeaveOut,
}

impl Limit {
    /// Decides about a line of `component`.
    pub(super) fn judge(&mut self, component: &str, now: Instant) -> Verdict {
        let is_known = self.components.contains_key(component);
        let name = if is_known || self.components.len() < COMPONENTS_MAX { component } else { "" };
        let full = Count { left: BURST, since: now, left_out: 0 };
        let count = self.components.entry(name.to_owned()).or_insert(full);
        let elapsed = now.saturating_duration_since(count.since).as_secs_f64();
        count.left = (count.left + elapsed * PER_SECOND).min(BURST);
        count.since = now;
        if count.left < 1.0 {
            count.left_out += 1;
            return Verdict::LeaveOut;
        }
        count.left -= 1.0;
        Verdict::Write { left_out: std::mem::take(&mut count.left_out) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_flood_is_cut_to_a_rate_and_what_was_left_out_is_counted() {
        let (mut limit, start) = (Limit::default(), Instant::now());
        let written = (0..5000).filter(|_| limit.judge("rpc", start) != Verdict::LeaveOut).count();
        assert_eq!(written, 1000);
        assert_eq!(limit.judge("bdev", start), Verdict::Write { left_out: 0 });
        let later = start + Duration::from_secs(1);
        assert_eq!(limit.judge("rpc", later), Verdict::Write { left_out: 4000 });
        let written = (0..5000).filter(|_| limit.judge("rpc", later) != Verdict::LeaveOut).count();
        assert_eq!(written, 19);
    }
}
