//! Open PCI devices, by their handles. The host owns everything of a device: group, descriptor, mapped BARs, eventfds.
#![expect(
    unsafe_code,
    reason = "maps BARs, resets the device by a system call, and borrows its descriptor"
)]

use super::{Address, bars, ledger, permit, refusal, sysfs};
use crate::env::sigbus;
use crate::{Error, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_ioctls::VfioDevice;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Regions and interrupts of a device. Linux, include/uapi/linux/vfio.h.
const CONFIG_REGION: u32 = 7;
const BARS: u32 = 6;
const MSIX_IRQ: u32 = 2;
const REQUEST_IRQ: u32 = 4;
const CAN_MMAP: u32 = 1 << 2;
/// The command register and its bits. PCI Local Bus 3.0, section 6.2.2.
const COMMAND: u32 = 4;
const MEMORY_SPACE: u32 = 1 << 1;
const BUS_MASTER: u32 = 1 << 2;
/// Length of the configuration space of PCI and of PCI Express, in bytes. PCI Express Base 5.0, section 7.2.
const CONFIG_LEN: usize = 256;
const EXTENDED_CONFIG_LEN: usize = 4096;
/// `VFIO_DEVICE_RESET`. Linux, include/uapi/linux/vfio.h.
const RESET: libc::Ioctl = 0x3b6f;
/// The maximum number of interrupt vectors of one device.
const VECTORS_MAX: u32 = 256;

static DEVICES: Mutex<BTreeMap<u64, Arc<Device>>> = Mutex::new(BTreeMap::new());
static LAST: AtomicU64 = AtomicU64::new(0);
/// Held while a device is opened or closed. Both may take long, so `DEVICES` stays unlocked for calls about other devices.
static CHANGING: Mutex<()> = Mutex::new(());

struct Device {
    address: Address,
    numa: Option<u32>,
    owner: usize,
    /// A copy of the device's descriptor, for reads and writes that report their errors.
    file: Option<File>,
    vfio: Option<VfioDevice>,
    state: Mutex<State>,
    /// Held while the command register is read, changed and written. Otherwise a second thread could write back an older value and switch
    /// bus mastering on again.
    command: Mutex<()>,
    /// A thread is about to close the device.
    is_closing: AtomicBool,
}

#[derive(Default)]
struct State {
    /// Mapped BARs: address and length, by index.
    bars: BTreeMap<u32, (usize, usize)>,
    interrupts: Vec<EventFd>,
    removal: Option<EventFd>,
}

/// Opens a device for a plugin. The kernel resets the device, and bus mastering is off. `[any thread]`
///
/// # Errors
/// The text tells the operator what to do. `bay_pci_open_fn` lists the codes.
pub fn open(owner: usize, address: &str) -> Result<u64> {
    let root = Path::new(sysfs::ROOT);
    let address: Address = address.parse()?;
    permit::get().check(address)?;
    let _changing = lock(&CHANGING);
    // The thread that closes the device may not have begun. This call then does its work, so that a closed device can be opened at once.
    if let Some(closing) = take_closing(address) {
        drop(closing);
        end_of_last();
    }
    if devices().values().any(|device| device.address == address) {
        return Err(Error::new(libc::EBUSY, format!("PCI device {address} is open already")));
    }
    let (found, group) = refusal::check(root, address)?;
    sigbus::install()?;
    let folder = sysfs::folder(root, address);
    let opened = ledger::with_container(
        |container| VfioDevice::new(&folder, container, false),
        |error| refusal::explain(address, group, error),
    );
    let vfio = match opened {
        Ok(vfio) => vfio,
        Err(error) => {
            end_of_last();
            return Err(error);
        }
    };
    // SAFETY: the device owns the descriptor and outlives the borrow.
    let borrowed = unsafe { BorrowedFd::borrow_raw(vfio.as_raw_fd()) };
    let file = borrowed.try_clone_to_owned().map(File::from);
    let mut device = Device {
        address,
        numa: found.numa,
        owner,
        file: None,
        vfio: Some(vfio),
        state: Mutex::default(),
        command: Mutex::new(()),
        is_closing: AtomicBool::new(false),
    };
    let ready = file.map_err(Error::from).and_then(|file| {
        device.file = Some(file);
        device.set_command(MEMORY_SPACE, BUS_MASTER)
    });
    if let Err(error) = ready {
        drop(device);
        end_of_last();
        return Err(error);
    }
    let handle = LAST.fetch_add(1, Ordering::Relaxed) + 1;
    devices().insert(handle, Arc::new(device));
    tracing::info!("PCI device {address} is open");
    Ok(handle)
}

/// Closes a device. When the call returns, the handle is no longer valid and bus mastering is off. The kernel may reset the device, which
/// can take 100 ms, so another thread does the rest. A later [`open`] of the device waits for that. `[any thread]`
///
/// # Errors
/// `ENOENT` when there is no such device.
pub fn close(owner: usize, handle: u64) -> Result<()> {
    let device = find(owner, handle)?;
    if device.is_closing.swap(true, Ordering::AcqRel) {
        return Err(no_device());
    }
    // An error means that the device is gone, so it cannot access memory either.
    let _ = device.set_command(0, BUS_MASTER);
    drop(device);
    let closing = std::thread::Builder::new().name("pci close".into());
    // Without a thread, the call itself is slow.
    if closing.spawn(move || finish_closing(handle)).is_err() {
        finish_closing(handle);
    }
    Ok(())
}

fn finish_closing(handle: u64) {
    let _changing = lock(&CHANGING);
    let device = devices().remove(&handle);
    drop(device);
    end_of_last();
}

/// Takes the device with this address out of the table, if a thread is about to close it. The caller holds [`CHANGING`].
fn take_closing(address: Address) -> Option<Arc<Device>> {
    let mut devices = devices();
    let mut all = devices.iter();
    let (&handle, _) = all.find(|(_, device)| device.address == address && device.is_closing())?;
    devices.remove(&handle)
}

/// The description of an open device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Open {
    /// Its address.
    pub address: Address,
    /// NUMA node, if the kernel knows it.
    pub numa: Option<u32>,
    /// The configuration space: 4096 bytes, 256 when the rest is zero, or nothing when the device is gone.
    pub config: Vec<u8>,
}

