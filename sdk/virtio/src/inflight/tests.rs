//! Devices that die at any point, and the ones that take over from them.

use crate::tests::{DATA, Guest, LEN, SIZE, USED, descriptor};
use crate::{Broken, Chain, Features, InflightArea, Queue};
use drivebay_spec_vhost::inflight::{packed, part_len};
use drivebay_spec_vhost::ring::{F_AVAIL, F_NEXT, F_USED, F_WRITE};
use std::cell::Cell;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Descriptors of one request: one that the device reads, one that it writes.
const PARTS: u16 = 2;

thread_local! {
    /// How often this thread may still access an area before its device dies.
    static ACCESSES_LEFT: Cell<usize> = const { Cell::new(usize::MAX) };
}

/// Counts an access to the area. The device of this thread may die here.
pub(super) fn access() {
    let left = ACCESSES_LEFT.get();
    assert!(left > 0, "the device dies here");
    ACCESSES_LEFT.set(left - 1);
}

/// Runs a device that dies after this number of accesses to its area. Returns whether it survived.
fn survives(accesses: usize, device: impl FnOnce()) -> bool {
    ACCESSES_LEFT.set(accesses);
    let survived = catch_unwind(AssertUnwindSafe(device)).is_ok();
    ACCESSES_LEFT.set(usize::MAX);
    survived
}

fn features(packed: bool) -> Features {
    Features { packed, ..Features::default() }
}

/// A guest with a driver that has up to `SIZE / PARTS` requests at the device.
struct Driver {
    guest: Guest,
    packed: bool,
    area: *mut u8,
    shared: Arc<InflightArea>,
    /// Ids that are free.
    free: VecDeque<u16>,
    /// Ids at the device, in the order of their offers.
    offered: Vec<u16>,
    next_available: (u16, bool),
    next_used: (u16, bool),
}

/// Guest memory and area at one moment.
#[derive(Clone)]
struct Moment {
    guest: Vec<u8>,
    area: Vec<u8>,
}

impl Driver {
    fn new(packed: bool) -> Self {
        let words = vec![0_u64; part_len(SIZE, packed) / 8].leak();
        let area = words.as_mut_ptr().cast();
        Self {
            guest: Guest::new(),
            packed,
            area,
            shared: InflightArea::of_test(words, SIZE, packed),
            free: (0..SIZE / PARTS).collect(),
            offered: Vec::new(),
            next_available: (0, true),
            next_used: (0, true),
        }
    }

    fn device(&self, resumes: bool) -> Result<Queue, Broken> {
        let inflight = self.shared.ring(0, SIZE, resumes);
        self.guest.tracked(features(self.packed), inflight)
    }

    fn area_len(&self) -> usize {
        part_len(SIZE, self.packed)
    }

    fn moment(&self) -> Moment {
        // SAFETY: the guest's memory has this length, and nobody else uses it now.
        let guest = unsafe { std::slice::from_raw_parts(self.guest.base, LEN) }.to_vec();
        // SAFETY: the area has this length, and nobody else uses it now.
        let area = unsafe { std::slice::from_raw_parts(self.area, self.area_len()) }.to_vec();
        Moment { guest, area }
    }

    fn restore(&self, moment: &Moment) {
        // SAFETY: both have this length.
        unsafe { std::ptr::copy_nonoverlapping(moment.guest.as_ptr(), self.guest.base, LEN) };
        // SAFETY: both have this length.
        unsafe { std::ptr::copy_nonoverlapping(moment.area.as_ptr(), self.area, self.area_len()) };
    }

    /// Offers a request.
    fn offer(&mut self) -> bool {
        let Some(id) = self.free.pop_front() else { return false };
        self.offered.push(id);
        let buffers = [(DATA, 16, F_NEXT), (DATA + 64, 1, F_WRITE)];
        if !self.packed {
            let head = id * PARTS;
            for (part, (addr, len, flags)) in (head..).zip(buffers) {
                self.guest.split(descriptor(part), addr, len, flags, part + 1);
            }
            self.guest.offer(self.next_available.0, head);
            self.next_available.0 = self.next_available.0.wrapping_add(1);
            return true;
        }
        for (addr, len, flags) in buffers {
            let (at, wrap) = self.next_available;
            let lap = if wrap { F_AVAIL } else { F_USED };
            self.guest.packed(descriptor(at), addr, len, id, flags | lap);
            self.next_available = next((at, wrap), 1);
        }
        true
    }

