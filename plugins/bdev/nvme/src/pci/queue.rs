//! An I/O queue of a controller on PCIe. The app thread creates and deletes the queue, and the channel's thread uses it.

use std::sync::Arc;

use drivebay_nvme_driver::pcie::{self, Memory as _, Ring, commands};
use drivebay_nvme_driver::spec::Command;
use drivebay_sdk::prelude::*;
use drivebay_sdk::runtime::{task, worker};

use super::{Function, Memory};
use crate::admin::{Answer, Data};
use crate::app;
use crate::io::Request;
use crate::path::Ticket;

/// The maximum number of entries in an I/O queue. Each entry has a page for the list of its data.
pub(crate) const ENTRIES: u16 = 128;

/// A queue that the controller knows. Dropping this value deletes the queue.
#[derive(Debug)]
pub(crate) struct IoQueue {
    held: Option<Held>,
}

/// What a queue holds until the controller has forgotten it. Fields are dropped in this order: a controller that may still know the
/// queue is stopped before the memory is freed, and the ticket goes last.
#[derive(Debug)]
struct Held {
    known: Known,
    memory: pcie::Queue<Memory>,
    function: Arc<Function>,
    ticket: Ticket,
}

/// Guards the queue's memory while the controller may use the queue: `Some` from the first command that creates the queue until the
/// controller has deleted it. Its drop while `Some` stops the controller, because the owner is about to free the memory.
#[derive(Debug)]
struct Known(Option<Arc<Function>>);

impl Known {
    /// The controller has forgotten the queue, or the queue's memory is kept.
    fn end(mut self) {
        self.0 = None;
    }
}

impl Drop for Known {
    fn drop(&mut self) {
        if let Some(function) = self.0.take().filter(|function| !function.is_stopped()) {
            warn!("{}: stopped, because an I/O queue could not be deleted", function.address());
            function.cut_off();
        }
    }
}

/// Creates the queue of a ticket. `[any lightweight thread]`
pub(crate) async fn open(ticket: Ticket, function: Arc<Function>, entries: u16) -> Result<IoQueue> {
    let (of_function, qid) = (Arc::clone(&function), ticket.qid);
    let entries = entries.min(ENTRIES);
    let memory = worker::run("nvme queue", move || of_function.memory(qid, entries)).await??;
    let held = Held { known: Known(None), memory, function, ticket };
    // A task of its own creates the queue, because the caller may stop waiting. In that case the task deletes the new queue.
    task::spawn_on_app("nvme queue", async move |_: &App| create(held).await)?.await?
}

/// `[app thread]`
async fn create(mut held: Held) -> Result<IoQueue> {
    let (qid, entries) = (held.memory.qid, held.memory.entries);
    let function = Arc::clone(&held.function);
    let (vector, _) = function.vector(qid).ok_or_else(Error::no_such_device)?;
    held.known = Known(Some(Arc::clone(&function)));
    let (sq, cq) = (held.memory.sq.iova(), held.memory.cq.iova());
    let what = "Create I/O Completion Queue";
    let command = commands::create_completion_queue(qid, entries, vector);
    let answer = run(&function, what, command, Data::Pages(cq, None)).await;
    let mut created = match answer.map(|answer| answer.ok(what)) {
        // The controller refused the queue, so it never accesses the memory.
        Ok(Err(error)) => {
            std::mem::replace(&mut held.known, Known(None)).end();
            return Err(error);
        }
        Ok(Ok(_)) => Ok(()),
        Err(error) => Err(error),
    };
    if created.is_ok() {
        let what = "Create I/O Submission Queue";
        let command = commands::create_submission_queue(qid, entries);
        let answer = run(&function, what, command, Data::Pages(sq, None)).await;
        created = answer.and_then(|answer| answer.ok(what)).map(drop);
    }
    // After an error, dropping `queue` deletes what was created.
    let queue = IoQueue { held: Some(held) };
    created.map(|()| queue)
}

/// `[app thread]`
async fn delete(held: Held) {
    // `known` comes last, so that it is dropped first if the task is canceled.
    let Held { memory, function, ticket, known } = held;
    let qid = memory.qid;
    let what = "Delete I/O Submission Queue";
    let sq = run(&function, what, commands::delete_submission_queue(qid), Data::None).await;
    // The completion queue may exist without the submission queue, so the result of the first command does not matter.
    let what = "Delete I/O Completion Queue";
    let cq = run(&function, what, commands::delete_completion_queue(qid), Data::None).await;
    match cq.and_then(|answer| answer.ok(what)) {
        Err(error) if !function.is_stopped() => {
            debug!("{}: queue {qid}: {sq:?}, {}", function.address(), error.message());
            function.keep(memory);
            known.end();
            // The controller may still have the queue. If a new queue used its identifier, it would reset the shadow doorbells, and the
            // controller would execute old commands again.
            ticket.retire();
        }
        _ => {
            drop(memory);
            known.end();
            drop(ticket);
        }
    }
}

/// Runs an admin command, and returns its answer, whatever its status is.
async fn run(function: &Function, what: &str, command: Command, data: Data) -> Result<Answer> {
    let admin = app::get()?.admin_of(function).filter(|_| !function.is_stopped());
    let admin = admin.ok_or_else(|| Error::new(errno::EIO, "the controller is not connected"))?;
    admin.run(what, command, data).await
}

impl IoQueue {
    /// The queue as a ring, and the guard that deletes it.
    pub(crate) fn into_ring(mut self) -> Option<(Ring<Memory, Request>, RingGuard)> {
        let Held { known, memory, function, ticket } = self.held.take()?;
        Some((Ring::new(memory), RingGuard { known, function, ticket }))
    }
}

impl Drop for IoQueue {
    fn drop(&mut self) {
        if let Some(held) = self.held.take() {
            discard(held);
        }
    }
}

/// The parameters of a queue besides its memory.
#[derive(Debug)]
pub(crate) struct RingGuard {
    known: Known,
    pub(crate) function: Arc<Function>,
    pub(crate) ticket: Ticket,
}

impl RingGuard {
    /// Deletes the queue, and then frees its memory.
    pub(crate) fn discard(self, memory: pcie::Queue<Memory>) {
        let Self { known, function, ticket } = self;
        discard(Held { known, memory, function, ticket });
    }
}

fn discard(held: Held) {
    if held.function.is_stopped() {
        return;
    }
    match task::spawn_on_app("nvme delete queue", async move |_: &App| delete(held).await) {
        Ok(task) => task.detach(),
        // Dropping `held` has stopped the controller.
        Err(error) => warn!("{error}"),
    }
}
