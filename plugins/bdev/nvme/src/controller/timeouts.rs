//! Commands that take too long. First the command is aborted. When it is still there after another timeout, the controller is reset.
//! A controller that does not come back is removed by its limits. `[app thread]`

use std::rc::Rc;

use drivebay_nvme_driver::spec::admin::Abort;
use drivebay_sdk::prelude::*;

use super::Controller;
use crate::admin::{Admin, Data};
use crate::options::TimeoutAction;
use crate::path::Overdue;

/// Bit 0 of an Abort's result: the controller did not abort the command. NVMe Base 2.0, section 5.1.
const NOT_ABORTED: u32 = 1;

impl Controller {
    /// Does what `action_on_timeout` says with each command that takes too long.
    pub(super) async fn watch_timeouts(self: Rc<Self>, admin: Rc<Admin>) {
        loop {
            let mut overdue = Vec::new();
            let some_are = self.path.events.until(|| {
                overdue = self.path.take_overdue();
                !overdue.is_empty()
            });
            some_are.await;
            for command in overdue {
                if command.generation == self.generation.get() && !admin.is_lost() {
                    self.is_overdue(&admin, command).await;
                }
            }
        }
    }

    async fn is_overdue(&self, admin: &Admin, command: Overdue) {
        let Overdue { generation, qid, cid, times } = command;
        let what = format!("command {cid} of queue {qid} took longer than timeout_us");
        match self.settings.timeouts.action {
            TimeoutAction::None if times > 1 => {}
            TimeoutAction::None => warn!("{}: {what}", self.name),
            // A command that is still there after another timeout has the controller reset.
            TimeoutAction::Abort if times == 1 => {
                let result = match admin.abort(qid, cid).await {
                    Ok(true) => "it is aborted".to_owned(),
                    Ok(false) => "the controller did not abort it".to_owned(),
                    Err(error) => error.to_string(),
                };
                warn!("{}: {what}; {result}", self.name);
            }
            TimeoutAction::Abort | TimeoutAction::Reset => self.path.report_lost(generation, what),
        }
    }
}

impl Admin {
    /// Aborts a command. Returns false when the controller did not abort it, for example because the command has just ended.
    async fn abort(&self, sqid: u16, cid: u16) -> Result<bool> {
        let command = Abort { sqid, cid }.to_command();
        let answer = self.run("Abort", command, Data::None).await?.ok("Abort")?;
        Ok(answer.completion.dw0() & NOT_ABORTED == 0)
    }
}
