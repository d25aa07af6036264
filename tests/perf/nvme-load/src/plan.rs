//! The command line.

use std::net::SocketAddr;
use std::time::Duration;

const USAGE: &str = "usage: nvme-load --address A:P --nqn NQN [--nsid N] [--connections N] [--depth N] [--io-size BYTES]
    [--write] [--seconds S | --ios N] [--pause-ms N] [--idle N] [--wait | --hold]

  --connections  with I/O; each has --depth in flight
  --ios          of each connection, instead of --seconds
  --pause-ms     sleep so long before each I/O; needs depth 1
  --idle         connections beside those, without I/O
  --wait         once connected, wait for a byte on standard input
  --hold         no I/O at all: once connected, wait for the end of standard input

\"connected\" is printed first, then the report.";

/// The options of a run.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) address: SocketAddr,
    pub(crate) nqn: String,
    pub(crate) nsid: u32,
    pub(crate) connections: usize,
    pub(crate) depth: u16,
    pub(crate) io_size: u32,
    pub(crate) write: bool,
    pub(crate) time: Duration,
    pub(crate) ios: Option<u64>,
    pub(crate) pause: Duration,
    pub(crate) idle: usize,
    pub(crate) hold: bool,
    pub(crate) wait: bool,
}

impl Plan {
    pub(crate) fn parse(args: &[String]) -> Result<Self, String> {
        let mut plan = Self {
            address: ([127, 0, 0, 1], 4420).into(),
            nqn: String::new(),
            nsid: 1,
            connections: 1,
            depth: 1,
            io_size: 4096,
            write: false,
            time: Duration::from_secs(1),
            ios: None,
            pause: Duration::ZERO,
            idle: 0,
            hold: false,
            wait: false,
        };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let bad = || format!("{arg}: not allowed\n{USAGE}");
            let mut value = || rest.next().map(String::as_str).ok_or_else(bad);
            match arg.as_str() {
                "--address" => plan.address = value()?.parse().map_err(|_| bad())?,
                "--nqn" => value()?.clone_into(&mut plan.nqn),
                "--nsid" => plan.nsid = number(value()?).ok_or_else(bad)?,
                "--connections" => plan.connections = number(value()?).ok_or_else(bad)?,
                "--depth" => plan.depth = number(value()?).ok_or_else(bad)?,
                "--io-size" => plan.io_size = number(value()?).ok_or_else(bad)?,
                "--write" => plan.write = true,
                "--seconds" => {
                    let seconds = value()?.parse().ok();
                    let time = seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
                    plan.time = time.ok_or_else(bad)?;
                }
                "--ios" => plan.ios = Some(number(value()?).ok_or_else(bad)?),
                "--pause-ms" => {
                    plan.pause = Duration::from_millis(number(value()?).ok_or_else(bad)?);
                }
                "--idle" => plan.idle = number(value()?).ok_or_else(bad)?,
                "--hold" => plan.hold = true,
                "--wait" => plan.wait = true,
                _ => return Err(bad()),
            }
        }
        if plan.nqn.is_empty() {
            return Err(format!("--nqn is required\n{USAGE}"));
        }
        if !plan.pause.is_zero() && (plan.depth, plan.connections) != (1, 1) {
            return Err("--pause-ms: one connection of depth 1 is allowed".into());
        }
        Ok(plan)
    }

    /// Number of connections, with and without I/O.
    pub(crate) const fn all_connections(&self) -> usize {
        if self.hold { self.connections } else { self.connections + self.idle }
    }
}

/// A number above 0.
fn number<T: std::str::FromStr + Default + PartialOrd>(text: &str) -> Option<T> {
    text.parse().ok().filter(|number| *number > T::default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Plan, String> {
        Plan::parse(&args.iter().map(|&arg| arg.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn the_wrong_argument_is_named() {
        let plan = parse(&["--nqn", "n", "--depth", "8", "--seconds", "0.5"]).unwrap();
        assert_eq!((plan.depth, plan.time), (8, Duration::from_millis(500)));
        for (args, named) in [
            (&["--depth", "0"][..], "--depth"),
            (&["--fast"], "--fast"),
            (&["--seconds", "-1"], "--seconds"),
            (&["--depth", "8"], "--nqn"),
            (&["--nqn", "n", "--depth", "8", "--pause-ms", "1"], "--pause-ms"),
        ] {
            assert!(parse(args).unwrap_err().starts_with(named), "{args:?}");
        }
    }
}
