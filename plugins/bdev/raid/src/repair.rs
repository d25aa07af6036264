//! Repairs of blocks of an online array: a queue with a limit, and one task that does its repairs.

use crate::shared::Shared;
use crate::{arrays, copy};
use drivebay_sdk::App;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::task;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// What is wrong with blocks of an array.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The member with this serial number cannot read the blocks.
    Unreadable(u64),
    /// A member refused to change the blocks, and other members may have changed them.
    Torn,
}

/// Maximum number of waiting repairs of an array.
const WAITING_MAX: usize = 64;

/// The repairs of an array that wait.
#[derive(Debug, Default)]
pub(crate) struct Repairs(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Fault, Range)>,
    /// Whether a task does the repairs of the queue.
    is_running: bool,
}

impl Repairs {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a repair waits or runs.
    pub(crate) fn is_busy(&self) -> bool {
        self.queue().is_running
    }

    fn next(&self) -> Option<(Fault, Range)> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        queue.is_running = next.is_some();
        next
    }
}

/// Asks for a repair of blocks. Returns whether the queue has room for it. `[any thread]`
pub(crate) fn ask(shared: &Arc<Shared>, fault: Fault, blocks: Range) -> bool {
    {
        let mut queue = shared.repairs.queue();
        if queue.waiting.contains(&(fault, blocks)) {
            return true;
        }
        if queue.waiting.len() >= WAITING_MAX {
            return false;
        }
        queue.waiting.push_back((fault, blocks));
        if std::mem::replace(&mut queue.is_running, true) {
            return true;
        }
    }
    let worker = Worker { shared: Arc::clone(shared), current: None, has_ended: false };
    match task::spawn_on_app("raid repair", async move |app: &App| worker.run(app).await) {
        Ok(task) => {
            task.detach();
            true
        }
        Err(_) => false,
    }
}

/// The task that does the repairs of the queue. If it is dropped before the queue is empty, because the app thread runs too
/// many tasks or has ended, each repair that remains ends in `give_up`.
struct Worker {
    shared: Arc<Shared>,
    /// The running repair.
    current: Option<(Fault, Range)>,
    has_ended: bool,
}

impl Worker {
    /// Repairs until nothing waits.
    async fn run(mut self, app: &App) {
        while let Some((fault, blocks)) = self.shared.repairs.next() {
            self.current = Some((fault, blocks));
            if !repair(app, &self.shared, fault, blocks).await {
                give_up(&self.shared, fault, blocks);
            }
            self.current = None;
        }
        self.has_ended = true;
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // After its end, the queue may belong to another worker.
        if !self.has_ended {
            let queue = std::mem::take(&mut *self.shared.repairs.queue());
            let given_up = self.current.take().into_iter().chain(queue.waiting);
            given_up.for_each(|(fault, blocks)| give_up(&self.shared, fault, blocks));
        }
    }
}

/// Repairs blocks. Returns whether they are good now.
async fn repair(app: &App, shared: &Arc<Shared>, fault: Fault, blocks: Range) -> bool {
    let Some(array) = arrays::of_shared(shared) else { return false };
    let layout = shared.layout();
    let has_parity = layout.level().parities() > 0;
    let rows = copy::whole_rows(&layout, blocks);
    let repaired = copy::with_held(app, &array, blocks, async || match fault {
        Fault::Unreadable(_) if has_parity && !shared.may_compute(rows) => {
            Err(Error::new(errno::EIO, "a crash interrupted a write of their stripes"))
        }
        Fault::Unreadable(serial) => copy::to_member(&array, serial, blocks, &mut None).await,
        Fault::Torn => copy::make_equal(&array, blocks).await,
    });
    let Range { lba, nblocks } = blocks;
    match repaired.await {
        Ok(()) => info!("array {}: {nblocks} blocks from {lba} were repaired", array.name),
        Err(error) => {
            warn!("array {}: {nblocks} blocks from {lba} are not repaired: {error}", array.name);
            return false;
        }
    }
    true
}

/// Gives a repair up. Blocks whose copies may differ keep their marks, so that `intent` makes them equal later.
fn give_up(shared: &Shared, fault: Fault, blocks: Range) {
    if let (Fault::Torn, Some(marks)) = (fault, &shared.marks) {
        marks.set_torn(blocks);
    }
}