    /// Takes the requests that the device has handed back.
    fn take(&mut self) -> Vec<u16> {
        let mut ids = Vec::new();
        loop {
            let (at, wrap) = self.next_used;
            let id = if self.packed {
                let flags = self.guest.u16(descriptor(at) + 14);
                let lap = if wrap { F_AVAIL | F_USED } else { 0 };
                if flags & (F_AVAIL | F_USED) != lap {
                    return ids;
                }
                self.next_used = next((at, wrap), PARTS);
                self.guest.u16(descriptor(at) + 12)
            } else {
                if self.guest.u16(USED + 2) == at {
                    return ids;
                }
                self.next_used.0 = at.wrapping_add(1);
                self.guest.u16(USED + 4 + 8 * u64::from(at % SIZE)) / PARTS
            };
            let place = self.offered.iter().position(|other| *other == id);
            self.offered.remove(place.expect("a request is given back once"));
            self.free.push_back(id);
            ids.push(id);
        }
    }
}

fn next((at, wrap): (u16, bool), entries: u16) -> (u16, bool) {
    let at = at + entries;
    if at >= SIZE { (at - SIZE, !wrap) } else { (at, wrap) }
}

fn id(chain: &Chain, packed: bool) -> u16 {
    if packed { chain.id() } else { chain.id() / PARTS }
}

/// All requests that a device finds.
fn found(queue: &mut Queue, packed: bool) -> Vec<(u16, Chain)> {
    let mut all = Vec::new();
    let mut chain = Chain::new();
    while queue.pop(&mut chain).unwrap() {
        assert_eq!((chain.readable_len(), chain.writable_len()), (16, 1));
        all.push((id(&chain, packed), std::mem::take(&mut chain)));
    }
    all
}

fn ids(chains: &[(u16, Chain)]) -> Vec<u16> {
    chains.iter().map(|(id, _)| *id).collect()
}

/// The moments at which a device can die while it publishes: before, after the ring shows the batch, and with the
/// record of a packed ring written but the batch not shown.
fn deaths(before: &Moment, after: &Moment, packed: bool) -> Vec<Moment> {
    let mut area = before.area.clone();
    if packed {
        area.clone_from(&after.area);
        let header =
            [(packed::OLD_FREE_HEAD, 2), (packed::OLD_USED_INDEX, 2), (packed::OLD_USED_WRAP, 1)];
        let flags =
            (0..usize::from(SIZE)).map(|at| (packed::HEADER_LEN + at * packed::ENTRY_LEN, 1));
        for (offset, len) in header.into_iter().chain(flags) {
            area[offset..offset + len].copy_from_slice(&before.area[offset..offset + len]);
        }
    }
    let shown = Moment { guest: after.guest.clone(), area: area.clone() };
    let not_shown = Moment { guest: before.guest.clone(), area };
    vec![before.clone(), not_shown, shown, after.clone()]
}

/// xorshift64.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % end as u64).unwrap()
    }
}

#[test]
fn whenever_a_device_dies_the_next_one_finds_what_was_not_given_back_in_order_and_nothing_else() {
    for packed in [false, true] {
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        let mut driver = Driver::new(packed);
        let mut device = driver.device(true).unwrap();
        let mut taken: Vec<(u16, Chain)> = Vec::new();
        let mut deaths_seen = 0;
        for _ in 0..10_000 {
            match random.below(4) {
                0 => drop(driver.offer()),
                1 => {
                    let mut chain = Chain::new();
                    if device.pop(&mut chain).unwrap() {
                        taken.push((id(&chain, packed), chain));
                    }
                }
                2 if !taken.is_empty() => {
                    // Some of them, in any order.
                    for _ in 0..=random.below(taken.len()) {
                        let (_, chain) = taken.remove(random.below(taken.len()));
                        device.push(&chain, 1);
                        if taken.is_empty() {
                            break;
                        }
                    }
                    let dies = random.below(4) == 0;
                    let before = dies.then(|| driver.moment());
                    let _ = device.publish();
                    if let Some(before) = before {
                        let all = deaths(&before, &driver.moment(), packed);
                        driver.restore(&all[random.below(all.len())]);
                        deaths_seen += 1;
                        driver.take();
                        device = driver.device(true).unwrap();
                        taken = found(&mut device, packed);
                        assert_eq!(ids(&taken), driver.offered, "packed: {packed}");
                    }
                }
                _ => drop(driver.take()),
            }
        }
        assert!(deaths_seen > 100);
        // The last device, which does not die, hands back everything.
        taken.extend(found(&mut device, packed));
        for (_, chain) in taken {
            device.push(&chain, 1);
        }
        let _ = device.publish();
        driver.take();
        assert!(driver.offered.is_empty());
    }
}

