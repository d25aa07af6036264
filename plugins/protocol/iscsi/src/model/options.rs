//! The options that `iscsi_set_options` sets.

use super::ChapPolicy;

/// The options; the defaults are the reference's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// File of CHAP secrets. Stored and shown, but not read.
    pub auth_file: Option<String>,
    /// Prefix of a target name that does not start with `iqn.`, `eui.` or `naa.`.
    pub node_base: String,
    /// Longest wait for the answer to a NOP-In, in seconds.
    pub nop_timeout: i32,
    /// Silence of a connection after which the target sends a NOP-In, in seconds; 0: never.
    pub nop_in_interval: i32,
    /// The CHAP requirements of discovery.
    pub discovery_chap: ChapPolicy,
    /// Maximum number of sessions.
    pub max_sessions: u32,
    /// Maximum number of commands of a session in progress.
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
    /// ErrorRecoveryLevel. Stored and shown; the target always negotiates 0.
    pub error_recovery_level: u32,
    /// Stored and shown, without effect: two sessions of one initiator port would share its reservations.
    pub allow_duplicated_isid: bool,
    /// Maximum number of buffers of read data that a connection has not sent yet.
    pub max_large_datain_per_connection: u32,
    /// MaxOutstandingR2T.
    pub max_r2t_per_connection: u32,
    /// Stored and shown, without effect: there is no pool.
    pub pdu_pool_size: u32,
    /// Stored and shown, without effect.
    pub immediate_data_pool_size: u32,
    /// Stored and shown, without effect.
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
    /// The full name of a target: the name itself if it is complete, else the node base, `:` and the name.
    #[must_use]
    pub fn target_name(&self, name: &str) -> String {
        let kind = name.split_once('.').map(|(kind, _)| kind.to_ascii_lowercase());
        let is_whole = matches!(kind.as_deref(), Some("iqn" | "eui" | "naa"));
        if is_whole { name.to_owned() } else { format!("{}:{name}", self.node_base) }
    }
}
