//! What `iscsi_set_options` sets.

use super::ChapPolicy;

/// The options; the defaults are the reference's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// A file of secrets; not read.
    pub auth_file: Option<String>,
    /// What comes before a target's name that is none by itself.
    pub node_base: String,
    /// Time-out of pings, in seconds.
    pub nop_timeout: i32,
    /// Silence after which a connection is pinged, in seconds; 0 = never.
    pub nop_in_interval: i32,
    /// What CHAP discovery needs.
    pub discovery_chap: ChapPolicy,
    /// Most sessions.
    pub max_sessions: u32,
    /// Most commands of a session under way.
    pub max_queue_depth: u32,
    /// MaxConnections.
    pub max_connections_per_session: u32,
    /// DefaultTime2Wait, in seconds.
    pub default_time2wait: u32,
    /// DefaultTime2Retain, in seconds.
    pub default_time2retain: u32,
    /// FirstBurstLength, in bytes.
    pub first_burst_length: u32,
    /// ImmediateData.
    pub immediate_data: bool,
    /// ErrorRecoveryLevel; 0 is what there is.
    pub error_recovery_level: u32,
    /// Kept and told, without effect: two sessions of one port would share its reservations.
    pub allow_duplicated_isid: bool,
    /// Buffers of reads of a connection that are not sent yet.
    pub max_large_datain_per_connection: u32,
    /// MaxOutstandingR2T.
    pub max_r2t_per_connection: u32,
    /// Without effect: there is no pool.
    pub pdu_pool_size: u32,
    /// Without effect.
    pub immediate_data_pool_size: u32,
    /// Without effect.
    pub data_out_pool_size: u32,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth_file: None,
            node_base: "iqn.2016-06.io.spdk".into(),
            nop_timeout: 60,
            nop_in_interval: 30,
            discovery_chap: ChapPolicy::default(),
            max_sessions: 128,
            max_queue_depth: 64,
            max_connections_per_session: 2,
            default_time2wait: 2,
            default_time2retain: 20,
            first_burst_length: 8192,
            immediate_data: true,
            error_recovery_level: 0,
            allow_duplicated_isid: false,
            max_large_datain_per_connection: 64,
            max_r2t_per_connection: 4,
            pdu_pool_size: 36_864,
            immediate_data_pool_size: 16_384,
            data_out_pool_size: 2048,
        }
    }
}

impl Options {
    /// The name of a target: itself if it is one, or behind the node base.
    #[must_use]
    pub fn target_name(&self, name: &str) -> String {
        let is_whole = ["iqn.", "eui.", "naa."].iter().any(|prefix| name.starts_with(prefix));
        if is_whole { name.to_owned() } else { format!("{}:{name}", self.node_base) }
    }
}
