//! Queues over memory that a driver in the same process fills.
#![expect(unsafe_code, reason = "the tests are the guest: they write into the shared memory")]

use crate::{Broken, Chain, Features, GuestMemory, Inflight, Queue, Rings};
use drivebay_spec_vhost::ring::{F_AVAIL, F_INDIRECT, F_NEXT, F_USED, F_WRITE};
use std::sync::Arc;

pub(crate) const SIZE: u16 = 8;
/// Where the guest sees its memory.
const GUEST: u64 = 0x10_0000;
pub(crate) const LEN: usize = 1 << 16;
pub(crate) const DESCRIPTORS: u64 = GUEST;
pub(crate) const AVAILABLE: u64 = GUEST + 0x1000;
pub(crate) const USED: u64 = GUEST + 0x2000;
pub(crate) const DATA: u64 = GUEST + 0x4000;

/// A guest with 64 KiB of memory.
pub(crate) struct Guest {
    pub(crate) base: *mut u8,
    memory: Arc<GuestMemory>,
}

impl Guest {
    pub(crate) fn new() -> Self {
        let words = vec![0_u128; LEN / 16].leak();
        let base = words.as_mut_ptr().cast::<u8>();
        // SAFETY: leaked memory of this length; nobody reads it through this reference.
        let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(base, LEN) };
        Self { base, memory: Arc::new(GuestMemory::of_test(&[(GUEST, 0x7000_0000, bytes)])) }
    }

    pub(crate) fn place(&self, addr: u64) -> *mut u8 {
        let offset = usize::try_from(addr - GUEST).unwrap();
        assert!(offset < LEN);
        // SAFETY: within the leaked memory.
        unsafe { self.base.add(offset) }
    }

    pub(crate) fn put(&self, addr: u64, bytes: &[u8]) {
        // SAFETY: the tests stay within the memory.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.place(addr), bytes.len()) };
    }

    pub(crate) fn take<const N: usize>(&self, addr: u64) -> [u8; N] {
        // SAFETY: the tests stay within the memory, and nobody else uses it.
        unsafe { self.place(addr).cast::<[u8; N]>().read_unaligned() }
    }

    pub(crate) fn u16(&self, addr: u64) -> u16 {
        u16::from_le_bytes(self.take(addr))
    }

    fn queue(&self, features: Features) -> Queue {
        self.tracked(features, None).unwrap()
    }

    /// A queue with a record of its requests in flight.
    pub(crate) fn tracked(
        &self,
        features: Features,
        inflight: Option<Inflight>,
    ) -> Result<Queue, Broken> {
        let rings =
            Rings { size: SIZE, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
        let base = if features.packed { 0x8000_8000 } else { 0 };
        Queue::new(Arc::clone(&self.memory), &rings, base, features, inflight)
    }

    /// A descriptor of a split ring or table.
    pub(crate) fn split(&self, at: u64, addr: u64, len: u32, flags: u16, next: u16) {
        self.put(at, &addr.to_le_bytes());
        self.put(at + 8, &len.to_le_bytes());
        self.put(at + 12, &flags.to_le_bytes());
        self.put(at + 14, &next.to_le_bytes());
    }

    /// A descriptor of a packed ring or table.
    pub(crate) fn packed(&self, at: u64, addr: u64, len: u32, id: u16, flags: u16) {
        self.split(at, addr, len, id, flags);
    }

    /// Makes a chain of a split ring available.
    pub(crate) fn offer(&self, index: u16, head: u16) {
        self.put(AVAILABLE + 4 + 2 * u64::from(index % SIZE), &head.to_le_bytes());
        self.put(AVAILABLE + 2, &index.wrapping_add(1).to_le_bytes());
    }
}

pub(crate) fn descriptor(index: u16) -> u64 {
    DESCRIPTORS + 16 * u64::from(index)
}

fn indirect() -> Features {
    Features { indirect: true, ..Features::default() }
}

fn popped(guest: &Guest, features: Features) -> Result<bool, Broken> {
    guest.queue(features).pop(&mut Chain::new())
}

#[test]
fn a_split_chain_is_read_written_and_given_back() {
    let guest = Guest::new();
    let mut queue = guest.queue(Features::default());
    guest.put(DATA, b"question");
    guest.split(descriptor(3), DATA, 8, F_NEXT, 5);
    guest.split(descriptor(5), DATA + 100, 16, F_WRITE, 0);
    guest.offer(0, 3);

    let mut chain = Chain::new();
    assert!(queue.pop(&mut chain).unwrap());
    assert_eq!((chain.readable_len(), chain.writable_len()), (8, 16));
    let mut question = [0; 8];
    assert!(chain.read(0, &mut question));
    assert_eq!(&question, b"question");
    assert!(chain.write(10, b"answer"));
    assert!(!chain.write(11, b"answer"), "one byte too long");
    assert!(!queue.pop(&mut Chain::new()).unwrap());

    queue.push(&chain, 16);
    assert_eq!(guest.u16(USED + 2), 0, "not shown yet");
    assert!(queue.publish());
    assert_eq!(guest.u16(USED + 2), 1);
    assert_eq!(guest.take::<8>(USED + 4), [3, 0, 0, 0, 16, 0, 0, 0]);
    assert_eq!(&guest.take::<6>(DATA + 110), b"answer");
}

