//! A random stack: disks, filters over them, and what clients open.

use crate::abi::{client, host, open, size, zeroed};
use crate::disk::{Disk, MOST_BLOCKS, Traits};
use crate::filter::{Filter, Kind};
use crate::model::Model;
use crate::rng::Rng;
use crate::sim::sim;
use drivebay_plugin_api::*;
use std::cell::{Cell, RefCell};
use std::ffi::c_void;
use std::rc::Rc;

/// A bdev of the stack.
#[derive(Clone)]
pub(crate) enum Node {
    Disk(Rc<Disk>),
    /// A filter, and the places of its bases in the stack.
    Filter(Rc<Filter>, Rc<[usize]>),
}

/// A bdev that clients open.
pub(crate) struct Top {
    pub(crate) name: String,
    node: usize,
    pub(crate) model: Model,
    pub(crate) block_size: u32,
    pub(crate) write_unit: u32,
    pub(crate) ops: u64,
    pub(crate) removed: Cell<bool>,
    /// Whether disks below fail I/O or channel creation.
    pub(crate) errors: bool,
    pub(crate) chan_fails: bool,
}

/// A bdev that may become the base of another.
#[derive(Clone)]
struct Under {
    node: usize,
    info: bay_bdev_info,
    errors: bool,
    chan_fails: bool,
}

impl Node {
    pub(crate) fn name(&self) -> &str {
        match self {
            Self::Disk(disk) => &disk.name,
            Self::Filter(filter, _) => &filter.name,
        }
    }

    pub(crate) fn id(&self) -> u64 {
        match self {
            Self::Disk(disk) => disk.id.get(),
            Self::Filter(filter, _) => filter.id.get(),
        }
    }

    pub(crate) fn quiesced(&self) -> &RefCell<Vec<(u64, u64)>> {
        match self {
            Self::Disk(disk) => &disk.quiesced,
            Self::Filter(filter, _) => &filter.quiesced,
        }
    }

    pub(crate) fn destructed(&self) -> bool {
        match self {
            Self::Disk(disk) => disk.destructed.get(),
            Self::Filter(filter, _) => filter.destructed.get(),
        }
    }

    pub(crate) fn state(&self) -> String {
        match self {
            Self::Disk(disk) => disk.state(),
            Self::Filter(filter, _) => format!("{}: {:?}", filter.name, filter.kind),
        }
    }

    pub(crate) fn work(&self, threads: &mut Vec<u64>) {
        match self {
            Self::Disk(disk) => disk.work(threads),
            Self::Filter(filter, _) => filter.work(threads),
        }
    }

    pub(crate) fn act(&self) {
        match self {
            Self::Disk(disk) => disk.act(),
            Self::Filter(filter, _) => filter.act(),
        }
    }
}

impl Top {
    /// The content of a block after a power cut.
    pub(crate) fn stable(&self, mut lba: u64, bytes: &mut [u8]) {
        let nodes = sim().nodes.borrow();
        let mut node = self.node;
        loop {
            match &nodes[node] {
                Node::Disk(disk) => return disk.stable(lba, bytes),
                Node::Filter(filter, bases) => {
                    let (base, below) = filter.place(lba);
                    (node, lba) = (bases[base], below);
                }
            }
        }
    }
}

unsafe extern "C" fn on_event(arg: *mut c_void, event: u32, value: u64) {
    // SAFETY: `arg` is the bdev of `open_top`. The simulation keeps it until its descriptors are closed.
    let top = unsafe { &*arg.cast::<Top>() };
    if event == BAY_EVENT_REMOVE {
        top.removed.set(true);
    } else if event == BAY_EVENT_RESIZE {
        top.model.grow(value.max(top.model.len()));
    }
}

