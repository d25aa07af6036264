//! Why a device cannot be opened. Each text tells the operator what to do.

use super::Address;
use super::sysfs::{self, Found};
use crate::{Error, Result};
use std::io;
use std::path::Path;
use vfio_ioctls::VfioError;

/// The only kernel driver that lets a process use a device.
pub const VFIO_PCI: &str = "vfio-pci";

/// Checks whether a device can be opened, before the host opens anything. Returns the device and its IOMMU group.
///
/// # Errors
/// `ENODEV` when there is no such device, `ENXIO` when it has no IOMMU group or another driver, `EBUSY` when another device of its
/// group has another driver.
pub fn check(root: &Path, address: Address) -> Result<(Found, u32)> {
    let (found, group) = in_a_group(root, address)?;
    let refuse = |errno, why: String| Err(Error::new(errno, format!("PCI device {address} {why}")));
    if found.driver.as_deref() != Some(VFIO_PCI) {
        let now =
            found.driver.as_deref().map_or("no driver".into(), |name| format!("the driver {name}"));
        return refuse(libc::ENXIO, format!("has {now}; it must be bound to {VFIO_PCI}"));
    }
    let is_foreign = |other: &&Found| {
        // The kernel permits bridges to keep their own driver.
        let is_bridge = other.class >> 16 == 0x06;
        let driver = other.driver.as_deref();
        !is_bridge && driver.is_some_and(|driver| driver != VFIO_PCI)
    };
    if let Some(other) = sysfs::in_group(root, group).iter().find(is_foreign) {
        let driver = other.driver.as_deref().unwrap_or_default();
        let other = other.address;
        return refuse(
            libc::EBUSY,
            format!(
                "shares IOMMU group {group} with {other}, which has the driver {driver}: bind {other} to {VFIO_PCI}, too, or to no driver"
            ),
        );
    }
    Ok((found, group))
}

/// Returns a device and its IOMMU group.
///
/// # Errors
/// `ENODEV` when there is no such device, `ENXIO` when it has no IOMMU group.
pub fn in_a_group(root: &Path, address: Address) -> Result<(Found, u32)> {
    let Some(found) = sysfs::find(root, address) else {
        return Err(Error::new(libc::ENODEV, format!("there is no PCI device {address}")));
    };
    let Some(group) = found.iommu_group else {
        let why = format!(
            "PCI device {address} has no IOMMU group, so nothing would keep it out of this machine's memory: switch the IOMMU on, \
             in the firmware (VT-d, AMD-Vi, SMMU) and on the kernel's command line (intel_iommu=on)"
        );
        return Err(Error::new(libc::ENXIO, why));
    };
    Ok((found, group))
}

/// The error for the operator when VFIO refuses a device.
pub(super) fn explain(address: Address, group: u32, error: &VfioError) -> Error {
    let (errno, why) = match error {
        VfioError::OpenContainer(error) => of_file("/dev/vfio/vfio", error),
        VfioError::OpenGroup(error, group) => of_file(&format!("/dev/vfio/{group}"), error),
        VfioError::GroupViable => {
            (libc::EBUSY, format!("its IOMMU group {group} has a device with another driver"))
        }
        VfioError::ContainerSetIOMMU(error) if error.errno() == libc::EPERM => (
            libc::EPERM,
            "the IOMMU does not remap interrupts (see allow_unsafe_interrupts of the kernel module vfio_iommu_type1)".into(),
        ),
        VfioError::ContainerSetIOMMU(error) | VfioError::GroupGetDeviceFD(error) => {
            (error.errno(), error_text(error.errno()))
        }
        other => (libc::EIO, other.to_string()),
    };
    Error::new(errno, format!("PCI device {address}: {why}"))
}

fn of_file(path: &str, error: &io::Error) -> (i32, String) {
    let user =
        std::fs::metadata("/proc/self").ok().map(|own| std::os::unix::fs::MetadataExt::uid(&own));
    let user = user.map_or_else(String::new, |user| format!(" (user {user})"));
    let errno = error.raw_os_error().unwrap_or(libc::EIO);
    let advice = match errno {
        libc::ENOENT => "load the kernel module vfio-pci".to_owned(),
        libc::EACCES | libc::EPERM => format!("let this process's user{user} read and write it"),
        libc::EBUSY => "another process uses a device of this group".to_owned(),
        _ => error_text(errno),
    };
    let why = io::Error::from_raw_os_error(errno);
    (errno, format!("cannot open {path}: {why}; {advice}"))
}

fn error_text(errno: i32) -> String {
    io::Error::from_raw_os_error(errno).to_string()
}

#[cfg(test)]
mod tests {
    use super::super::sysfs::tests::tree;
    use super::*;

    fn refusal(devices: &[(&str, &str, Option<u32>)]) -> Error {
        check(tree(devices).path(), "0000:01:00.0".parse().unwrap()).unwrap_err()
    }

    #[test]
    fn a_device_without_an_iommu_is_refused_with_how_to_get_one() {
        let error = refusal(&[("0000:01:00.0", "vfio-pci", None)]);
        assert_eq!(error.errno(), libc::ENXIO);
        assert!(error.message().contains("intel_iommu=on"), "{error}");
    }

    #[test]
    fn a_device_of_another_driver_is_refused_with_the_drivers_name() {
        let error = refusal(&[("0000:01:00.0", "nvme", Some(3))]);
        assert_eq!(error.errno(), libc::ENXIO);
        assert!(error.message().contains("the driver nvme"), "{error}");
        assert!(refusal(&[("0000:01:00.0", "", Some(3))]).message().contains("no driver"));
    }

    #[test]
    fn a_foreign_device_of_the_group_is_named_and_a_bridge_is_not() {
        let error =
            refusal(&[("0000:01:00.0", "vfio-pci", Some(3)), ("0000:01:00.1", "ahci", Some(3))]);
        assert_eq!(error.errno(), libc::EBUSY);
        assert!(
            error.message().contains("0000:01:00.1") && error.message().contains("ahci"),
            "{error}"
        );

        let root =
            tree(&[("0000:01:00.0", "vfio-pci", Some(3)), ("0000:00:1c.0", "pcieport", Some(3))]);
        std::fs::write(root.path().join("0000:00:1c.0/class"), "0x060400\n").unwrap();
        assert_eq!(check(root.path(), "0000:01:00.0".parse().unwrap()).unwrap().1, 3);
    }

    #[test]
    fn a_device_that_is_not_there_is_refused() {
        assert_eq!(refusal(&[]).errno(), libc::ENODEV);
    }

    #[test]
    fn a_node_that_may_not_be_opened_is_named_with_what_to_do() {
        let error = VfioError::OpenGroup(io::Error::from_raw_os_error(libc::EACCES), "17".into());
        let error = explain("0000:01:00.0".parse().unwrap(), 17, &error);
        assert_eq!(error.errno(), libc::EACCES);
        assert!(
            error.message().contains("/dev/vfio/17") && error.message().contains("user"),
            "{error}"
        );
    }
}