/// Lists the devices that this host has open, sorted by address. It reads from the devices, and waits while another thread opens or closes
/// one, so do not call it on a reactor. `[any thread]`
#[must_use]
pub fn all_open() -> Vec<Open> {
    // No device is closed meanwhile. Otherwise this thread could be the last to hold it, and the device would keep its access to memory
    // after the host believes that it is closed.
    let _changing = lock(&CHANGING);
    let open: Vec<Arc<Device>> =
        devices().values().filter(|device| !device.is_closing()).cloned().collect();
    let show = |device: &Arc<Device>| Open {
        address: device.address,
        numa: device.numa,
        config: device.config_space(),
    };
    let mut all: Vec<Open> = open.iter().map(show).collect();
    all.sort_by_key(|open| open.address);
    all
}

/// Closes the devices that a plugin left open. `[any thread]`
pub(crate) fn release_owner(owner: usize) {
    let _changing = lock(&CHANGING);
    let mut left = Vec::new();
    devices().retain(|_, device| {
        let is_left = device.owner == owner;
        if is_left {
            left.push(Arc::clone(device));
        }
        !is_left
    });
    drop(left);
    end_of_last();
}

/// Reads 1, 2 or 4 bytes of configuration space. `[any thread]`
///
/// # Errors
/// `EINVAL` beyond its end, `EIO` when the device is gone.
pub fn config_read(owner: usize, handle: u64, offset: u32, len: u32) -> Result<u32> {
    find(owner, handle)?.config_read(offset, len)
}

/// Writes 1, 2 or 4 bytes of configuration space, except the bit for bus mastering, which only [`set_master`] changes. `[any thread]`
///
/// # Errors
/// As [`config_read`].
pub fn config_write(owner: usize, handle: u64, offset: u32, value: u32, len: u32) -> Result<()> {
    let device = find(owner, handle)?;
    let _command = lock(&device.command);
    if offset <= COMMAND && COMMAND < offset.saturating_add(len) {
        let shift = (COMMAND - offset) * 8;
        let master = (device.config_read(COMMAND, 2)? & BUS_MASTER) << shift;
        return device.config_write(offset, value & !(BUS_MASTER << shift) | master, len);
    }
    device.config_write(offset, value, len)
}

/// Maps a BAR, and returns its address and its length in bytes. `[any thread]`
///
/// # Errors
/// `EINVAL` when the device has no such memory; the errors of mmap(2).
pub fn bar(owner: usize, handle: u64, index: u32) -> Result<(usize, usize)> {
    find(owner, handle)?.bar(index)
}

/// Switches bus mastering on or off. The device can read and write memory only while it is on. `[any thread]`
///
/// # Errors
/// `EIO` when the device is gone.
pub fn set_master(owner: usize, handle: u64, is_on: bool) -> Result<()> {
    let (set, clear) = if is_on { (BUS_MASTER, 0) } else { (0, BUS_MASTER) };
    find(owner, handle)?.set_command(set, clear)
}

/// Resets the device. `[any thread]`
///
/// # Errors
/// `ENOENT` when there is no such device, `EOPNOTSUPP` when it cannot be reset, `EIO` when it is gone; or the kernel's error.
pub fn reset(owner: usize, handle: u64) -> Result<()> {
    let device = find(owner, handle)?;
    device.reset()?;
    device.set_command(MEMORY_SPACE, BUS_MASTER)
}

