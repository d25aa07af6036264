//! A disk in memory. It keeps its contents while it is unplugged, fails on demand, and tracks which data a power cut
//! would leave.

use drivebay_sdk::App;
use drivebay_sdk::bdev;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::NoParams;
use drivebay_sdk::serde_json::Value;
use drivebay_sdk::testing::FakeHost;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes of a block.
pub(super) const BLOCK: u32 = 512;

pub(super) type Block = [u8; BLOCK as usize];

/// The writes and flushes of the disks that share a log, in order, each with the number of its disk.
pub(super) type Log = Arc<Mutex<Vec<(usize, Event)>>>;

/// A write or flush of a disk.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// First block, and the new contents from there on.
    Write(usize, Vec<Block>),
    Flush,
}

#[derive(Debug, Default)]
struct State {
    /// The size that the bdev has on the bus. The disk itself may be larger.
    num_blocks: usize,
    blocks: Vec<Block>,
    /// The data that a power cut leaves: the blocks at the last flush.
    durable: Vec<Block>,
    /// Blocks written since the last flush.
    dirty: BTreeSet<usize>,
    log: Option<(usize, Log)>,
    flushes: u32,
    /// How writes, unmaps and flushes end; `None` = they succeed.
    writes_end_with: Option<Status>,
    /// After so many of them, they fail.
    writes_left: Option<u32>,
    unmaps: u32,
    fails_reads_at: Option<u64>,
    /// Blocks that cannot be read or written.
    bad: Vec<u64>,
    /// Whether I/O waits for `answer`.
    hangs: bool,
    /// First block of each write, in order; block 0 is a superblock.
    writes: Vec<u64>,
}

/// The contents of a disk, and the blocks that are only in its cache.
#[derive(Debug)]
pub(super) struct Image {
    blocks: Vec<Block>,
    durable: Vec<Block>,
    dirty: BTreeSet<usize>,
}

thread_local! {
    /// I/O of disks that hang, and their names.
    static HELD: RefCell<Vec<(String, BdevIo)>> = const { RefCell::new(Vec::new()) };
}

/// A disk. It may be unplugged.
#[derive(Clone, Debug)]
pub(super) struct Ram {
    name: String,
    uuid: [u8; 16],
    state: Arc<Mutex<State>>,
}

struct Disk(Ram);

impl Ram {
    pub(super) fn plug(host: &FakeHost, name: &str, nblocks: usize) -> Self {
        Self::plug_as(host, name, name, nblocks)
    }

    /// As [`plug`](Self::plug), with a UUID made from the text `uuid_of`.
    pub(super) fn plug_as(host: &FakeHost, name: &str, uuid_of: &str, nblocks: usize) -> Self {
        let mut uuid = [0; 16];
        uuid.iter_mut().zip(uuid_of.bytes()).for_each(|(to, from)| *to = from);
        let blocks = vec![[0; BLOCK as usize]; nblocks];
        let state =
            State { num_blocks: nblocks, durable: blocks.clone(), blocks, ..State::default() };
        let ram = Self { name: name.into(), uuid, state: Arc::new(Mutex::new(state)) };
        ram.plug_in(host);
        ram
    }

    /// Makes the disk larger without telling the bus.
    pub(super) fn enlarge(&self, by: usize) {
        let mut state = self.state();
        let nblocks = state.blocks.len() + by;
        state.blocks.resize(nblocks, [0; BLOCK as usize]);
        state.durable.resize(nblocks, [0; BLOCK as usize]);
    }

    /// Gives the bdev this size, also on the bus if it is plugged in.
    pub(super) fn grow(&self, host: &FakeHost, nblocks: usize) {
        let is_plugged_in = host.registered(&self.name).is_some();
        self.state().num_blocks = nblocks;
        let missing = nblocks.saturating_sub(self.state().blocks.len());
        self.enlarge(missing);
        if is_plugged_in {
            bdev::find::<Disk>(&self.name).unwrap().resize(host.app(), nblocks as u64).unwrap();
        }
        for _ in 0..20 {
            host.run();
        }
    }

    /// A disk with these bytes, not plugged in.
    pub(super) fn with_contents(name: &str, uuid: [u8; 16], bytes: &[u8]) -> Self {
        let blocks = bytes.as_chunks().0.to_vec();
        let num_blocks = blocks.len();
        let state = State { num_blocks, durable: blocks.clone(), blocks, ..State::default() };
        Self { name: name.into(), uuid, state: Arc::new(Mutex::new(state)) }
    }

