//! The life of the program: it starts its parts in one order and stops them in the reverse order.
//!
//! ```text
//! log, memory ─> reactors ─> loader ─> methods ─> socket ─> --load ─> configuration ─> "ready"
//! "ready" ─> signal ─> configuration saved ─> socket closed ─> plugins stopped ─> reactors stopped
//! ```
//!
//! All of this runs on the main thread, which otherwise sleeps. The main thread sends work that
//! must run on the app thread there and waits for it.
#![forbid(unsafe_code)]

mod gate;
mod overdue;

use crate::cli::Serve;
use crate::config::{self, Document, Halt, KeptFile, StateFile};
use crate::host::{Event, Host, on_app_thread};
use crate::loader::{
    self, ConfigWriter, Manager, Outside, ProcessCore, Settings, search::Search, trust::Policy,
};
use crate::notifications::Notifications;
use crate::rpc::{self, Dispatcher, Registry, Server, default_socket, register_builtin};
use crate::subsystems::Subsystems;
use crate::{log, methods, sandbox, signals};
use drivebay_core::bdev::{events, examine, removal};
use drivebay_core::env::pci::permit;
use drivebay_core::env::{CpuSet, Overcommit, memory, runtime, sockets};
use drivebay_core::reactor::{self, Reactors, thread, watch};
use gate::Gate;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use overdue::Overdue;
use std::fmt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, Sender};
use std::time::Duration;

/// How long plugins may take to stop.
const PLUGINS_END_MAX: Duration = Duration::from_secs(10);
/// How long the whole host may take to stop after a signal. Then it exits, whatever still runs.
const END_MAX: Duration = Duration::from_secs(15);
/// How long a deletion or an unload may take before the caller gets an answer that says what it
/// waits for.
const DELETE_MAX: Duration = Duration::from_secs(10);
/// How long the writer of the log may take for the last lines.
const LOG_END_MAX: Duration = Duration::from_secs(1);

/// An error about `what`: a flag or a file.
fn failed(what: impl fmt::Display, why: impl fmt::Display) -> Halt {
    Halt::Failed(format!("{what}: {why}"))
}

/// Runs the host until a signal or a method stops it.
pub fn serve(options: &Serve) -> ExitCode {
    let exit = match run(options) {
        Ok(()) | Err(Halt::Stopped) => ExitCode::SUCCESS,
        Err(Halt::Failed(why)) => {
            log::print(format!("drivebay serve: {why}"));
            ExitCode::FAILURE
        }
    };
    log::flush(LOG_END_MAX);
    exit
}

fn run(options: &Serve) -> Result<(), Halt> {
    // Do this before any thread starts, because another thread could read the environment at the
    // same time.
    if let Some(folder) = &options.socket_dir {
        let what = format!("-S {}", folder.display());
        sockets::set_folder(folder).map_err(|error| failed(&what, error))?;
    }
    let given_up = sandbox::enter(options).map_err(Halt::Failed)?;
    start_log(options)?;
    given_up.iter().for_each(|line| tracing::info!(notice = true, "{line}"));
    let (sender, events) = mpsc::channel();
    let stop = sender.clone();
    signals::watch(move || {
        // An error means that the main thread is already stopping.
        let _ = stop.send(Event::Stop);
        end_within(END_MAX);
    })
    .map_err(|error| failed("signals", error))?;

    let kept = options.state.as_deref().map(KeptFile::open).transpose();
    let kept = kept.map_err(|why| failed("--state", why))?;
    let document = config::starting_document(options.config.as_deref(), kept.as_ref());
    let document = document.map_err(Halt::Failed)?;
    let reactors = start_reactors(options)?;
    let result = with_reactors(options, document, kept, sender, &events);
    reactors.stop();
    tracing::info!(notice = true, "ended");
    result
}

/// Starts the host, runs `work` once `document` is loaded, and stops the host. A signal sets the
/// flag that `work` gets.
///
/// # Errors
/// What did not start, the error of `work`, or what did not stop.
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
    log::flush(LOG_END_MAX);
    result
}

/// Starts the host without a socket and with the tables of `core`, and runs `work`. It stops
/// nothing: the process must exit afterwards.
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
    let result = work(&host);
    log::flush(LOG_END_MAX);
    Ok(result)
}

