//! The supervisor: it starts a child for each group of checks and reads the child's events. If a
//! child dies, the check that it ran has failed.

use super::report::{self, Event, LOADS, Report};
use crate::cli::Check;
use crate::loader::search::inspect_to_load;
use drivebay_check::run::{Planned, plan};
use drivebay_check::verdict::{Line, Outcome};
use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long one check may take, without and with `--long`.
const CHECK_MAX: Duration = Duration::from_secs(60);
const LONG_CHECK_MAX: Duration = Duration::from_secs(3600);
/// The number of lines of a dead child's stderr that the report shows.
const LAST_LINES: usize = 6;
/// The longest of these lines, in characters.
const LINE_MAX: usize = 300;

/// Runs all checks. In a text report each line is written as soon as it is known.
pub(super) fn supervise(options: &Check, out: &mut dyn Write) -> Result<Report, String> {
    let inspection = inspect_to_load(&options.file).map_err(|not| not.to_string())?;
    let manifest = inspection.manifest.ok_or("it has no readable manifest")?;
    let began = Instant::now();
    let mut report = Report {
        name: manifest.name,
        version: manifest.version.to_string(),
        kind: manifest.kind,
        seed: options.seed,
        lines: Vec::new(),
        took: Duration::ZERO,
    };
    let mut rest: VecDeque<Planned> = plan(&report.kind, &manifest.provides).into();
    if let Some(only) = &options.only {
        rest.retain(|planned| planned.name.contains(only.as_str()));
        if rest.is_empty() {
            return Err(format!(
                "--only {only:?}: no check of kind {} has this text in its name",
                report.kind
            ));
        }
    }
    if !options.json {
        let _ = out.write_all(report.opening().as_bytes());
    }
    let folder =
        Folder::new().map_err(|error| format!("cannot create a folder for files: {error}"))?;
    while !rest.is_empty() {
        let group = next_group(&rest);
        let mut add = |line: Line| {
            // The plugin loads in every child; one line about that is enough.
            if line.name == LOADS && line.outcome == Outcome::Ok && !report.lines.is_empty() {
                return;
            }
            if !options.json {
                let _ = out.write_all(report::text(&line).as_bytes());
                let _ = out.flush();
            }
            rest.retain(|planned| planned.name != line.name);
            report.lines.push(line);
        };
        let was_there = run_group(options, &group, &folder, &mut add)?;
        if !was_there {
            break;
        }
    }
    report.took = began.elapsed();
    Ok(report)
}

/// The checks for the next child: one check that must run alone, or all checks before the next such check.
fn next_group(rest: &VecDeque<Planned>) -> Vec<String> {
    let is_alone = |planned: &&Planned| planned.check.is_alone;
    let alone = rest.front().filter(is_alone).map(|planned| vec![planned.name.clone()]);
    let together = rest.iter().take_while(|planned| !planned.check.is_alone);
    alone.unwrap_or_else(|| together.map(|planned| planned.name.clone()).collect())
}

/// A folder for the files of the checks. It is removed on drop.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("drivebay-check-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // Files that cannot be removed stay in the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Runs one child. Returns false when the plugin does not load, because then no other child can
/// run.
fn run_group(
    options: &Check,
    group: &[String],
    folder: &Folder,
    report: &mut dyn FnMut(Line),
) -> Result<bool, String> {
    let mut child = start(options, group, &folder.0)?;
    let stderr = last_lines(&mut child);
    let events = events(&mut child);
    let mut at: Option<(String, Instant)> = None;
    let mut last_words = None;
    let mut loaded = true;
    loop {
        let left = deadline(options, at.as_ref());
        let event = match events.recv_timeout(left) {
            Ok(event) => event,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                last_words = Some(format!("it did not end within {} s", limit(options).as_secs()));
                break;
            }
        };
        match event {
            Event::Begin { name } => at = Some((name, Instant::now())),
            Event::End(line) => {
                at = None;
                if line.name == LOADS && line.outcome != Outcome::Ok {
                    loaded = false;
                }
                report(line);
            }
            Event::Hang { seen } => last_words = Some(seen),
            Event::Crash { seen } => last_words = Some(format!("it crashed in {seen}")),
            Event::Broken { why } => {
                end(child);
                return Err(why);
            }
        }
    }
    let status = end(child);
    let stderr = stderr.and_then(|reader| reader.join().ok()).unwrap_or_default();
    let Some((name, began)) = at else {
        return match status {
            Some(status) if !status.success() => Err(format!("the child ended: {}", how(status))),
            _ => Ok(loaded),
        };
    };
    let seen = [last_words, status.filter(|status| !status.success()).map(how)];
    let mut seen = seen.into_iter().flatten().collect::<Vec<_>>().join("; ");
    if !stderr.is_empty() {
        seen = format!("{seen}\nthe last lines of its output:\n{}", stderr.join("\n"));
    }
    let expected = "the plugin neither crashes nor hangs".to_owned();
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let is_load = name == LOADS;
    report(Line { name, outcome: Outcome::Failed { expected, seen }, ms });
    Ok(!is_load)
}