/// Number of MSI-X vectors. `[any thread]`
///
/// # Errors
/// `ENOENT` when there is no such device.
pub fn vectors(owner: usize, handle: u64) -> Result<u32> {
    Ok(find(owner, handle)?.vectors())
}

/// An eventfd for each of the first `count` vectors. `[any thread]`
///
/// # Errors
/// `EINVAL` for more vectors than the device has, `EBUSY` when a plugin has the vectors already; the kernel's errors.
pub fn interrupts(owner: usize, handle: u64, count: u32) -> Result<Vec<RawFd>> {
    find(owner, handle)?.interrupts(count)
}

/// An eventfd that becomes readable when the kernel wants the device back. `[any thread]`
///
/// # Errors
/// `EOPNOTSUPP` when the kernel does not report that.
pub fn removal_fd(owner: usize, handle: u64) -> Result<RawFd> {
    find(owner, handle)?.removal_fd()
}

impl Device {
    fn is_closing(&self) -> bool {
        self.is_closing.load(Ordering::Acquire)
    }

    fn file(&self) -> Result<&File> {
        self.file.as_ref().ok_or_else(no_device)
    }

    fn config_at(&self, offset: u32, len: u32) -> Result<u64> {
        let vfio = self.vfio.as_ref().ok_or_else(no_device)?;
        let config_len = vfio.get_region_size(CONFIG_REGION);
        if !matches!(len, 1 | 2 | 4) || u64::from(offset) + u64::from(len) > config_len {
            let why = format!(
                "{len} bytes of configuration space at {offset}; allowed: 1, 2 or 4 below {config_len}"
            );
            return Err(Error::new(libc::EINVAL, why));
        }
        Ok(vfio.get_region_offset(CONFIG_REGION) + u64::from(offset))
    }

