//! A host that a task starts and talks to.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{Outcome, run};

/// How long the host may take to answer its first call, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// The host and its own folder. Dropping it removes both.
pub(crate) struct Host {
    child: Child,
    program: PathBuf,
    socket: PathBuf,
    /// Its runtime folder.
    pub(crate) folder: PathBuf,
}

impl Host {
    /// Starts the program in a folder of build output, with the plugins there, and waits until it
    /// answers.
    pub(crate) fn start(built: &Path, task: &str, flags: &[&str]) -> Result<Self, String> {
        let folder = std::env::temp_dir().join(format!("drivebay-{task}-{}", std::process::id()));
        std::fs::create_dir(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
        let (program, socket) = (built.join("drivebay"), folder.join("rpc.sock"));
        let mut command = Command::new(&program);
        command.arg("serve").arg("-r").arg(&socket).arg("--plugin-dir").arg(built).args(flags);
        command.env("DRIVEBAY_RUNTIME", &folder);
        let child = command.spawn().map_err(|error| format!("{}: {error}", program.display()))?;
        let mut host = Self { child, program, socket, folder };
        host.wait_until_it_answers()?;
        Ok(host)
    }

    fn wait_until_it_answers(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while !run::succeeds(&mut self.call("spdk_get_version", "{}")) {
            if let Ok(Some(status)) = self.child.try_wait() {
                return Err(format!("the host ended: {status}"));
            }
            if Instant::now() > end {
                return Err(format!("the host did not answer within {} s", PATIENCE.as_secs()));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    fn call(&self, method: &str, params: &str) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("rpc").arg("-r").arg(&self.socket).args([method, params]);
        command
    }

    /// Makes a call, and prints the call and its answer.
    pub(crate) fn rpc(&self, method: &str, params: &str) -> Result<(), String> {
        run::must(&mut self.call(method, params))
    }

    /// Makes a call and returns its answer.
    pub(crate) fn answer(&self, method: &str, params: &Value) -> Result<Value, String> {
        let failed = |why: String| format!("{method} {params}: {why}");
        let mut command = self.call(method, &params.to_string());
        let output = command.stdin(Stdio::null()).output().map_err(|e| failed(e.to_string()))?;
        if !output.status.success() {
            return Err(failed(String::from_utf8_lossy(&output.stderr).into_owned()));
        }
        serde_json::from_slice(&output.stdout).map_err(|error| failed(error.to_string()))
    }

    /// Asks the host to end, and waits.
    pub(crate) fn stop(&mut self) -> Result<(), String> {
        let signal = r#"{"sig_name":"SIGTERM"}"#;
        run::must(self.call("spdk_kill_instance", signal).stdout(Stdio::null()))?;
        self.wait_for_its_end()
    }

    /// Waits until the host ends. The caller has asked it to end.
    pub(crate) fn wait_for_its_end(&mut self) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            match self.child.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => return Err(format!("the host ended: {status}")),
                Ok(None) => std::thread::sleep(Duration::from_millis(20)),
                Err(error) => return Err(format!("the host: {error}")),
            }
        }
        Err(format!("the host did not end within {} s", PATIENCE.as_secs()))
    }

    /// Waits for the host's end; Ctrl-C reaches it as it reaches this program.
    pub(crate) fn wait(&mut self) -> Outcome {
        let status = self.child.wait().map_err(|error| format!("the host: {error}"))?;
        if status.success() { Ok(()) } else { Err(format!("the host ended: {status}").into()) }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        // This does nothing if the host has ended. It ends a host that an error left running.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}
