//! `framework_*`: initialization, subsystems and their configuration, reactors.

use super::entry::{Entry, TICK_RATE, on_app, on_app_later};
use crate::config::save;
use crate::host::{Event, Host};
use crate::rpc::{Responder, async_handler};
use crate::subsystems::{OF_PLUGINS, OWN};
use drivebay_core::env::pci::device;
use drivebay_core::reactor::{self, Mode, thread};
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, State, params};
use serde_json::{Value, json};
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
            .result("True, once the host is initialized."),
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
            .result("True."),
            on_app_later(move |NoParams {}, responder| wait_init(&waiting, responder)),
        ),
        (
            Method::new::<NoParams>(
                "framework_get_subsystems",
                Role::Read,
                "Lists the subsystems.",
            )
            .result("Array of objects with the members subsystem and depends_on (array of names)."),
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
                .result("Object with tick_rate, pid and reactors. Each reactor lists its threads."),
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
            .result(
                "Array of objects with the members address, type (always pci), numa_id (-1 = not known) and config_space \
                 (in hexadecimal).",
            ),
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
            .result("True."),
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

fn subsystems(host: &Host) -> Vec<Value> {
    let own = OWN.iter().map(|(name, on)| json!({"subsystem": name, "depends_on": on}));
    let others = host.subsystems.of_plugins(&host.manager).into_iter();
    let others = others.map(|name| json!({"subsystem": name, "depends_on": OF_PLUGINS}));
    own.chain(others).collect()
}

fn reactors(threads: &[thread::Info]) -> Value {
    let mut on_core: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    for thread in threads {
        on_core.entry(thread.core).or_default().push(json!({
            "name": thread.name,
            "id": thread.id,
            "cpumask": thread.cpumask.to_string(),
            "elapsed": thread.busy_ns + thread.idle_ns,
        }));
    }
    let reactors: Vec<Value> = reactor::all()
        .iter()
        .map(|reactor| {
            let (busy, idle) = reactor.busy_idle_ns();
            json!({
                "lcore": reactor.core,
                "tid": reactor.tid(),
                "busy": busy,
                "idle": idle,
                "in_interrupt": reactor.mode() == Mode::Adaptive,
                "lw_threads": on_core.remove(&reactor.core).unwrap_or_default(),
            })
        })
        .collect();
    json!({"tick_rate": TICK_RATE, "pid": std::process::id(), "reactors": reactors})
}

fn pci_devices() -> Vec<Value> {
    let show = |open: device::Open| {
        let config_space: String = open.config.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({
            "address": open.address.to_string(),
            "type": "pci",
            "numa_id": open.numa.map_or(-1, i64::from),
            "config_space": config_space,
        })
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
