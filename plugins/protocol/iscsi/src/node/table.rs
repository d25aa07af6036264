//! The tasks of one connection, in reusable slots.

use drivebay_scsi::{Io, Task, TaskKey};
use std::collections::VecDeque;
use std::time::Instant;

/// A command in progress.
#[derive(Debug)]
pub(super) struct Entry<B> {
    pub(super) key: TaskKey,
    pub(super) itt: u32,
    pub(super) lun: u64,
    pub(super) task: Task,
    /// Expected length of the data to the initiator, in bytes.
    pub(super) in_len: u32,
    /// Expected length of the data from the initiator, in bytes.
    pub(super) out_len: u32,
    /// Data that arrived before there was memory for it, or a part of the parameter list.
    pub(super) early: Vec<u8>,
    /// The initiator still sends unsolicited data.
    pub(super) unsolicited: bool,
    /// DataSN of the next Data-Out.
    pub(super) out_sn: u32,
    /// End offset of the outstanding R2T for the parameter list, in bytes.
    pub(super) list_asked: Option<u32>,
    pub(super) pieces: VecDeque<Piece<B>>,
    /// Number of the first piece.
    pub(super) first_piece: u16,
    /// DataSN of the next Data-In, R2TSN of the next R2T.
    pub(super) sn: u32,
    /// Bytes sent to the initiator.
    pub(super) sent: u32,
    /// The task is aborted: it ends without a response when its I/Os have ended.
    pub(super) is_aborted: bool,
    /// The task has ended. The response is sent when the node has finished the work that the task
    /// left to it.
    pub(super) waits_for_node: bool,
    /// Time of arrival, if there is a histogram.
    pub(super) began: Option<Instant>,
}

/// One I/O of a task.
#[derive(Debug)]
pub(super) struct Piece<B> {
    pub(super) io: Io,
    /// `None` while the I/O is in flight, because the backend has the buffer.
    pub(super) buffer: Option<B>,
    pub(super) state: PieceState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PieceState {
    /// The initiator sends data. Bytes that have arrived, and end of the bytes that were requested.
    Collecting { have: u32, asked: u32 },
    /// The data is complete. The piece waits for the task's turn.
    Collected,
    /// At the bdev.
    InFlight,
    /// Ended.
    Ended,
}

/// The tasks of a connection.
#[derive(Debug)]
pub(super) struct Table<B> {
    link: u32,
    slots: Vec<Slot<B>>,
    free: Vec<u16>,
}

#[derive(Debug)]
struct Slot<B> {
    generation: u16,
    /// `NO_TAG` if the slot is free or its task is aborted.
    itt: u32,
    entry: Option<Box<Entry<B>>>,
}

/// The connection and slot of a task.
pub(super) fn split(key: TaskKey) -> (u32, u16) {
    let [_, _, a, b, _, _, c, d] = key.0.to_be_bytes();
    (u32::from(u16::from_be_bytes([a, b])), u16::from_be_bytes([c, d]))
}

/// The target transfer tag of a task: slot and generation.
pub(super) fn transfer_tag(key: TaskKey) -> u32 {
    u32::try_from(key.0 & 0xffff_ffff).unwrap_or(0) & 0x7fff_ffff
}

impl<B> Table<B> {
    pub(super) fn new(link: u32) -> Self {
        Self { link, slots: Vec::new(), free: Vec::new() }
    }

    /// The key of the next task that will be inserted.
    pub(super) fn next_key(&mut self) -> Option<TaskKey> {
        let slot = match self.free.last() {
            Some(slot) => *slot,
            None => {
                let slot = u16::try_from(self.slots.len()).ok()?;
                let itt = drivebay_spec_iscsi::NO_TAG;
                self.slots.push(Slot { generation: 0, itt, entry: None });
                self.free.push(slot);
                slot
            }
        };
        let generation = self.slots.get(usize::from(slot))?.generation;
        let low = u64::from(generation & 0x7fff) << 16 | u64::from(slot);
        Some(TaskKey(u64::from(self.link) << 32 | low))
    }

    pub(super) fn insert(&mut self, entry: Box<Entry<B>>) {
        let (_, slot) = split(entry.key);
        self.free.retain(|free| *free != slot);
        if let Some(place) = self.slots.get_mut(usize::from(slot)) {
            place.itt = entry.itt;
            place.entry = Some(entry);
        }
    }

    pub(super) fn get_mut(&mut self, key: TaskKey) -> Option<&mut Entry<B>> {
        let (_, slot) = split(key);
        let entry = self.slots.get_mut(usize::from(slot))?.entry.as_deref_mut()?;
        (entry.key == key).then_some(entry)
    }

    /// The task with an initiator task tag.
    pub(super) fn find(&self, itt: u32) -> Option<TaskKey> {
        let slot = self.slots.iter().find(|slot| slot.itt == itt && slot.entry.is_some())?;
        slot.entry.as_ref().map(|entry| entry.key)
    }

    /// The task with a target transfer tag.
    pub(super) fn find_transfer(&self, tag: u32) -> Option<TaskKey> {
        let slot = self.slots.get(usize::try_from(tag & 0xffff).ok()?)?;
        let key = slot.entry.as_ref()?.key;
        (transfer_tag(key) == tag).then_some(key)
    }

    /// Lets the initiator use the tag of a task again.
    pub(super) fn forget_tag(&mut self, key: TaskKey) {
        let (_, slot) = split(key);
        if let Some(slot) = self.slots.get_mut(usize::from(slot)) {
            slot.itt = drivebay_spec_iscsi::NO_TAG;
        }
    }

    pub(super) fn remove(&mut self, key: TaskKey) -> Option<Box<Entry<B>>> {
        let (_, number) = split(key);
        let slot = self.slots.get_mut(usize::from(number))?;
        if slot.entry.as_ref()?.key != key {
            return None;
        }
        slot.generation = slot.generation.wrapping_add(1);
        slot.itt = drivebay_spec_iscsi::NO_TAG;
        self.free.push(number);
        slot.entry.take()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Entry<B>> {
        self.slots.iter().filter_map(|slot| slot.entry.as_deref())
    }

    pub(super) fn keys(&self) -> Vec<TaskKey> {
        self.iter().map(|entry| entry.key).collect()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.slots.iter().all(|slot| slot.entry.is_none())
    }
}

impl<B> Entry<B> {
    /// The piece with a number.
    pub(super) fn piece_mut(&mut self, number: u16) -> Option<&mut Piece<B>> {
        self.pieces.get_mut(usize::from(number.wrapping_sub(self.first_piece)))
    }

    /// The number of the next piece.
    pub(super) fn next_piece(&self) -> u16 {
        self.first_piece.wrapping_add(u16::try_from(self.pieces.len()).unwrap_or(0))
    }
}
