//! The file that keeps a namespace's reservations across a loss of power. Its format is the reference's.

use super::reservation::{HostId, Reservations, kind_of, type_of};
use drivebay_reservation::{Held, Registrant, Table, file};
use drivebay_sdk::bdev::Uuid;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_nvme::reservation::Type;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Serialize, Deserialize)]
struct Kept {
    #[serde(default)]
    ptpl: bool,
    /// Type of the reservation; 0 without one.
    #[serde(default)]
    rtype: u8,
    /// The holder's key. When all registrants hold the reservation, the key of one of them.
    #[serde(default)]
    crkey: u64,
    #[serde(default)]
    bdev_uuid: String,
    /// Empty without a holder, and when all registrants hold the reservation.
    #[serde(default)]
    holder_uuid: String,
    registrants: Vec<KeptRegistrant>,
}

#[derive(Serialize, Deserialize)]
struct KeptRegistrant {
    rkey: u64,
    host_uuid: String,
}

/// Writes reservations as the text of a file.
pub fn to_text(uuid: &[u8; 16], reservations: &Reservations) -> String {
    let table = &reservations.table;
    let held = table.held().filter(|_| reservations.is_persistent);
    let holder = held.and_then(|held| held.holder);
    let first = held.and_then(|_| table.registrants().first());
    let crkey = match holder {
        Some(holder) => table.key_of(&holder),
        None => first.map(|one| one.key),
    };
    let registrants = table.registrants().iter().filter(|_| reservations.is_persistent);
    let registrants = registrants
        .map(|one| KeptRegistrant { rkey: one.key, host_uuid: Uuid(one.who).to_string() });
    let kept = Kept {
        ptpl: reservations.is_persistent,
        rtype: held.map_or(0, |held| type_of(held.kind) as u8),
        crkey: crkey.unwrap_or(0),
        bdev_uuid: Uuid(*uuid).to_string(),
        holder_uuid: holder.map(|holder| Uuid(holder).to_string()).unwrap_or_default(),
        registrants: registrants.collect(),
    };
    serde_json::to_string_pretty(&kept).unwrap_or_default()
}

/// Reads the reservations from a file. A file that is missing or empty has none. Blocks.
///
/// # Errors
/// `EINVAL` when the file cannot be read, has another format, or belongs to another bdev. The operator has to remove the file or choose
/// another one.
pub fn read(path: &Path, uuid: &[u8; 16]) -> Result<Reservations> {
    let wrong =
        |why: &str| Error::new(errno::EINVAL, format!("ptpl_file {}: {why}", path.display()));
    let text = file::read(path).map_err(|error| wrong(&error.to_string()))?;
    let Some(text) = text.filter(|text| !text.trim().is_empty()) else {
        return Ok(Reservations::default());
    };
    let kept: Kept = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    if !kept.ptpl {
        return Ok(Reservations::default());
    }
    if kept.bdev_uuid.parse::<Uuid>().ok() != Some(Uuid(*uuid)) {
        return Err(wrong("it belongs to another bdev; remove it, or give another file"));
    }
    let table = restored(&kept).ok_or_else(|| wrong("its registrants and reservation contradict each other; remove it, or give another file"))?;
    Ok(Reservations { table, is_persistent: true })
}

fn restored(kept: &Kept) -> Option<Table<HostId>> {
    let mut registrants = Vec::new();
    for one in &kept.registrants {
        registrants.push(Registrant { who: one.host_uuid.parse::<Uuid>().ok()?.0, key: one.rkey });
    }
    let held = match kept.rtype {
        0 => None,
        bits => {
            let kind = kind_of(Type::from_bits(bits)?);
            let holder = match kind.is_all_registrants() {
                true => None,
                false => Some(kept.holder_uuid.parse::<Uuid>().ok()?.0),
            };
            Some(Held { kind, holder })
        }
    };
    Table::restore(registrants, held)
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_reservation::Kind;

    #[test]
    fn what_is_stored_comes_back_for_the_same_bdev_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        assert_eq!(read(&path, &[1; 16]).unwrap(), Reservations::default());
        for kind in [Kind::ExclusiveAccess, Kind::WriteExclusiveAll] {
            let mut kept = Reservations { is_persistent: true, ..Reservations::default() };
            kept.table.register(vec![[3; 16]], 11).unwrap();
            kept.table.register(vec![[4; 16]], u64::MAX).unwrap();
            kept.table.reserve(&[4; 16], kind).unwrap();
            file::replace(&path, &to_text(&[1; 16], &kept)).unwrap();
            let back = read(&path, &[1; 16]).unwrap().table;
            assert_eq!(
                (back.registrants(), back.held()),
                (kept.table.registrants(), kept.table.held())
            );
            assert!(read(&path, &[2; 16]).unwrap_err().to_string().contains("another bdev"));
            kept.is_persistent = false;
            file::replace(&path, &to_text(&[1; 16], &kept)).unwrap();
            assert!(!read(&path, &[1; 16]).unwrap().is_registered());
        }
    }

    #[test]
    fn a_file_of_the_reference_is_read_and_a_damaged_one_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        let (bdev, host) = (Uuid([1; 16]).to_string(), Uuid([5; 16]).to_string());
        let text = |rtype: u8, holder: &str, rkey: u64| {
            format!(
                r#"{{"ptpl":true,"rtype":{rtype},"crkey":7,"bdev_uuid":"{bdev}","holder_uuid":"{holder}",
                    "registrants":[{{"rkey":{rkey},"host_uuid":"{host}"}}]}}"#
            )
        };
        std::fs::write(&path, text(1, &host, 7)).unwrap();
        assert!(read(&path, &[1; 16]).unwrap().table.holds(&[5; 16]));
        for damaged in
            [text(7, &host, 7), text(1, "", 7), text(1, &bdev, 7), text(0, "", 0), "{".into()]
        {
            std::fs::write(&path, &damaged).unwrap();
            assert!(read(&path, &[1; 16]).is_err(), "{damaged}");
        }
        std::fs::write(&path, "").unwrap();
        assert_eq!(read(&path, &[1; 16]).unwrap(), Reservations::default());
    }
}
