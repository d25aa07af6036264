//! What the system reports about a process, and processes that end when their value is dropped.

use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// A process. Dropping the value ends it.
pub(super) struct Running {
    pub(super) child: Child,
}

impl Running {
    /// Starts it. The caller can read its standard output. Its stderr is dropped.
    pub(super) fn start(command: &mut Command) -> Result<Self, String> {
        let program = command.get_program().to_string_lossy().into_owned();
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let child = piped.spawn().map_err(|error| format!("{program}: {error}"))?;
        Ok(Self { child })
    }

    pub(super) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal. SIGSTOP holds a server that would otherwise spin during a measurement,
    /// SIGCONT lets it continue.
    pub(super) fn signal(&self, name: &str) -> Result<(), String> {
        signal(self.id(), name)
    }

    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Asks it to end and waits until it has ended.
    pub(super) fn end(&mut self) {
        if self.has_ended() {
            return;
        }
        // A stopped process ignores SIGTERM until SIGCONT.
        let asked = self.signal("CONT").and_then(|()| self.signal("TERM"));
        for _ in 0..500 {
            if asked.is_err() || self.has_ended() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.end();
    }
}

fn signal(pid: u32, name: &str) -> Result<(), String> {
    let pid = pid.to_string();
    let status = Command::new("kill").args(["-s", name, &pid]).stderr(Stdio::null()).status();
    match status {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("kill -s {name}: {status}")),
        Err(error) => Err(format!("kill: {error}")),
    }
}

/// Processor time of all its threads so far, in seconds.
pub(super) fn cpu_seconds(pid: u32) -> Result<f64, String> {
    let folder = format!("/proc/{pid}/task");
    let tasks = std::fs::read_dir(&folder).map_err(|error| format!("{folder}: {error}"))?;
    let ns: f64 = tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("schedstat")).ok())
        .filter_map(|text| text.split(' ').next()?.parse::<f64>().ok())
        .sum();
    Ok(ns / 1e9)
}

/// Resident memory in KiB, without hugepages.
pub(super) fn resident_kib(pid: u32) -> Result<f64, String> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
    kib_of(&text, "VmRSS:").ok_or_else(|| format!("{path}: no VmRSS"))
}

fn kib_of(text: &str, field: &str) -> Option<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(field))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_status_are_in_kib() {
        let text = "VmPeak:\t    3212 kB\nVmRSS:\t    1628 kB\n";
        assert_eq!(kib_of(text, "VmRSS:"), Some(1628.0));
        assert_eq!(kib_of(text, "VmSwap:"), None);
    }

    #[test]
    fn this_process_has_used_time_and_memory() {
        let pid = std::process::id();
        assert!(cpu_seconds(pid).unwrap() > 0.0);
        assert!(resident_kib(pid).unwrap() > 100.0);
    }
}
