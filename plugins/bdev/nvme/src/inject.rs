//! Errors that an operator injects into a controller's commands, for tests: `bdev_nvme_add_error_injection`.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use drivebay_nvme_driver::spec::Status as NvmeStatus;

/// What happens to the next commands with one opcode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Injection {
    pub(crate) opcode: u8,
    /// The status that the commands end with.
    pub(crate) status: NvmeStatus,
    /// How many more commands end with this status.
    pub(crate) count: u32,
    /// `Some`: the plugin does not send the commands, and ends them after this time. `None`: it sends them, and replaces the status of
    /// the answer.
    pub(crate) instead: Option<Duration>,
}

/// The injections of one kind of queue of a controller.
#[derive(Debug, Default)]
pub(crate) struct Injections {
    has_any: AtomicBool,
    list: Mutex<Vec<Injection>>,
}

impl Injections {
    /// Adds an injection. It replaces an earlier injection for the same opcode. `[app thread]`
    pub(crate) fn add(&self, injection: Injection) {
        let mut list = self.lock();
        list.retain(|other| other.opcode != injection.opcode);
        list.push(injection);
        self.has_any.store(true, Ordering::Relaxed);
    }

    /// Removes the injection of an opcode. `[app thread]`
    pub(crate) fn remove(&self, opcode: u8) {
        let mut list = self.lock();
        list.retain(|other| other.opcode != opcode);
        self.has_any.store(!list.is_empty(), Ordering::Relaxed);
    }

    /// The status and the delay of a command that is not sent; `None` = send the command. `[any thread]`
    pub(crate) fn instead(&self, opcode: u8) -> Option<(NvmeStatus, Duration)> {
        let injection = self.take(opcode, |injection| injection.instead.is_some())?;
        Some((injection.status, injection.instead?))
    }

    /// The status that replaces the controller's status of a command that was sent; `None` = the command keeps the controller's status.
    /// `[any thread]`
    pub(crate) fn after(&self, opcode: u8) -> Option<NvmeStatus> {
        self.take(opcode, |injection| injection.instead.is_none()).map(|injection| injection.status)
    }

    fn take(&self, opcode: u8, is_it: impl Fn(&Injection) -> bool) -> Option<Injection> {
        if !self.has_any.load(Ordering::Relaxed) {
            return None;
        }
        let mut list = self.lock();
        let mut all = list.iter_mut();
        let found = all.find(|other| other.opcode == opcode && other.count > 0 && is_it(other))?;
        found.count -= 1;
        let found = *found;
        list.retain(|other| other.count > 0);
        self.has_any.store(!list.is_empty(), Ordering::Relaxed);
        Some(found)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Injection>> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READ: u8 = 2;

    fn injection(count: u32, instead: Option<Duration>) -> Injection {
        Injection { opcode: READ, status: NvmeStatus::INTERNAL_ERROR, count, instead }
    }

    #[test]
    fn as_many_commands_with_the_opcode_fail_as_were_asked_for() {
        let injections = Injections::default();
        assert_eq!(injections.after(READ), None);
        injections.add(injection(2, None));
        assert_eq!((injections.after(READ + 1), injections.instead(READ)), (None, None));
        let failed: Vec<bool> = (0..3).map(|_| injections.after(READ).is_some()).collect();
        assert_eq!(failed, [true, true, false]);
    }

    #[test]
    fn a_second_injection_of_an_opcode_takes_the_place_of_the_first_and_can_be_removed() {
        let injections = Injections::default();
        let delay = Duration::from_micros(5);
        injections.add(injection(9, None));
        injections.add(injection(9, Some(delay)));
        assert_eq!(injections.after(READ), None);
        assert_eq!(injections.instead(READ), Some((NvmeStatus::INTERNAL_ERROR, delay)));
        injections.remove(READ);
        assert_eq!(injections.instead(READ), None);
    }
}
