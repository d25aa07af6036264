//! `drivebay rpc`.

use super::serve::socket;
use clap::Args;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Duration;

/// The flags and arguments of `drivebay rpc`.
#[derive(Args, Clone, Debug)]
#[command(
    disable_help_flag = true,
    after_help = "exit code: 0 result, 1 error of the method, 2 wrong usage, 3 no server"
)]
pub struct Rpc {
    /// Socket of the server [default: $DRIVEBAY_SOCKET, else drivebay.sock in the runtime folder]
    #[arg(short = 'r', long, value_name = "PATH", value_parser = socket)]
    pub rpc_socket: Option<PathBuf>,
    /// How long to wait for the answer, in seconds
    #[arg(short = 't', long, value_name = "SECONDS", default_value = "60", value_parser = seconds)]
    pub timeout: Duration,
    /// How long to wait for a server that is starting, in seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub wait: Option<Duration>,
    /// Print this help, or the help of the method
    #[arg(short = 'h', long)]
    pub help: bool,
    /// Name of the method
    #[arg(required_unless_present = "help")]
    pub method: Option<String>,
    /// The parameters of the method: an object
    #[arg(value_name = "JSON", value_parser = object)]
    pub params: Option<Value>,
}

fn seconds(text: &str) -> Result<Duration, &'static str> {
    let seconds: Option<f64> = text.parse().ok();
    let timeout = seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    timeout.filter(|timeout| !timeout.is_zero()).ok_or("allowed: seconds, above 0")
}

fn object(text: &str) -> Result<Value, String> {
    match serde_json::from_str::<Value>(text) {
        Ok(params) if params.is_object() => Ok(params),
        Ok(_) => Err("allowed: an object of parameters".into()),
        Err(error) if text.trim_start().starts_with('{') => Err(error.to_string()),
        Err(_) => {
            let (name, value) = text.split_once('=').unwrap_or(("name", text));
            let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
            let meant = json!({name.trim_start_matches('-'): value});
            Err(format!("allowed: all parameters as one JSON object, such as '{meant}'"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Command};
    use crate::rpc_command::exit;
    use clap::Parser;

    fn parse(args: &[&str]) -> Result<Rpc, clap::Error> {
        match Cli::try_parse_from(["drivebay", "rpc"].iter().chain(args))?.command {
            Command::Rpc(options) => Ok(options),
            _ => unreachable!("only rpc is parsed here"),
        }
    }

    #[test]
    fn a_wrong_command_line_says_what_is_wrong_and_exits_2() {
        for (args, wrong) in [
            (&[][..], "<METHOD>"),
            (&["m", "[]"], "allowed: an object"),
            (&["m", "{"], "EOF"),
            (&["m", "name=x"], r#"such as '{"name":"x"}'"#),
            (&["m", "size=8"], r#"such as '{"size":8}'"#),
            (&["m", "x"], r#"such as '{"name":"x"}'"#),
            (&["-r", "127.0.0.1:5260", "m"], "the socket is a Unix socket"),
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
}
