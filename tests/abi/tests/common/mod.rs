//! Builds plugins in C, and provides a host around the loader, without a core.
#![allow(dead_code, unreachable_pub, reason = "each test file uses its part")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, reason = "tests")]
#![allow(unsafe_code, reason = "promises what the loader asks of a core")]

use drivebay::loader::trust::Policy;
use drivebay::loader::{ConfigWriter, Core, Events, Job, Manager, Outside, Settings, methods};
use drivebay::rpc::{Call, Dispatcher, Outcome, Peer, Registry, Responder, register_builtin};
use drivebay_plugin_api::{bay_bdev_api, bay_bdev_reg, bay_host, id};
use drivebay_spec_jsonrpc::State as RpcState;
use serde_json::value::RawValue;
use std::collections::VecDeque;
use std::ffi::c_void;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Compiles `tests/abi/plugins/<source>.c` with the given macros to `folder/<file>`.
pub fn build(source: &str, folder: &Path, file: &str, macros: &[(&str, &str)]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let to = folder.join(file);
    let status = Command::new("cc")
        .args(["-std=c11", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-O1"])
        .args(macros.iter().map(|(name, value)| format!("-D{name}={value}")))
        .arg("-I")
        .arg(root.join("../../sdk/c"))
        .arg("-o")
        .arg(&to)
        .arg(root.join("plugins").join(source).with_extension("c"))
        .args(["-Wl,--no-as-needed", "-lc"])
        .status()
        .unwrap();
    assert!(status.success());
    fs::set_permissions(&to, Permissions::from_mode(0o755)).unwrap();
    to
}

/// The longest time of a call on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A string literal of C for a macro's value.
pub fn text(value: &str) -> String {
    serde_json::to_string(value).unwrap()
}

/// Replaces the only occurrence of `from` in a file by a text of the same length.
pub fn patch(file: &Path, from: &str, to: &str) {
    assert_eq!(from.len(), to.len());
    let mut bytes = fs::read(file).unwrap();
    let at = bytes.windows(from.len()).position(|part| part == from.as_bytes()).unwrap();
    bytes[at..at + to.len()].copy_from_slice(to.as_bytes());
    fs::write(file, bytes).unwrap();
}

/// The loader without a core. This thread is the app thread. It does work for the app thread at once, or,
/// if another thread asks, while it waits for an answer.
pub struct TestHost {
    pub plugins: TempDir,
    pub manager: Arc<Manager>,
    pub registry: Arc<Registry>,
    pub core: Arc<TestCore>,
    pub events: Arc<TestEvents>,
    _runtime: TempDir,
}

pub struct TestCore {
    app: ThreadId,
    jobs: Mutex<VecDeque<Job>>,
    pub bdevs: AtomicUsize,
    bdev_api: &'static bay_bdev_api,
}

#[derive(Default)]
pub struct TestEvents {
    pub seen: Mutex<Vec<String>>,
}

static BDEVS_REGISTERED: AtomicUsize = AtomicUsize::new(0);

/// # Safety
/// `bay_bdev_register_fn`
unsafe extern "C" fn register(_: *const bay_host, _: *const bay_bdev_reg, _: *mut u64) -> i32 {
    BDEVS_REGISTERED.fetch_add(1, Ordering::Relaxed);
    0
}

pub fn bdevs_registered() -> usize {
    BDEVS_REGISTERED.load(Ordering::Relaxed)
}

// SAFETY: the thread that made it is the app thread; the only table is leaked.
unsafe impl Core for TestCore {
    fn on_app_thread(&self) -> bool {
        thread::current().id() == self.app
    }
    fn send_to_app(&self, job: Job) {
        if self.on_app_thread() {
            return job();
        }
        self.jobs.lock().unwrap().push_back(job);
    }
    fn table(&self, wanted: &str) -> Option<*const c_void> {
        // The tests do not use the tables of the core, so one table stands for both ids that plugins ask for.
        let known = [id::BDEV, "bay.pci/1"].contains(&wanted);
        known.then_some(std::ptr::from_ref(self.bdev_api).cast())
    }
    fn owned(&self, _: *const bay_host) -> usize {
        self.bdevs.load(Ordering::Relaxed)
    }
    fn others_use(&self, _: *const bay_host) -> bool {
        false
    }
    fn release_owner(&self, _: *const bay_host, done: Job) {
        self.bdevs.store(0, Ordering::Relaxed);
        done();
    }
    unsafe fn add_bdev_module(
        &self,
        _: *const bay_host,
        _: *mut c_void,
        _: *const drivebay_plugin_api::bay_bdev_module,
    ) {
        // No plugin of these tests offers a bdev module.
        panic!("a bdev module was offered");
    }
}

impl TestCore {
    fn next_job(&self) -> Option<Job> {
        self.jobs.lock().unwrap().pop_front()
    }
}

impl Events for TestEvents {
    fn notify(&self, kind: &str, context: &str) {
        self.seen.lock().unwrap().push(format!("{context} {kind}"));
    }
    fn add_subsystem(&self, _: u64, _: &str, _: Option<ConfigWriter>) {}
    fn remove_subsystems(&self, _: u64) {}
}

impl TestHost {
    pub fn new() -> Self {
        Self::with_policy(Policy::default())
    }

    pub fn with_policy(policy: Policy) -> Self {
        // SAFETY: all fields are integers and optional function pointers, which may be zero.
        let empty: bay_bdev_api = unsafe { std::mem::zeroed() };
        let size = u32::try_from(size_of::<bay_bdev_api>()).unwrap();
        let bdev_api =
            Box::leak(Box::new(bay_bdev_api { size, register: Some(register), ..empty }));
        let core = Arc::new(TestCore {
            app: thread::current().id(),
            jobs: Mutex::default(),
            bdevs: AtomicUsize::new(0),
            bdev_api,
        });
        let (plugins, runtime) = (TempDir::new().unwrap(), TempDir::new().unwrap());
        let registry = Arc::new(Registry::new());
        registry.set_state(RpcState::Runtime);
        let events = Arc::new(TestEvents::default());
        let outside = Outside {
            core: Arc::clone(&core) as Arc<dyn Core>,
            rpc: Arc::clone(&registry),
            events: Arc::clone(&events) as Arc<dyn Events>,
            log_level: Box::leak(Box::new(AtomicU32::new(3))),
        };
        let settings = Settings {
            folders: vec![plugins.path().to_owned()],
            runtime: runtime.path().to_owned(),
            policy,
        };
        let manager = Manager::new(settings, outside).unwrap();
        register_builtin(&registry).unwrap();
        methods::register(&manager, &registry).unwrap();
        Self { plugins, manager, registry, core, events, _runtime: runtime }
    }

    /// Builds a probe into the plugin folder.
    pub fn probe(&self, file: &str, macros: &[(&str, &str)]) -> PathBuf {
        build("probe", self.plugins.path(), file, macros)
    }

    /// Starts a call. The receiver gets its outcome, perhaps at once.
    pub fn start_call(&self, method: &str, params: &str) -> mpsc::Receiver<Outcome> {
        let (sender, outcome) = mpsc::channel();
        self.registry.call(Call {
            method: method.into(),
            params: Some(RawValue::from_string(params.into()).unwrap()),
            peer: Peer::local(),
            responder: Responder::new(move |outcome| drop(sender.send(outcome))),
        });
        outcome
    }

    /// Waits for an answer. Meanwhile it does what other threads ask of the app thread.
    pub fn wait<T>(&self, outcome: &mpsc::Receiver<T>) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            while let Some(job) = self.core.next_job() {
                job();
            }
            match outcome.recv_timeout(Duration::from_millis(1)) {
                Ok(outcome) => return outcome,
                Err(_) => assert!(Instant::now() < end, "the call was not answered"),
            }
        }
    }

    pub fn call(&self, method: &str, params: &str) -> Result<serde_json::Value, (i64, String)> {
        let outcome = self.start_call(method, params);
        match self.wait(&outcome) {
            Ok(result) => Ok(serde_json::from_str(result.get()).unwrap()),
            Err(error) => Err((error.code, error.message)),
        }
    }

    /// State and reason of a plugin in the list.
    pub fn state(&self, name: &str) -> Option<(String, String)> {
        let list = self.call("plugin_list", "{}").unwrap();
        let entry = list.as_array().unwrap().iter().find(|p| p["name"] == name)?;
        let text = |member: &str| entry[member].as_str().unwrap_or_default().to_owned();
        Some((text("state"), text("reason")))
    }

    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.events.seen.lock().unwrap())
    }
}
