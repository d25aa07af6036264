//! The cost of round trips over many connections that any server on this machine has. A program that only polls one
//! epoll descriptor, receives and sends takes the place of the target. This is the floor of `growth`.

use super::echo::{CORES, READ, line, read};
use super::process::Running;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

/// Sockets checked in one round, as many as the TCP transport checks.
const EVENTS: usize = 64;

/// The task name with which this program starts itself again for [`per_second`].
pub(crate) const TASK: &str = "bench-crowd";

/// Round trips per second with the length of a read, one outstanding on each connection. Both sides poll.
/// The answering program runs on the first core and the asking program on the second, like target and initiator.
pub(super) fn per_second(connections: u32, seconds: u32) -> Result<f64, String> {
    let itself = std::env::current_exe().map_err(|error| format!("crowd: {error}"))?;
    let on = |core, port: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(&itself).args([TASK, port]);
        Running::start(command.args([connections, seconds].map(|number| number.to_string())))
    };
    let [first, second] = CORES;
    let mut server = on(first, "0")?;
    let port = line(&mut server)?;
    let mut client = on(second, &port)?;
    line(&mut client)?.parse().map_err(|error| format!("crowd: {error}"))
}

/// Answers the given number of connections. If the port is not 0, it asks instead.
pub(crate) fn main(args: &[&str]) -> Result<(), String> {
    let numbers: Vec<u32> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let &[port, connections, seconds] = &numbers[..] else {
        return Err("crowd: PORT CONNECTIONS SECONDS".to_owned());
    };
    let ended = match u16::try_from(port) {
        Ok(0) | Err(_) => answer_all(connections as usize),
        Ok(port) => ask(port, connections, Duration::from_secs(seconds.into())),
    };
    ended.map_err(|error| format!("crowd: {error}"))
}

/// Answers until the first connection closes.
fn answer_all(connections: usize) -> io::Result<()> {
    const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut streams = Vec::with_capacity(connections);
    for place in 0..connections as u64 {
        let (stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        epoll::add(&epoll, &stream, EventData::new_u64(place), EventFlags::IN | EventFlags::ET)?;
        streams.push(stream);
    }
    let (mut request, answer) = ([0; READ.request], [0; READ.answer]);
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&NOW))?;
        for event in &events {
            let place = usize::try_from(event.data.u64()).unwrap_or(usize::MAX);
            let Some(stream) = streams.get_mut(place) else { continue };
            match stream.read(&mut request) {
                Ok(0) => return Ok(()),
                // A request this small arrives in one piece.
                Ok(_) => stream.write_all(&answer)?,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Serves the connections one after another: waits for the answer, then asks again.
fn ask(port: u16, connections: u32, time: Duration) -> io::Result<()> {
    let (request, mut answer) = ([0; READ.request], [0; READ.answer]);
    let mut streams = Vec::new();
    for _ in 0..connections {
        let mut stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        stream.write_all(&request)?;
        streams.push(stream);
    }
    let (began, mut round_trips) = (Instant::now(), 0);
    while began.elapsed() < time {
        for stream in &mut streams {
            read(stream, &mut answer)?;
            stream.write_all(&request)?;
            round_trips += 1;
        }
    }
    println!("{}", f64::from(round_trips) / began.elapsed().as_secs_f64());
    Ok(())
}
