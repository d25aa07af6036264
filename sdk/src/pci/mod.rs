//! PCI devices: for plugins with the permission `pci`.
//!
//! - [`list`] returns the devices of the machine, and [`changes`] tells when to call it again. [`Device::open`] opens a device that is bound
//!   to vfio-pci.
//! - [`Bar`] accesses a device's registers. [`Interrupts`] wakes a thread when the device interrupts.
//! - [`DmaMemory`] is memory for the rings and lists that a device shares with its driver.
//!
//! [`Buffers::for_device`] returns the addresses at which a device can read or write the data of an I/O in place. Memory that the host has
//! not mapped for devices has no such address: the plugin then copies the data through a [`Buf`], which has one. The host owns the device.
//! Devices can access only memory that the host handed out for them, so a faulty device can overwrite nothing else.
#![expect(
    unsafe_code,
    reason = "calls the host's interface, and reads and writes registers and memory that a device shares"
)]

#[cfg(feature = "net")]
mod interrupts;
mod memory;

use crate::bdev::{BdevIo, Buffers};
use crate::buf::Buf;
use crate::error::{Error, Result, check, errno};
use crate::host::{self, host, text};
use crate::region;
use drivebay_plugin_api::{
    BAY_REGION_DMA, bay_iov, bay_pci_api, bay_pci_info, bay_sink, bay_str, copy_open,
};
use std::ffi::c_void;
use std::os::fd::RawFd;
use std::ptr::NonNull;
use std::sync::{Arc, OnceLock};

#[cfg(feature = "net")]
pub use interrupts::Interrupts;
pub use memory::DmaMemory;

/// The description of a device in sysfs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// Address, `DDDD:BB:DD.F`.
    pub address: String,
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
    /// NUMA node; -1 = not known.
    pub numa: i32,
    /// IOMMU group; -1 = none.
    pub iommu_group: i32,
    /// Name of its kernel driver; empty = none.
    pub driver: String,
}

/// Returns the PCI devices of the machine, sorted by address. It reads files, so do not call it on the data path. `[any thread]`
///
/// # Errors
/// `EPERM` when the plugin does not have the permission `pci`.
pub fn list() -> Result<Vec<Found>> {
    let list = table()?.list.ok_or_else(lacking)?;
    let mut all: Vec<Found> = Vec::new();
    // SAFETY: `found` gets the list, which lives through the call.
    check(unsafe { list(host().raw, Some(found), (&raw mut all).cast()) }, "list of PCI devices")?;
    Ok(all)
}

unsafe extern "C" fn found(ctx: *mut c_void, info: *const bay_pci_info) {
    // SAFETY: the host's struct, valid for the call.
    let Some(info) = (unsafe { copy_open(info) }) else { return };
    // SAFETY: `list` passed this list, which it does not use meanwhile.
    let Some(all) = (unsafe { ctx.cast::<Vec<Found>>().as_mut() }) else { return };
    // SAFETY: valid for the call.
    let address = unsafe { text(info.address) };
    // SAFETY: as above.
    let driver = unsafe { text(info.driver) };
    all.push(Found {
        address: address.to_owned(),
        vendor: info.vendor,
        device: info.device,
        subvendor: info.subvendor,
        subdevice: info.subdevice,
        class: info.class,
        numa: info.numa,
        iommu_group: info.iommu_group,
        driver: driver.to_owned(),
    });
}

/// An open device. Its [`Bar`]s, [`Vector`]s and [`DmaMemory`] keep it open, so it is closed when the last of them is dropped.
#[derive(Debug)]
pub struct Device {
    handle: u64,
    address: String,
}

impl Device {
    /// Opens a device that is bound to vfio-pci. The kernel resets the device. The device cannot access memory before
    /// [`Self::set_master`]. The call may take more than 100 ms, so make it on a worker. `[any thread]`
    ///
    /// # Errors
    /// The text tells the operator what to do. `EINVAL`: the text is not an address. `ENODEV`: there is no such device. `ENXIO`: the
    /// device has another driver, or no IOMMU. `EBUSY`: the device is in use. `EACCES`: the process may not open a file of VFIO, or
    /// the operator excludes the device (`--pci-allowed`, `--pci-blocked`, `--no-pci`). `ENOMEM`: the limit of locked memory is reached.
    /// `EPERM`: the plugin does not have the permission `pci`.
    pub fn open(address: &str) -> Result<Arc<Self>> {
        let open = table()?.open.ok_or_else(lacking)?;
        let mut handle = 0;
        explained(|why| {
            // SAFETY: text, sink and result live through the call.
            unsafe { open(host().raw, bay_str::new(address), why, &raw mut handle) }
        })?;
        Ok(Arc::new(Self { handle, address: address.to_owned() }))
    }

    /// The PCI address that `open` got.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Switches bus mastering on or off. While it is on, the device can read and write all memory that the host handed out for devices.
    /// After a call that switches it off, the device has no access to memory. `[any thread]`
    ///
    /// # Errors
    /// `EIO` when the device is gone.
    pub fn set_master(&self, is_on: bool) -> Result<()> {
        let set = table()?.set_master.ok_or_else(lacking)?;
        // SAFETY: the handle is ours.
        let status = unsafe { set(host().raw, self.handle, is_on.into()) };
        check(status, format_args!("bus mastering of {}", self.address))
    }

