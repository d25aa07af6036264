//! `drivebay perf`.

use super::environment::Environment;
use super::serve::Serve;
use clap::{Args, ValueEnum};
use drivebay_core::load;
use serde_json::Value;
use std::path::PathBuf;
use std::time::Duration;

/// Flags of `drivebay perf`. The short ones are those of the reference's generator.
#[derive(Args, Clone, Debug)]
#[command(after_help = "\
--rpc and -c create the disks; without BDEV all of them are used.
example: drivebay perf --rpc 'bdev_malloc_create {\"name\": \"m\", \"num_blocks\": 65536, \"block_size\": 512}'
exit code: 0 done, 1 an I/O or comparison failed or the host did not start, 2 usage")]
pub struct Perf {
    /// Disks: names, aliases or UUIDs
    #[arg(value_name = "BDEV")]
    pub bdevs: Vec<String>,
    /// I/O in flight per disk and core
    #[arg(short = 'q', long, value_name = "N", default_value = "32")]
    pub depth: u32,
    /// Bytes per I/O, with suffix K or M
    #[arg(short = 'o', long, value_name = "SIZE", default_value = "4K", value_parser = bytes)]
    pub io_size: u32,
    /// read, write, rw (in order), randread, randwrite, randrw, or verify (write, read back, compare)
    #[arg(short = 'w', long, value_enum, default_value = "randread", hide_possible_values = true)]
    pub pattern: Pattern,
    /// Percentage of reads of rw and randrw
    #[arg(short = 'M', long, value_name = "PERCENT", default_value = "50",
          value_parser = clap::value_parser!(u8).range(0..=100))]
    pub rwmix: u8,
    /// How long to run, in seconds
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "5", value_parser = seconds)]
    pub time: Duration,
    /// Stop after this many I/O per disk and core instead
    #[arg(short = 'n', long, value_name = "N", conflicts_with_all = ["time", "warm_up"],
          value_parser = clap::value_parser!(u64).range(1..))]
    pub ios: Option<u64>,
    /// Do not count the first seconds
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds_or_none)]
    pub warm_up: Duration,
    /// Compare what is read with what the run wrote
    #[arg(long)]
    pub verify: bool,
    /// Skip the bus, to measure the cost of the generator itself
    #[arg(long, conflicts_with = "verify")]
    pub null_loop: bool,
    /// Copy to or from memory of the disk's size instead of using the bus: the limit for any RAM
    /// disk
    #[arg(long, conflicts_with_all = ["verify", "null_loop"])]
    pub copy_loop: bool,
    /// RPC socket to serve during the run [default: none]
    #[arg(short = 'r', long, value_name = "PATH")]
    pub rpc_socket: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// A call to make before the run, such as 'bdev_null_create {"name": …}'; may be given several
    /// times
    #[arg(long, value_name = "CALL", value_parser = call)]
    pub rpc: Vec<(String, Value)>,
    /// Configuration to start with, as save_config prints it
    #[arg(short = 'c', long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Plugins, cores and memory.
    #[command(flatten)]
    pub environment: Environment,
}

/// The kinds and the order of the I/O.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Pattern {
    /// Reads in sequential order.
    Read,
    /// Writes in sequential order.
    Write,
    /// Reads and writes in sequential order.
    Rw,
    /// Reads at random places.
    #[value(name = "randread")]
    RandRead,
    /// Writes at random places.
    #[value(name = "randwrite")]
    RandWrite,
    /// Reads and writes at random places.
    #[value(name = "randrw")]
    RandRw,
    /// Writes in sequential order; each is read back and compared.
    Verify,
}

impl Perf {
    /// The options of the host that the measurement needs.
    #[must_use]
    pub fn host(&self) -> Serve {
        let mut host = Serve::unreachable();
        host.no_rpc_server = self.rpc_socket.is_none();
        host.rpc_socket.clone_from(&self.rpc_socket);
        host.environment.clone_from(&self.environment);
        host
    }