    pub(super) fn plug_in(&self, host: &FakeHost) {
        bdev::register(host.app(), Disk(self.clone()), "", Value::Null).unwrap();
        host.run();
    }

    /// As [`unplug`](Self::unplug), but the disk may still be open.
    pub(super) fn unplug_soon(&self, host: &FakeHost) {
        bdev::find::<Disk>(&self.name).unwrap().unregister(host.app(), |_, _| {});
    }

    pub(super) fn unplug(&self, host: &FakeHost) {
        self.unplug_soon(host);
        for _ in 0..20 {
            host.run();
        }
        assert!(host.registered(&self.name).is_none(), "{} is still open", self.name);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    pub(super) fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    pub(super) fn name(&self) -> String {
        self.name.clone()
    }

    /// The first byte of a block.
    pub(super) fn block(&self, lba: usize) -> u8 {
        self.state().blocks[lba][0]
    }

    pub(super) fn flushes(&self) -> u32 {
        self.state().flushes
    }

    pub(super) fn fail_writes(&self, fails: bool) {
        self.state().writes_left = None;
        self.end_writes_with(fails.then_some(Status::IO_ERROR));
    }

    pub(super) fn end_writes_with(&self, status: Option<Status>) {
        self.state().writes_end_with = status;
    }

    /// Makes writes and flushes fail after `count` of them.
    pub(super) fn fail_writes_after(&self, count: u32) {
        self.state().writes_left = Some(count);
    }

    /// Makes blocks bad.
    pub(super) fn set_bad(&self, blocks: &[u64]) {
        self.state().bad = blocks.to_vec();
    }

    /// From now on, all I/O waits for [`answer`](Self::answer).
    pub(super) fn hang(&self) {
        self.state().hangs = true;
    }

    /// Executes the I/O that waits, and all later I/O.
    pub(super) fn answer(&self) {
        self.state().hangs = false;
        self.answer_waiting();
    }

    /// Executes the I/O that waits. The disk goes on hanging.
    pub(super) fn answer_waiting(&self) {
        let held = HELD.take();
        let (ours, others) = held.into_iter().partition(|(name, _)| *name == self.name);
        HELD.set(others);
        let ours: Vec<(String, BdevIo)> = ours;
        for (_, io) in ours {
            let status = self.state().take(&io);
            io.complete(status);
        }
    }

    pub(super) fn unmaps(&self) -> u32 {
        self.state().unmaps
    }

    pub(super) fn fail_reads_at(&self, lba: Option<u64>) {
        self.state().fails_reads_at = lba;
    }

    /// The newest write-intent record that a power cut would leave.
    pub(super) fn durable_intent(&self) -> Option<drivebay_spec_raid::Intent> {
        let state = self.state();
        let copies = [1024, 1536].map(|at| {
            let bytes = state.durable.get(at..at + 8)?.as_flattened();
            drivebay_spec_raid::Intent::parse(bytes)
        });
        copies.into_iter().flatten().max_by_key(|intent| intent.generation)
    }

    /// All bytes.
    pub(super) fn contents(&self) -> Vec<u8> {
        self.state().blocks.as_flattened().to_vec()
    }

    /// Changes the disk behind the array's back.
    pub(super) fn overwrite(&self, lba: usize, bytes: &[u8]) {
        let mut state = self.state();
        let State { blocks, durable, .. } = &mut *state;
        for image in [blocks, durable] {
            image[lba..].as_flattened_mut()[..bytes.len()].copy_from_slice(bytes);
        }
    }

    /// First block of each write, in order.
    pub(super) fn writes(&self) -> Vec<u64> {
        self.state().writes.clone()
    }

    /// Cuts the power: only flushed data stays.
    pub(super) fn cut_power(&self) {
        let mut state = self.state();
        state.blocks = state.durable.clone();
        state.dirty.clear();
    }

    /// The contents of the disk and of its cache.
    pub(super) fn image(&self) -> Image {
        let state = self.state();
        Image {
            blocks: state.blocks.clone(),
            durable: state.durable.clone(),
            dirty: state.dirty.clone(),
        }
    }

    /// Restores an image.
    pub(super) fn restore(&self, image: &Image) {
        let mut state = self.state();
        state.blocks.clone_from(&image.blocks);
        state.durable.clone_from(&image.durable);
        state.dirty.clone_from(&image.dirty);
    }

    /// Cuts the power: `keeps` decides for each block in the cache whether it stays.
    pub(super) fn lose_cache(&self, mut keeps: impl FnMut() -> bool) {
        let mut state = self.state();
        let State { blocks, durable, dirty, .. } = &mut *state;
        for lba in std::mem::take(dirty) {
            if keeps() {
                durable[lba] = blocks[lba];
            } else {
                blocks[lba] = durable[lba];
            }
        }
    }

    /// The size that the bdev has on the bus.
    pub(super) fn num_blocks(&self) -> usize {
        self.state().num_blocks
    }

    /// Logs writes and flushes from now on, with this number for the disk.
    pub(super) fn log_to(&self, number: usize, log: &Log) {
        self.state().log = Some((number, Arc::clone(log)));
    }

    /// The superblock that a power cut would leave.
    pub(super) fn durable_superblock(&self) -> Option<drivebay_spec_raid::Superblock> {
        let state = self.state();
        let bytes: Vec<u8> = state.durable.iter().take(40).flatten().copied().collect();
        drivebay_spec_raid::Superblock::parse(&bytes).ok()
    }
}

impl Bdev for Disk {
    type Params = NoParams;
    type Channel = ();
    const PRODUCT: &'static str = "ram";
    const OPS: OpSet = OpSet::READ_WRITE
        .with(OpSet::FLUSH)
        .with(OpSet::UNMAP)
        .with(OpSet::WRITE_ZEROES)
        .with(OpSet::RESET);

