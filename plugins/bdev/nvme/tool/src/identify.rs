//! `identify`: the data structures of Identify, with the specification's names for the fields, as nvme-cli shows them.

use crate::{At, Found, hex, trimmed};
use drivebay_nvme_driver::Error;
use drivebay_nvme_driver::spec::identify::{Controller, Namespace, NamespaceId};
use drivebay_nvme_driver::spec::property::Version;
use serde_json::{Map, Value, json};

pub(crate) fn identify(at: &At, nqn: &str, nsid: Option<u32>) -> Result<Found, Error> {
    let mut controller = at.connect(nqn)?;
    let fields = match nsid {
        None => of_controller(controller.data()),
        Some(nsid) => {
            let data = controller.identify_namespace(nsid)?;
            of_namespace(&data, &controller.namespace_ids(nsid)?)
        }
    };
    controller.shutdown()?;
    let text =
        fields.iter().map(|(name, value)| format!("{name:<9} : {}\n", shown(value))).collect();
    Ok(Found {
        text,
        json: Value::Object(
            fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<Map<_, _>>(),
        ),
    })
}

fn shown(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Number(number) if number.as_u64().is_some_and(|n| n > 9) => {
            format!("{number} ({:#x})", number.as_u64().unwrap_or(0))
        }
        other => other.to_string(),
    }
}

type Fields = Vec<(&'static str, Value)>;

fn of_controller(data: &Controller) -> Fields {
    vec![
        ("vid", json!(data.vid)),
        ("ssvid", json!(data.ssvid)),
        ("sn", json!(trimmed(data.sn.as_str()))),
        ("mn", json!(trimmed(data.mn.as_str()))),
        ("fr", json!(trimmed(data.fr.as_str()))),
        ("ieee", json!(hex(&data.ieee))),
        ("cmic", json!(data.cmic)),
        ("mdts", json!(data.mdts)),
        ("cntlid", json!(data.cntlid)),
        ("ver", json!(Version::from_bits(data.ver).to_string())),
        ("oaes", json!(data.oaes)),
        ("ctratt", json!(data.ctratt)),
        ("cntrltype", json!(data.cntrltype)),
        ("oacs", json!(data.oacs)),
        ("acl", json!(data.acl)),
        ("aerl", json!(data.aerl)),
        ("lpa", json!(data.lpa)),
        ("elpe", json!(data.elpe)),
        ("kas", json!(data.kas)),
        ("anatt", json!(data.anatt)),
        ("anacap", json!(data.anacap)),
        ("anagrpmax", json!(data.anagrpmax)),
        ("nanagrpid", json!(data.nanagrpid)),
        ("sqes", json!(data.sqes)),
        ("cqes", json!(data.cqes)),
        ("maxcmd", json!(data.maxcmd)),
        ("nn", json!(data.nn)),
        ("oncs", json!(data.oncs)),
        ("fuses", json!(data.fuses)),
        ("vwc", json!(data.vwc)),
        ("awun", json!(data.awun)),
        ("awupf", json!(data.awupf)),
        ("acwu", json!(data.acwu)),
        ("ocfs", json!(data.ocfs)),
        ("sgls", json!(data.sgls)),
        ("mnan", json!(data.mnan)),
        ("subnqn", json!(trimmed(data.subnqn.as_str()))),
        ("ioccsz", json!(data.ioccsz)),
        ("iorcsz", json!(data.iorcsz)),
        ("icdoff", json!(data.icdoff)),
        ("msdbd", json!(data.msdbd)),
    ]
}

fn of_namespace(data: &Namespace, ids: &[NamespaceId]) -> Fields {
    let mut fields = vec![
        ("nsze", json!(data.nsze)),
        ("ncap", json!(data.ncap)),
        ("nuse", json!(data.nuse)),
        ("nsfeat", json!(data.nsfeat)),
        ("flbas", json!(data.flbas)),
        ("nmic", json!(data.nmic)),
        ("dlfeat", json!(data.dlfeat)),
        ("nawun", json!(data.nawun)),
        ("nawupf", json!(data.nawupf)),
        ("nacwu", json!(data.nacwu)),
        ("noiob", json!(data.noiob)),
        ("npwg", json!(data.npwg)),
        ("npda", json!(data.npda)),
        ("nows", json!(data.nows)),
        ("mssrl", json!(data.mssrl)),
        ("mcl", json!(data.mcl)),
        ("msrc", json!(data.msrc)),
        ("anagrpid", json!(data.anagrpid)),
        ("nsattr", json!(data.nsattr)),
        ("nguid", json!(hex(&data.nguid))),
        ("eui64", json!(hex(&data.eui64))),
        ("block_size", json!(data.block_size())),
    ];
    for id in ids {
        if let NamespaceId::Uuid(uuid) = id {
            let digits = hex(uuid);
            let part = |range| digits.get(range).unwrap_or_default();
            let parts = [part(0..8), part(8..12), part(12..16), part(16..20), part(20..32)];
            fields.push(("uuid", json!(parts.join("-"))));
        }
    }
    fields
}
