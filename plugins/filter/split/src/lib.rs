//! `split`: one disk as several disks of equal size.
#![forbid(unsafe_code)]

use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use drivebay_sdk::bdev::{self, Claim, Event, Part};
use drivebay_sdk::notify::Config;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::{Call, Method, RpcError};
use drivebay_sdk::serde_json::{Map, Value, json};

#[cfg(test)]
mod tests;

plugin! {
    name: "split",
    kind: "filter",
    provides: [],
    requires: [],
    methods: ["bdev_split_create", "bdev_split_delete"],
    unsafe(threads_move),
    start: start,
}

params! {
    /// Parameters of `bdev_split_create`.
    pub struct Create {
        /// Name of the base bdev. If there is no such bdev yet, it is split when it appears.
        base_bdev: String,
        /// Number of parts. If the base has no room for all of them, fewer are created.
        #[range(1..=4294967295)]
        split_count: u32,
        /// Size of a part, in MiB. 0 = the size of the base divided by `split_count`.
        split_size_mb: u64 = 0,
    }

    /// Parameters of `bdev_split_delete`.
    pub struct Delete {
        /// Name of the base bdev.
        base_bdev: String,
    }
}

/// JSON-RPC 2.0, section 5.1. SPDK uses this code for every refusal.
const INVALID_PARAMS: i64 = -32602;

/// A base that is split, or will be when it exists.
struct Split {
    options: Create,
    /// Names of the parts on the bus.
    parts: Vec<String>,
}

/// The bases, in the order of the calls. `[app thread]`
static SPLITS: Mutex<Vec<Split>> = Mutex::new(Vec::new());

fn splits() -> MutexGuard<'static, Vec<Split>> {
    SPLITS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn start(app: &App) -> Result<()> {
    bdev::on_examine_config(app, |app, name| {
        if let Err(error) = divide(app, name) {
            warn!("{name} is not split: {error}");
        }
    });
    bdev::on_save_config(app, save);
    Method::new("bdev_split_create", "Splits a bdev into several bdevs of equal size.", create)
        .describe(|method| {
            method.result("Names of the parts. The array is empty if the base does not exist yet.")
        })
        .register(app)?;
    Method::new("bdev_split_delete", "Deletes the parts of a bdev.", delete)
        .describe(|method| method.result("true, once the parts are gone"))
        .register(app)
}

fn save(config: &mut Config<'_>) {
    splits().iter().for_each(|split| config.call("bdev_split_create", &split.options));
}

fn create(app: &App, call: Call, options: Create) {
    let (base, count) = (options.base_bdev.clone(), options.split_count);
    let refuse = |call: Call, why: &str| {
        let message = format!("Failed to create {count} split bdevs from '{base}': {why}");
        call.fail(RpcError::new(INVALID_PARAMS, "invalid_params", message));
    };
    if splits().iter().any(|split| split.options.base_bdev == base) {
        return refuse(call, "File exists");
    }
    splits().push(Split { options, parts: Vec::new() });
    match divide(app, &base) {
        Ok(parts) => call.reply(parts),
        Err(error) if error.errno() == errno::ENODEV => call.reply(Vec::<String>::new()),
        Err(error) => {
            splits().retain(|split| split.options.base_bdev != base);
            refuse(call, error.message());
        }
    }
}

/// Creates the parts of a base. Returns their names.
fn divide(app: &App, base: &str) -> Result<Vec<String>> {
    let found = splits().iter().find(|split| split.options.base_bdev == base).map(|split| {
        let Create { split_count, split_size_mb, .. } = split.options;
        (split_count, split_size_mb)
    });
    let Some((count, size_mb)) = found else { return Ok(Vec::new()) };
    let name = base.to_owned();
    let desc = bdev::open(app, base, true, move |app, event| follow(app, &name, event))?;
    desc.claim(app, Claim::ExclusiveWrite)?;
    let info = desc.info()?;
    let nblocks = part_len(&info, count, size_mb)?;
    let desc = Arc::new(desc);
    let most = u32::try_from(info.num_blocks() / nblocks).unwrap_or(u32::MAX);
    let mut names = Vec::new();
    for index in 0..count.min(most) {
        let offset = u64::from(index) * nblocks;
        let part = Part::new(format!("{base}p{index}"), &desc, Range::new(offset, nblocks));
        let made = part.and_then(|mut part| {
            let shown = json!({"base_bdev": base, "offset_blocks": offset});
            part.product = "Split Disk";
            part.driver_specific = Map::from_iter([("split".to_owned(), shown)]);
            bdev::register(app, part, "", Value::Null)
        });
        match made {
            Ok(name) => names.push(name),
            Err(error) => {
                unregister_parts(app, names, Rc::new(()));
                return Err(error);
            }
        }
    }
    if let Some(split) = splits().iter_mut().find(|split| split.options.base_bdev == base) {
        split.parts.clone_from(&names);
    }
    Ok(names)
}

/// Length of one part, in blocks.
fn part_len(info: &Info, count: u32, size_mb: u64) -> Result<u64> {
    let bytes = size_mb.checked_mul(1 << 20).filter(|len| len % u64::from(info.block_size()) == 0);
    let Some(bytes) = bytes else {
        let allowed = format!("a multiple of the block size, {} bytes", info.block_size());
        return Err(Error::invalid("split_size_mb", size_mb, allowed));
    };
    let nblocks = match bytes / u64::from(info.block_size()) {
        0 => info.num_blocks() / u64::from(count),
        nblocks => nblocks,
    };
    if nblocks == 0 || nblocks > info.num_blocks() {
        let allowed = format!("1 to {} blocks", info.num_blocks());
        return Err(Error::invalid("size of a part", format!("{nblocks} blocks"), allowed));
    }
    Ok(nblocks)
}

/// Follows an event of a base. When the base goes away, its parts go, too. They return with it.
fn follow(app: &App, base: &str, event: Event) {
    if event == Event::Remove {
        let mut all = splits();
        let split = all.iter_mut().find(|split| split.options.base_bdev == base);
        let parts = split.map(|split| std::mem::take(&mut split.parts)).unwrap_or_default();
        drop(all);
        unregister_parts(app, parts, Rc::new(()));
    }
}

/// Takes parts off the bus. `done` is dropped when they are gone.
fn unregister_parts<D: 'static>(app: &App, parts: Vec<String>, done: Rc<D>) {
    for part in parts.iter().filter_map(|name| bdev::find::<Part>(name).ok()) {
        let done = Rc::clone(&done);
        part.unregister(app, move |_, _| drop(done));
    }
}

fn delete(app: &App, call: Call, Delete { base_bdev }: Delete) {
    let mut all = splits();
    let Some(place) = all.iter().position(|split| split.options.base_bdev == base_bdev) else {
        let (code, why) = (INVALID_PARAMS, format!("bdev {base_bdev} is not split"));
        return call.fail(RpcError::new(code, "invalid_params", why));
    };
    let split = all.remove(place);
    drop(all);
    unregister_parts(app, split.parts, Rc::new(Answer(Some(call))));
}

/// Answers a call when it is dropped.
struct Answer(Option<Call>);

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(call) = self.0.take() {
            call.reply(true);
        }
    }
}
