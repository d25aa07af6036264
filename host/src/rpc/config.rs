//! The socket of the RPC server and its limits.

use super::call::RoleTable;
use drivebay_spec_jsonrpc::FrameLimits;
use std::path::PathBuf;
use std::time::Duration;

/// The socket and its limits.
#[derive(Debug, Clone)]
pub struct Config {
    /// The path of the socket.
    pub path: PathBuf,
    /// The mode of the socket file. Default 0600.
    pub mode: u32,
    /// The roles of users and groups.
    pub roles: RoleTable,
    /// The maximum number of connections at a time. A new client replaces the client that has been
    /// idle longest. If none is idle, the new client waits in the backlog. The last place is
    /// reserved for administrators. Default 64.
    pub max_connections: usize,
    /// The longest and the deepest request. Default 256 KiB, 64 levels.
    pub request: FrameLimits,
    /// The longest answer, in bytes. Default 32 MiB.
    pub max_answer_bytes: usize,
    /// The maximum number of bytes of answers that one client has not read yet. A client above this
    /// limit is dropped. Default 64 MiB.
    pub max_queued_bytes: usize,
    /// The maximum number of unanswered calls of one client. Above this limit the server does not
    /// read from the client. A batch is always started as a whole. Default 64.
    pub max_outstanding: usize,
    /// How long a client may stop reading a waiting answer, or stop in the middle of a request.
    /// Default 60 s.
    pub stall_timeout: Duration,
}

impl Config {
    /// The default configuration for `path`.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            mode: 0o600,
            roles: RoleTable::default(),
            max_connections: 64,
            request: FrameLimits::default(),
            max_answer_bytes: 32 * 1024 * 1024,
            max_queued_bytes: 64 * 1024 * 1024,
            max_outstanding: 64,
            stall_timeout: Duration::from_secs(60),
        }
    }
}
