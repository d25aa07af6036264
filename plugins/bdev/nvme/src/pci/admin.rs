//! The admin queue of a controller on PCIe. It stays on the app thread.

use std::rc::Rc;
use std::sync::Arc;

use drivebay_nvme_driver::pcie::{AdminQueue, Memory as _, PAGE, Payload, Refused, Ring};
use drivebay_nvme_driver::spec::identify::{self, oacs};
use drivebay_nvme_driver::spec::opcode::admin;
use drivebay_nvme_driver::spec::{Command, Completion};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::pci::Interrupts;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::oneshot;
use drivebay_sdk::runtime::worker;
use drivebay_sdk::thread;

use super::{Function, Memory};
use crate::admin::{Admin, Answer, Data};
use crate::options::Timeouts;

/// A reactor that does not sleep checks for a removal this often, in ns. Each check is a system call.
const LOOK_NS: u64 = 10_000_000;
/// Entries of the admin queue.
const ENTRIES: u16 = 64;

/// A command that is outstanding. It owns its memory, so a caller may stop waiting at any time.
#[derive(Debug)]
struct AdminCommand {
    data: Option<Buf>,
    /// Length of the data that the controller returns, in bytes.
    in_len: usize,
    /// Pages that the controller uses from now on.
    pages: [Option<u64>; 2],
    answer: oneshot::Sender<Answer>,
}

impl Payload for AdminCommand {
    fn pieces(&self) -> impl Iterator<Item = Option<(u64, u32)>> {
        let data = self.data.as_ref().map(|data| Some((data.for_device()?, data.len())));
        let pages = self.pages.iter().flatten().map(|iova| Some((*iova, PAGE)));
        data.into_iter().chain(pages)
    }
}

/// The queue. Its drop stops the controller first, and then frees the memory.
#[derive(Debug)]
pub(crate) struct AdminRing {
    ring: Ring<Memory, AdminCommand>,
    pub(crate) interrupts: Interrupts,
    pub(crate) function: Arc<Function>,
    /// When to check for a removal the next time, by [`thread::now_ns`].
    look_ns: u64,
}

impl Drop for AdminRing {
    fn drop(&mut self) {
        if !self.function.is_stopped() {
            self.function.cut_off();
        }
    }
}

/// Opens and enables a controller. `[app thread]`
pub(crate) async fn connect(
    address: &str,
    timeouts: Timeouts,
) -> Result<(Rc<Admin>, Arc<Function>)> {
    let function = Function::open(address).await?;
    let of_function = Arc::clone(&function);
    let memory = worker::run("nvme admin queue", move || of_function.memory(0, ENTRIES)).await??;
    let at = AdminQueue {
        sq_iova: memory.sq.iova(),
        cq_iova: memory.cq.iova(),
        entries: memory.entries,
    };
    let interrupts = Interrupts::new()?;
    if let Some((_, vector)) = function.vector(0) {
        interrupts.add(vector)?;
    }
    if let Some(removal) = &function.removal {
        interrupts.add(removal)?;
    }
    let ring = AdminRing {
        ring: Ring::new(memory),
        interrupts,
        function: Arc::clone(&function),
        look_ns: 0,
    };
    // From here on, dropping `ring` stops the controller.
    function.start(at).await?;
    Ok((Rc::new(Admin::on_ring(ring, timeouts)?), function))
}

/// Prepares what makes I/O queues faster, where the controller has it: scatter gather lists and shadow doorbells. Call it before the first
/// I/O queue is created. `[app thread]`
pub(crate) async fn prepare_queues(
    admin: &Admin,
    function: &Arc<Function>,
    data: &identify::Controller,
) -> Result<()> {
    function.set_sgls(data.sgls);
    if data.oacs & oacs::DOORBELL_BUFFER_CONFIG == 0 || function.cap().dstrd != 0 {
        return Ok(());
    }
    let of_function = Arc::clone(function);
    let iovas = worker::run("nvme doorbells", move || of_function.make_shadow()).await??;
    let what = "Doorbell Buffer Config";
    let command = Command::new(admin::DOORBELL_BUFFER_CONFIG);
    let answer = admin.run(what, command, Data::Pages(iovas[0], Some(iovas[1]))).await?;
    match answer.ok(what) {
        Ok(_) => function.use_shadow(),
        // The controller then has its ordinary doorbells.
        Err(error) => info!("{}: {}", function.address(), error.message()),
    }
    Ok(())
}

impl AdminRing {
    /// Sends a command.
    pub(crate) fn submit(
        &mut self,
        what: &str,
        command: &Command,
        data: Data,
        answer: oneshot::Sender<Answer>,
    ) -> Result<()> {
        let (in_len, len, pages) = match &data {
            Data::None => (0, 0, [None; 2]),
            Data::Pages(first, second) => (0, 0, [Some(*first), *second]),
            Data::In(len) => (*len as usize, *len, [None; 2]),
            Data::Out(bytes) => (0, u32::try_from(bytes.len()).unwrap_or(u32::MAX), [None; 2]),
        };
        let mut request = AdminCommand { data: None, in_len, pages, answer };
        if len > 0 {
            let mut buf = buf::alloc(len)?;
            buf.share_with_devices()?;
            match &data {
                Data::Out(bytes) => buf.copy_from_slice(bytes),
                // Clear the buffer. Otherwise the caller would see its old contents when the controller sends less than it should.
                _ => buf.fill(0),
            }
            request.data = Some(buf);
        }
        match self.ring.submit(command, request) {
            Ok(_) => {
                self.ring.ring(&self.function.controller);
                Ok(())
            }
            Err(Refused::Full(_)) => {
                Err(Error::new(errno::EAGAIN, format!("{what}: the admin queue is full")))
            }
            Err(Refused::Data(_)) => {
                Err(Error::new(errno::EINVAL, format!("{what}: {len} bytes are too many")))
            }
        }
    }

    /// Answers the commands that have ended, and returns whether there were any.
    ///
    /// # Errors
    /// The controller is at fault.
    pub(crate) fn serve(&mut self) -> Result<bool> {
        let now_ns = thread::now_ns();
        let is_time = now_ns >= self.look_ns;
        if is_time {
            self.look_ns = now_ns + LOOK_NS;
        }
        if self.function.is_wanted_back() || is_time && self.function.look_for_removal() {
            return Err(Error::new(
                errno::ENODEV,
                "the kernel wants the device back, because it was pulled out or unbound",
            ));
        }
        let answered = self.ring.reap(|request, completion| {
            let data = match &request.data {
                Some(data) if completion.status.is_success() => {
                    data.get(..request.in_len).unwrap_or_default().to_vec()
                }
                _ => Vec::new(),
            };
            send(request, completion, data);
        });
        let answered = answered.map_err(|fault| super::at_fault(self.function.address(), fault))?;
        self.ring.ring(&self.function.controller);
        Ok(answered > 0)
    }

    /// Clears the interrupt, then checks for completions, so that a completion in between is not missed.
    pub(crate) fn prepare_sleep(&self) -> bool {
        self.interrupts.clear();
        self.function.look_for_removal() || self.ring.has_completions()
    }
}

fn send(request: AdminCommand, completion: Completion, data: Vec<u8>) {
    // The caller may have stopped waiting.
    let _ = request.answer.send(Answer { completion, data });
}
