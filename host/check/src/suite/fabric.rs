//! NVMe over Fabrics: a transport (kind `transport`) with the target on the search path, or a
//! target with a transport, exports a disk of the suite. An initiator uses it over loopback.
//!
//! A transport other than NVMe/TCP is only registered, because the suite has no initiator for it. A
//! target with its own protocol is skipped.

use crate::batch::{self, Io};
use crate::client::DEADLINE;
use crate::growth::Series;
use crate::model::Model;
use crate::random::Random;
use crate::rig::{BLOCK_SIZE, Rig};
use crate::verdict::{Stop, Verdict, failed, skipped};
use drivebay_nvme_driver::{Completed, Controller, Error, Namespace, Options, Queue};
use drivebay_plugin_api::{BAY_OP_READ, BAY_OP_WRITE, id};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

const NQN: &str = "nqn.2026-01.io.drivebay:check";
/// The number of blocks that I/O works on.
const WINDOW: u64 = 2048;
/// The maximum number of blocks of one I/O.
const BLOCKS_MAX: u64 = 16;
/// The number of entries of a queue.
const ENTRIES: u16 = 128;
/// The number of queues besides the admin queue.
const QUEUES: u16 = 3;
/// The number of connections that are opened and closed. The first `WARM_UP` of them do not count
/// for growth.
const CONNECTIONS: u32 = 300;
/// The same with `--long`, which detects a leak of a few bytes for each connection.
const CONNECTIONS_LONG: u32 = 3000;
const WARM_UP: u32 = 40;
/// How many repetitions are enough when they take long.
const ENOUGH: u32 = 100;
const TIME: Duration = Duration::from_secs(2);

/// The name of the transport: that of the plugin itself, or the transport that is used to check a target.
fn fabric(rig: &Rig<'_>) -> String {
    let provides = rig.host.provides();
    let own = provides.iter().find_map(|name| name.strip_prefix("nvmf.transport/"));
    own.unwrap_or("TCP").to_owned()
}

/// Creates the transport, unless it already exists.
fn transport(rig: &Rig<'_>) -> Result<String, Stop> {
    let of_nvme = |name: &String| name.starts_with("nvmf.transport/") || name == id::NVMF_TARGET;
    if !rig.host.provides().iter().any(of_nvme) {
        // Otherwise another plugin on the search path would be checked instead.
        return skipped("the plugin is not part of NVMe over Fabrics: it has its own protocol");
    }
    let fabric = fabric(rig);
    let there = rig.call("nvmf_get_transports", &json!({ "trtype": fabric }));
    if matches!(&there, Ok(Value::Array(all)) if !all.is_empty()) {
        return Ok(fabric);
    }
    let mut params = rig.settings.params.clone();
    params.insert("trtype".into(), json!(fabric));
    match rig.call("nvmf_create_transport", &Value::Object(params)) {
        Ok(_) => Ok(fabric),
        Err(why) if why.contains("-32601") => {
            skipped("no target is on the search path: give its folder with --plugin-dir")
        }
        Err(why) => failed(format!("nvmf_create_transport creates {fabric}"), why),
    }
}

pub(super) fn registers(rig: &mut Rig<'_>) -> Verdict {
    let fabric = transport(rig)?;
    let all = rig.call("nvmf_get_transports", &json!({ "trtype": fabric }));
    let all = all.map_err(|why| Stop::failed("nvmf_get_transports answers", why))?;
    let is_it = |one: &Value| one.get("trtype") == Some(&json!(fabric));
    match all.as_array().is_some_and(|all| all.iter().any(is_it)) {
        true => Ok(()),
        false => failed(format!("the target lists the transport {fabric}"), all.to_string()),
    }
}

/// A disk of the suite behind a listener, until `end` is called.
struct Export {
    address: SocketAddr,
    listen: Value,
}

fn export(rig: &mut Rig<'_>) -> Result<Export, Stop> {
    let fabric = transport(rig)?;
    if fabric != "TCP" {
        return skipped(format!("the suite has no initiator that speaks {fabric}"));
    }
    let base = rig.ensure_base()?.name.clone();
    // The port is free now. If another process takes it in the meantime, the listener reports that.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|free| free.local_addr());
    let address =
        free.map_err(|why| Stop::failed("a port of loopback is free", why.to_string()))?;
    let listen = json!({ "nqn": NQN, "listen_address": {
        "trtype": fabric, "adrfam": "IPv4", "traddr": "127.0.0.1",
        "trsvcid": address.port().to_string() } });
    for (method, params) in [
        ("nvmf_create_subsystem", json!({ "nqn": NQN, "allow_any_host": true })),
        ("nvmf_subsystem_add_ns", json!({ "nqn": NQN, "namespace": { "bdev_name": base } })),
        ("nvmf_subsystem_add_listener", listen.clone()),
    ] {
        rig.call(method, &params).map_err(|why| Stop::failed(format!("{method} succeeds"), why))?;
    }
    Ok(Export { address, listen })
}

