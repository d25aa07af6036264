//! A driver's queue against a device's queue over the same memory.

use super::*;
use crate::{Chain, GuestMemory, Queue};
use std::collections::BTreeMap;
use std::ptr::NonNull;

const DATA_LEN: u32 = 512;

struct Pair {
    driver: DriverQueue,
    device: Queue,
    chain: Chain,
    /// The memory that both sides share.
    memory: Arc<SharedMemory>,
}

fn pair(size: u16, packed: bool, event_idx: bool) -> Pair {
    let layout = Layout { size, slots_max: 128, data_len: DATA_LEN, packed };
    // Allocate whole pages, so that the memory is aligned as in a mapping.
    let pages = vec![[0_u128; PAGE / 16]; layout.len_bytes() / PAGE + 1].leak();
    let skip = pages.as_ptr().align_offset(PAGE).min(PAGE);
    let base = pages.as_mut_ptr().cast::<u8>().wrapping_add(skip);
    let len = layout.len_bytes();
    // SAFETY: leaked memory of this length; nobody reads it through this reference.
    let bytes: &'static [u8] = unsafe { std::slice::from_raw_parts(base, len) };
    let memory = Arc::new(SharedMemory::of_test(NonNull::new(base).unwrap(), len));
    let features = Features { packed, event_idx, indirect: false };
    let driver = DriverQueue::new(Arc::clone(&memory), 0, layout, features);
    let addr = SharedMemory::GUEST_ADDR;
    let guest = Arc::new(GuestMemory::of_test(&[(addr, addr, bytes)]));
    // Both counters begin in the first lap.
    let base = if packed { 0x8000_8000 } else { 0 };
    let device = Queue::new(guest, &driver.rings(), base, features, None).unwrap();
    Pair { driver, device, chain: Chain::new(), memory }
}

fn ask<'a>(header: &'a [u8], data: Data<'a>) -> DriverRequest<'a> {
    DriverRequest { header, data, answer_len: 1, answer_first: false }
}

const KINDS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];

#[test]
fn requests_reach_the_device_with_their_data_and_come_back_with_their_answers() {
    for (packed, event_idx) in KINDS {
        let mut pair = pair(8, packed, event_idx);
        // Many laps, with two requests at a time.
        for round in 0..100_u8 {
            let out = [round; 32];
            let writing = pair.driver.submit(&ask(&[1, round], Data::Bytes(&out))).unwrap();
            let reading = pair.driver.submit(&ask(&[2, round], Data::In(16))).unwrap();
            let _ = pair.driver.publish();

            assert_eq!(pair.device.pop(&mut pair.chain), Ok(true));
            let mut seen = [0; 34];
            assert!(pair.chain.read(0, &mut seen));
            assert_eq!((&seen[..2], &seen[2..]), (&[1, round][..], &out[..]));
            assert_eq!((pair.chain.readable_len(), pair.chain.writable_len()), (34, 1));
            assert!(pair.chain.write(0, &[7]));
            pair.device.push(&pair.chain, 1);
            assert_eq!(pair.device.pop(&mut pair.chain), Ok(true));
            assert_eq!((pair.chain.readable_len(), pair.chain.writable_len()), (2, 17));
            assert!(pair.chain.write(0, &[round ^ 0xff; 16]) && pair.chain.write(16, &[9]));
            pair.device.push(&pair.chain, 17);
            assert_eq!(pair.device.pop(&mut pair.chain), Ok(false));
            let _ = pair.device.publish();

            let used = |slot, written| Ok(Some(Used { slot, written }));
            let mut answer = [0];
            assert_eq!(pair.driver.next_used(), used(writing, 1));
            pair.driver.answer(writing, &mut answer);
            assert_eq!(answer, [7]);
            pair.driver.release(writing);
            assert_eq!(pair.driver.next_used(), used(reading, 17));
            let mut data = [0; 16];
            pair.driver.read(reading, &mut data);
            assert_eq!(data, [round ^ 0xff; 16]);
            pair.driver.release(reading);
            assert_eq!(pair.driver.next_used(), Ok(None));
        }
    }
}

