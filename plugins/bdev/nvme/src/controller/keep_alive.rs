//! Keep alives: one task for each admin queue, from the moment the controller is ready. `[app thread]`

use std::rc::Rc;
use std::time::Duration;

use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task::{self, JoinHandle};

use crate::admin::Admin;

/// Sends keep alives until it is dropped.
#[derive(Debug)]
pub(crate) struct KeepAlive(Option<JoinHandle<()>>);

impl KeepAlive {
    /// Begins. `kato_ms`: the keep alive timeout that the controller was given, in milliseconds; 0 = none.
    pub(crate) fn start(admin: &Rc<Admin>, kato_ms: u32) -> Result<Self> {
        if kato_ms == 0 {
            return Ok(Self(None));
        }
        let period = Duration::from_millis(u64::from(kato_ms / 2).max(1));
        task::spawn("nvme keep alive", run(Rc::clone(admin), period)).map(|task| Self(Some(task)))
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        if let Some(task) = &mut self.0 {
            task.cancel();
        }
    }
}

/// Ends the connection when a keep alive is not answered.
async fn run(admin: Rc<Admin>, period: Duration) {
    loop {
        task::sleep(period).await;
        let answer = task::timeout(period * 2, admin.keep_alive()).await;
        if let Err(error) = answer.unwrap_or_else(|elapsed| Err(elapsed.into())) {
            return admin.give_up(format!("keep alive: {}", error.message()));
        }
    }
}
