//! `gpt`: the partitions of a GUID partition table as disks. It examines every new disk, and has no methods.
#![forbid(unsafe_code)]

use std::sync::{Arc, Mutex, PoisonError};

use drivebay_sdk::bdev::{self, Claim, Event, Examine, Part};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::io::BlockIo;
use drivebay_sdk::runtime::task;
use drivebay_sdk::serde_json::{Map, Value, json};

mod table;
#[cfg(test)]
mod tests;

use table::{Header, Partition, Table};

plugin! {
    name: "gpt",
    kind: "filter",
    provides: [],
    requires: [],
    methods: [],
    unsafe(threads_move),
    start: start,
}

/// Partitions on the bus: the base's name and the partition's own. `[app thread]`
static PARTS: Mutex<Vec<(String, String)>> = Mutex::new(Vec::new());

fn start(app: &App) -> Result<()> {
    bdev::on_examine(app, |app, examine| {
        let name = examine.name().to_owned();
        let look = async move |app: &App| {
            if let Err(error) = look_at(app, &examine).await {
                debug!("{}: {error}", examine.name());
            }
        };
        match task::spawn_app(app, format!("examine {name}"), look) {
            Ok(task) => task.detach(),
            Err(error) => warn!("{name} could not be examined: {error}"),
        }
    });
    Ok(())
}

/// Creates a disk for each partition of one of the two types that become disks.
async fn look_at(app: &App, examine: &Examine) -> Result<()> {
    let base = examine.name().to_owned();
    let to_read = Arc::new(bdev::open(app, &base, false, |_, _| {})?);
    let Some(table) = read_table(&base, &to_read).await? else { return Ok(()) };
    drop(to_read);
    let ours: Vec<&Partition> = table.partitions.iter().filter(|found| found.is_ours()).collect();
    if ours.is_empty() {
        return Ok(());
    }
    let follow = base.clone();
    let desc = bdev::open(app, &base, true, move |app, event| {
        if event == Event::Remove {
            unregister_parts_of(app, &follow);
        }
    })?;
    desc.claim(app, Claim::ExclusiveWrite)?;
    let desc = Arc::new(desc);
    for partition in ours {
        let name = format!("{base}p{}", partition.number);
        match register(app, name.clone(), &base, &desc, &table, partition) {
            Ok(_) => {
                PARTS.lock().unwrap_or_else(PoisonError::into_inner).push((base.clone(), name))
            }
            Err(error) => warn!("{name} could not be created: {error}"),
        }
    }
    Ok(())
}

fn register(
    app: &App,
    name: String,
    base: &str,
    desc: &Arc<bdev::Desc>,
    table: &Table,
    partition: &Partition,
) -> Result<String> {
    let mut part = Part::new(name, desc, partition.blocks())?;
    part.product = "GPT Disk";
    part.uuid = partition.unique.bytes();
    let shown = json!({
        "base_bdev": base,
        "offset_blocks": partition.first,
        "partition_table_guid": table.disk.to_string(),
        "partition_type_guid": partition.kind.to_string(),
        "unique_partition_guid": partition.unique.to_string(),
        "partition_name": partition.name,
    });
    part.driver_specific = Map::from_iter([("gpt".to_owned(), shown)]);
    bdev::register(app, part, "", Value::Null)
}

/// The primary partition table, or the backup if the primary is broken. `None` if the disk has no such table.
async fn read_table(base: &str, desc: &Arc<bdev::Desc>) -> Result<Option<Table>> {
    let info = desc.info()?;
    let (size, num_blocks) = (u64::from(info.block_size()), info.num_blocks());
    if !size.is_multiple_of(512) || num_blocks < 2 {
        return Ok(None);
    }
    let disk = BlockIo::new(desc)?;
    let first = disk.read(Range::new(0, 2)).await?;
    let (mbr, header) = first.split_at(info.block_size() as usize);
    if !table::has_protective_mbr(mbr, num_blocks) {
        return Ok(None);
    }
    let why = match read_entries(&disk, Header::parse(header, 1, num_blocks), size).await {
        Ok(table) => return Ok(Some(table)),
        Err(why) => why,
    };
    let last = num_blocks - 1;
    let backup = disk.read(Range::new(last, 1)).await?;
    let table = read_entries(&disk, Header::parse(&backup, last, num_blocks), size).await?;
    warn!("{base}: the primary partition table is broken ({why}); the backup is used");
    Ok(Some(table))
}

async fn read_entries(disk: &BlockIo, header: Result<Header>, block_size: u64) -> Result<Table> {
    let header = header?;
    let nblocks = header.entries_len().div_ceil(block_size);
    let entries = disk.read(Range::new(header.entries_lba, nblocks)).await?;
    header.table(&entries)
}

/// Removes the partitions of a base that is being removed.
fn unregister_parts_of(app: &App, base: &str) {
    let mut all = PARTS.lock().unwrap_or_else(PoisonError::into_inner);
    let (gone, rest) =
        std::mem::take(&mut *all).into_iter().partition::<Vec<_>, _>(|(of, _)| of == base);
    *all = rest;
    drop(all);
    for part in gone.iter().filter_map(|(_, name)| bdev::find::<Part>(name).ok()) {
        part.unregister(app, |_, _| {});
    }
}
