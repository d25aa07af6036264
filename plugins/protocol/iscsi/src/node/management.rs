//! Task management. RFC 7143, section 11.5; SAM-5, section 7.
//!
//! A function aborts a task that waits (for data, for memory, for its turn) at once. It cannot recall an I/O at the bdev, so its answer
//! waits for the I/O, at most [`PATIENCE_NS`]. After that time the function is rejected, and the tasks end silently when their I/Os do.
//!
//! A PREEMPT AND ABORT aborts tasks in the same way, but waits without limit: its status promises that nothing of the aborted commands
//! reaches the unit any more. The initiator can abort it.

use super::session::SessionId;
use super::table::split;
use super::{Backend, Node, index};
use drivebay_scsi::{NexusId, Preempted, Task, TaskKey};
use drivebay_spec_iscsi::pdu::{FunctionResponse, function};

/// Longest time that the answer to a function waits for I/Os at the bdev, in nanoseconds.
const PATIENCE_NS: u64 = 5_000_000_000;
/// Maximum number of waiting functions of a node. Further ones are rejected.
const FUNCTIONS_MAX: usize = 256;

/// A task management function that an initiator requested.
#[derive(Debug)]
pub(super) struct Management {
    pub(super) link: u32,
    pub(super) session: SessionId,
    pub(super) itt: u32,
    pub(super) function: u8,
    pub(super) unit: Option<u16>,
    pub(super) ref_tag: u32,
}

/// An answer that waits for aborted tasks.
#[derive(Debug)]
pub(super) struct Wait {
    waiter: Waiter,
    /// Aborted tasks whose I/Os have not ended.
    tasks: Vec<TaskKey>,
}

/// The command whose answer waits.
#[derive(Clone, Copy, Debug)]
enum Waiter {
    /// A task management function. It waits until the deadline.
    Function { link: u32, itt: u32, deadline_ns: u64 },
    /// A PREEMPT AND ABORT.
    Preempt(TaskKey),
}

impl Waiter {
    /// The connection of the initiator.
    fn link(self) -> u32 {
        match self {
            Self::Function { link, .. } => link,
            Self::Preempt(key) => split(key).0,
        }
    }

    fn is_function(self) -> bool {
        matches!(self, Self::Function { .. })
    }

    fn is_late(self, now_ns: u64) -> bool {
        matches!(self, Self::Function { deadline_ns, .. } if deadline_ns <= now_ns)
    }
}

impl<B: Backend> Node<B> {
    /// Begins a function.
    pub(super) fn manage(&mut self, management: &Management) {
        let Management { link, itt, .. } = *management;
        let deadline_ns = self.shared.now_ns.saturating_add(PATIENCE_NS);
        let waiter = Waiter::Function { link, itt, deadline_ns };
        if self.waits.iter().filter(|wait| wait.waiter.is_function()).count() >= FUNCTIONS_MAX {
            return self.answer(waiter, FunctionResponse::Rejected);
        }
        match self.begin_management(management) {
            Ok(tasks) => self.waits.push(Wait { waiter, tasks }),
            Err(refused) => self.answer(waiter, refused),
        }
    }

    /// Aborts the tasks that the function names. Returns those whose I/Os have not ended.
    fn begin_management(
        &mut self,
        management: &Management,
    ) -> Result<Vec<TaskKey>, FunctionResponse> {
        let unit = management.unit.filter(|unit| self.shared.device.unit(*unit).is_some());
        let needs_unit = matches!(
            management.function,
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET | function::LOGICAL_UNIT_RESET
        );
        if needs_unit && unit.is_none() {
            return Err(FunctionResponse::LunDoesNotExist);
        }
        let session = management.session;
        let own = self.shared.sessions.get(&session).map(|session| session.nexus);
        let own = own.ok_or(FunctionResponse::Rejected)?;
        let tasks = match management.function {
            function::ABORT_TASK => {
                let found = self.find_in_session(session, management.ref_tag);
                let key = found.ok_or(FunctionResponse::TaskDoesNotExist)?;
                self.abort_tasks(|_, other, _| other == key)
            }
            function::ABORT_TASK_SET => {
                self.abort_tasks(|of, _, task| of == session && Some(task.unit()) == unit)
            }
            function::CLEAR_TASK_SET => {
                let tasks = self.abort_tasks(|_, _, task| Some(task.unit()) == unit);
                let others: Vec<_> = self.sessions().map(|session| session.nexus).collect();
                for nexus in others.into_iter().filter(|nexus| *nexus != own) {
                    self.shared.device.tasks_cleared(unit.unwrap_or(0), nexus);
                }
                tasks
            }
            function::LOGICAL_UNIT_RESET => {
                let tasks =
                    self.abort_tasks(|_, _, task| unit.is_some_and(|unit| task.touches(unit)));
                self.shared.device.reset_unit(unit.unwrap_or(0));
                tasks
            }
            function::TARGET_WARM_RESET | function::TARGET_COLD_RESET => {
                let tasks = self.abort_tasks(|_, _, _| true);
                for unit in self.shared.device.unit_numbers() {
                    self.shared.device.reset_unit(unit);
                }
                tasks
            }
            function::TASK_REASSIGN => return Err(FunctionResponse::ReassignNotSupported),
            _ => return Err(FunctionResponse::NotSupported),
        };
        Ok(tasks)
    }