fn limit(options: &Check) -> Duration {
    if options.long { LONG_CHECK_MAX } else { CHECK_MAX }
}

fn deadline(options: &Check, at: Option<&(String, Instant)>) -> Duration {
    at.map_or(CHECK_MAX, |(_, began)| limit(options).saturating_sub(began.elapsed()))
}

fn start(options: &Check, group: &[String], folder: &Path) -> Result<Child, String> {
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let mut command = Command::new(program);
    command.args(["plugin", "check"]).arg(&options.file);
    command.arg("--seed").arg(options.seed.to_string());
    command.arg("--child-folder").arg(folder);
    for folder in &options.plugin_dir {
        command.arg("--plugin-dir").arg(folder);
    }
    if let Some(params) = &options.params {
        command.arg("--params").arg(serde_json::Value::Object(params.clone()).to_string());
    }
    if options.long {
        command.arg("--long");
    }
    for name in group {
        command.arg("--child").arg(name);
    }
    command.env("DRIVEBAY_RUNTIME", folder);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().map_err(|error| format!("cannot start the child: {error}"))
}

/// The events of the child, until it closes its end.
fn events(child: &mut Child) -> Receiver<Event> {
    let (sender, events) = mpsc::channel();
    let Some(stdout) = child.stdout.take() else { return events };
    let read = move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            // A line that is not an event was written by the plugin.
            let Ok(event) = serde_json::from_str(&line) else { continue };
            if sender.send(event).is_err() {
                return;
            }
        }
    };
    // If the thread cannot be created, the channel closes, and the child counts as dead.
    let _ = std::thread::Builder::new().name("events".into()).spawn(read);
    events
}

/// Reads the child's stderr to its end, and keeps the last lines.
fn last_lines(child: &mut Child) -> Option<JoinHandle<Vec<String>>> {
    let stderr = child.stderr.take()?;
    let read = move || {
        let mut last = VecDeque::new();
        let mut reader = BufReader::new(stderr);
        let mut bytes = Vec::new();
        loop {
            bytes.clear();
            let mut limited = reader.by_ref().take(1 << 16);
            match limited.read_until(b'\n', &mut bytes) {
                Ok(1..) => {}
                _ => return last.into(),
            }
            let line: String =
                String::from_utf8_lossy(&bytes).trim_end().chars().take(LINE_MAX).collect();
            last.push_back(line);
            if last.len() > LAST_LINES {
                last.pop_front();
            }
        }
    };
    std::thread::Builder::new().name("stderr".into()).spawn(read).ok()
}

/// Kills the child if it has not exited by itself.
fn end(mut child: Child) -> Option<ExitStatus> {
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        if let Ok(Some(status)) = child.try_wait() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    // We killed the child, so its exit status means nothing.
    let _ = child.kill();
    let _ = child.wait();
    None
}

fn how(status: ExitStatus) -> String {
    let signal = status.signal().and_then(|signal| nix::sys::signal::Signal::try_from(signal).ok());
    match (signal, status.code()) {
        (Some(signal), _) => format!("killed by {signal}"),
        (None, Some(code)) => format!("exit code {code}"),
        (None, None) => "ended".to_owned(),
    }
}
