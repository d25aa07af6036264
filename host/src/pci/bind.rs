//! Changes the driver of a device, through the files of sysfs. Linux, Documentation/ABI/testing/sysfs-bus-pci.

use super::{Kernel, usage};
use drivebay_core::env::pci::refusal::{self, VFIO_PCI};
use drivebay_core::env::pci::sysfs;
use drivebay_core::env::pci::{Address, sysfs::Found};

/// The class of bridges. PCI Code and ID Assignment 1.11, section 1.7.
const BRIDGE: u32 = 0x06;

/// Binds a device to vfio-pci.
///
/// # Errors
/// Says what the operator can do: when there is no IOMMU, the device is in use and `force` is false, or the kernel refuses.
pub(super) fn bind(kernel: &Kernel, address: Address, force: bool) -> Result<(), String> {
    let (found, _) =
        refusal::in_a_group(&kernel.devices(), address).map_err(|error| error.to_string())?;
    if found.driver.as_deref() == Some(VFIO_PCI) {
        return Ok(());
    }
    if found.class >> 16 == BRIDGE {
        return Err(format!("{address} is a bridge; allowed: a device"));
    }
    if !kernel.path("sys/bus/pci/drivers").join(VFIO_PCI).exists() {
        return Err(format!(
            "the kernel has no driver {VFIO_PCI}: load it with 'modprobe {VFIO_PCI}'"
        ));
    }
    let disks = usage::disks(kernel, address);
    // The claims live until the device has left its driver.
    let _claims = match usage::claim(kernel, &disks) {
        Err(why) if !force => {
            return Err(format!("{address} {why}, or use --force"));
        }
        claims => claims.unwrap_or_default(),
    };
    let given = give(kernel, &found, VFIO_PCI);
    let why = match (given, driver(kernel, address)) {
        (Ok(()), Some(driver)) if driver == VFIO_PCI => return Ok(()),
        (Ok(()), driver) => {
            let driver = driver.map_or("no driver".to_owned(), |name| format!("the driver {name}"));
            format!("{address} has {driver} after it was given to {VFIO_PCI}")
        }
        (Err(why), _) => why,
    };
    // Do not leave a disk without a driver, and do not take it from its own one if it is still there.
    let returned = sysfs::find(&kernel.devices(), address).map_or(Ok(()), |now| {
        let foreign = now.driver.clone().filter(|driver| Some(driver) != found.driver.as_ref());
        give(kernel, &Found { driver: foreign, ..now }, "")
    });
    Err(returned.err().map_or(why.clone(), |error| format!("{why}; {error}")))
}

/// Returns a device from vfio-pci to the kernel's own driver.
///
/// # Errors
/// Says what the operator can do: when the device has another driver, a process has it open and `force` is false, or the kernel refuses.
pub(super) fn unbind(kernel: &Kernel, address: Address, force: bool) -> Result<(), String> {
    let found = sysfs::find(&kernel.devices(), address);
    let found = found.ok_or_else(|| format!("there is no PCI device {address}"))?;
    if let Some(driver) = found.driver.as_deref().filter(|driver| *driver != VFIO_PCI) {
        return Err(format!(
            "{address} has the driver {driver}; allowed: a device that has {VFIO_PCI} or no driver"
        ));
    }
    let has_vfio = found.driver.is_some();
    let openers = if has_vfio { usage::openers(kernel, &found) } else { Vec::new() };
    if !openers.is_empty() && !force {
        // The kernel waits until the process closes the device.
        let openers = openers.join(", ");
        return Err(format!(
            "{openers} has opened {address} or its IOMMU group: detach it there first, or use --force"
        ));
    }
    give(kernel, &found, "")?;
    if driver(kernel, address).as_deref() == Some(VFIO_PCI) {
        let (vendor, device) = (found.vendor, found.device);
        return Err(format!(
            "the kernel bound {address} to {VFIO_PCI} again, because {VFIO_PCI} was told its vendor and device (new_id): \
             write '{vendor:04x} {device:04x}' to /sys/bus/pci/drivers/{VFIO_PCI}/remove_id first"
        ));
    }
    Ok(())
}

/// Takes a device from its driver and lets the kernel find another: `driver`, or its own choice when that is empty. The choice comes first:
/// if the kernel refuses it, the device keeps its driver.
fn give(kernel: &Kernel, found: &Found, driver: &str) -> Result<(), String> {
    let address = found.address.to_string();
    let folder = kernel.devices().join(&address);
    kernel.write(&folder.join("driver_override"), &format!("{driver}\n"))?;
    if found.driver.is_some() {
        kernel.write(&folder.join("driver/unbind"), &address)?;
    }
    kernel.write(&kernel.path("sys/bus/pci/drivers_probe"), &address)
}

fn driver(kernel: &Kernel, address: Address) -> Option<String> {
    sysfs::find(&kernel.devices(), address)?.driver
}
