//! Checks that an I/O costs the same with any number of bdevs, connections and namespaces.

use super::nvmf::loaded;
use super::rates::{bdevperf, config, perf};
use super::samples::{Samples, ratio};
use super::server::{Folder, Server};
use super::{Bench, Side, case, crowd, load, report, table};
use serde_json::{Value, json};

const BDEVS: [usize; 3] = [1, 100, 10_000];
const CONNECTIONS: [u32; 3] = [1, 100, 1000];
const NAMESPACES: [u32; 2] = [1, 1000];
const NQN: &str = "nqn.2026-01.io.drivebay:bench-growth";

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    if let Err(why) = bdevs(bench) {
        report::line(&format!("\nbdevs: not measured: {why}"));
    }
    connections(bench);
    namespaces(bench);
    Ok(())
}

fn null(name: &str) -> Value {
    json!({"name": name, "num_blocks": 65536, "block_size": 512})
}

fn bdevs(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Growth: 4 KiB reads per second of the last of many null disks, depth 128",
        &["disks", "ours", "to one disk", "reference", "to one disk"],
    );
    let mut first: Option<(Samples, Samples)> = None;
    for count in BDEVS {
        let (mut ours, mut theirs) = (Samples::default(), Samples::default());
        for _ in 0..bench.rounds {
            for side in bench.growing() {
                match side {
                    Side::Ours => ours.push(of_ours(bench, count)?),
                    Side::Reference => theirs.push(of_reference(bench, count)?),
                }
            }
        }
        let (one, one_of_theirs) = first.get_or_insert_with(|| (ours.clone(), theirs.clone()));
        table::row([
            count.to_string(),
            ours.text(),
            ratio(&ours, one),
            theirs.text(),
            ratio(&theirs, one_of_theirs),
        ]);
    }
    Ok(())
}

fn calls(count: usize) -> Vec<(&'static str, Value)> {
    (1..=count).map(|n| ("bdev_null_create", null(&format!("null{n}")))).collect()
}

fn of_ours(bench: &Bench, count: usize) -> Result<f64, String> {
    let folder = Folder::new()?;
    let path = folder.0.join("config.json").display().to_string();
    std::fs::write(&path, config(&calls(count)).to_string())
        .map_err(|error| format!("{path}: {error}"))?;
    let plugins = case::folder().display().to_string();
    let last = format!("null{count}");
    let arguments = ["perf", "--json", "--plugin-dir", &plugins, "-q", "128", "-c", &path, &last];
    perf(bench, &arguments.map(str::to_owned))
}

fn of_reference(bench: &Bench, count: usize) -> Result<f64, String> {
    let last = format!("null{count}");
    bdevperf(bench, &calls(count), &["-w", "randread", "-m", "0x1", "-T", &last], 128)
}

/// The target's costs of an I/O.
#[derive(Clone, Default)]
struct Cost {
    iops: Samples,
    busy_us: Samples,
    cpu_us: Samples,
}

const COST_COLUMNS: [&str; 7] = [
    "how many",
    "side",
    "4 KiB reads per second",
    "busy µs per I/O",
    "to the first line",
    "processor µs per I/O",
    "to the first line",
];

fn connections(bench: &Bench) {
    let one = |count: u32| (1, count - 1, 32);
    let all = |count: u32| (count, 0, 1);
    type Shape = fn(u32) -> (u32, u32, u32);
    let shapes: [(&str, Shape); 2] = [
        ("Growth: connections, one of them with I/O at depth 32", one),
        ("Growth: connections, each with I/O at depth 1", all),
    ];
    for (title, shape) in shapes {
        table::begin(title, &COST_COLUMNS);
        for side in bench.growing() {
            let mut first = None;
            for count in CONNECTIONS {
                let (connections, idle, depth) = shape(count);
                let load = load::Plan { connections, idle, depth, ..plan(1) };
                let cost = cost(bench, side, 1, &load);
                cost_row(&count.to_string(), side.name(), cost, &mut first);
            }
        }
    }
    let mut first = None;
    for count in CONNECTIONS {
        cost_row(&count.to_string(), "a bare program", bare(bench, count), &mut first);
    }
}

fn namespaces(bench: &Bench) {
    table::begin("Growth: namespaces, the last with I/O at depth 32", &COST_COLUMNS);
    for side in bench.growing() {
        let mut first = None;
        for count in NAMESPACES {
            let cost = cost(bench, side, count, &plan(count));
            cost_row(&count.to_string(), side.name(), cost, &mut first);
        }
    }
}

fn plan(nsid: u32) -> load::Plan {
    load::Plan {
        nqn: NQN.to_owned(),
        nsid,
        connections: 1,
        idle: 0,
        depth: 32,
        io_size: 4096,
        write: false,
    }
}

/// Prints a row. If a side cannot run the case, its row says why.
fn cost_row(count: &str, side: &str, cost: Result<Cost, String>, first: &mut Option<Cost>) {
    match cost {
        Ok(cost) => {
            let to = first.get_or_insert_with(|| cost.clone());
            table::row([
                count,
                side,
                &cost.iops.text(),
                &cost.busy_us.text(),
                &ratio(&cost.busy_us, &to.busy_us),
                &cost.cpu_us.text(),
                &ratio(&cost.cpu_us, &to.cpu_us),
            ]);
        }
        Err(why) => {
            let why = why.lines().next().unwrap_or_default().to_owned();
            table::row([count, side, "not measured", &why, "", "", ""]);
        }
    }
}

fn cost(bench: &Bench, side: Side, namespaces: u32, load: &load::Plan) -> Result<Cost, String> {
    let mut server = Server::start(bench, side, "0x1")?;
    server.create_transport()?;
    let bdevs: Vec<String> = (1..=namespaces).map(|n| format!("null{n}")).collect();
    for bdev in &bdevs {
        server.call("bdev_null_create", &null(bdev))?;
    }
    server.export(NQN, &bdevs)?;
    let mut cost = Cost::default();
    for _ in 0..bench.rounds {
        let seconds = ["--seconds", &bench.seconds.to_string()];
        let mut connected = load::Connected::new(server.port, load, &seconds)?;
        let one = loaded(&mut server, bench, || connected.run())?;
        cost.iops.push(one.iops);
        cost.busy_us.push(one.busy_us);
        cost.cpu_us.push(one.cpu_us);
    }
    Ok(cost)
}

/// The cost of epoll, receive and send alone over that many connections, with one round trip outstanding
/// on each.
fn bare(bench: &Bench, connections: u32) -> Result<Cost, String> {
    let mut cost = Cost::default();
    for _ in 0..bench.rounds {
        let iops = crowd::per_second(connections, bench.seconds)?;
        cost.iops.push(iops);
        // The program polls, so it uses the whole core.
        cost.cpu_us.push(1e6 / iops);
    }
    Ok(cost)
}