#[test]
fn an_indirect_table_is_walked_where_it_was_agreed_on() {
    let guest = Guest::new();
    let table = DATA + 0x1000;
    guest.split(table, DATA, 16, F_NEXT, 2);
    guest.split(table + 32, DATA + 16, 512, F_WRITE, 0);
    guest.split(descriptor(0), table, 48, F_INDIRECT, 0);
    guest.offer(0, 0);
    let mut chain = Chain::new();
    assert!(guest.queue(indirect()).pop(&mut chain).unwrap());
    assert_eq!((chain.readable_len(), chain.writable_len()), (16, 512));
    assert_eq!(popped(&guest, Features::default()), Err(Broken::Indirect));
}

#[test]
fn what_a_split_driver_must_not_do_breaks_the_queue_with_its_name() {
    type Case = (&'static str, fn(&Guest), Broken);
    let cases: [Case; 9] = [
        (
            "index jump",
            |g| g.put(AVAILABLE + 2, &9_u16.to_le_bytes()),
            Broken::IndexJump { ahead: 9 },
        ),
        ("head beyond the table", |g| g.offer(0, 8), Broken::Index(8)),
        (
            "next beyond the table",
            |g| {
                g.split(descriptor(0), DATA, 1, F_NEXT, 9);
                g.offer(0, 0);
            },
            Broken::Index(9),
        ),
        (
            "loop",
            |g| {
                g.split(descriptor(0), DATA, 1, F_NEXT, 1);
                g.split(descriptor(1), DATA, 1, F_NEXT, 0);
                g.offer(0, 0);
            },
            Broken::LongChain,
        ),
        (
            "no bytes",
            |g| {
                g.split(descriptor(0), DATA, 0, 0, 0);
                g.offer(0, 0);
            },
            Broken::EmptyBuffer,
        ),
        (
            "readable behind writable",
            |g| {
                g.split(descriptor(0), DATA, 1, F_NEXT | F_WRITE, 1);
                g.split(descriptor(1), DATA, 1, 0, 0);
                g.offer(0, 0);
            },
            Broken::ReadableAfterWritable,
        ),
        (
            "beyond the memory",
            |g| {
                g.split(descriptor(0), GUEST + LEN as u64 - 4, 8, 0, 0);
                g.offer(0, 0);
            },
            Broken::Address { addr: GUEST + LEN as u64, len: 4 },
        ),
        (
            "an address that wraps",
            |g| {
                g.split(descriptor(0), u64::MAX - 1, 8, F_WRITE, 0);
                g.offer(0, 0);
            },
            Broken::Address { addr: u64::MAX - 1, len: 8 },
        ),
        (
            "a table that is cut off",
            |g| {
                g.split(descriptor(0), DATA, 24, F_INDIRECT, 0);
                g.offer(0, 0);
            },
            Broken::Indirect,
        ),
    ];
    for (name, spoil, broken) in cases {
        let guest = Guest::new();
        spoil(&guest);
        assert_eq!(popped(&guest, indirect()), Err(broken), "{name}");
    }
}

#[test]
fn a_driver_of_split_rings_is_notified_as_it_wishes() {
    let guest = Guest::new();
    let mut queue = guest.queue(Features::default());
    let chain = Chain::new();
    queue.push(&chain, 0);
    guest.put(AVAILABLE, &1_u16.to_le_bytes());
    assert!(!queue.publish(), "no interrupts wanted");
    guest.put(AVAILABLE, &0_u16.to_le_bytes());
    assert!(!queue.publish(), "nothing new");
    queue.push(&chain, 0);
    assert!(queue.publish());

    let guest = Guest::new();
    let mut queue = guest.queue(Features { event_idx: true, ..Features::default() });
    let used_event = AVAILABLE + 4 + 2 * u64::from(SIZE);
    guest.put(used_event, &1_u16.to_le_bytes());
    queue.push(&chain, 0);
    assert!(!queue.publish(), "at the second only");
    queue.push(&chain, 0);
    assert!(queue.publish());
}

#[test]
fn arming_a_split_ring_sees_what_came_before_the_wish() {
    for event_idx in [false, true] {
        let guest = Guest::new();
        let mut queue = guest.queue(Features { event_idx, ..Features::default() });
        queue.disarm();
        assert!(!queue.arm());
        guest.split(descriptor(0), DATA, 1, 0, 0);
        guest.offer(0, 0);
        assert!(queue.arm());
    }
}

#[test]
fn packed_chains_go_round_the_ring_and_come_back_in_bursts() {
    let guest = Guest::new();
    let mut queue = guest.queue(Features { packed: true, ..Features::default() });
    let mut chain = Chain::new();
    let (mut index, mut wrap) = (0_u16, true);
    let mut used = (0_u16, true);
    for round in 0..20_u16 {
        let lap = if wrap { F_AVAIL } else { F_USED };
        let mut at = index;
        for (part, flags) in [(0_u64, F_NEXT), (1, F_WRITE)] {
            let lap = if at < index { if wrap { F_USED } else { F_AVAIL } } else { lap };
            guest.packed(descriptor(at), DATA + part * 64, 64, round, flags | lap);
            at = (at + 1) % SIZE;
        }
        if at < index {
            wrap = !wrap;
        }
        index = at;

        assert!(queue.pop(&mut chain).unwrap(), "round {round}");
        assert_eq!((chain.readable_len(), chain.writable_len(), chain.id()), (64, 64, round));
        assert!(!queue.pop(&mut Chain::new()).unwrap());
        queue.push(&chain, 64);
        assert!(queue.publish());
        let flags = guest.u16(descriptor(used.0) + 14);
        let lap = if used.1 { F_AVAIL | F_USED } else { 0 };
        assert_eq!(flags & (F_AVAIL | F_USED), lap, "round {round}");
        assert_eq!(guest.u16(descriptor(used.0) + 12), round);
        used.0 += 2;
        if used.0 >= SIZE {
            used = (used.0 - SIZE, !used.1);
        }
    }
}

#[test]
fn a_packed_chain_without_an_end_is_refused() {
    let guest = Guest::new();
    for index in 0..SIZE {
        guest.packed(descriptor(index), DATA, 1, 0, F_NEXT | F_AVAIL);
    }
    let packed = Features { packed: true, indirect: true, ..Features::default() };
    assert_eq!(popped(&guest, packed), Err(Broken::LongChain));
}

#[test]
fn a_driver_of_packed_rings_is_notified_at_the_descriptor_it_names() {
    let guest = Guest::new();
    let mut queue = guest.queue(Features { packed: true, event_idx: true, ..Features::default() });
    // At descriptor 1 of the first lap.
    guest.put(AVAILABLE, &[1, 0x80, 2, 0]);
    let mut chain = Chain::new();
    for index in 0..2_u16 {
        guest.packed(descriptor(index), DATA, 1, index, F_WRITE | F_AVAIL);
    }
    for wanted in [false, true] {
        assert!(queue.pop(&mut chain).unwrap());
        queue.push(&chain, 1);
        assert_eq!(queue.publish(), wanted);
    }
}

#[test]
fn rings_that_are_not_all_in_the_memory_are_refused() {
    let guest = Guest::new();
    let rings = Rings { size: SIZE, descriptors: DESCRIPTORS, available: AVAILABLE, used: USED };
    let refused = |rings: Rings, base, packed| {
        let features = Features { packed, ..Features::default() };
        Queue::new(Arc::clone(&guest.memory), &rings, base, features, None).unwrap_err()
    };
    assert_eq!(refused(Rings { size: 7, ..rings }, 0, false), Broken::Size(7));
    assert_eq!(refused(Rings { size: 0, ..rings }, 0, true), Broken::Size(0));
    let outside = GUEST + LEN as u64 - 8;
    assert_eq!(refused(Rings { used: outside, ..rings }, 0, false), Broken::Ring(outside));
    assert_eq!(refused(Rings { available: 0, ..rings }, 0, false), Broken::Ring(0));
    let odd = DESCRIPTORS + 1;
    assert_eq!(refused(Rings { descriptors: odd, ..rings }, 0, true), Broken::Ring(odd));
    assert_eq!(refused(rings, 8, true), Broken::Index(8));
}

#[test]
fn a_buffer_may_cross_parts_of_the_memory_that_adjoin() {
    static FIRST: [u8; 16] = [1; 16];
    static SECOND: [u8; 16] = [2; 16];
    let memory = GuestMemory::of_test(&[(0x1010, 0x9000, &SECOND), (0x1000, 0x5000, &FIRST)]);
    let mut chain = Chain::new();
    let descriptor =
        drivebay_spec_vhost::ring::Descriptor { addr: 0x100c, len: 8, flags: 0, link: 0 };
    chain.add(&memory, descriptor).unwrap();
    let mut bytes = [0; 8];
    assert!(chain.read(0, &mut bytes));
    assert_eq!(bytes, [1, 1, 1, 1, 2, 2, 2, 2]);
    assert_eq!(chain.readable().len(), 2);
    assert_eq!(memory.guest_addr(0x9004), Some(0x1014));
    assert_eq!(memory.guest_addr(0x6000), None);
}
