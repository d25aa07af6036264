//! `bay.pci/1`: PCI devices behind an IOMMU. Given only to plugins that the operator's policy grants the permission `pci`.

use crate::door::{bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// Region state: devices reach the region at its `iova`.
pub const BAY_REGION_DMA: u32 = 16;

functions! {
    /// Gets one device of a list. The texts in `info` are valid for the call. `[thread of the list]`
    fn bay_pci_found_fn(ctx: *mut c_void, info: *const bay_pci_info);
    /// Lists the PCI devices of the machine, in the order of their addresses. It reads files, so it is not for the data path. `[any thread]`
    fn bay_pci_list_fn(host: *const bay_host, found: Option<bay_pci_found_fn>, ctx: *mut c_void) -> i32;
    /// Opens a device that is bound to vfio-pci, and stores its handle. The kernel resets the device, and bus mastering is off. When the call fails, `why` (may be NULL) gets a text for the operator. The plugin has the device until it calls `close` or ends. The call may take 100 ms and more, so call it on a worker. -EINVAL: not an address, -ENODEV: no such device, -ENXIO: not bound to vfio-pci, or no IOMMU, -EBUSY: in use, -EACCES: no permission, -ENOMEM: no memory to lock. `[any thread]`
    fn bay_pci_open_fn(host: *const bay_host, address: bay_str, why: *const bay_sink, device: *mut u64) -> i32;
    /// Closes a device. The host switches bus mastering off first, then unmaps the BARs. `[any thread]`
    fn bay_pci_close_fn(host: *const bay_host, device: u64) -> i32;
    /// Reads or writes `len` bytes (1, 2 or 4) of configuration space at `offset`. -EINVAL: beyond its end, -EIO: the device is gone. `[any thread]`
    fn bay_pci_config_fn(host: *const bay_host, device: u64, offset: u32, value: *mut u32, len: u32) -> i32;
    /// Maps a base address register (0 to 5). The mapping stays until `close`. Reads of a device that is gone return all ones. -EINVAL: the device has no such memory. `[any thread]`
    fn bay_pci_bar_fn(host: *const bay_host, device: u64, index: u32, addr: *mut *mut c_void, len: *mut u64) -> i32;
    /// Lets the device read and write memory (`on` 1), or stops it (`on` 0): when the call returns, the device has no access. -EIO: the device is gone. `[any thread]`
    fn bay_pci_set_master_fn(host: *const bay_host, device: u64, on: u32) -> i32;
    /// Resets the device and switches bus mastering off. The call may take 100 ms, so call it on a worker. -EOPNOTSUPP: the kernel cannot reset it, -EIO: the device is gone. `[any thread]`
    fn bay_pci_reset_fn(host: *const bay_host, device: u64) -> i32;
    /// Stores the number of MSI-X vectors of the device; 0 = none. `[any thread]`
    fn bay_pci_vectors_fn(host: *const bay_host, device: u64, count: *mut u32) -> i32;
    /// Makes an eventfd for each of the first `count` MSI-X vectors and stores them in `fds`. The host owns them, and keeps them open until `close`. A plugin may call this once for each device. `[any thread]`
    fn bay_pci_interrupts_fn(host: *const bay_host, device: u64, count: u32, fds: *mut i32) -> i32;
    /// Stores an eventfd that becomes readable when the kernel wants the device back, because somebody pulls it out or unbinds it. The plugin then ends its I/O and closes the device soon, because the kernel waits for that. The host owns the eventfd, and keeps it open until `close`. -EOPNOTSUPP: the kernel does not report that. `[any thread]`
    fn bay_pci_removal_fd_fn(host: *const bay_host, device: u64, fd: *mut i32) -> i32;
    /// Lets devices reach a DMA region of the host until the region is freed. While a device is open, the region has `BAY_REGION_DMA` set, and its `iova` is valid. Devices reach the buffers of the pools without this call. The call locks the memory, which may take long, so it is not for the data path. -EINVAL: not a DMA region of the host, -ENOMEM: more than may be locked. `[any thread]`
    fn bay_pci_share_fn(host: *const bay_host, region: u32, why: *const bay_sink) -> i32;
}

structs! {
    /// What sysfs says about a PCI device.
    open struct bay_pci_info {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Vendor identifier.
        vendor: u16,
        /// Device identifier.
        device: u16,
        /// Subsystem vendor identifier.
        subvendor: u16,
        /// Subsystem identifier.
        subdevice: u16,
        /// Class code, 24 bits: 0x010802 is an NVMe controller.
        class: u32,
        /// NUMA node; -1 = not known.
        numa: i32,
        /// IOMMU group; -1 = none.
        iommu_group: i32,
        /// Zero.
        rsv: u32,
        /// Address, `DDDD:BB:DD.F`.
        address: bay_str,
        /// Name of its kernel driver; empty = none.
        driver: bay_str,
    }

    /// `bay.pci/1`.
    open struct bay_pci_api {
        /// Size of this struct as the host was compiled, in bytes.
        size: u32,
        /// Zero.
        flags: u32,
        /// Lists devices.
        list: Option<bay_pci_list_fn>,
        /// Opens a device.
        open: Option<bay_pci_open_fn>,
        /// Closes a device.
        close: Option<bay_pci_close_fn>,
        /// Reads configuration space.
        config_read: Option<bay_pci_config_fn>,
        /// Writes configuration space. Only `set_master` changes the bit for bus mastering; this call leaves it as it is.
        config_write: Option<bay_pci_config_fn>,
        /// Maps a BAR.
        bar: Option<bay_pci_bar_fn>,
        /// Switches bus mastering on or off.
        set_master: Option<bay_pci_set_master_fn>,
        /// Resets a device.
        reset: Option<bay_pci_reset_fn>,
        /// Counts the MSI-X vectors of a device.
        vectors: Option<bay_pci_vectors_fn>,
        /// Makes eventfds for MSI-X vectors.
        interrupts: Option<bay_pci_interrupts_fn>,
        /// Makes the eventfd that says when the kernel wants the device back.
        removal_fd: Option<bay_pci_removal_fd_fn>,
        /// Lets devices reach a memory region.
        share: Option<bay_pci_share_fn>,
    }
}
