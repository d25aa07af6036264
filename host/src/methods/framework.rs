//! `framework_*`: initialization, subsystems and their configuration, reactors.

use super::entry::{Entry, TICK_RATE, on_app, on_app_later};
use crate::config::save;
use crate::host::{Event, Host};
use crate::rpc::{Responder, async_handler};
use crate::subsystems::{OF_PLUGINS, OWN};
use drivebay_core::env::pci::device;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, State, params};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

params! {
    /// Parameters of `framework_get_config`.
    pub(crate) struct GetConfig {
        /// Name of a subsystem, as listed by `framework_get_subsystems`.
        name: String,
        /// If true, consecutive calls of one method form an array, so that a client can send them as one batch.
        with_batches: bool = false,
    }
    /// Parameters of `framework_set_reactor_mode`.
    pub(crate) struct SetReactorMode {
        /// How idle reactors wait.
        mode: ReactorMode,
        /// Core of one reactor. If absent, the mode applies to all reactors.
        lcore: Option<u32>,
    }
    /// One subsystem of `framework_get_subsystems`.
    struct Subsystem {
        /// Name.
        subsystem: String,
        /// Names of the subsystems that it needs.
        depends_on: Vec<String>,
    }
    /// Result of `framework_get_reactors`.
    struct Reactors {
        /// Ticks in a second.
        tick_rate: u64,
        /// Process id of the host.
        pid: u32,
        /// The reactors, by core.
        reactors: Vec<ReactorRow>,
    }
    struct ReactorRow {
        /// Core.
        lcore: u64,
        /// The kernel's thread id.
        tid: u64,
        /// Time in rounds that found work, in ticks.
        busy: u64,
        /// Time in all other rounds, in ticks.
        idle: u64,
        /// Whether the reactor sleeps when it has no work.
        in_interrupt: bool,
        /// The lightweight threads that it runs.
        lw_threads: Vec<LwThread>,
    }
    struct LwThread {
        /// Name.
        name: String,
        /// Id.
        id: u64,
        /// Cores that the thread may run on, as a hexadecimal mask.
        cpumask: String,
        /// How long the thread has been running, in ticks.
        elapsed: u64,
    }
    /// One device of `framework_get_pci_devices`.
    struct PciDevice {
        /// Address, as `domain:bus:device.function`.
        address: String,
        /// Always `pci`.
        r#type: String,
        /// NUMA node; -1 = not known.
        numa_id: i64,
        /// The configuration space, in hexadecimal.
        config_space: String,
    }
    /// How idle reactors wait.
    pub(crate) enum ReactorMode {
        /// They never sleep.
        Polled = "polled",
        /// They spin for a short time, then sleep.
        Adaptive = "adaptive",
    }
}

pub(super) fn entries(host: &Arc<Host>) -> Vec<Entry> {
    let (initializing, waiting, of_config, of_subsystems) =
        (Arc::clone(host), Arc::clone(host), Arc::clone(host), Arc::clone(host));
    vec![
        (
            Method::new::<NoParams>(
                "framework_start_init",
                Role::Admin,
                "Ends the startup state and initializes the host.",
            )
            .states(&[State::Startup])
            .result("True, once the host is initialized.")
            .returns::<bool>(),
            on_app_later(move |NoParams {}, responder| {
                // A failed send means that the host is stopping. The dropped responder answers with
                // an error.
                let _ = initializing.events.send(Event::StartInit(responder));
            }),
        ),
        (
            Method::new::<NoParams>(
                "framework_wait_init",
                Role::Read,
                "Waits until the host is initialized.",
            )
            .in_any_state()
            .result("True.")
            .returns::<bool>(),
            on_app_later(move |NoParams {}, responder| wait_init(&waiting, responder)),
        ),
        (
            Method::new::<NoParams>(
                "framework_get_subsystems",
                Role::Read,
                "Lists the subsystems.",
            )
            .returns::<Vec<Subsystem>>(),
            on_app(move |NoParams {}| Ok(subsystems(&of_subsystems))),
        ),
        (
            Method::new::<GetConfig>(
                "framework_get_config",
                Role::Read,
                "Returns the calls that restore the current configuration of a subsystem.",
            )
            .result("Array of objects with the members method and params."),
            on_app_later(move |call, responder| get_config(&of_config, call, responder)),
        ),
        (
            Method::new::<NoParams>("framework_get_reactors", Role::Read, "Lists the reactors.")
                .returns::<Reactors>(),
            on_app_later(|NoParams {}, responder| {
                thread::for_each(thread::info, move |threads| {
                    let threads: Vec<_> = threads.into_iter().flatten().collect();
                    responder.ok(&reactors(&threads));
                });
            }),
        ),
        (
            Method::new::<NoParams>(
                "framework_get_pci_devices",
                Role::Read,
                "Lists the PCI devices that this host has open.",
            )
            .result("The devices.")
            .returns::<Vec<PciDevice>>(),
            // It reads from the devices, so it stays on the RPC thread, which may block.
            async_handler(|NoParams {}, responder| responder.ok(&pci_devices())),
        ),
        (
            Method::new::<SetReactorMode>(
                "framework_set_reactor_mode",
                Role::Admin,
                "Sets how idle reactors wait. SPDK does not have this method.",
            )
            .in_any_state()
            .result("True.")
            .returns::<bool>(),
            on_app(|SetReactorMode { mode, lcore }| set_reactor_mode(mode, lcore)),
        ),
    ]
}

