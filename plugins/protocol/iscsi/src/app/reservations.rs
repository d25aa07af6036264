//! The file of a unit's reservations: registrants with their keys, and the reservation, as JSON.

use drivebay_reservation::{Held, Registrant, Table, file};
use drivebay_scsi::{Identity, Settled, kind_of, type_of};
use drivebay_sdk::bdev::Uuid;
use drivebay_sdk::{Error, Result, errno};
use drivebay_spec_scsi::reservation::Type;
use serde::{Deserialize, Serialize};
use std::path::Path;

#[derive(Serialize, Deserialize)]
struct Kept {
    bdev_uuid: String,
    registrants: Vec<KeptRegistrant>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reservation: Option<KeptReservation>,
}

#[derive(Serialize, Deserialize)]
struct KeptRegistrant {
    key: u64,
    /// Hexadecimal digits.
    transport_id: String,
    target_port: u16,
}

#[derive(Serialize, Deserialize)]
struct KeptReservation {
    /// The code of the type: SPC-4, section 6.15.3.4.
    r#type: u8,
    /// Index of the holder among the registrants; absent if all of them hold the reservation.
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<usize>,
}

/// The text of the file. Without a table it contains no reservations.
pub(super) fn to_text(uuid: &[u8; 16], table: Option<&Table<Identity>>) -> String {
    let registrants = table.map(Table::registrants).unwrap_or_default();
    let reservation = table.and_then(Table::held).map(|held| KeptReservation {
        r#type: type_of(held.kind) as u8,
        holder: registrants.iter().position(|one| Some(&one.who) == held.holder.as_ref()),
    });
    let registrants = registrants.iter().map(|one| KeptRegistrant {
        key: one.key,
        transport_id: one.who.transport_id.iter().map(|byte| format!("{byte:02x}")).collect(),
        target_port: one.who.port,
    });
    let bdev_uuid = Uuid(*uuid).to_string();
    let kept = Kept { bdev_uuid, registrants: registrants.collect(), reservation };
    serde_json::to_string_pretty(&kept).unwrap_or_default()
}

/// Replaces the file. After a crash it has the old text or the new one.
pub(super) fn write(path: &Path, text: &str) -> Settled {
    match file::replace(path, text) {
        Ok(()) => Settled::Kept,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "reservations cannot be stored");
            Settled::NotStored
        }
    }
}

/// Reads the reservations from the file; `None` if there is no file, or nobody is registered.
///
/// # Errors
/// `EINVAL` for a file that is unreadable, damaged, or belongs to another bdev. The operator decides what to do with the file.
pub(super) fn read(path: &Path, uuid: &[u8; 16]) -> Result<Option<Table<Identity>>> {
    let wrong =
        |why: &str| Error::new(errno::EINVAL, format!("ptpl_file {}: {why}", path.display()));
    let text = file::read(path).map_err(|error| wrong(&error.to_string()))?;
    let Some(text) = text else { return Ok(None) };
    let kept: Kept = serde_json::from_str(&text).map_err(|error| wrong(&error.to_string()))?;
    if kept.bdev_uuid != Uuid(*uuid).to_string() {
        return Err(wrong("it belongs to another bdev; remove it, or give another file"));
    }
    let table = restored(kept).ok_or_else(|| wrong("its parts contradict each other"))?;
    Ok(Some(table).filter(|table| !table.registrants().is_empty()))
}

fn restored(kept: Kept) -> Option<Table<Identity>> {
    let mut registrants = Vec::new();
    for one in kept.registrants {
        let who = Identity { transport_id: bytes(&one.transport_id)?, port: one.target_port };
        registrants.push(Registrant { who, key: one.key });
    }
    let held = match kept.reservation {
        Some(KeptReservation { r#type, holder }) => {
            let holder = match holder {
                Some(place) => Some(registrants.get(place)?.who.clone()),
                None => None,
            };
            Some(Held { kind: kind_of(Type::from_bits(r#type)?), holder })
        }
        None => None,
    };
    Table::restore(registrants, held)
}

fn bytes(digits: &str) -> Option<Vec<u8>> {
    let pairs = digits.as_bytes().chunks(2);
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    pairs.map(|pair| byte(pair).filter(|_| pair.len() == 2)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use drivebay_reservation::Kind;

    fn who(n: u8) -> Identity {
        Identity { transport_id: vec![5, n, 0xff], port: 7 }
    }

    #[test]
    fn what_is_stored_comes_back_for_the_same_bdev_only() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        assert_eq!(read(&path, &[1; 16]).unwrap().map(|_| ()), None);
        for kind in [Kind::ExclusiveAccess, Kind::WriteExclusiveAll] {
            let mut table = Table::default();
            table.register(vec![who(1)], 11).unwrap();
            table.register(vec![who(2)], u64::MAX).unwrap();
            table.reserve(&who(2), kind).unwrap();
            assert_eq!(write(&path, &to_text(&[1; 16], Some(&table))), Settled::Kept);
            let back = read(&path, &[1; 16]).unwrap().unwrap();
            assert_eq!((back.registrants(), back.held()), (table.registrants(), table.held()));
            assert!(read(&path, &[2; 16]).unwrap_err().to_string().contains("another bdev"));
        }
        assert_eq!(write(&path, &to_text(&[1; 16], None)), Settled::Kept);
        assert!(read(&path, &[1; 16]).unwrap().is_none());
    }

    #[test]
    fn a_file_that_is_damaged_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("kept");
        let uuid = Uuid([1; 16]).to_string();
        let one = r#"{"key":1,"transport_id":"05","target_port":1}"#;
        for damaged in [
            "".to_owned(),
            "{".to_owned(),
            format!(r#"{{"bdev_uuid":"{uuid}","registrants":[{one},{one}]}}"#),
            format!(r#"{{"bdev_uuid":"{uuid}","registrants":[{one}],"reservation":{{"type":2}}}}"#),
            format!(
                r#"{{"bdev_uuid":"{uuid}","registrants":[{one}],"reservation":{{"type":1,"holder":1}}}}"#
            ),
            format!(
                r#"{{"bdev_uuid":"{uuid}","registrants":[{{"key":1,"transport_id":"5","target_port":1}}]}}"#
            ),
        ] {
            std::fs::write(&path, &damaged).unwrap();
            assert!(read(&path, &[1; 16]).is_err(), "{damaged}");
        }
    }
}
