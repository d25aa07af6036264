//! `drivebay rpc`: one call from a shell.

use super::{Client, ClientError, default_socket};
use crate::cli::Cli;
use clap::{Args, CommandFactory};
use drivebay_spec_jsonrpc::Method;
use drivebay_spec_jsonrpc::doc::help_text;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often `--wait` tries to connect.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// Exit codes of [`run`].
pub mod exit {
    /// The method answered with a result.
    pub const OK: u8 = 0;
    /// The method answered with an error, which stands on stderr with its code.
    pub const RPC_ERROR: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// No server answers.
    pub const NO_SERVER: u8 = 3;
}

/// The command line.
#[derive(Args, Clone, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "exit code: 0 result, 1 error of the method, 2 usage, 3 no server"
)]
pub struct Request {
    /// Socket of the server [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH")]
    pub rpc_socket: Option<PathBuf>,
    /// How long to wait for the answer, in seconds
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
    /// How long to wait for a server that is starting, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait: Option<Duration>,
    /// Print this, or with a method what the server says of it
    #[arg(short = 'h', long)]
    pub help: bool,
    /// Name of the method
    #[arg(required_unless_present = "help")]
    pub method: Option<String>,
    /// Its parameters: an object
    #[arg(value_name = "JSON", value_parser = object)]
    pub params: Option<Value>,
}

/// Calls the method and prints its result; gives the exit code.
pub fn run(request: &Request, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match execute(request, out, err) {
        Ok(exit) => exit,
        // Standard output is gone: a closed pipe is the reader's choice.
        Err(_) => exit::OK,
    }
}

fn execute(request: &Request, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let Some(method) = &request.method else {
        write!(out, "{}", own_help())?;
        return Ok(exit::OK);
    };
    let socket = match request.rpc_socket.clone().map_or_else(default_socket, Ok) {
        Ok(socket) => socket,
        Err(error) => {
            writeln!(err, "drivebay rpc: {error}")?;
            return Ok(exit::NO_SERVER);
        }
    };
    let about = json!({"method": method});
    let (method, params) = match &request.params {
        _ if request.help => ("rpc_describe", &about),
        Some(params) => (method.as_str(), params),
        None => (method.as_str(), &Value::Null),
    };
    let result = connect(&socket, request).and_then(|mut client| client.call(method, params));
    match result {
        Ok(result) => {
            match Method::parse(&result.to_string()) {
                Ok(method) if request.help => write!(out, "{}", help_text(&method))?,
                _ => writeln!(out, "{result:#}")?,
            }
            Ok(exit::OK)
        }
        Err(ClientError::Rpc(error)) => {
            writeln!(err, "error {}: {}", error.code, error.message)?;
            if let Some(data) = error.data {
                writeln!(err, "{data}")?;
            }
            Ok(exit::RPC_ERROR)
        }
        Err(error) => {
            writeln!(err, "drivebay rpc: {}: {error}", socket.display())?;
            Ok(exit::NO_SERVER)
        }
    }
}

fn connect(socket: &Path, request: &Request) -> Result<Client, ClientError> {
    let began = Instant::now();
    loop {
        match Client::connect(socket, request.timeout) {
            Err(ClientError::Connect(_))
                if request.wait.is_some_and(|wait| began.elapsed() < wait) =>
            {
                std::thread::sleep(RETRY_AFTER);
            }
            outcome => return outcome,
        }
    }
}

/// What `drivebay rpc --help` prints.
fn own_help() -> String {
    let mut cli = Cli::command();
    cli.build();
    let own = cli.find_subcommand_mut("rpc");
    own.map(|command| command.render_help().to_string()).unwrap_or_default()
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: Option<f64> = text.parse().ok();
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.filter(|timeout| !timeout.is_zero()).ok_or("allowed: seconds, above 0")
}

fn object(text: &str) -> Result<Value, String> {
    let params: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if params.is_object() { Ok(params) } else { Err("allowed: an object of parameters".into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use clap::Parser;

    fn parse(args: &[&str]) -> Result<Request, clap::Error> {
        match Cli::try_parse_from(["drivebay", "rpc"].iter().chain(args))?.command {
            Command::Rpc(request) => Ok(request),
            _ => unreachable!("only rpc is parsed here"),
        }
    }

    #[test]
    fn a_wrong_command_line_says_what_is_wrong_and_exits_2() {
        for (args, wrong) in [
            (&[][..], "<METHOD>"),
            (&["m", "[]"], "allowed: an object"),
            (&["m", "{"], "EOF"),
            (&["m", "{}", "x"], "unexpected argument 'x'"),
            (&["-t", "0", "m"], "allowed: seconds"),
            (&["-q", "m"], "unexpected argument '-q'"),
            (&["-r"], "--rpc-socket"),
        ] {
            let error = parse(args).unwrap_err();
            assert_eq!(error.exit_code(), i32::from(exit::USAGE));
            assert!(error.to_string().contains(wrong), "{error}");
        }
    }

    #[test]
    fn help_without_a_method_is_the_commands_own() {
        let request = parse(&["--help"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&request, &mut out, &mut err), exit::OK);
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("Usage: drivebay rpc"), "{out}");
    }

    #[test]
    fn a_server_that_is_starting_is_waited_for_but_not_for_ever() {
        let began = Instant::now();
        let request = parse(&["-r", "/nonexistent/rpc.sock", "--wait", "0.1", "m"]).unwrap();
        assert_eq!(run(&request, &mut Vec::new(), &mut Vec::new()), exit::NO_SERVER);
        assert!(began.elapsed() >= Duration::from_millis(100));
    }

    #[test]
    fn no_server_exits_3() {
        let request = parse(&["-r", "/nonexistent/rpc.sock", "m"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&request, &mut out, &mut err), exit::NO_SERVER);
        let err = String::from_utf8(err).unwrap();
        assert!(err.contains("/nonexistent/rpc.sock: cannot connect"), "{err}");
    }
}
