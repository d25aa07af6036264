//! Repairs of blocks of an online array: a queue with a limit, and one task that works on it.

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
    /// The member with this serial number cannot read them.
    Unreadable(u64),
    /// A member refused to change them, and other members may have changed them.
    Torn,
}

/// Most repairs of an array that wait.
const WAITING_MAX: usize = 64;

/// The repairs of an array that wait.
#[derive(Debug, Default)]
pub(crate) struct Repairs(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    waiting: VecDeque<(Fault, Range)>,
    /// Whether a task works on the queue.
    is_running: bool,
}

impl Repairs {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next(&self) -> Option<(Fault, Range)> {
        let mut queue = self.queue();
        let next = queue.waiting.pop_front();
        queue.is_running = next.is_some();
        next
    }
}

/// Asks for a repair of blocks. Returns whether there was room for it. `[any thread]`
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
    let worker = Arc::clone(shared);
    match task::spawn_on_app("raid repair", async move |app: &App| run(app, &worker).await) {
        Ok(task) => {
            task.detach();
            true
        }
        Err(_) => {
            *shared.repairs.queue() = Queue::default();
            false
        }
    }
}

/// Repairs until nothing waits.
async fn run(app: &App, shared: &Arc<Shared>) {
    while let Some((fault, blocks)) = shared.repairs.next() {
        let Some(array) = arrays::of_shared(shared) else { continue };
        let repaired = copy::with_held(app, &array, blocks, async || match fault {
            Fault::Unreadable(serial) => copy::to_member(&array, serial, blocks, &mut None).await,
            Fault::Torn => copy::make_equal(&array, blocks).await,
        });
        let Range { lba, nblocks } = blocks;
        match repaired.await {
            Ok(()) => info!("array {}: {nblocks} blocks from {lba} were repaired", array.name),
            Err(error) => {
                warn!("array {}: {nblocks} blocks from {lba}: {error}", array.name);
            }
        }
    }
}
