//! `list`: namespaces and their subsystems.

use crate::{At, Found, table, trimmed};
use drivebay_nvme_driver::Error;
use drivebay_nvme_driver::spec::log::{subtype, trtype};
use serde_json::{Value, json};
use std::io::{self, Write};
use std::net::SocketAddr;

/// A namespace, and the address of its controller.
struct Listed {
    nqn: String,
    address: SocketAddr,
    model: String,
    serial: String,
    nsid: u32,
    block_size: u32,
    num_blocks: u64,
}

pub(crate) fn list(at: &At, nqn: Option<&str>) -> Result<Found, Error> {
    let mut all = Vec::new();
    let mut failure = None;
    for (address, subsystem) in subsystems(at, nqn)? {
        match namespaces(&At { address, ..at.clone() }, &subsystem) {
            Ok(found) => all.extend(found),
            // This host may be unable to reach some of the discovered subsystems. The others still count.
            Err(error) if nqn.is_none() => {
                let _ = writeln!(io::stderr(), "drivebay nvme: {subsystem} at {address}: {error}");
                failure = Some(error);
            }
            Err(error) => return Err(error),
        }
    }
    if all.is_empty()
        && let Some(error) = failure
    {
        return Err(error);
    }
    let head = ["subsystem", "address", "model", "serial", "nsid", "size", "block"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    rows.extend(all.iter().map(|one| {
        let size = one.num_blocks.saturating_mul(one.block_size.into());
        vec![
            one.nqn.clone(),
            one.address.to_string(),
            one.model.clone(),
            one.serial.clone(),
            one.nsid.to_string(),
            readable(size),
            one.block_size.to_string(),
        ]
    }));
    let json: Vec<Value> = all.iter().map(to_json).collect();
    Ok(Found { text: table(&rows), json: json!({ "namespaces": json }) })
}

fn to_json(one: &Listed) -> Value {
    json!({
        "subnqn": one.nqn,
        "address": one.address.to_string(),
        "model_number": one.model,
        "serial_number": one.serial,
        "nsid": one.nsid,
        "block_size": one.block_size,
        "num_blocks": one.num_blocks,
    })
}

/// Returns the requested subsystem, or each subsystem with a TCP address in the discovery log, once, with that address.
fn subsystems(at: &At, nqn: Option<&str>) -> Result<Vec<(SocketAddr, String)>, Error> {
    if let Some(nqn) = nqn {
        return Ok(vec![(at.address, nqn.to_owned())]);
    }
    let mut controller = at.discovery()?;
    let entries = controller.discovery_log()?;
    controller.shutdown()?;
    let mut found: Vec<(SocketAddr, String)> = Vec::new();
    for entry in entries.iter().filter(|e| e.trtype == trtype::TCP && e.subtype == subtype::NVM) {
        let [address, port] = [entry.traddr.as_str(), entry.trsvcid.as_str()].map(trimmed);
        let (Ok(ip), Ok(port)) = (address.parse(), port.parse()) else { continue };
        let nqn = trimmed(entry.subnqn.as_str());
        if found.iter().all(|(_, other)| *other != nqn) {
            found.push((SocketAddr::new(ip, port), nqn));
        }
    }
    Ok(found)
}

fn namespaces(at: &At, nqn: &str) -> Result<Vec<Listed>, Error> {
    let mut controller = at.connect(nqn)?;
    let data = controller.data().clone();
    let mut all = Vec::new();
    for nsid in controller.namespaces()? {
        let namespace = controller.identify_namespace(nsid)?;
        all.push(Listed {
            nqn: nqn.to_owned(),
            address: at.address,
            model: trimmed(data.mn.as_str()),
            serial: trimmed(data.sn.as_str()),
            nsid,
            block_size: namespace.block_size().unwrap_or(0),
            num_blocks: namespace.nsze,
        });
    }
    controller.shutdown()?;
    Ok(all)
}

/// A size as text, in the largest unit that is not larger than the size. Units are powers of 1024.
fn readable(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let name = UNITS.get(unit).copied().unwrap_or_default();
    if value.fract() == 0.0 { format!("{value:.0} {name}") } else { format!("{value:.2} {name}") }
}

#[cfg(test)]
mod tests {
    use super::readable;

    #[test]
    fn sizes_are_printed_in_units_that_people_read() {
        let printed = [512, 33_554_432, 1_610_612_736].map(readable);
        assert_eq!(printed, ["512 B", "32 MiB", "1.50 GiB"]);
    }
}
