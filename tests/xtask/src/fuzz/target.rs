//! Runs one target for its share of time, a minute at a time. The clock is the target's processor time, so half an hour
//! means the same on a busy machine. The target has the lowest priority.

use std::fmt;
use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};

use super::{folder, seeds};
use crate::run;

/// The longest run of libFuzzer, in seconds.
const PIECE: u64 = 60;
/// Processor seconds between two progress lines.
const WORD: u64 = 60;
/// Seconds that an input may take: first by libFuzzer's wall clock, then, alone, of processor time.
const TIMEOUT: u64 = 10;
/// libFuzzer's exit code when an input took longer.
const TIMED_OUT: i32 = 70;
/// Lines of libFuzzer's output to show when it has found something.
const LINES: usize = 60;

/// Which seconds count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Clock {
    /// The processor time of the target.
    Cpu,
    /// Wall-clock time.
    Wall,
}

/// One target and its results so far.
#[derive(Debug, Default)]
pub(super) struct Run {
    pub(super) target: String,
    /// Seconds of the chosen clock.
    spent: f64,
    /// Processor time, in seconds.
    cpu: f64,
    executions: u64,
    /// Edges and features reached, as libFuzzer counts them.
    coverage: (u64, u64),
    /// Number of new inputs beside the committed corpus.
    found: usize,
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { target, cpu, executions, coverage: (edges, features), found, .. } = self;
        let minutes = cpu / 60.0;
        write!(
            f,
            "{target}: {minutes:.1} minutes of processor time, {executions} executions, {edges} edges, {features} features, \
             {found} inputs kept"
        )
    }
}

impl Run {
    pub(super) fn new(target: String) -> Self {
        Self { target, ..Self::default() }
    }

    /// Continues from the committed corpus and the earlier new inputs. Returns whether the target has time left.
    pub(super) fn go_on(
        &mut self,
        program: &Path,
        seconds: u64,
        clock: Clock,
    ) -> Result<bool, String> {
        let left = seconds.saturating_sub(whole(self.spent)).clamp(1, PIECE);
        let before = whole(self.cpu) / WORD;
        let cpu = self.piece(program, left)?;
        self.cpu += cpu;
        self.spent += if clock == Clock::Cpu { cpu } else { as_f64(left) };
        let is_left = self.spent < as_f64(seconds);
        if is_left && whole(self.cpu) / WORD > before {
            println!("so far {self}");
        }
        Ok(is_left)
    }