    /// Aborts tasks. Returns those whose I/Os have not ended. `is_meant` gets session, key and task.
    fn abort_tasks(
        &mut self,
        is_meant: impl Fn(SessionId, TaskKey, &Task) -> bool,
    ) -> Vec<TaskKey> {
        let Self { shared, links, .. } = self;
        let mut left = Vec::new();
        for link in links.iter_mut().flatten() {
            let session = link.session();
            let tasks = link.table.iter();
            let meant = tasks.filter(|entry| is_meant(session, entry.key, &entry.task));
            for key in meant.map(|entry| entry.key).collect::<Vec<_>>() {
                link.abort(key, shared);
                if link.table.get_mut(key).is_some() {
                    left.push(key);
                }
            }
        }
        left
    }

    /// Aborts the commands of the nexuses whose registrations a PREEMPT AND ABORT removed; its status waits for them. One of these may be
    /// an EXTENDED COPY that was sent to another unit but writes to this unit. The status also waits for the commands of nexuses that have
    /// ended: an initiator that lost its connection may still have writes at the bdev.
    pub(super) fn abort_preempted(&mut self, by: TaskKey, preempted: &Preempted) {
        let mut stay: Vec<NexusId> = self.sessions().map(|session| session.nexus).collect();
        stay.retain(|nexus| !preempted.nexuses.contains(nexus));
        let is_meant = |task: &Task| task.touches(preempted.unit) && !stay.contains(&task.nexus());
        let tasks = self.abort_tasks(|_, _, task| is_meant(task));
        self.waits.push(Wait { waiter: Waiter::Preempt(by), tasks });
    }

    fn find_in_session(&self, session: SessionId, itt: u32) -> Option<TaskKey> {
        let links = self.links.iter().flatten().filter(|link| link.session() == session);
        links.into_iter().find_map(|link| link.table.find(itt))
    }

    /// Sends the answers whose tasks have all ended.
    pub(super) fn settle_waits(&mut self) {
        let links = &mut self.links;
        let mut done = Vec::new();
        self.waits.retain_mut(|wait| {
            wait.tasks.retain(|key| {
                let link = links.get_mut(index(split(*key).0)).and_then(Option::as_mut);
                link.is_some_and(|link| link.table.get_mut(*key).is_some())
            });
            let is_done = wait.tasks.is_empty();
            if is_done {
                done.push(wait.waiter);
            }
            !is_done
        });
        for waiter in done {
            self.answer(waiter, FunctionResponse::Complete);
        }
    }

    /// Rejects the functions that have waited long enough.
    pub(super) fn expire_waits(&mut self) {
        let now_ns = self.shared.now_ns;
        let mut late = Vec::new();
        self.waits.retain(|wait| {
            let is_late = wait.waiter.is_late(now_ns);
            if is_late {
                late.push(wait.waiter);
            }
            !is_late
        });
        for waiter in late {
            self.answer(waiter, FunctionResponse::Rejected);
        }
    }

    /// Drops the answers of a connection that has ended.
    pub(super) fn forget_waits(&mut self, link: u32) {
        self.waits.retain(|wait| wait.waiter.link() != link);
    }

    /// Answers a function, or lets a PREEMPT AND ABORT end with its own status.
    fn answer(&mut self, waiter: Waiter, response: FunctionResponse) {
        let Self { shared, links, .. } = self;
        let Some(Some(link)) = links.get_mut(index(waiter.link())) else { return };
        match waiter {
            Waiter::Function { itt, .. } => link.managed(itt, response, shared),
            Waiter::Preempt(key) => {
                link.resume(key, None, shared);
            }
        }
    }
}
