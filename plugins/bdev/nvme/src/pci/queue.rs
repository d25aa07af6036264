//! An I/O queue of a controller on PCIe. The app thread makes and deletes it, the channel's thread uses it.

use std::sync::Arc;

use drivebay_nvme_driver::pcie::{self, Memory as _, Ring, commands};
use drivebay_nvme_driver::spec::Command;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{task, worker};

use super::{Function, Memory};
use crate::admin::Data;
use crate::app;
use crate::io::Request;
use crate::path::Ticket;

/// Most entries in an I/O queue. Each has a page for the list of its data.
pub(crate) const ENTRIES: u16 = 128;

/// A queue that the controller knows. Dropping it has it deleted.
#[derive(Debug)]
pub(crate) struct IoQueue {
    held: Option<Held>,
}

/// What goes when the controller has forgotten the queue. The ticket goes last.
#[derive(Debug)]
struct Held {
    memory: pcie::Queue<Memory>,
    function: Arc<Function>,
    ticket: Ticket,
}

/// Makes the queue of a ticket. `[any lightweight thread]`
pub(crate) async fn open(ticket: Ticket, function: Arc<Function>, entries: u16) -> Result<IoQueue> {
    let (of_function, qid) = (Arc::clone(&function), ticket.qid);
    let entries = entries.min(ENTRIES);
    let memory = worker::run("nvme queue", move || of_function.memory(qid, entries)).await??;
    let held = Held { memory, function, ticket };
    // On a task of its own: when nobody waits for the queue any more, it is deleted all the same.
    task::spawn_on_app("nvme queue", async move |_: &App| create(held).await)?.await?
}

/// `[app thread]`
async fn create(held: Held) -> Result<IoQueue> {
    let (qid, entries) = (held.memory.qid, held.memory.entries);
    let function = Arc::clone(&held.function);
    let (vector, _) = function.vector(qid).ok_or_else(Error::no_such_device)?;
    let (sq, cq) = (held.memory.sq.iova(), held.memory.cq.iova());
    let what = "Create I/O Completion Queue";
    let command = commands::create_completion_queue(qid, entries, vector);
    let mut created = run(&function, what, command, Data::Queue(cq)).await;
    if created.is_ok() {
        let what = "Create I/O Submission Queue";
        let command = commands::create_submission_queue(qid, entries);
        created = run(&function, what, command, Data::Queue(sq)).await;
    }
    let queue = IoQueue { held: Some(held) };
    // A queue that is half made is deleted.
    created.map(|()| queue)
}

/// `[app thread]`
async fn delete(held: Held) {
    let Held { memory, function, ticket } = held;
    let qid = memory.qid;
    // A completion queue without a submission queue is deleted, too.
    let sq = run(
        &function,
        "Delete I/O Submission Queue",
        commands::delete_submission_queue(qid),
        Data::None,
    );
    let sq = sq.await;
    let cq = run(
        &function,
        "Delete I/O Completion Queue",
        commands::delete_completion_queue(qid),
        Data::None,
    );
    let cq = cq.await;
    if let Err(error) = &cq
        && !function.is_stopped()
    {
        debug!("{}: queue {qid}: {sq:?}, {}", function.address(), error.message());
        function.keep(memory);
    }
    drop(ticket);
}

async fn run(function: &Arc<Function>, what: &str, command: Command, data: Data) -> Result<()> {
    let admin = app::get()?.admin_of(function).filter(|_| !function.is_stopped());
    let admin = admin.ok_or_else(|| Error::new(errno::EIO, "the controller is not connected"))?;
    admin.run(what, command, data).await?.ok(what).map(drop)
}

impl IoQueue {
    /// The queue as a ring, and the guard that has it deleted.
    pub(crate) fn into_ring(mut self) -> Option<(Ring<Memory, Request>, RingGuard)> {
        let Held { memory, function, ticket } = self.held.take()?;
        Some((Ring::new(memory), RingGuard { function, ticket }))
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            discard(held);
        }
    }
}

/// What a queue needs besides its memory.
#[derive(Debug)]
pub(crate) struct RingGuard {
    pub(crate) function: Arc<Function>,
    pub(crate) ticket: Ticket,
}

impl RingGuard {
    /// Has the queue deleted, and then frees its memory.
    pub(crate) fn discard(self, memory: pcie::Queue<Memory>) {
        discard(Held { memory, function: self.function, ticket: self.ticket });
    }
}

fn discard(held: Held) {
    if held.function.is_stopped() {
        return;
    }
    let function = Arc::clone(&held.function);
    match task::spawn_on_app("nvme delete queue", async move |_: &App| delete(held).await) {
        Ok(task) => task.detach(),
        // Without an app thread the plugin has ended.
        Err(error) => {
            warn!("{error}");
            function.cut_off();
        }
    }
}
