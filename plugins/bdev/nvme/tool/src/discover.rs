//! `discover`: the discovery log.

use crate::{At, Found, table, trimmed};
use drivebay_nvme_driver::Error;
use drivebay_nvme_driver::spec::log::{DiscoveryEntry, adrfam, subtype, trtype};
use serde_json::{Value, json};

pub(crate) fn discover(at: &At) -> Result<Found, Error> {
    let mut controller = at.discovery()?;
    let entries = controller.discovery_log()?;
    controller.shutdown()?;
    let mut rows =
        vec![["transport", "address", "port", "what", "subsystem"].map(str::to_owned).to_vec()];
    rows.extend(entries.iter().map(|entry| {
        let [transport, address, port, what, nqn] = fields(entry);
        vec![transport, address, port, what, nqn]
    }));
    let json: Vec<Value> = entries.iter().map(to_json).collect();
    Ok(Found { text: table(&rows), json: json!({ "records": json }) })
}

fn fields(entry: &DiscoveryEntry) -> [String; 5] {
    let transport = transport(entry.trtype).to_owned();
    let what = what(entry.subtype).to_owned();
    let [address, port] = [entry.traddr.as_str(), entry.trsvcid.as_str()].map(trimmed);
    [transport, address, port, what, trimmed(entry.subnqn.as_str())]
}

/// An entry with the names that nvme-cli gives its fields.
fn to_json(entry: &DiscoveryEntry) -> Value {
    let [transport, address, port, what, nqn] = fields(entry);
    let family = match entry.adrfam {
        adrfam::IPV4 => "ipv4",
        adrfam::IPV6 => "ipv6",
        _ => "other",
    };
    json!({
        "trtype": transport,
        "adrfam": family,
        "subtype": what,
        "portid": entry.portid,
        "trsvcid": port,
        "subnqn": nqn,
        "traddr": address,
    })
}

fn transport(value: u8) -> &'static str {
    match value {
        trtype::TCP => "tcp",
        trtype::RDMA => "rdma",
        trtype::FC => "fc",
        _ => "other",
    }
}

fn what(value: u8) -> &'static str {
    match value {
        subtype::NVM => "nvme subsystem",
        subtype::REFERRAL => "discovery subsystem referral",
        subtype::CURRENT_DISCOVERY => "current discovery subsystem",
        _ => "unknown",
    }
}
