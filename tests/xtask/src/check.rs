//! The demo's check: it writes a disk over NVMe/TCP with our own initiator, with many commands in
//! flight, reads the disk back and compares every byte.

use drivebay_nvme_driver::{Controller, Namespace, Options, Queue};
use std::net::SocketAddr;

/// Bytes of each I/O.
const IO_LEN: usize = 64 << 10;
/// Commands in flight.
const DEPTH: usize = 32;

/// Writes and verifies the first `len` bytes of namespace 1. Returns how many were verified.
pub(crate) fn disk(address: SocketAddr, nqn: &str, len: u64) -> Result<u64, String> {
    let context = |error: drivebay_nvme_driver::Error| format!("{nqn} at {address}: {error}");
    let mut controller = Controller::connect(Options::new(address, nqn)).map_err(context)?;
    controller.set_queues(1).map_err(context)?;
    let namespace = controller.namespace(1).map_err(context)?;
    let mut queue = controller.io_queue(1, 64).map_err(context)?;
    let blocks = u32::try_from(IO_LEN).unwrap_or(u32::MAX) / namespace.block_size;
    let places: Vec<u64> = (0..len / IO_LEN as u64).map(|n| n * u64::from(blocks)).collect();

    for chunk in places.chunks(DEPTH) {
        for &slba in chunk {
            let request = namespace.write(slba, content(slba)).map_err(context)?;
            queue.submit(request).map_err(context)?;
        }
        while queue.outstanding() > 0 {
            queue.reap().and_then(|completed| completed.ok()).map_err(context)?;
        }
    }
    queue.run(namespace.flush()).and_then(|completed| completed.ok()).map_err(context)?;
    for chunk in places.chunks(DEPTH) {
        read_back(&namespace, &mut queue, chunk, blocks).map_err(|why| format!("{nqn}: {why}"))?;
    }
    drop(queue);
    controller.shutdown().map_err(context)?;
    Ok(places.len() as u64 * IO_LEN as u64)
}

fn read_back(
    namespace: &Namespace,
    queue: &mut Queue,
    places: &[u64],
    blocks: u32,
) -> Result<(), String> {
    let mut wanted = Vec::new();
    for &slba in places {
        let request = namespace.read(slba, blocks).map_err(|error| error.to_string())?;
        let token = queue.submit(request).map_err(|error| error.to_string())?;
        wanted.push((token, slba));
    }
    for (token, slba) in wanted {
        let completed = queue.wait(token).map_err(|error| error.to_string())?;
        let data = completed.ok().map_err(|error| error.to_string())?;
        if data != content(slba) {
            return Err(format!("block {slba}: the data read is not the data written"));
        }
    }
    Ok(())
}

/// The content of a block: different for every block, and the same in every run.
fn content(slba: u64) -> Vec<u8> {
    let mut state = slba.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut data = Vec::with_capacity(IO_LEN);
    while data.len() < IO_LEN {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        data.extend_from_slice(&state.to_le_bytes());
    }
    data
}
