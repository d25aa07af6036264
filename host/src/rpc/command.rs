//! `drivebay rpc`: one call from a shell.

use super::{Client, ClientError, default_socket};
use clap::Args;
use serde_json::Value;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

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
#[command(after_help = "exit code: 0 result, 1 error of the method, 2 usage, 3 no server")]
pub struct Request {
    /// Socket of the server [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH")]
    pub rpc_socket: Option<PathBuf>,
    /// How long to wait for the answer, in seconds
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
    /// Name of the method
    pub method: String,
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
    let socket = match request.rpc_socket.clone().map_or_else(default_socket, Ok) {
        Ok(socket) => socket,
        Err(error) => {
            writeln!(err, "drivebay rpc: {error}")?;
            return Ok(exit::NO_SERVER);
        }
    };
    let params = request.params.as_ref().unwrap_or(&Value::Null);
    let result = Client::connect(&socket, request.timeout)
        .and_then(|mut client| client.call(&request.method, params));
    match result {
        Ok(result) => {
            writeln!(out, "{result:#}")?;
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
    use crate::cli::{Cli, Command};
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
    fn no_server_exits_3() {
        let request = parse(&["-r", "/nonexistent/rpc.sock", "m"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&request, &mut out, &mut err), exit::NO_SERVER);
        let err = String::from_utf8(err).unwrap();
        assert!(err.contains("/nonexistent/rpc.sock: cannot connect"), "{err}");
    }
}
