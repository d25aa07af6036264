//! Task management. RFC 7143, section 11.5; SAM-5, section 7.
//!
//! What waits (for data, for memory, for its turn) is aborted at once. What is at the bdev cannot be called back: the answer waits for it, but
//! not for ever. After [`PATIENCE_NS`] the function is rejected, and the tasks end silently whenever their I/Os do.

use super::session::SessionId;
use super::{Backend, Node, index};
use drivebay_scsi::{Task, TaskKey};
use drivebay_spec_iscsi::pdu::{FunctionResponse, function};

/// How long an answer waits for I/Os at the bdev, in nanoseconds.
const PATIENCE_NS: u64 = 5_000_000_000;

/// A task management function under way.
#[derive(Debug)]
pub(super) struct Management {
    link: u32,
    session: SessionId,
    itt: u32,
    function: u8,
    unit: Option<u16>,
    ref_tag: u32,
    deadline_ns: u64,
    /// Aborted tasks whose I/Os have not ended.
    waits: Vec<TaskKey>,
}

impl Management {
    pub(super) fn new(
        link: u32,
        session: SessionId,
        itt: u32,
        function: u8,
        unit: Option<u16>,
        ref_tag: u32,
        now_ns: u64,
    ) -> Self {
        let deadline_ns = now_ns.saturating_add(PATIENCE_NS);
        Self { link, session, itt, function, unit, ref_tag, deadline_ns, waits: Vec::new() }
    }
}

impl<B: Backend> Node<B> {
    /// Begins a function.
    pub(super) fn manage(&mut self, mut management: Management) {
        let begun = self.begin_management(&mut management);
        if begun == FunctionResponse::Complete {
            self.managements.push(management);
        } else {
            self.answer(management.link, management.itt, begun);
        }
    }

    fn begin_management(&mut self, management: &mut Management) -> FunctionResponse {
        let unit = management.unit.filter(|unit| self.shared.device.unit(*unit).is_some());
        let needs_unit = matches!(
            management.function,
            function::ABORT_TASK_SET | function::CLEAR_TASK_SET | function::LOGICAL_UNIT_RESET
        );
        if needs_unit && unit.is_none() {
            return FunctionResponse::LunDoesNotExist;
        }
        let own = self.shared.sessions.get(&management.session).map(|session| session.nexus);
        let Some(own) = own else { return FunctionResponse::Rejected };
        match management.function {
            function::ABORT_TASK => {
                let found = self.find_in_session(management.session, management.ref_tag);
                let Some(key) = found else { return FunctionResponse::TaskDoesNotExist };
                management.waits = self.abort_tasks(|_, other, _| other == key);
            }
            function::ABORT_TASK_SET => {
                let session = management.session;
                management.waits =
                    self.abort_tasks(|of, _, task| of == session && Some(task.unit()) == unit);
            }
            function::CLEAR_TASK_SET => {
                management.waits = self.abort_tasks(|_, _, task| Some(task.unit()) == unit);
                let others: Vec<_> = self.sessions().map(|session| session.nexus).collect();
                for nexus in others.into_iter().filter(|nexus| *nexus != own) {
                    self.shared.device.tasks_cleared(unit.unwrap_or(0), nexus);
                }
            }
            function::LOGICAL_UNIT_RESET => {
                management.waits =
                    self.abort_tasks(|_, _, task| unit.is_some_and(|unit| task.touches(unit)));
                self.shared.device.reset_unit(unit.unwrap_or(0));
            }
            function::TARGET_WARM_RESET | function::TARGET_COLD_RESET => {
                management.waits = self.abort_tasks(|_, _, _| true);
                for unit in self.shared.device.unit_numbers() {
                    self.shared.device.reset_unit(unit);
                }
            }
            function::TASK_REASSIGN => return FunctionResponse::ReassignNotSupported,
            _ => return FunctionResponse::NotSupported,
        }
        FunctionResponse::Complete
    }

    /// Aborts tasks; returns those whose I/Os have not ended. `is_meant` gets session, key and task.
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

    /// Aborts the commands of nexuses that PREEMPT AND ABORT has put out. An EXTENDED COPY that was sent to another unit must
    /// not go on writing to this one.
    pub(super) fn abort_preempted(&mut self) {
        for (nexus, unit) in self.shared.device.take_preempted() {
            let session = self.sessions().find(|session| session.nexus == nexus);
            if let Some(session) = session.map(|session| session.id) {
                self.abort_tasks(|of, _, task| of == session && task.touches(unit));
            }
        }
    }

    fn find_in_session(&self, session: SessionId, itt: u32) -> Option<TaskKey> {
        let links = self.links.iter().flatten().filter(|link| link.session() == session);
        links.into_iter().find_map(|link| link.table.find(itt))
    }

    /// Answers the functions whose tasks have all ended.
    pub(super) fn settle_managements(&mut self) {
        let links = &mut self.links;
        let mut done = Vec::new();
        self.managements.retain_mut(|management| {
            management.waits.retain(|key| {
                let (id, _) = super::table::split(*key);
                let link = links.get_mut(index(id)).and_then(Option::as_mut);
                link.is_some_and(|link| link.table.get_mut(*key).is_some())
            });
            let is_done = management.waits.is_empty();
            if is_done {
                done.push((management.link, management.itt));
            }
            !is_done
        });
        for (link, itt) in done {
            self.answer(link, itt, FunctionResponse::Complete);
        }
    }

    /// Rejects the functions whose time is over.
    pub(super) fn expire_managements(&mut self) {
        let now_ns = self.shared.now_ns;
        let mut late = Vec::new();
        self.managements.retain(|management| {
            let is_late = management.deadline_ns <= now_ns;
            if is_late {
                late.push((management.link, management.itt));
            }
            !is_late
        });
        for (link, itt) in late {
            self.answer(link, itt, FunctionResponse::Rejected);
        }
    }

    /// A connection is gone, and nobody waits for the answers on it.
    pub(super) fn forget_managements(&mut self, link: u32) {
        self.managements.retain(|management| management.link != link);
    }

    fn answer(&mut self, link: u32, itt: u32, response: FunctionResponse) {
        let Self { shared, links, .. } = self;
        if let Some(Some(link)) = links.get_mut(index(link)) {
            link.managed(itt, response, shared);
        }
    }
}
