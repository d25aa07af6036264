//! The simulated disk: an image in memory, a log of its writes and flushes, and errors on demand.

use crate::Random;
use drivebay_blobstore::{Disk, DiskError};
use std::cell::{Cell, RefCell};

/// An event in the log of the disk.
#[derive(Clone, Debug)]
pub enum Event {
    /// A write.
    Write(u64, Vec<u8>),
    /// A range became zeros.
    Zero(u64, u64),
    /// A range was unmapped: it may hold anything.
    Unmap(u64, u64),
    /// A flush: all earlier events are durable.
    Flush,
}

/// The disk.
#[derive(Debug)]
pub struct SimDisk {
    image: RefCell<Vec<u8>>,
    log: RefCell<Vec<Event>>,
    /// Number of writes and flushes that succeed before the next one fails.
    fails_in: Cell<Option<usize>>,
    /// Whether all later writes and flushes fail, too.
    stays_broken: Cell<bool>,
    has_write_cache: Cell<bool>,
    external: Vec<u8>,
}

const EIO: i32 = 5;
/// Size of the disk outside of the store, in bytes: more than a cluster, and not a multiple of one.
pub(crate) const EXTERNAL_BYTES: usize = 40_000;
/// The byte that fills memory before its first write.
pub(crate) const GARBAGE: u8 = 0xa5;

impl SimDisk {
    /// A disk with these bytes.
    #[must_use]
    pub fn new(image: Vec<u8>) -> Self {
        Self {
            image: RefCell::new(image),
            log: RefCell::default(),
            fails_in: Cell::new(None),
            stays_broken: Cell::new(false),
            has_write_cache: Cell::new(true),
            external: (0..EXTERNAL_BYTES).map(|at| (at / 512) as u8 | 1).collect(),
        }
    }

    /// Adds another disk, outside of the store.
    #[must_use]
    pub fn with_external(self, external: Vec<u8>) -> Self {
        Self { external, ..self }
    }

    /// A disk full of garbage.
    #[must_use]
    pub fn garbage(bytes: usize) -> Self {
        Self::new(vec![GARBAGE; bytes])
    }

    /// A copy of the disk's bytes.
    #[must_use]
    pub fn image(&self) -> Vec<u8> {
        self.image.borrow().clone()
    }

    /// Takes the log, and leaves it empty.
    #[must_use]
    pub fn take_log(&self) -> Vec<Event> {
        self.log.take()
    }

    /// After `count` more writes and flushes, the next one fails. With `stays_broken`, all later ones
    /// fail, too.
    pub fn fail_in(&self, count: Option<usize>, stays_broken: bool) {
        self.fails_in.set(count);
        self.stays_broken.set(stays_broken);
    }

    /// Claims that writes need no flush, which is false for this disk. The checks must then find lost data.
    pub fn deny_write_cache(&self) {
        self.has_write_cache.set(false);
    }

    fn does(&self, event: Event) -> Result<(), DiskError> {
        match self.fails_in.get() {
            Some(0) => {
                if !self.stays_broken.get() {
                    self.fails_in.set(None);
                }
                return Err(DiskError(EIO));
            }
            Some(more) => self.fails_in.set(Some(more - 1)),
            None => {}
        }
        apply(&mut self.image.borrow_mut(), &event);
        self.log.borrow_mut().push(event);
        Ok(())
    }
}

fn apply(image: &mut [u8], event: &Event) {
    match event {
        Event::Write(at, data) => image[*at as usize..][..data.len()].copy_from_slice(data),
        Event::Zero(at, len) => image[*at as usize..][..*len as usize].fill(0),
        Event::Unmap(at, len) => image[*at as usize..][..*len as usize].fill(GARBAGE),
        Event::Flush => {}
    }
}

/// The disk after a power cut behind the first `events` of the log. Flushed data is there; any part of the
/// rest may be there.
#[must_use]
pub fn image_after(before: &[u8], log: &[Event], events: usize, random: &mut Random) -> Vec<u8> {
    let mut image = before.to_vec();
    let log = &log[..events];
    let kept = log.iter().rposition(|event| matches!(event, Event::Flush)).map_or(0, |at| at + 1);
    log[..kept].iter().for_each(|event| apply(&mut image, event));
    for event in &log[kept..] {
        if random.below(2) == 0 {
            apply(&mut image, event);
        }
    }
    image
}

impl Disk for SimDisk {
    fn size_bytes(&self) -> u64 {
        self.image.borrow().len() as u64
    }

    fn block_size(&self) -> u32 {
        512
    }

    fn has_write_cache(&self) -> bool {
        self.has_write_cache.get()
    }

    async fn read(&self, offset: u64, len: usize) -> Result<Vec<u8>, DiskError> {
        Ok(self.image.borrow()[offset as usize..][..len].to_vec())
    }

    async fn write(&self, offset: u64, data: Vec<u8>) -> Result<(), DiskError> {
        self.does(Event::Write(offset, data))
    }

    async fn write_zeroes(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.does(Event::Zero(offset, len))
    }

    async fn unmap(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        self.does(Event::Unmap(offset, len))
    }

    async fn flush(&self) -> Result<(), DiskError> {
        self.does(Event::Flush)
    }

    async fn read_external(
        &self,
        _name: &[u8],
        offset: u64,
        len: usize,
    ) -> Result<Vec<u8>, DiskError> {
        let mut data: Vec<u8> =
            self.external.iter().skip(offset as usize).take(len).copied().collect();
        data.resize(len, 0);
        Ok(data)
    }
}
