//! Enables, disables and shuts down a controller through its registers. NVMe Base 2.0, sections 3.1.3, 3.5 and 3.6.

use super::{Fault, PAGE, Registers};
use drivebay_spec_nvme::property::{Cap, Cc, Csts, css, offset, shn, shst};

/// Offsets of registers that only PCIe has.
const AQA: usize = 0x24;
const ASQ: usize = 0x28;
const ACQ: usize = 0x30;
/// The first doorbell. NVMe over PCIe 1.0, section 3.1.2.
const DOORBELLS: usize = 0x1000;
/// Unit of CAP.TO, in nanoseconds.
const TIMEOUT_UNIT_NS: u64 = 500_000_000;
/// Minimum time that a controller gets to shut down, in nanoseconds.
const SHUTDOWN_NS: u64 = 10_000_000_000;

/// The memory of the admin queues, for the controller.
#[derive(Clone, Copy, Debug)]
pub struct AdminQueue {
    /// Address of the submission queue, for the controller.
    pub sq_iova: u64,
    /// Address of the completion queue, for the controller.
    pub cq_iova: u64,
    /// Entries of each queue, 2 to 4096.
    pub entries: u16,
}

/// A controller.
#[derive(Debug)]
pub struct Controller<R> {
    registers: R,
    cap: Cap,
}

impl<R: Registers> Controller<R> {
    /// Reads a controller's capabilities.
    ///
    /// # Errors
    /// The controller is gone or is not supported.
    pub fn new(registers: R) -> Result<Self, Fault> {
        let low = read(&registers, offset::CAP);
        let high = registers.read32(offset::CAP as usize + 4);
        if low == u32::MAX && high == u32::MAX {
            return Err(Fault::Gone);
        }
        let cap = Cap::from_bits(u64::from(high) << 32 | u64::from(low));
        let this = Self { registers, cap };
        if cap.mpsmin > 0 {
            return Err(Fault::Unsupported("its memory pages are larger than 4096 bytes"));
        }
        if cap.mqes == 0 {
            return Err(Fault::Unsupported("its queues have fewer than two entries (CAP.MQES)"));
        }
        if cap.css & (css::CAP_NVM | css::CAP_IOCS) == 0 {
            return Err(Fault::Unsupported("it has no I/O command set"));
        }
        if this.doorbell(0, true) + 4 > this.registers.len_bytes() {
            return Err(Fault::Unsupported("its registers are too short"));
        }
        Ok(this)
    }

    /// Its capabilities.
    pub const fn cap(&self) -> Cap {
        self.cap
    }

    /// The largest queue identifier whose doorbells are in the registers.
    pub fn qid_max(&self) -> u16 {
        let pair = self.doorbell(1, false) - DOORBELLS;
        let room = self.registers.len_bytes().saturating_sub(DOORBELLS) / pair;
        u16::try_from(room.saturating_sub(1)).unwrap_or(u16::MAX)
    }

    /// Its status.
    ///
    /// # Errors
    /// The controller is gone or has a fatal error.
    pub fn status(&self) -> Result<Csts, Fault> {
        let bits = read(&self.registers, offset::CSTS);
        if bits == u32::MAX {
            return Err(Fault::Gone);
        }
        let csts = Csts::from_bits(bits);
        if csts.cfs { Err(Fault::Fatal) } else { Ok(csts) }
    }

    /// Begins to disable the controller. The controller is disabled, and no longer accesses memory, when [`Wait::for_ready`] with `false`
    /// is over.
    pub fn disable(&self) {
        let cc = Cc::from_bits(read(&self.registers, offset::CC));
        self.set_cc(Cc { en: false, shn: shn::NONE, ..cc });
    }

    /// Begins to enable a disabled controller. The controller is enabled when [`Wait::for_ready`] with `true` is over.
    pub fn enable(&self, admin: AdminQueue) {
        let last = u32::from(admin.entries.clamp(2, 4096) - 1);
        self.registers.write32(AQA, last << 16 | last);
        self.write64(ASQ, admin.sq_iova);
        self.write64(ACQ, admin.cq_iova);
        let css = if self.cap.css & css::CAP_IOCS != 0 { css::IOCS } else { css::NVM };
        // Pages of 4096 bytes: MPS is 0.
        const { assert!(PAGE == 4096) };
        self.set_cc(Cc { en: true, css, iosqes: 6, iocqes: 4, ..Cc::default() });
    }

    /// Begins a normal shutdown. The controller is shut down when [`Wait::for_shutdown`] is over.
    pub fn shut_down(&self) {
        let cc = Cc::from_bits(read(&self.registers, offset::CC));
        self.set_cc(Cc { shn: shn::NORMAL, ..cc });
    }

    fn set_cc(&self, cc: Cc) {
        self.registers.write32(offset::CC as usize, cc.bits());
    }

    fn write64(&self, at: usize, value: u64) {
        let [low, high] =
            [value & 0xffff_ffff, value >> 32].map(|half| u32::try_from(half).unwrap_or(0));
        self.registers.write32(at, low);
        self.registers.write32(at + 4, high);
    }

    /// Returns the offset of a queue's doorbell in the registers, in bytes.
    pub(super) fn doorbell(&self, qid: u16, is_completion: bool) -> usize {
        let stride = 4 << self.cap.dstrd;
        DOORBELLS + (2 * usize::from(qid) + usize::from(is_completion)) * stride
    }

    pub(super) fn registers(&self) -> &R {
        &self.registers
    }
}

fn read(registers: &impl Registers, offset: u32) -> u32 {
    registers.read32(offset as usize)
}

/// A wait for a change of a controller's status, until a deadline.
#[derive(Clone, Copy, Debug)]
pub struct Wait {
    what: Until,
    deadline_ns: u64,
}

#[derive(Clone, Copy, Debug)]
enum Until {
    Ready(bool),
    ShutDown,
}

impl Wait {
    /// Waits until the controller is ready, or no longer ready, for at most the time in its capabilities (CAP.TO).
    pub fn for_ready<R: Registers>(
        controller: &Controller<R>,
        is_ready: bool,
        now_ns: u64,
    ) -> Self {
        let patience = u64::from(controller.cap.to).max(1) * TIMEOUT_UNIT_NS;
        Self { what: Until::Ready(is_ready), deadline_ns: now_ns.saturating_add(patience) }
    }

    /// Waits until the controller is shut down. `patience_ns`: the time that the controller reports in RTD3E; 0 when it reports none.
    #[must_use]
    pub fn for_shutdown(patience_ns: u64, now_ns: u64) -> Self {
        let patience = patience_ns.max(SHUTDOWN_NS);
        Self { what: Until::ShutDown, deadline_ns: now_ns.saturating_add(patience) }
    }

    /// Whether the status has changed.
    ///
    /// # Errors
    /// The controller is gone, has a fatal error, or the deadline has passed.
    pub fn is_over<R: Registers>(
        &self,
        controller: &Controller<R>,
        now_ns: u64,
    ) -> Result<bool, Fault> {
        let csts = match (controller.status(), self.what) {
            // A controller with a fatal error can still be disabled.
            (Err(Fault::Fatal), Until::Ready(false)) => {
                Csts::from_bits(read(&controller.registers, offset::CSTS))
            }
            (status, _) => status?,
        };
        let (is_over, field) = match self.what {
            Until::Ready(is_ready) => (csts.rdy == is_ready, "CSTS.RDY"),
            Until::ShutDown => (csts.shst == shst::COMPLETE, "CSTS.SHST"),
        };
        if !is_over && now_ns >= self.deadline_ns {
            return Err(Fault::Late(field));
        }
        Ok(is_over)
    }
}
