//! `thread_*`.

use super::entry::{Entry, TICK_RATE, on_app, on_app_later, refused};
use crate::rpc::Handler;
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::poller;
use drivebay_core::reactor::thread::{self, Info};
use drivebay_core::reactor::{self, Mode};
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, params};
use serde_json::{Value, json};

params! {
    /// Parameters of `thread_set_cpumask`.
    pub(crate) struct SetCpumask {
        /// Id of the thread.
        id: u64,
        /// Cores that the thread may run on: a mask such as 0x3, or a list such as [0,2-3].
        #[range(1..=4096)]
        cpumask: String,
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let list = |name, doc| Method::new::<NoParams>(name, Role::Read, doc);
    vec![
        (
            list("thread_get_stats", "Returns how long each thread was busy and idle.")
                .result("Object with the members tick_rate and threads."),
            of_each_thread(stats),
        ),
        (
            list("thread_get_pollers", "Lists the pollers of each thread.")
                .result("Object with the members tick_rate and threads."),
            of_each_thread(pollers),
        ),
        (
            list("thread_get_io_channels", "Lists the io_channels of each thread.")
                .result("Object with the members tick_rate and threads."),
            of_each_thread(io_channels),
        ),
        (
            Method::new::<SetCpumask>(
                "thread_set_cpumask",
                Role::Admin,
                "Sets the cores that a thread may run on, and moves the thread to one of them if needed.",
            )
            .result("True.")
            .error(i64::from(-libc::ESRCH), "no_such_thread", "No thread has this id.")
            .error(
                i64::from(-libc::EBUSY),
                "busy",
                "The thread cannot move, because a loaded plugin may keep thread-local state.",
            ),
            on_app(|SetCpumask { id, cpumask }| set_cpumask(id, &cpumask)),
        ),
    ]
}

/// A method that reports something about every thread, sorted by id.
fn of_each_thread(show: fn(&Info) -> Value) -> Handler {
    on_app_later(move |NoParams {}, responder| {
        thread::for_each(thread::info, move |threads| {
            let mut threads: Vec<Info> = threads.into_iter().flatten().collect();
            threads.sort_by_key(|thread| thread.id);
            let threads: Vec<Value> = threads.iter().map(show).collect();
            responder.ok(&json!({"tick_rate": TICK_RATE, "threads": threads}));
        });
    })
}

fn stats(thread: &Info) -> Value {
    let count = |kind: Kind| thread.pollers.iter().filter(|poller| kind_of(poller) == kind).count();
    let reactor = reactor::all().iter().find(|reactor| reactor.core == thread.core);
    json!({
        "name": thread.name,
        "id": thread.id,
        "cpumask": thread.cpumask.to_string(),
        "busy": thread.busy_ns,
        "idle": thread.idle_ns,
        "in_interrupt": reactor.is_some_and(|reactor| reactor.mode() == Mode::Adaptive),
        "active_pollers_count": count(Kind::Active),
        "timed_pollers_count": count(Kind::Timed),
        "paused_pollers_count": count(Kind::Paused),
    })
}

fn pollers(thread: &Info) -> Value {
    let list = |kind: Kind| {
        let pollers = thread.pollers.iter().filter(|poller| kind_of(poller) == kind);
        pollers.map(poller_row).collect::<Vec<Value>>()
    };
    json!({
        "name": thread.name,
        "id": thread.id,
        "active_pollers": list(Kind::Active),
        "timed_pollers": list(Kind::Timed),
        "paused_pollers": list(Kind::Paused),
    })
}

fn io_channels(thread: &Info) -> Value {
    let channels = thread.channels.iter();
    let channels = channels.map(|(name, count)| json!({"name": name, "ref": count}));
    json!({"name": thread.name, "io_channels": channels.collect::<Vec<Value>>()})
}

/// SPDK's groups of pollers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// They run in every round.
    Active,
    /// They run once in a period.
    Timed,
    Paused,
}

fn kind_of(poller: &poller::Info) -> Kind {
    match poller.state {
        "paused" => Kind::Paused,
        _ if poller.period_us > 0 => Kind::Timed,
        _ => Kind::Active,
    }
}

fn poller_row(poller: &poller::Info) -> Value {
    let state = if kind_of(poller) == Kind::Paused { "paused" } else { "waiting" };
    let mut row = json!({
        "name": poller.name,
        "id": poller.id,
        "state": state,
        "run_count": poller.runs,
        "busy_count": poller.busy_runs,
    });
    if let (Some(row), 1..) = (row.as_object_mut(), poller.period_us) {
        let ticks = poller.period_us.saturating_mul(TICK_RATE / 1_000_000);
        row.insert("period_ticks".into(), ticks.into());
    }
    row
}

fn set_cpumask(id: u64, cpumask: &str) -> Result<bool, RpcError> {
    let allowed =
        "a mask such as 0x3 or a list such as [0,2-3], with a core that a reactor runs on";
    let wrong = || RpcError::invalid_value("cpumask", cpumask, allowed);
    let cores = CpuSet::parse(cpumask).map_err(|_| wrong())?;
    thread::set_cpumask(id, cores).map_err(|error| match error.errno() {
        libc::EINVAL => wrong(),
        _ => refused(error),
    })?;
    Ok(true)
}