#[test]
fn what_a_dead_device_took_comes_before_what_nobody_took() {
    for packed in [false, true] {
        let mut driver = Driver::new(packed);
        let mut device = driver.device(true).unwrap();
        driver.offer();
        driver.offer();
        let taken = found(&mut device, packed);
        assert_eq!(ids(&taken), [0, 1]);
        device.push(&taken[0].1, 1);
        let _ = device.publish();
        drop(device);
        driver.offer();
        let mut device = driver.device(true).unwrap();
        assert!(device.is_resuming() && device.arm());
        let mut chain = Chain::new();
        assert!(device.pop(&mut chain).unwrap());
        assert!(!device.is_resuming());
        assert_eq!(id(&chain, packed), 1);
        assert_eq!(ids(&found(&mut device, packed)), [2]);
    }
}

#[test]
fn a_ring_that_was_reset_begins_at_its_base_whatever_the_area_says() {
    for packed in [false, true] {
        let mut driver = Driver::new(packed);
        let mut device = driver.device(true).unwrap();
        driver.offer();
        assert_eq!(found(&mut device, packed).len(), 1);
        let reset = Moment { guest: vec![0; LEN], area: driver.moment().area };
        driver.restore(&reset);
        let mut device = driver.device(false).unwrap();
        assert!(found(&mut device, packed).is_empty());
        driver.next_available = (0, true);
        driver.offer();
        assert_eq!(found(&mut device, packed).len(), 1);
    }
}

#[test]
fn a_device_that_dies_while_it_clears_an_area_leaves_one_that_counts_as_new() {
    // The version is read, then marked as that of a new area.
    const MARKED: usize = 2;
    for packed in [false, true] {
        for accesses in MARKED.. {
            let mut driver = Driver::new(packed);
            let mut device = driver.device(true).unwrap();
            driver.offer();
            driver.offer();
            let taken = found(&mut device, packed);
            device.push(&taken[1].1, 1);
            let _ = device.publish();
            let reset = Moment { guest: vec![0; LEN], area: driver.moment().area };
            driver.restore(&reset);
            let survived = survives(accesses, || drop(driver.device(false).unwrap()));

            let mut device = driver.device(true).unwrap();
            assert!(found(&mut device, packed).is_empty(), "died after {accesses} accesses");
            driver.next_available = (0, true);
            driver.offer();
            assert_eq!(found(&mut device, packed).len(), 1, "died after {accesses} accesses");
            if survived {
                break;
            }
        }
    }
}

#[test]
fn an_area_of_any_bytes_gives_requests_or_breaks_the_ring() {
    let mut broken = 0;
    for packed in [false, true] {
        let mut random = Random(7);
        for _ in 0..1_000 {
            let mut driver = Driver::new(packed);
            for _ in 0..3 {
                driver.offer();
            }
            let mut moment = driver.moment();
            for byte in &mut moment.area {
                *byte = [0, 1, 2, 3, 7, 8, 255][random.below(7)];
            }
            driver.restore(&moment);
            let Ok(mut device) = driver.device(true) else {
                broken += 1;
                continue;
            };
            let mut chain = Chain::new();
            for _ in 0..4 * SIZE {
                match device.pop(&mut chain) {
                    Ok(true) => device.push(&chain, 0),
                    Ok(false) => break,
                    Err(_) => {
                        broken += 1;
                        break;
                    }
                }
                let _ = device.publish();
            }
        }
    }
    assert!(broken > 500, "{broken}");
}

#[test]
fn areas_have_room_for_the_rings_that_they_were_made_for() {
    assert_eq!(InflightArea::len(2, 128, false), Some(8192));
    assert_eq!(InflightArea::len(0, 128, false), None);
    assert_eq!(InflightArea::len(1, 0, true), None);
    assert_eq!(InflightArea::len(1, 32769, true), None);
    let driver = Driver::new(false);
    assert!(driver.shared.ring(1, SIZE, true).is_none());
    assert!(driver.shared.ring(0, SIZE + 1, true).is_none());
}
