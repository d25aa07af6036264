//! The frequencies of events. Each seed draws a mood (a kind of load), so that rare events come in
//! storms.

use crate::rng::Rng;
use drivebay_plugin_api::*;

/// How often each event happens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Weights {
    pub(crate) mood: &'static str,
    /// Percentage of disks with each fault.
    pub(crate) faulty: u64,
    pub(crate) slowest_ns: u64,
    /// Resets per 1000 requests.
    reset: u64,
    pub(crate) wrong: u64,
    /// Durable writes per 100 writes.
    pub(crate) durable: u64,
    /// Steps per 1000 in which a client releases its channel and gets another.
    pub(crate) leave: u64,
    /// Removals per 10,000 turns of the scheduler.
    pub(crate) remove: u64,
    pub(crate) quiesce: u64,
    pub(crate) resize: u64,
    pub(crate) churn: u64,
    /// Lives of a seed: how many stacks it builds and removes.
    pub(crate) lives: u64,
    /// Maximum number of I/Os of one channel.
    pub(crate) most_io: u32,
}

impl Weights {
    pub(crate) fn draw(rng: &Rng) -> Self {
        let usual = Self {
            mood: "usual",
            faulty: rng.pick(&[0, 30, 60]),
            slowest_ns: 500_000,
            reset: 2,
            wrong: 5,
            durable: 10,
            leave: 2,
            remove: 2,
            quiesce: 20,
            resize: 3,
            churn: 5,
            lives: rng.within(1, 4),
            most_io: rng.pick(&[1, 2, 5, 65_535]),
        };
        match rng.below(8) {
            0 => Self { mood: "resets", reset: 120, ..usual },
            1 => Self { mood: "removals", remove: 60, lives: 25, ..usual },
            2 => Self { mood: "quiesces", quiesce: 400, ..usual },
            3 => Self { mood: "slow under fast", slowest_ns: 20_000_000, ..usual },
            4 => Self { mood: "channels", leave: 200, churn: 200, ..usual },
            5 => Self { mood: "pools of one", most_io: 1, ..usual },
            _ => usual,
        }
    }

    pub(crate) fn op(&self, rng: &Rng) -> u16 {
        if rng.below(1000) < self.reset {
            return BAY_OP_RESET;
        }
        match rng.below(100) {
            0..40 => BAY_OP_READ,
            40..78 => BAY_OP_WRITE,
            78..84 => BAY_OP_UNMAP,
            84..89 => BAY_OP_WRITE_ZEROES,
            89..94 => BAY_OP_COMPARE,
            94..97 => BAY_OP_FLUSH,
            _ => BAY_OP_ABORT,
        }
    }
}
