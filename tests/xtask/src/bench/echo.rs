//! The cost of a round trip that any server on this machine has. In place of a server, a program only reads and
//! answers. Its times are the floor of `idle`, `saturated` and, at depth 1, of `nvmf`.

use super::process::Running;
use super::samples::at;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// The lengths of one round trip over TCP, in bytes.
#[derive(Clone, Copy)]
pub(super) struct Talk {
    pub(super) request: usize,
    pub(super) answer: usize,
}

/// A read of 4 KiB over NVMe/TCP: the command, and the answer with its data.
pub(super) const READ: Talk = Talk { request: 72, answer: 24 + 4096 + 24 };
/// A write of 4 KiB: the command with its data, and the answer.
pub(super) const WRITE: Talk = Talk { request: 72 + 4096, answer: 24 };

/// What the answering program does while no request arrives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    Sleeps,
    Polls,
}

pub(super) const CORES: [&str; 2] = ["0", "1"];

/// Makes calls over a socket of this process, while a shell loop keeps each core busy. Returns the times, sorted, in
/// milliseconds.
pub(super) fn beside_loops(calls: usize, pause: Duration) -> Result<Vec<f64>, String> {
    let spin = |core| {
        Running::start(Command::new("taskset").args([
            "-c",
            core,
            "sh",
            "-c",
            "while :; do :; done",
        ]))
    };
    let _loops = CORES.map(spin).into_iter().collect::<Result<Vec<_>, _>>()?;
    let context = |error: io::Error| format!("echo: {error}");
    let (mut near, mut far) = UnixStream::pair().map_err(context)?;
    // The thread ends when the socket closes.
    std::thread::spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok() {}
    });
    std::thread::sleep(Duration::from_millis(300));
    let mut times_ms = Vec::new();
    for _ in 0..calls {
        std::thread::sleep(pause);
        let began = Instant::now();
        near.write_all(&[1]).and_then(|()| near.read_exact(&mut [0])).map_err(context)?;
        times_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms)
}

/// Median of the round trips with a pause before each, in microseconds. The answering program sleeps or polls, as
/// `mode` says. The asking program polls for the answer.
///
/// The answering program runs on the first core and the asking program on the second, like target and initiator.
pub(super) fn round_trip_us(
    talk: Talk,
    mode: Mode,
    round_trips: usize,
    pause: Duration,
) -> Result<f64, String> {
    let itself = std::env::current_exe().map_err(|error| format!("echo: {error}"))?;
    let on = |core, port: &str| {
        let mut command = Command::new("taskset");
        command.args(["-c", core]).arg(&itself).arg(TASK).arg(port);
        let numbers = [talk.request, talk.answer, round_trips];
        command.args(numbers.map(|number| number.to_string()));
        let polls = u8::from(mode == Mode::Polls).to_string();
        Running::start(command.args([pause.as_millis().to_string(), polls]))
    };
    let mut server = on(CORES[0], "0")?;
    let port = line(&mut server)?;
    let mut client = on(CORES[1], &port)?;
    line(&mut client)?.parse().map_err(|error| format!("echo: {error}"))
}

/// The task name with which this program starts itself again for [`round_trip_us`].
pub(crate) const TASK: &str = "bench-echo";

/// Answers the first client. If the port is not 0, it asks instead.
pub(crate) fn main(args: &[&str]) -> Result<(), String> {
    let numbers: Vec<usize> = args.iter().filter_map(|arg| arg.parse().ok()).collect();
    let &[port, request, answer, round_trips, pause_ms, polls] = &numbers[..] else {
        return Err("echo: PORT REQUEST_BYTES ANSWER_BYTES ROUND_TRIPS PAUSE_MS POLLS".to_owned());
    };
    let talk = Talk { request, answer };
    let pause = Duration::from_millis(pause_ms as u64);
    let ended = match u16::try_from(port) {
        Ok(0) | Err(_) => answer_all(talk, polls > 0),
        Ok(port) => ask(port, talk, round_trips, pause),
    };
    ended.map_err(|error| format!("echo: {error}"))
}

fn answer_all(talk: Talk, polls: bool) -> io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(polls)?;
    let (mut request, answer) = (vec![0; talk.request], vec![0; talk.answer]);
    while read(&mut stream, &mut request).and_then(|()| stream.write_all(&answer)).is_ok() {}
    Ok(())
}

fn ask(port: u16, talk: Talk, round_trips: usize, pause: Duration) -> io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)?;
    let (request, mut answer) = (vec![0; talk.request], vec![0; talk.answer]);
    let mut times_us = Vec::new();
    for _ in 0..round_trips {
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        let began = Instant::now();
        stream.write_all(&request)?;
        read(&mut stream, &mut answer)?;
        times_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times_us.sort_by(f64::total_cmp);
    println!("{}", at(&times_us, 50));
    Ok(())
}

/// Reads until `bytes` is full, with as many reads as needed.
pub(super) fn read(stream: &mut TcpStream, bytes: &mut [u8]) -> io::Result<()> {
    let mut come = 0;
    while let Some(rest) = bytes.get_mut(come..).filter(|rest| !rest.is_empty()) {
        match stream.read(rest) {
            Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
            Ok(n) => come += n,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The next line that a program prints.
pub(super) fn line(program: &mut Running) -> Result<String, String> {
    let output = program.child.stdout.as_mut().ok_or("echo: no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(|error| format!("echo: {error}"))?;
    Ok(line.trim().to_owned())
}
