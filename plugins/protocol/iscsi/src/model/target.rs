//! Target nodes.

use super::ChapPolicy;
use std::collections::BTreeMap;

/// A map: the initiator group may use the portal group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Map {
    /// Tag of the portal group.
    pub pg_tag: i32,
    /// Tag of the initiator group.
    pub ig_tag: i32,
}

/// A LUN of a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lun {
    /// Name of the bdev.
    pub bdev_name: String,
    /// File that keeps its persistent reservations through a restart.
    pub ptpl_file: Option<String>,
}

/// A target node.
#[derive(Clone, Debug)]
pub struct Target {
    /// Its iSCSI name.
    pub name: String,
    /// Alias for people.
    pub alias: String,
    /// Maps of portal groups and initiator groups. The first match decides.
    pub maps: Vec<Map>,
    /// LUNs by number.
    pub luns: BTreeMap<u16, Lun>,
    /// Maximum number of commands of a session in progress.
    pub queue_depth: u32,
    /// The CHAP requirements of a login.
    pub chap: ChapPolicy,
    /// The target requires header digests.
    pub header_digest: bool,
    /// The target requires data digests.
    pub data_digest: bool,
    /// Redirections (address, port) by the tag of the portal group through which an initiator logs in.
    pub redirects: BTreeMap<i32, (String, String)>,
    /// Its number, for `scsi_get_devices`.
    pub id: i32,
    /// The histogram of latencies is on (`iscsi_enable_histogram`).
    pub has_histogram: bool,
}

impl Target {
    /// Removes maps. A portal group without maps loses its redirection, too.
    pub fn retain_maps(&mut self, stays: impl Fn(&Map) -> bool) {
        self.maps.retain(stays);
        let Self { maps, redirects, .. } = self;
        redirects.retain(|pg_tag, _| maps.iter().any(|map| map.pg_tag == *pg_tag));
    }
}