#[test]
fn requests_come_back_in_any_order_and_a_full_queue_takes_no_more() {
    for (packed, event_idx) in KINDS {
        let mut pair = pair(16, packed, event_idx);
        let mut expected = BTreeMap::new();
        for round in 0..200_u32 {
            while pair.driver.has_room() {
                let number = (round * 100 + u32::try_from(expected.len()).unwrap()).to_le_bytes();
                let slot = pair.driver.submit(&ask(&number, Data::None)).unwrap();
                assert!(expected.insert(slot, number).is_none());
            }
            assert_eq!(pair.driver.submit(&ask(&[0], Data::None)), None);
            let _ = pair.driver.publish();
            let mut taken = Vec::new();
            loop {
                let mut chain = Chain::new();
                if !pair.device.pop(&mut chain).unwrap() {
                    break;
                }
                taken.push(chain);
            }
            assert_eq!(taken.len(), 5);
            // The order changes from round to round.
            taken.rotate_left(round as usize % 5);
            for chain in taken {
                pair.device.push(&chain, 0);
            }
            let _ = pair.device.publish();
            while let Some(used) = pair.driver.next_used().unwrap() {
                assert!(expected.remove(&used.slot).is_some());
                pair.driver.release(used.slot);
            }
            assert!(expected.is_empty());
        }
    }
}

#[test]
fn each_side_tells_the_other_when_it_sleeps_and_only_then() {
    for (packed, event_idx) in KINDS {
        let mut pair = pair(8, packed, event_idx);
        pair.driver.disarm();
        pair.device.disarm();
        for round in 0..50 {
            let device_sleeps = round % 2 == 0;
            if device_sleeps {
                assert!(!pair.device.arm(), "nothing is there");
            }
            let slot = pair.driver.submit(&ask(&[1], Data::None)).unwrap();
            let is_kicked = pair.driver.publish();
            assert_eq!(is_kicked, device_sleeps, "{packed} {event_idx} {round}");
            pair.device.disarm();
            assert_eq!(pair.device.pop(&mut pair.chain), Ok(true));

            let driver_sleeps = round % 3 == 0;
            if driver_sleeps {
                assert!(!pair.driver.arm(), "nothing is there");
            }
            pair.device.push(&pair.chain, 0);
            assert_eq!(pair.device.publish(), driver_sleeps, "{packed} {event_idx} {round}");
            assert!(pair.driver.arm(), "there is one");
            pair.driver.disarm();
            assert_eq!(pair.driver.next_used(), Ok(Some(Used { slot, written: 0 })));
            pair.driver.release(slot);
        }
    }
}

#[test]
fn an_answer_that_the_device_did_not_write_is_no_success() {
    let mut pair = pair(8, false, true);
    let slot = pair.driver.submit(&ask(&[1], Data::None)).unwrap();
    let _ = pair.driver.publish();
    assert_eq!(pair.device.pop(&mut pair.chain), Ok(true));
    pair.device.push(&pair.chain, 0);
    let _ = pair.device.publish();
    assert_eq!(pair.driver.next_used(), Ok(Some(Used { slot, written: 0 })));
    let mut answer = [0];
    pair.driver.answer(slot, &mut answer);
    assert_eq!(answer, [0xff]);
}

#[test]
fn a_device_that_gives_back_what_it_does_not_have_is_broken() {
    use std::sync::atomic::Ordering::Relaxed;
    let mut split = pair(8, false, true);
    let used = usize::try_from(split.driver.rings().used - SharedMemory::GUEST_ADDR).unwrap();
    split.memory.u16(used + 2).store(1, Relaxed);
    assert_eq!(split.driver.next_used(), Err(DeviceBroken::IndexJump { ahead: 1 }));

    for id in [1, 3, 6, 0xffff_ffff] {
        let mut split = pair(8, false, true);
        split.driver.submit(&ask(&[1], Data::None)).unwrap(); // slot 0
        let _ = split.driver.publish();
        split.memory.u32(used + 4).store(id, Relaxed);
        split.memory.u16(used + 2).store(1, Relaxed);
        assert!(matches!(split.driver.next_used(), Err(DeviceBroken::Id(_))), "{id}");
    }
    for id in [1_u16, 2, 0xffff] {
        let mut packed = pair(8, true, true);
        packed.driver.submit(&ask(&[1], Data::None)).unwrap();
        let _ = packed.driver.publish();
        packed.memory.u16(12).store(id, Relaxed);
        packed.memory.u16(14).store(0x8080, Relaxed);
        assert_eq!(packed.driver.next_used(), Err(DeviceBroken::Id(id.into())));
    }
}
