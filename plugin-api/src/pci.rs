//! `bay.pci/1`: PCI devices behind an IOMMU. Only plugins to which the operator's policy grants the permission `pci` get this interface.

use crate::door::{bay_host, bay_sink, bay_str};
use crate::layout::{functions, structs};
use core::ffi::c_void;

/// Region state: open devices can access the region, at its `iova`.
pub const BAY_REGION_DMA: u32 = 16;

functions! {
    /// Gets one device of a list. The texts in `info` are valid for the call. `[thread of the list]`
    fn bay_pci_found_fn(ctx: *mut c_void, info: *const bay_pci_info);
    /// Lists the PCI devices of the machine, sorted by address. It reads files, so do not call it on the data path. `[any thread]`
    fn bay_pci_list_fn(host: *const bay_host, found: Option<bay_pci_found_fn>, ctx: *mut c_void) -> i32;
    /// Opens a device that is bound to vfio-pci, and stores its handle. The kernel resets the device. Bus mastering is off until
    /// `set_master`. When the call fails, it writes to `why` (may be NULL) what the operator can do. The device stays open until the
    /// plugin calls `close` or ends. The call may take more than 100 ms, so make it on a worker. -EINVAL: not an address, -ENODEV: no such
    /// device, -ENXIO: not bound to vfio-pci, or no IOMMU, -EBUSY: in use, -EACCES: no permission, -ENOMEM: no memory to lock.
    /// `[any thread]`
    fn bay_pci_open_fn(host: *const bay_host, address: bay_str, why: *const bay_sink, device: *mut u64) -> i32;
    /// Closes a device. The host switches bus mastering off first, then unmaps the BARs. `[any thread]`
    fn bay_pci_close_fn(host: *const bay_host, device: u64) -> i32;
    /// Reads or writes `len` bytes (1, 2 or 4) of configuration space at `offset`. -EINVAL: beyond its end, -EIO: the device is gone. `[any thread]`
    fn bay_pci_config_fn(host: *const bay_host, device: u64, offset: u32, value: *mut u32, len: u32) -> i32;
    /// Maps a base address register (0 to 5). The mapping stays until `close`. When the device is gone, reads return all ones. -EINVAL:
    /// the device has no such memory. `[any thread]`
    fn bay_pci_bar_fn(host: *const bay_host, device: u64, index: u32, addr: *mut *mut c_void, len: *mut u64) -> i32;
    /// Switches bus mastering on (`on` 1) or off (`on` 0). While it is on, the device can access all memory that the host handed out for
    /// devices. When a call with `on` 0 returns, the device has no access to memory. -EIO: the device is gone. `[any thread]`
    fn bay_pci_set_master_fn(host: *const bay_host, device: u64, on: u32) -> i32;
    /// Resets the device and switches bus mastering off. The call may take 100 ms, so make it on a worker. -EOPNOTSUPP: the kernel cannot
    /// reset it, -EIO: the device is gone. `[any thread]`
    fn bay_pci_reset_fn(host: *const bay_host, device: u64) -> i32;
    /// Stores the number of MSI-X vectors of the device; 0 = none. `[any thread]`
    fn bay_pci_vectors_fn(host: *const bay_host, device: u64, count: *mut u32) -> i32;
    /// Creates an eventfd for each of the first `count` MSI-X vectors and stores the eventfds in `fds`. The host owns the eventfds and
    /// keeps them open until `close`. A plugin may call this only once for each device. `[any thread]`
    fn bay_pci_interrupts_fn(host: *const bay_host, device: u64, count: u32, fds: *mut i32) -> i32;
    /// Stores an eventfd that becomes readable when the kernel wants the device back, because somebody pulls the device out or unbinds it.
    /// The kernel waits until the device is closed, so the plugin must then end its I/O and call `close` soon. The host owns the eventfd
    /// and keeps it open until `close`. -EOPNOTSUPP: the kernel does not report this for the device. `[any thread]`
    fn bay_pci_removal_fd_fn(host: *const bay_host, device: u64, fd: *mut i32) -> i32;
    /// Lets devices access a DMA region of the host until the region is freed. While a device is open, the region has `BAY_REGION_DMA`
    /// set, and its `iova` is valid. Devices can access the buffers of the pools without this call. The call locks the memory, which may
    /// take long, so do not make it on the data path. -EINVAL: not a DMA region of the host, -ENOMEM: the limit of locked memory is
    /// reached. `[any thread]`
    fn bay_pci_share_fn(host: *const bay_host, region: u32, why: *const bay_sink) -> i32;
    /// Stores an eventfd that becomes readable after a PCI device of the machine has appeared, has disappeared, or has got another driver.
    /// A plugin then calls `list` again. Each plugin has one such eventfd. The host owns it, and keeps it open until the plugin ends.
    /// An errno when the kernel does not report changes. `[any thread]`
    fn bay_pci_changes_fd_fn(host: *const bay_host, fd: *mut i32) -> i32;
}

structs! {
    /// Describes a PCI device, as sysfs lists it.
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
        /// Writes configuration space, except the bit for bus mastering, which only `set_master` changes.
        config_write: Option<bay_pci_config_fn>,
        /// Maps a BAR.
        bar: Option<bay_pci_bar_fn>,
        /// Switches bus mastering on or off.
        set_master: Option<bay_pci_set_master_fn>,
        /// Resets a device.
        reset: Option<bay_pci_reset_fn>,
        /// Counts the MSI-X vectors of a device.
        vectors: Option<bay_pci_vectors_fn>,
        /// Creates eventfds for MSI-X vectors.
        interrupts: Option<bay_pci_interrupts_fn>,
        /// Creates the eventfd that becomes readable when the kernel wants the device back.
        removal_fd: Option<bay_pci_removal_fd_fn>,
        /// Lets devices access a memory region.
        share: Option<bay_pci_share_fn>,
        /// Creates the eventfd that becomes readable when the PCI devices of the machine have changed.
        changes_fd: Option<bay_pci_changes_fd_fn>,
    }
}
