//! The connections: controllers, and the I/O queues distributed over them.

use crate::plan::Plan;
use drivebay_nvme_driver::{Controller, Error, Namespace, Options, Queue};

/// I/O queues of one controller.
const QUEUES_MAX: usize = 64;

/// All connections. Each controller also has a connection for its admin queue.
pub(crate) struct Links {
    /// The controllers live as long as their queues are in use.
    _controllers: Vec<Controller>,
    queues: Vec<Queue>,
    pub(crate) namespace: Namespace,
    /// I/O in flight on each queue: the requested depth, or less if the queues are smaller.
    pub(crate) depth: u16,
}

impl Links {
    pub(crate) fn open(plan: &Plan) -> Result<Self, String> {
        let context = |error: Error| format!("{} at {}: {error}", plan.nqn, plan.address);
        let mut controllers = Vec::new();
        let mut queues = Vec::new();
        let mut namespace = None;
        let mut depth = plan.depth;
        while queues.len() < plan.all_connections() {
            let wanted = (plan.all_connections() - queues.len()).min(QUEUES_MAX);
            let options = Options::new(plan.address, &plan.nqn);
            let mut controller = Controller::connect(options).map_err(context)?;
            let wanted = u16::try_from(wanted).unwrap_or(u16::MAX);
            let granted = controller.set_queues(wanted).map_err(context)?.min(wanted);
            if granted == 0 {
                return Err(format!("{}: the target grants no I/O queue", plan.nqn));
            }
            // One entry of a queue always stays empty.
            depth = depth.min(controller.cap().mqes);
            for qid in 1..=granted {
                queues.push(controller.io_queue(qid, depth + 1).map_err(context)?);
            }
            if namespace.is_none() {
                namespace = Some(controller.namespace(plan.nsid).map_err(context)?);
            }
            controllers.push(controller);
        }
        let namespace = namespace.ok_or("no connection was requested")?;
        Ok(Self { _controllers: controllers, queues, namespace, depth })
    }

    /// Removes and returns the queues that get I/O. These are the last queues, so that the target serves the idle queues first.
    pub(crate) fn busy(&mut self, plan: &Plan) -> Result<Vec<Queue>, String> {
        let idle = self.queues.len().saturating_sub(plan.connections);
        let blocks = plan.io_size / self.namespace.block_size;
        let fits = plan.io_size.is_multiple_of(self.namespace.block_size)
            && u64::from(blocks) <= self.namespace.num_blocks;
        if !fits {
            let block_size = self.namespace.block_size;
            return Err(format!("--io-size: a multiple of {block_size}, at most the namespace"));
        }
        Ok(self.queues.split_off(idle))
    }
}