    fn config_read(&self, offset: u32, len: u32) -> Result<u32> {
        let at = self.config_at(offset, len)?;
        let mut bytes = [0; 4];
        let place = bytes.get_mut(..len as usize).unwrap_or_default();
        self.file()?.read_exact_at(place, at).map_err(|error| self.is_gone(&error))?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn config_write(&self, offset: u32, value: u32, len: u32) -> Result<()> {
        let at = self.config_at(offset, len)?;
        let bytes = value.to_le_bytes();
        let bytes = bytes.get(..len as usize).unwrap_or_default();
        self.file()?.write_all_at(bytes, at).map_err(|error| self.is_gone(&error))
    }

    /// The configuration space, as [`Open`] shows it.
    fn config_space(&self) -> Vec<u8> {
        let mut config = Vec::new();
        for end in [CONFIG_LEN, EXTENDED_CONFIG_LEN] {
            let mut piece = vec![0; end - config.len()];
            let read = self.config_at(0, 1).and_then(|at| {
                let at = at + config.len() as u64;
                self.file()?.read_exact_at(&mut piece, at).map_err(|error| self.is_gone(&error))
            });
            if read.is_err() || config.len() == CONFIG_LEN && piece.iter().all(|byte| *byte == 0) {
                break;
            }
            config.append(&mut piece);
        }
        config
    }

    fn is_gone(&self, why: &dyn fmt::Display) -> Error {
        let why = format!("configuration space of PCI device {}: {why}", self.address);
        Error::new(libc::EIO, why)
    }

    fn set_command(&self, set: u32, clear: u32) -> Result<()> {
        let _command = lock(&self.command);
        let now = self.config_read(COMMAND, 2)?;
        if now == u32::from(u16::MAX) {
            return Err(self.is_gone(&"it reads as all ones, so the device is gone"));
        }
        self.config_write(COMMAND, now & !clear | set, 2)
    }

    fn reset(&self) -> Result<()> {
        let fd = self.file()?.as_raw_fd();
        // SAFETY: the descriptor is open, and the call has no argument.
        if unsafe { libc::ioctl(fd, RESET) } == 0 {
            return Ok(());
        }
        let error = std::io::Error::last_os_error();
        let errno = match error.raw_os_error() {
            // The kernel has no way to reset the device.
            Some(libc::EINVAL) => libc::EOPNOTSUPP,
            errno => errno.unwrap_or(libc::EIO),
        };
        Err(Error::new(errno, format!("reset of PCI device {}: {error}", self.address)))
    }

    fn bar(&self, index: u32) -> Result<(usize, usize)> {
        let mut state = lock(&self.state);
        if let Some(mapped) = state.bars.get(&index) {
            return Ok(*mapped);
        }
        let refuse = |why: &str| {
            Error::new(libc::EINVAL, format!("BAR {index} of PCI device {}: {why}", self.address))
        };
        let vfio = self.vfio.as_ref().filter(|_| index < BARS);
        let vfio = vfio.ok_or_else(|| refuse("there are BARs 0 to 5"))?;
        let len = usize::try_from(vfio.get_region_size(index)).unwrap_or(0);
        if len == 0 || vfio.get_region_flags(index) & CAN_MMAP == 0 {
            return Err(refuse("it has no memory that can be mapped"));
        }
        let offset = vfio.get_region_offset(index);
        let offset =
            libc::off_t::try_from(offset).map_err(|_| refuse("its offset is too large"))?;
        // SAFETY: a new mapping at an address that the kernel chooses; the descriptor is open.
        let addr = unsafe {
            libc::mmap(
                ptr::null_mut(),
                len,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                self.file()?.as_raw_fd(),
                offset,
            )
        };
        if addr == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error().into());
        }
        state.bars.insert(index, (addr as usize, len));
        if !bars::add(addr as usize, len) {
            tracing::warn!(
                "more than {} BARs are mapped: if PCI device {} is pulled out, the host ends with SIGBUS",
                bars::MAX,
                self.address
            );
        }
        Ok((addr as usize, len))
    }

    fn vectors(&self) -> u32 {
        let irq = self.vfio.as_ref().and_then(|vfio| vfio.get_irq_info(MSIX_IRQ));
        irq.map_or(0, |irq| irq.count.min(VECTORS_MAX))
    }

    fn interrupts(&self, count: u32) -> Result<Vec<RawFd>> {
        let mut state = lock(&self.state);
        if !state.interrupts.is_empty() {
            return Err(Error::new(libc::EBUSY, "the interrupts of this device are taken already"));
        }
        let max = self.vectors();
        if !(1..=max).contains(&count) {
            return Err(Error::invalid("MSI-X vectors", count, format!("1 to {max}")));
        }
        let fds: Vec<EventFd> = (0..count).map(|_| eventfd()).collect::<Result<_>>()?;
        if let Some(vfio) = &self.vfio {
            vfio.enable_msix(fds.iter().collect()).map_err(|error| {
                Error::new(libc::EIO, format!("interrupts of PCI device {}: {error}", self.address))
            })?;
        }
        state.interrupts = fds;
        Ok(state.interrupts.iter().map(AsRawFd::as_raw_fd).collect())
    }

    fn removal_fd(&self) -> Result<RawFd> {
        let mut state = lock(&self.state);
        if let Some(fd) = &state.removal {
            return Ok(fd.as_raw_fd());
        }
        let vfio = self.vfio.as_ref().ok_or_else(no_device)?;
        let fd = eventfd()?;
        vfio.enable_irq(REQUEST_IRQ, vec![&fd]).map_err(|error| {
            Error::new(libc::EOPNOTSUPP, format!("removal of PCI device {}: {error}", self.address))
        })?;
        let raw = fd.as_raw_fd();
        state.removal = Some(fd);
        Ok(raw)
    }
}

impl Drop for Device {
    /// The order matters. First the device loses its access to memory. Then everything that keeps the device open is closed, and its group
    /// last.
    fn drop(&mut self) {
        // An error means that the device is gone, so it cannot access memory either.
        let _ = self.set_command(0, BUS_MASTER);
        for (addr, len) in std::mem::take(&mut lock(&self.state).bars).into_values() {
            bars::remove(addr);
            // SAFETY: `bar` made the mapping; its owner has closed the device.
            unsafe { libc::munmap(addr as *mut libc::c_void, len) };
        }
        self.file = None;
        let vfio = self.vfio.take();
        // vfio-ioctls looks up the group in sysfs and panics when the device was pulled out and sysfs no longer lists it.
        if catch_unwind(AssertUnwindSafe(|| drop(vfio))).is_err() {
            tracing::debug!("PCI device {} was gone when it was closed", self.address);
        }
        tracing::info!("PCI device {} is closed", self.address);
    }
}

fn eventfd() -> Result<EventFd> {
    EventFd::new(EFD_NONBLOCK | libc::EFD_CLOEXEC).map_err(Error::from)
}

/// Closes the container if no device is left.
fn end_of_last() {
    if devices().is_empty() {
        ledger::end();
    }
}

fn find(owner: usize, handle: u64) -> Result<Arc<Device>> {
    let device = devices().get(&handle).filter(|device| device.owner == owner).cloned();
    device.filter(|device| !device.is_closing()).ok_or_else(no_device)
}

fn no_device() -> Error {
    Error::new(libc::ENOENT, "no such open PCI device")
}

fn devices() -> MutexGuard<'static, BTreeMap<u64, Arc<Device>>> {
    lock(&DEVICES)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
