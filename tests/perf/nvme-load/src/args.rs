//! What is asked for.

use std::net::SocketAddr;
use std::str::FromStr;

pub(crate) const USAGE: &str = "nvme-load --address IP:PORT --nqn NQN [--nsid 1] [--rw read|write] [--size BYTES] \
[--depth N] [--connections N] [--seconds N | --count N] [--rate IOPS] [--core N] [--pid TARGET] [--no-flow-control] [--congestion NAME]";

/// What is asked for.
#[derive(Clone, Debug)]
pub(crate) struct Args {
    pub(crate) address: SocketAddr,
    pub(crate) nqn: String,
    pub(crate) nsid: u32,
    pub(crate) writes: bool,
    /// Length of an I/O, in bytes.
    pub(crate) size: u32,
    /// I/Os outstanding on each connection.
    pub(crate) depth: u16,
    pub(crate) connections: u16,
    pub(crate) seconds: f64,
    /// Ends after so many I/Os; 0 = by time.
    pub(crate) count: u64,
    /// At most so many I/Os a second; 0 = as many as go.
    pub(crate) rate: u64,
    pub(crate) core: Option<usize>,
    /// The target's process, whose CPU time is told.
    pub(crate) pid: Option<u32>,
    /// Connect without flow control of the submission queue.
    pub(crate) no_flow_control: bool,
    /// How the system sends, such as `reno`; empty = as it is wont to.
    pub(crate) congestion: String,
}

impl Args {
    pub(crate) fn parse(args: impl Iterator<Item = String>) -> Result<Self, String> {
        let mut parsed = Self {
            address: SocketAddr::from(([127, 0, 0, 1], 4420)),
            nqn: String::new(),
            nsid: 1,
            writes: false,
            size: 4096,
            depth: 1,
            connections: 1,
            seconds: 2.0,
            count: 0,
            rate: 0,
            core: None,
            pid: None,
            no_flow_control: false,
            congestion: String::new(),
        };
        let mut args = args;
        while let Some(name) = args.next() {
            if name == "--no-flow-control" {
                parsed.no_flow_control = true;
                continue;
            }
            let value = args.next().ok_or_else(|| format!("{name} lacks a value; {USAGE}"))?;
            let value = Value { name: &name, text: &value };
            match name.as_str() {
                "--address" => parsed.address = value.parse()?,
                "--nqn" => parsed.nqn = value.parse()?,
                "--nsid" => parsed.nsid = value.parse()?,
                "--rw" if value.text == "read" => parsed.writes = false,
                "--rw" if value.text == "write" => parsed.writes = true,
                "--size" => parsed.size = value.parse()?,
                "--depth" => parsed.depth = value.parse()?,
                "--connections" => parsed.connections = value.parse()?,
                "--seconds" => parsed.seconds = value.parse()?,
                "--count" => parsed.count = value.parse()?,
                "--rate" => parsed.rate = value.parse()?,
                "--core" => parsed.core = Some(value.parse()?),
                "--congestion" => parsed.congestion = value.parse()?,
                "--pid" => parsed.pid = Some(value.parse()?),
                _ => return Err(value.wrong()),
            }
        }
        Ok(parsed)
    }
}

struct Value<'a> {
    name: &'a str,
    text: &'a str,
}

impl Value<'_> {
    fn parse<T: FromStr>(&self) -> Result<T, String> {
        self.text.parse().map_err(|_| self.wrong())
    }

    fn wrong(&self) -> String {
        format!("{} {} is not understood; {USAGE}", self.name, self.text)
    }
}