    /// The pattern for the load generator.
    #[must_use]
    pub fn load_pattern(&self) -> load::Pattern {
        match self.pattern {
            Pattern::Read => load::Pattern::Read,
            Pattern::Write => load::Pattern::Write,
            Pattern::Rw => load::Pattern::ReadWrite(self.rwmix),
            Pattern::RandRead => load::Pattern::RandRead,
            Pattern::RandWrite => load::Pattern::RandWrite,
            Pattern::RandRw => load::Pattern::RandReadWrite(self.rwmix),
            Pattern::Verify => load::Pattern::Verify,
        }
    }

    /// When the measurement stops.
    #[must_use]
    pub fn limit(&self) -> load::Limit {
        self.ios.map_or(load::Limit::Time(self.time), load::Limit::Ios)
    }
}

/// Parses a method's name and the JSON object after it.
fn call(text: &str) -> Result<(String, Value), String> {
    let text = text.trim();
    let (method, params) = text.split_once(char::is_whitespace).unwrap_or((text, "{}"));
    let params: Value = serde_json::from_str(params).map_err(|error| error.to_string())?;
    if method.is_empty() || !params.is_object() {
        return Err("allowed: a method and an object of parameters".into());
    }
    Ok((method.to_owned(), params))
}

fn bytes(text: &str) -> Result<u32, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let shift = match text.get(digits.len()..).unwrap_or_default().to_ascii_uppercase().as_str() {
        "" => 0,
        "K" | "KB" | "KIB" => 10,
        "M" | "MB" | "MIB" => 20,
        _ => return Err("allowed: bytes, with suffix K or M".into()),
    };
    let number: u32 = digits.parse().map_err(|_| "allowed: bytes, such as 4096 or 4K")?;
    let size = number.checked_mul(1 << shift).filter(|size| (1..=load::MAX_IO_SIZE).contains(size));
    size.ok_or_else(|| "allowed: 1 to 64M".into())
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let time = seconds_or_none(text).ok().filter(|time| !time.is_zero());
    time.ok_or("allowed: seconds above 0, up to a year")
}

fn seconds_or_none(text: &str) -> Result<Duration, &'static str> {
    let seconds: Option<f64> = text.parse().ok().filter(|seconds| *seconds <= 31_536_000.0);
    let time = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    time.ok_or("allowed: seconds, up to a year")
}

#[cfg(test)]
mod tests {
    use super::super::{Cli, Command};
    use super::*;
    use clap::Parser;
    use serde_json::json;

    fn perf(args: &[&str]) -> Result<Perf, clap::Error> {
        match Cli::try_parse_from(["drivebay", "perf"].iter().chain(args))?.command {
            Command::Perf(perf) => Ok(*perf),
            _ => unreachable!("only perf is parsed here"),
        }
    }

    #[test]
    fn the_short_flags_are_those_of_the_reference() {
        let perf = perf(&["-q", "128", "-o", "131072", "-w", "randrw", "-M", "70", "-t", "1.5"]);
        let perf = perf.unwrap();
        assert_eq!((perf.depth, perf.io_size), (128, 131_072));
        assert_eq!(perf.load_pattern(), load::Pattern::RandReadWrite(70));
        assert_eq!(perf.limit(), load::Limit::Time(Duration::from_millis(1500)));
    }

    #[test]
    fn calls_are_a_method_and_an_object() {
        let perf = perf(&["--rpc", r#"bdev_null_create {"name": "n"}"#, "--rpc", "m"]).unwrap();
        let wanted =
            [("bdev_null_create".to_owned(), json!({"name": "n"})), ("m".to_owned(), json!({}))];
        assert_eq!(perf.rpc, wanted);
    }

    #[test]
    fn a_wrong_value_names_its_flag_and_what_is_allowed() {
        for (args, wanted) in [
            (&["-o", "4G"][..], "--io-size"),
            (&["-o", "128M"], "1 to 64M"),
            (&["-w", "fast"], "--pattern"),
            (&["-M", "101"], "0..=100"),
            (&["-t", "0"], "above 0"),
            (&["-n", "0"], "--ios"),
            (&["-n", "5", "-t", "1"], "cannot be used with"),
            (&["--verify", "--null-loop"], "cannot be used with"),
            (&["--copy-loop", "--null-loop"], "cannot be used with"),
            (&["--rpc", "bdev_null_create []"], "an object"),
        ] {
            let error = perf(args).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(wanted), "{error}");
        }
    }
}