    /// Resets the device and switches bus mastering off. The call may take 100 ms, so make it on a worker. `[any thread]`
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the kernel cannot reset it, `EIO` when it is gone.
    pub fn reset(&self) -> Result<()> {
        let reset = table()?.reset.ok_or_else(lacking)?;
        // SAFETY: the handle is ours.
        check(unsafe { reset(host().raw, self.handle) }, format_args!("reset of {}", self.address))
    }

    /// Maps a BAR, 0 to 5. `[any thread]`
    ///
    /// # Errors
    /// `EINVAL` when the device has no such memory.
    pub fn bar(self: &Arc<Self>, index: u32) -> Result<Bar> {
        let bar = table()?.bar.ok_or_else(lacking)?;
        let (mut addr, mut len) = (std::ptr::null_mut(), 0);
        // SAFETY: the handle is ours; the results live through the call.
        let status = unsafe { bar(host().raw, self.handle, index, &raw mut addr, &raw mut len) };
        check(status, format_args!("BAR {index} of {}", self.address))?;
        let addr =
            NonNull::new(addr.cast()).ok_or_else(|| Error::new(errno::EFAULT, "no address"))?;
        let len = usize::try_from(len).unwrap_or(0);
        Ok(Bar { addr, len, _device: Arc::clone(self) })
    }

    /// Number of MSI-X vectors. `[any thread]`
    #[must_use]
    pub fn num_vectors(&self) -> u32 {
        let mut count = 0;
        if let Ok(Some(vectors)) = table().map(|table| table.vectors) {
            // SAFETY: the handle is ours; the result lives through the call.
            unsafe { vectors(host().raw, self.handle, &raw mut count) };
        }
        count
    }

    /// Returns the first `count` MSI-X vectors. A device gives them only once. An interrupt makes the vector's descriptor readable.
    /// `[any thread]`
    ///
    /// # Errors
    /// `EINVAL` for more vectors than the device has, `EBUSY` when they were taken before.
    pub fn take_vectors(self: &Arc<Self>, count: u32) -> Result<Vec<Vector>> {
        let interrupts = table()?.interrupts.ok_or_else(lacking)?;
        let mut fds = vec![-1; count as usize];
        // SAFETY: the handle is ours; the list has `count` elements.
        let status = unsafe { interrupts(host().raw, self.handle, count, fds.as_mut_ptr()) };
        check(status, format_args!("{count} MSI-X vectors of {}", self.address))?;
        Ok(fds.into_iter().map(|fd| Vector { fd, _device: Arc::clone(self) }).collect())
    }

    /// Returns an eventfd that becomes readable when the kernel wants the device back, for example before it is unbound. The plugin must
    /// then end its I/O and drop the device. `[any thread]`
    ///
    /// # Errors
    /// `EOPNOTSUPP` when the kernel does not report this for the device.
    pub fn removal(self: &Arc<Self>) -> Result<Vector> {
        let removal_fd = table()?.removal_fd.ok_or_else(lacking)?;
        let mut fd = -1;
        // SAFETY: the handle is ours; the result lives through the call.
        let status = unsafe { removal_fd(host().raw, self.handle, &raw mut fd) };
        check(status, format_args!("removal of {}", self.address))?;
        Ok(Vector { fd, _device: Arc::clone(self) })
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        if let Ok(Some(close)) = table().map(|table| table.close) {
            // SAFETY: the handle is ours, and nobody uses it any more, because BARs, vectors and memory hold the device.
            unsafe { close(host().raw, self.handle) };
        }
    }
}

/// An eventfd that the kernel signals for a device.
#[derive(Clone, Debug)]
pub struct Vector {
    fd: RawFd,
    _device: Arc<Device>,
}

impl Vector {
    /// The descriptor, open while the vector lives.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd
    }
}

/// Tells whether a PCI device has appeared, has disappeared, or has got another driver.
#[derive(Debug)]
pub struct Changes {
    fd: RawFd,
}

/// Begins to watch the PCI devices of the machine. All calls of a plugin return the same descriptor. `[any thread]`
///
/// # Errors
/// `EPERM` when the plugin does not have the permission `pci`, `ENOSYS` when the host is too old; or the kernel's error.
pub fn changes() -> Result<Changes> {
    let changes_fd = table()?.changes_fd.ok_or_else(lacking)?;
    let mut fd = -1;
    // SAFETY: the result lives through the call.
    check(unsafe { changes_fd(host().raw, &raw mut fd) }, "changes of PCI devices")?;
    Ok(Changes { fd })
}

impl Changes {
    /// A descriptor that is readable after a change, for [`Poller::wake_fd`](crate::poller::Poller::wake_fd). The host keeps it open.
    #[must_use]
    pub fn fd(&self) -> RawFd {
        self.fd
    }
}

