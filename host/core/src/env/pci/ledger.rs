//! The ledger of DMA maps: which memory of the host devices can access, and at which addresses.
//!
//! All devices share one container, which is one address space. A region is in the ledger from [`share`] until the region is freed. The
//! container exists while a device is open: the first device creates it, and the last one drops it. It maps every region of the ledger and
//! nothing else, so a device can access only memory that the host handed out for devices.
#![expect(unsafe_code, reason = "memory is mapped for devices by its address")]

use crate::env::region;
use crate::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering, fence};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use vfio_ioctls::{VfioContainer, VfioError};

/// The first address that the ledger gives to a region. An IOMMU keeps addresses below 4 GiB for interrupts.
const FIRST_IOVA: u64 = 1 << 32;
/// One past the last address that the ledger gives to a region. Every IOMMU translates addresses of at least 39 bits.
const END_IOVA: u64 = 1 << 39;
/// Alignment of a region's address in bytes, so that the IOMMU can use large pages.
const ALIGN: u64 = 2 << 20;

/// How many threads are inside `give_back` of [`unless_mapped`] now.
static GIVING_BACK: AtomicUsize = AtomicUsize::new(0);

/// The address space of all devices: what the ledger needs of a VFIO container.
trait Maps {
    fn map(&self, iova: u64, addr: usize, len: usize) -> Result<(), VfioError>;
    fn unmap(&self, iova: u64, len: usize) -> Result<(), VfioError>;
}

impl Maps for VfioContainer {
    fn map(&self, iova: u64, addr: usize, len: usize) -> Result<(), VfioError> {
        // SAFETY: a region of the host's own shared memory, which stays mapped in this process until `unmap`. No reference to its
        // contents exists while a device may write them: plugins copy the contents, or own the buffer that a device has just written.
        unsafe { self.vfio_dma_map(iova, len, addr as *mut u8) }
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), VfioError> {
        self.vfio_dma_unmap(iova, len)
    }
}

struct Ledger<C> {
    container: Option<Arc<C>>,
    /// Regions that devices may reach.
    shared: BTreeSet<u32>,
    /// The mapped regions by number. Empty without a container.
    mapped: BTreeMap<u32, Map>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Map {
    iova: u64,
    len: usize,
}

static LEDGER: Mutex<Ledger<VfioContainer>> =
    Mutex::new(Ledger { container: None, shared: BTreeSet::new(), mapped: BTreeMap::new() });

fn ledger() -> MutexGuard<'static, Ledger<VfioContainer>> {
    LEDGER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Lets devices access a DMA region of the host until the region is freed. `[any thread]`
///
/// # Errors
/// `EINVAL` when it is not a DMA region of the host, `ENOMEM` when it cannot be locked or has no place in the address space.
pub fn share(number: u32) -> Result<()> {
    ledger().share(number)
}

/// Stops devices from reaching a region that is being freed. `[any thread]`
pub(in crate::env) fn unshare(number: u32) {
    ledger().unshare(number);
}

/// Runs `give_back`, which returns pages of a region to the system, and returns true. Does nothing and returns false when devices can
/// access the region, because they would keep the old pages. No region is mapped while `give_back` runs. `[any thread]`
pub(in crate::env) fn unless_mapped(number: Option<u32>, give_back: impl FnOnce()) -> bool {
    GIVING_BACK.fetch_add(1, Ordering::SeqCst);
    // This thread counts itself and then reads the address of the region. `Ledger::map` sets the address and then reads the count. So
    // either this thread sees that the region is about to be mapped, or `Ledger::map` sees this thread and waits.
    fence(Ordering::SeqCst);
    let is_mapped = number.is_some_and(|number| region::iova(number).is_some());
    if !is_mapped {
        give_back();
    }
    GIVING_BACK.fetch_sub(1, Ordering::SeqCst);
    !is_mapped
}

/// Passes the container to `attach`, which puts the group of a device into it. When that is the first group, this maps every shared
/// region, because an empty container has no address space. `[any thread]`
///
/// # Errors
/// The error of `attach`, or the error of mapping a region.
pub(super) fn with_container<T>(
    attach: impl FnOnce(Arc<VfioContainer>) -> Result<T, VfioError>,
    explain: impl Fn(&VfioError) -> Error,
) -> Result<T> {
    let mut ledger = ledger();
    let container = match &ledger.container {
        Some(container) => Arc::clone(container),
        None => Arc::new(VfioContainer::new(None).map_err(|error| explain(&error))?),
    };
    let attached = attach(Arc::clone(&container)).map_err(|error| explain(&error))?;
    if ledger.container.is_none() {
        ledger.begin(container)?;
    }
    Ok(attached)
}

/// Unmaps every region and closes the container, after the last device is closed. `[any thread]`
pub(super) fn end() {
    ledger().end();
}

impl<C: Maps> Ledger<C> {
    fn share(&mut self, number: u32) -> Result<()> {
        if region::own(number).is_none() {
            let why = format!("memory region {number} is not DMA memory of the host");
            return Err(Error::new(libc::EINVAL, why));
        }
        if !self.mapped.contains_key(&number) {
            self.map(number)?;
        }
        self.shared.insert(number);
        Ok(())
    }

