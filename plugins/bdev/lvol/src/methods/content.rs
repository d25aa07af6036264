//! Methods that report the content of a volume: xattrs, the map of its own clusters, checksums.

use super::{failed, method, store_failed};
use crate::source::Source;
use crate::stores;
use base64::Engine;
use drivebay_blobstore::Place;
use drivebay_sdk::prelude::*;
use drivebay_sdk::rpc::RpcError;
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// A checksum is read in pieces of this many bytes.
const PIECE_BYTES: u64 = 1 << 20;
/// Maximum number of clusters that one answer may cover. Their map has 1 MiB.
const FRAGMAP_CLUSTERS_MAX: u64 = 1 << 23;
/// A map lets other tasks run after this many clusters.
const TURN_CLUSTERS: u64 = 1 << 14;

params! {
    /// Parameters of `bdev_lvol_get_xattr`.
    pub struct GetXattr {
        /// UUID or alias of the volume.
        name: String,
        /// Name of the xattr.
        xattr_name: String,
    }

    /// Parameters of `bdev_lvol_set_xattr`.
    pub struct SetXattr {
        /// UUID or alias of the volume, which must not be read-only.
        name: String,
        /// Name of the xattr. `name` and `uuid` are reserved for the store.
        xattr_name: String,
        /// New value. If absent, the xattr is removed.
        xattr_value: Option<String>,
    }

    /// A part of a volume.
    pub struct Part {
        /// UUID or alias of the volume.
        name: String,
        /// Start of the part, in bytes.
        offset: u64 = 0,
        /// Length of the part, in bytes. 0 = to the end of the volume.
        size: u64 = 0,
    }
}

pub(super) fn register(app: &App) -> Result<()> {
    method(
        app,
        "bdev_lvol_get_xattr",
        "Returns the value of an xattr of a volume.",
        "Value of the xattr.",
        async |params: GetXattr| {
            let (store, info) = stores::find(&params.name)?;
            let value = store.store.xattr(info.id, &params.xattr_name).map_err(store_failed)?;
            let none = || Error::new(errno::ENOENT, format!("no xattr {}", params.xattr_name));
            let value = value.ok_or_else(|| failed(&none()))?;
            Ok(String::from_utf8_lossy(&value).trim_end_matches('\0').to_owned())
        },
    )?;
    method(
        app,
        "bdev_lvol_set_xattr",
        "Sets an xattr of a volume, or removes it.",
        "true",
        async |params: SetXattr| {
            let (store, info) = stores::find(&params.name)?;
            let value = params.xattr_value.map(String::into_bytes);
            let set = store.store.set_xattr(info.id, &params.xattr_name, value);
            set.await.map_err(store_failed).map(|()| true)
        },
    )?;
    method(
        app,
        "bdev_lvol_get_fragmap",
        "Returns which clusters a volume has allocated itself. Other clusters are its parent's or unallocated.",
        "A bit map in base64, with one bit for each cluster, starting at `offset`. The lowest bit of a byte comes first.",
        async |params: Part| fragmap(&params).await,
    )?;
    method(
        app,
        "bdev_lvol_get_snapshot_checksum",
        "Reads a part of a read-only volume and returns its SHA-256. Volumes with the same data have the same SHA-256.",
        "The checksum in hexadecimal digits, and the part that it covers.",
        async |params: Part| checksum(params).await.map_err(|error| failed(&error)),
    )
}

impl Part {
    /// Offset and length in bytes, both multiples of `unit`, in a volume of `volume_bytes`.
    fn range(&self, unit: u64, volume_bytes: u64) -> Result<(u64, u64)> {
        if !self.offset.is_multiple_of(unit) || self.offset > volume_bytes {
            let allowed = format!("multiples of {unit} up to {volume_bytes}");
            return Err(Error::invalid("offset", self.offset, allowed));
        }
        let left = volume_bytes - self.offset;
        if !self.size.is_multiple_of(unit) || self.size > left {
            let allowed = format!("multiples of {unit} up to {left}");
            return Err(Error::invalid("size", self.size, allowed));
        }
        Ok((self.offset, if self.size == 0 { left } else { self.size }))
    }
}

async fn fragmap(params: &Part) -> Result<Value, RpcError> {
    let (store, info) = stores::find(&params.name)?;
    let cluster = u64::from(store.store.super_block().cluster_size);
    let (offset, size) = params.range(cluster, u64::from(info.num_clusters) * cluster)?;
    let num_clusters = size / cluster;
    if num_clusters > FRAGMAP_CLUSTERS_MAX {
        let allowed = format!("up to {}", FRAGMAP_CLUSTERS_MAX * cluster);
        return Err(Error::invalid("size", size, allowed).into());
    }
    let first = u32::try_from(offset / cluster).unwrap_or(u32::MAX);
    let mut map = vec![0_u8; usize::try_from(num_clusters.div_ceil(8)).unwrap_or(0)];
    let mut num_allocated_clusters = 0;
    for (index, at) in (first..info.num_clusters).zip(0..num_clusters) {
        if at % TURN_CLUSTERS == TURN_CLUSTERS - 1 {
            task::yield_now().await;
        }
        let byte = usize::try_from(at / 8).ok().and_then(|byte| map.get_mut(byte));
        if let (Place::Own(_), Some(byte)) = (store.store.place(info.id, index), byte) {
            *byte |= 1 << (at % 8);
            num_allocated_clusters += 1;
        }
    }
    Ok(json!({
        "cluster_size": cluster,
        "num_clusters": num_clusters,
        "num_allocated_clusters": num_allocated_clusters,
        "fragmap": base64::engine::general_purpose::STANDARD.encode(&map),
    }))
}

async fn checksum(params: Part) -> Result<Value> {
    let (store, info) = stores::find(&params.name)?;
    let block = store.store.super_block();
    let volume_bytes = u64::from(info.num_clusters) * u64::from(block.cluster_size);
    let (offset, size) = params.range(block.io_unit_size.into(), volume_bytes)?;
    let source = Source::open(store, info, "checksum")?;
    let held = source.store.store.begin(source.info.id, "checksum");
    let _held = held.map_err(stores::error)?;
    let mut hash = Sha256::new();
    let mut done = 0;
    while done < size {
        let now = (size - done).min(PIECE_BYTES);
        let data = source.read(offset + done, now).await?.to_vec();
        hash = worker::run("lvol checksum", move || hash.chain_update(data)).await?;
        done += now;
    }
    let digits: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(json!({ "algorithm": "sha256", "checksum": digits, "offset": offset, "size": size }))
}
