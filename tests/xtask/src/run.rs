//! Starts other programs, and knows the paths of the work tree and of its build output.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::tally::Tally;

/// The top of the work tree.
pub(crate) fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().skip(2).take(1).collect()
}

/// The target that instrumented builds name (`fuzz`, `asan`). If they named none, cargo would also instrument build scripts and macros.
pub(crate) const HOST: &str = "x86_64-unknown-linux-gnu";

/// The target folder; a relative `CARGO_TARGET_DIR` counts from the work tree's top.
pub(crate) fn target() -> PathBuf {
    top().join(std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into()))
}

/// A command that runs at the top of the work tree.
pub(crate) fn command(program: impl AsRef<std::ffi::OsStr>, args: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(args).current_dir(top());
    command
}

/// The cargo that runs this task.
pub(crate) fn cargo(args: &[&str]) -> Command {
    command(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()), args)
}

/// Runs a command whose failure ends the task. The command line is printed first.
pub(crate) fn must(command: &mut Command) -> Result<(), String> {
    println!("\n$ {}", line_of(command));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("{}: {status}", line_of(command))),
        Err(error) => Err(format!("{}: {error}", line_of(command))),
    }
}

/// Whether a command starts and succeeds. Its output is dropped.
pub(crate) fn succeeds(command: &mut Command) -> bool {
    let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    quiet.status().is_ok_and(|status| status.success())
}

/// Runs a test runner, shows its output as it comes, and adds up the counts in it. If the runner
/// fails although no count shows a failed test, [`Tally::BROKEN`] is added.
pub(crate) fn counted(command: &Command) -> Result<Tally, String> {
    let line = line_of(command);
    println!("\n$ {line}");
    let failed = |error: std::io::Error| format!("{line}: {error}");
    let mut child = with_one_output(command).spawn().map_err(failed)?;

    let mut tally = Tally::default();
    let output = child.stdout.take().into_iter();
    for text in output.flat_map(|output| BufReader::new(output).split(b'\n')) {
        let text = text.map_err(failed)?;
        let text = String::from_utf8_lossy(&text);
        println!("{text}");
        if let Some(counts) = Tally::from_line(&text) {
            tally += counts;
        }
    }
    let status = child.wait().map_err(failed)?;
    if !status.success() && tally.failed == 0 {
        println!("{line}: {status}");
        tally += Tally::BROKEN;
    }
    Ok(tally)
}

/// The same command with stdout and stderr in one pipe, in the order of writing.
fn with_one_output(command: &Command) -> Command {
    let mut one = Command::new("sh");
    one.args(["-c", "exec \"$0\" \"$@\" 2>&1"]).arg(command.get_program());
    one.args(command.get_args());
    one.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    one.current_dir(top()).stdin(Stdio::null()).stdout(Stdio::piped());
    one
}

fn line_of(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or_default();
    let mut line = program.to_string_lossy().into_owned();
    for arg in command.get_args() {
        line.push(' ');
        line.push_str(&arg.to_string_lossy());
    }
    line
}
