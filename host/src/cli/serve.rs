//! `drivebay serve`.

use super::environment::Environment;
use super::ignored::Ignored;
use super::sandbox::Sandbox;
use clap::Args;
use std::path::PathBuf;

/// The flags of `drivebay serve`: SPDK's application flags with the same meaning, and Drivebay's
/// own.
#[derive(Args, Clone, Debug)]
#[command(
    version,
    disable_version_flag = true,
    after_help = "\
Without -c and --state the host starts empty. SPDK's other application flags are accepted without effect.
exit code: 0 ended by SIGTERM or SIGINT, 1 could not start or did not stop cleanly, 2 usage"
)]
pub struct Serve {
    /// RPC socket [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH", value_parser = socket)]
    pub rpc_socket: Option<PathBuf>,
    /// Open no RPC socket
    #[arg(long)]
    pub no_rpc_server: bool,
    /// Folder for the sockets of vhost controllers [default: $DRIVEBAY_SOCKET_DIR, else the current one]
    #[arg(short = 'S', long, value_name = "DIR")]
    pub socket_dir: Option<PathBuf>,
    /// Comma-separated list of the only methods that may be called
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    pub rpcs_allowed: Option<Vec<String>>,
    /// Until framework_start_init, accept only methods that set options
    #[arg(long, conflicts_with = "no_rpc_server")]
    pub wait_for_rpc: bool,
    /// Configuration to start with, as save_config prints it
    #[arg(short = 'c', long, visible_alias = "json", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Start despite errors in the configuration, with a warning for each
    #[arg(long)]
    pub json_ignore_init_errors: bool,
    /// Keep the configuration in FILE: loaded at start, saved after every change
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Plugins, cores and memory.
    #[command(flatten)]
    pub environment: Environment,
    /// The rights that the host gives up.
    #[command(flatten)]
    pub sandbox: Sandbox,
    /// Write all log lines of a component or plugin, or of all; may be given several times
    #[arg(short = 'L', long, value_name = "FLAG")]
    pub logflag: Vec<String>,
    /// Write the log to FILE; SIGHUP reopens it [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Write no log lines below WARNING
    #[arg(long)]
    pub silence_noticelog: bool,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Flags that are accepted without effect.
    #[command(flatten)]
    pub ignored: Ignored,
}

/// Parses the path of a Unix socket. SPDK also listens at HOST:PORT, but TCP has no peer
/// credentials: anybody who reaches the port could call every method.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    let port = text.rsplit_once(':').map(|(_, port)| port);
    if !text.contains('/') && port.is_some_and(|port| port.parse::<u16>().is_ok()) {
        return Err(format!(
            "the socket is a Unix socket, because TCP does not identify the caller; allowed: a path, such as ./{text}"
        ));
    }
    Ok(text.into())
}

impl Serve {
    /// The options of a host without a socket that logs only warnings and errors, for a command
    /// that needs disks.
    #[must_use]
    pub fn unreachable() -> Self {
        Self {
            rpc_socket: None,
            no_rpc_server: true,
            socket_dir: None,
            rpcs_allowed: None,
            wait_for_rpc: false,
            config: None,
            json_ignore_init_errors: false,
            state: None,
            environment: Environment::default(),
            sandbox: Sandbox::default(),
            logflag: Vec::new(),
            log_file: None,
            silence_noticelog: true,
            version: None,
            ignored: Ignored::default(),
        }
    }
}