    fn create(_: &App, _: NoParams) -> Result<Self> {
        Err(Error::no_such_device())
    }
    fn name(&self) -> &str {
        &self.0.name
    }
    fn geometry(&self) -> Geometry {
        Geometry::new(BLOCK, self.0.state().num_blocks as u64).unwrap()
    }
    fn describe(&self, registration: &mut Registration) {
        registration.uuid = self.0.uuid;
        registration.has_write_cache = true;
    }
    fn open_channel(&self) -> Result<()> {
        Ok(())
    }
    fn submit(&self, (): &mut (), io: BdevIo) {
        if self.0.state().hangs {
            return HELD.with_borrow_mut(|held| held.push((self.0.name.clone(), io)));
        }
        let status = self.0.state().take(&io);
        io.complete(status);
    }
}

impl State {
    fn take(&mut self, io: &BdevIo) -> Status {
        if matches!(io.op(), Op::Write(_) | Op::Flush) {
            match &mut self.writes_left {
                Some(0) => self.writes_end_with = Some(Status::IO_ERROR),
                Some(left) => *left -= 1,
                None => {}
            }
        }
        match io.op() {
            Op::Read(range) | Op::Write(range)
                if self
                    .bad
                    .iter()
                    .any(|lba| (range.lba..range.lba + range.nblocks).contains(lba)) =>
            {
                return Status::MEDIA;
            }
            Op::Read(range) => {
                let blocks = range.lba as usize..(range.lba + range.nblocks) as usize;
                if self.fails_reads_at.is_some_and(|bad| blocks.contains(&(bad as usize))) {
                    return Status::MEDIA;
                }
                io.buffers().fill_from(self.blocks[blocks].as_flattened());
            }
            Op::Write(_) | Op::WriteZeroes(_) | Op::Unmap(_) | Op::Flush
                if self.writes_end_with.is_some() =>
            {
                return self.writes_end_with.unwrap();
            }
            Op::Write(range) => {
                let blocks = range.lba as usize..(range.lba + range.nblocks) as usize;
                io.buffers().copy_to(self.blocks[blocks.clone()].as_flattened_mut());
                self.writes.push(range.lba);
                self.note_written(blocks);
            }
            Op::WriteZeroes(range) | Op::Unmap(range) => {
                let blocks = range.lba as usize..(range.lba + range.nblocks) as usize;
                self.blocks[blocks.clone()].as_flattened_mut().fill(0);
                self.note_written(blocks);
                self.unmaps += u32::from(matches!(io.op(), Op::Unmap(_)));
            }
            Op::Flush => {
                self.flushes += 1;
                for lba in std::mem::take(&mut self.dirty) {
                    self.durable[lba] = self.blocks[lba];
                }
                self.note(Event::Flush);
            }
            _ => {}
        }
        Status::SUCCESS
    }

    fn note_written(&mut self, blocks: std::ops::Range<usize>) {
        self.note(Event::Write(blocks.start, self.blocks[blocks.clone()].to_vec()));
        self.dirty.extend(blocks);
    }

    fn note(&self, event: Event) {
        if let Some((number, log)) = &self.log {
            log.lock().unwrap().push((*number, event));
        }
    }
}
