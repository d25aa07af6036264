//! When a driver is called: at once, or less often while it has many requests.
//!
//! Requests are counted for 10 ms at a time. While there are more than the threshold, two calls are at least
//! `delay_base × (count - threshold) / threshold` apart. A call that is put off is made when its time has come.

/// How long requests are counted, in nanoseconds.
const INTERVAL_NS: u64 = 10_000_000;
/// Longest pause between two calls, in nanoseconds: a driver may take a disk that answers later for a broken one.
const DELAY_NS_MAX: u64 = 1_000_000_000;

/// What `vhost_controller_set_coalescing` sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// Base of the pause between two calls, in microseconds; 0 = every call is made at once.
    pub delay_base_us: u32,
    /// Requests a second from which calls are gathered.
    pub iops_threshold: u32,
}

/// The calls of one ring.
#[derive(Debug, Default)]
pub struct Pace {
    base_ns: u64,
    /// Requests of an interval.
    threshold: u64,
    counted: u64,
    /// When the present interval ends, on the host's clock in nanoseconds.
    interval_end_ns: u64,
    /// Pause between two calls, in nanoseconds.
    pause_ns: u64,
    /// When the next call may be made.
    next_call_ns: u64,
    /// The driver wants a call that was put off.
    is_owed: bool,
}

impl Pace {
    /// Calls as `coalescing` says from now on.
    pub fn set(&mut self, coalescing: Coalescing) {
        let Coalescing { delay_base_us, iops_threshold } = coalescing;
        self.base_ns = u64::from(delay_base_us) * 1_000;
        self.threshold = (u64::from(iops_threshold) * INTERVAL_NS / 1_000_000_000).max(1);
        (self.counted, self.pause_ns) = (0, 0);
    }

    /// `count` requests were handed back, and the driver wants a call or not: whether to make one now.
    #[inline]
    pub fn handed_back(&mut self, count: u64, is_wanted: bool, now: impl FnOnce() -> u64) -> bool {
        if self.base_ns == 0 {
            return is_wanted | std::mem::take(&mut self.is_owed);
        }
        self.counted += count;
        self.is_owed |= is_wanted;
        self.is_due(now)
    }

    /// Whether to make a call now that was put off.
    #[inline]
    pub fn is_due(&mut self, now: impl FnOnce() -> u64) -> bool {
        if !self.is_owed {
            return false;
        }
        let now_ns = now();
        self.count_until(now_ns);
        if now_ns < self.next_call_ns {
            return false;
        }
        self.is_owed = false;
        self.next_call_ns = now_ns.saturating_add(self.pause_ns);
        true
    }

    /// Chooses the pause anew when the interval is over.
    fn count_until(&mut self, now_ns: u64) {
        if now_ns < self.interval_end_ns {
            return;
        }
        self.interval_end_ns = now_ns.saturating_add(INTERVAL_NS);
        let above = std::mem::take(&mut self.counted).saturating_sub(self.threshold);
        self.pause_ns =
            (self.base_ns.saturating_mul(above) / self.threshold.max(1)).min(DELAY_NS_MAX);
        self.next_call_ns = self.next_call_ns.min(now_ns.saturating_add(self.pause_ns));
    }

    /// When a call that was put off is due, on the host's clock in nanoseconds; `u64::MAX` when none is.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        if self.is_owed { self.next_call_ns } else { u64::MAX }
    }

    /// The ring stops: whether a call is owed, which is to be made now.
    pub fn end(&mut self) -> bool {
        std::mem::take(&mut self.is_owed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: u64 = 1_000_000;

    fn pace(delay_base_us: u32) -> Pace {
        let mut pace = Pace::default();
        pace.set(Coalescing { delay_base_us, iops_threshold: 1_000 });
        pace
    }

    /// Calls that are made while one request is handed back every `every_ns`.
    fn calls(pace: &mut Pace, requests: u64, every_ns: u64) -> u64 {
        let mut now_ns = 1_000 * MS;
        let mut calls = 0;
        for _ in 0..requests {
            calls += u64::from(pace.handed_back(1, true, || now_ns));
            now_ns += every_ns;
        }
        calls
    }

    #[test]
    fn without_a_delay_every_wanted_call_is_made_and_the_clock_is_not_read() {
        let mut pace = pace(0);
        let clock = || -> u64 { unreachable!("the clock was read") };
        assert!(pace.handed_back(1, true, clock));
        assert!(!pace.handed_back(1, false, clock));
        assert_eq!(pace.next_ns(), u64::MAX);
    }

    #[test]
    fn few_requests_are_called_for_at_once() {
        // 500 a second, below the threshold.
        assert_eq!(calls(&mut pace(100), 500, 2 * MS), 500);
    }

    #[test]
    fn many_requests_share_calls_and_none_is_forgotten() {
        let mut pace = pace(100);
        // 20,000 a second: 200 in an interval, 19 times the threshold above it, so 1.9 ms apart.
        let calls = calls(&mut pace, 20_000, 50_000);
        assert!((500..1_500).contains(&calls), "{calls}");
        let due_ns = pace.next_ns();
        assert_ne!(due_ns, u64::MAX, "the last requests have no call yet");
        assert!(!pace.is_due(|| due_ns - 1));
        assert!(pace.is_due(|| due_ns));
        assert!(!pace.is_due(|| due_ns + MS));
    }

    #[test]
    fn a_call_that_is_owed_is_made_when_the_delay_is_switched_off_and_when_the_ring_stops() {
        for stops in [false, true] {
            let mut pace = pace(100_000);
            calls(&mut pace, 20_000, 50_000);
            assert_ne!(pace.next_ns(), u64::MAX);
            if stops {
                assert!(pace.end());
            } else {
                pace.set(Coalescing::default());
                assert!(pace.handed_back(0, false, || 0));
            }
            assert!(!pace.end());
        }
    }
}
