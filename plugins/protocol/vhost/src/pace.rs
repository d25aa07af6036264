//! When to call a driver: at once, or less often while it has many requests.
//!
//! The ring counts requests in intervals of 10 ms. If an interval has more requests than the threshold, two calls are at
//! least `delay_base × (count - threshold) / threshold` apart. A delayed call is made when this time is over.

/// Length of an interval, in nanoseconds.
const INTERVAL_NS: u64 = 10_000_000;
/// Longest pause between two calls, in nanoseconds. After a longer pause, a driver may think that the disk is broken.
const DELAY_NS_MAX: u64 = 1_000_000_000;

/// What `vhost_controller_set_coalescing` sets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Coalescing {
    /// Base of the pause between two calls, in microseconds; 0 = every call is made at once.
    pub delay_base_us: u32,
    /// Requests per second above which calls are delayed.
    pub iops_threshold: u32,
}

/// The calls of one ring.
#[derive(Debug, Default)]
pub struct Pace {
    base_ns: u64,
    /// Requests in an interval above which calls are delayed.
    threshold: u64,
    /// Requests since the last interval.
    counted: u64,
    /// When the current interval ends, on the host's clock in nanoseconds.
    interval_end_ns: u64,
    /// Pause between two calls, in nanoseconds.
    pause_ns: u64,
    /// The earliest time of the next call, on the host's clock in nanoseconds.
    next_call_ns: u64,
    /// The driver wants a call, which was delayed.
    is_owed: bool,
}

impl Pace {
    /// Changes the settings. They apply from now on.
    pub fn set(&mut self, coalescing: Coalescing) {
        let Coalescing { delay_base_us, iops_threshold } = coalescing;
        self.base_ns = u64::from(delay_base_us) * 1_000;
        self.threshold = (u64::from(iops_threshold) * INTERVAL_NS / 1_000_000_000).max(1);
        (self.counted, self.pause_ns) = (0, 0);
    }

    /// Counts `count` requests that the ring handed back. `is_wanted`: whether the driver wants a call for them. Returns
    /// whether to call the driver now.
    #[inline]
    pub fn handed_back(&mut self, count: u64, is_wanted: bool, now: impl FnOnce() -> u64) -> bool {
        if self.base_ns == 0 {
            return is_wanted | std::mem::take(&mut self.is_owed);
        }
        self.counted += count;
        self.is_owed |= is_wanted;
        self.is_due(now)
    }

    /// Whether to make a delayed call now.
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

    /// When the interval is over, chooses the pause from its requests and begins the next one.
    fn count_until(&mut self, now_ns: u64) {
        if now_ns < self.interval_end_ns {
            return;
        }
        // Nobody looks at the clock while the driver wants no calls, so the count may cover more than an interval.
        let elapsed_ns = now_ns.saturating_sub(self.interval_end_ns).saturating_add(INTERVAL_NS);
        let counted = std::mem::take(&mut self.counted).saturating_mul(INTERVAL_NS) / elapsed_ns;
        self.interval_end_ns = now_ns.saturating_add(INTERVAL_NS);
        let above = counted.saturating_sub(self.threshold);
        self.pause_ns =
            (self.base_ns.saturating_mul(above) / self.threshold.max(1)).min(DELAY_NS_MAX);
        self.next_call_ns = self.next_call_ns.min(now_ns.saturating_add(self.pause_ns));
    }

    /// When to ask [`is_due`](Self::is_due) again, on the host's clock in nanoseconds: when the delayed call is due, or when
    /// the interval ends, because then the pause may become shorter. `u64::MAX` when there is no delayed call.
    #[must_use]
    pub fn next_ns(&self) -> u64 {
        if self.is_owed { self.next_call_ns.min(self.interval_end_ns) } else { u64::MAX }
    }

    /// The ring stops. Returns whether there is a delayed call, which must be made now.
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

    /// The number of calls while one request is handed back every `every_ns`.
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
        let now_ns = pace.next_ns();
        assert_ne!(now_ns, u64::MAX, "the last requests have no call yet");
        assert!(!pace.is_due(|| now_ns - 1));
        let called_ns = sleep_until_called(&mut pace);
        assert!(called_ns - now_ns <= 2 * INTERVAL_NS, "{now_ns} {called_ns}");
        assert!(!pace.is_due(|| called_ns + MS));
    }

    /// Looks again whenever the pace asks for it. Returns when the call was made.
    fn sleep_until_called(pace: &mut Pace) -> u64 {
        loop {
            let now_ns = pace.next_ns();
            assert_ne!(now_ns, u64::MAX);
            if pace.is_due(|| now_ns) {
                return now_ns;
            }
        }
    }

    #[test]
    fn requests_before_the_current_interval_do_not_delay_a_call_for_long() {
        let mut pace = pace(100);
        // The driver polls for a second: 1,000,000 requests without a call.
        for _ in 0..1_000 {
            assert!(!pace.handed_back(1_000, false, || unreachable!("the clock was read")));
        }
        let now_ns = 2_000 * MS;
        pace.interval_end_ns = now_ns - 1_000 * MS;
        assert!(pace.handed_back(1, true, || now_ns), "the first call is not delayed");
        assert!(
            !pace.handed_back(1, true, || now_ns + 1),
            "the rate of the last second delays the next one"
        );
        let called_ns = sleep_until_called(&mut pace);
        assert!(called_ns - now_ns <= INTERVAL_NS, "{called_ns}");
    }

    #[test]
    fn a_delayed_call_is_made_when_the_delay_is_switched_off_and_when_the_ring_stops() {
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
