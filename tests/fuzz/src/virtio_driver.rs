//! The driver's side of virtqueues, over memory that its device overwrites.
//!
//! A script says what the ring is like, then has steps. A step submits a request, shows requests to the device, overwrites 8 bytes of
//! the ring, or takes what the device handed back. The queue must hand back only slots that the device had, each of them once, and
//! must not be used after the device broke a rule.

use crate::look;
use crate::script::Script;
use drivebay_virtio::Features;
use drivebay_virtio::driver::{Data, DriverQueue, DriverRequest, Layout, SharedMemory};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Longest data of a request, in bytes.
const DATA_LEN: u32 = 64;
/// Length of a page, in words of 8 bytes.
const PAGE: usize = 512;
/// Pages for the longest queue of a script.
const PAGES: usize = 10;
/// Words that the device overwrites: the ring, without the data.
const RING: usize = 3 * PAGE;

struct Arena {
    words: &'static [AtomicU64],
    memory: Arc<SharedMemory>,
}

thread_local! {
    static ARENA: Arena = arena();
}

/// Memory that begins at a page, as a mapping does.
fn arena() -> Arena {
    let all: &'static [AtomicU64] =
        (0..(PAGES + 1) * PAGE).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
    let skip = all.as_ptr().addr().wrapping_neg() % 4096 / 8;
    let words = &all[skip..skip + PAGES * PAGE];
    Arena { words, memory: Arc::new(SharedMemory::over(words)) }
}

pub(crate) fn script(bytes: &[u8]) {
    ARENA.with(|arena| run(&mut Script(bytes), arena));
}

fn run(script: &mut Script<'_>, arena: &Arena) {
    arena.words.iter().for_each(|word| word.store(0, Ordering::Relaxed));
    let bits = script.number();
    let packed = bits & 1 != 0;
    let features = Features { packed, event_idx: bits & 2 != 0, indirect: false };
    let size = [4, 8, 16, 16][usize::from(bits >> 2 & 3)];
    let layout = Layout { size, slots_max: 5, data_len: DATA_LEN, packed };
    let mut queue = DriverQueue::new(Arc::clone(&arena.memory), 0, layout, features);
    let mut is_at_device = vec![false; queue.num_slots().into()];
    while let Some(step) = script.byte() {
        match step % 5 {
            0 => {
                let len = u32::from(script.number()) % (DATA_LEN + 1);
                let out = [step; DATA_LEN as usize];
                let data = match step & 0x60 {
                    0x20 => Data::In(len),
                    0x40 => Data::Bytes(&out[..len as usize]),
                    _ => Data::None,
                };
                let header = if step & 0x80 != 0 && len == 0 { &[][..] } else { &[1; 16][..] };
                let answer_first = step & 0x10 != 0;
                let had_room = queue.has_room();
                let slot =
                    queue.submit(&DriverRequest { header, data, answer_len: 4, answer_first });
                assert_eq!(slot.is_some(), had_room);
                if let Some(slot) = slot {
                    let was = std::mem::replace(&mut is_at_device[usize::from(slot)], true);
                    assert!(!was, "a slot was taken twice");
                }
            }
            1 => look(queue.publish()),
            2 => {
                let place = u16::from_le_bytes([script.number(), script.number()]);
                let mut value = [0; 8];
                let bytes = script.bytes(8);
                value[..bytes.len()].copy_from_slice(bytes);
                let word = &arena.words[usize::from(place) % RING];
                word.store(u64::from_le_bytes(value), Ordering::Relaxed);
            }
            3 => match queue.next_used() {
                Ok(None) => {}
                Ok(Some(used)) => {
                    let was = std::mem::replace(&mut is_at_device[usize::from(used.slot)], false);
                    assert!(was, "the device did not have this slot");
                    let (mut answer, mut data) = ([0; 4], [0; DATA_LEN as usize]);
                    queue.answer(used.slot, &mut answer);
                    queue.read(used.slot, &mut data);
                    look((answer, data));
                    queue.release(used.slot);
                }
                Err(broken) => return look(broken.to_string()),
            },
            _ => {
                look(queue.arm());
                queue.disarm();
            }
        }
    }
}
