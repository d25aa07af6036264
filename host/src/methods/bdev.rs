//! `bdev_get_bdevs` and examination.

use super::entry::{Entry, on_app, on_app_later};
use crate::rpc::Responder;
use crate::slices::{self, PER_MESSAGE};
use drivebay_core::bdev::{self, Bdev, examine};
use drivebay_core::reactor::thread;
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, params};
use serde_json::{Value, json};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

params! {
    /// Parameters of `bdev_get_bdevs`.
    pub(crate) struct GetBdevs {
        /// Name, alias or UUID of one bdev. If absent, the answer lists all bdevs.
        name: Option<String>,
        /// Maximum time to wait for the bdev to appear, in milliseconds.
        timeout: u64 = 0,
    }
    /// Parameters of `bdev_examine`.
    pub(crate) struct Examine {
        /// Name of the bdev.
        name: String,
    }
}

/// The types of I/O that SPDK lists.
const IO_TYPES: [&str; 19] = [
    "read",
    "write",
    "unmap",
    "flush",
    "reset",
    "nvme_admin",
    "nvme_io",
    "nvme_io_md",
    "write_zeroes",
    "zcopy",
    "get_zone_info",
    "zone_management",
    "zone_append",
    "compare",
    "compare_and_write",
    "abort",
    "seek_hole",
    "seek_data",
    "copy",
];

pub(super) fn entries() -> Vec<Entry> {
    vec![
        (
            Method::new::<GetBdevs>("bdev_get_bdevs", Role::Read, "Describes all bdevs, or one.")
                .result("Array of objects, one for each bdev.")
                .error(i64::from(-libc::ENODEV), "no_such_device", "No bdev has this name."),
            on_app_later(get_bdevs),
        ),
        (
            Method::new::<Examine>(
                "bdev_examine",
                Role::Operate,
                "Asks all modules to examine a bdev.",
            )
            .result("True.")
            .returns::<bool>()
            .error(
                i64::from(-libc::ENODEV),
                "no_such_device",
                "No bdev has this name.",
            ),
            on_app(|Examine { name }| match examine::examine(&name) {
                Ok(()) => Ok(true),
                Err(_) => Err(RpcError::no_such_device(&name)),
            }),
        ),
        (
            Method::new::<NoParams>(
                "bdev_wait_for_examine",
                Role::Read,
                "Waits until all modules have examined all bdevs.",
            )
            .result("True.")
            .returns::<bool>(),
            on_app_later(|NoParams {}, responder| examine::wait(move || responder.ok(&true))),
        ),
    ]
}

fn get_bdevs(GetBdevs { name, timeout }: GetBdevs, responder: Responder) {
    let Some(name) = name else { return list(bdev::all(), responder) };
    match bdev::find(&name) {
        Some(bdev) => responder.ok(&[row(&bdev)]),
        None if timeout == 0 => responder.error(RpcError::no_such_device(&name)),
        None => wait_for(Wait { deadline: deadline(timeout), name, responder }),
    }
}

/// Answers with the rows of all `bdevs`. App thread.
fn list(bdevs: Vec<Arc<Bdev>>, responder: Responder) {
    let add = |rows: &mut Vec<Value>, bdev: Arc<Bdev>| rows.push(row(&bdev));
    slices::fold(bdevs, PER_MESSAGE, Vec::new(), add, move |rows| responder.ok_long(rows));
}

/// A call that waits for a bdev.
#[derive(Debug)]
struct Wait {
    name: String,
    deadline: Instant,
    responder: Responder,
}

/// The calls that wait. The RPC server's limits bound their number.
static WAITS: Mutex<Vec<Wait>> = Mutex::new(Vec::new());
static WAKE: Condvar = Condvar::new();

fn waits() -> MutexGuard<'static, Vec<Wait>> {
    WAITS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A bdev was added or removed: checks the calls that wait for one. Any thread.
pub fn appeared() {
    // Locks the list, so that the change does not fall between a check and a sleep.
    if !waits().is_empty() {
        WAKE.notify_all();
    }
}

fn deadline(timeout_ms: u64) -> Instant {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    Instant::now() + Duration::from_millis(timeout_ms).min(LONGEST)
}

