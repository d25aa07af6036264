//! The environment of a check: the host with the plugin, threads for I/O, and disks of the plugin.

use crate::base::Base;
use crate::batch::{Completed, Io};
use crate::client::{Channel, DEADLINE, Disk, Lane, cores, status_name, wait};
use crate::guard::{self, Guarded};
use crate::verdict::{Stop, Verdict, failed};
use drivebay_plugin_api::*;
use drivebay_spec_jsonrpc::Method;
use serde_json::{Map, Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// The host, as the program provides it to the suite. Called on an ordinary OS thread.
pub trait Host {
    /// Loads the plugin that is being checked.
    ///
    /// # Errors
    /// Why it cannot be loaded.
    fn load(&self) -> Result<(), String>;
    /// Unloads the plugin.
    ///
    /// # Errors
    /// Why it cannot be unloaded.
    fn unload(&self) -> Result<(), String>;
    /// Calls a method. The channel gets its result or its error.
    fn begin(&self, method: &str, params: &Value) -> Receiver<Result<Value, String>>;
    /// The methods of the plugin that is being checked.
    fn methods(&self) -> Vec<Arc<Method>>;
    /// Whether the file's notes and layout fit this host.
    ///
    /// # Errors
    /// The part of the notes or of the layout that does not fit.
    fn layout(&self) -> Verdict;
    /// What the plugin provides according to its manifest.
    fn provides(&self) -> Vec<String>;
}

/// The settings of the user.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Parameters of the methods that create disks. They override those that the suite chooses.
    pub params: Map<String, Value>,
    /// The seed of all random choices.
    pub seed: u64,
    /// Whether checks may take as long as they need.
    pub is_long: bool,
    /// A folder for files.
    pub folder: PathBuf,
}

/// The environment of a check.
pub struct Rig<'a> {
    /// The host.
    pub host: &'a dyn Host,
    /// The settings of the user.
    pub settings: &'a Settings,
    /// Threads for I/O, on each reactor.
    pub lanes: Vec<Lane>,
    /// How disks are created, once the plugin serves.
    pub maker: Option<Maker>,
    /// The disk below, for filters.
    pub base: Option<&'static Base>,
    pub(crate) bases_made: u32,
}

impl std::fmt::Debug for Rig<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Rig").finish_non_exhaustive()
    }
}

/// How a plugin's disks are created and deleted.
#[derive(Clone, Debug)]
pub struct Maker {
    /// The method that creates a disk; `None`: the plugin creates disks by itself.
    pub create: Option<Arc<Method>>,
    /// The method that deletes a disk.
    pub delete: Option<String>,
}

/// The number of blocks of the suite's disks, and of the plugin's disks that the suite creates.
pub const NUM_BLOCKS: u64 = 32_768;
/// The size of these blocks, in bytes.
pub const BLOCK_SIZE: u32 = 512;
/// The number of lightweight threads on each reactor.
const LANES_PER_CORE: usize = 2;

/// An open disk of the plugin that is being checked.
#[derive(Debug)]
pub struct Made {
    /// The bdev as its module registered it.
    pub bdev: Arc<Guarded>,
    /// The suite's descriptor.
    pub disk: Disk,
}

impl Made {
    /// The number of bytes in a block.
    #[must_use]
    pub fn block_size(&self) -> u32 {
        self.bdev.record.block_size
    }

    /// The capacity in blocks.
    #[must_use]
    pub fn num_blocks(&self) -> u64 {
        self.bdev.record.num_blocks
    }

    /// Whether data that is written can be read.
    #[must_use]
    pub fn keeps_data(&self) -> bool {
        self.bdev.record.flags & BAY_BDEV_NO_DATA == 0
    }

    /// Whether the disk can be written.
    #[must_use]
    pub fn is_writable(&self) -> bool {
        self.bdev.record.flags & BAY_BDEV_READ_ONLY == 0 && self.bdev.declares(BAY_OP_WRITE)
    }

