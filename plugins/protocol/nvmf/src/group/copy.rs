//! Copy: reads each source range into a buffer and writes it to its destination. NVM Command Set 1.0, section 3.2.2.
//!
//! A poll group has one buffer and executes one Copy at a time; other Copies wait in order. Each range begins in a later round than the
//! range before, so a long Copy does not delay other commands.

use super::namespace::Chores;
use super::path::{end, stop_status};
use super::{LocalNamespace, Nvmf, finish, reservation};
use crate::io::{self, CopyPlan};
use drivebay_sdk::bdev::{IoFlags, IoResult, Op, Range};
use drivebay_sdk::buf::{self, Buf};
use drivebay_sdk::nvmf::protocol::Request;
use drivebay_spec_nvme::Status;
use std::collections::VecDeque;
use std::rc::Rc;

/// The Copy commands of a poll group.
#[derive(Debug, Default)]
pub(super) struct Copies {
    waiting: VecDeque<Waiting>,
    /// The Copy that executes, while it is between two ranges.
    ready: Option<Box<Job>>,
    /// Whether a Copy executes.
    is_busy: bool,
    /// The buffer, while no Copy has it.
    buf: Option<Buf>,
}

#[derive(Debug)]
struct Waiting {
    request: Request<Nvmf>,
    namespace: Rc<LocalNamespace>,
    plan: CopyPlan,
}

/// The Copy that executes. Its context has the buffer while one of its I/Os is in the bdev.
#[derive(Debug)]
struct Job {
    buf: Buf,
    request: Request<Nvmf>,
    /// The namespace where the Copy began. See [`super::pieces`].
    namespace: Rc<LocalNamespace>,
    sources: VecDeque<Range>,
    /// First block of the next source's destination.
    to: u64,
    flags: IoFlags,
}

impl AsMut<Buf> for Job {
    fn as_mut(&mut self) -> &mut Buf {
        &mut self.buf
    }
}

impl Waiting {
    fn stop_status(&self) -> Option<Status> {
        stop_status(&self.request, &self.namespace)
    }
}

impl Copies {
    /// Whether [`step`] has nothing to do.
    pub(super) fn is_idle(&self) -> bool {
        self.ready.is_none()
            && (self.is_busy || self.waiting.is_empty())
            && self.waiting.iter().all(|one| one.stop_status().is_none())
    }

    /// Removes a Copy that must not begin any more, with its status. It may wait behind a Copy whose bdev never answers, so its turn
    /// may never come.
    fn take_stopped(&mut self) -> Option<(Request<Nvmf>, Status)> {
        let mut waiting = self.waiting.iter().enumerate();
        let (place, status) = waiting.find_map(|(place, one)| Some((place, one.stop_status()?)))?;
        let Waiting { request, .. } = self.waiting.remove(place)?;
        Some((request, status))
    }
}

/// Queues a Copy.
pub(super) fn begin(request: Request<Nvmf>, namespace: &Rc<LocalNamespace>, plan: CopyPlan) {
    let chores = Rc::clone(&request.qpair().group().chores);
    let namespace = Rc::clone(namespace);
    chores.copies.borrow_mut().waiting.push_back(Waiting { request, namespace, plan });
}

/// Does the step of a round. Returns whether there was one.
pub(super) fn step(chores: &Rc<Chores>) -> bool {
    let ready = chores.copies.borrow_mut().ready.take();
    if let Some(job) = ready {
        next_range(job);
        return true;
    }
    let stopped = chores.copies.borrow_mut().take_stopped();
    if let Some((request, status)) = stopped {
        finish(request, status, 0);
        return true;
    }
    let mut copies = chores.copies.borrow_mut();
    if copies.is_busy {
        return false;
    }
    let Some(Waiting { request, namespace, plan }) = copies.waiting.pop_front() else {
        return false;
    };
    let buf = copies.buf.take().map_or_else(|| buf::alloc(io::COPY_RANGE_BYTES), Ok);
    copies.is_busy = buf.is_ok();
    drop(copies);
    match buf {
        Ok(buf) => {
            let CopyPlan { sources, to, is_durable } = plan;
            let flags = if is_durable { IoFlags::FUA } else { IoFlags::NONE };
            next_range(Box::new(Job {
                buf,
                request,
                namespace,
                sources: sources.into(),
                to,
                flags,
            }));
        }
        // No memory is free now, and the host may retry, so Do Not Retry is not set.
        Err(_) => finish(request, Status::NAMESPACE_NOT_READY, 0),
    }
    true
}

/// Reads the next source, or ends the Copy.
fn next_range(mut job: Box<Job>) {
    let Some(source) = job.sources.front().copied() else {
        return over(*job, |request| end(request, IoResult::new(drivebay_sdk::Status::SUCCESS)));
    };
    if let Some(status) = stop_status(&job.request, &job.namespace) {
        return over(*job, |request| finish(request, status, 0));
    }
    let namespace = Rc::clone(&job.namespace);
    let block_size = u64::from(namespace.geometry.get().block_size);
    let len = u32::try_from(source.nblocks * block_size).unwrap_or(u32::MAX);
    job.buf.set_len(len.min(io::COPY_RANGE_BYTES));
    namespace.submit(Op::Read(source), IoFlags::NONE, job, was_read);
}

/// Writes the source that is in the buffer now.
fn was_read(job: Box<Job>, result: IoResult) {
    let (namespace, flags) = (Rc::clone(&job.namespace), job.flags);
    match job.sources.front().copied() {
        Some(_) if result.status.is_success() && reservation::forbids(&namespace, &job.request) => {
            let conflict = Status::RESERVATION_CONFLICT.with_dnr();
            over(*job, |request| finish(request, conflict, 0));
        }
        Some(source) if result.status.is_success() => {
            let to = Range::new(job.to, source.nblocks);
            namespace.submit(Op::Write(to), flags, job, was_written);
        }
        _ => over(*job, |request| end(request, result)),
    }
    // Count the read as ended only after the write is submitted. A namespace that is being removed releases its channel as soon as no I/O
    // is in flight.
    namespace.leave();
}

/// A source has been written. The next one follows in a later round.
fn was_written(mut job: Box<Job>, result: IoResult) {
    job.namespace.leave();
    if !result.status.is_success() {
        return over(*job, |request| end(request, result));
    }
    if let Some(done) = job.sources.pop_front() {
        job.to += done.nblocks;
    }
    let chores = Rc::clone(&job.request.qpair().group().chores);
    chores.copies.borrow_mut().ready = Some(job);
}

/// Ends a Copy, so that the next one may begin.
fn over(job: Job, end: impl FnOnce(Request<Nvmf>)) {
    let Job { buf, request, .. } = job;
    let chores = Rc::clone(&request.qpair().group().chores);
    {
        let mut copies = chores.copies.borrow_mut();
        copies.is_busy = false;
        copies.buf = Some(buf);
    }
    end(request);
}
