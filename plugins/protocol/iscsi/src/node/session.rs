//! A session: one initiator port's connections, and the order of its commands. RFC 7143, sections 4.2.2 and 4.4.3.

use super::Established;
use drivebay_scsi::NexusId;
use drivebay_spec_iscsi::is_before;

/// The identifier of a session within the plugin: its TSIH.
pub type SessionId = u16;

/// A session.
#[derive(Debug)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// The initiator's name.
    pub initiator: String,
    /// The nexus.
    pub nexus: NexusId,
    /// Its connections.
    pub links: Vec<u32>,
    exp_cmd_sn: u32,
    /// Maximum number of commands in progress.
    depth: u32,
    /// Commands in progress.
    tasks: u32,
    /// The largest MaxCmdSN sent so far.
    max_cmd_sn: u32,
}

/// The place of a command in the order of CmdSN.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// The command is the next one.
    Next,
    /// Commands on other connections come first.
    Early,
    /// The command is outside of the window, and is ignored.
    Outside,
}

impl Session {
    pub(super) fn new(new: &Established, nexus: NexusId) -> Self {
        Self {
            id: new.session,
            initiator: new.initiator.clone(),
            nexus,
            links: Vec::new(),
            exp_cmd_sn: new.exp_cmd_sn,
            depth: new.depth.max(1),
            tasks: 0,
            max_cmd_sn: new.exp_cmd_sn.wrapping_add(new.depth.max(1) - 1),
        }
    }

    /// ExpCmdSN and MaxCmdSN for the next response. MaxCmdSN never decreases.
    pub fn window(&mut self) -> (u32, u32) {
        let free = self.depth.saturating_sub(self.tasks);
        let max = self.exp_cmd_sn.wrapping_add(free).wrapping_sub(1);
        if is_before(self.max_cmd_sn, max) {
            self.max_cmd_sn = max;
        }
        (self.exp_cmd_sn, self.max_cmd_sn)
    }

    /// Returns the place of a command in the order. A command that is not for immediate delivery uses up its number.
    pub fn order(&mut self, cmd_sn: u32, immediate: bool) -> Order {
        if immediate {
            return Order::Next;
        }
        if is_before(cmd_sn, self.exp_cmd_sn) || is_before(self.max_cmd_sn, cmd_sn) {
            return Order::Outside;
        }
        if cmd_sn != self.exp_cmd_sn {
            return Order::Early;
        }
        self.exp_cmd_sn = self.exp_cmd_sn.wrapping_add(1);
        Order::Next
    }

    /// Whether another command for immediate delivery may begin.
    pub fn has_room(&self) -> bool {
        self.tasks < self.depth.saturating_mul(2)
    }

    /// Counts a command that begins.
    pub fn begin(&mut self) {
        self.tasks += 1;
    }

    /// Counts a command that ends.
    pub fn end(&mut self) {
        self.tasks = self.tasks.saturating_sub(1);
    }
}