impl Export {
    fn end(self, rig: &Rig<'_>) -> Verdict {
        let ended = rig.call("nvmf_delete_subsystem", &json!({ "nqn": NQN }));
        ended.map(|_| ()).map_err(|why| Stop::failed("nvmf_delete_subsystem succeeds", why))
    }

    fn connect(&self) -> Result<Controller, Stop> {
        let mut options = Options::new(self.address, NQN);
        options.timeout = DEADLINE;
        Controller::connect(options).map_err(|why| wrong("the initiator connects", &why))
    }
}

fn wrong(expected: &str, error: &Error) -> Stop {
    Stop::failed(expected, error.to_string())
}

/// Listeners are added and removed, with and without a connected initiator.
pub(super) fn listens(rig: &mut Rig<'_>) -> Verdict {
    let export = export(rig)?;
    for _ in 0..if rig.settings.is_long { 200 } else { 10 } {
        let mut controller = export.connect()?;
        controller.keep_alive().map_err(|why| wrong("a keep alive is answered", &why))?;
        let removed = rig.call("nvmf_subsystem_remove_listener", &export.listen);
        removed.map_err(|why| Stop::failed("a listener is removed", why))?;
        drop(controller);
        let mut options = Options::new(export.address, NQN);
        options.timeout = Duration::from_millis(500);
        if Controller::connect(options).is_ok() {
            return failed("nobody can connect without a listener", "the initiator connected");
        }
        let added = rig.call("nvmf_subsystem_add_listener", &export.listen);
        added.map_err(|why| Stop::failed("the listener is added again", why))?;
    }
    export.end(rig)
}

/// Data that was written on one queue is read on another, at every depth.
pub(super) fn data(rig: &mut Rig<'_>) -> Verdict {
    let export = export(rig)?;
    let mut controller = export.connect()?;
    let namespace =
        controller.namespace(1).map_err(|why| wrong("the namespace is identified", &why))?;
    if namespace.block_size != BLOCK_SIZE {
        let seen = format!("{} bytes", namespace.block_size);
        return failed(format!("the namespace has blocks of {BLOCK_SIZE} bytes"), seen);
    }
    controller.set_queues(QUEUES).map_err(|why| wrong("I/O queues are granted", &why))?;
    let queues = (1..=QUEUES).map(|id| controller.io_queue(id, ENTRIES));
    let mut queues =
        queues.collect::<Result<Vec<_>, _>>().map_err(|why| wrong("I/O queues connect", &why))?;
    let mut mix = Remote {
        model: Model::new(rig.settings.seed, BLOCK_SIZE, 0..WINDOW),
        random: Random::new(rig.settings.seed),
        namespace,
    };
    let rounds = if rig.settings.is_long { 3000 } else { 60 };
    for round in 0..rounds {
        let depth = [1, 4, 32, usize::from(ENTRIES) - 1].get(round % 4).copied().unwrap_or(1);
        let at = round % queues.len();
        if let Some(queue) = queues.get_mut(at) {
            mix.round(queue, depth)?;
        }
    }
    drop(queues);
    controller.shutdown().map_err(|why| wrong("the controller shuts down", &why))?;
    export.end(rig)
}

/// A mix of I/O on one connection at a time, and its model.
struct Remote {
    model: Model,
    random: Random,
    namespace: Namespace,
}

impl Remote {
    /// Submits `depth` I/Os at once that do not overlap with each other.
    fn round(&mut self, queue: &mut Queue, depth: usize) -> Verdict {
        let mut sent = Vec::new();
        let place = WINDOW / depth.max(1) as u64;
        for at in 0..depth as u64 {
            let nblocks = 1 + self.random.below(BLOCKS_MAX.min(place));
            let lba = at * place + self.random.below(place - nblocks + 1);
            let is_write = self.random.below(2) == 0;
            let data = if is_write { self.model.fresh(lba, nblocks) } else { Vec::new() };
            let op = if is_write { BAY_OP_WRITE } else { BAY_OP_READ };
            let request = if is_write {
                self.namespace.write(lba, data.clone())
            } else {
                self.namespace.read(lba, u32::try_from(nblocks).unwrap_or(1))
            };
            let token = request.and_then(|request| queue.submit(request));
            let token = token.map_err(|why| wrong("a command is sent", &why))?;
            sent.push((token, Io::new(op, lba, nblocks).with(data)));
        }
        for _ in 0..depth {
            let completed = queue.reap().map_err(|why| wrong("every command is answered", &why))?;
            let at = sent.iter().position(|(token, _)| *token == completed.token);
            let Some((_, io)) = at.map(|at| sent.swap_remove(at)) else {
                return failed("each command is answered once", "a second answer arrived");
            };
            self.account(io, completed)?;
        }
        Ok(())
    }