/// The registers of a device. A read beyond the end of the BAR, or of a device that is gone, returns all ones; a write there has no
/// effect.
#[derive(Clone, Debug)]
pub struct Bar {
    addr: NonNull<u8>,
    len: usize,
    _device: Arc<Device>,
}

// SAFETY: the mapping lives as long as the device, which this value holds, and any thread may access registers.
unsafe impl Send for Bar {}
// SAFETY: as above; a register access is one instruction.
unsafe impl Sync for Bar {}

impl Bar {
    /// Length, in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.len
    }

    /// The address of a register; `None` unless all of it is inside the BAR and it is aligned.
    fn register<T>(&self, at: usize) -> Option<*mut T> {
        let end = at.checked_add(size_of::<T>())?;
        let is_inside = end <= self.len && at.is_multiple_of(size_of::<T>());
        is_inside.then(|| self.addr.as_ptr().wrapping_add(at).cast())
    }

    /// Reads 4 bytes at an offset that is a multiple of 4.
    #[inline]
    #[must_use]
    pub fn read32(&self, at: usize) -> u32 {
        // SAFETY: an aligned register of the mapping.
        self.register::<u32>(at)
            .map_or(u32::MAX, |place| u32::from_le(unsafe { place.read_volatile() }))
    }

    /// Writes 4 bytes at an offset that is a multiple of 4. The device sees earlier stores to memory before it sees the write.
    #[inline]
    pub fn write32(&self, at: usize, value: u32) {
        if let Some(place) = self.register::<u32>(at) {
            std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
            // SAFETY: an aligned register of the mapping.
            unsafe { place.write_volatile(value.to_le()) };
        }
    }
}

impl<'a> Buffers<'a> {
    /// Returns each piece of the data: its address for devices and its length in bytes; `None` for a piece that devices cannot access. The
    /// addresses are valid until the I/O is completed, as long as the device is open.
    pub fn for_device(self) -> impl Iterator<Item = Option<(u64, u32)>> + use<'a> {
        self.iovs().iter().map(|iov| Some((iova(iov)?, iov.len)))
    }
}

impl BdevIo {
    /// Tells the host that a device may access the buffers until the I/O is completed. Until then, the host does not reuse the buffers,
    /// even if the plugin panics.
    #[inline]
    pub fn lend_to_device(&self) {
        self.hold_by_device();
    }
}

impl Buf {
    /// The address of the buffer for devices; `None` when devices cannot access it.
    #[must_use]
    pub fn for_device(&self) -> Option<u64> {
        // SAFETY: the buffer's own element.
        iova(unsafe { &*self.iov() })
    }

    /// Lets devices access a buffer that is not from the pools. The host locks the memory, which is slow: do not call this on the data
    /// path. `[any thread]`
    ///
    /// # Errors
    /// `ENOMEM` when it cannot be locked.
    pub fn share_with_devices(&self) -> Result<()> {
        if self.for_device().is_some() {
            return Ok(());
        }
        share(self.region())
    }
}

/// The address of a piece of memory for devices; `None` when devices cannot access all of it.
#[inline]
fn iova(iov: &bay_iov) -> Option<u64> {
    if iov.region == 0 {
        return None;
    }
    let region = region::entry(iov.region).ok()?;
    let offset = (iov.addr as u64).checked_sub(region.addr as u64)?;
    let is_inside = offset.checked_add(iov.len.into())? <= region.len;
    (region.state & BAY_REGION_DMA != 0 && is_inside).then(|| region.iova + offset)
}

/// Lets devices access a region of the host.
fn share(region: u32) -> Result<()> {
    let share = table()?.share.ok_or_else(lacking)?;
    explained(|why| {
        // SAFETY: the sink lives through the call.
        unsafe { share(host().raw, region, why) }
    })
}

/// Makes a call that writes the text of its error into a sink.
fn explained(call: impl FnOnce(*const bay_sink) -> i32) -> Result<()> {
    let mut why = String::new();
    let sink = bay_sink { ctx: (&raw mut why).cast(), write: Some(append) };
    let status = call(&raw const sink);
    match status {
        0 => Ok(()),
        _ if why.is_empty() => check(status, "PCI device"),
        _ => Err(Error::new(status, why)),
    }
}

unsafe extern "C" fn append(ctx: *mut c_void, piece: bay_str) {
    // SAFETY: `explained` passed this text, which it does not use meanwhile.
    let Some(why) = (unsafe { ctx.cast::<String>().as_mut() }) else { return };
    // SAFETY: valid for the call.
    why.push_str(unsafe { text(piece) });
}

/// The host's interface.
fn table() -> Result<&'static bay_pci_api> {
    static TABLE: OnceLock<Option<bay_pci_api>> = OnceLock::new();
    let table = TABLE.get_or_init(|| host::pci_table(host())).as_ref();
    table.ok_or_else(|| {
        let why = "the host does not give this plugin PCI devices: it lacks the permission pci (see --plugin-policy), or the host is too old";
        Error::new(errno::EPERM, why)
    })
}

fn lacking() -> Error {
    Error::new(
        errno::ENOSYS,
        "the host's bay.pci/1 lacks this call; it is older than this plugin needs",
    )
}
