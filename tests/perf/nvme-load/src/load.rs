//! Drives the connections until the time or the number of I/Os is over.

use crate::args::Args;
use crate::connection::Connection;
use crate::latency::Latencies;
use crate::target;
use rustix::event::Timespec;
use rustix::event::epoll::{self, EventData, EventFlags};
use std::io::Result;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Up to so many connections are asked in turn; of more, the system says which have something.
const ASKED_IN_TURN: usize = 8;
/// How long what is outstanding at the end may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// What came out.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) latencies: Latencies,
    pub(crate) elapsed: Duration,
    pub(crate) target_cpu_ns: u64,
    pub(crate) failed: u64,
}

/// Runs the load.
pub(crate) fn run(args: &Args, connections: &mut [Connection]) -> Result<Outcome> {
    let watch = if connections.len() > ASKED_IN_TURN { Some(watch(connections)?) } else { None };
    let mut events = Vec::with_capacity(256);
    let began = Instant::now();
    let now_ns = || u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
    let cpu_ns = || args.pid.map_or(0, target::cpu_ns);
    let cpu_before = cpu_ns();
    let end = Duration::try_from_secs_f64(args.seconds).unwrap_or(Duration::MAX);
    let end_ns = u64::try_from(end.as_nanos()).unwrap_or(u64::MAX);
    let (mut latencies, mut issued) = (Latencies::new(), 0_u64);
    let mut first = true;
    let last = loop {
        let now = now_ns();
        let over = if args.count > 0 { issued >= args.count } else { now >= end_ns };
        let due = match (args.rate, args.count) {
            _ if over => 0,
            (0, 0) => u64::MAX,
            (0, count) => count - issued,
            (rate, _) => {
                let due = u128::from(now) * u128::from(rate) / 1_000_000_000;
                u64::try_from(due).unwrap_or(u64::MAX).saturating_sub(issued)
            }
        };
        let mut left = due;
        let mut turn = |connection: &mut Connection, receives: bool| -> Result<()> {
            let ended =
                if receives { connection.receive(now_ns, &mut latencies)? } else { 0 };
            // One reading of the clock for a burst of submits.
            let now = if ended > 0 { now_ns() } else { now };
            let more = connection.submit(left, now);
            left -= more;
            issued += more;
            connection.send()
        };
        match &watch {
            None => connections.iter_mut().try_for_each(|connection| turn(connection, true))?,
            Some(epoll) => {
                if first || args.rate > 0 {
                    connections.iter_mut().try_for_each(|connection| turn(connection, false))?;
                }
                events.clear();
                let now = Timespec { tv_sec: 0, tv_nsec: 0 };
                let space = rustix::buffer::spare_capacity(&mut events);
                epoll::wait(epoll, space, Some(&now))?;
                for event in &events {
                    let index = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
                    if let Some(connection) = connections.get_mut(index) {
                        turn(connection, true)?;
                    }
                }
            }
        }
        first = false;
        let late = began.elapsed() > end.saturating_add(PATIENCE);
        if over {
            let outstanding: usize = connections.iter().map(Connection::outstanding).sum();
            if outstanding == 0 || args.count == 0 && late {
                break now;
            }
        }
    };
    Ok(Outcome {
        latencies,
        elapsed: Duration::from_nanos(last),
        target_cpu_ns: cpu_ns() - cpu_before,
        failed: connections.iter().map(|connection| connection.failed).sum(),
    })
}

/// Level-triggered, so that what one receive left is told again.
fn watch(connections: &[Connection]) -> Result<OwnedFd> {
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    for (index, connection) in connections.iter().enumerate() {
        epoll::add(&epoll, connection, EventData::new_u64(index as u64), EventFlags::IN)?;
    }
    Ok(epoll)
}
