//! `bdev_nvme_set_options`: the defaults for controllers that are attached later.

use std::time::Duration;

use drivebay_sdk::prelude::*;

params! {
    /// Parameters of `bdev_nvme_set_options`.
    pub struct SetOptions {
        /// What to do with a command that takes longer than `timeout_us` or `timeout_admin_us`.
        pub action_on_timeout: TimeoutAction = TimeoutAction::None,
        /// How long a command of an I/O may take, in microseconds; 0 = forever.
        pub timeout_us: u64 = 0,
        /// How long an admin command may take, in microseconds; 0 = as `timeout_us`, or 10 s when that is 0, too.
        pub timeout_admin_us: u64 = 0,
        /// Keep alive timeout, in milliseconds; 0 = none.
        pub keep_alive_timeout_ms: u32 = 10_000,
        /// Arbitration burst; PCIe, has no effect.
        pub arbitration_burst: u32 = 0,
        /// Weight of low priority queues; PCIe, has no effect.
        pub low_priority_weight: u32 = 0,
        /// Weight of medium priority queues; PCIe, has no effect.
        pub medium_priority_weight: u32 = 0,
        /// Weight of high priority queues; PCIe, has no effect.
        pub high_priority_weight: u32 = 0,
        /// How often the admin queue is polled, in microseconds; has no effect, since its socket wakes its thread.
        pub nvme_adminq_poll_period_us: u64 = 10_000,
        /// How often I/O queues are polled, in microseconds; has no effect, since their sockets wake the thread.
        pub nvme_ioq_poll_period_us: u64 = 0,
        /// Requests of an I/O queue; has no effect.
        pub io_queue_requests: u32 = 0,
        /// Whether the commands of a burst are sent together; has no effect, since they always are.
        pub delay_cmd_submit: bool = true,
        /// Retries of the transport; RDMA and PCIe, has no effect.
        pub transport_retry_count: u32 = 4,
        /// How many times an I/O is retried after a status that allows it; -1 = without limit.
        pub bdev_retry_count: i32 = 3,
        /// RDMA; has no effect.
        pub transport_ack_timeout: u8 = 0,
        /// How long to try to reconnect before the bdevs are removed, in seconds; -1 = forever, 0 = forever, and I/O fails
        /// after one try.
        pub ctrlr_loss_timeout_sec: i32 = 0,
        /// How long to wait between two tries to reconnect, in seconds.
        pub reconnect_delay_sec: u32 = 0,
        /// When I/O fails after the connection is lost, in seconds; 0 = it waits as long as the controller may reconnect.
        pub fast_io_fail_timeout_sec: u32 = 0,
        /// Whether I/O stays on its path when a path that comes before it returns.
        pub disable_auto_failback: bool = false,
        /// Whether a namespace without a UUID gets one from its serial number and identifier; has no effect yet.
        pub generate_uuids: bool = false,
        /// Type of service; RDMA, has no effect.
        pub transport_tos: u8 = 0,
        /// Whether errors are counted by status; has no effect.
        pub nvme_error_stat: bool = false,
        /// RDMA; has no effect.
        pub rdma_srq_size: u32 = 0,
        /// Whether I/O is counted for each path, for `bdev_nvme_get_path_iostat`.
        pub io_path_stat: bool = false,
        /// Has no effect.
        pub allow_accel_sequence: bool = false,
        /// RDMA; has no effect.
        pub rdma_max_cq_size: u32 = 0,
        /// RDMA; has no effect.
        pub rdma_cm_event_timeout_ms: u16 = 0,
        /// Digests of DH-HMAC-CHAP; has no effect yet.
        pub dhchap_digests: Option<Vec<String>>,
        /// Groups of DH-HMAC-CHAP; has no effect yet.
        pub dhchap_dhgroups: Option<Vec<String>>,
        /// RDMA; has no effect.
        pub rdma_umr_per_io: bool = false,
        /// How long a connection may take, in milliseconds; 0 = 10 s.
        pub tcp_connect_timeout_ms: u32 = 0,
        /// Whether a flush is also sent to controllers without a volatile write cache.
        pub enable_flush: bool = false,
        /// Defaults for bdevs with several paths.
        pub multipath_opts: Option<MultipathOptions>,
    }

    /// What to do with a command that takes too long.
    pub enum TimeoutAction {
        /// The log gets a line.
        None = "none",
        /// The controller is reset.
        Reset = "reset",
        /// The command is aborted. When the controller does not abort it, the controller is reset.
        Abort = "abort",
    }

    /// How a bdev uses its paths.
    pub struct MultipathOptions {
        /// Which paths are used.
        pub policy: Policy = Policy::ActivePassive,
        /// How one of the active paths is chosen.
        pub selector: Selector = Selector::RoundRobin,
        /// How many I/Os one path gets before the next path has its turn.
        pub min_io: u32 = 1,
    }

    /// Which paths are used.
    pub enum Policy {
        /// One path; the others stand by.
        ActivePassive = "active_passive",
        /// All paths of the best ANA state.
        ActiveActive = "active_active",
    }

    /// How one of the active paths is chosen.
    pub enum Selector {
        /// In turn.
        RoundRobin = "round_robin",
        /// The one with the fewest I/Os outstanding.
        QueueDepth = "queue_depth",
    }
}

