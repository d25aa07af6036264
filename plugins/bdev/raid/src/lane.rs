//! One thread's state of a redundant array: its channels of the members, the I/O that waits, and counts of I/O.

use crate::bases::{Base, Bases};
use crate::marks;
use crate::members;
use crate::repair::{self, Fault};
use crate::row_io::{RowId, RowIo};
use crate::shared::{Shared, Views};
use crate::strips::{Strips, SumId};
use drivebay_sdk::bdev::IoId;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::notify::Notify;
use drivebay_sdk::runtime::task;
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

/// The state of a channel of the array. It stays on its thread.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) shared: Arc<Shared>,
    /// Only [`adopt`](Self::adopt) and [`close`](Self::close) change them.
    pub(crate) bases: RefCell<Bases>,
    /// The index of the counter for I/O that begins now. A change of the members takes another counter that is 0.
    generation: Cell<u8>,
    /// Whether I/O of the current generation may have begun before the last change of the members, because no generation
    /// was free.
    is_mixed: Cell<bool>,
    /// How many I/Os of each generation have not ended.
    in_flight: Box<[Cell<u32>]>,
    drained: Notify,
    /// Channels of former members. They stay until all I/O that began with former members has ended.
    left: RefCell<Vec<Base>>,
    /// Buffers of a level with parity.
    pub(crate) strips: Option<Strips>,
    /// I/O that failed on a member. It waits here until the app thread has recorded the failure.
    held: RefCell<IoQueue>,
    /// I/O that has locked rows, by number.
    pub(crate) row_ios: RefCell<Vec<RowIo>>,
    /// As `held`, for I/O that has locked a row and may have changed it.
    pub(crate) held_rows: RefCell<IoQueue>,
    /// I/O that waits for rows.
    pub(crate) unlocked: RefCell<IoQueue>,
    /// Writes that wait until the marks of their regions are durable.
    unrecorded: RefCell<IoQueue>,
    /// Serial numbers of the members whose failure this lane has reported since the last change of the members.
    reported: RefCell<Vec<u64>>,
}

/// The lane's state of one I/O.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Begun {
    pub(crate) generation: u8,
    /// How often the lane has sent the I/O before.
    pub(crate) tries: u8,
    /// The slot whose member executes the read.
    pub(crate) slot: u8,
    /// The sum that a read of raid5f waits for.
    pub(crate) sum: SumId,
    /// The row I/O of raid5 or raid6.
    pub(crate) row: RowId,
}

/// What happens to a write or flush that failed on a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The lane sends it again.
    Again {
        /// How often it has sent it.
        tries: u8,
    },
    /// It waits until the failure of the member is on record.
    Hold,
    /// It fails, and a repair makes the copies equal.
    Repaired,
    /// It fails.
    Final,
}

/// How often a lane sends an I/O again after a temporary failure.
const TRIES_MAX: u8 = 8;

/// Generations of I/O that may be in flight at once. I/O that hangs keeps its generation.
const GENERATIONS: usize = 256;
/// How long a change of the members waits for I/O that began before it.
const DRAIN_LIMIT: Duration = Duration::from_secs(5);

/// Whether a member refused a command because of what the client asked, so that the member is not at fault.
fn is_refusal(status: Status) -> bool {
    const READ_ONLY: Status = Status::errno(errno::EROFS);
    matches!(status, Status::INVALID | Status::NOT_SUPPORTED | Status::MISCOMPARE | READ_ONLY)
}

impl Lane {
    pub(crate) fn new(shared: &Arc<Shared>, views: &Views, block_size: u32) -> Result<Self> {
        let has_parity = views.layout.level().parities() > 0;
        let log = shared.rows.as_ref().map(|rows| &rows.log);
        Ok(Self {
            bases: RefCell::new(Bases::open(views)?),
            generation: Cell::new(0),
            is_mixed: Cell::new(false),
            in_flight: (0..GENERATIONS).map(|_| Cell::new(0)).collect(),
            drained: Notify::new(),
            left: RefCell::default(),
            strips: has_parity.then(|| Strips::new(&views.layout, block_size, log)),
            held: RefCell::default(),
            row_ios: RefCell::default(),
            held_rows: RefCell::default(),
            unlocked: RefCell::default(),
            unrecorded: RefCell::default(),
            reported: RefCell::default(),
            shared: Arc::clone(shared),
        })
    }

    /// Counts an I/O as begun with the current members.
    #[inline]
    pub(crate) fn begin(&self, io: &mut BdevIo, begun: Begun) {
        io.set_state(Begun { generation: self.enter_generation(), ..begun });
    }