    /// The number of blocks that every write must be a multiple of.
    #[must_use]
    pub fn write_unit(&self) -> u64 {
        self.bdev.record.write_unit.max(1).into()
    }

    /// An I/O with memory for its blocks, filled with `byte`.
    #[must_use]
    pub fn io(&self, op: u16, lba: u64, nblocks: u64, byte: u8) -> Io {
        let len = usize::try_from(nblocks).unwrap_or(0) * self.block_size() as usize;
        let has_data = matches!(op, BAY_OP_READ | BAY_OP_WRITE | BAY_OP_COMPARE);
        Io::new(op, lba, nblocks).with(if has_data { vec![byte; len] } else { Vec::new() })
    }
}

impl<'a> Rig<'a> {
    /// Creates the threads on every reactor. The plugin is not used yet.
    ///
    /// # Errors
    /// The core's error.
    pub fn new(host: &'a dyn Host, settings: &'a Settings) -> Result<Self, String> {
        let numbers = 0..LANES_PER_CORE;
        let places = numbers.flat_map(|_| cores()).enumerate();
        let lanes = places.map(|(number, core)| Lane::new(number, core));
        Ok(Self {
            host,
            settings,
            lanes: lanes.collect::<Result<_, _>>()?,
            maker: None,
            base: None,
            bases_made: 0,
        })
    }

    /// The first thread.
    #[must_use]
    pub fn lane(&self) -> Lane {
        self.lanes.first().copied().unwrap_or_else(Lane::app)
    }

    /// Calls a method and waits for its answer.
    ///
    /// # Errors
    /// The method's error, or a timeout.
    pub fn call(&self, method: &str, params: &Value) -> Result<Value, String> {
        let answer = self.host.begin(method, params);
        let late = || format!("{method} did not answer within {} s", DEADLINE.as_secs());
        wait(&answer, DEADLINE).map_err(|_| late())?
    }

    /// Creates a disk and opens it.
    ///
    /// # Errors
    /// What failed.
    pub fn make(&mut self) -> Result<Made, Stop> {
        let bdev = self.create()?;
        let is_writable =
            bdev.record.flags & BAY_BDEV_READ_ONLY == 0 && bdev.declares(BAY_OP_WRITE);
        let disk = Disk::open(&bdev.name, is_writable)
            .map_err(|why| Stop::failed("the new bdev can be opened", why))?;
        Ok(Made { bdev, disk })
    }

    /// Creates a disk.
    ///
    /// # Errors
    /// What failed.
    pub fn create(&mut self) -> Result<Arc<Guarded>, Stop> {
        let maker = self.maker.clone().unwrap_or(Maker { create: None, delete: None });
        let Some(method) = maker.create else {
            let bdevs = guard::bdevs();
            let why =
                "the plugin registers no method that creates a bdev, and creates none by itself";
            return bdevs.first().cloned().ok_or_else(|| Stop::Skipped(why.to_owned()));
        };
        let params = self.params_of(&method)?;
        let before = guard::bdevs().len();
        self.call(&method.name, &params).map_err(|why| {
            Stop::failed(
                format!("{} creates a bdev", method.name),
                format!("{why}; called with {params} (--params changes them)"),
            )
        })?;
        let after = guard::bdevs();
        match after.last() {
            Some(bdev) if after.len() > before => Ok(Arc::clone(bdev)),
            _ => failed(format!("{} registers a bdev", method.name), "none was registered"),
        }
    }

    /// Closes and deletes a disk.
    ///
    /// # Errors
    /// What failed.
    pub fn delete(&mut self, made: Made) -> Verdict {
        let name = made.bdev.name.clone();
        drop(made.bdev);
        made.disk.close().map_err(|why| Stop::failed("the descriptor closes", why))?;
        self.delete_by_name(&name)
    }

