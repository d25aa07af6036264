//! The devices as text and as JSON.

use super::{Kernel, usage};
use drivebay_core::env::pci::sysfs::{self, Found};
use drivebay_core::env::pci::{Address, refusal};
use serde::Serialize;
use std::fmt::Write;

/// The class of mass storage controllers. PCI Code and ID Assignment 1.11, section 1.2.
const STORAGE: u32 = 0x01;

/// One device.
#[derive(Debug, Serialize)]
pub(super) struct Entry {
    address: String,
    vendor: String,
    device: String,
    class: String,
    numa_id: Option<u32>,
    iommu_group: Option<u32>,
    driver: Option<String>,
    disks: Vec<usage::Disk>,
    /// Processes that have opened the device or its IOMMU group.
    opened_by: Vec<String>,
}

/// The devices: all, or the storage controllers only.
pub(super) fn entries(kernel: &Kernel, all: bool) -> Vec<Entry> {
    let found = sysfs::list(&kernel.devices()).into_iter();
    let wanted = found.filter(|found| all || found.class >> 16 == STORAGE);
    wanted.map(|found| describe(kernel, found)).collect()
}

/// One device; `None` when it does not exist.
pub(super) fn entry(kernel: &Kernel, address: Address) -> Option<Entry> {
    sysfs::find(&kernel.devices(), address).map(|found| describe(kernel, found))
}

fn describe(kernel: &Kernel, found: Found) -> Entry {
    let is_of_vfio = found.driver.as_deref() == Some(refusal::VFIO_PCI);
    let opened_by = if is_of_vfio { usage::openers(kernel, &found) } else { Vec::new() };
    Entry {
        address: found.address.to_string(),
        vendor: format!("{:04x}", found.vendor),
        device: format!("{:04x}", found.device),
        class: format!("{:06x}", found.class),
        numa_id: found.numa,
        iommu_group: found.iommu_group,
        driver: found.driver,
        disks: usage::disks(kernel, found.address),
        opened_by,
    }
}

/// JSON for scripts.
pub(super) fn json(entries: &[Entry]) -> String {
    format!("{:#}\n", serde_json::json!(entries))
}

/// A table for people: one line for each device, and one for each of its disks.
pub(super) fn text(entries: &[Entry]) -> String {
    if entries.is_empty() {
        return String::new();
    }
    let number = |number: Option<u32>| number.map_or("-".to_owned(), |number| number.to_string());
    let mut text = format!(
        "{:<13} {:<9} {:<7} {:>4} {:>5} {:<12} used by\n",
        "address", "device", "class", "numa", "group", "driver"
    );
    for entry in entries {
        let device = format!("{}:{}", entry.vendor, entry.device);
        let class = class_name(&entry.class);
        let (numa, group) = (number(entry.numa_id), number(entry.iommu_group));
        let driver = entry.driver.as_deref().unwrap_or("-");
        let users = entry.opened_by.join(", ");
        let line = format!(
            "{:<13} {device:<9} {class:<7} {numa:>4} {group:>5} {driver:<12} {users}",
            entry.address
        );
        let _ = writeln!(text, "{}", line.trim_end());
        for disk in &entry.disks {
            let line = format!("  {:<14} {}", disk.name, disk.used_by.join(", "));
            let _ = writeln!(text, "{}", line.trim_end());
        }
    }
    text
}

fn class_name(class: &str) -> &str {
    match class.get(..4).unwrap_or_default() {
        "0100" => "scsi",
        "0101" => "ide",
        "0104" => "raid",
        "0106" => "sata",
        "0107" => "sas",
        "0108" => "nvme",
        _ => class,
    }
}
