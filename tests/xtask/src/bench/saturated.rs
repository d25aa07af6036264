//! Calls while every reactor is busy with I/O.

use super::client::Client;
use super::process::Running;
use super::samples::{Samples, at, ratio};
use super::server::Folder;
use super::{Bench, Side, case, echo, rates, table};
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// Calls of a round, so that ten may exceed its p99, and the pause between them.
const CALLS: usize = 1000;
/// Calls before the measured ones.
const WARM_UP: usize = 50;
const PAUSE: Duration = Duration::from_millis(2);
/// How long a generator may take to answer its first call.
const PATIENCE: Duration = Duration::from_secs(20);

/// Times of the rounds of one side.
#[derive(Default)]
struct Times {
    p50_ms: Samples,
    p99_ms: Samples,
}

impl Times {
    fn push(&mut self, sorted_ms: &[f64]) {
        self.p50_ms.push(at(sorted_ms, 50));
        self.p99_ms.push(at(sorted_ms, 99));
    }
}

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    let [mut ours, mut theirs, mut floor] = [(); 3].map(|()| Times::default());
    for _ in 0..bench.rounds {
        for side in bench.sides() {
            let times = if side == Side::Ours { &mut ours } else { &mut theirs };
            times.push(&times_ms(bench, side)?);
        }
        floor.push(&echo::beside_loops(CALLS, PAUSE)?);
    }
    table::begin(
        "bdev_get_bdevs while both reactors read a null disk at depth 128, ms",
        &["what", "ours", "reference", "its ÷ ours", "echo beside two loops"],
    );
    let row = |what: &str, of: fn(&Times) -> &Samples| {
        let (ours, theirs, floor) = (of(&ours), of(&theirs), of(&floor));
        table::row([what, &ours.text(), &theirs.text(), &ratio(theirs, ours), &floor.text()]);
    };
    row("median", |times| &times.p50_ms);
    row("p99", |times| &times.p99_ms);
    Ok(())
}

/// Measures how long each call takes. Returns the times, sorted, in milliseconds.
fn times_ms(bench: &Bench, side: Side) -> Result<Vec<f64>, String> {
    let folder = Folder::new()?;
    let socket = folder.0.join("rpc.sock");
    let mut generator = generator(bench, side, &folder.0, &socket)?;
    let mut client = connected(&mut generator, &socket)?;
    let mut times = Vec::new();
    for call in 0..WARM_UP + CALLS {
        std::thread::sleep(PAUSE);
        let began = Instant::now();
        client.call("bdev_get_bdevs", &Value::Null)?;
        if call >= WARM_UP {
            times.push(began.elapsed().as_secs_f64() * 1e3);
        }
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

fn connected(generator: &mut Running, socket: &Path) -> Result<Client, String> {
    let began = Instant::now();
    loop {
        let answered = Client::connect(socket).and_then(|mut client| {
            client.call("bdev_get_bdevs", &Value::Null).map(|bdevs| (client, bdevs))
        });
        match answered {
            Ok((client, bdevs)) if bdevs.as_array().is_some_and(|bdevs| !bdevs.is_empty()) => {
                // Wait until the I/O is running.
                std::thread::sleep(Duration::from_millis(300));
                return Ok(client);
            }
            _ if generator.has_ended() => return Err("the generator has ended".to_owned()),
            _ if began.elapsed() > PATIENCE => return Err("the generator does not answer".into()),
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// A generator on both cores that runs until the bench ends it.
fn generator(bench: &Bench, side: Side, folder: &Path, socket: &Path) -> Result<Running, String> {
    let calls =
        [("bdev_null_create", json!({"name": "base", "num_blocks": 65536, "block_size": 512}))];
    let config = folder.join("config.json");
    std::fs::write(&config, rates::config(&calls).to_string())
        .map_err(|error| format!("{}: {error}", config.display()))?;
    let mut command = match side {
        Side::Ours => {
            let plugins = case::folder().display().to_string();
            bench.perf(&["perf", "--plugin-dir", &plugins].map(str::to_owned))
        }
        Side::Reference => {
            let mut command = bench.reference()?.bdevperf();
            command.args(["-o", "4096"]);
            command
        }
    };
    command.args(["-m", "0x3", "-q", "128", "-w", "randread", "-t", "60", "-c"]).arg(&config);
    Running::start(command.arg("-r").arg(socket))
}