/// How long an admin command may take when no timeout is given.
const ADMIN_LIMIT: Duration = Duration::from_secs(10);

/// How long commands may take, and what happens to those that take longer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    pub(crate) action: TimeoutAction,
    /// A command of an I/O; `None` = forever.
    pub(crate) io: Option<Duration>,
    /// An admin command.
    pub(crate) admin: Duration,
}

/// How long the host tries to reconnect a controller, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    /// Until its bdevs are removed; -1 = never, 0 = never, and their I/O fails after one try.
    pub(crate) loss_sec: i32,
    /// Between two tries.
    pub(crate) delay_sec: u32,
    /// Until I/O fails; 0 = I/O waits as long as the controller may reconnect.
    pub(crate) fast_fail_sec: u32,
}

impl Limits {
    /// Whether I/O that has had no connection for this long fails.
    pub(crate) fn fails_io_after(self, without: Duration) -> bool {
        let is_over = |sec: u32| sec > 0 && without >= Duration::from_secs(sec.into());
        let loss_sec = u32::try_from(self.loss_sec).unwrap_or(0);
        self.loss_sec == 0 || is_over(self.fast_fail_sec) || is_over(loss_sec)
    }

    /// Checks the three against each other.
    pub(crate) fn check(self) -> Result<Self> {
        let Self { loss_sec, delay_sec, fast_fail_sec } = self;
        let (loss, delay) = ("ctrlr_loss_timeout_sec", "reconnect_delay_sec");
        let fast_fail = "fast_io_fail_timeout_sec";
        let refused = |field, given: &dyn std::fmt::Display, allowed: &str| {
            Err(Error::invalid(field, given, allowed))
        };
        if loss_sec < -1 {
            return refused(loss, &loss_sec, "-1 (forever), 0 (no waiting) or more");
        }
        if loss_sec == 0 && delay_sec != 0 {
            return refused(delay, &delay_sec, "0 while ctrlr_loss_timeout_sec is 0");
        }
        if loss_sec == 0 && fast_fail_sec != 0 {
            return refused(fast_fail, &fast_fail_sec, "0 while ctrlr_loss_timeout_sec is 0");
        }
        if loss_sec != 0 && delay_sec == 0 {
            return refused(delay, &delay_sec, "1 or more while ctrlr_loss_timeout_sec is not 0");
        }
        let loss_max = u32::try_from(loss_sec).ok().filter(|loss_sec| *loss_sec > 0);
        if loss_max.is_some_and(|loss_sec| delay_sec > loss_sec) {
            return refused(delay, &delay_sec, "at most ctrlr_loss_timeout_sec");
        }
        if fast_fail_sec != 0 && fast_fail_sec < delay_sec {
            return refused(fast_fail, &fast_fail_sec, "0, or at least reconnect_delay_sec");
        }
        if loss_max.is_some_and(|loss_sec| fast_fail_sec > loss_sec) {
            return refused(fast_fail, &fast_fail_sec, "at most ctrlr_loss_timeout_sec");
        }
        Ok(self)
    }
}

impl SetOptions {
    /// The defaults.
    pub(crate) fn new() -> Result<Self> {
        drivebay_sdk::rpc::decode("{}").map_err(|error| Error::new(errno::EINVAL, error.message))
    }

