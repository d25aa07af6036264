//! The parts of a plugin's file that the host reads before any of its code runs.

use crate::look;
use drivebay::loader::trust::{key, policy, signature};
use drivebay::loader::{inspect, layout, manifest};
use std::path::Path;

/// The file: ELF, notes, symbols.
pub(crate) fn file(data: &[u8]) {
    if let Ok(found) = inspect::inspect(data) {
        look(found.allowed());
    }
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(manifest) = manifest::Manifest::parse(text)
    {
        look(manifest.requirements());
        look(manifest.methods().count());
    }
}

/// The layout table. If there is a zero byte, the two tables around it are compared.
pub(crate) fn layout(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (one, other) = text.split_once('\0').unwrap_or((text, text));
    if let (Ok(one), Ok(other)) = (layout::parse(one), layout::parse(other)) {
        // A table compared with itself may only lack required entries.
        let differences = layout::differences(&one, &one);
        assert!(differences.iter().all(|line| line.contains("does not list")), "{differences:?}");
        look(layout::differences(&one, &other));
        look(layout::broken_promises(&one, &other));
    }
}

/// The files beside a plugin: its signature, keys, the operator's policy. The first byte selects
/// one.
pub(crate) fn trust(data: &[u8]) {
    let Some((&which, data)) = data.split_first() else { return };
    let text = std::str::from_utf8(data).ok();
    match (which % 3, text) {
        (0, _) => {
            if let Ok((key, _)) = signature::parse(data) {
                assert_eq!(key::Fingerprint::parse(&key.to_string()).unwrap(), key);
            }
        }
        (1, Some(text)) => {
            if let Ok(key) = key::PublicKey::parse(Path::new("some.pub"), text) {
                assert_eq!(key.name, "some");
                look(key.verifies(&[0; 64], data));
            }
        }
        (2, Some(text)) => {
            if let Ok(policy) = policy::Policy::parse(text) {
                look((policy.check_name("some"), policy.check_name("other")));
            }
        }
        _ => {}
    }
}