    /// Runs libFuzzer for `seconds` seconds. Returns the processor time that it used, in seconds.
    fn piece(&mut self, program: &Path, seconds: u64) -> Result<f64, String> {
        let target = &self.target;
        let [found, artifacts, logs] =
            ["corpus", "artifacts", "log"].map(|name| folder().join(name));
        let found = found.join(target);
        for folder in [&found, &artifacts, &logs] {
            fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        }
        let log = logs.join(target);
        let in_log = |error: std::io::Error| format!("{}: {error}", log.display());
        // The shell prints the processor time of its child.
        let mut command = Command::new("sh");
        command.args(["-c", r#""$0" "$@"; ended=$?; times; exit $ended"#]).arg(program);
        command
            .current_dir(run::top())
            .env("DRIVEBAY_FUZZ", target)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-timeout={TIMEOUT}"))
            .args(["-max_len=8192", "-rss_limit_mb=2048", "-print_final_stats=1"])
            .arg(format!("-artifact_prefix={}/{target}-", artifacts.display()))
            .arg(&found)
            .arg(seeds(target))
            .stdin(Stdio::null())
            .stderr(File::create(&log).map_err(in_log)?);
        let output = command.output().map_err(|error| format!("sh: {error}"))?;
        let reported = fs::read(&log).map_err(in_log)?;
        let reported = String::from_utf8_lossy(&reported);
        let has_waited = output.status.code() == Some(TIMED_OUT)
            && artifact(&reported).is_some_and(|input| is_quick(program, target, Path::new(input)));
        if !output.status.success() && !has_waited {
            let lines: Vec<&str> = reported.lines().collect();
            let last = lines.get(lines.len().saturating_sub(LINES)..).unwrap_or_default();
            println!("{}", last.join("\n"));
            return Err(format!("{}; its whole output is in {}", output.status, log.display()));
        }
        self.found = fs::read_dir(&found).map_or(0, Iterator::count);
        self.read(&reported)?;
        let times = String::from_utf8_lossy(&output.stdout);
        child_seconds(&times).ok_or_else(|| "sh printed no times".to_owned())
    }

    /// Adds the figures that libFuzzer printed at the end of one run. Fails if there was no coverage.
    fn read(&mut self, reported: &str) -> Result<(), String> {
        let number = |line: &str, key: &str| -> Option<u64> {
            line.split_once(key)?.1.split_whitespace().next()?.parse().ok()
        };
        let executions = |line| number(line, "stat::number_of_executed_units:");
        self.executions +=
            reported.lines().find_map(executions).ok_or("libFuzzer printed no executions")?;
        let coverage = |line| Some((number(line, " cov: ")?, number(line, " ft: ")?));
        match reported.lines().rev().find_map(coverage) {
            Some(coverage @ (1.., 1..)) => self.coverage = coverage,
            _ => return Err("there is no coverage: the counters are not in the program".to_owned()),
        }
        Ok(())
    }
}

/// The file of the input that ended libFuzzer.
fn artifact(reported: &str) -> Option<&str> {
    reported.lines().find_map(|line| line.split_once("Test unit written to ")).map(|(_, file)| file)
}

/// Whether a slow input only waited for the processor, which is likely at the lowest priority. Alone it must end within
/// [`TIMEOUT`] seconds of processor time. If it does, its file is removed.
fn is_quick(program: &Path, target: &str, input: &Path) -> bool {
    let mut alone = Command::new("sh");
    alone.args(["-c", &format!(r#"ulimit -t {TIMEOUT} && exec "$0" -timeout=0 "$1""#)]);
    alone.arg(program).arg(input).env("DRIVEBAY_FUZZ", target).current_dir(run::top());
    let ended = alone.stdout(Stdio::null()).stderr(Stdio::null()).status();
    ended.is_ok_and(|status| status.success()) && fs::remove_file(input).is_ok()
}

/// User and system time of the children, the second line of the shell's `times`.
fn child_seconds(times: &str) -> Option<f64> {
    let part = |text: &str| -> Option<f64> {
        let (minutes, seconds) = text.strip_suffix('s')?.split_once('m')?;
        Some(minutes.parse::<f64>().ok()? * 60.0 + seconds.parse::<f64>().ok()?)
    };
    times.lines().nth(1)?.split_whitespace().map(part).sum()
}

#[expect(clippy::cast_precision_loss, reason = "seconds of a run")]
fn as_f64(seconds: u64) -> f64 {
    seconds as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a run")]
fn whole(seconds: f64) -> u64 {
    seconds as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_the_child_is_read_and_not_the_shells() {
        assert_eq!(child_seconds("0m9.000s 0m9.000s\n1m2.500s 0m0.250s\n"), Some(62.75));
        assert_eq!(child_seconds("0m9.000s 0m9.000s\n"), None);
    }

    #[test]
    fn only_an_input_that_ends_alone_has_waited() {
        let folder = tempfile::tempdir().unwrap();
        let input = folder.path().join("timeout-1");
        fs::write(&input, "x").unwrap();
        let reported =
            format!("==1== ERROR\nartifact_prefix='a'; Test unit written to {}\n", input.display());
        assert_eq!(artifact(&reported).map(Path::new), Some(&*input));
        assert_eq!(artifact("#9 DONE   cov: 3"), None);
        assert!(!is_quick(Path::new("false"), "nvme_command", &input) && input.exists());
        assert!(is_quick(Path::new("true"), "nvme_command", &input) && !input.exists());
    }

    #[test]
    fn a_run_without_coverage_is_an_error() {
        let reported = |cov| {
            format!("#9 DONE   cov: {cov} ft: 7 corp: 1/1b\nstat::number_of_executed_units: 9\n")
        };
        let mut done = Run::default();
        assert!(done.read(&reported(3)).is_ok() && done.read(&reported(5)).is_ok());
        assert_eq!((done.executions, done.coverage), (18, (5, 7)));
        assert!(done.read(&reported(0)).is_err());
        assert!(done.read("nothing").is_err());
    }
}
