//! `drivebay nvme` shows NVMe/TCP controllers and measures their speed. It connects by itself and needs no
//! server.
#![forbid(unsafe_code)]

mod discover;
mod histogram;
mod identify;
mod list;
mod perf;
mod random;

use clap::{Args, Parser, Subcommand};
use drivebay_nvme_driver::spec::nqn;
use drivebay_nvme_driver::tcp::Digests;
use drivebay_nvme_driver::{Controller, Error, Host, Options};
use serde_json::Value;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// Shows NVMe/TCP controllers and measures their speed.
#[derive(Debug, Parser)]
#[command(name = "drivebay nvme", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List the subsystems that a discovery service knows
    Discover(At),
    /// List the namespaces of a subsystem, or of all subsystems that the discovery service knows
    List {
        #[command(flatten)]
        at: At,
        /// NQN of the subsystem; all subsystems when absent
        #[arg(long, short)]
        nqn: Option<String>,
    },
    /// Show the Identify data of a controller or of a namespace
    Identify {
        #[command(flatten)]
        at: At,
        /// NQN of the subsystem
        #[arg(long, short)]
        nqn: String,
        /// Namespace identifier; shows the controller when absent
        #[arg(long, short = 'i')]
        nsid: Option<u32>,
    },
    /// Read or write a namespace and show how fast that is. Writes destroy its data
    Perf(perf::Perf),
}

/// The controller to connect to, and the host to connect as.
#[derive(Args, Clone, Debug)]
struct At {
    /// Address of the controller; port 4420 when absent
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = address)]
    address: SocketAddr,
    /// NQN of this host
    #[arg(long, value_name = "NQN")]
    hostnqn: Option<String>,
    /// Ask for header digests
    #[arg(long)]
    hdgst: bool,
    /// Ask for data digests
    #[arg(long)]
    ddgst: bool,
    /// How long to wait for an answer, in seconds
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    timeout: u64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The port of NVMe/TCP.
const PORT: u16 = 4420;

fn address(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    if let Ok(ip) = bare.parse() {
        return Ok(SocketAddr::new(ip, PORT));
    }
    let with_port =
        if text.rsplit_once(':').is_some() { text.to_owned() } else { format!("{text}:{PORT}") };
    let mut found = with_port.to_socket_addrs().map_err(|error| error.to_string())?;
    found.next().ok_or_else(|| format!("{text} has no address"))
}

impl At {
    fn options(&self, subsystem: &str) -> Options {
        let host = match &self.hostnqn {
            Some(nqn) => Host { nqn: nqn.clone(), ..Host::default() },
            None => Host::default(),
        };
        let digests = Digests { header: self.hdgst, data: self.ddgst };
        let timeout = Duration::from_secs(self.timeout);
        Options { host, digests, timeout, ..Options::new(self.address, subsystem) }
    }

    fn connect(&self, subsystem: &str) -> Result<Controller, Error> {
        Controller::connect(self.options(subsystem))
    }

    fn discovery(&self) -> Result<Controller, Error> {
        self.connect(nqn::DISCOVERY)
    }
}

/// The result of a command, as text and as JSON.
struct Found {
    text: String,
    json: Value,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (found, json) = match &cli.command {
        Command::Discover(at) => (discover::discover(at), at.json),
        Command::List { at, nqn } => (list::list(at, nqn.as_deref()), at.json),
        Command::Identify { at, nqn, nsid } => (identify::identify(at, nqn, *nsid), at.json),
        Command::Perf(perf) => (perf.run(), perf.at.json),
    };
    match found {
        Ok(found) => {
            let text = if json { format!("{:#}\n", found.json) } else { found.text };
            // A reader that closes the pipe early is no error.
            let _ = io::stdout().write_all(text.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "drivebay nvme: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Formats a table. Each column is as wide as its longest cell.
fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let cell =
        |row: &Vec<String>, column: usize| row.get(column).map_or(0, |cell| cell.chars().count());
    let widths: Vec<usize> = (0..columns)
        .map(|column| rows.iter().map(|row| cell(row, column)).max().unwrap_or(0))
        .collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Bytes as hexadecimal digits.
fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The text of a field of fixed length, without its padding.
fn trimmed(text: Option<&str>) -> String {
    text.unwrap_or_default().trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn an_address_has_the_port_of_nvme_tcp_unless_it_has_its_own() {
        for (text, expected) in [
            ("127.0.0.1", "127.0.0.1:4420"),
            ("127.0.0.1:4421", "127.0.0.1:4421"),
            ("::1", "[::1]:4420"),
            ("[::1]", "[::1]:4420"),
            ("[::1]:8009", "[::1]:8009"),
        ] {
            assert_eq!(address(text).map(|address| address.to_string()), Ok(expected.to_owned()));
        }
        assert!(address("127.0.0.1:70000").is_err());
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell() {
        let rows = [vec!["a".to_owned(), "bc".to_owned()], vec!["def".to_owned(), String::new()]];
        assert_eq!(table(&rows), "a    bc\ndef\n");
    }
}
