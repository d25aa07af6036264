//! The program's life: started in one order, stopped in the reverse one.
//!
//! ```text
//! log, memory ─> reactors ─> loader ─> methods ─> socket ─> --load ─> configuration ─> "ready"
//! "ready" ─> signal ─> configuration kept ─> socket closed ─> plugins ended ─> reactors stopped
//! ```
//!
//! All of it runs on the main thread, which otherwise sleeps. What must run on the app thread is
//! sent there and waited for.
#![forbid(unsafe_code)]

mod gate;

use crate::cli::Serve;
use crate::config::{self, Document, Halt, StateFile};
use crate::loader::{
    self, ConfigWriter, Manager, Outside, ProcessCore, Settings, search::Search, trust::Policy,
};
use crate::notifications::Notifications;
use crate::rpc::{
    self, Dispatcher, Outcome, Registry, Responder, Server, default_socket, register_builtin,
};
use crate::subsystems::Subsystems;
use crate::{log, methods, signals};
use drivebay_core::bdev::{device, examine};
use drivebay_core::env::{CpuSet, memory, runtime};
use drivebay_core::reactor::{self, Reactors, thread};
use gate::Gate;
use std::fmt;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// How long plugins may take to end.
const PLUGINS_END_MAX: Duration = Duration::from_secs(10);

/// What the main thread waits for.
#[derive(Debug)]
pub enum Event {
    /// A signal: end.
    Stop,
    /// `framework_start_init` was called.
    StartInit(Responder),
    /// A call of the configuration is answered.
    Answer(Outcome),
}

/// An error about `what`: a flag or a file.
fn failed(what: impl fmt::Display, why: impl fmt::Display) -> Halt {
    Halt::Failed(format!("{what}: {why}"))
}

/// What the methods work on. Shared by all of them.
#[derive(Debug)]
pub struct Host {
    /// The methods.
    pub registry: Arc<Registry>,
    /// The plugins.
    pub manager: Arc<Manager>,
    /// Events.
    pub notifications: Arc<Notifications>,
    /// Subsystems of plugins.
    pub subsystems: Arc<Subsystems>,
    /// Where the main thread listens.
    pub events: Sender<Event>,
    is_initialized: AtomicBool,
}

impl Host {
    /// Whether the configuration is loaded.
    pub fn is_initialized(&self) -> bool {
        self.is_initialized.load(Ordering::Acquire)
    }

    /// From now on it is.
    pub(crate) fn set_initialized(&self) {
        self.is_initialized.store(true, Ordering::Release);
    }
}

