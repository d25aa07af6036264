//! What waking up costs on this machine whoever is woken: a program that only reads and answers, in the
//! place of a server. Its times are the floor of `idle` and `saturated`.

use super::process::Running;
use super::samples::at;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::Command;
use std::time::{Duration, Instant};

/// A read of 4 KiB over NVMe/TCP: the command, and the answer with its data.
const REQUEST: [u8; 72] = [0; 72];
const ANSWER: [u8; 4144] = [0; 4144];
const CORES: [&str; 2] = ["0", "1"];

/// Calls over a socket of this process while a loop of a shell keeps each core busy, sorted, in milliseconds.
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
    let told = |error: std::io::Error| format!("echo: {error}");
    let (mut near, mut far) = UnixStream::pair().map_err(told)?;
    // It ends with the socket.
    std::thread::spawn(move || {
        let mut byte = [0];
        while far.read_exact(&mut byte).and_then(|()| far.write_all(&byte)).is_ok() {}
    });
    std::thread::sleep(Duration::from_millis(300));
    let mut times_ms = Vec::new();
    for _ in 0..calls {
        std::thread::sleep(pause);
        let began = Instant::now();
        near.write_all(&[1]).and_then(|()| near.read_exact(&mut [0])).map_err(told)?;
        times_ms.push(began.elapsed().as_secs_f64() * 1e3);
    }
    times_ms.sort_by(f64::total_cmp);
    Ok(times_ms)
}

/// Median of so many round trips over TCP with a pause before each, in microseconds: the program that
/// answers on the first core, the one that asks on the second, as target and initiator are.
pub(super) fn after_pauses_us(round_trips: usize, pause: Duration) -> Result<f64, String> {
    let itself = std::env::current_exe().map_err(|error| format!("echo: {error}"))?;
    let on = |core, arguments: &[String]| {
        let mut command = Command::new("taskset");
        Running::start(command.args(["-c", core]).arg(&itself).arg(TASK).args(arguments))
    };
    let mut server = on(CORES[0], &[])?;
    let port = line(&mut server)?;
    let pause_ms = pause.as_millis().to_string();
    let mut client = on(CORES[1], &[port, round_trips.to_string(), pause_ms])?;
    line(&mut client)?.parse().map_err(|error| format!("echo: {error}"))
}

/// The name under which this program starts itself again for [`after_pauses_us`].
pub(crate) const TASK: &str = "bench-echo";

/// Answers the first who connects; with a port, asks so many times after so many milliseconds each.
pub(crate) fn main(args: &[&str]) -> Result<(), String> {
    let told = |error: std::io::Error| format!("echo: {error}");
    match args {
        [port, round_trips, pause_ms] => {
            let (Ok(port), Ok(round_trips), Ok(pause_ms)) =
                (port.parse(), round_trips.parse(), pause_ms.parse())
            else {
                return Err("echo: PORT ROUND_TRIPS PAUSE_MS".to_owned());
            };
            ask(port, round_trips, Duration::from_millis(pause_ms)).map_err(told)
        }
        _ => answer().map_err(told),
    }
}

fn answer() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    println!("{}", listener.local_addr()?.port());
    let (mut stream, _) = listener.accept()?;
    stream.set_nodelay(true)?;
    let mut request = REQUEST;
    while stream.read_exact(&mut request).and_then(|()| stream.write_all(&ANSWER)).is_ok() {}
    Ok(())
}

fn ask(port: u16, round_trips: usize, pause: Duration) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_nodelay(true)?;
    let mut times_us = Vec::new();
    for _ in 0..round_trips {
        std::thread::sleep(pause);
        let began = Instant::now();
        stream.write_all(&REQUEST)?;
        stream.read_exact(&mut [0; ANSWER.len()])?;
        times_us.push(began.elapsed().as_secs_f64() * 1e6);
    }
    times_us.sort_by(f64::total_cmp);
    println!("{}", at(&times_us, 50));
    Ok(())
}

/// The next line that a program says.
fn line(program: &mut Running) -> Result<String, String> {
    let output = program.child.stdout.as_mut().ok_or("echo: no output")?;
    let mut line = String::new();
    BufReader::new(output).read_line(&mut line).map_err(|error| format!("echo: {error}"))?;
    Ok(line.trim().to_owned())
}