    /// Refuses options that contradict each other.
    pub(crate) fn check(&self) -> Result<()> {
        if self.timeout_us == 0 && self.timeout_admin_us != 0 {
            let given = self.timeout_admin_us;
            return Err(Error::invalid("timeout_admin_us", given, "0 while timeout_us is 0"));
        }
        if self.bdev_retry_count < -1 {
            let given = self.bdev_retry_count;
            return Err(Error::invalid("bdev_retry_count", given, "-1 (without limit) or more"));
        }
        self.limits().check()?;
        match &self.multipath_opts {
            Some(multipath) => multipath.check(),
            None => Ok(()),
        }
    }

    pub(crate) fn timeouts(&self) -> Timeouts {
        let admin_us =
            if self.timeout_admin_us > 0 { self.timeout_admin_us } else { self.timeout_us };
        Timeouts {
            action: self.action_on_timeout,
            io: (self.timeout_us > 0).then(|| Duration::from_micros(self.timeout_us)),
            admin: if admin_us > 0 { Duration::from_micros(admin_us) } else { ADMIN_LIMIT },
        }
    }

    /// How I/O is spread over paths when a controller is attached without options of its own.
    pub(crate) fn spread(&self) -> Result<MultipathOptions> {
        match &self.multipath_opts {
            Some(options) => Ok(options.clone()),
            None => MultipathOptions::new(),
        }
    }

    pub(crate) fn limits(&self) -> Limits {
        Limits {
            loss_sec: self.ctrlr_loss_timeout_sec,
            delay_sec: self.reconnect_delay_sec,
            fast_fail_sec: self.fast_io_fail_timeout_sec,
        }
    }
}

impl MultipathOptions {
    /// The defaults.
    fn new() -> Result<Self> {
        drivebay_sdk::rpc::decode("{}").map_err(|error| Error::new(errno::EINVAL, error.message))
    }

    pub(crate) fn check(&self) -> Result<()> {
        let needs_min_io =
            self.policy == Policy::ActiveActive && self.selector == Selector::RoundRobin;
        if needs_min_io && self.min_io == 0 {
            return Err(Error::invalid("min_io", 0, "1 or more"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(loss_sec: i32, delay_sec: u32, fast_fail_sec: u32) -> Option<String> {
        let checked = Limits { loss_sec, delay_sec, fast_fail_sec }.check();
        let message = checked.err()?.message().to_owned();
        message.split(' ').next().map(str::to_owned)
    }

    #[test]
    fn io_without_a_connection_fails_at_the_first_limit_and_at_once_without_limits() {
        let fails = |loss_sec, fast_fail_sec, after| {
            let limits = Limits { loss_sec, delay_sec: 1, fast_fail_sec };
            limits.fails_io_after(Duration::from_secs(after))
        };
        assert!(fails(0, 0, 0));
        assert!(!fails(-1, 0, 100_000));
        assert!(!fails(-1, 5, 4) && fails(-1, 5, 5));
        assert!(!fails(10, 0, 9) && fails(10, 0, 10));
        assert!(fails(10, 5, 6));
    }

    #[test]
    fn the_three_limits_fit_together_or_the_error_names_the_field_at_fault() {
        for (loss, delay, fast_fail) in [(0, 0, 0), (-1, 1, 0), (-1, 1, 5), (10, 2, 0), (10, 2, 10)]
        {
            assert_eq!(field(loss, delay, fast_fail), None, "{loss} {delay} {fast_fail}");
        }
        for (loss, delay, fast_fail, at_fault) in [
            (-2, 1, 0, "ctrlr_loss_timeout_sec"),
            (0, 1, 0, "reconnect_delay_sec"),
            (0, 0, 1, "fast_io_fail_timeout_sec"),
            (-1, 0, 0, "reconnect_delay_sec"),
            (5, 6, 0, "reconnect_delay_sec"),
            (10, 5, 4, "fast_io_fail_timeout_sec"),
            (10, 5, 11, "fast_io_fail_timeout_sec"),
        ] {
            let found = field(loss, delay, fast_fail);
            assert_eq!(found.as_deref(), Some(at_fault), "{loss} {delay} {fast_fail}");
        }
    }
}
