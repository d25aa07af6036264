//! Lists PCI devices from the text files of sysfs. A device may disappear while this code reads its files; the list then leaves it out.

use super::Address;
use std::fs;
use std::path::{Path, PathBuf};

/// The kernel's list of devices.
pub const ROOT: &str = "/sys/bus/pci/devices";

/// What sysfs says about a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Its address.
    pub address: Address,
    /// Vendor identifier.
    pub vendor: u16,
    /// Device identifier.
    pub device: u16,
    /// Subsystem vendor identifier.
    pub subvendor: u16,
    /// Subsystem identifier.
    pub subdevice: u16,
    /// Class code, 24 bits.
    pub class: u32,
    /// NUMA node, if the kernel knows it.
    pub numa: Option<u32>,
    /// IOMMU group; `None` without an IOMMU.
    pub iommu_group: Option<u32>,
    /// Name of its kernel driver; `None` when it has no driver.
    pub driver: Option<String>,
}

/// All devices below `root`, in the order of their addresses.
#[must_use]
pub fn list(root: &Path) -> Vec<Found> {
    let Ok(entries) = fs::read_dir(root) else { return Vec::new() };
    let names = entries.flatten().map(|entry| entry.file_name());
    let addresses = names.filter_map(|name| name.to_str()?.parse().ok());
    let mut all: Vec<Found> = addresses.filter_map(|address| find(root, address)).collect();
    all.sort_by_key(|found| found.address);
    all
}

/// One device; `None` when it does not exist or has just disappeared.
#[must_use]
pub fn find(root: &Path, address: Address) -> Option<Found> {
    let folder = folder(root, address);
    let number = |file: &str| {
        let text = fs::read_to_string(folder.join(file)).ok()?;
        u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok()
    };
    let id = |file: &str| number(file).and_then(|id| u16::try_from(id).ok());
    let numa = fs::read_to_string(folder.join("numa_node")).unwrap_or_default();
    Some(Found {
        address,
        vendor: id("vendor")?,
        device: id("device")?,
        subvendor: id("subsystem_vendor").unwrap_or(0),
        subdevice: id("subsystem_device").unwrap_or(0),
        class: number("class")?,
        // The file contains -1 when the kernel does not know the node.
        numa: numa.trim().parse().ok(),
        iommu_group: linked(&folder.join("iommu_group")).and_then(|name| name.parse().ok()),
        driver: linked(&folder.join("driver")),
    })
}

/// All devices of an IOMMU group.
#[must_use]
pub fn in_group(root: &Path, group: u32) -> Vec<Found> {
    list(root).into_iter().filter(|found| found.iommu_group == Some(group)).collect()
}

/// The folder of a device.
#[must_use]
pub fn folder(root: &Path, address: Address) -> PathBuf {
    root.join(address.to_string())
}

/// The last part of a link's target.
fn linked(link: &Path) -> Option<String> {
    fs::read_link(link).ok()?.file_name()?.to_str().map(str::to_owned)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A tree with one device for each address, driver and group.
    pub(in crate::env::pci) fn tree(devices: &[(&str, &str, Option<u32>)]) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        for (address, driver, group) in devices {
            let folder = root.path().join(address);
            fs::create_dir(&folder).unwrap();
            for (file, text) in [
                ("vendor", "0x1b36\n"),
                ("device", "0x0010\n"),
                ("subsystem_vendor", "0x1af4\n"),
                ("subsystem_device", "0x1100\n"),
                ("class", "0x010802\n"),
                ("numa_node", "-1\n"),
            ] {
                fs::write(folder.join(file), text).unwrap();
            }
            if !driver.is_empty() {
                symlink(format!("../../../bus/pci/drivers/{driver}"), folder.join("driver"))
                    .unwrap();
            }
            if let Some(group) = group {
                symlink(
                    format!("../../../kernel/iommu_groups/{group}"),
                    folder.join("iommu_group"),
                )
                .unwrap();
            }
        }
        root
    }

    #[test]
    fn devices_are_listed_by_address_with_driver_and_group() {
        let root = tree(&[("0000:5e:00.0", "vfio-pci", Some(7)), ("0000:03:00.0", "", None)]);
        fs::create_dir(root.path().join("not a device")).unwrap();
        // A device that disappears while it is read has no files.
        fs::create_dir(root.path().join("0000:04:00.0")).unwrap();
        let all = list(root.path());
        let shown: Vec<String> = all.iter().map(|found| found.address.to_string()).collect();
        assert_eq!(shown, ["0000:03:00.0", "0000:5e:00.0"]);
        assert_eq!((all[0].driver.as_deref(), all[0].iommu_group), (None, None));
        assert_eq!((all[1].driver.as_deref(), all[1].iommu_group), (Some("vfio-pci"), Some(7)));
        assert_eq!((all[1].vendor, all[1].device, all[1].class), (0x1b36, 0x10, 0x01_0802));
        assert_eq!(all[1].numa, None);
    }

    #[test]
    fn a_group_has_its_devices_and_no_other() {
        let root = tree(&[
            ("0000:00:01.0", "nvme", Some(1)),
            ("0000:00:02.0", "nvme", Some(2)),
            ("0000:00:02.1", "", Some(2)),
        ]);
        let of_group: Vec<String> =
            in_group(root.path(), 2).iter().map(|found| found.address.to_string()).collect();
        assert_eq!(of_group, ["0000:00:02.0", "0000:00:02.1"]);
    }
}
