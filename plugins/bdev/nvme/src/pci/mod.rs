//! NVMe over PCIe: a controller's PCI function, its memory, and its queues.
//!
//! - [`Function`] is an open controller. Code that ends a connection stops the controller first, and only then frees the memory that the
//!   controller could access.
//! - [`admin`] is the admin queue, [`queue`] an I/O queue, and [`rings`] has the I/O queues of one channel.

pub(crate) mod admin;
pub(crate) mod queue;
pub(crate) mod rings;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use drivebay_nvme_driver::pcie::{self, AdminQueue, Controller, Sgl, Shadow, Wait};
use drivebay_sdk::buf;
use drivebay_sdk::pci::{Bar, Device, DmaMemory, Vector};
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{task, worker};
use drivebay_sdk::thread;

/// Longest data of a command, in bytes.
const LEN_MAX: u32 = 128 << 10;
/// How many times to try to open a device that is in use, and the time between two tries.
const OPEN_TRIES: u32 = 20;
const OPEN_DELAY: Duration = Duration::from_millis(50);
/// How often the status is read while a controller is enabled, disabled or shut down.
const LOOK: Duration = Duration::from_millis(2);
/// The maximum number of interrupt vectors. More queues than vectors share them.
const VECTORS_MAX: u32 = 33;

static LAST: AtomicU64 = AtomicU64::new(0);

/// Maximum length of a command's data, in bytes. The data must fit one buffer of the pools, because the plugin may have to copy it.
pub(crate) fn len_max() -> u64 {
    let mut len = LEN_MAX;
    while len > pcie::PAGE && buf::pool_for(len).is_none() {
        len /= 2;
    }
    len.into()
}

/// The registers of a controller.
#[derive(Debug)]
struct Registers(Bar);

impl pcie::Registers for Registers {
    fn len_bytes(&self) -> usize {
        self.0.len_bytes()
    }

    #[inline]
    fn read32(&self, at: usize) -> u32 {
        self.0.read32(at)
    }

    #[inline]
    fn write32(&self, at: usize, value: u32) {
        self.0.write32(at, value);
    }
}

/// Memory of a queue.
#[derive(Debug)]
pub(crate) struct Memory(DmaMemory);

impl pcie::Memory for Memory {
    fn iova(&self) -> u64 {
        self.0.iova()
    }

    fn words(&self) -> usize {
        self.0.words()
    }

    #[inline]
    fn load(&self, index: usize) -> u64 {
        self.0.load(index)
    }

    #[inline]
    fn store(&self, index: usize, value: u64) {
        self.0.store(index, value);
    }
}

/// An open controller. Every connection opens the device anew, which also resets it.
#[derive(Debug)]
pub(crate) struct Function {
    /// Number of this connection, unique in this process.
    pub(crate) number: u64,
    controller: Controller<Registers>,
    vectors: Vec<Vector>,
    removal: Option<Vector>,
    is_wanted_back: AtomicBool,
    /// The controller is stopped: it no longer accesses memory, and this value never starts it again.
    is_stopped: AtomicBool,
    /// The scatter gather lists that the controller accepts.
    sgl: OnceLock<Sgl>,
    /// The shadow doorbells. The controller may know them as soon as they exist.
    shadow: OnceLock<Shadow<Memory>>,
    uses_shadow: AtomicBool,
    /// The memory of queues that could not be deleted. It is freed with this value, after the controller is stopped.
    lost: Mutex<Vec<pcie::Queue<Memory>>>,
    device: Arc<Device>,
}

impl Function {
    /// Opens the controller at a PCI address.
    pub(crate) async fn open(address: &str) -> Result<Arc<Self>> {
        let mut tries = 1;
        loop {
            let of_try = address.to_owned();
            let opened = worker::run("nvme open", move || Self::open_here(&of_try)).await?;
            match opened {
                // The device may still be open, because other threads release the previous connection a moment later.
                Err(error) if error.errno() == errno::EBUSY && tries < OPEN_TRIES => tries += 1,
                opened => return opened,
            }
            task::sleep(OPEN_DELAY).await;
        }
    }

    fn open_here(address: &str) -> Result<Arc<Self>> {
        let device = Device::open(address)?;
        let controller = Controller::new(Registers(device.bar(0)?));
        let controller = controller.map_err(|fault| at_fault(address, fault))?;
        let count = device.num_vectors().min(VECTORS_MAX);
        if count == 0 {
            let why = format!("{address}: it has no MSI-X interrupts, which this driver needs");
            return Err(Error::new(errno::EOPNOTSUPP, why));
        }
        let vectors = device.take_vectors(count)?;
        // Without this eventfd, the plugin notices a removal by registers that read as all ones.
        let removal = device.removal().ok();
        Ok(Arc::new(Self {
            number: LAST.fetch_add(1, Ordering::Relaxed),
            controller,
            vectors,
            removal,
            is_wanted_back: AtomicBool::new(false),
            is_stopped: AtomicBool::new(false),
            sgl: OnceLock::new(),
            shadow: OnceLock::new(),
            uses_shadow: AtomicBool::new(false),
            lost: Mutex::default(),
            device,
        }))
    }

    pub(crate) fn address(&self) -> &str {
        self.device.address()
    }

    pub(crate) fn cap(&self) -> drivebay_nvme_driver::spec::property::Cap {
        self.controller.cap()
    }

    /// The largest identifier that an I/O queue may have.
    pub(crate) fn qid_max(&self) -> u16 {
        self.controller.qid_max()
    }

