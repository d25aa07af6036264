//! The Drivebay storage server.
#![forbid(unsafe_code)]

use drivebay::rpc::command;
use std::io::{self, Write};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (mut out, mut err) = (io::stdout().lock(), io::stderr().lock());
    match args.next().as_deref() {
        Some("rpc") => command::run(args, &mut out, &mut err).into(),
        _ => {
            let _ = writeln!(err, "usage: drivebay rpc …");
            command::exit::USAGE.into()
        }
    }
}