/// Builds the stack of a life. App thread.
pub(crate) fn build() {
    let (sim, rng) = (sim(), &sim().rng);
    let block_size = rng.pick(&[8, 16, 16, 32, 64, 512]);
    let unit = rng.pick(&[1, 1, 1, 2, 4]);
    let mut under: Vec<Under> = Vec::new();
    for number in 0..rng.within(1, 3) {
        let traits = disk_traits(rng);
        let name = format!("disk{number}");
        let disk = Disk::register(name.clone(), disk_record(rng, block_size, unit), traits);
        let (errors, chan_fails) = (traits.io_error > 0, traits.chan_fails > 0);
        under.push(place(Node::Disk(disk), &name, errors, chan_fails));
    }
    for number in 0..rng.below(4) {
        let first = under.swap_remove(rng.index(under.len()));
        let name = format!("filter{number}");
        match rng.below(4) {
            0 => under.push(filter(name, Kind::Pass, &[&first])),
            1 => under.push(filter(name, Kind::Later, &[&first])),
            2 if !under.is_empty() => {
                let second = under.swap_remove(rng.index(under.len()));
                let chunk = u64::from(unit) * rng.pick(&[1, 2]);
                under.push(filter(name, Kind::Stripe(chunk), &[&first, &second]));
            }
            _ => {
                let half = first.info.num_blocks / 2 / u64::from(unit) * u64::from(unit);
                if half < 8 {
                    under.push(first);
                    continue;
                }
                under.push(filter(format!("{name}a"), Kind::Slice(0), &[&first]));
                under.push(filter(format!("{name}b"), Kind::Slice(half), &[&first]));
            }
        }
    }
    for under in &under {
        let top = Rc::new(Top {
            name: sim.nodes.borrow()[under.node].name().to_owned(),
            node: under.node,
            model: Model::new(under.info.num_blocks, block_size),
            block_size,
            write_unit: under.info.write_unit.max(1),
            ops: under.info.ops_mask,
            removed: Cell::new(false),
            errors: under.errors,
            chan_fails: under.chan_fails,
        });
        sim.tops.borrow_mut().push(top);
    }
}

/// Opens a client's descriptor of a bdev. App thread.
pub(crate) fn open_top(top: &Top) -> Result<u64, i32> {
    open(&top.name, on_event, (&raw const *top).cast_mut().cast())
}

fn place(node: Node, name: &str, errors: bool, chan_fails: bool) -> Under {
    let mut nodes = sim().nodes.borrow_mut();
    nodes.push(node);
    Under { node: nodes.len() - 1, info: info(name), errors, chan_fails }
}

fn info(name: &str) -> bay_bdev_info {
    unsafe extern "C" fn nothing(_arg: *mut c_void, _event: u32, _value: u64) {}
    let desc = open(name, nothing, std::ptr::null_mut()).unwrap();
    let mut info: bay_bdev_info = zeroed();
    info.size = size::<bay_bdev_info>();
    // SAFETY: `info` is writable during the call and has the size that it says.
    let status = unsafe { client().info.unwrap()(host(), desc, &raw mut info) };
    assert_eq!(status, 0, "info");
    crate::abi::close(desc);
    info
}

fn disk_traits(rng: &Rng) -> Traits {
    let weights = &sim().weights;
    let some = |rng: &Rng, percent| if rng.chance(weights.faulty) { percent } else { 0 };
    Traits {
        inline: rng.pick(&[0, 30, 70, 100]),
        no_memory: some(rng, rng.within(1, 20)),
        requeue: some(rng, rng.within(1, 5)),
        io_error: some(rng, rng.within(1, 5)),
        depth: rng.pick(&[0, 0, 1, 2, 8]),
        latency_ns: rng.pick(&[0, 0, 5_000, 50_000, weights.slowest_ns]),
        kick: rng.pick(&[0, 30, 100]),
        doorbell: rng.chance(30),
        chan_later: some(rng, 50),
        chan_fails: some(rng, 20),
        destruct_later: rng.chance(50),
    }
}

