//! Limits how much of the pools one peer may hold.
//!
//! A peer may take memory and then neither send its data nor read its answers. Other peers cannot use this memory. So
//! all connections of one address together may hold at most as much as is still free. One peer gets at most half of the
//! pools, two get a third each, and the next peer still finds memory. Admin queues may use twice as much, so that a
//! host's own I/O does not block its admin commands.

use drivebay_sdk::buf::{self, Pool};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::rc::Rc;

/// A group's part of the host's pools.
#[derive(Debug)]
struct Free {
    /// Length of a small buffer, in bytes.
    small_len: u32,
    /// Numbers of free buffers: small, and large.
    counts: [Cell<u32>; 2],
}

/// The host's pools of small and of large buffers.
pub(crate) fn pools() -> [Pool; 2] {
    let none = Pool { size: 0, count: 0 };
    let small = buf::pool_for(1).unwrap_or(none);
    [small, buf::pool_for(small.size.saturating_add(1)).unwrap_or(none)]
}

/// The memory that the connections of one group hold.
#[derive(Debug)]
pub(crate) struct Shares {
    free: Rc<Free>,
    by_address: BTreeMap<IpAddr, Rc<[Cell<u32>; 2]>>,
}

/// A connection's part in the share of its address.
#[derive(Clone, Debug)]
pub(crate) struct Share {
    free: Rc<Free>,
    held: Rc<[Cell<u32>; 2]>,
    /// How many times the free memory the address may hold.
    factor: Rc<Cell<u32>>,
}

/// The buffers that were taken: the pool and their number.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    is_large: bool,
    count: u32,
}

impl Shares {
    /// Creates the shares of one group, when `groups` groups use the same pools.
    pub(crate) fn new(groups: u32, pools: [Pool; 2]) -> Self {
        let part = |pool: Pool| {
            let count = u32::try_from(pool.count).unwrap_or(u32::MAX);
            Cell::new((count / groups.max(1)).max(1))
        };
        let free = Free { small_len: pools[0].size, counts: pools.map(part) };
        Self { free: Rc::new(free), by_address: BTreeMap::new() }
    }

    /// The share of a new connection from `address`.
    pub(crate) fn of(&mut self, address: IpAddr) -> Share {
        // Cleans up only at powers of two, so that many addresses cost no more per connection than few.
        if self.by_address.len().is_power_of_two() {
            self.by_address.retain(|_, held| Rc::strong_count(held) > 1);
        }
        let held = Rc::clone(self.by_address.entry(address).or_default());
        // Until a connection is an I/O queue, it counts as an admin queue.
        Share { free: Rc::clone(&self.free), held, factor: Rc::new(Cell::new(2)) }
    }
}

impl Share {
    /// The connection has become an I/O queue.
    pub(crate) fn is_for_io(&self) {
        self.factor.set(1);
    }

    /// Takes buffers for `len` bytes in pieces of `piece_len`. `None` if the address holds too much. An address that
    /// holds nothing may always take.
    #[inline]
    pub(crate) fn take(&self, len: u32, piece_len: u32) -> Option<Taken> {
        let taken = Taken {
            is_large: len.min(piece_len) > self.free.small_len,
            count: len.div_ceil(piece_len.max(1)),
        };
        let (free, held) = self.of_pool(taken);
        let wanted = held.get().saturating_add(taken.count);
        if held.get() > 0 && wanted > free.get().saturating_mul(self.factor.get()) {
            return None;
        }
        held.set(wanted);
        free.set(free.get().saturating_sub(taken.count));
        Some(taken)
    }

    /// Gives back buffers that were taken.
    #[inline]
    pub(crate) fn give_back(&self, taken: Taken) {
        let (free, held) = self.of_pool(taken);
        held.set(held.get().saturating_sub(taken.count));
        free.set(free.get().saturating_add(taken.count));
    }

    #[inline]
    fn of_pool(&self, taken: Taken) -> (&Cell<u32>, &Cell<u32>) {
        let ([small_free, large_free], [small_held, large_held]) = (&self.free.counts, &*self.held);
        if taken.is_large { (large_free, large_held) } else { (small_free, small_held) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: u32 = 128 << 10;
    const POOLS: [Pool; 2] =
        [Pool { size: 8192, count: 8192 }, Pool { size: 135_168, count: 1024 }];

    fn address(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    fn fill(share: &Share, len: u32) -> u32 {
        (0..).find(|_| share.take(len, LARGE).is_none()).unwrap()
    }

    #[test]
    fn one_peer_has_half_of_a_pool_however_many_connections_it_has_and_others_find_memory() {
        let mut shares = Shares::new(1, POOLS);
        let hogs = [shares.of(address(1)), shares.of(address(1))];
        hogs.iter().for_each(Share::is_for_io);
        assert_eq!([fill(&hogs[0], LARGE), fill(&hogs[1], LARGE)], [512, 0]);
        let good = shares.of(address(2));
        good.is_for_io();
        assert_eq!(fill(&good, LARGE), 256);
        assert_eq!(fill(&good, 512), 4096, "the other pool is untouched");
    }

    #[test]
    fn an_admin_queue_has_memory_when_the_hosts_io_has_used_its_share() {
        let mut shares = Shares::new(2, POOLS);
        let (io, admin) = (shares.of(address(1)), shares.of(address(1)));
        io.is_for_io();
        fill(&io, 4096);
        assert!(io.take(4096, LARGE).is_none());
        assert!(admin.take(4096, LARGE).is_some());
    }

    #[test]
    fn what_is_given_back_can_be_taken_again_and_an_address_without_connections_is_forgotten() {
        let mut shares = Shares::new(1, POOLS);
        let share = shares.of(address(1));
        let taken = share.take(3 * LARGE, LARGE).unwrap();
        assert_eq!(taken.count, 3);
        share.give_back(taken);
        assert_eq!(share.free.counts[1].get(), 1024);
        drop(share);
        shares.of(address(2));
        assert_eq!(shares.by_address.len(), 1);
    }

    #[test]
    fn shares_are_parts_of_the_pools_that_the_operator_made() {
        let mut shares =
            Shares::new(1, [Pool { size: 4096, count: 64 }, Pool { size: LARGE, count: 16 }]);
        let share = shares.of(address(1));
        share.is_for_io();
        assert_eq!([fill(&share, 4096), fill(&share, 8192)], [32, 8]);
    }

    #[test]
    fn a_command_larger_than_the_share_goes_when_its_address_holds_nothing() {
        let mut shares = Shares::new(1024, POOLS);
        let share = shares.of(address(1));
        let taken = share.take(8 * LARGE, LARGE).unwrap();
        assert!(share.take(LARGE, LARGE).is_none());
        share.give_back(taken);
        assert!(share.take(LARGE, LARGE).is_some());
    }
}
