//! The pollers of a thread.

use super::Thread;
use crate::reactor::poller::{Poller, State};
use crate::reactor::{current, doing};
use crate::{Error, Result};
use drivebay_plugin_api::bay_poller_ops;
use std::ffi::c_void;
use std::os::fd::RawFd;
use std::rc::Rc;

impl Thread {
    /// Adds a poller.
    ///
    /// # Safety
    /// As for [`Poller::new`].
    pub(crate) unsafe fn add_poller(
        &self,
        name: String,
        owner: usize,
        ops: bay_poller_ops,
        ctx: *mut c_void,
        period_us: u64,
    ) -> Result<u64> {
        let id = self.next_poller.replace(self.next_poller.get() + 1);
        // SAFETY: the caller guarantees this.
        let poller = unsafe { Poller::new(id, name, owner, ops, ctx, period_us) }?;
        doing::poller_added(self.shared.id, id, &poller.name);
        self.pollers.borrow_mut().push(Rc::new(poller));
        Ok(id)
    }

    fn poller(&self, id: u64) -> Result<Rc<Poller>> {
        let pollers = self.pollers.borrow();
        let alive =
            pollers.iter().find(|poller| poller.id == id && poller.state.get() != State::Gone);
        alive
            .map(Rc::clone)
            .ok_or_else(|| Error::new(libc::ENOENT, format!("this thread has no poller {id}")))
    }

    pub(crate) fn set_poller_state(&self, id: u64, state: State) -> Result<()> {
        let poller = self.poller(id)?;
        poller.state.set(state);
        if state == State::Gone {
            doing::poller_removed(self.shared.id, id);
            self.some_gone.set(true);
            let Some(reactor) = current() else { return Ok(()) };
            for (fd, _) in poller.wake_fds.take() {
                let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            }
        }
        Ok(())
    }

    pub(crate) fn watch_fd(&self, id: u64, fd: RawFd, events: u32) -> Result<()> {
        let poller = self.poller(id)?;
        let reactor = current().ok_or_else(|| Error::new(libc::EPERM, "not on a reactor"))?;
        let mut fds = poller.wake_fds.borrow_mut();
        if events == 0 {
            fds.retain(|&(other, _)| other != fd);
            let _ = reactor.sleeper.watch(fd, 0, self.shared.id);
            return Ok(());
        }
        reactor.sleeper.watch(fd, events, self.shared.id)?;
        fds.push((fd, events));
        Ok(())
    }

    pub(crate) fn pollers_of(&self, owner: usize) -> usize {
        self.pollers.borrow().iter().filter(|poller| poller.owner == owner).count()
    }

    pub(crate) fn drop_pollers_of(&self, owner: usize) {
        let ids: Vec<u64> = {
            let pollers = self.pollers.borrow();
            pollers.iter().filter(|poller| poller.owner == owner).map(|poller| poller.id).collect()
        };
        for id in ids {
            let _ = self.set_poller_state(id, State::Gone);
        }
    }
}