/// Gives a call to the thread that waits for all such calls. The first call starts the thread.
fn wait_for(wait: Wait) {
    static THREAD: Once = Once::new();
    THREAD.call_once(|| {
        let thread = std::thread::Builder::new().name("bdev_wait".into());
        if let Err(error) = thread.spawn(wait_forever) {
            tracing::error!("cannot start the thread for calls that wait for bdevs, so they will not be answered: {error}");
        }
    });
    waits().push(wait);
    WAKE.notify_all();
}

fn wait_forever() {
    let mut waiting = waits();
    loop {
        let now = Instant::now();
        let is_over = |wait: &Wait| wait.deadline <= now || bdev::find(&wait.name).is_some();
        let (ended, rest) =
            std::mem::take(&mut *waiting).into_iter().partition::<Vec<_>, _>(is_over);
        *waiting = rest;
        if !ended.is_empty() {
            drop(waiting);
            // Rows are made on the app thread.
            ended.into_iter().for_each(|Wait { name, responder, .. }| {
                let call = GetBdevs { name: Some(name), timeout: 0 };
                thread::send_app(move || get_bdevs(call, responder));
            });
            waiting = waits();
            continue;
        }
        let next = waiting.iter().map(|wait| wait.deadline).min();
        waiting = match next {
            Some(next) => {
                let (waiting, _) = WAKE
                    .wait_timeout(waiting, next.saturating_duration_since(now))
                    .unwrap_or_else(PoisonError::into_inner);
                waiting
            }
            None => WAKE.wait(waiting).unwrap_or_else(PoisonError::into_inner),
        };
    }
}

/// One bdev, in SPDK's format. App thread.
fn row(bdev: &Bdev) -> Value {
    let record = &bdev.record;
    let mut io_types: serde_json::Map<String, Value> =
        IO_TYPES.into_iter().map(|name| (name.to_owned(), false.into())).collect();
    for (name, has) in bdev.io_types() {
        // SPDK has no name for some ops. They are listed when the bdev supports them.
        if has || io_types.contains_key(name) {
            io_types.insert(name.to_owned(), has.into());
        }
    }
    let mut row = json!({
        "name": bdev.name,
        "aliases": aliases(bdev),
        "product_name": bdev.product,
        "block_size": record.block_size,
        "num_blocks": bdev.num_blocks(),
        "uuid": bdev.uuid_text(),
        "assigned_rate_limits": {
            "rw_ios_per_sec": 0,
            "rw_mbytes_per_sec": 0,
            "r_mbytes_per_sec": 0,
            "w_mbytes_per_sec": 0,
        },
        "claimed": bdev.claim().is_some(),
        "zoned": record.zone_size > 0,
        "supported_io_types": io_types,
        "memory_domains": [],
        "driver_specific": json_of(&bdev.name, bdev.dump_info()),
    });
    let Some(members) = row.as_object_mut() else { return row };
    let mut add = |name: &str, value: Value| members.insert(name.to_owned(), value);
    if let Some(claim) = bdev.claim() {
        add("claim_type", claim.into());
    }
    if record.numa >= 0 {
        add("numa_id", record.numa.into());
    }
    if record.zone_size > 0 {
        add("zone_size", record.zone_size.into());
        add("max_open_zones", record.max_open_zones.into());
        add("optimal_open_zones", record.optimal_open_zones.into());
    }
    if record.md_size > 0 {
        add("md_size", record.md_size.into());
        add("md_interleave", (record.md_interleave != 0).into());
        add("dif_type", record.dif_type.into());
        if record.dif_type > 0 {
            add("dif_is_head_of_md", (record.dif_is_head != 0).into());
            add("dif_pi_format", record.dif_pi_format.into());
        }
    }
    row
}

/// The other names of a bdev. As in SPDK, the UUID is one of them unless it is the name.
fn aliases(bdev: &Bdev) -> Vec<String> {
    let mut aliases = bdev.aliases();
    let uuid = bdev.uuid_text();
    if bdev.name != uuid && !aliases.contains(&uuid) {
        aliases.push(uuid);
    }
    aliases
}

/// The text that a module wrote about its bdev; an empty object when it wrote none or invalid JSON.
pub(super) fn json_of(bdev: &str, text: Option<String>) -> Value {
    let Some(text) = text else { return json!({}) };
    serde_json::from_str(&text).unwrap_or_else(|error| {
        tracing::error!(bdev, "its module wrote invalid JSON about it: {error}");
        json!({})
    })
}
