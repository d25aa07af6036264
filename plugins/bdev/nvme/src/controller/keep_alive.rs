//! Keep alives: one task for each admin queue, from the moment the controller is ready. `[app thread]`

use std::rc::Rc;
use std::time::Duration;

use drivebay_nvme_driver::spec::identify::{self, ctratt};
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

impl KeepAlive {
    /// Stops sending keep alives. After its timeout, the target then closes connections that it still considers open.
    pub(super) fn stop(&mut self) {
        if let Some(task) = &mut self.0 {
            task.cancel();
        }
    }
}

impl Drop for KeepAlive {
    fn drop(&mut self) {
        self.stop();
    }
}

/// How long a controller may take to notice that its host is gone; `None` = forever. The controller rounds the host's keep alive timeout
/// up to a multiple of its granularity. With traffic based keep alive it checks once per timeout whether a command has arrived, so it may
/// take two timeouts. NVMe Base 2.0, section 3.9.
pub(super) fn notices_after(kato_ms: u32, data: &identify::Controller) -> Option<Duration> {
    let granularity_ms = u64::from(data.kas.max(1)) * 100;
    let kato_ms = u64::from(kato_ms).next_multiple_of(granularity_ms);
    let by_traffic = data.ctratt & ctratt::TRAFFIC_BASED_KEEP_ALIVE != 0;
    (kato_ms > 0).then(|| Duration::from_millis(if by_traffic { kato_ms * 2 } else { kato_ms }))
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