fn start_log(options: &Serve) -> Result<(), Halt> {
    let target = match &options.log_file {
        Some(path) => log::Target::File(path.clone()),
        None => log::Target::Stderr,
    };
    let name = options
        .log_file
        .as_ref()
        .map_or("log".into(), |path| format!("--log-file {}", path.display()));
    log::init(target).map_err(|error| failed(name, error))?;
    if options.silence_noticelog {
        log::set_print_level(log::Level::Warning);
    }
    for flag in &options.logflag {
        // A plugin that is loaded later may have this flag, so any name is accepted.
        log::set_flag(flag, true);
    }
    if !options.ignored.given.is_empty() {
        let flags: Vec<String> =
            options.ignored.given.iter().map(|flag| format!("--{flag}")).collect();
        tracing::warn!("flags that are accepted without effect: {}", flags.join(" "));
    }
    Ok(())
}

/// Raises the limit of open files to the most that the system allows this process. Disks,
/// connections and plugins need descriptors. The usual soft limit of 1,024 is for programs that use
/// select(2).
fn raise_descriptor_limit() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(error) = raised {
        tracing::warn!("cannot raise the limit of open files: {error}");
    }
}

fn start_reactors(options: &Serve) -> Result<Reactors, Halt> {
    raise_descriptor_limit();
    let available = CpuSet::available();
    let cores =
        options.environment.cpumask.clone().unwrap_or_else(|| CpuSet::one(available.first()));
    if let Some(core) = cores.iter().find(|&core| !available.contains(core)) {
        let why = format!("core {core} is not available; allowed: cores of 0x{available}");
        return Err(failed("--cpumask", why));
    }
    let limit = options.environment.mem_size.unwrap_or(0);
    let overcommit = match options.environment.overcommit {
        true => Overcommit::Allow,
        false => Overcommit::Refuse,
    };
    permit::set(options.environment.pci());
    let no_huge = options.environment.no_huge;
    match memory::configure(memory::Options { no_huge, limit, overcommit }) {
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
    kept: Option<KeptFile>,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<(), Halt> {
    let host = make_host(options, sender, Arc::new(ProcessCore))?;
    let state = kept.map(|file| StateFile::new(file, &host));
    let registry = Arc::clone(&host.registry) as _;
    let mut dispatcher: Arc<dyn Dispatcher> =
        Arc::new(Overdue::new(registry, DELETE_MAX, waits_for));
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
    let sink = Arc::clone(&notifications);
    events::observe(Box::new(move |kind, name| {
        sink.add(kind, name);
        config::save::bdev_changed(kind, name);
        methods::bdev::appeared();
    }));
    for folder in options.environment.plugin_dir.iter().filter(|folder| !folder.is_dir()) {
        // The folder may appear later: the host searches for plugins whenever it needs one.
        tracing::warn!("--plugin-dir {}: there is no such folder", folder.display());
    }
    let policy = match &options.environment.plugin_policy {
        Some(file) => Policy::read(file).map_err(|error| failed("--plugin-policy", error))?,
        None => Policy::default(),
    };
    let settings = Settings {
        policy,
        folders: Search::default_folders(&options.environment.plugin_dir),
        runtime: runtime::folder().map_err(|error| Halt::Failed(error.message().to_owned()))?,
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
    let host = Arc::new(Host::new(registry, manager, notifications, subsystems, events));
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

/// Receives the panics, subsystems and configuration that plugins report to the host.
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

    fn panicked(&self, owner: u64, table: usize) {
        self.subsystems.panicked(owner);
        config::save::panicked(table);
    }

    fn made_by(&self, bdev: &str) -> Option<String> {
        config::save::made_by(bdev)
    }
}

/// Takes the socket before any disk, so that a second host fails early. Calls wait until the gate
/// opens.
fn start_server(options: &Serve, gate: &Arc<Gate>) -> Result<Option<Server>, Halt> {
    if options.no_rpc_server {
        return Ok(None);
    }
    let path: PathBuf = match &options.rpc_socket {
        Some(path) => path.clone(),
        None => {
            default_socket().map_err(|error| failed("--rpc-socket", error.message().to_owned()))?
        }
    };
    let dispatcher = Arc::clone(gate) as Arc<dyn Dispatcher>;
    let server = Server::start(rpc::Config::new(path), dispatcher);
    server.map(Some).map_err(|error| failed("--rpc-socket", error))
}

/// Loads the plugins of `--load` and makes the startup calls of the configuration. Returns the
/// calls that belong after the initialization.
fn start(
    options: &Serve,
    document: Option<Document>,
    host: &Arc<Host>,
    events: &Receiver<Event>,
) -> Result<config::Load, Halt> {
    for name in &options.environment.load {
        host.manager.load(name).map_err(|error| failed("--load", error))?;
    }
    let mut load = config::Load::new(document, host, options.json_ignore_init_errors);
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
            print_state("waiting for framework_start_init", self.options);
        } else {
            self.initialize(events)?;
            gate.open();
            print_state("ready", self.options);
        }
        loop {
            // The sender in `host` keeps the channel open.
            match events.recv().unwrap_or(Event::Stop) {
                Event::Stop => return Ok(()),
                Event::Answer(_) => {}
                Event::StartInit(responder) if self.host.is_initialized() => drop(responder),
                Event::StartInit(responder) => {
                    // On failure the responder is dropped, which answers the call with an error.
                    self.initialize(events)?;
                    responder.ok(&true);
                    print_state("ready", self.options);
                }
            }
        }
    }

    /// Makes the remaining calls of the configuration.
    fn initialize(&self, events: &Receiver<Event>) -> Result<(), Halt> {
        // Disks that the host accepted once are created again, even if the machine has less memory
        // today.
        memory::set_overcommit(if self.state.is_some() {
            Overcommit::Warn
        } else {
            Overcommit::Refuse
        });
        self.load.runtime(events)?;
        memory::set_overcommit(Overcommit::Refuse);
        if let Some(state) = self.state {
            state.begin(self.load.ignored()).map_err(|why| failed("--state", why))?;
        }
        methods::framework::initialized(self.host);
        Ok(())
    }
}

/// Prints one line on stderr, for people and for scripts that wait for it.
fn print_state(what: &str, options: &Serve) {
    let socket = match &options.rpc_socket {
        _ if options.no_rpc_server => "no RPC socket".to_owned(),
        Some(path) => path.display().to_string(),
        None => default_socket().map(|path| path.display().to_string()).unwrap_or_default(),
    };
    let cores = reactor::all().len();
    log::print(format!("{what}: {socket}, {cores} core(s)"));
}

/// Exits after `limit` if the host has not stopped by then, so that a plugin that does not return
/// cannot keep the process.
fn end_within(limit: Duration) {
    let exit = move || {
        std::thread::sleep(limit);
        let seconds = limit.as_secs();
        let stuck = watch::stuck();
        let why =
            if stuck.is_empty() { "the reason is unknown".to_owned() } else { stuck.join("; ") };
        tracing::error!("the host did not end within {seconds} s and exits: {why}");
        log::flush(LOG_END_MAX);
        signals::exit(1);
    };
    // If the thread cannot be created, the stop takes as long as the plugins take.
    let _ = std::thread::Builder::new().name("end".into()).spawn(exit);
}

/// What the call of a method that deletes or unloads `name` waits for.
fn waits_for(method: &str, name: &str) -> Option<String> {
    let stuck = watch::stuck();
    if !stuck.is_empty() {
        return Some(stuck.join("; "));
    }
    match method {
        "plugin_unload" => {
            Some("it is still stopping: it waits for its own I/O or connections".into())
        }
        _ => removal::waits_for(name),
    }
}

/// Tells modules that the host is stopping, and stops the plugins: first those that serve hosts.
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
        let (seconds, left) = (PLUGINS_END_MAX.as_secs(), left_plugins(host).join("; "));
        failed(
            "plugins",
            format!("not stopped within {seconds} s, so the host exits without them: {left}"),
        )
    })
}

/// The plugins that have not stopped. If a callback blocks the app thread, which would list them,
/// returns that callback instead.
fn left_plugins(host: &Arc<Host>) -> Vec<String> {
    let stuck = watch::stuck();
    if !stuck.is_empty() {
        return stuck;
    }
    let (sender, listed) = mpsc::channel();
    let manager = Arc::clone(&host.manager);
    thread::send_app(move || {
        let _ = sender.send(manager.list_known().unwrap_or_default());
    });
    let listed = listed.recv_timeout(Duration::from_secs(1)).unwrap_or_default();
    let is_left = [loader::State::Serving, loader::State::Quiescing];
    let left = listed.into_iter().filter(|plugin| is_left.contains(&plugin.state));
    left.map(|plugin| plugin.name).collect()
}
