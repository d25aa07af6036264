//! The child process: a host with the plugin, the guard between them, and the checks that the
//! supervisor selected.

use super::core::GuardedCore;
use super::crash;
use super::report::{Event, LOADS};
use crate::app;
use crate::cli::{Check, Serve};
use crate::host::{Host, on_app_thread};
use crate::loader::{self, search::inspect_to_load};
use crate::rpc::{Call, Dispatcher, Peer, Responder};
use drivebay_check::breach;
use drivebay_check::calls::{self, Call as Entry};
use drivebay_check::rig::{self, Rig, Settings};
use drivebay_check::run;
use drivebay_check::verdict::{Line, Outcome, Verdict, failed};
use drivebay_core::env::CpuSet;
use drivebay_spec_jsonrpc::Method;
use serde_json::Value;
use serde_json::value::to_raw_value;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::ExitCode;
use std::sync::mpsc::{self, Receiver};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// The number of cores of the child's host: enough for threads to meet.
const CORES_MAX: usize = 2;
/// The number of events that the host keeps.
const EVENTS_KEPT: usize = 1024;
/// How long the plugin may take to stop.
const END_MAX: Duration = Duration::from_secs(10);

/// The file for events: the original stdout. The plugin's own output goes to stderr.
static EVENTS: OnceLock<Mutex<File>> = OnceLock::new();

fn report(event: &Event) {
    let Some(events) = EVENTS.get() else { return };
    let text = serde_json::to_string(event).unwrap_or_default();
    let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
    // An error means that the supervisor is gone, so nobody reads the events.
    let _ = events.write_all(format!("{text}\n").as_bytes());
}

/// Runs the selected checks up to the first that fails. Does not return.
pub(super) fn run(options: &Check) -> ExitCode {
    let result = take_stdout().and_then(|()| {
        calls::watch(|seen| {
            report(&Event::Hang { seen: seen.to_owned() });
            exit_now(1);
        });
        let host = host_of(options);
        app::run_over(&host, Arc::new(GuardedCore), |host| run_checks(options, host))
            .map_err(|halt| format!("{halt:?}"))
    });
    if let Err(why) = result {
        report(&Event::Broken { why });
    }
    exit_now(0)
}

/// Skip the plugin's exit handlers, because they are not part of the check.
#[expect(unsafe_code, reason = "ends the process without the plugin's exit handlers")]
fn exit_now(code: i32) -> ! {
    // SAFETY: the call ends the process at once.
    unsafe { libc::_exit(code) }
}

fn take_stdout() -> Result<(), String> {
    let events = nix::unistd::dup(std::io::stdout()).map_err(|e| format!("stdout: {e}"))?;
    let flags = nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::FD_CLOEXEC);
    nix::fcntl::fcntl(&events, flags).map_err(|e| format!("stdout: {e}"))?;
    nix::unistd::dup2_stdout(std::io::stderr()).map_err(|e| format!("stdout: {e}"))?;
    crash::report_to(events.as_raw_fd());
    let _ = EVENTS.set(Mutex::new(File::from(events)));
    Ok(())
}

fn host_of(options: &Check) -> Serve {
    let mut host = Serve::unreachable();
    host.environment.plugin_dir.clone_from(&options.plugin_dir);
    host.environment.plugin_dir.extend(options.file.parent().map(Path::to_owned));
    let cores: Vec<String> =
        CpuSet::available().iter().take(CORES_MAX).map(|core| core.to_string()).collect();
    host.environment.cpumask = CpuSet::parse(&format!("[{}]", cores.join(","))).ok();
    host
}

fn run_checks(options: &Check, host: &Arc<Host>) {
    let plugin = match Checked::new(options, host) {
        Ok(plugin) => plugin,
        Err(why) => return report(&Event::Broken { why }),
    };
    if !loads(&plugin) {
        return;
    }
    let settings = Settings {
        params: options.params.clone().unwrap_or_default(),
        seed: options.seed,
        is_long: options.long,
        folder: options.child_folder.clone().unwrap_or_else(std::env::temp_dir),
    };
    // Fills the list of events, so that it does not look like memory that grows.
    for _ in 0..EVENTS_KEPT {
        host.notifications.add("bdev_register", "check0");
    }
    let mut rig = match Rig::new(&plugin, &settings) {
        Ok(rig) => rig,
        Err(why) => return report(&Event::Broken { why }),
    };
    if plugin.kind == "filter"
        && let Err(why) = rig.ensure_base()
    {
        return report(&Event::Broken { why: format!("{why:?}") });
    }
    for planned in run::plan(&plugin.kind, &plugin.provides) {
        if !options.child.contains(&planned.name) {
            continue;
        }
        report(&Event::Begin { name: planned.name.clone() });
        let line = run::run(&mut rig, &planned);
        let is_over = matches!(line.outcome, Outcome::Failed { .. });
        report(&Event::End(line));
        if is_over {
            return;
        }
    }
}