    fn account(&mut self, mut io: Io, completed: Completed) -> Verdict {
        let data = completed.ok().map_err(|why| wrong("every command succeeds", &why))?;
        if io.op == BAY_OP_READ {
            io.data = data;
        }
        let accounted = self.model.account(&batch::Completed { io, status: 0 });
        accounted.map_err(|why| Stop::failed("what was written is read", why))
    }
}

/// Connections that are closed cleanly, and others that just disappear.
pub(super) fn connections(rig: &mut Rig<'_>) -> Verdict {
    let export = export(rig)?;
    let (mut series, began) = (Series::new(WARM_UP), Instant::now());
    let rounds = if rig.settings.is_long { CONNECTIONS_LONG } else { CONNECTIONS };
    for round in 0..rounds {
        series.measure(round);
        if round >= ENOUGH && !rig.settings.is_long && began.elapsed() > TIME && series.is_even() {
            break;
        }
        let mut controller = export.connect()?;
        if round % 2 == 0 {
            controller.set_queues(1).map_err(|why| wrong("an I/O queue is granted", &why))?;
            let namespace = controller.namespace(1);
            let namespace = namespace.map_err(|why| wrong("the namespace is identified", &why))?;
            let queue = controller.io_queue(1, 32);
            let mut queue = queue.map_err(|why| wrong("an I/O queue connects", &why))?;
            for _ in 0..8 {
                // The connection is closed while these are in flight.
                let sent = namespace.read(0, 8).and_then(|read| queue.submit(read));
                sent.map_err(|why| wrong("a command is sent", &why))?;
            }
            let _ = queue.flush();
        } else {
            controller.shutdown().map_err(|why| wrong("the controller shuts down", &why))?;
        }
    }
    series.verdict("connections, opened and closed,")?;
    export.end(rig)
}

/// The host sleeps although it has a listener and an idle connection.
pub(super) fn idle(rig: &mut Rig<'_>) -> Verdict {
    let export = export(rig)?;
    let controller = export.connect()?;
    let verdict = super::sleep::sleeps();
    drop(controller);
    verdict.and(export.end(rig))
}

/// The subsystem is deleted while commands are in flight: each is answered, or its connection ends.
pub(super) fn ends_under_load(rig: &mut Rig<'_>) -> Verdict {
    for _ in 0..if rig.settings.is_long { 50 } else { 3 } {
        let export = export(rig)?;
        let mut controller = export.connect()?;
        controller.set_queues(1).map_err(|why| wrong("an I/O queue is granted", &why))?;
        let namespace = controller.namespace(1);
        let namespace = namespace.map_err(|why| wrong("the namespace is identified", &why))?;
        let queue = controller.io_queue(1, ENTRIES);
        let mut queue = queue.map_err(|why| wrong("an I/O queue connects", &why))?;
        if let Some(base) = rig.base {
            base.hold(true);
        }
        for _ in 0..64 {
            let sent = namespace.read(0, 8).and_then(|read| queue.submit(read));
            sent.map_err(|why| wrong("a command is sent", &why))?;
        }
        queue.flush().map_err(|why| wrong("commands are sent", &why))?;
        let deleted = rig.host.begin("nvmf_delete_subsystem", &json!({ "nqn": NQN }));
        std::thread::sleep(Duration::from_millis(10));
        if let Some(base) = rig.base {
            base.hold(false);
        }
        let began = Instant::now();
        while queue.outstanding() > 0 {
            match queue.reap() {
                Ok(_) => {}
                Err(Error::Timeout { .. }) => {
                    let seen = format!("{} commands are not answered", queue.outstanding());
                    return failed("commands complete when their subsystem is deleted", seen);
                }
                // The connection has ended, and with it all commands in flight.
                Err(_) => break,
            }
            if began.elapsed() > DEADLINE {
                return failed(
                    "commands complete when their subsystem is deleted",
                    "they continue",
                );
            }
        }
        drop((queue, controller));
        match crate::client::wait(&deleted, DEADLINE) {
            Ok(Ok(_)) => {}
            Ok(Err(why)) => return failed("nvmf_delete_subsystem succeeds", why),
            Err(_) => return failed("nvmf_delete_subsystem answers", "it did not"),
        }
    }
    Ok(())
}