    /// Counts one more use of the current generation, until [`end`](Self::end).
    #[inline]
    pub(crate) fn enter_generation(&self) -> u8 {
        let generation = self.generation.get();
        if let Some(count) = self.in_flight.get(usize::from(generation)) {
            count.set(count.get() + 1);
        }
        generation
    }

    /// Ends a use of a generation: all children of an I/O have ended.
    #[inline]
    pub(crate) fn end(self: &Rc<Self>, generation: u8) {
        let Some(count) = self.in_flight.get(usize::from(generation)) else { return };
        count.set(count.get().saturating_sub(1));
        if generation != self.generation.get() && count.get() == 0 {
            self.generation_ended();
        }
    }

    #[cold]
    fn generation_ended(self: &Rc<Self>) {
        self.drained.notify();
        // The drain may have given up. A completion cannot close the channel of its own I/O, so a task does it.
        if self.is_quiet() && !self.left.borrow().is_empty() {
            let lane = Rc::clone(self);
            let release = async move { lane.release() };
            if let Ok(task) = task::spawn("raid former members", release) {
                task.detach();
            }
        }
    }

    /// Whether all I/O that began with former members has ended.
    fn is_quiet(&self) -> bool {
        let current = usize::from(self.generation.get());
        let is_new = |generation: usize| generation == current && !self.is_mixed.get();
        let mut counts = self.in_flight.iter().enumerate();
        counts.all(|(generation, count)| is_new(generation) || count.get() == 0)
    }

    /// Closes the channels of former members if no I/O uses them.
    fn release(&self) {
        if self.is_quiet() {
            drop(self.left.take());
        }
    }

    /// Handles a write, unmap or flush that failed on a member. If the member is at fault, the I/O waits until the app
    /// thread has recorded the failure. Then the lane sends it again to the members that remain. Its success is the
    /// acknowledgement.
    #[cold]
    pub(crate) fn failed(self: &Rc<Self>, io: BdevIo, begun: Begun, result: IoResult) {
        match self.judge(&io, begun, result) {
            // Only some members may have the data. Sending the I/O again makes the copies equal.
            Verdict::Again { tries } => self.submit(io, tries),
            Verdict::Hold => self.held.borrow_mut().push(io),
            Verdict::Repaired => io.complete_with(result),
            Verdict::Final => {
                if self.strips.is_none() && io.first_failed().is_some() {
                    // A member that is being rebuilt may have the data that the others lack.
                    self.note_torn(&io);
                }
                io.complete_with(result);
            }
        }
    }

    /// Decides what happens to a write, unmap or flush that failed on a member. Reports the member if it is at fault.
    #[cold]
    pub(crate) fn judge(&self, io: &BdevIo, begun: Begun, result: IoResult) -> Verdict {
        if let Some(marks) = &self.shared.marks {
            marks.note_failure();
        }
        let Some(slot) = io.first_failed() else { return Verdict::Final };
        let is_temporary = matches!(result.status, Status::ABORTED | Status::NO_RESOURCE);
        if is_temporary && begun.tries < TRIES_MAX {
            return Verdict::Again { tries: begun.tries + 1 };
        }
        let again = Verdict::Again { tries: begun.tries };
        if begun.generation != self.generation.get() {
            // The failed member may have left. The slot may have a new member now, which is not at fault.
            return again;
        }
        if is_refusal(result.status) && self.repairs_torn(io) {
            return Verdict::Repaired;
        }
        let serial = self.bases.borrow().get(slot).map(|base| base.serial);
        let Some(serial) = serial else { return again };
        if !self.bases.borrow().hold_all(Some(slot)) || self.shared.is_offline() {
            return Verdict::Final;
        }
        if !self.reported.borrow().contains(&serial) {
            self.reported.borrow_mut().push(serial);
            members::report_failure(&self.shared, serial, result.status);
        }
        Verdict::Hold
    }

    /// Asks for a repair that makes copies equal after one member refused a command. Returns whether there was room for it.
    fn repairs_torn(&self, io: &BdevIo) -> bool {
        if self.shared.rows.is_some() && !self.bases.borrow().are_whole() {
            // Without all data, no parity can be computed again.
            self.note_torn(io);
            return true;
        }
        match io.op() {
            Op::Write(range) | Op::Unmap(range) | Op::WriteZeroes(range) => {
                repair::ask(&self.shared, Fault::Torn, range)
            }
            _ => true,
        }
    }

