//! Input from a VMM, and the rings that its guest fills.

use crate::look;
use drivebay_spec_vhost::front::answer;
use drivebay_spec_vhost::message::{self, FDS_MAX, HEADER_LEN, Header, Request, reply};
use drivebay_spec_vhost::{blk, scsi};
use drivebay_virtio::{Chain, Features, GuestMemory, InflightArea, PIECES_MAX, Queue, Rings};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A header and a payload. The payload is also parsed as the header of a block or SCSI request.
pub(crate) fn message(data: &[u8]) {
    let Some((head, payload)) = data.split_first_chunk::<HEADER_LEN>() else { return };
    if let Ok(header) = Header::parse(*head) {
        assert_eq!(Header::parse(header.to_bytes()), Ok(header));
        look(message::name(header.request));
        if let Ok(request) = Request::parse(header.request, payload) {
            let (fewest, most) = request.fds();
            assert!(fewest <= most && most <= FDS_MAX);
            match &request {
                Request::GetConfig(config) => assert_eq!(reply::config(config), payload),
                Request::GetVringBase(state) => assert_eq!(reply::ring_state(*state), payload),
                _ => look(request.has_reply()),
            }
        }
    }
    if let Some(header) = payload.first_chunk() {
        let header = blk::Header::parse(*header);
        look(blk::Segment::parse(payload, header.kind));
    }
    look(payload.first_chunk().and_then(scsi::Request::parse));
    look(scsi::Control::parse(payload));
    // What an initiator gets from a back end.
    if let Some(response) = payload.first_chunk().and_then(scsi::Response::parse) {
        assert!(response.sense.len() <= scsi::SENSE_LEN);
    }
    look(payload.first_chunk().and_then(scsi::Event::parse));
    look((scsi::Config::parse(payload), answer::number(payload), answer::config(payload)));
}

/// The guest's address of its memory.
const GUEST: u64 = 0x1000;
/// Length of that memory, in words of 8 bytes.
const WORDS: usize = 512;
/// Length of the area that records requests in flight, in words of 8 bytes.
const AREA_WORDS: usize = 256;
/// How many times the device asks for a chain.
const ROUNDS: usize = 64;

thread_local! {
    static MEMORY: &'static [AtomicU64] = words(WORDS);
    static AREA: &'static [AtomicU64] = words(AREA_WORDS);
}

/// Zeroed words, aligned to 16 bytes as a descriptor table must be.
fn words(count: usize) -> &'static [AtomicU64] {
    let all: &'static [AtomicU64] =
        (0..=count).map(|_| AtomicU64::new(0)).collect::<Vec<_>>().leak();
    let skip = usize::from(!all.as_ptr().addr().is_multiple_of(16));
    &all[skip..skip + count]
}

fn fill(words: &[AtomicU64], bytes: &[u8]) {
    let mut chunks = bytes.chunks(8);
    for word in words {
        let mut value = [0; 8];
        let chunk = chunks.next().unwrap_or_default();
        value[..chunk.len()].copy_from_slice(chunk);
        word.store(u64::from_le_bytes(value), Ordering::Relaxed);
    }
}

/// The input holds features, a ring size, a base, the guest's memory, the record of requests in flight, and bytes with which the
/// guest overwrites its memory while the device works.
pub(crate) fn ring(data: &[u8]) {
    let Some(([flags, size, cut, base @ ..], rest)) = data.split_first_chunk::<7>() else { return };
    let features =
        Features { packed: flags & 1 != 0, event_idx: flags & 2 != 0, indirect: flags & 4 != 0 };
    let size = u16::from(*size % 20);
    let (tracked, resumes) = (flags & 8 != 0, flags & 16 != 0);
    let (first, later) = rest.split_at(rest.len().min(usize::from(*cut) * 16));
    let (memory, area) = (MEMORY.with(|words| *words), AREA.with(|words| *words));
    fill(memory, first);
    fill(area, first.get(1024..).unwrap_or_default());
    let guest = Arc::new(GuestMemory::over(GUEST, 0, memory));
    let rings = Rings { size, descriptors: GUEST, available: GUEST + 0x400, used: GUEST + 0x600 };
    let shared = InflightArea::over(area, 16, features.packed);
    let inflight = if tracked { shared.ring(0, size, resumes) } else { None };
    let Ok(mut queue) = Queue::new(guest, &rings, u32::from_le_bytes(*base), features, inflight)
    else {
        return;
    };
    let mut chain = Chain::new();
    for round in 0..ROUNDS {
        if round == 2 {
            fill(memory, later);
        }
        match queue.pop(&mut chain) {
            Ok(true) => {
                assert!(chain.readable().len() + chain.writable().len() <= PIECES_MAX);
                let mut head = [0; 16];
                look(chain.read(0, &mut head));
                look(chain.write(chain.writable_len().saturating_sub(1), &[0]));
                queue.push(&chain, 1);
            }
            Ok(false) => look(queue.arm()),
            Err(broken) => return look(broken.to_string()),
        }
        look(queue.publish());
        look((queue.base(), queue.is_resuming()));
    }
}
