//! Target nodes.

use super::ChapPolicy;
use std::collections::BTreeMap;

/// Who may come by where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// The portal group.
    pub pg_tag: i32,
    /// The initiator group.
    pub ig_tag: i32,
}

/// A unit of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lun {
    /// Its bdev.
    pub bdev_name: String,
    /// File that keeps its reservations through a loss of power.
    pub ptpl_file: Option<String>,
}

/// A target node.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its iSCSI name.
    pub name: String,
    /// What people call it.
    pub alias: String,
    /// Who may come by where, in order.
    pub maps: Vec<Map>,
    /// Its units.
    pub luns: BTreeMap<u16, Lun>,
    /// Most commands of a session under way.
    pub queue_depth: u32,
    /// What CHAP a login needs.
    pub chap: ChapPolicy,
    /// Header digests are required.
    pub header_digest: bool,
    /// Data digests are required.
    pub data_digest: bool,
    /// Where initiators that come by a portal group are sent to instead.
    pub redirects: BTreeMap<i32, (String, String)>,
    /// Its number, for `scsi_get_devices`.
    pub id: i32,
    /// Latencies are counted (`iscsi_enable_histogram`).
    pub has_histogram: bool,
}