    /// Changes to new members. I/O that began with the old ones goes on; [`drain`](Self::drain) waits for it.
    pub(crate) fn adopt(self: &Rc<Self>, views: &Views) -> Result<()> {
        let left = self.bases.borrow_mut().replace(views)?;
        self.left.borrow_mut().extend(left);
        let current = self.generation.get();
        let is_free = |generation: &u8| {
            let count = self.in_flight.get(usize::from(*generation));
            *generation != current && count.is_some_and(|count| count.get() == 0)
        };
        let free = (0..=u8::MAX).find(is_free);
        self.is_mixed.set(free.is_none());
        self.generation.set(free.unwrap_or(current));
        self.reported.borrow_mut().clear();
        self.send_held();
        Ok(())
    }

    /// Waits until all I/O that began with former members has ended. Returns `false` after [`DRAIN_LIMIT`]: a member may hang.
    pub(crate) async fn drain(&self) -> bool {
        let quiet = self.drained.until(|| self.is_quiet());
        let is_quiet = task::timeout(DRAIN_LIMIT, quiet).await.is_ok();
        self.release();
        is_quiet
    }

    fn send_held(self: &Rc<Self>) {
        let mut held = std::mem::take(&mut *self.held.borrow_mut());
        while let Some(io) = held.pop() {
            self.submit(io, 0);
        }
        self.send_held_rows();
        self.flush();
    }

    /// Whether blocks may be written: the marks of their regions are durable.
    #[inline]
    pub(crate) fn may_write(&self, blocks: Range) -> bool {
        self.shared.marks.as_ref().is_none_or(|marks| marks.may_write(blocks))
    }

    /// Keeps a write until the marks of its regions are durable.
    #[cold]
    pub(crate) fn wait_for_marks(&self, io: BdevIo, blocks: Range) {
        let Some(marks) = self.shared.marks.as_ref().filter(|_| !self.shared.is_offline()) else {
            return io.complete(Status::IO_ERROR);
        };
        self.unrecorded.borrow_mut().push(io);
        if !marks::want(&self.shared, marks, blocks) {
            // An error means that the app thread has ended.
            self.fail(&self.unrecorded);
        }
    }

    /// Sends the writes that wait for marks, or fails them because the marks cannot be set.
    pub(crate) fn resume_unrecorded(self: &Rc<Self>, is_good: bool) {
        if !is_good {
            return self.fail(&self.unrecorded);
        }
        let mut waiting = self.unrecorded.take();
        while let Some(io) = waiting.pop() {
            self.submit(io, 0);
        }
        self.flush();
    }

    /// Fails all I/O that waits, because the array goes offline.
    pub(crate) fn fail_waiting(self: &Rc<Self>) {
        self.fail_held();
        self.fail(&self.unrecorded);
        self.fail(&self.unlocked);
    }

    /// Fails the I/O that waits for the record of a failure. This I/O has changed some copies, so their regions keep their
    /// marks. The lane reports the next failure again.
    pub(crate) fn fail_held(self: &Rc<Self>) {
        self.fail_held_rows();
        self.reported.borrow_mut().clear();
        let mut held = self.held.take();
        while let Some(io) = held.pop() {
            self.note_torn(&io);
            io.complete(Status::IO_ERROR);
        }
    }

    /// Notes that copies may differ in the blocks of an I/O that failed on a member and is not sent again.
    pub(crate) fn note_torn(&self, io: &BdevIo) {
        let Some(marks) = &self.shared.marks else { return };
        match io.op() {
            Op::Write(range) | Op::Unmap(range) | Op::WriteZeroes(range) => marks.set_torn(range),
            _ => marks.note_failure(),
        }
    }

    /// Aborts an I/O that waits in this lane. I/O that members have goes on, because an abort could leave copies that differ.
    #[cold]
    pub(crate) fn abort(self: &Rc<Self>, id: IoId) -> Status {
        if self.abort_row(id) {
            return Status::SUCCESS;
        }
        let held = self.held.borrow_mut().remove(id);
        if let Some(io) = held {
            self.note_torn(&io);
            io.complete(Status::ABORTED);
            return Status::SUCCESS;
        }
        let unrecorded = self.unrecorded.borrow_mut().remove(id);
        let waiting = unrecorded.or_else(|| self.strips.as_ref()?.stop_waiting(id));
        let Some(io) = waiting else { return Status::NOT_FOUND };
        io.complete(Status::ABORTED);
        Status::SUCCESS
    }

    fn fail(&self, queue: &RefCell<IoQueue>) {
        let mut waiting = queue.take();
        while let Some(io) = waiting.pop() {
            io.complete(Status::IO_ERROR);
        }
    }

    pub(crate) fn flush(&self) {
        self.bases.borrow().flush();
    }

    /// Closes the channels now, because a change of the members may keep the lane itself a little longer.
    pub(crate) fn close(&self) {
        self.shared.leave(self);
        self.bases.borrow_mut().close();
        self.left.borrow_mut().clear();
        self.strips.iter().for_each(Strips::close);
    }
}