    /// The interrupt of a queue, and its number.
    pub(crate) fn vector(&self, qid: u16) -> Option<(u16, &Vector)> {
        // I/O queues do not use the first vector, which belongs to the admin queue, unless it is the only one.
        let of_io = self.vectors.len().saturating_sub(1);
        let index = match (usize::from(qid), of_io) {
            (0, _) | (_, 0) => 0,
            (qid, of_io) => 1 + (qid - 1) % of_io,
        };
        Some((u16::try_from(index).ok()?, self.vectors.get(index)?))
    }

    /// Allocates the memory of a queue. The host locks the memory, which is slow, so call this on a worker. `[worker]`
    pub(crate) fn memory(&self, qid: u16, entries: u16) -> Result<pcie::Queue<Memory>> {
        let alloc = |len: u32| self.alloc(u32::from(entries) * len);
        let (sq, cq, lists) = (alloc(64)?, alloc(16)?, alloc(pcie::PAGE)?);
        // The admin queue must not use lists, and does without shadow doorbells.
        let is_io = qid > 0;
        let sgl = self.sgl.get().copied().filter(|_| is_io).unwrap_or_default();
        let uses_shadow = is_io && self.uses_shadow.load(Ordering::Acquire);
        let shadow = self.shadow.get().filter(|_| uses_shadow).cloned();
        if let Some(shadow) = &shadow {
            shadow.clear(qid);
        }
        Ok(pcie::Queue { qid, entries, sq, cq, lists, sgl, shadow })
    }

    fn alloc(&self, len: u32) -> Result<Memory> {
        DmaMemory::alloc(&self.device, len).map(Memory)
    }

    /// Records the scatter gather lists that the controller accepts: SGLS of Identify Controller.
    fn set_sgls(&self, sgls: u32) {
        self.sgl.get_or_init(|| Sgl::of(sgls));
    }

    /// Makes the shadow doorbells, and returns the addresses of their pages for the controller. The controller may use them until it is
    /// stopped. `[worker]`
    fn make_shadow(&self) -> Result<[u64; 2]> {
        let (doorbells, events) = (self.alloc(pcie::PAGE)?, self.alloc(pcie::PAGE)?);
        let made = || Shadow::new(Arc::new(doorbells), Arc::new(events));
        Ok(self.shadow.get_or_init(made).iovas())
    }

    /// Lets the queues that are created from now on use the shadow doorbells.
    fn use_shadow(&self) {
        self.uses_shadow.store(true, Ordering::Release);
    }

    /// Enables the controller with this admin queue.
    pub(crate) async fn start(&self, admin: AdminQueue) -> Result<()> {
        self.controller.disable();
        self.wait(Wait::for_ready(&self.controller, false, thread::now_ns())).await?;
        self.device.set_master(true)?;
        self.controller.enable(admin);
        self.wait(Wait::for_ready(&self.controller, true, thread::now_ns())).await
    }

    /// Shuts the controller down: it writes its caches and prepares for a loss of power. `patience` is the time that the controller
    /// reports for this.
    pub(crate) async fn shut_down(&self, patience: Duration) -> Result<()> {
        self.controller.shut_down();
        let patience_ns = u64::try_from(patience.as_nanos()).unwrap_or(u64::MAX);
        self.wait(Wait::for_shutdown(patience_ns, thread::now_ns())).await
    }

    /// Stops the controller. It cannot access memory afterwards, even if it does not confirm the stop.
    pub(crate) async fn stop(&self) {
        if self.is_stopped() {
            return;
        }
        self.controller.disable();
        let waiting = self.wait(Wait::for_ready(&self.controller, false, thread::now_ns()));
        if let Err(error) = waiting.await {
            info!("{}: {}", self.address(), error.message());
        }
        self.cut_off();
    }

    /// Switches the controller's bus mastering off, so that it cannot access memory any more.
    pub(crate) fn cut_off(&self) {
        if let Err(error) = self.device.set_master(false) {
            // An error means that the device is gone, so it cannot access memory either.
            debug!("{}: {}", self.address(), error.message());
        }
        self.is_stopped.store(true, Ordering::Release);
    }

    pub(crate) fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Acquire)
    }

    /// Rings the doorbells of a queue.
    #[inline]
    fn ring<P: pcie::Payload>(&self, ring: &mut pcie::Ring<Memory, P>) {
        ring.ring(&self.controller);
    }

    /// Checks whether the kernel wants the device back. This is a system call, so it is not for the data path.
    pub(crate) fn look_for_removal(&self) -> bool {
        if self.removal.as_ref().is_some_and(Vector::has_come) {
            self.is_wanted_back.store(true, Ordering::Release);
        }
        self.is_wanted_back()
    }

    /// Whether the kernel wants the device back, because it is pulled out or unbound.
    pub(crate) fn is_wanted_back(&self) -> bool {
        self.is_wanted_back.load(Ordering::Acquire)
    }

    /// Keeps the memory of a queue until the controller is stopped.
    fn keep(&self, queue: pcie::Queue<Memory>) {
        self.lost.lock().unwrap_or_else(PoisonError::into_inner).push(queue);
    }

    async fn wait(&self, wait: Wait) -> Result<()> {
        loop {
            let is_over = wait.is_over(&self.controller, thread::now_ns());
            if is_over.map_err(|fault| at_fault(self.address(), fault))? {
                return Ok(());
            }
            task::sleep(LOOK).await;
        }
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        if !self.is_stopped() {
            self.cut_off();
        }
    }
}

/// The error of a controller at fault.
pub(crate) fn at_fault(address: &str, fault: pcie::Fault) -> Error {
    let errno = match fault {
        pcie::Fault::Gone => errno::ENODEV,
        pcie::Fault::Late(_) => errno::ETIMEDOUT,
        pcie::Fault::Unsupported(_) => errno::EOPNOTSUPP,
        _ => errno::EIO,
    };
    Error::new(errno, format!("{address}: {fault}"))
}