    fn unshare(&mut self, number: u32) {
        self.shared.remove(&number);
        self.unmap(number);
    }

    /// Maps every shared region in a new container. After an error nothing is mapped.
    fn begin(&mut self, container: Arc<C>) -> Result<()> {
        self.container = Some(container);
        let all: Vec<u32> = self.shared.iter().copied().collect();
        let mapped = all.into_iter().try_for_each(|number| self.map(number));
        mapped.inspect_err(|_| self.end())
    }

    fn end(&mut self) {
        let Some(container) = self.container.take() else { return };
        for (number, Map { iova, len }) in std::mem::take(&mut self.mapped) {
            region::set_iova(number, None);
            // This fails when the last group has left the container, because the kernel then has unmapped everything already. The
            // group is still there when a device could not be attached, or was pulled out.
            if let Err(error) = container.unmap(iova, len) {
                tracing::debug!("memory region {number} was unmapped from devices before: {error}");
            }
        }
    }

    fn map(&mut self, number: u32) -> Result<()> {
        let (Some(container), Some((addr, len))) = (&self.container, region::own(number)) else {
            return Ok(());
        };
        let iova = self.place(len as u64).ok_or_else(|| {
            let why = format!("no address that devices see is left for {len} bytes");
            Error::new(libc::ENOMEM, why)
        })?;
        region::set_iova(number, Some(iova));
        fence(Ordering::SeqCst);
        while GIVING_BACK.load(Ordering::SeqCst) > 0 {
            std::thread::yield_now();
        }
        if let Err(error) = container.map(iova, addr, len) {
            region::set_iova(number, None);
            return Err(refused(len, &error));
        }
        self.mapped.insert(number, Map { iova, len });
        Ok(())
    }

    fn unmap(&mut self, number: u32) {
        let Some(Map { iova, len }) = self.mapped.remove(&number) else { return };
        region::set_iova(number, None);
        let result = self.container.as_ref().map_or(Ok(()), |container| container.unmap(iova, len));
        if let Err(error) = result {
            // The kernel keeps the pages pinned, so a device cannot access another owner's memory. But the ledger and the container
            // disagree, which is a fault of the host.
            tracing::error!("memory region {number} could not be unmapped from devices: {error}");
        }
    }

    /// The first gap of `len` bytes.
    fn place(&self, len: u64) -> Option<u64> {
        let mut used: Vec<Map> = self.mapped.values().copied().collect();
        used.sort_by_key(|map| map.iova);
        let mut next = FIRST_IOVA;
        for map in used {
            if map.iova.checked_sub(next)? >= len {
                break;
            }
            next = (map.iova + map.len as u64).next_multiple_of(ALIGN);
        }
        (next.checked_add(len)? <= END_IOVA).then_some(next)
    }
}

/// The error for the operator when memory cannot be mapped.
fn refused(len: usize, error: &VfioError) -> Error {
    let mib = len.div_ceil(1 << 20);
    match error {
        VfioError::IommuDmaMap(error) if error.errno() == libc::ENOMEM => {
            let limit = locked_max();
            let why = format!(
                "{mib} MiB of memory could not be locked for devices; this process may lock {limit} (RLIMIT_MEMLOCK): raise the limit \
                 (ulimit -l, or LimitMEMLOCK= of the unit), or make the pools smaller (iobuf_set_options)"
            );
            Error::new(libc::ENOMEM, why)
        }
        VfioError::IommuDmaMap(error) => Error::new(
            error.errno(),
            format!("{mib} MiB of memory could not be mapped for devices: {error}"),
        ),
        other => Error::new(
            libc::EIO,
            format!("{mib} MiB of memory could not be mapped for devices: {other}"),
        ),
    }
}

/// The limit of locked memory of this process, as text.
fn locked_max() -> String {
    let text = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("Max locked memory"));
    let soft =
        line.and_then(|line| line.split_whitespace().next()).unwrap_or("an unknown number of");
    format!("{soft} bytes")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::memory;
    use vmm_sys_util::errno::Error as SysError;

