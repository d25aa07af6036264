//! `bay.pci/1`: PCI devices behind an IOMMU. Given only to plugins that the operator's policy grants the permission `pci`.

use crate::door::{bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// Region state: devices reach the region at its `iova`.
pub const BAY_REGION_DMA: u32 = 16;

functions! {
    /// One device of a list. The texts in `info` are valid for the call. `[thread of the list]`
    fn bay_pci_found_fn(ctx: *mut c_void, info: *const bay_pci_info);
    /// Lists the PCI devices of the machine, in the order of their addresses. It reads files: not for the data path. `[any thread]`
    fn bay_pci_list_fn(host: *const bay_host, found: Option<bay_pci_found_fn>, ctx: *mut c_void) -> i32;
    /// Opens a device that is bound to vfio-pci, and stores its handle. The device is reset, and bus mastering is off. When it fails, `why` (may be NULL) gets a text for the operator. The device belongs to the plugin until `close` or its end. May take 100 ms and more: for a worker. -EINVAL: not an address, -ENODEV: no such device, -ENXIO: not bound to vfio-pci, or no IOMMU, -EBUSY: in use, -EACCES: no permission, -ENOMEM: no memory to lock. `[any thread]`
    fn bay_pci_open_fn(host: *const bay_host, address: bay_str, why: *const bay_sink, device: *mut u64) -> i32;
    /// Closes a device: bus mastering is switched off first, and its BARs are unmapped. `[any thread]`
    fn bay_pci_close_fn(host: *const bay_host, device: u64) -> i32;
    /// Reads or writes `len` bytes (1, 2 or 4) of configuration space at `offset`. -EINVAL: beyond its end, -EIO: the device is gone. `[any thread]`
    fn bay_pci_config_fn(host: *const bay_host, device: u64, offset: u32, value: *mut u32, len: u32) -> i32;
    /// Maps a base address register (0 to 5). The mapping stays until `close`. Reads of a device that is gone give all ones. -EINVAL: it has no such memory. `[any thread]`
    fn bay_pci_bar_fn(host: *const bay_host, device: u64, index: u32, addr: *mut *mut c_void, len: *mut u64) -> i32;
    /// Lets the device read and write memory (`on` 1), or stops it (0): once it returns, the device has no access. `[any thread]`
    fn bay_pci_set_master_fn(host: *const bay_host, device: u64, on: u32) -> i32;
    /// Resets the device. -EOPNOTSUPP: it has no function level reset. May take 100 ms: for a worker. `[any thread]`
    fn bay_pci_reset_fn(host: *const bay_host, device: u64) -> i32;
    /// Number of MSI-X vectors of the device, 0 = none. `[any thread]`
    fn bay_pci_vectors_fn(host: *const bay_host, device: u64, count: *mut u32) -> i32;
    /// Makes an eventfd for each of the first `count` MSI-X vectors and stores them in `fds`. They are the host's, open until `close`. Once for each device. `[any thread]`
    fn bay_pci_interrupts_fn(host: *const bay_host, device: u64, count: u32, fds: *mut i32) -> i32;
    /// Stores an eventfd that becomes readable when the kernel asks for the device, because somebody pulls it out or unbinds it. The owner then ends its I/O and closes the device soon: the kernel waits for that. The eventfd is the host's, open until `close`. -EOPNOTSUPP: the kernel does not tell. `[any thread]`
    fn bay_pci_removal_fd_fn(host: *const bay_host, device: u64, fd: *mut i32) -> i32;
    /// Lets devices reach a DMA region of the host, from now on until it is freed: `BAY_REGION_DMA` is set, and `iova` is valid. Buffers of the pools are reachable whenever a device is open. The memory is locked: it may take long, so not for the data path. -EINVAL: not a DMA region of the host, -ENOMEM: more than may be locked. `[any thread]`
    fn bay_pci_share_fn(host: *const bay_host, region: u32, why: *const bay_sink) -> i32;
}

structs! {
    /// What is known of a PCI device without opening it.
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
        /// Opens one.
        open: Option<bay_pci_open_fn>,
        /// Closes it.
        close: Option<bay_pci_close_fn>,
        /// Reads configuration space.
        config_read: Option<bay_pci_config_fn>,
        /// Writes configuration space. The bit for bus mastering is changed by `set_master` only.
        config_write: Option<bay_pci_config_fn>,
        /// Maps a BAR.
        bar: Option<bay_pci_bar_fn>,
        /// Switches bus mastering.
        set_master: Option<bay_pci_set_master_fn>,
        /// Resets it.
        reset: Option<bay_pci_reset_fn>,
        /// Counts its interrupt vectors.
        vectors: Option<bay_pci_vectors_fn>,
        /// Gives them.
        interrupts: Option<bay_pci_interrupts_fn>,
        /// Gives the descriptor that tells when the device has to be closed.
        removal_fd: Option<bay_pci_removal_fd_fn>,
        /// Lets devices reach a region.
        share: Option<bay_pci_share_fn>,
    }
}