/// The first check: the plugin loads, inits and starts.
fn loads(plugin: &Checked) -> bool {
    report(&Event::Begin { name: LOADS.to_owned() });
    let began = Instant::now();
    let mut outcome = match rig::Host::load(plugin) {
        Ok(()) => Outcome::Ok,
        Err(seen) => Outcome::Failed { expected: "it loads, inits and starts".to_owned(), seen },
    };
    if let (Outcome::Ok, Some(breach)) = (&outcome, breach::take().into_iter().next()) {
        outcome = Outcome::Failed { expected: breach.rule.to_owned(), seen: breach.seen };
    }
    let is_good = outcome == Outcome::Ok;
    let ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    report(&Event::End(Line { name: LOADS.to_owned(), outcome, ms }));
    is_good
}

/// The plugin and its host.
struct Checked {
    host: Arc<Host>,
    path: String,
    name: String,
    kind: String,
    provides: Vec<String>,
    refusals: Vec<String>,
}

impl Checked {
    fn new(options: &Check, host: &Arc<Host>) -> Result<Self, String> {
        let inspection = inspect_to_load(&options.file).map_err(|not| not.to_string())?;
        let manifest = inspection.manifest.ok_or("it has no readable manifest")?;
        // Load by path, because a plugin of the same name may come earlier on the search path.
        let path = std::fs::canonicalize(&options.file).map_err(|error| error.to_string())?;
        Ok(Self {
            host: Arc::clone(host),
            path: path.display().to_string(),
            name: manifest.name,
            kind: manifest.kind,
            provides: manifest.provides,
            refusals: inspection.refusals,
        })
    }
}

impl rig::Host for Checked {
    fn load(&self) -> Result<(), String> {
        let (manager, path) = (Arc::clone(&self.host.manager), self.path.clone());
        let loaded = on_app_thread(move || {
            let _entered = calls::enter(Entry::Start);
            manager.load(&path)
        });
        loaded.map_err(|error| error.message().to_owned())
    }

    fn unload(&self) -> Result<(), String> {
        let (manager, name) = (Arc::clone(&self.host.manager), self.name.clone());
        let (sender, ended) = mpsc::channel();
        let asked = on_app_thread(move || {
            manager.unload(
                &name,
                Box::new(move |result: loader::Result<()>| {
                    let _ = sender.send(result.map_err(|error| error.message().to_owned()));
                }),
            );
            Ok(())
        });
        asked.map_err(|error| error.message().to_owned())?;
        let late = |_| format!("it did not end within {} s", END_MAX.as_secs());
        ended.recv_timeout(END_MAX).map_err(late)?
    }

    fn begin(&self, method: &str, params: &Value) -> Receiver<Result<Value, String>> {
        let (sender, answer) = mpsc::channel();
        let responder = Responder::new(move |outcome| {
            let answer = match outcome {
                Ok(result) => serde_json::from_str(result.get()).map_err(|error| error.to_string()),
                Err(error) => Err(format!("error {}: {}", error.code, error.message)),
            };
            let _ = sender.send(answer);
        });
        self.host.registry.call(Call {
            method: method.to_owned(),
            params: to_raw_value(params).ok(),
            peer: Peer::local(),
            responder,
        });
        answer
    }

    fn methods(&self) -> Vec<Arc<Method>> {
        self.host.registry.methods_of(&self.name)
    }

    fn layout(&self) -> Verdict {
        match self.refusals.first() {
            None => Ok(()),
            Some(first) => failed("notes and layout fit this host", first.clone()),
        }
    }

    fn provides(&self) -> Vec<String> {
        self.provides.clone()
    }
}
