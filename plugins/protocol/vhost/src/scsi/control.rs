//! The control queue: task management. A target cannot abort an I/O at the bdev, so the answer waits until that I/O has ended, but
//! not forever: after a time limit the function fails, and the driver can try a stronger one.

use super::service::Service;
use crate::device::{Taken, finish};
use drivebay_scsi::TaskKey;
use drivebay_sdk::{thread, tracing};
use drivebay_spec_scsi::lun;
use drivebay_spec_vhost::scsi::{Address, CONTROL_LEN, Control, Function, response};
use std::rc::Rc;

/// How long a function waits for its commands, in nanoseconds.
const LIMIT_NS: u64 = 10_000_000_000;

/// A task management function that waits for commands to end.
pub(super) struct Management {
    request: Taken,
    waits: Vec<TaskKey>,
    /// When it fails, on the host's clock in nanoseconds.
    deadline_ns: u64,
}

impl Service {
    /// Serves a request of the control queue.
    pub(super) fn control(self: &Rc<Self>, request: Taken) {
        let mut bytes = [0; CONTROL_LEN];
        let len = request.chain.readable_len().min(CONTROL_LEN as u64);
        let bytes = bytes.get_mut(..usize::try_from(len).unwrap_or(0)).unwrap_or_default();
        let parsed = if request.chain.read(0, bytes) { Control::parse(bytes) } else { None };
        match parsed {
            Some(Control::Manage { function, address, tag }) => {
                self.manage(request, function, address, tag);
            }
            // The device has no asynchronous notifications, so the mask of events is empty.
            Some(Control::Notifications) => give_back(request, &[0, 0, 0, 0, response::OK]),
            None => give_back(request, &[response::FUNCTION_REJECTED]),
        }
    }

    fn manage(
        self: &Rc<Self>,
        request: Taken,
        function: Option<Function>,
        address: Option<Address>,
        tag: u64,
    ) {
        let target = address.and_then(|address| self.target(address.target));
        let (Some(target), Some(address)) = (target, address) else {
            return give_back(request, &[response::BAD_TARGET]);
        };
        let Some(function) = function else {
            return give_back(request, &[response::FUNCTION_REJECTED]);
        };
        if lun::decode(address.lun) != Some(0) && function != Function::NexusReset {
            return give_back(request, &[response::INCORRECT_LUN]);
        }
        let is_one = matches!(function, Function::AbortTask | Function::QueryTask);
        let meant = self.commands.borrow().keys(|command| {
            Rc::ptr_eq(&command.target, &target) && (!is_one || command.tag == tag)
        });
        if matches!(function, Function::QueryTask | Function::QueryTaskSet) {
            let found = if meant.is_empty() { response::OK } else { response::FUNCTION_SUCCEEDED };
            return give_back(request, &[found]);
        }
        if matches!(function, Function::UnitReset | Function::NexusReset) {
            target.device.borrow_mut().reset_unit(0);
        }
        for &key in &meant {
            if let Some(command) = self.commands.borrow_mut().get_mut(key) {
                command.abort();
            }
            self.advance(key);
        }
        let deadline_ns = thread::now_ns().saturating_add(LIMIT_NS);
        self.managements.borrow_mut().push(Management { request, waits: meant, deadline_ns });
    }

    /// Whether a function has no command to wait for, or no time left.
    pub(super) fn can_settle(&self) -> bool {
        let mut commands = self.commands.borrow_mut();
        let mut has_ended = |key: TaskKey| commands.get_mut(key).is_none();
        let mut can = |one: &Management| {
            one.waits.iter().all(|&key| has_ended(key)) || one.deadline_ns <= thread::now_ns()
        };
        self.managements.borrow().iter().any(&mut can)
    }

    /// When the first function fails, on the host's clock in nanoseconds; `u64::MAX` when none waits.
    pub(crate) fn next_ns(&self) -> u64 {
        let managements = self.managements.borrow();
        managements.iter().map(|one| one.deadline_ns).min().unwrap_or(u64::MAX)
    }

    /// Answers the functions whose commands ended in the last round, or whose time is over. Returns whether there was one. The round
    /// has handed back the ended commands since then, because the driver must see their end before the answer.
    pub(super) fn settle_managements(&self) -> bool {
        let mut managements = self.managements.borrow_mut();
        if managements.is_empty() {
            return false;
        }
        let before = managements.len();
        let mut left = Vec::new();
        for mut management in managements.drain(..) {
            let mut commands = self.commands.borrow_mut();
            management.waits.retain(|&key| commands.get_mut(key).is_some());
            if management.waits.is_empty() {
                give_back(management.request, &[response::OK]);
            } else if management.deadline_ns <= thread::now_ns() {
                let (count, sec) = (management.waits.len(), LIMIT_NS / 1_000_000_000);
                tracing::warn!(
                    "a task management function fails: {count} commands have not ended in {sec} s"
                );
                give_back(management.request, &[response::FAILURE]);
            } else {
                left.push(management);
            }
        }
        *managements = left;
        managements.len() < before
    }
}

/// Answers a request of the control queue.
fn give_back(request: Taken, answer: &[u8]) {
    let is_written = request.chain.write(0, answer);
    finish(request, if is_written { answer.len() as u64 } else { 0 });
}