fn get_config(host: &Arc<Host>, GetConfig { name, with_batches }: GetConfig, responder: Responder) {
    let message = format!("Subsystem '{name}' not found");
    save::subsystem(host, &name, move |calls| match calls {
        None => responder.error(RpcError::invalid_params(message, "name", None)),
        Some(calls) if with_batches => responder.ok_long(save::in_batches(calls)),
        Some(calls) => responder.ok_long(calls),
    });
}

/// The calls that wait for the initialization.
static WAITING: Mutex<Vec<Responder>> = Mutex::new(Vec::new());

fn wait_init(host: &Host, responder: Responder) {
    let mut waiting = WAITING.lock().unwrap_or_else(PoisonError::into_inner);
    // Check the state under the lock. `initialized` changes the state first and then takes the lock, so no call is left waiting.
    if host.is_initialized() { responder.ok(&true) } else { waiting.push(responder) }
}

/// Answers the calls that wait for the initialization.
pub fn initialized(host: &Host) {
    host.set_initialized();
    let waiting = std::mem::take(&mut *WAITING.lock().unwrap_or_else(PoisonError::into_inner));
    waiting.into_iter().for_each(|responder| responder.ok(&true));
}

fn subsystems(host: &Host) -> Vec<Subsystem> {
    let named = |name: &str, depends_on: &[&str]| Subsystem {
        subsystem: name.to_owned(),
        depends_on: depends_on.iter().map(|name| (*name).to_owned()).collect(),
    };
    let own = OWN.iter().map(|(name, on)| named(name, on));
    let others = host.subsystems.of_plugins(&host.manager).into_iter();
    own.chain(others.map(|name| named(&name, OF_PLUGINS))).collect()
}

fn reactors(threads: &[thread::Info]) -> Reactors {
    let mut on_core: BTreeMap<usize, Vec<LwThread>> = BTreeMap::new();
    for thread in threads {
        on_core.entry(thread.core).or_default().push(LwThread {
            name: thread.name.clone(),
            id: thread.id,
            cpumask: thread.cpumask.to_string(),
            elapsed: thread.busy_ns + thread.idle_ns,
        });
    }
    let row = |reactor: &Arc<reactor::Reactor>| {
        let (busy, idle) = reactor.busy_idle_ns();
        ReactorRow {
            lcore: reactor.core as u64,
            tid: reactor.tid(),
            busy,
            idle,
            in_interrupt: reactor.mode() == Mode::Adaptive,
            lw_threads: on_core.remove(&reactor.core).unwrap_or_default(),
        }
    };
    let reactors = reactor::all().iter().map(row).collect();
    Reactors { tick_rate: TICK_RATE, pid: std::process::id(), reactors }
}

fn pci_devices() -> Vec<PciDevice> {
    let show = |open: device::Open| PciDevice {
        address: open.address.to_string(),
        r#type: "pci".into(),
        numa_id: open.numa.map_or(-1, i64::from),
        config_space: open.config.iter().map(|byte| format!("{byte:02x}")).collect(),
    };
    device::all_open().into_iter().map(show).collect()
}

fn set_reactor_mode(mode: ReactorMode, lcore: Option<u32>) -> Result<bool, RpcError> {
    let mode = match mode {
        ReactorMode::Polled => Mode::Polled,
        ReactorMode::Adaptive => Mode::Adaptive,
    };
    let is_meant = |core: usize| lcore.is_none_or(|lcore| usize::try_from(lcore) == Ok(core));
    let meant: Vec<_> = reactor::all().iter().filter(|reactor| is_meant(reactor.core)).collect();
    if meant.is_empty() {
        let cores: Vec<_> = reactor::all().iter().map(|reactor| reactor.core).collect();
        let lcore = lcore.unwrap_or_default();
        return Err(RpcError::invalid_value("lcore", lcore, format!("one of {cores:?}")));
    }
    meant.iter().for_each(|reactor| reactor.set_mode(mode));
    Ok(true)
}