/// Runs the host until it is told to end.
pub fn serve(options: &Serve) -> ExitCode {
    match run(options) {
        Ok(()) | Err(Halt::Stopped) => ExitCode::SUCCESS,
        Err(Halt::Failed(why)) => {
            let _ = writeln!(std::io::stderr(), "drivebay serve: {why}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Serve) -> Result<(), Halt> {
    start_log(options)?;
    let (sender, events) = mpsc::channel();
    let stop = sender.clone();
    signals::watch(move || {
        // Fails only when the main thread ends already.
        let _ = stop.send(Event::Stop);
    })
    .map_err(|error| failed("signals", error))?;

    let document = config::starting_document(options).map_err(Halt::Failed)?;
    let reactors = start_reactors(options)?;
    let result = with_reactors(options, document, sender, &events);
    reactors.stop();
    tracing::info!(notice = true, "ended");
    result
}

/// Starts the host, does `work` once `document` is loaded, and ends it. The flag
/// that `work` gets is set when a signal comes.
///
/// # Errors
/// What did not start, what `work` says, or what did not end.
pub fn run_once<T>(
    options: &Serve,
    document: Document,
    work: impl FnOnce(&Arc<AtomicBool>) -> Result<T, Halt>,
) -> Result<T, Halt> {
    start_log(options)?;
    let (sender, events) = mpsc::channel();
    let is_stopped = Arc::<AtomicBool>::default();
    let (set, tell) = (Arc::clone(&is_stopped), sender.clone());
    signals::watch(move || {
        set.store(true, Ordering::Release);
        let _ = tell.send(Event::Stop);
    })
    .map_err(|error| failed("signals", error))?;
    let reactors = start_reactors(options)?;
    let core = Arc::new(ProcessCore);
    let result = make_host(options, sender, core).and_then(|host| {
        let gate = Arc::new(Gate::new(Arc::clone(&host.registry) as _));
        let server = start_server(options, &gate)?;
        let result = start(options, Some(document), &host, &events).and_then(|load| {
            load.runtime(&events)?;
            methods::framework::initialized(&host);
            gate.open();
            work(&is_stopped)
        });
        gate.close();
        drop(server);
        end_plugins(&host).and(result)
    });
    reactors.stop();
    result
}

/// Starts the host without a socket, with the tables of `core`, and does `work`. Nothing is ended:
/// that is left to the end of the process.
///
/// # Errors
/// What did not start.
pub(crate) fn run_over<T>(
    options: &Serve,
    core: Arc<dyn loader::Core>,
    work: impl FnOnce(&Arc<Host>) -> T,
) -> Result<T, Halt> {
    start_log(options)?;
    let (sender, events) = mpsc::channel();
    let _reactors = start_reactors(options)?;
    let host = make_host(options, sender, core)?;
    start(options, None, &host, &events)?.runtime(&events)?;
    methods::framework::initialized(&host);
    Ok(work(&host))
}

fn start_log(options: &Serve) -> Result<(), Halt> {
    log::init();
    if options.silence_noticelog {
        log::set_print_level(log::Level::Warning);
    }
    for flag in &options.logflag {
        // A flag of a plugin that comes later is as good as one of the host.
        log::set_flag(flag, true);
    }
    if !options.ignored.given.is_empty() {
        let flags: Vec<String> =
            options.ignored.given.iter().map(|flag| format!("--{flag}")).collect();
        tracing::warn!("flags that do nothing here: {}", flags.join(" "));
    }
    Ok(())
}

fn start_reactors(options: &Serve) -> Result<Reactors, Halt> {
    let available = CpuSet::available();
    let cores =
        options.environment.cpumask.clone().unwrap_or_else(|| CpuSet::one(available.first()));
    if let Some(core) = cores.iter().find(|&core| !available.contains(core)) {
        let why = format!("core {core} is not there; allowed: cores of 0x{available}");
        return Err(failed("--cpumask", why));
    }
    let limit = options.environment.mem_size.unwrap_or(0);
    match memory::configure(memory::Options { no_huge: options.environment.no_huge, limit }) {
        memory::Source::Huge(size) => {
            tracing::info!(notice = true, "DMA memory from hugepages of {} KiB", size >> 10);
        }
        memory::Source::Pages => {
            tracing::info!(notice = true, "DMA memory from ordinary pages");
        }
    }
    reactor::start(&cores, options.environment.mode.into())
        .map_err(|error| failed("reactors", error))
}

fn with_reactors(
    options: &Serve,
    document: Option<Document>,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Halt> {
    let host = make_host(options, sender, Arc::new(ProcessCore))?;
    let state = options.state.clone().map(|path| StateFile::new(path, &host));
    let mut dispatcher: Arc<dyn Dispatcher> = Arc::clone(&host.registry) as _;
    if let Some(state) = &state {
        dispatcher = state.record(dispatcher, &host.registry);
    }
    let gate = Arc::new(Gate::new(dispatcher));
    let server = start_server(options, &gate)?;

    let result = start(options, document, &host, events).and_then(|load| {
        let starting = Starting { options, load, host: &host, state: state.as_ref() };
        starting.serve_until_stopped(&gate, events)
    });

    gate.close();
    drop(state);
    drop(server);
    end_plugins(&host).and(result)
}

fn make_host(
    options: &Serve,
    events: Sender<Event>,
    core: Arc<dyn loader::Core>,
) -> Result<Arc<Host>, Halt> {
    let registry = Arc::new(Registry::new());
    let notifications = Arc::new(Notifications::default());
    let subsystems = Arc::new(Subsystems::default());
    let told = Arc::clone(&notifications);
    device::observe(Box::new(move |kind, name| {
        told.add(kind, name);
        methods::bdev::appeared();
    }));
    for folder in options.environment.plugin_dir.iter().filter(|folder| !folder.is_dir()) {
        // It may come later: plugins are looked for whenever one is needed.
        tracing::warn!("--plugin-dir {}: there is no such folder", folder.display());
    }
    let policy = match &options.environment.plugin_policy {
        Some(file) => Policy::read(file).map_err(|error| failed("--plugin-policy", error))?,
        None => Policy::default(),
    };
    let settings = Settings {
        policy,
        folders: Search::default_folders(&options.environment.plugin_dir),
        runtime: runtime::folder().map_err(|error| Halt::Failed(error.message))?,
    };
    let outside = Outside {
        core,
        rpc: Arc::clone(&registry),
        events: Arc::new(FromPlugins {
            notifications: Arc::clone(&notifications),
            subsystems: Arc::clone(&subsystems),
        }),
        log_level: log::plugin_level(),
    };
    let manager = on_app_thread(move || Manager::new(settings, outside))
        .map_err(|error| failed("plugins", error))?;
    let is_initialized = AtomicBool::new(false);
    let host = Host { registry, manager, notifications, subsystems, events, is_initialized };
    let host = Arc::new(host);
    register_methods(&host).map_err(|error| failed("methods", error))?;
    let allowed = options.rpcs_allowed.as_ref();
    host.registry.allow_only(allowed.map(|names| names.iter().cloned().collect()));
    Ok(host)
}

fn register_methods(host: &Arc<Host>) -> Result<(), Box<dyn std::error::Error>> {
    register_builtin(&host.registry)?;
    loader::methods::register(&host.manager, &host.registry)?;
    methods::register(host)?;
    Ok(())
}

/// What plugins tell the host.
struct FromPlugins {
    notifications: Arc<Notifications>,
    subsystems: Arc<Subsystems>,
}

impl loader::Events for FromPlugins {
    fn notify(&self, kind: &str, context: &str) {
        self.notifications.add(kind, context);
    }

    fn add_subsystem(&self, owner: u64, name: &str, config: Option<ConfigWriter>) {
        self.subsystems.add(owner, name, config);
    }

    fn remove_subsystems(&self, owner: u64) {
        self.subsystems.remove(owner);
    }
}

/// The socket is taken before any disk is, so that a second host ends early. Until the gate opens,
/// calls wait.
fn start_server(options: &Serve, gate: &Arc<Gate>) -> Result<Option<Server>, Halt> {
    if options.no_rpc_server {
        return Ok(None);
    }
    let path: PathBuf = match &options.rpc_socket {
        Some(path) => path.clone(),
        None => default_socket().map_err(|error| failed("--rpc-socket", error.message))?,
    };
    let dispatcher = Arc::clone(gate) as Arc<dyn Dispatcher>;
    let server = Server::start(rpc::Config::new(path), dispatcher);
    server.map(Some).map_err(|error| failed("--rpc-socket", error))
}

/// Loads what is to be loaded and calls the startup methods of the configuration; gives the calls
/// for after the initialisation.
fn start(
    options: &Serve,
    document: Option<Document>,
    host: &Arc<Host>,
    events: &Receiver<Event>,
) -> Result<config::Load, Halt> {
    for name in &options.environment.load {
        host.manager.load(name).map_err(|error| failed("--load", error))?;
    }
    let load = config::Load::new(document, host, options.json_ignore_init_errors);
    load.startup(events)?;
    Ok(load)
}

/// A host whose startup methods may be called.
struct Starting<'a> {
    options: &'a Serve,
    load: config::Load,
    host: &'a Arc<Host>,
    state: Option<&'a StateFile>,
}

impl Starting<'_> {
    fn serve_until_stopped(&self, gate: &Gate, events: &Receiver<Event>) -> Result<(), Halt> {
        if self.options.wait_for_rpc {
            gate.open();
            say("waiting for framework_start_init", self.options);
        } else {
            self.initialize(events)?;
            gate.open();
            say("ready", self.options);
        }
        loop {
            // The sender in `host` keeps the channel open.
            match events.recv().unwrap_or(Event::Stop) {
                Event::Stop => return Ok(()),
                Event::Answer(_) => {}
                Event::StartInit(responder) if self.host.is_initialized() => drop(responder),
                Event::StartInit(responder) => {
                    // On failure the responder says so by being dropped.
                    self.initialize(events)?;
                    responder.ok(&true);
                    say("ready", self.options);
                }
            }
        }
    }

    /// Makes the rest of the configuration's calls.
    fn initialize(&self, events: &Receiver<Event>) -> Result<(), Halt> {
        self.load.runtime(events)?;
        if let Some(state) = self.state {
            state.begin(self.load.ignored()).map_err(|why| failed("--state", why))?;
        }
        methods::framework::initialized(self.host);
        Ok(())
    }
}

/// One line on stderr for people and scripts that wait for it.
fn say(what: &str, options: &Serve) {
    let socket = match &options.rpc_socket {
        _ if options.no_rpc_server => "no RPC socket".to_owned(),
        Some(path) => path.display().to_string(),
        None => default_socket().map(|path| path.display().to_string()).unwrap_or_default(),
    };
    let cores = reactor::all().len();
    let _ = writeln!(std::io::stderr(), "{what}: {socket}, {cores} core(s)");
}

/// Tells modules that the end begins and ends the plugins, those that serve hosts first.
fn end_plugins(host: &Arc<Host>) -> Result<(), Halt> {
    let (sender, ended) = mpsc::channel();
    let manager = Arc::clone(&host.manager);
    thread::send_app(move || {
        examine::fini_start();
        manager.shutdown(Box::new(move || {
            let _ = sender.send(());
        }));
    });
    ended.recv_timeout(PLUGINS_END_MAX).map_err(|_| {
        let seconds = PLUGINS_END_MAX.as_secs();
        failed(
            "plugins",
            format!("they did not end within {seconds} s; the host ends without them"),
        )
    })
}

/// Runs `work` on the app thread and waits for its result. Not to be called there.
pub(crate) fn on_app_thread<T: Send + 'static>(
    work: impl FnOnce() -> loader::Result<T> + Send + 'static,
) -> loader::Result<T> {
    let (sender, result) = mpsc::channel();
    thread::send_app(move || {
        let _ = sender.send(work());
    });
    let gone = || loader::Error::new(libc::ESHUTDOWN, "the app thread has ended");
    result.recv().unwrap_or_else(|_| Err(gone()))
}