fn limits(rng: &Rng, reg: &mut bay_bdev_reg) {
    let unit = reg.write_unit.max(1);
    let bytes = unit * reg.block_size;
    let rarely = |value: u32| if rng.chance(25) { value } else { 0 };
    reg.align = rng.pick(&[0, 0, 1, 8, 64, 512, 4096]);
    reg.optimal_boundary = rarely(unit * rng.pick(&[1, 2, 4, 8]));
    reg.max_segments = rarely(rng.pick(&[1, 2, 4]));
    reg.max_segment_size = rarely(bytes * rng.pick(&[1, 2, 16]) + rng.pick(&[0, 3]));
    reg.max_io_blocks = rarely(unit + rng.below(16) as u32);
    reg.max_unmap = rarely(unit + rng.below(16) as u32);
    reg.max_write_zeroes = rarely(unit + rng.below(16) as u32);
    reg.write_unit = unit;
}

fn disk_record(rng: &Rng, block_size: u32, unit: u32) -> bay_bdev_reg {
    let mut reg: bay_bdev_reg = zeroed();
    reg.block_size = block_size;
    reg.num_blocks = rng.within(4, 16) * 4 * rng.pick(&[1, 2]);
    assert!(reg.num_blocks <= MOST_BLOCKS);
    reg.write_unit = unit;
    limits(rng, &mut reg);
    reg.numa = -1;
    reg.drv_ctx_size = rng.pick(&[0, 8, 64, 200]);
    let mut ops = 1 << BAY_OP_READ | 1 << BAY_OP_WRITE;
    for op in [BAY_OP_UNMAP, BAY_OP_WRITE_ZEROES, BAY_OP_COMPARE, BAY_OP_RESET, BAY_OP_ABORT] {
        ops |= u64::from(rng.chance(50)) << op;
    }
    if rng.chance(50) {
        reg.flags |= BAY_BDEV_WRITE_CACHE;
        ops |= 1 << BAY_OP_FLUSH;
    }
    if rng.chance(50) {
        reg.must_flags = BAY_IO_FUA;
    }
    reg.ops_mask = ops;
    reg
}

fn filter(name: String, kind: Kind, bases: &[&Under]) -> Under {
    let rng = &sim().rng;
    let first = &bases[0].info;
    let blocks = bases.iter().map(|base| base.info.num_blocks).min().unwrap();
    let unit = u64::from(first.write_unit.max(1));
    let mut reg: bay_bdev_reg = zeroed();
    reg.block_size = first.block_size;
    reg.write_unit = first.write_unit;
    limits(rng, &mut reg);
    reg.numa = -1;
    let mut optional = 1 << BAY_OP_COMPARE | 1 << BAY_OP_WRITE_ZEROES | 1 << BAY_OP_UNMAP;
    if rng.chance(50) {
        optional &= rng.next();
    }
    let everywhere = bases.iter().fold(u64::MAX, |ops, base| ops & base.info.ops_mask);
    let required = 1 << BAY_OP_READ | 1 << BAY_OP_WRITE | 1 << BAY_OP_FLUSH | 1 << BAY_OP_RESET;
    reg.ops_mask = everywhere & (required | optional);
    reg.flags = bases.iter().fold(0, |flags, base| flags | base.info.flags) & BAY_BDEV_WRITE_CACHE;
    reg.must_flags = if rng.chance(50) { BAY_IO_FUA } else { 0 };
    reg.num_blocks = match kind {
        Kind::Pass | Kind::Later => blocks,
        Kind::Slice(_) => blocks / 2 / unit * unit,
        Kind::Stripe(chunk) => {
            reg.optimal_boundary = chunk as u32;
            reg.max_unmap = unit as u32;
            reg.max_write_zeroes = unit as u32;
            (blocks / chunk * chunk * 2).min(MOST_BLOCKS / chunk * chunk)
        }
    };
    let names: Vec<String> = {
        let nodes = sim().nodes.borrow();
        bases.iter().map(|base| nodes[base.node].name().to_owned()).collect()
    };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let made = Filter::register(name.clone(), kind, reg, &names);
    let node = Node::Filter(made, bases.iter().map(|base| base.node).collect());
    let errors = bases.iter().any(|base| base.errors);
    let chan_fails = bases.iter().any(|base| base.chan_fails);
    place(node, &name, errors, chan_fails)
}