    /// An address space for tests. It records its maps and refuses more than `room` bytes.
    #[derive(Default)]
    struct Iommu {
        maps: Mutex<BTreeMap<u64, (usize, usize)>>,
        room: usize,
    }

    impl Maps for Iommu {
        fn map(&self, iova: u64, addr: usize, len: usize) -> Result<(), VfioError> {
            let mut maps = self.maps.lock().unwrap();
            if maps.values().map(|(_, len)| len).sum::<usize>() + len > self.room {
                return Err(VfioError::IommuDmaMap(SysError::new(libc::ENOMEM)));
            }
            let overlaps = |(other, (_, other_len)): (&u64, &(usize, usize))| {
                iova < other + *other_len as u64 && *other < iova + len as u64
            };
            assert!(!maps.iter().any(overlaps), "mapped twice at {iova:#x}");
            maps.insert(iova, (addr, len));
            Ok(())
        }

        fn unmap(&self, iova: u64, len: usize) -> Result<(), VfioError> {
            assert_eq!(self.maps.lock().unwrap().remove(&iova).map(|(_, len)| len), Some(len));
            Ok(())
        }
    }

    fn empty() -> Ledger<Iommu> {
        Ledger { container: None, shared: BTreeSet::new(), mapped: BTreeMap::new() }
    }

    fn iommu(room: usize) -> Arc<Iommu> {
        Arc::new(Iommu { room, ..Iommu::default() })
    }

    const LEN: usize = 5 << 20;

    #[test]
    fn regions_are_mapped_while_a_device_is_open_and_nothing_else_is() {
        let regions: Vec<_> = (0..3).map(|_| memory::alloc(LEN, 4096).unwrap()).collect();
        let [first, second, third] = [0, 1, 2].map(|index: usize| regions[index].1);
        let (mut ledger, iommu) = (empty(), iommu(usize::MAX));
        ledger.share(first).unwrap();
        assert_eq!(region::iova(first), None);
        ledger.begin(Arc::clone(&iommu)).unwrap();
        ledger.share(second).unwrap();
        ledger.share(second).unwrap();
        assert_eq!(iommu.maps.lock().unwrap().len(), 2);
        let seen = region::iova(second).unwrap();
        assert_eq!(iommu.maps.lock().unwrap()[&seen].0, regions[1].0.as_ptr() as usize);
        assert_eq!(region::iova(third), None);
        ledger.unshare(first);
        assert_eq!(region::iova(first), None);
        // The ledger reuses the addresses of the freed region.
        ledger.share(third).unwrap();
        assert_eq!(region::iova(third), Some(FIRST_IOVA));
        ledger.end();
        assert!(iommu.maps.lock().unwrap().is_empty());
        assert_eq!(region::iova(second), None);
        for (addr, _) in regions {
            memory::free(addr.as_ptr());
        }
    }

    #[test]
    fn a_limit_of_locked_memory_refuses_the_device_and_leaves_nothing_mapped() {
        let regions: Vec<_> = (0..2).map(|_| memory::alloc(LEN, 4096).unwrap()).collect();
        let (mut ledger, iommu) = (empty(), iommu(LEN));
        for (_, number) in &regions {
            ledger.share(*number).unwrap();
        }
        let error = ledger.begin(Arc::clone(&iommu)).unwrap_err();
        assert_eq!(error.errno(), libc::ENOMEM);
        assert!(error.message().contains("RLIMIT_MEMLOCK"), "{error}");
        assert!(iommu.maps.lock().unwrap().is_empty() && ledger.container.is_none());
        for (addr, _) in regions {
            memory::free(addr.as_ptr());
        }
    }

    #[test]
    fn pages_that_devices_reach_are_not_given_back() {
        let (addr, number) = memory::alloc(LEN, 4096).unwrap();
        let mut ledger = empty();
        ledger.share(number).unwrap();
        let mut runs = 0;
        assert!(unless_mapped(Some(number), || runs += 1));
        ledger.begin(iommu(usize::MAX)).unwrap();
        assert!(!unless_mapped(Some(number), || panic!("devices reach the pages")));
        ledger.end();
        assert!(unless_mapped(Some(number), || runs += 1));
        assert_eq!(runs, 2);
        memory::free(addr.as_ptr());
    }

    #[test]
    fn memory_that_is_not_the_hosts_is_not_shared() {
        let mut ledger = empty();
        for number in [0, 60_000, u32::MAX] {
            assert_eq!(ledger.share(number).unwrap_err().errno(), libc::EINVAL, "{number}");
        }
    }
}
