//! The time from the start to the first answer, and memory with connections.

use super::samples::{Samples, ratio};
use super::server::Server;
use super::{Bench, Side, load, process, table};
use serde_json::json;

const NQN: &str = "nqn.2026-01.io.drivebay:bench-memory";
/// I/O queues. With the admin queue these make 16 connections; the other case has 100 more.
const FEW: u32 = 15;
const MORE: u32 = 63;

pub(super) fn print(bench: &Bench) -> Result<(), String> {
    table::begin(
        "Start and memory, without hugepages",
        &["what", "ours", "reference", "its ÷ ours"],
    );
    let plain = Bench {
        reference: bench.reference.as_ref().map(super::Reference::without_hugepages),
        counted: None,
        huge: false,
        folder: None,
        parts: Vec::new(),
        ..*bench
    };
    let [mut ours, mut theirs] = [(); 2].map(|()| Figures::default());
    for _ in 0..bench.rounds {
        for side in plain.sides() {
            match side {
                Side::Ours => ours.measure(&plain, side)?,
                Side::Reference => theirs.measure(&plain, side)?,
            }
        }
    }
    for (what, ours, theirs) in [
        ("start to first answer, ms", &ours.start_ms, &theirs.start_ms),
        ("resident after the start, MiB", &ours.empty_mib, &theirs.empty_mib),
        (
            "resident with TCP, a malloc of 32 MiB not yet written and 16 connections, MiB",
            &ours.few_mib,
            &theirs.few_mib,
        ),
        ("more for each connection, KiB", &ours.each_kib, &theirs.each_kib),
    ] {
        table::row([what, &ours.text(), &theirs.text(), &ratio(theirs, ours)]);
    }
    Ok(())
}

#[derive(Default)]
struct Figures {
    start_ms: Samples,
    empty_mib: Samples,
    few_mib: Samples,
    each_kib: Samples,
}

impl Figures {
    fn measure(&mut self, bench: &Bench, side: Side) -> Result<(), String> {
        let mut server = Server::start(bench, side, "0x1")?;
        self.start_ms.push(server.started_in.as_secs_f64() * 1e3);
        let resident = |server: &Server| process::resident_kib(server.process.id());
        self.empty_mib.push(resident(&server)? / 1024.0);
        server.create_transport()?;
        let disk = json!({"name": "disk", "num_blocks": 65536, "block_size": 512});
        server.call("bdev_malloc_create", &disk)?;
        server.export(NQN, &["disk".to_owned()])?;
        let few = load::hold(server.port, NQN, FEW)?;
        let with_few = resident(&server)?;
        self.few_mib.push(with_few / 1024.0);
        let more = load::hold(server.port, NQN, MORE)?;
        self.each_kib.push((resident(&server)? - with_few) / f64::from(MORE + 1));
        drop((few, more));
        Ok(())
    }
}