    /// Deletes a disk, if the plugin has a method for that.
    ///
    /// # Errors
    /// What failed.
    pub fn delete_by_name(&mut self, name: &str) -> Verdict {
        let Some(delete) = self.maker.as_ref().and_then(|maker| maker.delete.clone()) else {
            return Ok(());
        };
        self.call(&delete, &json!({ "name": name }))
            .map_err(|why| Stop::failed(format!("{delete} deletes {name}"), why))?;
        // The answer arrives when the bus has released the bdev. The guard removes the bdev from
        // its list in the same round.
        let is_there = || guard::bdevs().iter().any(|bdev| bdev.name == name);
        if until(|| !is_there()) { Ok(()) } else { failed("the bdev is destructed", "it is not") }
    }

    /// A channel on every thread.
    ///
    /// # Errors
    /// What failed.
    pub fn channels(&self, made: &Made) -> Result<Vec<Channel>, Stop> {
        self.lanes.iter().map(|lane| channel(made, *lane)).collect()
    }

    /// Creates the disk below, once.
    ///
    /// # Errors
    /// The bus's error.
    pub fn ensure_base(&mut self) -> Result<&'static Base, Stop> {
        if let Some(base) = self.base {
            return Ok(base);
        }
        self.bases_made += 1;
        let name = format!("check_base{}", self.bases_made);
        let base = Base::new(&name, BLOCK_SIZE, NUM_BLOCKS, self.settings.seed);
        let base = base.map_err(|why| Stop::failed("the suite can create its own disk", why))?;
        self.base = Some(base);
        Ok(base)
    }
}

/// Waits until `is_so` returns true. Returns false after the deadline.
pub fn until(mut is_so: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if is_so() {
            return true;
        }
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}

/// The channel of a disk on a thread.
///
/// # Errors
/// What failed.
pub fn channel(made: &Made, lane: Lane) -> Result<Channel, Stop> {
    made.disk.channel(lane).map_err(|why| Stop::failed("a channel is made", why))
}

/// Releases channels.
///
/// # Errors
/// What failed.
pub fn close_all(channels: Vec<Channel>) -> Verdict {
    for channel in channels {
        channel.close().map_err(|why| Stop::failed("a channel closes", why))?;
    }
    Ok(())
}

/// Runs I/O. All of it must complete in time.
///
/// # Errors
/// Some I/O did not complete.
pub fn run(channel: &Channel, ios: Vec<Io>, depth: usize) -> Result<Vec<Completed>, Stop> {
    let many = ios.len();
    let first = ios.first().map_or_else(String::new, describe);
    channel.run(ios, depth).map_err(|_| {
        let left = guard::at_module();
        Stop::failed(
            format!("{many} I/O (the first: {first}) complete within {} s", DEADLINE.as_secs()),
            format!("{left} are still at the module"),
        )
    })
}

/// Runs one I/O. It must complete with the status `wanted`.
///
/// # Errors
/// It did not complete, or it completed with another status.
pub fn expect(channel: &Channel, io: Io, what: &str, wanted: Wanted) -> Result<Completed, Stop> {
    let named = describe(&io);
    let mut all = run(channel, vec![io], 1)?;
    let Some(ended) = all.pop() else { return failed("one I/O completes once", "none completed") };
    match wanted.is(ended.status) {
        true => Ok(ended),
        false => failed(
            format!("{what}: {named} ends with {}", wanted.name()),
            format!("it ended with {}", status_name(ended.status)),
        ),
    }
}

/// A status with which an I/O must complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Exactly this status.
    Status(i32),
    /// Any status except success.
    Error,
}

impl Wanted {
    /// Success.
    pub const SUCCESS: Self = Self::Status(0);

    /// Whether `status` fits.
    #[must_use]
    pub fn is(self, status: i32) -> bool {
        match self {
            Self::Status(wanted) => status == wanted,
            Self::Error => status < 0,
        }
    }

    /// The expected status, as text for people.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Status(status) => status_name(status),
            Self::Error => "an error".to_owned(),
        }
    }
}

/// An I/O, as text for people.
#[must_use]
pub fn describe(io: &Io) -> String {
    format!("{} of {} blocks at lba {}", guard::op_name(io.op), io.nblocks, io.lba)
}
