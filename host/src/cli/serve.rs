//! `drivebay serve`.

use super::environment::Environment;
use super::ignored::Ignored;
use super::sandbox::Sandbox;
use clap::Args;
use std::path::PathBuf;

/// Flags of `drivebay serve`: the reference's application flags with their meaning, and own ones.
#[derive(Args, Clone, Debug)]
#[command(
    version,
    disable_version_flag = true,
    after_help = "\
Without -c and --state the host starts empty. SPDK's other application flags are accepted and do nothing.
exit code: 0 ended by SIGTERM or SIGINT, 1 could not start or not end in order, 2 usage"
)]
pub struct Serve {
    /// RPC socket [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH", value_parser = socket)]
    pub rpc_socket: Option<PathBuf>,
    /// Have no RPC socket
    #[arg(long)]
    pub no_rpc_server: bool,
    /// Folder for the sockets of vhost controllers [default: $DRIVEBAY_SOCKET_DIR, else the current one]
    #[arg(short = 'S', long, value_name = "DIR")]
    pub socket_dir: Option<PathBuf>,
    /// Comma-separated list of the only methods that may be called
    #[arg(long, value_name = "METHODS", value_delimiter = ',')]
    pub rpcs_allowed: Option<Vec<String>>,
    /// Wait for framework_start_init before anything but options can be set
    #[arg(long, conflicts_with = "no_rpc_server")]
    pub wait_for_rpc: bool,
    /// Configuration to start with, as save_config prints it
    #[arg(short = 'c', long, visible_alias = "json", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Start in spite of errors in the configuration, with a warning for each
    #[arg(long)]
    pub json_ignore_init_errors: bool,
    /// Keep the configuration in FILE: loaded at start, saved after every change
    #[arg(long, value_name = "FILE")]
    pub state: Option<PathBuf>,
    /// Plugins, cores and memory.
    #[command(flatten)]
    pub environment: Environment,
    /// What it gives up.
    #[command(flatten)]
    pub sandbox: Sandbox,
    /// Write all log lines of a component or plugin, or of all; may be given several times
    #[arg(short = 'L', long, value_name = "FLAG")]
    pub logflag: Vec<String>,
    /// Write the log to FILE; SIGHUP opens it anew [default: standard error]
    #[arg(long, value_name = "FILE")]
    pub log_file: Option<PathBuf>,
    /// Write no log lines below WARNING
    #[arg(long)]
    pub silence_noticelog: bool,
    /// Print the version
    #[arg(short = 'v', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// What is taken for the sake of scripts.
    #[command(flatten)]
    pub ignored: Ignored,
}

/// The path of a Unix socket. SPDK also listens at HOST:PORT, which has no peer credentials: whoever
/// reaches the port could do everything.
pub(super) fn socket(text: &str) -> Result<PathBuf, String> {
    let port = text.rsplit_once(':').map(|(_, port)| port);
    if !text.contains('/') && port.is_some_and(|port| port.parse::<u16>().is_ok()) {
        return Err(format!(
            "the socket is a Unix socket, as TCP does not tell who calls; allowed: a path, such as ./{text}"
        ));
    }
    Ok(text.into())
}

impl Serve {
    /// A host without a socket that says nothing below warnings: for a command that needs disks.
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
