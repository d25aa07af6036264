//! `drivebay rpc`: one call from a shell.

use crate::cli::{Cli, Rpc};
use crate::rpc::{Client, ClientError, default_socket};
use clap::CommandFactory;
use drivebay_spec_jsonrpc::doc::help_text;
use drivebay_spec_jsonrpc::{Kind, Method, NoParams, Param, Role};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::Path;
use std::time::{Duration, Instant};

/// The methods of this version's host and plugins: an OpenRPC document that `cargo xtask docs`
/// writes.
const METHODS: &str = include_str!("../../docs/rpc/openrpc.json");

/// How often `--wait` tries to connect.
const RETRY_AFTER: Duration = Duration::from_millis(20);

/// The exit codes of [`run`].
pub mod exit {
    /// The method answered with a result.
    pub const OK: u8 = 0;
    /// The method answered with an error, which is printed on stderr with its code.
    pub const RPC_ERROR: u8 = 1;
    /// The command line is wrong.
    pub const USAGE: u8 = 2;
    /// No server answers.
    pub const NO_SERVER: u8 = 3;
}

/// Calls the method and prints its result. Returns the exit code.
pub fn run(options: &Rpc, out: &mut dyn Write, err: &mut dyn Write) -> u8 {
    match execute(options, out, err) {
        Ok(exit) => exit,
        // The reader has closed the pipe.
        Err(_) => exit::OK,
    }
}

fn execute(options: &Rpc, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let Some(method) = &options.method else {
        write!(out, "{}", own_help())?;
        return Ok(exit::OK);
    };
    let socket = match options.rpc_socket.clone().map_or_else(default_socket, Ok) {
        Ok(socket) => socket,
        Err(error) => {
            writeln!(err, "drivebay rpc: {error}")?;
            return Ok(exit::NO_SERVER);
        }
    };
    let about = json!({"method": method});
    let (method, params) = match &options.params {
        _ if options.help => ("rpc_describe", &about),
        Some(params) => (method.as_str(), params),
        None => (method.as_str(), &Value::Null),
    };
    let result = connect(&socket, options).and_then(|mut client| client.call(method, params));
    match result {
        Ok(result) => {
            match Method::parse(&result.to_string()) {
                Ok(method) if options.help => write!(out, "{}", help_text(&method))?,
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
            if let Some(method) = declared(options).filter(|_| options.help) {
                write!(out, "{}", help_text(&method))?;
                return Ok(exit::OK);
            }
            writeln!(err, "drivebay rpc: {}: {error}", socket.display())?;
            Ok(exit::NO_SERVER)
        }
    }
}

/// The names of the methods of this version, for completion.
pub fn method_names() -> Vec<String> {
    methods().into_iter().map(|method| method.name).collect()
}

/// The declaration of the requested method in this program, for help without a server.
fn declared(options: &Rpc) -> Option<Method> {
    let name = options.method.as_ref()?;
    methods().into_iter().find(|method| method.name == *name || method.aliases.contains(name))
}

fn methods() -> Vec<Method> {
    // The file is generated, and a test reads it.
    let document: Value = serde_json::from_str(METHODS).unwrap_or_default();
    let all = document.get("methods").and_then(Value::as_array);
    all.into_iter().flatten().filter_map(method_of).collect()
}

/// Reads a method of the document. A parameter kind that the document writes differently from
/// [`Method`] becomes "any value".
fn method_of(described: &Value) -> Option<Method> {
    let param = |described: &Value| {
        let schema = described.get("schema")?;
        let kind = serde_json::from_value(schema.clone()).unwrap_or(Kind::Any);
        Some(Param {
            name: text(described, "name")?,
            doc: text(described, "description").unwrap_or_default(),
            kind,
            required: described.get("required") == Some(&Value::Bool(true)),
            default: schema.get("default").cloned(),
        })
    };
    let params = described.get("params").and_then(Value::as_array);
    let doc = text(described, "description").unwrap_or_default();
    let mut method = Method::new::<NoParams>(text(described, "name")?, Role::Operate, doc);
    let extension = |name: &str| described.get(name).cloned().unwrap_or_default();
    method.role = serde_json::from_value(extension("x-role")).unwrap_or(Role::Admin);
    method.states = serde_json::from_value(extension("x-states")).unwrap_or_default();
    method.aliases = serde_json::from_value(extension("x-aliases")).unwrap_or_default();
    method.params = params.into_iter().flatten().filter_map(param).collect();
    method.result =
        described.get("result").and_then(|result| text(result, "description")).unwrap_or_default();
    let returns = described.get("result").and_then(|result| result.get("schema")).cloned();
    method.returns = returns.and_then(|schema| serde_json::from_value(schema).ok());
    method.returns = method.returns.filter(|kind| *kind != Kind::Any);
    Some(method)
}

fn text(object: &Value, member: &str) -> Option<String> {
    object.get(member).and_then(Value::as_str).map(str::to_owned)
}

fn connect(socket: &Path, options: &Rpc) -> Result<Client, ClientError> {
    let began = Instant::now();
    loop {
        match Client::connect(socket, options.timeout) {
            Err(ClientError::Connect(_))
                if options.wait.is_some_and(|wait| began.elapsed() < wait) =>
            {
                std::thread::sleep(RETRY_AFTER);
            }
            outcome => return outcome,
        }
    }
}

/// The output of `drivebay rpc --help`.
fn own_help() -> String {
    let mut cli = Cli::command();
    cli.build();
    let own = cli.find_subcommand_mut("rpc");
    own.map(|command| command.render_help().to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Command;
    use clap::Parser;

    fn parse(args: &[&str]) -> Result<Rpc, clap::Error> {
        match Cli::try_parse_from(["drivebay", "rpc"].iter().chain(args))?.command {
            Command::Rpc(options) => Ok(options),
            _ => unreachable!("only rpc is parsed here"),
        }
    }

    #[test]
    fn help_without_a_method_is_the_commands_own() {
        let options = parse(&["--help"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&options, &mut out, &mut err), exit::OK);
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("Usage: drivebay rpc"), "{out}");
    }

    #[test]
    fn a_server_that_is_starting_is_waited_for_but_not_for_ever() {
        let began = Instant::now();
        let options = parse(&["-r", "/nonexistent/rpc.sock", "--wait", "0.1", "m"]).unwrap();
        assert_eq!(run(&options, &mut Vec::new(), &mut Vec::new()), exit::NO_SERVER);
        assert!(began.elapsed() >= Duration::from_millis(100));
    }

    #[test]
    fn the_help_of_a_method_needs_no_server() {
        let options =
            parse(&["-r", "/nonexistent/rpc.sock", "bdev_null_create", "--help"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&options, &mut out, &mut err), exit::OK);
        let out = String::from_utf8(out).unwrap();
        assert!(out.contains("bdev_null_create") && out.contains("num_blocks"), "{out}");
        assert!(method_names().iter().any(|name| name == "bdev_get_bdevs"));
    }

    #[test]
    fn no_server_exits_3() {
        let options = parse(&["-r", "/nonexistent/rpc.sock", "m"]).unwrap();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        assert_eq!(run(&options, &mut out, &mut err), exit::NO_SERVER);
        let err = String::from_utf8(err).unwrap();
        assert!(err.contains("/nonexistent/rpc.sock: cannot connect"), "{err}");
    }
}
