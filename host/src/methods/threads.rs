//! `thread_*`.

use super::entry::{Entry, TICK_RATE, on_app, on_app_later, refused};
use crate::rpc::Handler;
use drivebay_core::env::CpuSet;
use drivebay_core::reactor::poller;
use drivebay_core::reactor::thread::{self, Info};
use drivebay_core::reactor::{self, Mode};
use drivebay_spec_jsonrpc::{Method, NoParams, Role, RpcError, params};
use serde::Serialize;

params! {
    /// Parameters of `thread_set_cpumask`.
    pub(crate) struct SetCpumask {
        /// Id of the thread.
        id: u64,
        /// Cores that the thread may run on: a mask such as 0x3, or a list such as [0,2-3].
        #[range(1..=4096)]
        cpumask: String,
    }

    /// Result of `thread_get_stats`.
    struct Stats {
        /// Ticks in a second.
        tick_rate: u64,
        /// The threads, by id.
        threads: Vec<ThreadStats>,
    }
    struct ThreadStats {
        /// Name.
        name: String,
        /// Id.
        id: u64,
        /// Cores that the thread may run on, as a hexadecimal mask.
        cpumask: String,
        /// Time in rounds that found work, in ticks.
        busy: u64,
        /// Time in all other rounds, in ticks.
        idle: u64,
        /// Whether its reactor sleeps when it has no work.
        in_interrupt: bool,
        /// Pollers that run in every round.
        active_pollers_count: u64,
        /// Pollers that run once in a period.
        timed_pollers_count: u64,
        /// Pollers that do not run.
        paused_pollers_count: u64,
    }

    /// Result of `thread_get_pollers`.
    struct Pollers {
        /// Ticks in a second.
        tick_rate: u64,
        /// The threads, by id.
        threads: Vec<ThreadPollers>,
    }
    struct ThreadPollers {
        /// Name.
        name: String,
        /// Id.
        id: u64,
        /// Pollers that run in every round.
        active_pollers: Vec<PollerRow>,
        /// Pollers that run once in a period.
        timed_pollers: Vec<PollerRow>,
        /// Pollers that do not run.
        paused_pollers: Vec<PollerRow>,
    }
    struct PollerRow {
        /// Name.
        name: String,
        /// Id, unique on its thread.
        id: u64,
        /// `waiting` or `paused`.
        state: String,
        /// How often it ran.
        run_count: u64,
        /// How often it found work.
        busy_count: u64,
        /// Its period, in ticks.
        period_ticks: Option<u64>,
    }

    /// Result of `thread_get_io_channels`.
    struct IoChannels {
        /// Ticks in a second.
        tick_rate: u64,
        /// The threads, by id.
        threads: Vec<ThreadIoChannels>,
    }
    struct ThreadIoChannels {
        /// Name.
        name: String,
        /// Its channels.
        io_channels: Vec<IoChannelRow>,
    }
    struct IoChannelRow {
        /// Name of the bdev.
        name: String,
        /// Number of references.
        r#ref: u64,
    }
}

pub(super) fn entries() -> Vec<Entry> {
    let list = |name, doc| Method::new::<NoParams>(name, Role::Read, doc);
    vec![
        (
            list("thread_get_stats", "Returns how long each thread was busy and idle.")
                .returns::<Stats>(),
            of_each_thread(|threads| {
                let threads = threads.iter().map(stats).collect();
                Stats { tick_rate: TICK_RATE, threads }
            }),
        ),
        (
            list("thread_get_pollers", "Lists the pollers of each thread.")
                .returns::<Pollers>(),
            of_each_thread(|threads| {
                let threads = threads.iter().map(pollers).collect();
                Pollers { tick_rate: TICK_RATE, threads }
            }),
        ),
        (
            list("thread_get_io_channels", "Lists the io_channels of each thread.")
                .returns::<IoChannels>(),
            of_each_thread(|threads| {
                let threads = threads.iter().map(io_channels).collect();
                IoChannels { tick_rate: TICK_RATE, threads }
            }),
        ),
        (
            Method::new::<SetCpumask>(
                "thread_set_cpumask",
                Role::Admin,
                "Sets the cores that a thread may run on, and moves the thread to one of them if needed.",
            )
            .result("True.").returns::<bool>()
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

/// A method that reports something about every thread. `result` gets the threads, sorted by id.
fn of_each_thread<R: Serialize + 'static>(result: fn(&[Info]) -> R) -> Handler {
    on_app_later(move |NoParams {}, responder| {
        thread::for_each(thread::info, move |threads| {
            let mut threads: Vec<Info> = threads.into_iter().flatten().collect();
            threads.sort_by_key(|thread| thread.id);
            responder.ok(&result(&threads));
        });
    })
}

fn stats(thread: &Info) -> ThreadStats {
    let count =
        |kind: Kind| thread.pollers.iter().filter(|poller| kind_of(poller) == kind).count() as u64;
    let reactor = reactor::all().iter().find(|reactor| reactor.core == thread.core);
    ThreadStats {
        name: thread.name.clone(),
        id: thread.id,
        cpumask: thread.cpumask.to_string(),
        busy: thread.busy_ns,
        idle: thread.idle_ns,
        in_interrupt: reactor.is_some_and(|reactor| reactor.mode() == Mode::Adaptive),
        active_pollers_count: count(Kind::Active),
        timed_pollers_count: count(Kind::Timed),
        paused_pollers_count: count(Kind::Paused),
    }
}

fn pollers(thread: &Info) -> ThreadPollers {
    let list = |kind: Kind| {
        let pollers = thread.pollers.iter().filter(|poller| kind_of(poller) == kind);
        pollers.map(poller_row).collect()
    };
    ThreadPollers {
        name: thread.name.clone(),
        id: thread.id,
        active_pollers: list(Kind::Active),
        timed_pollers: list(Kind::Timed),
        paused_pollers: list(Kind::Paused),
    }
}

fn io_channels(thread: &Info) -> ThreadIoChannels {
    let channels = thread.channels.iter();
    let row = |(name, count): &(String, u64)| IoChannelRow { name: name.clone(), r#ref: *count };
    ThreadIoChannels { name: thread.name.clone(), io_channels: channels.map(row).collect() }
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

fn poller_row(poller: &poller::Info) -> PollerRow {
    let state = if kind_of(poller) == Kind::Paused { "paused" } else { "waiting" };
    let period_ticks = poller.period_us.saturating_mul(TICK_RATE / 1_000_000);
    PollerRow {
        name: poller.name.clone(),
        id: poller.id,
        state: state.to_owned(),
        run_count: poller.runs,
        busy_count: poller.busy_runs,
        period_ticks: Some(period_ticks).filter(|ticks| *ticks > 0),
    }
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
