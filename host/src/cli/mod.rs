//! The command line.

mod check;
mod environment;
mod ignored;
mod lvol;
mod new;
mod pci;
mod perf;
mod plugin;
mod rpc;
mod sandbox;
mod serve;

pub use check::Check;
pub use environment::{Environment, Mode};
pub use lvol::{Lvol, Store as LvolStore};
pub use new::New;
pub use pci::{Devices as PciDevices, Pci};
pub use perf::{Pattern, Perf};
pub use plugin::Plugin;
pub use rpc::Rpc;
pub use sandbox::Sandbox;
pub use serve::Serve;

use clap::builder::PossibleValuesParser;
use clap::{CommandFactory, Parser, Subcommand};
use clap_complete::Shell;
use std::ffi::OsString;

/// The Drivebay storage server.
#[derive(Debug, Parser)]
#[command(name = "drivebay", version, max_term_width = 100)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve disks until SIGTERM or SIGINT
    Serve(Box<Serve>),
    /// Call one method of a running server
    Rpc(Rpc),
    /// List, check, sign and verify plugins, and start new ones
    #[command(subcommand)]
    Plugin(Plugin),
    /// Check and repair stores of logical volumes
    #[command(subcommand)]
    Lvol(Lvol),
    /// List PCI devices, and give them to a server or back to the kernel
    #[command(subcommand)]
    Pci(Pci),
    /// Measure disks under load
    Perf(Box<Perf>),
    /// Any other: the program `drivebay-NAME`
    #[command(external_subcommand)]
    Other(Vec<OsString>),
    /// Print a completion script
    Completions {
        /// The name of the shell
        shell: Shell,
    },
}

impl Cli {
    /// The command line for completion scripts. `methods` are the methods that `drivebay rpc`
    /// completes.
    pub fn completed_with(methods: Vec<String>) -> clap::Command {
        let named = PossibleValuesParser::new(methods);
        Self::command()
            .mut_subcommand("rpc", |rpc| rpc.mut_arg("method", |method| method.value_parser(named)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_core::env::pci::permit::Permit;
    use std::path::PathBuf;

    fn serve(args: &[&str]) -> Result<Serve, clap::Error> {
        let args = ["drivebay", "serve"].iter().chain(args);
        match Cli::try_parse_from(args)?.command {
            Command::Serve(serve) => Ok(*serve),
            _ => unreachable!("only serve is parsed here"),
        }
    }

    #[test]
    fn the_commands_are_consistent_and_their_help_fits_a_screen() {
        let mut cli = Cli::command();
        cli.build();
        cli.clone().debug_assert();
        for command in cli.get_subcommands_mut() {
            let lines = command.render_help().to_string().lines().count();
            assert!(lines <= 40, "{}: {lines} lines", command.get_name());
        }
    }

    #[test]
    fn flags_of_the_reference_are_accepted_and_those_without_effect_are_reported() {
        let serve = serve(&[
            "-m",
            "[0]",
            "-s",
            "1024",
            "--no-huge",
            "-c",
            "x.json",
            "-i",
            "1",
            "-e",
            "0xff",
            "-u",
            "--iova-mode",
            "va",
            "-L",
            "bdev",
            "-L",
            "rpc",
            "--rpcs-allowed",
            "a,b",
            "-p",
            "0",
        ])
        .unwrap();
        assert_eq!(serve.environment.mem_size, Some(1024 << 20));
        assert_eq!(serve.environment.pci(), Permit::Only(Vec::new()));
        assert_eq!(serve.rpcs_allowed.unwrap(), ["a", "b"]);
        assert_eq!(serve.logflag, ["bdev", "rpc"]);
        assert_eq!(
            serve.ignored.given,
            ["shm-id", "tpoint-group", "iova-mode", "main-core"]
                .map(str::to_owned)
                .into_iter()
                .collect()
        );
    }

    #[test]
    fn pci_devices_are_allowed_or_blocked_and_never_both() {
        let pci = |args: &[&str]| serve(args).map(|serve| serve.environment.pci());
        let [one, two] = ["0000:01:00.0", "0000:02:00.0"].map(|text| text.parse().unwrap());
        assert_eq!(pci(&[]).unwrap(), Permit::All);
        assert_eq!(
            pci(&["-A", "01:00.0", "-A", "0000:02:00.0"]).unwrap(),
            Permit::Only(vec![one, two])
        );
        assert_eq!(pci(&["--pci-blocked", "01:00.0"]).unwrap(), Permit::Except(vec![one]));
        assert!(pci(&["-A", "01:00.0", "-B", "02:00.0"]).is_err());
        assert!(pci(&["-A", "nvme0"]).unwrap_err().to_string().contains("DDDD:BB:DD.F"));
    }

    #[test]
    fn json_has_three_names() {
        for name in ["-c", "--config", "--json"] {
            assert_eq!(serve(&[name, "x"]).unwrap().config.unwrap(), PathBuf::from("x"));
        }
    }

    #[test]
    fn a_wrong_value_names_its_flag() {
        for (args, name) in [
            (["-m", "0xg"], "--cpumask"),
            (["-s", "many"], "--mem-size"),
            (["--mode", "fast"], "--mode"),
        ] {
            let error = serve(&args).unwrap_err();
            assert_eq!(error.exit_code(), 2);
            assert!(error.to_string().contains(name), "{error}");
        }
    }
}
