//! `drivebay rpc`: one call from a shell.

use super::{Client, ClientError, DEFAULT_SOCKET};
use serde_json::Value;
use std::io::{self, Write};
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

const USAGE: &str = "\
usage: drivebay rpc [-r SOCKET] [-t SECONDS] METHOD [JSON]

Calls METHOD with the parameters in JSON, an object, and prints its result.
  -r SOCKET   socket of the server (default /var/tmp/drivebay.sock)
  -t SECONDS  how long to wait for the answer (default 60)
exit code: 0 result, 1 error of the method, 2 usage, 3 no server
";

/// Runs the command with the arguments after `rpc`; gives the exit code.
pub fn run(args: impl IntoIterator<Item = String>, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match execute(args, out, err) {
        Ok(exit) => exit,
        // Standard output is gone: a closed pipe is the reader's choice.
        Err(_) => exit::OK,
    }
}

fn execute(
    args: impl IntoIterator<Item = String>,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let request = match Request::parse(args) {
        Ok(Some(request)) => request,
        Ok(None) => {
            out.write_all(USAGE.as_bytes())?;
            return Ok(exit::OK);
        }
        Err(wrong) => {
            write!(err, "drivebay rpc: {wrong}\n\n{USAGE}")?;
            return Ok(exit::USAGE);
        }
    };
    match request.call() {
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
            writeln!(err, "drivebay rpc: {}: {error}", request.socket)?;
            Ok(exit::NO_SERVER)
        }
    }
}

#[derive(Debug)]
struct Request {
    socket: String,
    timeout: Duration,
    method: String,
    params: Value,
}

impl Request {
    /// `None` when help was asked for.
    fn parse(args: impl IntoIterator<Item = String>) -> Result<Option<Self>, String> {
        let mut socket = DEFAULT_SOCKET.to_owned();
        let mut timeout = Duration::from_secs(60);
        let mut words = Vec::new();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "-h" | "--help" => return Ok(None),
                "-r" => socket = args.next().ok_or("-r needs a socket")?,
                "-t" => {
                    timeout = args.next().and_then(seconds).ok_or("-t needs seconds, above 0")?
                }
                option if option.starts_with('-') => {
                    return Err(format!("unknown option {option}"));
                }
                _ => words.push(arg),
            }
        }
        let mut words = words.into_iter();
        let method = words.next().ok_or("METHOD is missing")?;
        let params = words.next().map_or(Ok(Value::Null), |json| {
            serde_json::from_str(&json).map_err(|error| format!("JSON: {error}"))
        })?;
        if let Some(extra) = words.next() {
            return Err(format!("unexpected argument {extra}"));
        }
        if !(params.is_null() || params.is_object()) {
            return Err("JSON must be an object of named parameters".into());
        }
        Ok(Some(Self { socket, timeout, method, params }))
    }

    fn call(&self) -> Result<Value, ClientError> {
        Client::connect(&self.socket, self.timeout)?.call(&self.method, &self.params)
    }
}

fn seconds(text: String) -> Option<Duration> {
    let seconds: f64 = text.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok().filter(|timeout| !timeout.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit_of(args: &[&str]) -> (u8, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let exit = run(args.iter().map(|arg| (*arg).to_owned()), &mut out, &mut err);
        (exit, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn a_wrong_command_line_says_what_is_wrong_and_exits_2() {
        for (args, wrong) in [
            (&[][..], "METHOD is missing"),
            (&["m", "[]"], "must be an object"),
            (&["m", "{"], "JSON: "),
            (&["m", "{}", "x"], "unexpected argument x"),
            (&["-t", "0", "m"], "-t needs seconds"),
            (&["-q", "m"], "unknown option -q"),
            (&["-r"], "-r needs a socket"),
        ] {
            let (exit, _, err) = exit_of(args);
            assert_eq!(exit, 2);
            assert!(err.contains(wrong), "{err}");
        }
        let (exit, out, _) = exit_of(&["--help"]);
        assert!(exit == 0 && out.contains(DEFAULT_SOCKET));
    }

    #[test]
    fn no_server_exits_3() {
        let (exit, _, err) = exit_of(&["-r", "/nonexistent/rpc.sock", "m"]);
        assert_eq!(exit, 3);
        assert!(err.contains("/nonexistent/rpc.sock: cannot connect"), "{err}");
    }
}
